//! How far a relay is when nothing queues: the least round-trip time of the last five to ten minutes. What bulk adds by
//! filling queues on the way says nothing about which relay is near, and would make pairs wander.

use crate::time::{Duration, Instant};

const SPAN: Duration = Duration::from_secs(300);

/// The least of the present span and of the one before.
#[derive(Clone, Debug, Default)]
pub(super) struct Floor {
    since: Option<Instant>,
    present: Option<Duration>,
    before: Option<Duration>,
}

impl Floor {
    pub(super) fn sample(&mut self, rtt: Duration, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_since(since) >= SPAN {
            self.before = self.present.take();
            self.since = Some(now);
        }
        self.present = Some(self.present.map_or(rtt, |least| least.min(rtt)));
    }

    pub(super) fn least(&self) -> Option<Duration> {
        self.present.into_iter().chain(self.before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_of_full_queues_change_nothing_and_a_longer_way_is_believed_in_the_end() {
        let ms = Duration::from_millis;
        let at = |s: u64| Instant::ZERO + Duration::from_secs(s);
        let mut floor = Floor::default();
        assert_eq!(floor.least(), None);
        floor.sample(ms(20), at(0));
        for s in 1..500 {
            floor.sample(ms(150), at(s));
            assert_eq!(floor.least(), Some(ms(20)), "{s}");
        }
        for s in 500..605 {
            floor.sample(ms(150), at(s));
        }
        assert_eq!(floor.least(), Some(ms(150)));
        floor.sample(ms(30), at(606));
        assert_eq!(floor.least(), Some(ms(30)), "a shorter one at once");
    }
}
