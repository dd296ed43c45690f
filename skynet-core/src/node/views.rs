//! What this node knows of a pair, for people: its own evidence, and what the other end says when asked (PROTOCOL §2.1,
//! ASK and VIEW). Nothing here changes what the node does.

use core::net::{IpAddr, SocketAddr};

use crate::control::message::Lookup;
use crate::diagnosis::{
    Change, Control, End, Evidence, HostView, MAX_CHANGES, MAX_PAIRS, Mapping, PairView, PeerKind, Udp,
};
use crate::drop::DropReason;
use crate::id::{PeerSlot, PortNo};
use crate::key::PublicKey;
use crate::member::{Member, Name};
use crate::node::directory::lookup_for;
use crate::node::paths::candidates_of;
use crate::node::peers::{Kind, Peer};
use crate::node::{Node, NodeEvent};
use crate::path::{Candidate, DATAGRAM, Path, PathAgent};
use crate::rng::RngCore as _;
use crate::time::{Duration, Instant, Now};
use crate::wire::record::{FEATURE_VIEW, Record};
use crate::wire::view::View;

/// An ASK of one peer is answered at most this often; more are counted drops.
const ANSWER_EVERY: Duration = Duration::from_secs(1);
/// A peer is asked again at most this often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A look at the network that the shell took so recently is good enough.
const HOST_VIEW_LIFETIME: Duration = Duration::from_secs(60);
/// Somebody who asked so recently is told what the look brought.
const STILL_INTERESTED: Duration = Duration::from_secs(10);

/// What was asked and told between this node and one peer.
#[derive(Default)]
pub(super) struct Views {
    /// Our last question: its number and when.
    asked: Option<(u32, Instant)>,
    /// The last answer.
    told: Option<(Instant, Box<End>)>,
    /// The peer's last question.
    heard: Option<(u32, Instant)>,
}

/// What the shell found out about the network around this node.
#[derive(Default)]
pub(super) struct Host {
    view: HostView,
    taken: Option<Instant>,
    requested: Option<Instant>,
    control: Control,
}

impl Host {
    /// What was seen while the control channel was up says nothing of why it is down.
    fn is_fresh(&self, connected: bool, now: Instant) -> bool {
        let recent = self.taken.is_some_and(|at| now - at < HOST_VIEW_LIFETIME);
        recent && (connected || self.control != Control::Joined)
    }
}

impl Node {
    /// The shell has looked at the network: what it saw, and what of the control channel if that is down. Peers that
    /// wait for it are told.
    pub fn set_host_view(&mut self, view: HostView, control: Control, now: Now) {
        self.host = Host { view, taken: Some(now.mono), requested: self.host.requested, control };
        for slot in self.peers.slots() {
            let heard = self.peers.get(slot).and_then(|p| p.views.heard);
            if let Some((id, at)) = heard
                && now.mono - at < STILL_INTERESTED
            {
                self.tell_view(slot, id, now);
            }
        }
        self.settle(now);
    }

    /// Somebody asks about a peer, or about this node alone: looks at what is old are taken again, and the peer is asked
    /// what it sees.
    pub fn inquire(&mut self, key: Option<&PublicKey>, now: Now) {
        self.want_host_view(false, now.mono);
        if let (Some(key), Some(membership)) = (key, &mut self.membership) {
            // Whether it is there is only as new as the last answer of the relay.
            membership.look_up(Lookup::Key(*key), now);
        }
        if let Some(slot) = key.and_then(|key| self.peers.by_key(key)) {
            self.ask_view(slot, now);
        }
        self.settle(now);
    }

    /// Somebody means a member that is not known here: the relay is asked.
    pub fn search(&mut self, word: &str, now: Now) {
        let name = || word.parse::<Name>().ok().map(|n| Lookup::Name(n.to_string()));
        let lookup = word.parse::<IpAddr>().ok().map(lookup_for).or_else(name);
        if let (Some(lookup), Some(membership)) = (lookup, &mut self.membership) {
            membership.look_up(lookup, now);
        }
        self.settle(now);
    }

