//! A relay in parts, one for each thread.

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// Parts, the way the kernel chooses between them, and updates on their way.
pub(super) struct Parts {
    parts: Vec<Forwarder>,
    /// For each part, what the others have said that it has not heard.
    inboxes: Vec<VecDeque<Update>>,
    now: Now,
}

impl Parts {
    pub(super) fn new(of: u8, config: &ForwardConfig) -> Self {
        let w = World::new();
        let keys = ClusterKeys::new((7, cluster_key()), []);
        let parts = Forwarder::parts(of, config, &keys, &mut Rng::from_seed([4; 32]), w.now.mono);
        let inboxes = parts.iter().map(|_| VecDeque::new()).collect();
        Self { parts, inboxes, now: w.now }
    }
    /// The kernel's hash, made plain: the last digit of the port.
    fn part_of(&self, from: &str) -> usize {
        usize::from(addr(from).port()) % 10 % self.parts.len()
    }
    fn on<T>(&mut self, part: usize, act: impl FnOnce(&mut World) -> T) -> T {
        let spare = relay(ForwardConfig::default(), 99, self.now);
        let relay = std::mem::replace(&mut self.parts[part], spare);
        let mut w = World { relay, now: self.now, asked: RELAY_A };
        let result = act(&mut w);
        self.now = w.now;
        self.parts[part] = w.relay;
        while let Some(update) = self.parts[part].poll_update() {
            for (other, inbox) in self.inboxes.iter_mut().enumerate() {
                if other != part {
                    inbox.push_back(update);
                }
            }
        }
        result
    }
    fn hear(&mut self) {
        for (part, inbox) in self.parts.iter_mut().zip(&mut self.inboxes) {
            inbox.drain(..).for_each(|update| part.handle_update(&update, self.now.mono));
        }
    }
    pub(super) fn bind(&mut self, node: &Node) -> Bound {
        let bound = self.on(self.part_of(node.from), |w| node.bind(w));
        self.hear();
        bound
    }
    pub(super) fn send(&mut self, from: &str, bytes: &[u8]) -> Result<(SocketAddr, Vec<u8>), DropReason> {
        let result = self.on(self.part_of(from), |w| w.send(from, bytes));
        self.hear();
        result
    }
    pub(super) fn pass(&mut self, ms: u64) {
        self.on(0, |w| w.pass(ms));
        for part in 0..self.parts.len() {
            self.on(part, |w| w.relay.handle_timeout(w.now.mono));
        }
        self.hear();
    }
    fn sessions(&self) -> Vec<usize> {
        self.parts.iter().map(Forwarder::sessions).collect()
    }
}

#[test]
fn sessions_of_different_threads_reach_each_other_with_each_others_numbers() {
    let mut p = Parts::new(3, &ForwardConfig::default());
    let nodes = [1, 2, 3]
        .map(|n| Node::new(NET_A, n, ["192.0.2.1:1000", "192.0.2.2:1001", "192.0.2.3:1002"][n as usize - 1]));
    let gens = [0, 1, 2].map(|i| p.bind(&nodes[i]).gen_no);
    let stranger = Node::new(NET_B, 9, "192.0.2.9:1001");
    let gen_stranger = p.bind(&stranger).gen_no;
    assert_eq!(p.sessions(), [1, 2, 1]);
    for (i, a) in nodes.iter().enumerate() {
        for (j, b) in nodes.iter().enumerate().filter(|(j, _)| *j != i) {
            let (to, bytes) = p.send(a.from, &data(gens[i], j as u32 + 1, 0, b"hello")).unwrap();
            assert_eq!(to, addr(b.from));
            let Ok(Frame::Data(header, _)) = Frame::parse(&bytes) else { panic!("not DATA") };
            assert_eq!((header.gen_no, header.node_no), (gens[j], i as u32 + 1));
        }
        assert_eq!(nack(&p.send(stranger.from, &data(gen_stranger, i as u32 + 1, 0, b"data")).unwrap().1), 2);
    }
}

