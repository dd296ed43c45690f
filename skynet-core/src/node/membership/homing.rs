//! The way back to the first relay, which keeps the directory and where members meet, once the control channel has gone on
//! at another.
//!
//! ```text
//!   joined elsewhere ── its UDP session is up ── 5 to 25 s ──▶ there
//!        │  ▲ 5 s at most, if it does not answer
//!        └──┴────────── no UDP at all: after 1, 2, 4, 5 … min ──▶ there
//! ```
//! Whoever has UDP sees by its session that the first relay is back. Whoever has none can only try, and gives up the channel
//! it has for that: so it tries ever more seldom.

use crate::rng::Rng;
use crate::time::{Duration, Instant, earliest};

/// A relay that is back is given so long before the control channel returns to it,
const RETURN_AFTER: Duration = Duration::from_secs(5);
/// and so much longer, each node for itself.
const RETURN_SPREAD: Duration = Duration::from_secs(20);
/// The first attempt without UDP comes after this and up to half as long again,
const FIRST_TRY: Duration = Duration::from_secs(60);
/// the next after twice as long, and so on up to this.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// When to go back.
#[derive(Debug)]
pub(super) struct Homing {
    at: Option<Instant>,
    /// Before the next attempt without UDP.
    pause: Duration,
    /// No relay is reached by UDP.
    without_udp: bool,
    /// The control channel is at another relay than the first.
    is_away: bool,
}

impl Default for Homing {
    fn default() -> Self {
        Self { at: None, pause: FIRST_TRY, without_udp: false, is_away: false }
    }
}

impl Homing {
    /// The control channel has joined at the first relay, or at another.
    pub(super) fn joined(&mut self, is_first: bool, rng: &mut Rng, now: Instant) {
        self.is_away = !is_first;
        if is_first {
            (self.at, self.pause) = (None, FIRST_TRY);
        }
        self.try_later(rng, now);
    }

    /// The first relay's UDP session is up. Back there, but not all in the same second.
    pub(super) fn found(&mut self, rng: &mut Rng, now: Instant) {
        self.at = earliest(self.at, Some(now + RETURN_AFTER + random(RETURN_SPREAD, rng)));
    }

    /// It has ended.
    pub(super) fn lost(&mut self) {
        if !self.without_udp {
            self.at = None;
        }
    }

    /// Whether no relay is reached by UDP.
    pub(super) fn set_without_udp(&mut self, without_udp: bool, rng: &mut Rng, now: Instant) {
        if core::mem::replace(&mut self.without_udp, without_udp) != without_udp {
            self.at = None;
            self.try_later(rng, now);
        }
    }

    /// Whether it is time.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    fn try_later(&mut self, rng: &mut Rng, now: Instant) {
        if self.without_udp && self.is_away && self.at.is_none() {
            self.at = Some(now + self.pause + random(self.pause / 2, rng));
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
    }
}

fn random(below: Duration, rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.below(u64::try_from(below.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(s)
    }

    /// When it goes back, in seconds.
    fn due(homing: &Homing) -> Option<u64> {
        homing.poll_timeout().map(|at| at.saturating_since(Instant::ZERO).as_secs())
    }

    #[test]
    fn with_udp_the_session_says_when_and_nothing_is_tried_without_it() {
        let (mut homing, mut rng) = (Homing::default(), Rng::from_seed([1; 32]));
        homing.joined(false, &mut rng, at(0));
        assert_eq!(due(&homing), None);
        homing.found(&mut rng, at(100));
        assert!((105..=125).contains(&due(&homing).unwrap()), "{homing:?}");
        homing.lost();
        assert_eq!(due(&homing), None);
        homing.found(&mut rng, at(200));
        assert!(homing.take_due(at(225)) && !homing.take_due(at(226)));
    }

    #[test]
    fn without_udp_it_is_tried_ever_more_seldom_until_the_first_relay_lets_in() {
        let (mut homing, mut rng) = (Homing::default(), Rng::from_seed([2; 32]));
        homing.set_without_udp(true, &mut rng, at(0));
        homing.joined(true, &mut rng, at(0));
        assert_eq!(due(&homing), None, "it is there");
        for pause in [60, 120, 240, 300, 300] {
            homing.joined(false, &mut rng, at(1_000));
            let waited = due(&homing).unwrap() - 1_000;
            assert!((pause..=pause * 3 / 2).contains(&waited), "{waited} of {pause}");
            assert!(homing.take_due(at(2_000)));
        }
        homing.joined(true, &mut rng, at(2_000));
        homing.joined(false, &mut rng, at(2_000));
        assert!(due(&homing).unwrap() <= 2_090, "it begins anew");
        homing.set_without_udp(false, &mut rng, at(2_001));
        assert_eq!(due(&homing), None, "UDP will say");
        homing.set_without_udp(true, &mut rng, at(2_002));
        assert!(due(&homing).is_some());
    }
}
