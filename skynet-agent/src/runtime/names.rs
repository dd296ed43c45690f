//! Names of members for programs of this machine, from one place: the roster. In DNS, answered from what is known at the
//! moment of the question; and in a block of the hosts file.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skynet_core::member::Tags;
use skynet_core::node::Addresses;
use skynet_core::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::agent::Agent;
use super::hosts_file::HostsFile;
use crate::api::{DnsReport, NamesReport};
use crate::clock;
use crate::config::{Config, DnsMode};
use crate::dns::{self, Ask, Figures, Found, Server, Zone, resolved};
use crate::netcfg::Prefix;

/// Who comes and goes is watched for so long after a question. A machine that asks for no names costs the relay nothing.
const LEASE: Duration = Duration::from_secs(600);
/// The relay tells who is there within this; until then a question waits.
const FIRST_TOLD: Duration = Duration::from_secs(1);
/// Questions on their way: of 64 by UDP and 32 connections.
const QUESTIONS: usize = 128;

/// Hosts file and resolver.
pub(super) struct Names {
    hosts: HostsFile,
    mode: DnsMode,
    port: u16,
    sender: mpsc::Sender<Ask>,
    asks: mpsc::Receiver<Ask>,
    figures: Arc<Figures>,
    server: Option<Server>,
    prefixes: Vec<Prefix>,
    /// Of this revision of the roster.
    zone: Option<(u64, Zone)>,
    leased_until: Instant,
    patient_until: Instant,
    telling: JoinSet<Result<(), String>>,
    /// How systemd-resolved took it, if it runs.
    resolved: Option<Result<(), String>>,
}

/// What wakes the control task.
pub(super) enum Wanted {
    Answer(Ask),
    /// systemd-resolved was told, or did not listen.
    Told(Result<(), String>),
}

impl Names {
    /// Removes what a killed agent left in the hosts file.
    pub(super) fn new(config: &Config) -> Self {
        let (sender, asks) = mpsc::channel(QUESTIONS);
        Self {
            hosts: HostsFile::new(config.hosts_file.clone(), &config.interface),
            mode: config.dns.mode,
            port: config.dns.port,
            sender,
            asks,
            figures: Arc::default(),
            server: None,
            prefixes: Vec::new(),
            zone: None,
            leased_until: Instant::ZERO,
            patient_until: Instant::ZERO,
            telling: JoinSet::new(),
            resolved: None,
        }
    }

    /// Loses nothing if dropped while waiting.
    pub(super) async fn next(&mut self) -> Wanted {
        tokio::select! {
            Some(ask) = self.asks.recv() => Wanted::Answer(ask),
            Some(told) = self.telling.join_next() => Wanted::Told(told.unwrap_or_else(|e| Err(e.to_string()))),
        }
    }

    /// The interface goes, and with it what systemd-resolved was told of it.
    pub(super) fn stop_serving(&mut self) {
        self.server = None;
        self.zone = None;
        self.resolved = None;
        self.telling.abort_all();
        self.telling = JoinSet::new();
    }

    /// Nobody in the hosts file any more.
    pub(super) fn clear(&mut self) {
        self.hosts.clear();
    }

    /// Whoever was asked for a name wants to know who comes and goes from now on; whether that is new.
    fn renew_lease(&mut self, now: Instant) -> bool {
        if now + LEASE / 2 < self.leased_until {
            return false;
        }
        if now >= self.leased_until {
            self.patient_until = now + FIRST_TOLD;
        }
        self.leased_until = now + LEASE;
        true
    }

    fn report(&self, network: &str) -> Option<NamesReport> {
        let listening = self.server.as_ref().map(Server::listening);
        if listening.is_none() && self.hosts.path().is_none() {
            return None;
        }
        let dns = listening.map(|listening| DnsReport {
            listening: listening.iter().filter(|l| l.1.is_ok()).map(|l| l.0.to_string()).collect(),
            failed: listening.into_iter().filter_map(|l| Some((l.0.to_string(), l.1.err()?))).collect(),
            answered: self.figures.answered(),
            dropped: self.figures.dropped(),
            systemd_resolved: self.resolved.as_ref().map(|told| match told {
                Ok(()) => "asks here".to_owned(),
                Err(why) => why.clone(),
            }),
        });
        let hosts_file = self.hosts.path().map(|path| path.display().to_string());
        Some(NamesReport { domain: dns::domain(network), hosts_file, dns })
    }
}

