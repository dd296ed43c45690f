//! Control records inside the tunnel (PROTOCOL §2.1).
//!
//! ```text
//! 0  0x10 control record   1  type   2  u16 length of body   4  body (TLV)   …  padding
//!    type: 1 HELLO   2 OPEN   3 ACCEPT   4 PATTERN   5 REPORT   6 APPLY   7 TICKET   8 ASK   9 VIEW
//!          10 WANT   11 DOCUMENT
//! ```

use crate::id::LaneNo;
use crate::key::Secret;
use crate::member::document::Kind;
use crate::member::tlv::{Cursor, Reader, TlvError, Writer};
use crate::session::Suite;
use crate::wire::passed_on::{self, Part};
use crate::wire::relay::TICKET_LEN;
use crate::wire::view::View;
use crate::wire::wireguard::ReceiverIndex;

/// First byte of a control record.
pub const CONTROL_RECORD: u8 = 0x10;
const TYPE_HELLO: u8 = 1;
const TYPE_OPEN: u8 = 2;
const TYPE_ACCEPT: u8 = 3;
const TYPE_PATTERN: u8 = 4;
const TYPE_REPORT: u8 = 5;
const TYPE_APPLY: u8 = 6;
const TYPE_TICKET: u8 = 7;
const TYPE_ASK: u8 = 8;
const TYPE_VIEW: u8 = 9;
const TYPE_WANT: u8 = 10;
const TYPE_DOCUMENT: u8 = 11;
/// PATTERN records of one train: a bit each in REPORT.
pub const PATTERNS: u8 = 8;
/// Bytes of a PATTERN beside its fill: record header and three fields.
pub const PATTERN_OVERHEAD: u16 = 18;
/// The version this code speaks.
pub const HELLO_VERSION: u8 = 1;
/// ChaCha20-Poly1305 in [`Hello::suites`].
pub const SUITE_CHACHA20_POLY1305: u32 = Suite::ChaCha20Poly1305.bit();
/// AES-256-GCM in [`Hello::suites`].
pub const SUITE_AES_256_GCM: u32 = Suite::Aes256Gcm.bit();

/// The node joins chunks (PROTOCOL §2.2), in [`Hello::features`].
pub const FEATURE_CHUNKS: u8 = 1;
/// The node answers ASK, in [`Hello::features`].
pub const FEATURE_VIEW: u8 = 16;
/// The node relays for members and answers APPLY, in [`Hello::features`]. Believed of members with the tag `relay` alone.
pub const FEATURE_RELAY: u8 = 32;

/// The node answers WANT, in [`Hello::features`].
pub const FEATURE_DOCUMENTS: u8 = 64;

/// A control record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// What the sender can do.
    Hello(Hello),
    /// The sender opens with its key of this lane, and wants the peer to do the same.
    Open(LaneOffer),
    /// The answer to OPEN: so does the sender.
    Accept(LaneOffer),
    /// One of the records by which a sender finds out whether a train of datagrams arrives.
    Pattern(Pattern),
    /// The answer to PATTERN records: which have arrived.
    Report(Report),
    /// May I relay by you? With a number that the answer repeats.
    Apply(u32),
    /// The answer to APPLY.
    Ticket(Box<Grant>),
    /// What do you see of our pair? With a number that the answer repeats.
    Ask(u32),
    /// The answer to ASK.
    View(Box<View>),
    /// Show me your document of this kind.
    Want(Kind),
    /// A part of it.
    Document(Part),
}

impl Record {
    /// Whether these bytes claim to be an ASK or a VIEW.
    pub fn is_of_view(record: &[u8]) -> bool {
        matches!(record, [CONTROL_RECORD, TYPE_ASK | TYPE_VIEW, ..])
    }

    /// Whether these bytes claim to be a WANT or a DOCUMENT.
    pub fn is_of_documents(record: &[u8]) -> bool {
        matches!(record, [CONTROL_RECORD, TYPE_WANT | TYPE_DOCUMENT, ..])
    }

    /// Whether these bytes claim to be a HELLO.
    pub fn is_hello(record: &[u8]) -> bool {
        matches!(record, [CONTROL_RECORD, TYPE_HELLO, ..])
    }

    /// Whether these bytes claim to be an APPLY or a TICKET.
    pub fn is_of_relay(record: &[u8]) -> bool {
        matches!(record, [CONTROL_RECORD, TYPE_APPLY | TYPE_TICKET, ..])
    }

    /// Whether these bytes claim to be a PATTERN or a REPORT.
    pub fn is_of_train(record: &[u8]) -> bool {
        matches!(record, [CONTROL_RECORD, TYPE_PATTERN | TYPE_REPORT, ..])
    }
}

