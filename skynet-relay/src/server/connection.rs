//! One control connection as the server sees it.

use core::net::SocketAddr;

use skynet_core::control::message::{BootEpoch, HEADER_LEN};
use skynet_core::control::{Channel, DeniedCode, Message};
use skynet_core::key::Identity;
use skynet_core::time::{Duration, Instant};

use super::limit::Bucket;
use super::{Enrolled, StreamDrop};

/// How long a connection may be without handshake and JOIN, also between two JOINs.
pub(super) const JOIN_DEADLINE: Duration = Duration::from_secs(5);
/// Three PINGs of a node and some.
pub(super) const IDLE: Duration = Duration::from_secs(75);
/// An ephemeral node's PING every twenty seconds, and some: it is out of everybody's rosters within thirty.
pub(super) const IDLE_EPHEMERAL: Duration = Duration::from_secs(28);
/// Bytes a reader may be behind.
pub(super) const MAX_UNSENT: usize = 256 * 1024;
/// Bytes all readers together may be behind; above, those go that are behind by more than their share.
pub(super) const MAX_UNSENT_TOGETHER: usize = 64 * 1024 * 1024;
/// What is no reason to close a connection.
pub(super) const FAIR_UNSENT: usize = 4 * 1024;
/// Attempts to JOIN on one connection: a node grinds its address a few times at most.
pub(super) const MAX_JOINS: u8 = 64;
/// Requests at the store at once.
pub(super) const MAX_PENDING: u16 = 32;
/// Requests per second, and their burst.
pub(super) const REQUEST_RATE: (u64, u64) = (50, 200);

/// Who the other side is, once JOIN succeeded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct MemberKey {
    pub(super) network_id: [u8; 8],
    pub(super) identity: Identity,
}

impl MemberKey {
    pub(super) fn of(who: &Enrolled) -> Self {
        Self { network_id: who.network_id, identity: who.identity }
    }
}

pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) peer: SocketAddr,
    pub(super) member: Option<MemberKey>,
    /// It is forgotten when it is gone.
    pub(super) ephemeral: bool,
    /// Which process it is, if it said so.
    pub(super) epoch: Option<BootEpoch>,
    pub(super) joins: u8,
    pub(super) pending: u16,
    pub(super) requests: Bucket,
    /// When to give up: JOIN while not joined, silence afterwards.
    pub(super) deadline: Instant,
    /// When the server will look at `deadline`.
    pub(super) armed: Instant,
    /// The last of the documents it was told.
    pub(super) told: u64,
    /// The one of them that its WELCOME held, if any did.
    pub(super) has_manifest: Option<u64>,
    /// Bytes handed out and not yet reported as written.
    pub(super) unsent: usize,
    /// Bytes heard,
    received: usize,
    /// and said, the answer to the handshake included.
    said: usize,
}

impl Connection {
    pub(super) fn new(channel: Channel, peer: SocketAddr, now: Instant) -> Self {
        Self {
            channel,
            peer,
            member: None,
            ephemeral: false,
            epoch: None,
            joins: 0,
            pending: 0,
            requests: Bucket::full(REQUEST_RATE.1, now),
            deadline: now + JOIN_DEADLINE,
            armed: now + JOIN_DEADLINE,
            told: 0,
            has_manifest: None,
            unsent: 0,
            received: 0,
            said: MESSAGE_2_LEN,
        }
    }

    /// Life from the other side: postpones the deadline of a joined connection only.
    pub(super) fn heard(&mut self, bytes: usize, now: Instant) {
        self.received += bytes;
        if self.member.is_some() {
            self.deadline = now + if self.ephemeral { IDLE_EPHEMERAL } else { IDLE };
        }
    }

    /// Bytes of a message that can be said without saying more in all than was heard.
    pub(super) fn room(&self) -> usize {
        self.received.saturating_sub(self.said + FRAME_LEN)
    }

    /// Refuses a request: in full to a member. Whoever is none gets no more bytes than it sent.
    pub(super) fn refuse(&mut self, request: u32, code: DeniedCode, text: &str) -> Result<(), StreamDrop> {
        let message = match self.member {
            Some(_) => Some(Message::denied(code, text)),
            None => denied_within(self.room(), code as u16, text),
        };
        message.map_or(Ok(()), |message| self.send(request, &message))
    }

    /// Seals a message into the channel.
    pub(super) fn send(&mut self, request: u32, message: &Message) -> Result<(), StreamDrop> {
        let bytes = message.encode(request).map_err(|_| StreamDrop::BrokenChannel)?;
        self.said += FRAME_LEN + bytes.len();
        self.channel.send(&bytes).map_err(|_| StreamDrop::BrokenChannel)
    }
}

/// DENIED in at most `room` bytes, its text cut if need be; `None` if there is no room for it at all.
pub(super) fn denied_within(room: usize, code: u16, text: &str) -> Option<Message> {
    let room = room.checked_sub(HEADER_LEN + DENIED_LEN)?;
    Some(Message::Denied(code, text[..text.floor_char_boundary(room)].to_owned()))
}

/// Code and length of a DENIED.
const DENIED_LEN: usize = 4;
/// What a frame adds to its message.
const FRAME_LEN: usize = 2 + 16;
/// The relay's part of the handshake.
const MESSAGE_2_LEN: usize = 2 + 48;