impl Agent {
    /// The roster may have changed.
    pub(super) fn show_names(&mut self) {
        let Some(network) = self.network_name().filter(|_| self.names.hosts.path().is_some()) else { return };
        let view = self.roster_view();
        if view.members.iter().any(|m| m.own) {
            self.names.hosts.show(&view, &network);
        }
    }

    /// The interface has its addresses: names are told there, if that is wanted.
    pub(super) fn serve_names(&mut self, overlay: &Addresses) {
        let is_resolved = resolved::is_running();
        let serves = match self.names.mode {
            DnsMode::On => true,
            DnsMode::Auto => is_resolved,
            DnsMode::Off => false,
        };
        if !serves {
            return;
        }
        let own = overlay.on_link();
        self.names.prefixes = own.iter().filter_map(|(ip, len)| Prefix::new(*ip, *len)).collect();
        let (sender, figures) = (self.names.sender.clone(), Arc::clone(&self.names.figures));
        let addresses = own.map(|(ip, _)| ip);
        self.names.server = Some(Server::start(&addresses, self.names.port, sender, figures));
        self.refresh_zone();
        let domains = self.names.zone.as_ref().map(|(_, zone)| zone.domains()).filter(|_| is_resolved);
        if let Some(domains) = domains {
            let servers = addresses.map(|ip| SocketAddr::new(ip, self.names.port));
            let settings = resolved::settings(&self.config.interface, &servers, &domains);
            self.names.telling.spawn(resolved::tell(settings));
        }
    }

    /// Does what names need done.
    pub(super) fn tend_names(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Answer(ask) => self.answer_question(ask),
            Wanted::Told(told) => {
                match &told {
                    Ok(()) => tracing::info!("systemd-resolved asks here for names of the overlay"),
                    Err(why) => {
                        tracing::warn!(why, "systemd-resolved does not ask here for names of the overlay")
                    }
                }
                self.names.resolved = Some(told);
            }
        }
    }

    fn answer_question(&mut self, ask: Ask) {
        let now = clock::monotonic();
        self.refresh_zone();
        let answer = match self.names.zone.as_ref().map(|(_, zone)| zone.answer(&ask.question)) {
            None => Some(ask.question.failed()),
            Some((Found::NotOurs, refused)) => Some(refused),
            Some((found, answer)) => {
                if self.names.renew_lease(now) {
                    self.interests.lease(Tags::default(), self.names.leased_until);
                    self.tend_watch();
                }
                let node = self.engine.as_ref().map(|e| &e.node);
                let is_complete = node.is_some_and(|node| node.roster_state().1);
                let may_come =
                    node.is_some_and(skynet_core::node::Node::is_joined) && now < self.names.patient_until;
                match (is_complete, found) {
                    (false, _) if may_come && !ask.last => None,
                    // Nobody said that there is no such member.
                    (false, Found::Nothing) => Some(ask.question.failed()),
                    _ => Some(answer),
                }
            }
        };
        // Whoever asked may have gone.
        let _ = ask.reply.send(answer);
    }

    /// The zone of the roster as it is now.
    fn refresh_zone(&mut self) {
        let Some(engine) = &self.engine else { return self.names.zone = None };
        let (revision, _) = engine.node.roster_state();
        if self.names.zone.as_ref().is_some_and(|(of, _)| *of == revision) {
            return;
        }
        let network = engine.node.network_name();
        let zone = network.and_then(|n| Zone::new(&engine.node.roster(), n, &self.names.prefixes));
        self.names.zone = zone.map(|zone| (revision, zone));
    }

    pub(super) fn names_report(&self) -> Option<NamesReport> {
        self.names.report(&self.network_name()?)
    }

    fn network_name(&self) -> Option<String> {
        self.engine.as_ref().and_then(|e| e.node.network_name()).map(str::to_owned)
    }
}
