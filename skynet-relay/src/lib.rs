//! Rendezvous, STUN, packet relay and membership directory of a skynet network.
//!
//! [`server`] is the relay as pure machines; [`clock`] and [`io`] are the shell around them.

pub mod clock;
pub mod io;
pub mod server;
