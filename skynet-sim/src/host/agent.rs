//! The production agent as a host: one `Node`, one `Worker` with both halves, and an application on top.
//!
//! ```text
//! application ─▶ Outbound ─▶ send batch ─▶ datagrams        datagrams ─▶ Inbound ─▶ application
//!                   │                                                       │
//!                   └──────────── queues with production caps ─▶ Node ◀─────┘ ─▶ datagrams, control stream
//! ```

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use skynet_core::batch::SendBatch;
use skynet_core::diagnosis::{Control, Evidence, HostView};
use skynet_core::drop::DropReason;
use skynet_core::forwarder::{Onward, RelayLimits};
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::{MAX_PORTS, NodeNo, PortNo};
use skynet_core::key::PublicKey;
use skynet_core::member::{Credentials, JoinToken, Tags};
use skynet_core::node::{
    Addresses, ControlStreamEvent, Floors, LoadSample, Membership, Node, NodeConfig, NodeEvent, RosterView,
    Status,
};
use skynet_core::offload::VnetHeader;
use skynet_core::path::{Guessing, MtuConfig};
use skynet_core::receive::{Deliver, Inbound};
use skynet_core::send::{Outbound, Sent};
use skynet_core::session::Engine;
use skynet_core::time::{Duration, Instant, Now, earliest};
use skynet_core::worker::LocalQueues;

use super::application::Application;
use super::{Host, Queue, StreamCommand, StreamEvent, StreamId, Transmit};

/// One slab for all agents of a world: a batch lives for one turn only.
pub type SharedBatch = Rc<RefCell<SendBatch>>;

/// Packets an application sends in one turn; the rest is due at once again.
const MAX_PACKETS_PER_TURN: usize = 64;

/// Rounds of draining queues and events in one turn.
const MAX_ROUNDS: usize = 10_000;

/// Datagrams one turn may send.
const MAX_OUT: usize = 65_536;

/// Notes kept of what went wrong or changed.
const MAX_NOTES: usize = 256;

/// What survives a restart of the process: the files of `/var/lib/skynet`.
#[derive(Clone, Default, Debug)]
pub struct Persisted {
    /// Credentials, once joined.
    pub credentials: Option<Vec<u8>>,
    /// High-water marks.
    pub floors: Floors,
    /// Peers it talked to last.
    pub peers: Vec<NodeNo>,
    /// Documents of other members.
    pub roster: Vec<u8>,
}

/// How an agent starts.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The join token as text.
    pub token: String,
    /// Its wish for a name.
    pub name: String,
    /// Local endpoint of lane 0.
    pub local: SocketAddr,
    /// Further addresses of the host, of which the first is the one its kernel chooses to send from.
    pub others: Vec<IpAddr>,
    /// The host's IPv6 address, if it has one beside.
    pub v6: Option<IpAddr>,
    /// Randomness of this start. Another one than at any start before.
    pub seed: [u8; 32],
    /// Real or stand-in cryptography.
    pub engine: Engine,
    /// Ciphers it offers for lanes.
    pub suites: u32,
    /// Lanes for bulk it offers,
    pub max_lanes: u8,
    /// Whether it offers chunks.
    pub chunks: bool,
    /// and those it opens with every peer at once.
    pub min_lanes: u8,
    /// What its links take, and what it may send.
    pub mtu: MtuConfig,
    /// Members it learns in the background.
    pub known_members: usize,
    /// How far it guesses ports.
    pub guessing: Guessing,
    /// Whether it talks to nobody once what it knows of revocations is stale.
    pub fail_closed: bool,
    /// When its session keys are replaced, if sooner than usual.
    pub key_lifetime: Option<Duration>,
    /// What a start before left.
    pub persisted: Persisted,
}

struct Running {
    node: Node,
    /// By port; those that are open.
    inbound: [Option<Inbound>; MAX_PORTS],
    /// Open sockets for guessing.
    guess_sockets: BTreeSet<PortNo>,
    outbound: Outbound,
    queues: LocalQueues,
    table: Arc<ForwardingTable>,
}

/// The agent.
pub struct AgentHost {
    config: AgentConfig,
    batch: SharedBatch,
    running: Option<Running>,
    application: Application,
    addresses: Option<Addresses>,
    persisted: Persisted,
    control: Option<StreamId>,
    next_stream: u64,
    out: VecDeque<Transmit>,
    commands: VecDeque<(StreamId, StreamCommand)>,
    notes: Vec<(Instant, String)>,
    rx_bytes: u64,
    eats_trains: bool,
    host_view: HostView,
    roster_changes: u64,
    joined_at: Option<Instant>,
    watched: Option<Tags>,
}

