//! From credentials, a token or a static configuration to a running node and its interface.

use std::sync::Arc;

use anyhow::Context;
use skynet_core::constants::IPV6_MIN_MTU;
use skynet_core::key::StaticSecret;
use skynet_core::member::{Credentials, JoinToken, Name};
use skynet_core::node::{Addresses, Floors, Membership, Node, NodeConfig, StockConfig, StockPeer};
use skynet_core::session::{Engine, Tai64n};
use skynet_core::{allowed_ips, crypto};

use super::agent::{Agent, EngineRoom};
use super::data_plane::{Counted, DataPlane};
use super::interface::{self, Interface, Plan};
use super::load::Sampling;
use super::queues::queues;
use super::selfcheck;
use crate::api::AgentState;
use crate::config::Offload;
use crate::config::StaticPeer;
use crate::netcfg::Prefix;
use crate::state::Floor;
use crate::tun::TunWrite;
use crate::{clock, entropy, fingerprint};

/// Connections in a row that a relay may end without a word before that is taken for its answer: it does so when the
/// key it is addressed by is not its own.
const UNANSWERED: u32 = 3;
const FOREIGN: &str = "the relay does not know this token's key: the token is for another network, or the network was made \
                       anew; ask the operator for a new token";

/// What `status` says on a machine whose disk is a copy, as long as there is no token.
pub(super) const FOREIGN_DISK: &str = "the identity on this disk was made on another machine, of which this is a copy; it is not used. The \
                                       cure: skynet-agent up --token skj1.… makes this machine a node of its own; or, if it is the same \
                                       machine after all, bind_identity = false under [boot]";

impl Agent {
    /// Whether the disk has an identity that was made elsewhere.
    pub(super) fn is_copy(&self) -> bool {
        self.kept_credentials().is_some_and(|c| self.is_foreign(&c))
    }

    /// Those on the disk, if they are whole.
    fn kept_credentials(&self) -> Option<Credentials> {
        Credentials::decode(&self.state.load_credentials().ok()??).ok()
    }

    /// Whether this identity was made on another machine. What the cloud calls the machine is not known everywhere, and
    /// counts where it was known then and is now.
    fn is_foreign(&self, credentials: &Credentials) -> bool {
        let was = || self.state.load_instance(&identity_of(credentials));
        let is_other = || was().zip(fingerprint::instance()).is_some_and(|(was, is)| was != is);
        self.config.bind_identity && (!credentials.is_of(&fingerprint::machine()) || is_other())
    }

    /// Keeps what the cloud calls this machine, which a copy of its disk is not.
    fn note_instance(&self) {
        let Some(instance) = fingerprint::instance() else { return };
        let Some(credentials) = self.kept_credentials() else { return };
        let identity = identity_of(&credentials);
        if self.state.load_instance(&identity).is_none()
            && let Err(e) = self.state.save_instance(&identity, &instance)
        {
            tracing::debug!(%e, "a copy of this disk is told from it by other signs alone");
        }
    }

    /// What the files and the configuration say about membership; `None` if there is nothing to run yet.
    pub(super) fn membership(&self) -> anyhow::Result<Option<Membership>> {
        if let Some(blob) = self.state.load_credentials()? {
            let file = self.config.state_dir.join("credentials");
            let credentials = Credentials::decode(&blob).map_err(|e| {
                anyhow::anyhow!("{}: {e}; nothing was changed. The cure: restore the file, or move it away and join again", file.display())
            })?;
            if !self.is_foreign(&credentials) {
                self.warn_of_foreign_token(&credentials);
                return Ok(Some(Membership::Joined(Box::new(credentials))));
            }
            let was = &credentials.bundle().certificate.unverified().name;
            if self.config.token.is_none() {
                tracing::warn!(%was, "{FOREIGN_DISK}");
                return Ok(None);
            }
            tracing::warn!(%was, "this disk is a copy of another machine's: joining as a new node");
        }
        if let Some(token) = &self.config.token {
            let token = JoinToken::parse(&token.resolve()?)?;
            return Ok(Some(self.enrolment(token, self.config.name.clone())));
        }
        Ok(self.config.wireguard.is_some().then_some(Membership::None))
    }

