//! Relay frames (`docs/PROTOCOL.md` §4): what a node and a relay say to each other over UDP.
//!
//! ```text
//! DATA   A1 | flags | u16 gen | u32 node_no | payload                                            8 + n
//! HELLO  A8 | 1 | lane | 0 | ticket 64 | u64 ts_ms | u32 0 | MAC16                                 96  node → relay
//! COOKIE A9 | 1 | u16 relay_no | cookie 16 | u64 ts_ms (echo) | u32 0 | MAC16                      48  relay → node
//! BIND   AA | 1 | lane | 0 | ticket 64 | u64 ts_ms | u32 0 | cookie 16 | MAC16                    112  node → relay
//! BOUND  AB | flags | u16 gen | u16 lifetime_s | u16 keepalive_s | addr18 | u16 0 | u32 rate_kbit
//!        | u32 burst_kB | u32 features | u64 ts_ms (echo) | MAC16                                  64  relay → node
//! KEEP   AC | flags | u16 gen | u64 t | u32 0                                                      16  both ways
//! NACK   AD | code | u16 gen | u32 node_no | u32 retry_ms                                          12  relay → node
//! ```
//!
//! Parsing checks lengths and versions only. HELLO, COOKIE, BIND and BOUND end in a MAC under `K_b`
//! ([`bind_key`]) over everything before it; use them after [`mac_is_valid`] said yes.

use core::net::SocketAddr;

use crate::crypto;
use crate::key::{Identity, Secret};
use crate::wire::address;

/// First byte of [`Frame::Data`].
pub const DATA: u8 = 0xA1;
/// First byte of HELLO.
pub const HELLO: u8 = 0xA8;
/// First byte of COOKIE.
pub const COOKIE: u8 = 0xA9;
/// First byte of BIND.
pub const BIND: u8 = 0xAA;
/// First byte of BOUND.
pub const BOUND: u8 = 0xAB;
/// First byte of KEEP.
pub const KEEP: u8 = 0xAC;
/// First byte of NACK.
pub const NACK: u8 = 0xAD;

/// Bytes in front of the payload of a DATA frame.
pub const DATA_HEADER_LEN: usize = 8;
/// Length of a ticket, bytes.
pub const TICKET_LEN: usize = 64;
/// Length of HELLO, bytes.
pub const HELLO_LEN: usize = 96;
/// Length of COOKIE, bytes.
pub const COOKIE_LEN: usize = 48;
/// Length of BIND, bytes.
pub const BIND_LEN: usize = 112;
/// Length of BOUND, bytes.
pub const BOUND_LEN: usize = 64;
/// Length of KEEP, bytes.
pub const KEEP_LEN: usize = 16;
/// Length of NACK, bytes.
pub const NACK_LEN: usize = 12;

/// Lanes are numbered by three bits in a DATA frame.
pub const MAX_LANES: u8 = 8;

const VERSION: u8 = 1;
const MAC_LEN: usize = 16;

/// Whether a datagram that starts with `first` is a relay frame.
pub const fn is_relay_frame(first: u8) -> bool {
    matches!(first, DATA | HELLO..=NACK)
}

/// Why bytes are not a relay frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum FrameError {
    /// The first byte names no relay frame.
    #[error("not a relay frame")]
    Kind,
    /// The length is not the one of this frame.
    #[error("wrong length for a relay frame of this kind")]
    Length,
    /// A version this code does not speak.
    #[error("relay frame or ticket of an unknown version")]
    Version,
    /// A lane above [`MAX_LANES`].
    #[error("lane number out of range")]
    Lane,
}

/// The 64 bytes a relay believes: who may bind, in which network, until when.
///
/// ```text
/// u8 version=1 | u8 kid | u16 rate_class | u32 node_no | 8 network_id | u64 not_after | u64 issue_nonce
/// | 16 HASH("skynet ticket 1" | identity)[..16] | 16 MAC16(cluster_key, first 48)
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Which cluster key made the MAC.
    pub kid: u8,
    /// Which limits apply; 0 is the relay's default.
    pub rate_class: u16,
    /// The holder's overlay IPv4 address as a number.
    pub node_no: u32,
    /// The holder's network.
    pub network_id: [u8; 8],
    /// Unix seconds after which the ticket is refused.
    pub not_after: u64,
    /// Random: two tickets of one node differ.
    pub issue_nonce: u64,
    /// Names the holder's identity without revealing it: [`Ticket::hash_identity`].
    pub identity_hash: [u8; 16],
}

