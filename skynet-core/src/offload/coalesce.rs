//! Back: the packets of a batch that continue each other become super-packets for the kernel.
//!
//! ```text
//! run   │ headers of the first packet │ its payload │ the second's │ the third's, perhaps shorter │
//! ```
//!
//! A packet joins the run of its flow if the kernel would have cut exactly it out of the whole: everything in its
//! headers but lengths, checksums, sequence number and PSH is the first's. Its checksums are verified before, because
//! the whole gets new ones and damage must not be healed by that. Whatever does not fit goes its way as it is, after
//! the run of its own flow, so that order within a flow is kept; other flows do not wait for each other.

use super::checksum::{self, fold};
use super::flow::FlowKey;
use super::layers::{Layers, TCP, UDP, long, put, short, word};
use super::vnet::{Gso, VnetHeader};

/// Flows that can be joined at the same time. More take turns: the one that grew least recently is written.
pub const MAX_RUNS: usize = 8;

/// UDP datagrams in one super-packet at most: what every kernel with the offload accepts (`UDP_MAX_SEGMENTS`).
pub const MAX_UDP_SEGMENTS: usize = 64;

/// Bytes of a super-packet at most, headers included; an IPv4 length field cannot say more.
const MAX_LEN: usize = 65_535;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const DONT_FRAGMENT: u16 = 0x4000;

/// Where packets and super-packets go: the TUN queue.
pub trait TunSink {
    /// One write: `header`, then `packet`. If the kernel refuses a super-packet, `SuperPacket::parse` takes both, to
    /// write it segment by segment.
    fn write(&mut self, header: VnetHeader, packet: &[u8]);
}

/// Which packets may be joined: what the TUN device takes as super-packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// TCP over IPv4.
    pub tcp4: bool,
    /// TCP over IPv6.
    pub tcp6: bool,
    /// UDP over IPv4.
    pub udp4: bool,
    /// UDP over IPv6.
    pub udp6: bool,
}

impl Offloads {
    /// Every kind.
    pub const ALL: Self = Self { tcp4: true, tcp6: true, udp4: true, udp6: true };
    /// None: every packet is written as it is.
    pub const NONE: Self = Self { tcp4: false, tcp6: false, udp4: false, udp6: false };

    fn allow(&self, layers: &Layers) -> bool {
        match (layers.protocol == TCP, layers.v6) {
            (true, false) => self.tcp4,
            (true, true) => self.tcp6,
            (false, false) => self.udp4,
            (false, true) => self.udp6,
        }
    }
}

/// Joins packets of one batch. Holds at most [`MAX_RUNS`] buffers of 64 KiB, all allocated by [`Coalescer::new`].
#[derive(Debug)]
pub struct Coalescer {
    allowed: Offloads,
    runs: [Run; MAX_RUNS],
    /// Numbers of all runs. The first `open` are in use, in the order in which they last grew, the last grown last.
    order: [usize; MAX_RUNS],
    open: usize,
}

impl Coalescer {
    /// Joins what `allowed` says.
    pub fn new(allowed: Offloads) -> Self {
        Self {
            allowed,
            runs: core::array::from_fn(|_| Run::new()),
            order: core::array::from_fn(|i| i),
            open: 0,
        }
    }

    /// From now on joins what `allowed` says. What is already joined stays so: flush before if that matters.
    pub fn set_allowed(&mut self, allowed: Offloads) {
        self.allowed = allowed;
    }

    /// One packet from the tunnel. It is written at once or later, with [`Self::flush`] at the latest.
    pub fn push(&mut self, packet: &[u8], sink: &mut dyn TunSink) {
        let Some(key) = FlowKey::of(packet) else { return sink.write(VnetHeader::NONE, packet) };
        let Some(joinable) = Joinable::parse(packet, &self.allowed) else {
            self.emit_before(&key, sink);
            return sink.write(VnetHeader::NONE, packet);
        };
        if let Some(at) = self.find(&key) {
            let run = &mut self.runs[self.order[at]];
            if run.continues_with(&joinable) && joinable.is_sound() {
                run.append(&joinable);
                if run.ended {
                    return self.emit(at, sink);
                }
                // Now it is the last grown.
                return self.order[at..self.open].rotate_left(1);
            }
            self.emit(at, sink);
        }
        if joinable.push || !joinable.is_sound() {
            return sink.write(VnetHeader::NONE, packet);
        }
        if self.open == MAX_RUNS {
            self.emit(0, sink);
        }
        self.runs[self.order[self.open]].start(key, &joinable);
        self.open += 1;
    }