    fn enrolment(&self, token: JoinToken, name: Name) -> Membership {
        let tags = self.config.roles.clone();
        Membership::Token { token: Box::new(token), name, tags, fingerprint: fingerprint::machine() }
    }

    /// A configured token is for the first start only; if it is for another network, somebody is mistaken.
    fn warn_of_foreign_token(&self, credentials: &Credentials) {
        let token = self.config.token.as_ref().and_then(|t| t.resolve().ok());
        let token = token.and_then(|t| JoinToken::parse(&t).ok());
        if let Some(Err(e)) = token.map(|t| t.check_network(&credentials.trust().root_pin())) {
            tracing::warn!("the configured token is not used: {e}");
        }
    }

    pub(super) async fn start_engine(&mut self, membership: Membership) -> anyhow::Result<()> {
        let is_member = !matches!(membership, Membership::None);
        self.is_enrolling = matches!(membership, Membership::Token { .. });
        let Floor { handshake_timestamp, probe_start } = self.state.load_floor()?;
        let mtu = self.config.mtu.on_links_of(self.link_mtu().await, is_member);
        // A device of less has no IPv6.
        self.tun_mtu = mtu.most.max(IPV6_MIN_MTU);
        let config = NodeConfig {
            membership,
            stock: self.stock()?,
            floors: Floors { handshake_timestamp: Tai64n(handshake_timestamp), probe_start },
            last_peers: self.state.load_peers(),
            roster: self.state.load_roster(),
            engine: Engine::Noise,
            suites: self.config.ciphers.suites(),
            max_lanes: self.config.max_lanes,
            chunks: self.config.disabled_offloads.allows(Offload::Chunks),
            min_lanes: self.config.min_lanes,
            mtu,
            known_members: skynet_core::node::directory::MAX_MEMBERS,
            guessing: self.config.guessing,
            relay_for_members: self.config.relaying,
        };
        let mut node = Node::new(config, entropy::seed()?, clock::now()).map_err(anyhow::Error::msg)?;
        if self.config.fail_closed {
            node.fail_closed(clock::now());
        }
        if let Some(lifetime) = self.config.key_lifetime {
            node.set_key_lifetime(lifetime, clock::now());
        }
        let (sink, queues) = queues();
        let counted = Counted { drops: Arc::clone(node.drops()), flows: Arc::clone(node.flows()) };
        let plane = DataPlane::start(
            Arc::clone(&self.socket),
            counted,
            sink,
            self.config.coalescing(),
            self.config.threading,
            self.fault_sender.clone(),
        )
        .context("starting the data plane")?;
        self.reach.forget_told();
        self.engine = Some(EngineRoom { node, plane, queues, sampling: Sampling::default() });
        self.phase = if is_member { AgentState::Joining } else { AgentState::Up };
        self.message = is_member.then(|| "waiting for a relay".to_owned());
        self.tell_addresses().await;
        self.tend_watch();
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

    /// Makes this machine a member by `token`; nothing if it is one already, or is about to be by this very token.
    pub(super) async fn join(&mut self, token: &str, name: Option<String>) -> anyhow::Result<()> {
        let mark = crypto::hash(&[token.trim().as_bytes()]);
        let parsed = JoinToken::parse(token)?;
        let membership = match self.membership()? {
            Some(Membership::Joined(credentials)) => {
                parsed.check_network(&credentials.trust().root_pin()).map_err(|e| {
                    let state = self.config.state_dir.display();
                    anyhow::anyhow!("{e} (skynet-agent down, then move {state} away)")
                })?;
                if self.phase != AgentState::Failed {
                    return Ok(());
                }
                Membership::Joined(credentials)
            }
            _ if self.token_mark == Some(mark) && self.phase == AgentState::Joining => return Ok(()),
            _ => {
                parsed.check_expiry(clock::now().unix)?;
                let name = name.map_or_else(|| Ok(self.config.name.clone()), |n| n.parse::<Name>())?;
                self.enrolment(parsed, name)
            }
        };
        self.search.end();
        self.stream.close();
        self.carrier.close();
        self.remove_interface().await;
        self.engine = None;
        self.token_mark = Some(mark);
        self.start_engine(membership).await
    }

    pub(super) fn on_join_failed(&mut self, reason: String, fatal: bool) {
        let foreign = self.is_enrolling && self.stream.unanswered() >= UNANSWERED;
        if fatal || foreign {
            let reason = if fatal { reason } else { FOREIGN.to_owned() };
            tracing::error!(reason, "the network refused this machine");
            self.phase = AgentState::Failed;
            self.message = Some(reason);
            return;
        }
        // The same again and again is one line.
        if self.message.as_ref() != Some(&reason) {
            tracing::warn!(reason, "not let in");
        }
        self.message = Some(reason);
    }

    pub(super) async fn on_joined(&mut self, addresses: Addresses) {
        let name = addresses.name.clone();
        if let Err(e) = self.make_interface(Some(addresses)).await {
            tracing::error!("{e:#}");
            self.phase = AgentState::Failed;
            self.message = Some(format!("{e:#}"));
            return;
        }
        if self.phase != AgentState::Up {
            tracing::info!(name, "member of the network");
            self.note_instance();
        }
        self.phase = AgentState::Up;
        self.message = None;
        self.is_enrolling = false;
    }

    /// Makes the interface for these addresses, or leaves the one that has them already.
    pub(super) async fn make_interface(&mut self, overlay: Option<Addresses>) -> anyhow::Result<()> {
        let mut addresses: Vec<_> = overlay.iter().flat_map(Addresses::on_link).collect();
        addresses.extend(self.config.wireguard.iter().flat_map(|w| &w.addresses));
        let routes: Vec<Prefix> = self.config.peers.iter().flat_map(|p| p.allowed_ips.clone()).collect();
        let plan = Plan { name: self.config.interface.clone(), mtu: self.tun_mtu, addresses, routes };
        if self.interface.as_ref().is_some_and(|i| i.plan == plan) {
            return Ok(());
        }
        self.remove_interface().await;
        let made = match self.bring_up(plan).await {
            Ok(made) => made,
            Err(e) => {
                interface::clean_up(&self.net).await;
                return Err(e);
            }
        };
        if let Some(engine) = &mut self.engine
            && let Err(e) = engine.plane.attach(made.tun.clone())
        {
            engine.plane.detach();
            interface::clean_up(&self.net).await;
            return Err(e).context("starting the outbound thread");
        }
        self.interface = Some(made);
        if let Some(overlay) = &overlay {
            self.serve_names(overlay);
        }
        self.tell_addresses().await;
        Ok(())
    }

    /// An interface whose offloads, as far as they are used, have passed their check.
    async fn bring_up(&mut self, plan: Plan) -> anyhow::Result<Interface> {
        let offload = self.offload_faults.allow(&self.config.disabled_offloads, Offload::Tun);
        let queues = self.config.max_lanes > 1;
        let mut made = interface::bring_up(&self.net, plan, offload, queues).await?;
        let plan = made.plan.clone();
        let begun = clock::monotonic();
        let verdict = selfcheck::tun::check(&mut made.tun, &plan.addresses, self.config.coalescing());
        tracing::debug!(took = ?clock::monotonic().saturating_since(begun), "interface's offloads checked");
        self.offload_faults.note_tun(verdict);
        if offload && self.offload_faults.has(Offload::Tun) {
            drop(made);
            return interface::bring_up(&self.net, plan, false, queues).await;
        }
        let takes = made.tun.takes();
        made.tun.set_takes(self.offload_faults.limit(takes));
        Ok(made)
    }

    pub(super) async fn remove_interface(&mut self) {
        self.names.stop_serving();
        if let Some(engine) = &mut self.engine {
            engine.plane.detach();
        }
        if self.interface.take().is_some() {
            interface::clean_up(&self.net).await;
        }
    }
}

fn identity_of(credentials: &Credentials) -> [u8; 32] {
    credentials.bundle().certificate.unverified().identity.0
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
