//! What a packet costs in `offload`, in nanoseconds: `cargo run --release -p skynet-core --example offload_timing`.

use std::hint::black_box;
use std::time::Duration;

use etherparse::PacketBuilder;
use skynet_core::offload::{Coalescer, Offloads, SuperPacket, TunSink, VnetHeader, checksum, flow_hash};

const PAYLOAD: usize = 1360;
const PACKETS: usize = 40;

/// Prints the best of several rounds.
fn time(what: &str, mut call: impl FnMut()) {
    const CALLS: u32 = 20_000;
    let round = |_| {
        #[expect(clippy::disallowed_methods, reason = "a stopwatch")]
        let start = std::time::Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed()
    };
    let best = (0..20).map(round).min().unwrap_or(Duration::ZERO);
    println!("{what:24} {:7.1}", best.as_secs_f64() * 1e9 / f64::from(CALLS));
}

/// Packets of one flow, each following the one before.
fn flow(v6: bool, tcp: bool) -> Vec<Vec<u8>> {
    let packet = |i: usize| {
        let ip = if v6 {
            PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64)
        } else {
            PacketBuilder::ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64)
        };
        let (mut out, payload) = (Vec::new(), [7; PAYLOAD]);
        let sequence = u32::try_from(i * PAYLOAD).expect("a short flow");
        let written = if tcp {
            ip.tcp(40_000, 443, sequence, 501).ack(9).write(&mut out, &payload)
        } else {
            ip.udp(40_000, 443).write(&mut out, &payload)
        };
        written.expect("room in a vector");
        out
    };
    (0..PACKETS).map(packet).collect()
}

/// Keeps what was written last.
#[derive(Default)]
struct Last(VnetHeader, Vec<u8>);

impl TunSink for Last {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        *self = Self(header, packet.to_vec());
    }
}

struct Nowhere;

impl TunSink for Nowhere {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        black_box((header, packet));
    }
}

fn main() {
    let (bytes, mut copy) = (vec![7u8; 1400], vec![0u8; 1400]);
    time("copy 1,400 B", || black_box(&mut copy).copy_from_slice(black_box(&bytes)));
    time("sum 1,400 B", || {
        black_box(checksum::sum(0, black_box(&bytes)));
    });
    for (name, v6, tcp) in [
        ("TCP/IPv4", false, true),
        ("TCP/IPv6", true, true),
        ("UDP/IPv4", false, false),
        ("UDP/IPv6", true, false),
    ] {
        let (packets, mut coalescer, mut last) =
            (flow(v6, tcp), Coalescer::new(Offloads::ALL), Last::default());
        packets.iter().for_each(|p| coalescer.push(p, &mut last));
        coalescer.flush(&mut last);
        let whole = SuperPacket::parse(last.0, &last.1).expect("what is written can be split");
        assert_eq!(whole.segments(), PACKETS);
        time(&format!("{name} parse"), || {
            black_box(SuperPacket::parse(black_box(last.0), black_box(&last.1)).is_ok());
        });
        let (mut out, mut i) = ([0; 1500], 0);
        time(&format!("{name} write_segment"), || {
            i = (i + 1) % PACKETS;
            black_box(whole.write_segment(black_box(i), &mut out));
        });
        time(&format!("{name} flow_hash"), || {
            black_box(flow_hash(black_box(&last.1)));
        });
        time(&format!("{name} {PACKETS} × push"), || {
            packets.iter().for_each(|p| coalescer.push(black_box(p), &mut Nowhere));
            coalescer.flush(&mut Nowhere);
        });
    }
}
