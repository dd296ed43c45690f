//! The one place where the generator reads clocks.

use std::time::{Instant as StdInstant, SystemTime, UNIX_EPOCH};

use skynet_core::time::{Instant, Now, UnixTime};

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(StdInstant);

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    pub(crate) fn new() -> Self {
        Self(StdInstant::now())
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    pub(crate) fn now(self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono: Instant::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            unix: UnixTime(unix.as_secs()),
            unix_nanos: unix.subsec_nanos(),
        }
    }

    pub(crate) fn deadline(self, at: Instant) -> StdInstant {
        self.0 + core::time::Duration::from_nanos(at.as_nanos())
    }

    pub(crate) fn elapsed(self) -> core::time::Duration {
        self.0.elapsed()
    }
}
