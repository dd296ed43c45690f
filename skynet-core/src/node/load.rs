//! How busy this node is: from what the shell measured and the workers counted to the number of lanes of each peer.

use std::sync::Arc;

use crate::flows::{LEAST_WEIGHT, LaneLoad as Carried};
use crate::forwarding::PathActivity;
use crate::id::{LaneNo, MAX_PORTS, PeerSlot, PortNo};
use crate::lane_policy::{LaneLoad, LanePolicy, PeerLoad, Verdict};
use crate::node::Node;
use crate::node::peers::Peer;
use crate::session::Traffic;
use crate::time::{Duration, Instant, Now};

/// What the shell measured over the last tenth of a second, while a worker was busy. An idle node needs none.
#[derive(Clone, Debug, Default)]
pub struct LoadSample {
    /// Every open port.
    pub ports: Vec<PortLoad>,
}

/// The two threads of one port.
#[derive(Clone, Copy, Debug)]
pub struct PortLoad {
    /// Which.
    pub port: PortNo,
    /// Processor time of the outbound half in thousandths of the time that passed,
    pub outbound_permille: u16,
    /// and of the inbound half.
    pub inbound_permille: u16,
}

/// What one peer's lanes carry.
#[derive(Default)]
pub(super) struct Load {
    policy: LanePolicy,
    /// Of lane 1, 2, …
    lanes: [Lane; MAX_PORTS],
    traffic: Traffic,
    /// The usable lanes of the last snapshot, lane k at bit k − 1.
    usable: u8,
    epoch: u8,
    /// Samples until the measured rates show what moved.
    moving: u32,
}

/// Flows have moved to their new lane with their next packet, and TCP has found its rate there.
const MOVING_SAMPLES: u32 = 5;

/// Active flows by lane, lane 0 first.
type Flows = [u32; MAX_PORTS + 1];

#[derive(Default)]
struct Lane {
    carried: Arc<Carried>,
    /// Messages sent until the last sample.
    tx: u32,
}

impl Load {
    /// Lanes in the last snapshot.
    pub(super) fn usable(&self) -> u32 {
        self.usable.count_ones()
    }

    /// How often flows were allowed to move, modulo 16.
    pub(super) fn epoch(&self) -> u8 {
        self.epoch & 0xf
    }

    /// What this lane carries, for the workers.
    pub(super) fn of(&self, lane: LaneNo) -> Option<Arc<Carried>> {
        Some(Arc::clone(&self.lanes.get(usize::from(lane.port().0))?.carried))
    }

    pub(super) fn poll_timeout(&self, least: u8) -> Option<Instant> {
        self.policy.poll_timeout(least)
    }

    /// The lanes of the snapshot to come.
    fn set_usable(&mut self, usable: u8) {
        if usable & !self.usable != 0 && self.usable != 0 {
            self.spread();
        }
        self.usable = usable;
    }

    /// From the next snapshot on, each flow may move once.
    fn spread(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.moving = MOVING_SAMPLES;
    }
}

impl Peer {
    /// Messages sent and received until now by `lane`, lane 0's among lane 1's.
    pub(super) fn messages_by(&self, lane: LaneNo) -> (u32, u32) {
        let both = |a: &PathActivity| (a.tx(), a.rx());
        match lane.port() {
            PortNo(0) => {
                let (direct, relayed) = (both(&self.direct), both(&self.relayed));
                (direct.0.wrapping_add(relayed.0), direct.1.wrapping_add(relayed.1))
            }
            port => self.lane_paths.activity(port).map_or((0, 0), both),
        }
    }

