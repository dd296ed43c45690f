//! Super-packets split by the core and by tun-rs, whose own way of splitting the agent does not use.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use skynet_core::offload::{Coalescer, Offloads, SuperPacket, TunSink, VnetHeader, checksum};
use tun_rs::{VirtioNetHdr, gso_split};

/// A packet of a flow: ports 1 and 2, DF, right checksums. `i` is its place in the flow.
fn packet(v6: bool, tcp: bool, i: usize, payload_len: usize) -> Vec<u8> {
    let protocol = if tcp { 6 } else { 17 };
    let mut transport = vec![0, 1, 0, 2];
    if tcp {
        let sequence = u32::try_from(i * 1301).unwrap().wrapping_sub(3000);
        transport.extend(sequence.to_be_bytes());
        transport.extend([0, 0, 0, 9, 0x60, 0x10, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0]);
    } else {
        transport.extend(u16::try_from(payload_len + 8).unwrap().to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend((0..payload_len).map(|at| (at * 31 + i) as u8));
    let len = u16::try_from(transport.len()).unwrap();
    let mut ip = if v6 {
        [&[0x6b, 0x81, 2, 3][..], &len.to_be_bytes(), &[protocol, 9], &[0xfd; 16], &[0xfe; 16]].concat()
    } else {
        let (total, id) = ((len + 20).to_be_bytes(), 0xfff0_u16.wrapping_add(i as u16).to_be_bytes());
        [&[0x45, 2][..], &total, &id, &[0x40, 0, 9, protocol, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]].concat()
    };
    let addresses = if v6 { &ip[8..] } else { &ip[12..] };
    let pseudo = checksum::pseudo_header(addresses, protocol, transport.len());
    let sum = checksum::sum(pseudo, &transport);
    let (at, sum) = if tcp { (16, checksum::finish(sum)) } else { (6, checksum::finish_udp(sum)) };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    if !v6 {
        let sum = checksum::finish(checksum::sum(0, &ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    [ip, transport].concat()
}

#[derive(Default)]
struct Written(Vec<(VnetHeader, Vec<u8>)>);

impl TunSink for Written {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        self.0.push((header, packet.to_vec()));
    }
}

#[test]
fn tun_rs_splits_a_super_packet_into_the_same_packets() {
    let mut super_packets = 0;
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        for last_len in [1, 2, 700, 1300, 1301] {
            for n in [2, 3, 16, 45] {
                let len = |i| if i + 1 == n { last_len } else { 1301 };
                let packets: Vec<_> = (0..n).map(|i| packet(v6, tcp, i, len(i))).collect();
                let mut written = Written::default();
                let mut coalescer = Coalescer::new(Offloads::ALL);
                packets.iter().for_each(|p| coalescer.push(p, &mut written));
                coalescer.flush(&mut written);
                assert_eq!(written.0.len(), 1, "{v6} {tcp} {last_len} {n}");
                let (header, whole) = written.0.remove(0);
                super_packets += 1;
                assert_eq!(by_core(header, &whole), packets);
                assert_eq!(by_tun_rs(header, whole, v6), packets);
            }
        }
    }
    assert_eq!(super_packets, 80);
}

fn by_core(header: VnetHeader, whole: &[u8]) -> Vec<Vec<u8>> {
    let whole = SuperPacket::parse(header, whole).unwrap();
    let write = |i| {
        let mut out = vec![0; whole.segment_len(i)];
        whole.write_segment(i, &mut out);
        out
    };
    (0..whole.segments()).map(write).collect()
}

fn by_tun_rs(header: VnetHeader, mut whole: Vec<u8>, v6: bool) -> Vec<Vec<u8>> {
    let header = VirtioNetHdr::decode(&header.encode()).unwrap();
    let (mut out, mut sizes) = (vec![vec![0; 2000]; 64], [0; 64]);
    let n = gso_split(&mut whole, header, &mut out, &mut sizes, 0, v6).unwrap();
    out.into_iter().zip(sizes).take(n).map(|(packet, len)| packet[..len].to_vec()).collect()
}