impl Ticket {
    /// The identity as it stands in a ticket.
    pub fn hash_identity(identity: &Identity) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&crypto::hash(&[b"skynet ticket 1", identity.as_bytes()])[..16]);
        out
    }

    /// The ticket's bytes, sealed with the cluster key of `self.kid`.
    pub fn mint(&self, cluster_key: &Secret) -> [u8; TICKET_LEN] {
        let mut out = [0; TICKET_LEN];
        out[0] = VERSION;
        out[1] = self.kid;
        out[2..4].copy_from_slice(&self.rate_class.to_be_bytes());
        out[4..8].copy_from_slice(&self.node_no.to_be_bytes());
        out[8..16].copy_from_slice(&self.network_id);
        out[16..24].copy_from_slice(&self.not_after.to_be_bytes());
        out[24..32].copy_from_slice(&self.issue_nonce.to_be_bytes());
        out[32..48].copy_from_slice(&self.identity_hash);
        let mac = crypto::mac16(cluster_key.expose(), &[&out[..48]]);
        out[48..].copy_from_slice(&mac);
        out
    }

    /// Reads the fields without believing them.
    pub fn parse(bytes: &[u8; TICKET_LEN]) -> Result<Self, FrameError> {
        if bytes[0] != VERSION {
            return Err(FrameError::Version);
        }
        Ok(Self {
            kid: bytes[1],
            rate_class: be16(bytes, 2),
            node_no: be32(bytes, 4),
            network_id: array(bytes, 8),
            not_after: be64(bytes, 16),
            issue_nonce: be64(bytes, 24),
            identity_hash: array(bytes, 32),
        })
    }

    /// Whether `bytes` were minted with `cluster_key`.
    pub fn is_authentic(bytes: &[u8; TICKET_LEN], cluster_key: &Secret) -> bool {
        crypto::mac_eq(&crypto::mac16(cluster_key.expose(), &[&bytes[..48]]), &bytes[48..])
    }
}

/// `K_b`, the key under which holder and relay authenticate binding: told to the holder on the control channel with
/// its ticket, derived again by any relay of the cluster from the ticket alone.
pub fn bind_key(cluster_key: &Secret, ticket: &[u8; TICKET_LEN]) -> Secret {
    Secret::from_bytes(crypto::mac32(cluster_key.expose(), &[b"skynet bind 1", ticket]))
}

/// Whether the last 16 bytes of `frame` are the MAC under `bind_key` of what stands before them.
pub fn mac_is_valid(frame: &[u8], bind_key: &Secret) -> bool {
    let Some(at) = frame.len().checked_sub(MAC_LEN) else { return false };
    crypto::mac_eq(&crypto::mac16(bind_key.expose(), &[&frame[..at]]), &frame[at..])
}

/// What a payload is worth when a queue is full (design §5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Class {
    /// Data packets.
    Bulk = 0,
    /// Nothing in particular.
    Normal = 1,
    /// Handshakes and probes.
    Control = 2,
}

/// The 8 bytes before a relayed payload.
///
/// ```text
/// A1 | flags: bits 0–1 class, 2–4 lane, 6–7 hops | u16 gen | u32 node_no
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHeader {
    /// Class (bits 0–1), lane (bits 2–4), hops (bits 6–7).
    pub flags: u8,
    /// To the relay: the sender's session. From the relay: the recipient's.
    pub gen_no: u16,
    /// To the relay: the destination. From the relay: the sender.
    pub node_no: u32,
}

