//! The session with one peer: WireGuard's handshake, key changes and timers, sans-IO.
//!
//! A [`Session`] belongs to control. It never sees data packets: the data plane seals with an
//! `Arc<`[`SealingKey`]`>`, opens with [`OpeningKey`]s and notes what went by in a shared [`Activity`]. Its
//! methods are of four kinds:
//! - getters;
//! - `handle_*`: something happened ([`Session::opening_installed`] is one of them by nature);
//! - commands: [`Session::initiate`], [`Session::close`];
//! - `poll_*`: what now? After every call drain `poll_event`, then `poll_transmit`, then ask `poll_timeout`.
//!
//! Guarantees: nothing that does not authenticate changes any state but counters of admission; randomness and time
//! are arguments; memory per idle peer is one `Session` of less than 1 KiB.
//!
//! Stricter than WireGuard in three ways that a stock peer cannot tell: keys are erased at 180 s instead of 540 s, the
//! previous cookie secret verifies for one more period, and an initiation is held back while the peer has 5 s to
//! confirm the keypair it just began. Between certified nodes, crossing initiations end in one keypair.
//!
//! The parts: [`admission`] and [`cookie`] stand in front, [`handshake`] over snow makes keys, `keypairs` orders
//! their change, `timers` says when, [`transport`] meets the packets.

pub mod activity;
pub mod admission;
pub mod cookie;
pub mod handshake;
pub mod index;
mod keypairs;
pub mod keys;
pub mod lane;
mod message;
#[cfg(any(test, feature = "sim"))]
pub mod null;
pub mod replay;
mod timers;
pub mod timestamp;
pub mod transport;

#[cfg(test)]
mod admission_tests;
#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod testing;

use std::collections::VecDeque;
use std::sync::Arc;

pub use activity::{Activity, Traffic};
pub use admission::{Admission, Verdict};
pub use cookie::{Mac1Check, PathSource};
pub use handshake::{Engine, LocalKey, PendingInitiation, consume_initiation};
pub use index::IndexAllocator;
pub use keys::{Direction, PeerPsk, Suite, bound_psk, lane_key};
pub use lane::{LaneKeys, LaneRoot};
pub use message::HandshakeMessage;
pub use timers::Timer;
pub use timestamp::{Tai64n, TimestampClock};
pub use transport::{AeadKey, KeypairId, OpeningKey, SealingKey, sealed_len};

use cookie::Cookie;
use handshake::SentInitiation;
use keypairs::{Change, Keypairs, Origin, Stage};
use message::SentMessage;

use crate::constants::{COOKIE_LIFETIME, MIN_INITIATION_INTERVAL, REKEY_TIMEOUT};
use crate::drop::DropReason;
use crate::key::PublicKey;
use crate::rng::Rng;
use crate::time::{Duration, Instant, Now};
use crate::wire::wireguard::{CookieReply, ReceiverIndex, Response, TRANSPORT_OVERHEAD};

/// What a session borrows from its node for one call.
#[derive(Debug)]
pub struct Context<'a> {
    /// Our static key.
    pub local: &'a LocalKey,
    /// The node's receiver indices.
    pub indices: &'a mut IndexAllocator,
    /// The clock of our initiations.
    pub timestamps: &'a mut TimestampClock,
    /// The node's randomness.
    pub rng: &'a mut Rng,
}

/// Who the peer is to this session; fixed for its life.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The peer's static key.
    pub peer: PublicKey,
    /// psk2 for either role.
    pub psk: PeerPsk,
    /// Send an empty packet when nothing went either way for so long: for stock peers behind a NAT.
    pub persistent_keepalive: Option<Duration>,
    /// The peer runs the same rules (a certified node): when two initiations cross, the one of the smaller static
    /// key is given up by both. A stock peer does not know that, so with it both go on.
    pub certified: bool,
    /// The greatest timestamp accepted from this key before, as persisted; [`Tai64n::ZERO`] if none.
    pub greatest_timestamp: Tai64n,
}

/// What the owner must do, in this order.
#[derive(Debug)]
pub enum SessionEvent {
    /// Give this key to the inbound half of port 0, then call
    /// [`Session::opening_installed`].
    InstallOpening(OpeningKey),
    /// Publish this as the key that seals.
    UseSealing(Arc<SealingKey>),
    /// Publish that nothing can be sealed.
    StopSealing,
    /// Take the opening key with this index away from port 0's inbound half, and with it the lanes of its keypair.
    RemoveOpening(ReceiverIndex),
    /// Send staged packets, or else an empty one ([`Session::seal_keepalive`]), now.
    SendKeepalive,
    /// The peer did not answer for [`REKEY_ATTEMPT_TIME`](crate::constants::REKEY_ATTEMPT_TIME): drop what is staged.
    HandshakeFailed,
}

