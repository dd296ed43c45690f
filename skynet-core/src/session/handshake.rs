//! The handshake: WireGuard's messages 1 and 2 (WireGuard §5.4.2, §5.4.3) over snow.
//!
//! Guarantees: randomness comes from the caller's generator only; a result of a Diffie-Hellman that is all zero ends
//! the handshake; every attempt to read runs on a fresh Noise state, so a forged message leaves nothing behind.
//! Never decides who may talk to us: the caller looks the peer up between the two phases of the responder.

use std::sync::Arc;

use snow::HandshakeState;
use zeroize::Zeroize;

use super::cookie::Mac1Check;
use super::keys::{SessionSecrets, Suite};
#[cfg(any(test, feature = "sim"))]
use super::null;
use super::timestamp::Tai64n;
use super::transport::AeadKey;
use crate::constants::{LABEL_COOKIE, LABEL_MAC1, NOISE_NAME, NOISE_PROLOGUE};
use crate::crypto::hash;
use crate::drop::DropReason;
use crate::key::{PublicKey, Secret, StaticSecret};
use crate::noise::{Primitives, SharedSecrets, SharedTrace};
use crate::rng::Rng;
use crate::wire::wireguard::{INITIATION_LEN, Initiation, RESPONSE_LEN, ReceiverIndex, Response};

/// What makes handshakes and seals packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// WireGuard's cryptography.
    #[default]
    Noise,
    /// Nothing but the messages: for simulations of thousands.
    #[cfg(any(test, feature = "sim"))]
    Null,
}

impl Engine {
    /// The transport key with the given bytes.
    pub(super) fn aead(self, key: &Secret) -> AeadKey {
        match self {
            Self::Noise => AeadKey::chacha20_poly1305(key),
            #[cfg(any(test, feature = "sim"))]
            Self::Null => AeadKey::Null(null::NullKey::new(key)),
        }
    }

    /// The key of a lane with the given bytes.
    pub(super) fn lane_aead(self, suite: Suite, key: &Secret) -> AeadKey {
        match (self, suite) {
            (Self::Noise, Suite::Aes256Gcm) => AeadKey::aes_256_gcm(key),
            _ => self.aead(key),
        }
    }
}

/// Our static key with what is computed from it once, and the one before it while that still answers. Cheap to clone; all
/// clones share the cache of static-static Diffie-Hellman results.
#[derive(Clone, Debug)]
pub struct LocalKey {
    secret: StaticSecret,
    public: PublicKey,
    engine: Engine,
    shared: Arc<SharedSecrets>,
    previous: Option<Box<LocalKey>>,
}

impl LocalKey {
    /// The local end with static key `secret`.
    pub fn new(secret: StaticSecret, engine: Engine) -> Self {
        let public = secret.public();
        Self { secret, public, engine, shared: Arc::default(), previous: None }
    }

    /// `secret` in the place of this key, which goes on answering until [`LocalKey::retire`].
    #[must_use]
    pub fn succeed(self, secret: StaticSecret) -> Self {
        let engine = self.engine;
        Self { previous: Some(Box::new(Self { previous: None, ..self })), ..Self::new(secret, engine) }
    }

    /// Erases the key before this one; which it was.
    pub fn retire(&mut self) -> Option<PublicKey> {
        self.previous.take().map(|previous| previous.public)
    }

    /// The key before this one, while it answers.
    pub fn previous(&self) -> Option<&Self> {
        self.previous.as_deref()
    }

    /// Which of the two a handshake message is to.
    pub fn addressee(&self, message: &[u8]) -> &Self {
        let is_to = |previous: &&Self| Mac1Check::new(&previous.public).is_valid(message);
        self.previous().filter(is_to).unwrap_or(self)
    }

    /// Our secret half, for what else is agreed with it.
    pub fn secret(&self) -> &StaticSecret {
        &self.secret
    }

    /// This key alone.
    fn alone(&self) -> Self {
        Self {
            secret: self.secret.clone(),
            public: self.public,
            engine: self.engine,
            shared: Arc::clone(&self.shared),
            previous: None,
        }
    }