    /// Has the shell look, if what it saw last is old. A look that takes long is not begun again before ten seconds; a
    /// peer causes one in a minute at most.
    fn want_host_view(&mut self, by_peer: bool, now: Instant) {
        let asked = self.host.requested;
        let gap = if by_peer { HOST_VIEW_LIFETIME } else { STILL_INTERESTED };
        let is_over = self.host.taken >= asked && !by_peer;
        let waits = asked.is_some_and(|at| now - at < gap && !is_over);
        if !self.host.is_fresh(self.is_connected(), now) && !waits {
            self.host.requested = Some(now);
            self.events.push_back(NodeEvent::LookAround);
        }
    }

    fn ask_view(&mut self, slot: PeerSlot, now: Now) {
        let id = self.rng.next_u32();
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let recent = peer.views.asked.is_some_and(|(_, at)| now.mono - at < ASK_EVERY);
        if recent || peer.sealing.is_none() || !answers_views(peer).unwrap_or(false) {
            return;
        }
        peer.views.asked = Some((id, now.mono));
        self.send_record(slot, &Record::Ask(id), now);
    }

    /// ASK or VIEW of an authentic peer.
    pub(super) fn on_view_record(
        &mut self,
        slot: PeerSlot,
        record: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        let (record, peer) = self.record_of_member(slot, record)?;
        match record {
            Record::Ask(id) => {
                if peer.views.heard.is_some_and(|(_, at)| now.mono - at < ANSWER_EVERY) {
                    return Err(DropReason::RateLimited);
                }
                peer.views.heard = Some((id, now.mono));
                self.want_host_view(true, now.mono);
                self.tell_view(slot, id, now);
                Ok(())
            }
            Record::View(view) => {
                let asked = peer.views.asked.is_some_and(|(id, _)| id == view.id);
                if !asked {
                    return Err(DropReason::UnexpectedRecord);
                }
                peer.views.told = Some((now.mono, Box::new(view.end)));
                Ok(())
            }
            _ => Err(DropReason::UnexpectedRecord),
        }
    }

    fn tell_view(&mut self, slot: PeerSlot, id: u32, now: Now) {
        let Some(end) = self.peers.get(slot).map(|p| self.end(p, now)) else { return };
        self.send_record(slot, &Record::View(Box::new(View { id, end })), now);
    }

    /// This end of the pair.
    fn end(&self, peer: &Peer, now: Now) -> End {
        let (pairs, changes) = match &peer.kind {
            Kind::Member { member, path } => (pairs(path, member, now), changes(path, now.mono)),
            Kind::Stock { .. } => Default::default(),
        };
        End { pairs, changes, ..self.bare_end() }
    }

    /// This end without any pair.
    fn bare_end(&self) -> End {
        let mut host = self.host.view;
        if host.mapping == Mapping::Unknown {
            host.mapping = self.nat.mapping;
        }
        End {
            host,
            relay_up: self.ports.relays.sessions().any(|(_, client)| client.is_up()),
            observed: self.ports.observed(),
            clock_ahead_s: self.clock_ahead_s(),
            ..End::default()
        }
    }

    /// How many seconds our clock is ahead of the relay's, as it said when it let us in, or did not.
    pub fn clock_ahead_s(&self) -> Option<i32> {
        self.membership.as_ref().and_then(|m| m.clock_ahead_s())
    }

    /// Where relays may be reached, as far as this node knows.
    pub fn relay_addresses(&self) -> Vec<SocketAddr> {
        self.membership.as_ref().map(|m| m.relay_addresses()).unwrap_or_default()
    }

    /// Whether this is the address of a relay that is not the first.
    pub fn is_further_relay(&self, address: SocketAddr) -> bool {
        self.membership.as_ref().is_some_and(|m| m.is_further_relay(address))
    }

    fn is_connected(&self) -> bool {
        self.membership.as_ref().is_some_and(|m| m.is_connected())
    }

    /// The control channel, and if it is down, why, as far as somebody looked.
    fn control(&self) -> Control {
        match &self.membership {
            Some(m) if m.is_connected() => Control::Joined,
            Some(m) if m.clock_refused => Control::ClockDenied,
            _ => self.host.control.or_down(),
        }
    }

    /// What is known without any peer, also before this node is a member.
    pub fn own_evidence(&self, now: Now) -> Evidence {
        let me = self.membership.as_ref().and_then(|m| m.addresses());
        Evidence {
            me: me.as_ref().map_or_else(|| "this node".to_owned(), |a| a.name.clone()),
            joined: me.is_some(),
            control: self.control(),
            relay: self.ports.relay().map(|r| r.address).or(self.control_address),
            own: self.local_candidates(PortNo(0)).iter().map(|c| c.addr).collect(),
            settled: self.host.is_fresh(self.is_connected(), now.mono),
            here: self.bare_end(),
            ..Evidence::default()
        }
    }

