//! The messages of the control channel and their bytes (`docs/PROTOCOL.md` §4.1).
//!
//! ```text
//! u8 type | u32 request | body
//! ```
//! Bundles and documents are opaque here: who needs them verifies them. Each content has one encoding, and nothing
//! may follow a body.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::control::channel::MAX_MESSAGE;
use crate::control::roll::Roll;
use crate::key::{Identity, PublicKey, Secret};
use crate::member::Tags;
use crate::wire::address;
use crate::wire::relay::TICKET_LEN;

/// Bytes before the body.
pub const HEADER_LEN: usize = 5;
/// Longest member bundle, bytes.
pub const MAX_BUNDLE: usize = 4_096;
/// Longest manifest or other document of a whole network, bytes.
pub const MAX_MANIFEST: usize = 12_288;
/// Longest text of DENIED, bytes.
pub const MAX_TEXT: usize = 512;
/// Longest name, bytes (an LDH label).
pub const MAX_NAME: usize = 63;

/// Why bytes are not a control message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum MessageError {
    /// A type this code does not know; `request` is the number to answer.
    #[error("unknown control message type {kind}")]
    UnknownType {
        /// The type.
        kind: u8,
        /// The request number.
        request: u32,
    },
    /// Too short, too long, or a field that is none.
    #[error("malformed control message")]
    Malformed,
    /// Does not fit a frame or a field.
    #[error("control message too long")]
    TooLong,
}

/// What WELCOME tells a joined node.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The relay's clock, Unix milliseconds.
    pub relay_unix_ms: u64,
    /// Where the relay sees the stream come from.
    pub observed: SocketAddr,
    /// The ticket to bind with.
    pub ticket: [u8; TICKET_LEN],
    /// `K_b` of the ticket.
    pub bind_key: Secret,
    /// The relay's number in the manifest.
    pub relay_no: u16,
    /// The admission receipt.
    pub receipt: Vec<u8>,
    /// The genesis document.
    pub genesis: Vec<u8>,
    /// The manifest.
    pub manifest: Vec<u8>,
}

impl PartialEq for Welcome {
    fn eq(&self, other: &Self) -> bool {
        let fields = |w: &Self| (w.relay_unix_ms, w.observed, w.ticket, w.relay_no);
        fields(self) == fields(other)
            && self.bind_key.ct_eq(&other.bind_key)
            && (&self.receipt, &self.genesis, &self.manifest)
                == (&other.receipt, &other.genesis, &other.manifest)
    }
}
impl Eq for Welcome {}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u16)]
pub enum DeniedCode {
    /// Not a message, or not one for this side.
    Malformed = 1,
    /// Documents of another network.
    ForeignNetwork = 2,
    /// The token's time is over.
    TokenExpired = 3,
    /// The token was used as often as it may be.
    TokenUsedUp = 4,
    /// The token was revoked.
    TokenRevoked = 5,
    /// A signature does not verify, or the chain does not reach the root.
    BadSignature = 6,
    /// The binding names another key than the handshake proved.
    NotProven = 7,
    /// A limit or a store that is away.
    TryAgain = 8,
    /// Served only to members that have joined.
    NotJoined = 9,
    /// A document is not valid yet: the node's clock, or the relay's, is wrong.
    Clock = 10,
    /// Another process with the same identity runs elsewhere, began earlier and answers.
    Duplicate = 11,
}

impl DeniedCode {
    /// The code of a number from the wire.
    pub const fn from_u16(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Malformed,
            2 => Self::ForeignNetwork,
            3 => Self::TokenExpired,
            4 => Self::TokenUsedUp,
            5 => Self::TokenRevoked,
            6 => Self::BadSignature,
            7 => Self::NotProven,
            8 => Self::TryAgain,
            9 => Self::NotJoined,
            10 => Self::Clock,
            11 => Self::Duplicate,
            _ => return None,
        })
    }
}

/// What must be changed before the next JOIN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum ConflictWhat {
    /// Another member has this IPv4 address: grind another salt.
    Ipv4 = 1,
    /// Another member has this name.
    Name = 2,
}

