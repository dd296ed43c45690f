//! What a super-packet costs as segments and as chunks, without the cipher, in nanoseconds:
//! `cargo run --release -p skynet-core --example chunk_timing`.

use std::hint::black_box;
use std::time::Duration;

use etherparse::PacketBuilder;
use skynet_core::allowed_ips::Prefix;
use skynet_core::chunk::{Chunk, Exit, From, Joiner, Unit};
use skynet_core::drop::DropCounters;
use skynet_core::filter;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::PeerSlot;
use skynet_core::offload::{Coalescer, Offloads, SuperPacket, TunSink, VnetHeader, ecn};
use skynet_core::receive::Deliver;
use skynet_core::time::Instant;
use skynet_core::wire::ip::IpPacket;
use skynet_core::wire::wireguard::ReceiverIndex;

/// A TCP segment with time stamps in a packet of 1,360 bytes.
const PAYLOAD: usize = 1_308;
const SEGMENTS: usize = 45;
const LIMIT: u16 = 1_360;
/// From one message to the next in a slab or in what was received.
const STRIDE: usize = 1_392;

/// Prints the best of several rounds, per super-packet and per kilobyte of payload.
fn time(what: &str, mut call: impl FnMut()) {
    const CALLS: u32 = 2_000;
    let round = |_| {
        #[expect(clippy::disallowed_methods, reason = "a stopwatch")]
        let start = std::time::Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed()
    };
    let best = (0..30).map(round).min().unwrap_or(Duration::ZERO);
    let each = best.as_secs_f64() * 1e9 / f64::from(CALLS);
    println!("{what:44} {each:9.0} {:7.1}", each * 1000.0 / (PAYLOAD * SEGMENTS) as f64);
}

/// The whole flow, as the kernel hands it out.
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

impl Deliver for Nowhere {
    fn deliver(&mut self, packet: &[u8]) {
        black_box(packet);
    }
    fn deliver_super(&mut self, header: VnetHeader, packet: &[u8]) {
        black_box((header, packet));
    }
}

fn super_packet() -> Last {
    let (mut coalescer, mut last) = (Coalescer::new(Offloads::ALL), Last::default());
    for i in 0..SEGMENTS {
        let (mut out, payload) = (Vec::new(), [7; PAYLOAD]);
        let sequence = u32::try_from(i * PAYLOAD).expect("a short flow");
        PacketBuilder::ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64)
            .tcp(40_000, 443, sequence, 501)
            .ack(9)
            .write(&mut out, &payload)
            .expect("room in a vector");
        out[6] = 0x40;
        out[10..12].fill(0);
        let checksum =
            skynet_core::offload::checksum::finish(skynet_core::offload::checksum::sum(0, &out[..20]));
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
        coalescer.push(&out, &mut last);
    }
    coalescer.flush(&mut last);
    last
}

fn main() {
    let Last(header, bytes) = super_packet();
    let whole = SuperPacket::parse(header, &bytes).expect("what is written can be split");
    let unit = Unit::cut(&whole, LIMIT).expect("long enough");
    assert_eq!(whole.segments(), SEGMENTS);
    println!("{SEGMENTS} segments of {PAYLOAD} B, {} chunks of {LIMIT} B{:14} ns ns/kB", unit.chunks(), "");

    let mut slab = vec![0u8; SEGMENTS * STRIDE];
    time("out: parse, write_segment each", || {
        let whole = SuperPacket::parse(black_box(header), black_box(&bytes)).expect("as above");
        for (i, out) in slab.chunks_mut(STRIDE).enumerate() {
            black_box(whole.write_segment(i, &mut out[16..]));
        }
    });
    time("out: parse, cut, write_chunk each", || {
        let whole = SuperPacket::parse(black_box(header), black_box(&bytes)).expect("as above");
        let unit = Unit::cut(&whole, LIMIT).expect("as above");
        for (i, out) in slab.chunks_mut(STRIDE).take(unit.chunks()).enumerate() {
            black_box(unit.write_chunk(i, &mut out[16..]));
        }
    });

    let mut table = ForwardingTable { own: vec![[10, 1, 0, 2].into()], ..ForwardingTable::default() };
    table.allowed_ips.insert(Prefix::host([10, 1, 0, 1].into()), PeerSlot(0));
    let mut segments = vec![0u8; SEGMENTS * STRIDE];
    let lens: Vec<usize> =
        segments.chunks_mut(STRIDE).enumerate().map(|(i, out)| whole.write_segment(i, out)).collect();
    let mut coalescer = Coalescer::new(Offloads::ALL);
    time("back: check, push each, flush", || {
        for (segment, len) in segments.chunks_mut(STRIDE).zip(&lens) {
            let segment = black_box(&mut segment[..*len]);
            assert!(ecn::decapsulate(segment, 0).is_ok());
            let ip = IpPacket::parse(segment).expect("a packet");
            assert_eq!(table.allowed_ips.lookup(ip.source()), Some(PeerSlot(0)));
            assert!(filter::check(&ip) == filter::Verdict::Pass && table.own.contains(&ip.destination()));
            coalescer.push(segment, &mut Nowhere);
        }
        coalescer.flush(&mut Nowhere);
    });
    let mut chunks = vec![0u8; unit.chunks() * STRIDE];
    let lens: Vec<usize> = chunks
        .chunks_mut(STRIDE)
        .enumerate()
        .map(|(i, out)| unit.write_chunk(i, out).next_multiple_of(16))
        .collect();
    let (mut joiner, drops, mut counter) = (Joiner::new(), DropCounters::new(), 0);
    time("back: parse, add each", || {
        for (chunk, len) in chunks.chunks_mut(STRIDE).zip(&lens) {
            let from = From { index: ReceiverIndex(1), slot: PeerSlot(0), counter, ecn: 0 };
            let chunk = Chunk::parse(black_box(&chunk[..*len])).expect("a chunk");
            let mut exit = Exit { table: &table, now: Instant::ZERO, deliver: &mut Nowhere, drops: &drops };
            joiner.add(from, &chunk, Instant::ZERO, &mut exit).expect("of the unit");
            counter += 1;
        }
    });
    assert!(joiner.is_idle() && drops.total() == 0);
}
