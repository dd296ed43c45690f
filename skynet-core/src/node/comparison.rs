//! Peers compare what they hold of the network's documents, inside the tunnel: a relay that shows one thing to one and another
//! to the other is found out, and whoever is behind is told by who is not.
//!
//! ```text
//!  HELLO of the peer
//!    │ the same epoch, another hash ─▶ an alarm at once; WANT, for what it shows is the proof
//!    │ a higher epoch ─▶ 15 s, in which an honest relay has long told us; then WANT
//!    ▼
//!  DOCUMENT, in parts ─▶ checked like everything a relay says ─▶ in force; and the relay is blamed if it was there
//! ```
//! A member may lie in its HELLO. All that gets is an alarm that names it, and one question in a while.

use crate::crypto::hash;
use crate::drop::DropReason;
use crate::id::{Generation, PeerSlot};
use crate::member::NetworkTrust;
use crate::member::document::Kind;
use crate::node::Node;
use crate::time::{Duration, Instant, Now, earliest};
use crate::wire::passed_on::{Joiner, Part};
use crate::wire::record::{FEATURE_DOCUMENTS, Holding, Record};

/// An honest relay has told everybody within five seconds; three times that.
const TOLD_WITHIN: Duration = Duration::from_secs(15);
/// A peer is waited for this long,
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
/// and asked so often.
const TRIES: u8 = 3;
/// A peer is answered this often at most, for each kind.
const ANSWER_EVERY: Duration = Duration::from_secs(2);
/// Differences that wait to be looked into.
const MAX_WAITING: usize = 64;
/// What is compared, in the order in which it is asked for: a new manifest may name who signs the others.
const COMPARED: [Kind; 3] = [Kind::Manifest, Kind::Revocations, Kind::Policy];

/// A document of the network of which a peer holds another than this node, though both are of one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SplitView {
    /// The peer, by its name.
    pub peer: String,
    /// Which document.
    pub kind: Kind,
    /// Of which epoch.
    pub epoch: u64,
    /// Whether it was shown, and is signed by who may: then somebody who may sign has signed twice.
    pub is_proven: bool,
}

/// Splits that are remembered, for people.
const MAX_SPLITS: usize = 16;

/// What is known of differences.
#[derive(Default)]
pub(super) struct Comparison {
    waiting: Vec<Difference>,
    fetch: Option<Fetch>,
    splits: Vec<SplitView>,
}

#[derive(Clone, Copy)]
struct Difference {
    peer: (PeerSlot, Generation),
    kind: Kind,
    theirs: Holding,
    due: Instant,
    tries: u8,
}

struct Fetch {
    of: Difference,
    parts: Joiner,
    until: Instant,
}

impl Comparison {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let fetch = self.fetch.as_ref().map(|fetch| fetch.until);
        let waiting = self.waiting.iter().map(|d| d.due).min();
        if fetch.is_some() { fetch } else { earliest(None, waiting) }
    }

    pub(super) fn splits(&self) -> &[SplitView] {
        &self.splits
    }

    fn note(&mut self, difference: Difference) {
        let same = |d: &Difference| (d.peer, d.kind) == (difference.peer, difference.kind);
        let asked = self.fetch.as_ref().is_some_and(|fetch| same(&fetch.of));
        if !asked && !self.waiting.iter().any(same) && self.waiting.len() < MAX_WAITING {
            self.waiting.push(difference);
        }
    }

    /// True the first time.
    fn note_split(&mut self, split: SplitView) -> bool {
        let known = self
            .splits
            .iter_mut()
            .find(|s| (&s.peer, s.kind, s.epoch) == (&split.peer, split.kind, split.epoch));
        if let Some(known) = known {
            let is_news = split.is_proven && !known.is_proven;
            known.is_proven |= split.is_proven;
            return is_news;
        }
        let room = self.splits.len() < MAX_SPLITS;
        if room {
            self.splits.push(split);
        }
        room
    }
}

/// The document of this kind that holds, and its epoch.
fn in_force(trust: &NetworkTrust, kind: Kind) -> Option<(u64, &[u8])> {
    match kind {
        Kind::Manifest => Some((trust.manifest().epoch, trust.manifest().bytes())),
        Kind::Revocations => trust.revocations().map(|d| (d.epoch, d.bytes())),
        Kind::Policy => trust.policy().map(|d| (d.epoch, d.bytes())),
        _ => None,
    }
}

/// What is held of this kind.
pub(super) fn holding(trust: &NetworkTrust, kind: Kind) -> Holding {
    let held = in_force(trust, kind);
    held.map_or_else(Holding::default, |(epoch, bytes)| Holding { epoch, hash: hash(&[bytes]) })
}

/// Two contents of one epoch.
fn is_split(ours: Holding, theirs: Holding) -> bool {
    ours.epoch == theirs.epoch && ours.epoch > 0 && ours.hash != theirs.hash
}

