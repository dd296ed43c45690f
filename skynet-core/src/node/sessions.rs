//! Handshakes: admission in front, the peer's session behind, and what a session asks for in return.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::constants::INNER_MTU;
use crate::control::message::Lookup;
use crate::drop::DropReason;
use crate::forwarding::DataPath;
use crate::id::{LaneNo, PeerSlot, PortNo, RelayNo};
use crate::member::document::Kind as DocumentKind;
use crate::node::comparison;
use crate::node::lanes::{LaneEvent, LaneSet};
use crate::node::peers::{Kind, Peer};
use crate::node::{Node, NodeEvent, Transmit};
use crate::offload::{SuperPacket, VnetHeader, mss};
use crate::path::is_probe_target;
use crate::session::{
    Context, PathSource, PendingInitiation, SealingKey, SessionEvent, Verdict, consume_initiation, sealed_len,
};
use crate::time::{Duration, Instant, Now};
use crate::wire::record::{FEATURE_CHUNKS, FEATURE_DOCUMENTS, FEATURE_RELAY, FEATURE_VIEW, Hello, Record};
use crate::wire::relay::{Class, DataHeader};
use crate::wire::wireguard::{Message, ReceiverIndex, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD};
use crate::worker::InboundCommand;

/// Initiations that wait for the directory to say who sent them.
const MAX_PENDING: usize = 64;
const PENDING_LIFETIME: Duration = Duration::from_secs(3);

/// Authentic initiations from keys nobody here knows yet.
#[derive(Default)]
pub(super) struct PendingInitiations(Vec<(Instant, Source, PendingInitiation)>);

/// Where a datagram came from, and which address of this host it came to, if that is known and there are several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) path: PathSource,
    pub(super) local: Option<IpAddr>,
}

impl PendingInitiations {
    fn push(&mut self, source: Source, pending: PendingInitiation, now: Instant) -> bool {
        self.0.retain(|(at, _, held)| {
            now.saturating_since(*at) < PENDING_LIFETIME && held.peer_static() != pending.peer_static()
        });
        let room = self.0.len() < MAX_PENDING;
        if room {
            self.0.push((now, source, pending));
        }
        room
    }

    fn take(&mut self, key: &crate::key::PublicKey) -> Option<(Source, PendingInitiation)> {
        let at = self.0.iter().position(|(_, _, p)| p.peer_static() == *key)?;
        let (_, source, pending) = self.0.swap_remove(at);
        Some((source, pending))
    }
}

impl Node {
    /// A handshake message, out of its relay frame if it was in one.
    pub(super) fn on_handshake(
        &mut self,
        source: Source,
        message: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        let parsed = Message::parse(message)?;
        // Responses and cookie replies name an index we chose at random: the cheapest check comes first.
        let named = match &parsed {
            Message::Initiation(_) => None,
            Message::Response(r) => Some(self.peer_of_index(r.receiver())?),
            Message::CookieReply(r) => Some(self.peer_of_index(r.receiver())?),
            Message::Transport(_) => return Err(DropReason::UnknownType),
        };
        // A sender's address is easily forged: nothing is made to answer where no peer is. A configured peer may be anywhere.
        if self.is_strange(source) && !self.peers.has_stock() {
            return Err(DropReason::Martian);
        }
        if !matches!(parsed, Message::CookieReply(_)) {
            match self.admission.check(now.mono, source.path, message) {
                Verdict::Pass => {}
                Verdict::Drop(reason) => return Err(reason),
                Verdict::CookieReply(reply) => {
                    self.send_to_source(PortNo(0), source, &reply);
                    return Err(DropReason::UnderLoad);
                }
            }
        }
        match (parsed, named) {
            (Message::Initiation(initiation), _) => {
                let local = self.local.addressee(message);
                let pending = consume_initiation(local, &initiation, &mut self.rng)?;
                self.on_initiation(source, pending, now)
            }
            (Message::Response(response), Some(slot)) => {
                self.with_session(slot, |peer, cx| peer.session.handle_response(&response, now, cx))?;
                self.follow_known_key(slot);
                self.note_handshake_source(slot, source);
                self.drain_session(slot, now);
                Ok(())
            }
            (Message::CookieReply(reply), Some(slot)) => {
                self.with_session(slot, |peer, _| peer.session.handle_cookie_reply(&reply, now.mono))?;
                self.drain_session(slot, now);
                Ok(())
            }
            _ => Err(DropReason::UnexpectedHandshake),
        }
    }

