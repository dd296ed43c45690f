//! Two path agents of one pair, and a wire in the hands of the fuzzer.
//!
//! ```text
//!  agent 0 ◀── wire: lose, repeat, reorder, flip, from another source, to another address of ours ──▶ agent 1
//!          ◀──────────────── relay: lose, repeat, reorder, flip, swap with the wire ───────────────▶
//!          ◀── what was sent to the attacker's address, from the attacker's address ──▶
//! ```
//!
//! Promises: what does not authenticate, was seen before, or is a node's own, changes nothing but counters; no address of
//! the attacker is ever selected; what is sent stays within the budget of a minute; timers do not spin; and when the
//! wire is left alone, both ends go direct.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use skynet_core::id::PortNo;
use skynet_core::key::StaticSecret;
use skynet_core::path::{
    Candidate, CandidateKind, MAX_CANDIDATES, PairKeys, Path, PathAgent, PathConfig, PathCounters, ProbeFrom,
    ProbeTo, RelayPath, Traffic, check,
};
use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant, Now, UnixTime};
use skynet_core::wire::probe::FLAG_MTU;

use crate::Input;
use crate::sample::NOW;

/// Longer scripts only repeat themselves.
const MAX_STEPS: usize = 96;
/// Probes under way, and of the past, that are remembered.
const MAX_WIRE: usize = 64;
const MAX_LOG: usize = 256;
const RELAY: u16 = 1;

/// A probe, who sealed it, and the way it was sent.
#[derive(Clone)]
struct Probe {
    by: usize,
    to: ProbeTo,
    bytes: Vec<u8>,
}

struct World {
    now: Instant,
    agents: [PathAgent; 2],
    traffic: [Traffic; 2],
    wire: VecDeque<Probe>,
    log: VecDeque<Probe>,
    /// When checks left, per agent.
    pings: [Vec<Instant>; 2],
}

fn wall(mono: Instant) -> Now {
    Now { mono, unix: UnixTime(NOW.0 + mono.as_nanos() / 1_000_000_000), unix_nanos: 0 }
}

fn address(side: usize) -> SocketAddr {
    ([192, 0, 2, 1 + side as u8], 7_001).into()
}

/// Addresses of the attacker; the first stands for either end.
fn attackers(n: u8) -> SocketAddr {
    ([203, 0, 113, 66 + n % 4], 1_000 + u16::from(n % 8)).into()
}

fn node_no(side: usize) -> u32 {
    100 + side as u32
}

fn tier_of(traffic: &mut Traffic, is_direct: bool) -> &mut PathCounters {
    if is_direct { &mut traffic.direct } else { &mut traffic.relayed }
}

/// Everything but the counters, which are allowed to count.
fn state(agent: &PathAgent) -> String {
    let text = format!("{agent:?}");
    let (head, tail) = text.split_once("counters: Counters {").expect("the counters are printed");
    format!("{head}{}", tail.split_once('}').expect("they end").1)
}

impl World {
    fn new() -> Self {
        let secrets = [1, 2].map(|n| StaticSecret::from_bytes([n; 32]));
        let agent = |side: usize| {
            let keys = PairKeys::new(&[1; 32], &secrets[side], &secrets[1 - side].public(), PortNo(0));
            let now = wall(Instant::ZERO);
            let rng = Rng::from_seed([side as u8 + 1; 32]);
            let mut agent = PathAgent::new(PathConfig::default(), keys.expect("a key"), 1, rng, now);
            agent.set_local_candidates(&[Candidate::new(CandidateKind::Host, address(side))], now);
            agent
        };
        let mut world = Self {
            now: Instant::ZERO,
            agents: [agent(0), agent(1)],
            traffic: [Traffic::default(); 2],
            wire: VecDeque::new(),
            log: VecDeque::new(),
            pings: [Vec::new(), Vec::new()],
        };
        for side in 0..2 {
            let (rtt, node_no) = (Duration::from_millis(20), node_no(1 - side));
            let relay = RelayPath { relay_no: RELAY, node_no, rtt, peer_rtt: None };
            world.agents[side].set_relay(Some(relay), wall(Instant::ZERO));
            world.drain(side);
        }
        world
    }

