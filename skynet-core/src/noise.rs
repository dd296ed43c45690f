//! The primitives every Noise handshake runs on, of sessions and of control channels. snow is built without any of its own, so nothing here can fall back to the operating
//! system's randomness or to a Diffie-Hellman that accepts a point of small order.
//!
//! snow erases nothing. What we can own we erase: private keys, cipher keys, hash outputs, the pre-shared key slot.
//! A `HandshakeState` lives for one call, or as long as an initiation waits for its peer to be looked up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake2::Blake2s256;
use blake2::digest::Digest as _;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroize;

use crate::constants::MAX_CACHED_SHARED_SECRETS;
use crate::crypto::hmac;
use crate::key::{PublicKey, Secret, StaticSecret};
use crate::rng::{Rng, RngCore};

/// Static-static Diffie-Hellman results, shared by all handshakes of one local key; the oldest leaves first.
#[derive(Debug, Default)]
pub(crate) struct SharedSecrets(Mutex<(BTreeMap<PublicKey, Secret>, VecDeque<PublicKey>)>);

impl SharedSecrets {
    fn lock(&self) -> MutexGuard<'_, (BTreeMap<PublicKey, Secret>, VecDeque<PublicKey>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, peer: &PublicKey) -> Option<Secret> {
        self.lock().0.get(peer).cloned()
    }

    /// Only for peers whose handshake authenticated: strangers must not evict them.
    pub(crate) fn insert(&self, peer: PublicKey, secret: Secret) {
        let mut guard = self.lock();
        let (map, order) = &mut *guard;
        if map.insert(peer, secret).is_none() {
            order.push_back(peer);
        }
        if map.len() > MAX_CACHED_SHARED_SECRETS
            && let Some(oldest) = order.pop_front()
        {
            map.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().0.len()
    }
}

/// What one handshake leaves behind outside snow.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Third output of `Split`.
    pub(crate) lane_secret: Option<Secret>,
    /// Results computed with our static key: at most the two of one message.
    pub(crate) with_static: Vec<(PublicKey, Secret)>,
}

/// A trace shared between snow's objects and us.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedTrace(Arc<Mutex<Trace>>);

impl SharedTrace {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Trace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything snow asks for, for one handshake.
pub(crate) struct Primitives {
    pub(crate) secret: StaticSecret,
    pub(crate) public: PublicKey,
    pub(crate) shared: Arc<SharedSecrets>,
    pub(crate) seed: Secret,
    pub(crate) trace: SharedTrace,
}

impl Primitives {
    /// For a handshake that shares nothing with others: that of a control channel.
    pub(crate) fn alone(secret: &StaticSecret, rng: &mut Rng) -> Self {
        Self {
            secret: secret.clone(),
            public: secret.public(),
            shared: Arc::default(),
            seed: Secret::random(rng),
            trace: SharedTrace::default(),
        }
    }
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(Rng::from_seed(*self.seed.expose()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| {
            Box::new(X25519 {
                local: (self.secret.clone(), self.public),
                shared: Arc::clone(&self.shared),
                trace: self.trace.clone(),
                private: StaticSecret::from_bytes([0; 32]),
                public: PublicKey([0; 32]),
                is_static: false,
            }) as Box<dyn Dh>
        })
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s).then(|| {
            Box::new(Blake2s { state: Blake2s256::new(), trace: self.trace.clone() }) as Box<dyn Hash>
        })
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly)
            .then(|| Box::new(ChaChaPoly(Secret::from_bytes([0; 32]))) as Box<dyn Cipher>)
    }
}

