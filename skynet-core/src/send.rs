//! OUT: from the TUN device to the UDP socket.
//!
//! ```text
//! TUN queue ─ a parse ─ b filter ─ c peer by longest prefix; policy ─ d lane and path ─ e split and seal ─ UDP socket
//! ```
//!
//! What comes in is an ordinary packet or a super-packet of up to 64 KiB; steps a to d are taken once for either, and
//! step e once per segment or chunk. Each step returns or is one counted drop. No step locks, reads a clock or logs above TRACE;
//! what allocates is the slow way only, when a packet has to wait for a key and goes to `Node` by a bounded queue. One
//! copy per byte: from the TUN buffer into the slab it is sealed in.

use core::ops::Range;
use std::sync::Arc;

use crate::batch::{Outer, SendBatch};
use crate::chunk::{MAX_CHUNKS, Unit};
use crate::constants::{INNER_MTU, MAX_STAGED_PACKETS};
use crate::drop::{DropCounters, DropReason};
use crate::filter::{self, Verdict};
use crate::flows::FlowTable;
use crate::forwarding::{DataPath, ForwardingTable, Framing, PeerEntry, UNKNOWN_MTU};
use crate::id::PeerSlot;
use crate::offload::{SuperPacket, VnetHeader, ecn, flow_hash, mss};
use crate::policy::Way;
use crate::session::{SealingKey, sealed_len};
use crate::time::Instant;
use crate::too_big::TooBig;
use crate::wire::ip::IpPacket;
use crate::wire::wireguard::TRANSPORT_HEADER_LEN;
use crate::worker::{ControlSink, ToControl};

/// What became of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is in the batch, or was dropped and counted, or waits at `Node`.
    Done,
    /// The batch is full: flush it and hand the packet in again. Nothing of it is in the batch.
    BatchFull,
}

/// The outbound half of a worker. One per port, one thread each.
#[derive(Debug)]
pub struct Outbound {
    drops: Arc<DropCounters>,
    flows: Arc<FlowTable>,
    table: Arc<ForwardingTable>,
    sealer: Sealer,
    too_big: TooBig,
}

/// Step e and what it keeps during a batch.
#[derive(Debug)]
struct Sealer {
    now: Instant,
    /// Packets the shell still holds of this drain: how many counters are worth reserving at once.
    expected: usize,
    reserved: Option<Reserved>,
}

/// Counters reserved beyond those of one packet, at most.
const AHEAD: usize = 63;

/// Counters taken from one sealing key for the rest of this batch. What is left over at its end is skipped for ever.
#[derive(Debug)]
struct Reserved {
    key: Arc<SealingKey>,
    counters: Range<u64>,
}

impl Outbound {
    /// A half that counts its drops in `drops` and asks `flows` for a flow's lane; both are `Node`'s.
    pub fn new(drops: Arc<DropCounters>, flows: Arc<FlowTable>) -> Self {
        let sealer = Sealer { now: Instant::ZERO, expected: 0, reserved: None };
        Self { drops, flows, table: Arc::default(), sealer, too_big: TooBig::default() }
    }

    /// Starts a batch of about `expected` packets: one clock reading and one snapshot for all of them.
    pub fn begin(&mut self, now: Instant, table: &Arc<ForwardingTable>, expected: usize) {
        if !Arc::ptr_eq(&self.table, table) {
            self.table = Arc::clone(table);
        }
        self.sealer = Sealer { now, expected, reserved: None };
    }

    /// One packet from the TUN device, as its header says.
    pub fn handle_packet(
        &mut self,
        header: VnetHeader,
        packet: &[u8],
        batch: &mut SendBatch,
        control: &mut dyn ControlSink,
    ) -> Sent {
        match self.try_packet(header, packet, batch, control) {
            Ok(sent) => sent,
            Err(reason) => {
                self.drops.count(reason);
                Sent::Done
            }
        }
    }

    /// The next answer to a packet that was too large: it belongs into the TUN device.
    pub fn poll_answer(&mut self) -> Option<&[u8]> {
        self.too_big.poll_answer()
    }

    fn try_packet(
        &mut self,
        header: VnetHeader,
        packet: &[u8],
        batch: &mut SendBatch,
        control: &mut dyn ControlSink,
    ) -> Result<Sent, DropReason> {
        if mss::may_be_syn(packet) {
            let mut syn = [0; mss::MAX_SYN];
            let syn = &mut syn[..packet.len()];
            syn.copy_from_slice(packet);
            self.clamp(header, syn);
            return self.send(header, syn, batch, control);
        }
        self.send(header, packet, batch, control)
    }

    /// No connection towards a peer begins with larger segments than its path carries.
    #[cold]
    fn clamp(&self, header: VnetHeader, syn: &mut [u8]) {
        let Ok(ip) = IpPacket::parse(syn) else { return };
        let slot = self.table.allowed_ips.lookup(ip.destination());
        if let Some(peer) = slot.and_then(|slot| self.table.peer(slot)) {
            mss::clamp(syn, peer.mtu, header.needs_csum);
        }
    }

