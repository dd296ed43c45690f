//! A whole installation in one world: relays, clouds, agents that join with one token.

mod operator;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use skynet_core::diagnosis::{Evidence, HostView};
use skynet_core::forwarding::Framing;
use skynet_core::key::Identity;
use skynet_core::member::{Credentials, Tags};
use skynet_core::node::directory::MAX_MEMBERS;
use skynet_core::path::{Guessing, MtuConfig, Path};
use skynet_core::session::{Engine, Suite};
use skynet_core::time::{Duration, Instant, Now};
use skynet_core::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use skynet_relay::server::{ForwardConfig, forward_config};
use skynet_relay::store::MemoryStore;

use crate::home::Home;
use crate::host::{
    AgentConfig, AgentHost, Flow, Host, HostId, MARKER, MemberNetwork, Persisted, Received, RelayHost,
    SharedBatch, Transmit,
};
use crate::invariants::{Invariant, NoSilentTimer, QueuesBounded, Step};
use crate::link::LinkConfig;
use crate::oracle::{self, Direct};
use crate::topology::{CloudId, NatKind, Site, Topology};
use crate::world::{RunError, Stop, World};

/// UDP port of lane 0 of every agent.
pub const AGENT_PORT: u16 = 51_820;

/// One-way delay between the relay and the internet.
const RELAY_LATENCY: Duration = Duration::from_millis(5);

/// One-way delay between a cloud and the internet.
const ACCESS_LATENCY: Duration = Duration::from_millis(20);
/// The relay's IPv6 address.
const RELAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf0, 0, 0, 0, 0, 0x10);

/// A relay and agents around it: see the module.
pub struct Overlay {
    /// The world and what is in it.
    pub topology: Topology,
    network: MemberNetwork,
    relays: Vec<Place>,
    limits: ForwardConfig,
    agents: Vec<HostId>,
    batch: SharedBatch,
    engine: Engine,
    starts: u64,
}

/// Where a relay is, and what of it survives its process.
struct Place {
    host: HostId,
    address: SocketAddr,
    store: Arc<MemoryStore>,
}

/// What an agent offers its peers.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Ciphers for lanes, a bit each.
    pub suites: u32,
    /// Lanes for bulk at most,
    pub max_lanes: u8,
    /// and at once.
    pub min_lanes: u8,
    /// Whether packets may come in chunks.
    pub chunks: bool,
    /// What its links take, and what it may send.
    pub mtu: MtuConfig,
    /// Members it learns in the background.
    pub known_members: usize,
    /// How far it guesses ports.
    pub guessing: Guessing,
    /// The tag of its token, if it has one,
    pub role: Option<&'static str>,
    /// and whether that token's nodes are forgotten when they leave.
    pub ephemeral: bool,
    /// When its session keys are replaced, if sooner than usual.
    pub key_lifetime: Option<Duration>,
}

impl Default for Offer {
    fn default() -> Self {
        let suites = SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM;
        Self {
            suites,
            max_lanes: 4,
            min_lanes: 1,
            chunks: true,
            mtu: MtuConfig::default(),
            known_members: MAX_MEMBERS,
            guessing: Guessing::default(),
            role: None,
            ephemeral: false,
            key_lifetime: None,
        }
    }
}

impl Overlay {
    /// A relay on the internet and nobody else, with real cryptography, watched for queues, timers and packets in
    /// clear.
    pub fn new(seed: u64) -> Self {
        let mut overlay = Self::with_engine(seed, Engine::Noise);
        overlay.watch_for_clear_text();
        overlay
    }

    /// Ends the run at the first datagram that carries an application's packet in clear.
    pub fn watch_for_clear_text(&mut self) {
        self.world_mut().add_invariant(NothingInClear);
    }

    /// The same with this cryptography and no look into packets.
    pub fn with_engine(seed: u64, engine: Engine) -> Self {
        Self::with_relays(seed, engine, &[RELAY_LATENCY])
    }

