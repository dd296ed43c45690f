//! The control task: the only caller of `Node`. It waits, feeds what happened, and does what the core asks for, in
//! the order in which the core asks.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use skynet_core::constants::INNER_MTU;
use skynet_core::diagnosis::NetworkEvidence;
use skynet_core::member::Tags;
use skynet_core::node::{ControlStreamEvent, Node, NodeEvent};
use skynet_core::time::{Instant, Now};
use skynet_core::worker::ToControl;
use tokio::sync::mpsc;

use super::Ended;
use super::carrier::{Carried, Carrier};
use super::data_plane::{DataPlane, Fault};
use super::first_boot::{Search, WAITS};
use super::generation::Generation;
use super::hooks::Hooks;
use super::interface::{self, Interface};
use super::load::Sampling;
use super::membership::FOREIGN_DISK;
use super::names::{self, Names};
use super::networks::Others;
use super::offload_faults::OffloadFaults;
use super::queues::ControlQueues;
use super::reach::{Reach, Reached};
use super::roster::Interests;
use super::stream::ControlStream;
use super::why;
use crate::api::{AgentState, Call};
use crate::config::{BootSettings, Config};
use crate::netcfg::{NetConfig, Netlink, candidates, gateway, watch_changes};
use crate::state::{Floor, StateDir};
use crate::tun::TunDevice;
use crate::udp::UdpSocket;
use crate::{clock, entropy};

/// A deadline in the past this often in a row is a fault of the core: say which, and do not burn a CPU.
const SPIN_LIMIT: u32 = 10_000;
/// For the last words to the relay.
const FAREWELL: Duration = Duration::from_secs(1);

/// The agent. Dropping it stops the threads; [`Agent::finish`] also cleans up what outlives the process.
pub(super) struct Agent {
    pub(super) config: Config,
    pub(super) state: StateDir,
    pub(super) net: Netlink,
    pub(super) socket: Arc<UdpSocket>,
    pub(super) engine: Option<EngineRoom>,
    pub(super) interface: Option<Interface>,
    pub(super) offload_faults: OffloadFaults,
    pub(super) local_addresses: Vec<SocketAddr>,
    /// Of the TUN device.
    pub(super) tun_mtu: u16,
    pub(super) reach: Reach,
    pub(super) stream: ControlStream,
    pub(super) carrier: Carrier,
    pub(super) phase: AgentState,
    /// A token is being used for the first time.
    pub(super) is_enrolling: bool,
    /// Hash of the token that was given over the control socket last.
    pub(super) token_mark: Option<[u8; 32]>,
    pub(super) message: Option<String>,
    faults: mpsc::Receiver<Fault>,
    pub(super) fault_sender: mpsc::Sender<Fault>,
    pub(super) looks: why::Looks,
    pub(super) interests: Interests,
    pub(super) hooks: Hooks,
    pub(super) search: Search,
    pub(super) generation: Generation,
    pub(super) names: Names,
    /// The first network's: the others of this process.
    pub(super) others: Option<Others>,
    spins: u32,
    pub(super) stopping: bool,
}

/// The two machines of the core and the queues between them.
pub(super) struct EngineRoom {
    pub(super) node: Node,
    pub(super) plane: DataPlane,
    pub(super) queues: ControlQueues,
    pub(super) sampling: Sampling,
}

/// What the control task waits for.
enum Happened {
    Stop,
    Fault(Fault),
    Worker(ToControl),
    Control(ControlStreamEvent),
    Carried(Carried),
    Call(Call),
    NetworkChanged,
    Reached(Reached),
    Looked(NetworkEvidence),
    Copied,
    LeaseOver,
    Hooks,
    Found(Vec<BootSettings>),
    Names(names::Wanted),
    Busy,
    Sample,
    Timeout,
}

