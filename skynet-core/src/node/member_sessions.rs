//! What [`MemberRelays`] asks for: APPLY inside the tunnel, and a session at a member by the direct path to it.

use crate::drop::DropReason;
use crate::id::{NodeNo, PeerSlot, PortNo, RelayNo};
use crate::key::PublicKey;
use crate::node::Node;
use crate::node::member_relays::{Candidate, RELAYED_FOR, Step};
use crate::node::peers::Peer;
use crate::node::serving::relay_no_of;
use crate::path::Path;
use crate::relay::{RelayClientConfig, RelayClock};
use crate::time::{Instant, Now};
use crate::wire::record::{FEATURE_RELAY, Grant, Record};
use crate::wire::relay::Ticket;

impl Node {
    /// Does what is due. A node that relays is nobody's client here, so nothing ever is: no frame could go round between
    /// members.
    pub(super) fn tend_member_relays(&mut self, now: Now) {
        while let Some(step) = self.member_relays.poll_step(now.mono) {
            match step {
                Step::Look => self.look_for_members(now),
                Step::Apply(key, id) => self.apply(&key, id, now),
                Step::Bind(no, key, grant) => self.bind_at_member(no, &key, &grant, now),
                Step::Close(no) => self.ports.relays.close_member(no),
            }
        }
    }

    /// This node relays from now on.
    pub(super) fn leave_member_relays(&mut self) {
        for no in self.member_relays.end() {
            self.ports.relays.close_member(no);
        }
    }

    /// Who relays, of the members that are known; and which relay each relayed pair takes, now that time has passed.
    fn look_for_members(&mut self, now: Now) {
        let relayed = self.relayed_slots(now.mono);
        if relayed.is_empty() {
            return self.member_relays.forget_relayed();
        }
        let told: Vec<u16> = relayed.iter().flat_map(|slot| self.relays_told_by(*slot)).collect();
        let entries = self.membership.iter().flat_map(|m| m.directory.iter());
        let candidates = entries.filter_map(|entry| {
            let no = relay_no_of(&entry.member)?;
            let node = NodeNo(entry.member.node_no());
            Some(Candidate { is_untold: !told.contains(&no.0), node, no, key: entry.member.x25519() })
        });
        let candidates = candidates.collect();
        self.member_relays.seek(candidates, now.mono);
        for slot in relayed {
            self.choose_relay(slot, now);
        }
    }

