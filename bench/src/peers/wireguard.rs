//! User-space WireGuard as others have built it: in Go, as Debian packages it, and in Rust, from the Rust registry.

use std::path::Path;

use skynet_tests::fleet::stock::{KeyPair, PeerConfig, StockWireGuard};

use super::package;
use crate::link::Link;
use crate::peer::{Peer, Running};

/// What wg-quick gives an interface above an MTU of 1,500.
const MTU_BYTES: u16 = 1420;
const TOOLS: (&str, &str) = ("wg", "wireguard-tools");

/// `wireguard-go`.
pub(super) struct WireGuardGo;

/// `boringtun-cli`.
pub(super) struct BoringTun;

impl Peer for WireGuardGo {
    fn name(&self) -> &str {
        "wireguard-go"
    }

    fn describe(&self) -> String {
        let version = package::first_line("wireguard-go", &["--version"]);
        format!("{version}; ChaCha20-Poly1305, MTU {MTU_BYTES}")
    }

    fn missing(&self) -> Option<String> {
        package::need(&[("wireguard-go", "wireguard-go"), TOOLS])
    }

    fn install(&self) -> anyhow::Result<()> {
        package::install(&[("wireguard-go", "wireguard-go"), TOOLS])
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        pair(link, "wireguard-go", &[])
    }
}

impl Peer for BoringTun {
    fn name(&self) -> &str {
        "boringtun"
    }

    fn describe(&self) -> String {
        let version = package::first_line("boringtun-cli", &["--version"]);
        format!("{version}; ChaCha20-Poly1305, MTU {MTU_BYTES}")
    }

    fn missing(&self) -> Option<String> {
        package::need(&[TOOLS]).or_else(|| package::need_crate("boringtun-cli", "boringtun-cli"))
    }

    fn install(&self) -> anyhow::Result<()> {
        package::install(&[TOOLS])?;
        package::install_crate("boringtun-cli", "boringtun-cli")
    }

    fn up(&self, link: &Link) -> anyhow::Result<Running> {
        pair(link, "boringtun-cli", &["--disable-drop-privileges"])
    }
}

/// One stock WireGuard daemon per end.
fn pair(link: &Link, program: &str, arguments: &[&str]) -> anyhow::Result<Running> {
    let program = package::path(program)?;
    let (left, right) = (link.left(), link.right());
    let keys = [KeyPair::generate(&left.namespace)?, KeyPair::generate(&right.namespace)?];
    let mut running = Running::at(right.overlay);
    for (here, there, own, other) in
        [(&left, &right, &keys[0], &keys[1]), (&right, &left, &keys[1], &keys[0])]
    {
        let device = StockWireGuard::start(&here.namespace, Path::new(&program), arguments)?;
        device.configure(&own.private, here.socket().port(), (here.overlay, 24), MTU_BYTES)?;
        device.set_peer(&PeerConfig {
            public_key: other.public.clone(),
            endpoint: Some(there.socket()),
            allowed_ips: format!("{}/32", there.overlay),
        })?;
        running.guard(device);
    }
    Ok(running)
}
