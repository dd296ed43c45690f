//! The smallest network that shows what the agents decide.
//!
//! ```text
//!   agent 0 ── router ──┬── direct, one way each with delay, jitter, loss, cut ──┬── router ── agent 1
//!                       └── relay pipe ──────────────────────────────────────────┘
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::key::StaticSecret;
use crate::path::*;
use crate::rng::Rng;
use crate::time::{Duration, Instant, Now, UnixTime};

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn at(n: u64) -> Instant {
    Instant::ZERO + ms(n)
}

/// RFC 4787 words; filtering is address-and-port-dependent except for `Open`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nat {
    /// A public address, no filter.
    Open,
    /// Endpoint-independent mapping.
    Port,
    /// The same on a router that answers unsolicited packets: an early one takes the mapping.
    PortTrap,
    /// Address-and-port-dependent mapping.
    Symmetric,
}

const PORT: u16 = 7001;
/// How long a NAT remembers.
const MAPPING: Duration = Duration::from_secs(120);

struct Router {
    nat: Nat,
    public: Ipv4Addr,
    inside: SocketAddr,
    next_port: u16,
    /// (my port, remote) → last use.
    flows: BTreeMap<(SocketAddr, u16), Instant>,
    stolen: BTreeMap<SocketAddr, Instant>,
}

impl Router {
    fn new(nat: Nat, public: Ipv4Addr, inside: SocketAddr) -> Self {
        Self { nat, public, inside, next_port: 20_000, flows: BTreeMap::new(), stolen: BTreeMap::new() }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let public = |port| SocketAddr::from((self.public, port));
        match self.nat {
            Nat::Open => vec![Candidate::new(CandidateKind::Host, public(PORT))],
            Nat::Port | Nat::PortTrap => vec![
                Candidate::new(CandidateKind::Host, self.inside),
                Candidate::new(CandidateKind::ServerReflexive, public(PORT)),
            ],
            Nat::Symmetric => vec![
                Candidate::new(CandidateKind::Host, self.inside),
                Candidate::new(CandidateKind::ServerReflexive, public(19_999)),
            ],
        }
    }

    fn outbound(&mut self, to: SocketAddr, now: Instant) -> SocketAddr {
        let known = self.flows.iter().find(|((r, _), used)| *r == to && now - **used < MAPPING);
        let port = match known.map(|((_, port), _)| *port) {
            Some(port) => port,
            None if self.nat == Nat::Symmetric
                || self.stolen.get(&to).is_some_and(|seen| now - *seen < ms(30_000)) =>
            {
                self.next_port += 7;
                self.next_port
            }
            None => PORT,
        };
        self.flows.insert((to, port), now);
        SocketAddr::from((self.public, port))
    }

    fn accepts(&mut self, port: u16, from: SocketAddr, now: Instant) -> bool {
        if self.nat == Nat::Open {
            return port == PORT;
        }
        if let Some(used) = self.flows.get_mut(&(from, port)).filter(|used| now - **used < MAPPING) {
            *used = now;
            return true;
        }
        if self.nat == Nat::PortTrap && port == PORT {
            self.stolen.insert(from, now);
        }
        false
    }
}

#[derive(Clone)]
enum Payload {
    Probe(Vec<u8>),
    Data,
}

enum Event {
    Arrive {
        side: usize,
        from: ProbeFrom,
        payload: Payload,
    },
    /// A packet at the public side of a router, or at the attacker.
    Wire {
        to: SocketAddr,
        from: SocketAddr,
        payload: Payload,
    },
    Send {
        side: usize,
    },
}

/// One direction of the direct path.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub delay: Duration,
    pub jitter: Duration,
    pub loss_percent: u64,
    pub cut: bool,
    pub drops_data: bool,
    /// Larger IP packets vanish.
    pub mtu: usize,
}

/// What the third party does with what it sees on the direct path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attacker {
    None,
    /// Sends a copy of every probe from its own address, which arrives first.
    Race,
    /// The same, and passes on what is sent to that address.
    RaceAndForward,
}

pub(super) const ATTACKER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);

