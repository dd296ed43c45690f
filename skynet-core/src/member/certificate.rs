//! What a token stands for: the delegation an issuer signs, and the certificate made with the token's seed.

use core::net::Ipv4Addr;

use super::address::{Ipv4Prefix, NetworkId, TokenId};
use super::document::{Content, Kind};
use super::name::{Name, NamePattern, Tags};
use super::tlv::{Reader, TlvError, Writer};
use crate::key::Identity;
use crate::time::UnixTime;

const EPHEMERAL: u8 = 1;

/// What holders of a token's seed may create, signed by the root or an issuer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delegation {
    /// The network's label.
    pub network_id: NetworkId,
    /// The token's name, for counting and revoking.
    pub token_id: TokenId,
    /// The key whose seed is in the token.
    pub token_key: Identity,
    /// Who signed: the root or an issuer of the manifest.
    pub signer: Identity,
    /// No certificate may start later than this.
    pub not_after: UnixTime,
    /// Longest life of a node's certificate in seconds.
    pub max_node_lifetime: u32,
    /// How many nodes may join with it; 0 is unlimited.
    pub max_uses: u32,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    /// The tags its nodes may carry.
    pub tags: Tags,
    /// Where its nodes' IPv4 addresses come from, inside the network's range.
    pub pool: Ipv4Prefix,
    /// Which names its nodes may have; `None` allows all.
    pub names: Option<NamePattern>,
    /// Until when a registrar may prolong its nodes' certificates; `None`: each ends when it says.
    pub renew_until: Option<UnixTime>,
}

impl Delegation {
    /// The end of this certificate of one of its nodes, if it is prolonged for as long as may be.
    pub fn last_end(&self, certificate: &Certificate) -> UnixTime {
        certificate.not_after.max(self.renew_until.unwrap_or_default())
    }

    /// Whether it gives its nodes one name, or one address: who joins with it later takes the place of who did before.
    pub fn is_pinned(&self) -> bool {
        self.pool.prefix_len() == 32 || matches!(self.names, Some(NamePattern::Exact(_)))
    }
}

impl Content for Delegation {
    const KIND: Kind = Kind::Delegation;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.bytes(0x82, &self.token_id.0);
        w.bytes(0x83, self.token_key.as_bytes());
        w.bytes(0x84, self.signer.as_bytes());
        w.u64(0x85, self.not_after.0);
        w.u32(0x86, self.max_node_lifetime);
        w.u32(0x87, self.max_uses);
        w.u8(0x88, flags(self.ephemeral));
        w.bytes(0x89, &self.tags.encode());
        w.bytes(0x8a, &self.pool.to_bytes());
        if let Some(names) = &self.names {
            w.bytes(0x8b, names.to_string().as_bytes());
        }
        if let Some(until) = self.renew_until {
            w.u64(0x0c, until.0);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            network_id: NetworkId(r.array(0x81)?),
            token_id: TokenId(r.array(0x82)?),
            token_key: Identity(r.array(0x83)?),
            signer: Identity(r.array(0x84)?),
            not_after: UnixTime(r.u64(0x85)?),
            max_node_lifetime: r.u32(0x86)?,
            max_uses: r.u32(0x87)?,
            ephemeral: r.u8(0x88)? & EPHEMERAL != 0,
            tags: Tags::decode(r.required(0x89)?).ok_or(TlvError::Value(0x89))?,
            pool: Ipv4Prefix::from_bytes(r.array(0x8a)?)
                .filter(Ipv4Prefix::is_pool)
                .ok_or(TlvError::Value(0x8a))?,
            names: match r.optional(0x8b)? {
                Some(value) => Some(text(value).ok_or(TlvError::Value(0x8b))?),
                None => None,
            },
            renew_until: r.optional_array(0x0c)?.map(|bytes| UnixTime(u64::from_be_bytes(bytes))),
        })
    }
}

/// Who a node is, signed with the token's seed by the node itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The network's label.
    pub network_id: NetworkId,
    /// Random, for revoking this certificate alone.
    pub serial: [u8; 8],
    /// The node's identity key.
    pub identity: Identity,
    /// The token it comes from.
    pub token_id: TokenId,
    /// Its name.
    pub name: Name,
    /// Its IPv4 address, derived from identity and salt in the token's pool.
    pub v4: Ipv4Addr,
    /// What was added to the hash until the address was free.
    pub salt: u32,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// Whether the node is ephemeral, as the delegation says.
    pub ephemeral: bool,
    /// Its tags, some of the delegation's.
    pub tags: Tags,
    /// Hash of the machine it was made on.
    pub fingerprint: Option<[u8; 16]>,
}

impl Content for Certificate {
    const KIND: Kind = Kind::Certificate;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.bytes(0x82, &self.serial);
        w.bytes(0x83, self.identity.as_bytes());
        w.bytes(0x84, &self.token_id.0);
        w.bytes(0x85, self.name.as_str().as_bytes());
        w.bytes(0x86, &self.v4.octets());
        w.u32(0x87, self.salt);
        w.u64(0x88, self.not_before.0);
        w.u64(0x89, self.not_after.0);
        w.u8(0x8a, flags(self.ephemeral));
        w.bytes(0x8b, &self.tags.encode());
        if let Some(fingerprint) = &self.fingerprint {
            w.bytes(0x0c, fingerprint);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            network_id: NetworkId(r.array(0x81)?),
            serial: r.array(0x82)?,
            identity: Identity(r.array(0x83)?),
            token_id: TokenId(r.array(0x84)?),
            name: text(r.required(0x85)?).ok_or(TlvError::Value(0x85))?,
            v4: r.array::<4>(0x86)?.into(),
            salt: r.u32(0x87)?,
            not_before: UnixTime(r.u64(0x88)?),
            not_after: UnixTime(r.u64(0x89)?),
            ephemeral: r.u8(0x8a)? & EPHEMERAL != 0,
            tags: Tags::decode(r.required(0x8b)?).ok_or(TlvError::Value(0x8b))?,
            fingerprint: r.optional_array(0x0c)?,
        })
    }
}

fn flags(ephemeral: bool) -> u8 {
    if ephemeral { EPHEMERAL } else { 0 }
}

/// A text field of a type that parses from text.
pub(super) fn text<T: core::str::FromStr>(value: &[u8]) -> Option<T> {
    core::str::from_utf8(value).ok()?.parse().ok()
}
