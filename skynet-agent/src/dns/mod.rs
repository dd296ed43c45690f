//! The agent's own resolver: forward and reverse names of the overlay's members, for programs of this machine.
//!
//! ```text
//! program ─ UDP, TCP 53 of this node's overlay addresses ─▶ server ─ Question ─▶ control task: Zone of the roster
//!                                                              ◀──── answer ────
//! ```
//! It knows `NAME.NETWORK.internal` (A, AAAA) and the reverse names of the overlay's prefixes (PTR), and nothing else: what
//! is not its own is REFUSED, never forwarded. Nobody's `resolv.conf` is touched; a systemd-resolved that runs is told to
//! ask here for these domains. Only this machine is answered.

mod question;
pub mod resolved;
mod server;
mod zone;

pub use question::{Parsed, Question};
pub use server::{Ask, Figures, Server};
pub use zone::{Found, Zone};

/// Longest query that is read, bytes: what a path of 1,280 bytes carries in one datagram.
pub const MAX_QUERY: usize = 1_232;
/// What an answer is longer than its query, bytes, at most.
pub const MAX_GROWTH: usize = 192;
/// How long an answer holds, seconds: names change within a second of a join or a departure.
pub const TTL: u32 = 1;

/// The domain of a network: its own name, made an LDH label, below the one that is set aside for private use.
pub fn domain(network: &str) -> String {
    let label = skynet_core::member::Name::from_hostname(&network.replace('.', "-"));
    format!("{label}.internal")
}
