//! Guessing ports, for the pairs that plain rounds cannot join.
//!
//! One NAT has another port for every destination (*hard*), the other has one for all but filters by port (*easy*): the
//! easy side would have to send to a port it cannot know. Three ways, with the peer's consent and one attempt at a time:
//!
//! - **A fresh socket**, if neither is hard: something else holds the ports the plain rounds used, for instance an early
//!   packet of the peer's that a router has taken for its own. This is no guess: STUN tells where the socket is seen.
//! - **Prediction**, if two STUN answers differ by a small step: the next ports in the sequence, a few datagrams.
//! - **Birthday**, if the operators of both allow it: the hard side opens K sockets at once and with them K of the 64,512
//!   ports of its NAT, the easy side sends to M of them at random. One of its probes meets an open port with probability
//!   1 − (1 − K/64512)^M: 87 % for K = 32 and 99.97 % for K = 128 with M = 4,096.
//!
//! ```text
//!  hard                                                     easy
//!   │◀───────────────────────────── CALL {guess} ────────────│   if the easy side begins: please open
//!   ├─ K sockets, a low-TTL opener by each                   │   nothing reaches the easy side's NAT before it has sent
//!   ├── CALL {guess} ───────────────────────────────────────▶│
//!   │◀───────────── PING to predicted ports, then to M others│   1,000/s, until an answer
//!   ├─ by the socket that was hit: PONG, PING ──────────────▶│   the first hit alone is answered: both ends take the same
//!   ├─ the others are closed                                 │
//! ```
//! From then on that socket is the pair's, for probes and for data.

mod ports;
mod sides;

use std::net::{IpAddr, SocketAddr};

use self::ports::Ports;
use super::{PathAgent, PathEvent};
use crate::id::PortNo;
use crate::path::candidate::{Candidate, CandidateKind};
use crate::path::nat::{Mapping, NatSeen};
use crate::time::{Duration, Instant};
use crate::wire::probe::{self, Call};

/// Sockets a hard side opens unless the operator says otherwise. Some clouds give a VM 64 ports in all.
pub const GUESS_SOCKETS: u8 = 32;
/// Sockets a hard side opens at most: more than 128 gain nothing.
pub const MAX_GUESS_SOCKETS_EACH: u8 = 128;
/// Datagrams of one attempt: each may take an entry in the connection tables of both NATs and firewalls.
pub const GUESSES: u32 = 4096;
/// Plain rounds that fail before: the plain way is cheaper, and works for all but a few.
pub const PLAIN_ROUNDS: usize = 3;
/// From one attempt to the next of a pair.
pub const ATTEMPT_EVERY: Duration = Duration::from_secs(600);

/// Sockets of a hard side whose NAT counts its ports: in a row, so that what others open in between does no harm.
const SEQUENCE_SOCKETS: u8 = 4;
/// Datagrams leave so often,
const TICK: Duration = Duration::from_millis(20);
/// so many at a time: 1,000/s, which a home router takes.
const PER_TICK: usize = 20;
/// The hard side sends its openers again: some of the first were lost.
const AGAIN: Duration = Duration::from_millis(1200);
/// Sockets that are not there by now are not waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// An attempt ends: all guesses, and a round trip by the relay and a direct one.
const ATTEMPT: Duration = Duration::from_secs(6);
/// The socket hit first has this time to become the path.
const CLAIM: Duration = Duration::from_secs(1);
/// Messages through the relay, both ways, since the pair's first round: what a pair must carry to be worth it unless the
/// operator asked for guesses. 1 Mbit/s for 10 s is about as much.
const BULK: u32 = 1000;
/// Of a NAT that has forgotten the winner's mapping by then.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// What the operator allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guessing {
    /// Sockets opened at once behind a hard NAT; 0: neither are any opened nor a peer's ports guessed at random.
    pub sockets: u8,
    /// Only for pairs that carry bulk through the relay.
    pub bulk_only: bool,
}

impl Default for Guessing {
    fn default() -> Self {
        Self { sockets: GUESS_SOCKETS, bulk_only: true }
    }
}

/// What is known, and the attempt that runs.
#[derive(Debug, Default)]
pub(super) struct Guess {
    nat: NatSeen,
    peer_nat: NatSeen,
    /// The peer's operator allows random guesses.
    peer_allows: bool,
    /// No other pair of this node guesses.
    permitted: bool,
    last: Option<Instant>,
    /// Messages by the relay when the first round began.
    relayed: u32,
    attempt: Option<Attempt>,
    winner: Option<PortNo>,
}

#[derive(Debug)]
struct Attempt {
    began: Instant,
    until: Instant,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// The peer is asked to open its sockets.
    Asked,
    /// Mine are opened.
    Sockets(Sockets),
    /// Guesses leave.
    Volley { at: IpAddr, ports: Ports, tick: Instant },
}

