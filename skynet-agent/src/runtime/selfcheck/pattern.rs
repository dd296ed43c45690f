//! Packets for the TUN device's check: a flow of patterned segments, and the super-packet they make.
//!
//! Ports are 9 (discard) unless a socket is meant. TCP written towards this host carries RST: nobody answers it, and
//! connection tracking ignores one that belongs to no connection.

use std::net::IpAddr;

use skynet_core::offload::{Coalescer, Offloads, TunSink, VnetHeader, checksum};

/// Segments of a pattern; the last one is shorter.
pub(super) const COUNT: usize = 8;
const PAYLOAD: usize = 1_200;
const LAST: usize = 77;
const DISCARD: u16 = 9;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Where TCP has its flags.
const FLAGS: usize = 13;

/// What the packets of a pattern have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flow {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) tcp: bool,
    /// The UDP destination port.
    pub(super) port: Option<u16>,
}

/// A header and its packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Framed {
    pub(super) header: VnetHeader,
    pub(super) packet: Vec<u8>,
}

impl Flow {
    /// The payload of segment `i`.
    pub(super) fn payload(i: usize) -> Vec<u8> {
        let len = if i + 1 == COUNT { LAST } else { PAYLOAD };
        (0..len).map(|at| (at * 31 + i * 7 + 0x4d).to_le_bytes()[0]).collect()
    }

    /// Segment `i` with right checksums.
    pub(super) fn segment(&self, i: usize) -> Vec<u8> {
        self.segment_with(i, ACK)
    }

    /// An ordinary packet of the flow that nobody answers.
    pub(super) fn single_unanswered(&self) -> Framed {
        Framed { header: VnetHeader::NONE, packet: self.segment_with(0, ACK | RST) }
    }

    fn segment_with(&self, i: usize, flags: u8) -> Vec<u8> {
        let payload = Self::payload(i);
        let mut transport = DISCARD.to_be_bytes().to_vec();
        transport.extend(self.port.unwrap_or(DISCARD).to_be_bytes());
        if self.tcp {
            transport.extend(u32::try_from(i * PAYLOAD).unwrap_or_default().to_be_bytes());
            transport.extend([0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        } else {
            transport.extend(short(8 + payload.len()));
            transport.extend([0, 0]);
        }
        transport.extend(payload);
        let protocol = if self.tcp { 6 } else { 17 };
        let (mut packet, addresses) = self.ip_header(i, protocol, transport.len());
        let pseudo = checksum::pseudo_header(&packet[addresses..], protocol, transport.len());
        let sum = checksum::sum(pseudo, &transport);
        let (at, sum) = if self.tcp { (16, checksum::finish(sum)) } else { (6, checksum::finish_udp(sum)) };
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet.extend(transport);
        packet
    }

    /// Whether this packet has the addresses and ports of the flow.
    pub(super) fn owns(&self, packet: &[u8]) -> bool {
        let ours = self.segment(0);
        let (addresses, ports) = if self.to.is_ipv4() { (12..20, 20..24) } else { (8..40, 40..44) };
        let same = |range: std::ops::Range<usize>| packet.get(range.clone()) == ours.get(range);
        packet.first().map(|b| b >> 4) == ours.first().map(|b| b >> 4) && same(addresses) && same(ports)
    }

    /// The IP header and where its addresses begin.
    fn ip_header(&self, i: usize, protocol: u8, len: usize) -> (Vec<u8>, usize) {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, 0];
                ip.extend(short(20 + len));
                ip.extend(short(i));
                ip.extend([0x40, 0, 64, protocol, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                let sum = checksum::finish(checksum::sum(0, &ip));
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                (ip, 12)
            }
            (from, to) => {
                let octets = |ip| match ip {
                    IpAddr::V4(ip) => std::net::Ipv4Addr::to_ipv6_mapped(&ip).octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend(short(len));
                ip.extend([protocol, 64]);
                ip.extend(octets(from));
                ip.extend(octets(to));
                (ip, 8)
            }
        }
    }

    /// All segments as one super-packet, as the inbound half would write it.
    pub(super) fn joined(&self) -> Option<Framed> {
        let mut one = One(None);
        let mut coalescer = Coalescer::new(Offloads::ALL);
        (0..COUNT).for_each(|i| coalescer.push(&self.segment(i), &mut one));
        coalescer.flush(&mut one);
        one.0
    }

    /// The same that nobody answers: TCP with RST, which the begun checksum does not cover yet.
    pub(super) fn joined_unanswered(&self) -> Option<Framed> {
        let mut framed = self.joined()?;
        if self.tcp {
            let transport = usize::from(framed.header.csum_start);
            *framed.packet.get_mut(transport + FLAGS)? |= RST;
        }
        Some(framed)
    }
}

impl Framed {
    /// As bytes, the header in front.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [&self.header.encode()[..], &self.packet].concat()
    }

    /// From bytes; `None` if the header makes no sense.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, packet) = VnetHeader::parse(bytes).ok()?;
        Some(Self { header, packet: packet.to_vec() })
    }
}

struct One(Option<Framed>);

impl TunSink for One {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        self.0 = Some(Framed { header, packet: packet.to_vec() });
    }
}

fn short(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or_default().to_be_bytes()
}
