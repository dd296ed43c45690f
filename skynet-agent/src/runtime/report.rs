//! The core's status in the words of `status/1`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skynet_core::carrier::Way;
use skynet_core::forwarding::Framing;
use skynet_core::node::{Documents, LaneStatus, PeerStatus, Refused, RelayStatus, SplitView, Status};
use skynet_core::offload::Offloads;
use skynet_core::path::Path;
use skynet_core::time::Instant;

use super::agent::Agent;
use super::data_plane::DataPlane;
use super::networks::Others;
use super::offload_faults::{self, Fate};
use super::to_tun::WriteState;
use crate::api::{
    DocumentsReport, LaneReport, PeerReport, RefusedReport, RelayReport, RelayingReport, SelfReport,
    SplitReport, StatusReport,
};
use crate::clock;
use crate::config::{Offload, TlsWays};
use crate::tun::TunWrite;
use crate::udp::UdpFigures;

impl Agent {
    /// The answer to `status`.
    pub(super) fn status(&self) -> StatusReport {
        let offloads = self.offloads();
        let mut report = StatusReport {
            schema: "status/1".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.phase,
            message: self.message.clone(),
            this: SelfReport {
                interface: self.config.interface.clone(),
                port: self.socket.port().unwrap_or(self.config.port),
                local_addresses: self.local_addresses.iter().map(SocketAddr::to_string).collect(),
                ..SelfReport::default()
            },
            relays: Vec::new(),
            relaying: None,
            peers: Vec::new(),
            candidates: Vec::new(),
            port_mapping: self.reach.mapping_report(clock::monotonic()),
            offloads_off: offloads.iter().filter_map(Fate::off).collect(),
            offload_fallbacks: offloads.iter().filter_map(Fate::fallbacks).collect(),
            drops: [("UdpSend".to_owned(), self.udp().dropped)].into(),
            refused: Vec::new(),
            documents: None,
            network: self.config.network.as_ref().map(ToString::to_string),
            further_networks: self.others.as_ref().map(Others::running).unwrap_or_default(),
            names: self.names_report(),
        };
        if let Some(engine) = &self.engine {
            let status = engine.node.status();
            let now = clock::monotonic();
            this_node(&status, &mut report.this);
            report.relays = relays(&status, &self.config.tls, self.carrier.trouble.as_deref());
            report.relaying = status.relaying.map(|r| RelayingReport {
                sessions: r.sessions,
                forwarded_datagrams: r.forwarded,
                forwarded_bytes: r.bytes,
                dropped_datagrams: r.dropped,
            });
            report.refused = status.refused.iter().map(|r| refused(r, now)).collect();
            report.documents = status.documents.as_ref().map(|held| documents(held, &status.splits));
            report.candidates = self.reach.report(&status.candidates);
            report.peers = status.peers.iter().map(|p| peer(p, &engine.plane, now)).collect();
            offload_faults::add_paths(&status.peers, &mut report);
            report.drops.insert("TunWrite".to_owned(), engine.plane.written().drops());
            let counted = engine.node.drops().snapshot();
            report.drops.extend(counted.into_iter().map(|(reason, count)| (format!("{reason:?}"), count)));
        }
        report.drops.retain(|_, count| *count > 0);
        self.fill_plain_addresses(&mut report.this);
        report
    }

    /// How the sockets of all ports fare; port 0's alone before the workers run.
    fn udp(&self) -> UdpFigures {
        match &self.engine {
            Some(engine) => engine.plane.udp(),
            None => UdpFigures::of(&self.socket),
        }
    }

    /// How the offloads fare, asked of whoever uses them.
    fn offloads(&self) -> [Fate; Offload::ALL.len()] {
        let udp = self.udp();
        let tun = self.interface.as_ref().is_none_or(|i| i.tun.has_offload());
        let takes = self.interface.as_ref().map_or(Offloads::ALL, |i| i.tun.takes());
        let written = self.engine.as_ref().map(|e| e.plane.written());
        let joins = |f: fn(&WriteState) -> bool| written.is_none_or(f);
        let refused = |f: fn(&WriteState) -> u64| written.map_or(0, f);
        Offload::ALL.map(|offload| {
            let (works, refusals, needs) = match offload {
                Offload::Tun => (tun, 0, None),
                Offload::UdpGso => (udp.offloads.gso, udp.refused_trains, None),
                Offload::UdpGro => (udp.offloads.gro, 0, None),
                Offload::CoalesceTcp => {
                    let works = takes.tcp4 && joins(WriteState::coalesces_tcp);
                    (works, refused(WriteState::refused_tcp), (!tun).then_some(Offload::Tun))
                }
                Offload::CoalesceUdp => {
                    let works = takes.udp4 && joins(WriteState::coalesces_udp);
                    (works, refused(WriteState::refused_udp), (!tun).then_some(Offload::Tun))
                }
                Offload::Chunks => (true, 0, (!tun).then_some(Offload::Tun)),
            };
            let switched_off = !self.config.disabled_offloads.allows(offload);
            let failed_check = self.offload_faults.has(offload);
            Fate { offload, switched_off, failed_check, refusals, works, needs }
        })
    }

