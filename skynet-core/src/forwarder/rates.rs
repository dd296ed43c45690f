//! Rates: the classes tickets name, and the buckets that all sessions of a class in one network share.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::time::Instant;

/// A rate and what may come at once above it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rate {
    /// Kilobits a second; 0 is no limit.
    pub kbit: u32,
    /// Kilobytes at once.
    pub burst_kb: u32,
}

impl Rate {
    pub(super) fn bytes_per_s(self) -> u64 {
        u64::from(self.kbit) * 125
    }
    pub(super) fn burst_bytes(self) -> u64 {
        u64::from(self.burst_kb) * 1000
    }
}

/// The limits that a ticket's `rate_class` names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateClass {
    /// Its number in tickets.
    pub number: u16,
    /// Of each session.
    pub session: Rate,
    /// Of all sessions of this class in one network together.
    pub network: Rate,
}

impl RateClass {
    /// No limit.
    pub(super) const NONE: Self =
        Self { number: 0, session: Rate { kbit: 0, burst_kb: 0 }, network: Rate { kbit: 0, burst_kb: 0 } };
}

/// Networks × classes with a limit in common.
const GROUPS: usize = 64;
/// What a thread takes from a common bucket at once, bytes: then it shares nothing for a while.
const QUANTUM: u64 = 64_000;
/// Between two refills, nanoseconds.
const REFILL_NS: u64 = 1_000_000;

/// The common buckets of all threads. Names are looked up when a session is bound; per packet there are only atomics, and
/// those once per [`QUANTUM`].
#[derive(Debug)]
pub(super) struct Groups {
    names: Mutex<Vec<([u8; 8], u16)>>,
    buckets: Box<[GroupBucket]>,
}

#[derive(Debug, Default)]
struct GroupBucket {
    bytes: AtomicI64,
    refilled_ns: AtomicU64,
}

impl Groups {
    pub(super) fn new() -> Arc<Self> {
        let buckets = std::iter::repeat_with(GroupBucket::default).take(GROUPS).collect();
        Arc::new(Self { names: Mutex::new(Vec::with_capacity(GROUPS)), buckets })
    }

    /// The bucket of a class in a network, full if it is new; `None` if all are taken.
    pub(super) fn find(&self, network_id: [u8; 8], class: &RateClass, now: Instant) -> Option<u8> {
        let mut names = self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = (network_id, class.number);
        if let Some(index) = names.iter().position(|n| *n == name) {
            return Some(index as u8);
        }
        let bucket = self.buckets.get(names.len())?;
        bucket.bytes.store(class.network.burst_bytes() as i64, Ordering::Relaxed);
        bucket.refilled_ns.store(now.as_nanos(), Ordering::Relaxed);
        names.push(name);
        Some((names.len() - 1) as u8)
    }

    /// Takes a quantum, or what is needed if that is more; what was taken, 0 if it is not there.
    fn take(&self, group: u8, need: u64, rate: Rate, now: Instant) -> u64 {
        let bucket = &self.buckets[usize::from(group)];
        bucket.refill(rate, now);
        // A burst may be smaller than a quantum.
        for n in [need.max(QUANTUM.min(rate.burst_bytes() / 4)), need] {
            let left = |bytes: i64| bytes.checked_sub(n as i64).filter(|left| *left >= 0);
            if bucket.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
                return n;
            }
        }
        0
    }
}

impl GroupBucket {
    fn refill(&self, rate: Rate, now: Instant) {
        let (now, last) = (now.as_nanos(), self.refilled_ns.load(Ordering::Relaxed));
        let elapsed = now.saturating_sub(last);
        // Of the threads that see it is time, one refills.
        let is_ours = elapsed >= REFILL_NS
            && self.refilled_ns.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !is_ours {
            return;
        }
        let earned = u128::from(elapsed) * u128::from(rate.bytes_per_s()) / 1_000_000_000;
        let earned = i64::try_from(earned).unwrap_or(i64::MAX / 2);
        let most = rate.burst_bytes() as i64;
        let filled = |bytes: i64| Some(bytes.saturating_add(earned).min(most));
        let _always = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, filled);
    }
}

/// What one thread has taken from the common buckets and not used.
#[derive(Debug)]
pub(super) struct Reserve {
    groups: Arc<Groups>,
    bytes: [u64; GROUPS],
}

impl Reserve {
    pub(super) fn new(groups: Arc<Groups>) -> Self {
        Self { groups, bytes: [0; GROUPS] }
    }
    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }
    /// Whether `n` bytes may pass.
    pub(super) fn take(&mut self, group: u8, n: u64, rate: Rate, now: Instant) -> bool {
        let own = &mut self.bytes[usize::from(group)];
        if *own < n {
            *own += self.groups.take(group, n, rate, now);
        }
        match own.checked_sub(n) {
            Some(left) => {
                *own = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn threads_share_a_rate_and_no_class_or_network_takes_anothers() {
        let class = |number| RateClass {
            number,
            session: Rate::default(),
            network: Rate { kbit: 8_000, burst_kb: 100 },
        };
        let groups = Groups::new();
        let mut now = Instant::ZERO;
        let a = groups.find(*b"networkA", &class(1), now).unwrap();
        let others = [groups.find(*b"networkA", &class(2), now), groups.find(*b"networkB", &class(1), now)];
        assert_eq!(groups.find(*b"networkA", &class(1), now), Some(a));
        let mut threads = [Reserve::new(Arc::clone(&groups)), Reserve::new(Arc::clone(&groups))];
        let mut passed = [0u64; 2];
        for ms in 0..2_000 {
            now = now + Duration::from_millis(1);
            for turn in 0..2 {
                let (thread, passed) = (&mut threads[(ms + turn) % 2], &mut passed[(ms + turn) % 2]);
                *passed +=
                    (0..3).filter(|_| thread.take(a, 1_000, class(1).network, now)).count() as u64 * 1_000;
            }
        }
        // 1 MB/s for two seconds, and the burst.
        let sum: u64 = passed.iter().sum();
        assert!((2_050_000..=2_101_000).contains(&sum), "{passed:?}");
        assert!(passed.iter().all(|p| *p > 200_000), "{passed:?}");
        for other in others.into_iter().flatten() {
            assert!(threads[0].take(other, 100_000, class(1).network, now));
        }
    }

    #[test]
    fn a_group_too_many_is_refused() {
        let groups = Groups::new();
        let class = |number| RateClass { number, session: Rate::default(), network: Rate::default() };
        let found = (0..100).filter(|n| groups.find([0; 8], &class(*n), Instant::ZERO).is_some()).count();
        assert_eq!(found, GROUPS);
    }
}