/// TICKET: what binds the recipient at the sender, as WELCOME does at a relay (PROTOCOL §4.4).
#[derive(Clone, Debug)]
pub struct Grant {
    /// Of the APPLY.
    pub id: u32,
    /// The ticket.
    pub ticket: [u8; TICKET_LEN],
    /// Its `K_b`.
    pub bind_key: Secret,
    /// The sender's clock, Unix milliseconds.
    pub relay_unix_ms: u64,
}

impl PartialEq for Grant {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.ticket, self.relay_unix_ms) == (other.id, other.ticket, other.relay_unix_ms)
            && self.bind_key.ct_eq(&other.bind_key)
    }
}

impl Eq for Grant {}

/// PATTERN: record `i` of [`PATTERNS`] that left together, filled with bytes that follow from `id` and `i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    /// Which train.
    pub id: u32,
    /// Which record of it, below [`PATTERNS`].
    pub i: u8,
    /// Bytes of fill.
    pub fill: u16,
}

/// REPORT: what has arrived of a train, whole and right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Which train.
    pub id: u32,
    /// Bit i: record i.
    pub arrived: u8,
}

/// What a node can do, told to a peer inside the tunnel, in each direction once per keypair: repetitions are the same
/// bytes, since the lanes' keys depend on them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Cipher suites for lanes 1 and up, a bit each.
    pub suites: u32,
    /// The largest number of lanes beside lane 0.
    pub max_lanes: u8,
    /// The largest inner packet accepted, in bytes.
    pub max_packet: u16,
    /// The manifest held: the same epoch with another hash is an alarm.
    pub manifest: Holding,
    /// What else the node understands, a bit each: [`FEATURE_CHUNKS`], [`FEATURE_VIEW`], [`FEATURE_RELAY`],
    /// [`FEATURE_DOCUMENTS`].
    pub features: u8,
    /// The revocations and the policy held, if the node says.
    pub documents: Option<[Holding; 2]>,
}

/// Which document of its kind a node holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Holding {
    /// Its epoch; 0: none.
    pub epoch: u64,
    /// HASH of it.
    pub hash: [u8; 32],
}

impl Holding {
    const LEN: usize = 40;

    fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.epoch.to_be_bytes());
        out[8..].copy_from_slice(&self.hash);
        out
    }

    fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut c = Cursor::new(bytes);
        Some(Self { epoch: c.u64()?, hash: c.array()? })
    }
}

/// OPEN and ACCEPT: the sender's opening key of this lane is installed, the recipient may seal to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneOffer {
    /// The lane, 1 or more.
    pub lane: LaneNo,
    /// The cipher the sender derived its keys for.
    pub suite: Suite,
    /// The index by which the sender finds its opening key.
    pub receiver: ReceiverIndex,
}

/// Why bytes are not a record we know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Too short, or its length does not fit.
    #[error("malformed record")]
    Malformed,
    /// A type, version or suite this code does not know.
    #[error("unknown record type, version or suite")]
    Unknown,
    /// Its body.
    #[error(transparent)]
    Body(#[from] TlvError),
}

impl Record {
    /// Reads a record; what follows it is padding.
    ///
    /// # Errors
    /// [`RecordError`]: a counted drop, no reply.
    pub fn parse(record: &[u8]) -> Result<Self, RecordError> {
        let (kind, body) = split(record)?;
        match kind {
            TYPE_HELLO => Hello::parse_body(body).map(Self::Hello),
            TYPE_OPEN => LaneOffer::parse_body(body).map(Self::Open),
            TYPE_ACCEPT => LaneOffer::parse_body(body).map(Self::Accept),
            TYPE_PATTERN => Pattern::parse_body(body).map(Self::Pattern),
            TYPE_REPORT => Report::parse_body(body).map(Self::Report),
            TYPE_APPLY => parse_id(body).map(Self::Apply),
            TYPE_TICKET => Ok(Self::Ticket(Box::new(Grant::parse_body(body)?))),
            TYPE_ASK => parse_id(body).map(Self::Ask),
            TYPE_VIEW => Ok(Self::View(Box::new(View::parse_body(body)?))),
            TYPE_WANT => Ok(Self::Want(passed_on::parse_want(body)?)),
            TYPE_DOCUMENT => Ok(Self::Document(Part::parse_body(body)?)),
            _ => Err(RecordError::Unknown),
        }
    }

