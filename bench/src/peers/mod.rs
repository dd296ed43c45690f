//! The peers, one file each.

mod boringtun;
mod direct;
mod skynet;
mod wireguard_go;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use skynet_tests::fleet::stock::{KeyPair, PeerConfig, StockWireGuard};

use crate::link::Link;
use crate::peer::{Peer, Running};

/// All peers, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(direct::Direct),
        Box::new(skynet::Skynet),
        Box::new(wireguard_go::WireGuardGo),
        Box::new(boringtun::BoringTun),
    ]
}

/// What wg-quick gives an interface above an MTU of 1,500.
const WIREGUARD_MTU_BYTES: u16 = 1420;

/// Brings up one stock WireGuard daemon per end.
fn stock_pair(link: &Link, program: &Path, arguments: &[&str]) -> anyhow::Result<Running> {
    let (left, right) = (link.left(), link.right());
    let keys = [KeyPair::generate(&left.namespace)?, KeyPair::generate(&right.namespace)?];
    let mut running = Running { target: right.overlay, processes: Vec::new(), guards: Vec::new() };
    for (here, there, own, other) in
        [(&left, &right, &keys[0], &keys[1]), (&right, &left, &keys[1], &keys[0])]
    {
        let device = StockWireGuard::start(&here.namespace, program, arguments)?;
        device.configure(&own.private, here.socket().port(), (here.overlay, 24), WIREGUARD_MTU_BYTES)?;
        device.set_peer(&PeerConfig {
            public_key: other.public.clone(),
            endpoint: Some(there.socket()),
            allowed_ips: format!("{}/32", there.overlay),
        })?;
        running.processes.push(device.id());
        running.guards.push(Box::new(device));
    }
    Ok(running)
}

/// The first line `program arguments…` prints, or why it cannot.
fn first_line(program: &Path, arguments: &[&str]) -> String {
    let printed = || -> anyhow::Result<String> {
        let output = Command::new(program).args(arguments).output()?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok(text.lines().next().context("it prints nothing")?.trim().to_owned())
    };
    printed().unwrap_or_else(|error| format!("{}: {error}", program.display()))
}

/// Where a program is: in `PATH`, among the system's, or among what cargo has installed.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let home = std::env::var("HOME").unwrap_or_default();
    path.split(':')
        .map(PathBuf::from)
        .chain(["/usr/sbin".into(), "/usr/local/bin".into(), Path::new(&home).join(".cargo/bin")])
        .chain(std::env::var("CARGO_HOME").ok().map(|home| Path::new(&home).join("bin")))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}
