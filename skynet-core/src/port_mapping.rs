//! A port mapping on the gateway (PCP, RFC 6887; NAT-PMP, RFC 6886; UPnP IGD): when to ask for one, how long to believe
//! it, when to give it back. How to ask is the shell's.
//!
//! ```text
//!  off ── NAT seen ─▶ asking ── granted ─▶ mapped ── half life, or seen elsewhere ─▶ renewing ── granted ─▶ mapped
//!   ▲                  ▲   │ refused, silent, double NAT                                │ not: again at 3/4, 7/8 …
//!   │   1, 2, 4 … 64 min   ▼                                                            ▼ of the lifetime, then gone
//!   │                  └─ waiting ◀─────────────────────────────────────────────────────┘
//!   └── no NAT, no gateway, stop: the mapping is given back
//! ```
//! Only port 0 is mapped: the further ports are punched by CALLs that travel on port 0's path, and gateways have quotas.
//! What a gateway grants is hostile input: an external address nobody may probe is no grant, and one that means nothing
//! beyond this site (a second NAT stands behind the gateway) is reported and told to nobody.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use crate::path::{is_beyond_site, is_probe_target};
use crate::time::{Duration, Instant};

/// Asked for; what RFC 6886 §3.3 recommends. A gateway may grant less.
pub const LIFETIME: Duration = Duration::from_secs(7_200);
/// A mapping shorter than this would be renewed all the time: no grant.
const LEAST_LIFETIME: Duration = Duration::from_secs(60);
/// A longer one is believed no longer, so that a gateway that has forgotten it is found out.
const MOST_LIFETIME: Duration = LIFETIME;
/// Renewals after the first get closer as the end does, but not closer than this (RFC 6887 §11.2.1: 4 s at least).
const LEAST_RENEWAL: Duration = Duration::from_secs(15);
/// After a gateway granted nothing; doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_secs(60);
/// Doublings at most: an hour, for gateways whose owner switches the protocol on.
const MOST_DOUBLINGS: u32 = 6;
/// Never two questions closer than this, however the network flaps.
const GAP: Duration = Duration::from_secs(10);
/// The shell answers sooner; a question without an answer is one that was refused.
const ANSWER_BY: Duration = Duration::from_secs(15);

/// How a gateway is asked, the best first: the newer protocol says more, and UPnP is XML.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MappingProtocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    UpnpIgd,
}

impl MappingProtocol {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::UpnpIgd => "UPnP IGD",
        }
    }
}

/// The router of the IPv4 default route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Where it is asked.
    pub address: IpAddr,
    /// Our address towards it.
    pub own: IpAddr,
}

/// What is known of the network around this host.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The gateway, if there is one.
    pub gateway: Option<Gateway>,
    /// Our UDP port 0.
    pub port: u16,
    /// How a relay sees that port, while one does.
    pub observed: Option<SocketAddr>,
    /// The addresses of this host's interfaces.
    pub local: &'a [IpAddr],
    /// A cloud translates our public address one to one: there is nothing to map.
    pub one_to_one: bool,
}

/// What a gateway says it has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// By which protocol.
    pub protocol: MappingProtocol,
    /// Where the port can be reached, it says.
    pub external: SocketAddr,
    /// For how long.
    pub lifetime: Duration,
}

/// Why there is no mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoMapping {
    /// The gateway speaks none of the protocols.
    Silent,
    /// It speaks one and refused.
    Refused,
    /// It answered what cannot be.
    Implausible,
    /// It granted an address that is itself behind a NAT.
    DoubleNat(IpAddr),
}

/// Where it stands, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingState {
    /// Switched off.
    Disabled,
    /// No NAT is seen, or no gateway.
    NotNeeded,
    /// The gateway is being asked.
    Asking,
    /// There is none; asked again then.
    None(NoMapping, Instant),
    /// There is one.
    Mapped(Grant),
}

/// What the shell is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingAction {
    /// Ask for a mapping and tell [`PortMapping::handle_answer`]. What is granted is kept under the number `ask`.
    Ask {
        /// Number of the question.
        ask: u64,
        /// Whom.
        gateway: Gateway,
        /// Which UDP port of ours.
        port: u16,
        /// For how long.
        lifetime: Duration,
        /// The mapping this continues; if it is granted, that number is forgotten.
        renews: Option<u64>,
    },
    /// Give back what was granted to question `lease`; nobody waits for it.
    Release {
        /// Number of that question.
        lease: u64,
    },
}

