//! What a PING, a PONG and a CALL do, and how PINGs leave.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::rounds::Role;
use super::{Counted, PathAgent, PathEvent, ProbeFrom, ProbeTo};
use crate::path::candidate::{Candidate, CandidateKind};
use crate::path::check::{Check, OPENER_TTL, PINGS_PER_MINUTE, ROUND_PINGS_PER_MINUTE};
use crate::path::history::Path;
use crate::path::link::{DATA_LOST_CONFIRM, DataVerdict, Origin, Pair};
use crate::time::Duration;
use crate::wire::probe::{self, Body, Call, Ping, Pong};

/// A PING that comes while a check of the same pair left this recently does not trigger another.
const TRIGGER_GAP: Duration = Duration::from_millis(50);

/// Why a PING leaves, which says how much of the budget it may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Opener,
    Round,
    Watch,
    /// Beside bulk data on a path that answers: of no account beside it, so outside the budget.
    Bulk,
}

impl PathAgent {
    /// Sends a PING on a pair. False if the budget or the queue refused.
    pub(super) fn ping_pair(&mut self, i: usize, purpose: Purpose) -> bool {
        let limit = if purpose == Purpose::Watch { PINGS_PER_MINUTE } else { ROUND_PINGS_PER_MINUTE };
        if purpose != Purpose::Bulk && !self.budget.take(self.now.mono, limit) {
            self.counters.over_budget += 1;
            return false;
        }
        let (id, addr) = (self.pairs[i].id, self.pairs[i].candidate.addr);
        let txid = self.txid();
        let opener = purpose == Purpose::Opener;
        let mut flags = if opener { probe::FLAG_OPENER } else { 0 };
        if self.selected == Some(Path::Direct { remote: addr }) {
            flags |= probe::FLAG_CARRIES_DATA;
        }
        let counters = self.traffic.direct;
        let body = self.ping_body(txid, id, counters.tx, counters.rx);
        let to = ProbeTo::Direct { addr, local: self.pairs[i].local, ttl: opener.then_some(OPENER_TTL) };
        if !self.queue_by(self.pairs[i].socket, to, flags, &body, 0) {
            return false;
        }
        if let Some(ping) = self.transmits.back_mut() {
            ping.punch = matches!(purpose, Purpose::Opener | Purpose::Round);
        }
        self.counters.pings_sent += 1;
        let now = self.now.mono;
        self.pairs[i].link.sent(txid, counters.tx, now);
        true
    }

    /// Sends a PING through the relay.
    pub(super) fn ping_relay(&mut self) -> bool {
        let Some(relay) = self.relay else { return false };
        if !self.budget.take(self.now.mono, PINGS_PER_MINUTE) {
            self.counters.over_budget += 1;
            return false;
        }
        let txid = self.txid();
        let carries = matches!(self.selected, Some(Path::Relayed { .. }));
        let flags = if carries { probe::FLAG_CARRIES_DATA } else { 0 };
        let counters = self.traffic.relayed;
        let body = self.ping_body(txid, 0, counters.tx, counters.rx);
        if !self.queue(ProbeTo::Relayed { relay: relay.relay_no, node_no: relay.node_no }, flags, &body) {
            return false;
        }
        self.counters.pings_sent += 1;
        self.relay_link.sent(txid, counters.tx, self.now.mono);
        true
    }

    pub(super) fn ping_body(&self, txid: u64, path_id: u16, tx_data: u32, rx_data: u32) -> Body {
        let t_us = (self.now.mono.as_nanos() / 1000) as u32;
        Body::Ping(Ping { txid, t_us, path_id, wire_size: 0, tx_data, rx_data })
    }

    pub(super) fn handle_ping(&mut self, from: ProbeFrom, local: Option<IpAddr>, ping: &Ping) {
        let (to, seen, counters) = match from {
            ProbeFrom::Direct(addr) => {
                if !self.may_probe(addr) {
                    self.counters.refused_sources += 1;
                    return;
                }
                if !self.answers_by_arrival() {
                    return;
                }
                (ProbeTo::Direct { addr, local, ttl: None }, addr, self.traffic.direct)
            }
            ProbeFrom::Relayed { relay, node_no } => {
                let none = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
                (ProbeTo::Relayed { relay, node_no }, none, self.traffic.relayed)
            }
        };
        let pong = Pong {
            txid: ping.txid,
            t_us: ping.t_us,
            path_id: ping.path_id,
            received_size: ping.wire_size,
            tx_data: counters.tx,
            rx_data: counters.rx,
            seen,
        };
        if self.queue_by(self.arrival, to, 0, &Body::Pong(pong), 0) {
            self.counters.pongs_sent += 1;
        }
        match from {
            ProbeFrom::Direct(addr) => {
                self.note_first_copy(addr, ping.txid);
                self.heard_from(addr, local);
            }
            ProbeFrom::Relayed { .. } => self.relay_link.last_rx = Some(self.now.mono),
        }
    }

