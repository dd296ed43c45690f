//! Two lane sets and a wire that loses, repeats, reorders and delays their records, under a model of interleavings.

use super::*;
use crate::id::LaneNo;
use crate::key::{Secret, StaticSecret};
use crate::node::lanes::{CHANGE_TIMEOUT, LaneEvent, LaneSet};
use crate::session::{Context, Engine, KeypairId, LaneRoot, OpeningKey, Role, SealingKey, Suite, sealed_len};
use crate::wire::record::{Hello, Holding, Record, SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use std::collections::{BTreeMap, BTreeSet};

const BOTH: u32 = SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM;

/// What is on the wire, by the keypair it is sealed under.
#[derive(Clone, Debug)]
enum Message {
    Record(u64, Vec<u8>),
    /// A datagram sealed on a lane.
    Sealed(Vec<u8>),
}

struct End {
    local: LocalKey,
    indices: IndexAllocator,
    timestamps: TimestampClock,
    rng: Rng,
    lanes: LaneSet,
    hello: Hello,
    /// Opening keys of lanes that are installed.
    opening: BTreeMap<ReceiverIndex, OpeningKey>,
    /// Lane 0's index of each keypair.
    lane0: BTreeMap<u64, ReceiverIndex>,
    installing: Vec<OpeningKey>,
    asked: Vec<LaneNo>,
    drops: Vec<DropReason>,
    out: Vec<Message>,
    accepts: u32,
    /// The lanes of the last snapshot, with the peer's index.
    published: Vec<(LaneNo, ReceiverIndex)>,
}

impl End {
    fn new(id: u8, hello: Hello) -> Self {
        let local = LocalKey::new(StaticSecret::from_bytes([id; 32]), Engine::Noise);
        Self {
            lanes: LaneSet::new(PublicKey([9; 32])),
            local,
            indices: IndexAllocator::new(),
            timestamps: TimestampClock::default(),
            rng: Rng::from_seed([id; 32]),
            hello,
            opening: BTreeMap::new(),
            lane0: BTreeMap::new(),
            installing: Vec::new(),
            asked: Vec::new(),
            drops: Vec::new(),
            out: Vec::new(),
            accepts: 0,
            published: Vec::new(),
        }
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut LaneSet, &mut Context<'_>) -> T) -> T {
        let mut cx = Context {
            local: &self.local,
            indices: &mut self.indices,
            timestamps: &mut self.timestamps,
            rng: &mut self.rng,
        };
        let result = f(&mut self.lanes, &mut cx);
        self.drain();
        result
    }

    fn drain(&mut self) {
        let mut removed = Vec::new();
        while let Some(event) = self.lanes.poll_event() {
            match event {
                LaneEvent::Install(key) => self.installing.push(key),
                LaneEvent::Record(key, record) => {
                    self.accepts += u32::from(matches!(record, Record::Accept(_)));
                    if let Record::Open(offer) | Record::Accept(offer) = record {
                        assert!(self.opening.contains_key(&offer.receiver), "told only when installed");
                    }
                    self.out.push(Message::Record(key.id().0, record.encode()));
                }
                LaneEvent::Prove(_, key) => self.out.push(Message::Sealed(sealed(&key))),
                LaneEvent::Asked(lane) => self.asked.push(lane),
                LaneEvent::Changed => self.published = self.snapshot(),
                LaneEvent::Remove(_, index) => removed.push(index),
            }
        }
        for index in removed {
            let sealing = self.lanes.bulk();
            let Some(key) = self.opening.remove(&index) else { continue };
            assert!(sealing.iter().all(|(_, s)| s.id() != key.id()), "sealing ends before opening");
            assert_eq!(self.indices.peer_of(index), None);
        }
        assert_eq!(self.published, self.snapshot(), "a change that nobody was told of");
    }

    fn snapshot(&self) -> Vec<(LaneNo, ReceiverIndex)> {
        self.lanes.bulk().iter().map(|(lane, key)| (*lane, key.receiver_index())).collect()
    }

    /// The inbound half takes the oldest key it was given.
    fn install(&mut self, now: Instant) {
        if self.installing.is_empty() {
            return;
        }
        let key = self.installing.remove(0);
        let index = key.local_index();
        assert!(self.indices.peer_of(index).is_some());
        self.opening.insert(index, key);
        assert!(self.with(|l, cx| l.handle_installed(index, now, cx)));
    }

    fn begin(&mut self, n: u8, role: Role, now: Instant) {
        let root = || LaneRoot {
            id: KeypairId(u64::from(n)),
            local: ReceiverIndex(u32::from(n) + 1_000),
            handshake_hash: [n; 32],
            lane_secret: Secret::from_bytes([n ^ 0x55; 32]),
            role,
            born: now,
        };
        self.lane0.insert(u64::from(n), root().local);
        let mut keys = root().derive(1, Suite::ChaCha20Poly1305, &[0; 32], Engine::Noise);
        let lane0 = keys[0].take_sealing(ReceiverIndex(7)).unwrap();
        let hello = self.hello.clone();
        self.with(|l, _| l.handle_keypair(root(), lane0, hello, now));
    }

    fn receive(&mut self, message: &Message, now: Instant) {
        match message {
            Message::Record(keypair, bytes) => {
                let Some(&local) = self.lane0.get(keypair) else { return };
                if let Err(reason) = self.with(|l, cx| l.handle_record(local, bytes, now, cx)) {
                    self.drops.push(reason);
                }
            }
            Message::Sealed(bytes) => {
                let _dropped = self.open(bytes, now);
            }
        }
    }

    fn open(&mut self, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let index = crate::wire::wireguard::TransportHeader::parse(bytes)?.receiver;
        let key = self.opening.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        key.open(&mut bytes.to_vec(), now)?;
        if key.take_confirmation() {
            self.with(|l, _| l.handle_authenticated(index));
        }
        Ok(())
    }

    fn bulk(&self) -> Vec<u8> {
        self.lanes.bulk().iter().map(|(lane, _)| lane.0).collect()
    }
}

fn sealed(key: &SealingKey) -> Vec<u8> {
    let mut bytes = vec![0; sealed_len(0)];
    let counter = key.reserve(1, Instant::ZERO).unwrap().start;
    key.seal(counter, &mut bytes, 0);
    bytes
}

fn hello(suites: u32, max_lanes: u8) -> Hello {
    let manifest = Holding { epoch: 1, hash: [1; 32] };
    Hello { suites, max_lanes, max_packet: 1360, manifest, features: 1, documents: None }
}

struct Pair {
    ends: [End; 2],
    /// Towards each end.
    wire: [Vec<Message>; 2],
    now: Instant,
}

impl Pair {
    fn new(hellos: [Hello; 2]) -> Self {
        let [a, b] = hellos;
        Self { ends: [End::new(1, a), End::new(2, b)], wire: Default::default(), now: Instant::ZERO }
    }

    fn alike() -> Self {
        Self::new([hello(BOTH, 4), hello(BOTH, 4)])
    }

    fn begin(&mut self, n: u8) {
        let now = self.now;
        self.ends[0].begin(n, Role::Initiator, now);
        self.ends[1].begin(n, Role::Responder, now);
        self.collect();
    }

    fn collect(&mut self) {
        for from in 0..2 {
            let out = core::mem::take(&mut self.ends[from].out);
            self.wire[1 - from].extend(out);
        }
    }

    /// Everything arrives in order, keys are installed at once, no time passes.
    fn settle(&mut self) {
        while self.step(|_| 0) {}
        self.check();
    }

    /// As [`Pair::settle`], on a network that carries nothing of lane 2 but records.
    fn settle_without_lane_2(&mut self) {
        loop {
            for to in 0..2 {
                let end = &self.ends[to];
                self.wire[to].retain(|m| match m {
                    Message::Record(..) => true,
                    Message::Sealed(bytes) => {
                        let index = crate::wire::wireguard::TransportHeader::parse(bytes).unwrap().receiver;
                        end.opening.get(&index).is_none_or(|k| k.lane() != LaneNo(2))
                    }
                });
            }
            if !self.step(|_| 0) {
                return;
            }
        }
    }

    /// One of the things that can happen now; false if there is none.
    fn step(&mut self, mut pick: impl FnMut(usize) -> usize) -> bool {
        let mut options = Vec::new();
        for end in 0..2 {
            options.extend((0..self.wire[end].len()).map(|at| (end, Some(at))));
            options.extend((!self.ends[end].installing.is_empty()).then_some((end, None)));
        }
        if options.is_empty() {
            return false;
        }
        let (end, what) = options[pick(options.len())];
        match what {
            Some(at) => {
                let message = self.wire[end].remove(at);
                self.ends[end].receive(&message, self.now);
            }
            None => self.ends[end].install(self.now),
        }
        self.collect();
        self.check();
        true
    }

    /// The next timer of either end, if one comes within `limit`.
    fn tick(&mut self, limit: Duration) -> bool {
        let next = self.ends.iter().filter_map(|e| e.lanes.poll_timeout()).min();
        let Some(at) = next.filter(|at| *at <= self.now + limit) else { return false };
        self.now = self.now.max(at);
        for end in &mut self.ends {
            end.lanes.handle_timeout(self.now);
            end.drain();
            assert!(end.lanes.poll_timeout().is_none_or(|at| at > self.now), "a timer that stays due spins");
        }
        self.collect();
        true
    }

    fn run(&mut self, limit: Duration) {
        let end = self.now + limit;
        self.settle();
        while self.tick(end - self.now) {
            self.settle();
        }
        self.now = end;
    }

    /// What either end would seal now, the other one opens.
    fn check(&mut self) {
        for from in 0..2 {
            for (_, key) in self.ends[from].lanes.bulk() {
                let opened = self.ends[1 - from].open(&sealed(&key), self.now);
                assert_eq!(opened, Ok(()), "a packet met a peer without its key");
            }
            self.collect();
        }
    }

    fn bulk(&self) -> [Vec<u8>; 2] {
        self.ends.each_ref().map(End::bulk)
    }
}

#[test]
fn without_loss_lane_1_opens_in_two_round_trips_and_with_aes() {
    let mut pair = Pair::alike();
    pair.begin(1);
    pair.settle();
    assert_eq!(pair.bulk(), [[1], [1]]);
    assert!(pair.ends.iter().all(|e| e.lanes.suite() == Some(Suite::Aes256Gcm)));
    assert!(pair.ends.iter().all(|e| e.lanes.agreed() == 4 && e.drops.is_empty()));
    pair.run(Duration::from_secs(100));
    assert!(pair.ends.iter().all(|e| e.accepts == 1 && e.lanes.poll_timeout().is_none()), "nothing repeats");
}

#[test]
fn the_cipher_is_aes_if_and_only_if_both_offer_it() {
    for (ours, theirs, agreed) in [
        (BOTH, BOTH, Some(Suite::Aes256Gcm)),
        (SUITE_CHACHA20_POLY1305, BOTH, Some(Suite::ChaCha20Poly1305)),
        (BOTH, SUITE_CHACHA20_POLY1305, Some(Suite::ChaCha20Poly1305)),
        (SUITE_CHACHA20_POLY1305, SUITE_AES_256_GCM, None),
    ] {
        let mut pair = Pair::new([hello(ours, 4), hello(theirs, 4)]);
        pair.begin(1);
        pair.run(Duration::from_secs(30));
        assert!(pair.ends.iter().all(|e| e.lanes.suite() == agreed), "{ours:#x} {theirs:#x}");
    }
}

#[test]
fn a_peer_that_wants_no_lanes_keeps_everything_on_lane_0() {
    let mut pair = Pair::new([hello(BOTH, 4), hello(BOTH, 0)]);
    pair.begin(1);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.bulk(), [[0u8; 0]; 2]);
}

