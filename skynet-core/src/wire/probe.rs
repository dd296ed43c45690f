//! Path probes, `docs/PROTOCOL.md` §5: PING, PONG and CALL, sealed with a key per pair and direction.
//!
//! ```text
//!  0        1      2       4            12                                    24
//! ┌──────┬──────┬───────┬────────────┬─────────────────────────────────────┬─────────────┬────────┬─────────┐
//! │ A0   │ type │ flags │ tag (8)    │ nonce: start (4) random counter (4) │ sealed body │ 16 MAC │ 00 … 00 │
//! └──────┴──────┴───────┴────────────┴─────────────────────────────────────┴─────────────┴────────┴─────────┘
//!  ◀───────────── head, authenticated as associated data ─────────────────▶               PING only ▲
//! ```
//!
//! The padding is outside the seal, so two rules keep every valid message in one form: it must be zero, and the
//! sealed `wire_size` of a PING must be the length of the datagram. PONG and CALL carry none.

use std::net::SocketAddr;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};

use crate::key::Secret;
use crate::wire::address;

/// First byte of a probe.
pub const FIRST_BYTE: u8 = 0xA0;
/// Length of the clear head.
pub const HEAD_LEN: usize = 24;
/// Length of the Poly1305 tag behind the sealed body.
pub const MAC_LEN: usize = 16;
/// Smallest PING on the wire: larger than a PONG, so an answer is never larger than its cause.
pub const PING_MIN: usize = 100;
/// A PONG on the wire.
pub const PONG_LEN: usize = HEAD_LEN + PONG_BODY + MAC_LEN;
/// Largest CALL on the wire.
pub const CALL_MAX: usize = HEAD_LEN + CALL_FIXED + 20 * MAX_CANDIDATES + 4 * MAX_RELAYS + MAC_LEN;
/// Most candidates in a CALL.
pub const MAX_CANDIDATES: usize = 16;
/// Most relays in a CALL.
pub const MAX_RELAYS: usize = 8;

/// Flag of the head: sent with a TTL that dies near the sender, to open its own NAT.
pub const FLAG_OPENER: u16 = 1;
/// Flag of the head: padded to learn the path's MTU.
pub const FLAG_MTU: u16 = 2;
/// Flag of the head: the sender's data takes this path.
pub const FLAG_CARRIES_DATA: u16 = 4;
/// Flag of a CALL: low-TTL openers have left.
pub const CALL_OPENER_SENT: u16 = 1;
/// Flag of a CALL: please answer with a CALL.
pub const CALL_ANSWER_WANTED: u16 = 2;
/// Flag of a CALL: the sender's operator allows guesses of ports at random.
pub const CALL_GUESS_ALLOWED: u16 = 4;
/// Flag of a CALL: guess now. From behind the hard NAT: my sockets are open; from the other side: please open yours.
pub const CALL_GUESS_NOW: u16 = 8;

const PING_BODY: usize = 24;
const PONG_BODY: usize = 42;
const CALL_FIXED: usize = 8 + 4 + 2 + 1 + 1 + 2 + 1 + 1;

/// What a receiver finds the peer by: the same for one pair, direction and Unix day.
pub type Tag = [u8; 8];

/// Why a datagram is not a probe of this peer. All but [`ProbeError::Replayed`] and
/// [`ProbeError::OldStart`] are the sender's fault, an attacker's, or a foreign network's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProbeError {
    /// Shorter than its type demands.
    #[error("probe is truncated")]
    Truncated,
    /// Longer than its type allows, or not as long as the PING's sealed size says.
    #[error("probe has the wrong length")]
    Length,
    /// First byte is not `A0`.
    #[error("not a probe")]
    NotAProbe,
    /// Unknown type.
    #[error("unknown probe type {0}")]
    Type(u8),
    /// Padding is not zero.
    #[error("probe padding is not zero")]
    Padding,
    /// Does not open under the pair's key.
    #[error("probe is not authentic")]
    Unauthentic,
    /// Authentic, but a count or an address in it is impossible.
    #[error("probe body is malformed")]
    Malformed,
    /// Its `start` is lower than one already seen from this peer.
    #[error("probe is from before the peer's last start")]
    OldStart,
    /// Its counter was seen, or lies behind the window.
    #[error("probe is a replay")]
    Replayed,
}

