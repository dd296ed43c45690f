//! Punch rounds: openers, checks and CALLs, and when the next round begins.

use super::{CARRIER, PathAgent, ProbeTo};
use crate::path::agent::probes::Purpose;
use crate::path::candidate::is_global;
use crate::path::check::{Check, ROUNDS_S, SCHEDULE_WHEN_DIRECT};
use crate::path::history::Path;
use crate::time::{Duration, Instant, Now};
use crate::wire::probe::{self, Body, Call};

/// Never two rounds, and never two CALLs, closer than this.
const CALL_GAP: Duration = Duration::from_secs(1);
/// A CALL unanswered is repeated this often.
const CALL_REPEATS: u32 = 2;
/// Taken for a relay's round-trip time when nothing is known.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
/// A CALL on its way, and the peer that acts upon it, may take so much longer than reckoned. It costs little: the peer's
/// own CALL, or its first PING, ends the wait.
const SLACK: Duration = Duration::from_millis(100);
/// From the second round on, how long full-TTL checks wait for the peer's own CALL.
const PATIENCE: Duration = Duration::from_millis(1500);
/// A peer that the relay does not know may be binding there: its HELLO is answered after some repetitions at last.
const PEER_BINDS: Duration = Duration::from_secs(3);
/// A path that worked once is tried this often while relayed traffic flows.
const RETRY: Duration = Duration::from_secs(4);
/// At most so many of them.
const RETRIED: usize = 2;

/// Who called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// I did: the peer's NAT must not see me before the peer has sent.
    Initiator,
    /// The peer did, and has sent openers: fire at once.
    Responder,
    /// The peer did without knowing where to: I send openers, and it fires when it has my answer.
    Careful,
}

#[derive(Clone, Debug)]
pub(super) struct Round {
    number: u32,
    role: Role,
    began: Instant,
    /// Full TTL towards reflexive candidates from here on.
    open_at: Instant,
    /// There was a way for a CALL when it began.
    could_call: bool,
}

/// The CALLs to send and the ones heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    due: Option<Instant>,
    not_before: Instant,
    txid: u64,
    repeats: u32,
    waiting: bool,
    reply: Option<(u64, u32)>,
    heard: Option<u64>,
}

impl Caller {
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due
    }

    fn call(&mut self, txid: u64, now: Instant) {
        self.txid = txid;
        self.repeats = CALL_REPEATS;
        self.waiting = true;
        self.due = Some(now.max(self.not_before));
    }

    /// Remembers a CALL's txid; true if it is the one heard last.
    pub(super) fn heard(&mut self, txid: u64) -> bool {
        self.heard.replace(txid) == Some(txid)
    }

    pub(super) fn answer(&mut self, txid: u64, round: u32, now: Instant) {
        self.reply = Some((txid, round));
        self.due = Some(now.max(self.not_before));
    }

    pub(super) fn answered(&mut self, txid: u64) {
        if self.waiting && txid == self.txid {
            self.stop_calling();
        }
    }

    /// The next CALL is the answer.
    pub(super) fn answer_later(&mut self, txid: u64, round: u32) {
        self.reply = Some((txid, round));
        self.due = None;
    }

    /// No more CALLs of mine; an answer still goes out.
    pub(super) fn stop_calling(&mut self) {
        self.waiting = false;
        if self.reply.is_none() {
            self.due = None;
        }
    }
}

impl PathAgent {
    /// True while a round that I began is young: a peer's CALL then crosses mine and is not a new round.
    pub(super) fn round_is_mine(&self) -> bool {
        self.round
            .as_ref()
            .is_some_and(|r| r.role == Role::Initiator && self.now.mono - r.began < Duration::from_secs(5))
    }

    pub(super) fn start_round(&mut self, role: Role) {
        let now = self.now.mono;
        if let Some(r) = &self.round
            && r.role == role
            && now - r.began < CALL_GAP
            && (r.could_call || self.call_target().is_none())
        {
            // What is new since joins the running round.
            self.check_unchecked();
            return;
        }
        let can_call = self.call_target().is_some();
        let open_at = match role {
            Role::Initiator if can_call && self.failed_rounds > 0 => now + PATIENCE,
            Role::Initiator if can_call => now + self.call_travel() + SLACK,
            Role::Initiator if !can_call => self.relay_expected.unwrap_or(now).max(now),
            Role::Careful if can_call => now + self.call_travel(),
            _ => now,
        };
        let number = self.round.as_ref().map_or(1, |r| r.number.wrapping_add(1));
        self.round = Some(Round { number, role, began: now, open_at, could_call: can_call });
        self.counters.rounds += 1;
        for pair in &mut self.pairs {
            pair.check = None;
            pair.opener_at = None;
        }
        self.check_unchecked();
        if role == Role::Initiator {
            self.note_round();
            let wait = Duration::from_secs(ROUNDS_S[self.failed_rounds.min(ROUNDS_S.len() - 1)]);
            self.failed_rounds += 1;
            self.next_round = Some(now + self.guess_after().unwrap_or(wait));
            if can_call {
                let txid = self.txid();
                self.caller.call(txid, now);
            }
        }
        self.run_openers();
        self.run_checks();
        self.run_caller();
    }

