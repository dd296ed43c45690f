//! The node's side of the control channel: to one relay of several, connect, handshake, JOIN, requests, keepalive, for ever.
//!
//! ```text
//! WAIT ─▶ CONNECTING ─handle_connected▶ HANDSHAKE ─message 2▶ READY ──(bundle set) JOIN──▶ WELCOME
//!   ▲         │ 5 s                        │ 5 s                │ 3 PINGs of 20 s unanswered, closed, or broken
//!   └─────────┴────────────────────────────┴────────────────────┘  0.25 → 5 s with jitter, next target
//! ```
//!
//! The TCP socket is the shell's: it acts on [`ControlEvent::WantConnect`] and [`ControlEvent::WantClose`] and moves
//! bytes. Every request is answered by exactly one event, if need be [`ControlEvent::Failed`].

use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

use crate::control::channel::{Channel, ChannelError};
use crate::control::message::{
    BootEpoch, ConflictWhat, DeniedCode, Lookup, Member, Message, MessageError, Welcome,
};
use crate::control::roll::Roll;
use crate::key::{PublicKey, StaticSecret};
use crate::member::Tags;
use crate::rng::Rng;
use crate::time::{Duration, Instant, earliest};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Below the 30 s at which strict firewalls forget an idle TCP flow.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// After so many unanswered PINGs the channel is dead.
const MISSED_PINGS: u8 = 3;
/// A relay in doubt has so long to answer.
const DOUBT: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Requests without an answer; above this commands are refused.
pub const MAX_PENDING: usize = 256;

/// A request's number, unique within a client's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RequestId(pub u32);

/// Whom to talk to, and as whom.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The node's session key: what the relay authorises.
    pub local: StaticSecret,
    /// Relays by their addresses, each with the key that token or manifest pins, best first. They are tried in turn; at
    /// least one.
    pub targets: Vec<ControlTarget>,
}

/// Where a relay may be, and who it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlTarget {
    /// The relay's number in the manifest.
    pub relay_no: u16,
    /// Its key.
    pub relay: PublicKey,
    /// Where.
    pub address: SocketAddr,
}

/// Why the channel is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DownCause {
    /// The connection attempt took too long.
    #[error("no answer to the connection attempt")]
    ConnectTimeout,
    /// Refused, reset or closed by the other side or the shell.
    #[error("the connection was refused or closed")]
    Closed,
    /// Connected, but no handshake within its deadline.
    #[error("connected, but no relay with the expected key answers there")]
    HandshakeTimeout,
    /// It does not let us in now; another may.
    #[error("it does not let this node in now")]
    Refused,
    /// PINGs unanswered.
    #[error("it does not answer any more")]
    Unresponsive,
    /// The channel broke: wrong key or altered bytes.
    #[error("the channel broke: {0}")]
    Channel(ChannelError),
    /// The relay said what is no message.
    #[error("it does not speak this protocol: {0}")]
    Message(MessageError),
}

/// What happened, or what the shell must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlEvent {
    /// Open a TCP connection to this address, then call `handle_connected` or `handle_closed`.
    WantConnect(SocketAddr),
    /// Close the connection; `handle_closed` need not be called.
    WantClose,
    /// The relay has proven its key; requests flow.
    Ready,
    /// JOIN succeeded, at first or after a reconnect.
    Joined(Box<Welcome>),
    /// JOIN failed because of another member: change the bundle and join again.
    Conflict(ConflictWhat),
    /// A request was refused; `None` stands for JOIN.
    Denied(Option<RequestId>, u16, String),
    /// UPDATE or LEAVE was done.
    Acknowledged(RequestId, u64),
    /// GET found a member.
    Peer(RequestId, Member),
    /// GET found nobody.
    NoPeer(RequestId),
    /// LIST's answer; whether more follow.
    Members(RequestId, bool, Vec<Member>),
    /// No answer in time, or the channel went away.
    Failed(RequestId),
    /// The manifest in force.
    Manifest(RequestId, Vec<u8>),
    /// The relay pushed a member's documents.
    Pushed(Member),
    /// Who of those watched is here, or what changed.
    Roll(Roll),
    /// The relay pushed a document that holds for the whole network.
    Document(Vec<u8>),
    /// The channel is down; the next attempt starts after this long.
    Reconnect(Duration, DownCause),
}

