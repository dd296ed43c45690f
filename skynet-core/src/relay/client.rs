//! A node's session at one relay, for one lane.
//!
//! ```text
//! DOWN ─▶ HELLO (again after 250, 500, 1000, 2000 ms) ─COOKIE─▶ BIND (same timers) ─BOUND─▶ UP
//!   ▲ waits ≤ 5 s, then HELLO, for ever                                                     │ KEEP every keepalive_s
//!   └──────── 3 fast KEEPs 400 ms apart unanswered ◀── a KEEP unanswered for 1 s ◀──────────┘
//! ```
//!
//! While data goes by the relay its death must not go unnoticed for a keepalive: KEEP is sent every second, and seven
//! in a row unanswered within a second end the session (`Pace`).
//!
//! A cookie is kept for two minutes, so binding again costs one round trip. Only COOKIE and BOUND change state, and
//! only with a valid MAC and the timestamp of a question still open. NACK is a hint: while up it starts at most one
//! attempt per five seconds and the session stays up meanwhile. Nothing but authentic frames and echoes ends or
//! opens anything. A relay that drains says so in the echo of KEEP, or answers HELLO by NACK 4: the session stays.

use core::net::SocketAddr;
use std::collections::VecDeque;

use crate::key::Secret;
use crate::path::Rtt;
use crate::relay::floor::Floor;
use crate::relay::pace::{IDLE, IN_USE, KEEP_IN_USE};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::relay::{
    self, Bind, Class, DATA_HEADER_LEN, DataHeader, Frame, Hello, KEEP_DRAINING, Keep, Nack, NackCode,
    TICKET_LEN,
};

/// Waits after the first, second, … HELLO or BIND of one attempt: a lost packet costs a quarter of a second, a dead
/// relay is called dead after 3.75 s.
const RETRANSMIT_MS: [u64; 4] = [250, 500, 1000, 2000];
/// Longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// The wait between two attempts while the session goes by another way.
const UNHURRIED: Duration = Duration::from_secs(60);
/// The relay accepts a cookie for at least this long (its secret changes every 120 s and the previous one counts).
const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// Whatever the relay says: NATs forget in 30 s, and more often than every 5 s is waste.
const KEEPALIVE_RANGE_S: (u16, u16) = (5, 25);
/// How often a NACK may start an attempt.
const HINT_INTERVAL: Duration = Duration::from_secs(5);
/// Half of what the relay tolerates between its clock and `ts_ms`.
const MAX_AHEAD_MS: u64 = 15_000;
/// Questions whose answer is still welcome.
const OUTSTANDING: usize = 8;

/// The relay's clock as a node knows it: what WELCOME said, plus the time since.
#[derive(Clone, Copy, Debug)]
pub struct RelayClock {
    relay_unix_ms: u64,
    at: Instant,
}

impl RelayClock {
    /// The relay's clock read `relay_unix_ms` when its message arrived, at `now`.
    pub const fn new(relay_unix_ms: u64, now: Instant) -> Self {
        Self { relay_unix_ms, at: now }
    }
    /// Unix milliseconds at the relay.
    pub fn unix_ms(&self, now: Instant) -> u64 {
        let since = u64::try_from(now.saturating_since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.relay_unix_ms.saturating_add(since)
    }
}

/// What a session at a relay needs.
#[derive(Clone, Debug)]
pub struct RelayClientConfig {
    /// The relay's number in the manifest; a COOKIE of another is refused.
    pub relay_no: u16,
    /// The lane whose datagrams take this session, 0–7.
    pub lane: u8,
    /// The ticket of WELCOME.
    pub ticket: [u8; TICKET_LEN],
    /// `K_b` of WELCOME.
    pub bind_key: Secret,
    /// The relay's clock.
    pub clock: RelayClock,
}

/// What changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayEvent {
    /// The session is open, or has a new number.
    Up {
        /// The session's number.
        gen_no: u16,
        /// This node's address as the relay sees it.
        observed: SocketAddr,
        /// Round trip of the BIND.
        rtt: Duration,
    },
    /// The relay does not answer any more. Attempts go on.
    Down,
    /// The relay sees this node at another address.
    ObservedChanged(SocketAddr),
    /// The relay is going away, or is not any more: what can go by another one should. The session stays.
    Draining(bool),
    /// The relay says that this node has no session there. A hint.
    NoSuchPeer(u32),
}

