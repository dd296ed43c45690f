//! A host that sends what it is told when it is told, and remembers what it hears.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use skynet_core::time::{Duration, Instant, Now};

use crate::host::{Host, StreamCommand, StreamEvent, StreamId, Transmit};

/// Entries remembered; more are not kept.
const MAX_REMEMBERED: usize = 100_000;

/// A datagram heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Time since the host's start.
    pub after: Duration,
    /// Local port.
    pub port: u16,
    /// Source.
    pub from: SocketAddr,
    /// Payload.
    pub bytes: Vec<u8>,
}

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Time since the host's start.
    pub after: Duration,
    /// Local port.
    pub port: u16,
    /// Destination.
    pub to: SocketAddr,
    /// Time to live.
    pub ttl: Option<u8>,
    /// Payload.
    pub bytes: Vec<u8>,
}

/// A host without a will of its own: see the module.
#[derive(Debug)]
pub struct Script {
    ip: IpAddr,
    start: Option<Instant>,
    plan: BTreeMap<(Duration, usize), Sent>,
    planned: usize,
    due: VecDeque<Transmit>,
    received: Vec<Received>,
    commands: VecDeque<(StreamId, StreamCommand)>,
    events: Vec<(Duration, StreamId, StreamEvent)>,
    listens: bool,
}

impl Script {
    /// A host at this address with nothing to do.
    pub const fn new(ip: IpAddr) -> Self {
        Self {
            ip,
            start: None,
            plan: BTreeMap::new(),
            planned: 0,
            due: VecDeque::new(),
            received: Vec::new(),
            commands: VecDeque::new(),
            events: Vec::new(),
            listens: false,
        }
    }

    /// The same, accepting streams.
    pub fn listening(self) -> Self {
        Self { listens: true, ..self }
    }

    /// Plans a datagram.
    pub fn plan(&mut self, sent: Sent) {
        self.plan.insert((sent.after, self.planned), sent);
        self.planned += 1;
    }

    /// Plans a plain datagram `after` the host's start.
    pub fn say(&mut self, after: Duration, port: u16, to: SocketAddr, bytes: &[u8]) {
        self.plan(Sent { after, port, to, ttl: None, bytes: bytes.to_vec() });
    }

    /// Gives a stream command.
    pub fn stream(&mut self, id: StreamId, command: StreamCommand) {
        self.commands.push_back((id, command));
    }

    /// Everything heard so far.
    pub fn received(&self) -> &[Received] {
        &self.received
    }

    /// Everything heard on a port.
    pub fn heard_on(&self, port: u16) -> impl Iterator<Item = &Received> {
        self.received.iter().filter(move |r| r.port == port)
    }

    /// Everything that happened on streams.
    pub fn events(&self) -> &[(Duration, StreamId, StreamEvent)] {
        &self.events
    }

    /// All bytes of a stream in the order they came.
    pub fn stream_bytes(&self, id: StreamId) -> Vec<u8> {
        let bytes =
            self.events.iter().filter(|(_, stream, _)| *stream == id).filter_map(|(_, _, e)| match e {
                StreamEvent::Bytes(bytes) => Some(bytes.as_slice()),
                _ => None,
            });
        bytes.flatten().copied().collect()
    }

    fn since_start(&self, now: Now) -> Duration {
        self.start.map_or(Duration::ZERO, |start| now.mono.saturating_since(start))
    }
}

impl Host for Script {
    fn on_start(&mut self, now: Now) {
        self.start = Some(now.mono);
    }

    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, bytes: Vec<u8>, now: Now) {
        if self.received.len() < MAX_REMEMBERED {
            self.received.push(Received { after: self.since_start(now), port: local.port(), from, bytes });
        }
    }

    fn on_timer(&mut self, now: Now) {
        let now = self.since_start(now);
        while let Some(entry) = self.plan.first_entry().filter(|e| e.key().0 <= now) {
            let Sent { port, to, ttl, bytes, .. } = entry.remove();
            self.due.push_back(Transmit { from: SocketAddr::new(self.ip, port), to, ttl, bytes });
        }
    }

    fn on_stream(&mut self, stream: StreamId, event: StreamEvent, now: Now) {
        if self.events.len() < MAX_REMEMBERED {
            self.events.push((self.since_start(now), stream, event));
        }
    }

    fn listens_on(&self, _local: SocketAddr) -> bool {
        self.listens
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.due.pop_front()
    }

    fn poll_stream(&mut self) -> Option<(StreamId, StreamCommand)> {
        self.commands.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let ((after, _), _) = self.plan.first_key_value()?;
        Some(self.start? + *after)
    }

    fn timer_name(&self) -> String {
        "script".to_owned()
    }
}
