//! Where port 0 can be reached besides the machine's own addresses and the one the relay sees: what the operator says, what
//! a cloud translates, what the gateway maps. The core decides; here it is fed, and its questions are put.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skynet_core::path::{Candidate, CandidateKind, is_one_to_one};
use skynet_core::port_mapping::{Gateway, Grant, MappingState, NoMapping, PortMapping, Surroundings};
use skynet_core::time::{Instant, earliest};
use tokio::task::JoinSet;

use super::agent::sleep_until;
use crate::api::{CandidateReport, PortMappingReport};
use crate::cloud::{self, PublicAddress};
use crate::config::Config;
use crate::port_mapping::{Answer, GatewayClient, MappingClient, Mappings};

/// A metadata service is asked again when the network has changed, but not more often: it limits its callers.
const CLOUD_GAP: Duration = Duration::from_secs(30);

/// What happened here.
pub(super) enum Reached {
    Mapping(Answer<<GatewayClient as MappingClient>::Lease>),
    Cloud(Option<PublicAddress>),
    Due,
}

/// All ways to port 0 that neither interfaces nor the relay tell.
pub(super) struct Reach {
    advertise: Vec<SocketAddr>,
    mapping: PortMapping,
    mappings: Mappings<GatewayClient>,
    cloud: CloudAddress,
    around: Around,
    /// What the core was told last.
    told: Vec<Candidate>,
}

/// The network as it is now.
#[derive(Default)]
struct Around {
    gateway: Option<Gateway>,
    local: Vec<IpAddr>,
    port: u16,
    observed: Option<SocketAddr>,
}

/// The metadata service's word.
struct CloudAddress {
    enabled: bool,
    task: JoinSet<Option<PublicAddress>>,
    found: Option<PublicAddress>,
    /// It has spoken, or nobody has in its place: until then no gateway is asked, for there may be nothing to map.
    settled: bool,
    /// To be asked then.
    due: Option<Instant>,
    asked: Option<Instant>,
    /// Said in the log once.
    disbelieved: Option<IpAddr>,
}

