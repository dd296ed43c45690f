//! The UDP side of the relay: binds sessions and moves datagrams between those of one network.
//!
//! Every answer is written over its cause, so nothing larger than its cause can leave. A datagram is delivered only to
//! the proven address of a live session of the sender's network; no address in a packet is ever followed.

use core::net::SocketAddr;
use std::sync::Arc;

use skynet_core::key::Secret;
use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant, Now};
use skynet_core::wire::address;
use skynet_core::wire::relay::{
    self, Bound, Cookie, DataHeader, Frame, Nack, NackCode, TICKET_LEN, Ticket, bind_key,
};

use super::Local;
use super::cluster::ClusterKeys;
use super::cookie::Cookies;
use super::drops::{DropReason, Drops};
use super::limit::PrefixLimiter;
use super::police::Police;
use super::rates::{Groups, Rate, RateClass};
use super::revoked::Revoked;
use super::session::{SessionKey, SessionTable, SessionView, Shard, TableLimits};
use super::share::Board;
use super::stun;
use super::update::Update;

/// A session without any datagram is forgotten after this long.
pub const LIFETIME: Duration = Duration::from_secs(120);
/// Below the 30 s at which common NATs forget an unconfirmed mapping, with room for one lost packet.
pub const KEEPALIVE: Duration = Duration::from_secs(20);
/// Difference between `ts_ms` and the relay's clock that is still accepted.
const MAX_SKEW_MS: u64 = 30_000;
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Limits of the UDP side.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// This relay's number in the manifest.
    pub relay_no: u16,
    /// Most sessions at once, those of all threads together.
    pub max_sessions: usize,
    /// Most sessions (lanes) of one node.
    pub max_sessions_per_node: usize,
    /// HELLOs answered per second and source prefix, and their burst.
    pub hello_rate: (u64, u64),
    /// STUN requests answered per second and source prefix, and their burst.
    pub stun_rate: (u64, u64),
    /// NACKs per second and source prefix, and their burst.
    pub nack_rate: (u64, u64),
    /// The limits that tickets name by their `rate_class`, at most 64; the first is that of all others.
    pub classes: Vec<RateClass>,
    /// What this host can send, kilobits a second: above it sessions have equal shares. 0 if it is not known.
    pub uplink_kbit: u64,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            relay_no: 1,
            max_sessions: 65_536,
            max_sessions_per_node: 4,
            hello_rate: (20, 100),
            stun_rate: (20, 40),
            nack_rate: (10, 10),
            classes: Vec::new(),
            uplink_kbit: 0,
        }
    }
}

/// What the shell does with a datagram after [`Forwarder::handle_datagram`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send the whole datagram, its header rewritten, to this address.
    Forward {
        /// Where it leaves from: what the recipient's BIND came to.
        local: Local,
        /// The recipient.
        to: SocketAddr,
    },
    /// Send the first `len` bytes of the buffer back to the source, from where it was asked.
    Reply {
        /// Bytes to send, at most the length of the cause.
        len: usize,
    },
    /// Nothing.
    Drop(DropReason),
}

/// Datagrams and bytes since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ForwardCounters {
    /// Datagrams received.
    pub received: u64,
    /// DATA frames forwarded.
    pub forwarded: u64,
    /// Bytes of DATA frames forwarded, headers included.
    pub forwarded_bytes: u64,
    /// Answers sent.
    pub replies: u64,
}

impl ForwardCounters {
    /// Adds those of `other`.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.forwarded += other.forwarded;
        self.forwarded_bytes += other.forwarded_bytes;
        self.replies += other.replies;
    }
}

/// The machine. *Getters* `sessions`, `drops`, `counters`; *handle* `handle_datagram`, `handle_update`,
/// `handle_pressure`, `handle_timeout`; *commands* `set_draining`, `set_revoked`; *poll* `poll_update`, `poll_timeout`.
pub struct Forwarder {
    config: ForwardConfig,
    keys: ClusterKeys,
    rng: Rng,
    cookies: Cookies,
    next_sweep: Instant,
    table: SessionTable,
    police: Police,
    hello: PrefixLimiter,
    stun: PrefixLimiter,
    nack: PrefixLimiter,
    drops: Drops,
    counters: ForwardCounters,
    draining: bool,
    revoked: Arc<Revoked>,
}

impl Forwarder {
    /// A relay without sessions, all of it.
    pub fn new(config: ForwardConfig, keys: ClusterKeys, rng: Rng, now: Instant) -> Self {
        Self::part(Shard::ONLY, config, keys, rng, (Groups::new(), Board::new(1)), now)
    }

