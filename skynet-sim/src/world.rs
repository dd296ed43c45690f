//! The event heap, virtual time and the hosts.
//!
//! A step is one event: a datagram, a timer, a stream arrival or a start. Events at the same instant happen in the
//! order they were scheduled. Host deadlines are re-armed lazily: an entry whose host meanwhile wants another
//! instant is skipped when it comes up, so a deadline that moves costs no deletion.

mod step;
mod streams;

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::IpAddr;

use skynet_core::time::{Duration, Instant, Now};

use self::step::{Entry, Event};
use crate::host::{Host, HostClock, HostId, Queue, UNIX_START};
use crate::invariants::Invariant;
use crate::link::LinkConfig;
use crate::network::{AttachmentId, Datagram, Direction, DropCause, GatewayId, Hop, Network, SegmentId};
use crate::seed;
use crate::stream::Streams;
use crate::trace::{Kind, Trace};

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

    /// The world time of an instant of a host's monotonic clock.
    pub fn world_time(&self, host: HostId, mono: Instant) -> Instant {
        self.slots[host.0].clock.world(mono)
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

    /// A host's interface is replaced by one with another address; its streams are dead, and nobody is told.
    pub fn readdress_host(&mut self, id: HostId, ip: IpAddr) {
        self.command(id, 0x14);
        self.network.readdress_host(self.attachment(id), ip);
        for (number, end) in self.streams.of_host(id) {
            self.streams.die(number, end);
        }
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
}