impl Reach {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            advertise: config.advertise.clone(),
            mapping: PortMapping::new(config.port_mapping, now),
            mappings: Mappings::new(GatewayClient),
            cloud: CloudAddress {
                enabled: config.cloud_metadata,
                task: JoinSet::new(),
                found: None,
                settled: !config.cloud_metadata,
                due: config.cloud_metadata.then_some(now),
                asked: None,
                disbelieved: None,
            },
            around: Around::default(),
            told: Vec::new(),
        }
    }

    /// Waits for an answer or a timer.
    pub(super) async fn next(&mut self) -> Reached {
        let cloud_due = self.cloud.due.filter(|_| self.cloud.task.is_empty());
        let due = earliest(self.mapping.poll_timeout(), cloud_due);
        let cloud = async {
            match self.cloud.task.join_next().await {
                // A task that panicked has found nothing.
                Some(found) => found.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = self.mappings.next() => Reached::Mapping(answer),
            found = cloud => Reached::Cloud(found),
            () = sleep_until(due) => Reached::Due,
        }
    }

    pub(super) fn handle(&mut self, happened: Reached, now: Instant) {
        match happened {
            Reached::Mapping(answer) => {
                let (ask, granted) = self.mappings.keep(answer);
                let before = self.mapping.state();
                self.mapping.handle_answer(ask, granted, now);
                say(before, self.mapping.state());
            }
            Reached::Cloud(found) => {
                if found != self.cloud.found
                    && let Some(PublicAddress { cloud, ip }) = found
                {
                    tracing::debug!(cloud = cloud.name(), %ip, "public address by the metadata service");
                }
                // A service that is silent this time takes nothing back: what the relay sees does.
                self.cloud.found = found.or(self.cloud.found);
                self.cloud.settled = true;
            }
            Reached::Due => {
                self.mapping.handle_timeout(now);
                self.cloud.ask_if_due(now);
            }
        }
    }

    /// There is another core, which knows nothing yet.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
    }

    /// Interfaces or routes have changed.
    pub(super) fn set_network(
        &mut self,
        gateway: Option<Gateway>,
        local: &[SocketAddr],
        port: u16,
        now: Instant,
    ) {
        let local: Vec<IpAddr> = local.iter().map(SocketAddr::ip).collect();
        if (gateway, &local) != (self.around.gateway, &self.around.local) {
            self.cloud.ask_soon(now);
        }
        self.around = Around { gateway, local, port, observed: self.around.observed };
    }

    /// How the relay sees port 0 now. Does what follows of everything there is; what the core is to be told, if that has
    /// changed.
    pub(super) fn tend(&mut self, observed: Option<SocketAddr>, now: Instant) -> Option<Vec<Candidate>> {
        if observed.is_some() && observed.map(|o| o.ip()) != self.around.observed.map(|o| o.ip()) {
            self.cloud.ask_soon(now);
        }
        self.around.observed = observed.or(self.around.observed);
        let one_to_one = self.one_to_one();
        let Around { gateway, local, port, observed } = &self.around;
        let around = Surroundings {
            gateway: *gateway,
            port: *port,
            observed: observed.filter(|_| self.cloud.settled),
            local,
            one_to_one: one_to_one.is_some(),
        };
        self.mapping.handle_surroundings(&around, now);
        while let Some(action) = self.mapping.poll_action() {
            tracing::debug!(?action, "port mapping");
            self.mappings.act(action);
        }
        let candidates = self.candidates(one_to_one);
        let changed = candidates != self.told;
        self.told.clone_from(&candidates);
        changed.then_some(candidates)
    }

    /// The public address that a cloud translates, if what else is known agrees.
    fn one_to_one(&mut self) -> Option<IpAddr> {
        let PublicAddress { cloud, ip } = self.cloud.found?;
        if is_one_to_one(ip, self.around.observed, &self.around.local) {
            return Some(ip);
        }
        if self.around.observed.is_some() && self.cloud.disbelieved.replace(ip) != Some(ip) {
            let observed = self.around.observed;
            tracing::info!(
                cloud = cloud.name(), %ip, ?observed,
                "the metadata service tells a public address that is not ours: not told to peers"
            );
        }
        None
    }

    fn candidates(&self, one_to_one: Option<IpAddr>) -> Vec<Candidate> {
        let given = self.advertise.iter().map(|a| Candidate::new(CandidateKind::Configured, *a));
        let cloud = one_to_one.map(|ip| Candidate::cloud(SocketAddr::new(ip, self.around.port)));
        let mapped = self.mapping.external().map(|a| Candidate::new(CandidateKind::PortMapping, a));
        given.chain(cloud).chain(mapped).collect()
    }

    /// In words of `status/1`: each candidate with where it is from.
    pub(super) fn report(&self, candidates: &[Candidate]) -> Vec<CandidateReport> {
        let reported = |c: &Candidate| CandidateReport {
            address: c.addr.to_string(),
            kind: self.kind(c).to_owned(),
            source: self.source(c),
        };
        candidates.iter().map(reported).collect()
    }

    fn kind(&self, candidate: &Candidate) -> &'static str {
        match candidate.kind {
            CandidateKind::Host => "host",
            CandidateKind::GlobalV6 => "global_ipv6",
            CandidateKind::ServerReflexive => "server_reflexive",
            CandidateKind::PeerReflexive => "peer_reflexive",
            CandidateKind::PortMapping => "port_mapping",
            CandidateKind::Configured if self.advertise.contains(&candidate.addr) => "configured",
            CandidateKind::Configured => "cloud",
        }
    }

    fn source(&self, candidate: &Candidate) -> String {
        match candidate.kind {
            CandidateKind::Host | CandidateKind::GlobalV6 => "interface".to_owned(),
            CandidateKind::ServerReflexive | CandidateKind::PeerReflexive => "relay".to_owned(),
            CandidateKind::PortMapping => match (self.mapping.state(), self.around.gateway) {
                (MappingState::Mapped(grant), Some(gateway)) => {
                    format!("{} at {}", grant.protocol.name(), gateway.address)
                }
                _ => "gateway".to_owned(),
            },
            CandidateKind::Configured if self.advertise.contains(&candidate.addr) => {
                "configuration".to_owned()
            }
            CandidateKind::Configured => {
                let cloud = self.cloud.found.map_or("cloud", |f| f.cloud.name());
                format!("{cloud} metadata")
            }
        }
    }

    /// How the port mapping stands, in words of `status/1`.
    pub(super) fn mapping_report(&self, now: Instant) -> PortMappingReport {
        let mut report = PortMappingReport {
            state: String::new(),
            gateway: self.around.gateway.map(|g| g.address.to_string()),
            protocol: None,
            external: None,
            retry_s: None,
        };
        report.state = match self.mapping.state() {
            MappingState::Disabled => "off",
            MappingState::NotNeeded => "not_needed",
            MappingState::Asking => "asking",
            MappingState::None(why, until) => {
                report.retry_s = Some(until.saturating_since(now).as_secs());
                match why {
                    NoMapping::Silent => "no_answer",
                    NoMapping::Refused => "refused",
                    NoMapping::Implausible => "implausible",
                    NoMapping::DoubleNat(ip) => {
                        report.external = Some(ip.to_string());
                        "double_nat"
                    }
                }
            }
            MappingState::Mapped(Grant { protocol, external, .. }) => {
                report.protocol = Some(protocol.name().to_owned());
                report.external = Some(external.to_string());
                "mapped"
            }
        }
        .to_owned();
        report
    }

    /// A clean stop: gives mappings back, a second at most.
    pub(super) async fn finish(mut self) {
        self.mapping.stop();
        while let Some(action) = self.mapping.poll_action() {
            self.mappings.act(action);
        }
        self.mappings.finish().await;
    }
}

impl CloudAddress {
    /// At once, or when the last question is long enough ago.
    fn ask_soon(&mut self, now: Instant) {
        if self.enabled {
            let at = self.asked.map_or(now, |asked| now.max(asked + CLOUD_GAP));
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    fn ask_if_due(&mut self, now: Instant) {
        if self.task.is_empty() && self.due.take_if(|due| *due <= now).is_some() {
            self.asked = Some(now);
            self.task.spawn(cloud::public_address(cloud::METADATA));
        }
    }
}

/// What a person wants to know of a change.
fn say(before: MappingState, after: MappingState) {
    match after {
        MappingState::Mapped(grant) if before != after => {
            let (external, lifetime) = (grant.external, grant.lifetime);
            tracing::info!(protocol = grant.protocol.name(), %external, ?lifetime, "the gateway maps our port");
        }
        MappingState::None(NoMapping::DoubleNat(ip), _) => {
            tracing::info!(
                external = %ip,
                "double NAT: the gateway's own address is private; its port mapping reaches nobody beyond this site"
            );
        }
        MappingState::None(why, _) => tracing::debug!(?why, "no port mapping"),
        _ => {}
    }
}
