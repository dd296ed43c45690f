//! Which lane a flow is on: a fixed table of atomics that all halves of all workers share.
//!
//! A flow keeps its lane as long as that lane is usable, so its order is kept. A new one, or one that was silent for
//! [`FORGET_AFTER`], takes the least-loaded lane; one that the peer began takes the lane it came by, so that both ways
//! are one worker's. The end that began a flow chooses and the other follows, never both.
//!
//! ```text
//! entry, 64 bits:  tag 28 | slot 12 | time 15 | theirs 1 | epoch 4 | lane 4        0: free
//! ```
//!
//! When a lane opens, or one carries too much while another has room (`lane_policy`), each flow may move once, from a
//! lane with more than its share to one with less. Packets of a moved flow may overtake those that are still on the old
//! lane, once; that costs a TCP connection at worst one duplicate-ACK episode, which the next second of twice the rate
//! is worth. When a lane dies, its flows leave with their next packet.
//!
//! Races are harmless: two halves that meet in one entry leave one of two lanes that were both right a moment ago.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::forwarding::{LaneEntry, PeerEntry};
use crate::id::{LaneNo, PeerSlot};
use crate::time::{Duration, Instant};

/// Entries: 64 KiB, with room for four times the flows a busy node has.
pub const FLOWS: usize = 8_192;
/// Places a flow may be in: half a cache line.
const WAYS: usize = 4;
/// A flow silent for so long is a new one.
pub const FORGET_AFTER: Duration = Duration::from_secs(10);
/// A flow that sent within this time is active.
const ACTIVE: Duration = Duration::from_secs(1);
/// Messages in an interval of 100 ms that a flow is taken to send at least: what a new one will send is not known, and a
/// ping on a lane must not keep as much away as a transfer.
pub const LEAST_WEIGHT: u32 = 16;
/// The unit of time in an entry. 2^15 of them are 54 minutes; a flow silent for a multiple of that keeps its lane,
/// which is as good as any.
const TICK: Duration = Duration::from_millis(100);
const TICKS: u64 = 1 << 15;

/// What one lane of a peer carries: set by control, moved by the workers in between.
#[derive(Debug, Default)]
pub struct LaneLoad {
    /// Messages in the last interval.
    rate: AtomicU32,
    /// Flows assigned since, less those moved away. Wraps below zero.
    assigned: AtomicU32,
    /// Messages a flow to this peer sends in an interval on average.
    weight: AtomicU32,
}

impl LaneLoad {
    /// Control has measured: `rate` messages in an interval by this lane, `weight` by the average flow to the peer, at
    /// least [`LEAST_WEIGHT`]. What was assigned until now is in it.
    pub fn set(&self, rate: u32, weight: u32) {
        self.rate.store(rate, Relaxed);
        self.weight.store(weight, Relaxed);
        self.assigned.store(0, Relaxed);
    }

    /// Before control has measured for the first time, a flow is taken to send the least.
    fn weight(&self) -> i64 {
        match self.weight.load(Relaxed) {
            0 => LEAST_WEIGHT.into(),
            weight => weight.into(),
        }
    }

    /// The rate to expect.
    fn expected(&self) -> i64 {
        let assigned = i64::from(self.assigned.load(Relaxed).cast_signed());
        i64::from(self.rate.load(Relaxed)) + assigned * self.weight()
    }
}

/// An entry, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flow {
    /// 28 bits of the hash that do not choose the place.
    tag: u32,
    slot: u32,
    time: u64,
    /// The peer began it: its lane is followed.
    theirs: bool,
    epoch: u8,
    lane: u8,
}

impl Flow {
    fn decode(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self {
            tag: (bits >> 36) as u32,
            slot: (bits >> 24) as u32 & 0xfff,
            time: bits >> 9 & (TICKS - 1),
            theirs: bits >> 8 & 1 == 1,
            epoch: (bits >> 4) as u8 & 0xf,
            lane: bits as u8 & 0xf,
        })
    }

    fn encode(self) -> u64 {
        u64::from(self.tag) << 36
            | u64::from(self.slot & 0xfff) << 24
            | self.time << 9
            | u64::from(self.theirs) << 8
            | u64::from(self.epoch & 0xf) << 4
            | u64::from(self.lane & 0xf)
    }

    fn is_older(&self, than: Duration, now: u64) -> bool {
        u128::from(now.wrapping_sub(self.time) & (TICKS - 1)) * TICK.as_nanos() > than.as_nanos()
    }
}

