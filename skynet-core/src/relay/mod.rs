//! The node's side of relaying: one machine per relay and lane that keeps a session there open.

pub mod client;

pub use client::{RelayClient, RelayClientConfig, RelayClock, RelayEvent, RelayTimer};
