//! Relay frames and the control channel inside TLS, where UDP is dead (`docs/PROTOCOL.md` §4.1).
//!
//! ```text
//!  agent                                                                            relay
//!  worker ─UDP─▶ 127.0.0.1 ─▶ FrameStream ══ Noise in HTTP Upgrade in TLS ══▶ FrameStream ─UDP─▶ Forwarder
//!                              queue in front: 512 kB, 100 ms, control first
//! ```
//! Nothing here opens a connection. The shells own TLS and sockets; [`FrameStream`] is what they put between, [`http`]
//! the few lines of HTTP around it, [`ways`] which way is tried when.

pub mod http;
mod packing;
mod queue;
mod stream;
mod ways;

pub use packing::{Frames, PackingError};
pub use queue::{FrameQueue, QueueDrops};
pub use stream::{CarrierError, FrameStream, StreamDrops};
pub use ways::{Way, ways};
