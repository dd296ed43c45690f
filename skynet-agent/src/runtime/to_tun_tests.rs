//! Kernels that refuse super-packets, in the middle of a batch: no packet is lost, doubled or out of order.

use skynet_core::offload::checksum;

use super::*;

/// A device that writes down what it took, cut into packets, and refuses what it is told to.
struct Kernel {
    refuses: fn(Gso) -> bool,
    takes_segments: bool,
    writes: usize,
    packets: Vec<Vec<u8>>,
}

impl Kernel {
    fn refusing(refuses: fn(Gso) -> bool) -> Self {
        Self { refuses, takes_segments: true, writes: 0, packets: Vec::new() }
    }
}

impl TunWrite for Kernel {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) -> io::Result<Written> {
        self.writes += 1;
        if header.gso != Gso::None && (self.refuses)(header.gso) {
            return Ok(Written::NotAsSuperPacket);
        }
        if !self.takes_segments {
            return Ok(Written::Refused);
        }
        let whole = SuperPacket::parse(header, packet).unwrap();
        for i in 0..whole.segments() {
            let mut out = vec![0; whole.segment_len(i)];
            whole.write_segment(i, &mut out);
            self.packets.push(out);
        }
        Ok(Written::Yes)
    }

    fn takes(&self) -> Offloads {
        Offloads::ALL
    }
}

/// Packet `i` of a flow over IPv6: TCP or UDP, 100 bytes of payload that say which it is.
fn packet(tcp: bool, i: u8) -> Vec<u8> {
    let mut transport = vec![0, 1, 0, 2];
    if tcp {
        transport.extend((u32::from(i) * 100).to_be_bytes());
        transport.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        transport.extend([0, 108, 0, 0]);
    }
    transport.extend([i; 100]);
    let protocol = if tcp { 6 } else { 17 };
    let mut p = vec![0x60, 0, 0, 0, 0, transport.len() as u8, protocol, 64];
    p.extend([0xfd; 16]);
    p.extend([0xfe; 16]);
    let sum = checksum::pseudo_header(&p[8..40], protocol, transport.len());
    let sum = checksum::finish_udp(checksum::sum(sum, &transport));
    let at = if tcp { 16 } else { 6 };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    p.extend(transport);
    p
}

fn tun(kernel: Kernel) -> ToTun<Kernel> {
    let mut tun = ToTun::new(Offloads::ALL, Arc::new(WriteState::new(Offloads::ALL)));
    tun.attach(Some(kernel));
    tun
}

fn deliver(tun: &mut ToTun<Kernel>, packets: &[Vec<u8>]) {
    packets.iter().for_each(|p| tun.deliver(p));
    tun.finish().unwrap();
}

/// What was taken since the last call, and by how many writes.
fn taken(tun: &mut ToTun<Kernel>) -> (Vec<Vec<u8>>, usize) {
    let kernel = tun.writer.device.as_mut().unwrap();
    (std::mem::take(&mut kernel.packets), std::mem::take(&mut kernel.writes))
}

#[test]
fn a_refused_super_packet_is_written_segment_by_segment_and_its_kind_no_longer_joined() {
    for tcp in [true, false] {
        let flow: Vec<_> = (0..20).map(|i| packet(tcp, i)).collect();
        let mut tun = tun(Kernel::refusing(|_| true));
        deliver(&mut tun, &flow);
        assert_eq!(taken(&mut tun), (flow.clone(), 21), "the super-packet, then its segments");
        deliver(&mut tun, &flow);
        assert_eq!(taken(&mut tun), (flow.clone(), 20), "nothing is joined any more");
        let state = &tun.writer.state;
        assert_eq!((state.coalesces_tcp(), state.coalesces_udp()), (!tcp, tcp));
        assert_eq!((state.refused_tcp(), state.refused_udp()), (tcp.into(), (!tcp).into()));
        assert_eq!(state.drops(), 0);
    }
}

#[test]
fn one_kind_refused_leaves_the_other_joined() {
    let mut tun = tun(Kernel::refusing(|gso| gso == Gso::UdpL4));
    let mut both = Vec::new();
    for i in 0..10 {
        both.extend([packet(true, i), packet(false, i)]);
    }
    for round in 0..3 {
        deliver(&mut tun, &both);
        let (packets, writes) = taken(&mut tun);
        for tcp in [true, false] {
            let of = |all: &[Vec<u8>]| all.iter().filter(|p| (p[6] == 6) == tcp).cloned().collect::<Vec<_>>();
            assert_eq!(of(&packets), of(&both), "order within a flow stays");
        }
        // TCP in one write; UDP as a super-packet once, and its ten datagrams.
        assert_eq!((packets.len(), writes), (20, if round == 0 { 12 } else { 11 }));
    }
    assert!(tun.writer.state.coalesces_tcp() && !tun.writer.state.coalesces_udp());
}

#[test]
fn both_kinds_refused_in_one_batch_are_both_given_up() {
    let mut tun = tun(Kernel::refusing(|_| true));
    let both: Vec<_> = (0..4).flat_map(|i| [packet(true, i), packet(false, i)]).collect();
    deliver(&mut tun, &both);
    assert_eq!(taken(&mut tun).0.len(), 8);
    let state = &tun.writer.state;
    assert_eq!((state.refused_tcp(), state.refused_udp()), (1, 1));
    assert!(!state.coalesces_tcp() && !state.coalesces_udp());
}

#[test]
fn a_device_that_takes_no_segments_either_proves_nothing() {
    let mut tun = tun(Kernel { takes_segments: false, ..Kernel::refusing(|_| true) });
    deliver(&mut tun, &(0..5).map(|i| packet(true, i)).collect::<Vec<_>>());
    let state = &tun.writer.state;
    assert!(state.coalesces_tcp());
    assert_eq!((state.refused_tcp(), state.drops()), (0, 5));
}