    /// A relay without sessions in `of` parts, one for each thread. What one [polls](Self::poll_update) all others must
    /// be [given](Self::handle_update); beside that they share buckets of networks and what sessions ask for. Rates per
    /// source prefix hold for each part.
    pub fn parts(
        of: u8,
        config: &ForwardConfig,
        keys: &ClusterKeys,
        rng: &mut Rng,
        now: Instant,
    ) -> Vec<Self> {
        let of = of.max(1);
        let (groups, board) = (Groups::new(), Board::new(of));
        let part = |index| {
            let shared = (Arc::clone(&groups), Arc::clone(&board));
            Self::part(Shard { index, of }, config.clone(), keys.clone(), rng.fork(), shared, now)
        };
        (0..of).map(part).collect()
    }

    fn part(
        shard: Shard,
        config: ForwardConfig,
        keys: ClusterKeys,
        mut rng: Rng,
        shared: (Arc<Groups>, Arc<Board>),
        now: Instant,
    ) -> Self {
        let limits = TableLimits {
            sessions: config.max_sessions,
            per_node: config.max_sessions_per_node,
            lifetime: LIFETIME,
        };
        let mut limiter = |(rate, burst): (u64, u64)| PrefixLimiter::new(rate, burst, &mut rng, now);
        let (hello, stun, nack) =
            (limiter(config.hello_rate), limiter(config.stun_rate), limiter(config.nack_rate));
        let classes = config.classes.clone();
        Self {
            police: Police::new(shard, classes, config.uplink_kbit, shared, limits.sessions, now),
            table: SessionTable::new(shard, limits, &mut rng),
            cookies: Cookies::new(&mut rng, now),
            next_sweep: now + SWEEP_INTERVAL,
            hello,
            stun,
            nack,
            drops: Drops::default(),
            counters: ForwardCounters::default(),
            draining: false,
            revoked: Arc::default(),
            config,
            keys,
            rng,
        }
    }

    /// This relay is going away: nobody is bound any more, and every KEEP is told so. What is bound is served.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// These are served no more: what they have ends, and nothing is opened for them.
    pub fn set_revoked(&mut self, revoked: Arc<Revoked>) {
        let new = revoked.nodes_beyond(&self.revoked);
        self.revoked = revoked;
        if !new.is_empty() {
            self.table.end_of(&new);
        }
    }

    /// Sessions of this part.
    pub fn sessions(&self) -> usize {
        self.table.len()
    }
    /// How many of them come by a bridge on this host, that is by TLS.
    pub fn bridged_sessions(&self) -> usize {
        self.table.bridged()
    }
    /// At most so many of them, for people.
    pub fn list_sessions(&self, most: usize, now: Instant) -> Vec<SessionView> {
        self.table.list(most, now)
    }
    /// What was dropped, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
    /// What was moved.
    pub fn counters(&self) -> ForwardCounters {
        self.counters
    }

    /// One datagram that came to `local` from `from`. Allocates nothing for a relay frame.
    pub fn handle_datagram(
        &mut self,
        local: Local,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Now,
    ) -> Action {
        self.counters.received += 1;
        let from = address::canonical(from);
        let before = datagram.len();
        let action = self.dispatch(local, from, datagram, now).unwrap_or_else(Action::Drop);
        match action {
            Action::Forward { .. } => {
                self.counters.forwarded += 1;
                self.counters.forwarded_bytes += before as u64;
            }
            Action::Reply { len } => {
                debug_assert!(len <= before);
                self.counters.replies += 1;
            }
            Action::Drop(reason) => self.drops.count(reason),
        }
        action
    }

    /// What another part has said.
    pub fn handle_update(&mut self, update: &Update, now: Instant) {
        if !self.table.learn(update, now) {
            self.drops.count(DropReason::ReplicaTableFull);
        }
    }

    /// What all other parts must be given before anything that was answered meanwhile leaves.
    pub fn poll_update(&mut self) -> Option<Update> {
        self.table.poll_update()
    }

    /// Whether datagrams were lost since the last time because this part did not come to them: then it shares out what it
    /// can do.
    pub fn handle_pressure(&mut self, is_pressed: bool, now: Instant) {
        self.police.press(is_pressed, now);
    }

