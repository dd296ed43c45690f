//! OUT: from the TUN device to the UDP socket.
//!
//! ```text
//! TUN queue ─ a parse ─ b filter ─ c peer by longest prefix ─ d lane and path ─ e seal into the send batch ─ UDP socket
//! ```
//!
//! Each step returns or is one counted drop. No step locks, reads a clock or logs above TRACE; what allocates is the
//! slow way only, when a packet has to wait for a key and goes to `Node` by a bounded queue. One copy per packet: from
//! the TUN buffer into the slab it is sealed in.

use core::ops::Range;
use std::sync::Arc;

use crate::batch::SendBatch;
use crate::drop::{DropCounters, DropReason};
use crate::filter::{self, Verdict};
use crate::forwarding::{DataPath, ForwardingTable, PeerEntry};
use crate::id::PeerSlot;
use crate::session::{SealingKey, sealed_len};
use crate::time::Instant;
use crate::wire::ip::IpPacket;
use crate::wire::wireguard::TRANSPORT_HEADER_LEN;
use crate::worker::{ControlSink, ToControl};

/// What became of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is in the batch, or was dropped and counted, or waits at `Node`.
    Done,
    /// The batch is full: flush it and hand the packet in again.
    BatchFull,
}

/// The outbound half of a worker. One per lane, one thread each.
#[derive(Debug)]
pub struct Outbound {
    drops: Arc<DropCounters>,
    now: Instant,
    table: Arc<ForwardingTable>,
    /// Packets the shell still holds of this drain: how many counters are worth reserving at once.
    expected: u32,
    reserved: Option<Reserved>,
    /// Whose key was last told to be worn under this snapshot: a new key brings a new one.
    worn: Option<PeerSlot>,
}

/// Counters reserved at once at most.
const MAX_RESERVED: u32 = 64;

/// Counters taken from one sealing key for the rest of this batch. What is left over at its end is skipped for ever.
#[derive(Debug)]
struct Reserved {
    key: Arc<SealingKey>,
    counters: Range<u64>,
}

impl Outbound {
    /// A half that counts its drops in `drops`.
    pub fn new(drops: Arc<DropCounters>) -> Self {
        Self { drops, now: Instant::ZERO, table: Arc::default(), expected: 0, reserved: None, worn: None }
    }

    /// Starts a batch of about `expected` packets: one clock reading and one snapshot for all of them.
    pub fn begin(&mut self, now: Instant, table: &Arc<ForwardingTable>, expected: usize) {
        self.now = now;
        self.expected = u32::try_from(expected).unwrap_or(u32::MAX);
        self.reserved = None;
        if !Arc::ptr_eq(&self.table, table) {
            self.table = Arc::clone(table);
            self.worn = None;
        }
    }

    /// One packet from the TUN device.
    pub fn handle_packet(
        &mut self,
        packet: &[u8],
        batch: &mut SendBatch,
        control: &mut dyn ControlSink,
    ) -> Sent {
        match self.try_packet(packet, batch, control) {
            Ok(sent) => sent,
            Err(reason) => {
                self.drops.count(reason);
                Sent::Done
            }
        }
    }

    fn try_packet(
        &mut self,
        packet: &[u8],
        batch: &mut SendBatch,
        control: &mut dyn ControlSink,
    ) -> Result<Sent, DropReason> {
        // a: parse
        let ip = IpPacket::parse(packet).map_err(|_| DropReason::NotIp)?;
        // b: filter
        if filter::check(&ip) == Verdict::Martian {
            return Err(DropReason::Martian);
        }
        // c: peer
        let Some(slot) = self.table.allowed_ips.lookup(ip.destination()) else {
            let unresolved = self.table.in_overlay(ip.destination());
            return if unresolved { ask(control, unresolved_packet(&ip)) } else { Err(DropReason::NoPeer) };
        };
        let table = Arc::clone(&self.table);
        let peer = table.peer(slot).ok_or(DropReason::NoPeer)?;
        // d: lane and path
        let Some((key, path)) = self.way(peer) else { return ask(control, staged_packet(peer, &ip)) };
        // e: seal
        self.seal(ip.bytes(), peer, (key, path), batch, control, &ip)
    }

    /// Step d: a lane that is open, or lane 0; none before the first handshake and while no path is known.
    fn way<'a>(&self, peer: &'a PeerEntry) -> Option<(&'a Arc<SealingKey>, &'a DataPath)> {
        match peer.bulk.first().filter(|lane| lane.sealing.has_room(MAX_RESERVED, self.now)) {
            Some(lane) => Some((&lane.sealing, &lane.path)),
            None => peer.sealing.as_ref().zip(peer.path.as_ref()),
        }
    }

    /// Step e: header room, packet, padding and tag in the place the message is sent from.
    fn seal(
        &mut self,
        packet: &[u8],
        peer: &PeerEntry,
        (key, path): (&Arc<SealingKey>, &DataPath),
        batch: &mut SendBatch,
        control: &mut dyn ControlSink,
        ip: &IpPacket<'_>,
    ) -> Result<Sent, DropReason> {
        let front = path.relay_header.map_or(0, |h| h.len());
        let total = front + sealed_len(packet.len());
        let Some(room) = batch.reserve(total) else {
            // A packet that fits no empty batch would come back for ever.
            return if batch.is_empty() { Err(DropReason::TooBig) } else { Ok(Sent::BatchFull) };
        };
        let Some(counter) = self.next_counter(key, peer.slot, control) else {
            return ask(control, staged_packet(peer, ip));
        };
        if let Some(header) = &path.relay_header {
            room[..front].copy_from_slice(header);
        }
        let message = &mut room[front..];
        message[TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + packet.len()].copy_from_slice(packet);
        let sealed = key.seal(counter, message, packet.len());
        debug_assert_eq!(front + sealed, total);
        batch.commit(path.port, path.to, total);
        let edge = path.activity.note_tx(self.now);
        if peer.activity.note_tx(self.now, 1, sealed as u64, false) || edge {
            control.offer(ToControl::Awake { slot: peer.slot });
        }
        Ok(Sent::Done)
    }

    /// The next number of this batch's reservation, or of a new one for the packets still expected.
    fn next_counter(
        &mut self,
        key: &Arc<SealingKey>,
        slot: PeerSlot,
        control: &mut dyn ControlSink,
    ) -> Option<u64> {
        self.expected = self.expected.saturating_sub(1);
        if let Some(reserved) = self.reserved.as_mut().filter(|r| Arc::ptr_eq(&r.key, key))
            && let Some(counter) = reserved.counters.next()
        {
            return Some(counter);
        }
        let mut counters = key.reserve(self.expected.saturating_add(1).min(MAX_RESERVED), self.now)?;
        if key.needs_rekey(self.now) && self.worn != Some(slot) && control.offer(ToControl::Worn { slot }) {
            self.worn = Some(slot);
        }
        let first = counters.next()?;
        self.reserved = Some(Reserved { key: Arc::clone(key), counters });
        Some(first)
    }
}

fn staged_packet(peer: &PeerEntry, ip: &IpPacket<'_>) -> ToControl {
    ToControl::Stage { slot: peer.slot, packet: ip.bytes().to_vec() }
}

fn unresolved_packet(ip: &IpPacket<'_>) -> ToControl {
    ToControl::Unresolved { packet: ip.bytes().to_vec() }
}

fn ask(control: &mut dyn ControlSink, message: ToControl) -> Result<Sent, DropReason> {
    if control.offer(message) { Ok(Sent::Done) } else { Err(DropReason::QueueFull) }
}
