//! A daemon at one end of the link: started, its device awaited, stopped when dropped.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use skynet_tests::{Process, wait_for};

use crate::link::End;
use crate::peer::Running;

/// Key agreement and a device, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts `program arguments…` in the end's namespace.
pub(super) fn start(end: &End, program: &str, arguments: &[&str]) -> anyhow::Result<Process> {
    let mut command = Command::new(super::package::path(program)?);
    command.args(arguments);
    end.namespace.spawn(command)
}

/// Waits until `device` exists, and hands the daemon to `running`.
pub(super) fn await_device(
    end: &End,
    mut daemon: Process,
    device: &str,
    running: &mut Running,
) -> anyhow::Result<()> {
    wait_for(START_TIMEOUT, &format!("device {device} in {}", end.namespace.name()), || {
        ensure!(daemon.is_running(), "the daemon has ended");
        end.namespace.exec(&["ip", "link", "show", "dev", device])?.ok()
    })
    .with_context(|| daemon.log())?;
    running.process(daemon);
    Ok(())
}

/// Gives a device the end's overlay address and sets it up.
pub(super) fn configure(end: &End, device: &str) -> anyhow::Result<()> {
    let address = format!("{}/24", end.overlay);
    end.namespace.exec(&["ip", "addr", "add", &address, "dev", device])?.ok()?;
    end.namespace.exec(&["ip", "link", "set", device, "up"])?.ok()?;
    Ok(())
}
