//! From the tag on a probe to the peer, and the port, whose key opens it.

use std::collections::BTreeMap;

use super::keys::{PairKeys, day_of, tags_around};
use crate::id::{MAX_PORTS, PeerSlot, PortNo};
use crate::key::Secret;
use crate::time::UnixTime;
use crate::wire::probe::Tag;

/// Most peers whose probes are recognised: the members an agent caches (design §7).
pub const MAX_PEERS: usize = 4096;

/// No room for another peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the tags of {MAX_PEERS} peers are known already")]
pub struct TagsFull;

/// Keys whose tags are known at most: of every peer all ports.
const MAX_KEYS: usize = MAX_PEERS * MAX_PORTS;

/// Whose a tag is.
type Owner = (PeerSlot, PortNo);

/// Tag → the peer's slot and the port, for yesterday, today and tomorrow of every cached peer: at most
/// 3 × [`MAX_PEERS`] tags, and as many again for every further port in use with all of them.
/// A probe with another tag is dropped without reply, so a scanner learns nothing.
#[derive(Debug, Default)]
pub struct ProbeTags {
    day: u64,
    owners: BTreeMap<Tag, Owner>,
    /// More than one while an end of the pair changes its static key.
    secrets: BTreeMap<Owner, Vec<Secret>>,
}

impl ProbeTags {
    /// An empty table for the day of `now`.
    pub fn new(now: UnixTime) -> Self {
        Self { day: day_of(now), ..Self::default() }
    }

    /// Makes the probes of a peer on `port` known under `slot`, replacing what these two meant before.
    pub fn add<'k>(
        &mut self,
        slot: PeerSlot,
        port: PortNo,
        keys: impl IntoIterator<Item = &'k PairKeys>,
    ) -> Result<(), TagsFull> {
        self.remove(slot, port);
        if self.secrets.len() >= MAX_KEYS {
            return Err(TagsFull);
        }
        let secrets: Vec<Secret> = keys.into_iter().map(|keys| keys.receive_secret().clone()).collect();
        for tag in secrets.iter().flat_map(|secret| tags_around(secret, self.day)) {
            self.owners.insert(tag, (slot, port));
        }
        self.secrets.insert((slot, port), secrets);
        Ok(())
    }

    /// Forgets one port of a peer.
    pub fn remove(&mut self, slot: PeerSlot, port: PortNo) {
        for secret in self.secrets.remove(&(slot, port)).unwrap_or_default() {
            for tag in tags_around(&secret, self.day) {
                self.owners.remove(&tag);
            }
        }
    }

    /// Forgets a peer.
    pub fn remove_peer(&mut self, slot: PeerSlot) {
        let last = PortNo(u8::MAX);
        let ports: Vec<PortNo> =
            self.secrets.range((slot, PortNo(0))..=(slot, last)).map(|((_, port), _)| *port).collect();
        ports.into_iter().for_each(|port| self.remove(slot, port));
    }

    /// The peer's slot and the port, if the tag is known.
    pub fn lookup(&self, tag: &Tag) -> Option<(PeerSlot, PortNo)> {
        self.owners.get(tag).copied()
    }

    /// Moves to the day of `now`. Costs a comparison unless the day changed; then three MACs per peer.
    pub fn roll_over(&mut self, now: UnixTime) {
        let day = day_of(now);
        if day == self.day {
            return;
        }
        self.day = day;
        self.owners.clear();
        for (owner, secrets) in &self.secrets {
            for tag in secrets.iter().flat_map(|secret| tags_around(secret, day)) {
                self.owners.insert(tag, *owner);
            }
        }
    }

    /// The second at which [`Self::roll_over`] next has work. A day's slack on both sides makes lateness harmless.
    pub fn next_roll_over(&self) -> UnixTime {
        UnixTime((self.day + 1) * 86_400)
    }

    /// Peers and ports whose keys are known.
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

    const P0: PortNo = PortNo(0);

    fn keys_on(mine: u8, peer: u8, port: PortNo) -> PairKeys {
        PairKeys::new(
            &[3; 32],
            &StaticSecret::from_bytes([mine; 32]),
            &StaticSecret::from_bytes([peer; 32]).public(),
            port,
        )
        .unwrap()
    }

    fn keys(mine: u8, peer: u8) -> PairKeys {
        keys_on(mine, peer, P0)
    }

    #[test]
    fn a_tag_names_the_port_too_and_a_peer_goes_with_all_of_them() {
        let now = UnixTime(1_700_000_000);
        let mut tags = ProbeTags::new(now);
        for port in [0, 3, 7].map(PortNo) {
            tags.add(PeerSlot(7), port, [&keys_on(1, 2, port)]).unwrap();
            tags.add(PeerSlot(8), port, [&keys_on(1, 3, port)]).unwrap();
        }
        let tag = |peer, port| keys_on(peer, 1, PortNo(port)).send_tag(now);
        assert_eq!(tags.lookup(&tag(2, 3)), Some((PeerSlot(7), PortNo(3))));
        assert_eq!(tags.lookup(&tag(2, 4)), None);
        tags.remove(PeerSlot(7), PortNo(3));
        assert_eq!(tags.lookup(&tag(2, 3)), None);
        tags.remove_peer(PeerSlot(7));
        assert_eq!((tags.lookup(&tag(2, 0)), tags.lookup(&tag(2, 7))), (None, None));
        assert_eq!(tags.lookup(&tag(3, 7)), Some((PeerSlot(8), PortNo(7))));
        assert_eq!((tags.len(), tags.owners.len()), (3, 9));
    }

    #[test]
    fn a_peer_is_found_by_its_tag_of_three_days() {
        let now = UnixTime(1_700_000_000);
        let mut tags = ProbeTags::new(now);
        tags.add(PeerSlot(7), P0, [&keys(1, 2)]).unwrap();
        let peer = keys(2, 1);
        for at in [now.0 - 86_400, now.0, now.0 + 86_400] {
            assert_eq!(tags.lookup(&peer.send_tag(UnixTime(at))), Some((PeerSlot(7), P0)));
        }
        assert_eq!(tags.lookup(&peer.send_tag(UnixTime(now.0 + 2 * 86_400))), None);
        assert_eq!(tags.lookup(&keys(1, 2).send_tag(now)), None, "my own direction is not the peer's");
    }

    #[test]
    fn midnight_moves_the_three_days() {
        let now = UnixTime(1_700_000_000);
        let mut tags = ProbeTags::new(now);
        tags.add(PeerSlot(7), P0, [&keys(1, 2)]).unwrap();
        let tomorrow = tags.next_roll_over();
        tags.roll_over(tomorrow);
        let peer = keys(2, 1);
        assert_eq!(tags.lookup(&peer.send_tag(now.plus_secs(2 * 86_400))), Some((PeerSlot(7), P0)));
        assert_eq!(tags.lookup(&peer.send_tag(UnixTime(now.0 - 86_400))), None);
        tags.remove(PeerSlot(7), P0);
        assert!(tags.is_empty() && tags.owners.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tags = ProbeTags::new(UnixTime(0));
        let k = keys(1, 2);
        for slot in 0..MAX_KEYS as u32 {
            tags.secrets.insert((PeerSlot(slot), P0), vec![k.receive_secret().clone()]);
        }
        assert_eq!(tags.add(PeerSlot(99_999), P0, [&k]), Err(TagsFull));
        assert_eq!(tags.add(PeerSlot(5), P0, [&k]), Ok(()), "a slot may be replaced when full");
    }
}