#[derive(Debug)]
struct Sockets {
    target: SocketAddr,
    wanted: usize,
    open: Vec<PortNo>,
    /// STUN has not told yet about this one: it goes first.
    asked_about: Option<PortNo>,
    asked: bool,
    /// Openers sent in this pass.
    opened: usize,
    tick: Option<Instant>,
    /// The peer was told.
    told: bool,
    /// The first one that was hit.
    claimed: Option<(PortNo, Instant)>,
    /// Where the first one is seen, and how far apart two of its mappings are, if STUN told.
    observed: Option<(SocketAddr, i16)>,
}

/// Which side of an attempt this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// My NAT is the hard one.
    Hard { sockets: u8 },
    /// The peer's is: so many guesses.
    Easy { guesses: u32 },
    /// Neither is: one more socket.
    Fresh,
}

impl PathAgent {
    // ── What is known ──────────────────────────────────────────────────────────────────────────────────────────

    /// What STUN says of this node's NAT.
    pub fn set_nat(&mut self, nat: NatSeen) {
        self.guess.nat = nat;
    }

    /// Whether no other pair of this node guesses now.
    pub fn set_may_guess(&mut self, permitted: bool) {
        self.guess.permitted = permitted;
    }

    /// An attempt runs.
    pub fn is_guessing(&self) -> bool {
        self.guess.attempt.is_some()
    }

    /// By which socket a peer's address is reached, if not by the agent's own.
    pub fn socket_towards(&self, remote: SocketAddr) -> Option<PortNo> {
        self.pairs[self.pair_index(remote)?].socket
    }

    /// By which socket data leaves, if not by the agent's own.
    pub fn socket(&self) -> Option<PortNo> {
        self.pairs[self.selected_pair()?].socket
    }

    fn allows_guesses(&self) -> bool {
        self.config.guessing.sockets > 0
    }

    /// The flags, the NAT and the first candidate of my CALLs.
    pub(super) fn tell_guess(&self, call: &mut Call) {
        if self.calls_by_carrier() {
            return;
        }
        if self.allows_guesses() {
            call.flags |= probe::CALL_GUESS_ALLOWED;
        }
        call.mapping = self.guess.nat.mapping as u8;
        call.port_delta = self.guess.nat.port_delta;
        let sockets = match self.guess.attempt.as_ref().map(|a| &a.work) {
            Some(Work::Asked) => None,
            Some(Work::Sockets(s)) if s.told => Some(s),
            _ => return,
        };
        call.flags |= probe::CALL_GUESS_NOW;
        if let Some((observed, delta)) = sockets.and_then(|s| s.observed) {
            call.port_delta = delta;
            let candidate = Candidate::new(CandidateKind::ServerReflexive, observed);
            call.candidates.retain(|c| c.addr != observed);
            call.candidates.truncate(super::super::MAX_CANDIDATES - 1);
            call.candidates.insert(0, candidate.to_call());
        }
    }

    /// What a CALL says of the peer's NAT, and whether it is time. True if sockets are opened first, and told of.
    pub(super) fn heard_guess(&mut self, call: &Call) -> bool {
        self.guess.peer_nat = NatSeen::told(call.mapping, call.port_delta);
        self.guess.peer_allows = call.flags & probe::CALL_GUESS_ALLOWED != 0;
        if call.flags & probe::CALL_GUESS_NOW == 0 || self.is_direct() || !self.guess.permitted {
            return false;
        }
        let was_open = self.has_sockets();
        match (self.guess_side(self.may_guess_now()), self.guess.attempt.as_ref().map(|a| &a.work)) {
            (Some(Side::Hard { sockets }), None) if !self.is_too_early() => self.open_sockets(sockets),
            (Some(Side::Easy { guesses }), None) if !self.is_too_early() => self.begin_volley(call, guesses),
            (Some(Side::Easy { guesses }), Some(Work::Asked)) => self.begin_volley(call, guesses),
            _ => {}
        }
        self.has_sockets() && !was_open
    }

    fn has_sockets(&self) -> bool {
        matches!(&self.guess.attempt, Some(Attempt { work: Work::Sockets(_), .. }))
    }

    // ── When ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// What could be done for this pair: by prediction or a fresh socket, which cost little, and at random if `random`.
    fn guess_side(&self, random: bool) -> Option<Side> {
        let (mine, theirs) = (self.guess.nat, self.guess.peer_nat);
        let easy = Mapping::EndpointIndependent;
        if mine.mapping.is_hard() && theirs.mapping == easy {
            let birthday = if random { self.config.guessing.sockets.min(MAX_GUESS_SOCKETS_EACH) } else { 0 };
            let sequence = if mine.step().is_some() { SEQUENCE_SOCKETS } else { 0 };
            let sockets = birthday.max(sequence);
            return (sockets > 0).then_some(Side::Hard { sockets });
        }
        if theirs.mapping.is_hard() && mine.mapping == easy {
            let guesses = if random { GUESSES } else { 0 };
            return (random || theirs.step().is_some()).then_some(Side::Easy { guesses });
        }
        (mine.mapping == easy && theirs.mapping == easy).then_some(Side::Fresh)
    }