    /// Our static public key.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// What our handshakes are made of.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// A fresh Noise state. `None` for a remote key means responder.
    fn noise(
        &self,
        peer: Option<&PublicKey>,
        psk: Option<&Secret>,
        seed: Secret,
    ) -> (HandshakeState, SharedTrace) {
        let trace = SharedTrace::default();
        let primitives = Primitives {
            secret: self.secret.clone(),
            public: self.public,
            shared: Arc::clone(&self.shared),
            seed,
            trace: trace.clone(),
        };
        let params = NOISE_NAME.parse().expect("the protocol name is one snow knows");
        let builder = snow::Builder::with_resolver(params, Box::new(primitives))
            .prologue(NOISE_PROLOGUE)
            .and_then(|b| b.local_private_key(self.secret.expose()))
            .expect("each is set once");
        let built = match peer {
            Some(peer) => builder.remote_public_key(peer.as_bytes()).and_then(|b| b.build_initiator()),
            None => builder.build_responder(),
        };
        let mut state = built.expect("every primitive of the protocol name is provided");
        if let Some(psk) = psk {
            state.set_psk(2, psk.expose()).expect("32 bytes in slot 2");
        }
        (state, trace)
    }

    /// Keeps the static-static result of an authenticated handshake.
    fn remember(&self, peer: &PublicKey, trace: &SharedTrace) {
        let with_static = core::mem::take(&mut trace.lock().with_static);
        if let Some((_, secret)) = with_static.into_iter().find(|(key, _)| key == peer) {
            self.shared.insert(*peer, secret);
        }
    }

    #[cfg(test)]
    pub(super) fn cached_shared_secrets(&self) -> usize {
        self.shared.len()
    }
}

/// Key of `mac1` of messages to `public`.
pub(super) fn mac1_key(public: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_MAC1, public.as_bytes()])
}

/// Key of cookie replies from `public`.
pub(super) fn cookie_key(public: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_COOKIE, public.as_bytes()])
}

/// Keys and hash out of a finished Noise state, which is consumed.
fn split(mut state: HandshakeState, trace: &SharedTrace) -> SessionSecrets {
    let (mut to_responder, mut to_initiator) = state.dangerously_get_raw_split();
    let (a, b) = (Secret::from_bytes(to_responder), Secret::from_bytes(to_initiator));
    to_responder.zeroize();
    to_initiator.zeroize();
    let mut handshake_hash = [0; 32];
    handshake_hash.copy_from_slice(state.get_handshake_hash());
    let lane_secret = trace.lock().lane_secret.take().expect("split was just computed");
    // The slot keeps a copy that snow would leave in freed memory.
    state.set_psk(2, &[0; 32]).expect("32 bytes in slot 2");
    let (send, receive) = if state.is_initiator() { (a, b) } else { (b, a) };
    SessionSecrets { send, receive, handshake_hash, lane_secret }
}

/// An initiation that waits for its response: what is needed to build the same Noise state again.
#[derive(Debug)]
pub struct SentInitiation {
    /// The key of ours it was made with.
    local: LocalKey,
    peer: PublicKey,
    index: ReceiverIndex,
    timestamp: Tai64n,
    /// Seed of the ephemeral key.
    seed: Secret,
}

impl SentInitiation {
    /// Writes message 1 to `peer`, both MACs left zero.
    ///
    /// # Errors
    /// [`DropReason::BadHandshake`] if `peer` is a point of small order.
    pub fn create(
        local: &LocalKey,
        peer: PublicKey,
        index: ReceiverIndex,
        timestamp: Tai64n,
        rng: &mut Rng,
    ) -> Result<(Self, [u8; INITIATION_LEN]), DropReason> {
        let this = Self { local: local.alone(), peer, index, timestamp, seed: Secret::random(rng) };
        let noise = match local.engine {
            Engine::Noise => {
                let (mut state, trace) = local.noise(Some(&peer), None, this.seed.clone());
                let noise = this.write(&mut state)?;
                local.remember(&peer, &trace);
                noise
            }
            #[cfg(any(test, feature = "sim"))]
            Engine::Null => null::write_initiation(&local.public, timestamp, &this.seed),
        };
        Ok((this, Initiation::encode(index, &noise)))
    }

    /// The key of ours it was made with.
    pub fn local(&self) -> PublicKey {
        self.local.public
    }

    /// The index the response must name.
    pub fn index(&self) -> ReceiverIndex {
        self.index
    }

    fn write(&self, state: &mut HandshakeState) -> Result<[u8; 108], DropReason> {
        let mut noise = [0; 108];
        let written = state.write_message(&self.timestamp.0, &mut noise);
        debug_assert!(!matches!(written, Ok(len) if len != noise.len()));
        written.map(|_| noise).map_err(|_| DropReason::BadHandshake)
    }

