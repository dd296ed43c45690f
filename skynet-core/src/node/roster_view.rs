//! Who is in the network, for people and scripts: names, addresses, tags, presence.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::member::{Member, Name, Tags};
use crate::node::Node;
use crate::node::membership::MembershipAgent;
use crate::time::Now;

/// The members this node knows, itself among them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RosterView {
    /// Rises with every change.
    pub revision: u64,
    /// The relay has told of everybody who is watched and there. Without a watch or a relay it has not.
    pub complete: bool,
    /// By name.
    pub members: Vec<RosterMember>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RosterMember {
    /// Its name.
    pub name: Name,
    /// Its overlay IPv4 address.
    pub v4: Ipv4Addr,
    /// Its overlay IPv6 address.
    pub v6: Ipv6Addr,
    /// Its tags, signed: what it is in the cluster.
    pub tags: Tags,
    /// It is forgotten when it stops.
    pub ephemeral: bool,
    /// Whether it is there, says the relay; this node always is.
    pub online: bool,
    /// It is this node.
    pub own: bool,
}

impl RosterMember {
    fn new(member: &Member, online: bool, own: bool) -> Self {
        Self {
            name: member.name().clone(),
            v4: member.v4(),
            v6: member.v6(),
            tags: member.tags().clone(),
            ephemeral: member.candidate().certificate().ephemeral,
            online,
            own,
        }
    }
}

impl Node {
    /// Watches members with one of these tags, everybody if there are none: [`NodeEvent::RosterChanged`] follows at once
    /// and whenever one of them comes, goes or gets other documents. `None`: nobody any more. Asked for by somebody who
    /// waits, for every change costs the relay a message to everybody who watches.
    ///
    /// [`NodeEvent::RosterChanged`]: crate::node::NodeEvent::RosterChanged
    pub fn watch(&mut self, tags: Option<Tags>, now: Now) {
        if let Some(membership) = &mut self.membership {
            membership.set_watch(tags, now);
        }
        self.settle(now);
    }

    /// This process is about to end: tells the relay, which otherwise waits whether this node comes back. An ephemeral
    /// node leaves the directory; whether the relay is going to answer that.
    pub fn stop(&mut self, now: Now) -> bool {
        let is_answered = self.membership.as_mut().is_some_and(|membership| membership.stop(now));
        self.settle(now);
        is_answered
    }

    /// The network's name, once joined.
    pub fn network_name(&self) -> Option<&str> {
        self.trust().map(|trust| trust.genesis().name.as_str())
    }

    /// Revision and completeness of [`Node::roster`], without making one.
    pub fn roster_state(&self) -> (u64, bool) {
        let state = |m: &MembershipAgent| (m.directory.revision(), m.is_roll_current());
        self.membership.as_ref().map_or((0, false), state)
    }

    /// Who is in the network, as far as this node knows. Those who are no members any more are left out.
    pub fn roster(&self) -> RosterView {
        let Some(membership) = &self.membership else {
            return RosterView { revision: 0, complete: false, members: Vec::new() };
        };
        let own = membership.me().map(|me| RosterMember::new(me, true, true));
        let others = membership.directory.iter().filter(|e| !e.left);
        let mut members: Vec<RosterMember> =
            others.map(|e| RosterMember::new(&e.member, e.online, false)).chain(own).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        RosterView {
            revision: membership.directory.revision(),
            complete: membership.is_roll_current(),
            members,
        }
    }
}
