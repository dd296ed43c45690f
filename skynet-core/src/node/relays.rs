//! The relay sessions and the peers: what a session's coming and going means for those whose data takes it.

use core::net::SocketAddr;

use crate::control::message::Welcome;
use crate::id::{PeerSlot, PortNo, RelayNo};
use crate::key::PublicKey;
use crate::node::peers::Peer;
use crate::node::relay_set::RelaySetEvent;
use crate::node::{Node, NodeEvent};
use crate::path::RelayPath;
use crate::time::{Duration, Now};
use crate::wire::probe::RelayRtt;

impl Node {
    /// WELCOME brought a ticket: bind, or go on with the new one, at every relay of the manifest.
    pub(super) fn on_ticket(&mut self, welcome: &Welcome, now: Now) {
        if !self.membership.as_mut().is_some_and(|m| m.takes_ticket(&welcome.ticket, now.mono)) {
            return;
        }
        let (control, mut relays) = self.listed_relays();
        // One that the manifest does not list is where it was reached.
        let no = RelayNo(welcome.relay_no);
        if relays.iter().all(|(listed, ..)| *listed != no) {
            let key = self.membership.as_ref().and_then(|m| m.relay_key());
            match control.zip(key) {
                Some((address, key)) => relays.push((no, address, key)),
                None => self.events.push_back(NodeEvent::Alarm(format!(
                    "relay {} has no address but in the overlay's own range, so nothing is relayed by it; the cure: give it another --public-address",
                    welcome.relay_no
                ))),
            }
        }
        self.ports.set_ticket(welcome, &relays, &mut self.rng, now.mono);
        self.dirty = true;
        self.drain_relay(now);
    }

    /// A newer manifest: the tickets there are hold at every relay it lists.
    pub(super) fn on_relay_list(&mut self, now: Now) {
        let (_, relays) = self.listed_relays();
        self.ports.set_relays(&relays, &mut self.rng, now.mono);
        self.dirty = true;
        self.drain_relay(now);
    }

    /// The relays of the manifest by one address each, and where the control channel is. What goes to a relay inside the
    /// overlay would come back to be sent to that relay: those addresses are none.
    fn listed_relays(&self) -> (Option<SocketAddr>, Vec<(RelayNo, SocketAddr, PublicKey)>) {
        let overlay = self.overlay();
        let outside = |a: &SocketAddr| !overlay.iter().any(|p| p.contains(a.ip().to_canonical()));
        let control = self.control_address.filter(outside);
        let listed = self.trust().into_iter().flat_map(|trust| &trust.manifest().relays);
        let relays = listed.filter_map(|r| {
            let addresses: Vec<_> = r.addresses.iter().copied().filter(outside).collect();
            Some((RelayNo(r.relay_no), reachable(&addresses, control)?, r.key))
        });
        (control, relays.collect())
    }

    /// Sends what the ports have for relays, and takes what they learned of them.
    pub(super) fn drain_relay(&mut self, now: Now) {
        let before = self.ports.relays.transport();
        self.tend_carrier(now);
        let without_udp = !self.ports.relays.udp_is_up();
        if let Some(membership) = &mut self.membership {
            membership.set_without_udp(without_udp, now);
        }
        while let Some(port) = self.ports.poll_changed(&mut self.rng, now.mono) {
            self.tend_carrier(now);
            if port == PortNo(0) {
                self.dirty = true;
                self.on_relay_changed(now);
                self.observe_nat(now);
            } else {
                self.on_port_changed(port, now);
            }
        }
        while let Some(event) = self.ports.poll_relay_event() {
            match event {
                RelaySetEvent::NoSuchPeer(relay, node_no) => self.on_no_such_peer(relay, node_no, now),
                RelaySetEvent::Down(relay) if relay.is_member() => self.member_relays.lost(relay, now.mono),
                RelaySetEvent::Up(_) | RelaySetEvent::Down(_) | RelaySetEvent::Changed => {
                    self.tell_control_of_relays(event, now);
                }
            }
        }
        while let Some(transmit) = self.ports.poll_transmit() {
            self.transmits.push_back(transmit);
        }
        let after = self.ports.relays.transport();
        self.dirty |= before != after;
        if before.0 != after.0 {
            self.on_transport_changed(now);
        }
    }

