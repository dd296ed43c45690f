//! Rendezvous, STUN, packet relay and membership directory of a skynet network.

pub mod server;
