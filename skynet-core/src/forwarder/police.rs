//! Who may send how much: the rate of a session's class, that of its network, and its share of what is full.
//!
//! ```text
//!   DATA ─ control, within its allowance ──────────────────────────────────────────────────────────▶ forward
//!     └─ session's bucket ─ bucket of class and network ─ share of the uplink ─ share of the thread ──▶ forward
//!             ▼ session_rate       ▼ network_rate              ▼ uplink_full        ▼ overload
//! ```

use std::sync::Arc;

use crate::time::Instant;
use crate::wire::relay::Class;

use super::drops::DropReason;
use super::limit::Bucket;
use super::rates::{Groups, Rate, RateClass, Reserve};
use super::session::{SessionTable, Shard};
use super::share::{self, Board, Headroom, Histogram, INTERVAL, Share};

/// What a session may send of class control, bytes a second and at once, whatever else it sends: handshakes, probes and
/// calls for a few hundred peers.
const CONTROL_ALLOWANCE: u64 = 64_000;
/// To a processor a small datagram is as much work as one of this size.
const LEAST_WORK: u64 = 1_000;

/// What a session has used and asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    class: RateClass,
    /// Its bucket in common with others; `None` if there is no limit, or no room for another.
    group: Option<u8>,
    own: Bucket,
    control: Bucket,
    uplink: Bucket,
    thread: Bucket,
    /// In this interval: bytes, and work in bytes.
    asked: u64,
    work: u64,
    is_active: bool,
    /// Since the session began.
    forwarded: u64,
}

impl Account {
    /// Nothing used.
    pub(super) fn new(class: &RateClass, now: Instant) -> Self {
        Self {
            class: *class,
            group: None,
            own: Bucket::full(class.session.burst_bytes(), now),
            control: Bucket::full(CONTROL_ALLOWANCE, now),
            uplink: Bucket::full(0, now),
            thread: Bucket::full(0, now),
            asked: 0,
            work: 0,
            is_active: false,
            forwarded: 0,
        }
    }
    /// Its class's number.
    pub(super) fn class(&self) -> u16 {
        self.class.number
    }
    /// Bytes that were let pass.
    pub(super) fn forwarded(&self) -> u64 {
        self.forwarded
    }
    /// Whether it has the same limits.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.class, self.group) == (other.class, other.group)
    }
    /// What BOUND tells.
    pub(super) fn rate(&self) -> Rate {
        self.class.session
    }
}

/// One thread's part in it.
pub(super) struct Police {
    shard: Shard,
    classes: Vec<RateClass>,
    reserve: Reserve,
    board: Arc<Board>,
    /// What the uplink carries in an interval; `None`: it is not configured.
    uplink: Option<u64>,
    headroom: Headroom,
    is_pressed: bool,
    /// Whether it matters what sessions ask for: an uplink is configured, or the thread has not kept up lately.
    is_watching: bool,
    /// Work done in this interval.
    done: u64,
    uplink_share: Option<Share>,
    thread_share: Option<Share>,
    /// Slots of sessions that have asked for something in this interval.
    active: Vec<u32>,
    next_look: Instant,
}

impl Police {
    pub(super) fn new(
        shard: Shard,
        classes: Vec<RateClass>,
        uplink_kbit: u64,
        (groups, board): (Arc<Groups>, Arc<Board>),
        max_sessions: usize,
        now: Instant,
    ) -> Self {
        Self {
            shard,
            classes,
            reserve: Reserve::new(groups),
            board,
            uplink: (uplink_kbit > 0).then(|| share::per_interval(uplink_kbit)),
            headroom: Headroom::default(),
            is_pressed: false,
            is_watching: uplink_kbit > 0,
            done: 0,
            uplink_share: None,
            thread_share: None,
            active: Vec::with_capacity(max_sessions),
            next_look: now + INTERVAL,
        }
    }

    /// An account for a ticket of class `number` in a network; a class that is not known is class 0.
    pub(super) fn open(&mut self, network_id: [u8; 8], number: u16, now: Instant) -> Account {
        let class = self.classes.iter().find(|class| class.number == number).or(self.classes.first());
        let class = class.copied().unwrap_or(RateClass::NONE);
        let mut account = Account::new(&class, now);
        if class.network.kbit > 0 {
            account.group = self.reserve.groups().find(network_id, &class, now);
        }
        account
    }

    /// Whether `len` bytes of a session may go on.
    pub(super) fn admit(
        &mut self,
        slot: u32,
        account: &mut Account,
        (len, class): (usize, Class),
        now: Instant,
    ) -> Result<(), DropReason> {
        self.decide(slot, account, (len as u64, class), now)?;
        account.forwarded += len as u64;
        Ok(())
    }

    fn decide(
        &mut self,
        slot: u32,
        account: &mut Account,
        (len, class): (u64, Class),
        now: Instant,
    ) -> Result<(), DropReason> {
        if class == Class::Control && account.control.take(len, CONTROL_ALLOWANCE, CONTROL_ALLOWANCE, now) {
            return Ok(());
        }
        let own = account.class.session;
        if own.kbit > 0 && !account.own.take(len, own.bytes_per_s(), own.burst_bytes(), now) {
            return Err(DropReason::SessionRate);
        }
        if let Some(group) = account.group
            && !self.reserve.take(group, len, account.class.network, now)
        {
            return Err(DropReason::NetworkRate);
        }
        if !self.is_watching {
            return Ok(());
        }
        let work = len.max(LEAST_WORK);
        self.note(slot, account, len, work);
        if let Some(share) = self.uplink_share
            && !account.uplink.take(len, share.bytes_per_s, share.burst, now)
        {
            return Err(DropReason::UplinkFull);
        }
        if let Some(share) = self.thread_share
            && !account.thread.take(work, share.bytes_per_s, share.burst, now)
        {
            return Err(DropReason::Overload);
        }
        self.done += work;
        Ok(())
    }

    fn note(&mut self, slot: u32, account: &mut Account, len: u64, work: u64) {
        account.asked += len;
        account.work += work;
        if !account.is_active && self.active.len() < self.active.capacity() {
            account.is_active = true;
            self.active.push(slot);
        }
    }

    /// Whether datagrams were lost since the last time because this thread did not come to them.
    pub(super) fn press(&mut self, is_pressed: bool, now: Instant) {
        self.is_pressed |= is_pressed;
        if is_pressed && !self.is_watching {
            self.is_watching = true;
            self.next_look = now + INTERVAL;
        }
    }

    /// When to look next, if anything is watched.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.is_watching.then_some(self.next_look)
    }

    /// Finds the shares of the next interval.
    pub(super) fn look(&mut self, table: &mut SessionTable, now: Instant) {
        if !self.is_watching || now < self.next_look {
            return;
        }
        self.next_look = now + INTERVAL;
        let (mut asked, mut work) = (Histogram::default(), Histogram::default());
        for slot in self.active.drain(..) {
            let Some(account) = table.account_mut(slot) else { continue };
            if account.is_active {
                asked.add(account.asked);
                work.add(account.work);
                (account.asked, account.work, account.is_active) = (0, 0, false);
            }
        }
        let done = std::mem::take(&mut self.done);
        let is_pressed = std::mem::take(&mut self.is_pressed);
        let capacity = self.headroom.update(is_pressed, done, work.total());
        self.thread_share = capacity.and_then(|capacity| work.level(capacity)).map(Share::of);
        self.is_watching = self.uplink.is_some() || capacity.is_some();
        if let Some(capacity) = self.uplink {
            let all = self.board.exchange(self.shard.index, &asked);
            self.uplink_share = all.level(capacity).map(Share::of);
        }
    }
}