    /// As many relays as latencies: so far each is from the internet. The first has the registrar, and two addresses
    /// more; the others have one.
    ///
    /// # Panics
    /// Without any.
    pub fn with_relays(seed: u64, engine: Engine, latencies: &[Duration]) -> Self {
        let mut topology = Topology::new(seed);
        let limits = ForwardConfig { max_sessions: 8_192, ..forward_config() };
        // The first relay's first address is that of the host, the second is given to an interface beside.
        let second = topology.next_public_ip();
        let mut addresses = Vec::new();
        let mut hosts = Vec::new();
        for latency in latencies {
            let mut found = None;
            let host = topology.add_public_host(*latency, |site| {
                found = Some((site.ip, site.seed));
                Box::new(Vacant)
            });
            let (ip, seed) = found.expect("the host was just added");
            addresses.push(vec![ip]);
            hosts.push((host, ip, seed));
        }
        addresses[0].extend([second, RELAY_V6.into()]);
        let network = MemberNetwork::new(hosts[0].2, &addresses);
        let mut relays = Vec::new();
        for (relay_no, (host, ip, mut seed)) in (1..).zip(hosts) {
            seed[0] ^= 1;
            let (address, store) = (SocketAddr::new(ip, crate::host::CONTROL_PORT), Arc::default());
            let relay = RelayHost::new(network.clone(), relay_no, address, seed, Arc::clone(&store));
            topology.world.start_host(host, Box::new(relay.with_limits(limits.clone())));
            relays.push(Place { host, address, store });
        }
        let (internet, link) = (topology.internet(), LinkConfig::latency(latencies[0]));
        for ip in [second, RELAY_V6.into()] {
            topology.world.add_interface(relays[0].host, internet, ip, link.clone(), link.clone());
        }
        topology.world.add_invariant(QueuesBounded::default());
        topology.world.add_invariant(NoSilentTimer);
        let (agents, batch) = (Vec::new(), SharedBatch::default());
        Self { topology, network, relays, limits, agents, batch, engine, starts: 0 }
    }

    /// The world.
    pub const fn world(&self) -> &World {
        &self.topology.world
    }

    /// The world, to act on.
    pub const fn world_mut(&mut self) -> &mut World {
        &mut self.topology.world
    }

    /// The first relay's place.
    pub fn relay(&self) -> HostId {
        self.relays[0].host
    }

    /// The place of relay `relay_no`, from 1.
    pub fn relay_host(&self, relay_no: u16) -> HostId {
        self.relays[usize::from(relay_no) - 1].host
    }

    /// All agents in the order they were added.
    pub fn agents(&self) -> &[HostId] {
        &self.agents
    }

    /// The join token as text.
    pub fn token(&self) -> &str {
        self.network.token()
    }

    /// A cloud of this kind, 20 ms from the internet.
    pub fn cloud(&mut self, kind: NatKind) -> CloudId {
        self.topology.add_cloud(kind, ACCESS_LATENCY)
    }

    /// An agent that starts now and joins with the token.
    pub fn add_agent(&mut self, cloud: CloudId) -> HostId {
        self.add_agent_with(cloud, Offer::default())
    }

    /// The same, with so many lanes to every peer from the start.
    pub fn add_agent_with_lanes(&mut self, cloud: CloudId, min_lanes: u8) -> HostId {
        self.add_agent_with(cloud, Offer { min_lanes, ..Offer::default() })
    }

    /// [`Overlay::add_agent`], which offers something else.
    pub fn add_agent_with(&mut self, cloud: CloudId, offer: Offer) -> HostId {
        self.add_multihomed_agent(cloud, offer, Vec::new())
    }

    /// An agent that joins with a token of its own, for nodes with these tags.
    pub fn add_agent_tagged(&mut self, cloud: CloudId, tags: &[&str]) -> HostId {
        let tags = Tags::new(tags.iter().copied()).expect("the caller names tags");
        let token = self.network.token_for(&tags, false);
        self.add_agent_as(cloud, Offer::default(), |config| AgentConfig { token, ..config })
    }

