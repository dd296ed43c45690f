//! What a person wants to see of a node.

use core::net::{IpAddr, SocketAddr};

use crate::carrier::Way;
use crate::forwarding::{Framing, UNKNOWN_MTU};
use crate::id::{LaneNo, PortNo};
use crate::key::PublicKey;
use crate::node::event::Addresses;
use crate::node::peers::{Kind, Peer};
use crate::node::refused::Refused;
use crate::node::relay_set::Relay;
use crate::node::{Documents, Node, SplitView};
use crate::path::{Candidate, HistoryEntry, Path};
use crate::relay::RelayClient;
use crate::session::{Suite, Traffic};
use crate::time::{Duration, Instant};

/// A snapshot for people and scripts.
#[derive(Clone, Debug)]
pub struct Status {
    /// Our static key.
    pub public_key: PublicKey,
    /// Our place in the overlay, once joined.
    pub addresses: Option<Addresses>,
    /// The network's name and id.
    pub network: Option<(String, String)>,
    /// Whether the control channel is open and joined.
    pub control_connected: bool,
    /// The relay with our control channel, once joined there.
    pub control_relay: Option<u16>,
    /// Relays with a session, or one that is tried; home first.
    pub relays: Vec<RelayStatus>,
    /// Where peers are told that port 0 can be reached, best first.
    pub candidates: Vec<Candidate>,
    /// All known members and configured peers, by name.
    pub peers: Vec<PeerStatus>,
    /// What relays said that was not believed, by relay and reason.
    pub refused: Vec<Refused>,
    /// What this node relays for members, if it does.
    pub relaying: Option<RelayingStatus>,
    /// Which documents of the network hold here, once joined.
    pub documents: Option<Documents>,
    /// Documents of which a peer holds another, of the same epoch.
    pub splits: Vec<SplitView>,
}

/// What this node does for members as a relay, since it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayingStatus {
    /// Members with a session.
    pub sessions: u64,
    /// Frames sent on.
    pub forwarded: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Frames that went no further.
    pub dropped: u64,
}

/// Our relay.
#[derive(Clone, Debug)]
pub struct RelayStatus {
    /// Its number.
    pub relay_no: u16,
    /// The member that it is, if it is none of the manifest's.
    pub member: Option<String>,
    /// Its address.
    pub address: SocketAddr,
    /// Whether our session is open.
    pub up: bool,
    /// Round trip.
    pub rtt: Option<Duration>,
    /// Our address as it sees it, by UDP.
    pub observed: Option<SocketAddr>,
    /// By which way frames go if not by UDP, because no UDP comes back.
    pub stream: Option<Way>,
    /// The one whose word counts, and the first for peers that tell none.
    pub home: bool,
    /// Whether it has said that it is going away.
    pub draining: bool,
}

/// One lane to a peer.
#[derive(Clone, Debug)]
pub struct LaneStatus {
    /// Which.
    pub lane: LaneNo,
    /// Its cipher, once it is agreed and open.
    pub cipher: Option<Suite>,
    /// Where its data goes; `None` while it has no way, or none of its own.
    pub path: Option<Path>,
    /// Round trip on that path.
    pub rtt: Option<Duration>,
    /// Messages sent by its port to the peer, lane 0's among lane 1's, modulo 2^32,
    pub tx: u32,
    /// and received.
    pub rx: u32,
    /// Whether it carries data now.
    pub usable: bool,
    /// How packets become messages on it.
    pub framing: Framing,
}

/// One peer or known member.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its inner addresses.
    pub addresses: Vec<IpAddr>,
    /// Its static key.
    pub public_key: PublicKey,
    /// Whether the relay says it is there; `None` for a stock peer.
    pub online: Option<bool>,
    /// Where data goes; `None` if we do not talk to it.
    pub path: Option<Path>,
    /// The member that relays it, if one does.
    pub relayed_by: Option<String>,
    /// Round trip on that path.
    pub rtt: Option<Duration>,
    /// Largest inner packet on that path; `None` while it is being found.
    pub mtu: Option<u16>,
    /// How often that path turned out to carry less than it had.
    pub black_holes: u32,
    /// Packets and bytes.
    pub traffic: Traffic,
    /// When the last handshake completed.
    pub last_handshake: Option<Instant>,
    /// Whether there is a key to seal with.
    pub established: bool,
    /// Cipher suites the peer offered in HELLO, a bit each; `None` before it did.
    pub suites: Option<u32>,
    /// The cipher of the bulk: that of the lanes, or of lane 0 while none is open; `None` without a key.
    pub cipher: Option<Suite>,
    /// Lanes for bulk that are open; 0: everything goes on lane 0.
    pub lanes: u8,
    /// Every lane that is wanted or open, ascending; empty: everything goes on lane 0.
    pub lane_list: Vec<LaneStatus>,
    /// Whether trains of datagrams arrive there; if not, each is sent by itself.
    pub trains_arrive: bool,
    /// How often they were found not to.
    pub train_failures: u32,
    /// Datagrams sent to guess its ports, or to be guessed.
    pub guesses_sent: u64,
    /// How its path changed, oldest first.
    pub history: Vec<HistoryEntry>,
}

