//! The relay under load: a real process, and what the kernel says of it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

/// A running `skynet-relay`; dropping it kills it.
pub(crate) struct Relay {
    program: PathBuf,
    directory: PathBuf,
    address: SocketAddr,
    child: Child,
    /// The join token of its network.
    pub(crate) token: String,
}

impl Relay {
    /// Makes a network below `directory` and runs its relay at `address`.
    pub(crate) fn start(program: &Path, directory: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let (child, up) = spawn(program, directory, address)?;
        let token = up["token"].as_str().context("the relay printed no token")?.to_owned();
        Ok(Self { program: program.into(), directory: directory.into(), address, child, token })
    }

    /// Ends it as a crash would, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        (self.child, _) = spawn(&self.program, &self.directory, self.address)?;
        Ok(())
    }

    /// Memory in use, and at most, in KiB.
    pub(crate) fn memory_kib(&self) -> anyhow::Result<[u64; 2]> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Ok([field("VmRSS:").context("no VmRSS")?, field("VmHWM:").context("no VmHWM")?])
    }

    /// Seconds of processor time it has had.
    pub(crate) fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).context("no processor time");
        // utime and stime, the 14th and 15th field, in hundredths of a second on every Linux.
        Ok((ticks(11)? + ticks(12)?) as f64 / 100.0)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    program: &Path,
    directory: &Path,
    address: SocketAddr,
) -> anyhow::Result<(Child, serde_json::Value)> {
    let mut command = Command::new(program);
    command.args(["up", "--json", "--user", "root", "--network-name", "load", "--range", "10.16.0.0/12"]);
    command.arg("--dir").arg(directory).arg("--listen").arg(address.to_string());
    command.arg("--public-address").arg(address.to_string()).env("RUST_LOG", "warn");
    let log = std::fs::File::options().create(true).append(true).open(directory.with_extension("log"))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} cannot be run", program.display()))?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let line = lines.next().context("the relay ended before it was ready")??;
    Ok((child, serde_json::from_str(&line)?))
}