impl Agent {
    /// Takes the state directory and the UDP port, removes what a killed run left, and starts what can start.
    pub(super) async fn start(config: Config, others: Option<Others>) -> anyhow::Result<Self> {
        let state = StateDir::open(&config.state_dir)?;
        let mut offload_faults = OffloadFaults::default();
        let udp_offloads = offload_faults.check_udp(config.udp_offloads());
        let socket = Arc::new(UdpSocket::bind(config.port, udp_offloads)?);
        // Before a token is used: it is not spent on a machine that cannot have the interface.
        TunDevice::check(&config.interface)?;
        let net = Netlink::open()?;
        interface::clean_up(&net).await;
        let (fault_sender, faults) = mpsc::channel(4);
        let reach = Reach::new(&config, clock::monotonic());
        let (mut interests, hooks) = (Interests::default(), Hooks::new(&config));
        config.hooks.iter().for_each(|hooks| interests.stand(hooks.roles.clone()));
        config.hosts_file.iter().for_each(|_| interests.stand(Tags::default()));
        let names = Names::new(&config);
        let search = Search::new(&config, false);
        let (stream, carrier) = (ControlStream::new(config.tls.clone()), Carrier::new(config.tls.clone()));
        let mut agent = Self {
            config,
            state,
            net,
            socket,
            engine: None,
            interface: None,
            offload_faults,
            local_addresses: Vec::new(),
            tun_mtu: INNER_MTU,
            reach,
            stream,
            carrier,
            phase: AgentState::NotJoined,
            is_enrolling: false,
            token_mark: None,
            message: None,
            faults,
            fault_sender,
            looks: why::Looks::new(),
            interests,
            hooks,
            search,
            generation: Generation::new(),
            names,
            others,
            spins: 0,
            stopping: false,
        };
        match agent.membership()? {
            Some(membership) => agent.start_engine(membership).await?,
            None => agent.search = Search::new(&agent.config, true),
        }
        if agent.engine.is_none() && agent.is_copy() {
            agent.message = Some(FOREIGN_DISK.to_owned());
        } else if agent.search.is_on() {
            tracing::info!("{WAITS}");
            agent.message = Some(WAITS.to_owned());
        }
        Ok(agent)
    }

    /// Runs until `stop` resolves, a client says so, or something breaks.
    pub(super) async fn run(
        &mut self,
        stop: &mut (impl Future<Output = ()> + Unpin),
        calls: &mut mpsc::Receiver<Call>,
    ) -> anyhow::Result<Ended> {
        let mut changes = watch_changes().context("watching the network configuration")?;
        while !self.stopping {
            let happened = self.wait(stop, calls, &mut changes).await;
            // Before anything is made of it with the keys of before.
            if let Some(why) = self.generation.check(matches!(happened, Happened::NetworkChanged)) {
                self.begin_anew(why)?;
            }
            if !matches!(happened, Happened::Timeout) {
                self.spins = 0;
            }
            match happened {
                Happened::Stop => return Ok(Ended::Stopped),
                Happened::Found(settings) => return Ok(Ended::Found(settings)),
                Happened::Fault(fault) => return Err(fault),
                Happened::Worker(message) => self.feed_worker(message),
                Happened::Control(event) => self.feed(|node, now| node.handle_control(event, now)),
                Happened::Carried(carried) => self.carried(carried),
                Happened::Call(call) => self.answer(call).await,
                Happened::NetworkChanged => self.tell_addresses().await,
                Happened::Reached(happened) => self.reach.handle(happened, clock::monotonic()),
                Happened::Looked(seen) => self.looked(&seen),
                Happened::Copied => self.begin_anew("the hypervisor says so")?,
                Happened::LeaseOver => self.tend_watch(),
                Happened::Hooks => self.run_hooks(),
                Happened::Names(wanted) => self.tend_names(wanted),
                Happened::Busy => self.begin_sampling(),
                Happened::Sample => self.sample(),
                Happened::Timeout => self.feed(|node, now| node.handle_timeout(now)),
            }
            self.tend_reach();
            self.drain().await?;
        }
        Ok(Ended::Stopped)
    }

