//! What a handshake yields, and what is derived from it: psk2 that binds identities, keys of further lanes.

use crate::crypto::{hash, hkdf};
use crate::id::LaneNo;
use crate::key::{Identity, Secret};

/// The result of a completed handshake, as seen from one end.
#[derive(Debug)]
pub struct SessionSecrets {
    /// Key of what we seal.
    pub send: Secret,
    /// Key of what we open.
    pub receive: Secret,
    /// Noise's handshake hash `h` after the last message; equal at both ends and unique to this handshake.
    pub handshake_hash: [u8; 32],
    /// Third output of Noise's `Split`: the root of every lane but lane 0.
    pub lane_secret: Secret,
}

/// psk2 between two certified nodes: binds both Ed25519 identities and the network's root to the handshake.
///
/// Roles matter: `initiator` is whoever sent the initiation. `extra` is a configured pre-shared key.
pub fn bound_psk(
    root_pin: &[u8; 32],
    initiator: &Identity,
    responder: &Identity,
    extra: Option<&Secret>,
) -> Secret {
    let mut parts: Vec<&[u8]> = vec![b"skynet psk 1", root_pin, initiator.as_bytes(), responder.as_bytes()];
    if let Some(extra) = extra {
        parts.push(extra.expose());
    }
    Secret::from_bytes(hash(&parts))
}

/// psk2 of one peer for either role.
#[derive(Clone, Debug)]
pub struct PeerPsk {
    /// When we send the initiation.
    pub initiating: Secret,
    /// When the peer does.
    pub responding: Secret,
}

impl PeerPsk {
    /// Between two certified nodes; see [`bound_psk`].
    pub fn bound(root_pin: &[u8; 32], us: &Identity, peer: &Identity, extra: Option<&Secret>) -> Self {
        Self {
            initiating: bound_psk(root_pin, us, peer, extra),
            responding: bound_psk(root_pin, peer, us, extra),
        }
    }

    /// With a stock WireGuard peer: the configured key, or WireGuard's zero.
    pub fn stock(configured: Option<&Secret>) -> Self {
        let psk = configured.cloned().unwrap_or(Secret::from_bytes([0; 32]));
        Self { initiating: psk.clone(), responding: psk }
    }
}

/// Which way a key points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the initiator of the handshake to its responder.
    ToResponder = 0,
    /// The other way.
    ToInitiator = 1,
}

/// The cipher of a lane; as a number, the place of its bit in HELLO's suites.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Suite {
    /// WireGuard's own (RFC 8439).
    ChaCha20Poly1305 = 0,
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm = 1,
}

impl Suite {
    /// Its bit in HELLO's suites.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// The suite with this number.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::ChaCha20Poly1305),
            1 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    /// What two ends use that offer these: AES-256-GCM if both have it, for only those offer it that are fast at it.
    pub const fn agree(ours: u32, theirs: u32) -> Option<Self> {
        let common = ours & theirs;
        if common & Self::Aes256Gcm.bit() != 0 {
            Some(Self::Aes256Gcm)
        } else if common & Self::ChaCha20Poly1305.bit() != 0 {
            Some(Self::ChaCha20Poly1305)
        } else {
            None
        }
    }

    /// Its name in the registry of AEAD algorithms (RFC 5116).
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            Self::Aes256Gcm => "AES-256-GCM",
        }
    }
}

/// Key of lane `lane` (1 or more) in one direction: HKDF-BLAKE2s with the handshake hash as salt, the lane secret
/// as key material and info = "skynet lane 1" | lane | direction | suite | `hellos`, one byte each but the last.
/// `hellos` is the hash of both HELLO records, so a tampered negotiation yields different keys.
pub fn lane_key(
    lane_secret: &Secret,
    handshake_hash: &[u8; 32],
    lane: LaneNo,
    direction: Direction,
    suite: Suite,
    hellos: &[u8; 32],
) -> Secret {
    let info: [&[u8]; 3] = [b"skynet lane 1", &[lane.0, direction as u8, suite as u8], hellos];
    hkdf(handshake_hash, lane_secret.expose(), &info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_psk_changes_with_root_roles_and_extra_key() {
        let (a, b) = (Identity([1; 32]), Identity([2; 32]));
        let extra = Secret::from_bytes([9; 32]);
        let base = bound_psk(&[0; 32], &a, &b, None);
        for other in [
            bound_psk(&[3; 32], &a, &b, None),
            bound_psk(&[0; 32], &b, &a, None),
            bound_psk(&[0; 32], &a, &b, Some(&extra)),
            bound_psk(&[0; 32], &a, &Identity([4; 32]), None),
        ] {
            assert!(!base.ct_eq(&other));
        }
        let (ours, theirs) = (PeerPsk::bound(&[0; 32], &a, &b, None), PeerPsk::bound(&[0; 32], &b, &a, None));
        assert!(ours.initiating.ct_eq(&theirs.responding) && ours.responding.ct_eq(&theirs.initiating));
    }

    #[test]
    fn lane_keys_match_the_test_vector_and_differ_by_every_input() {
        let (secret, h) = (Secret::from_bytes([1; 32]), [2; 32]);
        let key = |lane, direction, suite, hellos| {
            lane_key(&secret, &h, LaneNo(lane), direction, suite, &[hellos; 32])
        };
        let base = key(1, Direction::ToResponder, Suite::Aes256Gcm, 3);
        // Independently: Python's hmac with hashlib.blake2s, RFC 5869.
        let expected = LANE_VECTOR;
        assert_eq!(data_encoding::HEXLOWER.encode(base.expose()), expected);
        for other in [
            key(2, Direction::ToResponder, Suite::Aes256Gcm, 3),
            key(1, Direction::ToInitiator, Suite::Aes256Gcm, 3),
            key(1, Direction::ToResponder, Suite::ChaCha20Poly1305, 3),
            key(1, Direction::ToResponder, Suite::Aes256Gcm, 4),
        ] {
            assert!(!base.ct_eq(&other));
        }
    }

    #[test]
    fn aes_is_agreed_if_and_only_if_both_offer_it() {
        let (chacha, aes) = (Suite::ChaCha20Poly1305, Suite::Aes256Gcm);
        let both = chacha.bit() | aes.bit();
        for (ours, theirs, agreed) in [
            (both, both, Some(aes)),
            (both, chacha.bit(), Some(chacha)),
            (chacha.bit(), both, Some(chacha)),
            (chacha.bit(), chacha.bit(), Some(chacha)),
            (aes.bit(), chacha.bit(), None),
            (both, 0xffff_fffc, None),
            (0xffff_ffff, both, Some(aes)),
        ] {
            assert_eq!(Suite::agree(ours, theirs), agreed, "{ours:#x} {theirs:#x}");
        }
        assert_eq!([0, 1, 2].map(Suite::from_wire), [Some(chacha), Some(aes), None]);
    }

    const LANE_VECTOR: &str = "37a783a68f84453a38755a0162ef49567208e0eb7f0b7f4233b9128fc3939a7e";
}