/// Why the client wants to be called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RelayTimer {
    /// Something waits in `poll_transmit` or `poll_event`.
    Output,
    /// HELLO or BIND unanswered.
    Retransmit,
    /// The next attempt while down.
    Backoff,
    /// The next KEEP.
    Keepalive,
    /// A KEEP unanswered.
    KeepAnswer,
}

#[derive(Clone, Copy)]
enum Attempt {
    None,
    Hello { tries: usize, next: Instant },
    Bind { tries: usize, next: Instant, cookie: [u8; 16] },
    Wait { until: Instant },
}

#[derive(Clone, Copy)]
struct Session {
    gen_no: u16,
    observed: SocketAddr,
    keepalive: Duration,
    next_keep: Instant,
    /// The oldest unanswered KEEP, and when to act on it.
    unanswered: Option<Unanswered>,
}

#[derive(Clone, Copy)]
struct Unanswered {
    fast: u8,
    deadline: Instant,
}

/// The machine. *Getters* `gen_no`, `rtt`, `is_up`, `observed`, `data_header`; *handle* [`handle_datagram`](Self::handle_datagram),
/// [`handle_timeout`](Self::handle_timeout); *commands* [`set_ticket`](Self::set_ticket),
/// [`rebind`](Self::rebind); *poll* `poll_transmit`, `poll_event` until `None`, then `poll_timeout`.
pub struct RelayClient {
    config: RelayClientConfig,
    rng: Rng,
    attempt: Attempt,
    session: Option<Session>,
    cookie: Option<([u8; 16], Instant)>,
    last_ts: u64,
    /// (ts_ms or t, when sent), newest last, at most [`OUTSTANDING`].
    asked: VecDeque<(u64, Instant)>,
    kept: VecDeque<(u64, Instant)>,
    accepted_ts: u64,
    rtt: Rtt,
    floor: Floor,
    /// Data goes by the session until then.
    used_until: Instant,
    draining: bool,
    backoff: Duration,
    /// Frames travel by another way meanwhile.
    unhurried: bool,
    last_hint: Option<Instant>,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<RelayEvent>,
    last_now: Instant,
}

impl RelayClient {
    /// A client that says HELLO at once.
    pub fn new(config: RelayClientConfig, rng: Rng, now: Instant) -> Self {
        let mut client = Self {
            config,
            rng,
            attempt: Attempt::None,
            session: None,
            cookie: None,
            last_ts: 0,
            asked: VecDeque::new(),
            kept: VecDeque::new(),
            accepted_ts: 0,
            rtt: Rtt::default(),
            floor: Floor::default(),
            used_until: Instant::ZERO,
            draining: false,
            backoff: FIRST_BACKOFF,
            unhurried: false,
            last_hint: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            last_now: now,
        };
        client.begin(now);
        client
    }

    /// The session's number, while up.
    pub fn gen_no(&self) -> Option<u16> {
        self.session.map(|s| s.gen_no)
    }
    /// Whether a session is open.
    pub fn is_up(&self) -> bool {
        self.session.is_some()
    }
    /// Smoothed round-trip time to the relay.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }
    /// Least of its round-trip times in some minutes: how far the relay is when nothing queues.
    pub fn least_rtt(&self) -> Option<Duration> {
        self.floor.least()
    }
    /// Whether the relay has said that it is going away.
    pub fn is_draining(&self) -> bool {
        self.draining
    }
    /// This node's address as the relay sees it, while up.
    pub fn observed(&self) -> Option<SocketAddr> {
        self.session.map(|s| s.observed)
    }
    /// The relay's number.
    pub fn relay_no(&self) -> u16 {
        self.config.relay_no
    }
    /// The 8 bytes to put before a payload for `dst` on `lane`; `None` while down.
    pub fn data_header(&self, dst: u32, class: Class, lane: u8) -> Option<[u8; DATA_HEADER_LEN]> {
        Some(DataHeader::new(class, lane, self.gen_no()?, dst).encode())
    }