    /// A data message, which arrives.
    fn send_data(&mut self, side: usize) {
        let is_direct = matches!(self.agents[side].selected(), Some(Path::Direct { .. }));
        self.traffic[side].last_tx = Some(self.now);
        let sent = tier_of(&mut self.traffic[side], is_direct);
        sent.tx = sent.tx.wrapping_add(1);
        let received = tier_of(&mut self.traffic[1 - side], is_direct);
        (received.rx, received.last_rx) = (received.rx.wrapping_add(1), Some(self.now));
        self.agents[side].handle_traffic(self.traffic[side], wall(self.now));
        self.drain(side);
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        for _ in 0..2_000 {
            let due = (0..2).filter_map(|side| self.agents[side].poll_timeout().map(|(at, _)| (at, side)));
            let Some((at, side)) = due.min().filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(at);
            self.agents[side].handle_traffic(self.traffic[side], wall(self.now));
            self.agents[side].handle_timeout(wall(self.now));
            self.drain(side);
            let next = self.agents[side].poll_timeout();
            assert!(next.is_none_or(|(next, _)| next > self.now), "{next:?} is due again at once");
        }
        self.now = until;
    }

    fn drain(&mut self, side: usize) {
        while let Some(t) = self.agents[side].poll_transmit() {
            // Probes of size are no checks, and have bounds of their own.
            if matches!(t.bytes[..], [_, 1, high, low, ..] if u16::from_be_bytes([high, low]) & FLAG_MTU == 0)
            {
                self.pings[side].push(self.now);
            }
            self.wire.push_back(Probe { by: side, to: t.to, bytes: t.bytes });
            if self.wire.len() > MAX_WIRE {
                self.wire.pop_front();
            }
        }
        while self.agents[side].poll_event().is_some() {}
        self.check(side);
    }

    fn check(&mut self, side: usize) {
        let agent = &self.agents[side];
        if let Some(Path::Direct { remote }) = agent.selected() {
            assert_eq!(remote, address(1 - side), "an attacker's address is the path");
        }
        assert!(agent.candidates().count() <= MAX_CANDIDATES);
        let now = self.now;
        self.pings[side].retain(|at| now - *at < Duration::from_secs(60));
        assert!(self.pings[side].len() <= check::PINGS_PER_MINUTE as usize, "more than the budget");
    }

    /// Hands a probe to `side` as coming from `from` to our address `local`. True if it was accepted.
    fn deliver(&mut self, side: usize, from: ProbeFrom, local: Option<IpAddr>, bytes: &[u8]) -> bool {
        let mut bytes = bytes.to_vec();
        match self.agents[side].open(&mut bytes) {
            Ok(opened) => {
                self.agents[side].handle_traffic(self.traffic[side], wall(self.now));
                self.agents[side].handle_probe(from, opened.at(local), wall(self.now));
                self.drain(side);
                true
            }
            Err(_) => false,
        }
    }

    /// As the network would: to whom it was sent, from whom it came.
    fn honest(&mut self, probe: &Probe) -> bool {
        let side = 1 - probe.by;
        let from = match probe.to {
            ProbeTo::Direct { addr, ttl, .. } if addr == address(side) && ttl.is_none() => {
                ProbeFrom::Direct(address(probe.by))
            }
            ProbeTo::Direct { .. } => return false,
            ProbeTo::Relayed { .. } => ProbeFrom::Relayed { relay: RELAY, node_no: node_no(probe.by) },
        };
        self.remember(probe.clone());
        self.deliver(side, from, None, &probe.bytes)
    }

    fn remember(&mut self, probe: Probe) {
        self.log.push_back(probe);
        if self.log.len() > MAX_LOG {
            self.log.pop_front();
        }
    }

    /// What is refused changes nothing, and nothing is sent.
    fn refused(&mut self, side: usize, from: ProbeFrom, bytes: &[u8]) {
        self.agents[side].handle_traffic(self.traffic[side], wall(self.now));
        self.drain(side);
        let before = state(&self.agents[side]);
        let mut bytes = bytes.to_vec();
        if let Ok(opened) = self.agents[side].open(&mut bytes) {
            self.agents[side].handle_probe(from, opened, wall(self.now));
        }
        assert!(self.agents[side].poll_transmit().is_none(), "a refused probe was answered");
        assert_eq!(before, state(&self.agents[side]), "a refused probe changed something");
    }
}

