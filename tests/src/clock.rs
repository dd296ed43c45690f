//! The one place of the lab that reads a clock.

use std::time::Instant;

/// The monotonic clock, now.
#[expect(
    clippy::disallowed_methods,
    reason = "the lab drives real kernels and processes; this is its clock module"
)]
pub fn now() -> Instant {
    Instant::now()
}