    /// Forgets silent sessions and old secrets, and finds new shares.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.police.look(&mut self.table, now);
        self.cookies.rotate(&mut self.rng, now);
        if now >= self.next_sweep {
            self.table.sweep(now);
            self.next_sweep = now + SWEEP_INTERVAL;
        }
    }
    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Instant {
        let next = self.next_sweep.min(self.cookies.poll_timeout());
        self.police.next_look().map_or(next, |look| look.min(next))
    }

    fn dispatch(
        &mut self,
        local: Local,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Now,
    ) -> Result<Action, DropReason> {
        if from.port() == 0 {
            return Err(DropReason::NoSourcePort);
        }
        match datagram.first() {
            Some(&relay::DATA) => self.on_data(from, datagram, now.mono),
            Some(&first) if relay::is_relay_frame(first) => self.on_control(local, from, datagram, now),
            _ if stun::is_stun(datagram) => {
                if !self.stun.allow(from.ip(), now.mono) {
                    return Err(DropReason::StunRate);
                }
                stun::answer(datagram, from).map(|len| Action::Reply { len })
            }
            _ => Err(DropReason::UnknownKind),
        }
    }

    fn on_control(
        &mut self,
        local: Local,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Now,
    ) -> Result<Action, DropReason> {
        match Frame::parse(datagram).map_err(|_| DropReason::Malformed)? {
            Frame::Hello(_) | Frame::Bind(_) if self.draining => {
                self.refuse(from, datagram, NackCode::Draining, (0, 0), DropReason::Draining, now.mono)
            }
            Frame::Hello(f) => {
                let (key, _, bind_key) = self.authenticate(datagram, &f.ticket, f.lane, f.ts_ms, now)?;
                self.send_cookie(from, &key, &bind_key, f.ts_ms, datagram, now.mono)
            }
            Frame::Bind(f) => {
                let (key, class, bind_key) = self.authenticate(datagram, &f.ticket, f.lane, f.ts_ms, now)?;
                if !self.cookies.is_valid(&f.cookie, (from, &key), &mut self.rng, now.mono) {
                    // As if it were HELLO: a node with an old cookie is bound one round trip sooner.
                    return self.send_cookie(from, &key, &bind_key, f.ts_ms, datagram, now.mono);
                }
                let ends = (local, from);
                let (slot, gen_no) = match self.table.bind(key, ends, f.ts_ms, &mut self.rng, now.mono) {
                    Err(DropReason::TableFull) => {
                        self.table.sweep(now.mono);
                        self.table.bind(key, ends, f.ts_ms, &mut self.rng, now.mono)?
                    }
                    result => result?,
                };
                let rate = self.account(slot, key.network_id, class, now.mono);
                Ok(reply(datagram, &self.bound(gen_no, rate, from, f.ts_ms).encode(&bind_key)))
            }
            Frame::Keep(f) => match self.sender(&from, f.gen_no, now.mono) {
                Ok(slot) if !self.table.session_mut(slot).has_moved() => {
                    self.table.touch(slot, now.mono);
                    datagram[1] = if self.draining { relay::KEEP_DRAINING } else { 0 };
                    Ok(Action::Reply { len: relay::KEEP_LEN })
                }
                // Where it was, nothing keeps it.
                found => {
                    let reason = found.err().unwrap_or(DropReason::WrongGeneration);
                    self.refuse(from, datagram, NackCode::Rebind, (f.gen_no, 0), reason, now.mono)
                }
            },
            _ => Err(DropReason::WrongDirection),
        }
    }

    /// The way of every relayed packet.
    fn on_data(&mut self, from: SocketAddr, datagram: &mut [u8], now: Instant) -> Result<Action, DropReason> {
        // a  header
        let header = DataHeader::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let cause = (header.gen_no, header.node_no);
        // b  the sender's session by its address
        let slot = match self.sender(&from, header.gen_no, now) {
            Ok(slot) => slot,
            Err(reason) => return self.refuse(from, datagram, NackCode::Rebind, cause, reason, now),
        };
        self.table.touch(slot, now);
        let sender = self.table.session_mut(slot);
        let key = sender.key;
        if header.hops() != 0 {
            return Err(DropReason::Hops);
        }
        if header.node_no == key.node_no {
            return Err(DropReason::ToSelf);
        }
        let size = (datagram.len(), header.class());
        if let Err(reason) = self.police.admit(slot, &mut sender.account, size, now) {
            return self.refuse(from, datagram, NackCode::Rate, cause, reason, now);
        }
        // c  the recipient's session, in the sender's network; a lane not bound there is lane 0
        let lane_0 = SessionKey { network_id: key.network_id, node_no: header.node_no, lane: 0 };
        let found = match header.lane() {
            0 => None,
            lane => self.table.destination(&SessionKey { lane, ..lane_0 }, now),
        };
        let Some((local, to, gen_no)) = found.or_else(|| self.table.destination(&lane_0, now)) else {
            return self.refuse(from, datagram, NackCode::NoSuchPeer, cause, DropReason::NoSuchPeer, now);
        };
        // d  the header becomes the recipient's
        header.rewrite(datagram, gen_no, key.node_no);
        Ok(Action::Forward { local, to })
    }

    /// The live session bound from `from`, if it has this number.
    fn sender(&mut self, from: &SocketAddr, gen_no: u16, now: Instant) -> Result<u32, DropReason> {
        let slot = self.table.by_addr(from, now).ok_or(DropReason::NoSession)?;
        let is_right = self.table.session_mut(slot).gen_no == gen_no;
        is_right.then_some(slot).ok_or(DropReason::WrongGeneration)
    }

    /// Ticket, MAC and clock: what HELLO and BIND must prove before anything is remembered or said.
    fn authenticate(
        &self,
        datagram: &[u8],
        ticket: &[u8; TICKET_LEN],
        lane: u8,
        ts_ms: u64,
        now: Now,
    ) -> Result<(SessionKey, u16, Secret), DropReason> {
        let fields = Ticket::parse(ticket).map_err(|_| DropReason::Malformed)?;
        let cluster_key = self.keys.get(fields.kid).ok_or(DropReason::UnknownClusterKey)?;
        if !Ticket::is_authentic(ticket, cluster_key) {
            return Err(DropReason::BadTicket);
        }
        let bind_key = bind_key(cluster_key, ticket);
        if !relay::mac_is_valid(datagram, &bind_key) {
            return Err(DropReason::BadMac);
        }
        if fields.not_after < now.unix.0 {
            return Err(DropReason::TicketExpired);
        }
        if self.revoked.has(&fields) {
            return Err(DropReason::Revoked);
        }
        if ts_ms.abs_diff(super::unix_ms(now)) > MAX_SKEW_MS {
            return Err(DropReason::Skew);
        }
        let key = SessionKey { network_id: fields.network_id, node_no: fields.node_no, lane };
        Ok((key, fields.rate_class, bind_key))
    }

    /// The session's account by its ticket's class, a new one if it has none of that class; its rate.
    fn account(&mut self, slot: u32, network_id: [u8; 8], class: u16, now: Instant) -> Rate {
        let opened = self.police.open(network_id, class, now);
        let account = &mut self.table.session_mut(slot).account;
        if !account.is_like(&opened) {
            *account = opened;
        }
        account.rate()
    }

    fn send_cookie(
        &mut self,
        from: SocketAddr,
        key: &SessionKey,
        bind_key: &Secret,
        ts_ms: u64,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Action, DropReason> {
        if !self.hello.allow(from.ip(), now) {
            return Err(DropReason::HelloRate);
        }
        let cookie = self.cookies.make(from, key, &mut self.rng, now);
        let cookie = Cookie { relay_no: self.config.relay_no, cookie, ts_ms };
        Ok(reply(datagram, &cookie.encode(bind_key)))
    }

    fn bound(&self, gen_no: u16, rate: Rate, observed: SocketAddr, ts_ms: u64) -> Bound {
        Bound {
            flags: 0,
            gen_no,
            lifetime_s: LIFETIME.as_secs() as u16,
            keepalive_s: KEEPALIVE.as_secs() as u16,
            observed,
            rate_kbit: rate.kbit,
            burst_kb: rate.burst_kb,
            features: 0,
            ts_ms,
        }
    }

    /// Drops for `reason`, with a NACK if it fits into the cause and the source has not had too many.
    fn refuse(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        code: NackCode,
        (gen_no, node_no): (u16, u32),
        reason: DropReason,
        now: Instant,
    ) -> Result<Action, DropReason> {
        if datagram.len() < relay::NACK_LEN || !self.nack.allow(from.ip(), now) {
            return Err(reason);
        }
        self.drops.count(reason);
        let nack = Nack { code: code as u8, gen_no, node_no, retry_ms: 1000 };
        Ok(reply(datagram, &nack.encode()))
    }
}

fn reply(datagram: &mut [u8], answer: &[u8]) -> Action {
    datagram[..answer.len()].copy_from_slice(answer);
    Action::Reply { len: answer.len() }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
