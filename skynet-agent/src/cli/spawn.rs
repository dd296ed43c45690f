//! Starting the agent in the background, with its log in a file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{AgentArgs, Exit, Failure};
use crate::clock;
use crate::config::{Config, Places};

/// A log above this is set aside once at start: `agent.log.1` replaces the one before.
const MAX_LOG: u64 = 16 << 20;
/// What is shown of the log of an agent that did not start.
const TAIL: u64 = 4 << 10;

/// From closing the socket to the end of the process.
const LAST_BREATH: std::time::Duration = std::time::Duration::from_secs(2);

/// An agent started just now.
pub(super) struct Background {
    child: Child,
    log: PathBuf,
    log_start: u64,
    made: Made,
}

/// What an agent that is not admitted writes, as far as it was not there before; outermost first.
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// To be taken before it starts.
    pub(super) fn below(state_dir: &Path) -> Self {
        let mut paths: Vec<PathBuf> =
            state_dir.ancestors().take_while(|a| !a.exists()).map(Path::to_owned).collect();
        paths.reverse();
        let files = ["agent.log", "lock", "floor"].map(|name| state_dir.join(name));
        paths.extend(files.into_iter().filter(|f| !f.exists()));
        Self(paths)
    }

    /// Removes it: on a machine that is no member nothing has changed.
    pub(super) fn remove(&self) {
        for path in self.0.iter().rev() {
            // A directory that somebody else has put something into stays.
            let _ = if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
        }
    }
}

impl Background {
    /// Starts `run` with the same flags; the token is not among them, it goes over the control socket.
    pub(super) fn start(config: &Config, first: &Places, args: &AgentArgs) -> Result<Self, Failure> {
        let state_dir = &first.state_dir;
        let log = state_dir.join("agent.log");
        let failed =
            |what: &Path, e: std::io::Error| Failure::new(Exit::Failed, format!("{}: {e}", what.display()));
        let mut made = Made::below(state_dir);
        if config.network.is_some() {
            made.0.extend(
                Made::below(&config.state_dir)
                    .0
                    .into_iter()
                    .filter(|path| path.starts_with(state_dir) && path != state_dir),
            );
        }
        if !state_dir.exists() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
            made.map_err(|e| failed(state_dir, e))?;
        }
        if std::fs::metadata(&log).is_ok_and(|m| m.len() > MAX_LOG) {
            let _ = std::fs::rename(&log, log.with_extension("log.1"));
        }
        let file = open_log(&log).map_err(|e| failed(&log, e))?;
        let log_start = file.metadata().map(|m| m.len()).unwrap_or(0);
        let program = std::env::current_exe().map_err(|e| failed(Path::new("/proc/self/exe"), e))?;
        let child = Command::new(&program)
            .arg("run")
            .arg("--background")
            .args(args.to_flags())
            .env_remove("SKYNET_TOKEN")
            .envs(args.proxy.iter().map(|proxy| ("SKYNET_PROXY", proxy)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .map_err(|e| failed(&program, e))?;
        Ok(Self { child, log, log_start, made })
    }

    /// What the agent said last, if it has ended already.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let text = self.log_tail().unwrap_or_default();
        let said: Vec<&str> = text
            .lines()
            .rev()
            .take_while(|l| !l.trim().is_empty())
            .filter_map(|l| l.strip_prefix("skynet-agent: "))
            .collect();
        Some(match said.first() {
            Some(sentence) => (*sentence).to_owned(),
            None => format!("the agent ended with {status}; see {}", self.log.display()),
        })
    }

    /// Like [`Self::ended`], for an agent that has closed its socket and is about to end.
    pub(super) fn ends(&mut self) -> Option<String> {
        let deadline = clock::monotonic() + LAST_BREATH;
        loop {
            let ended = self.ended();
            if ended.is_some() || clock::monotonic() > deadline {
                return ended;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits for the end of an agent that was refused, so that the next command does not meet it, and removes what
    /// its start left on a machine that is no member: nothing has changed.
    pub(super) fn finish(mut self, is_member: bool) {
        if self.ends().is_none() || is_member {
            return;
        }
        self.made.remove();
    }

    fn log_tail(&self) -> std::io::Result<String> {
        let mut file = File::open(&self.log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.log_start.max(end.saturating_sub(TAIL))))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}