struct SeededRandom(Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// X25519 that refuses an all-zero result and knows the static-static results of earlier handshakes.
struct X25519 {
    local: (StaticSecret, PublicKey),
    shared: Arc<SharedSecrets>,
    trace: SharedTrace,
    private: StaticSecret,
    public: PublicKey,
    is_static: bool,
}

impl X25519 {
    fn set_private(&mut self, private: StaticSecret) {
        self.is_static = crate::crypto::mac_eq(private.expose(), self.local.0.expose());
        self.public = if self.is_static { self.local.1 } else { private.public() };
        self.private = private;
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    fn set(&mut self, privkey: &[u8]) {
        let bytes: [u8; 32] = privkey.try_into().expect("our builder passes 32 bytes");
        self.set_private(StaticSecret::from_bytes(bytes));
    }
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut bytes = [0; 32];
        rng.try_fill_bytes(&mut bytes)?;
        self.set_private(StaticSecret::from_bytes(bytes));
        bytes.zeroize();
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        self.public.as_bytes()
    }
    fn privkey(&self) -> &[u8] {
        self.private.expose()
    }
    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let peer = PublicKey(*pubkey.first_chunk().ok_or(snow::Error::Dh)?);
        let cached = if self.is_static { self.shared.get(&peer) } else { None };
        let result = match cached {
            Some(secret) => secret,
            None => self.private.diffie_hellman(&peer).ok_or(snow::Error::Dh)?,
        };
        out.get_mut(..32).ok_or(snow::Error::Dh)?.copy_from_slice(result.expose());
        if self.is_static {
            self.trace.lock().with_static.push((peer, result));
        }
        Ok(())
    }
}

/// ChaCha20-Poly1305 with Noise's nonce: four zero bytes and the little-endian counter.
struct ChaChaPoly(Secret);

impl ChaChaPoly {
    fn key(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, self.0.expose());
        LessSafeKey::new(key.expect("32 bytes are a ChaCha20 key"))
    }
    fn nonce(nonce: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&nonce.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }
    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Secret::from_bytes(*key);
    }
    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let tag = self
            .key()
            .seal_in_place_separate_tag(Self::nonce(nonce), Aad::from(authtext), body)
            .expect("a handshake field is short");
        rest[..16].copy_from_slice(tag.as_ref());
        plaintext.len() + 16
    }
    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let mut buf = ciphertext.to_vec();
        let plain = self
            .key()
            .open_in_place(Self::nonce(nonce), Aad::from(authtext), &mut buf)
            .map_err(|_| snow::Error::Decrypt)?;
        let len = plain.len();
        out.get_mut(..len).ok_or(snow::Error::Decrypt)?.copy_from_slice(plain);
        buf.zeroize();
        Ok(len)
    }
}

/// BLAKE2s, which notices `Split` and keeps the third output Noise leaves unused.
struct Blake2s {
    state: Blake2s256,
    trace: SharedTrace,
}

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }
    fn block_len(&self) -> usize {
        64
    }
    fn hash_len(&self) -> usize {
        32
    }
    fn reset(&mut self) {
        self.state = Blake2s256::new();
    }
    fn input(&mut self, data: &[u8]) {
        blake2::digest::Update::update(&mut self.state, data);
    }
    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.state.finalize_reset());
    }
    fn hkdf(
        &mut self,
        chaining_key: &[u8],
        ikm: &[u8],
        outputs: usize,
        out1: &mut [u8],
        out2: &mut [u8],
        out3: &mut [u8],
    ) {
        let mut salt: [u8; 32] = chaining_key.try_into().expect("the chaining key is one hash");
        let mut prk = hmac(&salt, &[ikm]);
        let mut t1 = hmac(&prk, &[&[1]]);
        let mut t2 = hmac(&prk, &[&t1, &[2]]);
        let mut t3 = hmac(&prk, &[&t2, &[3]]);
        out1[..32].copy_from_slice(&t1);
        if outputs >= 2 {
            out2[..32].copy_from_slice(&t2);
        }
        if outputs >= 3 {
            out3[..32].copy_from_slice(&t3);
        }
        // `Split` is the only use with two outputs and no input key material.
        if outputs == 2 && ikm.is_empty() {
            self.trace.lock().lane_secret = Some(Secret::from_bytes(t3));
        }
        for secret in [&mut salt, &mut prk, &mut t1, &mut t2, &mut t3] {
            secret.zeroize();
        }
    }
}
