//! The relay as a pure machine: no socket, no clock, no store.
//!
//! Two halves that share nothing but keys, so that the shell can run them on different threads: [`Forwarder`] moves
//! datagrams, [`ControlServer`] talks to members over streams and hands what must be stored or looked up to the shell.

pub mod cluster;
mod connection;
pub mod control;
mod cookie;
pub mod drops;
pub mod forward;
mod hash;
mod limit;
pub mod measure;
mod police;
pub mod rates;
mod revoked;
pub mod seats;
mod session;
mod share;
mod stun;
mod update;

pub use cluster::ClusterKeys;
pub use control::{
    ConnId, ControlServer, ControlServerConfig, InForce, Joined, Listed, StoreOp, StoreReply, StoreRequest,
    StreamOutput,
};
pub use drops::{DropReason, Drops};
pub use measure::Measure;
pub use rates::{Rate, RateClass};
pub use revoked::Revoked;
pub use seats::{Seat, Seats};
pub use session::SessionView;
pub use stun::Measured;
pub use update::Update;

pub use forward::{Action, ForwardConfig, ForwardCounters, Forwarder};

use core::net::{IpAddr, Ipv4Addr};

use skynet_core::time::Now;

/// The address of this host that a datagram came to, and that what belongs to it leaves from: a NAT on the way, or a
/// client that compares, admits no other. Canonical, never an IPv4-mapped one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Local(pub IpAddr);

impl Local {
    /// Not known: the kernel chooses.
    pub const ANY: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

/// Both halves, for a caller that runs them in one thread (a simulation).
pub struct Server {
    /// The UDP side.
    pub forwarder: Forwarder,
    /// The control side.
    pub control: ControlServer,
}

/// The wall clock in milliseconds.
fn unix_ms(now: Now) -> u64 {
    now.unix.0.saturating_mul(1000).saturating_add(u64::from(now.unix_nanos / 1_000_000))
}