    /// [`Overlay::add_agent_with`], which wishes for this name.
    pub fn add_agent_named(&mut self, cloud: CloudId, offer: Offer, name: &str) -> HostId {
        self.add_agent_as(cloud, offer, |config| AgentConfig { name: name.to_owned(), ..config })
    }

    /// An agent with this name and token.
    pub fn add_agent_with_token(&mut self, cloud: CloudId, token: &str, name: &str) -> HostId {
        let (token, name) = (token.to_owned(), name.to_owned());
        self.add_agent_as(cloud, Offer::default(), |config| AgentConfig { token, name, ..config })
    }

    fn add_agent_as(
        &mut self,
        cloud: CloudId,
        offer: Offer,
        change: impl FnOnce(AgentConfig) -> AgentConfig,
    ) -> HostId {
        let (config, batch) = (self.agent_config(offer), Rc::clone(&self.batch));
        let id =
            self.topology.add_host(cloud, |site| Box::new(AgentHost::new(change(config(site, None)), batch)));
        self.agents.push(id);
        id
    }

    /// The same on a machine that has these addresses of the internet too, by interfaces of their own; its kernel sends
    /// from its cloud's.
    pub fn add_multihomed_agent(&mut self, cloud: CloudId, offer: Offer, others: Vec<IpAddr>) -> HostId {
        let config = self.agent_config(offer);
        let batch = Rc::clone(&self.batch);
        let id = self.topology.add_host(cloud, |site| {
            let config = AgentConfig { others: others.clone(), ..config(site, None) };
            Box::new(AgentHost::new(config, batch))
        });
        for ip in others {
            let (internet, link) = (self.topology.internet(), LinkConfig::latency(Duration::from_millis(20)));
            self.world_mut().add_interface(id, internet, ip, link.clone(), link);
        }
        self.agents.push(id);
        id
    }

    /// An agent behind NATs of its own, with IPv6 if its home has it: 20 ms from the internet.
    pub fn add_agent_at(&mut self, home: &Home, offer: Offer) -> HostId {
        let config = self.agent_config(offer);
        let batch = Rc::clone(&self.batch);
        let mut cloud = None;
        for (depth, kind) in home.nats.iter().rev().enumerate() {
            cloud = Some(match cloud {
                None => self.cloud(*kind),
                Some(outer) => self.topology.add_cloud_in(outer, *kind, Duration::from_millis(depth as u64)),
            });
        }
        let id = match cloud {
            Some(cloud) => self.topology.add_host(cloud, |site| {
                let v6 = home.v6.then(|| Topology::v6_of(site.id));
                Box::new(AgentHost::new(config(site, v6), batch))
            }),
            None => self
                .topology
                .add_v6_host(ACCESS_LATENCY, |site| Box::new(AgentHost::new(config(site, None), batch))),
        };
        if home.v6 && cloud.is_some() {
            self.topology.add_v6(id, ACCESS_LATENCY);
        }
        self.agents.push(id);
        id
    }

    fn agent_config(&self, offer: Offer) -> impl FnOnce(Site, Option<IpAddr>) -> AgentConfig + use<> {
        let Offer {
            suites, max_lanes, min_lanes, chunks, mtu, known_members, guessing, role, ephemeral, ..
        } = offer;
        let token = match (role, ephemeral) {
            (None, false) => self.network.token().to_owned(),
            (role, ephemeral) => {
                self.network.token_for(&Tags::new(role).expect("a role is a tag"), ephemeral)
            }
        };
        let (engine, n, key_lifetime) = (self.engine, self.agents.len(), offer.key_lifetime);
        move |site, v6| AgentConfig {
            token,
            name: format!("n{n}"),
            local: SocketAddr::new(site.ip, AGENT_PORT),
            others: Vec::new(),
            v6,
            seed: site.seed,
            engine,
            suites,
            max_lanes,
            chunks,
            min_lanes,
            mtu,
            known_members,
            guessing,
            fail_closed: false,
            key_lifetime,
            persisted: Persisted::default(),
        }
    }