#[derive(Debug)]
enum Phase {
    Off,
    Waiting { until: Instant, why: Option<NoMapping> },
    Asking(Question),
    Mapped(Lease),
}

#[derive(Clone, Copy, Debug)]
struct Question {
    ask: u64,
    deadline: Instant,
}

#[derive(Debug)]
struct Lease {
    id: u64,
    grant: Grant,
    expires: Instant,
    renew_at: Instant,
    renewing: Option<Question>,
}

/// The machine. *Getters* [`external`](Self::external), [`state`](Self::state); *handlers* `handle_*`; *command*
/// [`stop`](Self::stop); *polls*: after any of these drain `poll_action`, then read `poll_timeout`.
#[derive(Debug)]
pub struct PortMapping {
    enabled: bool,
    phase: Phase,
    /// For whom: what must not change while a mapping lives.
    asks_for: Option<(Gateway, u16)>,
    /// As last known: a relay that is gone for a while says nothing of the NAT.
    behind_nat: Option<bool>,
    observed: Option<SocketAddr>,
    failures: u32,
    next_ask: u64,
    not_before: Instant,
    actions: VecDeque<MappingAction>,
}

impl PortMapping {
    /// A machine that knows nothing of the network yet; one that is not `enabled` never asks.
    pub fn new(enabled: bool, now: Instant) -> Self {
        Self {
            enabled,
            phase: Phase::Off,
            asks_for: None,
            behind_nat: None,
            observed: None,
            failures: 0,
            next_ask: 1,
            not_before: now,
            actions: VecDeque::new(),
        }
    }

