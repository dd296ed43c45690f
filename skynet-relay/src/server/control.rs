//! The control side of the relay: connections from handshake to close. What they ask and who they are is in the files
//! beside.
//!
//! It decides who may ask what and never what is true: everything that is stored or looked up leaves as a
//! [`StoreRequest`], and the member is answered only after the shell has called
//! [`handle_store_reply`](ControlServer::handle_store_reply), that is after the store has acknowledged.

mod answers;
mod bulletin;
mod fence;
mod presence;
mod requests;
mod roll;
mod room;
mod store;
mod unheard;

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use skynet_core::control::Channel;
use skynet_core::key::{PublicKey, StaticSecret};
use skynet_core::member::Tags;
use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant, Now, earliest};

use super::ClusterKeys;
use super::connection::{Connection, FAIR_UNSENT, MAX_UNSENT, MAX_UNSENT_TOGETHER, MemberKey};
use super::limit::prefix;
use super::{StreamDrop, StreamDrops};
use answers::Asked;
use bulletin::Bulletin;
use fence::Fences;
use roll::Rolls;
use room::release;
pub use store::{Enrolled, InForce, Joined, Listed, StoreOp, StoreReply, StoreRequest};
use unheard::Unheard;

/// A connection, numbered by the shell and never reused while a reply may be under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnId(pub u64);

/// Who this relay is and what it bears.
#[derive(Clone, Debug)]
pub struct ControlServerConfig {
    /// This relay's number in the manifest.
    pub relay_no: u16,
    /// Its key, pinned by tokens and manifest.
    pub key: StaticSecret,
    /// Most connections at once.
    pub max_connections: usize,
    /// Most of them that have not joined.
    pub max_unjoined: usize,
    /// Most of those from one IPv4 address or IPv6 /64.
    pub max_unjoined_per_prefix: u16,
    /// The network's other relays, which may ask for members and manifest without joining.
    pub relays: Vec<PublicKey>,
    /// Their network.
    pub network_id: [u8; 8],
    /// Seconds a ticket is good for.
    pub ticket_lifetime_s: u64,
    /// Tag → rate class in the tickets of those who have it, the first that fits; the others' is 0.
    pub class_tags: Vec<(String, u16)>,
}

impl ControlServerConfig {
    /// The defaults around a relay's number and key.
    pub fn new(relay_no: u16, key: StaticSecret) -> Self {
        Self {
            relay_no,
            key,
            max_connections: 20_000,
            max_unjoined: 512,
            max_unjoined_per_prefix: 128,
            relays: Vec::new(),
            network_id: [0; 8],
            ticket_lifetime_s: 14 * 86_400,
            class_tags: Vec::new(),
        }
    }
}

impl ControlServerConfig {
    fn rate_class(&self, tags: &Tags) -> u16 {
        self.class_tags.iter().find(|(tag, _)| tags.contains(tag)).map_or(0, |(_, number)| *number)
    }
}

/// What the shell does with a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamOutput {
    /// Write these bytes, then call [`ControlServer::handle_stream_written`].
    Bytes(ConnId, Vec<u8>),
    /// Close it; `handle_stream_closed` need not be called.
    Close(ConnId),
}

/// In what time a relay that drains lets its members go.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// The machine. *Getters* `connections`, `joined`, `drops`, `is_online`; *handle* `handle_stream_*`,
/// `handle_store_reply`, `handle_timeout`; *poll* `poll_store_request`, `poll_stream_write` until `None`, then
/// `poll_timeout`.
pub struct ControlServer {
    config: ControlServerConfig,
    keys: ClusterKeys,
    rng: Rng,
    connections: BTreeMap<ConnId, Connection>,
    /// Connections that have not joined, by source prefix, the oldest first.
    unjoined: BTreeMap<u64, BTreeSet<ConnId>>,
    /// Bytes that readers are behind, all together.
    unsent: usize,
    online: BTreeMap<MemberKey, ConnId>,
    rolls: Rolls,
    unheard: Unheard,
    fences: Fences,
    asked: BTreeMap<u64, Asked>,
    next_id: u64,
    /// One entry per connection; a deadline that moved is armed again when its entry comes up.
    deadlines: BTreeSet<(Instant, ConnId)>,
    requests: VecDeque<StoreRequest>,
    output: VecDeque<StreamOutput>,
    drops: StreamDrops,
    bulletin: Bulletin,
    /// When the next joined connection is asked to go, while this relay drains.
    drain_next: Option<(Instant, Duration)>,
    last_now: Instant,
}

