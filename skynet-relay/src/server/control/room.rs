//! Who keeps a place at the control port: connections that have not joined give way to newer ones, never the other way round.

use std::collections::{BTreeMap, BTreeSet};

use super::{ConnId, ControlServer};
use crate::server::StreamDrop;

impl ControlServer {
    /// Whether one more may come from `source` that has not joined. If there are too many, the oldest goes that has not even
    /// begun the handshake, of this source or of the one with the most: so whoever only holds connections open keeps
    /// nobody out.
    pub(super) fn make_room_for(&mut self, source: u64) -> bool {
        let of_source = self.unjoined.get(&source).map_or(0, BTreeSet::len);
        let all: usize = self.unjoined.values().map(BTreeSet::len).sum();
        let crowded = if of_source >= usize::from(self.config.max_unjoined_per_prefix) {
            Some(source)
        } else if all >= self.config.max_unjoined {
            self.unjoined.iter().max_by_key(|(_, held)| held.len()).map(|(source, _)| *source)
        } else {
            return true;
        };
        let held = crowded.and_then(|source| self.unjoined.get(&source)).into_iter().flatten();
        let idle = |conn: &&ConnId| {
            self.connections.get(conn).is_some_and(|c| !c.channel.is_established() && c.member.is_none())
        };
        let Some(victim) = held.into_iter().find(idle).copied() else { return false };
        self.close(victim, StreamDrop::TooManyUnjoined);
        true
    }
}

/// One of `source` is no longer among those that have not joined.
pub(super) fn release(unjoined: &mut BTreeMap<u64, BTreeSet<ConnId>>, source: u64, conn: ConnId) {
    if let Some(held) = unjoined.get_mut(&source) {
        held.remove(&conn);
        if held.is_empty() {
            unjoined.remove(&source);
        }
    }
}