    /// A relay frame from the relay's address. DATA counts as a sign of life; its payload is not looked at.
    pub fn handle_datagram(&mut self, bytes: &[u8], now: Instant) {
        self.last_now = self.last_now.max(now);
        match Frame::parse(bytes) {
            Ok(Frame::Data(header, _)) if self.gen_no() == Some(header.gen_no) => self.heard(),
            Ok(Frame::Cookie(f)) if f.relay_no == self.config.relay_no && self.is_answer(bytes, f.ts_ms) => {
                self.on_cookie(f.cookie, now);
            }
            Ok(Frame::Bound(f)) if self.is_answer(bytes, f.ts_ms) => self.on_bound(&f, now),
            Ok(Frame::Keep(f)) if self.gen_no() == Some(f.gen_no) => self.on_keep(&f, now),
            Ok(Frame::Nack(f)) => self.on_nack(&f, now),
            _ => {}
        }
    }

    /// The data path received DATA of this session: the relay lives.
    pub fn note_data_received(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        self.heard();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        self.attempt_timeout(now);
        self.session_timeout(now);
    }

    /// A new ticket, for the next binding.
    pub fn set_ticket(&mut self, ticket: [u8; TICKET_LEN], bind_key: Secret, clock: RelayClock) {
        self.config.ticket = ticket;
        self.config.bind_key = bind_key;
        self.config.clock = clock;
        // A relay whose clock was set back would refuse timestamps that only ever rise.
        if self.last_ts > clock.unix_ms(self.last_now) + MAX_AHEAD_MS {
            self.last_ts = 0;
            self.accepted_ts = 0;
        }
        self.asked.clear();
    }

    /// Whether data goes by this session.
    pub fn is_in_use(&self, now: Instant) -> bool {
        now < self.used_until
    }

    /// Data goes by this session, and will until `until`.
    pub fn note_use(&mut self, until: Instant, now: Instant) {
        self.used_until = self.used_until.max(until);
        if let Some(session) = &mut self.session {
            session.next_keep = session.next_keep.min(now + KEEP_IN_USE);
        }
    }

    /// This host is elsewhere: how far the relay was says nothing.
    pub fn forget_rtt(&mut self) {
        (self.rtt, self.floor) = Default::default();
    }

    /// The local address may have changed: bind again now. The session stays until the answer.
    pub fn rebind(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        self.begin(now);
    }

    /// Whether frames travel by another way: then an attempt a minute is enough.
    pub fn set_unhurried(&mut self, unhurried: bool, now: Instant) {
        let was = core::mem::replace(&mut self.unhurried, unhurried);
        if was && !unhurried && matches!(self.attempt, Attempt::Wait { .. }) {
            self.backoff = FIRST_BACKOFF;
            self.begin(now);
        }
    }

    /// Asks at once whether the relay is still there.
    pub fn check(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        if let Some(session) = self.session.as_mut().filter(|s| s.unanswered.is_none()) {
            session.next_keep = now;
        }
    }

    /// The next datagram for the relay.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }
    /// The next change.
    pub fn poll_event(&mut self) -> Option<RelayEvent> {
        self.events.pop_front()
    }
    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub fn poll_timeout(&self) -> Option<(Instant, RelayTimer)> {
        if !self.transmits.is_empty() || !self.events.is_empty() {
            return Some((self.last_now, RelayTimer::Output));
        }
        let attempt = match self.attempt {
            Attempt::None => None,
            Attempt::Hello { next, .. } | Attempt::Bind { next, .. } => Some((next, RelayTimer::Retransmit)),
            Attempt::Wait { until } => Some((until, RelayTimer::Backoff)),
        };
        let session = self.session.map(|s| match s.unanswered {
            Some(u) => (u.deadline, RelayTimer::KeepAnswer),
            None => (s.next_keep, RelayTimer::Keepalive),
        });
        crate::time::earliest(attempt, session)
    }

    fn begin(&mut self, now: Instant) {
        match self.cookie {
            Some((cookie, until)) if now < until => self.send_bind(cookie, 0, now),
            _ => self.send_hello(0, now),
        }
    }

