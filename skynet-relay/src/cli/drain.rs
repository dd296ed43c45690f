//! `drain`: the running relay is told by a signal, and watched until nothing goes by it any more.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Common, Failure, duration, status};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Datagrams forwarded in a second that are nobody's traffic any more.
const QUIET: u64 = 2;

#[derive(Args, Debug)]
pub(crate) struct Drain {
    /// Wait so long for traffic to leave.
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "TIME")]
    wait: Duration,
    /// Stop the relay then.
    #[arg(long)]
    stop: bool,
}

pub(super) fn execute(common: &Common, drain: &Drain) -> Result<(), Failure> {
    let pid = number(&look(common)?, "process")?;
    let pid = Pid::from_raw(i32::try_from(pid).context("the relay's process number is none")?);
    let tell =
        |signal| kill(pid, signal).with_context(|| format!("process {pid} cannot be told; run this as root"));
    tell(Signal::SIGUSR1)?;
    let quiet = wait_for_quiet(common, drain.wait)?;
    let last = look(common)?;
    if drain.stop {
        tell(Signal::SIGTERM)?;
    }
    let members = number(&last, "members_online")?;
    if common.json {
        let report = json!({
            "schema": "skynet.relay.drained/1", "quiet": quiet, "members_online": members, "stopped": drain.stop,
        });
        say!("{report}");
    } else {
        let left = if quiet { "nothing goes by it any more" } else { "some have nowhere else to go" };
        say!("Drained: {left}, {members} members still ask it.");
    }
    Ok(())
}

/// Whether traffic ended in time. The first look only says where counting begins.
fn wait_for_quiet(common: &Common, wait: Duration) -> Result<bool, Failure> {
    let mut before = None;
    for _ in 0..wait.as_secs().div_ceil(LOOK.as_secs()) {
        std::thread::sleep(LOOK);
        let value = look(common)?;
        let forwarded = number(&value, "datagrams_forwarded")?;
        let drains = value["draining"] == Value::Bool(true);
        if drains && before.is_some_and(|n| forwarded.saturating_sub(n) <= QUIET) {
            return Ok(true);
        }
        before = drains.then_some(forwarded);
    }
    Ok(false)
}

fn look(common: &Common) -> Result<Value, Failure> {
    let text = status::ask(common)?;
    Ok(serde_json::from_str(&text).context("the relay's answer is no JSON")?)
}

fn number(value: &Value, name: &str) -> Result<u64, Failure> {
    Ok(value[name].as_u64().with_context(|| format!("the relay does not say {name}"))?)
}
