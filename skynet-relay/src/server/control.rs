//! The control side of the relay: handshakes, JOIN, look-ups, presence.
//!
//! It decides who may ask what and never what is true: everything that is stored or looked up leaves as a
//! [`StoreRequest`], and the member is answered only after the shell has called
//! [`handle_store_reply`](ControlServer::handle_store_reply), that is after the store has acknowledged.

mod bulletin;
mod fence;
mod roll;
mod room;
mod unheard;

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use skynet_core::control::message::{ConflictWhat, HEADER_LEN, Lookup, MAX_BUNDLE, member_len};
use skynet_core::control::message::{Member, MessageError, Welcome};
use skynet_core::control::roll::Presence;
use skynet_core::control::{Channel, DeniedCode, Message};
use skynet_core::key::{Identity, PublicKey, StaticSecret};
use skynet_core::member::Tags;
use skynet_core::rng::{Rng, RngCore as _};
use skynet_core::time::{Duration, Instant, Now, earliest};
use skynet_core::wire::relay::{Ticket, bind_key};

use super::ClusterKeys;
use super::connection::{
    Connection, FAIR_UNSENT, JOIN_DEADLINE, MAX_JOINS, MAX_PENDING, MAX_UNSENT, MAX_UNSENT_TOGETHER,
    MemberKey, REQUEST_RATE, denied_within,
};
use super::limit::prefix;
use super::methods::{Method, Standing};
use super::{DropReason, Drops};
use crate::registrar::Ousted;
use bulletin::Bulletin;
use fence::Fences;
use roll::Rolls;
use room::release;
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

/// Something for the store or the registrar. `id` comes back with the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreRequest {
    /// To be given to [`ControlServer::handle_store_reply`].
    pub id: u64,
    /// What to do.
    pub op: StoreOp,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreOp {
    /// Admit or renew the member whose session key the handshake has proven.
    Join {
        /// Delegation, certificate, binding, maybe receipt and record.
        bundle: Vec<u8>,
        /// The proven key; the binding must name it.
        key: PublicKey,
    },
    /// Store a node record of `identity`.
    Update {
        /// The member's network.
        network_id: [u8; 8],
        /// Who asks; the record must be its own.
        identity: Identity,
        /// Its proven session key.
        key: PublicKey,
        /// The record.
        record: Vec<u8>,
    },
    /// Find a member.
    Get {
        /// Where to look.
        network_id: [u8; 8],
        /// Whom to look for.
        lookup: Lookup,
    },
    /// Members in order of node number.
    List {
        /// Where to look.
        network_id: [u8; 8],
        /// Only those above this number.
        after: u32,
        /// At most this many.
        limit: u16,
    },
    /// The manifest in force, for another relay.
    Manifest,
    /// Another relay's directory says so. Nobody is answered.
    Learn {
        /// Documents of members.
        bundles: Vec<Vec<u8>>,
    },
    /// A document of the network that may be newer than ours, from another relay or from the operator. Answered as
    /// `InForce`.
    Adopt {
        /// The document.
        document: Vec<u8>,
    },
    /// Which documents are in force, and who was put out by them.
    InForce,
    /// Which ephemeral members there are, if this relay's registrar is who forgets them.
    Ephemeral,
    /// The member leaves for good.
    Leave {
        /// The member's network.
        network_id: [u8; 8],
        /// Who leaves.
        identity: Identity,
        /// Its proven session key.
        key: PublicKey,
    },
}

/// What the registrar made of a JOIN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// The network.
    pub network_id: [u8; 8],
    /// The member.
    pub identity: Identity,
    /// Its overlay IPv4 address as a number.
    pub node_no: u32,
    /// Its session key.
    pub key: PublicKey,
    /// Its certificate's tags,
    pub tags: Tags,
    /// what tells that certificate from others,
    pub mark: u32,
    /// and whether it is forgotten when it is gone.
    pub ephemeral: bool,
    /// The admission receipt.
    pub receipt: Vec<u8>,
    /// The genesis document.
    pub genesis: Vec<u8>,
    /// The manifest in force.
    pub manifest: Vec<u8>,
}

/// A member found by LIST.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The member.
    pub identity: Identity,
    /// Its documents.
    pub bundle: Vec<u8>,
}

/// The store's answer, given when what it says is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreReply {
    /// JOIN: admitted.
    Joined(Box<Joined>),
    /// JOIN: taken by another.
    Conflict(ConflictWhat),
    /// Any: no.
    Denied(DeniedCode, String),
    /// UPDATE: stored under this version. LEAVE: 0.
    Done(u64),
    /// GET: found.
    Found(Listed),
    /// GET: nobody.
    NotFound,
    /// LIST: some, and whether there are more.
    Listed(bool, Vec<Listed>),
    /// The manifest.
    Manifest(Vec<u8>),
    /// What is in force, whoever asked.
    InForce(Box<InForce>),
    /// The ephemeral members of the directory.
    Ephemeral(Vec<Ephemeral>),
}

