//! What the two sides of an attempt do.

use std::net::SocketAddr;

use super::{AGAIN, Attempt, CLAIM, PATIENCE, PER_TICK, Ports, Side, Sockets, TICK, Work};
use crate::id::PortNo;
use crate::path::agent::{PathAgent, PathEvent, ProbeTo};
use crate::path::candidate::{Candidate, CandidateKind};
use crate::path::check::{Check, OPENER_TTL};
use crate::path::link::Pair;
use crate::rng::RngCore as _;
use crate::time::Instant;
use crate::wire::probe::{self, Call};

impl PathAgent {
    // ── The hard side ──────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn open_sockets(&mut self, wanted: u8) {
        let reflexive =
            |p: &&Pair| p.candidate.kind == CandidateKind::ServerReflexive && p.candidate.addr.is_ipv4();
        let Some(target) = self.pairs.iter().find(reflexive).map(|p| p.candidate.addr) else { return };
        let (open, tick) = (Vec::new(), Some(self.now.mono + TICK));
        let wanted_len = usize::from(wanted);
        let sockets = Sockets {
            target,
            wanted: wanted_len,
            open,
            asked_about: None,
            asked: false,
            opened: 0,
            tick,
            told: false,
            claimed: None,
            observed: None,
        };
        self.begin_attempt(Work::Sockets(sockets));
        self.emit(PathEvent::OpenSockets { count: wanted });
    }

    /// Whether STUN is to be asked about this socket before it is used.
    pub fn wants_to_know_socket(&mut self, socket: PortNo) -> bool {
        let matters = self.guess.nat.step().is_some() || self.guess_side(false) == Some(Side::Fresh);
        let Some(Attempt { work: Work::Sockets(s), .. }) = &mut self.guess.attempt else { return false };
        let ask = matters && !core::mem::replace(&mut s.asked, true);
        if ask {
            s.asked_about = Some(socket);
        }
        ask
    }

    /// One of the sockets asked for is bound. `observed`: where STUN sees it and how far apart two new mappings are, if it
    /// was asked and has told.
    pub fn socket_opened(&mut self, socket: PortNo, observed: Option<(SocketAddr, i16)>) {
        if let Some(Attempt { work: Work::Sockets(s), .. }) = &mut self.guess.attempt {
            s.open.push(socket);
            s.asked_about = s.asked_about.filter(|asked| *asked != socket);
            s.observed = s.observed.or(observed);
        }
    }

    /// They cannot be opened now.
    pub fn sockets_refused(&mut self) {
        self.end_attempt();
    }

    pub(super) fn send_openers(&mut self, until: Instant) {
        let now = self.now.mono;
        let Some(Attempt { began, work: Work::Sockets(s), .. }) = &mut self.guess.attempt else { return };
        let (began, target) = (*began, s.target);
        let waits = s.asked_about.is_some();
        let ready = s.open.iter().skip(s.opened).take(if waits { 0 } else { PER_TICK });
        let batch: Vec<PortNo> = ready.copied().collect();
        s.opened += batch.len();
        let enough = s.open.len() >= s.wanted || now >= began + PATIENCE;
        let all = s.opened == s.open.len() && enough && s.asked_about.is_none();
        s.tick = match (all, s.told) {
            (false, _) => Some(now + TICK),
            (true, false) => Some(now.max(began + AGAIN)),
            (true, true) => None,
        };
        let tell = all && !s.told;
        if all {
            (s.opened, s.told) = (0, true);
        }
        s.tick = s.tick.filter(|at| *at < until);
        for socket in batch {
            self.send_guess(Some(socket), target, Some(OPENER_TTL));
        }
        if tell {
            self.call_now();
        }
    }

    /// Whether a PING is answered by the socket it came by. By the agent's own always; of the others only by the winner,
    /// or by the first that is hit.
    pub(in crate::path::agent) fn answers_by_arrival(&mut self) -> bool {
        let now = self.now.mono;
        let Some(socket) = self.arrival else { return true };
        if self.guess.winner == Some(socket) {
            return true;
        }
        let Some(Attempt { work: Work::Sockets(s), .. }) = &mut self.guess.attempt else { return false };
        let other = s.claimed.is_some_and(|(claimed, at)| claimed != socket && now - at < CLAIM);
        if !other && s.claimed.is_none_or(|(claimed, _)| claimed != socket) {
            s.claimed = Some((socket, now));
        }
        !other
    }

    /// A pair that does not work by the socket it has goes by the one the peer got through to.
    pub(in crate::path::agent) fn turn_to_arrival(&mut self, i: usize) {
        let (now, arrival) = (self.now.mono, self.arrival);
        let pair = &mut self.pairs[i];
        if pair.valid || pair.socket == arrival {
            return;
        }
        pair.socket = arrival;
        pair.hold_until = Instant::ZERO;
        pair.opener_at = None;
        pair.link.last_ping = None;
        let mut check = Check::reflexive(now);
        check.advance(now);
        pair.check = Some(check);
    }

    // ── The easy side ──────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn begin_volley(&mut self, call: &Call, guesses: u32) {
        let offered = call.candidates.iter().filter_map(Candidate::from_call);
        let reflexive = |c: &Candidate| {
            c.kind == CandidateKind::ServerReflexive && c.addr.is_ipv4() && self.may_probe(c.addr)
        };
        let Some(base) = offered.into_iter().find(reflexive).map(|c| c.addr) else { return };
        let ports = Ports::new(base.port(), self.guess.peer_nat.step(), guesses, &mut self.rng);
        let volley = Work::Volley { at: base.ip(), ports, tick: self.now.mono };
        match &mut self.guess.attempt {
            Some(attempt) => attempt.work = volley,
            None => self.begin_attempt(volley),
        }
        self.run_guess();
    }

    pub(super) fn send_volley(&mut self) {
        let now = self.now.mono;
        let Some(Attempt { work: Work::Volley { at, ports, tick }, .. }) = &mut self.guess.attempt else {
            return;
        };
        let (ip, batch) = (*at, ports.take(PER_TICK).collect::<Vec<u16>>());
        *tick = if batch.is_empty() { Instant::FAR_FUTURE } else { now + TICK };
        for port in batch {
            self.send_guess(None, SocketAddr::new(ip, port), None);
        }
    }

    /// A PING that nobody waits for an answer to: the answer that counts is the peer's own PING.
    fn send_guess(&mut self, socket: Option<PortNo>, addr: SocketAddr, ttl: Option<u8>) {
        let (txid, counters) = (self.rng.next_u64(), self.traffic.direct);
        let body = self.ping_body(txid, 0, counters.tx, counters.rx);
        let flags = if ttl.is_some() { probe::FLAG_OPENER } else { 0 };
        if self.queue_by(socket, ProbeTo::Direct { addr, local: None, ttl }, flags, &body, 0) {
            self.counters.guesses_sent += 1;
        }
    }
}