    /// The record, without padding.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => hello.encode(),
            Self::Open(offer) => joined(TYPE_OPEN, &offer.body()),
            Self::Accept(offer) => joined(TYPE_ACCEPT, &offer.body()),
            Self::Pattern(pattern) => joined(TYPE_PATTERN, &pattern.body()),
            Self::Report(report) => joined(TYPE_REPORT, &report.body()),
            Self::Apply(id) => joined(TYPE_APPLY, &id_body(*id)),
            Self::Ticket(grant) => joined(TYPE_TICKET, &grant.body()),
            Self::Ask(id) => joined(TYPE_ASK, &id_body(*id)),
            Self::View(view) => joined(TYPE_VIEW, &view.body()),
            Self::Want(kind) => joined(TYPE_WANT, &passed_on::want_body(*kind)),
            Self::Document(part) => joined(TYPE_DOCUMENT, &part.body()),
        }
    }

    /// The record at the front of `padded`, which [`Record::parse`] has accepted, without its padding.
    pub fn trim(padded: &[u8]) -> &[u8] {
        match padded {
            [_, _, high, low, rest @ ..] => {
                let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
                &padded[..4 + len]
            }
            short => short,
        }
    }
}

fn split(record: &[u8]) -> Result<(u8, &[u8]), RecordError> {
    let [CONTROL_RECORD, kind, high, low, rest @ ..] = record else { return Err(RecordError::Malformed) };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let (body, padding) = rest.split_at_checked(len).ok_or(RecordError::Malformed)?;
    if padding.len() >= 16 || padding.iter().any(|b| *b != 0) {
        return Err(RecordError::Malformed);
    }
    Ok((*kind, body))
}

fn id_body(id: u32) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(0x81, id);
    w.finish()
}

fn parse_id(body: &[u8]) -> Result<u32, RecordError> {
    let mut r = Reader::new(body);
    let id = r.u32(0x81)?;
    r.finish()?;
    Ok(id)
}

fn joined(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("a record fits an inner packet");
    let mut record = vec![CONTROL_RECORD, kind];
    record.extend(len.to_be_bytes());
    record.extend(body);
    record
}

impl Hello {
    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(0x81, &[HELLO_VERSION]);
        w.bytes(0x02, &self.suites.to_be_bytes());
        w.bytes(0x03, &[self.max_lanes]);
        w.bytes(0x04, &self.max_packet.to_be_bytes());
        w.bytes(0x05, &self.manifest.encode());
        w.bytes(0x06, &[self.features]);
        if let Some(documents) = self.documents {
            w.bytes(0x07, documents.map(Holding::encode).as_flattened());
        }
        joined(TYPE_HELLO, &w.finish())
    }

    fn parse_body(body: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::new(body);
        if r.u8(0x81)? != HELLO_VERSION {
            return Err(RecordError::Unknown);
        }
        let suites =
            u32::from_be_bytes(r.optional_array(0x02)?.unwrap_or(SUITE_CHACHA20_POLY1305.to_be_bytes()));
        let [max_lanes] = r.optional_array(0x03)?.unwrap_or([0]);
        let max_packet = u16::from_be_bytes(r.optional_array(0x04)?.unwrap_or(1280u16.to_be_bytes()));
        let manifest = Holding::decode(&r.optional_array(0x05)?.unwrap_or([0; 40])).unwrap_or_default();
        let [features] = r.optional_array(0x06)?.unwrap_or([0]);
        let documents = r.optional_array::<80>(0x07)?.map(|bytes| {
            let (revocations, policy) = bytes.split_at(40);
            [revocations, policy].map(|held| held.first_chunk().and_then(Holding::decode).unwrap_or_default())
        });
        r.finish()?;
        Ok(Self { suites, max_lanes, max_packet, manifest, features, documents })
    }
}

impl LaneOffer {
    fn body(self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(0x81, self.lane.0);
        w.u8(0x82, self.suite as u8);
        w.u32(0x83, self.receiver.0);
        w.finish()
    }

    fn parse_body(body: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::new(body);
        let lane = LaneNo(r.u8(0x81)?);
        let suite = r.u8(0x82)?;
        let receiver = ReceiverIndex(r.u32(0x83)?);
        r.finish()?;
        if lane == LaneNo(0) {
            return Err(RecordError::Malformed);
        }
        let suite = Suite::from_wire(suite).ok_or(RecordError::Unknown)?;
        Ok(Self { lane, suite, receiver })
    }
}

impl Grant {
    fn body(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(0x81, self.id);
        w.bytes(0x82, &self.ticket);
        w.bytes(0x83, self.bind_key.expose());
        w.u64(0x84, self.relay_unix_ms);
        w.finish()
    }

    fn parse_body(body: &[u8]) -> Result<Self, TlvError> {
        let mut r = Reader::new(body);
        let (id, ticket, key) = (r.u32(0x81)?, r.array(0x82)?, r.array(0x83)?);
        let relay_unix_ms = r.u64(0x84)?;
        r.finish()?;
        Ok(Self { id, ticket, bind_key: Secret::from_bytes(key), relay_unix_ms })
    }
}

impl Pattern {
    fn bytes(self) -> impl Iterator<Item = u8> {
        let [.., salt] = self.id.to_be_bytes();
        let start = u32::from(salt) + u32::from(self.i) * 7;
        (0..u32::from(self.fill)).map(move |at| (at * 31 + start).to_be_bytes()[3])
    }