impl Node {
    /// The present state.
    pub fn status(&self) -> Status {
        let membership = self.membership.as_ref();
        let mut peers: Vec<PeerStatus> = self.peers.iter().map(|p| self.peer_status(p)).collect();
        for entry in membership.into_iter().flat_map(|m| m.directory.iter()) {
            if self.peers.by_key(&entry.member.x25519()).is_none() {
                peers.push(PeerStatus {
                    name: entry.member.name().to_string(),
                    addresses: vec![entry.member.v4().into(), entry.member.v6().into()],
                    public_key: entry.member.x25519(),
                    online: Some(entry.online),
                    path: None,
                    relayed_by: None,
                    rtt: None,
                    mtu: None,
                    black_holes: 0,
                    traffic: Traffic::default(),
                    last_handshake: None,
                    established: false,
                    suites: None,
                    cipher: None,
                    lanes: 0,
                    lane_list: Vec::new(),
                    trains_arrive: true,
                    train_failures: 0,
                    guesses_sent: 0,
                    history: Vec::new(),
                });
            }
        }
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            public_key: self.local.public(),
            addresses: membership.and_then(|m| m.addresses()),
            network: membership.and_then(|m| m.credentials()).map(|c| {
                let id: String = c.trust().network_id().0.iter().map(|b| format!("{b:02x}")).collect();
                (c.trust().genesis().name.clone(), id)
            }),
            control_connected: membership.is_some_and(|m| m.is_connected()),
            control_relay: membership.and_then(|m| m.control_relay()),
            relays: self.relay_status(),
            candidates: self.local_candidates(PortNo(0)),
            peers,
            refused: membership.map_or_else(Vec::new, |m| m.refused()),
            relaying: self.serving.served().map(|served| RelayingStatus {
                sessions: served.sessions(),
                forwarded: served.forwarded(),
                bytes: served.bytes(),
                dropped: served.dropped(),
            }),
            documents: membership.and_then(|m| m.documents()),
            splits: self.comparison.splits().to_vec(),
        }
    }

    fn relay_status(&self) -> Vec<RelayStatus> {
        let home = self.ports.relay().map(|r| r.no);
        let stream = self.ports.relays.stream();
        let status = |(relay, client): (&Relay, &RelayClient)| RelayStatus {
            relay_no: relay.no.0,
            member: self.relaying_member(relay.no.0),
            address: relay.address,
            up: client.is_up(),
            rtt: client.rtt(),
            observed: relay.client.as_ref().and_then(RelayClient::observed),
            stream: stream.filter(|(no, _)| *no == relay.no).map(|(_, way)| way),
            home: home == Some(relay.no),
            draining: client.is_draining(),
        };
        let relays = &self.ports.relays;
        let mut all: Vec<RelayStatus> = relays.sessions().chain(relays.members()).map(status).collect();
        all.sort_by_key(|r| (!r.home, r.relay_no));
        all
    }

    fn peer_status(&self, peer: &Peer) -> PeerStatus {
        let (addresses, path, rtt, history) = match &peer.kind {
            Kind::Member { member, path } => (
                vec![member.v4().into(), member.v6().into()],
                path.selected(),
                path.rtt(),
                path.history().copied().collect(),
            ),
            Kind::Stock { path, addresses, .. } => {
                (addresses.clone(), path.endpoint().map(|remote| Path::Direct { remote }), None, Vec::new())
            }
        };
        let directory = self.membership.as_ref().map(|m| &m.directory);
        let online = peer.member().and_then(|m| Some(directory?.get(&m.identity())?.online));
        let usable: Vec<LaneNo> = self.usable_lanes(peer).iter().map(|l| l.lane).collect();
        let lane0 = peer.session.is_established().then_some(Suite::ChaCha20Poly1305);
        PeerStatus {
            name: peer.name(),
            addresses,
            public_key: peer.key,
            online,
            path,
            relayed_by: match path {
                Some(Path::Relayed { relay, .. }) => self.relaying_member(relay),
                _ => None,
            },
            rtt,
            mtu: path.and(Some(self.inner_mtu(peer))).filter(|mtu| *mtu != UNKNOWN_MTU),
            black_holes: peer.agent(PortNo(0)).map_or(0, |path| path.black_holes()),
            traffic: peer.session.activity().traffic(),
            last_handshake: peer.session.last_handshake(),
            established: peer.session.is_established(),
            suites: peer.lanes.hello().map(|h| h.suites),
            cipher: peer.lanes.suite().or(lane0),
            lanes: u8::try_from(usable.len()).unwrap_or(u8::MAX),
            lane_list: self.lane_list(peer, &usable),
            trains_arrive: peer.trains.trains_arrive(),
            train_failures: peer.trains.failures(),
            guesses_sent: peer.agent(PortNo(0)).map_or(0, |p| p.counters().guesses_sent),
            history,
        }
    }

    fn lane_list(&self, peer: &Peer, usable: &[LaneNo]) -> Vec<LaneStatus> {
        let most = peer.lanes.wanted().max(usable.last().map_or(0, |l| l.0));
        (1..=most)
            .map(LaneNo)
            .map(|lane| {
                let (tx, rx) = peer.messages_by(lane);
                let agent = peer.agent(lane.port());
                LaneStatus {
                    lane,
                    cipher: peer.lanes.suite().filter(|_| usable.contains(&lane)),
                    path: agent
                        .and_then(|a| a.selected())
                        .filter(|p| lane == LaneNo(1) || matches!(p, Path::Direct { .. })),
                    rtt: agent.and_then(|a| a.rtt()),
                    tx,
                    rx,
                    usable: usable.contains(&lane),
                    framing: self.framing(peer, lane.port()),
                }
            })
            .collect()
    }
}
