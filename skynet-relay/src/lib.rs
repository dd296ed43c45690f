//! Rendezvous, STUN, packet relay and membership directory of a skynet network.
//!
//! [`server`] is the relay as pure machines, [`registrar`] decides who is a member, [`store`] keeps what must last;
//! [`clock`] and [`io`] are the shell around them.

pub mod clock;
pub mod config;
pub mod io;
pub mod network;
pub mod registrar;
pub mod server;
pub mod store;