    /// A plain WireGuard node is told by its own configuration.
    fn fill_plain_addresses(&self, this: &mut SelfReport) {
        let Some(node) =
            self.config.wireguard.as_ref().filter(|_| this.ipv4.is_none() && this.ipv6.is_none())
        else {
            return;
        };
        for (ip, len) in &node.addresses {
            if ip.is_ipv4() && this.ipv4.is_none() {
                this.ipv4 = Some(ip.to_string());
                this.ipv4_prefix_len = Some(*len);
            } else if ip.is_ipv6() && this.ipv6.is_none() {
                this.ipv6 = Some(ip.to_string());
            }
        }
    }
}

fn this_node(status: &Status, report: &mut SelfReport) {
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

const NO_UDP: &str = "no UDP comes back from it";

fn relays(status: &Status, tls: &TlsWays, trouble: Option<&str>) -> Vec<RelayReport> {
    let relay = |r: &RelayStatus| RelayReport {
        relay: r.relay_no,
        member: r.member.clone(),
        address: r.address.to_string(),
        control: status.control_relay == Some(r.relay_no),
        bound: r.up,
        home: r.home,
        draining: r.draining,
        rtt_us: r.rtt.map(micros),
        observed: r.observed.map(|a| a.to_string()),
        transport: match r.stream {
            None | Some(Way::Tcp) => "udp".to_owned(),
            Some(Way::Tls) => "tls".to_owned(),
            Some(Way::Proxy) => format!("tls by proxy {}", tls.proxy_name().unwrap_or_default()),
        },
        transport_reason: match (r.up, r.stream, trouble.filter(|_| r.home)) {
            (true, None, _) => None,
            (true, Some(_), _) => Some(NO_UDP.to_owned()),
            (false, _, Some(trouble)) => Some(format!("{NO_UDP}, and not by TLS: {trouble}")),
            (false, ..) => Some(NO_UDP.to_owned()),
        },
    };
    status.relays.iter().map(relay).collect()
}

fn documents(documents: &Documents, splits: &[SplitView]) -> DocumentsReport {
    let split = |split: &SplitView| SplitReport {
        peer: split.peer.clone(),
        document: split.kind.to_string(),
        epoch: split.epoch,
        proven: split.is_proven,
    };
    DocumentsReport {
        manifest_epoch: documents.manifest_epoch,
        revocations_epoch: documents.revocations_epoch,
        policy_epoch: documents.policy_epoch,
        good_until: documents.good_until.map(|until| until.0),
        stale: documents.is_stale,
        revoked: documents.is_revoked,
        split_views: splits.iter().map(split).collect(),
    }
}

fn refused(refused: &Refused, now: Instant) -> RefusedReport {
    RefusedReport {
        relay: refused.relay.to_string(),
        reason: refused.reason.as_str().to_owned(),
        words: refused.reason.words().to_owned(),
        lie: refused.reason.is_lie(),
        count: refused.count,
        age_s: now.saturating_since(refused.last).as_secs(),
    }
}

fn peer(peer: &PeerStatus, plane: &DataPlane, now: Instant) -> PeerReport {
    let first = |v4: bool| peer.addresses.iter().find(|a| a.is_ipv4() == v4).map(IpAddr::to_string);
    let path = match &peer.path {
        None => "none",
        Some(Path::Direct { .. }) => "direct",
        Some(Path::Relayed { .. }) => "relay",
    };
    PeerReport {
        name: peer.name.clone(),
        ipv4: first(true),
        ipv6: first(false),
        public_key: peer.public_key.to_string(),
        online: peer.online,
        path: path.to_owned(),
        via: match &peer.relayed_by {
            Some(member) => Some(format!("relay {member}")),
            None => peer.path.as_ref().map(via),
        },
        rtt_us: peer.rtt.map(micros),
        mtu: peer.mtu,
        mtu_black_holes: peer.black_holes,
        rx_bytes: peer.traffic.rx_bytes,
        tx_bytes: peer.traffic.tx_bytes,
        handshake_age_s: peer.last_handshake.map(|at| now.saturating_since(at).as_secs()),
        cipher: peer.cipher.map(|c| c.name().to_owned()),
        lanes: peer.lanes,
        lane_list: peer.lane_list.iter().map(|l| lane(l, peer.relayed_by.as_deref(), plane)).collect(),
    }
}

fn lane(lane: &LaneStatus, relayed_by: Option<&str>, plane: &DataPlane) -> LaneReport {
    LaneReport {
        lane: lane.lane.0,
        usable: lane.usable,
        cipher: lane.cipher.map(|c| c.name().to_owned()),
        framing: match lane.framing {
            Framing::Plain => "plain",
            Framing::Fragments => "fragments",
            Framing::Chunks => "chunks",
        }
        .to_owned(),
        port: plane.socket(lane.lane.port()).and_then(|s| s.port().ok()),
        via: match (&lane.path, relayed_by) {
            (Some(Path::Relayed { .. }), Some(member)) => Some(format!("relay {member}")),
            (path, _) => path.as_ref().map(via),
        },
        rtt_us: lane.rtt.map(micros),
        tx: lane.tx,
        rx: lane.rx,
    }
}

fn via(path: &Path) -> String {
    match path {
        Path::Direct { remote } => remote.to_string(),
        Path::Relayed { relay, .. } => format!("relay {relay}"),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
