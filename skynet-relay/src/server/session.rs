//! The session table: who is bound where.
//!
//! Two indices over one slab: the source address of a datagram finds its session, and (network, node, lane) finds the
//! session to deliver to. All memory is reserved at the start; nothing here allocates afterwards.

use core::hash::{BuildHasher, Hasher};
use core::net::SocketAddr;
use std::collections::HashMap;

use skynet_core::rng::{Rng, RngCore as _};
use skynet_core::time::{Duration, Instant};
use skynet_core::wire::relay::MAX_LANES;

use super::Local;
use super::drops::DropReason;
use super::limit::{Bucket, fold};

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

/// How long frames from the address a session had before are still taken: those on their way while it moved, by a
/// stream that is slower than the datagram that moved it.
pub(super) const FORMER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Former {
    addr: SocketAddr,
    gen_no: u16,
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) key: SessionKey,
    /// `None`: another session was bound from the same address. The entry stays until it expires, for its `last_ts`.
    pub(super) addr: Option<SocketAddr>,
    /// What its last BIND came to, and what is forwarded to it leaves from.
    local: Local,
    pub(super) gen_no: u16,
    last_ts: u64,
    pub(super) last_seen: Instant,
    pub(super) bucket: Bucket,
    former: Option<Former>,
}

impl Session {
    /// Whether a frame under `gen_no` from `from`, which this session was found by, is its: bound there now, or a
    /// moment ago.
    pub(super) fn sent(&self, from: SocketAddr, gen_no: u16, now: Instant) -> bool {
        if self.addr == Some(from) {
            return self.gen_no == gen_no;
        }
        self.former.is_some_and(|f| (f.addr, f.gen_no) == (from, gen_no) && now < f.until)
    }
}

/// The limits of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableLimits {
    pub(super) sessions: usize,
    pub(super) per_node: usize,
    pub(super) lifetime: Duration,
    pub(super) burst: u64,
}

pub(super) struct SessionTable {
    limits: TableLimits,
    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    // Looked up only, never iterated: the order of a map must not decide anything.
    by_addr: HashMap<SocketAddr, u32, Seed>,
    by_key: HashMap<SessionKey, u32, Seed>,
}

impl SessionTable {
    pub(super) fn new(limits: TableLimits, rng: &mut Rng) -> Self {
        let n = limits.sessions;
        Self {
            limits,
            slots: Vec::with_capacity(n),
            free: Vec::with_capacity(n),
            // Each session may have a former address beside its own.
            by_addr: HashMap::with_capacity_and_hasher(2 * n, Seed(rng.next_u64() | 1)),
            by_key: HashMap::with_capacity_and_hasher(n, Seed(rng.next_u64() | 1)),
        }
    }

    /// Sessions, the expired ones not yet swept included.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The live session bound from `addr`, or bound there a moment ago.
    pub(super) fn by_addr(&mut self, addr: &SocketAddr, now: Instant) -> Option<&mut Session> {
        let &slot = self.by_addr.get(addr)?;
        self.live(slot, now)
    }

    /// From where and to where to deliver for `key`, and under which number.
    pub(super) fn destination(&self, key: &SessionKey, now: Instant) -> Option<(Local, SocketAddr, u16)> {
        let &slot = self.by_key.get(key)?;
        let session = self.slots[slot as usize].as_ref()?;
        let alive = now.saturating_since(session.last_seen) < self.limits.lifetime;
        if alive { Some((session.local, session.addr?, session.gen_no)) } else { None }
    }

