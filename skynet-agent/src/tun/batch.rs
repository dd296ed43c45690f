//! [`PacketBatch`]: one slab of packets, filled by a TUN queue and emptied by the outbound half.

/// Packets per batch: a poll is answered by at most this much work before the sends are flushed.
pub const PACKETS_PER_BATCH: usize = 64;
/// Largest packet a slot takes: above any TUN MTU in use without offloads (9,000-byte jumbo frames included).
pub const MAX_PACKET: usize = 9_216;

const _: () = assert!(PACKETS_PER_BATCH * MAX_PACKET <= 640 << 10, "a batch stays within its memory budget");

/// Up to 64 packets in one allocation made at start.
pub struct PacketBatch {
    slab: Box<[u8]>,
    lengths: [usize; PACKETS_PER_BATCH],
    count: usize,
}

impl PacketBatch {
    /// Allocates the slab.
    pub fn new() -> Self {
        Self {
            slab: vec![0; PACKETS_PER_BATCH * MAX_PACKET].into_boxed_slice(),
            lengths: [0; PACKETS_PER_BATCH],
            count: 0,
        }
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// Whether no packet fits any more.
    pub fn is_full(&self) -> bool {
        self.count == PACKETS_PER_BATCH
    }

    /// Whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The free slot for the next packet, if there is one; see [`Self::commit`].
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        (!self.is_full()).then(|| &mut self.slab[self.count * MAX_PACKET..][..MAX_PACKET])
    }

    /// The slot now holds a packet of `len` bytes; empty ones are not kept.
    pub fn commit(&mut self, len: usize) {
        if len > 0 && !self.is_full() {
            self.lengths[self.count] = len.min(MAX_PACKET);
            self.count += 1;
        }
    }

    /// The packets, in the order in which they came.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let slots = self.slab.chunks_exact(MAX_PACKET);
        slots.zip(&self.lengths[..self.count]).map(|(slot, len)| &slot[..*len])
    }
}

impl Default for PacketBatch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_order_and_stops_when_full() {
        let mut batch = PacketBatch::new();
        for i in 0..PACKETS_PER_BATCH {
            batch.slot().unwrap()[0] = i as u8;
            batch.commit(0);
            batch.commit(i + 1);
        }
        assert!(batch.is_full() && batch.slot().is_none());
        batch.commit(5);
        assert_eq!(batch.len(), PACKETS_PER_BATCH);
        for (i, packet) in batch.packets().enumerate() {
            assert_eq!((packet.len(), packet[0]), (i + 1, i as u8));
        }
        batch.clear();
        assert!(batch.is_empty() && batch.packets().next().is_none());
    }
}