    fn body(self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(0x81, self.id);
        w.u8(0x82, self.i);
        w.bytes(0x83, &self.bytes().collect::<Vec<_>>());
        w.finish()
    }

    fn parse_body(body: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::new(body);
        let (id, i, fill) = (r.u32(0x81)?, r.u8(0x82)?, r.required(0x83)?);
        r.finish()?;
        let len = u16::try_from(fill.len()).map_err(|_| RecordError::Malformed)?;
        let pattern = Self { id, i, fill: len };
        if i >= PATTERNS || !pattern.bytes().eq(fill.iter().copied()) {
            return Err(RecordError::Malformed);
        }
        Ok(pattern)
    }
}

impl Report {
    fn body(self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(0x81, self.id);
        w.u8(0x82, self.arrived);
        w.finish()
    }

    fn parse_body(body: &[u8]) -> Result<Self, RecordError> {
        let mut r = Reader::new(body);
        let report = Self { id: r.u32(0x81)?, arrived: r.u8(0x82)? };
        r.finish()?;
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [Record; 11] {
        let hello = Hello {
            suites: 3,
            max_lanes: 4,
            max_packet: 1360,
            manifest: Holding { epoch: 7, hash: [9; 32] },
            features: 1,
            documents: Some([Holding { epoch: 3, hash: [8; 32] }, Holding::default()]),
        };
        let offer =
            LaneOffer { lane: LaneNo(1), suite: Suite::Aes256Gcm, receiver: ReceiverIndex(0xa1b2_c3d4) };
        let pattern = Pattern { id: 0x0102_03f0, i: 7, fill: 300 };
        let report = Report { id: 0x0102_03f0, arrived: 0x7f };
        let bind_key = Secret::from_bytes([5; 32]);
        let grant = Grant { id: 9, ticket: [7; TICKET_LEN], bind_key, relay_unix_ms: 1_800_000_000_000 };
        [
            Record::Hello(hello),
            Record::Open(offer),
            Record::Accept(offer),
            Record::Pattern(pattern),
            Record::Report(report),
            Record::Apply(0x0102_0304),
            Record::Ticket(Box::new(grant)),
            Record::Ask(0x0102_0304),
            Record::View(Box::new(View { id: 5, end: crate::diagnosis::sample_end() })),
            Record::Want(Kind::Policy),
            Record::Document(Part { kind: Kind::Policy, total: 410, at: 400, bytes: vec![7; 10] }),
        ]
    }

    #[test]
    fn each_survives_its_bytes_and_the_padding_of_transport_data() {
        for sample in samples() {
            let bytes = sample.encode();
            assert_eq!(Record::parse(&bytes).as_ref(), Ok(&sample));
            let mut padded = bytes.clone();
            padded.resize(bytes.len().next_multiple_of(16), 0);
            assert_eq!(Record::parse(&padded), Ok(sample));
            assert_eq!(Record::trim(&padded), bytes);
        }
    }

    #[test]
    fn no_flip_truncation_or_extension_panics_and_none_is_taken_for_the_same() {
        for sample in samples() {
            let bytes = sample.encode();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(Record::parse(&flipped).as_ref(), Ok(&sample), "bit {bit}");
            }
            for len in 0..bytes.len() {
                assert!(Record::parse(&bytes[..len]).is_err(), "{len}");
                let _no_panic = Record::trim(&bytes[..len]);
            }
            let mut longer = bytes.clone();
            longer.push(1);
            assert!(Record::parse(&longer).is_err());
        }
    }

    #[test]
    fn another_version_record_type_or_suite_is_unknown() {
        let [hello, open, ..] = samples().map(|s| s.encode());
        for (bytes, at, value) in [(&hello, 7, 2), (&hello, 1, 15), (&open, 11, 2)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert_eq!(Record::parse(&bytes), Err(RecordError::Unknown));
        }
    }

    #[test]
    fn a_pattern_fills_an_inner_packet_and_has_a_number_below_eight() {
        let fill = crate::constants::INNER_MTU - PATTERN_OVERHEAD;
        let bytes = Record::Pattern(Pattern { id: 1, i: 7, fill }).encode();
        assert_eq!(bytes.len(), usize::from(crate::constants::INNER_MTU));
        assert!(Record::is_of_train(&bytes));
        let beyond = Record::Pattern(Pattern { id: 1, i: 8, fill }).encode();
        assert_eq!(Record::parse(&beyond), Err(RecordError::Malformed));
    }

    #[test]
    fn nobody_opens_lane_0() {
        let [_, open, ..] = samples().map(|s| s.encode());
        let mut bytes = open;
        bytes[7] = 0;
        assert_eq!(Record::parse(&bytes), Err(RecordError::Malformed));
    }
}
