//! The running agent.

use crate::config::Config;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub fn run(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("not there yet")
}