    /// An agent.
    pub fn agent(&self, id: HostId) -> &AgentHost {
        self.world().host(id)
    }

    /// An agent's overlay address.
    ///
    /// # Panics
    /// If it has not joined.
    pub fn address(&self, id: HostId) -> Ipv4Addr {
        self.agent(id).addresses().expect("asked for after joining").ipv4
    }

    /// Whether every agent has joined.
    pub fn all_joined(&self) -> bool {
        self.agents.iter().all(|a| self.agent(*a).addresses().is_some())
    }

    /// Runs until every agent has joined; whether they did within `limit`.
    ///
    /// # Errors
    /// What ended the run.
    pub fn join_all(&mut self, limit: Duration) -> Result<bool, RunError> {
        let deadline = self.world().now() + limit;
        let mut waiting: VecDeque<HostId> = self.agents.iter().copied().collect();
        self.world_mut().run_until(deadline, |world| {
            while waiting.front().is_some_and(|a| world.host::<AgentHost>(*a).addresses().is_some()) {
                waiting.pop_front();
            }
            waiting.is_empty()
        })
    }

    /// Lets `from` send `count` packets of 200 bytes to `to`, one `every` so often, from now on.
    ///
    /// # Errors
    /// What ended the run.
    pub fn flow(&mut self, from: HostId, to: HostId, every: Duration, count: u64) -> Result<(), RunError> {
        let to = self.address(to);
        self.world_mut().with_host(from, |agent: &mut AgentHost, now| {
            agent.application_mut().start(Flow::new(to, now.mono, every, count, 200));
        })
    }

    /// Somebody on `id` waits for members with this role, for everybody if there is none.
    ///
    /// # Errors
    /// What ended the run.
    ///
    /// # Panics
    /// If the role is no tag.
    pub fn watch(&mut self, id: HostId, role: Option<&str>) -> Result<(), RunError> {
        let tags = Tags::new(role).expect("a role is a tag");
        self.world_mut().with_host(id, |agent: &mut AgentHost, now| agent.watch(Some(tags), now))
    }

    /// Names of the members with this role, or of all, that `id` takes to be there.
    pub fn present(&self, id: HostId, role: Option<&str>) -> Vec<String> {
        let members = self.agent(id).roster().map(|r| r.members).unwrap_or_default();
        let has = |tags: &Tags| role.is_none_or(|role| tags.contains(role));
        members.into_iter().filter(|m| m.online && has(&m.tags)).map(|m| m.name.to_string()).collect()
    }

    /// The process of `id` is told to end, tells its relay, and is gone half a second later.
    ///
    /// # Errors
    /// What ended the run.
    pub fn stop_agent(&mut self, id: HostId) -> Result<(), RunError> {
        self.world_mut().with_host(id, |agent: &mut AgentHost, now| agent.stop(now))?;
        self.world_mut().run_for(Duration::from_millis(500))?;
        self.world_mut().stop_host(id, Stop::Kill);
        Ok(())
    }

    /// What `to` has of `from`'s packets.
    pub fn received(&self, from: HostId, to: HostId) -> Option<&Received> {
        self.agent(to).application().received_from(self.address(from))
    }

    /// The path `from` uses towards `to`.
    pub fn path(&self, from: HostId, to: HostId) -> Option<Path> {
        let address = IpAddr::V4(self.address(to));
        let status = self.agent(from).status()?;
        status.peers.iter().find(|p| p.addresses.contains(&address))?.path
    }

    /// The lanes from `from` to `to` that carry data now, and where.
    pub fn lane_paths(&self, from: HostId, to: HostId) -> Vec<(u8, Option<Path>)> {
        let address = IpAddr::V4(self.address(to));
        let peers = self.agent(from).status().map(|s| s.peers).unwrap_or_default();
        let lanes = peers.into_iter().filter(|p| p.addresses.contains(&address)).flat_map(|p| p.lane_list);
        lanes.filter(|l| l.usable).map(|l| (l.lane.0, l.path)).collect()
    }

