//! What a new relay needs to serve a network, as one line of text: a secret, like a join token.
//!
//! ```text
//! ski1. + base64url without padding of
//! 32 relay key | 32 cluster key | u16 length, genesis | u16 length, manifest | 8 HASH("skynet invitation 1" | all before)[..8]
//! ```
//!
//! Whoever reads it can be that relay, and can give tickets for all relays of the network: forward for whom it likes, read
//! nothing, and admit nobody.

use data_encoding::BASE64URL_NOPAD;
use skynet_core::crypto::{hash, mac_eq};
use skynet_core::key::{Secret, StaticSecret};
use skynet_core::member::{Genesis, NetworkTrust, RootPin, Signed};
use zeroize::Zeroizing;

const PREFIX: &str = "ski1.";
const LABEL: &[u8] = b"skynet invitation 1";
const CHECK: usize = 8;
/// Longest invitation, characters: a manifest of 64 relays fits.
pub const MAX_INVITATION: usize = 20_000;

/// Why a text is no invitation.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvitationError {
    /// It begins otherwise.
    #[error("this is no invitation of a relay: those begin with {PREFIX}")]
    Prefix,
    /// Characters are missing, added or changed.
    #[error("the invitation is damaged: copy it as a whole")]
    Damaged,
    /// Its documents do not hold, or do not list the relay.
    #[error("the invitation's documents do not hold: {0}; ask for another one")]
    Documents(String),
}

/// A relay's invitation, checked: the manifest is the network's, and lists a relay of this key.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The relay's Noise static key.
    pub relay_key: StaticSecret,
    /// Of tickets and bind keys.
    pub cluster_key: Secret,
    /// Genesis and manifest.
    pub trust: NetworkTrust,
    /// The relay's number.
    pub relay_no: u16,
}

impl Invitation {
    /// The invitation as text.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_INVITATION));
        bytes.extend_from_slice(self.relay_key.expose());
        bytes.extend_from_slice(self.cluster_key.expose());
        for document in [self.trust.genesis().bytes(), self.trust.manifest().bytes()] {
            let length = u16::try_from(document.len()).expect("documents are below 64 KiB");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(document);
        }
        let check = hash(&[LABEL, &bytes]);
        bytes.extend_from_slice(&check[..CHECK]);
        let mut text = Zeroizing::new(String::with_capacity(MAX_INVITATION));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        text
    }

    /// Parses an invitation; white space around it is ignored.
    ///
    /// # Errors
    /// See [`InvitationError`].
    pub fn parse(text: &str) -> Result<Self, InvitationError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvitationError::Prefix)?;
        if encoded.len() > MAX_INVITATION {
            return Err(InvitationError::Damaged);
        }
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| InvitationError::Damaged)?;
        Self::decode(&Zeroizing::new(bytes))
    }

    fn decode(bytes: &[u8]) -> Result<Self, InvitationError> {
        let damaged = InvitationError::Damaged;
        let (covered, check) = bytes.split_last_chunk::<CHECK>().ok_or(damaged.clone())?;
        if !mac_eq(check, &hash(&[LABEL, covered])[..CHECK]) {
            return Err(damaged);
        }
        let (relay_key, rest) = covered.split_first_chunk::<32>().ok_or(damaged.clone())?;
        let (cluster_key, rest) = rest.split_first_chunk::<32>().ok_or(damaged.clone())?;
        let (genesis, rest) = document(rest).ok_or(damaged.clone())?;
        let (manifest, rest) = document(rest).ok_or(damaged.clone())?;
        if !rest.is_empty() {
            return Err(damaged);
        }
        let wrong = |e: String| InvitationError::Documents(e);
        let pin = RootPin(Signed::<Genesis>::parse(genesis).map_err(|e| wrong(e.to_string()))?.hash());
        let trust = NetworkTrust::new(pin, genesis, manifest).map_err(|e| wrong(e.to_string()))?;
        let relay_key = StaticSecret::from_bytes(*relay_key);
        let own = relay_key.public();
        let listed = trust.manifest().relays.iter().find(|relay| relay.key == own);
        let relay_no =
            listed.ok_or_else(|| wrong("the manifest lists no relay of this key".into()))?.relay_no;
        Ok(Self { relay_key, cluster_key: Secret::from_bytes(*cluster_key), trust, relay_no })
    }
}

fn document(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
