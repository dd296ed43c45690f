//! Whom no forwarding thread serves: holders of tickets that are still good, and were revoked.

use std::collections::BTreeSet;

use skynet_core::key::Identity;
use skynet_core::wire::relay::Ticket;

/// One list, shared by all threads and never changed: a newer one replaces it. As long as what was revoked within the
/// life of a ticket.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Revoked {
    holders: BTreeSet<[u8; 16]>,
    nodes: BTreeSet<([u8; 8], u32)>,
}

impl Revoked {
    /// Of one network: who, and which number it had.
    pub fn new(network_id: [u8; 8], ousted: impl IntoIterator<Item = (Identity, u32)>) -> Self {
        let mut revoked = Self::default();
        for (identity, node_no) in ousted {
            revoked.holders.insert(Ticket::hash_identity(&identity));
            revoked.nodes.insert((network_id, node_no));
        }
        revoked
    }

    /// Whether the holder of this ticket is one of them.
    pub(super) fn has(&self, ticket: &Ticket) -> bool {
        self.holders.contains(&ticket.identity_hash)
    }

    /// Nodes that are here and not in `old`: their numbers may be another's later, so their sessions are ended once.
    pub(super) fn nodes_beyond(&self, old: &Self) -> BTreeSet<([u8; 8], u32)> {
        self.nodes.difference(&old.nodes).copied().collect()
    }
}