/// Both ends began a handshake at once: each ends up with the other's keypair as its newest.
#[test]
fn handshakes_that_cross_leave_both_ends_with_lane_1() {
    let mut pair = Pair::alike();
    let now = pair.now;
    pair.ends[0].begin(1, Role::Initiator, now);
    pair.ends[1].begin(2, Role::Initiator, now);
    pair.ends[0].begin(2, Role::Responder, now);
    pair.ends[1].begin(1, Role::Responder, now);
    pair.collect();
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.bulk(), [vec![1], vec![1]]);
}

#[test]
fn any_order_of_arrival_opens_lane_1() {
    for seed in 0..3_000u64 {
        let mut rng = Rng::from_seed(crate::crypto::hash(&[&seed.to_le_bytes()]));
        let mut pair = Pair::alike();
        pair.begin(1);
        while pair.step(|n| rng.below(n as u64) as usize) {}
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.bulk(), [[1], [1]], "seed {seed}");
    }
}

#[test]
fn a_loss_or_repetition_at_any_position_only_delays_lane_1() {
    for position in 0..12 {
        for repeat in [false, true] {
            let mut pair = Pair::alike();
            pair.begin(1);
            for carried in 0.. {
                let Some(to) = (0..2).find(|to| !pair.wire[*to].is_empty()) else {
                    if pair.ends.iter().all(|e| e.installing.is_empty()) {
                        break;
                    }
                    (0..2).for_each(|e| pair.ends[e].install(pair.now));
                    pair.collect();
                    continue;
                };
                let message = pair.wire[to].remove(0);
                let times = if carried != position {
                    1
                } else if repeat {
                    3
                } else {
                    0
                };
                (0..times).for_each(|_| pair.ends[to].receive(&message, pair.now));
                pair.collect();
                pair.check();
            }
            pair.run(Duration::from_secs(1));
            assert_eq!(pair.bulk(), [[1], [1]], "position {position} repeat {repeat}");
        }
    }
}

