//! Relay frames and control channels inside TLS: the I/O that agent and relay share. What the bytes mean is the core's
//! matter ([`skynet_core::carrier`]).
//!
//! ```text
//!  dial ──▶ [proxy: CONNECT] ─▶ TLS 1.3 ─▶ GET … Upgrade ─▶ 101 ─┐                       ┌─▶ Noise: control channel
//!  answer ◀───────────────────────────── whatever else: a page ◀─┴── bytes both ways ────┴─▶ Noise: frames ─ pump ─ UDP
//! ```
//! TLS here is what lets the bytes through, not what protects them: the node takes any certificate, for who the relay is
//! is proven by Noise inside, under the key of the signed manifest.

mod answer;
mod certificate;
mod dial;
mod head;
mod proxy;
mod pump;
mod verifier;

use std::time::Duration;

pub use answer::{Accepted, ServerStream, accept};
pub use certificate::{Certificate, CertificateError};
pub use dial::{ClientStream, DialError, Dialer, Route};
pub use proxy::{NoProxy, Proxy, ProxyError};
pub use pump::{Counters, Ended, Pump};
pub use tokio_rustls::TlsAcceptor;

/// TCP, proxy, TLS and upgrade together: who needs longer has no working connection.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Largest TCP segment, bytes: fits IPv6's smallest packet. Where ICMP is eaten nobody would find out that larger ones
/// vanish, and this way is for networks of that kind.
const SEGMENT: u32 = 1_220;
/// Bytes the kernel takes before it has sent the ones before: what waits longer waits where it can still be dropped.
const UNSENT: u32 = 64 * 1024;

/// What a connection that carries frames wants of its socket. What the system does not know is done without.
fn tune(socket: &impl std::os::fd::AsFd) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
}

/// Bounds the segments of a socket before it connects, or of what a listening one will accept.
pub fn bound_segments(socket: &impl std::os::fd::AsFd) {
    let _ = socket2::SockRef::from(socket).set_tcp_mss(SEGMENT);
}
