//! What can be compared. A new peer is one file in `peers/` and a line in [`crate::peers::all`].

use std::any::Any;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use skynet_tests::Process;

use crate::link::Link;

/// The name of the plain link all others are compared to.
pub(crate) const DIRECT: &str = "direct";

/// A way to get packets from one end of the link to the other.
pub(crate) trait Peer {
    /// Its name in tables and in `--peer`.
    fn name(&self) -> &str;

    /// Program, version and cipher, for the report.
    fn describe(&self) -> String;

    /// What must be done before it can be measured, in one sentence; `None` if nothing.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Installs what is missing, from the registry of its packaging. Without a way to do so, does nothing.
    fn install(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether it is a tunnel, and not a plain link.
    fn is_tunnel(&self) -> bool {
        true
    }

    /// Brings it up on both ends of the link; the link's directory is its to write in. Every process it leaves running
    /// in either namespace counts as the tunnel's.
    fn up(&self, link: &Link) -> anyhow::Result<Running>;
}

/// A peer that is up; dropping it brings it down.
pub(crate) struct Running {
    /// What the left end asks for to reach the right one through it.
    pub(crate) target: Ipv4Addr,
    /// Whatever stops it when dropped.
    guards: Vec<Box<dyn Any + Send + Sync>>,
    /// Where its processes write.
    logs: Vec<PathBuf>,
}

impl Running {
    /// Reached at `target`; nothing is running yet.
    pub(crate) fn at(target: Ipv4Addr) -> Self {
        Self { target, guards: Vec::new(), logs: Vec::new() }
    }

    /// With one more thing to be dropped.
    pub(crate) fn guard(&mut self, guard: impl Any + Send + Sync) {
        self.guards.push(Box::new(guard));
    }

    /// With a process that stops when dropped.
    pub(crate) fn process(&mut self, process: Process) {
        self.logs.push(process.log_path().to_owned());
        self.guard(process);
    }

    /// How the logs of its processes end, for an error.
    pub(crate) fn log_ends(&self) -> String {
        let end = |log: &PathBuf| {
            let text = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(5)..].join("\n")
        };
        self.logs.iter().map(|log| format!("\n{}", end(log))).collect()
    }

    /// Down, in the reverse order of up.
    pub(crate) fn down(mut self) {
        while let Some(guard) = self.guards.pop() {
            drop(guard);
        }
    }
}