#[test]
fn heavy_loss_reordering_and_late_records_end_with_lane_1_or_with_lane_0() {
    let mut opened = 0;
    for seed in 0..2_000u64 {
        let mut rng = Rng::from_seed(crate::crypto::hash(&[b"loss", &seed.to_le_bytes()]));
        let mut pair = Pair::alike();
        let mut late = Vec::new();
        for n in 1..=3u8 {
            pair.begin(n);
            for _ in 0..200 {
                for to in 0..2 {
                    match rng.below(6) {
                        0 => drop(pair.wire[to].pop()),
                        1 => late.extend(pair.wire[to].pop().map(|m| (to, m))),
                        2 => pair.wire[to].extend_from_within(..pair.wire[to].len().min(1)),
                        3 if !late.is_empty() => {
                            let (to, message) = late.swap_remove(rng.below(late.len() as u64) as usize);
                            pair.wire[to].push(message);
                        }
                        _ => {}
                    }
                }
                if !pair.step(|n| rng.below(n as u64) as usize) && !pair.tick(Duration::from_secs(20)) {
                    break;
                }
            }
            pair.now = pair.now + Duration::from_secs(20);
        }
        pair.begin(4);
        pair.run(Duration::from_secs(20));
        opened += u32::from(pair.bulk() == [[1], [1]]);
    }
    assert_eq!(opened, 2_000, "the last keypair was agreed without loss");
}

