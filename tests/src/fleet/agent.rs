//! One `skynet-agent` on a host of a lab.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{AgentState, Binaries, PathKind, Status};
use crate::lab::{Lab, Netns, Output, Process};
use crate::{clock, wait};

/// The UDP port of every agent; hosts of one cloud share their NAT's address, not their ports.
const PORT: u16 = 41_820;
const INTERFACE: &str = "skynet0";
/// Lines of a log in an error.
const LOG_LINES: usize = 30;

/// An agent; dropping it stops it.
#[derive(Debug)]
pub struct Agent {
    program: PathBuf,
    host: String,
    namespace: Netns,
    /// State, socket and configuration.
    directory: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    machine: Machine,
    process: Option<Process>,
}

/// What is another machine's, if anything: files with its machine-id, and with what its cloud calls it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Machine {
    id: Option<PathBuf>,
    instance: Option<PathBuf>,
}

/// Puts the two files, if they are given, into their places in a mount namespace of its own. cloud-init's directory may not
/// be there.
const OTHER_MACHINE: &str = "\
[ -z \"$0\" ] || mount --bind \"$0\" /etc/machine-id || exit
instance=$1; shift
[ -z \"$instance\" ] || { mount -t tmpfs none /var/lib && mkdir -p /var/lib/cloud/data || exit
cp \"$instance\" /var/lib/cloud/data/instance-id; } || exit
exec \"$@\"";

/// What an agent is started with besides what every agent of a fleet is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Arguments of `skynet-agent run`.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// What the cloud calls the machine.
    pub instance: Option<String>,
}

/// How a command of the agent ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self { code: output.status.code(), stdout: output.stdout, stderr: output.stderr }
    }
}

impl Agent {
    /// An agent on `host` that is not started yet.
    ///
    /// # Errors
    /// If its directory cannot be made.
    pub fn new(lab: &Lab, host: &str, binaries: &Binaries) -> anyhow::Result<Self> {
        let directory = lab.logs().join(format!("agent-{host}"));
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(Self {
            program: binaries.agent.clone(),
            host: host.to_owned(),
            namespace: lab.host(host).clone(),
            directory,
            arguments: Vec::new(),
            environment: Vec::new(),
            machine: Machine::default(),
            process: None,
        })
    }