/// Why the client wants to be called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ControlTimer {
    /// Something waits in a queue.
    Output,
    /// A connection attempt or handshake takes too long.
    Connect,
    /// A request takes too long.
    Request,
    /// The next PING, or the end of a silent channel.
    Ping,
    /// The next attempt.
    Backoff,
}

enum State {
    Wait { until: Instant },
    Connecting { deadline: Instant },
    Open(Box<Open>),
    Stopped,
}

struct Open {
    channel: Channel,
    ready: bool,
    next_ping: Instant,
    missed: u8,
    /// When the JOIN under way was sent.
    join: Option<(u32, Instant)>,
}

/// The machine. *Getters* `is_ready`, `is_joined`; *handle* `handle_connected`, `handle_bytes`, `handle_closed`,
/// `handle_timeout`; *commands* `join`, `get`, `list`, `watch`, `update`, `bye`, `leave`; *poll* `poll_event`, `poll_bytes` until
/// `None`, then `poll_timeout`.
pub struct ControlClient {
    config: ControlConfig,
    rng: Rng,
    state: State,
    /// Which of the targets.
    target: usize,
    backoff: Duration,
    bundle: Option<Vec<u8>>,
    epoch: Option<BootEpoch>,
    joined: bool,
    next_request: u32,
    pending: BTreeMap<u32, Instant>,
    leaving: Option<u32>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<ControlEvent>,
    last_now: Instant,
}

impl ControlClient {
    /// A client that wants to connect at once.
    pub fn new(config: ControlConfig, rng: Rng, now: Instant) -> Self {
        let mut client = Self {
            config,
            rng,
            state: State::Stopped,
            target: 0,
            backoff: FIRST_BACKOFF,
            bundle: None,
            epoch: None,
            joined: false,
            next_request: 1,
            pending: BTreeMap::new(),
            leaving: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            last_now: now,
        };
        client.connect(now);
        client
    }