    fn send(
        &mut self,
        header: VnetHeader,
        packet: &[u8],
        batch: &mut SendBatch,
        control: &mut dyn ControlSink,
    ) -> Result<Sent, DropReason> {
        // a: parse
        let packet = SuperPacket::parse(header, packet)?;
        let ip = packet.ip();
        // b: filter
        if filter::check(ip) == Verdict::Martian {
            return Err(DropReason::Martian);
        }
        // c: peer
        let Some(slot) = self.table.allowed_ips.lookup(ip.destination()) else {
            if !self.table.in_overlay(ip.destination()) {
                return Err(DropReason::NoPeer);
            }
            return hand_over(&packet, control, |packet| ToControl::Unresolved { packet });
        };
        let peer = self.table.peer(slot).ok_or(DropReason::NoPeer)?;
        if let Some(policy) = &peer.policy {
            policy.check(Way::Out, slot, ip, self.sealer.now, &self.drops)?;
        }
        // d: lane and path
        let stage = |packet| ToControl::Stage { slot, packet };
        let Some((key, path, framing)) = self.sealer.lane(peer, &packet, &self.flows) else {
            return hand_over(&packet, control, stage);
        };
        // e: split and seal
        let mut resized = None;
        let messages = if packet.segment_len_max() <= path.limit.into() {
            Messages::of(&packet, framing, path.limit)
        } else {
            self.too_big.note(&packet, peer.mtu, self.sealer.now);
            Messages::of_large(&packet, framing, path.limit, peer.mtu, &mut resized)?
        };
        match self.sealer.seal(&messages, key, path, ecn::encapsulate(packet.ecn()), batch)? {
            Sealed::Bytes(bytes) => {
                note(peer, path, messages.count(), bytes, self.sealer.now, control);
                self.sealer.tell_worn(key, slot, control);
                Ok(Sent::Done)
            }
            Sealed::NoRoom => Ok(Sent::BatchFull),
            Sealed::KeyExpired => hand_over(&packet, control, stage),
        }
    }
}

/// What is sealed of a packet: its segments, or the chunks of one unit.
enum Messages<'a> {
    Segments(&'a SuperPacket<'a>),
    Chunks(Unit<'a>),
}

impl<'a> Messages<'a> {
    /// Of a packet, or segments, of at most `limit` bytes.
    fn of(packet: &'a SuperPacket<'a>, framing: Framing, limit: u16) -> Self {
        let unit = if framing == Framing::Chunks { Unit::cut(packet, limit) } else { None };
        unit.map_or(Self::Segments(packet), Self::Chunks)
    }

    /// Of a larger one: a TCP stream is cut smaller, what else is one packet goes in fragments where the peer joins them.
    /// Where it does not and `mtu` is not known yet, it is sent as ever; it may pass.
    #[cold]
    fn of_large(
        packet: &'a SuperPacket<'a>,
        framing: Framing,
        limit: u16,
        mtu: u16,
        resized: &'a mut Option<SuperPacket<'a>>,
    ) -> Result<Self, DropReason> {
        if framing == Framing::Chunks
            && let Some(unit) = Unit::cut(packet, limit)
        {
            return Ok(Self::Chunks(unit));
        }
        if let Some(smaller) = packet.resized(limit) {
            return Ok(Self::Segments(resized.insert(smaller)));
        }
        match Unit::cut(packet, limit) {
            Some(unit) if framing != Framing::Plain => Ok(Self::Chunks(unit)),
            _ if mtu == UNKNOWN_MTU && packet.segment_len_max() <= INNER_MTU.into() => {
                Ok(Self::Segments(packet))
            }
            _ => Err(DropReason::TooBig),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Segments(packet) => packet.segments(),
            Self::Chunks(unit) => unit.chunks(),
        }
    }

    /// Bytes of message `i` before it is sealed. No other is longer than the first.
    fn len(&self, i: usize) -> usize {
        match self {
            Self::Segments(packet) => packet.segment_len(i),
            Self::Chunks(unit) => unit.chunk_len(i),
        }
    }

    fn write(&self, i: usize, out: &mut [u8]) -> usize {
        match self {
            Self::Segments(packet) => packet.write_segment(i, out),
            Self::Chunks(unit) => unit.write_chunk(i, out),
        }
    }
}

/// What step e did with a packet.
enum Sealed {
    /// All of it is in the batch: so many bytes of messages.
    Bytes(usize),
    NoRoom,
    KeyExpired,
}

