//! Keys as types: secrets are erased on drop, never printed and have no `==`; public keys print eight characters.

use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::rng::Rng;

/// 32 secret bytes. No `PartialEq`, no useful `Debug`; compare with [`Secret::ct_eq`].
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes the bytes as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// 32 bytes from `rng`.
    pub fn random(rng: &mut Rng) -> Self {
        Self(rng.array())
    }
    /// The bytes, for the primitive that consumes them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
    /// Constant-time equality.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An X25519 private key: the static key of a session (WireGuard paper §5.4) or of a control channel.
#[derive(Clone, Debug, Zeroize, ZeroizeOnDrop)]
pub struct StaticSecret(Secret);

impl StaticSecret {
    /// Takes the bytes as they are; clamping happens in the scalar multiplication.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::from_bytes(bytes))
    }
    /// A fresh key.
    pub fn random(rng: &mut Rng) -> Self {
        Self(Secret::random(rng))
    }
    /// The bytes, for the primitive that consumes them and for the key file.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::x25519(*self.expose(), x25519_dalek::X25519_BASEPOINT_BYTES))
    }
    /// X25519; `None` if the result is all zero, that is if `peer` is a point of small order (RFC 7748 §6.1).
    pub fn diffie_hellman(&self, peer: &PublicKey) -> Option<Secret> {
        let shared = x25519_dalek::x25519(*self.expose(), peer.0);
        if bool::from(shared.ct_eq(&[0; 32])) { None } else { Some(Secret::from_bytes(shared)) }
    }
}

macro_rules! public_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            /// Base64, as WireGuard's tools print keys.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::BASE64.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}…", &data_encoding::BASE64.encode(&self.0[..6]))
            }
        }

        impl core::str::FromStr for $name {
            type Err = KeyParseError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let bytes = data_encoding::BASE64.decode(s.trim().as_bytes()).map_err(|_| KeyParseError)?;
                Ok(Self(bytes.try_into().map_err(|_| KeyParseError)?))
            }
        }
    };
}

public_bytes! {
    /// An X25519 public key: a peer's static key.
    PublicKey
}
public_bytes! {
    /// An Ed25519 public key: who a node *is*. Everything else about it is signed by this key or names it.
    Identity
}

/// A text that is not 32 bytes in base64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a key: expected 44 characters of base64 (32 bytes)")]
pub struct KeyParseError;

/// An Ed25519 signing key: a node identity, an issuer, a registrar, a token's seed or the network's root.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key whose seed (RFC 8032 §5.1.5) is `seed`.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }
    /// A fresh key.
    pub fn random(rng: &mut Rng) -> Self {
        let mut seed = rng.array();
        let key = Self::from_seed(&seed);
        seed.zeroize();
        key
    }
    /// The seed, for the key file.
    pub fn seed(&self) -> Secret {
        Secret::from_bytes(self.0.to_bytes())
    }
    /// The public half.
    pub fn identity(&self) -> Identity {
        Identity(self.0.verifying_key().to_bytes())
    }
    /// Signs `message`. Callers put a domain-separation label in front.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.identity())
    }
}

impl Identity {
    /// Strict verification (RFC 8032 with small-order keys refused): a signature has one form only.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_order_point_yields_no_secret() {
        let key = StaticSecret::from_bytes([7; 32]);
        assert!(key.diffie_hellman(&PublicKey([0; 32])).is_none());
        assert!(key.diffie_hellman(&StaticSecret::from_bytes([8; 32]).public()).is_some());
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret::from_bytes([0x41; 32])), "***");
        assert!(!format!("{:?}", StaticSecret::from_bytes([0x41; 32])).contains("41"));
    }

    #[test]
    fn a_public_key_survives_its_text_form() {
        let key = StaticSecret::from_bytes([7; 32]).public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("short".parse::<PublicKey>(), Err(KeyParseError));
    }
}
