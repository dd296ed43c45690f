//! Rendezvous, STUN, packet relay and membership directory of a skynet network.

pub mod network;
pub mod registrar;
pub mod store;