    /// Reads message 2. Takes `&self`: a message that does not authenticate changes nothing, and the true one is
    /// still accepted after it.
    ///
    /// # Errors
    /// [`DropReason::UnexpectedHandshake`] for another index, [`DropReason::BadHandshake`].
    pub fn consume_response(
        &self,
        message: &Response<'_>,
        psk: &Secret,
    ) -> Result<SessionSecrets, DropReason> {
        let local = &self.local;
        if message.receiver() != self.index {
            return Err(DropReason::UnexpectedHandshake);
        }
        match local.engine {
            Engine::Noise => {
                let (mut state, trace) = local.noise(Some(&self.peer), Some(psk), self.seed.clone());
                self.write(&mut state)?;
                state.read_message(message.noise(), &mut []).map_err(|_| DropReason::BadHandshake)?;
                Ok(split(state, &trace))
            }
            #[cfg(any(test, feature = "sim"))]
            Engine::Null => {
                let ours = null::write_initiation(&local.public, self.timestamp, &self.seed);
                null::read_response(&ours, message.noise(), psk)
            }
        }
    }
}

enum PendingState {
    Noise(Box<HandshakeState>, SharedTrace),
    #[cfg(any(test, feature = "sim"))]
    Null(Box<[u8; 108]>, Rng),
}

/// A message 1 that authenticated: who sent it is known, whether it is welcome is not.
///
/// It proves possession of the static key and is not fresh by itself: compare [`PendingInitiation::timestamp`].
pub struct PendingInitiation {
    local: PublicKey,
    peer_static: PublicKey,
    timestamp: Tai64n,
    sender: ReceiverIndex,
    state: PendingState,
}

impl core::fmt::Debug for PendingInitiation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PendingInitiation")
            .field("peer_static", &self.peer_static)
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}

/// First phase of the responder: reads message 1. `mac1` was checked by [`super::Admission`] before, since this
/// costs two Diffie-Hellmans.
///
/// # Errors
/// [`DropReason::BadHandshake`].
pub fn consume_initiation(
    local: &LocalKey,
    message: &Initiation<'_>,
    rng: &mut Rng,
) -> Result<PendingInitiation, DropReason> {
    let sender = message.sender();
    match local.engine {
        Engine::Noise => {
            let (mut state, trace) = local.noise(None, None, Secret::random(rng));
            let mut timestamp = Tai64n::ZERO;
            let read = state.read_message(message.noise(), &mut timestamp.0);
            if !matches!(read, Ok(12)) {
                return Err(DropReason::BadHandshake);
            }
            let key = state.get_remote_static().and_then(|key| key.first_chunk());
            let peer_static = PublicKey(*key.expect("message 1 carries the static key"));
            local.remember(&peer_static, &trace);
            let state = PendingState::Noise(Box::new(state), trace);
            Ok(PendingInitiation { local: local.public, peer_static, timestamp, sender, state })
        }
        #[cfg(any(test, feature = "sim"))]
        Engine::Null => {
            let (peer_static, timestamp) = null::read_initiation(message)?;
            let noise = message.noise().try_into().expect("an initiation's Noise part has 108 bytes");
            let state = PendingState::Null(Box::new(noise), rng.fork());
            Ok(PendingInitiation { local: local.public, peer_static, timestamp, sender, state })
        }
    }
}

impl PendingInitiation {
    /// Who sent it, proven.
    pub fn peer_static(&self) -> PublicKey {
        self.peer_static
    }

    /// The key of ours it is to.
    pub fn local(&self) -> PublicKey {
        self.local
    }

    /// When, by the sender's clock; must be greater than any accepted from this key before.
    pub fn timestamp(&self) -> Tai64n {
        self.timestamp
    }

    /// The index the initiator wants its answer under.
    pub fn sender(&self) -> ReceiverIndex {
        self.sender
    }

    /// Second phase: mixes in `psk` and writes message 2, both MACs left zero.
    ///
    /// # Errors
    /// [`DropReason::BadHandshake`] if the peer used a point of small order.
    pub fn respond(
        self,
        psk: &Secret,
        index: ReceiverIndex,
    ) -> Result<([u8; RESPONSE_LEN], SessionSecrets), DropReason> {
        let (noise, secrets) = match self.state {
            PendingState::Noise(mut state, trace) => {
                state.set_psk(2, psk.expose()).expect("32 bytes in slot 2");
                let mut noise = [0; 48];
                state.write_message(&[], &mut noise).map_err(|_| DropReason::BadHandshake)?;
                (noise, split(*state, &trace))
            }
            #[cfg(any(test, feature = "sim"))]
            PendingState::Null(noise, mut rng) => null::write_response(&noise[..], psk, &mut rng),
        };
        Ok((Response::encode(index, self.sender, &noise), secrets))
    }
}