    fn send_hello(&mut self, tries: usize, now: Instant) {
        let ts_ms = self.next_ts(now);
        let hello = Hello { lane: self.config.lane, ticket: self.config.ticket, ts_ms };
        self.transmits.push_back(hello.encode(&self.config.bind_key).to_vec());
        self.attempt = Attempt::Hello { tries, next: now + Duration::from_millis(RETRANSMIT_MS[tries]) };
    }

    fn send_bind(&mut self, cookie: [u8; 16], tries: usize, now: Instant) {
        let ts_ms = self.next_ts(now);
        let bind = Bind { lane: self.config.lane, ticket: self.config.ticket, ts_ms, cookie };
        self.transmits.push_back(bind.encode(&self.config.bind_key).to_vec());
        let next = now + Duration::from_millis(RETRANSMIT_MS[tries]);
        self.attempt = Attempt::Bind { tries, next, cookie };
    }

    /// The relay's clock, strictly rising, and remembered as a question.
    fn next_ts(&mut self, now: Instant) -> u64 {
        self.last_ts = self.config.clock.unix_ms(now).max(self.last_ts + 1);
        push_bounded(&mut self.asked, (self.last_ts, now));
        self.last_ts
    }

    fn is_answer(&self, bytes: &[u8], ts_ms: u64) -> bool {
        ts_ms > self.accepted_ts
            && self.asked.iter().any(|&(ts, _)| ts == ts_ms)
            && relay::mac_is_valid(bytes, &self.config.bind_key)
    }

    fn on_cookie(&mut self, cookie: [u8; 16], now: Instant) {
        self.cookie = Some((cookie, now + COOKIE_LIFETIME));
        // A COOKIE that answers a BIND says that the cookie in it was not good any more.
        match self.attempt {
            Attempt::Hello { .. } => self.send_bind(cookie, 0, now),
            Attempt::Bind { tries, cookie: old, .. } if old != cookie => self.send_bind(cookie, tries, now),
            _ => {}
        }
    }

    fn on_bound(&mut self, f: &relay::Bound, now: Instant) {
        let sent = self.asked.iter().find(|&&(ts, _)| ts == f.ts_ms).map_or(now, |&(_, at)| at);
        let rtt = now.saturating_since(sent);
        self.accepted_ts = f.ts_ms;
        self.rtt.sample(rtt);
        self.floor.sample(rtt, now);
        // One that drains binds nobody.
        self.set_draining(false);
        self.attempt = Attempt::None;
        self.backoff = FIRST_BACKOFF;
        let (min, max) = KEEPALIVE_RANGE_S;
        let keepalive = Duration::from_secs(f.keepalive_s.clamp(min, max).into());
        let old = self.session.replace(Session {
            gen_no: f.gen_no,
            observed: f.observed,
            keepalive,
            next_keep: now + if self.is_in_use(now) { KEEP_IN_USE } else { keepalive },
            unanswered: None,
        });
        if old.is_some_and(|s| s.gen_no == f.gen_no) {
            if old.is_some_and(|s| s.observed != f.observed) {
                self.events.push_back(RelayEvent::ObservedChanged(f.observed));
            }
        } else {
            self.events.push_back(RelayEvent::Up { gen_no: f.gen_no, observed: f.observed, rtt });
        }
    }

    fn on_keep(&mut self, keep: &Keep, now: Instant) {
        let Some(at) = self.kept.iter().position(|&(sent_t, _)| sent_t == keep.t) else { return };
        let (_, sent) = self.kept[at];
        self.kept.drain(..=at);
        let rtt = now.saturating_since(sent);
        self.rtt.sample(rtt);
        self.floor.sample(rtt, now);
        self.heard();
        self.set_draining(keep.flags & KEEP_DRAINING != 0);
    }

    fn set_draining(&mut self, draining: bool) {
        if core::mem::replace(&mut self.draining, draining) != draining {
            self.events.push_back(RelayEvent::Draining(draining));
        }
    }