    /// Where peers may reach port 0 by the mapping.
    pub fn external(&self) -> Option<SocketAddr> {
        match &self.phase {
            Phase::Mapped(lease) => Some(lease.grant.external),
            _ => None,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> MappingState {
        match &self.phase {
            _ if !self.enabled => MappingState::Disabled,
            Phase::Off => MappingState::NotNeeded,
            Phase::Waiting { until, why: Some(why) } => MappingState::None(*why, *until),
            Phase::Waiting { .. } | Phase::Asking(_) => MappingState::Asking,
            Phase::Mapped(lease) => MappingState::Mapped(lease.grant),
        }
    }

    /// The network around us, as it is now; cheap if nothing has changed.
    pub fn handle_surroundings(&mut self, around: &Surroundings<'_>, now: Instant) {
        let asks_for = around.gateway.map(|g| (g, around.port));
        if asks_for != self.asks_for {
            self.behind_nat = None;
        }
        self.behind_nat = sees_nat(around).or(self.behind_nat);
        let wanted = self.enabled && asks_for.is_some() && self.behind_nat == Some(true);
        let seen_elsewhere = around.observed.is_some_and(|o| self.observed.is_some_and(|before| before != o));
        self.observed = around.observed.or(self.observed);
        let changed = asks_for != self.asks_for || wanted == matches!(self.phase, Phase::Off);
        self.asks_for = asks_for;
        if changed {
            self.give_back();
            self.failures = 0;
            self.phase = match wanted {
                true => Phase::Waiting { until: now, why: None },
                false => Phase::Off,
            };
        } else if seen_elsewhere {
            // The NAT has another address, or has forgotten what it knew, and with it perhaps the mapping.
            match &mut self.phase {
                Phase::Mapped(lease) if lease.renewing.is_none() => lease.renew_at = now,
                Phase::Waiting { until, .. } => *until = now,
                _ => {}
            }
        }
        self.handle_timeout(now);
    }

    /// The shell has done [`MappingAction::Ask`].
    pub fn handle_answer(&mut self, ask: u64, answer: Result<Grant, NoMapping>, now: Instant) {
        let renewal = match &self.phase {
            Phase::Asking(question) if question.ask == ask => false,
            Phase::Mapped(lease) if lease.renewing.is_some_and(|q| q.ask == ask) => true,
            // The network has changed meanwhile.
            _ => {
                if answer.is_ok() {
                    self.actions.push_back(MappingAction::Release { lease: ask });
                }
                return;
            }
        };
        match answer {
            Ok(grant) => self.granted(ask, grant, now),
            Err(_) if renewal => self.renewal_failed(now),
            Err(why) => self.wait(why, now),
        }
        self.handle_timeout(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Waiting { until, .. } if *until <= now && self.not_before <= now => {
                if let Some(question) = self.ask(None, now) {
                    self.phase = Phase::Asking(question);
                }
            }
            Phase::Asking(question) if question.deadline <= now => self.wait(NoMapping::Silent, now),
            Phase::Mapped(lease) if lease.expires <= now => {
                // Ours has run out; whether the gateway's has, it knows better.
                self.give_back();
                self.failures = 0;
                self.phase = Phase::Waiting { until: now, why: None };
                self.handle_timeout(now);
            }
            Phase::Mapped(Lease { renewing: Some(question), .. }) if question.deadline <= now => {
                self.renewal_failed(now);
            }
            Phase::Mapped(lease)
                if lease.renewing.is_none() && lease.renew_at <= now && self.not_before <= now =>
            {
                let id = lease.id;
                let question = self.ask(Some(id), now);
                if let Phase::Mapped(lease) = &mut self.phase {
                    lease.renewing = question;
                }
            }
            _ => {}
        }
    }

    /// A clean stop: gives back what there is and asks for nothing more.
    pub fn stop(&mut self) {
        self.enabled = false;
        self.give_back();
        self.phase = Phase::Off;
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<MappingAction> {
        self.actions.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` while there is nothing to wait for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Off => None,
            Phase::Waiting { until, .. } => Some((*until).max(self.not_before)),
            Phase::Asking(question) => Some(question.deadline),
            Phase::Mapped(lease) => {
                let next = lease.renewing.map_or(lease.renew_at.max(self.not_before), |q| q.deadline);
                Some(next.min(lease.expires))
            }
        }
    }

    fn ask(&mut self, renews: Option<u64>, now: Instant) -> Option<Question> {
        let (gateway, port) = self.asks_for?;
        let ask = self.next_ask;
        self.next_ask += 1;
        self.not_before = now + GAP;
        self.actions.push_back(MappingAction::Ask { ask, gateway, port, lifetime: LIFETIME, renews });
        Some(Question { ask, deadline: now + ANSWER_BY })
    }

    fn granted(&mut self, ask: u64, grant: Grant, now: Instant) {
        if let Err(why) = check(grant) {
            self.release(ask);
            return self.wait(why, now);
        }
        self.failures = 0;
        let lifetime = grant.lifetime.min(MOST_LIFETIME);
        let (expires, renew_at) = (now + lifetime, now + lifetime / 2);
        self.phase = Phase::Mapped(Lease { id: ask, grant, expires, renew_at, renewing: None });
    }

    fn wait(&mut self, why: NoMapping, now: Instant) {
        let backoff = FIRST_BACKOFF * 2u32.pow(self.failures.min(MOST_DOUBLINGS));
        self.failures += 1;
        self.phase = Phase::Waiting { until: now + backoff, why: Some(why) };
    }

    /// Again when half of what is left has passed.
    fn renewal_failed(&mut self, now: Instant) {
        if let Phase::Mapped(lease) = &mut self.phase {
            lease.renewing = None;
            lease.renew_at = now + (lease.expires.saturating_since(now) / 2).max(LEAST_RENEWAL);
        }
    }

    fn release(&mut self, lease: u64) {
        self.actions.push_back(MappingAction::Release { lease });
    }

    fn give_back(&mut self) {
        // A question on its way is answered to nobody, and what it brings is given back then.
        if let Phase::Mapped(lease) = &self.phase {
            let id = lease.id;
            self.release(id);
        }
    }
}

/// Whether a NAT translates our IPv4 packets; `None` if nobody says.
fn sees_nat(around: &Surroundings<'_>) -> Option<bool> {
    if around.one_to_one {
        return Some(false);
    }
    match around.observed?.ip().to_canonical() {
        seen @ IpAddr::V4(_) => Some(!around.local.contains(&seen)),
        // The relay is reached by IPv6: whoever has no public IPv4 address is behind a NAT all the same.
        IpAddr::V6(_) => Some(around.gateway.is_some_and(|g| !is_beyond_site(g.own))),
    }
}

/// The rules that a grant must keep.
fn check(grant: Grant) -> Result<(), NoMapping> {
    let ip = grant.external.ip();
    if !is_probe_target(&grant.external, &[]) || grant.lifetime < LEAST_LIFETIME {
        return Err(NoMapping::Implausible);
    }
    if !is_beyond_site(ip) {
        return Err(NoMapping::DoubleNat(ip));
    }
    Ok(())
}

#[cfg(test)]
#[path = "port_mapping_tests.rs"]
mod tests;