impl ControlServer {
    /// A server without connections.
    pub fn new(config: ControlServerConfig, keys: ClusterKeys, rng: Rng) -> Self {
        Self {
            config,
            keys,
            rng,
            connections: BTreeMap::new(),
            unjoined: BTreeMap::new(),
            unsent: 0,
            online: BTreeMap::new(),
            rolls: Rolls::default(),
            unheard: Unheard::default(),
            fences: Fences::default(),
            asked: BTreeMap::new(),
            next_id: 1,
            deadlines: BTreeSet::new(),
            requests: VecDeque::new(),
            output: VecDeque::new(),
            drops: StreamDrops::default(),
            bulletin: Bulletin::default(),
            drain_next: None,
            last_now: Instant::ZERO,
        }
    }

    /// This relay is going away: nobody joins any more, and those who have are let go one after the other, all within
    /// [`DRAIN_WITHIN`], so that they do not arrive elsewhere in one second.
    pub fn drain(&mut self, now: Now) {
        self.last_now = self.last_now.max(now.mono);
        let gap = DRAIN_WITHIN / u32::try_from(self.online.len().max(1)).unwrap_or(u32::MAX);
        self.drain_next.get_or_insert((now.mono, gap));
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
    /// Members online here.
    pub fn joined(&self) -> usize {
        self.online.len()
    }
    /// What was refused, by reason.
    pub fn drops(&self) -> &StreamDrops {
        &self.drops
    }

    /// A stream from `peer`. `false`: close it at once, it is not known here.
    pub fn handle_stream_opened(&mut self, conn: ConnId, peer: SocketAddr, now: Now) -> bool {
        self.last_now = self.last_now.max(now.mono);
        let source = prefix(peer.ip());
        if self.connections.len() >= self.config.max_connections {
            self.drops.count(StreamDrop::TooManyConnections);
            return false;
        }
        if !self.make_room_for(source) {
            self.drops.count(StreamDrop::TooManyUnjoined);
            return false;
        }
        self.unjoined.entry(source).or_default().insert(conn);
        let channel = Channel::responder(&self.config.key, &mut self.rng, now.mono);
        let connection = Connection::new(channel, peer, now.mono);
        self.connections.insert(conn, connection);
        self.arm(conn);
        true
    }

    /// Bytes from a stream, at most 16 KiB at a time.
    pub fn handle_stream_bytes(&mut self, conn: ConnId, bytes: &[u8], now: Now) {
        self.last_now = self.last_now.max(now.mono);
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.heard(bytes.len(), now.mono);
        let mut result = connection.channel.feed(bytes).map_err(|_| StreamDrop::BrokenChannel);
        while result.is_ok() {
            let Some(connection) = self.connections.get_mut(&conn) else { return };
            result = match connection.channel.poll_message() {
                Ok(Some(message)) => self.on_message(conn, &message, now.mono),
                Ok(None) => break,
                Err(_) => Err(StreamDrop::BrokenChannel),
            };
        }
        match result {
            Ok(()) => self.flush(conn),
            Err(reason) => self.close(conn, reason),
        }
        self.settle_fences(now);
    }

    /// `n` bytes of a stream were written.
    pub fn handle_stream_written(&mut self, conn: ConnId, n: usize) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            let n = n.min(connection.unsent);
            connection.unsent -= n;
            self.unsent -= n;
        }
    }

    /// A stream is gone.
    pub fn handle_stream_closed(&mut self, conn: ConnId, now: Now) {
        self.last_now = self.last_now.max(now.mono);
        self.forget(conn);
    }

    /// Closes what is late.
    pub fn handle_timeout(&mut self, now: Now) {
        self.last_now = self.last_now.max(now.mono);
        self.tell_some(now.mono);
        while let Some((at, gap)) = self.drain_next.filter(|(at, _)| *at <= now.mono) {
            let Some(conn) = self.online.values().next().copied() else { break };
            self.close(conn, StreamDrop::Draining);
            self.drain_next = Some((at + gap, gap));
        }
        while let Some(&(at, conn)) = self.deadlines.first() {
            if at > now.mono {
                break;
            }
            self.deadlines.remove(&(at, conn));
            let Some(connection) = self.connections.get(&conn) else { continue };
            if connection.deadline > now.mono {
                self.arm(conn);
            } else if let Some(member) = connection.member {
                self.close(conn, StreamDrop::Idle);
                self.forget_if_ephemeral(member, now.mono);
            } else {
                self.close(conn, StreamDrop::JoinDeadline);
            }
        }
        self.settle_fences(now);
        self.forget_unheard(now.mono);
        self.tell_rolls(now.mono);
    }

    /// The next thing for the store. Answer each exactly once.
    pub fn poll_store_request(&mut self) -> Option<StoreRequest> {
        self.requests.pop_front()
    }
    /// The next thing for a stream.
    pub fn poll_stream_write(&mut self) -> Option<StreamOutput> {
        self.output.pop_front()
    }
    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.output.is_empty() || !self.requests.is_empty() {
            return Some(self.last_now);
        }
        let drain = self.drain_next.map(|(at, _)| at).filter(|_| !self.online.is_empty());
        let deadline = earliest(self.deadlines.first().map(|&(at, _)| at), drain);
        let others = [
            self.bulletin.poll_timeout(),
            self.rolls.poll_timeout(),
            self.unheard.poll_timeout(),
            self.fences.poll_timeout(),
        ];
        others.into_iter().fold(deadline, earliest)
    }

    fn arm(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        self.deadlines.remove(&(connection.armed, conn));
        connection.armed = connection.deadline;
        self.deadlines.insert((connection.armed, conn));
    }

    fn flush(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        while let Some(bytes) = connection.channel.poll_bytes() {
            connection.unsent += bytes.len();
            self.unsent += bytes.len();
            self.output.push_back(StreamOutput::Bytes(conn, bytes));
        }
        let behind = connection.unsent;
        if behind > MAX_UNSENT || (self.unsent > MAX_UNSENT_TOGETHER && behind > FAIR_UNSENT) {
            self.close(conn, StreamDrop::SlowReader);
        }
    }

    fn close(&mut self, conn: ConnId, reason: StreamDrop) {
        self.drops.count(reason);
        self.flush_last_words(conn);
        self.forget(conn);
        self.output.push_back(StreamOutput::Close(conn));
    }

    /// What was sealed before the error still leaves, but not to a reader that does not read.
    fn flush_last_words(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.unsent <= MAX_UNSENT {
            while let Some(bytes) = connection.channel.poll_bytes() {
                self.output.push_back(StreamOutput::Bytes(conn, bytes));
            }
        }
    }

    fn forget(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        self.unsent -= connection.unsent;
        self.forget_roll(conn);
        self.fences.forget(conn);
        self.deadlines.remove(&(connection.armed, conn));
        match connection.member {
            None => release(&mut self.unjoined, prefix(connection.peer.ip()), conn),
            Some(member) => {
                if self.online.get(&member) == Some(&conn) {
                    self.online.remove(&member);
                    self.rolls.closed(member, self.last_now);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "roll_tests.rs"]
mod roll_tests;
#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
