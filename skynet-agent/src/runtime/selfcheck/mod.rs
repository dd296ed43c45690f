//! Offloads that check themselves at start, before traffic depends on them: patterns go through the kernel to
//! ourselves, as one super-packet or train, and what arrives is compared.
//!
//! ```text
//! udp   train by UDP_SEGMENT ─ loopback ─ received without and with UDP_GRO      (two sockets of the check's own)
//! tun   super-packet ─ write ─ TUN ─ the host's side: a tap, a UDP socket        (before the device has threads)
//!       tap ─ super-packet ─ TUN ─ read and split
//! ```
//! An offload is given up only by evidence: its pattern arrived wrong, or did not arrive although the same packets one
//! by one did. A check that cannot be made (no loopback, no CAP_NET_RAW, a firewall) gives nothing up. No packet of a
//! check leaves the machine. What goes right takes some milliseconds; each wait for what does not come is bounded by
//! [`PATIENCE`].

mod pattern;
mod rig;
mod tap;
pub(super) mod tun;
pub(super) mod udp;

/// How long one packet is waited for, in milliseconds: loopback and TUN deliver within microseconds.
const PATIENCE: u16 = 20;

/// What a check has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finding {
    /// What arrived is what was sent.
    Right,
    /// Refused, lost, or not what was sent.
    Wrong,
    /// Could not be checked.
    Unknown,
}