    /// From where no member of the network can be.
    fn is_strange(&self, source: Source) -> bool {
        matches!(source.path, PathSource::Direct(from) if !is_probe_target(&from, &self.overlay()))
    }

    fn peer_of_index(&self, index: ReceiverIndex) -> Result<PeerSlot, DropReason> {
        let key = self.indices.peer_of(index).ok_or(DropReason::UnknownIndex)?;
        self.peers.by_key(&key).ok_or(DropReason::UnknownIndex)
    }

    /// An authentic initiation: from a peer, from a member we have not talked to, or from a key to ask about.
    fn on_initiation(
        &mut self,
        source: Source,
        pending: PendingInitiation,
        now: Now,
    ) -> Result<(), DropReason> {
        let key = pending.peer_static();
        let slot = self.peers.by_key(&key).or_else(|| {
            let member = self.membership.as_ref()?.directory.by_key(&key)?.member.clone();
            self.add_member(&member, now)
        });
        let Some(slot) = slot else {
            let membership = self.membership.as_mut().ok_or(DropReason::NotMember)?;
            if !self.pending.push(source, pending, now.mono) {
                return Err(DropReason::QueueFull);
            }
            membership.look_up(Lookup::Key(key), now);
            return Ok(());
        };
        if self.is_strange(source) && self.peers.get(slot).is_some_and(|p| p.member().is_some()) {
            return Err(DropReason::Martian);
        }
        self.with_session(slot, |peer, cx| peer.session.handle_initiation(pending, now, cx))?;
        self.follow_known_key(slot);
        self.note_handshake_source(slot, source);
        self.drain_session(slot, now);
        Ok(())
    }

    /// The directory answered: the initiation that waited for it goes on.
    pub(super) fn resume_initiation(&mut self, key: &crate::key::PublicKey, now: Now) {
        if let Some((source, pending)) = self.pending.take(key)
            && let Err(reason) = self.on_initiation(source, pending, now)
        {
            self.drops.count(reason);
        }
    }