    /// One interval has passed.
    fn take_load(&mut self, sample: &LoadSample, by_lane: &Flows, least: u8, now: Now) -> Verdict {
        let traffic = self.session.activity().traffic();
        let before = core::mem::replace(&mut self.load.traffic, traffic);
        let messages = traffic.tx_packets.wrapping_sub(before.tx_packets).max(1);
        let each = traffic.tx_bytes.wrapping_sub(before.tx_bytes) / messages;
        let flows: u32 = by_lane.iter().sum();
        let weight = u32::try_from(messages / u64::from(flows.max(1))).unwrap_or(u32::MAX).max(LEAST_WEIGHT);
        self.load.moving = self.load.moving.saturating_sub(1);
        let mut loads = [LaneLoad::default(); MAX_PORTS];
        let (mut usable, bits) = (0, self.load.usable);
        for lane in (1..=MAX_PORTS as u8).filter(|k| bits >> (k - 1) & 1 == 1).map(LaneNo) {
            let (tx, _) = self.messages_by(lane);
            let state = &mut self.load.lanes[usize::from(lane.port().0)];
            let sent = tx.wrapping_sub(core::mem::replace(&mut state.tx, tx));
            // Just after flows have moved, where they are says more than what the last interval measured.
            let moving = self.load.moving > 0;
            let count = by_lane[usize::from(lane.0)];
            state.carried.set(if moving { count.saturating_mul(weight) } else { sent }, weight);
            let busy = sample.ports.iter().find(|p| p.port == lane.port());
            let agent = self.agent_mut(lane.port());
            let (rtt, least_rtt) = agent.as_ref().map_or((None, None), |a| (a.rtt(), a.least_rtt()));
            loads[usable] = LaneLoad {
                lane,
                bytes: u64::from(sent) * each,
                flows: count,
                busy_permille: busy.map_or(0, |b| b.outbound_permille.max(b.inbound_permille)),
                counted: agent.and_then(|a| a.counted()),
                rtt: rtt.unwrap_or_default(),
                least_rtt: least_rtt.unwrap_or(Duration::MAX / 4),
            };
            usable += 1;
        }
        let received = traffic.rx_bytes.wrapping_sub(before.rx_bytes);
        let load = PeerLoad { lanes: &loads[..usable], received, flows, most: self.lanes.agreed(), least };
        self.load.policy.handle_load(&load, now.mono)
    }
}

impl Node {
    /// What the last tenth of a second was like. To be called every 100 ms while any worker is busy.
    pub fn handle_load(&mut self, sample: &LoadSample, now: Now) {
        let mut flows = vec![Flows::default(); self.peers.capacity()];
        self.flows.count_active(now.mono, |slot, lane| {
            let of_peer = flows.get_mut(slot.0 as usize);
            if let Some(count) = of_peer.and_then(|f| f.get_mut(usize::from(lane.0))) {
                *count += 1;
            }
        });
        for slot in self.peers.slots() {
            if self.peers.get(slot).is_none_or(|p| p.lanes.agreed() < 2) {
                continue;
            }
            self.tell_traffic(slot, now);
            self.drain_path(slot, now);
            let least = self.min_lanes;
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            let verdict = peer.take_load(sample, &flows[slot.0 as usize], least, now);
            if verdict.spread {
                peer.load.spread();
                self.dirty = true;
            }
            self.want_lanes(slot, verdict.lanes, now);
        }
        self.settle(now);
    }

    /// Nobody has needed all its lanes for a while.
    pub(super) fn give_lanes_back(&mut self, slot: PeerSlot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let wanted = peer.load.policy.handle_timeout(self.min_lanes, now.mono);
        self.want_lanes(slot, wanted, now);
    }

    fn want_lanes(&mut self, slot: PeerSlot, wanted: u8, now: Now) {
        let _done = self.with_lanes(slot, now, |lanes, cx| {
            lanes.want(wanted, now.mono, cx);
            Ok(())
        });
    }

    /// Before a snapshot: which lanes are in it, and whether one is new.
    pub(super) fn note_usable_lanes(&mut self) {
        for slot in self.peers.slots() {
            let Some(peer) = self.peers.get(slot) else { continue };
            let bits = self.usable_lanes(peer).iter().fold(0, |bits, l| bits | 1 << l.lane.port().0);
            if let Some(peer) = self.peers.get_mut(slot) {
                peer.load.set_usable(bits);
            }
        }
    }
}
