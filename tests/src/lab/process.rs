//! A process inside a namespace that does not outlive its guard.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{clock, wait};

/// How long a process may take to stop politely.
const GRACE: Duration = Duration::from_secs(3);

/// A running process; its standard output and error go to [`Process::log_path`]. Dropping it sends SIGTERM, and SIGKILL
/// if it is still there after three seconds.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    leave_running: bool,
}

impl Process {
    pub(crate) fn new(child: Child, log: PathBuf) -> Self {
        Self { child, log, leave_running: false }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with its standard output and error.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// If the process has ended already.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        // `try_wait` reaps, so the id below is either alive, or a zombie of ours: never another process.
        anyhow::ensure!(self.is_running(), "process {} has ended", self.id());
        Ok(kill(self.pid(), signal)?)
    }

    /// Kills it at once, as a crash would, and waits for its end.
    ///
    /// # Errors
    /// If it cannot be killed or waited for.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `within`; the error carries the end of its log.
    pub fn wait_within(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("the end of process {}", self.id());
        wait::wait_for(within, &what, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .with_context(|| format!("its log ends with:\n{}", self.log_tail()))
    }

    /// Stops it politely: SIGTERM, then SIGKILL.
    pub fn stop(&mut self) {
        if !self.is_running() {
            return;
        }
        let _ = kill(self.pid(), Signal::SIGTERM);
        let start = clock::now();
        while start.elapsed() < GRACE {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets the process outlive this guard, for a lab that is kept.
    pub fn leave_running(mut self) {
        self.leave_running = true;
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.leave_running {
            self.stop();
        }
    }
}
