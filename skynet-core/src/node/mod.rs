//! `Node`: the control plane of one agent, sans-IO.
//!
//! It owns the parts and composes them; the rules are theirs. Who may talk to us: `session::admission`. Whose packets
//! these are: `session`. Which way they go: `path`. Who is a member: `member`, by way of `membership`. What the
//! workers know of all that: `publish`.
//!
//! Methods are of four kinds. *Getters*: [`Node::status`], [`Node::drops`]. *Handlers*: `handle_*`, something
//! happened. *Commands*: [`Node::set_local_addresses`], [`Node::set_told_candidates`], [`Node::reset_sessions`],
//! [`Node::inquire`]. *Polls*: after any of the others drain [`Node::poll_transmit`], then [`Node::poll_event`], in that
//! order, then read [`Node::poll_timeout`]. `now` never goes back.

mod carrier;
mod comparison;
mod config;
pub mod directory;
mod event;
mod guess_sockets;
pub mod kept;
mod lane_paths;
mod lanes;
#[cfg(test)]
mod lanes_inbound_tests;
#[cfg(test)]
mod lanes_tests;
mod load;
mod member_relays;
mod member_sessions;
#[cfg(test)]
mod member_tests;
mod members;
mod membership;
mod nat_observer;
mod paths;
mod peers;
mod policy;
mod ports;
mod publish;
mod refused;
mod relay_set;
mod relays;
mod remembered;
mod roster;
mod roster_view;
mod rotation;
mod serving;
mod sessions;
pub mod staging;
mod status;
#[cfg(test)]
mod tests;
mod train_check;
mod trains;
mod views;
mod watch;

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;
use std::sync::Arc;

pub use comparison::SplitView;
pub use config::{Membership, NodeConfig, StockConfig, StockPeer};
pub use event::{Addresses, ControlStreamEvent, Floors, NodeEvent, NodeTimer, Transmit};
pub use load::{LoadSample, PortLoad};
pub use membership::Documents;
pub use peers::MAX_PEERS;
pub use refused::{Refusal, Refused};
pub use remembered::MAX_REMEMBERED;
pub use roster_view::{RosterMember, RosterView};
pub use serving::RELAY_TAG;
pub use status::{LaneStatus, PeerStatus, RelayStatus, RelayingStatus, Status};

use crate::carrier::Way;
use crate::drop::{DropCounters, DropReason};
use crate::flows::FlowTable;
use crate::id::{MAX_PORTS, PeerSlot, PortNo};
use crate::key::PublicKey;
use crate::node::comparison::Comparison;
use crate::node::directory::lookup_for;
use crate::node::guess_sockets::GuessSockets;
use crate::node::member_relays::MemberRelays;
use crate::node::membership::MembershipAgent;
use crate::node::nat_observer::NatObserver;
use crate::node::peers::{Peer, Peers};
use crate::node::ports::Ports;
use crate::node::relay_set::RelaySet;
use crate::node::remembered::Remembered;
use crate::node::serving::Serving;
use crate::node::sessions::{PendingInitiations, Source};
use crate::node::staging::{Added, MAX_STAGED_PER_PEER, Unresolved};
use crate::path::check::PunchRate;
use crate::path::{Candidate, Guessing, MtuConfig, NatSeen, ProbeTags};
use crate::policy::Connections;
use crate::rng::Rng;
use crate::session::{Admission, IndexAllocator, LocalKey, Mac1Check, PathSource, Tai64n, TimestampClock};
use crate::time::{Duration, Instant, Now, earliest};
use crate::wire::Kind as Wire;
use crate::wire::ip::IpPacket;
use crate::wire::relay::{DATA_HEADER_LEN, DataHeader};
use crate::wire::wireguard::ReceiverIndex;
use crate::worker::ToControl;

/// Handshake timestamps are leased this far ahead, so that the floor is written once per lease and not per handshake.
const TIMESTAMP_LEASE: Duration = Duration::from_secs(300);

