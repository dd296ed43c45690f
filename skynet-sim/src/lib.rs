//! A world in one thread: production state machines over simulated links, NATs and time.
//!
//! ```text
//!            host ── link ──┐                                   ┌── link ── host
//!            host ── link ──┤ cloud A ── NAT ── link ──┐        │
//!                                                      internet ── relay
//!            host ── link ──┤ cloud B ── NAT ── link ──┘
//! ```
//!
//! [`World`] owns one event heap ordered by `(instant, sequence)`; a step is one event. Time is virtual and moves
//! from event to event; every random choice comes from one `u64`, so the same seed gives the same [`Trace`] hash,
//! and a failing seed is a bug report. Nothing here reads a clock, opens a socket or starts a thread.
//!
//! - [`link`], [`nat`], [`network`], [`stream`]: what lies between hosts
//! - [`host`]: what a host is; [`toy`]: small hosts that prove the world itself
//! - [`topology`]: builders; [`oracle`]: which pairs must go direct; [`invariants`]: checked after each step

#![forbid(unsafe_code)]

pub mod chaos;
pub mod home;
pub mod host;
pub mod invariants;
pub mod link;
pub mod nat;
pub mod network;
pub mod oracle;
pub mod overlay;
mod seed;
pub mod stream;
pub mod topology;
pub mod toy;
pub mod trace;
pub mod world;

pub use host::{Host, HostId, StreamCommand, Transmit};
pub use overlay::{Offer, Overlay};
pub use trace::Trace;
pub use world::{RunError, World};