impl DataHeader {
    /// A header as a node sends it.
    pub const fn new(class: Class, lane: u8, gen_no: u16, node_no: u32) -> Self {
        Self { flags: class as u8 | (lane & 7) << 2, gen_no, node_no }
    }
    /// The lane, 0–7.
    pub const fn lane(&self) -> u8 {
        self.flags >> 2 & 7
    }
    /// What the frame carries; what is not known counts as bulk.
    pub const fn class(&self) -> Class {
        match self.flags & 3 {
            1 => Class::Normal,
            2 => Class::Control,
            _ => Class::Bulk,
        }
    }
    /// How many relays the frame has passed.
    pub const fn hops(&self) -> u8 {
        self.flags >> 6
    }
    /// The header of a frame of another class.
    pub const fn with_class(mut header: [u8; DATA_HEADER_LEN], class: Class) -> [u8; DATA_HEADER_LEN] {
        header[1] = header[1] & !3 | class as u8;
        header
    }
    /// The header's bytes.
    pub fn encode(&self) -> [u8; DATA_HEADER_LEN] {
        let mut out = [DATA, self.flags, 0, 0, 0, 0, 0, 0];
        out[2..4].copy_from_slice(&self.gen_no.to_be_bytes());
        out[4..8].copy_from_slice(&self.node_no.to_be_bytes());
        out
    }
    /// Reads the header in front of `frame`. The payload is `frame[DATA_HEADER_LEN..]`, at least one byte.
    pub fn parse(frame: &[u8]) -> Result<Self, FrameError> {
        if frame.first() != Some(&DATA) {
            return Err(FrameError::Kind);
        }
        if frame.len() <= DATA_HEADER_LEN {
            return Err(FrameError::Length);
        }
        Ok(Self { flags: frame[1], gen_no: be16(frame, 2), node_no: be32(frame, 4) })
    }
    /// What the relay does to a frame: the header becomes the recipient's, in place; class and lane stay, hops is 1.
    /// `frame` has passed [`DataHeader::parse`].
    pub fn rewrite(&self, frame: &mut [u8], recipient_gen: u16, sender: u32) {
        let new = Self { flags: self.flags & 0x1f | 1 << 6, gen_no: recipient_gen, node_no: sender };
        frame[..DATA_HEADER_LEN].copy_from_slice(&new.encode());
    }
}

/// Node → relay: here is my ticket, prove my address with a cookie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The lane whose session this is.
    pub lane: u8,
    /// The holder's ticket.
    pub ticket: [u8; TICKET_LEN],
    /// The relay's clock as the node knows it, Unix milliseconds, strictly rising.
    pub ts_ms: u64,
}

/// Relay → node: send this back from the same address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// Who answers.
    pub relay_no: u16,
    /// Proof of address, opaque to the node.
    pub cookie: [u8; 16],
    /// The `ts_ms` this answers.
    pub ts_ms: u64,
}

/// Node → relay: open or move my session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// The lane whose session this is.
    pub lane: u8,
    /// The holder's ticket.
    pub ticket: [u8; TICKET_LEN],
    /// As in [`Hello`]; above every earlier one of this node and lane.
    pub ts_ms: u64,
    /// What COOKIE brought.
    pub cookie: [u8; 16],
}

/// Relay → node: the session is open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Reserved.
    pub flags: u8,
    /// The session's number, to be put in DATA and KEEP.
    pub gen_no: u16,
    /// Seconds of silence after which the relay forgets the session.
    pub lifetime_s: u16,
    /// Seconds between two KEEPs.
    pub keepalive_s: u16,
    /// The address the relay sees.
    pub observed: SocketAddr,
    /// The session's limit, kbit/s; 0 is none.
    pub rate_kbit: u32,
    /// The limit's burst, kilobytes.
    pub burst_kb: u32,
    /// Reserved.
    pub features: u32,
    /// The `ts_ms` this answers.
    pub ts_ms: u64,
}

/// Flag of KEEP, set by a relay in its echo: it is going away.
pub const KEEP_DRAINING: u8 = 1;
/// Flag of KEEP, set by a relay in every echo: what has it is answered by nobody.
pub const KEEP_ECHO: u8 = 2;

/// Both ways: I am here. The relay sends it back with its own flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// From a node 0, from the relay `KEEP_*`.
    pub flags: u8,
    /// The sender's session.
    pub gen_no: u16,
    /// Chosen by the node, echoed.
    pub t: u64,
}

