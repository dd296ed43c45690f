//! ASK and VIEW (PROTOCOL §2.1): one end of a pair tells the other what it sees, for people who ask why a path is as it
//! is. Hints without any effect on what the ends do.

use core::net::{Ipv6Addr, SocketAddr};

use crate::diagnosis::{
    Change, Cloud, End, Filtering, HostView, MAX_CHANGES, MAX_PAIRS, Mapping, PairView, Udp, Way,
};
use crate::member::tlv::{Reader, TlvError, Writer};
use crate::path::{CandidateKind, Reason, Step};
use crate::time::Duration;
use crate::wire::address;

/// Bytes of one pair: kind, address, step, sent, answered.
const PAIR: usize = 1 + address::LEN + 1 + 2 + 2;
/// Bytes of one change: age in seconds, reason, way and where.
const CHANGE: usize = 4 + 1 + 1 + address::LEN;

const NAT: u8 = 1;
const NOT_NAT: u8 = 2;
const PORT_KEPT: u8 = 4;
const PORT_CHANGED: u8 = 8;
const HAIRPIN: u8 = 16;
const NO_HAIRPIN: u8 = 32;
const RELAY_UP: u8 = 64;
const PORT_BLOCK: u8 = 128;

/// The answer to ASK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Of the question.
    pub id: u32,
    /// What the sender sees.
    pub end: End,
}

fn flag(known: Option<bool>, yes: u8, no: u8) -> u8 {
    known.map_or(0, |k| if k { yes } else { no })
}

fn known(flags: u8, yes: u8, no: u8) -> Result<Option<bool>, TlvError> {
    match (flags & yes != 0, flags & no != 0) {
        (true, true) => Err(TlvError::Value(0x02)),
        (false, false) => Ok(None),
        (yes, _) => Ok(Some(yes)),
    }
}

impl View {
    /// The body.
    pub(super) fn body(&self) -> Vec<u8> {
        let End { host, relay_up, observed, clock_ahead_s, pairs, changes } = &self.end;
        let flags = flag(host.translated, NAT, NOT_NAT)
            | flag(host.preserves_port, PORT_KEPT, PORT_CHANGED)
            | flag(host.hairpin, HAIRPIN, NO_HAIRPIN)
            | if *relay_up { RELAY_UP } else { 0 }
            | if host.port_block { PORT_BLOCK } else { 0 };
        let [delta_high, delta_low] = host.port_delta.to_be_bytes();
        let behaviour = [
            host.udp as u8,
            host.mapping as u8,
            host.filtering as u8,
            host.cloud as u8,
            delta_high,
            delta_low,
        ];
        let mut w = Writer::new();
        w.u32(0x81, self.id);
        w.u8(0x02, flags);
        w.bytes(0x03, &behaviour);
        if let Some(observed) = observed {
            w.bytes(0x04, &address::encode(*observed));
        }
        if let Some(mtu) = host.mtu {
            w.u16(0x05, mtu);
        }
        if let Some(ahead) = clock_ahead_s {
            w.bytes(0x06, &ahead.to_be_bytes());
        }
        w.optional(0x07, &pairs.iter().take(MAX_PAIRS).flat_map(encode_pair).collect::<Vec<_>>());
        let newest = changes.len().saturating_sub(MAX_CHANGES);
        w.optional(0x08, &changes[newest..].iter().flat_map(encode_change).collect::<Vec<_>>());
        w.finish()
    }

    pub(super) fn parse_body(body: &[u8]) -> Result<Self, TlvError> {
        let mut r = Reader::new(body);
        let id = r.u32(0x81)?;
        let [flags] = r.optional_array(0x02)?.unwrap_or_default();
        let [udp, mapping, filtering, cloud, delta @ ..] = r.optional_array::<6>(0x03)?.unwrap_or_default();
        let observed = r.optional_array(0x04)?.map(|a| address::decode(&a));
        let mtu = r.optional_array(0x05)?.map(u16::from_be_bytes);
        let clock_ahead_s = r.optional_array(0x06)?.map(i32::from_be_bytes);
        let pairs = list(r.optional(0x07)?, 0x07, MAX_PAIRS, decode_pair)?;
        let changes = list(r.optional(0x08)?, 0x08, MAX_CHANGES, decode_change)?;
        r.finish()?;
        let host = HostView {
            udp: Udp::from_wire(udp),
            mapping: Mapping::from_wire(mapping),
            filtering: Filtering::from_wire(filtering),
            port_delta: i16::from_be_bytes(delta),
            translated: known(flags, NAT, NOT_NAT)?,
            preserves_port: known(flags, PORT_KEPT, PORT_CHANGED)?,
            hairpin: known(flags, HAIRPIN, NO_HAIRPIN)?,
            mtu,
            cloud: Cloud::from_wire(cloud),
            port_block: flags & PORT_BLOCK != 0,
        };
        let relay_up = flags & RELAY_UP != 0;
        Ok(Self { id, end: End { host, relay_up, observed, clock_ahead_s, pairs, changes } })
    }
}

/// Items of `N` bytes, at most `most`; one of a kind that is not known here is skipped.
fn list<T, const N: usize>(
    value: Option<&[u8]>,
    tag: u8,
    most: usize,
    decode: impl Fn(&[u8; N]) -> Option<T>,
) -> Result<Vec<T>, TlvError> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let (items, rest) = value.as_chunks::<N>();
    if !rest.is_empty() || items.is_empty() || items.len() > most {
        return Err(TlvError::Value(tag));
    }
    Ok(items.iter().filter_map(decode).collect())
}

fn encode_pair(pair: &PairView) -> [u8; PAIR] {
    let mut out = [0; PAIR];
    out[0] = pair.kind as u8;
    out[1..19].copy_from_slice(&address::encode(pair.addr));
    out[19] = pair.step as u8;
    out[20..22].copy_from_slice(&pair.sent.to_be_bytes());
    out[22..].copy_from_slice(&pair.answered.to_be_bytes());
    out
}

fn decode_pair(bytes: &[u8; PAIR]) -> Option<PairView> {
    Some(PairView {
        kind: CandidateKind::from_wire(bytes[0])?,
        addr: address::decode(bytes[1..19].try_into().expect("18 bytes")),
        step: Step::from_wire(bytes[19])?,
        sent: u16::from_be_bytes([bytes[20], bytes[21]]),
        answered: u16::from_be_bytes([bytes[22], bytes[23]]),
    })
}

/// Way: 0 none, 1 relay with its number as the port of `[::]`, 2 direct.
fn encode_change(change: &Change) -> [u8; CHANGE] {
    let (way, addr) = match change.to {
        None => (0, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        Some(Way::Relay(no)) => (1, SocketAddr::from((Ipv6Addr::UNSPECIFIED, no))),
        Some(Way::Direct(addr)) => (2, addr),
    };
    let mut out = [0; CHANGE];
    let age = u32::try_from(change.age.as_secs()).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&age.to_be_bytes());
    out[4] = change.reason.to_wire();
    out[5] = way;
    out[6..].copy_from_slice(&address::encode(addr));
    out
}

fn decode_change(bytes: &[u8; CHANGE]) -> Option<Change> {
    let age = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let addr = address::decode(bytes[6..].try_into().expect("18 bytes"));
    let to = match bytes[5] {
        0 if addr.ip().is_unspecified() && addr.port() == 0 => None,
        1 if addr.ip().is_unspecified() => Some(Way::Relay(addr.port())),
        2 => Some(Way::Direct(addr)),
        _ => return None,
    };
    Some(Change { age: Duration::from_secs(age.into()), to, reason: Reason::from_wire(bytes[4])? })
}
