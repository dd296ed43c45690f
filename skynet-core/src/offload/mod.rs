//! Segmentation offload: the kernel moves up to 64 KiB per system call, the wire carries packets of path MTU.
//!
//! ```text
//! OUT   TUN read: header and super-packet ─ SuperPacket::parse ─ write_segment(0), (1) … ─ seal each
//! BACK  open each ─ Coalescer::push(0), (1) … flush ─ TunSink: header and super-packet ─ TUN write
//! ```
//!
//! Splitting what the coalescer joined gives back the packets it was pushed, byte for byte, but for the identification
//! field of IPv4 packets that must not be fragmented, which means nothing (RFC 6864 §4.1). What is unusual in any way
//! is not joined. Pure functions of bytes: no device, no clock, and no allocation after [`Coalescer::new`].

pub mod checksum;
mod coalesce;
pub mod ecn;
mod flow;
mod layers;
pub mod mss;
mod resize;
mod run;
mod split;
mod too_big;
mod vnet;

#[cfg(test)]
mod coalesce_tests;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod split_tests;

pub use coalesce::{Coalescer, MAX_RUNS, MAX_UDP_SEGMENTS, Offloads, TunSink};
pub use flow::flow_hash;
pub use run::MAX_HEADERS;
pub use split::{MAX_SEGMENTS, SuperPacket};
pub use too_big::{MAX_TOO_BIG, write_too_big};
pub use vnet::{Gso, VNET_HEADER_LEN, VnetHeader};
