//! What a packet costs here, printed: `cargo test --release -p skynet-core --lib offload::timing -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Duration;

use super::samples::{Collect, Sample};
use super::*;

/// Prints the best of several rounds, in nanoseconds per call.
fn time(what: &str, mut call: impl FnMut()) {
    const CALLS: u32 = 20_000;
    let round = |_| {
        #[expect(clippy::disallowed_methods, reason = "a stopwatch, in a test that is run by hand")]
        let start = std::time::Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed()
    };
    let best = (0..20).map(round).min().unwrap_or(Duration::ZERO);
    println!("{what:32} {:7.1} ns", best.as_secs_f64() * 1e9 / f64::from(CALLS));
}

struct Ignore;

impl TunSink for Ignore {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        black_box((header, packet));
    }
}

#[test]
#[ignore = "a measurement, for a quiet machine and an optimised build"]
fn what_a_packet_costs() {
    let bytes = vec![7u8; 1400];
    let mut copy = vec![0u8; 1400];
    time("copy of 1,400 B", || black_box(&mut copy).copy_from_slice(black_box(&bytes)));
    time("checksum of 1,400 B", || {
        black_box(checksum::sum(0, black_box(&bytes)));
    });
    let kinds = ["TCP over IPv4", "TCP over IPv6", "UDP over IPv4", "UDP over IPv6"];
    for (name, sample) in kinds.into_iter().zip(Sample::KINDS) {
        let flow = Sample { payload_len: 1360, ..sample }.flow(40);
        let mut coalescer = Coalescer::new(Offloads::ALL);
        time(&format!("{name}: 40 × push, flush"), || {
            flow.iter().for_each(|p| coalescer.push(black_box(p), &mut Ignore));
            coalescer.flush(&mut Ignore);
        });
        let mut written = Collect::default();
        flow.iter().for_each(|p| coalescer.push(p, &mut written));
        coalescer.flush(&mut written);
        let (header, packet) = &written.0[0];
        time(&format!("{name}: parse"), || {
            black_box(SuperPacket::parse(black_box(*header), black_box(packet)).is_ok());
        });
        let whole = SuperPacket::parse(*header, packet).expect("what is written can be split");
        let mut out = [0; 1500];
        let mut i = 0;
        time(&format!("{name}: write_segment"), || {
            i = (i + 1) % whole.segments();
            black_box(whole.write_segment(black_box(i), &mut out));
        });
        time(&format!("{name}: flow_hash"), || {
            black_box(flow_hash(black_box(packet)));
        });
    }
}