    /// Whether the relay has proven its key.
    pub fn is_ready(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.ready)
    }
    /// Whether JOIN has succeeded on the present connection.
    pub fn is_joined(&self) -> bool {
        self.joined && self.is_ready()
    }
    /// The relay that is connected to, or tried.
    pub fn target(&self) -> Option<ControlTarget> {
        self.config.targets.get(self.target % self.config.targets.len().max(1)).copied()
    }
    /// The one to be preferred.
    pub fn first(&self) -> Option<ControlTarget> {
        self.config.targets.first().copied()
    }

    /// Whether the one in use is that.
    pub fn is_at_first(&self) -> bool {
        self.target().map(|t| t.relay_no) == self.first().map(|t| t.relay_no)
    }

    /// The connection is there.
    pub fn handle_connected(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        if matches!(self.state, State::Connecting { .. }) {
            let Some(target) = self.target() else { return };
            let channel = Channel::initiator(&self.config.local, &target.relay, &mut self.rng, now);
            let open = Open { channel, ready: false, next_ping: now + PING_INTERVAL, missed: 0, join: None };
            self.state = State::Open(Box::new(open));
            self.flush();
        }
    }

    /// Bytes from the connection, at most 16 KiB at a time.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.last_now = self.last_now.max(now);
        let State::Open(open) = &mut self.state else { return };
        if let Err(error) = open.channel.feed(bytes) {
            return self.down(DownCause::Channel(error), true, now);
        }
        if !open.ready && open.channel.is_established() {
            open.ready = true;
            open.next_ping = now + PING_INTERVAL;
            self.backoff = FIRST_BACKOFF;
            self.events.push_back(ControlEvent::Ready);
            self.send_join(now);
        }
        while let State::Open(open) = &mut self.state {
            match open.channel.poll_message() {
                Ok(Some(bytes)) => self.on_message(&bytes, now),
                Ok(None) => break,
                Err(error) => return self.down(DownCause::Channel(error), true, now),
            }
        }
        self.flush();
    }

    /// The connection is gone, or could not be made.
    pub fn handle_closed(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        if matches!(self.state, State::Connecting { .. } | State::Open(_)) {
            self.down(DownCause::Closed, false, now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        self.expire_requests(now);
        match &mut self.state {
            State::Wait { until } if now >= *until => self.connect(now),
            State::Connecting { deadline } if now >= *deadline => {
                self.down(DownCause::ConnectTimeout, true, now);
            }
            State::Open(open) if open.channel.deadline().is_some_and(|deadline| now >= deadline) => {
                self.down(DownCause::HandshakeTimeout, true, now);
            }
            State::Open(open) if open.ready && now >= open.next_ping => {
                if open.missed == MISSED_PINGS {
                    return self.down(DownCause::Unresponsive, true, now);
                }
                open.missed += 1;
                open.next_ping = now + PING_INTERVAL;
                let t = now.as_nanos();
                self.send(&Message::Ping(t), 0);
            }
            _ => {}
        }
        self.flush();
    }

    /// Joins with `bundle` now and after every reconnect.
    pub fn join(&mut self, bundle: Vec<u8>, now: Instant) {
        self.last_now = self.last_now.max(now);
        self.bundle = Some(bundle);
        if self.is_ready() {
            self.send_join(now);
        }
    }
    /// Which process this is, said with every JOIN.
    pub fn set_epoch(&mut self, epoch: BootEpoch) {
        self.epoch = Some(epoch);
    }
    /// Randomness starts anew: this machine may be a copy. The channel, whose keys the other has too, ends.
    pub fn reseed(&mut self, rng: Rng, now: Instant) {
        self.rng = rng;
        self.reconnect(now);
    }
    /// By another key from the next connection on.
    pub fn set_local(&mut self, local: StaticSecret) {
        self.config.local = local;
    }
    /// Joins with `bundle` after the next reconnect.
    pub fn set_bundle(&mut self, bundle: Vec<u8>) {
        self.bundle = Some(bundle);
    }
    /// Asks for a member. `None` if not ready or [`MAX_PENDING`] requests wait.
    pub fn get(&mut self, lookup: Lookup, now: Instant) -> Option<RequestId> {
        self.request(&Message::Get(lookup), now)
    }
    /// Asks for at most `limit` members above node number `after`.
    pub fn list(&mut self, after: u32, limit: u16, now: Instant) -> Option<RequestId> {
        self.request(&Message::List { after, limit }, now)
    }
    /// Asks for the manifest in force: for relays, who do not join.
    pub fn manifest(&mut self, now: Instant) -> Option<RequestId> {
        self.request(&Message::GetManifest, now)
    }
    /// Publishes a node record.
    pub fn update(&mut self, record: Vec<u8>, now: Instant) -> Option<RequestId> {
        self.request(&Message::Update(record), now)
    }
    /// Asks to be told who with one of these tags comes and goes, everybody if there are none; `None`: no more.
    pub fn watch(&mut self, tags: Option<Tags>, now: Instant) -> Option<RequestId> {
        self.request(&Message::Watch(tags), now)
    }
    /// This process ends: the relay need not wait whether it comes back. Not answered.
    pub fn bye(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        if self.is_joined() {
            self.send(&Message::Bye, 0);
            self.flush();
        }
    }
    /// Ends presence at the relay; once acknowledged the client stops.
    pub fn leave(&mut self, now: Instant) -> Option<RequestId> {
        let id = self.request(&Message::Leave, now)?;
        self.leaving = Some(id.0);
        Some(id)
    }
    /// Other targets, from the next connection on; the present one goes on.
    pub fn set_targets(&mut self, targets: Vec<ControlTarget>) {
        let present = self.target();
        self.target = targets.iter().position(|t| Some(*t) == present).unwrap_or(0);
        self.config.targets = targets;
    }
    /// There is a reason to think that the relay is gone: it has five seconds to answer.
    pub fn doubt(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        if let State::Open(open) = &mut self.state
            && open.ready
            && open.missed < MISSED_PINGS
        {
            open.missed = MISSED_PINGS;
            open.next_ping = now + DOUBT;
            self.send(&Message::Ping(now.as_nanos()), 0);
            self.flush();
        }
    }
    /// This relay does not let us in: the next one, after a pause that grows.
    pub fn try_next(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        if matches!(self.state, State::Connecting { .. } | State::Open(_)) {
            self.down(DownCause::Refused, true, now);
            // Every one of them has refused: they are busy, and not to be asked at once.
            if let State::Wait { until } = &mut self.state
                && self.target == 0
            {
                let spread = MAX_BACKOFF.as_millis() as u64 / 2;
                *until = now + MAX_BACKOFF / 2 + Duration::from_millis(self.rng.below(spread));
            }
        }
    }
    /// Back to the first target.
    pub fn return_to_first(&mut self, now: Instant) {
        self.target = 0;
        self.reconnect(now);
    }
    /// The network changed: drop the connection and connect again now.
    pub fn reconnect(&mut self, now: Instant) {
        self.last_now = self.last_now.max(now);
        self.fail_all();
        if matches!(self.state, State::Connecting { .. } | State::Open(_)) {
            self.events.push_back(ControlEvent::WantClose);
        }
        self.backoff = FIRST_BACKOFF;
        self.connect(now);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ControlEvent> {
        self.events.pop_front()
    }
    /// The next bytes for the connection.
    pub fn poll_bytes(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }
    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub fn poll_timeout(&self) -> Option<(Instant, ControlTimer)> {
        if !self.events.is_empty() || !self.out.is_empty() {
            return Some((self.last_now, ControlTimer::Output));
        }
        let state = match &self.state {
            State::Wait { until } => Some((*until, ControlTimer::Backoff)),
            State::Connecting { deadline } => Some((*deadline, ControlTimer::Connect)),
            State::Open(open) if !open.ready => open.channel.deadline().map(|d| (d, ControlTimer::Connect)),
            State::Open(open) => {
                let join = open.join.map(|(_, deadline)| (deadline, ControlTimer::Request));
                earliest(Some((open.next_ping, ControlTimer::Ping)), join)
            }
            State::Stopped => None,
        };
        let requests = self.pending.values().min().map(|&deadline| (deadline, ControlTimer::Request));
        earliest(state, requests)
    }

    fn connect(&mut self, now: Instant) {
        self.out.clear();
        self.joined = false;
        let Some(target) = self.target() else {
            self.state = State::Stopped;
            return;
        };
        self.state = State::Connecting { deadline: now + CONNECT_DEADLINE };
        self.events.push_back(ControlEvent::WantConnect(target.address));
    }

    fn down(&mut self, cause: DownCause, close: bool, now: Instant) {
        self.fail_all();
        self.out.clear();
        self.joined = false;
        if close {
            self.events.push_back(ControlEvent::WantClose);
        }
        self.target = (self.target + 1) % self.config.targets.len().max(1);
        let jitter = Duration::from_millis(self.rng.below(self.backoff.as_millis() as u64 / 2 + 1));
        let wait = self.backoff.saturating_sub(jitter);
        // All of them are tried before the pause grows.
        if self.target == 0 {
            self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        }
        self.state = State::Wait { until: now + wait };
        self.events.push_back(ControlEvent::Reconnect(wait, cause));
    }

    fn fail_all(&mut self) {
        for id in core::mem::take(&mut self.pending).into_keys() {
            self.events.push_back(ControlEvent::Failed(RequestId(id)));
        }
        self.leaving = None;
    }

    fn expire_requests(&mut self, now: Instant) {
        let late: Vec<u32> = self.pending.iter().filter(|&(_, d)| now >= *d).map(|(&id, _)| id).collect();
        for id in late {
            self.pending.remove(&id);
            self.events.push_back(ControlEvent::Failed(RequestId(id)));
        }
        let join_late = matches!(&self.state, State::Open(open) if open.join.is_some_and(|(_, d)| now >= d));
        if join_late {
            self.send_join(now);
        }
    }

    fn next_request(&mut self) -> u32 {
        let id = self.next_request;
        self.next_request = id.checked_add(1).unwrap_or(1);
        id
    }

    fn request(&mut self, message: &Message, now: Instant) -> Option<RequestId> {
        self.last_now = self.last_now.max(now);
        if !self.is_ready() || self.pending.len() >= MAX_PENDING {
            return None;
        }
        let id = self.next_request();
        if !self.send(message, id) {
            return None;
        }
        self.pending.insert(id, now + REQUEST_DEADLINE);
        self.flush();
        Some(RequestId(id))
    }

    fn send_join(&mut self, now: Instant) {
        let Some(bundle) = self.bundle.clone() else { return };
        if let Some(epoch) = self.epoch {
            self.send(&Message::Start(epoch), 0);
        }
        let id = self.next_request();
        if self.send(&Message::Join(bundle), id)
            && let State::Open(open) = &mut self.state
        {
            open.join = Some((id, now + REQUEST_DEADLINE));
        }
        self.flush();
    }

    fn send(&mut self, message: &Message, request: u32) -> bool {
        let State::Open(open) = &mut self.state else { return false };
        let Ok(bytes) = message.encode(request) else { return false };
        open.channel.send(&bytes).is_ok()
    }

    fn flush(&mut self) {
        if let State::Open(open) = &mut self.state {
            while let Some(bytes) = open.channel.poll_bytes() {
                self.out.push_back(bytes);
            }
        }
    }

    fn on_message(&mut self, bytes: &[u8], now: Instant) {
        let State::Open(open) = &mut self.state else { return };
        open.missed = 0;
        let (request, message) = match Message::parse(bytes) {
            Ok(parsed) => parsed,
            // A newer relay may push what this version does not know.
            Err(MessageError::UnknownType { .. }) => return,
            Err(error) => return self.down(DownCause::Message(error), true, now),
        };
        match message {
            Message::Ping(t) => {
                self.send(&Message::Pong(t), request);
            }
            Message::Pong(_) => {}
            Message::Peer(member) if request == 0 => self.events.push_back(ControlEvent::Pushed(member)),
            Message::Roll(roll) => self.events.push_back(ControlEvent::Roll(roll)),
            Message::Denied(code, text) if request == 0 && code == DeniedCode::Duplicate as u16 => {
                self.events.push_back(ControlEvent::Denied(None, code, text));
            }
            Message::Document(bytes) => self.events.push_back(ControlEvent::Document(bytes)),
            // The manifest is pushed under its own name, which those that know no other pushes of it pass over.
            Message::Manifest(bytes) if request == 0 => self.events.push_back(ControlEvent::Document(bytes)),
            _ if open.join.is_some_and(|(id, _)| id == request) => {
                open.join = None;
                self.on_join_answer(message);
            }
            _ => self.on_answer(request, message),
        }
    }

    fn on_join_answer(&mut self, message: Message) {
        let event = match message {
            Message::Welcome(welcome) => {
                self.joined = true;
                ControlEvent::Joined(welcome)
            }
            Message::Conflict(what) => ControlEvent::Conflict(what),
            Message::Denied(code, text) => ControlEvent::Denied(None, code, text),
            _ => return,
        };
        self.events.push_back(event);
    }

    fn on_answer(&mut self, request: u32, message: Message) {
        if self.pending.remove(&request).is_none() {
            return;
        }
        let id = RequestId(request);
        let event = match message {
            Message::Ack(version) => ControlEvent::Acknowledged(id, version),
            Message::Peer(member) => ControlEvent::Peer(id, member),
            Message::NoPeer => ControlEvent::NoPeer(id),
            Message::Manifest(bytes) => ControlEvent::Manifest(id, bytes),
            Message::Members { more, members } => ControlEvent::Members(id, more, members),
            Message::Denied(code, text) => ControlEvent::Denied(Some(id), code, text),
            _ => ControlEvent::Failed(id),
        };
        let left = self.leaving == Some(request) && matches!(event, ControlEvent::Acknowledged(..));
        self.events.push_back(event);
        if left {
            self.fail_all();
            self.bundle = None;
            self.joined = false;
            self.state = State::Stopped;
            self.events.push_back(ControlEvent::WantClose);
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
