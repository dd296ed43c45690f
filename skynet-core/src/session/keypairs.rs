//! The order of key changes of one peer: which keypairs exist, which one seals.
//!
//! ```text
//!              port 0's inbound half         responder: first packet under it
//!  handshake ──────── acknowledge ──▶ unconfirmed ──────────────────────▶ confirmed
//!  Installing │                   initiator: at once ─────────────────────▲   │
//!             └ only then: message 2 goes out / data is sealed                ▼
//!                                                        newest confirmed = current, the one that seals
//! ```
//!
//! Rules, each of which keeps a packet from meeting a peer without its key:
//! - A key is never used for sealing, nor message 2 released, before its opening half is installed here.
//! - A responder seals with the newest *confirmed* keypair, so never with one the initiator may not have.
//! - Older keypairs keep opening until they are 180 s old or more than [`MAX_KEYPAIRS`] exist.
//! - Sealing stops or changes before the opening half of the same keypair is removed.

use std::sync::Arc;

use super::keys::SessionSecrets;
use super::message::SentMessage;
use super::transport::{KeypairId, OpeningKey, SealingKey};
use super::{Engine, SessionEvent};
use crate::constants::{MAX_KEYPAIRS, REJECT_AFTER_TIME};
use crate::id::LaneNo;
use crate::key::Secret;
use crate::time::Instant;
use crate::wire::wireguard::ReceiverIndex;

/// How far a keypair has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Opening key handed out, not yet acknowledged. The responder's message 2 waits here.
    Installing(Option<SentMessage>),
    /// Responder: message 2 is out, nothing came back under the key. It is kept for a cookie reply.
    Unconfirmed(SentMessage),
    /// The peer is known to have the key.
    Confirmed,
}

/// One keypair.
#[derive(Debug)]
pub(super) struct Keypair {
    pub(super) local: ReceiverIndex,
    pub(super) sealing: Arc<SealingKey>,
    pub(super) born: Instant,
    pub(super) initiator: bool,
    pub(super) handshake_hash: [u8; 32],
    /// Until [`Session::take_lane_root`](super::Session::take_lane_root) moves it out.
    pub(super) lane_secret: Option<Secret>,
    pub(super) stage: Stage,
}

impl Keypair {
    fn id(&self) -> KeypairId {
        self.sealing.id()
    }
}

/// The keypairs of one peer, oldest first.
#[derive(Debug, Default)]
pub(super) struct Keypairs {
    list: Vec<Keypair>,
    /// Whether the last of the confirmed ones is announced as the sealing key.
    current: Option<KeypairId>,
}

/// Where a new keypair comes from.
pub(super) struct Origin {
    pub(super) local: ReceiverIndex,
    pub(super) remote: ReceiverIndex,
    pub(super) born: Instant,
    /// The responder's message 2; `None` makes us the initiator.
    pub(super) response: Option<SentMessage>,
}

/// What a change asks of the session.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) events: Vec<SessionEvent>,
    /// Indices that name nothing any more.
    pub(super) freed: Vec<ReceiverIndex>,
}

impl Keypairs {
    pub(super) fn current(&self) -> Option<&Keypair> {
        self.list.iter().find(|k| Some(k.id()) == self.current)
    }

    pub(super) fn get_mut(&mut self, id: KeypairId) -> Option<&mut Keypair> {
        self.list.iter_mut().find(|k| k.id() == id)
    }

    pub(super) fn by_index(&mut self, index: ReceiverIndex) -> Option<&mut Keypair> {
        self.list.iter_mut().find(|k| k.local == index)
    }

    /// Born of the newest keypair the peer has yet to confirm.
    pub(super) fn unconfirmed_since(&self) -> Option<Instant> {
        self.list.iter().filter(|k| !matches!(k.stage, Stage::Confirmed)).map(|k| k.born).max()
    }