    async fn wait(
        &mut self,
        stop: &mut (impl Future<Output = ()> + Unpin),
        calls: &mut mpsc::Receiver<Call>,
        changes: &mut mpsc::Receiver<()>,
    ) -> Happened {
        let (deadline, sampling) = (self.deadline(), self.sampling_due());
        let lease = self.interests.poll_timeout();
        let busy = self.engine.as_ref().map(|e| Arc::clone(e.plane.busy()));
        let busy = async {
            match &busy {
                Some(bell) => bell.wait().await,
                None => std::future::pending().await,
            }
        };
        let worker = async {
            match &mut self.engine {
                Some(engine) => engine.queues.next().await,
                None => std::future::pending().await,
            }
        };
        // Not biased: whatever never ends, the others get their turns.
        tokio::select! {
            () = stop => Happened::Stop,
            Some(fault) = self.faults.recv() => Happened::Fault(fault),
            Some(message) = worker => Happened::Worker(message),
            event = self.stream.next() => Happened::Control(event),
            carried = self.carrier.next() => Happened::Carried(carried),
            () = sleep_until(deadline) => Happened::Timeout,
            () = sleep_until(sampling) => Happened::Sample,
            () = busy => Happened::Busy,
            Some(call) = calls.recv() => Happened::Call(call),
            Some(()) = changes.recv() => Happened::NetworkChanged,
            happened = self.reach.next() => Happened::Reached(happened),
            Some(seen) = self.looks.next() => Happened::Looked(seen),
            () = sleep_until(lease) => Happened::LeaseOver,
            () = self.hooks.next() => Happened::Hooks,
            () = self.generation.next() => Happened::Copied,
            settings = self.search.next() => Happened::Found(settings),
            wanted = self.names.next() => Happened::Names(wanted),
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

    pub(super) fn feed(&mut self, handle: impl FnOnce(&mut Node, Now)) {
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
    pub(super) async fn drain(&mut self) -> anyhow::Result<()> {
        loop {
            let Some(engine) = &mut self.engine else { return Ok(()) };
            while let Some(transmit) = engine.node.poll_transmit() {
                let Some(socket) = engine.plane.socket(transmit.port) else { continue };
                if let Err(e) = socket.send_one(transmit.to, transmit.from, &transmit.bytes, transmit.ttl) {
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
            NodeEvent::Inbound { port, command } => engine.plane.command(port, command),
            NodeEvent::OpenPort(port) => self.open_port(port),
            NodeEvent::ClosePort(port) => self.close_port(port),
            NodeEvent::SendTrain { port, to, from, bytes, segment } => {
                let sent = engine.plane.socket(port).map(|s| s.send_train(to, from, 0, &bytes, segment));
                if let Some(Err(e)) = sent {
                    tracing::debug!(%to, %e, "train of a check not sent");
                }
            }
            NodeEvent::ConnectControl(relay) => {
                // What the operator configured is another way to the first relay, whose key it must have.
                let first = engine.node.relay_addresses().first() == Some(&relay);
                let is_first = !engine.node.is_further_relay(relay);
                let relay = self.config.relay.filter(|_| first).unwrap_or(relay);
                tracing::debug!(%relay, "connecting to the relay");
                self.stream.connect(relay, is_first);
            }
            NodeEvent::OpenCarrier { address, key, .. } => {
                tracing::info!(relay = %address, "no UDP from the relay: trying TLS");
                let port = self.socket.port().unwrap_or(self.config.port);
                let is_first = !engine.node.is_further_relay(address);
                self.carrier.open((address, is_first), key, port);
            }
            NodeEvent::CloseCarrier => self.carrier.close(),
            NodeEvent::SendControl(bytes) => self.stream.send(bytes),
            NodeEvent::CloseControl => self.stream.close(),
            NodeEvent::Persist(blob) => self.persist(&blob)?,
            NodeEvent::PersistFloors(floors) => {
                let floor = Floor {
                    handshake_timestamp: floors.handshake_timestamp.0,
                    probe_start: floors.probe_start,
                };
                if let Err(e) = self.state.save_floor(floor) {
                    tracing::error!(%e, "not kept; if the clock goes back before the next start, peers refuse us");
                }
            }
            NodeEvent::PersistPeers(peers) => {
                if let Err(e) = self.state.save_peers(&peers) {
                    tracing::debug!(%e, "not kept; after a restart peers notice by themselves");
                }
            }
            NodeEvent::PersistRoster(roster) => {
                if let Err(e) = self.state.save_roster(&roster) {
                    tracing::debug!(%e, "not kept; a start without any relay will know nobody");
                }
            }
            NodeEvent::Joined(addresses) => self.on_joined(addresses).await,
            NodeEvent::RosterChanged => {
                self.show_names();
                self.run_hooks();
            }
            NodeEvent::JoinFailed { reason, fatal } => self.on_join_failed(reason, fatal),
            NodeEvent::Alarm(reason) => tracing::warn!(reason, "refused"),
            NodeEvent::LookAround => self.look_around(),
            NodeEvent::PathChanged { peer, path } => tracing::info!(peer, path, "path changed"),
        }
        Ok(())
    }

    fn carried(&mut self, carried: Carried) {
        match carried {
            Carried::Opened(address, way) => {
                tracing::info!(?way, "stream of frames to the relay is open");
                self.carrier.trouble = None;
                self.feed(|node, now| node.carrier_opened(address, way, now));
            }
            Carried::Closed(why) => {
                tracing::info!(why, "no stream of frames to the relay");
                self.carrier.trouble = Some(why);
                self.feed(|node, now| node.carrier_closed(now));
            }
        }
    }

    /// A full disk must not end a working overlay: what was kept before still lets this node come back. Only a first
    /// join that cannot be kept is none.
    fn persist(&self, credentials: &[u8]) -> anyhow::Result<()> {
        match self.state.save_credentials(credentials) {
            Err(e) if self.state.load_credentials().is_ok_and(|kept| kept.is_some()) => {
                tracing::error!(%e, "newer documents not kept; the ones kept before are used at the next start");
                Ok(())
            }
            saved => Ok(saved?),
        }
    }

    /// The largest IP packet this machine's links take.
    pub(super) async fn link_mtu(&self) -> u16 {
        let snapshot = self.net.snapshot().await.unwrap_or_default();
        candidates::largest_packet(&snapshot, self.interface.as_ref().map(|i| i.index))
    }

    /// Tells the core which addresses a peer may try, and how large packets may be.
    pub(super) async fn tell_addresses(&mut self) {
        let own = self.interface.as_ref().map(|i| i.index);
        let (snapshot, port) = match (self.net.snapshot().await, self.socket.port()) {
            (Ok(snapshot), Ok(port)) => (snapshot, port),
            (Err(e), _) => return tracing::warn!(%e, "host candidates stay as they are"),
            (_, Err(e)) => return tracing::warn!(%e, "host candidates stay as they are"),
        };
        let addresses = candidates::host_candidates(&snapshot, own, port, self.socket.is_dual_stack());
        let link = candidates::largest_packet(&snapshot, own);
        let gateway = gateway::default_gateway(&snapshot, own);
        self.reach.set_network(gateway, &addresses, port, clock::monotonic());
        self.feed(|node, now| {
            node.set_link_mtu(link, now);
            node.set_local_addresses(&addresses, now);
        });
        self.local_addresses = addresses;
    }

    /// Tells the core what changed of how port 0 is reached besides.
    fn tend_reach(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let now = clock::now();
        if let Some(candidates) = self.reach.tend(engine.node.observed(), now.mono) {
            engine.node.set_told_candidates(&candidates, now);
        }
    }

    /// This machine may be a copy of another from now on, which has the same keys and counters.
    fn begin_anew(&mut self, why: &str) -> anyhow::Result<()> {
        tracing::warn!(why, "this machine was resumed or copied: all sessions begin anew");
        let seed = entropy::seed()?;
        self.feed(|node, now| node.reset_sessions(seed, now));
        Ok(())
    }

    /// Tells the relay that this process ends, if it can be told at once: then nobody waits for this node to come back.
    async fn take_leave(&mut self) {
        let now = clock::now();
        let Some(is_answered) = self.engine.as_mut().map(|e| e.node.stop(now)) else { return };
        let told = async {
            self.drain().await?;
            while is_answered && self.engine.as_ref().is_some_and(|e| e.node.is_joined()) {
                let event = self.stream.next().await;
                self.feed(|node, now| node.handle_control(event, now));
                self.drain().await?;
            }
            self.stream.finish().await;
            anyhow::Ok(())
        };
        match tokio::time::timeout(FAREWELL, told).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!("{e:#}"),
            Err(_) => tracing::debug!("the relay was not told that this node stops"),
        }
    }

    /// Stops the threads and removes interface and routes.
    pub(super) async fn finish(mut self) {
        self.names.clear();
        self.take_leave().await;
        self.stream.close();
        self.carrier.close();
        self.remove_interface().await;
        self.engine = None;
        self.reach.finish().await;
        interface::clean_up(&self.net).await;
        tracing::info!("stopped");
    }
}

/// Due at the first poll if `deadline` has come: tokio's own sleep takes a millisecond at least, and while messages
/// keep coming no wait lasts that long.
pub(super) async fn sleep_until(deadline: Option<Instant>) {
    let Some(at) = deadline else { return std::future::pending().await };
    let left = at.saturating_since(clock::monotonic());
    if !left.is_zero() {
        tokio::time::sleep(left).await;
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
