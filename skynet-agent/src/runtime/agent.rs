//! The control task: the only caller of `Node`. It waits, feeds what happened, and does what the core asks for, in
//! the order in which the core asks.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use skynet_core::key::StaticSecret;
use skynet_core::member::{Credentials, JoinToken, Name};
use skynet_core::node::{
    Addresses, ControlStreamEvent, Floors, Membership, Node, NodeConfig, NodeEvent, StockConfig, StockPeer,
};
use skynet_core::session::{Engine, Tai64n};
use skynet_core::time::Instant;
use skynet_core::worker::ToControl;
use skynet_core::{allowed_ips, crypto};
use tokio::sync::mpsc;

use super::data_plane::{DataPlane, Fault};
use super::interface::{self, Interface, Plan};
use super::queues::{ControlQueues, queues};
use super::report;
use super::stream::ControlStream;
use crate::api::{AgentState, Call, Reply, Request, SelfReport, Server, StatusReport};
use crate::config::{Config, StaticPeer};
use crate::netcfg::{NetConfig, Netlink, Prefix, candidates, watch_changes};
use crate::state::{Floor, StateDir};
use crate::udp::UdpSocket;
use crate::{clock, entropy, fingerprint};

/// A deadline in the past this often in a row is a fault of the core: say which, and do not burn a CPU.
const SPIN_LIMIT: u32 = 10_000;

/// Connections in a row that a relay may end without a word before that is taken for its answer: it does so when the
/// key it is addressed by is not its own.
const UNANSWERED: u32 = 3;
const FOREIGN: &str = "the relay does not know this token's key: the token is for another network, or the network was made \
                       anew; ask the operator for a new token";

/// The agent. Dropping it stops the threads; [`Agent::finish`] also cleans up what outlives the process.
pub(super) struct Agent {
    config: Config,
    state: StateDir,
    net: Netlink,
    socket: Arc<UdpSocket>,
    engine: Option<EngineRoom>,
    interface: Option<Interface>,
    local_addresses: Vec<SocketAddr>,
    stream: ControlStream,
    phase: AgentState,
    /// A token is being used for the first time.
    is_enrolling: bool,
    /// Hash of the token that was given over the control socket last.
    token_mark: Option<[u8; 32]>,
    message: Option<String>,
    faults: mpsc::Receiver<Fault>,
    fault_sender: mpsc::Sender<Fault>,
    spins: u32,
    stopping: bool,
}

/// The two machines of the core and the queues between them.
struct EngineRoom {
    node: Node,
    plane: DataPlane,
    queues: ControlQueues,
}

/// What the control task waits for.
enum Happened {
    Stop,
    Fault(Fault),
    Worker(ToControl),
    Control(ControlStreamEvent),
    Call(Call),
    NetworkChanged,
    Timeout,
}

impl Agent {
    /// Takes the state directory and the UDP port, removes what a killed run left, and starts what can start.
    pub(super) async fn start(config: Config) -> anyhow::Result<Self> {
        let state = StateDir::open(&config.state_dir)?;
        let socket = Arc::new(UdpSocket::bind(config.port)?);
        let net = Netlink::open()?;
        interface::clean_up(&net).await;
        let (fault_sender, faults) = mpsc::channel(4);
        let mut agent = Self {
            config,
            state,
            net,
            socket,
            engine: None,
            interface: None,
            local_addresses: Vec::new(),
            stream: ControlStream::new(),
            phase: AgentState::NotJoined,
            is_enrolling: false,
            token_mark: None,
            message: None,
            faults,
            fault_sender,
            spins: 0,
            stopping: false,
        };
        if let Some(membership) = agent.membership()? {
            agent.start_engine(membership).await?;
        }
        Ok(agent)
    }

    /// What the files and the configuration say about membership; `None` if there is nothing to run yet.
    fn membership(&self) -> anyhow::Result<Option<Membership>> {
        if let Some(blob) = self.state.load_credentials()? {
            let file = self.config.state_dir.join("credentials");
            let credentials = Credentials::decode(&blob).map_err(|e| {
                anyhow::anyhow!("{}: {e}; nothing was changed. The cure: restore the file, or move it away and join again", file.display())
            })?;
            return Ok(Some(Membership::Joined(Box::new(credentials))));
        }
        if let Some(token) = &self.config.token {
            let token = JoinToken::parse(&token.resolve()?)?;
            return Ok(Some(enrolment(token, self.config.name.clone())));
        }
        Ok(self.config.wireguard.is_some().then_some(Membership::None))
    }

