//! Paths of ports 1, 2, …: per peer and port one path agent, which punches and watches that 5-tuple on its own.
//!
//! Such an agent is made while a lane of that port is wanted by either end and our port is ready. It has no relay: it
//! calls by the pair's *carrier*, which is whatever way port 0's data takes, and a lane whose agent has no live direct
//! path is not usable. So lanes behind NATs that cannot be punched stay what they are on lane 1, by the relay. While the
//! carrier is a direct path, a copy of each call takes the relay.
//!
//! **Who calls.** The peer's candidates on a further port are in no record, only in its CALL, and a CALL to a port that
//! is not ready is lost. So the end that was asked for the lane calls, when it is ready; the end that asked waits for
//! that call, and calls itself when none has come after [`CALLED_WITHIN`].

use core::net::SocketAddr;
use std::sync::Arc;

use crate::drop::DropReason;
use crate::forwarding::{DataPath, LaneEntry, PathActivity};
use crate::id::{LaneNo, MAX_PORTS, PeerSlot, PortNo, RelayNo};
use crate::node::peers::{Kind, Peer};
use crate::node::{Node, Transmit};
use crate::path::{
    Attention, CARRIER, MtuConfig, Path, PathAgent, PathConfig, PathCounters, PathEvent, ProbeFrom, ProbeTo,
    RelayPath, Traffic,
};
use crate::time::{Duration, Instant, Now, earliest};
use crate::wire::relay::Class;

/// The peer's port is bound, and has asked its relay, within this time.
const CALLED_WITHIN: Duration = Duration::from_millis(800);

/// What one look at the ports changes is looked at again, so often at most: opening takes one more, closing two.
const SYNC_ROUNDS: usize = 4;

/// The paths of one peer's further ports.
#[derive(Default)]
pub(super) struct LanePaths {
    /// Of port 1, 2, …
    paths: Vec<LanePath>,
}

struct LanePath {
    activity: Arc<PathActivity>,
    agent: Option<Box<PathAgent>>,
    /// From here on the agent hears of traffic, and calls.
    active_from: Instant,
    /// It has heard.
    told: bool,
}

impl LanePaths {
    fn get(&self, port: PortNo) -> Option<&LanePath> {
        self.paths.get(usize::from(port.0).checked_sub(1)?)
    }

    fn get_mut(&mut self, port: PortNo) -> Option<&mut LanePath> {
        self.paths.get_mut(usize::from(port.0).checked_sub(1)?)
    }

    /// The counters of what goes direct by `port`.
    pub(super) fn activity(&self, port: PortNo) -> Option<&PathActivity> {
        Some(&self.get(port)?.activity)
    }

    fn agents_mut(&mut self) -> impl Iterator<Item = (PortNo, &mut PathAgent)> {
        (1..).zip(&mut self.paths).filter_map(|(i, p)| Some((PortNo(i), p.agent.as_deref_mut()?)))
    }

    fn timeout(&self) -> Option<Instant> {
        self.paths.iter().fold(None, |least, path| {
            let Some(agent) = &path.agent else { return least };
            let begins = (!path.told).then_some(path.active_from);
            earliest(earliest(least, agent.poll_timeout().map(|(at, _)| at)), begins)
        })
    }
}

impl Peer {
    /// By which of our sockets what is for lane 0 leaves towards an address of this peer.
    pub(super) fn port_towards(&self, to: SocketAddr) -> PortNo {
        match &self.kind {
            Kind::Member { path, .. } => path.socket_towards(to).unwrap_or_default(),
            Kind::Stock { .. } => PortNo(0),
        }
    }

    /// The agent of this port's path.
    pub(super) fn agent_mut(&mut self, port: PortNo) -> Option<&mut PathAgent> {
        if port == PortNo(0) {
            return self.path_mut();
        }
        self.lane_paths.get_mut(port)?.agent.as_deref_mut()
    }

    pub(super) fn agent(&self, port: PortNo) -> Option<&PathAgent> {
        match &self.kind {
            Kind::Member { path, .. } if port == PortNo(0) => Some(path),
            _ => self.lane_paths.get(port)?.agent.as_deref(),
        }
    }

