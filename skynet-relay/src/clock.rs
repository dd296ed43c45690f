//! The one place where the relay reads clocks and asks the operating system for randomness.

use std::time::{Instant as StdInstant, SystemTime, UNIX_EPOCH};

use skynet_core::rng::Rng;
use skynet_core::time::{Instant, Now, UnixTime};

/// Both clocks, with a common start for all threads of the process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: StdInstant,
}

impl Clock {
    /// A clock that starts now.
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    #[allow(clippy::new_without_default, reason = "reading a clock is no default")]
    pub fn new() -> Self {
        Self { start: StdInstant::now() }
    }

    /// Both clocks, read once.
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    pub fn now(&self) -> Now {
        let mono = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // A clock before 1970 is a broken clock: every certificate is then "not yet valid", which is the truth.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono: Instant::from_nanos(mono),
            unix: UnixTime(unix.as_secs()),
            unix_nanos: unix.subsec_nanos(),
        }
    }

    /// When `at` is, for timers of the runtime.
    pub fn deadline(&self, at: Instant) -> StdInstant {
        self.start + core::time::Duration::from_nanos(at.as_nanos())
    }
}

/// A generator seeded by the operating system.
///
/// # Errors
/// The system has no randomness to give.
pub fn os_rng() -> std::io::Result<Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
    Ok(Rng::from_seed(seed))
}