    async fn start_engine(&mut self, membership: Membership) -> anyhow::Result<()> {
        let is_member = !matches!(membership, Membership::None);
        self.is_enrolling = matches!(membership, Membership::Token { .. });
        let Floor { handshake_timestamp, probe_start } = self.state.load_floor()?;
        let config = NodeConfig {
            membership,
            stock: self.stock()?,
            floors: Floors { handshake_timestamp: Tai64n(handshake_timestamp), probe_start },
            engine: Engine::Noise,
            port: self.socket.port()?,
        };
        let node = Node::new(config, entropy::seed()?, clock::now()).map_err(anyhow::Error::msg)?;
        let (sink, queues) = queues();
        let drops = Arc::clone(node.drops());
        let plane = DataPlane::start(Arc::clone(&self.socket), drops, sink, self.fault_sender.clone())
            .context("starting the data plane")?;
        self.engine = Some(EngineRoom { node, plane, queues });
        self.phase = if is_member { AgentState::Joining } else { AgentState::Up };
        self.message = is_member.then(|| "waiting for a relay".to_owned());
        self.tell_addresses().await;
        if !is_member {
            self.make_interface(None).await?;
        }
        self.drain().await
    }

    fn stock(&self) -> anyhow::Result<Option<StockConfig>> {
        let wireguard = self.config.wireguard.as_ref();
        if wireguard.is_none() && self.config.peers.is_empty() {
            return Ok(None);
        }
        let secret = match wireguard {
            Some(node) => node.private_key.clone(),
            // A member uses its own key; this one is never used.
            None => StaticSecret::from_bytes(entropy::seed()?),
        };
        let addresses =
            wireguard.map(|w| w.addresses.iter().map(|(ip, _)| *ip).collect()).unwrap_or_default();
        Ok(Some(StockConfig { secret, addresses, peers: self.config.peers.iter().map(stock_peer).collect() }))
    }

    /// Runs until `stop` resolves, a client says so, or something breaks.
    pub(super) async fn run(
        &mut self,
        stop: impl Future<Output = ()>,
        calls: &mut mpsc::Receiver<Call>,
    ) -> anyhow::Result<()> {
        let mut changes = watch_changes().context("watching the network configuration")?;
        let mut stop = std::pin::pin!(stop);
        while !self.stopping {
            let happened = self.wait(&mut stop, calls, &mut changes).await;
            if !matches!(happened, Happened::Timeout) {
                self.spins = 0;
            }
            match happened {
                Happened::Stop => return Ok(()),
                Happened::Fault(fault) => return Err(fault),
                Happened::Worker(message) => self.feed_worker(message),
                Happened::Control(event) => self.feed(|node, now| node.handle_control(event, now)),
                Happened::Call(call) => self.answer(call).await,
                Happened::NetworkChanged => self.tell_addresses().await,
                Happened::Timeout => self.feed(|node, now| node.handle_timeout(now)),
            }
            self.drain().await?;
        }
        Ok(())
    }

    async fn wait(
        &mut self,
        stop: &mut (impl Future<Output = ()> + Unpin),
        calls: &mut mpsc::Receiver<Call>,
        changes: &mut mpsc::Receiver<()>,
    ) -> Happened {
        let deadline = self.deadline();
        let worker = async {
            match &mut self.engine {
                Some(engine) => engine.queues.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop => Happened::Stop,
            Some(fault) = self.faults.recv() => Happened::Fault(fault),
            Some(message) = worker => Happened::Worker(message),
            event = self.stream.next() => Happened::Control(event),
            () = sleep_until(deadline) => Happened::Timeout,
            Some(call) = calls.recv() => Happened::Call(call),
            Some(()) = changes.recv() => Happened::NetworkChanged,
        }
    }

    /// When the core wants to be called, and a word in the log if it always wants to.
    fn deadline(&mut self) -> Option<Instant> {
        let (at, timer) = self.engine.as_ref()?.node.poll_timeout()?;
        let now = clock::monotonic();
        if at > now {
            return Some(at);
        }
        self.spins += 1;
        if self.spins < SPIN_LIMIT {
            return Some(at);
        }
        self.spins = 0;
        tracing::error!(?timer, "a timer that is always due");
        Some(now + Duration::from_millis(10))
    }

    fn feed(&mut self, handle: impl FnOnce(&mut Node, skynet_core::time::Now)) {
        if let Some(engine) = &mut self.engine {
            handle(&mut engine.node, clock::now());
        }
    }

    /// One message and what else is waiting: one clock reading, bounded work.
    fn feed_worker(&mut self, first: ToControl) {
        let Some(engine) = &mut self.engine else { return };
        let now = clock::now();
        engine.node.handle_worker(first, now);
        for message in engine.queues.take_waiting() {
            engine.node.handle_worker(message, now);
        }
    }

    /// Does everything the core has queued.
    async fn drain(&mut self) -> anyhow::Result<()> {
        loop {
            let Some(engine) = &mut self.engine else { return Ok(()) };
            while let Some(transmit) = engine.node.poll_transmit() {
                if let Err(e) = self.socket.send_one(transmit.to, &transmit.bytes, transmit.ttl) {
                    tracing::debug!(to = %transmit.to, %e, "control datagram not sent");
                }
            }
            let Some(event) = engine.node.poll_event() else { return Ok(()) };
            self.apply(event).await?;
        }
    }

    async fn apply(&mut self, event: NodeEvent) -> anyhow::Result<()> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        match event {
            NodeEvent::Publish(table) => engine.plane.publish(table),
            NodeEvent::Inbound(command) => engine.plane.command(command),
            NodeEvent::ConnectControl(relay) => {
                let relay = self.config.relay.unwrap_or(relay);
                tracing::debug!(%relay, "connecting to the relay");
                self.stream.connect(relay);
            }
            NodeEvent::SendControl(bytes) => self.stream.send(bytes),
            NodeEvent::CloseControl => self.stream.close(),
            NodeEvent::Persist(blob) => self.state.save_credentials(&blob)?,
            NodeEvent::PersistFloors(floors) => self.state.save_floor(Floor {
                handshake_timestamp: floors.handshake_timestamp.0,
                probe_start: floors.probe_start,
            })?,
            NodeEvent::Joined(addresses) => self.on_joined(addresses).await,
            NodeEvent::JoinFailed { reason, fatal } => self.on_join_failed(reason, fatal),
            NodeEvent::Alarm(reason) => tracing::warn!(reason, "the relay showed documents that do not hold"),
            NodeEvent::PathChanged { peer, path } => tracing::info!(peer, path, "path changed"),
        }
        Ok(())
    }

