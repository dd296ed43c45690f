//! Port 0's sessions at relays: at the nearest, which is *home*, at the next nearest, the *spare*, and where a peer is
//! that has neither.
//!
//! ```text
//! ticket ─▶ TRIAL: a session at each of up to 8 relays ── 3 s ─▶ the two nearest are kept, the others let go
//!             ▲                                                   │ every 5 min ± 1, or at once when a kept one is lost
//!             └───────────────────────────────────────────────────┘
//! ```
//!
//! Who is kept stays unless another is clearly nearer. While fewer than two are up the trial goes on, for ever. A relay
//! that drains counts as the farthest. What peers are told is what is up, in milliseconds that noise does not change.
//! While none is up by UDP, there is one session by a stream ([`stream`]). Beside all these there may be sessions at
//! members that relay ([`members`]).

use core::net::SocketAddr;

use crate::control::message::Welcome;
use crate::id::{PortNo, RelayNo};
use crate::key::PublicKey;
use crate::node::carrier::Carrier;
use crate::relay::{RelayClient, RelayClientConfig, RelayClock, RelayEvent, steady_ms};
use crate::rng::Rng;
use crate::time::{Duration, Instant, earliest};
use crate::wire::probe::RelayRtt;
use crate::wire::relay::TICKET_LEN;

pub(super) mod members;
mod stream;

/// Sessions at once; also what CALL and record can tell.
pub(super) const MAX_SESSIONS: usize = crate::wire::probe::MAX_RELAYS;
/// Home and spare.
const KEPT: usize = 2;
/// A relay that does not answer within this time is not near.
const TRIAL: Duration = Duration::from_secs(3);
const TRIAL_EVERY: Duration = Duration::from_secs(300);
/// While frames go by a stream: as often as UDP is tried at relays that are not let go.
const STREAM_TRIAL_EVERY: Duration = Duration::from_secs(60);
/// A session for the sake of a peer is kept for so long after it was needed last.
const WANTED: Duration = Duration::from_secs(300);
/// So long the first session may take: HELLO to a relay that is there is answered after its second repetition at last.
/// Until then nothing is done that a call by the relay must go before.
const EXPECTED: Duration = Duration::from_secs(4);
/// Home is another relay if that is nearer by this,
const MARGIN_MS: u16 = 10;
/// and by this part.
const MARGIN_PART: u16 = 5;

/// A relay of the manifest.
pub(super) struct Relay {
    pub(super) no: RelayNo,
    pub(super) address: SocketAddr,
    /// What it proves itself by.
    pub(super) key: PublicKey,
    /// The session by UDP.
    pub(super) client: Option<RelayClient>,
    /// One of the two nearest.
    kept: bool,
    wanted_until: Instant,
    told: Option<u16>,
}

/// What became of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RelaySetEvent {
    /// Which are up, how they see us, or whether they drain.
    Changed,
    /// This one is up,
    Up(RelayNo),
    /// or down.
    Down(RelayNo),
    /// This relay says that it does not know this node.
    NoSuchPeer(RelayNo, u32),
}

/// All of them.
#[derive(Default)]
pub(super) struct RelaySet {
    relays: Vec<Relay>,
    /// Members that relay.
    members: Vec<Relay>,
    ticket: Option<RelayClientConfig>,
    home: Option<RelayNo>,
    trial_until: Option<Instant>,
    next_trial: Option<Instant>,
    /// Where the next trial begins, if there are more relays than sessions.
    cursor: usize,
    expected_until: Instant,
    /// What is told, or home, is another, and nobody has heard yet.
    changed: bool,
    carrier: Carrier,
    /// The stream was opened to the relay of the control channel.
    stream_follows: bool,
}

impl Relay {
    /// One without a session.
    pub(super) fn at(no: RelayNo, address: SocketAddr, key: PublicKey) -> Self {
        Self { no, address, key, client: None, kept: false, wanted_until: Instant::ZERO, told: None }
    }

    fn is_up(&self) -> bool {
        self.client.as_ref().is_some_and(RelayClient::is_up)
    }

    fn is_draining(&self) -> bool {
        self.client.as_ref().is_some_and(RelayClient::is_draining)
    }

    fn ms(&self) -> u16 {
        let least = self.client.as_ref().and_then(RelayClient::least_rtt);
        self.told.or(least.map(|rtt| steady_ms(None, rtt))).unwrap_or(u16::MAX)
    }