    /// Writes all that is still held: the batch is over.
    pub fn flush(&mut self, sink: &mut dyn TunSink) {
        while self.open > 0 {
            self.emit(0, sink);
        }
    }

    /// The place in the order of the run of this flow.
    fn find(&self, key: &FlowKey) -> Option<usize> {
        self.order[..self.open].iter().rposition(|run| self.runs[*run].key.as_ref() == Some(key))
    }

    /// Writes every run that a packet which joins none could have been part of.
    fn emit_before(&mut self, key: &FlowKey, sink: &mut dyn TunSink) {
        let mut at = 0;
        while at < self.open {
            if self.runs[self.order[at]].key.is_some_and(|run| key.may_carry(&run)) {
                self.emit(at, sink);
            } else {
                at += 1;
            }
        }
    }

    /// Writes the run at this place of the order and makes it free.
    fn emit(&mut self, at: usize, sink: &mut dyn TunSink) {
        self.runs[self.order[at]].emit(sink);
        self.order[at..self.open].rotate_left(1);
        self.open -= 1;
    }
}

/// An ordinary packet with payload that may begin or continue a run.
struct Joinable<'a> {
    packet: &'a [u8],
    layers: Layers,
    /// TCP with PSH: nothing may follow in the same run.
    push: bool,
}

impl<'a> Joinable<'a> {
    /// Everything but the checksums, which cost most.
    fn parse(packet: &'a [u8], allowed: &Offloads) -> Option<Self> {
        let layers = Layers::parse(packet)?;
        let with_options = !layers.v6 && layers.transport != 20;
        if !allowed.allow(&layers) || layers.payload == layers.len || layers.len > MAX_LEN || with_options {
            return None;
        }
        // The reserved bit is not for us to lose; TCP without DF could be cut again on a host behind this one.
        let fragmentation = if layers.v6 { DONT_FRAGMENT } else { word(packet, 6) };
        let transport = &packet[layers.transport..];
        let (ordinary, push) = if layers.protocol == TCP {
            let flags = transport[13];
            (flags & !PSH == ACK && fragmentation == DONT_FRAGMENT, flags & PSH != 0)
        } else {
            (word(transport, 6) != 0 && fragmentation & !DONT_FRAGMENT == 0, false)
        };
        ordinary.then_some(Self { packet, layers, push })
    }

    /// Whether its checksums are right.
    fn is_sound(&self) -> bool {
        let (ip, transport) = self.packet.split_at(self.layers.transport);
        let pseudo = self.layers.pseudo_header(self.packet, transport.len());
        let ip_sound = self.layers.v6 || fold(checksum::sum(0, ip)) == 0xffff;
        ip_sound && fold(checksum::sum(pseudo, transport)) == 0xffff
    }

    fn payload(&self) -> &'a [u8] {
        &self.packet[self.layers.payload..]
    }
}

/// Packets of one flow, joined: the headers are those of the first until it is written.
#[derive(Debug)]
struct Run {
    buffer: Box<[u8]>,
    /// The flow; `None` while the run is free.
    key: Option<FlowKey>,
    /// Of the first packet, but `len` is that of the whole.
    layers: Layers,
    /// Payload bytes of the first packet; no other has more.
    share: usize,
    segments: usize,
    /// The sequence number TCP goes on with.
    sequence: u32,
    /// The last packet was short or had PSH: nothing may follow.
    ended: bool,
}

impl Run {
    fn new() -> Self {
        let layers = Layers { v6: false, protocol: UDP, transport: 0, payload: 0, len: 0 };
        let buffer = vec![0; MAX_LEN].into_boxed_slice();
        Self { buffer, key: None, layers, share: 0, segments: 0, sequence: 0, ended: false }
    }

