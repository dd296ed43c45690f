//! Out: one super-packet from the kernel becomes the packets that fit the path.
//!
//! Like the kernel's own segmentation: every segment gets the super-packet's header, with lengths, IPv4 identification,
//! TCP sequence number, FIN, PSH, CWR and the checksums made its own. What the kernel says about lengths is checked
//! against the packet; what does not change between segments is summed once.

use super::checksum::{self, finish, finish_udp, fold, without};
use super::ecn;
use super::flow::flow_hash;
use super::layers::{Layers, TCP, UDP, checksum_offset, long, put, short, word};
use super::vnet::{Gso, VnetHeader};
use crate::drop::DropReason;
use crate::wire::ip::IpPacket;

/// Segments of one super-packet at most. Linux sends no TCP segment below an MSS of 48 (`tcp_min_snd_mss`), which are
/// 1,365 in 64 KiB, and no more than 128 UDP ones; beyond 2,048 the headers would outweigh everything else.
pub const MAX_SEGMENTS: usize = 2048;

const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
const PSH: u8 = 0x08;
pub(super) const CWR: u8 = 0x80;
/// Where TCP has its flags.
pub(super) const FLAGS: usize = 13;

/// A packet from the TUN device that can be written out segment by segment. An ordinary packet is one of one segment.
#[derive(Clone, Copy, Debug)]
pub struct SuperPacket<'a> {
    pub(super) ip: IpPacket<'a>,
    pub(super) segments: usize,
    /// Bytes in front of each segment's share; 0 for an ordinary packet.
    pub(super) header_len: usize,
    /// Bytes of a segment's share, except the last's, which may be shorter.
    pub(super) share: usize,
    pub(super) plan: Plan,
}

/// What has to be done to each segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// Nothing.
    Copy,
    /// Sum from `start` and store it at `field`.
    Checksum { start: usize, field: usize },
    /// Rewrite the headers.
    Segment(Template),
}

/// The headers of a super-packet, with the sums of all that is the same in every segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template {
    pub(super) layers: Layers,
    /// The IPv4 header without length, identification and checksum.
    ip_sum: u32,
    /// IPv4 identification of the first segment.
    id: u16,
    /// Pseudo header and transport header without length, checksum, and TCP's sequence number and flags.
    transport_sum: u32,
    /// TCP sequence number of the first segment.
    sequence: u32,
}

impl<'a> SuperPacket<'a> {
    /// Checks that `header` and `packet` fit each other. [`DropReason::NotIp`] or [`DropReason::BadOffload`] if not:
    /// a fragment, extension headers or another protocol to be segmented, no segment size or more than
    /// [`MAX_SEGMENTS`], a length of zero (as jumbo super-packets have), a checksum outside of the packet.
    pub fn parse(header: VnetHeader, packet: &'a [u8]) -> Result<Self, DropReason> {
        let ip = IpPacket::parse(packet).map_err(|_| DropReason::NotIp)?;
        if header.gso != Gso::None {
            return Self::parse_segmented(header, packet, ip);
        }
        let packet = ip.bytes();
        let plan = if header.needs_csum { partial_checksum(&header, packet)? } else { Plan::Copy };
        Ok(Self { ip, segments: 1, header_len: 0, share: packet.len(), plan })
    }

    fn parse_segmented(header: VnetHeader, packet: &'a [u8], ip: IpPacket<'a>) -> Result<Self, DropReason> {
        let layers = Layers::parse(packet).ok_or(DropReason::BadOffload)?;
        let fits = match header.gso {
            Gso::None => false,
            Gso::TcpV4 => !layers.v6 && layers.protocol == TCP,
            Gso::TcpV6 => layers.v6 && layers.protocol == TCP,
            Gso::UdpL4 => layers.protocol == UDP,
        };
        let covers_transport = usize::from(header.csum_start) == layers.transport
            && usize::from(header.csum_offset) == layers.checksum_offset();
        let share = usize::from(header.gso_size);
        let payload_len = layers.len - layers.payload;
        if !fits || (header.needs_csum && !covers_transport) || !(1..=packet.len()).contains(&share) {
            return Err(DropReason::BadOffload);
        }
        // A connection neither begins nor breaks in the middle of a super-packet.
        if layers.protocol == TCP && packet[layers.transport + FLAGS] & (SYN | RST) != 0 {
            return Err(DropReason::BadOffload);
        }
        let segments = payload_len.div_ceil(share);
        if !(1..=MAX_SEGMENTS).contains(&segments) {
            return Err(DropReason::BadOffload);
        }
        let plan = Plan::Segment(Template::new(layers, packet));
        Ok(Self { ip, segments, header_len: layers.payload, share, plan })
    }