    /// Both operators allow it.
    fn may_ever_guess(&self) -> bool {
        self.allows_guesses() && self.guess.peer_allows
    }

    /// And the pair is worth it, by its traffic or by the operator's word. Each side judges for itself: a peer that asks
    /// for a volley towards whatever address it names has to carry that much data first.
    fn may_guess_now(&self) -> bool {
        let relayed = self.traffic.relayed;
        let carried = relayed.tx.wrapping_add(relayed.rx).wrapping_sub(self.guess.relayed);
        self.may_ever_guess() && (!self.config.guessing.bulk_only || carried >= BULK)
    }

    fn is_too_early(&self) -> bool {
        // Both ends count from their own begin: a peer that asks a little earlier is not refused.
        self.guess.last.is_some_and(|at| self.now.mono - at + Duration::from_secs(10) < ATTEMPT_EVERY)
    }

    /// How long after the round that begins now the next one begins, if it is an attempt.
    pub(super) fn guess_after(&self) -> Option<Duration> {
        let possible = self.guess_side(self.may_ever_guess()).is_some()
            && self.relay.is_some()
            && !self.calls_by_carrier();
        (possible && self.failed_rounds == PLAIN_ROUNDS && !self.is_too_early()).then_some(ATTEMPT)
    }

    /// A round of mine begins: what the relay has carried counts from the first.
    pub(super) fn note_round(&mut self) {
        if self.failed_rounds == 0 {
            self.guess.relayed = self.traffic.relayed.tx.wrapping_add(self.traffic.relayed.rx);
        }
        self.forget_lost_socket();
    }

    /// In place of another plain round. False if there is nothing to guess, or it is not worth it.
    pub(super) fn begin_guess(&mut self) -> bool {
        let ready =
            self.guess.permitted && self.failed_rounds >= PLAIN_ROUNDS && self.guess.attempt.is_none();
        if !ready || self.relay.is_none() || self.is_too_early() {
            return false;
        }
        match self.guess_side(self.may_guess_now()) {
            Some(Side::Hard { sockets }) => self.open_sockets(sockets),
            Some(Side::Fresh) => self.open_sockets(1),
            Some(Side::Easy { .. }) => {
                self.begin_attempt(Work::Asked);
                self.call_now();
            }
            None => {}
        }
        self.guess.attempt.is_some()
    }

    fn begin_attempt(&mut self, work: Work) {
        let now = self.now.mono;
        self.counters.guess_attempts += 1;
        self.guess.last = Some(now);
        self.guess.attempt = Some(Attempt { began: now, until: now + ATTEMPT, work });
    }

    // ── The end ────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn guess_due(&self) -> Option<Instant> {
        let attempt = self.guess.attempt.as_ref()?;
        let tick = match &attempt.work {
            Work::Asked => None,
            Work::Sockets(s) => s.tick,
            Work::Volley { tick, .. } => Some(*tick),
        };
        Some(tick.map_or(attempt.until, |at| at.min(attempt.until)))
    }

    pub(super) fn run_guess(&mut self) {
        let now = self.now.mono;
        if self.guess_due().is_none_or(|at| at > now) {
            return;
        }
        match &self.guess.attempt {
            Some(attempt) if attempt.until <= now => self.end_attempt(),
            Some(Attempt { until, work: Work::Sockets(_), .. }) => self.send_openers(*until),
            Some(Attempt { work: Work::Volley { .. }, .. }) => self.send_volley(),
            _ => {}
        }
    }

    /// Pair `i` has answered: its socket stays, the others go at once.
    pub(super) fn guess_answered(&mut self, i: usize) {
        let socket = self.pairs[i].socket;
        if socket.is_some() && self.guess.winner != socket {
            self.guess.winner = socket;
            self.counters.guesses_won += 1;
            self.guess.attempt = None;
            self.emit(PathEvent::KeepSocket(socket));
        }
        self.end_attempt();
    }

    pub(super) fn end_attempt(&mut self) {
        if let Some(Attempt { work: Work::Sockets(_), .. }) = self.guess.attempt.take() {
            for pair in &mut self.pairs {
                pair.socket = pair.socket.filter(|s| self.guess.winner == Some(*s));
            }
            self.emit(PathEvent::KeepSocket(self.guess.winner));
        }
    }

    /// A winner whose pair has gone, or whose mapping nobody remembers, is closed.
    fn forget_lost_socket(&mut self) {
        let now = self.now.mono;
        let Some(winner) = self.guess.winner else { return };
        let lives = |p: &super::Pair| {
            p.socket == Some(winner) && p.link.last_pong.is_some_and(|at| now - at < FORGOTTEN)
        };
        if self.pairs.iter().any(lives) {
            return;
        }
        self.guess.winner = None;
        for pair in self.pairs.iter_mut().filter(|p| p.socket == Some(winner)) {
            pair.socket = None;
        }
        self.emit(PathEvent::KeepSocket(None));
    }
}
