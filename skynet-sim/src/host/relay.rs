//! The production relay as a host: `Server`, registrar and directory, with a store in memory.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant, Now, earliest};
use skynet_relay::io::control::Directory;
use skynet_relay::io::directory::LocalDirectory;
use skynet_relay::server::{
    Action, ClusterKeys, ConnId, ControlServer, ControlServerConfig, ForwardConfig, Forwarder, InForce,
    Local, Measure, Server, StoreOp, StoreReply, StreamOutput, forward_config,
};
use skynet_relay::store::MemoryStore;

use super::{Host, MemberNetwork, Queue, StreamCommand, StreamEvent, StreamId, Transmit};

/// UDP and TCP port of a relay.
pub const CONTROL_PORT: u16 = 3478;

/// UDP port above it, for STUN alone.
const MEASURE_PORT: u16 = CONTROL_PORT + 1;

/// Bytes given to the control server at once, as its contract asks.
const MAX_FEED: usize = 16 * 1024;

/// Datagrams an evil one keeps before it sends them again.
const KEPT: usize = 50;

/// What a relay may hold back before its turn counts as stuck.
const MAX_OUT: usize = 65_536;

/// The relay. Its store outlives it: a successor in the same place is given the same one.
pub struct RelayHost {
    network: MemberNetwork,
    relay_no: u16,
    local: SocketAddr,
    seed: [u8; 32],
    limits: ForwardConfig,
    directory: Box<dyn Directory>,
    /// How far its wall clock is ahead.
    ahead: Duration,
    /// Datagrams it has forwarded and sends again, each under another sender's number; `None`: an honest one does not.
    replays: Option<VecDeque<Transmit>>,
    server: Option<Server>,
    measure: Option<Measure>,
    out: VecDeque<Transmit>,
    commands: VecDeque<(StreamId, StreamCommand)>,
    /// Requests to the directory, and those of them that are JOINs, by second of this host's clock.
    requests: BTreeMap<u64, (u32, u32)>,
}

impl RelayHost {
    /// Relay `relay_no` of the network, at `local`, not started yet.
    pub fn new(
        network: MemberNetwork,
        relay_no: u16,
        local: SocketAddr,
        seed: [u8; 32],
        store: Arc<MemoryStore>,
    ) -> Self {
        let directory = Box::new(LocalDirectory::new(network.registrar(relay_no), store));
        Self {
            network,
            relay_no,
            local,
            seed,
            limits: ForwardConfig { max_sessions: 8_192, ..forward_config() },
            directory,
            ahead: Duration::ZERO,
            replays: None,
            server: None,
            measure: None,
            out: VecDeque::new(),
            commands: VecDeque::new(),
            requests: BTreeMap::new(),
        }
    }

    /// Most requests to the directory in one second, and most JOINs.
    pub fn busiest_second(&self) -> (u32, u32) {
        let most = |f: fn(&(u32, u32)) -> u32| self.requests.values().map(f).max().unwrap_or(0);
        (most(|n| n.0), most(|n| n.1))
    }

    /// The same with other limits of the UDP side.
    pub fn with_limits(self, limits: ForwardConfig) -> Self {
        Self { limits, ..self }
    }

    /// The same with a directory around the honest one.
    pub fn with_directory(self, wrap: impl FnOnce(Box<dyn Directory>) -> Box<dyn Directory>) -> Self {
        Self { directory: wrap(self.directory), ..self }
    }

    /// The same with a wall clock that is ahead by so much.
    pub fn with_clock_ahead(self, ahead: Duration) -> Self {
        Self { ahead, ..self }
    }

    /// The same, which sends twice what it forwards: the second time later, and as if another member had sent it.
    pub fn with_replays(self) -> Self {
        Self { replays: Some(VecDeque::new()), ..self }
    }

    /// What an evil one sends with every datagram it forwards: one from before.
    fn replay(&mut self, sent: &Transmit) {
        let Some(kept) = &mut self.replays else { return };
        kept.push_back(sent.clone());
        if kept.len() <= KEPT {
            return;
        }
        let Some(old) = kept.pop_front() else { return };
        let mut swapped = old.clone();
        if let Some((number, last)) = swapped.bytes.get_mut(4..8).zip(kept.back()) {
            number.copy_from_slice(last.bytes.get(4..8).unwrap_or(&[0; 4]));
        }
        self.out.extend([old, swapped]);
    }

    fn clock(&self, now: Now) -> Now {
        Now { unix: now.unix.plus_secs(self.ahead.as_secs()), ..now }
    }

    /// The production machine, once started.
    pub const fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// The operator wants this relay empty.
    pub fn drain(&mut self, now: Now) {
        if let Some(server) = &mut self.server {
            server.forwarder.set_draining(true);
            server.control.drain(now);
        }
        self.settle(now);
    }

    /// What comes to the port above.
    fn measure(&mut self, local: SocketAddr, from: SocketAddr, mut bytes: Vec<u8>, now: Now) {
        let Some(Ok(answer)) = self.measure.as_mut().map(|m| m.handle_datagram(from, &mut bytes, now.mono))
        else {
            return;
        };
        bytes.truncate(answer.len);
        let local = SocketAddr::new(local.ip(), if answer.from_main { CONTROL_PORT } else { MEASURE_PORT });
        let to = SocketAddr::new(from.ip(), answer.to_port.unwrap_or(from.port()));
        self.out.push_back(Transmit { from: local, to, ttl: None, bytes });
    }

