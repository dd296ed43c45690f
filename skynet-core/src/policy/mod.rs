//! What the policy means between this node and one peer (`docs/PROTOCOL.md` §3.5).
//!
//! A rule is about who *begins*: an answer goes where the question came from. Most answers are allowed by rules of their
//! own; for the others there is a table of [`Connections`], which says who began, and never more: whether that was
//! allowed is asked of the policy in force each time, so a new one holds for what is open already.
//!
//! ```text
//!                          packet of a flow, in direction d
//! may a flow begin like this? ── yes ──▶ pass; and if its answers could not begin by themselves, d is noted
//!         │ no
//! may its mirror image begin, and is it known to have begun? ── yes ──▶ pass
//!         │ no
//!        drop, counted
//! ```
//! Both ends do the same: the receiver, who decides, and the sender, so that nothing is sent in vain.

mod connections;
mod content;

use std::sync::Arc;

pub use connections::{Connections, MAX_CONNECTIONS};
use content::Content;

use crate::drop::{DropCounters, DropReason};
use crate::id::PeerSlot;
use crate::member::Tags;
use crate::member::policy::{Policy, Rule, Service};
use crate::time::Instant;
use crate::wire::ip::IpPacket;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the peer.
    In,
    /// To the peer.
    Out,
}

/// The rules about flows that one of two nodes begins with the other, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    clauses: Vec<Clause>,
    /// What holds if none of them matches, and the rule that says so; none: the default.
    rest: (bool, Option<usize>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Clause {
    rule: usize,
    allow: bool,
    service: Service,
}

impl Rules {
    /// Those of `policy` about flows from a node with tags `from` to one with tags `to`.
    pub fn between(policy: &Policy, from: &Tags, to: &Tags) -> Self {
        let mut clauses = Vec::new();
        for (rule, Rule { allow, services, .. }) in
            policy.rules.iter().enumerate().filter(|(_, rule)| rule.concerns(from, to))
        {
            if services.is_empty() {
                return Self { clauses, rest: (*allow, Some(rule)) };
            }
            clauses.extend(services.iter().map(|service| Clause { rule, allow: *allow, service: *service }));
        }
        Self { clauses, rest: (policy.allow_by_default, None) }
    }

    /// Whether a flow may begin, and the number of the rule that decides. A port that a packet does not show is taken for
    /// one that is denied, if any is.
    pub fn decide(&self, protocol: u8, port: Option<u16>) -> (bool, Option<usize>) {
        let matches = |clause: &&Clause| {
            let Service { protocol: p, first, last } = clause.service;
            p == protocol
                && port
                    .map_or(!clause.allow || (first, last) == (0, u16::MAX), |n| (first..=last).contains(&n))
        };
        self.clauses.iter().find(matches).map_or(self.rest, |clause| (clause.allow, Some(clause.rule)))
    }

    fn allow(&self, protocol: u8, port: Option<u16>) -> bool {
        self.decide(protocol, port).0
    }

    fn allow_all(&self) -> bool {
        self.rest.0 && self.clauses.iter().all(|clause| clause.allow)
    }
}

/// What holds between this node and a peer.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    inbound: Rules,
    outbound: Rules,
    connections: Arc<Connections>,
}

impl PeerPolicy {
    /// Compiled; `None` if the two may do anything, so that their packets are not looked at.
    pub fn new(policy: &Policy, me: &Tags, peer: &Tags, connections: &Arc<Connections>) -> Option<Arc<Self>> {
        let (inbound, outbound) = (Rules::between(policy, peer, me), Rules::between(policy, me, peer));
        let free = inbound.allow_all() && outbound.allow_all();
        (!free).then(|| Arc::new(Self { inbound, outbound, connections: Arc::clone(connections) }))
    }

    /// Judges one packet, or super-packet, from or to the peer in `slot`.
    ///
    /// # Errors
    /// [`DropReason::Filtered`].
    pub fn check(
        &self,
        way: Way,
        slot: PeerSlot,
        packet: &IpPacket<'_>,
        now: Instant,
        drops: &DropCounters,
    ) -> Result<(), DropReason> {
        let (there, back) = match way {
            Way::In => (&self.inbound, &self.outbound),
            Way::Out => (&self.outbound, &self.inbound),
        };
        match Content::of(packet.bytes()) {
            Content::Rest => Ok(()),
            Content::Flow { protocol, ports } => {
                let (from, to) = ports.unzip();
                let key = || self.connections.key(slot, packet, protocol, ports);
                let begins = there.allow(protocol, to);
                if begins && !back.allow(protocol, from) {
                    if self.connections.note(key(), way, now) {
                        drops.count(DropReason::ConnectionForgotten);
                    }
                    return Ok(());
                }
                let answers = || back.allow(protocol, from) && self.connections.knows(key(), way, now);
                if begins || answers() { Ok(()) } else { Err(DropReason::Filtered) }
            }
            // Whoever may be talked to may say what became of it, as may whoever may begin what it is about.
            Content::About { protocol, ports } => {
                let (from, to) = ports.unzip();
                let icmp = there.allow(crate::member::policy::ICMP, Some(0));
                let allowed = icmp || back.allow(protocol, to) || there.allow(protocol, from);
                if allowed { Ok(()) } else { Err(DropReason::Filtered) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
