use proptest::prelude::*;

use super::*;

/// A path that carries `carries` bytes of plaintext per message, and whose PONGs take `rtt`.
struct Wire {
    mtu: PathMtu,
    now: Instant,
    carries: u16,
    rtt: Duration,
    /// Of a hundred probes so many are lost, whatever their size.
    loss_percent: u64,
    /// Nothing at all passes.
    dead: bool,
    /// Data sent.
    tx: u32,
    /// Messages per millisecond.
    pace: u32,
    answers: Vec<(Instant, u64, u16)>,
    sent: Vec<(Instant, u16)>,
    txid: u64,
    seed: u64,
    /// Every change of what is known.
    sizes: Vec<(Instant, Size)>,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Wire {
    fn new(carries: u16, bounds: Bounds) -> Self {
        let mut wire = Self {
            mtu: PathMtu::default(),
            now: Instant::ZERO,
            carries,
            rtt: ms(20),
            loss_percent: 0,
            dead: false,
            tx: 0,
            pace: 0,
            answers: Vec::new(),
            sent: Vec::new(),
            txid: 0,
            seed: 1,
            sizes: Vec::new(),
        };
        wire.mtu.begin(bounds, Instant::ZERO);
        wire
    }

    fn is_lost(&mut self, size: u16) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.dead || size > self.carries || (self.seed >> 33) % 100 < self.loss_percent
    }

    fn drain(&mut self) {
        while let Some(size) = self.mtu.poll_probe() {
            self.txid += 1;
            self.mtu.sent(self.txid, size);
            self.sent.push((self.now, size));
            if !self.is_lost(size) {
                let received = if size == 0 { 100 } else { size + DATAGRAM };
                self.answers.push((self.now + self.rtt, self.txid, received));
            }
        }
        let size = self.mtu.size();
        if self.sizes.last().is_none_or(|(_, last)| *last != size) {
            self.sizes.push((self.now, size));
        }
    }

    /// Millisecond by millisecond; the machine is called when it wants to be.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + ms(1);
            self.tx = self.tx.wrapping_add(self.pace);
            while let Some(i) = self.answers.iter().position(|(at, ..)| *at <= self.now) {
                let (_, txid, received) = self.answers.remove(i);
                self.mtu.handle_pong(txid, received, self.now);
                self.drain();
            }
            if self.mtu.poll_timeout().is_some_and(|at| at <= self.now) {
                self.mtu.handle_timeout(self.rtt * 2, self.tx, self.now);
                self.drain();
            }
        }
    }

    fn settled_at(&self) -> Option<Instant> {
        self.sizes.iter().find(|(_, size)| size.settled).map(|(at, _)| *at)
    }

    fn bytes_sent(&self) -> usize {
        self.sent.iter().map(|(_, size)| usize::from((*size + DATAGRAM).max(100))).sum()
    }
}

const fn bounds(most: u16) -> Bounds {
    Bounds { least: MIN, most }
}

/// What a message carries over IPv4 of this MTU.
fn over_ipv4(outer: u16) -> u16 {
    let limit = outer - 28 - DATAGRAM;
    limit - limit % STEP
}

#[test]
fn what_the_links_take_is_known_after_one_round_trip() {
    for most in [1_392, 1_408, 1_424, 1_440, 8_928] {
        let mut wire = Wire::new(most, bounds(most));
        wire.run(ms(200));
        assert_eq!(wire.mtu.size(), Size { limit: most, settled: true });
        assert_eq!(wire.settled_at(), Some(Instant::ZERO + ms(1) + wire.rtt), "{most}");
        assert!(wire.bytes_sent() < 5_000 + usize::from(most), "{} bytes", wire.bytes_sent());
    }
}

#[test]
fn every_mtu_is_found_to_the_last_block() {
    for outer in (576..=1_500).chain([2_000, 3_900, 4_352, 8_500, 8_896, 8_950, 9_000, 9_001]) {
        let carries = over_ipv4(outer).max(MIN);
        let mut wire = Wire::new(carries, bounds(8_928));
        wire.run(Duration::from_secs(5));
        assert_eq!(wire.mtu.size(), Size { limit: carries.min(8_928), settled: true }, "{outer}");
        let took = wire.settled_at().unwrap() - Instant::ZERO;
        assert!(took <= ms(2_500), "{outer}: {took:?}");
    }
}

