//! The join token (docs/PROTOCOL.md §3.4): a delegation and the seed of its key, as one line of text.
//!
//! ```text
//! skj1. base64url( 32 root_pin │ 32 seed │ u8 n │ n × {u16 relay_no, 32 key, addr18} │ u16 length, delegation │ 8 check )
//! ```

use core::fmt;
use core::net::SocketAddr;

use data_encoding::{BASE64URL_NOPAD, DecodeKind};
use zeroize::Zeroizing;

use super::address::{NetworkId, RootPin};
use super::certificate::Delegation;
use super::document::{DocumentError, Signed};
use super::tlv::Cursor;
use crate::crypto::{hash, mac_eq};
use crate::key::{PublicKey, Secret, SigningKey};
use crate::time::UnixTime;
use crate::wire::address;

/// What every token starts with.
pub const PREFIX: &str = "skj1.";
/// Longest token in characters.
pub const MAX_TOKEN: usize = 2_048;
/// Most relays in a token.
pub const MAX_TOKEN_RELAYS: usize = 4;

const CHECK: usize = 8;

/// What is wrong with a token, one sentence each.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all.
    #[error("this is not a skynet join token: it does not start with \"skj1.\"")]
    WrongPrefix,
    /// Above the hard maximum.
    #[error("this is not a join token: it has {0} characters, and a token has at most 2048")]
    TooLong(usize),
    /// The end is missing.
    #[error("the join token is incomplete: its end is missing, copy it again as one line")]
    Truncated,
    /// Some character was changed, or something follows it.
    #[error("the join token is damaged: its check value does not match, copy it again as one line")]
    Damaged,
    /// The check value is right and the delegation is not: made by another version or by a broken tool.
    #[error("the join token cannot be used: {0}")]
    Delegation(#[from] DocumentError),
    /// Too late for new nodes.
    #[error("the join token has expired: it was valid until {until}, ask the operator for a new one", until = DateTime(*.0))]
    Expired(UnixTime),
    /// Another network's token.
    #[error("the join token is for network {token}, and this node belongs to network {ours}: leave it first")]
    ForeignNetwork {
        /// The network of the token.
        token: NetworkId,
        /// The network of this node.
        ours: NetworkId,
    },
}

/// A relay a token names, so that a node finds the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenRelay {
    /// Its number in the manifest.
    pub relay_no: u16,
    /// Its Noise static key.
    pub key: PublicKey,
    /// Where it listens.
    pub address: SocketAddr,
}

impl TokenRelay {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relay_no.to_be_bytes());
        out.extend_from_slice(self.key.as_bytes());
        out.extend_from_slice(&address::encode(self.address));
    }

    pub(super) fn decode(c: &mut Cursor<'_>) -> Option<Self> {
        Some(Self { relay_no: c.u16()?, key: PublicKey(c.array()?), address: c.addr18()? })
    }
}

/// A join token. Its seed never leaves the machine; `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct JoinToken {
    root_pin: RootPin,
    seed: Secret,
    relays: Vec<TokenRelay>,
    delegation: Signed<Delegation>,
}

impl JoinToken {
    /// Puts a token together. `seed` is the seed of the delegation's token key; at most 4 relays are kept.
    pub fn new(
        root_pin: RootPin,
        seed: Secret,
        mut relays: Vec<TokenRelay>,
        delegation: Signed<Delegation>,
    ) -> Self {
        relays.truncate(MAX_TOKEN_RELAYS);
        Self { root_pin, seed, relays, delegation }
    }

