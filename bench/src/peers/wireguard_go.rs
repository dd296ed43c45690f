//! The Go implementation, as Debian packages it.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{find_program, first_line, stock_pair};
use crate::link::Link;
use crate::peer::{Peer, Running};

/// `wireguard-go`.
pub(crate) struct WireGuardGo;

fn program() -> Option<PathBuf> {
    find_program("wireguard-go")
}

impl Peer for WireGuardGo {
    fn name(&self) -> &'static str {
        "wireguard-go"
    }

    fn describe(&self) -> String {
        let version = program().map(|program| first_line(&program, &["--version"])).unwrap_or_default();
        format!("{version}; ChaCha20-Poly1305")
    }

    fn missing(&self) -> Option<String> {
        let wanted = [("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools")];
        let missing: Vec<_> = wanted.iter().filter(|(name, _)| find_program(name).is_none()).collect();
        let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        (!missing.is_empty()).then(|| format!("apt-get install {}", packages.join(" ")))
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        stock_pair(link, &program().context("wireguard-go is not installed")?, &[])
    }
}
