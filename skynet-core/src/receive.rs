//! BACK: from the UDP socket to the TUN device.
//!
//! ```text
//! UDP socket ─ a kind by first byte ─ b session by receiver index ─ c open in place, replay
//!            ─ d source must be the sender's prefix; filter ─ e deliver: coalesce ─ TUN queue
//! ```
//!
//! Each step returns or is one counted drop. Only transport data takes this way; handshakes, probes and relay upkeep
//! leave at step a, towards `Node`, by bounded queues of their own. No copy: a packet is opened
//! where it was received, and only what came in chunks is put together elsewhere.

use core::hash::{BuildHasherDefault, Hasher};
use core::net::{IpAddr, SocketAddr};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::chunk::{self, CHUNK, Chunk, Exit, Joiner};
use crate::constants::MAX_KEYPAIRS;
use crate::drop::{DropCounters, DropReason};
use crate::filter::{self, Verdict};
use crate::flows::FlowTable;
use crate::forwarder::{MemberRelay, Onward};
use crate::forwarding::ForwardingTable;
use crate::id::{Generation, LaneNo, PeerSlot, PortNo};
use crate::node::MAX_PEERS;
use crate::offload::{SuperPacket, VnetHeader, ecn, flow_hash, mss};
use crate::policy::Way;
use crate::session::{OpeningKey, PathSource};
use crate::time::Instant;
use crate::wire::Kind;
use crate::wire::ip::{self, IpPacket};
use crate::wire::record::CONTROL_RECORD;
use crate::wire::relay::{DATA_HEADER_LEN, DataHeader};
use crate::wire::wireguard::{ReceiverIndex, TYPE_COOKIE_REPLY, TransportHeader};
use crate::worker::{ControlClass, ControlSink, InboundCommand, ToControl};

/// Opening keys one half holds at most: of every peer all keypairs, and one that is still to be removed, each with the
/// two lanes that port 0 has.
pub const MAX_OPENING_KEYS: usize = 2 * (MAX_KEYPAIRS + 1) * MAX_PEERS;

/// Where opened packets go: by way of a [`crate::offload::Coalescer`] to the TUN queue.
pub trait Deliver {
    /// An authentic packet of an admitted peer, from one of its own addresses to one of ours.
    fn deliver(&mut self, packet: &[u8]);

    /// The same, but a super-packet with what belongs in front of it. Where there is no offload it is delivered packet
    /// by packet, which allocates.
    fn deliver_super(&mut self, header: VnetHeader, packet: &[u8]) {
        let Ok(whole) = SuperPacket::parse(header, packet) else { return };
        let mut segment = vec![0; whole.segment_len_max()];
        for i in 0..whole.segments() {
            let len = whole.write_segment(i, &mut segment);
            self.deliver(&segment[..len]);
        }
    }
}

/// An opening key and whose it is.
#[derive(Debug)]
struct Session {
    key: OpeningKey,
    slot: PeerSlot,
    generation: Generation,
}

/// The inbound half of a worker. One per port, one thread each; the only holder of its opening keys and windows.
#[derive(Debug)]
pub struct Inbound {
    port: PortNo,
    /// Which address of this host the next datagrams came to.
    local: Option<IpAddr>,
    /// The socket the batch in hand came by: the port's own, or one for guessing.
    arrival: PortNo,
    drops: Arc<DropCounters>,
    flows: Arc<FlowTable>,
    now: Instant,
    table: Arc<ForwardingTable>,
    /// By our own random receiver index, so no sender can make it collide. Never iterated.
    sessions: HashMap<ReceiverIndex, Session, BuildHasherDefault<IndexHasher>>,
    /// Keys whose installation `Node` had no room to hear of yet: a handshake waits for each. All are in `sessions`.
    installed: VecDeque<ReceiverIndex>,
    /// Packets that come in chunks.
    joiner: Joiner,
    /// What this node relays for others, if it does.
    relay: Option<Box<MemberRelay>>,
    /// What was heard in this batch and not told yet.
    heard: Option<Heard>,
    /// The last roaming told under this snapshot, so that a peer that roams at line rate tells it once.
    roamed: Option<(PeerSlot, SocketAddr)>,
}

impl Inbound {
    /// The next datagrams came to this address of the host, as far as the shell was told.
    pub fn set_local(&mut self, local: Option<IpAddr>) {
        self.local = local;
    }

