//! [`PathAgent`]: its face. What happens on a probe is in `agent/probes.rs`, on a timer in `agent/rounds.rs` and
//! `agent/liveness.rs`, how large its packets may be in `agent/mtu.rs`, and which path carries data is decided in `agent/select.rs`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::candidate::{Candidate, CandidateKind, canonical, is_probe_target, select_candidates};
use super::check::PingBudget;
use super::history::{History, HistoryEntry, Path};
use super::keys::{NonceSource, ReplayWindow};
use super::link::{Link, Origin, Pair};
use super::ring::KeyRing;
use crate::chunk::LossGuard;
use crate::id::{PortNo, RelayNo};
use crate::rng::{Rng, RngCore as _};
use crate::time::{Duration, Instant, Now, earliest};
use crate::wire::probe::{Body, ProbeError, RelayRtt};

mod announce;
mod face;
mod guess;
mod liveness;
mod mtu;
mod overtaken;
mod probes;
mod rounds;
mod select;

use announce::Announce;
pub use face::{
    Attention, CARRIER, Counted, Counters, Opened, PathConfig, PathCounters, PathEvent, PathState, PathTimer,
    ProbeFrom, ProbeTo, ProbeTransmit, RelayPath, Traffic,
};
use guess::Guess;
pub use guess::{ATTEMPT_EVERY, GUESS_SOCKETS, GUESSES, Guessing, MAX_GUESS_SOCKETS_EACH, PLAIN_ROUNDS};
use liveness::{Suspect, Watch};
use overtaken::Overtaken;
use rounds::{Caller, Round};

/// Most datagrams waiting for [`PathAgent::poll_transmit`]; later ones are dropped and counted.
const TRANSMIT_CAP: usize = 128;
/// Addresses a handshake is tried at without a path.
const MAX_DOORS: usize = 4;
/// Most events waiting for [`PathAgent::poll_event`]; the oldest is dropped.
const EVENT_CAP: usize = 16;

/// The path machine of one peer.
///
/// *Getters*: [`selected`](Self::selected), [`state`](Self::state), [`rtt`](Self::rtt),
/// [`history`](Self::history), [`counters`](Self::counters). *Handlers*: `open` + `handle_probe`,
/// `handle_traffic`, `handle_timeout`. *Commands*: `set_*`. *Polls*: after any of these drain `poll_transmit`, then
/// `poll_event`, then read `poll_timeout`. `now` never goes back.
///
/// Call `handle_traffic` when data leaves for the peer after more than [`PathAgent::EDGE`] of silence, and before
/// each `handle_probe` and `handle_timeout`: PONGs then tell, and timers judge, fresh counters.
#[derive(Debug)]
pub struct PathAgent {
    config: PathConfig,
    keys: KeyRing,
    nonces: NonceSource,
    replay: ReplayWindow,
    rng: Rng,
    now: Now,
    local: Vec<Candidate>,
    relay: Option<RelayPath>,
    relay_link: Link,
    peer_relays: Vec<RelayRtt>,
    /// What CALLs tell of this node's relays.
    own_relays: Vec<RelayRtt>,
    /// A session at a relay may still come up until then.
    relay_expected: Option<Instant>,
    /// Relays in a row by which the peer did not answer.
    silent_relays: u8,
    pairs: Vec<Pair>,
    next_pair_id: u16,
    traffic: Traffic,
    sending_since: Instant,
    selected: Option<Path>,
    selected_at: Instant,
    /// When a better direct path was taken last.
    bettered_at: Option<Instant>,
    resting: bool,
    /// The peer has started anew and cannot open my data yet: that it counts none says nothing of a path.
    awaits_session: bool,
    /// Of data on the selected path.
    loss: LossGuard,
    announce: Option<Announce>,
    overtaken: Overtaken,
    watch: Option<Watch>,
    attention: Attention,
    counted: Option<Counted>,
    suspect: Option<Suspect>,
    confirm_at: Option<Instant>,
    retry_at: Option<Instant>,
    round: Option<Round>,
    next_round: Option<Instant>,
    failed_rounds: usize,
    caller: Caller,
    guess: Guess,
    /// The socket the probe in hand came by, if not the agent's own.
    arrival: Option<PortNo>,
    budget: PingBudget,
    transmits: VecDeque<ProbeTransmit>,
    events: VecDeque<PathEvent>,
    history: History,
    counters: Counters,
    /// The candidates of the peer's last CALL, at most [`super::MAX_CANDIDATES`].
    called: Vec<Candidate>,
}

