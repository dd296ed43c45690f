//! The namespace lab and the end-to-end tests of skynet.
//!
//! [`lab::Lab`] builds, inside Linux network namespaces, an internet with clouds behind NATs of a chosen kind.
//! [`wan`] puts distance, loss and a rate on an uplink, [`sniffer`] proves that nothing crosses it in clear,
//! [`fleet`] runs the real programs in it, [`attacker`] attacks it, [`evil`] is a relay and [`mallory`] a member that lies, [`behavior`] measures what a NAT does in the words of RFC 4787, [`iperf`] and [`ping`] measure what users see.
//!
//! Everything needs root; [`tools::require_root_and_tools`] says what is missing. No packet leaves the namespaces.

pub mod attacker;
pub mod behavior;
pub mod checksum;
pub mod clock;
pub mod evil;
pub mod fleet;
pub mod instance;
pub mod iperf;
pub mod lab;
pub mod mallory;
pub mod metadata;
pub mod ping;
pub mod proxy;
pub mod raw;
pub mod sniffer;
mod sys;
pub mod syscalls;
pub mod tools;
pub mod transfer;
pub mod wait;
pub mod wan;

pub use lab::{Lab, NatKind, Netns, Process};
pub use sniffer::Sniffer;
pub use tools::require_root_and_tools;
pub use wait::{wait_for, wait_until};