#[test]
fn a_client_whose_port_changes_moves_to_another_thread_and_is_one_session() {
    let mut p = Parts::new(2, &ForwardConfig::default());
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let b = Node::new(NET_A, 2, "192.0.2.2:1000");
    let (gen_a, gen_b) = (p.bind(&a).gen_no, p.bind(&b).gen_no);
    assert_eq!(p.sessions(), [2, 0]);
    p.pass(5);
    let moved = Node { from: "192.0.2.1:1001", ..a.clone() };
    let new_gen = p.bind(&moved).gen_no;
    assert_ne!(new_gen, gen_a);
    assert_eq!(p.sessions(), [1, 1]);
    assert_eq!(p.send(b.from, &data(gen_b, 1, 0, b"x")).unwrap().0, addr(moved.from));
    assert_eq!(p.send(moved.from, &data(new_gen, 2, 0, b"x")).unwrap().0, addr(b.from));
    assert_eq!(p.send(a.from, &data(gen_a, 2, 0, b"data")).unwrap().0, addr(b.from), "was on its way");
    p.pass(2_000);
    assert_eq!(nack(&p.send(a.from, &data(gen_a, 2, 0, b"data")).unwrap().1), 1, "nobody's by now");
    // And back, under another number again.
    p.pass(5);
    let back = p.bind(&a).gen_no;
    assert_ne!(back, new_gen);
    assert_eq!(p.sessions(), [2, 0]);
    assert_eq!(p.send(b.from, &data(gen_b, 1, 0, b"x")).unwrap().0, addr(a.from));
}

#[test]
fn an_old_bind_is_old_for_every_thread() {
    let mut p = Parts::new(2, &ForwardConfig::default());
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let moved = Node { from: "192.0.2.1:1001", ..a.clone() };
    let cookie = p.on(1, |w| moved.cookie(w));
    let early = moved.bind_frame(p.on(1, |w| w.ms()), cookie);
    p.pass(1);
    p.bind(&a);
    assert_eq!(p.send(moved.from, &early), Err(DropReason::Replay));
    assert_eq!(p.sessions(), [1, 0]);
}

#[test]
fn threads_that_bind_a_node_at_once_agree_on_the_later_one() {
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let other = Node { from: "192.0.2.1:1001", ..a.clone() };
    for (ms, winner) in [(0, [0, 1]), (1, [0, 1]), (-1, [1, 0])] {
        let mut p = Parts::new(3, &ForwardConfig::default());
        let cookies = [p.on(0, |w| a.cookie(w)), p.on(1, |w| other.cookie(w))];
        let ts_ms = p.on(0, |w| w.ms()) + 10;
        let binds =
            [a.bind_frame(ts_ms, cookies[0]), other.bind_frame(ts_ms.strict_add_signed(ms), cookies[1])];
        p.on(0, |w| w.send(a.from, &binds[0]).unwrap());
        p.on(1, |w| w.send(other.from, &binds[1]).unwrap());
        p.hear();
        assert_eq!(p.sessions(), [winner[0], winner[1], 0], "{ms} ms later");
        let c = Node::new(NET_A, 2, "192.0.2.2:1002");
        let gen_c = p.bind(&c).gen_no;
        let to = p.send(c.from, &data(gen_c, 1, 0, b"x")).unwrap().0;
        assert_eq!(to, addr([a.from, other.from][winner[1]]));
    }
}

#[test]
fn replicas_live_as_long_as_their_sessions_and_not_longer() {
    let mut p = Parts::new(2, &ForwardConfig::default());
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1001"));
    let (gen_a, gen_b) = (p.bind(&a).gen_no, p.bind(&b).gen_no);
    for i in 0..40 {
        p.pass(20_000);
        let keep = |gen_no| Keep { flags: 0, gen_no, t: 5 }.encode();
        p.send(a.from, &keep(gen_a)).unwrap();
        if i < 20 {
            p.send(b.from, &keep(gen_b)).unwrap();
        }
        let result = p.send(a.from, &data(gen_a, 2, 0, b"data")).unwrap();
        // The last KEEP is that of i = 19; 120 s later it is over, for b's thread and for a's.
        assert_eq!(result.0 == addr(b.from), i < 25, "{i}: {result:?}");
    }
    assert_eq!(p.sessions(), [1, 0]);
    // A thread that has heard nothing, not even the end, forgets by itself.
    let mut p = Parts::new(2, &ForwardConfig::default());
    let gen_a = p.bind(&a).gen_no;
    p.bind(&b);
    for i in 0..10 {
        p.on(0, |w| w.pass(20_000));
        let frame = data(gen_a, 2, 0, b"data");
        let result = p.on(0, |w| w.send(a.from, &frame)).unwrap();
        assert_eq!(result.0 == addr(b.from), i < 7, "{i}");
    }
}