/// The control plane of one agent.
pub struct Node {
    local: LocalKey,
    rng: Rng,
    indices: IndexAllocator,
    timestamps: TimestampClock,
    admission: Admission,
    mac1: Mac1Check,
    pending: PendingInitiations,
    peers: Peers,
    tags: ProbeTags,
    punches: PunchRate,
    probe_start: u32,
    membership: Option<MembershipAgent>,
    comparison: Comparison,
    ports: Ports,
    guess_sockets: GuessSockets,
    /// Relaying: by this node for members, and by members for this node.
    serving: Serving,
    member_relays: MemberRelays,
    /// How far ports are guessed, and what is known of our NAT.
    guessing: Guessing,
    nat: NatSeen,
    observer: NatObserver,
    /// Which ports peers want may have changed, or which are ready.
    lanes_changed: bool,
    control_address: Option<SocketAddr>,
    stock_addresses: Vec<IpAddr>,
    unresolved: Unresolved,
    remembered: Remembered,
    drops: Arc<DropCounters>,
    /// Who began which flow; made with the first policy that forbids anything.
    connections: Option<Arc<Connections>>,
    leased_timestamp: Tai64n,
    table_version: u64,
    /// What the shell found of the network around.
    host: views::Host,
    dirty: bool,
    /// Opening keys to take away, of which port, once the snapshot without them is out.
    removals: Vec<(PortNo, ReceiverIndex)>,
    /// What HELLO says of us.
    suites: u32,
    max_lanes: u8,
    chunks: bool,
    min_lanes: u8,
    mtu: MtuConfig,
    flows: Arc<FlowTable>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<NodeEvent>,
    last_now: Instant,
}

impl Node {
    /// A node that has its keys and, if it is to be a member, wants to reach its relay at once.
    ///
    /// # Errors
    /// A sentence for the person who configured it: a token that has expired, documents that do not hold, no key.
    pub fn new(config: NodeConfig, seed: [u8; 32], now: Now) -> Result<Self, String> {
        let mut rng = Rng::from_seed(seed);
        let mut membership = match config.membership {
            Membership::None => None,
            Membership::Token { token, name, tags, fingerprint } => {
                Some(MembershipAgent::enrol(*token, (name, tags), fingerprint, &mut rng, now)?)
            }
            Membership::Joined(credentials) => Some(MembershipAgent::resume(*credentials, &mut rng, now)?),
        };
        if let Some(membership) = &mut membership {
            membership.set_most(config.known_members);
            membership.set_roster(&config.roster);
        }
        let configured = config.stock.as_ref().map(|s| s.secret.clone());
        let secret = membership.as_ref().and_then(|m| m.static_secret().cloned()).or(configured).ok_or(
            "nothing to do: neither a join token, nor credentials, nor an [interface] with a private key",
        )?;
        let local = LocalKey::new(secret, config.engine);
        let relays = match &membership {
            Some(_) => RelaySet::expecting(now.mono),
            None => RelaySet::default(),
        };
        let probe_start =
            u32::try_from(now.unix.0).unwrap_or(u32::MAX).max(config.floors.probe_start.saturating_add(1));
        let mut node = Self {
            mac1: Mac1Check::new(&local.public()),
            admission: Admission::new(&local.public(), &mut rng, now.mono),
            local,
            indices: IndexAllocator::new(),
            timestamps: TimestampClock::new(config.floors.handshake_timestamp),
            pending: PendingInitiations::default(),
            peers: Peers::default(),
            tags: ProbeTags::new(now.unix),
            punches: PunchRate::new(now.mono),
            probe_start,
            membership,
            comparison: Comparison::default(),
            ports: Ports::new(relays),
            guess_sockets: GuessSockets::default(),
            serving: Serving::new(config.relay_for_members),
            member_relays: MemberRelays::default(),
            guessing: config.guessing,
            nat: NatSeen::default(),
            observer: NatObserver::default(),
            lanes_changed: false,
            control_address: None,
            stock_addresses: Vec::new(),
            unresolved: Unresolved::default(),
            remembered: Remembered::new(config.last_peers),
            drops: Arc::default(),
            connections: None,
            leased_timestamp: config.floors.handshake_timestamp,
            table_version: 0,
            host: views::Host::default(),
            dirty: true,
            removals: Vec::new(),
            suites: config.suites,
            min_lanes: config.min_lanes,
            flows: Arc::default(),
            max_lanes: config.max_lanes.min(u8::try_from(MAX_PORTS).expect("three bits")),
            chunks: config.chunks,
            mtu: config.mtu,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            last_now: now.mono,
            rng,
        };
        let previous = node.membership.as_ref().and_then(|m| m.credentials()?.previous_key());
        if let Some(previous) = previous.map(|(secret, _)| secret.clone()) {
            node.resume_keys(previous);
        }
        if let Some(stock) = config.stock {
            node.membership.iter_mut().for_each(MembershipAgent::fix_key);
            node.stock_addresses = stock.addresses;
            stock.peers.into_iter().for_each(|peer| node.add_stock(peer));
        }
        if let Some(addresses) = node.membership.as_ref().and_then(|m| m.addresses()) {
            node.events.push_back(NodeEvent::Joined(addresses));
        }
        node.tend_serving(now);
        node.lease_timestamps(now);
        node.settle(now);
        Ok(node)
    }

    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Drops by reason; shared with the workers.
    pub fn drops(&self) -> &Arc<DropCounters> {
        &self.drops
    }