    /// The half behind `port`; it counts its drops in `drops` and tells `flows` by which lane a flow comes; both are
    /// `Node`'s.
    pub fn new(port: PortNo, drops: Arc<DropCounters>, flows: Arc<FlowTable>) -> Self {
        Self {
            port,
            local: None,
            arrival: port,
            drops,
            flows,
            now: Instant::ZERO,
            table: Arc::default(),
            sessions: HashMap::default(),
            joiner: Joiner::new(),
            relay: None,
            heard: None,
            installed: VecDeque::new(),
            roamed: None,
        }
    }

    /// A change of keys, between batches. Installing is acknowledged, because messages that let the peer use the key
    /// wait for it.
    pub fn handle_command(&mut self, command: InboundCommand, control: &mut dyn ControlSink) {
        match command {
            InboundCommand::Install { key, slot, generation } => {
                let index = key.local_index();
                if self.sessions.len() < MAX_OPENING_KEYS {
                    self.sessions.insert(index, Session { key: *key, slot, generation });
                    self.installed.push_back(index);
                } else {
                    self.drops.count(DropReason::QueueFull);
                }
            }
            InboundCommand::Remove(index) => {
                self.sessions.remove(&index);
                self.joiner.forget(index, &self.drops);
                self.installed.retain(|i| *i != index);
            }
            InboundCommand::Relay(relay) => self.relay = relay,
            InboundCommand::RefuseRelay(gone) => {
                if let Some(relay) = &mut self.relay {
                    relay.refuse(gone);
                }
            }
            InboundCommand::TendRelay(now) => {
                if let Some(relay) = &mut self.relay {
                    relay.tend(now);
                }
            }
        }
        self.acknowledge(control);
    }

    /// Acknowledges installed keys; those the queue has no room for are kept for the next call.
    fn acknowledge(&mut self, control: &mut dyn ControlSink) {
        while let Some(&index) = self.installed.front() {
            if !control.offer(ToControl::Installed(index)) {
                return;
            }
            self.installed.pop_front();
        }
    }

    /// Starts a batch: one clock reading and one snapshot for all of its datagrams.
    pub fn begin(&mut self, now: Instant, table: &Arc<ForwardingTable>) {
        self.now = now;
        self.arrival = self.port;
        if !Arc::ptr_eq(&self.table, table) {
            self.table = Arc::clone(table);
            self.roamed = None;
        }
    }

    /// What follows until the next batch begins came by this socket, and not by the port's own.
    pub fn arrived_by(&mut self, socket: PortNo) {
        self.arrival = socket;
    }

    /// Ends a batch: what came in chunks and is complete is delivered, and the timers are told what came.
    pub fn finish(&mut self, deliver: &mut dyn Deliver, control: &mut dyn ControlSink) {
        if !self.joiner.is_idle() {
            let mut exit = Exit { table: &self.table, now: self.now, deliver, drops: &self.drops };
            self.joiner.finish(self.now, &mut exit);
        }
        if let Some(relay) = &mut self.relay {
            relay.tend(self.now);
        }
        tell(self.heard.take(), self.port, &self.table, self.now, control);
    }

