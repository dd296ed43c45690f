//! Segmentation offload against packets that another implementation (etherparse) builds.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::ops::Range;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
use proptest::prelude::*;
use skynet_core::offload::{Coalescer, Gso, MAX_SEGMENTS, Offloads, SuperPacket, TunSink, VnetHeader};

/// What is the same in all segments of a super-packet.
#[derive(Clone, Copy, Debug)]
struct Flow {
    v6: bool,
    tcp: bool,
    addresses: ([u8; 16], [u8; 16]),
    ports: (u16, u16),
    traffic_class: u8,
    ttl: u8,
    id: u16,
    sequence: u32,
    ack: u32,
    window: u16,
    options: usize,
    /// CWR, ECE, PSH, FIN of the super-packet.
    flags: [bool; 4],
}

impl Flow {
    fn gso(&self) -> Gso {
        match (self.tcp, self.v6) {
            (true, false) => Gso::TcpV4,
            (true, true) => Gso::TcpV6,
            _ => Gso::UdpL4,
        }
    }

    fn ip_header_len(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    fn header_len(&self) -> usize {
        self.ip_header_len() + if self.tcp { 20 + self.options * 4 } else { 8 }
    }

    /// The packet that carries these bytes of the flow's payload as its segment number `i`.
    fn packet(&self, payload: &[u8], range: Range<usize>, i: u16) -> Vec<u8> {
        let (first, last) = (range.start == 0, range.end == payload.len());
        let offset = u32::try_from(range.start).unwrap();
        let payload = &payload[range];
        let len = u16::try_from(payload.len()).unwrap();
        let mut tcp =
            TcpHeader::new(self.ports.0, self.ports.1, self.sequence.wrapping_add(offset), self.window);
        tcp.set_options_raw(&[1; 40][..self.options * 4]).unwrap();
        tcp.ack = true;
        tcp.acknowledgment_number = self.ack;
        let [cwr, ece, psh, fin] = self.flags;
        (tcp.cwr, tcp.ece, tcp.psh, tcp.fin) = (cwr && first, ece, psh && last, fin && last);
        let udp = UdpHeader {
            source_port: self.ports.0,
            destination_port: self.ports.1,
            length: 8 + len,
            checksum: 0,
        };
        let (ip, transport) =
            if self.v6 { self.over_v6(tcp, udp, payload) } else { self.over_v4(tcp, udp, payload, i) };
        [&ip, &transport, payload].concat()
    }

    fn over_v4(&self, mut tcp: TcpHeader, mut udp: UdpHeader, payload: &[u8], i: u16) -> (Vec<u8>, Vec<u8>) {
        let source: [u8; 4] = self.addresses.0[..4].try_into().unwrap();
        let destination: [u8; 4] = self.addresses.1[..4].try_into().unwrap();
        let len = self.header_len() - 20 + payload.len();
        let protocol = if self.tcp { IpNumber::TCP } else { IpNumber::UDP };
        let mut ip =
            Ipv4Header::new(u16::try_from(len).unwrap(), self.ttl, protocol, source, destination).unwrap();
        ip.identification = self.id.wrapping_add(i);
        ip.dont_fragment = true;
        ip.dscp = (self.traffic_class >> 2).try_into().unwrap();
        ip.ecn = (self.traffic_class & 3).try_into().unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
        udp.checksum = udp.calc_checksum_ipv4(&ip, payload).unwrap();
        (ip.to_bytes().to_vec(), if self.tcp { tcp.to_bytes().to_vec() } else { udp.to_bytes().to_vec() })
    }

    fn over_v6(&self, mut tcp: TcpHeader, mut udp: UdpHeader, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let ip = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: 0x1_2345.try_into().unwrap(),
            payload_length: u16::try_from(self.header_len() - 40 + payload.len()).unwrap(),
            next_header: if self.tcp { IpNumber::TCP } else { IpNumber::UDP },
            hop_limit: self.ttl,
            source: self.addresses.0,
            destination: self.addresses.1,
        };
        tcp.checksum = tcp.calc_checksum_ipv6(&ip, payload).unwrap();
        udp.checksum = udp.calc_checksum_ipv6(&ip, payload).unwrap();
        (ip.to_bytes().to_vec(), if self.tcp { tcp.to_bytes().to_vec() } else { udp.to_bytes().to_vec() })
    }