    /// When the path agents of this peer want to be called.
    pub(super) fn path_timeout(&self) -> Option<Instant> {
        let Kind::Member { path, .. } = &self.kind else { return None };
        let main = path.poll_timeout().map(|(at, _)| at);
        earliest(main, self.lane_paths.timeout())
    }

    /// Time has passed for those of them it is due for.
    pub(super) fn handle_path_timeout(&mut self, now: Now) {
        if let Some(path) = self.path_mut() {
            path.handle_timeout(now);
        }
        for (_, agent) in self.lane_paths.agents_mut() {
            agent.handle_timeout(now);
        }
    }

    /// This host's links take packets of another size.
    pub(super) fn set_mtu(&mut self, config: MtuConfig, now: Now) {
        if let Some(path) = self.path_mut() {
            path.set_mtu(config, now);
        }
        for (_, agent) in self.lane_paths.agents_mut() {
            agent.set_mtu(config, now);
        }
    }

    /// There are new keys for data to the peer.
    pub(super) fn tell_new_session(&mut self) {
        if let Some(path) = self.path_mut() {
            path.handle_new_session();
        }
        for (_, agent) in self.lane_paths.agents_mut() {
            agent.handle_new_session();
        }
    }

    /// The far end of the pair's carrier, as an agent of a further port knows it.
    pub(super) fn carrier_end(&self) -> ProbeFrom {
        ProbeFrom::Relayed { relay: CARRIER, node_no: self.node_no().map_or(0, |n| n.0) }
    }

    /// The carrier, with what port 0's path says of its round-trip time.
    fn carrier(&self) -> Option<RelayPath> {
        let Kind::Member { member, path } = &self.kind else { return None };
        let half = path.rtt().unwrap_or_default() / 2;
        Some(RelayPath { relay_no: CARRIER, node_no: member.node_no(), rtt: half, peer_rtt: Some(half) })
    }

    /// Fresh counters for the agents of further ports. They are to work while the peer has any traffic: a lane is
    /// punched before it carries its first packet.
    pub(super) fn tell_lane_traffic(&mut self, last_tx: Option<Instant>, attention: Attention, now: Now) {
        for port in (1..).map(PortNo).take(self.lane_paths.paths.len()) {
            let others_rx = self.heard_by_others(port);
            let Some(path) = self.lane_paths.get_mut(port) else { continue };
            let Some(agent) = &mut path.agent else { continue };
            path.told |= now.mono >= path.active_from;
            let traffic = Traffic {
                // That it was asked for is traffic too: an end that only receives calls as well.
                last_tx: path.told.then(|| path.active_from.max(last_tx.unwrap_or_default())),
                direct: PathCounters::read(&path.activity),
                relayed: PathCounters::default(),
                others_rx,
            };
            agent.set_attention(attention);
            agent.handle_traffic(traffic, now);
        }
    }

    /// When data came last from the peer by any port but this one.
    pub(super) fn heard_by_others(&self, port: PortNo) -> Option<Instant> {
        let main = if port == PortNo(0) { None } else { self.direct.last_rx().max(self.relayed.last_rx()) };
        let further = (1..).map(PortNo).zip(&self.lane_paths.paths).filter(|(p, _)| *p != port);
        further.map(|(_, path)| path.activity.last_rx()).fold(main, Option::max)
    }

    /// How closely its paths are watched: where lanes may be opened their loss is counted, and where there are several a
    /// dead one is left at once.
    pub(super) fn attention(&self) -> Attention {
        match (self.lanes.agreed(), self.load.usable()) {
            (0 | 1, _) => Attention::Calm,
            (_, 0 | 1) => Attention::Counting,
            _ => Attention::Brisk,
        }
    }

    /// The counters of what comes by ports 1, 2, …
    pub(super) fn activity_by_port(&self) -> Vec<Arc<PathActivity>> {
        self.lane_paths.paths.iter().map(|p| Arc::clone(&p.activity)).collect()
    }
}

impl Node {
    /// Makes path agents for the ports that lanes want, and lets go of those that none wants any more.
    pub(super) fn sync_lane_paths(&mut self, now: Now) {
        for _ in 0..SYNC_ROUNDS {
            if !core::mem::take(&mut self.lanes_changed) {
                return;
            }
            self.sync_lane_paths_once(now);
        }
    }