/// Which end of the handshake we were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We sent message 1.
    Initiator,
    /// We sent message 2.
    Responder,
}

/// Our own initiation that is not answered yet.
#[derive(Debug)]
struct Attempt {
    sent: SentInitiation,
    message: SentMessage,
    /// First initiation of this attempt.
    started: Instant,
    retransmit_at: Instant,
}

/// The session with one peer.
#[derive(Debug)]
pub struct Session {
    peer: PublicKey,
    /// The key that the peer had before, while its binding lasts.
    previous_peer: Option<PublicKey>,
    /// The key of ours by which the peer knew us last.
    known_as: Option<PublicKey>,
    psk: PeerPsk,
    persistent_keepalive: Option<Duration>,
    certified: bool,
    greatest_timestamp: Tai64n,
    last_initiation_rx: Option<Instant>,
    last_initiation_tx: Option<Instant>,
    /// A handshake is wanted but may not begin yet.
    wanted: bool,
    attempt: Option<Box<Attempt>>,
    keys: Keypairs,
    cookie: Option<(Cookie, Instant)>,
    activity: Arc<Activity>,
    /// When `timers` looks at `activity` next.
    look_at: Option<Instant>,
    last_handshake: Option<Instant>,
    /// At most one initiation and one response, plus one repetition of each.
    transmit: VecDeque<HandshakeMessage>,
    /// Bounded by the calls between two drains: each adds at most `MAX_KEYPAIRS` + 2.
    events: VecDeque<SessionEvent>,
}

impl Session {
    /// A session without keys.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            peer: config.peer,
            previous_peer: None,
            known_as: None,
            psk: config.psk,
            persistent_keepalive: config.persistent_keepalive,
            certified: config.certified,
            greatest_timestamp: config.greatest_timestamp,
            last_initiation_rx: None,
            last_initiation_tx: None,
            wanted: false,
            attempt: None,
            keys: Keypairs::default(),
            cookie: None,
            activity: Arc::default(),
            look_at: None,
            last_handshake: None,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    /// The peer's static key.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// The key of ours that the peer is known to know: by which the last handshake was.
    pub fn known_as(&self) -> Option<PublicKey> {
        self.known_as
    }

    /// What the data plane notes its packets in.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Whether there is a key to seal with.
    pub fn is_established(&self) -> bool {
        self.keys.current().is_some()
    }

    /// Whether our initiation waits for its response.
    pub fn is_initiating(&self) -> bool {
        self.attempt.is_some()
    }

    /// When a handshake last completed: as the initiator with the response, as the responder with the confirmation.
    pub fn last_handshake(&self) -> Option<Instant> {
        self.last_handshake
    }

    /// The key that seals.
    pub fn sealing(&self) -> Option<&Arc<SealingKey>> {
        self.keys.current().map(|k| &k.sealing)
    }

    /// Our role in the handshake of the current keypair.
    pub fn role(&self) -> Option<Role> {
        self.keys.current().map(|k| role(k.initiator))
    }

    /// The greatest timestamp accepted from the peer, to be persisted where replays matter beyond a restart.
    pub fn greatest_timestamp(&self) -> Tai64n {
        self.greatest_timestamp
    }

    /// Seals an empty packet with the current key and notes it; `None` without a usable key.
    pub fn seal_keepalive(&self, now: Instant) -> Option<[u8; TRANSPORT_OVERHEAD]> {
        let sealing = self.sealing()?;
        let counter = sealing.reserve(1, now)?.start;
        let mut datagram = [0; TRANSPORT_OVERHEAD];
        let len = sealing.seal(counter, &mut datagram, 0);
        debug_assert_eq!(len, datagram.len());
        // A keepalive creates no deadline, so nobody needs waking.
        let _asleep = self.activity.note_tx(now, 1, len as u64, true);
        Some(datagram)
    }

    // ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Moves the root of the lane keys of keypair `id` out of the session, once: whoever has it derives them or drops
    /// it, and there is no other copy.
    pub fn take_lane_root(&mut self, id: KeypairId) -> Option<LaneRoot> {
        let keypair = self.keys.get_mut(id)?;
        Some(LaneRoot {
            id,
            local: keypair.local,
            handshake_hash: keypair.handshake_hash,
            lane_secret: keypair.lane_secret.take()?,
            role: role(keypair.initiator),
            born: keypair.born,
        })
    }

    /// Begins a handshake, unless one is under way. Never sends two initiations within 5 s, nor one while the peer
    /// has 5 s to confirm the keypair it just began; the wish is then remembered and served by `handle_timeout`.
    pub fn initiate(&mut self, now: Now, cx: &mut Context<'_>) {
        if self.attempt.is_some() {
            return;
        }
        self.wanted = true;
        self.serve_wish(now, cx);
    }