#[test]
fn the_caps_count_the_sessions_of_all_threads() {
    let mut p = Parts::new(2, &ForwardConfig { max_sessions: 6, ..ForwardConfig::default() });
    let froms = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "192.0.2.1:5"];
    for (lane, from) in froms.into_iter().enumerate() {
        let node = Node { lane: lane as u8, from, ..Node::new(NET_A, 1, from) };
        let part = p.part_of(from);
        let cookie = p.on(part, |w| node.cookie(w));
        let frame = node.bind_frame(p.on(0, |w| w.ms()), cookie);
        assert_eq!(p.send(from, &frame).err(), (lane == 4).then_some(DropReason::NodeSessions));
    }
    p.bind(&Node::new(NET_A, 2, "192.0.2.2:1"));
    p.bind(&Node::new(NET_A, 3, "192.0.2.3:2"));
    let late = Node::new(NET_A, 4, "192.0.2.4:1");
    let cookie = p.on(1, |w| late.cookie(w));
    let frame = late.bind_frame(p.on(0, |w| w.ms()), cookie);
    assert_eq!(p.send(late.from, &frame), Err(DropReason::TableFull));
}

/// Where three nodes may be, each at addresses of its own: one that two nodes share is the last one's.
const HOMES: [[&str; 4]; 3] = [
    ["192.0.2.1:10", "192.0.2.1:11", "192.0.2.1:12", "192.0.2.1:13"],
    ["192.0.2.2:10", "192.0.2.2:11", "192.0.2.2:12", "192.0.2.2:13"],
    ["192.0.2.3:10", "192.0.2.3:11", "192.0.2.3:12", "192.0.2.3:13"],
];

/// Random lives of three nodes that move between addresses: whatever order updates take, once all are heard every part
/// has the same word for each node, and it is that of the last BIND.
#[test]
fn whatever_order_updates_take_the_parts_agree_in_the_end() {
    use crate::rng::RngCore as _;
    let mut rng = Rng::from_seed([8; 32]);
    for _round in 0..60 {
        let mut p = Parts::new(3, &ForwardConfig::default());
        let mut last: BTreeMap<u32, &'static str> = BTreeMap::new();
        for _ in 0..30 {
            let node_no = 1 + rng.next_u32() % 3;
            let from = HOMES[node_no as usize - 1][rng.next_u32() as usize % 4];
            let node = Node::new(NET_A, node_no, from);
            let part = p.part_of(from);
            p.on(part, |w| w.pass(1));
            p.on(part, |w| {
                let cookie = node.cookie(w);
                w.pass(1);
                node.bind_with(w, cookie)
            });
            last.insert(node_no, from);
            // Some parts hear some of it, late, and not in step.
            let (hearer, n) = (rng.next_u32() as usize % 3, rng.next_u32() as usize % 4);
            for _ in 0..n {
                if let Some(update) = p.inboxes[hearer].pop_front() {
                    p.parts[hearer].handle_update(&update, p.now.mono);
                }
            }
            let ms = u64::from(rng.next_u32() % 500);
            p.on(0, |w| w.pass(ms));
        }
        p.hear();
        assert_eq!(p.sessions().iter().sum::<usize>(), last.len());
        for (i, from) in ["203.0.113.1:10", "203.0.113.1:11", "203.0.113.1:12"].into_iter().enumerate() {
            let watcher = Node::new(NET_A, 100 + i as u32, from);
            let gen_no = p.bind(&watcher).gen_no;
            for (&node_no, to) in &last {
                let reached = p.send(from, &data(gen_no, node_no, 0, b"x")).unwrap().0;
                assert_eq!(reached, addr(to), "node {node_no} by part {i}");
            }
        }
    }
}
