//! A node's session key on its way to the next one, as far as its credentials know of it.
//!
//! ```text
//! one key ── prepare ──▶ next: made, bound, kept ── JOIN under it, its receipt ──▶ adopted: the one before still answers
//!    ▲                                                                                        │ until its end
//!    └────────────────────────────────── retired: erased ◀────────────────────────────────────┘
//! ```
//! Each step is kept before the next is taken, so whatever instant a machine dies at, it has every key that the directory or a
//! peer may know it by. Keys and certificate's identity are different things: what signs is never replaced.

use zeroize::Zeroizing;

use super::bundle::Bundle;
use super::certificate::Certificate;
use super::credentials::{Credentials, CredentialsError};
use super::document::{Content, DocumentError, Signed};
use super::enrol::{BINDING_LIFETIME, EPHEMERAL_BINDING_LIFETIME};
use super::record::{Binding, Receipt};
use super::tlv::{Cursor, Reader, TlvError, Writer};
use crate::key::{PublicKey, SigningKey, StaticSecret};
use crate::rng::Rng;
use crate::time::UnixTime;

/// Keys beside the one in use; since when that one is.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// 0: not known.
    since: UnixTime,
    next: Option<Next>,
    previous: Option<Previous>,
}

/// A key that the directory may know already.
#[derive(Clone, Debug)]
struct Next {
    secret: StaticSecret,
    binding: Signed<Binding>,
}

/// A key that peers may still know the node by.
#[derive(Clone, Debug)]
struct Previous {
    secret: StaticSecret,
    until: UnixTime,
}

impl Keys {
    /// One key, made at `since`.
    pub(super) fn since(since: UnixTime) -> Self {
        Self { since, next: None, previous: None }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        if let Some(next) = &self.next {
            w.bytes(0x0a, &Zeroizing::new([next.secret.expose(), next.binding.bytes()].concat()));
        }
        if let Some(previous) = &self.previous {
            let until = previous.until.0.to_be_bytes();
            w.bytes(0x0b, &Zeroizing::new([&previous.secret.expose()[..], &until].concat()));
        }
        w.u64(0x0c, self.since.0);
    }

    pub(super) fn decode(r: &mut Reader<'_>, node: &SigningKey) -> Result<Self, CredentialsError> {
        let next = r.optional(0x0a)?.map(|bytes| Next::decode(bytes, node)).transpose()?;
        let previous = match r.optional_array::<40>(0x0b)? {
            Some(bytes) => {
                let mut cursor = Cursor::new(&bytes);
                let secret = cursor.array().map(StaticSecret::from_bytes).ok_or(TlvError::Value(0x0b))?;
                let until = cursor.array().map(u64::from_be_bytes).ok_or(TlvError::Value(0x0b))?;
                Some(Previous { secret, until: UnixTime(until) })
            }
            None => None,
        };
        let since = UnixTime(r.optional_array(0x0c)?.map_or(0, u64::from_be_bytes));
        Ok(Self { since, next, previous })
    }
}

impl Next {
    fn decode(bytes: &[u8], node: &SigningKey) -> Result<Self, CredentialsError> {
        let (secret, binding) = bytes.split_first_chunk::<32>().ok_or(TlvError::Value(0x0a))?;
        let secret = StaticSecret::from_bytes(*secret);
        let binding = Signed::<Binding>::parse(binding)?;
        if binding.unverified().x25519 != secret.public() || !binding.is_signed_by(&node.identity()) {
            return Err(CredentialsError::Inconsistent("the next key's binding is of another key"));
        }
        Ok(Self { secret, binding })
    }
}

/// Life of a key, and of each of its bindings, in seconds: what the certificate's kind says, or less if that is wanted.
pub fn key_lifetime(certificate: &Certificate, wanted: Option<u64>) -> u64 {
    let most = if certificate.ephemeral { EPHEMERAL_BINDING_LIFETIME } else { BINDING_LIFETIME };
    wanted.map_or(most, |wanted| wanted.min(most))
}

impl Credentials {
    /// The session key that is to be the next one, if there is one.
    pub fn next_key(&self) -> Option<&StaticSecret> {
        self.keys.next.as_ref().map(|next| &next.secret)
    }

    /// The session key before the one in use, as long as peers may know the node by it.
    pub fn previous_key(&self) -> Option<(&StaticSecret, UnixTime)> {
        self.keys.previous.as_ref().map(|previous| (&previous.secret, previous.until))
    }

