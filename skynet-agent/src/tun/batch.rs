//! [`PacketBatch`]: one slab of packets, filled by a TUN queue and emptied by the outbound half.

use std::ops::Range;

use skynet_core::offload::{VNET_HEADER_LEN, flow_hash};

/// Packets per batch: a poll is answered by at most this much work before the sends are flushed.
pub const PACKETS_PER_BATCH: usize = 64;
/// Largest read: a virtio header and a super-packet of 64 KiB.
pub const MAX_PACKET: usize = VNET_HEADER_LEN + 65_535;
/// Where the virtio header says how to segment; 0: not at all.
const GSO_TYPE: usize = 1;
/// Room for four super-packets, or for 64 ordinary ones and one more super-packet.
const SLAB: usize = 4 * MAX_PACKET;

/// What one round of reads has brought, end to end in one allocation made at start.
///
/// ```text
/// slab  | packet 0 | packet 1 | … | packet n−1 | room for the largest read, or the batch is full
/// ```
pub struct PacketBatch {
    slab: Box<[u8]>,
    used: usize,
    packets: Vec<Range<usize>>,
}

impl PacketBatch {
    /// Allocates the slab.
    pub fn new() -> Self {
        Self {
            slab: vec![0; SLAB].into_boxed_slice(),
            used: 0,
            packets: Vec::with_capacity(PACKETS_PER_BATCH),
        }
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.used = 0;
        self.packets.clear();
    }

    /// Whether there is no packet.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Room for one read, [`MAX_PACKET`] bytes, unless the batch is full; see [`Self::commit`].
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.packets.len() == PACKETS_PER_BATCH {
            return None;
        }
        self.slab.get_mut(self.used..self.used + MAX_PACKET)
    }

    /// The slot now holds a packet of `len` bytes; empty ones are not kept.
    pub fn commit(&mut self, len: usize) {
        let end = self.used + len.min(MAX_PACKET);
        if len > 0 && end <= self.slab.len() && self.packets.len() < PACKETS_PER_BATCH {
            self.packets.push(self.used..end);
            self.used = end;
        }
    }

    /// The packets, in the order in which they came, each behind its virtio header.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|range| &self.slab[range.clone()])
    }

    /// The packets in an order in which none waits for a super-packet of another flow. Within a flow the order stays.
    pub fn small_first(&self) -> impl Iterator<Item = &[u8]> {
        let bulk = self.bulk();
        let of = move |wanted: bool| {
            self.packets().enumerate().filter(move |(i, _)| (bulk >> i & 1 != 0) == wanted).map(|(_, p)| p)
        };
        of(false).chain(of(true))
    }

    /// Bit i: packet i is a super-packet or of a super-packet's flow.
    fn bulk(&self) -> u64 {
        let supers = |p: &&[u8]| p.get(GSO_TYPE).is_some_and(|kind| *kind != 0);
        if self.packets.len() < 2 || !self.packets().any(|p| supers(&p)) {
            return 0;
        }
        let flow = |p: &[u8]| flow_hash(p.get(VNET_HEADER_LEN..).unwrap_or_default());
        let mut flows = [0; PACKETS_PER_BATCH];
        for (slot, packet) in flows.iter_mut().zip(self.packets()) {
            *slot = flow(packet);
        }
        let mut bulk = 0;
        for (i, _) in self.packets().enumerate().filter(|(_, p)| supers(p)) {
            for (j, other) in flows.iter().enumerate().take(self.packets.len()) {
                bulk |= u64::from(*other == flows[i]) << j;
            }
        }
        bulk
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
        assert!(batch.slot().is_none());
        batch.commit(5);
        assert_eq!(batch.len(), PACKETS_PER_BATCH);
        for (i, packet) in batch.packets().enumerate() {
            assert_eq!((packet.len(), packet[0]), (i + 1, i as u8));
        }
        batch.clear();
        assert!(batch.is_empty() && batch.packets().next().is_none());
    }

    #[test]
    fn there_is_room_for_a_whole_super_packet_or_none() {
        let mut batch = PacketBatch::new();
        let mut taken = 0;
        while let Some(slot) = batch.slot() {
            assert_eq!(slot.len(), MAX_PACKET);
            batch.commit(MAX_PACKET);
            taken += 1;
        }
        assert_eq!(taken, 4);
        batch.clear();
        batch.commit(100);
        assert!(batch.slot().is_some());
    }
}
