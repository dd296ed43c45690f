//! Paths: probes in and out, and which way data goes.

use core::net::IpAddr;
use std::sync::Arc;

use crate::drop::DropReason;
use crate::forwarding::DataPath;
use crate::id::{PeerSlot, PortNo, RelayNo};
use crate::member::{Endpoint, Member};
use crate::node::peers::{Kind, Peer};
use crate::node::{Node, NodeEvent, Transmit};
use crate::path::{
    Candidate, CandidateKind, PairKeys, Path, PathAgent, PathConfig, PathCounters, PathEvent, ProbeFrom,
    ProbeTo, Traffic,
};
use crate::session::{PathSource, PeerPsk, Session, SessionConfig, Tai64n};
use crate::time::Now;
use crate::wire::probe::{Head, RelayRtt};
use crate::wire::relay::Class;

impl Node {
    /// A member becomes a peer: a session and a path agent of its own.
    pub(super) fn add_member(&mut self, member: &Arc<Member>, now: Now) -> Option<PeerSlot> {
        let key = member.x25519();
        if let Some(slot) = self.peers.by_key(&key) {
            return Some(slot);
        }
        let membership = self.membership.as_ref()?;
        let (me, credentials) = (membership.me()?, membership.credentials()?);
        let root_pin = credentials.trust().root_pin().0;
        let keys = PairKeys::new(&root_pin, self.local.secret(), &key, PortNo(0))?;
        let psk = PeerPsk::bound(&root_pin, &me.identity(), &member.identity(), None);
        let config = SessionConfig {
            peer: key,
            psk,
            persistent_keepalive: None,
            certified: true,
            greatest_timestamp: Tai64n::ZERO,
        };
        let path_config = PathConfig { overlay: self.overlay(), mtu: self.mtu, guessing: self.guessing };
        let mut path = PathAgent::new(path_config, keys, self.probe_start, self.rng.fork(), now);
        path.set_nat(self.nat);
        path.set_local_candidates(&self.local_candidates(PortNo(0)), now);
        path.set_own_relays(&self.ports.relays.told(), now);
        path.expect_relay(self.ports.relays.expected_until());
        path.set_peer_endpoints(&candidates_of(member), &relays_of(member), now);
        let kind = Kind::Member { member: Arc::clone(member), path: Box::new(path) };
        let slot = self.peers.insert(kind, Session::new(config))?;
        if let Some(membership) = &mut self.membership {
            membership.directory.note_used(&member.identity());
        }
        self.compile_policy(slot);
        self.choose_relay(slot, now);
        self.lanes_changed = true;
        let least = self.min_lanes;
        let _wanted = self.with_lanes(slot, now, |lanes, cx| {
            lanes.want(least.max(1), now.mono, cx);
            Ok(())
        });
        // There is room for a tag where there was room for a peer: both caps are the same.
        self.renew_rings(slot);
        self.dirty = true;
        self.drain_path(slot, now);
        Some(slot)
    }

    /// Newer documents of a member: its endpoints, its relay, perhaps other addresses.
    pub(super) fn refresh_member(&mut self, slot: PeerSlot, newer: &Arc<Member>, now: Now) {
        let Some(Kind::Member { member, path }) = self.peers.get_mut(slot).map(|p| &mut p.kind) else {
            return;
        };
        let moved = (member.v4(), member.v6()) != (newer.v4(), newer.v6());
        *member = Arc::clone(newer);
        path.set_peer_endpoints(&candidates_of(newer), &relays_of(newer), now);
        if moved {
            self.peers.index_prefixes();
            self.dirty = true;
        }
        self.choose_relay(slot, now);
        self.drain_path(slot, now);
    }