#[test]
fn the_table_says_what_each_common_path_costs() {
    let mut lines = Vec::new();
    for (outer, most) in [
        (1_124, 1_440),
        (1_280, 1_440),
        (1_400, 1_440),
        (1_460, 1_440),
        (1_500, 1_440),
        (1_500, 8_928),
        (9_001, 8_928),
    ] {
        let mut wire = Wire::new(over_ipv4(outer), bounds(most));
        wire.run(Duration::from_secs(10));
        let took = wire.settled_at().unwrap() - Instant::ZERO;
        lines.push(format!(
            "{outer} of {}: {} in {} ms, {} probes",
            most + 60,
            wire.mtu.size().limit,
            took.as_millis(),
            wire.sent.len()
        ));
    }
    assert_eq!(
        lines,
        [
            "1124 of 1500: 1056 in 401 ms, 40 probes",
            "1280 of 1500: 1216 in 401 ms, 29 probes",
            "1400 of 1500: 1328 in 401 ms, 25 probes",
            "1460 of 1500: 1392 in 401 ms, 19 probes",
            "1500 of 1500: 1440 in 21 ms, 4 probes",
            "1500 of 8988: 1440 in 1301 ms, 71 probes",
            "9001 of 8988: 8928 in 21 ms, 5 probes",
        ]
    );
}

#[test]
fn nothing_larger_than_what_passed_is_used_while_searching() {
    for outer in [1_280, 1_400, 1_460, 9_001] {
        let mut wire = Wire::new(over_ipv4(outer), bounds(8_928));
        wire.run(Duration::from_secs(5));
        assert!(wire.sizes.iter().all(|(_, s)| s.limit <= wire.carries), "{:?}", wire.sizes);
        assert!(wire.sizes.is_sorted_by_key(|(_, s)| s.limit), "{:?}", wire.sizes);
    }
    // Below BASE the first answers say so.
    let mut wire = Wire::new(1_056, bounds(1_440));
    wire.run(ms(330));
    assert_eq!(wire.mtu.size().limit, 1_056, "{:?}", wire.sizes);
}

#[test]
fn a_drop_while_data_flows_is_noticed_before_tcp_repeats_for_the_third_time() {
    for rtt in [1, 20, 100, 150] {
        for (before, after) in [(1_440, 1_200), (1_440, 1_328), (1_440, 1_056), (8_928, 1_440)] {
            for phase in (0..320).step_by(40) {
                let mut wire = Wire::new(before, bounds(before));
                (wire.rtt, wire.pace) = (ms(rtt), 1);
                wire.run(Duration::from_secs(5) + ms(phase));
                assert_eq!(wire.mtu.size().limit, before);
                let dropped = wire.now;
                (wire.carries, wire.pace) = (after, 0);
                wire.tx = wire.tx.wrapping_add(20);
                wire.run(Duration::from_secs(6));
                let (at, _) = wire.sizes.iter().find(|(at, s)| *at > dropped && s.limit <= after).unwrap();
                // Below BASE another answer has to be missed first.
                let most = if after < BASE { ms(2_000) } else { ms(1_400) };
                assert!(*at - dropped <= most, "{before} to {after}, {rtt} ms: {:?}", *at - dropped);
                assert_eq!(wire.mtu.size(), Size { limit: after, settled: true });
                assert!(wire.mtu.black_holes() >= 1);
            }
        }
    }
}

#[test]
fn a_path_that_is_dead_is_no_black_hole() {
    let mut wire = Wire::new(1_440, bounds(1_440));
    wire.pace = 1;
    wire.run(Duration::from_secs(2));
    wire.dead = true;
    wire.run(Duration::from_secs(20));
    assert_eq!((wire.mtu.size().limit, wire.mtu.black_holes()), (1_440, 0));
    wire.dead = false;
    wire.run(Duration::from_secs(2));
    assert_eq!(wire.mtu.size(), Size { limit: 1_440, settled: true });
}

#[test]
fn a_rise_is_found_within_a_minute_and_later_within_ten() {
    let mut wire = Wire::new(1_328, bounds(1_440));
    wire.run(Duration::from_secs(10));
    assert_eq!(wire.mtu.size().limit, 1_328);
    wire.carries = 1_440;
    wire.run(Duration::from_secs(52));
    assert_eq!(wire.mtu.size(), Size { limit: 1_440, settled: true });
    let mut patient = Wire::new(1_328, bounds(1_440));
    patient.run(Duration::from_secs(3_600));
    let searched = patient.sent.len();
    patient.run(Duration::from_secs(600));
    let more: Vec<_> = patient.sent[searched..].iter().collect();
    assert!(more.len() <= 6, "what stays the same is asked for once in ten minutes: {more:?}");
    patient.carries = 1_440;
    patient.run(Duration::from_secs(601));
    assert_eq!(patient.mtu.size().limit, 1_440);
}

