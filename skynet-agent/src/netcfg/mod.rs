//! The machine's network configuration, behind one narrow trait so that it can move to a privileged helper.
//!
//! What skynet adds: the addresses of its TUN device with the overlay's real prefix on-link, and an `unreachable`
//! route for each overlay prefix with a worse metric, so that overlay traffic is refused and not leaked to the
//! underlay when the device goes away. The device vanishes with the process; the route stays until a clean stop
//! or the next start, which recognise it by its protocol number and by no interface having its prefix: another network's
//! is left to it.

pub mod candidates;
pub mod gateway;
mod linux;
mod monitor;
pub mod overlap;
mod prefix;
mod underlay;

use std::io;
use std::net::IpAddr;

pub use linux::Netlink;
pub use monitor::watch_changes;
pub use prefix::{Prefix, PrefixError};

/// Metric of the `unreachable` route: worse than anything an operator or the kernel's on-link route uses.
pub const UNREACHABLE_METRIC: u32 = 4_000_000_000;
/// Route protocol (`rtm_protocol`) of our routes; free in `rt_protos`, so nobody else's are taken for ours.
pub const ROUTE_PROTOCOL: u8 = 117;

/// One network interface with its addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    /// The kernel's index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Largest IP packet it takes.
    pub mtu: u32,
    /// What the kernel made it of (`IFLA_INFO_KIND`): `bridge`, `veth`, `tun`, `wireguard` …; nothing for a network card.
    pub kind: Option<String>,
    /// The bridge, bond or VRF it is part of, by index.
    pub master: Option<u32>,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<InterfaceAddress>,
}

/// One address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its on-link prefix.
    pub prefix_len: u8,
    /// May be used as a source for new flows: neither tentative nor deprecated (RFC 4862 §5.5.4).
    pub usable: bool,
    /// An IPv6 privacy address (RFC 8981): another one tomorrow.
    pub temporary: bool,
}

/// One route of any table except the kernel's own list of local addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its destination.
    pub destination: Prefix,
    /// Index of the interface it leaves through, if it has one.
    pub interface: Option<u32>,
    /// The router it leads to; none if its destinations are on-link.
    pub gateway: Option<IpAddr>,
    /// Of several routes to one destination the least wins.
    pub metric: u32,
    /// Added by skynet, possibly by a run that was killed.
    pub ours: bool,
}

/// Interfaces and routes at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// All routes of IPv4 and IPv6.
    pub routes: Vec<Route>,
}

impl Snapshot {
    /// The interface that has `prefix` on-link.
    pub fn on_link(&self, prefix: Prefix) -> Option<&Interface> {
        let has = |a: &InterfaceAddress| Prefix::new(a.ip, a.prefix_len) == Some(prefix);
        self.interfaces.iter().find(|i| i.addresses.iter().any(has))
    }

    /// The name of interface `index`, or a word for one that is gone.
    pub fn name_of(&self, index: Option<u32>) -> &str {
        let found = self.interfaces.iter().find(|i| Some(i.index) == index);
        found.map_or("no interface", |i| &i.name)
    }
}

/// A refused change or query of the network configuration.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct NetError {
    /// What was tried.
    pub what: String,
    /// What the kernel said.
    pub source: io::Error,
}

/// What the agent needs of the machine's network configuration.
#[allow(async_fn_in_trait, reason = "one implementation per process, never a trait object")]
pub trait NetConfig {
    /// Interfaces and routes now.
    async fn snapshot(&self) -> Result<Snapshot, NetError>;
    /// Gives interface `index` the addresses, each with its prefix on-link, and sets it up. Duplicate address
    /// detection is off: an overlay address is unique by its owner's certificate.
    async fn bring_up(&self, index: u32, addresses: &[(IpAddr, u8)]) -> Result<(), NetError>;
    /// Lets the kernel hand interface `index` super-packets of at most so many bytes.
    async fn limit_super_packets(&self, index: u32, bytes: u32) -> Result<(), NetError>;
    /// Routes `prefix` to interface `index`.
    async fn add_route(&self, prefix: Prefix, index: u32) -> Result<(), NetError>;
    /// Makes `prefix` unreachable unless a better route exists; no error if it is already.
    async fn add_unreachable(&self, prefix: Prefix) -> Result<(), NetError>;
    /// Removes every `unreachable` route of ours whose prefix is on-link nowhere: its network has gone. How many there were.
    async fn remove_unreachable(&self) -> Result<usize, NetError>;
}
