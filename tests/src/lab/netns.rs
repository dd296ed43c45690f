//! One named network namespace: run code, commands and processes inside it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::process::Process;
use super::reaper;
use crate::clock;

/// Where `ip netns` keeps the names.
pub(crate) const NETNS_DIRECTORY: &str = "/run/netns";
/// A command that takes longer than this hangs.
const EXEC_TIMEOUT: Duration = Duration::from_secs(20);

/// A network namespace of a lab; cheap to clone. It knows the name but holds nothing open, so it never keeps a
/// namespace alive.
#[derive(Debug, Clone)]
pub struct Netns {
    name: Arc<str>,
    role: Arc<str>,
    addresses: Arc<[Ipv4Addr]>,
    logs: Arc<Path>,
}

/// How a finished command ended and what it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output; invalid UTF-8 is replaced.
    pub stdout: String,
    /// Standard error; invalid UTF-8 is replaced.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that succeeded.
    ///
    /// # Errors
    /// If the exit status is not 0; with what the command printed.
    pub fn ok(self) -> anyhow::Result<String> {
        ensure!(self.status.success(), "{}: {}{}", self.status, self.stderr, self.stdout);
        Ok(self.stdout)
    }
}

impl Netns {
    pub(crate) fn new(prefix: &str, role: &str, addresses: &[Ipv4Addr], logs: &Arc<Path>) -> Self {
        Self {
            name: format!("{prefix}-{role}").into(),
            role: role.into(),
            addresses: addresses.into(),
            logs: Arc::clone(logs),
        }
    }

    /// The name under which `ip netns exec` finds it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its role in the lab: `a1`, `relay`, `inet`, `nat-a`.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Its first IPv4 address: private for a host behind a NAT, public for the relay and for hosts of a public cloud.
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// All addresses given by the lab.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Runs `f` in a fresh thread inside the namespace. Sockets and devices opened there stay in it and can be used from
    /// any thread afterwards. A panic of `f` continues in the caller.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let path = PathBuf::from(NETNS_DIRECTORY).join(&*self.name);
        let handle = File::open(&path).with_context(|| format!("namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&handle, CloneFlags::CLONE_NEWNET)?;
                Ok::<_, nix::Error>(f())
            });
            match thread.join() {
                Ok(result) => result.with_context(|| format!("entering namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a command to its end and captures what it prints; killed if it takes longer than 20 s.
    ///
    /// # Errors
    /// If it cannot be started or takes too long. An exit status other than 0 is not an error here: see [`Output::ok`].
    pub fn exec(&self, argv: &[&str]) -> anyhow::Result<Output> {
        self.exec_within(EXEC_TIMEOUT, argv, "")
    }

    /// As [`Netns::exec`] with a time limit and text for the standard input.
    ///
    /// # Errors
    /// If it cannot be started or takes longer than `within`.
    pub fn exec_within(&self, within: Duration, argv: &[&str], input: &str) -> anyhow::Result<Output> {
        let (program, arguments) = argv.split_first().context("no command given")?;
        let mut command = Command::new(program);
        command.args(arguments);
        self.run(|| run_to_end(command, within, input))?
            .with_context(|| format!("`{}` in namespace {}", argv.join(" "), self.name))
    }

    /// Starts a process whose output goes to a log file of its own; the returned guard stops it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, mut command: Command) -> anyhow::Result<Process> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let program = PathBuf::from(command.get_program());
        let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        fs::create_dir_all(&self.logs)?;
        let log = self.logs.join(format!("{}-{program}-{serial}.log", self.role));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        // A group of its own: Ctrl-C in a terminal reaches the lab's owner, who stops its processes in order.
        command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child =
            self.run(|| command.spawn())?.with_context(|| format!("starting {program} in {}", self.name))?;
        Ok(Process::new(child, log))
    }

    /// Writes a value below `/proc/sys`; `key` with slashes, as in `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// If this kernel has no such key in this namespace or refuses the value.
    pub fn set_sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        // The kernel resolves /proc/sys/net by the namespace of the calling thread.
        self.run(|| fs::write(Path::new("/proc/sys").join(key), value))?
            .with_context(|| format!("sysctl {key} = {value} in {}", self.name))
    }

    /// Turns the offloads of an Ethernet device on or off: segmentation of TCP and UDP and, on the way out, checksums.
    /// Off, every datagram crosses the link alone and with its checksum complete.
    ///
    /// # Errors
    /// If there is no such device or it refuses.
    pub fn set_offloads(&self, interface: &str, on: bool) -> anyhow::Result<()> {
        let value = if on { "on" } else { "off" };
        let mut argv = vec!["ethtool", "-K", interface];
        // Checksums first: without them the kernel turns segmentation off, and with them off refuses to turn it on.
        for feature in ["tx", "sg", "tso", "gso", "gro", "tx-udp-segmentation"] {
            argv.extend([feature, value]);
        }
        self.exec(&argv)?.ok()?;
        Ok(())
    }

    /// The processes that live in it now, whoever started them; ascending.
    pub fn processes(&self) -> Vec<u32> {
        let mut all: Vec<_> =
            reaper::processes_of(&self.name).iter().map(|pid| pid.as_raw().cast_unsigned()).collect();
        all.sort_unstable();
        all
    }

    /// Ends every process in it: SIGTERM, a second of grace, SIGKILL.
    pub fn end_processes(&self) {
        reaper::end_processes_in(&[self.name().to_owned()]);
    }

    /// Feeds `ip -batch` in this namespace, all lines in one process.
    pub(crate) fn ip_batch(&self, lines: &str) -> anyhow::Result<()> {
        self.exec_within(EXEC_TIMEOUT, &["ip", "-batch", "-"], lines)?
            .ok()
            .with_context(|| format!("in namespace {}, of:\n{lines}", self.name))?;
        Ok(())
    }

    /// Feeds `nft -f -` in this namespace: one transaction.
    ///
    /// # Errors
    /// If nftables refuses it; nothing has changed then.
    pub fn nft(&self, ruleset: &str) -> anyhow::Result<()> {
        self.exec_within(EXEC_TIMEOUT, &["nft", "-f", "-"], ruleset)?
            .ok()
            .with_context(|| format!("nft in namespace {}", self.name))?;
        Ok(())
    }
}

/// Runs a command with its three streams in memory files: unlike pipes they cannot fill up, nor be held open by a
/// grandchild that outlives the command.
pub(crate) fn run_to_end(mut command: Command, within: Duration, input: &str) -> anyhow::Result<Output> {
    let memory_file = || memfd_create(c"lab", MFdFlags::MFD_CLOEXEC).map(File::from);
    let (mut stdin, stdout, stderr) = (memory_file()?, memory_file()?, memory_file()?);
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let mut child = command
        .stdin(stdin)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .context("starting")?;
    let start = clock::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() >= within {
            child.kill()?;
            child.wait()?;
            bail!("killed after {} s; it said: {}{}", within.as_secs(), contents(stdout)?, contents(stderr)?);
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    Ok(Output { status, stdout: contents(stdout)?, stderr: contents(stderr)? })
}

fn contents(mut file: File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
