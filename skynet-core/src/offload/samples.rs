//! Packets for the tests of this module.

use super::checksum::{finish, finish_udp, pseudo_header, sum};
use super::coalesce::TunSink;
use super::layers::{TCP, UDP, put};
use super::split::SuperPacket;
use super::vnet::VnetHeader;

/// A packet by its parts; the rest of its bytes follows from them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sample {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) backwards: bool,
    pub(crate) ports: (u16, u16),
    pub(crate) id: u16,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// TCP options in units of four bytes.
    pub(crate) options: u8,
    pub(crate) payload_len: usize,
    /// The first byte of the payload; each next one is greater by seven.
    pub(crate) fill: u8,
}

/// A TCP segment with so many bytes of payload.
pub(crate) fn tcp(v6: bool, payload_len: usize) -> Vec<u8> {
    Sample { v6, payload_len, ..Sample::BASE }.packet()
}

/// A SYN with these options, filled up with "no operation".
pub(crate) fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
    let units = u8::try_from(options.len().div_ceil(4)).unwrap();
    let mut packet = Sample { v6, flags: 0x02, options: units, payload_len: 0, ..Sample::BASE }.packet();
    let transport = if v6 { 40 } else { 20 };
    packet[transport + 20..].fill(1);
    packet[transport + 20..][..options.len()].copy_from_slice(options);
    put(&mut packet, transport + 16, 0);
    let addresses = if v6 { 8..40 } else { 12..20 };
    let pseudo = pseudo_header(&packet[addresses], TCP, packet.len() - transport);
    let checksum = finish(sum(pseudo, &packet[transport..]));
    put(&mut packet, transport + 16, checksum);
    packet
}

impl Sample {
    const BASE: Self = Self {
        v6: false,
        tcp: true,
        backwards: false,
        ports: (40_000, 443),
        id: 0xfffe,
        tos: 0x02,
        ttl: 63,
        dont_fragment: true,
        sequence: 0xffff_ff00,
        ack: 77,
        flags: 0x10,
        window: 501,
        options: 3,
        payload_len: 1001,
        fill: 1,
    };

    /// TCP and UDP over IPv4 and IPv6.
    pub(crate) const KINDS: [Self; 4] = [
        Self::BASE,
        Self { v6: true, ..Self::BASE },
        Self { tcp: false, ..Self::BASE },
        Self { v6: true, tcp: false, ..Self::BASE },
    ];

    /// The same in the other direction.
    pub(crate) fn reversed(self) -> Self {
        Self { backwards: !self.backwards, ports: (self.ports.1, self.ports.0), ..self }
    }

    /// The packet that follows it in its flow.
    pub(crate) fn next(self) -> Self {
        Self {
            id: self.id.wrapping_add(1),
            sequence: self.sequence.wrapping_add(u32::try_from(self.payload_len).unwrap()),
            fill: self.fill.wrapping_add(31),
            ..self
        }
    }

    /// `n` packets of its flow, each following the one before.
    pub(crate) fn flow(self, n: usize) -> Vec<Vec<u8>> {
        core::iter::successors(Some(self), |s| Some(s.next())).take(n).map(|s| s.packet()).collect()
    }

    /// Its bytes, with right checksums.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let transport = self.transport();
        let protocol = if self.tcp { TCP } else { UDP };
        let len = u16::try_from(transport.len()).unwrap();
        let mut p = if self.v6 {
            let mut p = vec![0x60 | self.tos >> 4, self.tos << 4 | 1, 2, 3, 0, 0, protocol, self.ttl];
            put(&mut p, 4, len);
            p
        } else {
            let mut p = vec![0x45, self.tos, 0, 0, 0, 0, 0, 0, self.ttl, protocol, 0, 0];
            put(&mut p, 2, len + 20);
            put(&mut p, 4, self.id);
            put(&mut p, 6, u16::from(self.dont_fragment) << 14);
            p
        };
        let addresses = p.len();
        let (from, to) = if self.backwards { (2, 1) } else { (1, 2) };
        let width = if self.v6 { 15 } else { 3 };
        for end in [from, to] {
            p.extend(core::iter::once(10).chain(core::iter::repeat_n(0, width - 1)).chain([end]));
        }
        let header_len = p.len();
        p.extend(transport);
        let pseudo = pseudo_header(&p[addresses..header_len], protocol, len.into());
        let total = sum(pseudo, &p[header_len..]);
        let (at, checksum) = if self.tcp { (16, finish(total)) } else { (6, finish_udp(total)) };
        put(&mut p, header_len + at, checksum);
        if !self.v6 {
            let checksum = finish(sum(0, &p[..20]));
            put(&mut p, 10, checksum);
        }
        p
    }

    fn transport(&self) -> Vec<u8> {
        let mut t = Vec::new();
        t.extend(self.ports.0.to_be_bytes());
        t.extend(self.ports.1.to_be_bytes());
        if self.tcp {
            t.extend(self.sequence.to_be_bytes());
            t.extend(self.ack.to_be_bytes());
            t.extend([(5 + self.options) << 4, self.flags]);
            t.extend(self.window.to_be_bytes());
            t.extend([0; 4]);
            t.extend((0..self.options * 4).map(|i| i | 0x40));
        } else {
            t.extend(u16::try_from(8 + self.payload_len).unwrap().to_be_bytes());
            t.extend([0; 2]);
        }
        t.extend((0..self.payload_len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(self.fill)));
        t
    }
}

/// What was written.
#[derive(Default)]
pub(crate) struct Collect(pub(crate) Vec<(VnetHeader, Vec<u8>)>);

impl TunSink for Collect {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        self.0.push((header, packet.to_vec()));
    }
}

impl Collect {
    /// Every packet that was written, super-packets cut again.
    pub(crate) fn split(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (header, packet) in &self.0 {
            if *header == VnetHeader::NONE {
                packets.push(packet.clone());
                continue;
            }
            let whole = SuperPacket::parse(*header, packet).expect("what is written can be split");
            for i in 0..whole.segments() {
                let mut out = vec![0; whole.segment_len(i)];
                assert_eq!(whole.write_segment(i, &mut out), out.len());
                packets.push(out);
            }
        }
        packets
    }
}
