//! Receiver indices: random, so that they cannot be guessed, and unique within the node.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::key::PublicKey;
use crate::rng::{Rng, RngCore};
use crate::wire::wireguard::ReceiverIndex;

/// An initiation with this sender index would begin like a STUN message (RFC 8489 §5: magic cookie at offset 4).
const LOOKS_LIKE_STUN: ReceiverIndex = ReceiverIndex(u32::from_le_bytes([0x21, 0x12, 0xa4, 0x42]));

/// Hands out receiver indices and knows whose they are; one per node. At most
/// [`MAX_KEYPAIRS`](crate::constants::MAX_KEYPAIRS) plus one per peer are taken at a time.
#[derive(Debug, Default)]
pub struct IndexAllocator {
    taken: BTreeMap<ReceiverIndex, PublicKey>,
}

impl IndexAllocator {
    /// None taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// An index nobody holds, uniform over 32 bits, for a session with `peer`.
    ///
    /// Ends after one or two draws: the set cannot come near 2³² entries.
    pub fn allocate(&mut self, peer: PublicKey, rng: &mut Rng) -> ReceiverIndex {
        loop {
            let index = ReceiverIndex(rng.next_u32());
            if index == LOOKS_LIKE_STUN {
                continue;
            }
            if let Entry::Vacant(free) = self.taken.entry(index) {
                free.insert(peer);
                return index;
            }
        }
    }

    /// The peer has another static key.
    pub fn rename(&mut self, old: &PublicKey, new: PublicKey) {
        self.taken.values_mut().filter(|key| **key == *old).for_each(|key| *key = new);
    }

    /// Gives `index` back.
    pub fn free(&mut self, index: ReceiverIndex) {
        self.taken.remove(&index);
    }

    /// The static key of the peer whose session `index` names: the cheapest check there is on a response or a
    /// cookie reply, and it comes first.
    pub fn peer_of(&self, index: ReceiverIndex) -> Option<PublicKey> {
        self.taken.get(&index).copied()
    }

    /// How many are taken.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether none is taken.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_unique_random_over_all_bits_and_can_be_freed() {
        let mut rng = Rng::from_seed([1; 32]);
        let peer = PublicKey([9; 32]);
        let mut indices = IndexAllocator::new();
        let all: Vec<_> = (0..10_000).map(|_| indices.allocate(peer, &mut rng)).collect();
        assert_eq!(indices.len(), 10_000);
        let (or, and) = all.iter().fold((0, u32::MAX), |(or, and), i| (or | i.0, and & i.0));
        assert_eq!((or, and), (u32::MAX, 0), "every bit takes both values");
        let sequential = all.windows(2).filter(|w| w[1].0.wrapping_sub(w[0].0) < 1 << 16).count();
        assert!(sequential < 5, "{sequential} of 9,999 look sequential");
        indices.free(all[7]);
        assert_eq!((indices.peer_of(all[7]), indices.peer_of(all[8])), (None, Some(peer)));
    }
}
