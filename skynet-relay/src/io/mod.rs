//! The relay's shell: sockets, threads and the runtime around the machines of [`crate::server`].

pub mod control;
pub mod forward;
pub mod udp;