impl AgentHost {
    /// An agent that has not started.
    pub fn new(config: AgentConfig, batch: SharedBatch) -> Self {
        Self {
            persisted: config.persisted.clone(),
            config,
            batch,
            running: None,
            application: Application::default(),
            addresses: None,
            control: None,
            next_stream: 0,
            out: VecDeque::new(),
            commands: VecDeque::new(),
            notes: Vec::new(),
            rx_bytes: 0,
            eats_trains: false,
            host_view: HostView::default(),
            roster_changes: 0,
            joined_at: None,
            watched: None,
        }
    }

    /// Somebody on this host waits for members with one of these tags, for everybody if there are none.
    pub fn watch(&mut self, tags: Option<Tags>, now: Now) {
        self.watched = tags;
        if let Some(running) = &mut self.running {
            running.node.watch(self.watched.clone(), now);
        }
        self.settle(now);
    }

    /// Its process is told to end, and tells its relay.
    pub fn stop(&mut self, now: Now) {
        if let Some(running) = &mut self.running {
            running.node.stop(now);
        }
        self.settle(now);
    }

    /// Who is in the network, as far as it knows.
    pub fn roster(&self) -> Option<RosterView> {
        self.running.as_ref().map(|r| r.node.roster())
    }

    /// When it had its place in the overlay first, by its own clock.
    pub const fn joined_at(&self) -> Option<Instant> {
        self.joined_at
    }

    /// How often it was told that the roster has changed.
    pub const fn roster_changes(&self) -> u64 {
        self.roster_changes
    }

    /// From now on this host's network card loses what is sent as a train of more than one datagram, or does not.
    pub const fn set_eats_trains(&mut self, eats: bool) {
        self.eats_trains = eats;
    }

    /// What this host's shell finds when it looks at the network around.
    pub const fn set_host_view(&mut self, view: HostView) {
        self.host_view = view;
    }

    /// From now on it offers to relay for members, whether it may or not.
    pub fn offer_to_relay(&mut self, now: Now) {
        if let Some(running) = &mut self.running {
            running.node.offer_without_tag(now);
        }
        self.settle(now);
    }

    /// The hypervisor says that this machine may be a copy now.
    pub fn reset_sessions(&mut self, seed: [u8; 32], now: Now) {
        if let Some(running) = &mut self.running {
            running.node.reset_sessions(seed, now);
        }
        self.settle(now);
    }

    /// Somebody asks why this peer is reached as it is.
    pub fn inquire(&mut self, peer: &PublicKey, now: Now) {
        if let Some(running) = &mut self.running {
            running.node.inquire(Some(peer), now);
        }
        self.settle(now);
    }

    /// What is known of the pair with this peer.
    pub fn evidence(&self, peer: &PublicKey, now: Now) -> Option<Evidence> {
        self.running.as_ref()?.node.evidence(peer, now)
    }

    /// Its place in the overlay, once joined.
    pub const fn addresses(&self) -> Option<&Addresses> {
        self.addresses.as_ref()
    }

    /// The application on top.
    pub const fn application(&self) -> &Application {
        &self.application
    }

    /// The application on top, to give it something to do.
    pub const fn application_mut(&mut self) -> &mut Application {
        &mut self.application
    }

    /// What `Node` says about itself, once started.
    pub fn status(&self) -> Option<Status> {
        self.running.as_ref().map(|r| r.node.status())
    }