/// Why a relay did not do as asked. A hint: it changes no state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum NackCode {
    /// The relay knows no such session: bind again.
    Rebind = 1,
    /// The destination has no session here.
    NoSuchPeer = 2,
    /// Too much.
    Rate = 3,
    /// The relay is going away.
    Draining = 4,
    /// The ticket's holder was revoked.
    Revoked = 5,
}

/// Relay → node: a hint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nack {
    /// The code as sent; [`Nack::known`] names it.
    pub code: u8,
    /// The session the cause named.
    pub gen_no: u16,
    /// The destination the cause named, or 0.
    pub node_no: u32,
    /// Not sooner than this, milliseconds.
    pub retry_ms: u32,
}

/// A relay frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A relayed payload.
    Data(DataHeader, &'a [u8]),
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Cookie`].
    Cookie(Cookie),
    /// See [`Bind`].
    Bind(Bind),
    /// See [`Bound`].
    Bound(Bound),
    /// See [`Keep`].
    Keep(Keep),
    /// See [`Nack`].
    Nack(Nack),
}

impl<'a> Frame<'a> {
    /// Reads one datagram. Lengths are exact; reserved fields are ignored. MACs are not checked here.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let &kind = bytes.first().ok_or(FrameError::Kind)?;
        Ok(match kind {
            DATA => Self::Data(DataHeader::parse(bytes)?, &bytes[DATA_HEADER_LEN..]),
            HELLO => Self::Hello(Hello::parse(bytes)?),
            COOKIE => Self::Cookie(Cookie::parse(bytes)?),
            BIND => Self::Bind(Bind::parse(bytes)?),
            BOUND => Self::Bound(Bound::parse(bytes)?),
            KEEP => Self::Keep(Keep::parse(bytes)?),
            NACK => Self::Nack(Nack::parse(bytes)?),
            _ => return Err(FrameError::Kind),
        })
    }
}

/// Entry point for fuzzing: any bytes parse or fail, and what parses has the length it claims.
pub fn fuzz_frame(bytes: &[u8]) {
    if let Ok(Frame::Data(header, payload)) = Frame::parse(bytes) {
        let mut copy = bytes.to_vec();
        header.rewrite(&mut copy, 1, 2);
        assert_eq!(&copy[DATA_HEADER_LEN..], payload);
    }
    if let Ok(ticket) = <&[u8; TICKET_LEN]>::try_from(bytes) {
        let _ = Ticket::parse(ticket);
    }
}

impl Hello {
    /// The frame's bytes.
    pub fn encode(&self, bind_key: &Secret) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        out[..4].copy_from_slice(&[HELLO, VERSION, self.lane, 0]);
        out[4..68].copy_from_slice(&self.ticket);
        out[68..76].copy_from_slice(&self.ts_ms.to_be_bytes());
        seal(&mut out, bind_key);
        out
    }
    fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        check(bytes, HELLO_LEN)?;
        check_lane(bytes[2])?;
        Ok(Self { lane: bytes[2], ticket: array(bytes, 4), ts_ms: be64(bytes, 68) })
    }
}

impl Cookie {
    /// The frame's bytes.
    pub fn encode(&self, bind_key: &Secret) -> [u8; COOKIE_LEN] {
        let mut out = [0; COOKIE_LEN];
        out[..2].copy_from_slice(&[COOKIE, VERSION]);
        out[2..4].copy_from_slice(&self.relay_no.to_be_bytes());
        out[4..20].copy_from_slice(&self.cookie);
        out[20..28].copy_from_slice(&self.ts_ms.to_be_bytes());
        seal(&mut out, bind_key);
        out
    }
    fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        check(bytes, COOKIE_LEN)?;
        Ok(Self { relay_no: be16(bytes, 2), cookie: array(bytes, 4), ts_ms: be64(bytes, 20) })
    }
}

impl Bind {
    /// The frame's bytes.
    pub fn encode(&self, bind_key: &Secret) -> [u8; BIND_LEN] {
        let mut out = [0; BIND_LEN];
        out[..4].copy_from_slice(&[BIND, VERSION, self.lane, 0]);
        out[4..68].copy_from_slice(&self.ticket);
        out[68..76].copy_from_slice(&self.ts_ms.to_be_bytes());
        out[80..96].copy_from_slice(&self.cookie);
        seal(&mut out, bind_key);
        out
    }
    fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        check(bytes, BIND_LEN)?;
        check_lane(bytes[2])?;
        Ok(Self { lane: bytes[2], ticket: array(bytes, 4), ts_ms: be64(bytes, 68), cookie: array(bytes, 80) })
    }
}

impl Bound {
    /// The frame's bytes.
    pub fn encode(&self, bind_key: &Secret) -> [u8; BOUND_LEN] {
        let mut out = [0; BOUND_LEN];
        out[..2].copy_from_slice(&[BOUND, self.flags]);
        out[2..4].copy_from_slice(&self.gen_no.to_be_bytes());
        out[4..6].copy_from_slice(&self.lifetime_s.to_be_bytes());
        out[6..8].copy_from_slice(&self.keepalive_s.to_be_bytes());
        out[8..26].copy_from_slice(&address::encode(self.observed));
        out[28..32].copy_from_slice(&self.rate_kbit.to_be_bytes());
        out[32..36].copy_from_slice(&self.burst_kb.to_be_bytes());
        out[36..40].copy_from_slice(&self.features.to_be_bytes());
        out[40..48].copy_from_slice(&self.ts_ms.to_be_bytes());
        seal(&mut out, bind_key);
        out
    }
    fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() != BOUND_LEN {
            return Err(FrameError::Length);
        }
        Ok(Self {
            flags: bytes[1],
            gen_no: be16(bytes, 2),
            lifetime_s: be16(bytes, 4),
            keepalive_s: be16(bytes, 6),
            observed: address::decode(&array(bytes, 8)),
            rate_kbit: be32(bytes, 28),
            burst_kb: be32(bytes, 32),
            features: be32(bytes, 36),
            ts_ms: be64(bytes, 40),
        })
    }
}

impl Keep {
    /// The frame's bytes.
    pub fn encode(&self) -> [u8; KEEP_LEN] {
        let mut out = [0; KEEP_LEN];
        out[..2].copy_from_slice(&[KEEP, self.flags]);
        out[2..4].copy_from_slice(&self.gen_no.to_be_bytes());
        out[4..12].copy_from_slice(&self.t.to_be_bytes());
        out
    }
    fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() != KEEP_LEN {
            return Err(FrameError::Length);
        }
        Ok(Self { flags: bytes[1], gen_no: be16(bytes, 2), t: be64(bytes, 4) })
    }
}

impl Nack {
    /// The frame's bytes.
    pub fn encode(&self) -> [u8; NACK_LEN] {
        let mut out = [0; NACK_LEN];
        out[..2].copy_from_slice(&[NACK, self.code]);
        out[2..4].copy_from_slice(&self.gen_no.to_be_bytes());
        out[4..8].copy_from_slice(&self.node_no.to_be_bytes());
        out[8..12].copy_from_slice(&self.retry_ms.to_be_bytes());
        out
    }
    /// The code's name, if this version knows one.
    pub const fn known(&self) -> Option<NackCode> {
        Some(match self.code {
            1 => NackCode::Rebind,
            2 => NackCode::NoSuchPeer,
            3 => NackCode::Rate,
            4 => NackCode::Draining,
            5 => NackCode::Revoked,
            _ => return None,
        })
    }
    fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() != NACK_LEN {
            return Err(FrameError::Length);
        }
        Ok(Self { code: bytes[1], gen_no: be16(bytes, 2), node_no: be32(bytes, 4), retry_ms: be32(bytes, 8) })
    }
}

fn check(bytes: &[u8], len: usize) -> Result<(), FrameError> {
    if bytes.len() != len {
        return Err(FrameError::Length);
    }
    if bytes[1] != VERSION {
        return Err(FrameError::Version);
    }
    Ok(())
}

fn check_lane(lane: u8) -> Result<(), FrameError> {
    if lane < MAX_LANES { Ok(()) } else { Err(FrameError::Lane) }
}

fn seal(frame: &mut [u8], bind_key: &Secret) {
    let at = frame.len() - MAC_LEN;
    let mac = crypto::mac16(bind_key.expose(), &[&frame[..at]]);
    frame[at..].copy_from_slice(&mac);
}

// Offsets are constants below the length that was checked before.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}
fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