    /// Since when the session key has been in use; 0 if that was not written down.
    pub fn key_since(&self) -> UnixTime {
        self.keys.since
    }

    /// What JOIN under the next key sends. It has no receipt: the registrar is to give one.
    pub fn next_bundle(&self) -> Option<Bundle> {
        let next = self.keys.next.as_ref()?;
        Some(Bundle { binding: next.binding.clone(), receipt: None, ..self.bundle().clone() })
    }

    /// Makes the next session key and binds it; to be kept before anybody hears of it. One that was made before and was not
    /// adopted stays, for the directory may have it.
    ///
    /// # Errors
    /// The binding would be too long, which it is not.
    pub fn prepare_key(&mut self, lifetime: u64, now: UnixTime, rng: &mut Rng) -> Result<(), DocumentError> {
        let newest =
            self.keys.next.as_ref().map_or(self.bundle().binding.unverified(), |n| n.binding.unverified());
        let is_fresh = now.0 < newest.not_before.plus_secs(lifetime / 4).0;
        if self.keys.next.is_some() && is_fresh {
            return Ok(());
        }
        let sequence = now.0.max(newest.sequence.saturating_add(1));
        let secret = self.next_key().cloned().unwrap_or_else(|| StaticSecret::random(rng));
        let binding = self.bind(&secret.public(), sequence, lifetime, now)?;
        self.keys.next = Some(Next { secret, binding });
        Ok(())
    }

    /// The next key is the one in use, if peers would accept it with this receipt. The one before answers until `overlap`
    /// seconds are over or its binding is.
    ///
    /// # Errors
    /// The receipt is not for the next key; nothing has changed then.
    pub fn adopt_key(&mut self, receipt: &[u8], overlap: u64, now: UnixTime) -> Result<(), CredentialsError> {
        let mut bundle = self.next_bundle().ok_or(CredentialsError::Inconsistent("there is no next key"))?;
        bundle.receipt = Some(Signed::<Receipt>::parse(receipt)?);
        self.trust()
            .verify_member(&bundle, now)
            .map_err(|_| CredentialsError::Inconsistent("the receipt is not for the next key"))?;
        let Some(next) = self.keys.next.take() else { return Ok(()) };
        let until = self.bundle().binding.unverified().not_after.min(now.plus_secs(overlap));
        let secret = self.replace_key(next.secret, bundle);
        self.keys = Keys { since: now, next: None, previous: Some(Previous { secret, until }) };
        Ok(())
    }

    /// Erases the key before the one in use, if its time is over. True if it did.
    pub fn retire_key(&mut self, now: UnixTime) -> bool {
        self.keys.previous.take_if(|previous| previous.until <= now).is_some()
    }

    /// Signs a new binding of the session key in use, to be followed by a JOIN: it lives another while where no registrar is
    /// there for the next key, or where the node was off for long.
    ///
    /// # Errors
    /// The binding would be too long, which it is not.
    pub fn renew_binding(&mut self, lifetime: Option<u64>, now: UnixTime) -> Result<(), DocumentError> {
        let lifetime = key_lifetime(self.bundle().certificate.unverified(), lifetime);
        let sequence = now.0.max(self.bundle().binding.unverified().sequence.saturating_add(1));
        let public = self.node().static_secret.public();
        let binding = self.bind(&public, sequence, lifetime, now)?;
        self.replace_binding(binding);
        Ok(())
    }

    fn bind(
        &self,
        key: &PublicKey,
        sequence: u64,
        lifetime: u64,
        now: UnixTime,
    ) -> Result<Signed<Binding>, DocumentError> {
        let certificate = self.bundle().certificate.unverified();
        sign_binding(&self.node().identity, key, certificate, sequence, (now, lifetime))
    }
}

/// A binding of a session key, from `since` on for so many seconds.
pub(super) fn sign_binding(
    node: &SigningKey,
    key: &PublicKey,
    certificate: &Certificate,
    sequence: u64,
    (since, lifetime): (UnixTime, u64),
) -> Result<Signed<Binding>, DocumentError> {
    let binding = Binding {
        network_id: certificate.network_id,
        identity: node.identity(),
        x25519: *key,
        sequence,
        not_before: since,
        not_after: since.plus_secs(lifetime),
    };
    Ok(binding.sign(node)?.into_signed())
}