    fn on_join_failed(&mut self, reason: String, fatal: bool) {
        let foreign = self.is_enrolling && self.stream.unanswered() >= UNANSWERED;
        if fatal || foreign {
            let reason = if fatal { reason } else { FOREIGN.to_owned() };
            tracing::error!(reason, "the network refused this machine");
            self.phase = AgentState::Failed;
            self.message = Some(reason);
            return;
        }
        tracing::warn!(reason, "not joined yet");
        if self.phase == AgentState::Joining {
            self.message = Some(reason);
        }
    }

    async fn on_joined(&mut self, addresses: Addresses) {
        let name = addresses.name.clone();
        if let Err(e) = self.make_interface(Some(addresses)).await {
            tracing::error!("{e:#}");
            self.phase = AgentState::Failed;
            self.message = Some(format!("{e:#}"));
            return;
        }
        if self.phase != AgentState::Up {
            tracing::info!(name, "member of the network");
        }
        self.phase = AgentState::Up;
        self.message = None;
        self.is_enrolling = false;
    }

    /// Makes the interface for these addresses, or leaves the one that has them already.
    async fn make_interface(&mut self, overlay: Option<Addresses>) -> anyhow::Result<()> {
        let mut addresses = Vec::new();
        if let Some(overlay) = overlay {
            addresses.push((overlay.ipv4.into(), overlay.ipv4_prefix_len));
            addresses.push((overlay.ipv6.into(), 48));
        }
        addresses.extend(self.config.wireguard.iter().flat_map(|w| &w.addresses));
        let routes: Vec<Prefix> = self.config.peers.iter().flat_map(|p| p.allowed_ips.clone()).collect();
        let plan = Plan { name: self.config.interface.clone(), addresses, routes };
        if self.interface.as_ref().is_some_and(|i| i.plan == plan) {
            return Ok(());
        }
        self.remove_interface().await;
        let made = interface::bring_up(&self.net, plan).await?;
        if let Some(engine) = &mut self.engine {
            engine.plane.attach(made.tun.clone()).context("starting the outbound thread")?;
        }
        self.interface = Some(made);
        self.tell_addresses().await;
        Ok(())
    }

