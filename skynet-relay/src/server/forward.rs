//! The UDP side of the relay: binds sessions and moves datagrams between those of one network.
//!
//! Every answer is written over its cause, so nothing larger than its cause can leave. A datagram is delivered only to
//! the proven address of a live session of the sender's network; no address in a packet is ever followed.

use core::net::SocketAddr;

use skynet_core::crypto;
use skynet_core::key::Secret;
use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant, Now};
use skynet_core::wire::address;
use skynet_core::wire::relay::{
    self, Bound, Cookie, DataHeader, Frame, Nack, NackCode, TICKET_LEN, Ticket, bind_key,
};

use super::Local;
use super::cluster::ClusterKeys;
use super::drops::{DropReason, Drops};
use super::limit::{Bucket, PrefixLimiter};
use super::session::{SessionKey, SessionTable, TableLimits};
use super::stun;

/// A session without any datagram is forgotten after this long.
pub const LIFETIME: Duration = Duration::from_secs(120);
/// Below the 30 s at which common NATs forget an unconfirmed mapping, with room for one lost packet.
pub const KEEPALIVE: Duration = Duration::from_secs(20);
/// Difference between `ts_ms` and the relay's clock that is still accepted.
const MAX_SKEW_MS: u64 = 30_000;
/// How long a cookie secret is handed out; it is accepted for as long again.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Limits of the UDP side.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// This relay's number in the manifest.
    pub relay_no: u16,
    /// Most sessions at once.
    pub max_sessions: usize,
    /// Most sessions (lanes) of one node.
    pub max_sessions_per_node: usize,
    /// HELLOs answered per second and source prefix, and their burst.
    pub hello_rate: (u64, u64),
    /// STUN requests answered per second and source prefix, and their burst.
    pub stun_rate: (u64, u64),
    /// NACKs per second and source prefix, and their burst.
    pub nack_rate: (u64, u64),
    /// A session's rate, kbit/s, and burst, kilobytes; a rate of 0 is no limit.
    pub session_rate: (u32, u32),
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
            session_rate: (0, 4_000),
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

/// The machine. *Getters* `sessions`, `drops`, `counters`; *handle* `handle_datagram`, `handle_timeout`; *poll*
/// `poll_timeout`.
pub struct Forwarder {
    config: ForwardConfig,
    keys: ClusterKeys,
    rng: Rng,
    secrets: [Secret; 2],
    next_secret: Instant,
    next_sweep: Instant,
    table: SessionTable,
    hello: PrefixLimiter,
    stun: PrefixLimiter,
    nack: PrefixLimiter,
    drops: Drops,
    counters: ForwardCounters,
}

impl Forwarder {
    /// A relay without sessions.
    pub fn new(config: ForwardConfig, keys: ClusterKeys, mut rng: Rng, now: Instant) -> Self {
        let limits = TableLimits {
            sessions: config.max_sessions,
            per_node: config.max_sessions_per_node,
            lifetime: LIFETIME,
            burst: burst_bytes(&config),
        };
        let mut limiter = |(rate, burst): (u64, u64)| PrefixLimiter::new(rate, burst, &mut rng, now);
        let (hello, stun, nack) =
            (limiter(config.hello_rate), limiter(config.stun_rate), limiter(config.nack_rate));
        Self {
            table: SessionTable::new(limits, &mut rng),
            secrets: [Secret::random(&mut rng), Secret::random(&mut rng)],
            next_secret: now + SECRET_LIFETIME,
            next_sweep: now + SWEEP_INTERVAL,
            hello,
            stun,
            nack,
            drops: Drops::default(),
            counters: ForwardCounters::default(),
            config,
            keys,
            rng,
        }
    }

