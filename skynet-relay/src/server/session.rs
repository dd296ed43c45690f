//! The session table: who is bound where.
//!
//! Two indices over one slab: the source address of a datagram finds its session, and (network, node, lane) finds the
//! session to deliver to. Of the sessions of other threads ([`super::update`]) there are replicas: found by key, never by
//! address. All memory is reserved at the start; nothing here allocates afterwards.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeSet, HashMap, VecDeque};

use skynet_core::rng::{Rng, RngCore as _};
use skynet_core::time::{Duration, Instant};
use skynet_core::wire::relay::MAX_LANES;

use super::Local;
use super::drops::DropReason;
use super::hash::Seed;
use super::police::Account;
use super::rates::RateClass;
use super::update::{REFRESH, Update};

/// A session's place in a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct SessionKey {
    /// The network, from the ticket.
    pub(super) network_id: [u8; 8],
    /// The node, from the ticket.
    pub(super) node_no: u32,
    /// The lane.
    pub(super) lane: u8,
}

/// A session, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// The network.
    pub network_id: [u8; 8],
    /// The node: its overlay IPv4 address as a number.
    pub node_no: u32,
    /// The lane.
    pub lane: u8,
    /// Where its datagrams come from.
    pub addr: SocketAddr,
    /// Its rate class.
    pub class: u16,
    /// Bytes of DATA from it that were sent on.
    pub bytes: u64,
    /// How long nothing has come from it.
    pub silent: Duration,
}

impl SessionView {
    /// Whether it comes by a bridge on this host, that is by TLS.
    pub fn is_bridged(&self) -> bool {
        is_bridge(self.addr)
    }
}

/// Bridges have addresses of their own.
fn is_bridge(addr: SocketAddr) -> bool {
    matches!(addr.ip(), IpAddr::V4(ip) if ip.octets()[0] == 127 && ip.octets()[1] >= 128)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    /// The thread its client's datagrams come to.
    owner: u8,
    /// `None`: another session was bound from the same address. The entry stays until it expires, for its `last_ts`.
    pub(super) addr: Option<SocketAddr>,
    /// What its last BIND came to, and what is forwarded to it leaves from.
    local: Local,
    pub(super) gen_no: u16,
    last_ts: u64,
    /// Of a replica: when its owner was last heard of it.
    last_seen: Instant,
    /// When the other threads were told last.
    told: Instant,
    /// Whether it waits in `untold`.
    is_untold: bool,
    /// The session has moved; until then what is on its way from the old address is still sent on.
    moved_until: Option<Instant>,
    pub(super) account: Account,
}

/// The limits of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableLimits {
    /// Most sessions of all threads.
    pub(super) sessions: usize,
    pub(super) per_node: usize,
    pub(super) lifetime: Duration,
}

/// Which of how many threads a table belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shard {
    pub(super) index: u8,
    pub(super) of: u8,
}

impl Shard {
    pub(super) const ONLY: Self = Self { index: 0, of: 1 };
}

/// What a client has sent before its session moved to another address arrives within this.
const OVERLAP: Duration = Duration::from_secs(2);
/// Places above the limit of sessions: for old addresses of those that move, and for what several threads accept at once
/// without knowing of each other.
const SPARE: usize = 1_024;
/// Ended sessions that wait to be told; of the others the replicas end by themselves.
const ENDED: usize = 4_096;

pub(super) struct SessionTable {
    shard: Shard,
    limits: TableLimits,
    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    // Looked up only, never iterated: the order of a map must not decide anything.
    by_addr: HashMap<SocketAddr, u32, Seed>,
    by_key: HashMap<SessionKey, u32, Seed>,
    /// Slots of sessions of which the others do not know the latest.
    untold: VecDeque<u32>,
    ended: VecDeque<Update>,
}

impl SessionTable {
    pub(super) fn new(shard: Shard, limits: TableLimits, rng: &mut Rng) -> Self {
        let n = limits.sessions + SPARE;
        let others = usize::from(shard.of > 1);
        Self {
            shard,
            limits,
            slots: Vec::with_capacity(n),
            free: Vec::with_capacity(n),
            by_addr: HashMap::with_capacity_and_hasher(n, Seed::random(rng)),
            by_key: HashMap::with_capacity_and_hasher(n, Seed::random(rng)),
            untold: VecDeque::with_capacity(n * others),
            ended: VecDeque::with_capacity(ENDED * others),
        }
    }

    /// Sessions of this thread, the expired ones not yet swept and those without an address included.
    pub(super) fn len(&self) -> usize {
        self.own().count()
    }

    fn own(&self) -> impl Iterator<Item = &Session> {
        let is_own = |session: &&Session| session.owner == self.shard.index && session.moved_until.is_none();
        self.slots.iter().flatten().filter(is_own)
    }

