//! Ephemeral members that went while this relay was not there to see it: nobody's connection closes for them. After a start
//! whoever of them has not joined again in time is forgotten, as if it had just gone.
//!
//! A node that is let go too soon, because it was at another relay, loses nothing: it joins again with its receipt.

use std::collections::BTreeMap;

use skynet_core::time::{Duration, Instant};

use super::roll::Present;
use super::{ControlServer, Enrolled, StoreOp, StoreRequest};
use crate::server::connection::MemberKey;

/// A node tries again within five seconds, and an attempt takes five; with the twenty seconds of a list the dead are out of
/// every small network's rosters in thirty.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// Where there are other relays a node stays at one for up to 25 s before it comes back.
const HEARD_WITHIN_OF_SEVERAL: Duration = Duration::from_secs(28);

/// Members of the directory that have not joined since this relay's start. As many as the directory has ephemeral ones.
#[derive(Default)]
pub(super) struct Unheard {
    members: BTreeMap<MemberKey, Present>,
    until: Option<Instant>,
}

impl Unheard {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn heard(&mut self, member: &MemberKey) {
        self.members.remove(member);
    }
}

impl ControlServer {
    /// Asks, once, which ephemeral members the directory has.
    pub(super) fn ask_ephemeral(&mut self) {
        self.requests.push_back(StoreRequest { id: 0, op: StoreOp::Ephemeral });
    }

    pub(super) fn on_ephemeral(&mut self, members: Vec<Enrolled>, now: Instant) {
        let within = if self.config.relays.len() > 1 { HEARD_WITHIN_OF_SEVERAL } else { HEARD_WITHIN };
        let unheard = members.iter().map(|who| (MemberKey::of(who), Present::of(who)));
        let unheard = unheard.filter(|(member, _)| !self.online.contains_key(member));
        self.unheard = Unheard { members: unheard.collect(), until: Some(now + within) };
    }

    /// Forgets whoever is late.
    pub(super) fn forget_unheard(&mut self, now: Instant) {
        if self.unheard.until.take_if(|until| *until <= now).is_none() {
            return;
        }
        for (member, present) in core::mem::take(&mut self.unheard.members) {
            let MemberKey { network_id, identity } = member;
            let op = StoreOp::Leave { network_id, identity, key: present.key };
            self.requests.push_back(StoreRequest { id: 0, op });
            self.rolls.left(&member, &present, now);
        }
    }
}
