//! Whether a lane's path is good enough for chunks: a lost chunk costs up to three segments where a lost segment
//! costs one, and what is saved is worth that only while hardly anything is lost.

use crate::time::{Duration, Instant};

/// So long does a lane that lost something go without chunks.
pub const LOSS_HOLD: Duration = Duration::from_secs(10);
/// Messages of which one may be lost.
const ONE_OF: u32 = 1_000;
/// Messages on the way or in a queue when the peer counted are no loss: two trains.
const SLACK: u32 = 128;

/// Judges one lane by the data counters of path probes.
#[derive(Clone, Copy, Default, Debug)]
pub struct LossGuard {
    /// What the last report said: messages sent and received, modulo 2^32.
    last: Option<(u32, u32)>,
    until: Option<Instant>,
}

impl LossGuard {
    /// The peer counted `received` messages after we had sent `sent` of them, both modulo 2^32 and since any time.
    /// True if [`Self::allows`] says something else than before.
    pub fn note(&mut self, sent: u32, received: u32, now: Instant) -> bool {
        let before = self.until.is_none();
        self.until = self.until.filter(|until| *until > now);
        if let Some((last_sent, last_received)) = self.last {
            let sent = sent.wrapping_sub(last_sent);
            let lost = sent.wrapping_sub(received.wrapping_sub(last_received)).cast_signed();
            // A peer that has counted more than was sent has begun anew, or is catching up.
            if u32::try_from(lost).is_ok_and(|lost| lost > SLACK && lost > sent / ONE_OF) {
                self.until = Some(now + LOSS_HOLD);
            }
        }
        self.last = Some((sent, received));
        before != self.until.is_none()
    }

    /// Whether chunks may be used, as of the last report.
    pub fn allows(&self) -> bool {
        self.until.is_none()
    }

    /// Another path, or other counters.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lossless_path_never_goes_without_whatever_is_on_the_way() {
        let mut guard = LossGuard::default();
        let mut sent = u32::MAX - 50_000;
        for (second, on_the_way) in (1..100).zip([0, 128, 5, 90].into_iter().cycle()) {
            sent = sent.wrapping_add(10_000);
            assert!(!guard.note(sent, sent.wrapping_sub(on_the_way).wrapping_sub(77), at(second)));
            assert!(guard.allows());
        }
    }

    #[test]
    fn one_in_a_thousand_lost_ends_it_for_ten_seconds_after_the_last_loss() {
        let mut guard = LossGuard::default();
        assert!(!guard.note(0, 0, at(1)));
        assert!(!guard.note(500_000, 499_501, at(2)), "499 of 500,000");
        assert!(guard.note(1_000_000, 999_000, at(3)), "501 of 500,000");
        assert!(!guard.allows());
        assert!(!guard.note(1_500_000, 1_490_000, at(8)));
        assert!(!guard.note(2_000_000, 1_990_000, at(17)));
        assert!(!guard.allows());
        assert!(guard.note(2_500_000, 2_490_000, at(18)));
        assert!(guard.allows());
    }

    #[test]
    fn a_peer_that_begins_to_count_anew_has_lost_nothing() {
        let mut guard = LossGuard::default();
        guard.note(1_000, 900_000, at(1));
        assert!(!guard.note(2_000, 2_000_000, at(2)) && guard.allows());
        guard.reset();
        assert!(!guard.note(5_000_000, 7, at(3)) && guard.allows());
    }
}