/// The type byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A check of one path; answered by a PONG.
    Ping = 1,
    /// The answer.
    Pong = 2,
    /// "Here are my candidates, send to them now." Through a relay or a live path only.
    Call = 3,
}

/// The sender's nonce. `start` rises over the sender's starts; `random` tells clones with one start apart;
/// `counter` counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce {
    /// Unix second of the sender's start, persisted and strictly rising.
    pub start: u32,
    /// Chosen once per counter.
    pub random: u32,
    /// Never used twice under one (start, random).
    pub counter: u32,
}

impl Nonce {
    fn bytes(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..4].copy_from_slice(&self.start.to_be_bytes());
        out[4..8].copy_from_slice(&self.random.to_be_bytes());
        out[8..].copy_from_slice(&self.counter.to_be_bytes());
        out
    }
}

/// The clear head. Nothing in it may be believed before the probe is open; `tag` only finds the key to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The type.
    pub kind: Kind,
    /// `FLAG_*`; unknown bits are ignored.
    pub flags: u16,
    /// Finds the pair.
    pub tag: Tag,
    /// The sender's nonce.
    pub nonce: Nonce,
}

impl Head {
    /// Reads the head of `datagram`.
    pub fn parse(datagram: &[u8]) -> Result<Self, ProbeError> {
        let mut r = Reader(datagram);
        if r.u8()? != FIRST_BYTE {
            return Err(ProbeError::NotAProbe);
        }
        let kind = match r.u8()? {
            1 => Kind::Ping,
            2 => Kind::Pong,
            3 => Kind::Call,
            other => return Err(ProbeError::Type(other)),
        };
        let flags = r.u16()?;
        let tag = r.array()?;
        let nonce = Nonce { start: r.u32()?, random: r.u32()?, counter: r.u32()? };
        Ok(Self { kind, flags, tag, nonce })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[FIRST_BYTE, self.kind as u8]);
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.tag);
        out.extend_from_slice(&self.nonce.bytes());
    }
}

/// Body of a PING.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ping {
    /// Random; the PONG repeats it.
    pub txid: u64,
    /// Sender's clock in µs modulo 2^32, echoed; for the sender's own use.
    pub t_us: u32,
    /// Sender's name for the path, echoed.
    pub path_id: u16,
    /// Length of the whole datagram, padding included. Written by [`seal`].
    pub wire_size: u16,
    /// Transport data messages the sender has sent on paths of this kind, modulo 2^32.
    pub tx_data: u32,
    /// Transport data messages the sender has received on paths of this kind, modulo 2^32.
    pub rx_data: u32,
}

/// Body of a PONG.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pong {
    /// Of the PING.
    pub txid: u64,
    /// Of the PING.
    pub t_us: u32,
    /// Of the PING.
    pub path_id: u16,
    /// Length of the PING as it came.
    pub received_size: u16,
    /// Transport data messages the answerer has sent on paths of this kind, modulo 2^32.
    pub tx_data: u32,
    /// Transport data messages the answerer has received on paths of this kind, modulo 2^32.
    pub rx_data: u32,
    /// Where the PING came from, as the answerer saw it; `[::]:0` if by a relay.
    pub seen: SocketAddr,
}

/// A candidate as a CALL carries it. Kinds are those of [`crate::path::CandidateKind`]; the reader judges them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallCandidate {
    /// Kind.
    pub kind: u8,
    /// Higher is tried first.
    pub prio: u8,
    /// Where.
    pub addr: SocketAddr,
}

/// A relay and the sender's round-trip time to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayRtt {
    /// The relay's number in the manifest.
    pub relay_no: u16,
    /// Round-trip time in milliseconds.
    pub rtt_ms: u16,
}

/// Body of a CALL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Random; an answer repeats it.
    pub txid: u64,
    /// Number of the sender's round, an answer repeats it.
    pub round: u32,
    /// `CALL_*`.
    pub flags: u16,
    /// Mapping behaviour of the sender's NAT: 0 unknown, 1 endpoint-independent, 2 address-dependent,
    /// 3 address-and-port-dependent (RFC 4787 §4.1). A hint.
    pub mapping: u8,
    /// Filtering behaviour in the same numbers (RFC 4787 §5). A hint.
    pub filtering: u8,
    /// Step between the ports of consecutive mappings, 0 if unknown. A hint.
    pub port_delta: i16,
    /// At most [`MAX_CANDIDATES`]; more are not written.
    pub candidates: Vec<CallCandidate>,
    /// At most [`MAX_RELAYS`]; more are not written.
    pub relays: Vec<RelayRtt>,
}

