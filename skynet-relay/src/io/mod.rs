//! The relay's shell: sockets, threads and the runtime around the machines of [`crate::server`].

mod batch;
mod cmsg;
pub mod control;
pub mod daemon;
pub mod describe;
pub mod descriptors;
pub mod desk;
pub mod directory;
pub mod follow;
pub mod forward;
pub mod group;
pub mod measure;
mod metrics;
pub mod port;
mod sockaddr;
pub mod status;
mod steer;
pub mod tls;
pub mod udp;
