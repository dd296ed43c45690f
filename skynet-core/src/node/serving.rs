//! Relaying for other members (PROTOCOL §4.4): a member with the tag `relay` in its certificate has a forwarder on port 0
//! and gives a ticket to every member that asks inside the tunnel. So nobody is let in but who has proven its membership,
//! and the key tickets are made with never leaves this node.

use std::sync::Arc;

use crate::crypto;
use crate::drop::DropReason;
use crate::forwarder::aboard::KID;
use crate::forwarder::{MemberRelay, RelayLimits, RelayTime, Revoked, Served, unix_ms};
use crate::id::{NodeNo, PeerSlot, PortNo, RelayNo};
use crate::key::{Identity, PublicKey, Secret};
use crate::member::Member;
use crate::node::{Node, NodeEvent};
use crate::rng::RngCore as _;
use crate::time::{Duration, Instant, Now};
use crate::wire::record::{Grant, Record};
use crate::wire::relay::{Ticket, bind_key};
use crate::worker::InboundCommand;

/// Who carries it relays, if it says so, and is nobody's client but of the manifest's relays.
pub const RELAY_TAG: &str = "relay";
/// A ticket opens sessions for so long; a session that is open stays.
const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// An APPLY of one peer is answered at most this often; more are counted drops.
const ANSWER_EVERY: Duration = Duration::from_secs(1);
/// Of those who left within the life of a ticket.
const MAX_GONE: usize = 1_024;
/// How often silent sessions are looked for while nothing comes.
const TEND_EVERY: Duration = Duration::from_secs(10);

/// What this node does for others.
#[derive(Default)]
pub(super) struct Serving {
    /// `None`: nothing, whatever its tags.
    limits: Option<RelayLimits>,
    running: Option<Running>,
}

struct Running {
    no: RelayNo,
    key: Secret,
    time: RelayTime,
    served: Arc<Served>,
    /// Who had a ticket and is no member any more, at most [`MAX_GONE`]; the oldest is forgotten.
    gone: Vec<(Identity, u32)>,
    tend_at: Option<Instant>,
}

impl Serving {
    pub(super) fn new(limits: Option<RelayLimits>) -> Self {
        Self { limits, running: None }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn served(&self) -> Option<&Arc<Served>> {
        self.running.as_ref().map(|r| &r.served)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.running.as_ref()?.tend_at
    }
}

/// The number of a member that may relay.
pub(super) fn relay_no_of(member: &Member) -> Option<RelayNo> {
    let entitled = member.tags().contains(RELAY_TAG);
    RelayNo::of_member(NodeNo(member.node_no())).filter(|_| entitled)
}

impl Node {
    /// Begins or ends, as this node's certificate says.
    pub(super) fn tend_serving(&mut self, now: Now) {
        let me = self.membership.as_ref().and_then(|m| m.me());
        let may = self.serving.limits.is_some() && !self.membership.as_ref().is_some_and(|m| m.is_closed());
        let no = me.and_then(relay_no_of).filter(|_| may);
        if no != self.serving.running.as_ref().map(|r| r.no) {
            self.begin_serving(no, now);
        }
    }

    fn begin_serving(&mut self, no: Option<RelayNo>, now: Now) {
        self.leave_member_relays();
        let seed = self.membership.as_ref().and_then(|m| Some(m.credentials()?.node().identity.seed()));
        self.serving.running = no.zip(seed).map(|(no, seed)| Running {
            no,
            // The same after a restart and under another session key: tickets stay good.
            key: Secret::from_bytes(crypto::mac32(seed.expose(), &[b"skynet member relay 1"])),
            time: RelayTime::new(now),
            served: Arc::default(),
            gone: Vec::new(),
            tend_at: Some(now.mono + TEND_EVERY),
        });
        let limits = self.serving.limits.unwrap_or_default();
        let relay = self.serving.running.as_ref().map(|r| {
            let (key, served) = (r.key.clone(), Arc::clone(&r.served));
            Box::new(MemberRelay::new((r.no, limits), key, served, self.rng.fork(), (r.time, now.mono)))
        });
        self.events.push_back(NodeEvent::Inbound { port: PortNo(0), command: InboundCommand::Relay(relay) });
    }

