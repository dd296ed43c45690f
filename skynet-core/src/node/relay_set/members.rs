//! Sessions at members that relay (PROTOCOL §4.4), beside those at the manifest's relays.
//!
//! They are for pairs' data and nothing else: never home, no word on how this node is seen from outside, no reason to be
//! without a session at a relay of the manifest. One that is lost is gone; whoever wants it back asks for a ticket again.

use core::net::SocketAddr;

use super::{Relay, RelaySet, RelaySetEvent};
use crate::id::RelayNo;
use crate::key::PublicKey;
use crate::relay::{RelayClient, RelayClientConfig, RelayEvent, steady_ms};
use crate::rng::Rng;
use crate::time::Instant;

/// At most so many at once.
pub(in crate::node) const MAX_MEMBERS: usize = 4;

impl RelaySet {
    /// Opens a session at a member, where it is reached directly. False if there is no room.
    pub(in crate::node) fn open_member(
        &mut self,
        (address, key): (SocketAddr, PublicKey),
        config: RelayClientConfig,
        rng: &mut Rng,
        now: Instant,
    ) -> bool {
        let no = RelayNo(config.relay_no);
        self.close_member(no);
        let room = self.members.len() < MAX_MEMBERS && self.relays.iter().all(|r| r.no != no);
        if room {
            let client = Some(RelayClient::new(config, rng.fork(), now));
            self.members.push(Relay { client, ..Relay::at(no, address, key) });
            self.changed = true;
        }
        room
    }

    /// Ends it.
    pub(in crate::node) fn close_member(&mut self, no: RelayNo) {
        let before = self.members.len();
        self.members.retain(|m| m.no != no);
        self.changed |= self.members.len() != before;
    }

    /// Every session at a member.
    pub(in crate::node) fn members(&self) -> impl Iterator<Item = (&Relay, &RelayClient)> {
        self.members.iter().filter_map(|m| Some((m, m.client.as_ref()?)))
    }

    pub(super) fn member_clients(&mut self) -> impl Iterator<Item = &mut RelayClient> {
        self.members.iter_mut().filter_map(|m| m.client.as_mut())
    }

    /// What peers are told of them.
    pub(super) fn refresh_members(&mut self) {
        for member in &mut self.members {
            let up = member.is_up();
            let least = member.client.as_ref().and_then(RelayClient::least_rtt);
            member.told = least.map(|rtt| steady_ms(member.told, rtt)).filter(|_| up);
        }
    }

    /// What became of one.
    pub(super) fn poll_member(&mut self) -> Option<RelaySetEvent> {
        let next = |m: &mut Relay| Some((m.no, m.client.as_mut()?.poll_event()?));
        let (no, event) = self.members.iter_mut().find_map(next)?;
        if event == RelayEvent::Down {
            self.close_member(no);
        }
        self.refresh();
        Some(match event {
            RelayEvent::Up { .. } => RelaySetEvent::Up(no),
            RelayEvent::Down => RelaySetEvent::Down(no),
            RelayEvent::NoSuchPeer(node_no) => RelaySetEvent::NoSuchPeer(no, node_no),
            RelayEvent::Draining(_) | RelayEvent::ObservedChanged(_) => RelaySetEvent::Changed,
        })
    }
}
