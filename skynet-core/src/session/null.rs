//! The cheap stand-in for handshake and AEAD: same messages, same sizes, same order, no cryptography but the MACs
//! that admission looks at. For simulations of thousands; it protects nothing.
//!
//! A keypair is "derived" by hashing both ephemerals, so keys of different handshakes and wrong pre-shared keys still
//! refuse each other's packets as real ones do.

use crate::crypto::{hash, mac_eq};
use crate::drop::DropReason;
use crate::key::{PublicKey, Secret};
use crate::rng::Rng;
use crate::wire::wireguard::{Initiation, TAG_LEN};

use super::keys::SessionSecrets;
use super::timestamp::Tai64n;

/// A key that names itself in every tag.
#[derive(Clone, Copy, Debug)]
pub struct NullKey(u64);

impl NullKey {
    pub(super) fn new(secret: &Secret) -> Self {
        Self(u64::from_le_bytes(*secret.expose().first_chunk().expect("32 bytes")))
    }

    pub(super) fn tag(self, counter: u64) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        tag[..8].copy_from_slice(&self.0.to_le_bytes());
        tag[8..].copy_from_slice(&counter.to_le_bytes());
        tag
    }
}

/// The Noise part of an initiation: random bytes as ephemeral, then static key and timestamp in clear.
pub(super) fn write_initiation(ours: &PublicKey, timestamp: Tai64n, seed: &Secret) -> [u8; 108] {
    let mut noise = [0; 108];
    noise[..32].copy_from_slice(&ephemeral(seed));
    noise[32..64].copy_from_slice(ours.as_bytes());
    noise[80..92].copy_from_slice(&timestamp.0);
    let check = hash(&[b"null 1", &noise[..92]]);
    noise[64..80].copy_from_slice(&check[..16]);
    noise[92..].copy_from_slice(&check[16..]);
    noise
}

pub(super) fn read_initiation(message: &Initiation<'_>) -> Result<(PublicKey, Tai64n), DropReason> {
    let noise: &[u8; 108] = message.noise().try_into().map_err(|_| DropReason::Malformed)?;
    let mut key = PublicKey([0; 32]);
    key.0.copy_from_slice(&noise[32..64]);
    let mut timestamp = Tai64n::ZERO;
    timestamp.0.copy_from_slice(&noise[80..92]);
    let mut clear = *noise;
    clear[64..80].fill(0);
    let check = hash(&[b"null 1", &clear[..92]]);
    let authentic = mac_eq(&check[..16], &noise[64..80]) && mac_eq(&check[16..], &noise[92..]);
    if authentic { Ok((key, timestamp)) } else { Err(DropReason::BadHandshake) }
}

/// The responder's Noise part and its keys.
pub(super) fn write_response(initiation: &[u8], psk: &Secret, rng: &mut Rng) -> ([u8; 48], SessionSecrets) {
    let mut noise = [0; 48];
    noise[..32].copy_from_slice(&rng.array::<32>());
    let h = transcript(initiation, &noise[..32], psk);
    noise[32..].copy_from_slice(&hash(&[b"null 2", &h])[..16]);
    (noise, secrets(h, false))
}

/// The initiator's keys.
pub(super) fn read_response(
    initiation: &[u8],
    noise: &[u8],
    psk: &Secret,
) -> Result<SessionSecrets, DropReason> {
    let (ephemeral, check) = noise.split_at_checked(32).ok_or(DropReason::Malformed)?;
    let h = transcript(initiation, ephemeral, psk);
    if mac_eq(&hash(&[b"null 2", &h])[..16], check) {
        Ok(secrets(h, true))
    } else {
        Err(DropReason::BadHandshake)
    }
}

fn ephemeral(seed: &Secret) -> [u8; 32] {
    hash(&[b"null e", seed.expose()])
}

fn transcript(initiation: &[u8], ephemeral: &[u8], psk: &Secret) -> [u8; 32] {
    hash(&[b"null h", initiation, ephemeral, psk.expose()])
}

fn secrets(handshake_hash: [u8; 32], initiator: bool) -> SessionSecrets {
    let [t1, t2, t3] = [1u8, 2, 3].map(|n| Secret::from_bytes(hash(&[b"null k", &handshake_hash, &[n]])));
    let (send, receive) = if initiator { (t1, t2) } else { (t2, t1) };
    SessionSecrets { send, receive, handshake_hash, lane_secret: t3 }
}