/// Which process a node is: two at once with one identity are copies of each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BootEpoch {
    /// Unix milliseconds of its start: of two that live, the earlier keeps the identity.
    pub started_ms: u64,
    /// Random: tells a process that connects again from another.
    pub nonce: u64,
}

/// How GET names a member.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lookup {
    /// By session key.
    Key(PublicKey),
    /// By identity.
    Identity(Identity),
    /// By name, 1–63 bytes.
    Name(String),
    /// By overlay IPv4 address.
    Ipv4(Ipv4Addr),
    /// By overlay IPv6 address.
    Ipv6(Ipv6Addr),
}

/// A member as the directory knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Whether its control channel is open at this relay.
    pub online: bool,
    /// Its documents.
    pub bundle: Vec<u8>,
}

/// A control message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// 1: let me in, or renew me.
    Join(Vec<u8>),
    /// 2: you are in.
    Welcome(Box<Welcome>),
    /// 3: no. The code as sent, and a sentence for people.
    Denied(u16, String),
    /// 4: change this and ask again.
    Conflict(ConflictWhat),
    /// 5: my new node record.
    Update(Vec<u8>),
    /// 6: stored.
    Ack(u64),
    /// 7: who is this?
    Get(Lookup),
    /// 8: this is who.
    Peer(Member),
    /// 9: nobody.
    NoPeer,
    /// 10: members in order of node number.
    List {
        /// Only members above this number.
        after: u32,
        /// At most this many.
        limit: u16,
    },
    /// 11: some of them.
    Members {
        /// Whether there are members above the last one.
        more: bool,
        /// The members.
        members: Vec<Member>,
    },
    /// 12: are you there?
    Ping(u64),
    /// 13: yes.
    Pong(u64),
    /// 14: forget my presence.
    Leave,
    /// 15, relay to relay: which manifest is in force?
    GetManifest,
    /// 16: this one.
    Manifest(Vec<u8>),
    /// 20, pushed: a document that holds for the whole network.
    Document(Vec<u8>),
    /// 24: tell me who with one of these tags comes and goes, everybody if there are none; `None`: no more.
    Watch(Option<Tags>),
    /// 25: who is here.
    Roll(Roll),
    /// 26: I stop, and stay a member.
    Bye,
    /// 27: this process is it that is going to join. Not answered.
    Start(BootEpoch),
}

impl Message {
    /// The bytes of the message as request, answer or push number `request`.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a field or the whole exceeds its maximum.
    pub fn encode(&self, request: u32) -> Result<Vec<u8>, MessageError> {
        let mut out = vec![self.kind()];
        out.extend_from_slice(&request.to_be_bytes());
        match self {
            Self::Join(bytes) | Self::Update(bytes) => put_limited(&mut out, bytes, MAX_BUNDLE)?,
            Self::Welcome(welcome) => put_welcome(&mut out, welcome)?,
            Self::Denied(code, text) => {
                out.extend_from_slice(&code.to_be_bytes());
                if text.len() > MAX_TEXT {
                    return Err(MessageError::TooLong);
                }
                put_counted(&mut out, text.as_bytes())?;
            }
            Self::Conflict(what) => out.push(*what as u8),
            Self::Ack(n) | Self::Ping(n) | Self::Pong(n) => out.extend_from_slice(&n.to_be_bytes()),
            Self::Get(lookup) => put_lookup(&mut out, lookup)?,
            Self::Peer(member) => {
                out.push(u8::from(member.online));
                put_limited(&mut out, &member.bundle, MAX_BUNDLE)?;
            }
            Self::NoPeer | Self::Leave | Self::GetManifest | Self::Bye => {}
            Self::Watch(tags) => {
                out.push(u8::from(tags.is_some()));
                out.extend(tags.iter().flat_map(Tags::encode));
            }
            Self::Roll(roll) => roll.encode(&mut out)?,
            Self::Start(epoch) => {
                out.extend_from_slice(&epoch.started_ms.to_be_bytes());
                out.extend_from_slice(&epoch.nonce.to_be_bytes());
            }
            Self::Manifest(bytes) | Self::Document(bytes) => put_limited(&mut out, bytes, MAX_MANIFEST)?,
            Self::List { after, limit } => {
                out.extend_from_slice(&after.to_be_bytes());
                out.extend_from_slice(&limit.to_be_bytes());
            }
            Self::Members { more, members } => {
                out.push(u8::from(*more));
                for member in members {
                    out.push(u8::from(member.online));
                    if member.bundle.len() > MAX_BUNDLE {
                        return Err(MessageError::TooLong);
                    }
                    put_counted(&mut out, &member.bundle)?;
                }
            }
        }
        if out.len() > MAX_MESSAGE { Err(MessageError::TooLong) } else { Ok(out) }
    }