    /// Serves the store's requests and collects what goes to streams, until nothing is left.
    fn settle(&mut self, now: Now) {
        let Some(mut server) = self.server.take() else { return };
        loop {
            if let Some(request) = server.control.poll_store_request() {
                let second = self.requests.entry(now.mono.as_nanos() / 1_000_000_000).or_default();
                second.0 += 1;
                second.1 += u32::from(matches!(request.op, StoreOp::Join { .. }));
                let reply = self.directory.execute(request.op, now.unix);
                server.control.handle_store_reply(request.id, reply, now);
            } else if let Some(output) = server.control.poll_stream_write() {
                match output {
                    StreamOutput::Bytes(conn, bytes) => {
                        server.control.handle_stream_written(conn, bytes.len());
                        self.commands.push_back((StreamId(conn.0), StreamCommand::Send(bytes)));
                    }
                    StreamOutput::Close(conn) => {
                        self.commands.push_back((StreamId(conn.0), StreamCommand::Close));
                    }
                }
            } else {
                break;
            }
        }
        if let Some(revoked) = server.control.poll_revoked() {
            server.forwarder.set_revoked(Arc::new(revoked));
        }
        self.server = Some(server);
    }

    /// Tells members these documents, whatever they are: an honest relay does not.
    pub fn show(&mut self, documents: Vec<Vec<u8>>, now: Now) {
        let Some(server) = &mut self.server else { return };
        let network_id = self.network.network_id();
        let in_force = InForce { network_id, documents, ousted: Vec::new(), relays: Vec::new() };
        server.control.handle_store_reply(0, StoreReply::InForce(Box::new(in_force)), now);
        self.settle(now);
    }

    /// The operator has replaced a document of the network, and tells the running relay.
    pub fn adopt(&mut self, document: Vec<u8>, now: Now) {
        let Some(server) = &mut self.server else { return };
        let reply = self.directory.execute(StoreOp::Adopt { document }, now.unix);
        server.control.handle_store_reply(0, reply, now);
        self.settle(now);
    }
}

impl Host for RelayHost {
    fn on_start(&mut self, now: Now) {
        let now = self.clock(now);
        let mut rng = Rng::from_seed(self.seed);
        let keys = ClusterKeys::new((1, self.network.cluster_key()), []);
        let config = ControlServerConfig::new(self.relay_no, self.network.relay_key(self.relay_no));
        self.measure = Some(Measure::new(&mut rng, now.mono));
        self.server = Some(Server {
            forwarder: Forwarder::new(
                ForwardConfig { relay_no: self.relay_no, ..self.limits.clone() },
                keys.clone(),
                rng.fork(),
                now.mono,
            ),
            control: ControlServer::new(config, keys, rng),
        });
        if let Some(server) = &mut self.server {
            server.control.handle_timeout(now);
        }
        self.settle(now);
    }

    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, mut bytes: Vec<u8>, now: Now) {
        let now = self.clock(now);
        if local.port() == MEASURE_PORT {
            self.measure(local, from, bytes, now);
            return;
        }
        let Some(server) = self.server.as_mut().filter(|_| local.port() == CONTROL_PORT) else { return };
        let asked = Local(local.ip());
        let (Local(source), to) = match server.forwarder.handle_datagram(asked, from, &mut bytes, now) {
            Action::Forward { local, to } => (local, to),
            Action::Reply { len } => {
                bytes.truncate(len);
                (asked, from)
            }
            Action::Drop(_) => return,
        };
        let source = SocketAddr::new(source, self.local.port());
        let sent = Transmit { from: source, to, ttl: None, bytes };
        self.replay(&sent);
        self.out.push_back(sent);
    }

    fn on_timer(&mut self, now: Now) {
        let now = self.clock(now);
        if let Some(server) = &mut self.server {
            server.forwarder.handle_timeout(now.mono);
            server.control.handle_timeout(now);
        }
        self.settle(now);
    }

    fn on_stream(&mut self, stream: StreamId, event: StreamEvent, now: Now) {
        let now = self.clock(now);
        let Some(server) = &mut self.server else { return };
        let conn = ConnId(stream.0);
        match event {
            StreamEvent::Accepted { from, .. } => {
                if !server.control.handle_stream_opened(conn, from, now) {
                    self.commands.push_back((stream, StreamCommand::Close));
                }
            }
            StreamEvent::Bytes(bytes) => {
                bytes.chunks(MAX_FEED).for_each(|part| server.control.handle_stream_bytes(conn, part, now));
            }
            StreamEvent::Closed => server.control.handle_stream_closed(conn, now),
            StreamEvent::Connected => {}
        }
        self.settle(now);
    }

    fn listens_on(&self, local: SocketAddr) -> bool {
        local.port() == self.local.port()
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    fn poll_stream(&mut self) -> Option<(StreamId, StreamCommand)> {
        self.commands.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let server = self.server.as_ref()?;
        earliest(Some(server.forwarder.poll_timeout()), server.control.poll_timeout())
    }

    fn timer_name(&self) -> String {
        "relay".to_owned()
    }

    fn queues(&self) -> Vec<Queue> {
        vec![
            Queue { name: "relay datagrams out", len: self.out.len(), cap: 3 },
            Queue { name: "relay stream commands", len: self.commands.len(), cap: MAX_OUT },
        ]
    }
}
