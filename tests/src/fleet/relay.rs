//! One `skynet-relay` on the lab's relay host.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Binaries;
use crate::lab::{Lab, Netns, Process, RELAY_ADDRESSES, RELAY_V6};
use crate::wait;

const PORT: u16 = 3478;
/// In what it prints once it serves.
const READY: &str = "skynet.relay.up/1";
/// Making keys and a database; a debug build on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// `drain` waits for up to 30 s.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(40);

/// A relay; dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    program: PathBuf,
    namespace: Netns,
    directory: PathBuf,
    address: SocketAddrV4,
    /// Where it listens, and what it tells of that.
    listen: SocketAddr,
    public: Vec<SocketAddr>,
    range: String,
    /// Of a further relay: the file with its invitation.
    invitation: Option<PathBuf>,
    process: Option<Process>,
    token: String,
}

impl Relay {
    /// Creates a network and waits for its join token.
    ///
    /// # Errors
    /// If it does not print a token within 15 s; with its log.
    pub fn start(lab: &Lab, binaries: &Binaries) -> anyhow::Result<Self> {
        Self::start_at(lab, binaries, RELAY_ADDRESSES[0])
    }

    /// As [`Relay::start`], of another network, on another of the relay host's addresses.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_at(lab: &Lab, binaries: &Binaries, address: Ipv4Addr) -> anyhow::Result<Self> {
        Self::start_on(lab, binaries, lab.relay(), address)
    }

    /// As [`Relay::start_at`], in any namespace of the lab, at an `address` it has.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_on(
        lab: &Lab,
        binaries: &Binaries,
        namespace: &Netns,
        address: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        Self::start_listening(lab, binaries, namespace, address, None)
    }

    /// As [`Relay::start_at`], with a chosen range of addresses for the network.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_in(lab: &Lab, binaries: &Binaries, address: Ipv4Addr, range: &str) -> anyhow::Result<Self> {
        let mut relay = Self::new(lab, binaries, lab.relay(), address, None)?;
        range.clone_into(&mut relay.range);
        relay.restart()?;
        Ok(relay)
    }

    fn start_listening(
        lab: &Lab,
        binaries: &Binaries,
        namespace: &Netns,
        address: Ipv4Addr,
        listen: Option<(SocketAddr, Vec<SocketAddr>)>,
    ) -> anyhow::Result<Self> {
        let mut relay = Self::new(lab, binaries, namespace, address, listen)?;
        relay.restart()?;
        Ok(relay)
    }

    fn new(
        lab: &Lab,
        binaries: &Binaries,
        namespace: &Netns,
        address: Ipv4Addr,
        listen: Option<(SocketAddr, Vec<SocketAddr>)>,
    ) -> anyhow::Result<Self> {
        let directory = lab.logs().join(format!("relay-{address}"));
        // Chosen, because a random one may overlap a cloud's own; another one for each network of a lab.
        let range = format!("10.{}.0.0/16", 70 + address.octets()[3]);
        std::fs::create_dir_all(lab.logs())?;
        let socket: SocketAddr = SocketAddrV4::new(address, PORT).into();
        let (listen, public) = listen.unwrap_or_else(|| (socket, vec![socket]));
        Ok(Self {
            listen,
            public,
            program: binaries.relay.clone(),
            namespace: namespace.clone(),
            directory,
            address: SocketAddrV4::new(address, PORT),
            range,
            invitation: None,
            process: None,
            token: String::new(),
        })
    }

    /// As [`Relay::start`], reached at all addresses of the relay host, so that agents can tell a NAT that maps by
    /// address, and by IPv6 if the lab has it.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_everywhere(lab: &Lab, binaries: &Binaries, v6: bool) -> anyhow::Result<Self> {
        let v6 = v6.then_some(IpAddr::V6(RELAY_V6));
        let all = RELAY_ADDRESSES.map(IpAddr::V4).into_iter().chain(v6);
        let public = all.map(|ip| SocketAddr::new(ip, PORT)).collect();
        let listen = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT);
        Self::start_listening(lab, binaries, lab.relay(), RELAY_ADDRESSES[0], Some((listen, public)))
    }

    /// Lists a further relay of this one's network at another address of the same host, of which this one tells members, and
    /// starts the other by its invitation.
    ///
    /// # Errors
    /// As [`Relay::start`], or if a command fails.
    pub fn add(&mut self, lab: &Lab, address: Ipv4Addr) -> anyhow::Result<Self> {
        let socket: SocketAddr = SocketAddrV4::new(address, PORT).into();
        let stdout =
            self.command(&["network", "add-relay", "--json", "--public-address", &socket.to_string()])?;
        let text = find_word(&stdout, "ski1.").with_context(|| format!("no invitation in {stdout}"))?;
        let file = lab.logs().join(format!("invitation-{address}"));
        std::fs::write(&file, text)?;
        self.token = self.create_token(&[])?;
        let mut other = Self {
            program: self.program.clone(),
            namespace: self.namespace.clone(),
            directory: lab.logs().join(format!("relay-{address}")),
            address: SocketAddrV4::new(address, PORT),
            listen: socket,
            public: Vec::new(),
            range: self.range.clone(),
            invitation: Some(file),
            process: None,
            token: self.token.clone(),
        };
        other.restart()?;
        Ok(other)
    }

    /// Runs `skynet-relay` on its directory and returns what it prints.
    ///
    /// # Errors
    /// If it fails.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let program = self.program.display().to_string();
        let directory = self.directory.display().to_string();
        let mut argv = vec![program.as_str(), "--dir", &directory];
        argv.extend(arguments);
        self.namespace.exec_within(COMMAND_TIMEOUT, &argv, "")?.ok()
    }

    /// The join token of its network.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where agents reach it.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Its state.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts it again with the state it has; it must have been stopped or killed.
    ///
    /// # Errors
    /// If it is not ready within 15 s, or prints no token at its first start; with its log.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "the relay runs already");
        let mut command = Command::new(&self.program);
        command.args(["up", "--json", "--range", &self.range]).arg("--dir").arg(&self.directory);
        if let Some(file) = &self.invitation {
            command.arg("--invitation").arg(format!("file:{}", file.display()));
        }
        command.arg("--listen").arg(self.listen.to_string());
        command.arg("--metrics").arg(self.metrics_address().to_string());
        for address in &self.public {
            command.arg("--public-address").arg(address.to_string());
        }
        let mut process = self.namespace.spawn(command)?;
        let ready = wait::wait_for(START_TIMEOUT, "the relay", || {
            let is_running = process.is_running();
            let log = process.log();
            // One line, written at once.
            let line = log.lines().find(|line| line.contains(READY)).map(str::to_owned);
            line.ok_or(if is_running { "not yet" } else { "it has ended" })
        })
        .with_context(|| format!("the relay said:\n{}", process.log()))?;
        ensure!(process.is_running(), "the relay has ended:\n{}", process.log());
        // Shown only when the network is made.
        if self.token.is_empty() {
            self.token = find_token(&ready).with_context(|| format!("no token in {ready}"))?;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the relay does not run")?.kill()?;
        Ok(())
    }

    /// Runs `skynet-relay token create` with further arguments and returns the token.
    ///
    /// # Errors
    /// If it fails or prints no token.
    pub fn create_token(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let stdout = self.command(&[&["token", "create"], arguments].concat())?;
        find_token(&stdout).with_context(|| format!("no token in {stdout}"))
    }

    /// Where it serves its metrics, in its namespace: another port for each relay there.
    fn metrics_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 9_400 + u16::from(self.address.ip().octets()[3])).into()
    }

    /// All its metrics, as it serves them.
    ///
    /// # Errors
    /// If it does not run, or does not answer.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let address = self.metrics_address();
        self.namespace.run(move || -> anyhow::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        })?
    }

    /// What it has printed since it was started.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub(super) fn leave_running(self) {
        if let Some(process) = self.process {
            process.leave_running();
        }
    }
}

fn find_token(text: &str) -> Option<String> {
    find_word(text, "skj1.")
}

/// The first word that begins so, whatever quotes it stands in.
fn find_word(text: &str, begins: &str) -> Option<String> {
    let start = text.find(begins)?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    Some(text[start..].chars().take_while(|&c| is_part(c)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_token_in_text_and_in_json() {
        assert_eq!(find_token("join with:\n  skj1.aB_-9\n").as_deref(), Some("skj1.aB_-9"));
        assert_eq!(find_token(r#"{"token":"skj1.abc"}"#).as_deref(), Some("skj1.abc"));
        assert_eq!(find_token("nothing"), None);
    }
}
