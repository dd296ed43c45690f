//! In which order ports are guessed.

use crate::rng::Rng;

/// Next ports of a sequence that are tried.
const PREDICTED: u16 = 16;

/// The ports to guess: the next of a sequence, then all others in an order that looks like none.
#[derive(Debug)]
pub(super) struct Ports {
    base: u16,
    step: Option<i16>,
    predicted: u16,
    left: u32,
    position: u32,
    stride: u32,
}

impl Ports {
    const FIRST: u32 = 1024;
    /// 2^10 · 3^2 · 7: a stride without these factors visits each once.
    const COUNT: u32 = 64_512;

    pub(super) fn new(base: u16, step: Option<i16>, guesses: u32, rng: &mut Rng) -> Self {
        let position = rng.below(Self::COUNT.into()) as u32;
        let coprime = |s: u32| !s.is_multiple_of(2) && !s.is_multiple_of(3) && !s.is_multiple_of(7);
        let from = 10_001 + 2 * (rng.below(10_000) as u32);
        let stride = (from..).step_by(2).find(|s| coprime(*s)).expect("one in three odd numbers is coprime");
        Self { base, step, predicted: 0, left: guesses, position, stride }
    }
}

impl Iterator for Ports {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if let Some(step) = self.step
            && self.predicted < PREDICTED
        {
            self.predicted += 1;
            return Some(
                self.base.wrapping_add_signed(step.wrapping_mul(self.predicted.cast_signed())).max(1),
            );
        }
        self.left = self.left.checked_sub(1)?;
        self.position = (self.position + self.stride) % Self::COUNT;
        u16::try_from(Self::FIRST + self.position).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_guessed_once_and_the_next_of_a_sequence_first() {
        for seed in 0..20 {
            let ports = Ports::new(5000, Some(-3), Ports::COUNT, &mut Rng::from_seed([seed; 32]));
            let all: Vec<u16> = ports.collect();
            assert_eq!(all[..3], [4997, 4994, 4991]);
            let mut guessed = all[16..].to_vec();
            guessed.sort_unstable();
            assert!(guessed.iter().copied().eq(1024..=65_535), "seed {seed}");
        }
    }
}
