//! The replay window: which counters of one key were seen (RFC 6479 in spirit: whole words are recycled as the
//! window moves, so nothing is ever shifted).
//!
//! Guarantees: a counter is accepted at most once; counters at or above the key's limit and those more than
//! [`REPLAY_WINDOW`] behind the greatest are never accepted; the greatest only grows, so no packet can reset it.

use crate::constants::{REJECT_AFTER_MESSAGES, REPLAY_WINDOW};
use crate::drop::DropReason;

/// One word more than the window, because the word that is being filled is only partly part of it.
const WORDS: usize = REPLAY_WINDOW as usize / 64 + 1;

/// Counters seen under one key.
///
/// ```text
///            greatest − window            greatest
///  refused ◀──────┤ one bit each: seen or not ├──────▶ new
/// ```
#[derive(Debug)]
pub struct ReplayWindow {
    /// Greatest counter marked plus one; 0 before the first.
    next: u64,
    /// Bit `counter % 64` of word `counter / 64 % WORDS`.
    seen: Box<[u64; WORDS]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, seen: Box::new([0; WORDS]) }
    }
}

impl ReplayWindow {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `counter` may be accepted. Called before decrypting, so junk is cheap; changes nothing.
    ///
    /// # Errors
    /// [`DropReason::CounterLimit`] or [`DropReason::Replayed`].
    pub fn check(&self, counter: u64) -> Result<(), DropReason> {
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(DropReason::CounterLimit);
        }
        if counter >= self.next {
            return Ok(());
        }
        let behind = self.next - 1 - counter;
        if behind >= REPLAY_WINDOW || self.seen[word(counter)] & bit(counter) != 0 {
            return Err(DropReason::Replayed);
        }
        Ok(())
    }

    /// Marks an authenticated `counter` as seen.
    ///
    /// # Errors
    /// As [`ReplayWindow::check`]; then nothing changed.
    pub fn mark(&mut self, counter: u64) -> Result<(), DropReason> {
        self.check(counter)?;
        if counter >= self.next {
            // `next` is 0 or one past a marked counter; words after that counter's word hold an older round.
            let newest = self.next.checked_sub(1).map_or(0, |greatest| greatest / 64);
            let fresh = (counter / 64 - newest).min(WORDS as u64);
            for step in 1..=fresh {
                self.seen[((newest + step) % WORDS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        }
        self.seen[word(counter)] |= bit(counter);
        Ok(())
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The specification, said with a set.
    #[derive(Default)]
    struct Model(BTreeSet<u64>);

    impl Model {
        fn accept(&mut self, counter: u64) -> Result<(), DropReason> {
            if counter >= REJECT_AFTER_MESSAGES {
                return Err(DropReason::CounterLimit);
            }
            let too_old =
                self.0.last().is_some_and(|&greatest| greatest.saturating_sub(counter) >= REPLAY_WINDOW);
            if too_old || !self.0.insert(counter) { Err(DropReason::Replayed) } else { Ok(()) }
        }
    }

    /// A step relative to the greatest counter so far: mostly near, sometimes a jump of any size.
    fn step() -> impl Strategy<Value = i128> {
        prop_oneof![
            6 => -200i128..200,
            3 => -(REPLAY_WINDOW as i128) - 130..REPLAY_WINDOW as i128 + 130,
            2 => prop::sample::select(vec![0i128, -1, 1, 63, 64, 65, -16_384, -16_383, -16_385, 16_384, 16_448, 16_512]),
            1 => 0i128..1 << 40,
            1 => any::<u64>().prop_map(i128::from),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn the_window_agrees_with_a_set(steps in prop::collection::vec(step(), 1..400)) {
            let mut window = ReplayWindow::new();
            let mut model = Model::default();
            for step in steps {
                let greatest = i128::from(model.0.last().copied().unwrap_or(0));
                let counter = u64::try_from((greatest + step).clamp(0, i128::from(u64::MAX))).unwrap();
                let expected = model.accept(counter);
                prop_assert_eq!(window.check(counter), expected);
                prop_assert_eq!(window.mark(counter), expected);
            }
        }
    }

    #[test]
    fn a_long_random_walk_agrees_with_a_set() {
        use crate::rng::{Rng, RngCore};
        let mut rng = Rng::from_seed([3; 32]);
        let (mut window, mut model, mut base) = (ReplayWindow::new(), Model::default(), 0u64);
        for _ in 0..200_000 {
            base += rng.below(3);
            if rng.below(5_000) == 0 {
                base += rng.below(40_000);
            }
            let counter = base.saturating_sub(rng.next_u64() % 20_000 * rng.below(2));
            assert_eq!(window.mark(counter), model.accept(counter), "counter {counter}");
            if model.0.len() > 40_000 {
                let keep = model.0.last().unwrap() - 2 * REPLAY_WINDOW;
                model.0 = model.0.split_off(&keep.min(*model.0.last().unwrap()));
            }
        }
    }

    #[test]
    fn a_counter_of_all_ones_is_refused_and_cannot_reset_the_window() {
        let mut window = ReplayWindow::new();
        window.mark(5).unwrap();
        for counter in [u64::MAX, u64::MAX - 1, REJECT_AFTER_MESSAGES] {
            assert_eq!(window.mark(counter), Err(DropReason::CounterLimit));
        }
        assert_eq!(window.mark(5), Err(DropReason::Replayed));
        window.mark(REJECT_AFTER_MESSAGES - 1).unwrap();
        assert_eq!(window.mark(5), Err(DropReason::Replayed));
        assert_eq!(window.mark(u64::MAX), Err(DropReason::CounterLimit));
        assert_eq!(window.mark(REJECT_AFTER_MESSAGES - 1), Err(DropReason::Replayed));
    }

    #[test]
    fn exactly_sixteen_thousand_packets_may_be_late() {
        let mut window = ReplayWindow::new();
        window.mark(REPLAY_WINDOW).unwrap();
        assert_eq!(window.mark(0), Err(DropReason::Replayed));
        for counter in 1..REPLAY_WINDOW {
            window.mark(counter).unwrap();
        }
        assert!((0..=REPLAY_WINDOW).all(|counter| window.check(counter).is_err()));
    }
}