    /// Which lane a flow is on; shared with the workers.
    pub fn flows(&self) -> &Arc<FlowTable> {
        &self.flows
    }

    /// How the relay sees port 0, while it does.
    pub fn observed(&self) -> Option<SocketAddr> {
        self.ports.observed()
    }

    /// Whether the control channel is open and we are joined on it.
    pub fn is_joined(&self) -> bool {
        self.membership.as_ref().is_some_and(|m| m.is_connected())
    }

    /// Whether our session at the relay is open.
    pub fn is_bound(&self) -> bool {
        self.ports.main_client().is_some_and(|(_, client)| client.is_up())
    }

    /// Our static public key.
    pub fn public_key(&self) -> PublicKey {
        self.local.public()
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// A datagram that came to `port` and is not bare transport data.
    pub fn handle_datagram(&mut self, port: PortNo, from: SocketAddr, datagram: &mut [u8], now: Now) {
        if let Err(reason) = self.on_datagram(port, from, None, datagram, now) {
            self.drops.count(reason);
        }
        self.settle(now);
    }

    /// A message from a worker.
    pub fn handle_worker(&mut self, message: ToControl, now: Now) {
        let done = match message {
            ToControl::Datagram { port, from, local, mut bytes, .. } => {
                let local = local.filter(|ip| self.ports.is_ambiguous(*ip));
                self.on_datagram(port, from, local, &mut bytes, now)
            }
            ToControl::Stage { packet, .. } | ToControl::Unresolved { packet } => self.on_packet(packet, now),
            ToControl::Awake { slot } => {
                self.on_awake(slot, now);
                Ok(())
            }
            ToControl::Worn { slot } => {
                self.on_worn(slot, now);
                Ok(())
            }
            ToControl::Installed(index) => self.on_installed(index, now),
            ToControl::Confirmed { index, slot } => self.on_confirmed(slot, index, now),
            ToControl::Roamed { slot, from } => {
                self.on_roamed(slot, from);
                Ok(())
            }
            ToControl::Record { slot, index, bytes } => self.on_record(slot, index, &bytes, now),
        };
        if let Err(reason) = done {
            self.drops.count(reason);
        }
        self.settle(now);
    }

    /// The control stream opened, brought bytes or went away.
    pub fn handle_control(&mut self, event: ControlStreamEvent, now: Now) {
        if let Some(membership) = &mut self.membership {
            membership.handle_stream(event, now);
        }
        self.settle(now);
    }

    /// Time has passed. Every part whose deadline has come is asked; the others are not touched.
    pub fn handle_timeout(&mut self, now: Now) {
        self.tags.roll_over(now.unix);
        let unanswered = self.unresolved.expire(now.mono);
        self.drops.add(DropReason::NoPeer, unanswered as u64);
        if let Some(membership) = &mut self.membership {
            membership.handle_timeout(now);
        }
        self.drain_observer(now);
        self.handle_serving_timeout(now);
        self.tend_member_relays(now);
        self.forget_old_keys(now);
        self.handle_comparison_timeout(now);
        self.lanes_changed |= self.ports.handle_timeout(&mut self.rng, now.mono);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        for slot in self.peers.slots() {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            if due(peer.session.poll_timeout().map(|(at, _)| at)) {
                let _done = self.with_session(slot, |peer, cx| {
                    peer.session.handle_timeout(now, cx);
                    Ok(())
                });
                self.drain_session(slot, now);
            }
            if due(self.peers.get(slot).and_then(|p| p.load.poll_timeout(self.min_lanes))) {
                self.give_lanes_back(slot, now);
            }
            if due(self.peers.get(slot).and_then(|p| p.lanes.poll_timeout())) {
                let _done = self.with_lanes(slot, now, |lanes, _| {
                    lanes.handle_timeout(now.mono);
                    Ok(())
                });
            }
            if due(self.peers.get(slot).and_then(|p| p.trains.poll_timeout())) {
                if let Some(peer) = self.peers.get_mut(slot) {
                    peer.trains.handle_timeout(now.mono);
                }
                self.drain_trains(slot, now);
            }
            if due(self.peers.get(slot).and_then(Peer::path_timeout)) {
                self.tell_traffic(slot, now);
                if let Some(peer) = self.peers.get_mut(slot) {
                    peer.handle_path_timeout(now);
                }
                self.drain_path(slot, now);
            }
        }
        self.settle(now);
    }

    // ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────

    /// The addresses of this host's interfaces with port 0's number, at start and after every change. Further ports
    /// have the same addresses with their own.
    pub fn set_local_addresses(&mut self, addresses: &[SocketAddr], now: Now) {
        if self.ports.set_addresses(addresses, now.mono) {
            self.tell_candidates(now);
            for port in 1..MAX_PORTS {
                self.on_port_changed(PortNo(u8::try_from(port).expect("at most MAX_PORTS ports")), now);
            }
        }
        self.settle(now);
    }

    /// Where port 0 can be reached besides: a port mapping, a cloud's public address, what the operator says.
    pub fn set_told_candidates(&mut self, candidates: &[Candidate], now: Now) {
        if self.ports.set_told(candidates) {
            self.tell_candidates(now);
        }
        self.settle(now);
    }

    /// The largest IP packet this host's links take is another.
    pub fn set_link_mtu(&mut self, link: u16, now: Now) {
        if core::mem::replace(&mut self.mtu.link, link) != link {
            for slot in self.peers.slots() {
                let config = self.mtu;
                if let Some(peer) = self.peers.get_mut(slot) {
                    peer.set_mtu(config, now);
                }
                self.drain_path(slot, now);
            }
        }
        self.settle(now);
    }

    /// [`NodeEvent::OpenPort`] was done: `port` is bound, and this host's interface addresses with its number are
    /// `addresses`. Its worker opens and seals from now on.
    pub fn port_opened(&mut self, port: PortNo, addresses: &[SocketAddr], now: Now) {
        if port.is_guess_socket() {
            self.guess_socket_opened(port, now);
        } else {
            self.ports.opened(port, addresses, &mut self.rng, now.mono);
            self.lanes_changed = true;
        }
        self.settle(now);
    }

    /// [`NodeEvent::OpenPort`] could not be done. It is asked for again after a minute, if it is still wanted.
    pub fn port_failed(&mut self, port: PortNo, now: Now) {
        if port.is_guess_socket() {
            self.guess_socket_failed(port);
        } else {
            self.ports.failed(port, now.mono);
            self.lanes_changed = true;
        }
        self.settle(now);
    }

    /// [`NodeEvent::OpenCarrier`] was done: datagrams to `address`, of this host, go into the stream, which takes this
    /// way.
    pub fn carrier_opened(&mut self, address: SocketAddr, way: Way, now: Now) {
        self.ports.relays.carrier_opened(address, way, &mut self.rng, now.mono);
        self.dirty = true;
        self.settle(now);
    }

    /// [`NodeEvent::OpenCarrier`] could not be done, or the stream has ended. It is asked for again if it is still
    /// wanted.
    pub fn carrier_closed(&mut self, now: Now) {
        self.ports.relays.carrier_closed(&mut self.rng, now.mono);
        self.dirty = true;
        self.settle(now);
    }

    /// Forgets every session at once, with peers and relays: this machine may be a copy of another, which has the same keys
    /// and counters. Nothing is sealed with an old key and counter afterwards; randomness starts anew from `seed`.
    pub fn reset_sessions(&mut self, seed: [u8; 32], now: Now) {
        self.rng = Rng::from_seed(seed);
        if let Some(membership) = &mut self.membership {
            membership.reseed(&mut self.rng, now);
        }
        if self.ports.relays.stream().is_some() {
            self.events.push_back(NodeEvent::CloseCarrier);
            self.ports.relays.carrier_closed(&mut self.rng, now.mono);
        }
        for slot in self.peers.slots() {
            // A member's probes have counters too: it is met anew.
            if self.peers.get(slot).is_some_and(|peer| peer.member().is_some()) {
                self.remove_peer(slot, now);
                continue;
            }
            let _done = self.with_session(slot, |peer, cx| {
                peer.session.close(cx);
                Ok(())
            });
            self.drain_session(slot, now);
        }
        self.settle(now);
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing for the shell to do.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// When to call [`Node::handle_timeout`], and why. Queued output is due now. Looks at every peer: microseconds for
    /// the few a node talks to.
    pub fn poll_timeout(&self) -> Option<(Instant, NodeTimer)> {
        if !self.transmits.is_empty() || !self.events.is_empty() {
            return Some((self.last_now, NodeTimer::Output));
        }
        let tagged = |at: Option<Instant>, timer| at.map(|at| (at, timer));
        let mut first = tagged(self.unresolved.poll_timeout(), NodeTimer::Unresolved);
        if let Some(membership) = &self.membership {
            first = earliest(first, tagged(membership.poll_timeout(), NodeTimer::Control));
        }
        let relaying = earliest(self.serving.poll_timeout(), self.member_relays.poll_timeout());
        first = earliest(first, tagged(earliest(self.ports.poll_timeout(), relaying), NodeTimer::Relay));
        first = earliest(first, tagged(self.observer.poll_timeout(), NodeTimer::Nat));
        let documents = earliest(self.next_key_end(), self.comparison.poll_timeout());
        first = earliest(first, tagged(documents, NodeTimer::Control));
        for peer in self.peers.iter() {
            first =
                earliest(first, tagged(peer.session.poll_timeout().map(|(at, _)| at), NodeTimer::Session));
            first = earliest(first, tagged(peer.lanes.poll_timeout(), NodeTimer::Lane));
            first = earliest(first, tagged(peer.load.poll_timeout(self.min_lanes), NodeTimer::Lane));
            first = earliest(first, tagged(peer.path_timeout(), NodeTimer::Path));
            first = earliest(first, tagged(peer.trains.poll_timeout(), NodeTimer::Train));
        }
        first
    }

    // ── Composition ────────────────────────────────────────────────────────────────────────────────────────────

    /// Ends every handler: what the parts have to say is passed on, the snapshot is published.
    fn settle(&mut self, now: Now) {
        self.last_now = self.last_now.max(now.mono);
        self.drain_relay(now);
        self.drain_membership(now);
        self.sync_lane_paths(now);
        self.lease_timestamps(now);
        self.publish();
        while let Some(event) = self.ports.poll_event() {
            self.events.push_back(event);
        }
    }

    fn on_datagram(
        &mut self,
        port: PortNo,
        from: SocketAddr,
        local: Option<IpAddr>,
        datagram: &mut [u8],
        now: Now,
    ) -> Result<(), DropReason> {
        match Wire::of(datagram) {
            Wire::RelayUpkeep => {
                let found = self.ports.client_of(port, from).and_then(|(_, client)| client);
                found.ok_or(DropReason::BadRelayHeader)?.handle_datagram(datagram, now.mono);
                Ok(())
            }
            Wire::RelayData => {
                let (relay, client) = self.ports.client_of(port, from).ok_or(DropReason::BadRelayHeader)?;
                let header = DataHeader::parse(datagram).map_err(|_| DropReason::BadRelayHeader)?;
                // Only our session's number tells that the relay itself is alive; its address can be forged.
                if let Some(client) = client.filter(|c| c.gen_no() == Some(header.gen_no)) {
                    client.note_data_received(now.mono);
                }
                let path = PathSource::Relayed { relay: relay.0, sender: header.node_no };
                let source = Source { path, local: None };
                self.on_payload(port, source, &mut datagram[DATA_HEADER_LEN..], now)
            }
            Wire::Stun => self.on_stun(port, from, datagram, now),
            _ => self.on_payload(port, Source { path: PathSource::Direct(from), local }, datagram, now),
        }
    }

    fn on_payload(
        &mut self,
        port: PortNo,
        source: Source,
        payload: &mut [u8],
        now: Now,
    ) -> Result<(), DropReason> {
        match Wire::of(payload) {
            // One handshake serves all lanes, and takes lane 0's way.
            Wire::Handshake if port == PortNo(0) || port.is_guess_socket() => {
                self.on_handshake(source, payload, now)
            }
            Wire::Handshake => Err(DropReason::UnexpectedHandshake),
            Wire::Probe => self.on_probe(port, source.path, source.local, payload, now),
            _ => Err(DropReason::UnknownType),
        }
    }

    /// A packet that waits for something. The worker judged it by a snapshot in which a slot may have been another
    /// peer's: the destination decides whom it is sealed for.
    fn on_packet(&mut self, packet: Vec<u8>, now: Now) -> Result<(), DropReason> {
        let destination = IpPacket::parse(&packet).map_err(|_| DropReason::NotIp)?.destination();
        match self.peers.allowed_ips().lookup(destination) {
            Some(slot) => self.on_stage(slot, packet, now),
            None => self.on_unresolved(destination, packet, now),
        }
    }

    /// A packet for a known peer that has no key or no path.
    pub(super) fn on_stage(&mut self, slot: PeerSlot, packet: Vec<u8>, now: Now) -> Result<(), DropReason> {
        self.check_policy(slot, &packet, now.mono)?;
        let peer = self.peers.get_mut(slot).ok_or(DropReason::NoPeer)?;
        if peer.staged.push(packet, MAX_STAGED_PER_PEER, now.mono) {
            self.drops.count(DropReason::NoSession);
        }
        self.tell_traffic(slot, now);
        self.drain_path(slot, now);
        self.flush_staged(slot, now);
        self.want_session(slot, now);
        Ok(())
    }

    /// A packet for an overlay address that is no peer's: a member we know, or one to ask for.
    fn on_unresolved(&mut self, destination: IpAddr, packet: Vec<u8>, now: Now) -> Result<(), DropReason> {
        let membership = self.membership.as_mut().ok_or(DropReason::NoPeer)?;
        if let Some(member) = membership.directory.by_address(destination).map(|e| Arc::clone(&e.member)) {
            let slot = self.add_member(&member, now).ok_or(DropReason::QueueFull)?;
            return self.on_stage(slot, packet, now);
        }
        match self.unresolved.push(destination, packet, now.mono) {
            Added::New => membership.look_up(lookup_for(destination), now),
            Added::Known => {}
            Added::InPlaceOfAnother | Added::Refused => return Err(DropReason::QueueFull),
        }
        Ok(())
    }

    /// Traffic began after a pause, or a session's timers must look.
    fn on_awake(&mut self, slot: PeerSlot, now: Now) {
        let _done = self.with_session(slot, |peer, cx| {
            peer.session.handle_wake(now, cx);
            Ok(())
        });
        self.drain_session(slot, now);
        self.tell_traffic(slot, now);
        self.drain_path(slot, now);
    }

    /// The inbound half opens with this key: the handshake may go on.
    fn on_installed(&mut self, index: ReceiverIndex, now: Now) -> Result<(), DropReason> {
        let key = self.indices.peer_of(index).ok_or(DropReason::UnknownIndex)?;
        let slot = self.peers.by_key(&key).ok_or(DropReason::UnknownIndex)?;
        self.with_session(slot, |peer, cx| {
            if !peer.lanes.handle_installed(index, now.mono, cx) {
                peer.session.opening_installed(index, now.mono, cx);
            }
            Ok(())
        })?;
        self.drain_session(slot, now);
        Ok(())
    }

    /// The first authentic packet under a key: its lane is proven, and its keypair confirmed for all lanes.
    fn on_confirmed(&mut self, slot: PeerSlot, index: ReceiverIndex, now: Now) -> Result<(), DropReason> {
        self.with_session(slot, |peer, cx| {
            let lane0 = peer.lanes.handle_authenticated(index).unwrap_or(index);
            peer.session.handle_authenticated(lane0, now.mono, cx);
            Ok(())
        })?;
        self.drain_session(slot, now);
        Ok(())
    }

    /// A key in use wants a successor: lane 0's by the session's own rules, a lane's when it has sealed enough.
    fn on_worn(&mut self, slot: PeerSlot, now: Now) {
        let _done = self.with_session(slot, |peer, cx| {
            peer.session.handle_wake(now, cx);
            if peer.lanes.is_worn() {
                peer.session.initiate(now, cx);
            }
            Ok(())
        });
        self.drain_session(slot, now);
    }

    /// Keeps the persisted floor ahead of every timestamp that may go out.
    fn lease_timestamps(&mut self, now: Now) {
        let next = self.timestamps.floor().max(Tai64n::from_now(now));
        if next >= self.leased_timestamp || self.table_version == 0 {
            self.leased_timestamp = next.plus(TIMESTAMP_LEASE);
            let floors = Floors { handshake_timestamp: self.leased_timestamp, probe_start: self.probe_start };
            self.events.push_back(NodeEvent::PersistFloors(floors));
        }
    }
}