    fn relays_told_by(&self, slot: PeerSlot) -> impl Iterator<Item = u16> + '_ {
        let path = self.peers.get(slot).and_then(|p| p.agent(PortNo(0)));
        path.into_iter().flat_map(|p| p.peer_relays()).map(|r| r.relay_no)
    }

    /// Peers whose data goes by a relay and has for long enough.
    fn relayed_slots(&self, now: Instant) -> Vec<PeerSlot> {
        let relayed = |p: &&Peer| {
            let last = p.agent(PortNo(0)).and_then(|path| path.history().last());
            let by_relay = last
                .is_some_and(|h| matches!(h.to, Some(Path::Relayed { .. })) && now - h.when >= RELAYED_FOR);
            by_relay && !self.member_relays.is_sought(&p.key)
        };
        self.peers.iter().filter(relayed).map(|p| p.slot).collect()
    }

    /// Data to this peer goes by a relay until `until`.
    pub(super) fn note_relayed(&mut self, slot: PeerSlot, until: Instant, now: Now) {
        let key = self.peers.get(slot).filter(|p| p.member().is_some()).map(|p| p.key);
        let key = key.filter(|_| !self.serving.is_running());
        if key.is_some_and(|key| !self.member_relays.is_sought(&key)) && until > now.mono {
            self.member_relays.note_relayed(until, now.mono);
        }
    }

    /// A session at a member of the directory that this node wants: begun if there is none, else the question is put.
    fn apply(&mut self, key: &PublicKey, id: u32, now: Now) {
        let member = self.membership.as_ref().and_then(|m| m.directory.by_key(key)).map(|e| e.member.clone());
        let Some(slot) = member.and_then(|member| self.add_member(&member, now)) else {
            return self.member_relays.refused(key, now.mono);
        };
        let Some(peer) = self.peers.get(slot) else { return };
        match peer.lanes.hello().map(|hello| hello.features & FEATURE_RELAY != 0) {
            _ if peer.sealing.is_none() => self.initiate(slot, now),
            Some(false) => self.member_relays.refused(key, now.mono),
            // It counts as data: a direct path is looked for.
            Some(true) => {
                self.send_question(slot, &Record::Apply(id), now);
                self.tell_traffic(slot, now);
                self.drain_path(slot, now);
            }
            None => {}
        }
    }

    fn bind_at_member(&mut self, no: RelayNo, key: &PublicKey, (grant, at): &(Grant, Instant), now: Now) {
        let peer = self.peers.by_key(key).and_then(|slot| self.peers.get(slot));
        let direct = peer.and_then(|p| Some((p.agent(PortNo(0))?.live_direct()?, p)));
        // A frame leaves by port 0, and so must the path.
        let Some((address, _)) = direct.filter(|(to, p)| p.port_towards(*to) == PortNo(0)) else { return };
        let config = RelayClientConfig {
            relay_no: no.0,
            lane: 0,
            ticket: grant.ticket,
            bind_key: grant.bind_key.clone(),
            clock: RelayClock::new(grant.relay_unix_ms, *at),
        };
        if self.ports.relays.open_member((address, *key), config, &mut self.rng, now.mono) {
            self.member_relays.opened(no);
            self.dirty = true;
        } else {
            self.member_relays.refused(key, now.mono);
        }
    }

    /// APPLY or TICKET of an authentic peer.
    pub(super) fn on_relay_record(
        &mut self,
        slot: PeerSlot,
        record: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        match Record::parse(record).map_err(|_| DropReason::UnknownType)? {
            Record::Apply(id) => self.on_apply(slot, id, now),
            Record::Ticket(grant) => self.on_grant(slot, *grant, now),
            _ => Err(DropReason::UnexpectedRecord),
        }
    }

    fn on_grant(&mut self, slot: PeerSlot, grant: Grant, now: Now) -> Result<(), DropReason> {
        let peer = self.peers.get(slot).ok_or(DropReason::NoPeer)?;
        if peer.member().and_then(|m| relay_no_of(m)).is_none() {
            return Err(DropReason::FalseRelay);
        }
        let membership = self.membership.as_ref().ok_or(DropReason::UnexpectedRecord)?;
        let (me, credentials) =
            membership.me().zip(membership.credentials()).ok_or(DropReason::UnexpectedRecord)?;
        // With another's ticket this node would take that one's place there.
        let ours = Ticket::parse(&grant.ticket)
            .is_ok_and(|t| t.node_no == me.node_no() && t.network_id == credentials.trust().network_id().0);
        if !ours {
            return Err(DropReason::FalseRelay);
        }
        let key = peer.key;
        if !self.member_relays.handle_ticket(&key, grant, now.mono) {
            return Err(DropReason::UnexpectedRecord);
        }
        self.tend_member_relays(now);
        Ok(())
    }

    /// What a HELLO says of relaying is believed of those alone whose certificate says so too.
    pub(super) fn judge_offer(&self, slot: PeerSlot) {
        let Some(peer) = self.peers.get(slot) else { return };
        let offers = peer.lanes.hello().is_some_and(|hello| hello.features & FEATURE_RELAY != 0);
        if offers && peer.member().is_some_and(|m| !m.tags().contains(super::serving::RELAY_TAG)) {
            self.drops.count(DropReason::FalseRelay);
        }
    }

    /// This is no member any more: it neither relays for us nor is relayed for.
    pub(super) fn end_relaying_with(&mut self, key: &PublicKey) {
        if let Some(no) = self.member_relays.forget(key) {
            self.ports.relays.close_member(no);
        }
        self.serve_no_more(key);
    }

    /// The name of the member that a relay's number stands for.
    pub fn relaying_member(&self, no: u16) -> Option<String> {
        let no = Some(RelayNo(no)).filter(|no| no.is_member())?;
        let directory = &self.membership.as_ref()?.directory;
        let entry = match self.member_relays.node_of(no) {
            Some(node) => directory.by_node_no(node)?,
            None => directory.iter().find(|e| relay_no_of(&e.member) == Some(no))?,
        };
        Some(entry.member.name().to_string())
    }
}