    /// Reads one message: its request number and content.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(bytes: &[u8]) -> Result<(u32, Self), MessageError> {
        let mut r = Reader(bytes);
        let kind = r.u8()?;
        let request = r.u32()?;
        let message = match kind {
            1 => Self::Join(r.rest(MAX_BUNDLE)?),
            2 => Self::Welcome(Box::new(welcome(&mut r)?)),
            3 => {
                let code = r.u16()?;
                let text = r.counted(MAX_TEXT)?;
                Self::Denied(code, String::from_utf8(text).map_err(|_| MessageError::Malformed)?)
            }
            4 => match r.u8()? {
                1 => Self::Conflict(ConflictWhat::Ipv4),
                2 => Self::Conflict(ConflictWhat::Name),
                _ => return Err(MessageError::Malformed),
            },
            5 => Self::Update(r.rest(MAX_BUNDLE)?),
            6 => Self::Ack(r.u64()?),
            7 => Self::Get(lookup(&mut r)?),
            8 => Self::Peer(Member { online: r.u8()? & 1 == 1, bundle: r.rest(MAX_BUNDLE)? }),
            9 => Self::NoPeer,
            10 => Self::List { after: r.u32()?, limit: r.u16()? },
            11 => {
                let more = r.u8()? & 1 == 1;
                let mut members = Vec::new();
                while !r.0.is_empty() {
                    members.push(Member { online: r.u8()? & 1 == 1, bundle: r.counted(MAX_BUNDLE)? });
                }
                Self::Members { more, members }
            }
            12 => Self::Ping(r.u64()?),
            13 => Self::Pong(r.u64()?),
            14 => Self::Leave,
            15 => Self::GetManifest,
            16 => Self::Manifest(r.rest(MAX_MANIFEST)?),
            20 => Self::Document(r.rest(MAX_MANIFEST)?),
            24 => {
                let on = r.u8()? & 1 == 1;
                let tags = Tags::decode(&r.rest(MAX_MESSAGE)?).ok_or(MessageError::Malformed)?;
                Self::Watch(on.then_some(tags))
            }
            25 => Self::Roll(Roll::parse(&r.rest(MAX_MESSAGE)?)?),
            26 => Self::Bye,
            27 => Self::Start(BootEpoch { started_ms: r.u64()?, nonce: r.u64()? }),
            _ => return Err(MessageError::UnknownType { kind, request }),
        };
        if r.0.is_empty() { Ok((request, message)) } else { Err(MessageError::Malformed) }
    }

    /// A refusal with `text` for people, cut to what fits.
    pub fn denied(code: DeniedCode, text: &str) -> Self {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self::Denied(code as u16, text[..end].to_owned())
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Join(_) => 1,
            Self::Welcome(_) => 2,
            Self::Denied(..) => 3,
            Self::Conflict(_) => 4,
            Self::Update(_) => 5,
            Self::Ack(_) => 6,
            Self::Get(_) => 7,
            Self::Peer(_) => 8,
            Self::NoPeer => 9,
            Self::List { .. } => 10,
            Self::Members { .. } => 11,
            Self::Ping(_) => 12,
            Self::Pong(_) => 13,
            Self::Leave => 14,
            Self::GetManifest => 15,
            Self::Manifest(_) => 16,
            Self::Document(_) => 20,
            Self::Watch(_) => 24,
            Self::Roll(_) => 25,
            Self::Bye => 26,
            Self::Start(_) => 27,
        }
    }
}