    /// Whether it is joined on the control channel now.
    pub fn is_joined(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.node.is_joined())
    }

    /// Whether it has a session at the relay now.
    pub fn is_bound(&self) -> bool {
        self.running.as_ref().is_some_and(|r| r.node.is_bound())
    }

    /// Drops by reason, of `Node` and worker together.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        self.running.as_ref().map(|r| r.node.drops().snapshot()).unwrap_or_default()
    }

    /// What it would find on disk at its next start.
    pub const fn persisted(&self) -> &Persisted {
        &self.persisted
    }

    /// The configuration of this start.
    pub const fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// Another agent that shares this one's slab: its successor after a restart.
    pub fn successor(&self, config: AgentConfig) -> Self {
        Self::new(config, Rc::clone(&self.batch))
    }

    /// Failures, alarms and path changes, oldest first.
    pub fn notes(&self) -> &[(Instant, String)] {
        &self.notes
    }

    /// The local endpoint of a port: one number after another.
    fn local(&self, port: PortNo) -> SocketAddr {
        let local = self.config.local;
        SocketAddr::new(local.ip(), local.port() + u16::from(port.0))
    }

    /// Every address of the host, with the number of `port`.
    fn locals(&self, port: PortNo) -> Vec<SocketAddr> {
        let local = self.local(port);
        let others = self.config.others.iter().chain(&self.config.v6);
        std::iter::once(local).chain(others.map(|ip| SocketAddr::new(*ip, local.port()))).collect()
    }

    /// Where a datagram of `port` leaves from: the address asked for, or the first of its family, as a kernel chooses.
    fn source(&self, port: PortNo, from: Option<IpAddr>, to: SocketAddr) -> SocketAddr {
        let local = self.local(port);
        let v6 = self.config.v6.filter(|_| to.is_ipv6());
        SocketAddr::new(from.or(v6).unwrap_or(local.ip()), local.port())
    }

    /// Whether there is a way for what goes to this family.
    fn speaks(&self, to: SocketAddr) -> bool {
        self.locals(PortNo(0)).iter().any(|l| l.is_ipv4() == to.is_ipv4())
    }

    /// Ports that are open.
    pub fn open_ports(&self) -> usize {
        self.running.as_ref().map_or(0, |r| r.inbound.iter().flatten().count())
    }

    /// Sockets for guessing that are open.
    pub fn open_guess_sockets(&self) -> usize {
        self.running.as_ref().map_or(0, |r| r.guess_sockets.len())
    }

    /// The machine has this address instead of the one it had: netlink tells the shell, and that the core.
    pub fn readdress(&mut self, ip: IpAddr, now: Now) {
        self.config.local.set_ip(ip);
        let locals = self.locals(PortNo(0));
        if let Some(running) = &mut self.running {
            running.node.set_local_addresses(&locals, now);
        }
        self.settle(now);
    }

    /// What the shell would measure: given to `Node` as it is.
    pub fn handle_load(&mut self, sample: &LoadSample, now: Now) {
        if let Some(running) = &mut self.running {
            running.node.handle_load(sample, now);
        }
        self.settle(now);
    }

    fn note(&mut self, now: Now, text: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push((now.mono, text));
        }
    }

    fn start(&mut self, now: Now) -> Result<Node, String> {
        let membership = match &self.persisted.credentials {
            Some(bytes) => {
                Membership::Joined(Box::new(Credentials::decode(bytes).map_err(|e| e.to_string())?))
            }
            None => Membership::Token {
                token: Box::new(JoinToken::parse(&self.config.token).map_err(|e| e.to_string())?),
                name: self.config.name.parse().map_err(|_| "not a name".to_owned())?,
                tags: None,
                fingerprint: *self.config.seed.first_chunk().expect("32 bytes"),
            },
        };
        let config = NodeConfig {
            membership,
            stock: None,
            floors: self.persisted.floors,
            last_peers: self.persisted.peers.clone(),
            roster: self.persisted.roster.clone(),
            engine: self.config.engine,
            suites: self.config.suites,
            max_lanes: self.config.max_lanes,
            chunks: self.config.chunks,
            min_lanes: self.config.min_lanes,
            mtu: self.config.mtu,
            known_members: self.config.known_members,
            guessing: self.config.guessing,
            relay_for_members: Some(RelayLimits::default()),
        };
        let mut node = Node::new(config, self.config.seed, now)?;
        node.watch(self.watched.clone(), now);
        if self.config.fail_closed {
            node.fail_closed(now);
        }
        if let Some(lifetime) = self.config.key_lifetime {
            node.set_key_lifetime(lifetime, now);
        }
        node.set_local_addresses(&self.locals(PortNo(0)), now);
        Ok(node)
    }

    /// Moves everything between application, halves and `Node` until nothing is left.
    fn settle(&mut self, now: Now) {
        let Some(mut running) = self.running.take() else { return };
        self.send_application(&mut running, now);
        for _ in 0..MAX_ROUNDS {
            if let Some(message) = running.queues.pop() {
                running.node.handle_worker(message, now);
            } else if let Some(t) = running.node.poll_transmit() {
                if t.port.is_guess_socket() && !running.guess_sockets.contains(&t.port) {
                    continue;
                }
                let from = self.source(t.port, t.from, t.to);
                self.out.push_back(Transmit { from, to: t.to, ttl: t.ttl, bytes: t.bytes });
            } else if let Some(event) = running.node.poll_event() {
                self.on_event(event, &mut running, now);
            } else {
                break;
            }
        }
        self.running = Some(running);
    }

    fn on_event(&mut self, event: NodeEvent, running: &mut Running, now: Now) {
        match event {
            NodeEvent::Publish(table) => running.table = table,
            NodeEvent::Inbound { port, command } => {
                if let Some(inbound) = &mut running.inbound[usize::from(port.0)] {
                    inbound.handle_command(command, &mut running.queues);
                }
            }
            NodeEvent::OpenPort(port) if port.is_guess_socket() => {
                running.guess_sockets.insert(port);
                running.node.port_opened(port, &self.locals(port), now);
            }
            NodeEvent::ClosePort(port) if port.is_guess_socket() => {
                running.guess_sockets.remove(&port);
            }
            NodeEvent::OpenPort(port) => {
                let node = &mut running.node;
                let inbound = Inbound::new(port, Arc::clone(node.drops()), Arc::clone(node.flows()));
                running.inbound[usize::from(port.0)] = Some(inbound);
                let locals = self.locals(port);
                node.port_opened(port, &locals, now);
            }
            NodeEvent::ClosePort(port) => running.inbound[usize::from(port.0)] = None,
            NodeEvent::SendTrain { port, to, from, bytes, segment } => {
                self.send_train(self.source(port, from, to), to, &bytes, segment);
            }
            NodeEvent::ConnectControl(to) => {
                self.close_control();
                let id = StreamId(self.next_stream);
                self.next_stream += 1;
                self.control = Some(id);
                if !self.speaks(to) {
                    self.control = None;
                    return running.node.handle_control(ControlStreamEvent::Closed, now);
                }
                let local = SocketAddr::new(self.source(PortNo(0), None, to).ip(), 0);
                self.commands.push_back((id, StreamCommand::Connect(local, to)));
            }
            NodeEvent::SendControl(bytes) => {
                if let Some(id) = self.control {
                    self.commands.push_back((id, StreamCommand::Send(bytes)));
                }
            }
            // No TLS in this world.
            NodeEvent::OpenCarrier { .. } => running.node.carrier_closed(now),
            NodeEvent::CloseCarrier => {}
            NodeEvent::CloseControl => self.close_control(),
            NodeEvent::Persist(credentials) => self.persisted.credentials = Some(credentials),
            NodeEvent::PersistFloors(floors) => self.persisted.floors = floors,
            NodeEvent::PersistPeers(peers) => self.persisted.peers = peers,
            NodeEvent::PersistRoster(roster) => self.persisted.roster = roster,
            NodeEvent::Joined(addresses) => {
                self.application.set_address(addresses.ipv4);
                self.joined_at.get_or_insert(now.mono);
                self.addresses = Some(addresses);
            }
            NodeEvent::RosterChanged => self.roster_changes += 1,
            NodeEvent::JoinFailed { reason, fatal } => {
                self.note(now, format!("join failed{}: {reason}", if fatal { " for good" } else { "" }));
            }
            NodeEvent::Alarm(reason) => self.note(now, format!("alarm: {reason}")),
            NodeEvent::LookAround => running.node.set_host_view(self.host_view, Control::Joined, now),
            NodeEvent::PathChanged { peer, path } => self.note(now, format!("path to {peer}: {path}")),
        }
    }

    fn close_control(&mut self) {
        if let Some(id) = self.control.take() {
            self.commands.push_back((id, StreamCommand::Close));
        }
    }

    /// OUT: what the application has to send goes through the outbound half in one batch.
    fn send_application(&mut self, running: &mut Running, now: Now) {
        let batch = Rc::clone(&self.batch);
        let mut batch = batch.borrow_mut();
        running.outbound.begin(now.mono, &running.table, 1);
        for _ in 0..MAX_PACKETS_PER_TURN {
            let Some(packet) = self.application.poll_packet(now) else { break };
            if running.outbound.handle_packet(VnetHeader::NONE, &packet, &mut batch, &mut running.queues)
                == Sent::BatchFull
            {
                self.flush(&mut batch);
                running.outbound.handle_packet(VnetHeader::NONE, &packet, &mut batch, &mut running.queues);
            }
        }
        self.flush(&mut batch);
        while let Some(answer) = running.outbound.poll_answer() {
            self.application.deliver(answer, now);
        }
    }

    fn flush(&mut self, batch: &mut SendBatch) {
        for train in batch.trains() {
            let from = self.source(train.outer.port, train.outer.from, train.outer.to);
            self.send_train(from, train.outer.to, train.bytes, train.segment);
        }
        batch.clear();
    }

    fn send_train(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], segment: usize) {
        if self.eats_trains && bytes.len() > segment {
            return;
        }
        for bytes in bytes.chunks(segment) {
            self.out.push_back(Transmit { from, to, ttl: None, bytes: bytes.to_vec() });
        }
    }
}