impl PathAgent {
    /// Silence after which the owner must report the next data at once; also how long traffic counts as flowing.
    pub const EDGE: Duration = Duration::from_secs(10);

    /// An agent for one peer. `start` as in [`NonceSource::new`].
    pub fn new(config: PathConfig, keys: impl Into<KeyRing>, start: u32, mut rng: Rng, now: Now) -> Self {
        let nonces = NonceSource::new(start, &mut rng);
        Self {
            config,
            keys: keys.into(),
            nonces,
            replay: ReplayWindow::default(),
            rng,
            now,
            local: Vec::new(),
            relay: None,
            relay_link: Link::default(),
            peer_relays: Vec::new(),
            own_relays: Vec::new(),
            relay_expected: None,
            silent_relays: 0,
            pairs: Vec::new(),
            next_pair_id: 1,
            traffic: Traffic::default(),
            sending_since: now.mono,
            selected: None,
            selected_at: now.mono,
            bettered_at: None,
            resting: false,
            awaits_session: false,
            announce: None,
            overtaken: Overtaken::default(),
            watch: None,
            attention: Attention::Calm,
            counted: None,
            suspect: None,
            confirm_at: None,
            retry_at: None,
            round: None,
            loss: LossGuard::default(),
            next_round: None,
            failed_rounds: 0,
            caller: Caller::default(),
            guess: Guess::default(),
            arrival: None,
            budget: PingBudget::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            history: History::default(),
            counters: Counters::default(),
            called: Vec::new(),
        }
    }

    /// Where data goes.
    pub fn selected(&self) -> Option<Path> {
        self.selected
    }

    /// The selected path, if it is direct and not in doubt.
    pub fn live_direct(&self) -> Option<SocketAddr> {
        match self.selected {
            Some(Path::Direct { remote }) if self.is_direct() => Some(remote),
            _ => None,
        }
    }

    /// From which address of ours to send to the peer's address `remote`, if the system is not to choose.
    pub fn local_towards(&self, remote: SocketAddr) -> Option<IpAddr> {
        self.pairs[self.pair_index(remote)?].local
    }

    /// The state, derived from what is known.
    pub fn state(&self) -> PathState {
        match self.selected {
            _ if self.suspect.is_some() => PathState::Suspect,
            None => PathState::Unreached,
            Some(Path::Direct { .. }) if self.is_direct() => PathState::Direct,
            Some(Path::Direct { .. }) => PathState::Suspect,
            Some(Path::Relayed { .. }) if self.pairs.iter().any(|p| p.valid) => PathState::Validated,
            Some(Path::Relayed { .. }) => PathState::Relayed,
        }
    }

    /// Whether hardly any data is lost on the selected path.
    pub fn carries_chunks(&self) -> bool {
        self.loss.allows()
    }

    /// Smoothed round-trip time of the selected path to the peer.
    pub fn rtt(&self) -> Option<Duration> {
        self.link(self.selected?).and_then(|l| l.rtt.smoothed())
    }

    /// Least of the last round-trip times of the selected path: what it can do when nothing queues.
    pub fn least_rtt(&self) -> Option<Duration> {
        self.link(self.selected?).and_then(|l| l.rtt.least())
    }

    /// What both ends have counted on the selected direct path.
    pub fn counted(&self) -> Option<Counted> {
        self.counted
    }

    /// Changes of the selected path, oldest first, at most [`super::HISTORY_CAP`].
    pub fn history(&self) -> impl ExactSizeIterator<Item = &HistoryEntry> {
        self.history.iter()
    }

