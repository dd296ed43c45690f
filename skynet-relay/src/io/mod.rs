//! The relay's shell: sockets, threads and the runtime around the machines of [`crate::server`].

mod batch;
mod cmsg;
pub mod control;
pub mod daemon;
pub mod directory;
pub mod forward;
pub mod measure;
pub mod port;
mod sockaddr;
pub mod tls;
pub mod udp;
