//! `skynet-agent` at both ends as a static pair, as the other tunnels are: no relay, no membership.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use skynet_tests::fleet::Binaries;
use skynet_tests::fleet::stock::KeyPair;

use super::{find_program, first_line};
use crate::link::{End, Link};
use crate::peer::{Peer, Running};

/// `skynet-agent`.
pub(crate) struct Skynet;

impl Peer for Skynet {
    fn name(&self) -> &'static str {
        "skynet"
    }

    fn describe(&self) -> String {
        let version =
            Binaries::find().map(|found| first_line(&found.agent, &["--version"])).unwrap_or_default();
        format!("{version}; ChaCha20-Poly1305")
    }

    fn missing(&self) -> Option<String> {
        if find_program("wg").is_none() {
            return Some("apt-get install wireguard-tools".to_owned());
        }
        Binaries::find().err().map(|error| error.to_string())
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let program = Binaries::find()?.agent;
        let (left, right) = (link.left(), link.right());
        let keys = [KeyPair::generate(&left.namespace)?, KeyPair::generate(&right.namespace)?];
        let mut running = Running { target: right.overlay, processes: Vec::new(), guards: Vec::new() };
        for (here, there, own, other) in
            [(&left, &right, &keys[0], &keys[1]), (&right, &left, &keys[1], &keys[0])]
        {
            let directory = link.directory().join(format!("skynet-{}", here.namespace.role()));
            let process =
                here.namespace.spawn(command(&program, directory, &config(here, there, own, other))?)?;
            running.processes.push(process.id());
            running.guards.push(Box::new(process));
        }
        Ok(running)
    }
}

fn command(program: &PathBuf, directory: PathBuf, config: &str) -> anyhow::Result<Command> {
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
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
