//! `skynet-agent` at both ends as a static pair, as the other tunnels are: no relay, no membership.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use skynet_tests::fleet::Binaries;
use skynet_tests::fleet::stock::KeyPair;

use super::package;
use crate::link::{End, Link};
use crate::peer::{Peer, Running};

/// `skynet-agent`.
pub(super) struct Skynet;

/// `wg` makes the keys.
const TOOLS: [(&str, &str); 1] = [("wg", "wireguard-tools")];

impl Peer for Skynet {
    fn name(&self) -> &str {
        "skynet"
    }

    fn describe(&self) -> String {
        format!("{}; ChaCha20-Poly1305, static pair, lane 0", version())
    }

    fn missing(&self) -> Option<String> {
        package::need(&TOOLS).or_else(|| Binaries::find().err().map(|error| error.to_string()))
    }

    fn install(&self) -> anyhow::Result<()> {
        package::install(&TOOLS)
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let program = Binaries::find()?.agent;
        let (left, right) = (link.left(), link.right());
        let keys = [KeyPair::generate(&left.namespace)?, KeyPair::generate(&right.namespace)?];
        let mut running = Running::at(right.overlay);
        for (here, there, own, other) in
            [(&left, &right, &keys[0], &keys[1]), (&right, &left, &keys[1], &keys[0])]
        {
            let directory = here.directory(link, "skynet")?;
            let command = command(&program, &directory, &config(here, there, own, other))?;
            running.process(here.namespace.spawn(command)?);
        }
        Ok(running)
    }
}

/// What the agent calls itself.
pub(super) fn version() -> String {
    let agent = Binaries::find().map(|found| found.agent.display().to_string());
    agent.map(|agent| package::first_line(&agent, &["--version"])).unwrap_or_default()
}

fn command(program: &PathBuf, directory: &Path, config: &str) -> anyhow::Result<Command> {
    let file = directory.join("agent.toml");
    std::fs::write(&file, config).with_context(|| file.display().to_string())?;
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(file);
    command.arg("--state-dir").arg(directory.join("state"));
    command.arg("--socket").arg(directory.join("agent.sock"));
    Ok(command)
}

fn config(here: &End, there: &End, own: &KeyPair, other: &KeyPair) -> String {
    format!(
        r#"[interface]
name = "skynet0"
listen_port = {port}
private_key = "{private}"
address = "{address}/24"

[[peer]]
public_key = "{public}"
endpoint = "{endpoint}"
allowed_ips = ["{allowed}/32"]
"#,
        port = here.socket().port(),
        private = own.private,
        address = here.overlay,
        public = other.public,
        endpoint = there.socket(),
        allowed = there.overlay,
    )
}
