//! Waiting for the real world, with a deadline and an explanation.

use std::fmt::Display;
use std::time::Duration;

use anyhow::bail;

use crate::clock;

/// Between two looks; short against anything a test measures, long against the cost of a look.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds.
///
/// # Errors
/// Names `what` and the time waited if the condition does not hold within `within`.
pub fn wait_until(within: Duration, what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    wait_for(within, what, || if condition() { Ok(()) } else { Err("the condition is false") })
}

/// Polls `attempt` until it yields a value and returns that.
///
/// # Errors
/// Names `what`, the time waited and the last error if there is no value within `within`.
pub fn wait_for<T, E: Display>(
    within: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let start = clock::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() >= within => {
                bail!("waited {:.1} s for: {what}; at last: {last}", within.as_secs_f64());
            }
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_was_waited_for_and_the_last_error() {
        let error = wait_for(Duration::ZERO, "the moon", || Err::<(), _>("it is day")).unwrap_err();
        assert_eq!(error.to_string(), "waited 0.0 s for: the moon; at last: it is day");
    }

    #[test]
    fn returns_the_first_value() {
        let mut looks = 0;
        wait_until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }
}
