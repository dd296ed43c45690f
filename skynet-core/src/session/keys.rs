//! What a handshake yields, and what is derived from it: psk2 that binds identities, keys of further lanes.

use crate::crypto::{hash, hkdf};
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

/// Key of lane `lane` (1 or more) in one direction: HKDF-BLAKE2s with the handshake hash as salt, the lane secret
/// as key material and info = "skynet lane 1" | lane (u16, little-endian) | direction | suite | `hellos`.
/// `hellos` is the hash of both HELLO records, so a tampered negotiation yields different keys.
pub fn lane_key(
    lane_secret: &Secret,
    handshake_hash: &[u8; 32],
    lane: u16,
    direction: Direction,
    suite: u8,
    hellos: &[u8; 32],
) -> Secret {
    let info: [&[u8]; 5] = [b"skynet lane 1", &lane.to_le_bytes(), &[direction as u8], &[suite], hellos];
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
        let key =
            |lane, direction, suite, hellos| lane_key(&secret, &h, lane, direction, suite, &[hellos; 32]);
        let base = key(1, Direction::ToResponder, 1, 3);
        // Independently: Python's hmac with hashlib.blake2s, RFC 5869.
        let expected = LANE_VECTOR;
        assert_eq!(data_encoding::HEXLOWER.encode(base.expose()), expected);
        for other in [
            key(2, Direction::ToResponder, 1, 3),
            key(1, Direction::ToInitiator, 1, 3),
            key(1, Direction::ToResponder, 2, 3),
            key(1, Direction::ToResponder, 1, 4),
        ] {
            assert!(!base.ct_eq(&other));
        }
    }

    const LANE_VECTOR: &str = "fdf51dbe43d1b242d115e42efadeb9ca432a4a866456606eadd85ca35d99a110";
}
