//! The roll: who is here, and who is told when that changes.
//!
//! ```text
//! JOIN ──▶ here ── connection closed ──▶ here, for ten seconds more ──▶ away
//!            │  ◀────────── JOIN ─────────────────┘
//!            └── BYE ──▶ away      └── LEAVE ──▶ left
//! ```
//! What changes is told together, half a second after what was told before: nine bytes a change to everybody who watches,
//! nothing to anybody else.

use std::collections::{BTreeMap, BTreeSet};

use skynet_core::control::roll::{MAX_ENTRIES, Presence, Roll, RollEntry};
use skynet_core::control::{DeniedCode, Message};
use skynet_core::key::PublicKey;
use skynet_core::member::Tags;
use skynet_core::time::{Duration, Instant, earliest};

use super::{ConnId, ControlServer, Enrolled, StoreOp, StoreRequest};
use crate::server::StreamDrop;
use crate::server::connection::{MemberKey, REQUEST_RATE};

/// Between two rolls to those who watch.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Whoever's connection closed without a word has so long to come back; as long as a node takes at most to connect again.
const AWAY_AFTER: Duration = Duration::from_secs(10);
/// The same of an ephemeral one: with the twenty seconds of a list it is out of every small network's rosters in thirty.
const AWAY_AFTER_EPHEMERAL: Duration = Duration::from_secs(8);
/// What a message of a snapshot costs of a connection's rate of requests.
const SNAPSHOT_COST: u64 = 10;

/// A member that is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Present {
    node_no: u32,
    pub(super) key: PublicKey,
    tags: Tags,
    mark: u32,
    ephemeral: bool,
    /// When it is taken for away, if its connection is closed.
    away_at: Option<Instant>,
}

impl Present {
    pub(super) fn of(who: &Enrolled) -> Self {
        let Enrolled { node_no, key, mark, ephemeral, .. } = *who;
        Self { node_no, key, tags: who.tags.clone(), mark, ephemeral, away_at: None }
    }
}

/// What is to be told of a member, and to whom: those who watch what it is, or was.
struct Change {
    entry: RollEntry,
    tags: [Tags; 2],
}

struct Watcher {
    network_id: [u8; 8],
    tags: Tags,
}

impl Watcher {
    fn wants(&self, network_id: [u8; 8], tags: &Tags) -> bool {
        self.network_id == network_id
            && (self.tags.is_empty() || self.tags.iter().any(|tag| tags.contains(tag)))
    }
}

/// At most one entry per connection, and one per member that was here within ten seconds.
#[derive(Default)]
pub(super) struct Rolls {
    present: BTreeMap<MemberKey, Present>,
    away: BTreeSet<(Instant, MemberKey)>,
    watchers: BTreeMap<ConnId, Watcher>,
    /// By network and number.
    changes: BTreeMap<([u8; 8], u32), Change>,
    told_at: Option<Instant>,
    due: Option<Instant>,
}

impl Rolls {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.due, self.away.first().map(|(at, _)| *at))
    }

    /// It has joined, at first or again.
    pub(super) fn arrived(&mut self, member: MemberKey, who: &Enrolled, now: Instant) {
        let here = Present::of(who);
        let before = self.take(&member);
        let before = before.map(|before| Present { away_at: None, key: here.key, ..before });
        if before.as_ref() != Some(&here) {
            let was = before.as_ref().map_or_else(Tags::default, |before| before.tags.clone());
            if let Some(before) = before.filter(|before| before.node_no != here.node_no) {
                self.note(&member, &before, Presence::Left, before.tags.clone(), now);
            }
            self.note(&member, &here, Presence::Online, was, now);
        }
        self.present.insert(member, here);
    }

    /// Its connection closed without a word.
    pub(super) fn closed(&mut self, member: MemberKey, now: Instant) {
        if let Some(present) = self.present.get_mut(&member)
            && present.away_at.is_none()
        {
            let at = now + if present.ephemeral { AWAY_AFTER_EPHEMERAL } else { AWAY_AFTER };
            present.away_at = Some(at);
            self.away.insert((at, member));
        }
    }

    /// It is not here any more.
    pub(super) fn gone(&mut self, member: MemberKey, presence: Presence, now: Instant) {
        if let Some(present) = self.take(&member) {
            self.note(&member, &present, presence, Tags::default(), now);
        }
    }

    /// It was not here, and is no member any more.
    pub(super) fn left(&mut self, member: &MemberKey, present: &Present, now: Instant) {
        self.note(member, present, Presence::Left, Tags::default(), now);
    }

    /// The next who did not come back in time.
    fn poll_late(&self, now: Instant) -> Option<MemberKey> {
        self.away.first().filter(|(at, _)| *at <= now).map(|(_, member)| *member)
    }

    /// Its session key, if it is ephemeral and here.
    fn ephemeral(&self, member: &MemberKey) -> Option<PublicKey> {
        self.present.get(member).filter(|p| p.ephemeral).map(|p| p.key)
    }

    fn take(&mut self, member: &MemberKey) -> Option<Present> {
        let present = self.present.remove(member)?;
        if let Some(at) = present.away_at {
            self.away.remove(&(at, *member));
        }
        Some(present)
    }

    fn note(&mut self, member: &MemberKey, present: &Present, presence: Presence, was: Tags, now: Instant) {
        if self.watchers.is_empty() {
            return;
        }
        let entry = RollEntry { node_no: present.node_no, presence, mark: present.mark };
        let change = Change { entry, tags: [present.tags.clone(), was] };
        self.changes.insert((member.network_id, present.node_no), change);
        self.due.get_or_insert(self.told_at.map_or(now, |at| (at + TELL_EVERY).max(now)));
    }

    /// Everybody of the network with one of these tags who is here.
    fn snapshot(&self, watcher: &Watcher) -> Vec<RollEntry> {
        let here = self.present.iter().filter(|(member, p)| watcher.wants(member.network_id, &p.tags));
        here.map(|(_, p)| RollEntry { node_no: p.node_no, presence: Presence::Online, mark: p.mark })
            .collect()
    }
}

