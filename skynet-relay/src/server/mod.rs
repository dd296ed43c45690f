//! The relay as a pure machine: no socket, no clock, no store.
//!
//! Two halves that share nothing but keys, so that the shell can run them on different threads: [`Forwarder`] moves
//! datagrams, [`ControlServer`] talks to members over streams and hands what must be stored or looked up to the shell.

mod connection;
pub mod control;
pub mod measure;
mod methods;
pub mod reasons;
pub mod seats;
mod stun;

pub use control::{
    ConnId, ControlServer, ControlServerConfig, Enrolled, InForce, Joined, Listed, StoreOp, StoreReply,
    StoreRequest, StreamOutput,
};
pub use measure::Measure;
pub use methods::{Method, Standing};
pub use reasons::{StreamDrop, StreamDrops};
pub use seats::{Seat, Seats};
pub use skynet_core::forwarder::{
    Action, ClusterKeys, DropReason, Drops, ForwardConfig, ForwardCounters, Forwarder, Local, Rate,
    RateClass, Revoked, SessionView, Update,
};
pub use stun::Measured;

use skynet_core::forwarder::{limit, unix_ms};

/// A relay host's port: frames, and STUN beside them.
pub fn forward_config() -> ForwardConfig {
    ForwardConfig { stun: Some(stun::answer), ..ForwardConfig::default() }
}

/// Both halves, for a caller that runs them in one thread (a simulation).
pub struct Server {
    /// The UDP side.
    pub forwarder: Forwarder,
    /// The control side.
    pub control: ControlServer,
}
