//! The skynet agent: joins a VM to the overlay and forwards its packets.
//!
//! The shell around `skynet_core`: sockets, the TUN device, netlink, threads, files and the command line. It makes
//! no protocol decision.

pub mod api;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod dns;
pub mod entropy;
pub mod fingerprint;
pub mod icmp;
pub mod netcfg;
pub mod netcheck;
pub mod notify;
pub mod port_mapping;
pub mod privileges;
pub mod runtime;
pub mod secret;
pub mod state;
pub mod tun;
pub mod udp;
pub mod wake;