    async fn remove_interface(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.plane.detach();
        }
        if self.interface.take().is_some() {
            interface::clean_up(&self.net).await;
        }
    }

    /// Tells the core which addresses a peer may try.
    async fn tell_addresses(&mut self) {
        let own = self.interface.as_ref().map(|i| i.index);
        let addresses = match (self.net.snapshot().await, self.socket.port()) {
            (Ok(snapshot), Ok(port)) => {
                candidates::host_candidates(&snapshot, own, port, self.socket.is_dual_stack())
            }
            (Err(e), _) => return tracing::warn!(%e, "host candidates stay as they are"),
            (_, Err(e)) => return tracing::warn!(%e, "host candidates stay as they are"),
        };
        self.feed(|node, now| node.set_local_addresses(&addresses, now));
        self.local_addresses = addresses;
    }

    async fn answer(&mut self, call: Call) {
        tracing::debug!(request = ?call.request, "asked");
        let reply = match call.request {
            Request::Status => Reply::ok(&self.status()),
            Request::Peer { peer } => match self.status().find(&peer) {
                Some(found) => Reply::ok(found),
                None => Reply::error(1, &format!("no peer is called {peer:?}")),
            },
            Request::Join { token, name } => match self.join(&token, name).await {
                Ok(()) => Reply::ok(&serde_json::json!({ "joining": true })),
                Err(e) => Reply::error(1, &format!("{e:#}")),
            },
            Request::Down => {
                self.stopping = true;
                Reply::ok(&serde_json::json!({ "stopping": true }))
            }
        };
        // A client that has gone needs no answer.
        let _ = call.reply.send(reply);
    }

    /// Makes this machine a member by `token`; nothing if it is one already, or is about to be by this very token.
    async fn join(&mut self, token: &str, name: Option<String>) -> anyhow::Result<()> {
        let mark = crypto::hash(&[token.trim().as_bytes()]);
        let parsed = JoinToken::parse(token)?;
        let membership = match self.membership()? {
            Some(Membership::Joined(credentials)) => {
                parsed.check_network(&credentials.trust().root_pin())?;
                if self.phase != AgentState::Failed {
                    return Ok(());
                }
                Membership::Joined(credentials)
            }
            _ if self.token_mark == Some(mark) && self.phase == AgentState::Joining => return Ok(()),
            _ => {
                parsed.check_expiry(clock::now().unix)?;
                let name = name.map_or_else(|| Ok(self.config.name.clone()), |n| n.parse::<Name>())?;
                enrolment(parsed, name)
            }
        };
        self.stream.close();
        self.remove_interface().await;
        self.engine = None;
        self.token_mark = Some(mark);
        self.start_engine(membership).await
    }

    fn status(&self) -> StatusReport {
        let mut report = StatusReport {
            schema: "status/1".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.phase,
            message: self.message.clone(),
            this: SelfReport {
                interface: self.config.interface.clone(),
                port: self.socket.port().unwrap_or(self.config.port),
                local_addresses: self.local_addresses.iter().map(SocketAddr::to_string).collect(),
                ..SelfReport::default()
            },
            relays: Vec::new(),
            peers: Vec::new(),
            drops: [("UdpSend".to_owned(), self.socket.dropped())].into(),
        };
        if let Some(engine) = &self.engine {
            let status = engine.node.status();
            let now = clock::monotonic();
            report::this_node(&status, &mut report.this);
            report.relays = report::relays(&status);
            report.peers = status.peers.iter().map(|p| report::peer(p, now)).collect();
            report.drops.insert("TunWrite".to_owned(), engine.plane.tun_drops());
            let counted = engine.node.drops().snapshot();
            report.drops.extend(counted.into_iter().map(|(reason, count)| (format!("{reason:?}"), count)));
        }
        report.drops.retain(|_, count| *count > 0);
        self.fill_plain_addresses(&mut report.this);
        report
    }

    /// A plain WireGuard node is told by its own configuration.
    fn fill_plain_addresses(&self, this: &mut SelfReport) {
        let Some(node) =
            self.config.wireguard.as_ref().filter(|_| this.ipv4.is_none() && this.ipv6.is_none())
        else {
            return;
        };
        for (ip, len) in &node.addresses {
            if ip.is_ipv4() && this.ipv4.is_none() {
                this.ipv4 = Some(ip.to_string());
                this.ipv4_prefix_len = Some(*len);
            } else if ip.is_ipv6() && this.ipv6.is_none() {
                this.ipv6 = Some(ip.to_string());
            }
        }
    }

    /// Stops the threads and removes interface and routes.
    pub(super) async fn finish(mut self) {
        self.stream.close();
        self.remove_interface().await;
        self.engine = None;
        interface::clean_up(&self.net).await;
        tracing::info!("stopped");
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep(at.saturating_since(clock::monotonic())).await,
        None => std::future::pending().await,
    }
}

fn enrolment(token: JoinToken, name: Name) -> Membership {
    Membership::Token { token: Box::new(token), name, fingerprint: fingerprint::machine() }
}

fn stock_peer(peer: &StaticPeer) -> StockPeer {
    let prefix = |p: &Prefix| {
        allowed_ips::Prefix::new(p.address(), p.prefix_len()).expect("checked when it was parsed")
    };
    StockPeer {
        public_key: peer.public_key,
        preshared_key: peer.preshared_key.clone(),
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips.iter().map(prefix).collect(),
        persistent_keepalive: peer.persistent_keepalive,
    }
}

/// Listens on the control socket and hands authorised requests over.
pub(super) fn listen(path: &Path) -> anyhow::Result<mpsc::Receiver<Call>> {
    let server = Server::bind(path)?;
    let (sender, calls) = mpsc::channel(16);
    tokio::spawn(server.serve(sender));
    Ok(calls)
}
