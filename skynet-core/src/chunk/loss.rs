//! Whether a lane's path is good enough for chunks: a lost chunk costs up to three segments where a lost segment
//! costs one, and what is saved is worth that only while hardly anything is lost.

use crate::time::{Duration, Instant};

/// So long does a lane that lost something go without chunks.
pub const LOSS_HOLD: Duration = Duration::from_secs(10);
/// Messages of which one may be lost.
const ONE_OF: u32 = 1_000;
/// Messages on the way when the peer counted are no loss: two trains.
const SLACK: i32 = 128;
/// More than a control task can be late by: whoever counts so many too many has counted from another start.
const RESTART: i32 = -(1 << 20);

/// Judges the path of a peer's data by the counters of its probes.
///
/// What it watches is how many messages the peer is behind. A control task that is late makes the peer count too many,
/// never too few, so loss is what exceeds the largest number so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct LossGuard {
    /// Since when losses add up: messages sent then, modulo 2^32, and the most the peer was behind until then.
    mark: Option<(u32, u32)>,
    until: Option<Instant>,
}

impl LossGuard {
    /// The peer counted `received` messages after we had sent `sent` of them, both modulo 2^32 and since any time.
    pub fn note(&mut self, sent: u32, received: u32, now: Instant) {
        self.until = self.until.filter(|until| *until > now);
        let behind = sent.wrapping_sub(received);
        let Some((since, most_behind)) = self.mark else {
            self.mark = Some((sent, behind));
            return;
        };
        let lost = behind.wrapping_sub(most_behind).cast_signed();
        let all = sent.wrapping_sub(since);
        if lost > SLACK && lost.cast_unsigned() > all / ONE_OF {
            self.until = Some(now + LOSS_HOLD);
            self.mark = Some((sent, behind));
        } else if lost < RESTART {
            self.mark = Some((sent, behind));
        } else if all > SLACK.cast_unsigned() * ONE_OF {
            self.mark = Some((sent, most_behind.wrapping_add_signed(lost.max(0))));
        }
    }

    /// Whether chunks may be used, as of the last report.
    pub fn allows(&self) -> bool {
        self.until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lossless_path_never_goes_without_however_late_anybody_counts() {
        let mut guard = LossGuard::default();
        let mut sent = u32::MAX - 50_000;
        // A few on the way, or the peer's control task ran late.
        for (second, behind) in (1..100).zip([0, 128, -50_000, 90, -3, 100, -500_000].into_iter().cycle()) {
            sent = sent.wrapping_add(10_000);
            guard.note(sent, sent.wrapping_sub_signed(behind).wrapping_sub(77), at(second));
            assert!(guard.allows(), "{second}");
        }
    }

    #[test]
    fn one_in_a_thousand_lost_ends_it_for_ten_seconds_after_the_last_loss() {
        let mut guard = LossGuard::default();
        let mut lost = 0;
        for (second, more, allowed) in [
            (1, 0, true),
            (2, 499, true),
            (3, 501, false),
            (4, 0, false),
            (8, 9_000, false),
            (17, 10, false),
            (18, 0, true),
            (19, 501, false),
        ] {
            lost += more;
            let sent = second * 500_000;
            guard.note(sent, sent - lost, at(second.into()));
            assert_eq!(guard.allows(), allowed, "{second}");
        }
    }

    #[test]
    fn slow_traffic_is_judged_by_what_it_loses_in_all() {
        let mut guard = LossGuard::default();
        for second in 1..=70u32 {
            guard.note(second * 20, second * 18, at(second.into()));
            // Two of twenty add up to more than may be on the way.
            assert_eq!(guard.allows(), second <= 65, "{second}");
        }
    }

    #[test]
    fn a_burst_of_losses_counts_for_itself_however_long_all_was_well() {
        let mut guard = LossGuard::default();
        for second in 0..3_600u32 {
            guard.note(second.wrapping_mul(300_000), second.wrapping_mul(300_000), at(second.into()));
        }
        let sent = 3_600u32.wrapping_mul(300_000);
        guard.note(sent, sent.wrapping_sub(400), at(3_600));
        assert!(!guard.allows());
    }

    #[test]
    fn a_peer_that_begins_to_count_anew_is_watched_from_there() {
        let mut guard = LossGuard::default();
        guard.note(5_000_000, 100, at(1));
        guard.note(5_001_000, 5_000_000, at(2));
        assert!(guard.allows());
        guard.note(5_101_000, 5_099_000, at(3));
        assert!(!guard.allows());
    }
}