/// What was sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A PING.
    Ping(Ping),
    /// A PONG.
    Pong(Pong),
    /// A CALL.
    Call(Call),
}

/// The key of one direction of one pair, ready for sealing or opening.
pub struct ProbeKey(LessSafeKey);

impl ProbeKey {
    /// The key whose bytes are `secret`.
    pub fn new(secret: &Secret) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, secret.expose()).expect("32 bytes are a ChaCha20 key");
        Self(LessSafeKey::new(key))
    }
}

impl core::fmt::Debug for ProbeKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ProbeKey(***)")
    }
}

/// Builds a probe. A PING is padded with zeros to `pad_to` bytes and never below [`PING_MIN`]; `pad_to` is
/// ignored for the others. The caller guarantees that `nonce` is used once under `key`.
pub fn seal(key: &ProbeKey, flags: u16, tag: Tag, nonce: Nonce, body: &Body, pad_to: u16) -> Vec<u8> {
    let kind = match body {
        Body::Ping(_) => Kind::Ping,
        Body::Pong(_) => Kind::Pong,
        Body::Call(_) => Kind::Call,
    };
    let size = usize::from(pad_to).max(PING_MIN);
    let mut out = Vec::with_capacity(if kind == Kind::Call { CALL_MAX } else { size });
    Head { kind, flags, tag, nonce }.write(&mut out);
    match body {
        Body::Ping(p) => write_ping(p, pad_to.max(PING_MIN as u16), &mut out),
        Body::Pong(p) => write_pong(p, &mut out),
        Body::Call(c) => write_call(c, &mut out),
    }
    let (head, sealed) = out.split_at_mut(HEAD_LEN);
    let mac = key
        .0
        .seal_in_place_separate_tag(
            ring::aead::Nonce::assume_unique_for_key(nonce.bytes()),
            Aad::from(&*head),
            sealed,
        )
        .expect("a probe is far below the limit of the AEAD");
    out.extend_from_slice(mac.as_ref());
    if kind == Kind::Ping {
        out.resize(size, 0);
    }
    out
}

/// Opens a probe in place and parses it. `datagram` is garbage afterwards, also on error.
pub fn open(key: &ProbeKey, datagram: &mut [u8]) -> Result<(Head, Body), ProbeError> {
    let head = Head::parse(datagram)?;
    let len = datagram.len();
    let end = match head.kind {
        Kind::Ping => HEAD_LEN + PING_BODY + MAC_LEN,
        Kind::Pong => PONG_LEN,
        Kind::Call => len,
    };
    let smallest = match head.kind {
        Kind::Ping => PING_MIN,
        Kind::Pong => PONG_LEN,
        Kind::Call => HEAD_LEN + CALL_FIXED + MAC_LEN,
    };
    if len < smallest {
        return Err(ProbeError::Truncated);
    }
    if (head.kind == Kind::Pong && len != PONG_LEN) || (head.kind == Kind::Call && len > CALL_MAX) {
        return Err(ProbeError::Length);
    }
    if datagram[end..].iter().any(|b| *b != 0) {
        return Err(ProbeError::Padding);
    }
    let (aad, rest) = datagram.split_at_mut(HEAD_LEN);
    let nonce = ring::aead::Nonce::assume_unique_for_key(head.nonce.bytes());
    let body = key
        .0
        .open_in_place(nonce, Aad::from(&*aad), &mut rest[..end - HEAD_LEN])
        .map_err(|_| ProbeError::Unauthentic)?;
    let body = parse_body(head.kind, body)?;
    if let Body::Ping(p) = &body
        && usize::from(p.wire_size) != len
    {
        return Err(ProbeError::Length);
    }
    Ok((head, body))
}

/// Parses an opened body; what the fuzzer calls. Trailing bytes are refused.
pub fn parse_body(kind: Kind, body: &[u8]) -> Result<Body, ProbeError> {
    let mut r = Reader(body);
    let parsed = match kind {
        Kind::Ping => Body::Ping(read_ping(&mut r)?),
        Kind::Pong => Body::Pong(read_pong(&mut r)?),
        Kind::Call => Body::Call(read_call(&mut r)?),
    };
    if r.0.is_empty() { Ok(parsed) } else { Err(ProbeError::Malformed) }
}

