//! TAI64N timestamps of initiations (WireGuard §5.4.2): they only rise, so an old initiation cannot be replayed.

use core::time::Duration;

use crate::time::Now;

/// 2⁶² plus the 10 s by which TAI was ahead of UTC at the epoch; leap seconds are ignored as WireGuard ignores them.
const TAI64_EPOCH: u64 = (1 << 62) + 10;
const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A TAI64N label: eight bytes of seconds and four of nanoseconds, big-endian, so byte order is time order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tai64n(pub [u8; 12]);

impl Tai64n {
    /// Before every timestamp.
    pub const ZERO: Self = Self([0; 12]);

    fn new(secs: u64, nanos: u32) -> Self {
        let mut out = [0; 12];
        out[..8].copy_from_slice(&TAI64_EPOCH.saturating_add(secs).to_be_bytes());
        out[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(out)
    }

    fn split(self) -> (u64, u32) {
        let (secs, nanos) = (self.0.first_chunk::<8>(), self.0.last_chunk::<4>());
        let secs = u64::from_be_bytes(*secs.expect("12 bytes")).saturating_sub(TAI64_EPOCH);
        (secs, u32::from_be_bytes(*nanos.expect("12 bytes")))
    }

    /// The wall clock, rounded down to 2²⁴ ns ≈ 17 ms as the kernel does: less says less about our clock.
    pub fn from_now(now: Now) -> Self {
        Self::new(now.unix.0, now.unix_nanos.min(999_999_999) & !0x00ff_ffff)
    }

    /// `self` plus `by`; nanoseconds carry into seconds.
    pub fn plus(self, by: Duration) -> Self {
        let (secs, nanos) = self.split();
        let nanos = u64::from(nanos) + u64::from(by.subsec_nanos());
        let secs = secs.saturating_add(by.as_secs()).saturating_add(nanos / NANOS_PER_SEC);
        Self::new(secs, (nanos % NANOS_PER_SEC) as u32)
    }
}

/// Makes our own timestamps: each greater than all before, even if the wall clock goes back.
///
/// `floor` is the greatest ever used. A node persists it, so that peers still accept it after a restart with a
/// clock that went back; writing `floor` plus some seconds ahead of use, as [`Tai64n::plus`] allows, keeps the
/// number of writes small.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimestampClock {
    floor: Tai64n,
}

impl TimestampClock {
    /// A clock that yields nothing at or below `floor`; [`Tai64n::ZERO`] for a fresh key.
    pub const fn new(floor: Tai64n) -> Self {
        Self { floor }
    }

    /// The greatest timestamp ever given out, to be persisted.
    pub const fn floor(&self) -> Tai64n {
        self.floor
    }

    /// The next timestamp: now, or just above the last one.
    pub fn next(&mut self, now: Now) -> Tai64n {
        self.floor = Tai64n::from_now(now).max(self.floor.plus(Duration::from_nanos(1)));
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Instant, UnixTime};

    fn at(secs: u64, nanos: u32) -> Now {
        Now { mono: Instant::ZERO, unix: UnixTime(secs), unix_nanos: nanos }
    }

    #[test]
    fn our_timestamps_rise_although_the_clock_went_back() {
        let mut clock = TimestampClock::new(Tai64n::ZERO);
        let mut last = clock.next(at(1_800_000_000, 5));
        for now in [at(1_800_000_000, 5), at(1_799_900_000, 0), at(0, 0), at(1_800_000_001, 0)] {
            let next = clock.next(now);
            assert!(next > last, "{now:?}");
            last = next;
        }
        assert_eq!(last, Tai64n::from_now(at(1_800_000_001, 0)));
    }

    #[test]
    fn a_persisted_floor_survives_a_restart_with_an_older_clock() {
        let mut before = TimestampClock::new(Tai64n::ZERO);
        let last = before.next(at(1_800_000_000, 0));
        let mut after = TimestampClock::new(before.floor());
        assert!(after.next(at(1_799_913_600, 0)) > last);
    }

    #[test]
    fn nanoseconds_carry_into_seconds() {
        let t = Tai64n::new(7, 999_999_999);
        assert_eq!(t.plus(Duration::from_nanos(1)), Tai64n::new(8, 0));
        assert!(t.plus(Duration::from_nanos(1)) > t);
    }
}