    /// Sessions in the table.
    pub fn sessions(&self) -> usize {
        self.table.len()
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

    /// Forgets silent sessions and old secrets.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.rotate(now);
        if now >= self.next_sweep {
            self.table.sweep(now);
            self.next_sweep = now + SWEEP_INTERVAL;
        }
    }
    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Instant {
        self.next_sweep.min(self.next_secret)
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
            Frame::Hello(f) => {
                let (key, bind_key) = self.authenticate(datagram, &f.ticket, f.lane, f.ts_ms, now)?;
                self.send_cookie(from, &key, &bind_key, f.ts_ms, datagram, now.mono)
            }
            Frame::Bind(f) => {
                let (key, bind_key) = self.authenticate(datagram, &f.ticket, f.lane, f.ts_ms, now)?;
                if !self.cookie_is_valid(&f.cookie, from, &key, now.mono) {
                    // As if it were HELLO: a node with an old cookie is bound one round trip sooner.
                    return self.send_cookie(from, &key, &bind_key, f.ts_ms, datagram, now.mono);
                }
                let ends = (local, from);
                let gen_no = match self.table.bind(key, ends, f.ts_ms, &mut self.rng, now.mono) {
                    Err(DropReason::TableFull) => {
                        self.table.sweep(now.mono);
                        self.table.bind(key, ends, f.ts_ms, &mut self.rng, now.mono)?
                    }
                    result => result?,
                };
                Ok(reply(datagram, &self.bound(gen_no, from, f.ts_ms).encode(&bind_key)))
            }
            Frame::Keep(f) => match self.table.by_addr(&from, now.mono) {
                // From where it is bound: an answer to its former address would say that all is well.
                Some(session) if session.addr == Some(from) && session.gen_no == f.gen_no => {
                    session.last_seen = now.mono;
                    Ok(Action::Reply { len: relay::KEEP_LEN })
                }
                found => {
                    let reason = missing(found.is_some());
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
        let rate = self.config.session_rate.0;
        let burst = burst_bytes(&self.config);
        let sender = match self.table.by_addr(&from, now) {
            Some(session) if session.sent(from, header.gen_no, now) => session,
            found => {
                let reason = missing(found.is_some());
                return self.refuse(from, datagram, NackCode::Rebind, cause, reason, now);
            }
        };
        sender.last_seen = now;
        let key = sender.key;
        if header.hops() != 0 {
            return Err(DropReason::Hops);
        }
        if header.node_no == key.node_no {
            return Err(DropReason::ToSelf);
        }
        if rate != 0 && !take(&mut sender.bucket, datagram.len(), rate, burst, now) {
            return self.refuse(from, datagram, NackCode::Rate, cause, DropReason::SessionRate, now);
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

    /// Ticket, MAC and clock: what HELLO and BIND must prove before anything is remembered or said.
    fn authenticate(
        &self,
        datagram: &[u8],
        ticket: &[u8; TICKET_LEN],
        lane: u8,
        ts_ms: u64,
        now: Now,
    ) -> Result<(SessionKey, Secret), DropReason> {
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
        if ts_ms.abs_diff(super::unix_ms(now)) > MAX_SKEW_MS {
            return Err(DropReason::Skew);
        }
        Ok((SessionKey { network_id: fields.network_id, node_no: fields.node_no, lane }, bind_key))
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
        self.rotate(now);
        let cookie =
            Cookie { relay_no: self.config.relay_no, cookie: cookie_for(&self.secrets[0], from, key), ts_ms };
        Ok(reply(datagram, &cookie.encode(bind_key)))
    }

    fn cookie_is_valid(
        &mut self,
        cookie: &[u8; 16],
        from: SocketAddr,
        key: &SessionKey,
        now: Instant,
    ) -> bool {
        self.rotate(now);
        self.secrets.iter().any(|secret| crypto::mac_eq(&cookie_for(secret, from, key), cookie))
    }

    fn rotate(&mut self, now: Instant) {
        if now < self.next_secret {
            return;
        }
        self.secrets.swap(0, 1);
        self.secrets[0] = Secret::random(&mut self.rng);
        if now >= self.next_secret + SECRET_LIFETIME {
            self.secrets[1] = Secret::random(&mut self.rng);
        }
        self.next_secret = now + SECRET_LIFETIME;
    }

    fn bound(&self, gen_no: u16, observed: SocketAddr, ts_ms: u64) -> Bound {
        Bound {
            flags: 0,
            gen_no,
            lifetime_s: LIFETIME.as_secs() as u16,
            keepalive_s: KEEPALIVE.as_secs() as u16,
            observed,
            rate_kbit: self.config.session_rate.0,
            burst_kb: self.config.session_rate.1,
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

fn cookie_for(secret: &Secret, from: SocketAddr, key: &SessionKey) -> [u8; 16] {
    let parts: [&[u8]; 4] =
        [&address::encode(from), &key.network_id, &key.node_no.to_be_bytes(), &[key.lane]];
    crypto::mac16(secret.expose(), &parts)
}

fn reply(datagram: &mut [u8], answer: &[u8]) -> Action {
    datagram[..answer.len()].copy_from_slice(answer);
    Action::Reply { len: answer.len() }
}

fn missing(has_session: bool) -> DropReason {
    if has_session { DropReason::WrongGeneration } else { DropReason::NoSession }
}

fn burst_bytes(config: &ForwardConfig) -> u64 {
    u64::from(config.session_rate.1) * 1000
}

fn take(bucket: &mut Bucket, bytes: usize, rate_kbit: u32, burst: u64, now: Instant) -> bool {
    bucket.take(bytes as u64, u64::from(rate_kbit) * 125, burst, now)
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