impl Node {
    /// The peer has said in its HELLO what it holds.
    pub(super) fn compare_documents(&mut self, slot: PeerSlot, now: Now) {
        let Some(peer) = self.peers.get(slot).filter(|p| p.member().is_some()) else { return };
        let (identity, name) = ((peer.slot, peer.generation), peer.name());
        let Some(hello) = peer.lanes.hello() else { return };
        let answers = hello.features & FEATURE_DOCUMENTS != 0;
        let [revocations, policy] = hello.documents.unwrap_or_default();
        let theirs = [hello.manifest, revocations, policy];
        let Some(trust) = self.trust() else { return };
        let ours = COMPARED.map(|kind| holding(trust, kind));
        for ((kind, ours), theirs) in COMPARED.into_iter().zip(ours).zip(theirs) {
            let is_split = is_split(ours, theirs);
            if is_split {
                self.tell_split(
                    SplitView { peer: name.clone(), kind, epoch: ours.epoch, is_proven: false },
                    now,
                );
            }
            if answers && (is_split || theirs.epoch > ours.epoch) {
                let due = if is_split { now.mono } else { now.mono + TOLD_WITHIN };
                self.comparison.note(Difference { peer: identity, kind, theirs, due, tries: 0 });
            }
        }
    }

    fn tell_split(&mut self, split: SplitView, now: Now) {
        let SplitView { peer, kind, epoch, is_proven } = &split;
        let what = match is_proven {
            true => "and both are signed by who may sign it: it was signed twice, or a key is stolen",
            false => "one of the two was shown what the other was not, or that member lies",
        };
        let text = format!("ALARM: {peer} holds another {kind} of epoch {epoch} than this node, {what}");
        if self.comparison.note_split(split)
            && let Some(membership) = &mut self.membership
        {
            membership.alarm(text, now);
        }
    }

    /// Time has passed: the next difference that is due is looked into, one at a time.
    pub(super) fn handle_comparison_timeout(&mut self, now: Now) {
        if let Some(fetch) = self.comparison.fetch.take_if(|fetch| fetch.until <= now.mono)
            && fetch.of.tries < TRIES
        {
            self.comparison.waiting.push(Difference { due: now.mono, ..fetch.of });
        }
        while self.comparison.fetch.is_none() {
            let due = self.comparison.waiting.iter().position(|d| d.due <= now.mono);
            let Some(difference) = due.map(|at| self.comparison.waiting.swap_remove(at)) else { return };
            self.fetch(difference, now);
        }
    }

    fn fetch(&mut self, difference: Difference, now: Now) {
        let Difference { peer: (slot, generation), kind, theirs, .. } = difference;
        let is_same = self.peers.get(slot).is_some_and(|p| p.generation == generation);
        let Some(trust) = self.trust() else { return };
        let ours = holding(trust, kind);
        let is_news = theirs.epoch > ours.epoch || is_split(ours, theirs);
        if is_same && is_news {
            let of = Difference { tries: difference.tries + 1, ..difference };
            let until = now.mono + SHOWN_WITHIN;
            self.comparison.fetch = Some(Fetch { of, parts: Joiner::new(kind), until });
            self.send_question(slot, &Record::Want(kind), now);
        }
    }

    /// WANT or DOCUMENT.
    pub(super) fn on_document_record(
        &mut self,
        slot: PeerSlot,
        record: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        let (record, peer) = self.record_of_member(slot, record)?;
        match record {
            Record::Want(kind) => {
                let shown = peer.shown.iter().find(|(shown, _)| *shown == kind).map(|(_, at)| *at);
                if shown.is_some_and(|at| now.mono - at < ANSWER_EVERY) {
                    return Err(DropReason::RateLimited);
                }
                // As many as there are kinds.
                peer.shown.retain(|(shown, _)| *shown != kind);
                peer.shown.push((kind, now.mono));
                self.show(slot, kind, now);
                Ok(())
            }
            Record::Document(part) => self.on_part(slot, &part, now),
            _ => Err(DropReason::UnexpectedRecord),
        }
    }

    fn show(&mut self, slot: PeerSlot, kind: Kind, now: Now) {
        let Some(trust) = self.trust() else { return };
        for part in in_force(trust, kind).map(|(_, bytes)| Part::of(kind, bytes)).unwrap_or_default() {
            self.send_record(slot, &Record::Document(part), now);
        }
    }

    fn on_part(&mut self, slot: PeerSlot, part: &Part, now: Now) -> Result<(), DropReason> {
        let asked = self
            .comparison
            .fetch
            .as_mut()
            .filter(|fetch| (fetch.of.peer.0, fetch.of.kind) == (slot, part.kind));
        let fetch = asked.ok_or(DropReason::UnexpectedRecord)?;
        let Some(document) = fetch.parts.take(part) else { return Ok(()) };
        let (kind, epoch) = (fetch.of.kind, fetch.of.theirs.epoch);
        self.comparison.fetch = None;
        let Some(peer) = self.peers.get(slot).map(|p| p.name()) else { return Ok(()) };
        if let Some(membership) = &mut self.membership
            && membership.on_document_of(&peer, &document, now)
        {
            self.tell_split(SplitView { peer, kind, epoch, is_proven: true }, now);
        }
        Ok(())
    }
}