struct ToApplication<'a>(&'a mut Application, Now);

impl Deliver for ToApplication<'_> {
    fn deliver(&mut self, packet: &[u8]) {
        self.0.deliver(packet, self.1);
    }
}

impl Host for AgentHost {
    fn on_start(&mut self, now: Now) {
        match self.start(now) {
            Ok(node) => {
                let (drops, flows) = (Arc::clone(node.drops()), Arc::clone(node.flows()));
                let mut inbound = [const { None }; MAX_PORTS];
                inbound[0] = Some(Inbound::new(PortNo(0), Arc::clone(&drops), Arc::clone(&flows)));
                self.running = Some(Running {
                    inbound,
                    outbound: Outbound::new(drops, flows),
                    guess_sockets: BTreeSet::new(),
                    queues: LocalQueues::default(),
                    table: Arc::default(),
                    node,
                });
            }
            Err(reason) => self.note(now, format!("does not start: {reason}")),
        }
        self.settle(now);
    }

    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, mut bytes: Vec<u8>, now: Now) {
        let port = local.port().checked_sub(self.config.local.port());
        let port =
            port.and_then(|p| u8::try_from(p).ok()).map(PortNo).filter(|p| self.locals(*p).contains(&local));
        let Some((running, port)) = self.running.as_mut().zip(port) else { return };
        let half = if running.guess_sockets.contains(&port) { PortNo(0) } else { port };
        let Some(Some(inbound)) = running.inbound.get_mut(usize::from(half.0)) else { return };
        self.rx_bytes += bytes.len() as u64;
        inbound.begin(now.mono, &running.table);
        inbound.set_local(Some(local.ip()));
        if half != port {
            inbound.arrived_by(port);
        }
        let mut deliver = ToApplication(&mut self.application, now);
        let onward = inbound.handle_datagram(from, 0, &mut bytes, &mut deliver, &mut running.queues);
        inbound.finish(&mut deliver, &mut running.queues);
        if let Some(Onward { to, from, len }) = onward {
            bytes.truncate(len);
            let from = self.source(PortNo(0), from, to);
            self.out.push_back(Transmit { from, to, ttl: None, bytes });
        }
        self.settle(now);
    }

    fn on_timer(&mut self, now: Now) {
        if let Some(running) = &mut self.running
            && running.node.poll_timeout().is_some_and(|(at, _)| at <= now.mono)
        {
            running.node.handle_timeout(now);
        }
        self.settle(now);
    }

    fn on_stream(&mut self, stream: StreamId, event: StreamEvent, now: Now) {
        let Some(running) = self.running.as_mut().filter(|_| self.control == Some(stream)) else { return };
        let event = match event {
            StreamEvent::Connected => ControlStreamEvent::Connected,
            StreamEvent::Bytes(bytes) => ControlStreamEvent::Bytes(bytes),
            StreamEvent::Closed => {
                self.control = None;
                ControlStreamEvent::Closed
            }
            StreamEvent::Accepted { .. } => return,
        };
        running.node.handle_control(event, now);
        self.settle(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    fn poll_stream(&mut self) -> Option<(StreamId, StreamCommand)> {
        self.commands.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        earliest(running.node.poll_timeout().map(|(at, _)| at), self.application.poll_timeout())
    }

    fn timer_name(&self) -> String {
        let timer = self.running.as_ref().and_then(|r| r.node.poll_timeout());
        timer.map_or_else(String::new, |(_, timer)| format!("{timer:?}"))
    }

    fn queues(&self) -> Vec<Queue> {
        vec![
            Queue { name: "agent datagrams out", len: self.out.len(), cap: MAX_OUT },
            Queue { name: "agent stream commands", len: self.commands.len(), cap: MAX_OUT },
        ]
    }
}