    /// The sessions of this thread that have an address, at most so many.
    pub(super) fn list(&self, most: usize, now: Instant) -> Vec<SessionView> {
        let view = |session: &Session| {
            let (class, bytes) = (session.account.class(), session.account.forwarded());
            Some(SessionView {
                network_id: session.key.network_id,
                node_no: session.key.node_no,
                lane: session.key.lane,
                addr: session.addr?,
                class,
                bytes,
                silent: now.saturating_since(session.last_seen),
            })
        };
        self.own().filter_map(view).take(most).collect()
    }

    /// How many of them come from this host itself: by its own way to those who have no UDP.
    pub(super) fn bridged(&self) -> usize {
        self.own().filter(|session| session.addr.is_some_and(is_bridge)).count()
    }

    /// The live session bound from `addr`; for a moment also the one that was and has moved.
    pub(super) fn by_addr(&self, addr: &SocketAddr, now: Instant) -> Option<u32> {
        let &slot = self.by_addr.get(addr)?;
        self.is_live(self.at(slot), now).then_some(slot)
    }

    /// The session in a slot that [`by_addr`](Self::by_addr) has named.
    pub(super) fn session_mut(&mut self, slot: u32) -> &mut Session {
        self.slots[slot as usize].as_mut().expect("the index names a full slot")
    }

    /// What the session in a slot has used, if there is one.
    pub(super) fn account_mut(&mut self, slot: u32) -> Option<&mut Account> {
        Some(&mut self.slots.get_mut(slot as usize)?.as_mut()?.account)
    }

    /// Something came from its client.
    pub(super) fn touch(&mut self, slot: u32, now: Instant) {
        let session = self.session_mut(slot);
        if session.moved_until.is_some() {
            return;
        }
        session.last_seen = now;
        if now.saturating_since(session.told) >= REFRESH {
            self.tell(slot, now);
        }
    }

    /// From where and to where to deliver for `key`, and under which number.
    pub(super) fn destination(&self, key: &SessionKey, now: Instant) -> Option<(Local, SocketAddr, u16)> {
        let session = self.at(*self.by_key.get(key)?);
        if self.is_live(session, now) { Some((session.local, session.addr?, session.gen_no)) } else { None }
    }

    /// Opens, refreshes or moves the session of `key`. The same address keeps its number, also if it now binds at
    /// another of the relay's; a new address gets a new one and the old address is forgotten. Its slot and number.
    pub(super) fn bind(
        &mut self,
        key: SessionKey,
        (local, addr): (Local, SocketAddr),
        ts_ms: u64,
        rng: &mut Rng,
        now: Instant,
    ) -> Result<(u32, u16), DropReason> {
        let slot = match self.by_key.get(&key) {
            Some(&slot) if ts_ms <= self.at(slot).last_ts => return Err(DropReason::Replay),
            Some(&slot) => slot,
            None => self.allocate(key, now)?,
        };
        let me = self.shard.index;
        let session = self.session_mut(slot);
        let before = *session;
        (session.owner, session.last_ts, session.last_seen, session.local) = (me, ts_ms, now, local);
        session.addr = Some(addr);
        if before.addr != session.addr {
            session.gen_no = next_gen(session.gen_no, rng);
        }
        let gen_no = session.gen_no;
        self.tell(slot, now);
        if before.owner == me && before.addr == Some(addr) {
            return Ok((slot, gen_no));
        }
        self.keep_former(before, now);
        if let Some(ousted) = self.by_addr.insert(addr, slot) {
            match self.session_mut(ousted) {
                former if former.moved_until.is_some() => self.clear(ousted),
                other => {
                    other.addr = None;
                    self.tell(ousted, now);
                }
            }
        }
        Ok((slot, gen_no))
    }

    /// What a session of this thread was before it moved, for what is still on its way from there.
    fn keep_former(&mut self, before: Session, now: Instant) {
        let Some(addr) = before.addr.filter(|_| before.owner == self.shard.index) else { return };
        self.by_addr.remove(&addr);
        if self.is_live(&before, now)
            && let Some(slot) = self.free_slot()
        {
            let former = Session { moved_until: Some(now + OVERLAP), is_untold: false, ..before };
            self.slots[slot as usize] = Some(former);
            self.by_addr.insert(addr, slot);
        }
    }

    /// What another thread says of a session of its own. False if there is no room for a replica.
    pub(super) fn learn(&mut self, update: &Update, now: Instant) -> bool {
        let slot = match self.by_key.get(&update.key) {
            None if update.gone => return true,
            None => match self.take_slot(update.key, now) {
                Some(slot) => slot,
                None => return false,
            },
            Some(&slot) => {
                let known = self.at(slot);
                if (update.last_ts, update.owner) < (known.last_ts, known.owner) {
                    return true;
                }
                self.keep_former(*known, now);
                slot
            }
        };
        if update.gone {
            self.clear(slot);
            return true;
        }
        let session = self.session_mut(slot);
        (session.owner, session.last_ts, session.gen_no) = (update.owner, update.last_ts, update.gen_no);
        (session.local, session.addr, session.last_seen) = (update.local, update.addr, now);
        session.is_untold = false;
        true
    }

