//! What relays for others, as a pure machine: the [`Forwarder`] binds sessions and moves datagrams between those of one
//! network. A relay host runs one for each thread, a member with the tag `relay` runs one beside its own traffic.
//!
//! It knows neither who is a member nor where documents are kept: who holds a ticket under its [`ClusterKeys`] is let in.

pub mod aboard;
pub mod cluster;
mod cookie;
pub mod drops;
mod hash;
pub mod limit;
pub mod machine;
mod police;
pub mod rates;
mod revoked;
mod session;
mod share;
mod update;

pub use aboard::{MemberRelay, Onward, RelayLimits, RelayTime, Served};
pub use cluster::ClusterKeys;
pub use drops::{DropReason, Drops};
pub use machine::{Action, ForwardConfig, ForwardCounters, Forwarder, StunAnswer};
pub use rates::{Rate, RateClass};
pub use revoked::Revoked;
pub use session::SessionView;
pub use update::Update;

use core::net::{IpAddr, Ipv4Addr};

use crate::time::Now;

/// The address of this host that a datagram came to, and that what belongs to it leaves from: a NAT on the way, or a
/// client that compares, admits no other. Canonical, never an IPv4-mapped one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Local(pub IpAddr);

impl Local {
    /// Not known: the kernel chooses.
    pub const ANY: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

/// The wall clock in milliseconds.
pub fn unix_ms(now: Now) -> u64 {
    now.unix.0.saturating_mul(1000).saturating_add(u64::from(now.unix_nanos / 1_000_000))
}
