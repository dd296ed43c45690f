//! Shares of an uplink and of a thread, in virtual time.

use super::*;

/// Sessions that send to one receiver, each so many frames of so many bytes a millisecond.
struct Crowd {
    w: World,
    nodes: Vec<(Node, u16)>,
    sent: Vec<u64>,
    passed: Vec<u64>,
}

const FROMS: [&str; 10] = [
    "192.0.2.10:1",
    "192.0.2.11:1",
    "192.0.2.12:1",
    "192.0.2.13:1",
    "192.0.2.14:1",
    "192.0.2.15:1",
    "192.0.2.16:1",
    "192.0.2.17:1",
    "192.0.2.18:1",
    "192.0.2.19:1",
];

impl Crowd {
    fn new(config: ForwardConfig) -> Self {
        let mut w = World::with(config);
        Node::new(NET_A, 1, "192.0.2.1:1").bind(&mut w);
        let nodes = (0..10).map(|i| {
            let node = Node::new(NET_A, 10 + i, FROMS[i as usize]);
            let gen_no = node.bind(&mut w).gen_no;
            (node, gen_no)
        });
        let nodes: Vec<_> = nodes.collect();
        Self { w, sent: vec![0; nodes.len()], passed: vec![0; nodes.len()], nodes }
    }

    /// A second in which session `i` sends `frames[i]` frames of 1,000 bytes each millisecond; `limit`, if there is
    /// one, is how many in all the thread comes to.
    fn second(&mut self, frames: &[usize], len: usize, limit: Option<usize>) {
        (self.sent, self.passed) = (vec![0; self.nodes.len()], vec![0; self.nodes.len()]);
        for ms in 0..1_000 {
            self.w.pass(1);
            let mut work = 0.0;
            let mut is_lost = false;
            for turn in 0..frames.iter().max().copied().unwrap_or(0) {
                for i in 0..self.nodes.len() {
                    // Who is first changes, as datagrams come.
                    let i = (i + turn + ms) % self.nodes.len();
                    if turn >= frames[i] {
                        continue;
                    }
                    self.sent[i] += 1;
                    if limit.is_some_and(|limit| work >= limit as f64) {
                        is_lost = true;
                        continue;
                    }
                    let (node, gen_no) = &self.nodes[i];
                    let frame = data(*gen_no, 1, 0, &vec![0; len - 8]);
                    let is_through =
                        matches!(self.w.send(node.from, &frame), Ok((to, _)) if to == addr("192.0.2.1:1"));
                    self.passed[i] += u64::from(is_through);
                    // To drop is a tenth of the work.
                    work += if is_through { 1.0 } else { 0.1 };
                }
            }
            self.w.relay.handle_pressure(is_lost, self.w.now.mono);
            self.w.relay.handle_timeout(self.w.now.mono);
        }
    }
    fn share(&self, i: usize) -> f64 {
        self.passed[i] as f64 / self.sent[i] as f64
    }
}

/// 80 Mbit/s for ten: a megabyte a second each is what each may have.
const UPLINK: u64 = 80_000;

