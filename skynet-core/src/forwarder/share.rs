//! Fair shares of what is full: the uplink, if its rate is configured, and the processor of a thread that cannot keep up.
//!
//! There is no queue to schedule: a datagram is sent on or dropped when it comes. So a share is a rate. Ten times a
//! second each thread says how much its sessions have asked for, in a histogram; from the sum of all each computes the
//! level at which what is below it is served whole and what is above it is cut to it (max-min fairness). A session that
//! asks for less than the level loses nothing, whatever another asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Duration;

/// Between two looks.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
const INTERVALS_PER_S: u64 = 10;
/// Half octaves from 256 bytes an interval up.
const BINS: usize = 64;
const FIRST: u64 = 256;

/// How many sessions have asked for how much in an interval.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    sessions: [u64; BINS],
    bytes: [u64; BINS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { sessions: [0; BINS], bytes: [0; BINS] }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, bytes: u64) {
        let bin = bin_of(bytes);
        self.sessions[bin] += 1;
        self.bytes[bin] = self.bytes[bin].saturating_add(bytes);
    }

    pub(super) fn total(&self) -> u64 {
        self.bytes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// The most a session may have so that all together have at most `capacity`; `None` if they ask for no more.
    pub(super) fn level(&self, capacity: u64) -> Option<u64> {
        if self.total() <= capacity {
            return None;
        }
        let (mut below, mut above) = (0u64, self.sessions.iter().sum::<u64>());
        for bin in 0..BINS {
            if self.sessions[bin] == 0 {
                continue;
            }
            let level = capacity.saturating_sub(below) / above.max(1);
            // Those of this bin ask for about as much as each other.
            if level < self.bytes[bin] / self.sessions[bin] {
                return Some(level);
            }
            below = below.saturating_add(self.bytes[bin]);
            above -= self.sessions[bin];
        }
        None
    }
}

fn bin_of(bytes: u64) -> usize {
    let octave = (bytes / FIRST).max(1).ilog2();
    let upper = bytes / FIRST >= (3 << octave) / 2;
    (2 * octave as usize + usize::from(upper)).min(BINS - 1)
}

/// What the threads have last said.
#[derive(Debug)]
pub(super) struct Board(Vec<[AtomicU64; 2 * BINS]>);

impl Board {
    pub(super) fn new(parts: u8) -> Arc<Self> {
        let zeroes = || std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self(std::iter::repeat_with(zeroes).take(parts.into()).collect()))
    }

    /// Says what part `index` has seen, and hears the sum of all.
    pub(super) fn exchange(&self, index: u8, own: &Histogram) -> Histogram {
        let mut sum = own.clone();
        for (part, words) in self.0.iter().enumerate() {
            let (sessions, bytes) = words.split_at(BINS);
            for bin in 0..BINS {
                if part == usize::from(index) {
                    sessions[bin].store(own.sessions[bin], Ordering::Relaxed);
                    bytes[bin].store(own.bytes[bin], Ordering::Relaxed);
                } else {
                    sum.sessions[bin] += sessions[bin].load(Ordering::Relaxed);
                    sum.bytes[bin] = sum.bytes[bin].saturating_add(bytes[bin].load(Ordering::Relaxed));
                }
            }
        }
        sum
    }
}

/// What a session may have while something is full: a rate, and what may come at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Share {
    pub(super) bytes_per_s: u64,
    pub(super) burst: u64,
}

impl Share {
    /// Of a level in bytes an interval. A train must fit into the burst, or its end would always be cut.
    pub(super) fn of(level: u64) -> Self {
        Self { bytes_per_s: level * INTERVALS_PER_S, burst: level.max(2 * 65_536) }
    }
}

/// Bytes an interval of a rate in kilobits a second.
pub(super) fn per_interval(kbit: u64) -> u64 {
    kbit.saturating_mul(125) / INTERVALS_PER_S
}

/// How much a thread can do, found by trying: it is told when datagrams wait longer than they should.
#[derive(Debug, Default)]
pub(super) struct Headroom {
    capacity: Option<u64>,
}

impl Headroom {
    /// After an interval in which `done` was done of what was asked.
    pub(super) fn update(&mut self, is_pressed: bool, done: u64, asked: u64) -> Option<u64> {
        self.capacity = match self.capacity {
            None if is_pressed => Some(done - done / 10),
            Some(capacity) if is_pressed => Some((capacity - capacity / 20).min(done.max(1))),
            // Twice what is asked for is no limit any more.
            Some(capacity) if capacity / 2 > asked => None,
            Some(capacity) => Some(capacity + capacity / 50 + 1),
            None => None,
        };
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_little_gets_it_and_the_rest_is_split() {
        let mut histogram = Histogram::default();
        for _ in 0..9 {
            histogram.add(10_000);
        }
        histogram.add(100_000);
        assert_eq!(histogram.level(190_000), None);
        // Nine have theirs, the tenth what is left.
        assert_eq!(histogram.level(100_000), Some(10_000));
        assert_eq!(histogram.level(150_000), Some(60_000));
        // Not even the nine have theirs.
        assert_eq!(histogram.level(50_000), Some(5_000));
        assert_eq!(Histogram::default().level(0), None);
    }

    #[test]
    fn bins_rise_and_hold_everything() {
        let mut last = 0;
        for shift in 0..64 {
            for bytes in [1u64 << shift, (1u64 << shift) + (1u64 << shift) / 2] {
                let bin = bin_of(bytes);
                assert!(bin >= last && bin < BINS, "{bytes}");
                last = bin;
            }
        }
        assert_eq!(last, BINS - 1);
    }

    #[test]
    fn parts_hear_of_each_other() {
        let board = Board::new(2);
        let mut own = Histogram::default();
        own.add(50_000);
        assert_eq!(board.exchange(0, &own).total(), 50_000);
        assert_eq!(board.exchange(1, &own).total(), 100_000);
        assert_eq!(board.exchange(0, &Histogram::default()).total(), 50_000);
    }

    #[test]
    fn headroom_is_cut_under_pressure_and_found_again() {
        let mut headroom = Headroom::default();
        assert_eq!(headroom.update(false, 100, 100), None);
        assert_eq!(headroom.update(true, 1_000, 5_000), Some(900));
        assert_eq!(headroom.update(true, 880, 5_000), Some(855));
        let mut capacity = Some(855);
        for _ in 0..20 {
            capacity = headroom.update(false, 855, 5_000);
        }
        assert!(capacity.unwrap() > 1_000, "{capacity:?}");
        for _ in 0..20 {
            capacity = headroom.update(false, 100, 100);
        }
        assert_eq!(capacity, None);
    }
}