#[test]
fn a_wire_that_takes_all_records_leaves_lane_0_and_falls_silent() {
    let mut pair = Pair::alike();
    pair.begin(1);
    let mut sent = 0;
    while {
        sent += pair.wire.iter().map(Vec::len).sum::<usize>();
        pair.wire = Default::default();
        pair.tick(Duration::from_secs(100))
    } {}
    assert_eq!(pair.bulk(), [[0u8; 0]; 2]);
    assert_eq!(sent, 9, "HELLO and eight repetitions");
}

#[test]
fn hellos_that_differ_at_the_two_ends_cost_the_lane_until_the_next_keypair() {
    let mut pair = Pair::alike();
    pair.begin(1);
    let Message::Record(_, bytes) = &mut pair.wire[1][0] else { panic!("the first is HELLO") };
    // Nobody can do this to a sealed record. A suite more that nobody knows: same cipher, same lanes, other keys.
    bytes[13] |= 0x80;
    assert!(Record::parse(bytes).is_ok());
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.bulk(), [[0u8; 0]; 2], "neither end seals what the other cannot open");
    assert!(pair.ends.iter().all(|e| e.lanes.agreed() == 4));
    pair.begin(2);
    pair.settle();
    assert_eq!(pair.bulk(), [[1], [1]]);
}

