//! `skynet-agent status --json`, as far as tests and the demo read it. Unknown fields are ignored, so the agent may say
//! more; a missing one is an error, so it may not say less.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

/// Where the agent is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Belongs to no network.
    NotJoined,
    /// Waits for a relay's answer.
    Joining,
    /// Has its address.
    Up,
    /// Was refused for good.
    Failed,
}

/// Which way a peer's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// From socket to socket.
    Direct,
    /// Through a relay.
    Relay,
    /// None is known yet.
    None,
}

impl PathKind {
    /// Its name in the agent's own words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::None => "none",
        }
    }
}

/// The whole answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Where the agent is on its way.
    pub state: AgentState,
    /// What it waits for or what went wrong.
    pub message: Option<String>,
    #[serde(rename = "self")]
    this: ThisNode,
    /// Its relays.
    pub relays: Vec<RelayStatus>,
    /// Segmentation offloads that are not in use, and why.
    pub offloads_off: BTreeMap<String, String>,
    /// The peers it knows.
    pub peers: Vec<PeerStatus>,
    /// Where peers are told that it can be reached.
    pub candidates: Vec<Candidate>,
    /// How its port mapping stands.
    pub port_mapping: PortMapping,
    /// Packets dropped, by cause.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// What relays said that it did not believe.
    #[serde(default)]
    pub refused: Vec<Refused>,
    /// Which documents of the network hold.
    pub documents: Option<Documents>,
}

/// Which documents of the network hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Documents {
    /// Epoch of the list of what was taken back.
    pub revocations_epoch: Option<u64>,
    /// Epoch of the policy.
    pub policy_epoch: Option<u64>,
}

/// What one relay said that was not believed, of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refused {
    /// `ip:port`.
    pub relay: String,
    /// Its label.
    pub reason: String,
    /// How often.
    pub count: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct ThisNode {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

/// An address at which peers try it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Candidate {
    /// `ip:port`.
    pub address: String,
    /// `host`, `server_reflexive`, `port_mapping`, `cloud` …
    pub kind: String,
    /// Who told it.
    pub source: String,
}

/// The port mapping on its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PortMapping {
    /// `mapped`, `not_needed`, `no_answer` …
    pub state: String,
    /// Where it maps to.
    pub external: Option<String>,
}

/// One relay.
#[derive(Debug, Clone, Deserialize)]
pub struct RelayStatus {
    /// Its address in use.
    pub address: SocketAddr,
    /// Whether the control channel is joined.
    pub control: bool,
    /// Whether packets can go through it.
    pub bound: bool,
    /// Its number.
    #[serde(default)]
    pub relay: u16,
    /// The member that it is, if it is no relay of the operator's.
    #[serde(default)]
    pub member: Option<String>,
    /// How they get there: `udp`, `tls`, `tls by proxy HOST:PORT`.
    pub transport: String,
}

/// One peer.
#[derive(Debug, Clone, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its overlay address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its X25519 public key, base64.
    pub public_key: String,
    /// Which way its packets go.
    pub path: PathKind,
    /// Where they go.
    pub via: Option<String>,
    rtt_us: Option<u64>,
    /// Largest packet to it, once that is known.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// How often its path turned out to carry less than before.
    #[serde(default)]
    pub mtu_black_holes: u32,
    /// Bytes received from it inside the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent to it inside the tunnel.
    pub tx_bytes: u64,
    /// Lanes for bulk that are open.
    pub lanes: u8,
    /// What bulk to it is sealed with, in the names of RFC 5116.
    pub cipher: Option<String>,
    /// Seconds since the last handshake.
    pub handshake_age_s: Option<u64>,
}

impl Status {
    /// The node's own overlay address, once it has one.
    pub fn overlay_address(&self) -> Option<Ipv4Addr> {
        self.this.ipv4
    }

    /// The node's own overlay IPv6 address, once it has one.
    pub fn overlay_ipv6(&self) -> Option<Ipv6Addr> {
        self.this.ipv6
    }

    /// The peer of this name.
    pub fn peer(&self, name: &str) -> Option<&PeerStatus> {
        self.peers.iter().find(|peer| peer.name == name)
    }
}

impl PeerStatus {
    /// Round trip on the path in use.
    pub fn round_trip(&self) -> Option<Duration> {
        self.rtt_us.map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_needs_and_ignores_the_rest() {
        let status: Status = serde_json::from_str(
            r#"{"schema":"status/1","version":"0.1.0","state":"up","message":null,
                "self":{"name":"a1","ipv4":"10.77.1.2","ipv4_prefix_len":16,"interface":"skynet0","port":41820},
                "relays":[{"relay":1,"address":"203.0.113.10:3478","control":true,"bound":true,"rtt_us":90,"transport":"udp"}],"offloads_off":{},
                "candidates":[{"address":"192.0.2.1:41820","kind":"host","source":"interface"}],
                "port_mapping":{"state":"not_needed","gateway":null,"protocol":null,"external":null,"retry_s":null},
                "peers":[{"name":"b1","ipv4":"10.77.9.9","ipv6":null,"public_key":"x","path":"relay","via":"relay 1",
                          "rtt_us":250,"rx_bytes":1,"tx_bytes":2,"handshake_age_s":3,"cipher":null,"lanes":1}]}"#,
        )
        .unwrap();
        assert_eq!(status.state, AgentState::Up);
        assert_eq!(status.overlay_address(), Some(Ipv4Addr::new(10, 77, 1, 2)));
        let peer = status.peer("b1").unwrap();
        assert_eq!((peer.path, peer.round_trip()), (PathKind::Relay, Some(Duration::from_micros(250))));
        assert!(status.peer("c1").is_none());
    }
}
