//! From what `Node` knows to what the workers need: the snapshot, and the order in which changes reach them.

use std::sync::Arc;

use crate::allowed_ips::Prefix;
use crate::constants::{INNER_MTU, IPV6_MIN_MTU};
use crate::forwarding::{ForwardingTable, Framing, PeerEntry, UNKNOWN_MTU};
use crate::id::PortNo;
use crate::node::peers::Peer;
use crate::node::{Node, NodeEvent};
use crate::path::PathAgent;
use crate::wire::record::FEATURE_CHUNKS;
use crate::worker::InboundCommand;

impl Node {
    /// Ends every change: publishes the snapshot if anything in it changed, and only then lets opening keys go that no
    /// snapshot seals against any more.
    pub(super) fn publish(&mut self) {
        if self.dirty {
            self.dirty = false;
            self.note_usable_lanes();
            self.table_version += 1;
            let table = Arc::new(self.build_table());
            self.events.push_back(NodeEvent::Publish(table));
        }
        for (port, index) in self.removals.drain(..) {
            self.events.push_back(NodeEvent::Inbound { port, command: InboundCommand::Remove(index) });
        }
    }

    fn build_table(&self) -> ForwardingTable {
        let mut peers = vec![None; self.peers.capacity()];
        for peer in self.peers.iter() {
            peers[peer.slot.0 as usize] = Some(Arc::new(PeerEntry {
                slot: peer.slot,
                generation: peer.generation,
                node_no: peer.node_no(),
                sealing: peer.sealing.clone(),
                path: self.data_path(peer.slot),
                mtu: self.inner_mtu(peer),
                bulk: self.usable_lanes(peer),
                most_lanes: peer.lanes.agreed(),
                lane_epoch: peer.load.epoch(),
                policy: peer.policy.clone(),
                activity: Arc::clone(peer.session.activity()),
                direct: Arc::clone(&peer.direct),
                relayed: Arc::clone(&peer.relayed),
                by_port: peer.activity_by_port(),
            }));
        }
        let me = self.membership.as_ref().and_then(|m| m.me());
        let member_addresses = me.into_iter().flat_map(|m| [m.v4().into(), m.v6().into()]);
        ForwardingTable {
            version: self.table_version,
            allowed_ips: self.peers.allowed_ips().clone(),
            peers,
            own: self.stock_addresses.iter().copied().chain(member_addresses).collect(),
            overlay: self.overlay(),
            mac1: Some(self.mac1.clone()),
            stun: self.stun_servers(),
            relays: self.ports.relays.addresses(),
        }
    }

    /// In chunks if both ends can, as long as hardly anything is lost on the port's path.
    pub(super) fn framing(&self, peer: &Peer, port: PortNo) -> Framing {
        let theirs = peer.lanes.hello().is_some_and(|hello| hello.features & FEATURE_CHUNKS != 0);
        let carried = peer.agent(port).is_some_and(PathAgent::carries_chunks);
        match (self.chunks && theirs, carried) {
            (false, _) => Framing::Plain,
            (true, false) => Framing::Fragments,
            (true, true) => Framing::Chunks,
        }
    }

    /// The largest inner packet a peer is sent: what its path carries, but never less than IPv6 asks of any link where
    /// it joins fragments; of a stock peer what is configured.
    pub(super) fn inner_mtu(&self, peer: &Peer) -> u16 {
        let Some(path) = peer.agent(PortNo(0)) else { return self.stock_mtu() };
        let size = path.size();
        if !size.settled {
            return UNKNOWN_MTU;
        }
        let fragments = self.framing(peer, PortNo(0)) != Framing::Plain;
        let mtu = if fragments { size.limit.max(IPV6_MIN_MTU) } else { size.limit };
        mtu.min(peer.lanes.hello().map_or(u16::MAX, |hello| hello.max_packet.max(IPV6_MIN_MTU)))
    }

    /// To peers without probes.
    pub(super) fn stock_mtu(&self) -> u16 {
        INNER_MTU.clamp(self.mtu.least.min(self.mtu.most), self.mtu.most)
    }

    /// The network's own prefixes, once we are a member.
    pub(super) fn overlay(&self) -> Vec<Prefix> {
        let Some(credentials) = self.membership.as_ref().and_then(|m| m.credentials()) else {
            return Vec::new();
        };
        let trust = credentials.trust();
        let v4 = trust.manifest().v4;
        let v6 = trust.root_pin().v6_prefix();
        [
            Prefix::new(v4.base().into(), v4.prefix_len()),
            Prefix::new(v6.into(), crate::member::address::V6_PREFIX_LEN),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