impl Sealer {
    /// Step d: the lane of the packet's flow, or lane 0; none before the first handshake and while no path is known.
    fn lane<'a>(
        &self,
        peer: &'a PeerEntry,
        packet: &SuperPacket<'_>,
        flows: &FlowTable,
    ) -> Option<(&'a Arc<SealingKey>, &'a DataPath, Framing)> {
        let wanted = u32::try_from(packet.segments().max(MAX_CHUNKS) + AHEAD).ok()?;
        let lane = match &peer.bulk[..] {
            [] => None,
            [only] if peer.most_lanes < 2 => Some(only),
            bulk => {
                let lane = flows.lane_of(flow_hash(packet.ip().bytes()), peer, self.now);
                bulk.iter().find(|entry| entry.lane == lane)
            }
        };
        match lane.filter(|lane| lane.sealing.has_room(wanted, self.now)) {
            Some(lane) => Some((&lane.sealing, &lane.path, lane.framing)),
            None => Some((peer.sealing.as_ref()?, peer.path.as_ref()?, Framing::Plain)),
        }
    }

    /// A key that wants a successor is told once; what comes of it is the session's affair.
    fn tell_worn(&self, key: &SealingKey, slot: PeerSlot, control: &mut dyn ControlSink) {
        if key.needs_rekey(self.now) && key.note_told() && !control.offer(ToControl::Worn { slot }) {
            key.forget_told();
        }
    }

    /// Each segment or chunk is written where its message is sent from, between header room and tag, and sealed there.
    fn seal(
        &mut self,
        messages: &Messages<'_>,
        key: &Arc<SealingKey>,
        path: &DataPath,
        ecn: u8,
        batch: &mut SendBatch,
    ) -> Result<Sealed, DropReason> {
        let front = path.relay_header.map_or(0, |h| h.len());
        let count = messages.count();
        if batch.room() < count * (front + sealed_len(messages.len(0))) {
            // A packet that fits no empty batch would come back for ever.
            return if batch.is_empty() { Err(DropReason::TooBig) } else { Ok(Sealed::NoRoom) };
        }
        let Some(counters) = self.counters(key, count) else { return Ok(Sealed::KeyExpired) };
        let outer = Outer { port: path.port, to: path.to, from: path.from, ecn, trains: path.trains };
        let mut bytes = 0;
        for (i, counter) in counters.enumerate() {
            let total = front + sealed_len(messages.len(i));
            let room = batch.reserve(total).expect("there is room for every message");
            if let Some(header) = &path.relay_header {
                room[..front].copy_from_slice(header);
            }
            let message = &mut room[front..];
            let len = messages.write(i, &mut message[TRANSPORT_HEADER_LEN..]);
            bytes += key.seal(counter, message, len);
            batch.commit(outer, total);
        }
        Ok(Sealed::Bytes(bytes))
    }

    /// The next `n` numbers of this batch's reservation, or of a new one for the packets still expected.
    fn counters(&mut self, key: &Arc<SealingKey>, n: usize) -> Option<Range<u64>> {
        self.expected = self.expected.saturating_sub(1);
        let n = n as u64;
        if let Some(reserved) = self.reserved.as_mut().filter(|r| Arc::ptr_eq(&r.key, key))
            && reserved.counters.end - reserved.counters.start >= n
        {
            let first = reserved.counters.start;
            reserved.counters.start += n;
            return Some(first..first + n);
        }
        // Ahead only for packets in a row: where keys take turns, what is left of each would be thrown away each time.
        let in_a_row = self.reserved.as_ref().is_none_or(|r| Arc::ptr_eq(&r.key, key));
        let wanted = n + if in_a_row { self.expected.min(AHEAD) as u64 } else { 0 };
        let all = key.reserve(u32::try_from(wanted).ok()?, self.now)?;
        self.reserved = Some(Reserved { key: Arc::clone(key), counters: all.start + n..all.end });
        Some(all.start..all.start + n)
    }
}

/// What was sent, told to those who judge session and path by it.
fn note(
    peer: &PeerEntry,
    path: &DataPath,
    messages: usize,
    bytes: usize,
    now: Instant,
    control: &mut dyn ControlSink,
) {
    let edge = path.activity.note_tx(now, messages as u32);
    if peer.activity.note_tx(now, messages as u64, bytes as u64, false) || edge {
        control.offer(ToControl::Awake { slot: peer.slot });
    }
}

/// The slow way: whoever has to find a peer, a key or a path first gets the packet, segment by segment.
fn hand_over(
    packet: &SuperPacket<'_>,
    control: &mut dyn ControlSink,
    message: impl Fn(Vec<u8>) -> ToControl,
) -> Result<Sent, DropReason> {
    for i in 0..packet.segments().min(MAX_STAGED_PACKETS) {
        let mut segment = vec![0; packet.segment_len(i)];
        packet.write_segment(i, &mut segment);
        if !control.offer(message(segment)) {
            return Err(DropReason::QueueFull);
        }
    }
    Ok(Sent::Done)
}
