//! Two living processes with one identity: a copied disk, or a copied machine. The one that began earlier keeps it.
//!
//! ```text
//! JOIN, and another connection has this member
//!   │ PING on the other ──▶ PONG in time: both live ──▶ the later process is refused (DENIED 11), the earlier let in
//!   └─────────────────────▶ silence: it is gone ──────▶ the new one is let in, the old connection closed
//! ```
//! A process that was killed has closed its connection, so nobody waits but whoever comes after a machine that was lost.

use std::collections::BTreeMap;

use skynet_core::control::message::BootEpoch;
use skynet_core::control::{DeniedCode, Message};
use skynet_core::rng::RngCore as _;
use skynet_core::time::{Duration, Instant, Now};

use super::{ConnId, ControlServer, Joined};
use crate::server::StreamDrop;
use crate::server::connection::MemberKey;

/// How long another process is waited for: a retransmission on a bad line, well below the five seconds of a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The same process by another connection: its network changed, and the old one is as good as closed.
const ANSWER_WITHIN_SAME: Duration = Duration::from_secs(1);
/// What the later process is told.
const REFUSED: &str = "another machine with the same identity is running and answers: this one is a copy of it, or of its disk. \
                       To make it a node of its own: skynet-agent down, remove credentials from /var/lib/skynet, then \
                       skynet-agent up --token";

/// A JOIN that waits.
struct Held {
    request: u32,
    joined: Box<Joined>,
    /// The connection that has the member,
    holder: ConnId,
    /// what it was asked,
    t: u64,
    /// and until when.
    deadline: Instant,
}

/// At most one for each connection.
#[derive(Default)]
pub(super) struct Fences {
    held: BTreeMap<ConnId, Held>,
    /// Those whose holder has answered.
    answered: Vec<ConnId>,
}

impl Fences {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.held.values().map(|held| held.deadline).min()
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.held.remove(&conn);
    }
}

impl ControlServer {
    /// A JOIN that the registrar admits: given back to be answered now, unless another connection has this member, and has
    /// said which process it is, as this one has.
    pub(super) fn fence(&mut self, conn: ConnId, request: u32, joined: Joined, now: Now) -> Option<Joined> {
        let member = MemberKey::of(&joined.who);
        let holder = self.online.get(&member).copied().filter(|holder| *holder != conn);
        let Some((holder, theirs)) = holder.and_then(|holder| Some((holder, self.epoch(holder)?))) else {
            return Some(joined);
        };
        let Some(ours) = self.epoch(conn) else { return Some(joined) };
        let t = self.rng.next_u64();
        let within = if ours.nonce == theirs.nonce { ANSWER_WITHIN_SAME } else { ANSWER_WITHIN };
        let asked = self.connections.get_mut(&holder).is_some_and(|c| c.send(0, &Message::Ping(t)).is_ok());
        if !asked {
            return Some(joined);
        }
        self.flush(holder);
        let held = Held { request, joined: Box::new(joined), holder, t, deadline: now.mono + within };
        self.fences.held.insert(conn, held);
        None
    }

    /// A connection answers what it was asked; decided as soon as its bytes are read.
    pub(super) fn on_alive(&mut self, conn: ConnId, t: u64) {
        let asked = self.fences.held.iter().filter(|(_, held)| held.holder == conn && held.t == t);
        let answered: Vec<ConnId> = asked.map(|(newcomer, _)| *newcomer).collect();
        self.fences.answered.extend(answered);
    }

    /// Decides what is due.
    pub(super) fn settle_fences(&mut self, now: Now) {
        for newcomer in core::mem::take(&mut self.fences.answered) {
            let Some(held) = self.fences.held.remove(&newcomer) else { continue };
            self.both_live(newcomer, held, now);
        }
        let late = self.fences.held.iter().filter(|(_, held)| held.deadline <= now.mono);
        let late: Vec<ConnId> = late.map(|(newcomer, _)| *newcomer).collect();
        for newcomer in late {
            let Some(held) = self.fences.held.remove(&newcomer) else { continue };
            self.close(held.holder, StreamDrop::Idle);
            self.admit(newcomer, held, now);
        }
    }

    fn epoch(&self, conn: ConnId) -> Option<BootEpoch> {
        self.connections.get(&conn).and_then(|c| c.epoch)
    }

    fn both_live(&mut self, newcomer: ConnId, held: Held, now: Now) {
        let refused = Message::denied(DeniedCode::Duplicate, REFUSED);
        // Of two copies of one process the one that is there stays.
        if self.epoch(newcomer) < self.epoch(held.holder) {
            self.answer(held.holder, 0, &refused, now.mono);
            self.close(held.holder, StreamDrop::Duplicate);
            return self.admit(newcomer, held, now);
        }
        self.answer(newcomer, held.request, &refused, now.mono);
        self.close(newcomer, StreamDrop::Duplicate);
    }

    fn admit(&mut self, conn: ConnId, held: Held, now: Now) {
        if self.connections.contains_key(&conn) {
            let message = self.welcome(conn, *held.joined, now);
            self.answer(conn, held.request, &message, now.mono);
        }
    }
}