    fn sync_lane_paths_once(&mut self, now: Now) {
        let mut used = [false; MAX_PORTS];
        for slot in self.peers.slots() {
            let wanted = self.peers.get(slot).map_or(0, |p| p.lanes.wanted());
            self.drop_lane_paths(slot, wanted);
            for port in (1..wanted).map(PortNo) {
                used[usize::from(port.0)] = true;
                self.ports.want(port, now.mono);
                if self.ports.is_ready(port) {
                    self.make_lane_path(slot, port, now);
                }
            }
            self.drain_lane_paths(slot, now);
        }
        self.ports.close_unused(used, now.mono);
        self.tell_ready_ports(now);
    }

    /// Lanes are offered, accepted and used only on ports that are open.
    fn tell_ready_ports(&mut self, now: Now) {
        for slot in self.peers.slots() {
            let open: Vec<(PortNo, bool)> =
                (1..MAX_PORTS as u8).map(PortNo).map(|p| (p, self.ports.is_open(p))).collect();
            let _done = self.with_lanes(slot, now, |lanes, cx| {
                for (port, open) in open {
                    lanes.set_port_ready(port, open, now.mono, cx);
                }
                Ok(())
            });
        }
    }

    /// Forgets the paths of ports from `wanted` on.
    fn drop_lane_paths(&mut self, slot: PeerSlot, wanted: u8) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let keep = usize::from(wanted.saturating_sub(1));
        while peer.lane_paths.paths.len() > keep {
            peer.lane_paths.paths.pop();
            let port = u8::try_from(peer.lane_paths.paths.len() + 1).expect("at most MAX_PORTS ports");
            self.tags.remove(slot, PortNo(port));
            self.dirty = true;
        }
    }

    /// An agent for this port, if there is none.
    fn make_lane_path(&mut self, slot: PeerSlot, port: PortNo, now: Now) {
        let local = self.local_candidates(port);
        let config = PathConfig { overlay: self.overlay(), mtu: self.mtu, guessing: self.guessing };
        let Some(ring) = self.peers.get(slot).and_then(|peer| self.ring(peer, port)) else { return };
        let Some(peer) = self.peers.get_mut(slot) else { return };
        while peer.lane_paths.get(port).is_none() {
            peer.lane_paths.paths.push(LanePath {
                activity: Arc::default(),
                agent: None,
                active_from: now.mono,
                told: false,
            });
            self.dirty = true;
        }
        // A lane that was open and is wanted again: the peer's port is ready.
        let lane = LaneNo(port.0 + 1);
        let (carrier, calls) = (peer.carrier(), peer.lanes.is_asked(lane) || peer.lanes.was_open(lane));
        let Some(path) = peer.lane_paths.get_mut(port).filter(|p| p.agent.is_none()) else { return };
        let _room = self.tags.add(slot, port, ring.iter());
        let mut agent = PathAgent::new(config, ring, self.probe_start, self.rng.fork(), now);
        agent.set_local_candidates(&local, now);
        agent.set_relay(carrier, now);
        path.agent = Some(Box::new(agent));
        path.told = false;
        path.active_from = if calls { now.mono } else { now.mono + CALLED_WITHIN };
    }

    /// A further port is ready, or is seen elsewhere: its candidates are told anew.
    pub(super) fn on_port_changed(&mut self, port: PortNo, now: Now) {
        self.lanes_changed = true;
        let local = self.local_candidates(port);
        for slot in self.peers.slots() {
            if let Some(agent) = self.peers.get_mut(slot).and_then(|p| p.agent_mut(port)) {
                agent.set_local_candidates(&local, now);
                self.drain_lane_paths(slot, now);
            }
        }
    }

    /// Port 0's path is another: what it carries takes another time.
    pub(super) fn tell_carrier(&mut self, slot: PeerSlot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let carrier = peer.carrier();
        for (_, agent) in peer.lane_paths.agents_mut() {
            agent.set_relay(carrier, now);
        }
    }

    /// Sends the probes of a peer's further ports and takes what their agents found.
    pub(super) fn drain_lane_paths(&mut self, slot: PeerSlot, now: Now) {
        let (mut by_carrier, mut found) = (Vec::new(), Vec::new());
        let Some(peer) = self.peers.get_mut(slot) else { return };
        for (port, agent) in peer.lane_paths.agents_mut() {
            while let Some(probe) = agent.poll_transmit() {
                if probe.punch && !self.punches.take(now.mono) {
                    self.drops.count(DropReason::PunchLimited);
                    continue;
                }
                match probe.to {
                    ProbeTo::Direct { addr, local, ttl } => {
                        let bytes = probe.bytes;
                        self.transmits.push_back(Transmit { port, to: addr, from: local, ttl, bytes });
                    }
                    ProbeTo::Relayed { .. } => by_carrier.push(probe.bytes),
                }
            }
            while let Some(event) = agent.poll_event() {
                match event {
                    PathEvent::Selected { path, reason } => {
                        tracing::debug!(?port, ?path, ?reason, "path of a lane");
                        self.dirty = true;
                        if matches!(path, Some(Path::Direct { .. })) {
                            found.push(port);
                        }
                    }
                    PathEvent::SizeChanged => self.dirty = true,
                    // Port 0's agent hears of it as well, and says it.
                    PathEvent::PeerRestarted | PathEvent::Announced => {}
                    // Relays are port 0's.
                    PathEvent::PeerRelays | PathEvent::RelaySilent(_) => {}
                    PathEvent::RefreshCandidates => self.ports.observe_again(port, now.mono),
                    // A further port guesses nothing: its lane does without.
                    PathEvent::OpenSockets { .. } | PathEvent::KeepSocket(_) => {}
                }
            }
        }
        for probe in by_carrier {
            self.send_by_carrier(slot, &probe);
        }
        for port in found {
            let _done = self.with_lanes(slot, now, |lanes, _| {
                lanes.handle_path(port, now.mono);
                Ok(())
            });
        }
    }

    /// A probe of a further port, by the way that port 0's data takes. Lanes are wanted where that way is full or policed,
    /// and loses: a copy takes the relay, and the later of the two is refused by its counter.
    fn send_by_carrier(&mut self, slot: PeerSlot, probe: &[u8]) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let relay = peer.relay.current();
        let Kind::Member { member, path } = &mut peer.kind else { return };
        let node_no = member.node_no();
        match path.selected() {
            Some(Path::Direct { remote: to }) => {
                let (from, bytes) = (path.local_towards(to), probe.to_vec());
                let port = self.peers.get(slot).map_or(PortNo(0), |p| p.port_towards(to));
                self.transmits.push_back(Transmit { port, to, from, ttl: None, bytes });
                if let Some(relay) = relay {
                    self.send_by_relay(RelayNo(relay), Class::Control, node_no, probe);
                }
            }
            Some(Path::Relayed { relay, node_no }) => {
                self.send_by_relay(RelayNo(relay), Class::Control, node_no, probe);
            }
            None => {}
        }
    }

    /// The way of a lane through its port, if it can be used now.
    pub(super) fn lane_path(&self, slot: PeerSlot, lane: LaneNo) -> Option<DataPath> {
        let port = lane.port();
        if port == PortNo(0) {
            return self.data_path(slot);
        }
        let peer = self.peers.get(slot)?;
        let path = peer.lane_paths.get(port)?;
        let agent = path.agent.as_ref()?;
        let (to, limit) = (agent.live_direct()?, agent.size().limit);
        let from = agent.local_towards(to);
        let (trains, activity) = (peer.trains.trains_arrive(), Arc::clone(&path.activity));
        Some(DataPath { port, to, from, relay_header: None, trains, limit, activity })
    }

    /// The lanes of a peer that are open and have a way.
    pub(super) fn usable_lanes(&self, peer: &Peer) -> Vec<LaneEntry> {
        let entry = |(lane, sealing): (LaneNo, _)| {
            let framing = self.framing(peer, lane.port());
            let path = self.lane_path(peer.slot, lane)?;
            Some(LaneEntry { lane, sealing, path, framing, load: peer.load.of(lane)? })
        };
        peer.lanes.bulk().into_iter().filter_map(entry).collect()
    }
}