    /// The peer has another static key. What was agreed under the one before goes on, an initiation to it may still be answered,
    /// and its own are until [`Session::forget_previous_peer`].
    pub fn set_peer(&mut self, peer: PublicKey) {
        self.cookie = None;
        self.previous_peer = Some(core::mem::replace(&mut self.peer, peer));
    }

    /// The key that the peer had before is over.
    pub fn forget_previous_peer(&mut self) {
        self.previous_peer = None;
    }

    /// A static key of ours is over: what waits for an answer to it does so no more.
    pub fn retire_local(&mut self, key: &PublicKey, cx: &mut Context<'_>) {
        if self.attempt.as_ref().is_some_and(|attempt| attempt.sent.local() == *key) {
            self.cancel_attempt(cx);
            self.wanted = true;
        }
    }

    /// Ends everything at once: keys, handshakes, cookies. For a peer that was removed or revoked, and for all peers
    /// after a suspend or a clone of this machine. The session can begin anew.
    pub fn close(&mut self, cx: &mut Context<'_>) {
        self.cancel_attempt(cx);
        let change = self.keys.clear();
        self.apply(change, cx);
        self.wanted = false;
        self.cookie = None;
        self.look_at = None;
        self.transmit.clear();
        self.activity.set_awake(false);
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// The peer's message 1, which [`consume_initiation`] read and whose sender the owner looked up.
    ///
    /// # Errors
    /// The reason to drop it; nothing changed then.
    pub fn handle_initiation(
        &mut self,
        pending: PendingInitiation,
        now: Now,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let from = pending.peer_static();
        if from != self.peer && self.previous_peer != Some(from) {
            return Err(DropReason::NotMember);
        }
        let timestamp = pending.timestamp();
        if timestamp <= self.greatest_timestamp {
            return Err(DropReason::Replayed);
        }
        let too_soon = |last| now.mono.saturating_since(last) < MIN_INITIATION_INTERVAL;
        if self.last_initiation_rx.is_some_and(too_soon) {
            return Err(DropReason::RateLimited);
        }
        let (remote, local) = (pending.sender(), cx.indices.allocate(self.peer, cx.rng));
        let known_as = pending.local();
        let (response, secrets) = match pending.respond(&self.psk.responding, local) {
            Ok(made) => made,
            Err(reason) => {
                cx.indices.free(local);
                return Err(reason);
            }
        };
        self.greatest_timestamp = timestamp;
        self.known_as = Some(known_as);
        self.last_initiation_rx = Some(now.mono);
        if self.certified && self.attempt.is_some() && cx.local.public() < self.peer {
            // Two initiations crossed. Both ends know which one lives on; if it dies, we begin again in 5 s.
            self.cancel_attempt(cx);
            self.wanted = true;
        }
        let response = Some(SentMessage::new(&response));
        let origin = Origin { local, remote, born: now.mono, response };
        let change = self.keys.add(secrets, origin, cx.local.engine());
        self.apply(change, cx);
        Ok(())
    }

    /// The peer's message 2.
    ///
    /// # Errors
    /// The reason to drop it; nothing changed then, and the true response is still accepted.
    pub fn handle_response(
        &mut self,
        message: &Response<'_>,
        now: Now,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let attempt = self.attempt.as_ref().ok_or(DropReason::UnexpectedHandshake)?;
        let secrets = attempt.sent.consume_response(message, &self.psk.initiating)?;
        let local = attempt.sent.index();
        self.known_as = Some(attempt.sent.local());
        self.attempt = None;
        self.wanted = false;
        self.last_handshake = Some(now.mono);
        let origin = Origin { local, remote: message.sender(), born: now.mono, response: None };
        let change = self.keys.add(secrets, origin, cx.local.engine());
        self.apply(change, cx);
        Ok(())
    }

    /// A cookie reply to one of our messages: the cookie is used for 120 s, and the message it answers is sent once
    /// more at once.
    ///
    /// # Errors
    /// The reason to drop it; nothing changed then.
    pub fn handle_cookie_reply(&mut self, reply: &CookieReply<'_>, now: Instant) -> Result<(), DropReason> {
        let sent = match &mut self.attempt {
            Some(attempt) if attempt.sent.index() == reply.receiver() => &mut attempt.message,
            _ => match self.keys.by_index(reply.receiver()).map(|k| &mut k.stage) {
                Some(Stage::Unconfirmed(response)) => response,
                _ => return Err(DropReason::UnexpectedHandshake),
            },
        };
        let cookie = cookie::open_reply(&self.peer, &sent.mac1(), reply)?;
        if sent.may_repeat() {
            self.transmit.push_back(sent.seal(&self.peer, Some(&cookie)));
        }
        self.cookie = Some((cookie, now));
        Ok(())
    }

    /// The inbound half acknowledged the opening key with this index: message 2 may go out (responder), the
    /// sealing key is used (initiator). An index that was removed meanwhile is ignored.
    pub fn opening_installed(&mut self, index: ReceiverIndex, now: Instant, cx: &mut Context<'_>) {
        let (change, response) = self.keys.installed(index);
        let promoted = !change.events.is_empty();
        self.apply(change, cx);
        if let Some(mut response) = response {
            let cookie = self.fresh_cookie(now);
            let message = response.seal(&self.peer, cookie.as_ref());
            if let Some(keypair) = self.keys.by_index(index) {
                keypair.stage = Stage::Unconfirmed(response);
            }
            self.transmit.push_back(message);
        }
        if promoted {
            self.begin_looking(now);
            self.events.push_back(SessionEvent::SendKeepalive);
        }
    }

    /// The inbound half opened a first packet under the key with this index ([`OpeningKey::take_confirmation`]):
    /// the responder's new key may seal.
    pub fn handle_authenticated(&mut self, index: ReceiverIndex, now: Instant, cx: &mut Context<'_>) {
        if let Some(change) = self.keys.confirm(index) {
            self.wanted = false;
            self.last_handshake = Some(now);
            self.apply(change, cx);
            self.begin_looking(now);
        }
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The next handshake message to send to the peer.
    pub fn poll_transmit(&mut self) -> Option<HandshakeMessage> {
        self.transmit.pop_front()
    }

    /// The next thing for the owner to do.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    // ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────

    fn apply(&mut self, change: Change, cx: &mut Context<'_>) {
        self.events.extend(change.events);
        for index in change.freed {
            cx.indices.free(index);
        }
    }

    /// When a wanted handshake may begin.
    fn may_initiate_at(&self) -> Instant {
        let last = self.last_initiation_tx.max(self.keys.unconfirmed_since());
        last.map_or(Instant::ZERO, |last| last + REKEY_TIMEOUT)
    }

    fn serve_wish(&mut self, now: Now, cx: &mut Context<'_>) {
        if self.wanted && self.attempt.is_none() && now.mono >= self.may_initiate_at() {
            self.wanted = false;
            self.send_initiation(now.mono, now, cx);
        }
    }

    /// Sends an initiation with a fresh ephemeral key and timestamp; `started` is that of the first in a row.
    fn send_initiation(&mut self, started: Instant, now: Now, cx: &mut Context<'_>) {
        let from = self.choose_local(cx.local);
        self.cancel_attempt(cx);
        let index = cx.indices.allocate(self.peer, cx.rng);
        let timestamp = cx.timestamps.next(now);
        let Ok((sent, bytes)) = SentInitiation::create(from, self.peer, index, timestamp, cx.rng) else {
            // The peer's key is a point of small order: nobody can ever answer.
            cx.indices.free(index);
            self.events.push_back(SessionEvent::HandshakeFailed);
            return;
        };
        let mut message = SentMessage::new(&bytes);
        let cookie = self.fresh_cookie(now.mono);
        self.transmit.push_back(message.seal(&self.peer, cookie.as_ref()));
        self.last_initiation_tx = Some(now.mono);
        let retransmit_at = now.mono + timers::retransmit_after(cx.rng);
        self.attempt = Some(Box::new(Attempt { sent, message, started, retransmit_at }));
    }

    /// A peer that is not known to know our key is asked by it and, if it does not answer, by the one before in turn: it may
    /// have no way to hear of the new one.
    fn choose_local<'k>(&self, local: &'k LocalKey) -> &'k LocalKey {
        let tried = self.attempt.as_ref().map(|attempt| attempt.sent.local());
        let is_turn = self.known_as != Some(local.public()) && tried == Some(local.public());
        local.previous().filter(|_| is_turn).unwrap_or(local)
    }

    fn cancel_attempt(&mut self, cx: &mut Context<'_>) {
        if let Some(attempt) = self.attempt.take() {
            cx.indices.free(attempt.sent.index());
            // If it was not even fetched, it must not go out: its answer could not be read.
            self.transmit.retain(|m| m.first() != Some(&crate::wire::wireguard::TYPE_INITIATION));
        }
    }

    fn fresh_cookie(&mut self, now: Instant) -> Option<Cookie> {
        self.cookie = self.cookie.filter(|(_, received)| now.saturating_since(*received) < COOKIE_LIFETIME);
        self.cookie.map(|(cookie, _)| cookie)
    }
}

fn role(initiator: bool) -> Role {
    if initiator { Role::Initiator } else { Role::Responder }
}