    /// The cipher `from` seals bulk to `to` with, and on how many lanes.
    pub fn lanes(&self, from: HostId, to: HostId) -> (Option<Suite>, u8) {
        let address = IpAddr::V4(self.address(to));
        let status = self.agent(from).status();
        let peer = status.iter().flat_map(|s| &s.peers).find(|p| p.addresses.contains(&address));
        peer.map_or((None, 0), |p| (p.cipher, p.lanes))
    }

    /// Whether `from` sends super-packets to `to` in chunks.
    pub fn sends_chunks(&self, from: HostId, to: HostId) -> bool {
        let address = IpAddr::V4(self.address(to));
        let status = self.agent(from).status();
        let peer = status.iter().flat_map(|s| &s.peers).find(|p| p.addresses.contains(&address));
        peer.is_some_and(|p| p.lane_list.iter().any(|l| l.usable && l.framing == Framing::Chunks))
    }

    /// Whether `from` sends trains of datagrams to `to`, and how often it found that they do not arrive.
    pub fn trains(&self, from: HostId, to: HostId) -> Option<(bool, u32)> {
        let address = IpAddr::V4(self.address(to));
        let status = self.agent(from).status()?;
        let peer = status.peers.iter().find(|p| p.addresses.contains(&address))?;
        Some((peer.trains_arrive, peer.train_failures))
    }

    /// What `id`'s shell finds when it looks at the network around.
    ///
    /// # Errors
    /// What ended the run.
    pub fn set_host_view(&mut self, id: HostId, view: HostView) -> Result<(), RunError> {
        self.world_mut().with_host(id, |agent: &mut AgentHost, _| agent.set_host_view(view))
    }

    /// Somebody on `from` asks why `to` is reached as it is; what is known then.
    ///
    /// # Errors
    /// What ended the run.
    pub fn inquire(&mut self, from: HostId, to: HostId) -> Result<Option<Evidence>, RunError> {
        let address = IpAddr::V4(self.address(to));
        let status = self.agent(from).status();
        let peer = status.into_iter().flat_map(|s| s.peers).find(|p| p.addresses.contains(&address));
        let Some(key) = peer.map(|p| p.public_key) else { return Ok(None) };
        self.world_mut().with_host(from, |agent: &mut AgentHost, now| {
            agent.inquire(&key, now);
            agent.evidence(&key, now)
        })
    }

    /// Lets the network card of `id` lose every train of more than one datagram from now on, or no more.
    ///
    /// # Errors
    /// What ended the run.
    pub fn set_eats_trains(&mut self, id: HostId, eats: bool) -> Result<(), RunError> {
        self.world_mut().with_host(id, |agent: &mut AgentHost, _| agent.set_eats_trains(eats))
    }

    /// Whether both ends send directly.
    pub fn is_direct(&self, a: HostId, b: HostId) -> bool {
        [self.path(a, b), self.path(b, a)].iter().all(|p| matches!(p, Some(Path::Direct { .. })))
    }

    /// Whether at least one end sends directly.
    pub fn claims_direct(&self, a: HostId, b: HostId) -> bool {
        [self.path(a, b), self.path(b, a)].iter().any(|p| matches!(p, Some(Path::Direct { .. })))
    }

    /// What the oracle demands of a pair: hosts of one cloud meet on their own network.
    pub fn expected(&self, a: HostId, b: HostId) -> Direct {
        let cloud = |h| self.topology.cloud_of(h);
        if cloud(a).is_some() && cloud(a) == cloud(b) {
            return Direct::Must;
        }
        let behaviour = |h| oracle::Behaviour::from(&self.topology.kind_of(h).config());
        oracle::direct(behaviour(a), behaviour(b))
    }

    /// Who an agent is, once it has joined.
    pub fn identity(&self, id: HostId) -> Option<Identity> {
        let credentials = Credentials::decode(self.agent(id).persisted().credentials.as_ref()?).ok()?;
        Some(credentials.node().identity())
    }

