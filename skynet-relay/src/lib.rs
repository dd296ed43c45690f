//! Rendezvous, STUN, packet relay and membership directory of a skynet network.

pub mod registrar;
pub mod server;
pub mod store;
