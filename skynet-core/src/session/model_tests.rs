//! The order of key changes under a model of interleavings: two ends, each of control and data plane with queues
//! between them, and a network that delivers in any order. A scheduler picks what happens next, exhaustively up to a
//! bound and then at random.

use std::collections::BTreeSet;

use super::testing::{End, established, now_at};
use super::*;

const SECOND: u64 = 1_000_000_000;

/// Where choices come from; `pick` is below `options`.
trait Scheduler {
    fn pick(&mut self, options: usize) -> usize;
}

impl Scheduler for Rng {
    fn pick(&mut self, options: usize) -> usize {
        self.below(options as u64) as usize
    }
}

/// Replays a prefix of choices, then takes the first option; remembers how many options there were. What has only
/// one option is no choice.
#[derive(Default)]
struct Path {
    choices: Vec<usize>,
    options: Vec<usize>,
    at: usize,
}

impl Path {
    /// The next path of a depth-first walk over the first `depth` choices; false at the end.
    fn advance(&mut self, depth: usize) -> bool {
        self.choices.resize(self.options.len().min(depth), 0);
        self.at = 0;
        let options = core::mem::take(&mut self.options);
        while let Some(last) = self.choices.pop() {
            if last + 1 < options[self.choices.len()] {
                self.choices.push(last + 1);
                return true;
            }
        }
        false
    }
}

impl Scheduler for Path {
    fn pick(&mut self, options: usize) -> usize {
        if options == 1 {
            return 0;
        }
        let choice = self.choices.get(self.at).copied().unwrap_or(0);
        self.options.push(options);
        self.at += 1;
        choice.min(options - 1)
    }
}

struct World {
    ends: [End; 2],
    /// Datagrams under way to each end; any may arrive next.
    wire: [Vec<Vec<u8>>; 2],
    nanos: u64,
    /// Things the scheduler may still start, per end: handshakes, data packets.
    initiations: [u32; 2],
    packets: [u32; 2],
    losses: u32,
    sent_data: u32,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Deliver(usize, usize),
    Lose(usize, usize),
    Data(usize),
    Control(usize),
    Initiate(usize),
    Send(usize),
}

impl World {
    fn new((a, b): (End, End), initiations: [u32; 2], packets: [u32; 2], losses: u32) -> Self {
        Self {
            ends: [a, b],
            wire: Default::default(),
            nanos: 20 * SECOND,
            initiations,
            packets,
            losses,
            sent_data: 0,
        }
    }

    fn collect(&mut self) {
        for from in 0..2 {
            let sent = core::mem::take(&mut self.ends[from].sent);
            self.wire[1 - from].extend(sent);
        }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for end in 0..2 {
            if !self.ends[end].to_data.is_empty() {
                actions.push(Action::Data(end));
            }
            if !self.ends[end].to_control.is_empty() {
                actions.push(Action::Control(end));
            }
            actions.extend((0..self.wire[end].len()).map(|i| Action::Deliver(end, i)));
            if self.losses > 0 {
                actions.extend((0..self.wire[end].len()).map(|i| Action::Lose(end, i)));
            }
            if self.initiations[end] > 0 {
                actions.push(Action::Initiate(end));
            }
            if self.packets[end] > 0 && self.ends[end].sealing.is_some() {
                actions.push(Action::Send(end));
            }
        }
        actions
    }

    fn apply(&mut self, action: Action) {
        self.nanos += 1_000_000;
        let now = now_at(self.nanos);
        match action {
            Action::Data(end) => self.ends[end].step_data(now),
            Action::Control(end) => self.ends[end].step_control(now),
            Action::Deliver(end, i) => {
                let datagram = self.wire[end].remove(i);
                self.ends[end].receive(now, &datagram);
            }
            Action::Lose(end, i) => {
                self.losses -= 1;
                self.wire[end].remove(i);
            }
            Action::Initiate(end) => {
                self.initiations[end] -= 1;
                self.ends[end].initiate(now);
            }
            Action::Send(end) => {
                self.packets[end] -= 1;
                self.sent_data += u32::from(self.ends[end].send_data(now, b"data"));
            }
        }
        self.collect();
    }

    /// Runs until nothing is left to do.
    fn run(&mut self, scheduler: &mut impl Scheduler) {
        for _ in 0..2_000 {
            let actions = self.actions();
            if actions.is_empty() {
                return;
            }
            self.apply(actions[scheduler.pick(actions.len())]);
        }
        panic!("the two ends never come to rest");
    }

    /// Lets time pass, without loss, until both seal with the same keypair; at most a minute.
    fn converge(&mut self) {
        self.losses = 0;
        let end = self.nanos + 60 * SECOND;
        loop {
            self.run(&mut Path::default());
            let [a, b] = self.ends.each_ref().map(|e| e.sealing.as_ref().map(|k| k.id()));
            let busy = self.ends.iter().any(|e| e.session.is_initiating());
            if a.is_some() && a == b && !busy {
                return;
            }
            let next = self.ends.iter().filter_map(|e| e.session.poll_timeout()).map(|t| t.0).min();
            let next = next.expect("somebody has a deadline").as_nanos().max(self.nanos + 1);
            assert!(next < end, "no common keypair after a minute of traffic: {a:?} {b:?}");
            self.nanos = next;
            for end in &mut self.ends {
                end.timeout(now_at(next));
                self.sent_data += u32::from(end.send_data(now_at(next), b"data"));
            }
            self.collect();
        }
    }

