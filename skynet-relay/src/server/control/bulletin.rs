//! What holds for the whole network, and who has been told: every member after its WELCOME, and all that are online as soon
//! as there is something new. Whoever was revoked hears of it, and the connection ends. All that are online are told of a
//! member that has begun to relay, too: whoever comes later lists it.

use core::mem;
use std::collections::{BTreeSet, VecDeque};

use skynet_core::control::Message;
use skynet_core::control::message::Member;
use skynet_core::member::document::{Kind, kind_of};
use skynet_core::time::{Duration, Instant, earliest};

use super::{ConnId, ControlServer, InForce, MemberKey, StoreOp, StoreRequest};
use crate::registrar::Ousted;
use crate::server::{Revoked, StreamDrop};

/// News go to so many members at once,
const AT_ONCE: usize = 256;
/// and to the next after this long: ten thousand have heard within two seconds, and their queues stay short.
const PAUSE: Duration = Duration::from_millis(50);
/// The directory is asked what is in force this often: a registrar says it anew every hour.
const ASK_EVERY: Duration = Duration::from_secs(600);

/// Members that are told of at once; of more the first is found in the list, as all others are.
pub(super) const MAX_ANNOUNCED: usize = 16;

/// A member that is told of.
struct Announced {
    bundle: Vec<u8>,
    /// Who has not heard.
    waiting: BTreeSet<ConnId>,
}

/// What there is to tell.
#[derive(Default)]
pub(super) struct Bulletin {
    /// Each with its number; numbers rise.
    documents: Vec<(u64, Vec<u8>)>,
    last: u64,
    /// Who has not heard the latest.
    waiting: BTreeSet<ConnId>,
    announced: VecDeque<Announced>,
    next: Option<Instant>,
    ask: Option<Instant>,
    /// Not handed out yet.
    revoked: Option<Revoked>,
}

impl Bulletin {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.next, Some(self.ask.unwrap_or(Instant::ZERO)))
    }

    /// What a connection that holds this document need not be told.
    pub(super) fn number_of(&self, document: &[u8]) -> Option<u64> {
        self.documents.iter().find(|(_, held)| held == document).map(|(number, _)| *number)
    }

    /// The next who is to be told of a member, and of which.
    fn next_announcement(&mut self) -> Option<(ConnId, Vec<u8>)> {
        while let Some(first) = self.announced.front_mut() {
            if let Some(conn) = first.waiting.pop_first() {
                return Some((conn, first.bundle.clone()));
            }
            self.announced.pop_front();
        }
        None
    }

    /// Whether something of it is new.
    fn replace(&mut self, documents: Vec<Vec<u8>>) -> bool {
        let before = mem::take(&mut self.documents);
        let last = self.last;
        for document in documents {
            let known = before.iter().find(|(_, held)| *held == document).map(|(number, _)| *number);
            let number = known.unwrap_or(self.last + 1);
            self.last = self.last.max(number);
            self.documents.push((number, document));
        }
        self.last > last
    }
}

impl ControlServer {
    /// Whom the forwarding side must not serve, if that was said anew.
    pub fn poll_revoked(&mut self) -> Option<Revoked> {
        self.bulletin.revoked.take()
    }

    /// The keys of the network's relays.
    #[cfg(test)]
    pub(in crate::server) fn set_relays(&mut self, relays: Vec<skynet_core::key::PublicKey>) {
        self.config.relays = relays;
    }

    /// Asks what is in force: at the start, once in a while, and when the shell knows that it has changed.
    pub fn ask_in_force(&mut self, now: Instant) {
        let is_first = self.bulletin.ask.replace(now + ASK_EVERY).is_none();
        self.requests.push_back(StoreRequest { id: 0, op: StoreOp::InForce });
        if is_first {
            self.ask_ephemeral();
        }
    }

    pub(super) fn on_in_force(&mut self, in_force: InForce, now: Instant) {
        self.config.relays = in_force.relays;
        if self.bulletin.replace(in_force.documents) {
            self.bulletin.waiting.extend(self.online.values().copied());
            self.bulletin.next = Some(now);
        }
        let network_id = in_force.network_id;
        for Ousted { identity, .. } in &in_force.ousted {
            if let Some(&conn) = self.online.get(&MemberKey { network_id, identity: *identity }) {
                self.tell(conn);
                self.close(conn, StreamDrop::Revoked);
            }
        }
        let ousted = in_force.ousted.iter().map(|one| (one.identity, one.node_no));
        self.bulletin.revoked = Some(Revoked::new(network_id, ousted));
        self.tell_some(now);
    }

    /// Tells some of those who wait.
    pub(super) fn tell_some(&mut self, now: Instant) {
        if self.bulletin.ask.is_none_or(|at| at <= now) {
            self.ask_in_force(now);
        }
        if self.bulletin.next.take_if(|at| *at <= now).is_none() {
            return;
        }
        for _ in 0..AT_ONCE {
            if let Some(conn) = self.bulletin.waiting.pop_first() {
                self.tell(conn);
            } else if let Some((conn, bundle)) = self.bulletin.next_announcement() {
                self.push(conn, &Message::Peer(Member { online: true, bundle }));
            } else {
                return;
            }
        }
        self.bulletin.next = Some(now + PAUSE);
    }

    /// Tells everybody else who is online of a member.
    pub(super) fn announce(&mut self, member: MemberKey, bundle: Vec<u8>, now: Instant) {
        let others =
            self.online.iter().filter(|(key, _)| key.network_id == member.network_id && **key != member);
        let waiting = others.map(|(_, conn)| *conn).collect();
        if self.bulletin.announced.len() == MAX_ANNOUNCED {
            self.bulletin.announced.pop_front();
            self.drops.count(StreamDrop::AnnouncementFull);
        }
        self.bulletin.announced.push_back(Announced { bundle, waiting });
        self.bulletin.next.get_or_insert(now);
    }

    fn push(&mut self, conn: ConnId, message: &Message) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match connection.send(0, message) {
            Ok(()) => self.flush(conn),
            Err(reason) => self.close(conn, reason),
        }
    }

    /// Tells one member, or relay, what it has not heard yet.
    pub(super) fn tell(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let told = mem::replace(&mut connection.told, self.bulletin.last);
        for (number, document) in &self.bulletin.documents {
            if *number <= told || connection.has_manifest == Some(*number) {
                continue;
            }
            let message = match kind_of(document) {
                Some(Kind::Manifest) => Message::Manifest(document.clone()),
                _ => Message::Document(document.clone()),
            };
            let sent = connection.send(0, &message);
            if let Err(reason) = sent {
                return self.close(conn, reason);
            }
        }
        self.flush(conn);
    }
}
