//! Cluster keys: all a relay must know to accept a ticket. Shared by the relays of a network, kept over restarts.

use crate::key::Secret;

/// Keys held at once: the one that mints and those of the tickets still around.
pub const MAX_KEYS: usize = 4;

/// The cluster keys by their number (`kid` of a ticket).
#[derive(Clone, Debug)]
pub struct ClusterKeys(Vec<(u8, Secret)>);

impl ClusterKeys {
    /// `current` mints; `older` only verify, at most [`MAX_KEYS`] in all.
    pub fn new(current: (u8, Secret), older: impl IntoIterator<Item = (u8, Secret)>) -> Self {
        let mut keys = vec![current];
        keys.extend(older.into_iter().take(MAX_KEYS - 1));
        Self(keys)
    }
    /// The key new tickets are minted with, and its number.
    pub fn current(&self) -> (u8, &Secret) {
        let (kid, key) = self.0.first().expect("there is always a current key");
        (*kid, key)
    }
    /// The key of `kid`.
    pub fn get(&self, kid: u8) -> Option<&Secret> {
        self.0.iter().find(|(k, _)| *k == kid).map(|(_, key)| key)
    }
}
