//! The signed container (docs/PROTOCOL.md §3.2) and its two states: parsed, and verified.
//!
//! ```text
//! 0        1             2          4                4+n          4+n+64
//! │ kind   │ version = 1 │ length n │ body: TLV      │ Ed25519    │
//! └───────────── signed, behind "skynet document 1" ─┘
//! ```
//!
//! A [`Signed`] value has been parsed and nothing more. Only [`Signed::verify`] yields a [`Verified`] one.

use core::fmt;
use core::ops::Deref;

use super::tlv::{Reader, TlvError, Writer};
use crate::crypto::hash;
use crate::key::{Identity, SigningKey};

const VERSION: u8 = 1;
const LABEL: &[u8] = b"skynet document 1";
const HEAD: usize = 4;
const SIGNATURE: usize = 64;

/// Longest manifest, policy and list of revocations in bytes: with everything else of a WELCOME it still fits one
/// control message of 16,384.
pub const MAX_MANIFEST: usize = 12_288;
/// Longest document of every other kind in bytes.
pub const MAX_DOCUMENT: usize = 1_024;

/// The kinds of documents and their numbers on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Root key, name and birth of a network; its hash is the network's pin.
    Genesis = 1,
    /// What the root says today: issuers, registrars, relays, the IPv4 range.
    Manifest = 2,
    /// What holders of a token's seed may create.
    Delegation = 3,
    /// Who a node is, by the token.
    Certificate = 4,
    /// Which X25519 key a node uses, by itself.
    Binding = 5,
    /// That a registrar let the node in.
    Receipt = 6,
    /// Where a node can be reached, by itself.
    Record = 7,
    /// Which nodes and tokens are taken back, by the root or an issuer.
    Revocations = 8,
    /// Who may talk to whom, by the root or an issuer.
    Policy = 9,
    /// Which documents are in force, by a registrar.
    Freshness = 10,
}

impl Kind {
    /// The kind with this number.
    pub fn from_u8(byte: u8) -> Option<Self> {
        use Kind::*;
        [Genesis, Manifest, Delegation, Certificate, Binding, Receipt, Record, Revocations, Policy, Freshness]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    fn max_len(self) -> usize {
        match self {
            Self::Manifest | Self::Revocations | Self::Policy => MAX_MANIFEST,
            _ => MAX_DOCUMENT,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Genesis => "genesis",
            Self::Manifest => "manifest",
            Self::Delegation => "delegation",
            Self::Certificate => "node certificate",
            Self::Binding => "key binding",
            Self::Receipt => "admission receipt",
            Self::Record => "node record",
            Self::Revocations => "list of revocations",
            Self::Policy => "policy",
            Self::Freshness => "word on what is in force",
        })
    }
}

/// Why bytes are not a document. Whoever wrote or stored them is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DocumentError {
    /// The length in the head does not match the bytes there are.
    #[error("the document is truncated or has bytes behind its end")]
    Length,
    /// Longer than the hard maximum of its kind.
    #[error("the {0} is longer than its hard maximum")]
    TooLong(Kind),
    /// Another kind than the place calls for.
    #[error("a {0} was expected, and another kind of document was found")]
    Kind(Kind),
    /// A version of the container this program does not know.
    #[error("the document has version {0}, which this program does not know: upgrade skynet")]
    Version(u8),
    /// The fields inside.
    #[error("the {0} is malformed: {1}")]
    Body(Kind, TlvError),
    /// The signature does not match.
    #[error("the signature of the {0} is wrong: it was altered or signed by another key")]
    Signature(Kind),
}

/// What a kind of document says.
pub trait Content: Clone + fmt::Debug + Sized {
    /// Its kind.
    const KIND: Kind;
    /// Writes the fields in rising order.
    fn encode(&self, w: &mut Writer);
    /// Reads and checks the fields; leaves unknown ones at the end to the caller.
    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError>;

    /// Signs it. The result is read back, so nothing is signed that a reader would refuse: the error says which
    /// field broke a limit.
    fn sign(&self, key: &SigningKey) -> Result<Verified<Self>, DocumentError> {
        let mut w = Writer::new();
        self.encode(&mut w);
        let body = w.finish();
        let length = u16::try_from(body.len()).map_err(|_| DocumentError::TooLong(Self::KIND))?;
        let mut bytes = vec![Self::KIND as u8, VERSION];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&body);
        let signature = key.sign(&signed_text(&bytes));
        bytes.extend_from_slice(&signature);
        Signed::<Self>::parse(&bytes).map(Verified)
    }
}

fn signed_text(head_and_body: &[u8]) -> Vec<u8> {
    [LABEL, head_and_body].concat()
}

/// The kind in the head of a document, if the rest of the head is plausible.
pub fn kind_of(bytes: &[u8]) -> Option<Kind> {
    bytes.first().copied().and_then(Kind::from_u8)
}

/// A parsed document whose signature has not been checked: believe nothing it says.
#[derive(Clone)]
pub struct Signed<T> {
    content: T,
    bytes: Vec<u8>,
}

impl<T: Content> Signed<T> {
    /// Parses exactly one document of this kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let [kind, version, high, low, rest @ ..] = bytes else { return Err(DocumentError::Length) };
        if *kind != T::KIND as u8 {
            return Err(DocumentError::Kind(T::KIND));
        }
        if *version != VERSION {
            return Err(DocumentError::Version(*version));
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if rest.len() != length + SIGNATURE {
            return Err(DocumentError::Length);
        }
        if bytes.len() > T::KIND.max_len() {
            return Err(DocumentError::TooLong(T::KIND));
        }
        let mut reader = Reader::new(&rest[..length]);
        let content = T::decode(&mut reader).map_err(|e| DocumentError::Body(T::KIND, e))?;
        reader.finish().map_err(|e| DocumentError::Body(T::KIND, e))?;
        Ok(Self { content, bytes: bytes.to_vec() })
    }

    /// What it claims, for choosing the key to verify it with.
    pub fn unverified(&self) -> &T {
        &self.content
    }

    /// Whether `key` signed it.
    pub fn is_signed_by(&self, key: &Identity) -> bool {
        let (text, signature) = self.bytes.split_at(self.bytes.len() - SIGNATURE);
        debug_assert!(text.len() >= HEAD);
        let signature = signature.try_into().expect("split off 64 bytes");
        key.verify(&signed_text(text), signature)
    }

    /// Checks the signature.
    pub fn verify(self, key: &Identity) -> Result<Verified<T>, DocumentError> {
        if self.is_signed_by(key) { Ok(Verified(self)) } else { Err(DocumentError::Signature(T::KIND)) }
    }

    /// The document's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `HASH` of the whole document.
    pub fn hash(&self) -> [u8; 32] {
        hash(&[&self.bytes])
    }
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signed").field(&self.content).finish()
    }
}

/// A document whose signature was checked, or made, with the key its context demands.
#[derive(Clone, Debug)]
pub struct Verified<T>(Signed<T>);

impl<T: Content> Verified<T> {
    /// The document's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// `HASH` of the whole document.
    pub fn hash(&self) -> [u8; 32] {
        self.0.hash()
    }

    /// Forgets that it was checked, for code that checks again.
    pub fn into_signed(self) -> Signed<T> {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.content
    }
}