    /// One datagram from the UDP socket, with the ECN field of its IP header; it is opened in place. What is said of it is
    /// to be sent on: this node relays it, or answers as a relay.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        ecn: u8,
        datagram: &mut [u8],
        deliver: &mut dyn Deliver,
        control: &mut dyn ControlSink,
    ) -> Option<Onward> {
        if !self.installed.is_empty() {
            self.acknowledge(control);
        }
        match self.try_datagram(from, ecn, datagram, deliver, control) {
            Ok(onward) => onward,
            Err(reason) => {
                self.drops.count(reason);
                None
            }
        }
    }

    fn try_datagram(
        &mut self,
        from: SocketAddr,
        ecn: u8,
        datagram: &mut [u8],
        deliver: &mut dyn Deliver,
        control: &mut dyn ControlSink,
    ) -> Result<Option<Onward>, DropReason> {
        // a: kind
        let (source, front) = match Kind::of(datagram) {
            Kind::Transport => (PathSource::Direct(from), 0),
            Kind::RelayData | Kind::RelayUpkeep if self.is_for_relay(from, datagram) => {
                let relay = self.relay.as_mut().expect("it is for the relay that is here");
                return Ok(relay.handle_datagram(self.local, from, datagram, self.now));
            }
            Kind::RelayData => (self.relayed(from, datagram)?, DATA_HEADER_LEN),
            other => return self.hand_over(other, from, 0, datagram, control).map(|()| None),
        };
        if front > 0 {
            match Kind::of(&datagram[front..]) {
                Kind::Transport => {}
                other => return self.hand_over(other, from, front, datagram, control).map(|()| None),
            }
        }
        self.open(source, front, ecn, datagram, deliver, control).map(|()| None)
    }

    /// Transport data, behind `front` bytes of relay header.
    fn open(
        &mut self,
        source: PathSource,
        front: usize,
        ecn: u8,
        datagram: &mut [u8],
        deliver: &mut dyn Deliver,
        control: &mut dyn ControlSink,
    ) -> Result<(), DropReason> {
        let message = &mut datagram[front..];
        // b: session
        let TransportHeader { receiver: index, counter } = TransportHeader::parse(message)?;
        let session = self.sessions.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        // c: open, and the current snapshot must still admit whoever sealed it
        let sealed_len = message.len();
        let plaintext = session.key.open(message, self.now)?;
        let peer = self.table.admitted(session.slot, session.generation).ok_or(DropReason::NotMember)?;
        // What the queue has no room for is told with the next packet.
        if session.key.is_confirmation() && control.offer(ToControl::Confirmed { index, slot: peer.slot }) {
            session.key.take_confirmation();
        }
        if !self.heard.as_mut().is_some_and(|h| h.add(peer.slot, source, sealed_len, plaintext.is_empty())) {
            let heard = Heard::new(peer.slot, source, sealed_len, plaintext.is_empty());
            tell(self.heard.replace(heard), self.port, &self.table, self.now, control);
        }
        if let Some(from) = peer.roams_to(source)
            && self.roamed != Some((peer.slot, from))
            && control.offer(ToControl::Roamed { slot: peer.slot, from })
        {
            self.roamed = Some((peer.slot, from));
        }
        // d: source, filter and policy
        let packet = match plaintext.first() {
            None => return Ok(()),
            Some(&CONTROL_RECORD) if peer.node_no.is_some() && session.key.lane() == LaneNo(0) => {
                return offer(
                    control,
                    ToControl::Record { slot: peer.slot, index, bytes: plaintext.to_vec() },
                );
            }
            Some(&CHUNK) if peer.node_no.is_some() && session.key.lane() != LaneNo(0) => {
                let chunk = Chunk::parse(plaintext)?;
                let source = || ip::source_of(chunk.payload).and_then(|s| self.table.allowed_ips.lookup(s));
                if chunk.i == 0 && peer.most_lanes > 1 && source() == Some(peer.slot) {
                    self.flows.learn(flow_hash(chunk.payload), peer, session.key.lane(), self.now);
                }
                let from = chunk::From { index, slot: peer.slot, counter, ecn };
                let mut exit = Exit { table: &self.table, now: self.now, deliver, drops: &self.drops };
                return self.joiner.add(from, &chunk, self.now, &mut exit);
            }
            Some(_) => {
                ecn::decapsulate(plaintext, ecn)?;
                if mss::may_be_syn(plaintext) {
                    clamp(plaintext, peer.mtu);
                }
                IpPacket::parse(plaintext).map_err(|_| DropReason::NotIp)?
            }
        };
        check_inner(&self.table, peer.slot, &packet)?;
        if let Some(policy) = &peer.policy {
            policy.check(Way::In, peer.slot, &packet, self.now, &self.drops)?;
        }
        // e: deliver, after what came in chunks before it
        if !self.joiner.is_idle() {
            let mut exit = Exit { table: &self.table, now: self.now, deliver, drops: &self.drops };
            self.joiner.give_way(index, &mut exit);
        }
        if peer.most_lanes > 1 {
            self.flows.learn(flow_hash(packet.bytes()), peer, session.key.lane(), self.now);
        }
        deliver.deliver(packet.bytes());
        Ok(())
    }

    /// Everything that is not transport data goes to `Node`, each kind by its own queue. Handshakes of those who do not
    /// know our key end here. `front` bytes of relay header stay in front: `Node` wants to know the way it came.
    fn hand_over(
        &self,
        kind: Kind,
        from: SocketAddr,
        front: usize,
        datagram: &[u8],
        control: &mut dyn ControlSink,
    ) -> Result<(), DropReason> {
        let payload = &datagram[front..];
        let class = match kind {
            Kind::Stun if self.table.stun.contains(&from) => ControlClass::RelayUpkeep,
            Kind::Stun => return Err(DropReason::BadRelayHeader),
            Kind::RelayUpkeep => {
                // Anybody else's would crowd out the keepalives of our relay session. A first relay may answer before
                // the snapshot that names it is here.
                if !self.table.relays.is_empty() && self.table.relay_at(from).is_none() {
                    return Err(DropReason::BadRelayHeader);
                }
                ControlClass::RelayUpkeep
            }
            Kind::Probe => ControlClass::Probe,
            Kind::Handshake => {
                let has_mac1 = !payload.starts_with(&[TYPE_COOKIE_REPLY]);
                if has_mac1 && !self.table.mac1.as_ref().is_some_and(|m| m.is_valid(payload)) {
                    return Err(DropReason::BadMac1);
                }
                ControlClass::Handshake
            }
            Kind::Transport | Kind::RelayData | Kind::Unknown => return Err(DropReason::UnknownType),
        };
        let (port, local) = (self.arrival, self.local);
        offer(control, ToControl::Datagram { class, port, from, local, bytes: datagram.to_vec() })
    }

    /// Whether this node is the relay that a frame is for.
    fn is_for_relay(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        self.relay.is_some()
            && self.arrival == PortNo(0)
            && MemberRelay::is_addressed(datagram, self.table.relay_at(from).is_some())
    }

    /// A DATA frame counts as relayed only when it comes from one of our relays.
    fn relayed(&self, from: SocketAddr, datagram: &[u8]) -> Result<PathSource, DropReason> {
        let header = DataHeader::parse(datagram).map_err(|_| DropReason::BadRelayHeader)?;
        let relay = self.table.relay_at(from).ok_or(DropReason::BadRelayHeader)?;
        Ok(PathSource::Relayed { relay: relay.0, sender: header.node_no })
    }
}