    /// Less is better. Who is kept already has a start.
    fn rank(&self) -> (bool, u16, RelayNo) {
        let ms = self.ms();
        let start = if self.kept { MARGIN_MS.max(ms / MARGIN_PART) } else { 0 };
        (self.is_draining(), ms.saturating_sub(start), self.no)
    }
}

impl RelaySet {
    /// None yet, but one is expected.
    pub(super) fn expecting(now: Instant) -> Self {
        Self { expected_until: now + EXPECTED, ..Self::default() }
    }

    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    /// The nearest; before any is up, the one whose ticket it is.
    pub(super) fn home(&self) -> Option<&Relay> {
        self.get(self.home?)
    }

    pub(super) fn get(&self, no: RelayNo) -> Option<&Relay> {
        self.relays.iter().chain(&self.members).find(|r| r.no == no)
    }

    /// Those of the manifest with a session by UDP, or about to have one.
    pub(super) fn active(&self) -> impl Iterator<Item = (&Relay, &RelayClient)> {
        self.relays.iter().filter_map(|r| Some((r, r.client.as_ref()?)))
    }

    /// The session at this address, or the stream's that leads there; a stream that is being left has none any more.
    pub(super) fn client_at(&mut self, address: SocketAddr) -> Option<(RelayNo, Option<&mut RelayClient>)> {
        if self.carrier.address() == Some(address) {
            return Some((self.carrier.relay()?, self.carrier.client_of(address)));
        }
        let all = self.relays.iter_mut().chain(&mut self.members);
        let relay = all.into_iter().find(|r| r.address == address)?;
        Some((relay.no, Some(relay.client.as_mut()?)))
    }

    /// What peers are told, and what the choice of a pair's relay reckons with.
    pub(super) fn told(&self) -> Vec<RelayRtt> {
        let told = self
            .relays
            .iter()
            .chain(&self.members)
            .filter_map(|r| Some(RelayRtt { relay_no: r.no.0, rtt_ms: r.told? }));
        told.take(MAX_SESSIONS).collect()
    }