    /// The peer can send to me from `addr`; whether I can send to it there is asked at once (RFC 8445 §7.3.1.4).
    fn heard_from(&mut self, addr: SocketAddr, local: Option<IpAddr>) {
        let now = self.now.mono;
        let i = match self.pair_index(addr) {
            Some(i) => i,
            None => {
                let candidate = Candidate::new(CandidateKind::PeerReflexive, addr);
                let Some(i) = self.add_pair(candidate, Origin::Source) else {
                    self.counters.refused_sources += 1;
                    return;
                };
                // The first check of the schedule is the triggered one below.
                let mut check = Check::reflexive(now);
                check.advance(now);
                self.pairs[i].check = Some(check);
                i
            }
        };
        self.turn_to_arrival(i);
        let pair = &mut self.pairs[i];
        pair.link.last_rx = Some(now);
        if !pair.valid {
            pair.local = local;
        }
        let recent = pair.link.last_ping.is_some_and(|at| now - at < TRIGGER_GAP);
        if !pair.valid && pair.hold_until <= now && !recent {
            self.ping_pair(i, Purpose::Round);
        }
    }

    pub(super) fn handle_pong(&mut self, from: ProbeFrom, pong: &Pong) {
        let now = self.now.mono;
        if self.answers_mtu_probe(from, pong) {
            return;
        }
        let addr = match from {
            ProbeFrom::Direct(addr) => addr,
            ProbeFrom::Relayed { relay, node_no } => {
                let mine = self.relay.is_some_and(|r| (r.relay_no, r.node_no) == (relay, node_no));
                let ping = if mine { self.relay_link.answered(pong.txid, now) } else { None };
                let Some(ping) = ping else {
                    self.counters.unexpected_pongs += 1;
                    return;
                };
                self.silent_relays = 0;
                if matches!(self.selected, Some(Path::Relayed { .. })) {
                    self.loss.note(ping.tx_data, pong.rx_data, now);
                }
                return;
            }
        };
        let asked = |p: &Pair| p.link.is_outstanding(pong.txid) && p.socket == self.arrival;
        let Some(i) = self.pair_index(addr).filter(|i| asked(&self.pairs[*i])) else {
            self.counters.unexpected_pongs += 1;
            return;
        };
        // Nobody but a packet's source named this address. If my PING reached the peer from an address that is not
        // mine, somebody in between passes packets on, and would become the path.
        let seen = crate::path::canonical(pong.seen);
        if self.pairs[i].origin == Origin::Source && self.local.iter().all(|l| l.addr != seen) {
            self.counters.misdirected_pongs += 1;
            return;
        }
        let Some(ping) = self.pairs[i].link.answered(pong.txid, now) else { return };
        let pair = &mut self.pairs[i];
        pair.valid = true;
        pair.proven = true;
        pair.check = None;
        pair.opener_at = None;
        self.guess_answered(i);
        if self.selected == (Some(Path::Direct { remote: addr })) && !self.awaits_session {
            self.loss.note(ping.tx_data, pong.rx_data, now);
            self.counted = Some(Counted { at: ping.sent, sent: ping.tx_data, arrived: pong.rx_data });
            let verdict = self.pairs[i].link.judge_data(&ping, pong.rx_data, now);
            match verdict {
                DataVerdict::Fine => {}
                DataVerdict::Doubtful => {
                    self.confirm_at = Some(now + DATA_LOST_CONFIRM);
                    self.doubt_mtu();
                }
                DataVerdict::Lost if self.blame_mtu() => {}
                DataVerdict::Lost if self.demote_for_data() => return,
                DataVerdict::Lost => {}
            }
        }
        self.pair_answered(i);
    }

    pub(super) fn handle_call(&mut self, from: ProbeFrom, call: &Call) {
        let live = match from {
            ProbeFrom::Relayed { .. } => true,
            ProbeFrom::Direct(addr) => self.pair_index(addr).is_some_and(|i| self.pairs[i].valid),
        };
        if !live {
            self.counters.refused_sources += 1;
            return;
        }
        let offered: Vec<_> = call.candidates.iter().filter_map(Candidate::from_call).collect();
        self.merge(&offered, Origin::Call);
        self.called = offered;
        if self.peer_relays != call.relays {
            self.peer_relays.clone_from(&call.relays);
            self.emit(PathEvent::PeerRelays);
        }
        let repeated = self.caller.heard(call.txid);
        if self.heard_guess(call) {
            // The answer goes out when the sockets are open.
            self.caller.answer_later(call.txid, call.round);
            return;
        }
        if call.flags & probe::CALL_ANSWER_WANTED != 0 {
            self.caller.answer(call.txid, call.round, self.now.mono);
            if call.flags & probe::CALL_OPENER_SENT == 0 {
                self.peer_was_blind();
            } else if !repeated && !self.round_is_mine() {
                self.start_round(Role::Responder);
            } else {
                self.peer_is_sending();
            }
        } else {
            self.caller.answered(call.txid);
            self.peer_is_sending();
        }
        self.run_caller();
    }
}