#[test]
fn a_hog_at_ten_times_its_share_of_a_full_uplink_leaves_others_theirs() {
    let mut crowd = Crowd::new(ForwardConfig { uplink_kbit: UPLINK, ..ForwardConfig::default() });
    let frames = [10, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    crowd.second(&frames, 1_000, None);
    crowd.second(&frames, 1_000, None);
    for i in 1..10 {
        assert!(crowd.share(i) >= 0.98, "{i}: {} of {}", crowd.passed[i], crowd.sent[i]);
    }
    let total: u64 = crowd.passed.iter().sum();
    println!(
        "hog {:?}, others at least {:.3}, all {total} of 10000",
        crowd.passed[0],
        (1..10).map(|i| crowd.share(i)).fold(1.0, f64::min)
    );
    assert!((9_500..=10_500).contains(&total), "the uplink is used, not more: {total}");
    assert!(crowd.w.drops(DropReason::UplinkFull) > 8_000);
    // Alone it may have all.
    crowd.second(&[10, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1_000, None);
    crowd.second(&[9, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1_000, None);
    assert!(crowd.share(0) > 0.98, "{}", crowd.share(0));
}

#[test]
fn a_hog_leaves_others_their_share_of_a_thread_that_cannot_keep_up() {
    for len in [1_000, 100] {
        let mut crowd = Crowd::new(ForwardConfig::default());
        let frames = [100, 10, 10, 10, 10, 10, 10, 10, 10, 10];
        // Without shares half would be lost, of everybody.
        for _ in 0..3 {
            crowd.second(&frames, len, Some(120));
        }
        let least = (1..10).map(|i| crowd.share(i)).fold(1.0, f64::min);
        println!("{len} bytes: hog {:.2}, others at least {least:.3}", crowd.share(0));
        assert!(least >= 0.9, "{:?} of {:?}", crowd.passed, crowd.sent);
        // It ends by itself.
        crowd.second(&[5; 10], len, Some(120));
        crowd.second(&[5; 10], len, Some(120));
        crowd.second(&[5; 10], len, Some(120));
        assert!((0..10).all(|i| crowd.share(i) == 1.0), "{:?} of {:?}", crowd.passed, crowd.sent);
    }
}

#[test]
fn control_passes_where_bulk_does_not_and_is_no_way_around_it() {
    let class = RateClass { session: Rate { kbit: 800, burst_kb: 10 }, ..RateClass::NONE };
    let mut w = World::with(ForwardConfig { classes: vec![class], ..ForwardConfig::default() });
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (gen_a, _) = (a.bind(&mut w).gen_no, b.bind(&mut w));
    let frame = |class| [&DataHeader::new(class, 0, gen_a, 2).encode()[..], &[0; 192]].concat();
    let count = |w: &mut World, class, n: usize| {
        (0..n).filter(|_| matches!(w.send(a.from, &frame(class)), Ok((to, _)) if to == addr(b.from))).count()
    };
    assert_eq!(count(&mut w, Class::Bulk, 1_000), 50);
    assert_eq!(count(&mut w, Class::Control, 100), 100);
    // 64 kB of it; the rest is bulk, and there is none left.
    assert_eq!(count(&mut w, Class::Control, 1_000), 220);
    w.pass(1_000);
    assert_eq!(count(&mut w, Class::Bulk, 1_000), 50, "control of a second ago has cost bulk nothing");
}

#[test]
fn a_ticket_names_its_class_and_the_network_of_a_class_has_its_rate() {
    let class = |number, kbit, of_network| RateClass {
        number,
        session: Rate { kbit, burst_kb: 100 },
        network: Rate { kbit: of_network, burst_kb: 100 },
    };
    let classes = vec![class(0, 8_000, 0), class(7, 80_000, 16_000)];
    let mut w = World::with(ForwardConfig { classes, ..ForwardConfig::default() });
    let bind = |w: &mut World, node_no: u32, rate_class, from| {
        let node = Node::of(&Ticket { rate_class, ..ticket(NET_A, node_no) }, from);
        let bound = node.bind(w);
        (node, bound)
    };
    let (_, bound) = bind(&mut w, 1, 0, "192.0.2.1:1");
    assert_eq!((bound.rate_kbit, bound.burst_kb), (8_000, 100));
    assert_eq!(bind(&mut w, 2, 99, "192.0.2.2:1").1.rate_kbit, 8_000, "a class that is not known");
    let seven =
        [("192.0.2.3:1", 3), ("192.0.2.4:1", 4)].map(|(from, node_no)| bind(&mut w, node_no, 7, from));
    assert_eq!(seven[0].1.rate_kbit, 80_000);
    let mut passed = [0u64; 2];
    for _ in 0..1_000 {
        w.pass(1);
        for (passed, (node, bound)) in passed.iter_mut().zip(&seven) {
            for _ in 0..4 {
                *passed += u64::from(
                    w.send(node.from, &data(bound.gen_no, 1, 0, &[0; 992]))
                        .is_ok_and(|(to, _)| to == addr("192.0.2.1:1")),
                );
            }
        }
    }
    // 2 MB a second for both, and the burst.
    let sum: u64 = passed.iter().sum();
    assert!((2_000..=2_110).contains(&sum), "{passed:?}");
    assert!(w.drops(DropReason::NetworkRate) > 5_000);
    // Another class of the same network is not its business.
    let (c, gen_c) = bind(&mut w, 5, 0, "192.0.2.5:1");
    assert_eq!(w.send(c.from, &data(gen_c.gen_no, 1, 0, b"x")).unwrap().0, addr("192.0.2.1:1"));
    // A node that binds again with a ticket of another class has that.
    w.pass(10);
    assert_eq!(bind(&mut w, 3, 0, "192.0.2.3:1").1.rate_kbit, 8_000);
}

#[test]
fn parts_share_one_uplink() {
    use super::parts::Parts;
    let mut p = Parts::new(2, &ForwardConfig { uplink_kbit: 16_000, ..ForwardConfig::default() });
    let sink = Node::new(NET_A, 1, "192.0.2.1:10");
    p.bind(&sink);
    let nodes = [("192.0.2.2:10", 8), ("192.0.2.3:11", 2)].map(|(from, per_ms)| {
        let node = Node::new(NET_A, per_ms + 10, from);
        let gen_no = p.bind(&node).gen_no;
        (node, gen_no, per_ms)
    });
    let mut passed = [0u32; 2];
    for ms in 0..3_000 {
        p.pass(1);
        for (passed, (node, gen_no, per_ms)) in passed.iter_mut().zip(&nodes) {
            for _ in 0..*per_ms {
                let to = p.send(node.from, &data(*gen_no, 1, 0, &[0; 992])).map(|(to, _)| to);
                *passed += u32::from(ms >= 1_000 && to == Ok(addr(sink.from)));
            }
        }
    }
    // 2 MB/s for both, one on each part: a megabyte a second each.
    println!("{passed:?} of 2000 each in two seconds");
    assert!(passed.iter().all(|n| (1_900..=2_200).contains(n)), "{passed:?}");
}
