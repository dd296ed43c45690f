//! When connectivity checks leave, and how many may.

use crate::time::{Duration, Instant};

/// Early retransmission. The first volley of one side usually dies at the other's filter and the second passes;
/// retransmitting at 20 ms instead of 100 is the difference between 22 ms and 105 ms to direct.
pub const SCHEDULE_MS: [u64; 10] = [0, 20, 60, 140, 300, 600, 1000, 2000, 3500, 5000];
/// Once a path is direct, other checks end with this entry.
pub(super) const SCHEDULE_WHEN_DIRECT: usize = 7;
/// Checks of an address that only a probe's source named: enough against loss, few against a liar.
pub(super) const SCHEDULE_REFLEXIVE: usize = 6;
/// Openers cross the sender's NATs (home and carrier) and die before the peer's.
pub const OPENER_TTL: u8 = 3;
/// Punch rounds while relayed traffic flows: this long after the last began, the last value for ever.
pub const ROUNDS_S: [u64; 3] = [5, 15, 60];
/// Most PINGs to one peer in any minute.
pub const PINGS_PER_MINUTE: u32 = 200;
/// Of these, what rounds may use; the rest is for watching the path that carries data.
pub(super) const ROUND_PINGS_PER_MINUTE: u32 = 150;

pub(super) fn offset(index: usize) -> Option<Duration> {
    SCHEDULE_MS.get(index).map(|ms| Duration::from_millis(*ms))
}

/// The running schedule of one candidate.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub base: Instant,
    pub next: usize,
    pub end: usize,
}

impl Check {
    pub(super) fn starting(base: Instant) -> Self {
        Self { base, next: 0, end: SCHEDULE_MS.len() }
    }

    pub(super) fn reflexive(base: Instant) -> Self {
        Self { base, next: 0, end: SCHEDULE_REFLEXIVE }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        if self.next >= self.end { None } else { offset(self.next).map(|o| self.base + o) }
    }

    /// Steps past everything due at `now`: a late timer sends one check, not a burst.
    pub(super) fn advance(&mut self, now: Instant) {
        while self.due().is_some_and(|due| due <= now) {
            self.next += 1;
        }
    }
}

const BIN: Duration = Duration::from_secs(5);
const BINS: usize = 13;

/// Counts PINGs of the last minute in bins of 5 s; 13 bins cover 60 s wherever the first one began.
#[derive(Clone, Debug, Default)]
pub(super) struct PingBudget {
    bins: [u8; BINS],
    current: u64,
}

impl PingBudget {
    /// Takes one PING out of `limit` per minute, at most [`PINGS_PER_MINUTE`]; false if it is spent.
    pub(super) fn take(&mut self, now: Instant, limit: u32) -> bool {
        let bin = now.as_nanos() / BIN.as_nanos() as u64;
        let steps = (bin - self.current.min(bin)).min(BINS as u64);
        for i in 1..=steps {
            self.bins[((bin - steps + i) % BINS as u64) as usize] = 0;
        }
        self.current = self.current.max(bin);
        let used: u32 = self.bins.iter().map(|b| u32::from(*b)).sum();
        if used >= limit.min(PINGS_PER_MINUTE) {
            return false;
        }
        self.bins[(self.current % BINS as u64) as usize] += 1;
        true
    }
}

/// Checks and openers of punch rounds that one node sends in a second, to all peers together: each may be a new entry in
/// the tables of every NAT on the way. A pair needs about three at once and thirty in five seconds, so hundreds of pairs
/// may begin in a second, and no more than 600 entries appear in a burst, of the 55,000 and more a cloud's NAT has, or
/// the thousand of a home router.
pub const PUNCHES_PER_SECOND: u32 = 300;
/// Of these, at once after silence.
pub const PUNCH_BURST: u32 = 600;

/// A token bucket over all pairs of a node.
#[derive(Clone, Debug)]
pub struct PunchRate {
    /// Thousandths of a punch.
    left: u64,
    at: Instant,
}

impl PunchRate {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self { left: u64::from(PUNCH_BURST) * 1_000, at: now }
    }

    /// Takes one; false if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let millis = u64::try_from(now.saturating_since(self.at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            let gained = millis.saturating_mul(PUNCHES_PER_SECOND.into());
            self.left = self.left.saturating_add(gained).min(u64::from(PUNCH_BURST) * 1_000);
            self.at = now;
        }
        let enough = self.left >= 1_000;
        self.left -= if enough { 1_000 } else { 0 };
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_punches_than_the_burst_and_the_rate() {
        let mut rate = PunchRate::new(Instant::ZERO);
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let taken: Vec<u32> = (0..10u64)
            .map(|s| {
                (0..1_000).map(|ms| (0..5).filter(|_| rate.take(at(s * 1_000 + ms))).count() as u32).sum()
            })
            .collect();
        assert!(taken[0] <= PUNCH_BURST + PUNCHES_PER_SECOND, "{taken:?}");
        assert!(taken[1..].iter().all(|n| n.abs_diff(PUNCHES_PER_SECOND) <= 1), "{taken:?}");
    }

    #[test]
    fn no_minute_sees_more_than_the_budget() {
        let mut budget = PingBudget::default();
        let mut sent: Vec<u64> = Vec::new();
        for ms in (0..300_000u64).step_by(50) {
            if budget.take(Instant::from_nanos(ms * 1_000_000), PINGS_PER_MINUTE) {
                sent.push(ms);
            }
        }
        for (i, at) in sent.iter().enumerate() {
            let in_minute = sent[i..].iter().take_while(|t| **t < at + 60_000).count();
            assert!(in_minute <= PINGS_PER_MINUTE as usize, "{in_minute} from {at} ms");
        }
        assert!(sent.len() >= 4 * PINGS_PER_MINUTE as usize, "the budget comes back");
    }

    #[test]
    fn a_late_timer_sends_one_check() {
        let mut check = Check::starting(Instant::ZERO);
        check.advance(Instant::ZERO + Duration::from_millis(100));
        assert_eq!(check.due(), Some(Instant::ZERO + Duration::from_millis(140)));
        check.advance(Instant::ZERO + Duration::from_secs(9));
        assert_eq!(check.due(), None);
    }
}
