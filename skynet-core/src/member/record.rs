//! What changes in a node's life: its key binding, the registrar's receipt, and where it can be reached.

use core::net::{Ipv4Addr, SocketAddr};

use super::address::{NetworkId, TokenId};
use super::certificate::text;
use super::document::{Content, Kind};
use super::name::Name;
use super::tlv::{Reader, TlvError, Writer};
use crate::key::{Identity, PublicKey};
use crate::time::UnixTime;
use crate::wire::address;

/// Most endpoints in a record.
pub const MAX_ENDPOINTS: usize = 16;
/// Most relays in a record.
pub const MAX_RECORD_RELAYS: usize = 8;

/// Which X25519 key a node uses for sessions and control channels, signed by its identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The network's label.
    pub network_id: NetworkId,
    /// Whose key.
    pub identity: Identity,
    /// The key.
    pub x25519: PublicKey,
    /// Rises with every binding of this identity.
    pub sequence: u64,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
}

impl Content for Binding {
    const KIND: Kind = Kind::Binding;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.bytes(0x82, self.identity.as_bytes());
        w.bytes(0x83, self.x25519.as_bytes());
        w.u64(0x84, self.sequence);
        w.u64(0x85, self.not_before.0);
        w.u64(0x86, self.not_after.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            network_id: NetworkId(r.array(0x81)?),
            identity: Identity(r.array(0x82)?),
            x25519: PublicKey(r.array(0x83)?),
            sequence: r.u64(0x84)?,
            not_before: UnixTime(r.u64(0x85)?),
            not_after: UnixTime(r.u64(0x86)?),
        })
    }
}

/// That a registrar let a node in, and as what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The network's label.
    pub network_id: NetworkId,
    /// Who was let in.
    pub identity: Identity,
    /// With which session key.
    pub x25519: PublicKey,
    /// Under which name, unique in the network.
    pub name: Name,
    /// With which IPv4 address, unique in the network.
    pub v4: Ipv4Addr,
    /// By which token.
    pub token_id: TokenId,
    /// The how-manieth use of the token, from 1.
    pub use_number: u32,
    /// When it was signed.
    pub issued: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// Who signed.
    pub registrar: Identity,
    /// Until when the certificate counts, if later than it says itself and not later than its token lets it.
    pub certificate_until: Option<UnixTime>,
}

impl Content for Receipt {
    const KIND: Kind = Kind::Receipt;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.bytes(0x82, self.identity.as_bytes());
        w.bytes(0x83, self.x25519.as_bytes());
        w.bytes(0x84, self.name.as_str().as_bytes());
        w.bytes(0x85, &self.v4.octets());
        w.bytes(0x86, &self.token_id.0);
        w.u32(0x87, self.use_number);
        w.u64(0x88, self.issued.0);
        w.u64(0x89, self.not_after.0);
        w.bytes(0x8a, self.registrar.as_bytes());
        if let Some(until) = self.certificate_until {
            w.u64(0x0b, until.0);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            network_id: NetworkId(r.array(0x81)?),
            identity: Identity(r.array(0x82)?),
            x25519: PublicKey(r.array(0x83)?),
            name: text(r.required(0x84)?).ok_or(TlvError::Value(0x84))?,
            v4: r.array::<4>(0x85)?.into(),
            token_id: TokenId(r.array(0x86)?),
            use_number: r.u32(0x87)?,
            issued: UnixTime(r.u64(0x88)?),
            not_after: UnixTime(r.u64(0x89)?),
            registrar: Identity(r.array(0x8a)?),
            certificate_until: r.optional_array(0x0b)?.map(|bytes| UnixTime(u64::from_be_bytes(bytes))),
        })
    }
}

/// An address at which a node may be reached: a hint, proven by probes before use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    /// Candidate kind (docs/PROTOCOL.md §5); unknown kinds are kept.
    pub kind: u8,
    /// The address.
    pub address: SocketAddr,
}

/// How far a node is from a relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RelayRtt {
    /// The relay's number in the manifest.
    pub relay_no: u16,
    /// Round-trip time in milliseconds.
    pub rtt_ms: u16,
}

/// Where a node can be reached, signed by its identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The network's label.
    pub network_id: NetworkId,
    /// Whose record.
    pub identity: Identity,
    /// Rises with every record of this identity.
    pub version: u64,
    /// When its content should no longer be relied on.
    pub not_after: UnixTime,
    /// At most 16.
    pub endpoints: Vec<Endpoint>,
    /// Relays it is bound to, best first, at most 8.
    pub relays: Vec<RelayRtt>,
}

impl Content for Record {
    const KIND: Kind = Kind::Record;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.bytes(0x82, self.identity.as_bytes());
        w.u64(0x83, self.version);
        w.u64(0x84, self.not_after.0);
        let mut endpoints = Vec::new();
        for endpoint in &self.endpoints {
            endpoints.push(endpoint.kind);
            endpoints.extend_from_slice(&address::encode(endpoint.address));
        }
        w.optional(0x05, &endpoints);
        let mut relays = Vec::new();
        for relay in &self.relays {
            relays.extend_from_slice(&relay.relay_no.to_be_bytes());
            relays.extend_from_slice(&relay.rtt_ms.to_be_bytes());
        }
        w.optional(0x06, &relays);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            network_id: NetworkId(r.array(0x81)?),
            identity: Identity(r.array(0x82)?),
            version: r.u64(0x83)?,
            not_after: UnixTime(r.u64(0x84)?),
            endpoints: r.optional_list(0x05, MAX_ENDPOINTS, |c| {
                Some(Endpoint { kind: c.u8()?, address: c.addr18()? })
            })?,
            relays: r.optional_list(0x06, MAX_RECORD_RELAYS, |c| {
                Some(RelayRtt { relay_no: c.u16()?, rtt_ms: c.u16()? })
            })?,
        })
    }
}
