//! What a node keeps: its keys and the documents it lives by, as one checked block of bytes.
//!
//! ```text
//! "skynet credentials" │ u8 version = 1 │ TLV │ 32 HASH("skynet credentials 1" │ all before)
//! ```
//! The token's seed is not among it.

use zeroize::Zeroizing;

use super::address::RootPin;
use super::bundle::Bundle;
use super::chain::{ChainError, Member};
use super::document::{Content, DocumentError, Signed};
use super::enrol::{NodeIdentity, RECORD_LIFETIME};
use super::record::{Binding, Endpoint, Receipt, Record, RelayRtt};
use super::rotation::Keys;
use super::tlv::{Cursor, Reader, TlvError, Writer};
use super::token::TokenRelay;
use super::trust::{NetworkTrust, TrustError};
use crate::crypto::{hash, mac_eq};
use crate::key::{SigningKey, StaticSecret};
use crate::time::UnixTime;

const MAGIC: &[u8] = b"skynet credentials";
const VERSION: u8 = 1;
const CHECK: usize = 32;
/// Longest encoding in bytes; a reader need not read more of a file.
pub const MAX_CREDENTIALS: usize = 65_536;

/// Kinds of documents of which one at a time holds.
const MAX_DOCUMENTS: usize = 3;

/// Why bytes are not credentials: the file was damaged or written by another program.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Something else.
    #[error("this is not a file of skynet credentials")]
    NotCredentials,
    /// A newer program's.
    #[error("the credentials have version {0}, which this program does not know: upgrade skynet")]
    Version(u8),
    /// The check value does not match.
    #[error("the credentials are damaged: their check value does not match")]
    Damaged,
    /// The check value matches and the content does not make sense.
    #[error("the credentials do not fit together: {0}")]
    Inconsistent(&'static str),
    /// A field.
    #[error("the credentials are malformed: {0}")]
    Field(#[from] TlvError),
    /// A document.
    #[error("the credentials hold a bad document: {0}")]
    Document(#[from] DocumentError),
    /// Genesis or manifest.
    #[error("the credentials hold a bad genesis or manifest: {0}")]
    Trust(#[from] TrustError),
}

/// A node's keys, its network and its own documents.
#[derive(Clone, Debug)]
pub struct Credentials {
    node: NodeIdentity,
    trust: NetworkTrust,
    bundle: Bundle,
    relays: Vec<TokenRelay>,
    pub(super) keys: Keys,
}

impl Credentials {
    pub(super) fn new(
        node: NodeIdentity,
        trust: NetworkTrust,
        bundle: Bundle,
        relays: Vec<TokenRelay>,
    ) -> Self {
        let keys = Keys::since(bundle.binding.unverified().not_before);
        Self { node, trust, bundle, relays, keys }
    }

    /// The keys.
    pub fn node(&self) -> &NodeIdentity {
        &self.node
    }
    /// Whether the keys were made on this machine; yes if it is not known where.
    pub fn is_of(&self, machine: &[u8; 16]) -> bool {
        self.node.fingerprint.is_none_or(|fingerprint| fingerprint == *machine)
    }
    /// The network.
    pub fn trust(&self) -> &NetworkTrust {
        &self.trust
    }
    /// The network, for a newer manifest.
    pub fn trust_mut(&mut self) -> &mut NetworkTrust {
        &mut self.trust
    }
    /// The node's documents: what JOIN sends again, and what peers are shown.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
    /// The relays the token named.
    pub fn relays(&self) -> &[TokenRelay] {
        &self.relays
    }

    /// This node as its peers see it now.
    pub fn member(&self, now: UnixTime) -> Result<Member, ChainError> {
        self.trust.verify_member(&self.bundle, now)
    }

    /// This node as it was admitted, though that may have ended: a registrar renews it, and until then peers refuse it.
    pub fn lapsed_member(&self, now: UnixTime) -> Result<Member, ChainError> {
        self.trust.verify_lapsed(&self.bundle, now)
    }

    /// Signs and keeps a new record of where the node can be reached. At most 16 endpoints and 8 relays.
    pub fn sign_record(
        &mut self,
        endpoints: Vec<Endpoint>,
        relays: Vec<RelayRtt>,
        now: UnixTime,
    ) -> Result<&Signed<Record>, DocumentError> {
        let last = self.bundle.record.as_ref().map_or(0, |r| r.unverified().version);
        let record = Record {
            network_id: self.trust.network_id(),
            identity: self.node.identity(),
            version: now.0.max(last.saturating_add(1)),
            not_after: now.plus_secs(RECORD_LIFETIME),
            endpoints,
            relays,
        };
        let signed = record.sign(&self.node.identity)?.into_signed();
        Ok(self.bundle.record.insert(signed))
    }

    /// Another binding of the session key in use.
    pub(super) fn replace_binding(&mut self, binding: Signed<Binding>) {
        self.bundle.binding = binding;
    }

    /// Another session key, with documents that name it; yields the one before.
    pub(super) fn replace_key(&mut self, secret: StaticSecret, bundle: Bundle) -> StaticSecret {
        self.bundle = bundle;
        core::mem::replace(&mut self.node.static_secret, secret)
    }

    /// Takes the receipt of a later WELCOME if peers would accept it.
    pub fn accept_receipt(&mut self, receipt: &[u8], now: UnixTime) -> Result<(), CredentialsError> {
        let receipt = Signed::<Receipt>::parse(receipt)?;
        let mut bundle = self.bundle.clone();
        bundle.receipt = Some(receipt);
        self.trust
            .verify_member(&bundle, now)
            .map_err(|_| CredentialsError::Inconsistent("the receipt is not for these keys"))?;
        self.bundle = bundle;
        Ok(())
    }

    /// The bytes for the file, which holds secrets: mode 0600.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new();
        w.bytes(0x81, &self.trust.root_pin().0);
        w.bytes(0x82, self.node.identity.seed().expose());
        w.bytes(0x83, self.node.static_secret.expose());
        if let Some(fingerprint) = &self.node.fingerprint {
            w.bytes(0x84, fingerprint);
        }
        w.bytes(0x85, self.trust.genesis().bytes());
        w.bytes(0x86, self.trust.manifest().bytes());
        w.bytes(0x87, &self.bundle.encode());
        let mut relays = Vec::new();
        self.relays.iter().for_each(|relay| relay.encode(&mut relays));
        w.bytes(0x88, &relays);
        // What holds for the whole network; whoever does not know it goes on without.
        let mut documents = Vec::new();
        for document in self.trust.documents() {
            documents.extend_from_slice(&u16::try_from(document.len()).expect("below 16,384").to_be_bytes());
            documents.extend_from_slice(document);
        }
        w.optional(0x09, &documents);
        self.keys.encode(&mut w);
        let body = Zeroizing::new(w.finish());
        let mut out = Zeroizing::new(Vec::with_capacity(MAGIC.len() + 1 + body.len() + CHECK));
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&body);
        let check = hash(&[b"skynet credentials 1", &out]);
        out.extend_from_slice(&check);
        out
    }

    /// The inverse of [`Credentials::encode`]; refuses whatever it did not write. Validity in time is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialsError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(CredentialsError::NotCredentials)?;
        let (version, rest) = rest.split_first().ok_or(CredentialsError::Damaged)?;
        if bytes.len() > MAX_CREDENTIALS || rest.len() < CHECK {
            return Err(CredentialsError::Damaged);
        }
        let (covered, check) = bytes.split_at(bytes.len() - CHECK);
        if !mac_eq(check, &hash(&[b"skynet credentials 1", covered])) {
            // A newer version may be laid out otherwise, and a flipped version byte is damage all the same.
            return Err(match *version {
                VERSION => CredentialsError::Damaged,
                other => CredentialsError::Version(other),
            });
        }
        if *version != VERSION {
            return Err(CredentialsError::Version(*version));
        }
        Self::decode_body(&rest[..rest.len() - CHECK])
    }

    fn decode_body(body: &[u8]) -> Result<Self, CredentialsError> {
        let mut r = Reader::new(body);
        let root_pin = RootPin(r.array(0x81)?);
        let identity = SigningKey::from_seed(&r.array(0x82)?);
        let static_secret = StaticSecret::from_bytes(r.array(0x83)?);
        let fingerprint = r.optional_array(0x84)?;
        let mut trust = NetworkTrust::new(root_pin, r.required(0x85)?, r.required(0x86)?)?;
        let bundle = Bundle::parse(r.required(0x87)?)?;
        let relays = r.list(0x88, super::token::MAX_TOKEN_RELAYS, TokenRelay::decode)?;
        let document = |c: &mut Cursor<'_>| {
            let length = c.u16()?;
            c.take(usize::from(length)).map(<[u8]>::to_vec)
        };
        for document in r.optional_list(0x09, MAX_DOCUMENTS, document)? {
            trust.restore(&document)?;
        }
        let keys = Keys::decode(&mut r, &identity)?;
        r.finish()?;
        let node = NodeIdentity { identity, static_secret, fingerprint };
        if bundle.certificate.unverified().identity != node.identity() {
            return Err(CredentialsError::Inconsistent("the certificate is of another identity"));
        }
        if bundle.binding.unverified().x25519 != node.static_secret.public() {
            return Err(CredentialsError::Inconsistent("the key binding is of another session key"));
        }
        Ok(Self { node, trust, bundle, relays, keys })
    }
}