#[test]
fn a_second_hello_with_other_bytes_changes_nothing() {
    let mut pair = Pair::alike();
    pair.begin(1);
    pair.settle();
    let mut other = hello(SUITE_CHACHA20_POLY1305, 1);
    other.max_packet = 1;
    pair.wire[1].push(Message::Record(1, other.encode()));
    pair.settle();
    assert_eq!(pair.ends[1].drops, [DropReason::UnexpectedRecord]);
    assert_eq!(pair.bulk(), [[1], [1]]);
}

#[test]
fn what_was_not_agreed_is_dropped() {
    use crate::wire::record::LaneOffer;
    let mut pair = Pair::alike();
    pair.begin(1);
    pair.settle();
    let offer = |lane, suite| LaneOffer { lane: LaneNo(lane), suite, receiver: ReceiverIndex(5) };
    let records = [
        Record::Open(offer(5, Suite::Aes256Gcm)),
        Record::Open(offer(2, Suite::ChaCha20Poly1305)),
        Record::Open(offer(1, Suite::Aes256Gcm)),
        Record::Accept(offer(2, Suite::Aes256Gcm)),
    ];
    for record in records {
        pair.ends[1].receive(&Message::Record(1, record.encode()), pair.now);
    }
    assert_eq!(pair.ends[1].drops, [DropReason::UnexpectedRecord; 4]);
    let unknown = pair.ends[1]
        .with(|l, cx| l.handle_record(ReceiverIndex(1), &hello(1, 1).encode(), Instant::ZERO, cx));
    assert_eq!(unknown, Err(DropReason::UnexpectedRecord));
    pair.settle();
    assert_eq!(pair.bulk(), [[1], [1]]);
}

#[test]
fn the_old_lane_seals_until_the_new_one_is_proven_but_not_for_ever() {
    let mut pair = Pair::alike();
    pair.begin(1);
    pair.settle();
    let id = |pair: &Pair, end: usize| pair.ends[end].lanes.bulk().first().map(|(_, k)| k.id().0);
    pair.begin(2);
    assert_eq!([id(&pair, 0), id(&pair, 1)], [Some(1); 2]);
    pair.settle();
    assert_eq!([id(&pair, 0), id(&pair, 1)], [Some(2); 2]);
    // Under the third one every record is lost.
    pair.begin(3);
    let begun = pair.now;
    loop {
        pair.wire = Default::default();
        let before = [id(&pair, 0), id(&pair, 1)];
        if !pair.tick(Duration::from_secs(100)) {
            break;
        }
        if pair.now - begun < CHANGE_TIMEOUT {
            assert_eq!(before, [Some(2); 2]);
        }
    }
    assert_eq!([id(&pair, 0), id(&pair, 1)], [None; 2]);
}

#[test]
fn a_keypair_that_goes_takes_its_lanes_and_their_indices_along() {
    let mut pair = Pair::alike();
    for n in 1..=3 {
        pair.begin(n);
        pair.settle();
    }
    for end in &mut pair.ends {
        assert_eq!((end.opening.len(), end.indices.len()), (3, 3));
        for n in 1..=3 {
            let local = end.lane0[&n];
            end.with(|l, cx| l.handle_removed(local, cx));
        }
        assert!(end.opening.is_empty() && end.indices.is_empty() && end.bulk().is_empty());
        assert_eq!((end.lanes.poll_timeout(), end.lanes.suite()), (None, None));
    }
}

