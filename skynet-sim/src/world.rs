//! The event heap, virtual time and the hosts.
//!
//! A step is one event: a datagram, a timer, a stream arrival or a start. Events at the same instant happen in the
//! order they were scheduled. Host deadlines are re-armed lazily: an entry whose host meanwhile wants another
//! instant is skipped when it comes up, so a deadline that moves costs no deletion.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use skynet_core::time::{Duration, Instant, Now};

use crate::host::{Host, HostClock, HostId, Queue, StreamCommand, StreamEvent, StreamId, UNIX_START};
use crate::invariants::{Invariant, Step};
use crate::link::LinkConfig;
use crate::network::{
    AttachmentId, Datagram, Direction, DropCause, GatewayId, Hop, Network, Place, SegmentId,
};
use crate::seed;
use crate::stream::{self, Arrival, End, Fate, Streams};
use crate::trace::{Kind, Trace};

/// Time to live of a datagram that asks for none.
const DEFAULT_TTL: u8 = 64;

/// Turns a host may take by its own timer at one instant before it counts as one that never rests.
const MAX_TIMERS_PER_INSTANT: u32 = 64;

/// Datagrams or stream commands a host may emit in one turn.
const MAX_OUTPUT_PER_TURN: usize = 100_000;

/// How a host stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The process dies, the kernel lives: its streams are reset.
    Kill,
    /// The machine is gone: nobody is told anything.
    PowerOff,
}

/// Why a run ended early. The seed and the trace's tail reproduce it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunError {
    /// The event budget of the world is used up.
    Budget,
    /// A host asks for its own turn again and again without time passing, or never stops sending.
    Livelock {
        /// Which.
        host: HostId,
        /// The name of its timer.
        timer: String,
    },
    /// An invariant does not hold.
    Invariant {
        /// Which.
        name: &'static str,
        /// What is wrong.
        what: String,
        /// World time.
        at: Instant,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget => f.write_str("the world's event budget is used up"),
            Self::Livelock { host, timer } => write!(f, "host {} never rests (timer {timer:?})", host.0),
            Self::Invariant { name, what, at } => write!(f, "{name}: {what} (at {at:?})"),
        }
    }
}

impl std::error::Error for RunError {}

#[derive(Debug)]
enum Event {
    Start(HostId),
    Timer(HostId),
    Packet(Place, Datagram),
    Stream(u64, End, Arrival),
    /// A connection that was never possible fails at the client.
    ConnectFailed(HostId, StreamId),
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    sequence: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

struct Slot {
    host: Box<dyn Host>,
    clock: HostClock,
    attachments: Vec<AttachmentId>,
    stopped: Option<Stop>,
    /// The heap entry that counts; older entries are stale.
    armed: Option<Instant>,
    last_timer: (Instant, u32),
}

/// Counters of a world.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Steps taken.
    pub events: u64,
    /// Datagrams sent by hosts.
    pub datagrams: u64,
    /// Payload bytes of them.
    pub bytes: u64,
    /// Datagrams dropped, by cause.
    pub drops: BTreeMap<DropCause, u64>,
}

/// A world in one thread: see the module.
pub struct World {
    seed: u64,
    now: Instant,
    sequence: u64,
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Vec<Slot>,
    network: Network,
    streams: Streams,
    trace: Trace,
    stats: Stats,
    event_budget: u64,
    invariants: Vec<Box<dyn Invariant>>,
    sent: Vec<Datagram>,
    hops: Vec<Hop>,
}