    fn vnet_header(&self, gso_size: usize) -> VnetHeader {
        VnetHeader {
            needs_csum: true,
            gso: self.gso(),
            hdr_len: u16::try_from(self.header_len()).unwrap(),
            gso_size: u16::try_from(gso_size).unwrap(),
            csum_start: u16::try_from(self.ip_header_len()).unwrap(),
            csum_offset: if self.tcp { 16 } else { 6 },
            ..VnetHeader::NONE
        }
    }

    /// The payload in packets of `size` bytes.
    fn packets(&self, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let starts = (0..payload.len()).step_by(size);
        (0..).zip(starts).map(|(i, at)| self.packet(payload, at..payload.len().min(at + size), i)).collect()
    }
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let ip = (any::<bool>(), any::<bool>(), any::<([u8; 16], [u8; 16])>(), any::<u8>(), any::<u8>());
    let transport =
        (any::<(u16, u16)>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u16>(), 0usize..=10);
    (ip, transport, any::<[bool; 4]>()).prop_map(|(ip, transport, flags)| Flow {
        v6: ip.0,
        tcp: ip.1,
        addresses: ip.2,
        traffic_class: ip.3,
        ttl: ip.4,
        ports: transport.0,
        id: transport.1,
        sequence: transport.2,
        ack: transport.3,
        window: transport.4,
        options: transport.5,
        flags,
    })
}

fn split(header: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let whole = SuperPacket::parse(header, packet).unwrap();
    let write = |i| {
        // Old bytes around it must not matter.
        let mut out = vec![0xa5; whole.segment_len_max() + 16];
        let len = whole.write_segment(i, &mut out);
        out.truncate(len);
        out
    };
    (0..whole.segments()).map(write).collect()
}

#[derive(Default)]
struct Written(Vec<(VnetHeader, Vec<u8>)>);

impl TunSink for Written {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        self.0.push((header, packet.to_vec()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_super_packet_becomes_the_packets_another_implementation_builds(
        flow in any_flow(),
        payload in prop::collection::vec(any::<u8>(), 1..40_000),
        size in prop_oneof![1usize..100, 500usize..1500, Just(1448)],
    ) {
        let size = size.clamp(payload.len().div_ceil(MAX_SEGMENTS), payload.len().max(20));
        let mut whole = flow.packet(&payload, 0..payload.len(), 0);
        // What the kernel leaves in the field is no checksum yet.
        let field = flow.ip_header_len() + if flow.tcp { 16 } else { 6 };
        whole[field] ^= 0x5a;
        prop_assert_eq!(split(flow.vnet_header(size), &whole), flow.packets(&payload, size));
    }

    #[test]
    fn a_partial_checksum_becomes_the_one_another_implementation_computes(
        flow in any_flow(),
        payload in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        let expected = flow.packet(&payload, 0..payload.len(), 0);
        let transport = flow.ip_header_len();
        let addresses = &expected[if flow.v6 { 8..40 } else { 12..20 }];
        let words: u32 = addresses.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let pseudo = words + u32::try_from(expected.len() - transport).unwrap() + if flow.tcp { 6 } else { 17 };
        let partial = u16::try_from(pseudo % 0xffff).unwrap();
        let mut begun = expected.clone();
        let field = transport + if flow.tcp { 16 } else { 6 };
        begun[field..field + 2].copy_from_slice(&partial.to_be_bytes());
        let header = VnetHeader { gso: Gso::None, gso_size: 0, ..flow.vnet_header(0) };
        prop_assert_eq!(split(header, &begun), [expected]);
    }

    #[test]
    fn packets_another_implementation_builds_are_joined_and_split_again(
        flow in any_flow(),
        payload in prop::collection::vec(any::<u8>(), 1..40_000),
        size in prop_oneof![200usize..1500, Just(1448)],
    ) {
        let flow = Flow { flags: [false, false, flow.flags[2], false], ..flow };
        let packets = flow.packets(&payload, size);
        let mut written = Written::default();
        let mut coalescer = Coalescer::new(Offloads::ALL);
        packets.iter().for_each(|p| coalescer.push(p, &mut written));
        coalescer.flush(&mut written);
        let most = if flow.tcp { 65_535 } else { 64 };
        prop_assert_eq!(written.0.len(), packets.len().div_ceil(most));
        let again: Vec<_> = written.0.iter().flat_map(|(header, packet)| split(*header, packet)).collect();
        prop_assert_eq!(again, packets);
    }
}
