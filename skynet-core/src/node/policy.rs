//! The policy in force, compiled for each peer: at once for all when it changes.

use std::sync::Arc;

use crate::drop::DropReason;
use crate::id::PeerSlot;
use crate::node::Node;
use crate::policy::{Connections, PeerPolicy, Way};
use crate::time::Instant;
use crate::wire::ip::IpPacket;

impl Node {
    /// There is another policy.
    pub(super) fn apply_policy(&mut self) {
        for slot in self.peers.slots() {
            self.compile_policy(slot);
        }
    }

    /// What may pass between us and this peer; of a stock peer the policy says nothing.
    pub(super) fn compile_policy(&mut self, slot: PeerSlot) {
        let membership = self.membership.as_ref();
        let policy = membership.and_then(|m| m.credentials()).and_then(|c| c.trust().policy());
        let me = membership.and_then(|m| m.me());
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let parts = policy.zip(me).zip(peer.member());
        let compiled = parts.and_then(|((policy, me), member)| {
            // The table outlives policies: who began a flow stays true.
            let connections =
                self.connections.get_or_insert_with(|| Arc::new(Connections::new(&mut self.rng)));
            PeerPolicy::new(policy, me.tags(), member.tags(), connections)
        });
        peer.policy = compiled;
        self.dirty = true;
    }

    /// Judges a packet that waits for its peer.
    pub(super) fn check_policy(&self, slot: PeerSlot, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        let Some(policy) = self.peers.get(slot).and_then(|peer| peer.policy.as_ref()) else { return Ok(()) };
        let packet = IpPacket::parse(packet).map_err(|_| DropReason::NotIp)?;
        policy.check(Way::Out, slot, &packet, now, &self.drops)
    }
}
