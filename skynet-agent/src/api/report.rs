//! What the agent tells about itself: `status/1`. Field names carry their unit; stable within version 1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the agent is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Runs, but belongs to no network and has no token.
    NotJoined,
    /// Has a token or credentials and waits for a relay's answer.
    Joining,
    /// Has its address; packets flow.
    Up,
    /// Was refused for good; `message` says why.
    Failed,
}

/// The answer to `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// Always `status/1`.
    pub schema: String,
    /// The agent's version.
    pub version: String,
    /// Where it is on its way.
    pub state: AgentState,
    /// One sentence about what it waits for or what went wrong.
    pub message: Option<String>,
    /// This node.
    #[serde(rename = "self")]
    pub this: SelfReport,
    /// Its relays.
    pub relays: Vec<RelayReport>,
    /// What it relays for members, if it does.
    #[serde(default)]
    pub relaying: Option<RelayingReport>,
    /// The peers it knows, by name.
    pub peers: Vec<PeerReport>,
    /// Where peers are told that this node can be reached, the best first.
    #[serde(default)]
    pub candidates: Vec<CandidateReport>,
    /// How the port mapping on the gateway stands.
    #[serde(default)]
    pub port_mapping: PortMappingReport,
    /// Segmentation offloads that are not in use, and why; empty if all are.
    #[serde(default)]
    pub offloads_off: BTreeMap<String, String>,
    /// How often each offload did not work since the start and packets went without it; those that always worked are
    /// left out.
    #[serde(default)]
    pub offload_fallbacks: BTreeMap<String, u64>,
    /// Packets dropped since the start, by cause; causes that did not occur are left out.
    pub drops: BTreeMap<String, u64>,
    /// What relays said that this node did not believe, by relay and reason; empty is the rule.
    #[serde(default)]
    pub refused: Vec<RefusedReport>,
    /// Which documents of the network hold here, once joined.
    #[serde(default)]
    pub documents: Option<DocumentsReport>,
    /// What the network is called on this machine, unless it is the first.
    #[serde(default)]
    pub network: Option<String>,
    /// The further networks that the same agent runs; told by the first.
    #[serde(default)]
    pub further_networks: Vec<String>,
    /// Where programs of this machine find the names of members, once joined; `null`: nowhere.
    #[serde(default)]
    pub names: Option<NamesReport>,
}

/// Names of members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamesReport {
    /// What follows a member's name: `NETWORK.internal`.
    pub domain: String,
    /// The hosts file with a block of them.
    pub hosts_file: Option<String>,
    /// The agent's own resolver, if it is on.
    pub dns: Option<DnsReport>,
}

/// The agent's own resolver, since it began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DnsReport {
    /// Addresses it answers at, `ip:port`, by UDP and TCP.
    pub listening: Vec<String>,
    /// Addresses it would answer at, and why it does not; it goes on trying.
    pub failed: BTreeMap<String, String>,
    /// Queries answered,
    pub answered: u64,
    /// and queries without an answer: of other machines, none at all, or on a connection too many.
    pub dropped: u64,
    /// `asks here`, or why systemd-resolved does not; `null` where it does not run.
    pub systemd_resolved: Option<String>,
}

/// What holds for the whole network, as far as this node was told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DocumentsReport {
    /// Epoch of the manifest.
    pub manifest_epoch: u64,
    /// Epoch of the list of what was taken back; absent if nothing ever was.
    pub revocations_epoch: Option<u64>,
    /// Epoch of the policy; absent if there never was one.
    pub policy_epoch: Option<u64>,
    /// Until when a registrar's last word on what is in force is good, Unix seconds.
    pub good_until: Option<u64>,
    /// Whether that is past.
    pub stale: bool,
    /// Whether this machine was taken back itself.
    pub revoked: bool,
    /// Documents of which a member holds another, of the same epoch; empty is the rule.
    #[serde(default)]
    pub split_views: Vec<SplitReport>,
}

/// A document of which a member holds another, of the same epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SplitReport {
    /// The member.
    pub peer: String,
    /// `manifest`, `list of revocations`, `policy`.
    pub document: String,
    /// Its epoch.
    pub epoch: u64,
    /// Whether the other was shown, and is signed by who may sign it.
    pub proven: bool,
}

/// What one relay said that was not believed, of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedReport {
    /// Its address.
    pub relay: String,
    /// `forged`, `older_member`, `taken`, `false_manifest` …: docs/THREATS.md lists them.
    pub reason: String,
    /// The same in words, after "it showed".
    pub words: String,
    /// No honest relay does this.
    pub lie: bool,
    /// How often since the start.
    pub count: u64,
    /// Seconds since the last time.
    pub age_s: u64,
}

/// This node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SelfReport {
    /// Its name in the network.
    pub name: Option<String>,
    /// The network's name.
    pub network: Option<String>,
    /// The network's id, hexadecimal.
    pub network_id: Option<String>,
    /// Its overlay address.
    pub ipv4: Option<String>,
    /// Length of the overlay's IPv4 prefix.
    pub ipv4_prefix_len: Option<u8>,
    /// Its overlay IPv6 address.
    pub ipv6: Option<String>,
    /// Its X25519 public key in base64.
    pub public_key: Option<String>,
    /// The TUN device.
    pub interface: String,
    /// The UDP port.
    pub port: u16,
    /// Host candidates told to peers.
    pub local_addresses: Vec<String>,
}

