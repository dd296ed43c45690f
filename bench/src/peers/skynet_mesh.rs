//! A whole skynet on the link: a relay and an agent on the left, an agent on the right, joined with a token. This, and
//! not the static pair, is what has lanes and their ciphers. The relay's processor time counts as the tunnel's.

use std::time::Duration;

use anyhow::ensure;
use skynet_tests::fleet::{Binaries, Extra, Fleet, PathKind, Relay};

use super::skynet;
use crate::link::Link;
use crate::peer::{Peer, Running};

/// Two agents that know each other by their relay.
#[derive(Debug, Clone)]
pub(crate) struct SkynetMesh {
    name: String,
    what: &'static str,
    extra: Extra,
}

/// Ample for two agents on one machine.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
const PATH_TIMEOUT: Duration = Duration::from_secs(20);

/// All variants: name, what it is, arguments and environment of both agents. A flag the agent does not know makes the
/// variant missing, with a line that says so.
pub(super) fn variants() -> Vec<SkynetMesh> {
    let chacha = ["--cipher", "chacha20-poly1305"];
    vec![
        SkynetMesh::new("skynet-mesh", "the cipher both agents prefer", &[], &[]),
        SkynetMesh::new("skynet-mesh-chacha", "ChaCha20-Poly1305 on all lanes", &chacha, &[]),
        SkynetMesh::new("skynet-mesh-1t", "one thread for both directions of a lane", &[THREADS, "1"], &[]),
        SkynetMesh::new("skynet-mesh-2t", "a thread for each direction of a lane", &[THREADS, "2"], &[]),
    ]
}

impl SkynetMesh {
    fn new(name: &str, what: &'static str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let extra = Extra {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..Extra::default()
        };
        Self { name: name.to_owned(), what, extra }
    }

    /// With at most `lanes` lanes.
    pub(crate) fn with_lanes(lanes: u32) -> Self {
        let lanes = lanes.to_string();
        Self::new(&format!("{lanes} lanes"), "lanes", &[MAX_LANES, &lanes], &[])
    }

    /// Starts relay and agents and waits until they speak directly. State of an earlier turn is forgotten.
    pub(crate) fn start(&self, link: &Link) -> anyhow::Result<Fleet> {
        let binaries = Binaries::find()?;
        let (left, right) = (link.left(), link.right());
        let hosts = [left.namespace.role(), right.namespace.role()];
        for directory in
            hosts.map(|host| format!("agent-{host}")).iter().chain([&format!("relay-{}", left.underlay)])
        {
            let _ = std::fs::remove_dir_all(link.directory().join(directory));
        }
        let relay = Relay::start_on(link.lab(), &binaries, &left.namespace, left.underlay)?;
        let fleet = Fleet::joined_to(link.lab(), relay, &hosts, &self.extra, JOIN_TIMEOUT)?;
        fleet.wait_path(hosts[0], hosts[1], PathKind::Direct, PATH_TIMEOUT)?;
        Ok(fleet)
    }
}

/// The agent's flag that limits lanes.
pub(crate) const MAX_LANES: &str = "--max-lanes";

/// The agent's flag that says how many threads a worker has.
const THREADS: &str = "--worker-threads";

/// Whether `skynet-agent run` knows a flag, by its help.
pub(crate) fn agent_knows(flag: &str) -> anyhow::Result<bool> {
    let agent = Binaries::find()?.agent;
    let output = std::process::Command::new(agent).args(["run", "--help"]).output()?;
    ensure!(output.status.success(), "skynet-agent run --help: {}", output.status);
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| word == flag))
}

impl Peer for SkynetMesh {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        format!("{}; {}, joined through a relay on the left end", skynet::version(), self.what)
    }

    fn missing(&self) -> Option<String> {
        let flags = self.extra.arguments.iter().filter(|argument| argument.starts_with("--"));
        for flag in flags {
            match agent_knows(flag) {
                Ok(true) => {}
                Ok(false) => return Some(format!("a skynet-agent that knows {flag}")),
                Err(error) => return Some(error.to_string()),
            }
        }
        Binaries::find().err().map(|error| error.to_string())
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let fleet = self.start(link)?;
        let mut running = Running::at(fleet.agent(link.right().namespace.role()).overlay_address()?);
        running.guard(fleet);
        Ok(running)
    }
}