    /// Parses a token; white space around it is ignored. Its expiry is not checked here, see
    /// [`JoinToken::check_expiry`], nor the delegation's signature, for which the genesis is needed.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::WrongPrefix)?;
        if text.len() > MAX_TOKEN {
            return Err(TokenError::TooLong(text.len()));
        }
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|e| match e.kind {
            // The last characters do not make whole bytes: some are missing.
            DecodeKind::Length | DecodeKind::Trailing => TokenError::Truncated,
            DecodeKind::Symbol | DecodeKind::Padding => TokenError::Damaged,
        })?;
        Self::decode(&Zeroizing::new(bytes))
    }

    fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        let mut c = Cursor::new(bytes);
        let fields = Fields::read(&mut c).ok_or(TokenError::Truncated)?;
        let covered = bytes.len() - c.rest().len();
        let check = c.take(CHECK).ok_or(TokenError::Truncated)?;
        let expected = hash(&[b"skynet token 1", &bytes[..covered]]);
        if !c.is_empty() || fields.relays.len() > MAX_TOKEN_RELAYS || !mac_eq(check, &expected[..CHECK]) {
            return Err(TokenError::Damaged);
        }
        let delegation = Signed::<Delegation>::parse(fields.delegation)?;
        let root_pin = RootPin(fields.root_pin);
        let seed = Secret::from_bytes(fields.seed);
        let ours = delegation.unverified();
        if ours.network_id != root_pin.network_id()
            || ours.token_key != SigningKey::from_seed(seed.expose()).identity()
        {
            return Err(TokenError::Damaged);
        }
        Ok(Self { root_pin, seed, relays: fields.relays, delegation })
    }

    /// The token as text. Whoever reads it can ask a registrar for admission.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN));
        bytes.extend_from_slice(&self.root_pin.0);
        bytes.extend_from_slice(self.seed.expose());
        bytes.push(u8::try_from(self.relays.len()).expect("at most four relays"));
        for relay in &self.relays {
            relay.encode(&mut bytes);
        }
        let delegation = self.delegation.bytes();
        let length = u16::try_from(delegation.len()).expect("a document has at most 1,024 bytes");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(delegation);
        let check = hash(&[b"skynet token 1", &bytes]);
        bytes.extend_from_slice(&check[..CHECK]);
        let mut text = Zeroizing::new(PREFIX.to_owned());
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        text
    }

    /// Refuses a token that no new node can use any more.
    pub fn check_expiry(&self, now: UnixTime) -> Result<(), TokenError> {
        let until = self.delegation.unverified().not_after;
        if now > until { Err(TokenError::Expired(until)) } else { Ok(()) }
    }

    /// Refuses a token of another network than `ours`.
    pub fn check_network(&self, ours: &RootPin) -> Result<(), TokenError> {
        if self.root_pin == *ours {
            return Ok(());
        }
        Err(TokenError::ForeignNetwork { token: self.root_pin.network_id(), ours: ours.network_id() })
    }

    /// The pin of the network.
    pub fn root_pin(&self) -> RootPin {
        self.root_pin
    }

    /// Where to join, at most four relays.
    pub fn relays(&self) -> &[TokenRelay] {
        &self.relays
    }

    /// What the token allows; its signature is checked when the genesis is known.
    pub fn delegation(&self) -> &Signed<Delegation> {
        &self.delegation
    }

    /// The key certificates are signed with.
    pub(super) fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(self.seed.expose())
    }
}

struct Fields<'a> {
    root_pin: [u8; 32],
    seed: [u8; 32],
    relays: Vec<TokenRelay>,
    delegation: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(c: &mut Cursor<'a>) -> Option<Self> {
        let (root_pin, seed) = (c.array()?, c.array()?);
        let relays = (0..c.u8()?).map(|_| TokenRelay::decode(c)).collect::<Option<_>>()?;
        let length = usize::from(c.u16()?);
        Some(Self { root_pin, seed, relays, delegation: c.take(length)? })
    }
}

/// Prints a second as `2026-11-22 18:05 UTC`.
pub(super) struct DateTime(pub(super) UnixTime);

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.0 / 86_400, self.0.0 % 86_400);
        if days > 2_900_000 {
            return f.write_str("the end of time");
        }
        // Civil date from days: eras of 400 years (146,097 days) that start on the 1st of March.
        let z = days + 719_468;
        let (era, day_of_era) = (z / 146_097, z % 146_097);
        let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let m = (5 * day_of_year + 2) / 153;
        let (day, month) = (day_of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
        let year = year + era * 400 + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3_600, second % 3_600 / 60)
    }
}