/// The table. Shared by all halves; nothing in it is ever locked or allocated.
#[derive(Debug)]
pub struct FlowTable {
    entries: Box<[AtomicU64]>,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self { entries: (0..FLOWS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl FlowTable {
    /// The lane for a packet we send of the flow `hash` to `peer`. Lane 0 if none other is usable.
    pub fn lane_of(&self, hash: u32, peer: &PeerEntry, now: Instant) -> LaneNo {
        let bulk = &peer.bulk[..];
        let Some(first) = bulk.first() else { return LaneNo(0) };
        if peer.most_lanes < 2 {
            return first.lane;
        }
        let time = ticks(now);
        let place = self.place(hash, peer.slot, time);
        let known = place.flow;
        let kept = known.and_then(|f| bulk.iter().find(|l| l.lane.0 == f.lane).map(|l| (f, l)));
        let (lane, theirs) = match kept {
            Some((f, lane)) if f.epoch == peer.lane_epoch & 0xf => (lane, f.theirs),
            // The first packet since flows may move.
            Some((f, lane)) => (better(bulk, lane), f.theirs),
            None => (least_loaded(bulk).unwrap_or(first), false),
        };
        if kept.is_none_or(|(f, _)| f.lane != lane.lane.0) {
            lane.load.assigned.fetch_add(1, Relaxed);
            if let Some((_, from)) = kept {
                from.load.assigned.fetch_sub(1, Relaxed);
            }
        }
        let theirs = theirs && kept.is_some_and(|(f, _)| f.lane == lane.lane.0);
        place.store(Flow { theirs, epoch: peer.lane_epoch, lane: lane.lane.0, ..place.named(time) });
        lane.lane
    }

    /// A packet of the flow `hash` came from `peer` by `lane`: if the peer began it, answers take the same.
    pub fn learn(&self, hash: u32, peer: &PeerEntry, lane: LaneNo, now: Instant) {
        if peer.most_lanes < 2 || lane == LaneNo(0) {
            return;
        }
        let time = ticks(now);
        let place = self.place(hash, peer.slot, time);
        if place.flow.is_none_or(|f| f.theirs && (f.lane != lane.0 || f.time != time)) {
            place.store(Flow { theirs: true, epoch: peer.lane_epoch, lane: lane.0, ..place.named(time) });
        }
    }

    /// Active flows by peer: for control, ten times a second while something is busy. Reads every entry.
    pub fn count_active(&self, now: Instant, mut count: impl FnMut(PeerSlot, LaneNo)) {
        let time = ticks(now);
        for entry in &self.entries {
            if let Some(flow) = Flow::decode(entry.load(Relaxed)).filter(|f| !f.is_older(ACTIVE, time)) {
                count(PeerSlot(flow.slot), LaneNo(flow.lane));
            }
        }
    }

    /// Where this flow is, or is to be: a free place, a forgotten one, or the one silent for longest.
    fn place(&self, hash: u32, slot: PeerSlot, time: u64) -> Place<'_> {
        // The hash is symmetric and may be weak; the peer's slot is mixed in so that two peers' flows differ.
        let seed = u64::from(hash) << 12 | u64::from(slot.0 & 0xfff);
        let mixed = (seed ^ seed >> 23).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tag = ((mixed >> 20) as u32 & 0x0fff_ffff).max(1);
        let at = (mixed >> 48) as usize % (FLOWS / WAYS) * WAYS;
        let set = &self.entries[at..at + WAYS];
        let mut victim = (&set[0], 0);
        for entry in set {
            let Some(flow) = Flow::decode(entry.load(Relaxed)) else {
                victim = (entry, u64::MAX);
                continue;
            };
            if (flow.tag, flow.slot) == (tag, slot.0 & 0xfff) {
                let flow = Some(flow).filter(|f| !f.is_older(FORGET_AFTER, time));
                return Place { entry, tag, slot, flow };
            }
            let age = time.wrapping_sub(flow.time) & (TICKS - 1);
            if age >= victim.1 && victim.1 != u64::MAX {
                victim = (entry, age);
            }
        }
        Place { entry: victim.0, tag, slot, flow: None }
    }
}

struct Place<'a> {
    entry: &'a AtomicU64,
    tag: u32,
    slot: PeerSlot,
    flow: Option<Flow>,
}

impl Place<'_> {
    fn named(&self, time: u64) -> Flow {
        Flow { tag: self.tag, slot: self.slot.0 & 0xfff, time, theirs: false, epoch: 0, lane: 0 }
    }

    /// Writes only what is new: the line stays shared among cores while nothing changes.
    fn store(&self, flow: Flow) {
        if self.flow != Some(flow) {
            self.entry.store(flow.encode(), Relaxed);
        }
    }
}

fn ticks(now: Instant) -> u64 {
    now.as_nanos() / TICK.as_nanos() as u64 % TICKS
}

fn least_loaded(bulk: &[LaneEntry]) -> Option<&LaneEntry> {
    bulk.iter().min_by_key(|l| l.load.expected())
}

/// The least-loaded lane, if it is no more loaded than `current` after a flow has moved there.
fn better<'a>(bulk: &'a [LaneEntry], current: &'a LaneEntry) -> &'a LaneEntry {
    let weight = current.load.weight();
    match least_loaded(bulk) {
        Some(least) if least.load.expected() + weight <= current.load.expected() - weight => least,
        _ => current,
    }
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