    fn start(&mut self, key: FlowKey, first: &Joinable<'_>) {
        let layers = first.layers;
        self.buffer[..layers.len].copy_from_slice(first.packet);
        self.key = Some(key);
        self.layers = layers;
        self.share = layers.len - layers.payload;
        self.segments = 1;
        self.sequence = self.after(first);
        self.ended = false;
    }

    /// Whether `next`, a packet of the same flow, may be appended: its headers are what splitting would give it.
    fn continues_with(&self, next: &Joinable<'_>) -> bool {
        let (Layers { v6, protocol, transport, payload, .. }, packet) = (next.layers, next.packet);
        let next_len = next.payload().len();
        let room =
            self.layers.len + next_len <= MAX_LEN && (protocol == TCP || self.segments < MAX_UDP_SEGMENTS);
        if payload != self.layers.payload || next_len > self.share || !room {
            return false;
        }
        let first = &self.buffer[..payload];
        let same = |from: usize, to: usize| packet[from..to] == first[from..to];
        let same_ip = if v6 {
            // Version, traffic class, flow label; hop limit.
            same(0, 4) && same(7, 8)
        } else {
            // Version, length, TOS; DF; TTL. Identification means something without DF only (RFC 6864 §4.1).
            let id = word(first, 4).wrapping_add(short(self.segments));
            same(0, 2) && same(6, 9) && (word(packet, 6) == DONT_FRAGMENT || word(packet, 4) == id)
        };
        if protocol == UDP {
            return same_ip;
        }
        // Acknowledgement, data offset; window; urgent pointer and options.
        let same_tcp = same(transport + 8, transport + 13)
            && same(transport + 14, transport + 16)
            && same(transport + 18, payload);
        same_ip && same_tcp && long(packet, transport + 4) == self.sequence
    }

    fn append(&mut self, next: &Joinable<'_>) {
        let payload = next.payload();
        let end = self.layers.len + payload.len();
        self.buffer[self.layers.len..end].copy_from_slice(payload);
        self.layers.len = end;
        self.segments += 1;
        self.sequence = self.after(next);
        if next.push {
            self.buffer[self.layers.transport + 13] |= PSH;
        }
        self.ended = next.push || payload.len() < self.share;
    }

    /// The sequence number that follows `packet`.
    fn after(&self, packet: &Joinable<'_>) -> u32 {
        let len = u32::from(short(packet.payload().len()));
        match packet.layers.protocol {
            TCP => long(packet.packet, packet.layers.transport + 4).wrapping_add(len),
            _ => 0,
        }
    }

    /// Writes it: a single packet as it came, several with the headers of the whole.
    fn emit(&mut self, sink: &mut dyn TunSink) {
        self.key = None;
        let header = if self.segments == 1 { VnetHeader::NONE } else { self.finish() };
        sink.write(header, &self.buffer[..self.layers.len]);
    }

    /// Makes the headers those of the whole. The checksum is left to the kernel, who wants the pseudo header's sum.
    fn finish(&mut self) -> VnetHeader {
        let layers = self.layers;
        let packet = &mut self.buffer[..layers.len];
        let transport_len = layers.len - layers.transport;
        if layers.v6 {
            put(packet, 4, short(transport_len));
        } else {
            let old = word(packet, 2);
            put(packet, 2, short(layers.len));
            let checksum = checksum::update(word(packet, 10), old, word(packet, 2));
            put(packet, 10, checksum);
        }
        if layers.protocol == UDP {
            put(packet, layers.transport + 4, short(transport_len));
        }
        let pseudo = fold(layers.pseudo_header(packet, transport_len));
        put(packet, layers.transport + layers.checksum_offset(), pseudo);
        VnetHeader {
            needs_csum: true,
            gso: match (layers.protocol, layers.v6) {
                (TCP, false) => Gso::TcpV4,
                (TCP, true) => Gso::TcpV6,
                _ => Gso::UdpL4,
            },
            hdr_len: short(layers.payload),
            gso_size: short(self.share),
            csum_start: short(layers.transport),
            csum_offset: short(layers.checksum_offset()),
            ..VnetHeader::NONE
        }
    }
}