    /// When the oldest keypair expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.list.iter().map(|k| k.born + REJECT_AFTER_TIME).min()
    }

    /// A handshake yielded keys: hands out the opening half.
    pub(super) fn add(&mut self, secrets: SessionSecrets, origin: Origin, engine: Engine) -> Change {
        let mut change = Change::default();
        // A message 2 that was not released yet is superseded: nobody can ever use its keys.
        if origin.response.is_some() {
            self.remove_where(|k| matches!(k.stage, Stage::Installing(Some(_))), &mut change);
        }
        while self.list.len() >= MAX_KEYPAIRS {
            let oldest = self.list.iter().find(|k| Some(k.id()) != self.current).map(Keypair::id);
            self.remove_where(|k| Some(k.id()) == oldest, &mut change);
        }
        let initiator = origin.response.is_none();
        let id = KeypairId(u64::from_le_bytes(*secrets.handshake_hash.first_chunk().expect("32 bytes")));
        let (seal, open) = (engine.aead(&secrets.send), engine.aead(&secrets.receive));
        let sealing = SealingKey::new(id, origin.remote, seal, origin.born, initiator);
        let opening = OpeningKey::new(id, LaneNo(0), origin.local, open, origin.born, !initiator);
        self.list.push(Keypair {
            local: origin.local,
            sealing: Arc::new(sealing),
            born: origin.born,
            initiator,
            handshake_hash: secrets.handshake_hash,
            lane_secret: Some(secrets.lane_secret),
            stage: Stage::Installing(origin.response),
        });
        change.events.push(SessionEvent::InstallOpening(opening));
        change
    }

    /// The inbound half has the opening key. Returns message 2 if it may go out now; a confirmed keypair of the
    /// initiator becomes current.
    pub(super) fn installed(&mut self, index: ReceiverIndex) -> (Change, Option<SentMessage>) {
        let Some(keypair) = self.by_index(index) else { return Default::default() };
        let Stage::Installing(response) = &mut keypair.stage else { return Default::default() };
        match response.take() {
            Some(response) => {
                keypair.stage = Stage::Unconfirmed(response.clone());
                (Change::default(), Some(response))
            }
            None => {
                keypair.stage = Stage::Confirmed;
                (self.promote(), None)
            }
        }
    }

    /// An authenticated packet arrived under the keypair at `index`. `None` if that is no news.
    pub(super) fn confirm(&mut self, index: ReceiverIndex) -> Option<Change> {
        let keypair = self.by_index(index)?;
        if !matches!(keypair.stage, Stage::Unconfirmed(_)) {
            return None;
        }
        keypair.stage = Stage::Confirmed;
        Some(self.promote())
    }

    /// Makes the newest confirmed keypair the one that seals.
    fn promote(&mut self) -> Change {
        let mut change = Change::default();
        let newest = self.list.iter().rfind(|k| matches!(k.stage, Stage::Confirmed));
        if let Some(newest) = newest.filter(|k| Some(k.id()) != self.current) {
            change.events.push(SessionEvent::UseSealing(Arc::clone(&newest.sealing)));
            self.current = Some(newest.id());
        }
        change
    }

    /// Removes what is 180 s old.
    pub(super) fn expire(&mut self, now: Instant) -> Change {
        let mut change = Change::default();
        self.remove_where(|k| now.saturating_since(k.born) >= REJECT_AFTER_TIME, &mut change);
        change
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) -> Change {
        let mut change = Change::default();
        self.remove_where(|_| true, &mut change);
        change
    }

    fn remove_where(&mut self, gone: impl Fn(&Keypair) -> bool, change: &mut Change) {
        if self.current().is_some_and(&gone) {
            // The current one is the newest confirmed, so no older one could take over.
            self.current = None;
            change.events.push(SessionEvent::StopSealing);
        }
        self.list.retain(|keypair| {
            let gone = gone(keypair);
            if gone {
                change.events.push(SessionEvent::RemoveOpening(keypair.local));
                change.freed.push(keypair.local);
            }
            !gone
        });
    }
}