    fn tend_carrier(&mut self, now: Now) {
        let control = self.membership.as_ref().and_then(|m| m.control_relay()).map(RelayNo);
        self.ports.tend_carrier(control, now.mono);
    }

    /// Frames of the relay take another way, which carries other sizes.
    fn on_transport_changed(&mut self, now: Now) {
        for slot in self.peers.slots() {
            if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut) {
                path.handle_relay_transport(now);
            }
            self.drain_path(slot, now);
        }
    }

    /// A session that comes up or ends says where the control channel is worth a try.
    fn tell_control_of_relays(&mut self, event: RelaySetEvent, now: Now) {
        let Some(membership) = &mut self.membership else { return };
        match event {
            RelaySetEvent::Down(relay) => membership.relay_lost(relay, now),
            RelaySetEvent::Up(relay) => membership.relay_found(relay, now),
            _ => {}
        }
    }

    /// Up, down, or our address as a relay sees it changed: every path agent of port 0 has to know.
    fn on_relay_changed(&mut self, now: Now) {
        let local = self.local_candidates(PortNo(0));
        let own = self.ports.relays.told();
        let expected = self.ports.relays.expected_until();
        for slot in self.peers.slots() {
            if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut) {
                path.set_own_relays(&own, now);
                path.expect_relay(expected);
                path.set_local_candidates(&local, now);
            }
            self.choose_relay(slot, now);
        }
        self.publish_record(now);
    }

    /// The relay that both ends of a pair use, as far as this end knows.
    pub(super) fn choose_relay(&mut self, slot: PeerSlot, now: Now) {
        let mine = self.ports.relays.told();
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Some(node_no) = peer.node_no() else { return };
        let theirs: Vec<RelayRtt> =
            peer.agent(PortNo(0)).map(|p| p.peer_relays().to_vec()).unwrap_or_default();
        let chosen = peer.relay.choose(&mine, &theirs, now.mono);
        let relays = &self.ports.relays;
        let own_rtt = |no| relays.session(no).and_then(|(_, client)| client.rtt());
        let path = chosen.map(|relay_no| RelayPath {
            relay_no,
            node_no: node_no.0,
            rtt: own_rtt(RelayNo(relay_no)).unwrap_or_default(),
            peer_rtt: theirs
                .iter()
                .find(|r| r.relay_no == relay_no)
                .map(|r| Duration::from_millis(r.rtt_ms.into())),
        });
        // A member's session may end with its member: one at a relay of the manifest is wanted all the same.
        let listed = |r: &&RelayRtt| !RelayNo(r.relay_no).is_member();
        let shared = mine.iter().filter(listed).any(|m| theirs.iter().any(|t| t.relay_no == m.relay_no));
        if let Some(path_agent) = peer.path_mut() {
            path_agent.set_relay(path, now);
        }
        let nearest = theirs.iter().filter(listed).min_by_key(|r| (r.rtt_ms, r.relay_no)).filter(|_| !shared);
        if let Some(nearest) = nearest {
            self.ports.relays.want(RelayNo(nearest.relay_no), &mut self.rng, now.mono);
        }
        self.drain_path(slot, now);
    }

    /// The peer does not answer by this relay.
    pub(super) fn avoid_relay(&mut self, slot: PeerSlot, relay: u16, now: Now) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.relay.avoid(relay, now.mono);
            self.choose_relay(slot, now);
        }
    }

    /// A relay has nobody of this number. A hint, of which only a pair that uses that relay takes note.
    fn on_no_such_peer(&mut self, relay: RelayNo, node_no: u32, now: Now) {
        let at = self.peers.iter().find(|p| p.node_no().is_some_and(|no| no.0 == node_no)).map(|p| p.slot);
        let Some(slot) = at else { return };
        let uses = self.peers.get(slot).is_some_and(|p| p.relay.current() == Some(relay.0));
        if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut).filter(|_| uses) {
            path.peer_not_at_relay(now);
            self.avoid_relay(slot, relay.0, now);
        }
    }
}

/// A relay's first address, of the kind by which its control channel was reached if that is known: a host without IPv4,
/// or without IPv6, reaches no other.
fn reachable(addresses: &[SocketAddr], control: Option<SocketAddr>) -> Option<SocketAddr> {
    let same_kind = |a: &&SocketAddr| control.is_none_or(|c| c.is_ipv4() == a.is_ipv4());
    addresses.iter().find(same_kind).or(addresses.first()).copied()
}