/// An address at which peers are told to try this node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CandidateReport {
    /// `ip:port`.
    pub address: String,
    /// `host`, `global_ipv6`, `server_reflexive`, `port_mapping`, `configured` or `cloud`.
    pub kind: String,
    /// Who told it: `interface`, `relay`, `PCP at 192.168.1.1`, `configuration`, `EC2 metadata` …
    pub source: String,
}

/// The port mapping on the gateway.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PortMappingReport {
    /// `off`, `not_needed` (no NAT is seen, or no gateway), `asking`, `mapped`, `no_answer`, `refused`, `implausible`
    /// or `double_nat`.
    pub state: String,
    /// The router of the IPv4 default route.
    pub gateway: Option<String>,
    /// `PCP`, `NAT-PMP` or `UPnP IGD`.
    pub protocol: Option<String>,
    /// Where it maps to, or the private address that shows a double NAT.
    pub external: Option<String>,
    /// Seconds until it is asked again.
    pub retry_s: Option<u64>,
}

/// What this node does for members as a relay, since it began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelayingReport {
    /// Members with a session.
    pub sessions: u64,
    /// Datagrams sent on,
    pub forwarded_datagrams: u64,
    /// and their bytes, relay headers included.
    pub forwarded_bytes: u64,
    /// Datagrams that went no further.
    pub dropped_datagrams: u64,
}

/// One relay.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RelayReport {
    /// Its number in the network.
    pub relay: u16,
    /// The member that it is; `null`: a relay of the operator's.
    #[serde(default)]
    pub member: Option<String>,
    /// Its address in use.
    pub address: String,
    /// The control channel is joined.
    pub control: bool,
    /// Packets can go through it.
    pub bound: bool,
    /// It is the nearest; the others are spare, or there for a peer's sake.
    #[serde(default)]
    pub home: bool,
    /// It has said that it is going away.
    #[serde(default)]
    pub draining: bool,
    /// Round-trip time, microseconds.
    pub rtt_us: Option<u64>,
    /// Our address as it sees it.
    pub observed: Option<String>,
    /// How packets get there: `udp`, `tls` (port 443) or `tls by proxy HOST:PORT`.
    #[serde(default)]
    pub transport: String,
    /// Why not by UDP, and why not at all.
    #[serde(default)]
    pub transport_reason: Option<String>,
}

/// What `netcheck` asks of a running agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelaysReport {
    /// Addresses of relays, the one in use first.
    pub relays: Vec<String>,
    /// The agent's UDP port.
    pub port: u16,
    /// Seconds this machine's clock is ahead of the relay's.
    pub clock_ahead_s: Option<i32>,
    /// The agent is a member.
    pub joined: bool,
    /// What it waits for or what went wrong.
    pub message: Option<String>,
}

/// One peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name; the public key's beginning for a stock peer.
    pub name: String,
    /// Its overlay IPv4 address.
    pub ipv4: Option<String>,
    /// Its overlay IPv6 address.
    pub ipv6: Option<String>,
    /// Its X25519 public key in base64.
    pub public_key: String,
    /// Whether the relay says it is there; `null` for a stock peer.
    pub online: Option<bool>,
    /// `direct`, `relay` or `none`.
    pub path: String,
    /// Where its packets go: `ip:port`, or `relay N` or `relay NAME` if a member relays.
    pub via: Option<String>,
    /// Round-trip time on the path in use, microseconds.
    pub rtt_us: Option<u64>,
    /// Largest packet to it that the overlay carries on that path, bytes; `null` while that is being found.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// How often that path turned out to carry less than it had.
    #[serde(default)]
    pub mtu_black_holes: u32,
    /// Bytes received from it inside the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent to it inside the tunnel.
    pub tx_bytes: u64,
    /// Seconds since the last completed handshake.
    pub handshake_age_s: Option<u64>,
    /// Cipher of bulk data to it: `ChaCha20-Poly1305` or `AES-256-GCM`; `null` without a session.
    #[serde(default)]
    pub cipher: Option<String>,
    /// Lanes for bulk that are open; 0: everything goes on the WireGuard session itself.
    #[serde(default)]
    pub lanes: u8,
    /// Those lanes, and the ones that are being opened.
    #[serde(default)]
    pub lane_list: Vec<LaneReport>,
}

/// One lane to a peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LaneReport {
    /// Its number, from 1.
    pub lane: u8,
    /// Whether it carries data now.
    pub usable: bool,
    /// Its cipher, once it is open.
    pub cipher: Option<String>,
    /// `chunks`, `fragments` or `plain`: whether super-packets cross it as one unit, or only packets that are too large
    /// for the path, or none.
    #[serde(default)]
    pub framing: String,
    /// Our UDP port.
    pub port: Option<u16>,
    /// Where its packets go: `ip:port` or `relay N`; `null` while it has no way.
    pub via: Option<String>,
    /// Round-trip time, microseconds.
    pub rtt_us: Option<u64>,
    /// Messages sent to the peer by this port, modulo 2^32,
    pub tx: u32,
    /// and received from it.
    pub rx: u32,
}

impl StatusReport {
    /// The peer meant by `word`: its name, one of its addresses, or its public key.
    pub fn find(&self, word: &str) -> Option<&PeerReport> {
        self.peers.iter().find(|p| {
            p.name == word
                || p.ipv4.as_deref() == Some(word)
                || p.ipv6.as_deref() == Some(word)
                || p.public_key == word
        })
    }
}