    /// Gives every pair that has none its schedule in the running round.
    fn check_unchecked(&mut self) {
        let now = self.now.mono;
        let Some(round) = &self.round else { return };
        let selected = self.selected;
        for pair in self.pairs.iter_mut().filter(|p| p.check.is_none() && p.hold_until <= now) {
            if pair.valid && selected == Some(Path::Direct { remote: pair.candidate.addr }) {
                continue;
            }
            if pair.candidate.kind.is_open() || round.open_at <= now {
                pair.check = Some(Check::starting(now));
            } else {
                pair.check = Some(Check::starting(round.open_at));
                pair.opener_at = Some(now);
            }
        }
    }

    /// My CALL did not reach the peer, which has no session at the relay: it may be about to bind, and must not be shot
    /// at before it has sent. Later rounds do not wait for that.
    pub fn peer_not_at_relay(&mut self, now: Now) {
        self.now = now;
        let later = now.mono + PEER_BINDS;
        let Some(round) = self.round.as_mut().filter(|r| r.role == Role::Initiator && r.open_at > now.mono)
        else {
            return;
        };
        if self.failed_rounds > 1 || round.open_at >= later {
            return;
        }
        let guarded = core::mem::replace(&mut round.open_at, later);
        for check in self.pairs.iter_mut().filter_map(|p| p.check.as_mut()) {
            if check.base == guarded {
                check.base = later;
            }
        }
    }

    /// The peer's CALL is here, so the peer has sent: nothing is guarded any more.
    pub(super) fn peer_is_sending(&mut self) {
        let now = self.now.mono;
        if let Some(round) = &mut self.round {
            let guarded_until = round.open_at;
            round.open_at = round.open_at.min(now);
            if guarded_until > now {
                for check in self.pairs.iter_mut().filter_map(|p| p.check.as_mut()) {
                    check.base = check.base.min(now);
                }
            }
            self.check_unchecked();
            self.run_openers();
            self.run_checks();
        } else {
            self.start_round(Role::Responder);
        }
    }

    /// The peer called without knowing where to send openers: now I know where to, and it will when it has my answer.
    pub(super) fn peer_was_blind(&mut self) {
        if !self.round_is_mine() || self.calls_by_carrier() {
            return self.start_round(Role::Careful);
        }
        // Our CALLs crossed: what is new in my round is guarded as it was in the beginning.
        let open_at = self.now.mono + self.call_travel();
        if let Some(round) = &mut self.round {
            round.open_at = open_at;
        }
        self.check_unchecked();
        self.run_openers();
    }

    /// Reckoned time until my CALL is at the peer: half of each leg's round-trip time.
    fn call_travel(&self) -> Duration {
        let Some(relay) = self.relay else { return Duration::ZERO };
        let told = self
            .peer_relays
            .iter()
            .find(|r| r.relay_no == relay.relay_no)
            .map(|r| Duration::from_millis(r.rtt_ms.into()));
        let mine = if relay.rtt.is_zero() { UNKNOWN_RTT } else { relay.rtt };
        (mine + relay.peer_rtt.or(told).unwrap_or(mine)) / 2
    }

    /// This agent is a further port's: the peer's candidates are in its CALL and nowhere else, so my first one is sent
    /// before I could open anything.
    pub(super) fn calls_by_carrier(&self) -> bool {
        self.relay.is_some_and(|r| r.relay_no == CARRIER)
    }

    /// A CALL goes by the relay, else by a live direct path.
    fn call_target(&self) -> Option<ProbeTo> {
        if let Some(relay) = self.relay {
            return Some(ProbeTo::Relayed { relay: relay.relay_no, node_no: relay.node_no });
        }
        let live = self.selected_pair().filter(|i| self.pairs[*i].valid)?;
        let pair = &self.pairs[live];
        Some(ProbeTo::Direct { addr: pair.candidate.addr, local: pair.local, ttl: None })
    }

    pub(super) fn opener_due(&self) -> Option<Instant> {
        self.pairs.iter().filter_map(|p| p.opener_at).min()
    }