/// Bytes a member takes in [`Message::Members`]; the first one starts at `HEADER_LEN + 1`.
pub const fn member_len(bundle_len: usize) -> usize {
    3 + bundle_len
}

/// Entry point for fuzzing: what parses encodes to the same bytes, reserved flag bits aside.
pub fn fuzz_message(bytes: &[u8]) {
    if let Ok((request, message)) = Message::parse(bytes)
        && let Ok(again) = message.encode(request)
    {
        assert_eq!(Message::parse(&again), Ok((request, message)));
    }
}

fn put_limited(out: &mut Vec<u8>, bytes: &[u8], max: usize) -> Result<(), MessageError> {
    if bytes.len() > max {
        return Err(MessageError::TooLong);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), MessageError> {
    let len = u16::try_from(bytes.len()).map_err(|_| MessageError::TooLong)?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_welcome(out: &mut Vec<u8>, w: &Welcome) -> Result<(), MessageError> {
    out.extend_from_slice(&w.relay_unix_ms.to_be_bytes());
    out.extend_from_slice(&address::encode(w.observed));
    out.extend_from_slice(&w.ticket);
    out.extend_from_slice(w.bind_key.expose());
    out.extend_from_slice(&w.relay_no.to_be_bytes());
    put_counted(out, &w.receipt)?;
    put_counted(out, &w.genesis)?;
    put_counted(out, &w.manifest)
}

fn welcome(r: &mut Reader<'_>) -> Result<Welcome, MessageError> {
    Ok(Welcome {
        relay_unix_ms: r.u64()?,
        observed: address::decode(&r.array()?),
        ticket: r.array()?,
        bind_key: Secret::from_bytes(r.array()?),
        relay_no: r.u16()?,
        receipt: r.counted(MAX_MESSAGE)?,
        genesis: r.counted(MAX_MESSAGE)?,
        manifest: r.counted(MAX_MESSAGE)?,
    })
}

fn put_lookup(out: &mut Vec<u8>, lookup: &Lookup) -> Result<(), MessageError> {
    let (by, value): (u8, &[u8]) = match lookup {
        Lookup::Key(key) => (1, key.as_bytes()),
        Lookup::Identity(identity) => (2, identity.as_bytes()),
        Lookup::Name(name) => (3, name.as_bytes()),
        Lookup::Ipv4(ip) => (4, &ip.octets()),
        Lookup::Ipv6(ip) => (6, &ip.octets()),
    };
    if value.is_empty() || value.len() > MAX_NAME {
        return Err(MessageError::TooLong);
    }
    out.push(by);
    out.extend_from_slice(value);
    Ok(())
}

fn lookup(r: &mut Reader<'_>) -> Result<Lookup, MessageError> {
    Ok(match r.u8()? {
        1 => Lookup::Key(PublicKey(r.array()?)),
        2 => Lookup::Identity(Identity(r.array()?)),
        3 => {
            let name = String::from_utf8(r.rest(MAX_NAME)?).map_err(|_| MessageError::Malformed)?;
            if name.is_empty() {
                return Err(MessageError::Malformed);
            }
            Lookup::Name(name)
        }
        4 => Lookup::Ipv4(Ipv4Addr::from(r.array::<4>()?)),
        6 => Lookup::Ipv6(Ipv6Addr::from(r.array::<16>()?)),
        _ => return Err(MessageError::Malformed),
    })
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], MessageError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(MessageError::Malformed)?;
        self.0 = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        self.take(N)?.try_into().map_err(|_| MessageError::Malformed)
    }
    fn u8(&mut self) -> Result<u8, MessageError> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, MessageError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    fn u32(&mut self) -> Result<u32, MessageError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, MessageError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    fn counted(&mut self, max: usize) -> Result<Vec<u8>, MessageError> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(MessageError::Malformed);
        }
        Ok(self.take(len)?.to_vec())
    }
    fn rest(&mut self, max: usize) -> Result<Vec<u8>, MessageError> {
        let len = self.0.len();
        if len > max { Err(MessageError::Malformed) } else { Ok(self.take(len)?.to_vec()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::roll::{Presence, RollEntry};

    fn samples() -> Vec<Message> {
        let member = Member { online: true, bundle: vec![3; 20] };
        vec![
            Message::Join(vec![1; 40]),
            Message::Welcome(Box::new(Welcome {
                relay_unix_ms: 1_700_000_000_000,
                observed: "203.0.113.9:55".parse().unwrap(),
                ticket: [4; TICKET_LEN],
                bind_key: Secret::from_bytes([5; 32]),
                relay_no: 1,
                receipt: vec![6; 10],
                genesis: vec![7; 11],
                manifest: vec![8; 12],
            })),
            Message::denied(DeniedCode::TokenExpired, "the token expired yesterday"),
            Message::Conflict(ConflictWhat::Name),
            Message::Update(vec![9; 30]),
            Message::Ack(12),
            Message::Get(Lookup::Key(PublicKey([1; 32]))),
            Message::Get(Lookup::Identity(Identity([2; 32]))),
            Message::Get(Lookup::Name("web-1".into())),
            Message::Get(Lookup::Ipv4(Ipv4Addr::new(10, 1, 2, 3))),
            Message::Get(Lookup::Ipv6("fd00::7".parse().unwrap())),
            Message::Peer(member.clone()),
            Message::NoPeer,
            Message::List { after: 7, limit: 100 },
            Message::Members { more: true, members: vec![member.clone(), member] },
            Message::Ping(1),
            Message::Pong(2),
            Message::Leave,
            Message::GetManifest,
            Message::Manifest(vec![7; 900]),
            Message::Document(vec![8; 300]),
            Message::Watch(Some(Tags::new(["gpu", "worker"]).unwrap())),
            Message::Watch(None),
            Message::Roll(Roll {
                begins: true,
                ends: true,
                entries: vec![RollEntry { node_no: 9, presence: Presence::Online, mark: 0xdead_beef }; 2],
            }),
            Message::Bye,
            Message::Start(BootEpoch { started_ms: 1_700_000_000_000, nonce: 7 }),
        ]
    }

    #[test]
    fn every_message_survives_its_bytes() {
        for message in samples() {
            let bytes = message.encode(77).unwrap();
            assert_eq!(Message::parse(&bytes), Ok((77, message)));
        }
    }

    #[test]
    fn flipped_cut_and_extended_messages_never_panic_and_encode_to_what_they_say() {
        for message in samples() {
            let bytes = message.encode(77).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fuzz_message(&flipped);
            }
            for len in 0..bytes.len() {
                fuzz_message(&bytes[..len]);
            }
            fuzz_message(&[&bytes[..], &[0]].concat());
        }
    }

    #[test]
    fn messages_of_fixed_form_refuse_a_byte_more_or_less() {
        for message in samples() {
            let open_ended = matches!(
                message,
                Message::Join(_)
                    | Message::Update(_)
                    | Message::Peer(_)
                    | Message::Manifest(_)
                    | Message::Document(_)
                    | Message::Get(Lookup::Name(_))
            );
            let bytes = message.encode(1).unwrap();
            if !open_ended {
                assert!(Message::parse(&[&bytes[..], &[0]].concat()).is_err(), "{message:?}");
                assert!(Message::parse(&bytes[..bytes.len() - 1]).is_err(), "{message:?}");
            }
        }
    }

    #[test]
    fn unknown_types_name_the_request_to_answer() {
        let unknown = [99, 0, 0, 0, 5, 1, 2];
        assert_eq!(Message::parse(&unknown), Err(MessageError::UnknownType { kind: 99, request: 5 }));
    }

    #[test]
    fn what_exceeds_a_maximum_is_not_encoded_and_not_accepted() {
        let long = Message::Join(vec![0; MAX_BUNDLE + 1]);
        assert_eq!(long.encode(0), Err(MessageError::TooLong));
        let mut bytes = Message::Join(vec![0; MAX_BUNDLE]).encode(0).unwrap();
        bytes.push(0);
        assert_eq!(Message::parse(&bytes), Err(MessageError::Malformed));
        assert!(
            matches!(Message::denied(DeniedCode::TryAgain, &"ä".repeat(400)), Message::Denied(8, t) if t.len() <= MAX_TEXT)
        );
    }
}