    /// What the other threads must be told.
    pub(super) fn poll_update(&mut self) -> Option<Update> {
        if let Some(update) = self.ended.pop_front() {
            return Some(update);
        }
        while let Some(slot) = self.untold.pop_front() {
            let Some(session) = &mut self.slots[slot as usize] else { continue };
            if session.owner == self.shard.index && session.is_untold {
                session.is_untold = false;
                return Some(session.update());
            }
        }
        None
    }

    /// Forgets what has been silent for its lifetime. One pass over all slots.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweep_if(|table, session| !table.is_live(session, now));
    }

    /// Ends every session of these nodes, replicas included. One pass over all slots.
    pub(super) fn end_of(&mut self, nodes: &BTreeSet<([u8; 8], u32)>) {
        self.sweep_if(|_, session| nodes.contains(&(session.key.network_id, session.key.node_no)));
    }

    fn sweep_if(&mut self, is_over: impl Fn(&Self, &Session) -> bool) {
        for slot in 0..self.slots.len() {
            let Some(session) = &self.slots[slot] else { continue };
            if !is_over(self, session) {
                continue;
            }
            if session.owner == self.shard.index {
                let (has_moved, ended) =
                    (session.moved_until.is_some(), Update { gone: true, ..session.update() });
                if let Some(addr) = session.addr {
                    self.by_addr.remove(&addr);
                }
                if !has_moved && self.shard.of > 1 && self.ended.len() < ENDED {
                    self.ended.push_back(ended);
                }
            }
            self.clear(slot as u32);
        }
    }

    fn at(&self, slot: u32) -> &Session {
        self.slots[slot as usize].as_ref().expect("the index names a full slot")
    }

    /// A replica outlasts silence by what its owner may be silent about; the owner says when it ends.
    fn is_live(&self, session: &Session, now: Instant) -> bool {
        if let Some(until) = session.moved_until {
            return now < until;
        }
        let is_replica = session.owner != self.shard.index;
        let lifetime = if is_replica { self.limits.lifetime + REFRESH } else { self.limits.lifetime };
        now.saturating_since(session.last_seen) < lifetime
    }

    /// Has the others told of a session of this thread.
    fn tell(&mut self, slot: u32, now: Instant) {
        if self.shard.of == 1 || self.untold.len() == self.untold.capacity() {
            return;
        }
        let session = self.session_mut(slot);
        session.told = now;
        if !session.is_untold {
            session.is_untold = true;
            self.untold.push_back(slot);
        }
    }

    fn clear(&mut self, slot: u32) {
        if let Some(session) = self.slots[slot as usize].take() {
            if session.moved_until.is_none() {
                self.by_key.remove(&session.key);
            }
            self.free.push(slot);
        }
    }

    fn allocate(&mut self, key: SessionKey, now: Instant) -> Result<u32, DropReason> {
        let of_node =
            (0..MAX_LANES).filter(|&lane| self.by_key.contains_key(&SessionKey { lane, ..key })).count();
        if of_node >= self.limits.per_node {
            return Err(DropReason::NodeSessions);
        }
        if self.by_key.len() >= self.limits.sessions {
            return Err(DropReason::TableFull);
        }
        self.take_slot(key, now).ok_or(DropReason::TableFull)
    }

    /// A slot with an empty session of this thread; none if all memory is in use.
    fn take_slot(&mut self, key: SessionKey, now: Instant) -> Option<u32> {
        let slot = self.free_slot()?;
        self.slots[slot as usize] = Some(Session {
            key,
            owner: self.shard.index,
            addr: None,
            local: Local::ANY,
            gen_no: 0,
            last_ts: 0,
            last_seen: now,
            told: now,
            is_untold: false,
            moved_until: None,
            account: Account::new(&RateClass::NONE, now),
        });
        self.by_key.insert(key, slot);
        Some(slot)
    }

    fn free_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if self.slots.len() == self.slots.capacity() {
            return None;
        }
        self.slots.push(None);
        Some((self.slots.len() - 1) as u32)
    }
}

impl Session {
    /// Whether it is elsewhere now.
    pub(super) fn has_moved(&self) -> bool {
        self.moved_until.is_some()
    }

    fn update(&self) -> Update {
        Update {
            key: self.key,
            owner: self.owner,
            last_ts: self.last_ts,
            gen_no: self.gen_no,
            local: self.local,
            addr: self.addr,
            gone: false,
        }
    }
}

/// A number that is neither zero nor the last one: whoever does not see the traffic cannot guess it.
fn next_gen(last: u16, rng: &mut Rng) -> u16 {
    loop {
        let gen_no = rng.next_u32() as u16;
        if gen_no != 0 && gen_no != last {
            return gen_no;
        }
    }
}