    /// Counts since the agent began.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether it is known how it stands with the direct paths: one carries the data, or a whole round has found none.
    pub fn is_settled(&self) -> bool {
        let checking = self.pairs.iter().any(|p| p.check.is_some() || p.opener_at.is_some());
        let through = self.failed_rounds > 1 || !(checking || self.caller.due_at().is_some());
        self.is_direct() || (self.suspect.is_none() && through)
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub(super) fn called(&self) -> &[Candidate] {
        &self.called
    }

    pub(super) fn overlay(&self) -> &[crate::allowed_ips::Prefix] {
        &self.config.overlay
    }

    /// The peer's candidates with whether they answer, best first.
    pub fn candidates(&self) -> impl Iterator<Item = (&Candidate, bool)> {
        self.pairs.iter().map(|p| (&p.candidate, p.valid))
    }

    /// Where a handshake may be tried while there is neither a relay nor a path: the likeliest addresses, once no relay is
    /// expected any more. Empty otherwise.
    pub fn doors(&self, now: Instant) -> Vec<SocketAddr> {
        if self.relay.is_some() || self.selected.is_some() || self.relay_expected.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.pairs.iter().take(MAX_DOORS).map(|p| p.candidate.addr).collect()
    }

    /// The relays the peer is at, as it told last.
    pub fn peer_relays(&self) -> &[RelayRtt] {
        &self.peer_relays
    }

    /// The keys, for the table of tags.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Other keys, with some of those before among them: an end of the pair changes its static key.
    pub fn set_keys(&mut self, keys: KeyRing) {
        self.keys = keys;
    }

    /// Opens a probe whose tag named this peer. Changes nothing but counters, unless the probe is authentic and new.
    /// The first of a later start of the peer is also an event. Two kinds of repeated probes pass, because their first copy
    /// may have come from somebody who only wanted to be first: a PONG still waited for, and, once, a PING.
    /// `datagram` is garbage afterwards.
    pub fn open(&mut self, datagram: &mut [u8]) -> Result<Opened, ProbeError> {
        let opened = self.keys.open(self.now.unix, datagram).inspect_err(|_| self.counters.unauthentic += 1);
        let (head, body) = opened?;
        let restarted = self.replay.is_restart(head.nonce);
        let mut repeated = false;
        if let Err(error) = self.replay.accept(head.nonce) {
            repeated = error == ProbeError::Replayed && self.was_overtaken(&body);
            if !repeated {
                self.counters.replayed += 1;
                return Err(error);
            }
        }
        if restarted {
            self.peer_restarted();
        }
        Ok(Opened { head, body, local: None, repeated })
    }

    /// How closely to watch from now on.
    pub fn set_attention(&mut self, attention: Attention) {
        self.attention = attention;
    }

    /// My own candidates, as gathered. A change while traffic flows begins a round.
    pub fn set_local_candidates(&mut self, candidates: &[Candidate], now: Now) {
        self.now = now;
        let mut local: Vec<Candidate> = candidates.to_vec();
        for c in &mut local {
            c.addr = canonical(c.addr);
        }
        local.sort_by_key(|c| core::cmp::Reverse(c.priority));
        local.truncate(super::MAX_CANDIDATES);
        if local == self.local {
            return;
        }
        self.local = local;
        for pair in &mut self.pairs {
            pair.forgive();
            // An address that is gone cannot be sent from.
            pair.local = pair.local.filter(|ip| self.local.iter().any(|c| c.addr.ip() == *ip));
        }
        if self.is_active() {
            self.failed_rounds = 0;
            self.start_round(rounds::Role::Initiator);
        }
    }

    /// The peer's endpoints and relays from its signed record, or the operator's configuration. Members that relay are
    /// told by CALL alone, so a record takes none away.
    pub fn set_peer_endpoints(&mut self, endpoints: &[Candidate], relays: &[RelayRtt], now: Now) {
        self.now = now;
        self.peer_relays.retain(|r| RelayNo(r.relay_no).is_member());
        self.peer_relays.splice(..0, relays.iter().copied());
        self.peer_relays.truncate(crate::wire::probe::MAX_RELAYS);
        if self.merge(endpoints, Origin::Record) && self.is_active() {
            self.failed_rounds = 0;
            self.start_round(rounds::Role::Initiator);
        }
    }

    /// What the peer is to know of this node's relays. Of a member that relays it must know soon, while data goes by a
    /// relay: such a one is used only if both are there.
    pub fn set_own_relays(&mut self, relays: &[RelayRtt], now: Now) {
        self.now = now;
        let members = |of: &[RelayRtt]| -> Vec<u16> {
            of.iter().map(|r| r.relay_no).filter(|no| RelayNo(*no).is_member()).collect()
        };
        let is_news = members(&self.own_relays) != members(relays);
        self.own_relays = relays.to_vec();
        self.own_relays.truncate(crate::wire::probe::MAX_RELAYS);
        if is_news && self.is_active() && matches!(self.selected, Some(Path::Relayed { .. })) {
            self.call_now();
        }
    }

    /// There is no session at a relay, but one may come up until then: before that nobody can be called, and what only a
    /// CALL may go before is held back.
    pub fn expect_relay(&mut self, until: Option<Instant>) {
        self.relay_expected = until;
    }

    /// The relay session for this pair came up, changed or went down.
    pub fn set_relay(&mut self, relay: Option<RelayPath>, now: Now) {
        self.now = now;
        let same = match (&self.relay, &relay) {
            (Some(a), Some(b)) => (a.relay_no, a.node_no) == (b.relay_no, b.node_no),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.relay = relay;
        if same {
            return;
        }
        self.relay_link = Link::default();
        self.relay_changed();
        self.run_announce();
        if relay.is_some() && self.is_active() && !self.is_direct() {
            self.failed_rounds = 0;
            self.start_round(rounds::Role::Initiator);
        }
    }

    /// Fresh counters. The first data after silence begins a round, or looks at once after the path there is.
    pub fn handle_traffic(&mut self, traffic: Traffic, now: Now) {
        let was_active = self.is_active();
        let before = self.traffic.last_tx;
        self.now = now;
        self.traffic = traffic;
        let Some(last_tx) = traffic.last_tx else { return };
        if before.is_none_or(|b| last_tx - b >= Duration::from_secs(3)) {
            self.sending_since = last_tx;
        }
        let edge = before.is_none_or(|b| last_tx - b >= Self::EDGE) || !was_active;
        if edge && self.is_active() {
            self.wake();
        }
        self.hasten_watch();
    }

    /// There are new keys for data to the peer.
    pub fn handle_new_session(&mut self) {
        if core::mem::take(&mut self.awaits_session) {
            self.forget_data();
        }
    }

    /// An opened probe came from `from`, to the agent's own socket.
    pub fn handle_probe(&mut self, from: ProbeFrom, probe: Opened, now: Now) {
        self.handle_probe_by(None, from, probe, now);
    }

    /// An opened probe came from `from`, to one of the sockets for guessing if `socket` says so.
    pub fn handle_probe_by(&mut self, socket: Option<PortNo>, from: ProbeFrom, probe: Opened, now: Now) {
        self.now = now;
        self.arrival = socket;
        let from = match from {
            ProbeFrom::Direct(addr) => ProbeFrom::Direct(canonical(addr)),
            relayed @ ProbeFrom::Relayed { .. } => relayed,
        };
        match probe.body {
            Body::Ping(ping) if probe.repeated => self.handle_overtaken(from, probe.local, &ping),
            Body::Ping(ping) => self.handle_ping(from, probe.local, &ping),
            Body::Pong(pong) => self.handle_pong(from, &pong),
            Body::Call(call) => self.handle_call(from, &call),
        }
        self.arrival = None;
    }

    /// Time has passed. Does everything due at `now`.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.rest_if_idle();
        self.run_announce();
        self.run_suspect();
        self.run_silence();
        self.run_watch();
        self.run_confirm();
        self.run_openers();
        self.run_checks();
        self.run_caller();
        self.run_retry();
        self.run_next_round();
        self.run_mtu();
        self.run_guess();
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<ProbeTransmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// When to call `handle_timeout` next, and what for. Exact; due now while output waits; `None` for an idle pair.
    pub fn poll_timeout(&self) -> Option<(Instant, PathTimer)> {
        let output = (!self.transmits.is_empty() || !self.events.is_empty()).then_some(self.now.mono);
        [
            (output, PathTimer::Output),
            (self.announce_due(), PathTimer::Announce),
            (self.suspect_due(), PathTimer::Suspect),
            (self.silence_due(), PathTimer::Silence),
            (self.watch.as_ref().map(|w| w.next), PathTimer::Watch),
            (self.confirm_at, PathTimer::Confirm),
            (self.opener_due(), PathTimer::Opener),
            (self.check_due(), PathTimer::Check),
            (self.caller.due_at(), PathTimer::Call),
            (self.retry_at, PathTimer::Retry),
            (self.next_round, PathTimer::Round),
            (self.mtu_due(), PathTimer::Mtu),
            (self.guess_due(), PathTimer::Guess),
            (self.idle_due(), PathTimer::Idle),
        ]
        .into_iter()
        .fold(None, |least, (at, timer)| earliest(least, at.map(|at| (at, timer))))
    }

    /// Data was sent within [`Self::EDGE`].
    fn is_active(&self) -> bool {
        self.traffic.last_tx.is_some_and(|at| self.now.mono - at < Self::EDGE)
    }

    /// Data goes direct and the path answers. False for a dead path that is kept because there is no relay.
    fn is_direct(&self) -> bool {
        self.suspect.is_none() && self.selected_pair().is_some_and(|i| self.pairs[i].valid)
    }

    /// The transaction of the last PING to `remote`, which only its receiver knows.
    #[cfg(test)]
    pub(super) fn last_txid_to(&self, remote: SocketAddr) -> Option<u64> {
        self.pairs[self.pair_index(remote)?].link.last_txid()
    }

    fn pair_index(&self, addr: SocketAddr) -> Option<usize> {
        self.pairs.iter().position(|p| p.candidate.addr == addr)
    }

    fn selected_pair(&self) -> Option<usize> {
        match self.selected {
            Some(Path::Direct { remote }) => self.pair_index(remote),
            _ => None,
        }
    }

    fn link(&self, path: Path) -> Option<&Link> {
        match path {
            Path::Relayed { .. } => Some(&self.relay_link),
            Path::Direct { remote } => self.pair_index(remote).map(|i| &self.pairs[i].link),
        }
    }

    /// Replaces the candidates of one origin. True if there is a new one.
    fn merge(&mut self, offered: &[Candidate], origin: Origin) -> bool {
        let chosen = select_candidates(offered, &self.config.overlay);
        let chosen: Vec<_> = chosen.into_iter().filter(|c| !self.is_this_host(c.addr)).collect();
        let selected = self.selected;
        self.pairs.retain(|p| {
            p.origin != origin
                || p.valid
                || selected == Some(Path::Direct { remote: p.candidate.addr })
                || chosen.iter().any(|c| c.addr == p.candidate.addr)
        });
        let mut grew = false;
        for c in chosen {
            match self.pair_index(c.addr) {
                Some(i) => {
                    let p = &mut self.pairs[i];
                    if p.origin == Origin::Source || c.kind.is_open() || !p.candidate.kind.is_open() {
                        p.candidate = c;
                    }
                    p.origin = origin;
                }
                None => grew |= self.add_pair(c, origin).is_some(),
            }
        }
        self.pairs.sort_by_key(|p| core::cmp::Reverse(p.candidate.priority));
        grew
    }

    /// My own candidate, or some port of an address my interfaces have: what is sent there stays on this host, where
    /// services may trust whom they hear from it.
    pub(super) fn is_this_host(&self, addr: SocketAddr) -> bool {
        let is_interface = |l: &Candidate| matches!(l.kind, CandidateKind::Host | CandidateKind::GlobalV6);
        self.local.iter().any(|l| l.addr == addr || (is_interface(l) && l.addr.ip() == addr.ip()))
    }

    /// Whether something may be sent to an address that a packet named.
    fn may_probe(&self, addr: SocketAddr) -> bool {
        is_probe_target(&addr, &self.config.overlay) && !self.is_this_host(addr)
    }

    /// Adds a pair; if there are [`super::MAX_CANDIDATES`], in place of one that does not answer. An address that
    /// only a packet's source named pushes out none but its like.
    fn add_pair(&mut self, candidate: Candidate, origin: Origin) -> Option<usize> {
        if self.pairs.len() >= super::MAX_CANDIDATES {
            let (victim, _) = self
                .pairs
                .iter()
                .enumerate()
                .filter(|(_, p)| !p.valid && self.selected != Some(Path::Direct { remote: p.candidate.addr }))
                .filter(|(_, p)| origin != Origin::Source || p.origin == Origin::Source)
                .min_by_key(|(_, p)| (p.origin != Origin::Source, p.link.last_pong, p.id))?;
            self.pairs.remove(victim);
        }
        let id = self.next_pair_id;
        self.next_pair_id = self.next_pair_id.wrapping_add(1).max(1);
        self.pairs.push(Pair::new(id, candidate, origin));
        Some(self.pairs.len() - 1)
    }

    fn queue(&mut self, to: ProbeTo, flags: u16, body: &Body) -> bool {
        self.queue_by(None, to, flags, body, 0)
    }

    /// By this socket, or the port's own if none; padded to `size`, if it is longer.
    fn queue_by(&mut self, socket: Option<PortNo>, to: ProbeTo, flags: u16, body: &Body, size: u16) -> bool {
        if self.transmits.len() >= TRANSMIT_CAP {
            self.counters.queue_full += 1;
            return false;
        }
        let Some(nonce) = self.nonces.next_nonce() else { return false };
        let bytes = self.keys.sealing().seal(flags, self.now.unix, nonce, body, size);
        self.transmits.push_back(ProbeTransmit { socket, to, bytes, punch: false });
        true
    }

    fn emit(&mut self, event: PathEvent) {
        if self.events.len() >= EVENT_CAP {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn txid(&mut self) -> u64 {
        self.rng.next_u64()
    }
}