impl World {
    /// An empty world. Everything in it derives from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Instant::ZERO,
            sequence: 0,
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            network: Network::new(seed),
            streams: Streams::new(seed::rng(seed, "stream", 0)),
            trace: Trace::new(seed),
            stats: Stats::default(),
            event_budget: 100_000_000,
            invariants: Vec::new(),
            sent: Vec::new(),
            hops: Vec::new(),
        }
    }

    /// Adds a property to check after each step.
    pub fn add_invariant(&mut self, invariant: impl Invariant + 'static) {
        self.invariants.push(Box::new(invariant));
    }

    /// Steps this world may take over its whole life, so that no loop is endless.
    pub const fn set_event_budget(&mut self, events: u64) {
        self.event_budget = events;
    }

    /// The seed host `index` starts from.
    pub fn host_seed(&self, index: usize) -> [u8; 32] {
        seed::derive(self.seed, "host", index as u64)
    }

    /// The id the next added host will get.
    pub const fn next_host(&self) -> HostId {
        HostId(self.slots.len())
    }

    /// Adds a host with one interface; it starts at the current instant. Its clocks run from a start of their own.
    pub fn add_host(
        &mut self,
        segment: SegmentId,
        ip: IpAddr,
        up: LinkConfig,
        down: LinkConfig,
        host: Box<dyn Host>,
    ) -> HostId {
        let id = self.next_host();
        let mut rng = seed::rng(self.seed, "clock", id.0 as u64);
        let clock = HostClock {
            mono_start: Duration::from_nanos(rng.below(1_000_000_000_000)),
            unix_start: UNIX_START,
        };
        let attachment = self.network.attach_host(id, segment, ip, up, down);
        self.slots.push(Slot {
            host,
            clock,
            attachments: vec![attachment],
            stopped: None,
            armed: None,
            last_timer: (Instant::ZERO, 0),
        });
        self.schedule(self.now, Event::Start(id));
        id
    }

    /// Gives a host another interface.
    pub fn add_interface(
        &mut self,
        host: HostId,
        segment: SegmentId,
        ip: IpAddr,
        up: LinkConfig,
        down: LinkConfig,
    ) -> AttachmentId {
        let attachment = self.network.attach_host(host, segment, ip, up, down);
        self.slots[host.0].attachments.push(attachment);
        attachment
    }

    /// Sets a host's clocks; before its start only.
    pub fn set_clock(&mut self, host: HostId, clock: HostClock) {
        self.slots[host.0].clock = clock;
    }

    /// World time.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// A host's clocks now.
    pub fn host_now(&self, host: HostId) -> Now {
        self.slots[host.0].clock.now(self.now)
    }

    /// The log.
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The counters.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What lies between hosts.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// What lies between hosts, to build or change it.
    pub const fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// Number of hosts, stopped ones included.
    pub const fn host_count(&self) -> usize {
        self.slots.len()
    }

    /// Entries in the event heap.
    pub fn pending_events(&self) -> usize {
        self.heap.len()
    }

    /// Streams open at least at one end.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// A host's first interface.
    pub fn attachment(&self, host: HostId) -> AttachmentId {
        self.slots[host.0].attachments[0]
    }

    /// A host by its type.
    pub fn host<T: Host>(&self, id: HostId) -> &T {
        let any: &dyn Any = self.slots[id.0].host.as_ref();
        any.downcast_ref().expect("the caller added a host of this type")
    }

    pub(crate) fn queues(&self, host: HostId) -> Vec<Queue> {
        self.slots[host.0].host.queues()
    }

    pub(crate) fn timer_name(&self, host: HostId) -> String {
        self.slots[host.0].host.timer_name()
    }

    /// World time of a running host's next deadline.
    pub fn deadline(&self, host: HostId) -> Option<Instant> {
        let slot = &self.slots[host.0];
        slot.host.poll_timeout().filter(|_| slot.stopped.is_none()).map(|at| slot.clock.world(at))
    }

    /// Lets the test act on a host; what it causes is sent at once.
    pub fn with_host<T: Host, R>(
        &mut self,
        id: HostId,
        act: impl FnOnce(&mut T, Now) -> R,
    ) -> Result<R, RunError> {
        let now = self.host_now(id);
        let any: &mut dyn Any = self.slots[id.0].host.as_mut();
        let result = act(any.downcast_mut().expect("the caller added a host of this type"), now);
        if self.slots[id.0].stopped.is_none() {
            self.drain(id)?;
        }
        Ok(result)
    }

    /// Stops a host. What is under way to it is dropped when it arrives.
    pub fn stop_host(&mut self, id: HostId, how: Stop) {
        self.command(id, how as u64);
        self.slots[id.0].stopped = Some(how);
        for (number, end) in self.streams.of_host(id) {
            match how {
                Stop::Kill => self.close_stream(number, end),
                Stop::PowerOff => self.streams.die(number, end),
            }
        }
    }

    /// Starts a stopped host's successor in its place, at the same addresses.
    pub fn start_host(&mut self, id: HostId, host: Box<dyn Host>) {
        let slot = &mut self.slots[id.0];
        slot.host = host;
        slot.stopped = None;
        slot.armed = None;
        self.schedule(self.now, Event::Start(id));
    }

    /// A NAT loses its tables and with them the streams through it.
    pub fn reboot_nat(&mut self, gateway: GatewayId) {
        self.trace.record(self.now, Kind::Command, None, 0x10 + ((gateway.0 as u64) << 8), &[]);
        self.network.nat_mut(gateway).reboot();
        self.streams.forget(|path| path.gateways.contains(&gateway));
    }

    /// A NAT with a shared address gets another one.
    pub fn readdress_nat(&mut self, gateway: GatewayId, ip: IpAddr) {
        self.trace.record(self.now, Kind::Command, None, 0x11 + ((gateway.0 as u64) << 8), &[]);
        self.network.readdress(gateway, ip);
        self.streams.forget(|path| path.gateways.contains(&gateway));
    }

    /// Cuts an attachment's link in both directions or plugs it in again.
    pub fn set_link_up(&mut self, attachment: AttachmentId, up: bool) {
        self.trace.record(
            self.now,
            Kind::Command,
            None,
            0x12 + u64::from(up) + ((attachment.0 as u64) << 8),
            &[],
        );
        for direction in [Direction::Up, Direction::Down] {
            self.network.link_mut(attachment, direction).set_up(up);
        }
    }

    /// Runs until `duration` has passed.
    pub fn run_for(&mut self, duration: Duration) -> Result<(), RunError> {
        let deadline = self.now + duration;
        self.run_until(deadline, |_| false).map(|_| ())
    }

    /// Runs until `done` holds, checked after each step, or `deadline`; whether it came to hold.
    pub fn run_until(
        &mut self,
        deadline: Instant,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, RunError> {
        if done(self) {
            return Ok(true);
        }
        while self.heap.peek().is_some_and(|Reverse(e)| e.at <= deadline) {
            if self.step()? && done(self) {
                return Ok(true);
            }
        }
        self.now = self.now.max(deadline);
        Ok(false)
    }

    /// Takes the next event. False if it was a stale timer or there was none.
    pub fn step(&mut self) -> Result<bool, RunError> {
        let Some(Reverse(entry)) = self.heap.pop() else { return Ok(false) };
        if let Event::Timer(host) = entry.event
            && !self.timer_is_due(host, entry.at)
        {
            return Ok(false);
        }
        if self.stats.events >= self.event_budget {
            return Err(RunError::Budget);
        }
        self.stats.events += 1;
        self.now = self.now.max(entry.at);
        self.sent.clear();
        let host = self.handle(entry.event)?;
        self.check_invariants(host)?;
        Ok(true)
    }

    fn timer_is_due(&mut self, host: HostId, at: Instant) -> bool {
        let slot = &mut self.slots[host.0];
        if slot.armed != Some(at) {
            return false;
        }
        slot.armed = None;
        match self.deadline(host) {
            Some(deadline) if deadline <= at => true,
            Some(_) => {
                self.rearm(host);
                false
            }
            None => false,
        }
    }

    fn handle(&mut self, event: Event) -> Result<Option<HostId>, RunError> {
        match event {
            Event::Start(id) => {
                self.trace.record(self.now, Kind::Start, Some(id), 0, &[]);
                self.turn(id, |host, now| host.on_start(now))
            }
            Event::Timer(id) => {
                self.count_timer(id)?;
                self.trace.record(self.now, Kind::Timer, Some(id), 0, &[]);
                self.turn(id, |host, now| host.on_timer(now))
            }
            Event::Packet(place, datagram) => self.carry(place, datagram),
            Event::Stream(number, end, arrival) => self.stream_arrival(number, end, arrival),
            Event::ConnectFailed(id, stream) => {
                self.turn(id, |h, now| h.on_stream(stream, StreamEvent::Closed, now))
            }
        }
    }

    fn count_timer(&mut self, id: HostId) -> Result<(), RunError> {
        let now = self.now;
        let slot = &mut self.slots[id.0];
        let (at, count) = slot.last_timer;
        slot.last_timer = if at == now { (at, count + 1) } else { (now, 1) };
        if slot.last_timer.1 > MAX_TIMERS_PER_INSTANT {
            return Err(RunError::Livelock { host: id, timer: slot.host.timer_name() });
        }
        Ok(())
    }

    fn turn(&mut self, id: HostId, act: impl FnOnce(&mut dyn Host, Now)) -> Result<Option<HostId>, RunError> {
        let now = self.host_now(id);
        let slot = &mut self.slots[id.0];
        if slot.stopped.is_some() {
            return Ok(None);
        }
        act(slot.host.as_mut(), now);
        self.drain(id)?;
        Ok(Some(id))
    }

    fn carry(&mut self, place: Place, datagram: Datagram) -> Result<Option<HostId>, RunError> {
        let mut hops = std::mem::take(&mut self.hops);
        self.network.carry(place, datagram, self.now, &mut hops);
        let mut touched = Ok(None);
        for hop in hops.drain(..) {
            match hop {
                Hop::Later(at, place, datagram) => self.schedule(at, Event::Packet(place, datagram)),
                Hop::Drop(cause, datagram) => self.count_drop(cause, &datagram),
                // A datagram arrives at one attachment; only that branch of `carry` yields a delivery.
                Hop::Deliver(host, datagram) => touched = self.deliver(host, datagram),
            }
        }
        self.hops = hops;
        touched
    }

    fn deliver(&mut self, id: HostId, datagram: Datagram) -> Result<Option<HostId>, RunError> {
        if self.slots[id.0].stopped.is_some() {
            self.count_drop(DropCause::HostDown, &datagram);
            return Ok(None);
        }
        let ports = u64::from(datagram.from.port()) << 16 | u64::from(datagram.to.port());
        self.trace.record(self.now, Kind::Datagram, Some(id), ports, &datagram.bytes);
        self.turn(id, |host, now| host.on_datagram(datagram.to, datagram.from, datagram.bytes, now))
    }

    fn count_drop(&mut self, cause: DropCause, datagram: &Datagram) {
        *self.stats.drops.entry(cause).or_default() += 1;
        self.trace.record(self.now, Kind::Drop, None, cause.code(), &datagram.bytes);
    }

    /// Takes everything a host wants to send and arms its timer.
    fn drain(&mut self, id: HostId) -> Result<(), RunError> {
        for _ in 0..MAX_OUTPUT_PER_TURN {
            let host = &mut self.slots[id.0].host;
            if let Some(t) = host.poll_transmit() {
                self.transmit(
                    id,
                    Datagram { from: t.from, to: t.to, ttl: t.ttl.unwrap_or(DEFAULT_TTL), bytes: t.bytes },
                );
            } else if let Some((stream, command)) = host.poll_stream() {
                self.stream_command(id, stream, command);
            } else {
                self.rearm(id);
                return Ok(());
            }
        }
        Err(RunError::Livelock { host: id, timer: "output".to_owned() })
    }

    fn transmit(&mut self, id: HostId, datagram: Datagram) {
        self.stats.datagrams += 1;
        self.stats.bytes += datagram.bytes.len() as u64;
        self.trace.record(self.now, Kind::Transmit, Some(id), u64::from(datagram.to.port()), &datagram.bytes);
        let ip = datagram.from.ip();
        let attachment =
            self.slots[id.0].attachments.iter().copied().find(|a| self.network.has_address(*a, ip));
        let Some(attachment) = attachment else {
            return self.count_drop(DropCause::NoLocalAddress, &datagram);
        };
        if !self.invariants.is_empty() {
            self.sent.push(datagram.clone());
        }
        let mut hops = Vec::new();
        self.network.carry(Place::Up(attachment), datagram, self.now, &mut hops);
        for hop in hops {
            match hop {
                Hop::Later(at, place, datagram) => self.schedule(at, Event::Packet(place, datagram)),
                Hop::Drop(cause, datagram) => self.count_drop(cause, &datagram),
                Hop::Deliver(..) => unreachable!("a host's turn is an event of its own"),
            }
        }
    }

    fn rearm(&mut self, id: HostId) {
        let Some(deadline) = self.deadline(id) else { return };
        if deadline == Instant::FAR_FUTURE {
            return;
        }
        let at = deadline.max(self.now);
        let slot = &mut self.slots[id.0];
        if slot.armed.is_none_or(|armed| at < armed) {
            slot.armed = Some(at);
            self.schedule(at, Event::Timer(id));
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        let entry = Entry { at, sequence: self.sequence, event };
        self.sequence += 1;
        self.heap.push(Reverse(entry));
    }

    fn command(&mut self, host: HostId, detail: u64) {
        self.trace.record(self.now, Kind::Command, Some(host), detail, &[]);
    }

    fn check_invariants(&mut self, host: Option<HostId>) -> Result<(), RunError> {
        if self.invariants.is_empty() {
            return Ok(());
        }
        let mut invariants = std::mem::take(&mut self.invariants);
        let mut result = Ok(());
        for invariant in &mut invariants {
            if let Err(what) = invariant.check(self, Step { host, sent: &self.sent }) {
                result = Err(RunError::Invariant { name: invariant.name(), what, at: self.now });
                break;
            }
        }
        self.invariants = invariants;
        result
    }
}

/// Streams.
impl World {
    fn stream_command(&mut self, host: HostId, id: StreamId, command: StreamCommand) {
        match command {
            StreamCommand::Connect(local, to) => self.connect(host, id, local, to),
            StreamCommand::Send(bytes) => {
                if let Some((number, end)) = self.streams.find(host, id) {
                    self.send_stream(number, end, bytes);
                }
            }
            StreamCommand::Close => {
                if let Some((number, end)) = self.streams.find(host, id) {
                    self.close_stream(number, end);
                }
            }
        }
    }

    fn connect(&mut self, host: HostId, id: StreamId, local: SocketAddr, to: SocketAddr) {
        debug_assert!(id.0 < StreamId::ACCEPTED, "numbers from there on are the world's");
        let slot = &self.slots[host.0];
        let from = slot.attachments.iter().copied().find(|a| self.network.has_address(*a, local.ip()));
        let path = from.and_then(|from| self.network.stream_path(from, to));
        let Some(path) = path.filter(|_| self.streams.find(host, id).is_none()) else {
            return self.schedule(self.now + stream::CONNECT_TIMEOUT, Event::ConnectFailed(host, id));
        };
        let wait = match self.slots[path.server.0].stopped {
            None => {
                let number = self.streams.open(host, id, path);
                return self.dispatch(number, End::Client, 0, Arrival::Request);
            }
            // The kernel is alive and refuses.
            Some(Stop::Kill) => stream::round_trip(&path, &self.network),
            Some(Stop::PowerOff) => stream::CONNECT_TIMEOUT,
        };
        self.schedule(self.now + wait, Event::ConnectFailed(host, id));
    }

    fn send_stream(&mut self, number: u64, end: End, bytes: Vec<u8>) {
        let (first, second) = self.streams.split(bytes);
        for part in std::iter::once(first).chain(second) {
            self.dispatch(number, end, part.len(), Arrival::Event(StreamEvent::Bytes(part)));
        }
    }

    fn close_stream(&mut self, number: u64, end: End) {
        self.dispatch(number, end, 0, Arrival::Event(StreamEvent::Closed));
        self.streams.close(number, end);
    }

    /// Sends something from `end` to the other end, or lets the connection break.
    fn dispatch(&mut self, number: u64, end: End, bytes: usize, arrival: Arrival) {
        let closed = || Arrival::Event(StreamEvent::Closed);
        match self.streams.fate(number, end, bytes, &self.network, self.now) {
            Fate::Arrives(at) => self.schedule(at, Event::Stream(number, end.other(), arrival)),
            Fate::Reset(at) => self.schedule(at, Event::Stream(number, end, closed())),
            Fate::TimesOut(at) => {
                self.schedule(at, Event::Stream(number, End::Client, closed()));
                self.schedule(at, Event::Stream(number, End::Server, closed()));
            }
            Fate::Vanishes => {}
        }
    }

    fn stream_arrival(
        &mut self,
        number: u64,
        end: End,
        arrival: Arrival,
    ) -> Result<Option<HostId>, RunError> {
        let Some(pipe) = self.streams.get(number).filter(|p| p.open[end as usize]) else { return Ok(None) };
        let host = pipe.hosts[end as usize];
        match arrival {
            Arrival::Request => self.stream_request(number, host),
            Arrival::Event(event) => {
                let Some(id) = pipe.ids[end as usize] else { return Ok(None) };
                match &event {
                    StreamEvent::Bytes(bytes) => {
                        self.trace.record(self.now, Kind::Stream, Some(host), 1, bytes);
                        self.streams.arrived(number, end, bytes.len());
                    }
                    StreamEvent::Closed => {
                        self.trace.record(self.now, Kind::Stream, Some(host), 2, &[]);
                        self.streams.close(number, end);
                    }
                    StreamEvent::Accepted { .. } | StreamEvent::Connected => {
                        self.trace.record(self.now, Kind::Stream, Some(host), 3, &[]);
                    }
                }
                self.turn(host, |h, now| h.on_stream(id, event, now))
            }
        }
    }

    fn stream_request(&mut self, number: u64, server: HostId) -> Result<Option<HostId>, RunError> {
        let Some(pipe) = self.streams.get(number) else { return Ok(None) };
        let (local, from) = (pipe.path.local, SocketAddr::new(pipe.path.observed, pipe.from_port));
        if !self.slots[server.0].host.listens_on(local) {
            self.close_stream(number, End::Server);
            return Ok(None);
        }
        let Some(id) = self.streams.accept(number) else { return Ok(None) };
        self.dispatch(number, End::Server, 0, Arrival::Event(StreamEvent::Connected));
        self.trace.record(self.now, Kind::Stream, Some(server), 4, &[]);
        self.turn(server, |h, now| h.on_stream(id, StreamEvent::Accepted { local, from }, now))
    }
}