    /// Kills an agent's process and starts it again with what it had persisted.
    pub fn restart_agent(&mut self, id: HostId, how: Stop) {
        self.world_mut().stop_host(id, how);
        let seed = self.next_seed();
        let old = self.agent(id);
        let config = AgentConfig { seed, persisted: old.persisted().clone(), ..old.config().clone() };
        let host = Box::new(old.successor(config));
        self.world_mut().start_host(id, host);
    }

    /// A machine with a copy of `id`'s disk starts in `cloud`, and its firmware says nothing.
    pub fn copy_agent(&mut self, id: HostId, cloud: CloudId) -> HostId {
        let old = self.agent(id);
        let (config, persisted, batch) =
            (old.config().clone(), old.persisted().clone(), Rc::clone(&self.batch));
        let copy = self.topology.add_host(cloud, |site| {
            let local = SocketAddr::new(site.ip, AGENT_PORT);
            Box::new(AgentHost::new(AgentConfig { local, seed: site.seed, persisted, ..config }, batch))
        });
        self.agents.push(copy);
        copy
    }

    /// An agent's machine gets another interface with another address instead of the one it has, and notices.
    ///
    /// # Errors
    /// What ended the run.
    pub fn readdress_agent(&mut self, id: HostId, ip: IpAddr) -> Result<(), RunError> {
        self.world_mut().readdress_host(id, ip);
        self.world_mut().with_host(id, |agent: &mut AgentHost, now| agent.readdress(ip, now))
    }

    /// Randomness of a later start: never that of the first.
    fn next_seed(&mut self) -> [u8; 32] {
        self.starts += 1;
        self.world().host_seed((1 << 32) + usize::try_from(self.starts).expect("few restarts"))
    }

    /// Everything worth reading after a failure, in world time.
    pub fn report(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("at {:?}: {:?}\n", self.elapsed(), self.world().stats());
        let mut line =
            |l: std::fmt::Arguments<'_>| writeln!(text, "{l}").expect("writing to a string succeeds");
        for &agent in &self.agents {
            let host = self.agent(agent);
            line(format_args!("{agent:?} {} {:?}", self.topology.kind_of(agent).name(), host.addresses()));
            for (at, note) in host.notes() {
                line(format_args!("    {:?} {note}", self.world().world_time(agent, *at)));
            }
            for (reason, count) in host.drops().into_iter().filter(|(_, count)| *count > 0) {
                line(format_args!("    dropped {count} {reason}"));
            }
            for peer in host.status().into_iter().flat_map(|s| s.peers).filter(|p| p.path.is_some()) {
                line(format_args!("    peer {} {:?} established {}", peer.name, peer.path, peer.established));
                for h in &peer.history {
                    let when = self.world().world_time(agent, h.when);
                    line(format_args!("        {when:?} {:?} -> {:?}: {:?}", h.from, h.to, h.reason));
                }
            }
        }
        text
    }

    /// Time since the start of the world.
    pub fn elapsed(&self) -> Duration {
        self.world().now().saturating_since(Instant::ZERO)
    }
}

/// In a place until its relay is made: the manifest must name all of them first.
struct Vacant;

impl Host for Vacant {
    fn on_start(&mut self, _: Now) {}
    fn on_datagram(&mut self, _: SocketAddr, _: SocketAddr, _: Vec<u8>, _: Now) {}
    fn on_timer(&mut self, _: Now) {}
    fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// No datagram between hosts carries an application's marker in clear.
struct NothingInClear;

impl Invariant for NothingInClear {
    fn name(&self) -> &'static str {
        "nothing in clear"
    }

    fn check(&mut self, _: &World, step: Step<'_>) -> Result<(), String> {
        let clear = |bytes: &[u8]| bytes.windows(MARKER.len()).any(|w| w == MARKER);
        match step.sent.iter().find(|d| clear(&d.bytes)) {
            Some(d) => Err(format!("{} bytes to {} carry the marker", d.bytes.len(), d.to)),
            None => Ok(()),
        }
    }
}