/// A member that is forgotten when it is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ephemeral {
    /// The network.
    pub network_id: [u8; 8],
    /// The member.
    pub identity: Identity,
    /// Its overlay IPv4 address as a number.
    pub node_no: u32,
    /// Its session key.
    pub key: PublicKey,
    /// Its certificate's tags,
    pub tags: Tags,
    /// and what tells that certificate from others.
    pub mark: u32,
}

/// What holds in the network now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    /// Which network.
    pub network_id: [u8; 8],
    /// The documents that members are told, beside the manifest of their WELCOME.
    pub documents: Vec<Vec<u8>>,
    /// Who was revoked, as long as it may hold a ticket.
    pub ousted: Vec<Ousted>,
    /// The keys of the network's relays.
    pub relays: Vec<PublicKey>,
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

struct Asked {
    conn: ConnId,
    request: u32,
    leaves: bool,
}

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
    drops: Drops,
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
            drops: Drops::default(),
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
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
    /// Whether a member's control channel is open here.
    pub fn is_online(&self, network_id: [u8; 8], identity: Identity) -> bool {
        self.online.contains_key(&MemberKey { network_id, identity })
    }

    /// A stream from `peer`. `false`: close it at once, it is not known here.
    pub fn handle_stream_opened(&mut self, conn: ConnId, peer: SocketAddr, now: Now) -> bool {
        self.last_now = self.last_now.max(now.mono);
        let source = prefix(peer.ip());
        if self.connections.len() >= self.config.max_connections {
            self.drops.count(DropReason::TooManyConnections);
            return false;
        }
        if !self.make_room_for(source) {
            self.drops.count(DropReason::TooManyUnjoined);
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
        let mut result = connection.channel.feed(bytes).map_err(|_| DropReason::BrokenChannel);
        while result.is_ok() {
            let Some(connection) = self.connections.get_mut(&conn) else { return };
            result = match connection.channel.poll_message() {
                Ok(Some(message)) => self.on_message(conn, &message, now.mono),
                Ok(None) => break,
                Err(_) => Err(DropReason::BrokenChannel),
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

    /// The answer to a [`StoreRequest`].
    pub fn handle_store_reply(&mut self, id: u64, reply: StoreReply, now: Now) {
        self.last_now = self.last_now.max(now.mono);
        let reply = match reply {
            StoreReply::InForce(in_force) => return self.on_in_force(*in_force, now.mono),
            StoreReply::Ephemeral(members) => return self.on_ephemeral(members, now.mono),
            reply => reply,
        };
        let Some(asked) = self.asked.remove(&id) else { return };
        let Some(connection) = self.connections.get_mut(&asked.conn) else { return };
        connection.pending -= 1;
        let stranger = connection.member.is_none();
        let message = match reply {
            StoreReply::Joined(joined) => match self.fence(asked.conn, asked.request, *joined, now) {
                Some(joined) => self.welcome(asked.conn, joined, now),
                None => return,
            },
            StoreReply::Conflict(what) => Message::Conflict(what),
            StoreReply::Denied(code, text) => Message::denied(code, &text),
            StoreReply::Done(version) => Message::Ack(version),
            StoreReply::NotFound => Message::NoPeer,
            StoreReply::Found(found) => Message::Peer(self.describe(asked.conn, found)),
            StoreReply::Listed(more, members) => self.members(asked.conn, more, members),
            StoreReply::Manifest(bytes) => Message::Manifest(bytes),
            StoreReply::InForce(_) | StoreReply::Ephemeral(_) => return,
        };
        if asked.leaves && matches!(message, Message::Ack(_)) {
            self.set_offline(asked.conn, now.mono);
        }
        let message = match message {
            Message::Denied(code, text) if stranger => {
                let room = self.connections.get(&asked.conn).map_or(0, Connection::room);
                let Some(cut) = denied_within(room, code, &text) else { return };
                cut
            }
            message => message,
        };
        let tells = matches!(message, Message::Welcome(_) | Message::Manifest(_));
        self.answer(asked.conn, asked.request, &message, now.mono);
        if tells {
            self.tell(asked.conn);
        }
    }

    /// Closes what is late.
    pub fn handle_timeout(&mut self, now: Now) {
        self.last_now = self.last_now.max(now.mono);
        self.tell_some(now.mono);
        while let Some((at, gap)) = self.drain_next.filter(|(at, _)| *at <= now.mono) {
            let Some(conn) = self.online.values().next().copied() else { break };
            self.close(conn, DropReason::Draining);
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
                self.close(conn, DropReason::Idle);
                self.forget_if_ephemeral(member, now.mono);
            } else {
                self.close(conn, DropReason::JoinDeadline);
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

    fn on_message(&mut self, conn: ConnId, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let connection = self.connections.get_mut(&conn).expect("the caller just looked it up");
        let (request, message) = match Message::parse(bytes) {
            Ok(parsed) => parsed,
            Err(MessageError::UnknownType { request: 0, .. }) => return Ok(()),
            Err(MessageError::UnknownType { request, .. }) => {
                let text = "this relay does not know that request";
                return connection.refuse(request, DeniedCode::Malformed, text);
            }
            Err(_) => {
                return connection.refuse(0, DeniedCode::Malformed, "malformed message");
            }
        };
        let key = connection.channel.remote().ok_or(DropReason::BrokenChannel)?;
        let standing = match connection.member {
            Some(_) => Standing::Member,
            None if self.config.relays.contains(&key) => Standing::Relay,
            None => Standing::Pending,
        };
        let method = Method::of(&message);
        if method == Some(Method::Ping)
            && let Message::Ping(t) = message
        {
            return connection.send(request, &Message::Pong(t));
        }
        let (rate, burst) = REQUEST_RATE;
        if connection.pending >= MAX_PENDING || !connection.requests.take(1, rate, burst, now) {
            return connection.refuse(request, DeniedCode::TryAgain, "too many requests");
        }
        match method {
            Some(method) if method.is_open_to(standing) => self.serve(conn, request, message, now),
            None if standing == Standing::Member => {
                connection.refuse(request, DeniedCode::Malformed, "this message is not a request")
            }
            _ => {
                let text = match standing {
                    Standing::Pending => "join first",
                    Standing::Relay => "a relay may only ask for members and the manifest",
                    Standing::Member => "only another relay of the network may ask this",
                };
                connection.refuse(request, DeniedCode::NotJoined, text)
            }
        }
    }

    /// A request that the table of methods lets through.
    fn serve(
        &mut self,
        conn: ConnId,
        request: u32,
        message: Message,
        now: Instant,
    ) -> Result<(), DropReason> {
        let connection = self.connections.get(&conn).ok_or(DropReason::BrokenChannel)?;
        let key = connection.channel.remote().ok_or(DropReason::BrokenChannel)?;
        let member = connection.member;
        let network_id = member.map_or(self.config.network_id, |member| member.network_id);
        let identity = member.map(|member| member.identity);
        let op = match message {
            Message::Join(bundle) => return self.on_join(conn, request, bundle, now),
            Message::Watch(tags) => return self.on_watch(conn, request, tags, now),
            Message::Bye => {
                self.on_bye(conn, now);
                return Ok(());
            }
            Message::Start(epoch) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.epoch = Some(epoch);
                }
                return Ok(());
            }
            Message::Pong(t) => {
                self.on_alive(conn, t);
                return Ok(());
            }
            Message::Update(record) => {
                identity.map(|identity| StoreOp::Update { network_id, identity, key, record })
            }
            Message::Leave => identity.map(|identity| StoreOp::Leave { network_id, identity, key }),
            Message::Get(lookup) => Some(StoreOp::Get { network_id, lookup }),
            Message::List { after, limit } => {
                Some(StoreOp::List { network_id, after, limit: limit.min(MAX_LISTED) })
            }
            Message::GetManifest => Some(StoreOp::Manifest),
            _ => None,
        };
        // The table lets nobody else get here.
        let op = op.ok_or(DropReason::BrokenChannel)?;
        self.ask(conn, request, op);
        Ok(())
    }

    fn on_join(
        &mut self,
        conn: ConnId,
        request: u32,
        bundle: Vec<u8>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let connection = self.connections.get_mut(&conn).expect("the caller just looked it up");
        let key = connection.channel.remote().ok_or(DropReason::BrokenChannel)?;
        if connection.joins >= MAX_JOINS {
            return Err(DropReason::JoinDeadline);
        }
        connection.joins += 1;
        if self.drain_next.is_some() {
            let text = "this relay is going away, another lets you in";
            return connection.send(request, &Message::denied(DeniedCode::TryAgain, text));
        }
        if connection.member.is_none() {
            // The store's time is not the node's.
            connection.deadline = now + 2 * JOIN_DEADLINE;
        } else {
            connection.joins = 0;
        }
        self.ask(conn, request, StoreOp::Join { bundle, key });
        Ok(())
    }

    fn ask(&mut self, conn: ConnId, request: u32, op: StoreOp) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.pending += 1;
        let id = self.next_id;
        self.next_id += 1;
        let leaves = matches!(op, StoreOp::Leave { .. });
        self.asked.insert(id, Asked { conn, request, leaves });
        self.requests.push_back(StoreRequest { id, op });
    }

    /// Enters the member as online and mints its ticket.
    fn welcome(&mut self, conn: ConnId, joined: Joined, now: Now) -> Message {
        let member = MemberKey { network_id: joined.network_id, identity: joined.identity };
        if let (Some(connection), true) = (self.connections.get_mut(&conn), joined.ephemeral) {
            connection.ephemeral = true;
        }
        self.set_online(conn, member, now.mono);
        self.unheard.heard(&member);
        self.rolls.arrived(member, &joined, now.mono);
        let (kid, cluster_key) = self.keys.current();
        let ticket = Ticket {
            kid,
            rate_class: self.config.rate_class(&joined.tags),
            node_no: joined.node_no,
            network_id: joined.network_id,
            not_after: now.unix.0.saturating_add(self.config.ticket_lifetime_s),
            issue_nonce: self.rng.next_u64(),
            identity_hash: Ticket::hash_identity(&joined.identity),
        }
        .mint(cluster_key);
        let observed = self.connections[&conn].peer;
        Message::Welcome(Box::new(Welcome {
            relay_unix_ms: super::unix_ms(now),
            observed,
            ticket,
            bind_key: bind_key(cluster_key, &ticket),
            relay_no: self.config.relay_no,
            receipt: joined.receipt,
            genesis: joined.genesis,
            manifest: joined.manifest,
        }))
    }

    fn set_online(&mut self, conn: ConnId, member: MemberKey, now: Instant) {
        let connection = self.connections.get_mut(&conn).expect("the caller just looked it up");
        match connection.member.replace(member) {
            None => {
                let source = prefix(connection.peer.ip());
                release(&mut self.unjoined, source, conn);
            }
            Some(old) if old != member => {
                if self.online.get(&old) == Some(&conn) {
                    self.online.remove(&old);
                    self.rolls.closed(old, now);
                }
            }
            Some(_) => {}
        }
        connection.joins = 0;
        connection.heard(0, now);
        self.online.insert(member, conn);
    }

    /// After LEAVE the connection is one that has not joined.
    fn set_offline(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(member) = connection.member.take() {
            self.unjoined.entry(prefix(connection.peer.ip())).or_default().insert(conn);
            connection.deadline = now + JOIN_DEADLINE;
            if self.online.get(&member) == Some(&conn) {
                self.online.remove(&member);
            }
            self.rolls.gone(member, Presence::Left, now);
            self.arm(conn);
        }
    }

    fn arm(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        self.deadlines.remove(&(connection.armed, conn));
        connection.armed = connection.deadline;
        self.deadlines.insert((connection.armed, conn));
    }

    fn describe(&self, conn: ConnId, found: Listed) -> Member {
        let network = self.connections.get(&conn).and_then(|c| c.member).map(|m| m.network_id);
        let online = network.is_some_and(|network_id| self.is_online(network_id, found.identity));
        Member { online, bundle: found.bundle }
    }

    /// As many members as fit a frame.
    fn members(&self, conn: ConnId, mut more: bool, listed: Vec<Listed>) -> Message {
        let mut room = skynet_core::control::channel::MAX_MESSAGE - HEADER_LEN - 1;
        let mut members = Vec::new();
        for found in listed {
            if found.bundle.len() > MAX_BUNDLE {
                continue;
            }
            let Some(left) = room.checked_sub(member_len(found.bundle.len())) else {
                more = true;
                break;
            };
            room = left;
            members.push(self.describe(conn, found));
        }
        Message::Members { more, members }
    }

    fn answer(&mut self, conn: ConnId, request: u32, message: &Message, now: Instant) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.member.is_none() {
            connection.deadline = now + JOIN_DEADLINE;
        }
        match connection.send(request, message) {
            Ok(()) => self.flush(conn),
            Err(reason) => self.close(conn, reason),
        }
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
            self.close(conn, DropReason::SlowReader);
        }
    }

    fn close(&mut self, conn: ConnId, reason: DropReason) {
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

/// Most members asked of the store at once; a frame holds fewer.
const MAX_LISTED: u16 = 256;

#[cfg(test)]
#[path = "roll_tests.rs"]
mod roll_tests;
#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