/// What we send back on this connection is no larger than the path carries.
#[cold]
fn clamp(plaintext: &mut [u8], mtu: u16) {
    let len = IpPacket::parse(plaintext).map_or(0, |ip| ip.bytes().len());
    mss::clamp(&mut plaintext[..len], mtu, false);
}

/// Step d: the source is the sender's, the filter agrees, the destination is ours.
pub(crate) fn check_inner(
    table: &ForwardingTable,
    slot: PeerSlot,
    packet: &IpPacket<'_>,
) -> Result<(), DropReason> {
    if table.allowed_ips.lookup(packet.source()) != Some(slot) {
        return Err(DropReason::SourceNotAllowed);
    }
    if filter::check(packet) == Verdict::Martian {
        return Err(DropReason::Martian);
    }
    if !table.own.contains(&packet.destination()) {
        return Err(DropReason::NotForUs);
    }
    Ok(())
}

/// What authentic messages tell besides their content: of one peer by one way, within one batch.
#[derive(Debug)]
struct Heard {
    slot: PeerSlot,
    source: PathSource,
    messages: u32,
    bytes: u64,
    keepalives_only: bool,
}

impl Heard {
    fn new(slot: PeerSlot, source: PathSource, len: usize, keepalive: bool) -> Self {
        Self { slot, source, messages: 1, bytes: len as u64, keepalives_only: keepalive }
    }

    /// False if the message is another peer's or came another way.
    fn add(&mut self, slot: PeerSlot, source: PathSource, len: usize, keepalive: bool) -> bool {
        let same = (self.slot, self.source) == (slot, source);
        if same {
            self.messages += 1;
            self.bytes += len as u64;
            self.keepalives_only &= keepalive;
        }
        same
    }
}

fn tell(
    heard: Option<Heard>,
    port: PortNo,
    table: &ForwardingTable,
    now: Instant,
    control: &mut dyn ControlSink,
) {
    let Some(heard) = heard else { return };
    let Some(peer) = table.peer(heard.slot) else { return };
    if let Some(path) = peer.path_activity(port, heard.source) {
        path.note_rx(now, heard.messages);
    }
    if peer.activity.note_rx(now, heard.messages.into(), heard.bytes, heard.keepalives_only) {
        control.offer(ToControl::Awake { slot: peer.slot });
    }
}

/// Receiver indices are drawn at random by ourselves, so no sender can make them collide: one multiplication spreads
/// them over the buckets.
#[derive(Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }
    fn write_u32(&mut self, index: u32) {
        self.0 = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

fn offer(control: &mut dyn ControlSink, message: ToControl) -> Result<(), DropReason> {
    if control.offer(message) { Ok(()) } else { Err(DropReason::QueueFull) }
}