fn write_ping(p: &Ping, wire_size: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&p.txid.to_be_bytes());
    out.extend_from_slice(&p.t_us.to_be_bytes());
    out.extend_from_slice(&p.path_id.to_be_bytes());
    out.extend_from_slice(&wire_size.to_be_bytes());
    out.extend_from_slice(&p.tx_data.to_be_bytes());
    out.extend_from_slice(&p.rx_data.to_be_bytes());
}

fn write_pong(p: &Pong, out: &mut Vec<u8>) {
    out.extend_from_slice(&p.txid.to_be_bytes());
    out.extend_from_slice(&p.t_us.to_be_bytes());
    out.extend_from_slice(&p.path_id.to_be_bytes());
    out.extend_from_slice(&p.received_size.to_be_bytes());
    out.extend_from_slice(&p.tx_data.to_be_bytes());
    out.extend_from_slice(&p.rx_data.to_be_bytes());
    out.extend_from_slice(&address::encode(p.seen));
}

fn write_call(c: &Call, out: &mut Vec<u8>) {
    out.extend_from_slice(&c.txid.to_be_bytes());
    out.extend_from_slice(&c.round.to_be_bytes());
    out.extend_from_slice(&c.flags.to_be_bytes());
    out.extend_from_slice(&[c.mapping, c.filtering]);
    out.extend_from_slice(&c.port_delta.to_be_bytes());
    let candidates = &c.candidates[..c.candidates.len().min(MAX_CANDIDATES)];
    out.push(candidates.len() as u8);
    for candidate in candidates {
        out.extend_from_slice(&[candidate.kind, candidate.prio]);
        out.extend_from_slice(&address::encode(candidate.addr));
    }
    let relays = &c.relays[..c.relays.len().min(MAX_RELAYS)];
    out.push(relays.len() as u8);
    for relay in relays {
        out.extend_from_slice(&relay.relay_no.to_be_bytes());
        out.extend_from_slice(&relay.rtt_ms.to_be_bytes());
    }
}

fn read_ping(r: &mut Reader<'_>) -> Result<Ping, ProbeError> {
    Ok(Ping {
        txid: r.u64()?,
        t_us: r.u32()?,
        path_id: r.u16()?,
        wire_size: r.u16()?,
        tx_data: r.u32()?,
        rx_data: r.u32()?,
    })
}

fn read_pong(r: &mut Reader<'_>) -> Result<Pong, ProbeError> {
    Ok(Pong {
        txid: r.u64()?,
        t_us: r.u32()?,
        path_id: r.u16()?,
        received_size: r.u16()?,
        tx_data: r.u32()?,
        rx_data: r.u32()?,
        seen: r.addr()?,
    })
}

fn read_call(r: &mut Reader<'_>) -> Result<Call, ProbeError> {
    let (txid, round, flags) = (r.u64()?, r.u32()?, r.u16()?);
    let (mapping, filtering, port_delta) = (r.u8()?, r.u8()?, r.u16()?.cast_signed());
    let n = usize::from(r.u8()?);
    if n > MAX_CANDIDATES {
        return Err(ProbeError::Malformed);
    }
    let mut candidates = Vec::with_capacity(n);
    for _ in 0..n {
        candidates.push(CallCandidate { kind: r.u8()?, prio: r.u8()?, addr: r.addr()? });
    }
    let m = usize::from(r.u8()?);
    if m > MAX_RELAYS {
        return Err(ProbeError::Malformed);
    }
    let mut relays = Vec::with_capacity(m);
    for _ in 0..m {
        relays.push(RelayRtt { relay_no: r.u16()?, rtt_ms: r.u16()? });
    }
    Ok(Call { txid, round, flags, mapping, filtering, port_delta, candidates, relays })
}

/// Takes big-endian fields off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProbeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(ProbeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, ProbeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }
    fn u16(&mut self) -> Result<u16, ProbeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    fn u32(&mut self) -> Result<u32, ProbeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, ProbeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    fn addr(&mut self) -> Result<SocketAddr, ProbeError> {
        Ok(address::decode(&self.array()?))
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