    pub(super) fn run_openers(&mut self) {
        let now = self.now.mono;
        for i in 0..self.pairs.len() {
            if self.pairs[i].opener_at.is_some_and(|at| at <= now) {
                self.pairs[i].opener_at = None;
                self.ping_pair(i, Purpose::Opener);
            }
        }
    }

    pub(super) fn check_due(&self) -> Option<Instant> {
        self.pairs.iter().filter_map(|p| p.check.as_ref().and_then(Check::due)).min()
    }

    pub(super) fn run_checks(&mut self) {
        let now = self.now.mono;
        let direct = self.is_direct();
        for i in 0..self.pairs.len() {
            let Some(check) = &mut self.pairs[i].check else { continue };
            if direct {
                check.end = check.end.min(SCHEDULE_WHEN_DIRECT);
            }
            let due = check.due();
            check.advance(now);
            if check.due().is_none() {
                self.pairs[i].check = None;
            }
            if due.is_some_and(|due| due <= now) {
                self.ping_pair(i, Purpose::Round);
            }
        }
    }

    pub(super) fn run_caller(&mut self) {
        let now = self.now.mono;
        if self.caller.due.is_none_or(|due| due > now) {
            return;
        }
        self.caller.due = None;
        let Some(to) = self.call_target() else {
            self.caller.reply = None;
            self.caller.waiting = false;
            return;
        };
        let number = self.round.as_ref().map_or(0, |r| r.number);
        let reply = self.caller.reply.take();
        // An answer carries all a CALL carries, so one datagram serves both.
        let (txid, round, wanted) = match reply {
            Some((txid, round)) => (txid, round, 0),
            None => (self.caller.txid, number, probe::CALL_ANSWER_WANTED),
        };
        let opened = if self.opens_towards_peer() { probe::CALL_OPENER_SENT } else { 0 };
        let flags = opened | wanted;
        let mut call = self.call_body(txid, round, flags);
        self.tell_guess(&mut call);
        let socket = match to {
            ProbeTo::Direct { addr, .. } => self.socket_towards(addr),
            ProbeTo::Relayed { .. } => None,
        };
        if self.queue_by(socket, to, 0, &Body::Call(call), 0) {
            self.counters.calls_sent += 1;
        }
        self.caller.not_before = now + CALL_GAP;
        if self.caller.waiting && reply.is_none() {
            self.caller.waiting = self.caller.repeats > 0;
            self.caller.repeats = self.caller.repeats.saturating_sub(1);
        }
        if self.caller.waiting {
            self.caller.due = Some(self.caller.not_before);
        }
    }

    /// Something of mine crosses my NAT towards where the peer will send from: of its addresses in a private network
    /// alone, or of none, that cannot be said.
    fn opens_towards_peer(&self) -> bool {
        let candidates = self.pairs.iter().map(|p| &p.candidate);
        candidates.into_iter().any(|c| !c.kind.is_open() || is_global(c.addr.ip()))
    }

    /// A CALL at once, as far as CALLs go at once.
    pub(super) fn call_now(&mut self) {
        let txid = self.txid();
        self.caller.call(txid, self.now.mono);
        self.run_caller();
    }

    fn call_body(&self, txid: u64, round: u32, flags: u16) -> Call {
        Call {
            txid,
            round,
            flags,
            mapping: 0,
            filtering: 0,
            port_delta: 0,
            candidates: self.local.iter().map(|c| c.to_call()).collect(),
            relays: self.own_relays.clone(),
        }
    }

    pub(super) fn run_next_round(&mut self) {
        if self.next_round.is_none_or(|at| at > self.now.mono) {
            return;
        }
        self.next_round = None;
        if self.is_active() && !self.is_direct() {
            if self.begin_guess() {
                self.next_round = Some(self.now.mono + Duration::from_secs(ROUNDS_S[ROUNDS_S.len() - 1]));
            } else {
                self.start_round(Role::Initiator);
            }
        }
    }

    /// Arms the timers of relayed traffic: retries of what worked once.
    pub(super) fn arm_retry(&mut self) {
        let wanted = self.is_active() && !self.is_direct() && self.pairs.iter().any(|p| p.proven);
        self.retry_at = wanted.then(|| self.now.mono + RETRY);
    }

    pub(super) fn run_retry(&mut self) {
        let now = self.now.mono;
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<usize> = (0..self.pairs.len())
            .filter(|i| self.pairs[*i].proven && self.pairs[*i].hold_until <= now + RETRY)
            .take(RETRIED)
            .collect();
        self.arm_retry();
        if self.retry_at.is_some() {
            for i in due {
                self.ping_pair(i, Purpose::Watch);
            }
        }
    }
}