#[test]
fn without_data_nothing_is_asked_again() {
    let mut wire = Wire::new(1_440, bounds(1_440));
    wire.run(Duration::from_secs(2));
    let sent = wire.sent.len();
    wire.run(Duration::from_secs(3_600));
    assert_eq!(wire.sent.len(), sent);
    assert!(sent <= 4, "{:?}", wire.sent);
}

#[test]
fn while_data_flows_one_probe_in_300_ms_asks() {
    let mut wire = Wire::new(1_440, bounds(1_440));
    wire.pace = 10;
    wire.run(Duration::from_secs(30));
    assert!((80..=104).contains(&wire.sent.len()), "{}", wire.sent.len());
    // Beside a trickle one in two seconds.
    let mut trickle = Wire::new(1_440, bounds(1_440));
    trickle.run(Duration::from_secs(1));
    let sent = trickle.sent.len();
    for _ in 0..600 {
        trickle.tx += 1;
        trickle.run(ms(50));
    }
    assert!((12..=20).contains(&(trickle.sent.len() - sent)), "{}", trickle.sent.len() - sent);
}

#[test]
fn a_fixed_size_is_taken_as_it_is() {
    let mut wire = Wire::new(600, Bounds::new(1_385, 1_385));
    wire.pace = 1;
    wire.run(Duration::from_secs(60));
    assert_eq!((wire.mtu.size(), wire.sent.len()), (Size { limit: 1_376, settled: true }, 0));
    let config = MtuConfig { link: 1_500, least: 1_400, most: 1_400 };
    assert_eq!(config.bounds(28), Bounds::new(1_400, 1_400));
    assert_eq!(
        MtuConfig { link: 9_001, least: MIN, most: 8_928 }.bounds(48),
        Bounds { least: 512, most: 8_912 }
    );
}

#[test]
fn a_least_size_is_never_gone_below() {
    let mut wire = Wire::new(700, Bounds::new(1_280, 1_440));
    wire.pace = 1;
    wire.run(Duration::from_secs(20));
    assert!(wire.sizes.iter().all(|(_, s)| s.limit >= 1_280), "{:?}", wire.sizes);
}

#[test]
fn a_path_taken_again_is_used_as_it_was_and_asked_at_once() {
    let mut wire = Wire::new(1_392, bounds(1_440));
    wire.run(Duration::from_secs(2));
    wire.mtu.begin(bounds(1_440), wire.now);
    assert_eq!(wire.mtu.size(), Size { limit: 1_392, settled: true });
    let sent = wire.sent.len();
    wire.run(ms(5));
    assert_eq!(wire.sent[sent..].iter().map(|(_, s)| *s).collect::<Vec<_>>(), [1_392]);
    // It carries less by now, and no data has to be lost for that to be found.
    wire.mtu.begin(bounds(1_440), wire.now);
    wire.carries = 1_328;
    wire.run(Duration::from_secs(3));
    assert_eq!(wire.mtu.size(), Size { limit: 1_328, settled: true });
}

#[test]
fn an_answer_of_another_size_or_to_nothing_counts_for_nothing() {
    let mut mtu = PathMtu::default();
    mtu.begin(bounds(1_440), Instant::ZERO);
    mtu.handle_timeout(ms(20), 0, Instant::ZERO);
    let mut txid = 0;
    while let Some(size) = mtu.poll_probe() {
        txid += 1;
        mtu.sent(txid, size);
    }
    assert!(!mtu.handle_pong(99, 1_472, Instant::ZERO));
    assert!(mtu.handle_pong(txid, 1_471, Instant::ZERO));
    assert!(!mtu.handle_pong(txid, 1_472, Instant::ZERO), "once");
    assert_eq!(mtu.size(), Size { limit: BASE, settled: false });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn loss_costs_time_but_no_size_is_used_that_does_not_pass(
        carries in 32u16..=90,
        loss_percent in 0u64..=10,
        seed: u64,
        rtt in 1u64..=200,
    ) {
        let carries = carries * STEP;
        let mut wire = Wire::new(carries, bounds(1_440));
        (wire.loss_percent, wire.seed, wire.rtt, wire.pace) = (loss_percent, seed, ms(rtt), 1);
        wire.run(Duration::from_secs(200));
        let limit = wire.mtu.size().limit;
        prop_assert!(limit <= carries.max(BASE));
        if loss_percent == 0 {
            prop_assert_eq!(limit, carries.min(1_440));
        }
    }
}
