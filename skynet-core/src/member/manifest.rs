//! What the root key signs: the genesis, whose hash is the network, and the manifest of the day.

use core::net::SocketAddr;

use super::address::{Ipv4Prefix, NetworkId, RootPin};
use super::document::{Content, Kind, Verified};
use super::tlv::{Cursor, Reader, TlvError, Writer};
use crate::key::{Identity, PublicKey};
use crate::time::UnixTime;
use crate::wire::address;

/// Most registrars, and most issuers, of one network.
pub const MAX_SIGNERS: usize = 16;
/// Most relays of one network.
pub const MAX_RELAYS: usize = 64;
/// Most addresses of one relay.
pub const MAX_RELAY_ADDRESSES: usize = 4;
/// Longest name of a network in bytes.
pub const MAX_NETWORK_NAME: usize = 63;

/// The birth of a network, signed by its root key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// The root key, which signs manifests and may sign delegations.
    pub root: Identity,
    /// Makes two networks of one root key different.
    pub nonce: [u8; 16],
    /// When the network was created.
    pub created: UnixTime,
    /// The network's name, at most 63 bytes.
    pub name: String,
}

impl Content for Genesis {
    const KIND: Kind = Kind::Genesis;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, self.root.as_bytes());
        w.bytes(0x82, &self.nonce);
        w.u64(0x03, self.created.0);
        w.bytes(0x04, self.name.as_bytes());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        Ok(Self {
            root: Identity(r.array(0x81)?),
            nonce: r.array(0x82)?,
            created: UnixTime(r.u64(0x03)?),
            name: r.text(0x04, MAX_NETWORK_NAME)?.to_owned(),
        })
    }
}

impl Verified<Genesis> {
    /// The pin of the network this document founds.
    pub fn root_pin(&self) -> RootPin {
        RootPin(self.hash())
    }
}

/// A relay as the manifest lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayEntry {
    /// Its number, unique in the network.
    pub relay_no: u16,
    /// Its Noise static key.
    pub key: PublicKey,
    /// Where it listens, at most four addresses.
    pub addresses: Vec<SocketAddr>,
}

/// What holds in the network today, signed by its root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The network's label.
    pub network_id: NetworkId,
    /// Rises with every manifest; a lower one is never accepted.
    pub epoch: u64,
    /// When it was signed.
    pub issued: UnixTime,
    /// When a newer one is due; later than that it is stale.
    pub next_update: UnixTime,
    /// The network's IPv4 range, the prefix that is on-link on every node.
    pub v4: Ipv4Prefix,
    /// Whose admission receipts count.
    pub registrars: Vec<Identity>,
    /// Who may sign delegations beside the root.
    pub issuers: Vec<Identity>,
    /// The relays.
    pub relays: Vec<RelayEntry>,
}

impl Manifest {
    /// The relay with this number.
    pub fn relay(&self, relay_no: u16) -> Option<&RelayEntry> {
        self.relays.iter().find(|relay| relay.relay_no == relay_no)
    }
}

impl Content for Manifest {
    const KIND: Kind = Kind::Manifest;

    fn encode(&self, w: &mut Writer) {
        w.bytes(0x81, &self.network_id.0);
        w.u64(0x82, self.epoch);
        w.u64(0x83, self.issued.0);
        w.u64(0x84, self.next_update.0);
        w.bytes(0x85, &self.v4.to_bytes());
        w.bytes(0x86, &concat(&self.registrars));
        w.optional(0x07, &concat(&self.issuers));
        let relays: Vec<u8> = self.relays.iter().flat_map(encode_relay).collect();
        w.optional(0x08, &relays);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, TlvError> {
        let identity = |c: &mut Cursor<'_>| c.array().map(Identity);
        let manifest = Self {
            network_id: NetworkId(r.array(0x81)?),
            epoch: r.u64(0x82)?,
            issued: UnixTime(r.u64(0x83)?),
            next_update: UnixTime(r.u64(0x84)?),
            v4: Ipv4Prefix::from_bytes(r.array(0x85)?)
                .filter(Ipv4Prefix::is_network_range)
                .ok_or(TlvError::Value(0x85))?,
            registrars: r.list(0x86, MAX_SIGNERS, identity)?,
            issuers: r.optional_list(0x07, MAX_SIGNERS, identity)?,
            relays: r.optional_list(0x08, MAX_RELAYS, decode_relay)?,
        };
        let mut numbers: Vec<u16> = manifest.relays.iter().map(|relay| relay.relay_no).collect();
        numbers.sort_unstable();
        if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(TlvError::Value(0x08));
        }
        Ok(manifest)
    }
}

fn concat(identities: &[Identity]) -> Vec<u8> {
    identities.iter().flat_map(|identity| identity.0).collect()
}

fn encode_relay(relay: &RelayEntry) -> Vec<u8> {
    let mut out = relay.relay_no.to_be_bytes().to_vec();
    out.extend_from_slice(relay.key.as_bytes());
    // A count above the maximum is written as it is, and refused when the signed document is read back.
    out.push(u8::try_from(relay.addresses.len()).unwrap_or(u8::MAX));
    out.extend(relay.addresses.iter().copied().flat_map(address::encode));
    out
}

fn decode_relay(c: &mut Cursor<'_>) -> Option<RelayEntry> {
    let relay_no = c.u16()?;
    let key = PublicKey(c.array()?);
    let count = usize::from(c.u8()?);
    if count > MAX_RELAY_ADDRESSES {
        return None;
    }
    let addresses = (0..count).map(|_| c.addr18()).collect::<Option<_>>()?;
    Some(RelayEntry { relay_no, key, addresses })
}
