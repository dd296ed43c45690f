//! The few hash constructions everything is made of: BLAKE2s, keyed and plain, and HKDF over it.

use blake2::digest::consts::{U16, U32};
use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use subtle::ConstantTimeEq;

use crate::key::Secret;

/// BLAKE2s-256 of the concatenation of `parts`.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut h = Blake2s256::new();
    for part in parts {
        Digest::update(&mut h, part);
    }
    h.finalize().into()
}

/// Keyed BLAKE2s with a 16-byte result: WireGuard's `MAC`, and every MAC of the relay protocol.
/// `key` is at most 32 bytes.
pub fn mac16(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut m =
        <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("callers pass keys of at most 32 bytes");
    for part in parts {
        Update::update(&mut m, part);
    }
    m.finalize_fixed().into()
}

/// Keyed BLAKE2s with a 32-byte result, for deriving keys from keys.
pub fn mac32(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut m =
        <Blake2sMac<U32> as KeyInit>::new_from_slice(key).expect("callers pass keys of at most 32 bytes");
    for part in parts {
        Update::update(&mut m, part);
    }
    m.finalize_fixed().into()
}

/// HMAC-BLAKE2s (RFC 2104), as Noise and WireGuard use it (not the keyed mode).
pub fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut pad = [0x36u8; 64];
    for (p, k) in pad.iter_mut().zip(key) {
        *p ^= k;
    }
    let mut inner = Blake2s256::new();
    Digest::update(&mut inner, pad);
    for part in parts {
        Digest::update(&mut inner, part);
    }
    for p in &mut pad {
        *p ^= 0x36 ^ 0x5c;
    }
    let mut outer = Blake2s256::new();
    Digest::update(&mut outer, pad);
    Digest::update(&mut outer, inner.finalize());
    outer.finalize().into()
}

/// HKDF (RFC 5869) over HMAC-BLAKE2s, one block of output.
pub fn hkdf(salt: &[u8; 32], ikm: &[u8], info: &[&[u8]]) -> Secret {
    let prk = hmac(salt, &[ikm]);
    let mut parts: Vec<&[u8]> = info.to_vec();
    parts.push(&[1]);
    Secret::from_bytes(hmac(&prk, &parts))
}

/// Constant-time equality of two MACs.
pub fn mac_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7693 appendix B.
    #[test]
    fn hash_matches_the_rfc() {
        let expected = data_encoding::HEXLOWER
            .decode(b"508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982")
            .unwrap();
        assert_eq!(hash(&[b"a", b"bc"])[..], expected[..]);
    }

    #[test]
    fn hmac_differs_from_the_keyed_mode() {
        assert_ne!(hmac(&[1; 32], &[b"x"]), mac32(&[1; 32], &[b"x"]));
    }
}
