//! The node's side of relaying: one machine per relay and lane that keeps a session there open, and the choice of the
//! relay that a pair's data takes.

pub mod choice;
pub mod client;
mod floor;
mod pace;

pub use choice::{PairRelay, steady_ms};
pub use client::{RelayClient, RelayClientConfig, RelayClock, RelayEvent, RelayTimer};
