//! The one place of the agent that reads a clock.
//!
//! Monotonic time comes from `CLOCK_BOOTTIME`, which goes on while the machine is suspended: a session whose keys
//! expired during a suspend must look expired at the first packet after it.

use nix::time::{ClockId, clock_gettime};
use skynet_core::time::{Instant, Now, UnixTime};

/// Both clocks, read once for a batch of work.
pub fn now() -> Now {
    let wall = clock_gettime(ClockId::CLOCK_REALTIME).expect("CLOCK_REALTIME exists on every Linux");
    Now {
        mono: monotonic(),
        unix: UnixTime(u64::try_from(wall.tv_sec()).unwrap_or(0)),
        unix_nanos: u32::try_from(wall.tv_nsec()).unwrap_or(0),
    }
}

/// The monotonic clock alone, including time spent suspended: what a data-plane batch needs.
pub fn monotonic() -> Instant {
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    let seconds = u64::try_from(boot.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(boot.tv_nsec()).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let first = monotonic();
        assert!(monotonic() >= first);
        assert!(now().unix.0 > 1_700_000_000);
    }
}
