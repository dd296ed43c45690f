//! The send batch: one slab that packets are sealed into, cut into trains that one `sendmsg` carries each.
//!
//! ```text
//! slab  | relay 8 | header 16 | packet, padded | tag 16 |  relay 8 | header 16 | …
//!       └──────────── segment ─────────────────────────┘
//!       └──────── train: same destination, same size; only its last segment may be shorter ───────┘
//! ```

use core::net::{IpAddr, SocketAddr};

use crate::id::PortNo;

/// Segments in one train: `UDP_SEGMENT` takes 64 (newer kernels 128; 64 holds everywhere).
pub const MAX_TRAIN_SEGMENTS: usize = 64;
/// Largest UDP payload over IPv4.
pub const MAX_TRAIN_BYTES: usize = 65_507;
/// Bytes of slab: about two full trains, so that a drained TUN queue leaves in two system calls.
pub const SLAB_BYTES: usize = 160 * 1024;

/// The outside of a message: segments of one train share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Whose socket sends it.
    pub port: PortNo,
    /// Where to.
    pub to: SocketAddr,
    /// From which address of this host, if the system is not to choose.
    pub from: Option<IpAddr>,
    /// The ECN field of the outer IP header (RFC 6040 §4.1).
    pub ecn: u8,
    /// Whether more than one datagram may leave by one call.
    pub trains: bool,
}

/// Segments of one size with one outside, contiguous in the slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    outer: Outer,
    start: usize,
    len: usize,
    segment: usize,
    segments: usize,
    /// A shorter segment was appended: nothing may follow it.
    closed: bool,
}

/// What one `sendmsg` carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Train<'a> {
    /// How all of them leave.
    pub outer: Outer,
    /// All segments, end to end.
    pub bytes: &'a [u8],
    /// The size of every segment but perhaps the last.
    pub segment: usize,
}

/// Sealed messages on their way out. Owned by the shell, filled by the core, drained by the shell.
#[derive(Debug)]
pub struct SendBatch {
    slab: Box<[u8]>,
    used: usize,
    trains: Vec<Range>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self { slab: vec![0; SLAB_BYTES].into(), used: 0, trains: Vec::with_capacity(MAX_TRAIN_SEGMENTS) }
    }
}

impl SendBatch {
    /// Room for one message of at most `len` bytes; `None` if the slab is full and must be flushed first.
    /// Nothing is queued until [`SendBatch::commit`]; not committing takes nothing back because nothing was given.
    pub fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slab.get_mut(self.used..self.used.checked_add(len)?)
    }

    /// Bytes that can still be reserved.
    pub fn room(&self) -> usize {
        self.slab.len() - self.used
    }

    /// Queues the first `len` bytes of the last reservation.
    pub fn commit(&mut self, outer: Outer, len: usize) {
        let start = self.used;
        self.used += len;
        if let Some(last) = self.trains.last_mut() {
            let fits = last.segments < MAX_TRAIN_SEGMENTS && last.len + len <= MAX_TRAIN_BYTES;
            if outer.trains && last.outer == outer && !last.closed && len <= last.segment && fits {
                last.len += len;
                last.segments += 1;
                last.closed = len < last.segment;
                return;
            }
        }
        self.trains.push(Range { outer, start, len, segment: len, segments: 1, closed: false });
    }

    /// What to send, in order.
    pub fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        self.trains.iter().map(|t| Train {
            outer: t.outer,
            bytes: &self.slab[t.start..t.start + t.len],
            segment: t.segment,
        })
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Forgets what was sent.
    pub fn clear(&mut self) {
        self.used = 0;
        self.trains.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outer(port: u16, ecn: u8) -> Outer {
        Outer { port: PortNo(0), to: ([127, 0, 0, 1], port).into(), from: None, ecn, trains: true }
    }

    fn push(batch: &mut SendBatch, port: u16, len: usize) {
        batch.reserve(len).unwrap().fill(u8::try_from(len % 251).unwrap());
        batch.commit(outer(port, 0), len);
    }

    fn shape(batch: &SendBatch) -> Vec<(u16, usize, usize)> {
        batch.trains().map(|t| (t.outer.to.port(), t.bytes.len(), t.segment)).collect()
    }

    #[test]
    fn equal_sizes_to_one_destination_share_a_train_and_a_shorter_one_ends_it() {
        let mut batch = SendBatch::default();
        for (port, len) in [(1, 100), (1, 100), (1, 40), (1, 40), (2, 40), (1, 50)] {
            push(&mut batch, port, len);
        }
        assert_eq!(shape(&batch), [(1, 240, 100), (1, 40, 40), (2, 40, 40), (1, 50, 50)]);
    }

    #[test]
    fn another_port_or_congestion_mark_begins_another_train() {
        let mut batch = SendBatch::default();
        for outer in [outer(1, 0), outer(1, 0), outer(1, 2), Outer { port: PortNo(1), ..outer(1, 2) }] {
            batch.reserve(100).unwrap().fill(0);
            batch.commit(outer, 100);
        }
        assert_eq!(shape(&batch), [(1, 200, 100), (1, 100, 100), (1, 100, 100)]);
    }

    #[test]
    fn where_trains_do_not_arrive_each_message_leaves_alone_and_in_order() {
        let mut batch = SendBatch::default();
        let alone = Outer { trains: false, ..outer(1, 0) };
        for (outer, len) in [(outer(1, 0), 90), (alone, 100), (alone, 100), (alone, 40), (outer(1, 0), 40)] {
            batch.reserve(len).unwrap().fill(0);
            batch.commit(outer, len);
        }
        assert_eq!(shape(&batch), [(1, 90, 90), (1, 100, 100), (1, 100, 100), (1, 40, 40), (1, 40, 40)]);
    }

    #[test]
    fn a_train_never_exceeds_the_segment_and_byte_limits() {
        let mut batch = SendBatch::default();
        for _ in 0..100 {
            push(&mut batch, 1, 1400);
        }
        assert!(
            batch.trains().all(|t| t.bytes.len() <= MAX_TRAIN_BYTES
                && t.bytes.len().div_ceil(t.segment) <= MAX_TRAIN_SEGMENTS)
        );
        batch.clear();
        for _ in 0..130 {
            push(&mut batch, 1, 10);
        }
        assert_eq!(shape(&batch), [(1, 640, 10), (1, 640, 10), (1, 20, 10)]);
    }

    #[test]
    fn a_full_slab_refuses_instead_of_overwriting() {
        let mut batch = SendBatch::default();
        let mut n = 0;
        while batch.reserve(1400).is_some() {
            batch.commit(outer(1, 0), 1400);
            n += 1;
        }
        assert_eq!(n, SLAB_BYTES / 1400);
        batch.clear();
        assert!(batch.is_empty() && batch.reserve(1400).is_some());
    }
}