    /// The packet's IP header: all segments have its addresses.
    pub fn ip(&self) -> &IpPacket<'a> {
        &self.ip
    }

    /// The ECN codepoint, two bits (RFC 3168 §5).
    pub fn ecn(&self) -> u8 {
        ecn::codepoint(self.ip.bytes())
    }

    /// The hash of its flow, the same for every segment: see [`flow_hash`].
    pub fn flow_hash(&self) -> u32 {
        flow_hash(self.ip.bytes())
    }

    /// How many packets it becomes: 1 to [`MAX_SEGMENTS`].
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Bytes of packet `i`, which is below [`Self::segments`].
    pub fn segment_len(&self, i: usize) -> usize {
        self.header_len + self.payload(i).len()
    }

    /// Bytes of the longest packet: the first.
    pub fn segment_len_max(&self) -> usize {
        self.segment_len(0)
    }

    /// Writes packet `i` to the front of `out` and says how long it is. Panics if `i` is not below [`Self::segments`]
    /// or `out` is shorter than [`Self::segment_len`].
    pub fn write_segment(&self, i: usize, out: &mut [u8]) -> usize {
        let payload = self.payload(i);
        let (header, rest) = out.split_at_mut(self.header_len);
        header.copy_from_slice(&self.ip.bytes()[..self.header_len]);
        rest[..payload.len()].copy_from_slice(payload);
        let len = self.header_len + payload.len();
        match &self.plan {
            Plan::Copy => {}
            Plan::Checksum { start, field } => complete(&mut out[..len], *start, *field),
            Plan::Segment(template) => {
                let place = Place { i, offset: i * self.share, last: i + 1 == self.segments };
                template.finish(&mut out[..len], place);
            }
        }
        len
    }

    /// The share of segment `i`.
    fn payload(&self, i: usize) -> &'a [u8] {
        assert!(i < self.segments, "segment {i} of {}", self.segments);
        let payload = &self.ip.bytes()[self.header_len..];
        let from = i * self.share;
        &payload[from..payload.len().min(from + self.share)]
    }
}

/// An ordinary packet whose checksum is begun; the field must lie in the packet, behind its IP header.
fn partial_checksum(header: &VnetHeader, packet: &[u8]) -> Result<Plan, DropReason> {
    let ip_header = if packet[0] >> 4 == 6 { 40 } else { usize::from(packet[0] & 0x0f) * 4 };
    let start = usize::from(header.csum_start);
    let field = start + usize::from(header.csum_offset);
    if start < ip_header || field + 2 > packet.len() || !header.csum_offset.is_multiple_of(2) {
        return Err(DropReason::BadOffload);
    }
    Ok(Plan::Checksum { start, field })
}

/// Adds everything from `start` on to the pseudo header's sum that lies in `field`.
fn complete(packet: &mut [u8], start: usize, field: usize) {
    let checksum = completed(packet, start, field);
    put(packet, field, checksum);
}

/// The checksum that [`complete`] stores.
pub(super) fn completed(packet: &[u8], start: usize, field: usize) -> u16 {
    let sum = checksum::sum(0, &packet[start..]);
    // Of the protocols whose checksum can be partial, only UDP has it there.
    let is_udp = field - start == checksum_offset(UDP);
    if is_udp { finish_udp(sum) } else { finish(sum) }
}

/// Which segment is being written.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) i: usize,
    /// Payload bytes of the segments before it.
    pub(super) offset: usize,
    pub(super) last: bool,
}

impl Template {
    fn new(layers: Layers, packet: &[u8]) -> Self {
        let (ip, transport) = (&packet[..layers.transport], &packet[layers.transport..layers.payload]);
        let ip_sum = [2, 4, 10].iter().fold(checksum::sum(0, ip), |sum, at| without(sum, word(ip, *at)));
        let changing: &[usize] = if layers.protocol == TCP { &[4, 6, 12, 16] } else { &[4, 6] };
        let all = checksum::sum(layers.pseudo_header(packet, 0), transport);
        let transport_sum = changing.iter().fold(all, |sum, at| without(sum, word(transport, *at)));
        let sequence = if layers.protocol == TCP { long(transport, 4) } else { 0 };
        let (ip_sum, transport_sum) = (fold(ip_sum).into(), fold(transport_sum).into());
        Self { layers, ip_sum, id: word(packet, 4), transport_sum, sequence }
    }

    /// Makes the copied headers those of this segment.
    fn finish(&self, segment: &mut [u8], place: Place) {
        let (ip, transport) = segment.split_at_mut(self.layers.transport);
        let len = short(transport.len());
        if self.layers.v6 {
            put(ip, 4, len);
        } else {
            self.finish_ipv4(ip, len, place);
        }
        if self.layers.protocol == TCP {
            self.finish_tcp(transport, len, place);
        } else {
            put(transport, 4, len);
            put(transport, 6, 0);
            // The length counts twice: in the pseudo header and in the header.
            let sum = checksum::sum(self.transport_sum + 2 * u32::from(len), &transport[8..]);
            put(transport, 6, finish_udp(sum));
        }
    }

    pub(super) fn finish_ipv4(&self, ip: &mut [u8], transport_len: u16, place: Place) {
        let total = short(ip.len() + usize::from(transport_len));
        let id = self.id.wrapping_add(short(place.i));
        put(ip, 2, total);
        put(ip, 4, id);
        put(ip, 10, finish(self.ip_sum + u32::from(total) + u32::from(id)));
    }

    /// Sequence number and flags. Returns the number.
    pub(super) fn place_tcp(&self, transport: &mut [u8], place: Place) -> u32 {
        let offset = u32::try_from(place.offset).expect("inside an IP packet");
        let sequence = self.sequence.wrapping_add(offset);
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        let ends = if place.last { 0 } else { FIN | PSH };
        let begins = if place.i == 0 { 0 } else { CWR };
        transport[FLAGS] &= !(ends | begins);
        sequence
    }

    fn finish_tcp(&self, transport: &mut [u8], len: u16, place: Place) {
        let sequence = self.place_tcp(transport, place);
        let changed =
            u32::from(len) + (sequence >> 16) + (sequence & 0xffff) + u32::from(word(transport, FLAGS - 1));
        let payload = &transport[self.layers.payload - self.layers.transport..];
        let sum = checksum::sum(self.transport_sum + changed, payload);
        put(transport, 16, finish(sum));
    }
}
