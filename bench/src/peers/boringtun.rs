//! The Rust implementation of WireGuard as a daemon, from the Rust registry.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::{find_program, first_line, stock_pair};
use crate::link::Link;
use crate::peer::{Peer, Running};

/// `boringtun-cli`.
pub(crate) struct BoringTun;

fn program() -> Option<PathBuf> {
    find_program("boringtun-cli")
}

impl Peer for BoringTun {
    fn name(&self) -> &'static str {
        "boringtun"
    }

    fn describe(&self) -> String {
        let version = program().map(|program| first_line(&program, &["--version"])).unwrap_or_default();
        format!("{version}; ChaCha20-Poly1305")
    }

    fn missing(&self) -> Option<String> {
        if find_program("wg").is_none() {
            return Some("apt-get install wireguard-tools".to_owned());
        }
        program().is_none().then(|| "cargo install --locked boringtun-cli (or pass --install)".to_owned())
    }

    fn install(&self) -> anyhow::Result<()> {
        let status =
            Command::new("cargo").args(["install", "--locked", "boringtun-cli"]).status().context("cargo")?;
        ensure!(status.success(), "cargo install boringtun-cli: {status}");
        Ok(())
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        let program = program().context("boringtun-cli is not installed")?;
        stock_pair(link, &program, &["--disable-drop-privileges"])
    }
}
