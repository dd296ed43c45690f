//! Peers this node talked to last. After a restart it tells them so itself: otherwise each would send what nobody can
//! open until its own checks find that out.

use std::sync::Arc;

use crate::control::message::Lookup;
use crate::id::{NodeNo, PeerSlot};
use crate::node::peers::Peer;
use crate::node::{Node, NodeEvent};
use crate::time::{Duration, Instant, Now};

/// Peers remembered: those a restart would be noticed by. More would be a flood at every start.
pub const MAX_REMEMBERED: usize = 16;
/// A full list is written anew this often at most: a node that talks to hundreds writes no file for each.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// Whom to greet, and whom a later start would.
#[derive(Default)]
pub(super) struct Remembered {
    /// Of the run before, not greeted yet.
    greet: Vec<NodeNo>,
    /// What was persisted last, ascending.
    kept: Vec<NodeNo>,
    kept_at: Instant,
}

impl Remembered {
    pub(super) fn new(mut last: Vec<NodeNo>) -> Self {
        last.truncate(MAX_REMEMBERED);
        Self { greet: last, ..Self::default() }
    }
}

impl Node {
    /// A session has begun: who is remembered may be others.
    pub(super) fn remember_peers(&mut self, now: Now) {
        let mut recent: Vec<(Option<Instant>, NodeNo)> = self
            .peers
            .iter()
            .filter(|p| p.sealing.is_some())
            .filter_map(|p| Some((last_heard_or_told(p), p.node_no()?)))
            .collect();
        recent.sort_by_key(|(at, no)| (core::cmp::Reverse(*at), *no));
        let not_greeted = self.remembered.greet.iter().copied();
        let mut peers: Vec<NodeNo> = recent.into_iter().map(|(_, no)| no).chain(not_greeted).collect();
        peers.truncate(MAX_REMEMBERED);
        peers.sort_unstable();
        peers.dedup();
        let Remembered { kept, kept_at, .. } = &mut self.remembered;
        let is_early = kept.len() == MAX_REMEMBERED && now.mono < *kept_at + WRITE_EVERY;
        if *kept != peers && !is_early {
            (*kept, *kept_at) = (peers.clone(), now.mono);
            self.events.push_back(NodeEvent::PersistPeers(peers));
        }
    }

    /// Joined again: asks who the peers of the run before are.
    pub(super) fn look_up_remembered(&mut self, now: Now) {
        let Some(membership) = &mut self.membership else { return };
        for no in &self.remembered.greet {
            membership.look_up(Lookup::Ipv4(no.0.into()), now);
        }
    }

    /// The directory knows this member: if it is one of them it hears of us.
    pub(super) fn greet_if_remembered(&mut self, member: &Arc<crate::member::Member>, now: Now) {
        let no = NodeNo(member.node_no());
        let Some(at) = self.remembered.greet.iter().position(|n| *n == no) else { return };
        self.remembered.greet.swap_remove(at);
        if let Some(slot) = self.add_member(member, now) {
            self.greet(slot, now);
        }
    }

    fn greet(&mut self, slot: PeerSlot, now: Now) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.is_greeted = true;
        }
        if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut) {
            path.announce(now);
        }
        self.drain_path(slot, now);
        self.greet_between_keys(slot, now);
    }
}

fn last_heard_or_told(peer: &Peer) -> Option<Instant> {
    let told = peer.session.activity().last_data_tx();
    told.max(peer.direct.last_rx()).max(peer.relayed.last_rx())
}