    /// Everything this node knows of the pair with this peer or member; what only the shell knows is left for the
    /// caller. `None` if nobody here knows it.
    pub fn evidence(&self, key: &PublicKey, now: Now) -> Option<Evidence> {
        let entry = self.membership.as_ref().and_then(|m| m.directory.by_key(key));
        let peer = self.peers.by_key(key).and_then(|slot| self.peers.get(slot));
        let member = entry.map(|e| &e.member).or_else(|| peer?.member());
        let name = member.map(|m| m.name().to_string()).or_else(|| Some(peer?.name()))?;
        let known = member.map(|m| candidates_of(m)).unwrap_or_default();
        let mut evidence = Evidence {
            peer: name,
            online: entry.map(|e| e.online),
            peer_relay: member.is_some_and(|m| !m.relays().is_empty()),
            candidates: known.iter().map(|c| c.addr).collect(),
            ..self.own_evidence(now)
        };
        if let Some(peer) = peer {
            self.add_peer(&mut evidence, peer, now);
        }
        Some(evidence)
    }

    fn add_peer(&self, evidence: &mut Evidence, peer: &Peer, now: Now) {
        evidence.here = self.end(peer, now);
        evidence.established = peer.session.is_established();
        evidence.handshakes_unanswered = !evidence.established && peer.session.is_initiating();
        evidence.there = told(peer, now.mono).cloned();
        evidence.peer_answers = answers_views(peer);
        match &peer.kind {
            Kind::Member { path, .. } => {
                evidence.path = path.selected().map(Into::into);
                let found = Some(path.size()).filter(|size| size.settled);
                // As a whole IPv4 packet.
                evidence.path_mtu = found.map(|size| size.limit + DATAGRAM + 28);
                evidence.tried = path.counters().rounds > 0;
                evidence.settled &= path.is_settled() && evidence.tried;
                // An answer that is on its way is waited for.
                evidence.settled &=
                    evidence.peer_answers != Some(true) || has_looked(evidence.there.as_ref());
            }
            Kind::Stock { path, .. } => {
                let endpoint = path.endpoint();
                evidence.kind = if endpoint.is_some() { PeerKind::Stock } else { PeerKind::StockSilent };
                evidence.path = endpoint.map(|remote| Path::Direct { remote }.into());
                evidence.candidates = endpoint.into_iter().collect();
                evidence.tried = true;
            }
        }
    }
}

/// What the peer said, unless that is old.
fn told(peer: &Peer, now: Instant) -> Option<&End> {
    let told = peer.views.told.as_ref().filter(|(at, _)| now - *at < HOST_VIEW_LIFETIME);
    told.map(|(_, end)| &**end)
}

/// It has told what it found when it looked around, not only what it knew before.
fn has_looked(told: Option<&End>) -> bool {
    told.is_some_and(|end| end.host.udp != Udp::Unknown)
}

/// Whether its agent answers ASK; `None` before its HELLO.
fn answers_views(peer: &Peer) -> Option<bool> {
    peer.lanes.hello().map(|h| h.features & FEATURE_VIEW != 0)
}

fn pairs(path: &PathAgent, member: &Member, now: Now) -> Vec<PairView> {
    let known: Vec<Candidate> = candidates_of(member);
    let view = |p: &crate::path::PairReport| PairView {
        kind: p.kind,
        addr: p.addr,
        step: p.step,
        sent: u16::try_from(p.sent).unwrap_or(u16::MAX),
        answered: u16::try_from(p.answered).unwrap_or(u16::MAX),
    };
    path.report(&known, now).iter().take(MAX_PAIRS).map(view).collect()
}

fn changes(path: &PathAgent, now: Instant) -> Vec<Change> {
    let history = path.history();
    let skip = history.len().saturating_sub(MAX_CHANGES);
    let change = |h: &crate::path::HistoryEntry| Change {
        age: now - h.when,
        to: h.to.map(Into::into),
        reason: h.reason,
    };
    history.skip(skip).map(change).collect()
}

#[cfg(test)]
#[path = "views_tests.rs"]
mod tests;
