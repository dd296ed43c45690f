//! A train of datagrams by one `sendmsg`, and what to do where the kernel refuses that.
//!
//! ```text
//! train ─ UDP_SEGMENT ─ taken: done
//!           └ EIO, EINVAL ─ the same datagrams one by one ─ all taken: segmentation is off from now on
//!                                                          └ not all:  they were at fault, it stays on
//!           └ else (EMSGSIZE: above the interface's MTU) ─ counted drop, it stays on
//! ```
//! EIO: a device that cannot do checksums, or an IPsec policy; EINVAL: a kernel without the option.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::sys::SendOptions;

/// Segments per `sendmsg`: the kernel's UDP_MAX_SEGMENTS before it grew to 128.
const MAX_SEGMENTS: usize = 64;
/// Largest UDP payload over IPv4.
const MAX_PAYLOAD: usize = 65_507;

/// The system call under a train. A test stands in for a kernel that refuses.
pub(super) trait SendMessage {
    /// Sends `bytes` to `to`, waiting a bounded time for room.
    fn send_message(&mut self, to: SocketAddr, bytes: &[u8], options: SendOptions) -> io::Result<()>;
}

/// How trains leave one socket, and what became of them.
#[derive(Debug)]
pub(super) struct Trains {
    /// `UDP_SEGMENT` is used. Cleared for good when it turns out not to work.
    segmentation: AtomicBool,
    dropped: AtomicU64,
    refusals: AtomicU64,
}

impl Trains {
    pub(super) fn new(segmentation: bool) -> Self {
        let (dropped, refusals) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { segmentation: AtomicBool::new(segmentation), dropped, refusals }
    }

    pub(super) fn segments(&self) -> bool {
        self.segmentation.load(Relaxed)
    }

    /// Datagrams that were not sent.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Trains that were refused, but not their datagrams.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }

    /// As [`super::UdpSocket::send_train`].
    pub(super) fn send(
        &self,
        leaf: &mut impl SendMessage,
        to: SocketAddr,
        ecn: u8,
        bytes: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        if segment == 0 || bytes.is_empty() {
            return Ok(());
        }
        let options = SendOptions { tos: ecn, ..SendOptions::default() };
        let size = u16::try_from(segment).ok().filter(|_| bytes.len() > segment);
        let Some(size) = size else { return self.send_plain(leaf, to, bytes, segment, options) };
        let step = MAX_SEGMENTS.min(MAX_PAYLOAD / segment).max(1) * segment;
        let mut result = Ok(());
        for part in bytes.chunks(step) {
            let sent = if part.len() > segment && self.segments() {
                self.send_segmented(leaf, to, part, size, options)
            } else {
                self.send_plain(leaf, to, part, segment, options)
            };
            result = result.and(sent);
        }
        result
    }

    fn send_segmented(
        &self,
        leaf: &mut impl SendMessage,
        to: SocketAddr,
        part: &[u8],
        size: u16,
        options: SendOptions,
    ) -> io::Result<()> {
        let segment = usize::from(size);
        match leaf.send_message(to, part, SendOptions { segment: Some(size), ..options }) {
            Ok(()) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                // Also the answer to a segment above the device's MTU: only a train whose datagrams go out one by
                // one proves that it is segmentation that does not work.
                let result = self.send_plain(leaf, to, part, segment, options);
                if result.is_ok() {
                    self.refusals.fetch_add(1, Relaxed);
                    if self.segmentation.swap(false, Relaxed) {
                        tracing::warn!(%e, "UDP segmentation is refused; sending datagram by datagram");
                    }
                }
                result
            }
            Err(e) => {
                self.dropped.fetch_add(part.len().div_ceil(segment) as u64, Relaxed);
                Err(e)
            }
        }
    }

    /// Each datagram by a call of its own. What is refused is counted; the others go on, unless the buffer stays full.
    pub(super) fn send_plain(
        &self,
        leaf: &mut impl SendMessage,
        to: SocketAddr,
        bytes: &[u8],
        segment: usize,
        options: SendOptions,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for (i, datagram) in bytes.chunks(segment).enumerate() {
            let sent = leaf.send_message(to, datagram, options);
            if let Err(e) = &sent {
                // A buffer that stays full is waited for once per train, not once per datagram.
                let stuck = e.kind() == io::ErrorKind::WouldBlock;
                let lost = if stuck { bytes.len().div_ceil(segment) - i } else { 1 };
                self.dropped.fetch_add(lost as u64, Relaxed);
                if stuck {
                    return result.and(sent);
                }
            }
            result = result.and(sent);
        }
        result
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