    /// An authentic handshake message moves a stock peer's endpoint; for a member it only says where to answer as
    /// long as there is no path.
    fn note_handshake_source(&mut self, slot: PeerSlot, source: Source) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.heard_from = Some(source);
        if let (Kind::Stock { path, .. }, PathSource::Direct(from)) = (&mut peer.kind, source.path)
            && path.handle_authenticated(from)
        {
            self.dirty = true;
        }
    }

    /// Runs `f` on a peer's session with what it borrows from the node.
    pub(super) fn with_session<T>(
        &mut self,
        slot: PeerSlot,
        f: impl FnOnce(&mut Peer, &mut Context<'_>) -> Result<T, DropReason>,
    ) -> Result<T, DropReason> {
        let peer = self.peers.get_mut(slot).ok_or(DropReason::NotMember)?;
        let mut cx = Context {
            local: &self.local,
            indices: &mut self.indices,
            timestamps: &mut self.timestamps,
            rng: &mut self.rng,
        };
        f(peer, &mut cx)
    }

    /// Does what a session asks for, until it asks for nothing more.
    pub(super) fn drain_session(&mut self, slot: PeerSlot, now: Now) {
        loop {
            let Some(peer) = self.peers.get_mut(slot) else { return };
            let Some(event) = peer.session.poll_event() else { break };
            match event {
                SessionEvent::InstallOpening(key) => {
                    let (slot, generation) = (peer.slot, peer.generation);
                    let command = InboundCommand::Install { key: Box::new(key), slot, generation };
                    self.events.push_back(NodeEvent::Inbound { port: PortNo(0), command });
                }
                SessionEvent::UseSealing(key) => {
                    peer.sealing = Some(Arc::clone(&key));
                    peer.tell_new_session();
                    self.dirty = true;
                    self.begin_lanes(slot, key, now);
                    self.flush_staged(slot, now);
                    self.remember_peers(now);
                }
                SessionEvent::StopSealing => {
                    peer.sealing = None;
                    self.dirty = true;
                }
                // Held back until the snapshot without the key is out: removal is backwards.
                SessionEvent::RemoveOpening(index) => {
                    self.removals.push((PortNo(0), index));
                    let _done = self.with_lanes(slot, now, |lanes, cx| {
                        lanes.handle_removed(index, cx);
                        Ok(())
                    });
                }
                SessionEvent::SendKeepalive => self.send_keepalive(slot, now),
                SessionEvent::HandshakeFailed => {
                    let (packets, stale) = peer.staged.drain(now.mono);
                    self.drops.add(DropReason::NoSession, (packets.len() + stale) as u64);
                }
            }
        }
        self.drain_lanes(slot, now);
        while let Some(message) = self.peers.get_mut(slot).and_then(|p| p.session.poll_transmit()) {
            self.send_handshake(slot, &message);
        }
    }

    /// Something has to reach the peer now: what is staged, or an empty packet. A key that has just carried its first
    /// message, the HELLO, is confirmed by that.
    fn send_keepalive(&mut self, slot: PeerSlot, now: Now) {
        self.flush_staged(slot, now);
        let Some(peer) = self.peers.get(slot) else { return };
        // What went out at this instant under the key before says nothing for a key that was never used.
        let unused = peer.sealing.as_ref().is_some_and(|k| k.reserved() == 0);
        if !unused && peer.session.activity().last_any_tx() == Some(now.mono) {
            return;
        }
        if let Some(keepalive) = peer.session.seal_keepalive(now.mono) {
            self.send_sealed(slot, &keepalive);
        }
    }

    /// A new keypair seals: between members its lanes are agreed, beginning with HELLO. Without them nobody needs the
    /// root of their keys, which is then erased.
    fn begin_lanes(&mut self, slot: PeerSlot, key: Arc<SealingKey>, now: Now) {
        let hello = self.our_hello();
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Some(root) = peer.session.take_lane_root(key.id()) else { return };
        if let Some(hello) = hello.filter(|_| peer.member().is_some()) {
            peer.lanes.handle_keypair(root, key, hello, now.mono);
            self.drain_lanes(slot, now);
        }
    }

    /// HELLO as we would say it now; a keypair keeps what was said under it.
    fn our_hello(&self) -> Option<Hello> {
        let trust = self.trust()?;
        Some(Hello {
            suites: self.suites,
            max_lanes: self.max_lanes,
            max_packet: self.mtu.most,
            manifest: comparison::holding(trust, DocumentKind::Manifest),
            documents: Some(
                [DocumentKind::Revocations, DocumentKind::Policy]
                    .map(|kind| comparison::holding(trust, kind)),
            ),
            features: FEATURE_VIEW
                | FEATURE_DOCUMENTS
                | if self.chunks { FEATURE_CHUNKS } else { 0 }
                | if self.serving.is_running() { FEATURE_RELAY } else { 0 },
        })
    }

    /// A control record from inside the tunnel.
    pub(super) fn on_record(
        &mut self,
        slot: PeerSlot,
        index: ReceiverIndex,
        record: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        // The slot may have been another peer's in the snapshot the worker had.
        if self.peer_of_index(index)? != slot {
            return Err(DropReason::UnknownIndex);
        }
        // A record is authentic; that its key is confirmed may not have fitted the worker's queue.
        self.on_confirmed(slot, index, now)?;
        if Record::is_of_train(record) {
            return self.on_train_record(slot, record, now);
        }
        if Record::is_of_view(record) {
            return self.on_view_record(slot, record, now);
        }
        if Record::is_of_documents(record) {
            return self.on_document_record(slot, record, now);
        }
        if Record::is_of_relay(record) {
            return self.on_relay_record(slot, record, now);
        }
        self.with_lanes(slot, now, |lanes, cx| lanes.handle_record(index, record, now.mono, cx))?;
        if Record::is_hello(record) {
            self.judge_offer(slot);
            self.compare_documents(slot, now);
        }
        self.tend_trains(slot, now);
        Ok(())
    }

    /// A record of a member, and the member: a stock peer's plaintext is its own business.
    pub(super) fn record_of_member(
        &mut self,
        slot: PeerSlot,
        record: &[u8],
    ) -> Result<(Record, &mut Peer), DropReason> {
        let record = Record::parse(record).map_err(|_| DropReason::UnknownType)?;
        let peer = self.peers.get_mut(slot).ok_or(DropReason::NoPeer)?;
        let is_member = peer.member().is_some();
        is_member.then_some((record, peer)).ok_or(DropReason::UnexpectedRecord)
    }

    /// A record by lane 0 that is to be answered.
    pub(super) fn send_question(&mut self, slot: PeerSlot, record: &Record, now: Now) {
        if let Some(key) = self.peers.get(slot).and_then(|p| p.sealing.clone()) {
            self.seal_with(slot, &key, &record.encode(), true, now);
        }
    }

    /// A record by lane 0, of which silence afterwards says nothing.
    pub(super) fn send_record(&mut self, slot: PeerSlot, record: &Record, now: Now) {
        if let Some(key) = self.peers.get(slot).and_then(|p| p.sealing.clone()) {
            self.seal_with(slot, &key, &record.encode(), false, now);
        }
    }

    /// Runs `f` on a peer's lanes and does what they ask for.
    pub(super) fn with_lanes<T>(
        &mut self,
        slot: PeerSlot,
        now: Now,
        f: impl FnOnce(&mut LaneSet, &mut Context<'_>) -> Result<T, DropReason>,
    ) -> Result<T, DropReason> {
        let result = self.with_session(slot, |peer, cx| f(&mut peer.lanes, cx));
        self.drain_lanes(slot, now);
        result
    }

    /// Does what a peer's lanes ask for.
    fn drain_lanes(&mut self, slot: PeerSlot, now: Now) {
        while let Some(peer) = self.peers.get_mut(slot)
            && let Some(event) = peer.lanes.poll_event()
        {
            match event {
                LaneEvent::Install(key) => {
                    let (port, generation) = (key.lane().port(), peer.generation);
                    let command = InboundCommand::Install { key: Box::new(key), slot, generation };
                    self.events.push_back(NodeEvent::Inbound { port, command });
                }
                LaneEvent::Record(key, record) => {
                    // Repeated by themselves, OPEN and ACCEPT say nothing of a peer that is silent.
                    let is_data = matches!(record, Record::Hello(_));
                    self.seal_with(slot, &key, &record.encode(), is_data, now);
                }
                LaneEvent::Prove(lane, key) => self.prove_lane(slot, lane, &key, now),
                LaneEvent::Asked(lane) => {
                    tracing::debug!(?slot, ?lane, "the peer asks for a lane");
                    self.lanes_changed = true;
                }
                LaneEvent::Changed => {
                    self.dirty = true;
                    self.lanes_changed = true;
                }
                LaneEvent::Remove(port, index) => self.removals.push((port, index)),
            }
        }
    }

    /// An empty packet by a lane, where the lane's data would go.
    fn prove_lane(&mut self, slot: PeerSlot, lane: LaneNo, key: &SealingKey, now: Now) {
        let Some(counter) = key.reserve(1, now.mono).map(|r| r.start) else { return };
        let mut message = [0; TRANSPORT_OVERHEAD];
        let len = key.seal(counter, &mut message, 0);
        if let Some(peer) = self.peers.get(slot) {
            // A keepalive creates no deadline, so nobody needs waking.
            let _asleep = peer.session.activity().note_tx(now.mono, 1, len as u64, true);
        }
        match self.lane_path(slot, lane) {
            Some(path) => self.send_by(&path, &message),
            // Lane 1 shares lane 0's way, which may be only where the peer was heard.
            None if lane.port() == PortNo(0) => self.send_sealed(slot, &message),
            None => {}
        }
    }

    /// Sends what waited for a key, if there is one now, and a way.
    pub(super) fn flush_staged(&mut self, slot: PeerSlot, now: Now) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.sealing.is_none() || peer.staged.is_empty() || self.data_path(slot).is_none() {
            return;
        }
        let (packets, stale) = self.peers.get_mut(slot).map(|p| p.staged.drain(now.mono)).unwrap_or_default();
        self.drops.add(DropReason::NoSession, stale as u64);
        for packet in packets {
            self.send_staged(slot, packet, now);
        }
    }

    /// A packet that waited, in the size that passes: it was read before its path was known.
    fn send_staged(&mut self, slot: PeerSlot, mut packet: Vec<u8>, now: Now) {
        let (Some(peer), Some(path)) = (self.peers.get(slot), self.data_path(slot)) else { return };
        if mss::may_be_syn(&packet) {
            mss::clamp(&mut packet, self.inner_mtu(peer), false);
        }
        let mut parts = vec![packet];
        if parts[0].len() > path.limit.into()
            && let Some(smaller) =
                SuperPacket::parse(VnetHeader::NONE, &parts[0]).ok().and_then(|p| p.resized(path.limit))
        {
            parts = (0..smaller.segments())
                .map(|i| {
                    let mut part = vec![0; smaller.segment_len(i)];
                    smaller.write_segment(i, &mut part);
                    part
                })
                .collect();
        }
        for part in parts {
            if part.len() > path.limit.max(INNER_MTU).into() {
                self.drops.count(DropReason::TooBig);
            } else if !self.seal_to(slot, &part, now) {
                self.drops.count(DropReason::NoSession);
            }
        }
    }

    /// Seals `plaintext` for a peer and queues it: the control plane's own way into the tunnel, for the few packets
    /// that waited and for records. Shares the counter with the workers.
    fn seal_to(&mut self, slot: PeerSlot, plaintext: &[u8], now: Now) -> bool {
        let Some(peer) = self.peers.get(slot) else { return false };
        let Some(key) = peer.sealing.clone() else { return false };
        self.seal_with(slot, &key, plaintext, true, now)
    }

    /// `is_data`: an answer is expected, so silence tells something.
    fn seal_with(
        &mut self,
        slot: PeerSlot,
        key: &SealingKey,
        plaintext: &[u8],
        is_data: bool,
        now: Now,
    ) -> bool {
        let Some(peer) = self.peers.get(slot) else { return false };
        let Some(counter) = key.reserve(1, now.mono).map(|r| r.start) else { return false };
        let mut message = vec![0; sealed_len(plaintext.len())];
        message[TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + plaintext.len()].copy_from_slice(plaintext);
        let len = key.seal(counter, &mut message, plaintext.len());
        let wake = peer.session.activity().note_tx(now.mono, 1, len as u64, !is_data);
        self.send_sealed(slot, &message);
        if wake {
            self.on_awake(slot, now);
        }
        true
    }

    /// A sealed message to a peer, by its selected path, or to where it was last heard from.
    fn send_sealed(&mut self, slot: PeerSlot, message: &[u8]) {
        self.send_as(slot, Class::Normal, message);
    }

    fn send_as(&mut self, slot: PeerSlot, class: Class, message: &[u8]) {
        if let Some(mut path) = self.data_path(slot) {
            path.relay_header = path.relay_header.map(|header| DataHeader::with_class(header, class));
            self.send_by(&path, message);
        } else if let Some(source) = self.peers.get(slot).and_then(|p| p.heard_from) {
            self.send_to_source(self.port_of_source(slot, source.path), source, message);
        }
    }

    fn send_by(&mut self, path: &DataPath, message: &[u8]) {
        let bytes = path.relay_header.iter().flatten().copied().chain(message.iter().copied()).collect();
        self.transmits.push_back(Transmit {
            port: path.port,
            to: path.to,
            from: path.from,
            ttl: None,
            bytes,
        });
    }

    /// A response goes back to where its initiation came from (WireGuard paper §5.4.3), whatever path is selected: of
    /// a peer that only receives, the selected path may be one the sender has left. Initiations go as data does.
    fn send_handshake(&mut self, slot: PeerSlot, message: &[u8]) {
        let source = self.peers.get(slot).and_then(|p| p.heard_from);
        match source.filter(|_| matches!(Message::parse(message), Ok(Message::Response(_)))) {
            Some(source) => self.send_to_source(self.port_of_source(slot, source.path), source, message),
            None if self.data_path(slot).is_none() && source.is_none() => self.knock(slot, message),
            None => self.send_as(slot, Class::Control, message),
        }
    }

    /// No relay is there to call by, and no path is known: the initiation itself goes to where the peer may be. Who it
    /// reaches learns by it who is asking, and answers the checks that follow.
    fn knock(&mut self, slot: PeerSlot, message: &[u8]) {
        let now = self.last_now;
        let doors = self.peers.get(slot).and_then(|p| p.agent(PortNo(0))).map(|p| p.doors(now));
        for to in doors.unwrap_or_default() {
            let bytes = message.to_vec();
            self.transmits.push_back(Transmit { port: PortNo(0), to, from: None, ttl: None, bytes });
        }
    }

    fn port_of_source(&self, slot: PeerSlot, source: PathSource) -> PortNo {
        let PathSource::Direct(to) = source else { return PortNo(0) };
        self.peers.get(slot).map_or(PortNo(0), |p| p.port_towards(to))
    }

    /// Back to where something came from.
    fn send_to_source(&mut self, port: PortNo, source: Source, message: &[u8]) {
        match source.path {
            PathSource::Direct(to) => {
                let (from, bytes) = (source.local, message.to_vec());
                self.transmits.push_back(Transmit { port, to, from, ttl: None, bytes });
            }
            PathSource::Relayed { relay, sender } => {
                self.send_by_relay(RelayNo(relay), Class::Control, sender, message);
            }
        }
    }

    /// A stock peer was heard from elsewhere (WireGuard paper §2.1).
    pub(super) fn on_roamed(&mut self, slot: PeerSlot, from: SocketAddr) {
        if let Some(Kind::Stock { path, .. }) = self.peers.get_mut(slot).map(|p| &mut p.kind)
            && path.handle_authenticated(from)
        {
            self.dirty = true;
        }
    }
}