/// A script of one byte for what, then what it takes. Accepted are scripts after which both ends went direct.
pub fn path(bytes: &[u8]) -> bool {
    let mut world = World::new();
    let mut input = Input(bytes);
    for _ in 0..MAX_STEPS {
        if input.0.is_empty() {
            break;
        }
        step(&mut world, &mut input);
    }
    calm(&mut world)
}

fn step(world: &mut World, input: &mut Input<'_>) {
    let op = input.byte();
    let n = input.byte();
    let side = usize::from(n & 1);
    let attacker = attackers(n >> 1);
    let at = |len: usize, n: u8| usize::from(n) % len.max(1);
    match op % 10 {
        0 => world.send_data(side),
        1 => world.advance(Duration::from_millis(u64::from(n))),
        2 => world.advance(Duration::from_millis(u64::from(n) * 200)),
        // Delivered as sent, the n-th of those under way first.
        3 => {
            if let Some(probe) = world.wire.remove(at(world.wire.len(), n)) {
                world.honest(&probe);
            }
        }
        4 => drop(world.wire.remove(at(world.wire.len(), n))),
        // The attacker is first, with a copy from its own address, to another address of ours.
        5 => {
            if let Some(probe) = world.wire.get(at(world.wire.len(), n)).cloned() {
                let local = Some(IpAddr::from([192, 0, 2, 100 + n % 3]));
                world.deliver(1 - probe.by, ProbeFrom::Direct(attacker), local, &probe.bytes);
            }
        }
        // What the network has delivered once is refused from everywhere.
        6 => {
            if let Some(old) = world.log.get(at(world.log.len(), n)).cloned() {
                let relayed = ProbeFrom::Relayed { relay: RELAY, node_no: node_no(old.by) };
                let from = [ProbeFrom::Direct(attacker), ProbeFrom::Direct(address(old.by)), relayed];
                let at = usize::from(input.byte()) % from.len();
                world.refused(1 - old.by, from[at], &old.bytes);
            }
        }
        // Changed on the way.
        7 => {
            if let Some(probe) = world.wire.get(at(world.wire.len(), n)).cloned() {
                let (mut changed, bit) = (probe.bytes.clone(), usize::from(input.short()));
                let bit = bit % (changed.len() * 8);
                changed[bit / 8] ^= 1 << (bit % 8);
                world.refused(1 - probe.by, ProbeFrom::Direct(address(probe.by)), &changed);
            }
        }
        // Sent back to who sealed it.
        8 => {
            if let Some(probe) = world.wire.get(at(world.wire.len(), n)).cloned() {
                world.refused(probe.by, ProbeFrom::Direct(address(1 - probe.by)), &probe.bytes);
            }
        }
        // Passed on by an attacker who stands in the middle: what was sent to its address.
        _ => {
            let to_attacker = |p: &Probe| match p.to {
                ProbeTo::Direct { addr, .. } => addr != address(1 - p.by),
                ProbeTo::Relayed { .. } => false,
            };
            if let Some(i) = world.wire.iter().position(to_attacker)
                && let Some(probe) = world.wire.remove(i)
            {
                world.deliver(1 - probe.by, ProbeFrom::Direct(attacker), None, &probe.bytes);
            }
        }
    }
}

/// The wire is left alone and both send: whether both go direct. A budget that is spent comes back within a minute, and
/// what failed again and again is tried within three.
fn calm(world: &mut World) -> bool {
    world.wire.clear();
    for _ in 0..3_000 {
        for side in 0..2 {
            world.send_data(side);
        }
        world.advance(Duration::from_millis(100));
        while let Some(probe) = world.wire.pop_front() {
            world.honest(&probe);
        }
        if world.agents.iter().all(|agent| agent.live_direct().is_some()) {
            return true;
        }
    }
    panic!("left alone, and still not direct: {:?}", world.agents.each_ref().map(PathAgent::state));
}