impl ControlServer {
    /// WATCH: the answer, then everybody who is here.
    pub(super) fn on_watch(
        &mut self,
        conn: ConnId,
        request: u32,
        tags: Option<Tags>,
        now: Instant,
    ) -> Result<(), StreamDrop> {
        let connection = self.connections.get_mut(&conn).ok_or(StreamDrop::BrokenChannel)?;
        let Some(MemberKey { network_id, .. }) = connection.member else {
            return connection.refuse(request, DeniedCode::NotJoined, "join first");
        };
        let Some(tags) = tags else {
            self.rolls.watchers.remove(&conn);
            return connection.send(request, &Message::Ack(0));
        };
        let watcher = Watcher { network_id, tags };
        let entries = self.rolls.snapshot(&watcher);
        let pages = entries.len().div_ceil(MAX_ENTRIES).max(1);
        let (rate, burst) = REQUEST_RATE;
        let cost = (SNAPSHOT_COST * pages as u64).min(burst);
        if !connection.requests.take(cost, rate, burst, now) {
            return connection.refuse(request, DeniedCode::TryAgain, "too many requests");
        }
        self.rolls.watchers.insert(conn, watcher);
        connection.send(request, &Message::Ack(0))?;
        for page in 0..pages {
            let entries = entries.iter().skip(page * MAX_ENTRIES).take(MAX_ENTRIES).copied().collect();
            let roll = Roll { begins: page == 0, ends: page + 1 == pages, entries };
            connection.send(0, &Message::Roll(roll))?;
        }
        Ok(())
    }

    /// BYE: its process ends.
    pub(super) fn on_bye(&mut self, conn: ConnId, now: Instant) {
        let member = self.connections.get(&conn).and_then(|c| c.member);
        if let Some(member) = member.filter(|member| self.online.get(member) == Some(&conn)) {
            self.online.remove(&member);
            self.rolls.gone(member, Presence::Away, now);
        }
    }

    /// An ephemeral member that is gone leaves the directory, with its name and address. Nobody is answered.
    pub(super) fn forget_if_ephemeral(&mut self, member: MemberKey, now: Instant) {
        if let Some(key) = self.rolls.ephemeral(&member) {
            let MemberKey { network_id, identity } = member;
            self.requests.push_back(StoreRequest { id: 0, op: StoreOp::Leave { network_id, identity, key } });
            self.rolls.gone(member, Presence::Left, now);
        }
    }

    /// Tells whoever watches what has changed.
    pub(super) fn tell_rolls(&mut self, now: Instant) {
        while let Some(member) = self.rolls.poll_late(now) {
            self.forget_if_ephemeral(member, now);
            self.rolls.gone(member, Presence::Away, now);
        }
        if self.rolls.due.take_if(|at| *at <= now).is_none() {
            return;
        }
        self.rolls.told_at = Some(now);
        let changes = core::mem::take(&mut self.rolls.changes);
        let mut failed = Vec::new();
        for (&conn, watcher) in &self.rolls.watchers {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            let wanted = changes.iter().filter(|((network_id, _), change)| {
                change.tags.iter().any(|tags| watcher.wants(*network_id, tags))
            });
            let entries: Vec<RollEntry> = wanted.map(|(_, change)| change.entry).collect();
            for page in entries.chunks(MAX_ENTRIES) {
                let roll = Roll { begins: false, ends: false, entries: page.to_vec() };
                if let Err(reason) = connection.send(0, &Message::Roll(roll)) {
                    failed.push((conn, reason));
                    break;
                }
            }
        }
        let told: Vec<ConnId> = self.rolls.watchers.keys().copied().collect();
        told.into_iter().for_each(|conn| self.flush(conn));
        failed.into_iter().for_each(|(conn, reason)| self.close(conn, reason));
    }

    /// A connection is gone; whether somebody was here by it.
    pub(super) fn forget_roll(&mut self, conn: ConnId) {
        self.rolls.watchers.remove(&conn);
    }
}