#[test]
fn further_lanes_open_at_both_ends_when_one_wants_them_and_the_ports_are_ready() {
    let mut pair = Pair::alike();
    pair.begin(1);
    pair.settle();
    let now = pair.now;
    pair.ends[0].with(|l, cx| l.want(3, now, cx));
    pair.settle();
    assert_eq!(pair.bulk(), [[1], [1]], "no port is ready");
    for port in [1, 2] {
        pair.ends[0].with(|l, cx| l.set_port_ready(PortNo(port), true, now, cx));
    }
    pair.collect();
    pair.settle();
    assert_eq!(pair.ends[1].asked, [LaneNo(2), LaneNo(3)]);
    for port in [1, 2] {
        pair.ends[1].with(|l, cx| l.set_port_ready(PortNo(port), true, now, cx));
    }
    pair.collect();
    pair.settle();
    assert_eq!(pair.bulk(), [[1, 2, 3], [1, 2, 3]]);
    pair.ends[0].with(|l, cx| l.want(1, now, cx));
    assert_eq!(pair.ends[0].bulk(), [1], "no longer used by who no longer wants them");
}

#[test]
fn a_lane_whose_path_comes_after_all_repetitions_is_proven_then() {
    let mut pair = Pair::alike();
    for end in &mut pair.ends {
        end.with(|l, cx| l.set_port_ready(PortNo(1), true, Instant::ZERO, cx));
    }
    pair.ends[0].with(|l, cx| l.want(2, Instant::ZERO, cx));
    pair.begin(1);
    pair.settle_without_lane_2();
    while pair.tick(Duration::from_secs(60)) {
        pair.settle_without_lane_2();
    }
    assert_eq!(pair.bulk(), [[1], [1]]);
    for end in &mut pair.ends {
        let now = pair.now;
        end.with(|l, _| l.handle_path(PortNo(1), now));
    }
    pair.collect();
    pair.settle();
    assert_eq!(pair.bulk(), [[1, 2], [1, 2]]);
}

#[test]
fn a_lane_whose_port_closed_comes_back_with_the_next_keypair_only() {
    let mut pair = Pair::alike();
    for end in &mut pair.ends {
        end.with(|l, cx| l.set_port_ready(PortNo(1), true, Instant::ZERO, cx));
        end.with(|l, cx| l.want(2, Instant::ZERO, cx));
    }
    pair.begin(1);
    pair.settle();
    assert_eq!(pair.bulk(), [[1, 2], [1, 2]]);
    for ready in [false, true] {
        pair.ends[0].with(|l, cx| l.set_port_ready(PortNo(1), ready, Instant::ZERO, cx));
        pair.ends[1].with(|l, cx| l.set_port_ready(PortNo(1), ready, Instant::ZERO, cx));
        pair.collect();
        pair.settle();
        assert_eq!(pair.bulk(), [[1], [1]], "no key meets a second window");
    }
    pair.begin(2);
    pair.settle();
    assert_eq!(pair.bulk(), [[1, 2], [1, 2]]);
}

#[test]
fn an_aes_lane_is_worn_after_its_limit_until_a_new_keypair_is_there() {
    let mut pair = Pair::alike();
    pair.begin(1);
    pair.settle();
    let key = pair.ends[0].lanes.bulk()[0].1.clone();
    assert!(!pair.ends[0].lanes.is_worn());
    key.set_next(1 << 29);
    assert!(pair.ends[0].lanes.is_worn());
    pair.begin(2);
    assert!(!pair.ends[0].lanes.is_worn(), "its successor is under way");
    pair.settle();
    assert!(!pair.ends[0].lanes.is_worn());
}

#[test]
fn no_index_is_told_twice() {
    let mut pair = Pair::alike();
    for n in 1..=4 {
        pair.begin(n);
        pair.settle();
    }
    for end in &pair.ends {
        let indices: BTreeSet<_> = end.opening.keys().collect();
        assert_eq!(indices.len(), 4);
    }
}