    /// Offers to relay without being entitled to, as long as this node's documents stay as they are.
    #[cfg(feature = "sim")]
    pub fn offer_without_tag(&mut self, now: Now) {
        let me = self.membership.as_ref().and_then(|m| m.me());
        let no = me.and_then(|me| RelayNo::of_member(NodeNo(me.node_no())));
        self.begin_serving(no, now);
        self.settle(now);
    }

    /// Time has passed.
    pub(super) fn handle_serving_timeout(&mut self, now: Now) {
        let Some(running) = &mut self.serving.running else { return };
        if running.tend_at.take_if(|at| *at <= now.mono).is_some() {
            running.tend_at = Some(now.mono + TEND_EVERY);
            if running.served.sessions() > 0 {
                let command = InboundCommand::TendRelay(now.mono);
                self.events.push_back(NodeEvent::Inbound { port: PortNo(0), command });
            }
        }
    }

    /// Whoever this key belongs to is no member any more.
    pub(super) fn serve_no_more(&mut self, key: &PublicKey) {
        let peer = self.peers.by_key(key).and_then(|slot| self.peers.get(slot));
        // Who never asked has no ticket.
        let asked = peer.filter(|p| p.applied_at.is_some()).and_then(|p| p.member());
        let Some(gone) = asked.map(|m| (m.identity(), m.node_no())) else { return };
        if let Some(running) = &mut self.serving.running {
            running.gone.push(gone);
            let many = running.gone.len().saturating_sub(MAX_GONE);
            running.gone.drain(..many);
        }
        self.tell_gone();
    }

    fn tell_gone(&mut self) {
        let network_id = self.trust().map(|trust| trust.network_id().0);
        if let Some((running, network_id)) = self.serving.running.as_ref().zip(network_id) {
            let gone = Arc::new(Revoked::new(network_id, running.gone.iter().copied()));
            let command = InboundCommand::RefuseRelay(gone);
            self.events.push_back(NodeEvent::Inbound { port: PortNo(0), command });
        }
    }

    /// A member asks for a ticket.
    pub(super) fn on_apply(&mut self, slot: PeerSlot, id: u32, now: Now) -> Result<(), DropReason> {
        let running = self.serving.running.as_ref().ok_or(DropReason::UnexpectedRecord)?;
        let network_id = self.trust().map(|trust| trust.network_id().0);
        let peer = self.peers.get_mut(slot).ok_or(DropReason::NoPeer)?;
        if peer.applied_at.is_some_and(|at| now.mono - at < ANSWER_EVERY) {
            return Err(DropReason::RateLimited);
        }
        let (member, network_id) = peer.member().zip(network_id).ok_or(DropReason::UnexpectedRecord)?;
        let at = running.time.at(now.mono);
        let ticket = Ticket {
            kid: KID,
            rate_class: 0,
            node_no: member.node_no(),
            network_id,
            not_after: at.unix.plus_secs(TICKET_LIFETIME.as_secs()).0,
            issue_nonce: self.rng.next_u64(),
            identity_hash: Ticket::hash_identity(&member.identity()),
        };
        let ticket = ticket.mint(&running.key);
        let grant =
            Grant { id, ticket, bind_key: bind_key(&running.key, &ticket), relay_unix_ms: unix_ms(at) };
        let identity = member.identity();
        peer.applied_at = Some(now.mono);
        if let Some(running) = &mut self.serving.running
            && running.gone.iter().any(|(gone, _)| *gone == identity)
        {
            // It is one again: its documents had only ended.
            running.gone.retain(|(gone, _)| *gone != identity);
            self.tell_gone();
        }
        self.send_record(slot, &Record::Ticket(Box::new(grant)), now);
        Ok(())
    }
}
