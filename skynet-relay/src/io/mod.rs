//! The relay's shell: sockets, threads and the runtime around the machines of [`crate::server`].

pub mod control;
pub mod daemon;
pub mod directory;
pub mod forward;
mod pktinfo;
pub mod port;
pub mod udp;
