//! From the tag on a probe to the peer whose key opens it.

use std::collections::BTreeMap;

use super::keys::{PairKeys, day_of, tags_around};
use crate::key::Secret;
use crate::time::UnixTime;
use crate::wire::probe::Tag;

/// Most peers whose probes are recognised: the members an agent caches (design §7).
pub const MAX_PEERS: usize = 4096;

/// No room for another peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the tags of {MAX_PEERS} peers are known already")]
pub struct TagsFull;

/// Tag → slot of the peer, for yesterday, today and tomorrow of every cached peer: at most 3 × [`MAX_PEERS`] tags.
/// A probe with another tag is dropped without reply, so a scanner learns nothing.
#[derive(Debug, Default)]
pub struct ProbeTags {
    day: u64,
    slots: BTreeMap<Tag, u32>,
    secrets: BTreeMap<u32, Secret>,
}

impl ProbeTags {
    /// An empty table for the day of `now`.
    pub fn new(now: UnixTime) -> Self {
        Self { day: day_of(now), ..Self::default() }
    }

    /// Makes the probes of a peer known under `slot`, replacing what `slot` meant before.
    pub fn add(&mut self, slot: u32, keys: &PairKeys) -> Result<(), TagsFull> {
        self.remove(slot);
        if self.secrets.len() >= MAX_PEERS {
            return Err(TagsFull);
        }
        let secret = keys.receive_secret().clone();
        for tag in tags_around(&secret, self.day) {
            self.slots.insert(tag, slot);
        }
        self.secrets.insert(slot, secret);
        Ok(())
    }

    /// Forgets a peer.
    pub fn remove(&mut self, slot: u32) {
        if let Some(secret) = self.secrets.remove(&slot) {
            for tag in tags_around(&secret, self.day) {
                self.slots.remove(&tag);
            }
        }
    }

    /// The peer's slot, if the tag is known.
    pub fn lookup(&self, tag: &Tag) -> Option<u32> {
        self.slots.get(tag).copied()
    }

    /// Moves to the day of `now`. Costs a comparison unless the day changed; then three MACs per peer.
    pub fn roll_over(&mut self, now: UnixTime) {
        let day = day_of(now);
        if day == self.day {
            return;
        }
        self.day = day;
        self.slots.clear();
        for (slot, secret) in &self.secrets {
            for tag in tags_around(secret, day) {
                self.slots.insert(tag, *slot);
            }
        }
    }

    /// The second at which [`Self::roll_over`] next has work. A day's slack on both sides makes lateness harmless.
    pub fn next_roll_over(&self) -> UnixTime {
        UnixTime((self.day + 1) * 86_400)
    }

    /// Peers known.
    pub fn len(&self) -> usize {
        self.secrets.len()
    }

    /// No peer is known.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::StaticSecret;

    fn keys(mine: u8, peer: u8) -> PairKeys {
        PairKeys::new(
            &[3; 32],
            &StaticSecret::from_bytes([mine; 32]),
            &StaticSecret::from_bytes([peer; 32]).public(),
        )
        .unwrap()
    }

    #[test]
    fn a_peer_is_found_by_its_tag_of_three_days() {
        let now = UnixTime(1_700_000_000);
        let mut tags = ProbeTags::new(now);
        tags.add(7, &keys(1, 2)).unwrap();
        let peer = keys(2, 1);
        for at in [now.0 - 86_400, now.0, now.0 + 86_400] {
            assert_eq!(tags.lookup(&peer.send_tag(UnixTime(at))), Some(7));
        }
        assert_eq!(tags.lookup(&peer.send_tag(UnixTime(now.0 + 2 * 86_400))), None);
        assert_eq!(tags.lookup(&keys(1, 2).send_tag(now)), None, "my own direction is not the peer's");
    }

    #[test]
    fn midnight_moves_the_three_days() {
        let now = UnixTime(1_700_000_000);
        let mut tags = ProbeTags::new(now);
        tags.add(7, &keys(1, 2)).unwrap();
        let tomorrow = tags.next_roll_over();
        tags.roll_over(tomorrow);
        let peer = keys(2, 1);
        assert_eq!(tags.lookup(&peer.send_tag(now.plus_secs(2 * 86_400))), Some(7));
        assert_eq!(tags.lookup(&peer.send_tag(UnixTime(now.0 - 86_400))), None);
        tags.remove(7);
        assert!(tags.is_empty() && tags.slots.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tags = ProbeTags::new(UnixTime(0));
        let k = keys(1, 2);
        for slot in 0..MAX_PEERS as u32 {
            tags.secrets.insert(slot, k.receive_secret().clone());
        }
        assert_eq!(tags.add(99_999, &k), Err(TagsFull));
        assert_eq!(tags.add(5, &k), Ok(()), "a slot may be replaced when full");
    }
}