    /// Starts an agent on `host` that joins with `token`; does not wait for it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(lab: &Lab, host: &str, binaries: &Binaries, token: &str) -> anyhow::Result<Self> {
        Self::start_with(lab, host, binaries, token, &Extra::default())
    }

    /// As [`Agent::start`] with further arguments and environment.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_with(
        lab: &Lab,
        host: &str,
        binaries: &Binaries,
        token: &str,
        extra: &Extra,
    ) -> anyhow::Result<Self> {
        let mut agent = Self::new(lab, host, binaries)?;
        let file = agent.directory.join("token");
        std::fs::write(&file, token)?;
        agent.arguments = vec!["--token".to_owned(), format!("file:{}", file.display())];
        agent.arguments.extend(["--name".to_owned(), host.to_owned()]);
        agent.arguments.extend(extra.arguments.iter().cloned());
        agent.environment = extra.environment.clone();
        agent.be_instance(extra.instance.as_deref())?;
        agent.restart()?;
        Ok(agent)
    }

    /// Starts an agent on `host` with a configuration file and no token.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_with_config(
        lab: &Lab,
        host: &str,
        binaries: &Binaries,
        config: &str,
    ) -> anyhow::Result<Self> {
        let mut agent = Self::new(lab, host, binaries)?;
        let file = agent.directory.join("agent.toml");
        std::fs::write(&file, config)?;
        agent.arguments = vec!["--config".to_owned(), file.display().to_string()];
        agent.restart()?;
        Ok(agent)
    }

    /// Starts an agent on `host` whose disk is a copy of this one's, on a machine with this machine-id, with further
    /// arguments.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_copy(
        &self,
        lab: &Lab,
        host: &str,
        machine_id: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        self.start_copy_as(lab, host, machine_id, None, arguments)
    }

    /// As [`Agent::start_copy`], on a machine that its cloud calls so.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_copy_as(
        &self,
        lab: &Lab,
        host: &str,
        machine_id: &str,
        instance: Option<&str>,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let binaries = Binaries { agent: self.program.clone(), relay: PathBuf::new() };
        let mut copy = Self::new(lab, host, &binaries)?;
        let (state, id) = (copy.state_directory(), copy.directory.join("machine-id"));
        std::fs::write(&id, machine_id)?;
        std::fs::create_dir_all(&state)?;
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700))?;
        for file in ["credentials", "floor", "peers", "roster", "instance"] {
            let from = self.state_directory().join(file);
            if from.exists() {
                std::fs::copy(&from, state.join(file))?;
            }
        }
        copy.machine.id = Some(id);
        copy.be_instance(instance)?;
        copy.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        copy.restart()?;
        Ok(copy)
    }

    fn be_instance(&mut self, instance: Option<&str>) -> anyhow::Result<()> {
        let Some(instance) = instance else { return Ok(()) };
        let file = self.directory.join("instance-id");
        std::fs::write(&file, instance)?;
        self.machine.instance = Some(file);
        Ok(())
    }

    /// Starts an agent on `host` that is told nothing but these arguments and where to keep its state.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_untold(
        lab: &Lab,
        host: &str,
        binaries: &Binaries,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut agent = Self::new(lab, host, binaries)?;
        agent.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it again with the state it has; it must have been stopped or killed.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "the agent on {} runs already", self.host);
        let mut command = Command::new(&self.program);
        if self.machine != Machine::default() {
            let Machine { id, instance } = &self.machine;
            command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", OTHER_MACHINE]);
            command.args([id, instance].map(|file| file.clone().unwrap_or_default())).arg(&self.program);
        }
        command.arg("run").args(&self.arguments).args(self.places());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        self.process = Some(self.namespace.spawn(command)?);
        Ok(())
    }

    /// Where it keeps what, and what it is called on its host.
    fn places(&self) -> Vec<String> {
        let state = self.state_directory().display().to_string();
        let socket = self.socket().display().to_string();
        let (interface, port) = (INTERFACE.to_owned(), PORT.to_string());
        let flags = ["--state-dir", "--socket", "--interface", "--port"];
        flags.iter().zip([state, socket, interface, port]).flat_map(|(f, v)| [(*f).to_owned(), v]).collect()
    }

    /// The lab host it runs on, which is also its name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// Where it keeps keys and credentials.
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Its program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The name of its TUN device.
    pub fn interface(&self) -> &'static str {
        INTERFACE
    }

    /// Its UDP port.
    pub fn port(&self) -> u16 {
        PORT
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Runs the program on its host with `arguments` and its socket, to the end or 30 s.
    ///
    /// # Errors
    /// If it cannot be run or hangs.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Finished> {
        let program = self.program.display().to_string();
        let socket = self.socket().display().to_string();
        let mut argv = vec![program.as_str()];
        argv.extend(arguments);
        argv.extend(["--socket", &socket]);
        Ok(self.namespace.exec_within(Duration::from_secs(30), &argv, "")?.into())
    }

    /// Runs `skynet-agent up` with a token, as a user does, to the end or 30 s.
    ///
    /// # Errors
    /// If it cannot be run or hangs.
    pub fn up(&self, token: &str) -> anyhow::Result<Finished> {
        let program = self.program.display().to_string();
        let mut argv = vec![program, "up".to_owned(), "--token".to_owned(), token.to_owned()];
        argv.extend(["--name".to_owned(), self.host.clone()]);
        argv.extend(self.places());
        let argv: Vec<_> = argv.iter().map(String::as_str).collect();
        Ok(self.namespace.exec_within(Duration::from_secs(30), &argv, "")?.into())
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// If it does not answer, or leaves out what [`Status`] needs.
    pub fn status(&self) -> anyhow::Result<Status> {
        let output = self.command(&["status", "--json"])?;
        serde_json::from_str(&output.stdout).with_context(|| format!("status of {}: {output:?}", self.host))
    }

    /// Its address in the overlay.
    ///
    /// # Errors
    /// If it has none yet.
    pub fn overlay_address(&self) -> anyhow::Result<Ipv4Addr> {
        self.status()?.overlay_address().with_context(|| format!("{} has no overlay address", self.host))
    }

    /// Which way packets to `other` go, in its own words.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn path_to(&self, other: &Self) -> anyhow::Result<PathKind> {
        Ok(self.status()?.peer(&other.host).map_or(PathKind::None, |peer| peer.path))
    }

    /// Waits until it has joined and its relay is bound; returns how long that took.
    ///
    /// # Errors
    /// If it has not within `within`, or has failed or ended; with the end of its log.
    pub fn wait_joined(&self, within: Duration) -> anyhow::Result<Duration> {
        let start = clock::now();
        self.wait_status(within, "to join", |status| {
            status.state == AgentState::Up && status.relays.iter().any(|relay| relay.control && relay.bound)
        })?;
        Ok(start.elapsed())
    }

    /// Waits until its status satisfies `condition`.
    ///
    /// # Errors
    /// If it does not within `within`; with its last status and the end of its log.
    pub fn wait_status(
        &self,
        within: Duration,
        what: &str,
        condition: impl Fn(&Status) -> bool,
    ) -> anyhow::Result<Status> {
        wait::wait_for(within, &format!("{} {what}", self.host), || {
            let status = self.status()?;
            ensure!(condition(&status), "{status:?}");
            Ok(status)
        })
        .with_context(|| self.log_end())
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().with_context(|| format!("{} does not run", self.host))?.kill()?;
        Ok(())
    }

    /// Waits for its process to end by itself and returns its exit code.
    ///
    /// # Errors
    /// If it still runs after `within`.
    pub fn wait_ended(&mut self, within: Duration) -> anyhow::Result<Option<i32>> {
        let mut process = self.process.take().with_context(|| format!("{} does not run", self.host))?;
        Ok(process.wait_within(within)?.code())
    }

    /// All it has printed; nothing if it does not run.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The last lines it has printed.
    pub fn log_end(&self) -> String {
        let Some(process) = &self.process else {
            return format!("the agent on {} does not run\n", self.host);
        };
        let log = process.log();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        format!("the agent on {} said ({}):\n{end}\n", self.host, process.log_path().display())
    }

    pub(super) fn leave_running(self) {
        if let Some(process) = self.process {
            process.leave_running();
        }
    }
}