    fn on_nack(&mut self, f: &Nack, now: Instant) {
        let ours = self.gen_no() == Some(f.gen_no);
        match f.known() {
            Some(NackCode::NoSuchPeer) if ours && self.events.len() < OUTSTANDING => {
                return self.events.push_back(RelayEvent::NoSuchPeer(f.node_no));
            }
            // The answer to a HELLO or BIND of ours, which names no session: what there is stays.
            Some(NackCode::Draining) if ours || self.session.is_none() => return self.set_draining(true),
            _ => {}
        }
        let rebind = matches!(f.known(), Some(NackCode::Rebind | NackCode::Revoked));
        let idle = matches!(self.attempt, Attempt::None);
        let limited = self.last_hint.is_some_and(|at| now < at + HINT_INTERVAL);
        if rebind && idle && !limited && ours {
            self.last_hint = Some(now);
            self.begin(now);
        }
    }

    fn heard(&mut self) {
        if let Some(session) = &mut self.session {
            session.unanswered = None;
            // An answer later than the next KEEP is due leaves no deadline in the past.
            session.next_keep = session.next_keep.max(self.last_now);
        }
    }

    fn attempt_timeout(&mut self, now: Instant) {
        match self.attempt {
            Attempt::Hello { tries, next } if now >= next => self.retry(tries, None, now),
            Attempt::Bind { tries, next, cookie } if now >= next => {
                if tries == 0 {
                    // An unanswered cookie may be one the relay no longer knows: ask for a new one.
                    self.cookie = None;
                    self.retry(0, None, now);
                } else {
                    self.retry(tries, Some(cookie), now);
                }
            }
            Attempt::Wait { until } if now >= until => self.begin(now),
            _ => {}
        }
    }

    fn retry(&mut self, tries: usize, cookie: Option<[u8; 16]>, now: Instant) {
        if tries + 1 < RETRANSMIT_MS.len() {
            match cookie {
                Some(cookie) => self.send_bind(cookie, tries + 1, now),
                None => self.send_hello(tries + 1, now),
            }
        } else if self.session.is_some() {
            self.attempt = Attempt::None;
        } else {
            self.cookie = None;
            let pause = if self.unhurried { UNHURRIED } else { self.backoff };
            let jitter = Duration::from_millis(self.rng.below(pause.as_millis() as u64 / 4 + 1));
            self.attempt = Attempt::Wait { until: now + pause.saturating_sub(jitter) };
            self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        }
    }

    fn session_timeout(&mut self, now: Instant) {
        let in_use = self.is_in_use(now);
        let pace = if in_use { IN_USE } else { IDLE };
        let wait = self.rtt.smoothed().map_or(pace.answer.1, |rtt| rtt * 4);
        let Some(session) = &mut self.session else { return };
        match session.unanswered {
            Some(u) if now >= u.deadline => {
                if u.fast < pace.tries {
                    let last = u.fast + 1 == pace.tries;
                    // The last one has the time of the first: its answer may be as far away.
                    let wait = if last { wait.clamp(pace.fast, pace.answer.1) } else { pace.fast };
                    session.unanswered = Some(Unanswered { fast: u.fast + 1, deadline: now + wait });
                    self.send_keep(now);
                } else {
                    self.go_down(now);
                }
            }
            None if now >= session.next_keep => {
                let deadline = now + wait.clamp(pace.answer.0, pace.answer.1);
                session.unanswered = Some(Unanswered { fast: 0, deadline });
                session.next_keep = now + if in_use { KEEP_IN_USE } else { session.keepalive };
                self.send_keep(now);
            }
            _ => {}
        }
    }

    fn send_keep(&mut self, now: Instant) {
        let Some(gen_no) = self.gen_no() else { return };
        // Not the time: a guessable value would let others answer in the relay's name.
        let t = u64::from_be_bytes(self.rng.array());
        push_bounded(&mut self.kept, (t, now));
        self.transmits.push_back(Keep { flags: 0, gen_no, t }.encode().to_vec());
    }

    fn go_down(&mut self, now: Instant) {
        self.session = None;
        self.cookie = None;
        self.draining = false;
        self.kept.clear();
        self.events.push_back(RelayEvent::Down);
        self.send_hello(0, now);
    }
}

fn push_bounded(queue: &mut VecDeque<(u64, Instant)>, item: (u64, Instant)) {
    if queue.len() == OUTSTANDING {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
