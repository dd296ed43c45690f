//! Two hosts that punch with nothing but a rendezvous: the plainest program the oracle's argument is about.
//!
//! ```text
//! puncher → rendezvous   'H' pair side local endpoint     every 500 ms until answered
//! rendezvous → puncher   'P' the peer's local and observed endpoint
//! puncher → puncher      'I' ping, answered by 'O' pong to its source
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use skynet_core::time::{Duration, Instant, Now, earliest};

use crate::host::{Host, Transmit};

/// When pings leave after the peer's endpoints are known: the early retransmission schedule.
const SCHEDULE_MS: [u64; 9] = [0, 20, 60, 140, 300, 600, 1_000, 2_000, 3_500];

/// How often the rendezvous is asked.
const HELLO_EVERY: Duration = Duration::from_millis(500);

/// Endpoints of the peer tried at most.
const MAX_CANDIDATES: usize = 16;

/// Introduces the two sides of a pair to each other.
#[derive(Debug, Default)]
pub struct Rendezvous {
    sides: BTreeMap<(u8, u8), (SocketAddr, SocketAddr, SocketAddr)>,
    out: VecDeque<Transmit>,
}

fn text(kind: u8, head: &[u8], a: SocketAddr, b: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(head);
    bytes.extend(format!("{a} {b}").bytes());
    bytes
}

fn endpoints(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (a, b) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

impl Host for Rendezvous {
    fn on_start(&mut self, _: Now) {}

    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, bytes: Vec<u8>, _: Now) {
        let [b'H', pair, side, rest @ ..] = bytes.as_slice() else { return };
        let Some((inside, _)) = endpoints(rest) else { return };
        self.sides.insert((*pair, *side), (inside, from, local));
        let Some((peer_inside, peer_from, peer_local)) = self.sides.get(&(*pair, side ^ 1)).copied() else {
            return;
        };
        let to_peer = text(b'P', &[], inside, from);
        let to_asker = text(b'P', &[], peer_inside, peer_from);
        self.out.push_back(Transmit { from: peer_local, to: peer_from, ttl: None, bytes: to_peer });
        self.out.push_back(Transmit { from: local, to: from, ttl: None, bytes: to_asker });
    }

    fn on_timer(&mut self, _: Now) {}

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// How a puncher behaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PuncherConfig {
    /// Where the rendezvous is.
    pub rendezvous: SocketAddr,
    /// Number of the pair.
    pub pair: u8,
    /// 0 or 1.
    pub side: u8,
    /// Own address and port.
    pub local: SocketAddr,
    /// Full-TTL pings start so long after the introduction.
    pub delay: Duration,
    /// A ping of this time to live is sent at the introduction: it opens the own NAT and dies before the peer's.
    pub opener_ttl: Option<u8>,
}

/// One side of a pair.
#[derive(Debug)]
pub struct Puncher {
    config: PuncherConfig,
    hello_at: Option<Instant>,
    introduced: Option<Instant>,
    next_ping: usize,
    candidates: BTreeSet<SocketAddr>,
    out: VecDeque<Transmit>,
    direct: Option<(Duration, SocketAddr)>,
}

impl Puncher {
    /// A puncher that has not started.
    pub const fn new(config: PuncherConfig) -> Self {
        Self {
            config,
            hello_at: None,
            introduced: None,
            next_ping: 0,
            candidates: BTreeSet::new(),
            out: VecDeque::new(),
            direct: None,
        }
    }

    /// How long after the introduction a pong came, and from where.
    pub const fn direct(&self) -> Option<(Duration, SocketAddr)> {
        self.direct
    }

    fn send(&mut self, to: SocketAddr, ttl: Option<u8>, bytes: Vec<u8>) {
        self.out.push_back(Transmit { from: self.config.local, to, ttl, bytes });
    }

    fn ping_all(&mut self, ttl: Option<u8>) {
        for to in self.candidates.clone() {
            self.send(to, ttl, vec![b'I']);
        }
    }

    fn learn(&mut self, endpoint: SocketAddr) {
        if self.candidates.len() < MAX_CANDIDATES {
            self.candidates.insert(endpoint);
        }
    }

    fn ping_at(&self) -> Option<Instant> {
        let after = Duration::from_millis(*SCHEDULE_MS.get(self.next_ping)?);
        self.introduced.filter(|_| self.direct.is_none()).map(|t| t + self.config.delay + after)
    }
}

impl Host for Puncher {
    fn on_start(&mut self, now: Now) {
        self.hello_at = Some(now.mono);
    }

    fn on_datagram(&mut self, _: SocketAddr, from: SocketAddr, bytes: Vec<u8>, now: Now) {
        match bytes.as_slice() {
            [b'P', rest @ ..] if from == self.config.rendezvous => {
                let Some((inside, observed)) = endpoints(rest) else { return };
                let first = self.introduced.is_none();
                self.learn(inside);
                self.learn(observed);
                if first {
                    (self.introduced, self.hello_at) = (Some(now.mono), None);
                    if let Some(ttl) = self.config.opener_ttl {
                        self.ping_all(Some(ttl));
                    }
                }
            }
            [b'I'] => {
                self.send(from, None, vec![b'O']);
                if self.introduced.is_some() {
                    // Peer-reflexive: worth a ping of our own.
                    self.learn(from);
                    self.send(from, None, vec![b'I']);
                }
            }
            [b'O'] => {
                let since = self.introduced.map(|t| now.mono.saturating_since(t));
                self.direct = self.direct.or(since.map(|since| (since, from)));
            }
            _ => {}
        }
    }

    fn on_timer(&mut self, now: Now) {
        if self.hello_at.is_some_and(|at| at <= now.mono) {
            let PuncherConfig { rendezvous, pair, side, local, .. } = self.config;
            self.send(rendezvous, None, text(b'H', &[pair, side], local, local));
            self.hello_at = Some(now.mono + HELLO_EVERY);
        }
        while self.ping_at().is_some_and(|at| at <= now.mono) {
            self.next_ping += 1;
            self.ping_all(None);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.hello_at, self.ping_at())
    }

    fn timer_name(&self) -> String {
        if self.ping_at().is_some() { "ping" } else { "hello" }.to_owned()
    }
}

/// A puncher's local endpoint: port 7000 plus its side.
pub(crate) const fn port(side: u8) -> u16 {
    7_000 + side as u16
}

impl PuncherConfig {
    /// A puncher at `ip` that pings at once.
    pub const fn new(rendezvous: SocketAddr, pair: u8, side: u8, ip: IpAddr) -> Self {
        let local = SocketAddr::new(ip, port(side));
        Self { rendezvous, pair, side, local, delay: Duration::ZERO, opener_ttl: None }
    }
}