    /// A probe, out of its relay frame if it was in one. Its tag names the peer and the port whose path it is about;
    /// one of a further port that did not come to that port came by the pair's carrier.
    pub(super) fn on_probe(
        &mut self,
        port: PortNo,
        source: PathSource,
        local: Option<IpAddr>,
        datagram: &mut [u8],
        now: Now,
    ) -> Result<(), DropReason> {
        let head = Head::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let (slot, about) = match self.tags.lookup(&head.tag) {
            Some(owner) => owner,
            None => {
                let slot = self.peer_named_by_relay(source, now).ok_or(DropReason::UnknownProbeTag)?;
                (slot, PortNo(0))
            }
        };
        let guessed = port.is_guess_socket().then_some(port);
        let foreign = match guessed {
            Some(socket) => about != PortNo(0) || self.guess_sockets.owner(socket) != Some(slot),
            None => port != about && port != PortNo(0),
        };
        if foreign {
            return Err(DropReason::UnknownProbeTag);
        }
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownProbeTag)?;
        let path = peer.agent_mut(about).ok_or(DropReason::UnknownProbeTag)?;
        let opened = path.open(datagram).map_err(|e| match e {
            crate::wire::probe::ProbeError::Replayed | crate::wire::probe::ProbeError::OldStart => {
                DropReason::Replayed
            }
            _ => DropReason::BadTag,
        })?;
        let from = match source {
            PathSource::Direct(address) if port == about || guessed.is_some() => ProbeFrom::Direct(address),
            PathSource::Relayed { relay, sender } if about == PortNo(0) => {
                ProbeFrom::Relayed { relay, node_no: sender }
            }
            _ => peer.carrier_end(),
        };
        self.tell_traffic(slot, now);
        if let Some(path) = self.peers.get_mut(slot).and_then(|p| p.agent_mut(about)) {
            let before = (path.carries_chunks(), path.socket());
            path.handle_probe_by(guessed, from, opened.at(local), now);
            self.dirty |= (path.carries_chunks(), path.socket()) != before;
        }
        self.drain_path(slot, now);
        Ok(())
    }

    /// The relay says which member a probe is from. That is a hint; the probe itself is the proof, tried with the keys
    /// of the member so named.
    fn peer_named_by_relay(&mut self, source: PathSource, now: Now) -> Option<PeerSlot> {
        let PathSource::Relayed { sender, .. } = source else { return None };
        let membership = self.membership.as_mut()?;
        let node_no = crate::id::NodeNo(sender);
        match membership.directory.by_node_no(node_no).map(|e| Arc::clone(&e.member)) {
            Some(member) => self.add_member(&member, now),
            None => {
                membership.look_up(crate::control::message::Lookup::Ipv4(sender.into()), now);
                None
            }
        }
    }

    /// Sends a peer's probes and takes its choice of path, of every port.
    pub(super) fn drain_path(&mut self, slot: PeerSlot, now: Now) {
        while let Some(probe) =
            self.peers.get_mut(slot).and_then(Peer::path_mut).and_then(|p| p.poll_transmit())
        {
            if probe.punch && !self.punches.take(now.mono) {
                self.drops.count(DropReason::PunchLimited);
                continue;
            }
            match probe.to {
                ProbeTo::Direct { addr, local, ttl } => {
                    let (port, bytes) = (probe.socket.unwrap_or_default(), probe.bytes);
                    self.transmits.push_back(Transmit { port, to: addr, from: local, ttl, bytes });
                }
                ProbeTo::Relayed { relay, node_no } => {
                    self.send_by_relay(RelayNo(relay), Class::Control, node_no, &probe.bytes);
                }
            }
        }
        while let Some(event) = self.peers.get_mut(slot).and_then(Peer::path_mut).and_then(|p| p.poll_event())
        {
            match event {
                PathEvent::Selected { path, reason } => self.on_selected(slot, path, reason, now),
                PathEvent::SizeChanged => self.dirty = true,
                PathEvent::PeerRestarted => self.begin_anew(slot, now),
                // It may not, within 5 s of its last one.
                PathEvent::Announced if self.peers.get(slot).is_some_and(|p| p.sealing.is_none()) => {
                    self.initiate(slot, now);
                }
                PathEvent::Announced => {}
                PathEvent::PeerRelays => {
                    self.member_relays.look_now(now.mono);
                    self.choose_relay(slot, now);
                }
                PathEvent::RelaySilent(relay) => self.avoid_relay(slot, relay, now),
                PathEvent::RefreshCandidates => self.ports.observe_again(PortNo(0), now.mono),
                PathEvent::OpenSockets { count } => self.open_guess_sockets(slot, count),
                PathEvent::KeepSocket(socket) => self.close_guess_sockets(slot, socket),
            }
        }
        self.note_guessing(slot);
        self.drain_lane_paths(slot, now);
    }

    fn on_selected(&mut self, slot: PeerSlot, path: Option<Path>, reason: crate::path::Reason, now: Now) {
        self.dirty = true;
        self.tell_carrier(slot, now);
        let Some(peer) = self.peers.get(slot) else { return };
        let member = match path {
            Some(Path::Relayed { relay, .. }) => self.relaying_member(relay),
            _ => None,
        };
        let path = match (path, member) {
            (Some(_), Some(member)) => format!("relay {member}"),
            (path, _) => path.map_or_else(|| "none".into(), |p| describe(&p)),
        };
        let path = format!("{path} ({reason:?})");
        self.events.push_back(NodeEvent::PathChanged { peer: peer.name(), path });
        self.flush_staged(slot, now);
        self.want_session(slot, now);
        self.greet_between_keys(slot, now);
        self.tend_trains(slot, now);
    }

    /// The peer has forgotten our keys: a new handshake at once, instead of after 15 s without an answer.
    fn begin_anew(&mut self, slot: PeerSlot, now: Now) {
        if self.peers.get(slot).is_some_and(|p| p.session.is_established()) {
            self.initiate(slot, now);
        }
    }

    pub(super) fn initiate(&mut self, slot: PeerSlot, now: Now) {
        let _begun = self.with_session(slot, |peer, cx| {
            peer.session.initiate(now, cx);
            Ok(())
        });
        self.drain_session(slot, now);
    }

    /// A handshake, if packets wait for one and there is a way for it.
    pub(super) fn want_session(&mut self, slot: PeerSlot, now: Now) {
        let doors = self.peers.get(slot).and_then(|p| p.agent(PortNo(0))).map(|p| p.doors(now.mono));
        let ready = self.data_path(slot).is_some() || doors.is_some_and(|d| !d.is_empty());
        let wanted = |p: &Peer| !p.staged.is_empty() && p.sealing.is_none();
        if ready && self.peers.get(slot).is_some_and(wanted) {
            self.initiate(slot, now);
        }
    }

    /// Fresh counters for the path agent, which judges by them.
    pub(super) fn tell_traffic(&mut self, slot: PeerSlot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let traffic = Traffic {
            // A packet that waits for its key is traffic, of when it came: it is what a path is wanted for.
            last_tx: peer.session.activity().last_data_tx().max(peer.staged.newest()),
            direct: PathCounters::read(&peer.direct),
            relayed: PathCounters::read(&peer.relayed),
            others_rx: peer.heard_by_others(PortNo(0)),
        };
        let attention = peer.attention();
        let may_guess = self.guess_sockets.is_free_for(slot);
        if let (Some(last_tx), Some(Path::Relayed { relay, .. })) =
            (traffic.last_tx, peer.agent(PortNo(0)).and_then(PathAgent::selected))
        {
            let until = last_tx + PathAgent::EDGE;
            self.ports.relays.note_use(RelayNo(relay), until, now.mono);
            self.note_relayed(slot, until, now);
        }
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if let Some(path) = peer.path_mut() {
            path.set_may_guess(may_guess);
            path.set_attention(attention);
            path.handle_traffic(traffic, now);
        }
        peer.tell_lane_traffic(traffic.last_tx, attention, now);
    }

    /// The way to a peer now, as the workers need it.
    pub(super) fn data_path(&self, slot: PeerSlot) -> Option<DataPath> {
        let peer = self.peers.get(slot)?;
        let trains = peer.trains.trains_arrive();
        let limit = peer.agent(PortNo(0)).map_or(self.stock_mtu(), |path| path.size().limit);
        let direct = |to, from| {
            let activity = Arc::clone(&peer.direct);
            DataPath { port: peer.port_towards(to), to, from, relay_header: None, trains, limit, activity }
        };
        match &peer.kind {
            Kind::Stock { path, .. } => path.endpoint().map(|to| direct(to, None)),
            Kind::Member { path, .. } => match path.selected()? {
                Path::Direct { remote } => Some(direct(remote, path.local_towards(remote))),
                Path::Relayed { relay, node_no } => {
                    let (to, header) = self.ports.relay_header(RelayNo(relay), node_no, Class::Normal)?;
                    let activity = Arc::clone(&peer.relayed);
                    let relay_header = Some(header);
                    // Trains are checked on the way to the peer, which this is not.
                    let port = PortNo(0);
                    Some(DataPath { port, to, from: None, relay_header, trains: true, limit, activity })
                }
            },
        }
    }

    pub(super) fn send_by_relay(&mut self, relay: RelayNo, class: Class, node_no: u32, message: &[u8]) {
        let Some((to, header)) = self.ports.relay_header(relay, node_no, class) else { return };
        let bytes = header.iter().chain(message).copied().collect();
        self.transmits.push_back(Transmit { port: PortNo(0), to, from: None, ttl: None, bytes });
    }

    /// Tells every peer, and the directory, where port 0 can be reached.
    pub(super) fn tell_candidates(&mut self, now: Now) {
        let local = self.local_candidates(PortNo(0));
        for slot in self.peers.slots() {
            if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut) {
                path.set_local_candidates(&local, now);
            }
            self.drain_path(slot, now);
        }
        self.publish_record(now);
    }

    /// Tells the directory where we can be reached.
    pub(super) fn publish_record(&mut self, now: Now) {
        let endpoints = self
            .local_candidates(PortNo(0))
            .iter()
            .map(|c| Endpoint { kind: c.kind as u8, address: c.addr })
            .collect();
        // Sessions at members come and go with traffic: those concerned hear of them by CALL.
        let told = self.ports.relays.told();
        let listed = told.iter().filter(|r| !RelayNo(r.relay_no).is_member()).map(to_record).collect();
        if let Some(membership) = &mut self.membership {
            membership.publish(endpoints, listed, now);
        }
    }

    /// Where a port of ours can be reached, as a peer is told.
    pub(super) fn local_candidates(&self, port: PortNo) -> Vec<Candidate> {
        crate::path::select_candidates(&self.ports.candidates(port), &self.overlay())
    }
}

pub(super) fn candidates_of(member: &Member) -> Vec<Candidate> {
    let known = |e: &Endpoint| Some(Candidate::new(CandidateKind::from_wire(e.kind)?, e.address));
    member.endpoints().iter().filter_map(known).collect()
}

/// The relays a member says it is at.
fn relays_of(member: &Member) -> Vec<RelayRtt> {
    member.relays().iter().map(|r| RelayRtt { relay_no: r.relay_no, rtt_ms: r.rtt_ms }).collect()
}

fn to_record(told: &RelayRtt) -> crate::member::RelayRtt {
    crate::member::RelayRtt { relay_no: told.relay_no, rtt_ms: told.rtt_ms }
}

/// A path in words.
pub(super) fn describe(path: &Path) -> String {
    match path {
        Path::Direct { remote } => format!("direct {remote}"),
        Path::Relayed { relay, .. } => format!("relay {relay}"),
    }
}