pub(super) struct Side {
    pub agent: PathAgent,
    router: Router,
    pub traffic: Traffic,
    /// Data is sent this often.
    pub interval: Option<Duration>,
    pub last_data: Option<Instant>,
    pub longest_gap: Duration,
    pub selections: Vec<(Instant, Option<Path>, Reason)>,
    /// When it learned that its peer has started anew.
    pub peer_restarts: Vec<Instant>,
}

pub(super) struct Net {
    pub now: Instant,
    pub sides: [Side; 2],
    pub ways: [Way; 2],
    pub relay_delay: Duration,
    pub attacker: Attacker,
    /// The first probes that arrived anywhere, by receiver.
    pub captured: Vec<(usize, Vec<u8>)>,
    secrets: [StaticSecret; 2],
    rng: Rng,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    payloads: BTreeMap<u64, Event>,
    seq: u64,
    pub direct_datagrams: u64,
}

pub(super) const START: u64 = 1_700_000_000;

pub(super) fn wall(now: Instant) -> Now {
    Now { mono: now, unix: UnixTime(START + now.as_nanos() / 1_000_000_000), unix_nanos: 0 }
}

fn node_no(side: usize) -> u32 {
    100 + side as u32
}

pub(super) const RELAY: u16 = 1;

/// An agent of a process that starts now.
fn agent(secrets: &[StaticSecret; 2], side: usize, rng: &mut Rng, now: Instant) -> PathAgent {
    let keys =
        PairKeys::new(&[1; 32], &secrets[side], &secrets[1 - side].public(), crate::id::PortNo(0)).unwrap();
    let start = wall(now).unix.0 as u32;
    PathAgent::new(PathConfig::default(), keys, start, rng.fork(), wall(now))
}

impl Net {
    /// Direct round-trip time 140 ms, by the relay 100 ms.
    pub(super) fn new(nats: [Nat; 2], seed: u8) -> Self {
        let mut rng = Rng::from_seed([seed; 32]);
        let secrets = [StaticSecret::random(&mut rng), StaticSecret::random(&mut rng)];
        let side = |i: usize, rng: &mut Rng| {
            let public = if i == 0 { Ipv4Addr::new(198, 51, 100, 2) } else { Ipv4Addr::new(192, 0, 2, 2) };
            let inside = SocketAddr::from(([10, 1 + i as u8, 0, 10], PORT));
            Side {
                agent: agent(&secrets, i, rng, Instant::ZERO),
                router: Router::new(nats[i], public, inside),
                traffic: Traffic::default(),
                interval: None,
                last_data: None,
                longest_gap: Duration::ZERO,
                selections: Vec::new(),
                peer_restarts: Vec::new(),
            }
        };
        let sides = [side(0, &mut rng), side(1, &mut rng)];
        let way = Way {
            delay: ms(70),
            jitter: Duration::ZERO,
            loss_percent: 0,
            cut: false,
            drops_data: false,
            mtu: 1_500,
        };
        let mut net = Self {
            now: Instant::ZERO,
            sides,
            ways: [way; 2],
            relay_delay: ms(50),
            attacker: Attacker::None,
            captured: Vec::new(),
            secrets,
            rng,
            events: BinaryHeap::new(),
            payloads: BTreeMap::new(),
            seq: 0,
            direct_datagrams: 0,
        };
        for s in &mut net.sides {
            let local = s.router.candidates();
            s.agent.set_local_candidates(&local, wall(Instant::ZERO));
        }
        net
    }

    pub(super) fn candidates(&self, side: usize) -> Vec<Candidate> {
        self.sides[side].router.candidates()
    }

    /// Both have a session with the relay.
    pub(super) fn with_relay(mut self) -> Self {
        for i in 0..2 {
            self.set_relay(i, true);
        }
        self
    }

    pub(super) fn set_relay(&mut self, side: usize, up: bool) {
        let relay =
            RelayPath { relay_no: RELAY, node_no: node_no(1 - side), rtt: self.relay_delay, peer_rtt: None };
        self.sides[side].agent.set_relay(up.then_some(relay), wall(self.now));
        self.drain(side);
    }

    pub(super) fn relayed(side: usize) -> Path {
        Path::Relayed { relay: RELAY, node_no: node_no(1 - side) }
    }