    fn check_nonces(&self) {
        for end in &self.ends {
            let distinct: BTreeSet<_> = end.seals.iter().collect();
            assert_eq!(distinct.len(), end.seals.len(), "no (key, counter) twice");
        }
    }

    /// What must hold when nothing was lost.
    fn check_lossless(&self) {
        for end in &self.ends {
            let lost = end
                .drops
                .iter()
                .any(|d| !matches!(d, DropReason::UnexpectedHandshake | DropReason::Replayed));
            assert!(!lost, "dropped: {:?}", end.drops);
        }
        let received: usize = self.ends.iter().map(|e| e.received.len()).sum();
        assert_eq!(received, self.sent_data as usize, "every packet that was sealed was opened");
    }
}

fn lossless(mut world: World, scheduler: &mut impl Scheduler) {
    world.run(scheduler);
    world.check_lossless();
    world.converge();
    world.check_lossless();
    world.check_nonces();
}

/// Every interleaving of the first `depth` choices; returns how many there were.
fn exhaustively(depth: usize, mut run: impl FnMut(&mut Path)) -> u32 {
    let mut path = Path::default();
    for runs in 1.. {
        run(&mut path);
        if !path.advance(depth) {
            return runs;
        }
    }
    unreachable!()
}

#[test]
fn every_interleaving_of_a_first_handshake_keeps_every_packet() {
    let runs =
        exhaustively(9, |path| lossless(World::new(End::pair(Engine::Null, true), [1, 0], [2, 1], 0), path));
    assert!(runs > 1_000, "{runs}");
}

#[test]
fn every_interleaving_of_a_rekey_under_traffic_keeps_every_packet() {
    let runs = exhaustively(7, |path| {
        lossless(World::new(established(Engine::Null, true), [1, 0], [2, 2], 0), path)
    });
    assert!(runs > 400, "{runs}");
}

#[test]
fn every_interleaving_of_crossing_handshakes_converges_to_one_keypair() {
    let runs =
        exhaustively(13, |path| lossless(World::new(End::pair(Engine::Null, true), [1, 1], [1, 1], 0), path));
    assert!(runs > 4_000, "{runs}");
}

#[test]
fn random_interleavings_of_crossing_rekeys_under_traffic_lose_nothing_and_converge() {
    for seed in 0..4_000u64 {
        let mut rng = Rng::from_seed(crate::crypto::hash(&[&seed.to_le_bytes()]));
        let start =
            if seed % 2 == 0 { End::pair(Engine::Null, true) } else { established(Engine::Null, true) };
        lossless(World::new(start, [2, 2], [6, 6], 0), &mut rng);
    }
}

#[test]
fn random_interleavings_with_loss_converge_and_never_repeat_a_counter() {
    for seed in 0..4_000u64 {
        let mut rng = Rng::from_seed(crate::crypto::hash(&[b"loss", &seed.to_le_bytes()]));
        let start =
            if seed % 2 == 0 { End::pair(Engine::Null, true) } else { established(Engine::Null, true) };
        let mut world = World::new(start, [2, 1], [4, 4], 5);
        world.run(&mut rng);
        if seed % 2 == 0 && world.ends.iter().all(|e| e.sealing.is_none() && !e.session.is_initiating()) {
            world.initiations = [1, 0];
        }
        world.converge();
        world.check_nonces();
        assert!(world.ends.iter().all(|e| e.opening.len() <= crate::constants::MAX_KEYPAIRS));
    }
}

#[test]
fn a_peer_that_knows_no_tie_break_still_gets_every_packet() {
    for seed in 0..1_000u64 {
        let mut rng = Rng::from_seed(crate::crypto::hash(&[b"stock", &seed.to_le_bytes()]));
        let mut world = World::new(End::pair(Engine::Null, false), [1, 1], [4, 4], 0);
        world.run(&mut rng);
        world.check_lossless();
        world.check_nonces();
    }
}

#[test]
fn a_removed_peer_is_out_within_one_step() {
    let (mut a, mut b) = established(Engine::Null, true);
    a.initiate(now_at(200 * SECOND));
    a.control(|s, cx| s.close(cx));
    a.settle(now_at(200 * SECOND));
    assert!(a.sealing.is_none() && a.opening.is_empty() && a.indices.is_empty());
    assert!(a.session.poll_timeout().is_none() && !a.session.is_established());
    b.send_data(now_at(30), b"late");
    let datagram = b.sent.pop_back().unwrap();
    a.receive(now_at(30), &datagram);
    assert_eq!(a.drops, [DropReason::UnknownIndex]);
}