    /// Until when a session that is not up may be expected to come up.
    pub(super) fn expected_until(&self) -> Option<Instant> {
        (!self.udp_is_up() && self.stream().is_none()).then_some(self.expected_until)
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// A ticket, and where relays are that honour it. True if home is another.
    pub(super) fn set_ticket(
        &mut self,
        welcome: &Welcome,
        relays: &[(RelayNo, SocketAddr, PublicKey)],
        rng: &mut Rng,
        now: Instant,
    ) -> bool {
        let clock = RelayClock::new(welcome.relay_unix_ms, now);
        let (ticket, bind_key): ([u8; TICKET_LEN], _) = (welcome.ticket, welcome.bind_key.clone());
        let before = self.home;
        self.list(relays);
        for relay in &mut self.relays {
            if let Some(client) = &mut relay.client {
                client.set_ticket(ticket, bind_key.clone(), clock);
                // Who was away may have forgotten the session, and who does not send would learn it late.
                client.rebind(now);
            }
        }
        self.keep_stream(welcome, now);
        let relay_no = welcome.relay_no;
        if self.ticket.replace(RelayClientConfig { relay_no, lane: 0, ticket, bind_key, clock }).is_none() {
            self.expected_until = now + EXPECTED;
        }
        self.home = self.home.or(Some(RelayNo(relay_no)));
        self.begin_trial(rng, now);
        self.refresh();
        self.home != before
    }

    /// The relays there are now; the ticket holds at all of them. Sessions at others end.
    pub(super) fn set_relays(
        &mut self,
        relays: &[(RelayNo, SocketAddr, PublicKey)],
        rng: &mut Rng,
        now: Instant,
    ) {
        self.list(relays);
        self.end_foreign_stream();
        self.home = self.home.or(self.relays.first().map(|r| r.no));
        self.begin_trial(rng, now);
        self.refresh();
    }

    fn list(&mut self, relays: &[(RelayNo, SocketAddr, PublicKey)]) {
        self.relays.retain(|r| relays.contains(&(r.no, r.address, r.key)));
        self.members.retain(|m| relays.iter().all(|(no, ..)| *no != m.no));
        for &(no, address, key) in relays {
            if self.get(no).is_none() {
                self.relays.push(Relay::at(no, address, key));
            }
        }
        self.relays.sort_by_key(|r| r.no);
        self.home = self.home.filter(|no| self.get(*no).is_some());
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, rng: &mut Rng, now: Instant) {
        self.carrier.handle_timeout(now);
        let mut due = false;
        let all = self.relays.iter_mut().chain(&mut self.members);
        for client in all.filter_map(|r| r.client.as_mut()) {
            if client.poll_timeout().is_some_and(|(at, _)| at <= now) {
                client.handle_timeout(now);
                due = true;
            }
        }
        if due {
            self.refresh();
        }
        if self.trial_until.take_if(|at| *at <= now).is_some() {
            self.end_trial(rng, now);
        }
        if self.next_trial.take_if(|at| *at <= now).is_some() {
            self.begin_trial(rng, now);
        }
    }

    /// This host's addresses have changed: every session is bound again, and measured anew.
    pub(super) fn move_on(&mut self, now: Instant) {
        self.relays.iter_mut().filter_map(|r| r.client.as_mut()).for_each(RelayClient::forget_rtt);
        self.member_clients().for_each(RelayClient::forget_rtt);
        self.rebind(now);
        self.carrier.check(now);
    }

    /// Every session is bound again: a NAT may see us elsewhere.
    pub(super) fn rebind(&mut self, now: Instant) {
        self.relays.iter_mut().filter_map(|r| r.client.as_mut()).for_each(|client| client.rebind(now));
        self.member_clients().for_each(|client| client.rebind(now));
    }

    // ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Data goes by this relay.
    pub(super) fn note_use(&mut self, no: RelayNo, until: Instant, now: Instant) {
        self.carrier.note_use(no, until);
        let relay = self.relays.iter_mut().chain(&mut self.members).find(|r| r.no == no);
        if let Some(client) = relay.and_then(|r| r.client.as_mut()) {
            client.note_use(until, now);
        }
    }

    /// A peer is at this relay and at none of ours.
    pub(super) fn want(&mut self, no: RelayNo, rng: &mut Rng, now: Instant) {
        let room = self.active().count() < MAX_SESSIONS;
        let Some(ticket) = self.ticket.clone() else { return };
        if let Some(relay) = self.relays.iter_mut().find(|r| r.no == no)
            && (room || relay.client.is_some())
        {
            relay.wanted_until = now + WANTED;
            open(relay, &ticket, rng, now);
        }
    }

    /// A session of a further port, at home.
    pub(super) fn further_client(&self, port: PortNo, rng: &mut Rng, now: Instant) -> Option<RelayClient> {
        let relay_no = self.home()?.no.0;
        let config = RelayClientConfig { relay_no, lane: port.0, ..self.ticket.clone()? };
        let mut client = RelayClient::new(config, rng.fork(), now);
        client.set_unhurried(self.carrier.is_up(), now);
        Some(client)
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The next datagram, and for whom.
    pub(super) fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut all = self.relays.iter_mut().chain(&mut self.members);
        let by_udp = all.find_map(|r| Some((r.address, r.client.as_mut()?.poll_transmit()?)));
        by_udp.or_else(|| self.carrier.poll_transmit())
    }

    /// The next change.
    pub(super) fn poll_event(&mut self, rng: &mut Rng, now: Instant) -> Option<RelaySetEvent> {
        if let Some(event) = self.poll_stream_session(rng, now) {
            return Some(event);
        }
        if let Some(event) = self.poll_member() {
            return Some(event);
        }
        let next = |r: &mut Relay| Some((r.no, r.client.as_mut()?.poll_event()?));
        let Some((no, event)) = self.relays.iter_mut().find_map(next) else {
            return core::mem::take(&mut self.changed).then_some(RelaySetEvent::Changed);
        };
        match event {
            RelayEvent::Up { .. } => {
                let kept = self.relays.iter().filter(|r| r.kept && r.is_up()).count();
                if let Some(relay) = self.relays.iter_mut().find(|r| r.no == no) {
                    relay.kept |= kept < KEPT;
                }
            }
            RelayEvent::Down => {
                if !self.relays.iter().any(Relay::is_up) {
                    self.expected_until = now + EXPECTED;
                }
                self.begin_trial(rng, now);
            }
            RelayEvent::Draining(true) => self.begin_trial(rng, now),
            RelayEvent::Draining(false) | RelayEvent::ObservedChanged(_) => {}
            RelayEvent::NoSuchPeer(node_no) => return Some(RelaySetEvent::NoSuchPeer(no, node_no)),
        }
        self.refresh();
        Some(match event {
            RelayEvent::Up { .. } => RelaySetEvent::Up(no),
            RelayEvent::Down => RelaySetEvent::Down(no),
            _ => RelaySetEvent::Changed,
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let clients = self.active().chain(self.members()).filter_map(|(_, client)| client.poll_timeout());
        let clients = clients.map(|(at, _)| at).min();
        let carrier = self.carrier.poll_timeout();
        [self.trial_until, self.next_trial, carrier].into_iter().fold(clients, earliest)
    }

    // ── Trials ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Opens sessions where there are none, as far as there is room.
    fn begin_trial(&mut self, rng: &mut Rng, now: Instant) {
        let Some(ticket) = self.ticket.clone() else { return };
        let n = self.relays.len();
        if n <= KEPT && self.relays.iter().all(|r| r.client.is_some()) {
            return;
        }
        let mut room = MAX_SESSIONS.saturating_sub(self.active().count());
        // Home first: it is the one that has just let us in.
        let home = self.relays.iter().position(|r| Some(r.no) == self.home);
        let cursor = self.cursor;
        let others = (0..n).map(|i| (cursor + i) % n);
        for i in home.into_iter().chain(others) {
            if room > 0 && self.relays[i].client.is_none() {
                open(&mut self.relays[i], &ticket, rng, now);
                room -= 1;
                self.cursor = i + 1;
            }
        }
        self.trial_until = Some(now + TRIAL);
        self.next_trial = None;
    }

    /// Lets go of all but the two nearest and those that peers want; if there are not two, goes on.
    fn end_trial(&mut self, rng: &mut Rng, now: Instant) {
        let mut up: Vec<_> = self.relays.iter().filter(|r| r.is_up()).map(Relay::rank).collect();
        up.sort_unstable();
        let kept: Vec<RelayNo> = up.iter().take(KEPT).map(|(_, _, no)| *no).collect();
        let enough = up.iter().filter(|(draining, ..)| !draining).count() >= KEPT;
        let all_tried = self.relays.len() <= MAX_SESSIONS;
        for relay in &mut self.relays {
            relay.kept = kept.contains(&relay.no);
            let used = relay.client.as_ref().is_some_and(|client| client.is_in_use(now));
            let needed = relay.kept || used || relay.wanted_until > now;
            let stays = needed || (!enough && (all_tried || relay.is_up()));
            if !stays {
                relay.client = None;
            }
        }
        let by_stream = self.stream().is_some();
        if enough || all_tried || by_stream {
            // All agents of a cloud must not ask in the same second.
            let pause = if by_stream { STREAM_TRIAL_EVERY } else { TRIAL_EVERY };
            let jitter = Duration::from_millis(rng.below(pause.as_millis() as u64 / 5));
            self.next_trial = (self.relays.len() > KEPT).then(|| now + pause + jitter);
        } else {
            self.begin_trial(rng, now);
        }
        self.refresh();
    }

    /// Reckons anew what is told, and which relay is home.
    fn refresh(&mut self) {
        let before = (self.told(), self.home);
        let usable = |r: &Relay| r.is_up() && !r.is_draining();
        let any = self.relays.iter().any(usable);
        let stream = self.stream_rtt();
        for relay in &mut self.relays {
            let tells = if any { usable(relay) } else { relay.is_up() };
            let tells = tells && (relay.kept || relay.wanted_until > Instant::ZERO);
            let (tells, least) = match stream {
                Some((no, least)) => (no == relay.no, least),
                None => (tells, relay.client.as_ref().and_then(RelayClient::least_rtt)),
            };
            // Until it is measured again, what was told holds.
            let measured = least.map(|rtt| steady_ms(relay.told, rtt)).or(relay.told);
            relay.told = measured.filter(|_| tells);
        }
        let rank = |r: &Relay| {
            let ms = r.ms();
            let start = if Some(r.no) == self.home { MARGIN_MS.max(ms / MARGIN_PART) } else { 0 };
            (ms.saturating_sub(start), r.no)
        };
        let nearest = self.relays.iter().filter(|r| r.told.is_some()).map(rank).min();
        self.home = nearest.map(|(_, no)| no).or(self.home);
        self.refresh_members();
        self.changed |= before != (self.told(), self.home);
    }
}

fn open(relay: &mut Relay, ticket: &RelayClientConfig, rng: &mut Rng, now: Instant) {
    if relay.client.is_none() {
        let config = RelayClientConfig { relay_no: relay.no.0, lane: 0, ..ticket.clone() };
        relay.client = Some(RelayClient::new(config, rng.fork(), now));
    }
}
