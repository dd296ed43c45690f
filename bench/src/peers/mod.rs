//! The peers, one file each.

mod daemon;
mod direct;
mod nebula;
mod openvpn;
pub(crate) mod package;
mod script;
mod skynet;
pub(crate) mod skynet_mesh;
mod tinc;
mod vpncloud;
mod wireguard;

pub(crate) use script::Script;

use crate::peer::Peer;

/// All peers, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    let mut all: Vec<Box<dyn Peer>> =
        vec![Box::new(direct::Direct), Box::new(direct::DirectPlain), Box::new(skynet::Skynet)];
    for variant in skynet_mesh::variants() {
        all.push(Box::new(variant));
    }
    all.extend([
        Box::new(wireguard::WireGuardGo) as Box<dyn Peer>,
        Box::new(wireguard::BoringTun),
        Box::new(nebula::Nebula),
        Box::new(vpncloud::VpnCloud),
        Box::new(tinc::Tinc),
        Box::new(openvpn::OpenVpn),
    ]);
    all
}
