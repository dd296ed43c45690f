//! The log of everything that happened, as a running hash and a short tail to read.
//!
//! Two runs with the same seed must have the same hash; if they do not, somebody iterates a `HashMap`, reads a
//! clock or asks the operating system for randomness. The hash covers payload bytes, so a key made from foreign
//! randomness is noticed as well as a different order.

use std::collections::VecDeque;

use skynet_core::time::Instant;

use crate::host::HostId;

/// Records kept for reading after a failure; older ones live on in the hash only.
pub const TAIL_RECORDS: usize = 256;

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A host started or was replaced.
    Start = 1,
    /// A datagram reached a host.
    Datagram = 2,
    /// A host's deadline passed.
    Timer = 3,
    /// A host sent a datagram.
    Transmit = 4,
    /// Something happened on a stream.
    Stream = 5,
    /// The network dropped a datagram.
    Drop = 6,
    /// The test changed the world: a host stopped, a NAT rebooted, a link was cut.
    Command = 7,
}

/// One line of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// World time.
    pub at: Instant,
    /// What happened.
    pub kind: Kind,
    /// To whom, if to a host.
    pub host: Option<HostId>,
    /// Payload bytes, or a detail of the kind (a drop's cause).
    pub detail: u64,
}

/// The log: see the module.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    records: u64,
    tail: VecDeque<Record>,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Self {
        let mut trace =
            Self { hash: 0xcbf2_9ce4_8422_2325, records: 0, tail: VecDeque::with_capacity(TAIL_RECORDS) };
        trace.mix(seed);
        trace
    }

    /// The running hash of all records so far.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of records so far.
    pub const fn len(&self) -> u64 {
        self.records
    }

    /// Whether nothing has happened yet.
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The last [`TAIL_RECORDS`] records, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &Record> {
        self.tail.iter()
    }

    pub(crate) fn record(
        &mut self,
        at: Instant,
        kind: Kind,
        host: Option<HostId>,
        detail: u64,
        bytes: &[u8],
    ) {
        self.records += 1;
        self.mix(at.as_nanos());
        self.mix(kind as u64 | host.map_or(0, |h| (h.0 as u64 + 1) << 8));
        self.mix(detail);
        self.mix_bytes(bytes);
        if self.tail.len() == TAIL_RECORDS {
            self.tail.pop_front();
        }
        self.tail.push_back(Record { at, kind, host, detail });
    }

    /// Not a cryptographic hash: nobody forges a trace, it only has to tell two runs apart cheaply.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ bytes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(bytes: &[u8]) -> u64 {
        let mut t = Trace::new(7);
        t.record(Instant::from_nanos(5), Kind::Datagram, Some(HostId(1)), 3, bytes);
        t.hash()
    }

    #[test]
    fn hash_tells_payloads_lengths_and_seeds_apart() {
        assert_eq!(trace(b"hello world"), trace(b"hello world"));
        assert_ne!(trace(b"hello world"), trace(b"hello worle"));
        assert_ne!(trace(&[0; 8]), trace(&[0; 16]));
        assert_ne!(Trace::new(1).hash(), Trace::new(2).hash());
    }

    #[test]
    fn tail_is_bounded() {
        let mut t = Trace::new(0);
        for i in 0..10_000 {
            t.record(Instant::from_nanos(i), Kind::Timer, None, 0, &[]);
        }
        assert_eq!(t.tail().count(), TAIL_RECORDS);
        assert_eq!(t.len(), 10_000);
    }
}