    /// Opens, refreshes or moves the session of `key`. The same address keeps its number, also if it now binds at
    /// another of the relay's; a new address gets a new one, and frames from the old address are taken for [`FORMER`].
    pub(super) fn bind(
        &mut self,
        key: SessionKey,
        (local, addr): (Local, SocketAddr),
        ts_ms: u64,
        rng: &mut Rng,
        now: Instant,
    ) -> Result<u16, DropReason> {
        let slot = match self.by_key.get(&key) {
            Some(&slot) => {
                let session = self.slots[slot as usize].as_ref().expect("the index names a full slot");
                if ts_ms <= session.last_ts {
                    return Err(DropReason::Replay);
                }
                slot
            }
            None => self.allocate(key, now)?,
        };
        let session = self.slots[slot as usize].as_mut().expect("found or filled above");
        session.last_ts = ts_ms;
        session.last_seen = now;
        session.local = local;
        if session.addr == Some(addr) {
            return Ok(session.gen_no);
        }
        let until = now + FORMER;
        let old = session.addr.replace(addr).map(|addr| Former { addr, gen_no: session.gen_no, until });
        session.gen_no = next_gen(session.gen_no, rng);
        let gen_no = session.gen_no;
        let before = core::mem::replace(&mut session.former, old);
        self.forget(before.map(|f| f.addr), slot);
        if let Some(ousted) = self.by_addr.insert(addr, slot)
            && let Some(ousted) = self.slots[ousted as usize].as_mut().filter(|_| ousted != slot)
        {
            ousted.addr = ousted.addr.filter(|a| *a != addr);
            ousted.former = ousted.former.filter(|f| f.addr != addr);
        }
        Ok(gen_no)
    }

    /// `addr` no longer leads to `slot`, unless it is where that is bound.
    fn forget(&mut self, addr: Option<SocketAddr>, slot: u32) {
        let Some(addr) = addr else { return };
        let bound = self.slots[slot as usize].as_ref().is_some_and(|s| s.addr == Some(addr));
        if !bound && self.by_addr.get(&addr) == Some(&slot) {
            self.by_addr.remove(&addr);
        }
    }

    /// Forgets what has been silent for its lifetime. One pass over all slots.
    pub(super) fn sweep(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            let Some(session) = &mut self.slots[slot] else { continue };
            let former = session.former.take_if(|f| now >= f.until).map(|f| f.addr);
            let silent = now.saturating_since(session.last_seen) >= self.limits.lifetime;
            let (key, addr, slot) = (session.key, session.addr, slot as u32);
            self.forget(former, slot);
            if silent && let Some(gone) = self.slots[slot as usize].take() {
                self.forget(addr, slot);
                self.forget(gone.former.map(|f| f.addr), slot);
                self.by_key.remove(&key);
                self.free.push(slot);
            }
        }
    }

    fn live(&mut self, slot: u32, now: Instant) -> Option<&mut Session> {
        let lifetime = self.limits.lifetime;
        let session = self.slots[slot as usize].as_mut()?;
        (now.saturating_since(session.last_seen) < lifetime).then_some(session)
    }

    fn allocate(&mut self, key: SessionKey, now: Instant) -> Result<u32, DropReason> {
        let of_node =
            (0..MAX_LANES).filter(|&lane| self.by_key.contains_key(&SessionKey { lane, ..key })).count();
        if of_node >= self.limits.per_node {
            return Err(DropReason::NodeSessions);
        }
        let bucket = Bucket::full(self.limits.burst, now);
        let session = Session {
            key,
            addr: None,
            local: Local::ANY,
            gen_no: 0,
            last_ts: 0,
            last_seen: now,
            bucket,
            former: None,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.limits.sessions => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return Err(DropReason::TableFull),
        };
        self.slots[slot as usize] = Some(session);
        self.by_key.insert(key, slot);
        Ok(slot)
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

/// Secretly seeded hashing, so that nobody can choose addresses that collide.
#[derive(Clone, Copy)]
struct Seed(u64);

impl BuildHasher for Seed {
    type Hasher = FoldHasher;
    fn build_hasher(&self) -> FoldHasher {
        FoldHasher { state: self.0, seed: self.0 }
    }
}

struct FoldHasher {
    state: u64,
    seed: u64,
}

impl FoldHasher {
    fn mix(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.seed ^ 0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.mix(n.into());
    }
    fn write_u16(&mut self, n: u16) {
        self.mix(n.into());
    }
    fn write_u32(&mut self, n: u32) {
        self.mix(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }
    fn finish(&self) -> u64 {
        fold(self.state, self.seed)
    }
}
