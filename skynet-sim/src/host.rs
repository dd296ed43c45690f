//! What a host is: a program with sockets, driven only through this face.

mod agent;
mod application;
mod network;
mod relay;

use std::any::Any;
use std::net::SocketAddr;

use skynet_core::time::{Duration, Instant, Now, UnixTime};

pub use agent::{AgentConfig, AgentHost, Persisted, SharedBatch};
pub use application::{Application, Flow, MARKER, Received};
pub use network::MemberNetwork;
pub use relay::{CONTROL_PORT, RelayHost};

/// A host's place in its world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub usize);

/// A stream's number at one host. The connecting host chooses it, below [`StreamId::ACCEPTED`]; those it accepts
/// are numbered by the world from there on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

impl StreamId {
    /// Numbers from here on belong to accepted streams.
    pub const ACCEPTED: u64 = 1 << 63;
}

/// A datagram a host wants to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Local endpoint; its address chooses the interface.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// Time to live; 64 if `None`.
    pub ttl: Option<u8>,
    /// UDP payload.
    pub bytes: Vec<u8>,
}

/// What a host wants of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamCommand {
    /// Opens stream `StreamId` from this local address to an endpoint.
    Connect(SocketAddr, SocketAddr),
    /// Sends bytes.
    Send(Vec<u8>),
    /// Closes it; bytes sent before still arrive.
    Close,
}

/// What happened on a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamEvent {
    /// Somebody connected to `local`; `from` is as this host sees it, behind the other's NATs.
    Accepted {
        /// Listening endpoint.
        local: SocketAddr,
        /// Remote endpoint.
        from: SocketAddr,
    },
    /// The connection asked for stands.
    Connected,
    /// Bytes in order. Boundaries mean nothing: the world splits at random.
    Bytes(Vec<u8>),
    /// Refused, closed by the other side, reset or timed out. Nothing follows.
    Closed,
}

/// A program in the world. After each `on_*` the world drains [`Host::poll_transmit`] and [`Host::poll_stream`],
/// then reads [`Host::poll_timeout`]. `now` never goes back.
pub trait Host: Any {
    /// The host starts; called once before anything else.
    fn on_start(&mut self, now: Now);
    /// A datagram reached `local`.
    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, bytes: Vec<u8>, now: Now);
    /// The deadline of [`Host::poll_timeout`] is reached.
    fn on_timer(&mut self, now: Now);
    /// Something happened on a stream.
    fn on_stream(&mut self, _stream: StreamId, _event: StreamEvent, _now: Now) {}
    /// Whether a stream to this local endpoint is accepted.
    fn listens_on(&self, _local: SocketAddr) -> bool {
        false
    }
    /// The next datagram to send.
    fn poll_transmit(&mut self) -> Option<Transmit>;
    /// The next stream command.
    fn poll_stream(&mut self) -> Option<(StreamId, StreamCommand)> {
        None
    }
    /// When to call [`Host::on_timer`].
    fn poll_timeout(&self) -> Option<Instant>;
    /// Name of the next timer, for reports about hosts that never rest.
    fn timer_name(&self) -> String {
        String::new()
    }
    /// Lengths of the host's queues and their caps, for [`crate::invariants::QueuesBounded`].
    fn queues(&self) -> Vec<Queue> {
        Vec::new()
    }
}

/// One queue of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// What waits there.
    pub name: &'static str,
    /// Entries waiting.
    pub len: usize,
    /// Most entries it may ever hold.
    pub cap: usize,
}

/// A host's clocks against the world's. Different by default for every host, so that an instant of one host used
/// on another shows at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostClock {
    /// Monotonic clock at the start of the world.
    pub mono_start: Duration,
    /// Wall clock at the start of the world.
    pub unix_start: UnixTime,
}

/// Wall clock at the start of every world: 2027-01-15 08:00:00 UTC.
pub const UNIX_START: UnixTime = UnixTime(1_800_000_000);

impl HostClock {
    /// Both clocks at world time `at`.
    pub fn now(&self, at: Instant) -> Now {
        let since = at.saturating_since(Instant::ZERO);
        Now {
            mono: at + self.mono_start,
            unix: self.unix_start.plus_secs(since.as_secs()),
            unix_nanos: since.subsec_nanos(),
        }
    }

    /// The world time of an instant of this host's monotonic clock.
    pub fn world(&self, mono: Instant) -> Instant {
        Instant::ZERO + mono.saturating_since(Instant::ZERO + self.mono_start)
    }
}