    pub(super) fn is_direct(&self, side: usize) -> bool {
        matches!(self.sides[side].agent.selected(), Some(Path::Direct { .. }))
    }

    pub(super) fn send_every(&mut self, side: usize, interval: Duration) {
        self.sides[side].interval = Some(interval);
        self.push(self.now, Event::Send { side });
    }

    /// The host moves: new public address, no mappings.
    pub(super) fn renumber(&mut self, side: usize, public: Ipv4Addr) {
        let r = &self.sides[side].router;
        self.sides[side].router = Router::new(r.nat, public, r.inside);
    }

    /// The process dies and starts anew: same keys, same router, no memory.
    pub(super) fn restart(&mut self, side: usize) {
        self.sides[side].agent = agent(&self.secrets, side, &mut self.rng, self.now);
        self.sides[side].traffic = Traffic::default();
        let local = self.candidates(side);
        self.sides[side].agent.set_local_candidates(&local, wall(self.now));
        self.set_relay(side, true);
    }

    fn push(&mut self, when: Instant, event: Event) {
        self.seq += 1;
        self.events.push(Reverse((when, self.seq)));
        self.payloads.insert(self.seq, event);
    }

    /// Runs until `until`; `done` is asked after each step. The time of the last step.
    pub(super) fn run_until(
        &mut self,
        until: Instant,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Instant> {
        loop {
            if done(self) {
                return Some(self.now);
            }
            let timer = (0..2).filter_map(|i| self.sides[i].agent.poll_timeout().map(|(t, _)| (t, i))).min();
            let event = self.events.peek().map(|Reverse((t, _))| *t);
            let next = [timer.map(|t| t.0), event].into_iter().flatten().min();
            let Some(next) = next.filter(|t| *t <= until) else {
                self.now = until;
                return None;
            };
            self.now = self.now.max(next);
            match timer {
                Some((t, side)) if event.is_none_or(|e| t <= e) => self.fire(side),
                _ => self.arrive(),
            }
        }
    }

    pub(super) fn run(&mut self, until: Instant) {
        self.run_until(until, |_| false);
    }

    fn fire(&mut self, side: usize) {
        let now = wall(self.now);
        let s = &mut self.sides[side];
        s.agent.handle_traffic(s.traffic, now);
        s.agent.handle_timeout(now);
        self.drain(side);
        if let Some((next, timer)) = self.sides[side].agent.poll_timeout() {
            assert!(next > self.now, "{timer:?} is due again at once at {next:?}");
        }
    }

    fn drain(&mut self, side: usize) {
        while let Some(t) = self.sides[side].agent.poll_transmit() {
            match t.to {
                ProbeTo::Direct { addr, ttl, .. } => {
                    self.send_direct(side, addr, Payload::Probe(t.bytes), ttl.is_some());
                }
                ProbeTo::Relayed { .. } => self.send_relayed(side, Payload::Probe(t.bytes)),
            }
        }
        while let Some(event) = self.sides[side].agent.poll_event() {
            match event {
                PathEvent::Selected { path, reason } => {
                    self.sides[side].selections.push((self.now, path, reason));
                }
                PathEvent::PeerRestarted => self.sides[side].peer_restarts.push(self.now),
                PathEvent::RefreshCandidates
                | PathEvent::SizeChanged
                | PathEvent::PeerRelays
                | PathEvent::RelaySilent(_)
                | PathEvent::Announced
                | PathEvent::OpenSockets { .. }
                | PathEvent::KeepSocket(_) => {}
            }
        }
    }

    fn send_relayed(&mut self, side: usize, payload: Payload) {
        let from = ProbeFrom::Relayed { relay: RELAY, node_no: node_no(side) };
        self.push(self.now + self.relay_delay, Event::Arrive { side: 1 - side, from, payload });
    }

    fn send_direct(&mut self, side: usize, to: SocketAddr, payload: Payload, low_ttl: bool) {
        let from = self.sides[side].router.outbound(to, self.now);
        self.direct_datagrams += 1;
        let way = self.ways[side];
        let bytes = 28
            + match &payload {
                Payload::Probe(bytes) => bytes.len(),
                Payload::Data => usize::from(self.sides[side].agent.size().limit + DATAGRAM),
            };
        let lost = way.cut
            || bytes > way.mtu
            || (way.drops_data && matches!(payload, Payload::Data))
            || self.rng.below(100) < way.loss_percent;
        if low_ttl || lost {
            return;
        }
        let delay = way.delay + Duration::from_nanos(self.rng.below(way.jitter.as_nanos() as u64));
        if self.attacker != Attacker::None
            && to.ip() != IpAddr::V4(ATTACKER)
            && matches!(payload, Payload::Probe(_))
        {
            let mine = SocketAddr::from((ATTACKER, 1000 + side as u16));
            self.push(self.now + delay / 2, Event::Wire { to, from: mine, payload: payload.clone() });
        }
        self.push(self.now + delay, Event::Wire { to, from, payload });
    }

    fn arrive(&mut self) {
        let Some(Reverse((_, seq))) = self.events.pop() else { return };
        match self.payloads.remove(&seq).expect("an event has its payload") {
            Event::Send { side } => self.send_data(side),
            Event::Wire { to, from, payload } => self.wire(to, from, payload),
            Event::Arrive { side, from, payload } => self.deliver(side, from, payload),
        }
    }

    fn wire(&mut self, to: SocketAddr, from: SocketAddr, payload: Payload) {
        if to.ip() == IpAddr::V4(ATTACKER) {
            // Sent to the address that stands for side `to.port() - 1000`.
            if self.attacker == Attacker::RaceAndForward {
                let victim = usize::from(to.port() - 1000);
                let real = SocketAddr::from((self.sides[victim].router.public, PORT));
                let mine = SocketAddr::from((ATTACKER, 1000 + (1 - victim as u16)));
                self.push(self.now + ms(1), Event::Wire { to: real, from: mine, payload });
            }
            return;
        }
        let Some(side) = (0..2).find(|i| to.ip() == IpAddr::V4(self.sides[*i].router.public)) else { return };
        if self.sides[side].router.accepts(to.port(), from, self.now) {
            self.deliver(side, ProbeFrom::Direct(from), payload);
        }
    }

    fn deliver(&mut self, side: usize, from: ProbeFrom, payload: Payload) {
        let now = wall(self.now);
        let s = &mut self.sides[side];
        match payload {
            Payload::Probe(mut bytes) => {
                if self.captured.len() < 5000 {
                    self.captured.push((side, bytes.clone()));
                }
                // The owner's counters are as fresh as its last look; the story demands fresh ones.
                if let Ok(probe) = s.agent.open(&mut bytes) {
                    s.agent.handle_traffic(s.traffic, now);
                    s.agent.handle_probe(from, probe, now);
                    self.drain(side);
                }
            }
            Payload::Data => {
                let counters = match from {
                    ProbeFrom::Direct(_) => &mut s.traffic.direct,
                    ProbeFrom::Relayed { .. } => &mut s.traffic.relayed,
                };
                counters.rx = counters.rx.wrapping_add(1);
                counters.last_rx = Some(self.now);
                if let Some(last) = s.last_data {
                    s.longest_gap = s.longest_gap.max(self.now - last);
                }
                s.last_data = Some(self.now);
            }
        }
    }

    fn send_data(&mut self, side: usize) {
        let Some(interval) = self.sides[side].interval else { return };
        let now = self.now;
        let s = &mut self.sides[side];
        let edge = s.traffic.last_tx.is_none_or(|t| now - t >= PathAgent::EDGE);
        s.traffic.last_tx = Some(now);
        match s.agent.selected() {
            Some(Path::Direct { remote }) => {
                s.traffic.direct.tx = s.traffic.direct.tx.wrapping_add(1);
                self.send_direct(side, remote, Payload::Data, false);
            }
            Some(Path::Relayed { .. }) => {
                s.traffic.relayed.tx = s.traffic.relayed.tx.wrapping_add(1);
                self.send_relayed(side, Payload::Data);
            }
            None => {}
        }
        if edge {
            let s = &mut self.sides[side];
            s.agent.handle_traffic(s.traffic, wall(now));
            self.drain(side);
        }
        self.push(now + interval, Event::Send { side });
    }
}
