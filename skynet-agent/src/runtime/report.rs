//! The core's status in the words of `status/1`.

use std::net::IpAddr;
use std::time::Duration;

use skynet_core::node::{PeerStatus, Status};
use skynet_core::path::Path;
use skynet_core::time::Instant;

use crate::api::{PeerReport, RelayReport, SelfReport};

pub(super) fn this_node(status: &Status, report: &mut SelfReport) {
    report.public_key = Some(status.public_key.to_string());
    if let Some((name, id)) = &status.network {
        report.network = Some(name.clone());
        report.network_id = Some(id.clone());
    }
    if let Some(addresses) = &status.addresses {
        report.name = Some(addresses.name.clone());
        report.ipv4 = Some(addresses.ipv4.to_string());
        report.ipv4_prefix_len = Some(addresses.ipv4_prefix_len);
        report.ipv6 = Some(addresses.ipv6.to_string());
    }
}

pub(super) fn relays(status: &Status) -> Vec<RelayReport> {
    let relay = status.relay.as_ref().map(|r| RelayReport {
        relay: r.relay_no,
        address: r.address.to_string(),
        control: status.control_connected,
        bound: r.up,
        rtt_us: r.rtt.map(micros),
        observed: r.observed.map(|a| a.to_string()),
    });
    relay.into_iter().collect()
}

pub(super) fn peer(peer: &PeerStatus, now: Instant) -> PeerReport {
    let first = |v4: bool| peer.addresses.iter().find(|a| a.is_ipv4() == v4).map(IpAddr::to_string);
    let (path, via) = match &peer.path {
        None => ("none", None),
        Some(Path::Direct { remote }) => ("direct", Some(remote.to_string())),
        Some(Path::Relayed { relay, .. }) => ("relay", Some(format!("relay {relay}"))),
    };
    PeerReport {
        name: peer.name.clone(),
        ipv4: first(true),
        ipv6: first(false),
        public_key: peer.public_key.to_string(),
        online: peer.online,
        path: path.to_owned(),
        via,
        rtt_us: peer.rtt.map(micros),
        rx_bytes: peer.traffic.rx_bytes,
        tx_bytes: peer.traffic.tx_bytes,
        handshake_age_s: peer.last_handshake.map(|at| now.saturating_since(at).as_secs()),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
