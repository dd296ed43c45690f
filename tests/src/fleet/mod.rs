//! The real binaries inside a [`Lab`]: a relay, agents, stock WireGuard devices, and marked traffic between them.
//!
//! State, sockets and logs of everything lie below the lab's own directory, so nothing outlives the lab, except after a
//! panic, when the directory is kept to look at.

mod agent;
mod binaries;
mod relay;
mod secrets;
mod stale;
mod status;
pub mod stock;
pub mod traffic;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use agent::{Agent, Extra, Finished};
pub use binaries::Binaries;
pub use relay::Relay;
pub use stale::{remove_all_stale, remove_labs_on_signals_and_panics};
pub use status::{
    AgentState, Candidate, Documents, PathKind, PeerStatus, PortMapping, Refused, RelayStatus, Status,
};

use crate::lab::Lab;
use crate::{clock, wait};

/// A relay and one agent per host, named as the host.
#[derive(Debug)]
pub struct Fleet {
    agents: BTreeMap<String, Agent>,
    /// Last, so that agents end before their relay.
    relay: Relay,
}

impl Fleet {
    /// Starts a relay on the lab's relay host and an agent on every host; does not wait for them to join.
    ///
    /// # Errors
    /// If a binary is missing or the relay does not print a token.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        Self::start_with(lab, |_| Extra::default())
    }

    /// As [`Fleet::start`], each agent with what is chosen for its host.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_with(lab: &Lab, extra: impl Fn(&str) -> Extra) -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let relay = Relay::start(lab, &binaries)?;
        let mut fleet = Self { agents: BTreeMap::new(), relay };
        for host in lab.hosts() {
            let token = fleet.relay.token();
            let agent = Agent::start_with(lab, host.role(), &binaries, token, &extra(host.role()))?;
            fleet.agents.insert(host.role().to_owned(), agent);
        }
        Ok(fleet)
    }

    /// Of a relay that runs already: starts an agent on each of `hosts` with further arguments and waits until all have
    /// joined.
    ///
    /// # Errors
    /// If a binary is missing, or an agent has not joined within `within`; with the end of its log.
    pub fn joined_to(
        lab: &Lab,
        relay: Relay,
        hosts: &[&str],
        extra: &Extra,
        within: Duration,
    ) -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let mut fleet = Self { agents: BTreeMap::new(), relay };
        for host in hosts {
            let agent = Agent::start_with(lab, host, &binaries, fleet.relay.token(), extra)?;
            fleet.agents.insert((*host).to_owned(), agent);
        }
        fleet.wait_joined(within)?;
        Ok(fleet)
    }

    /// As [`Fleet::start`], and waits until all have joined.
    ///
    /// # Errors
    /// As [`Fleet::start`], or if an agent has not joined within `within`; with the end of its log.
    pub fn joined(lab: &Lab, within: Duration) -> anyhow::Result<Self> {
        let fleet = Self::start(lab)?;
        fleet.wait_joined(within)?;
        Ok(fleet)
    }

    /// Waits until all have joined.
    ///
    /// # Errors
    /// If an agent has not joined within `within`; with the end of its log.
    pub fn wait_joined(&self, within: Duration) -> anyhow::Result<()> {
        let deadline = clock::now() + within;
        let mut agents = self.agents.values();
        agents.try_for_each(|agent| {
            agent.wait_joined(deadline.saturating_duration_since(clock::now())).map(drop)
        })
    }

    /// The agent on a host.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn agent(&self, host: &str) -> &Agent {
        self.agents.get(host).unwrap_or_else(|| panic!("no agent on {host}"))
    }

    /// As [`Fleet::agent`], to stop or restart it.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn agent_mut(&mut self, host: &str) -> &mut Agent {
        self.agents.get_mut(host).unwrap_or_else(|| panic!("no agent on {host}"))
    }

    /// All agents, by host.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// The relay.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The relay, to stop or restart it.
    pub fn relay_mut(&mut self) -> &mut Relay {
        &mut self.relay
    }

    /// All ordered pairs of different hosts.
    pub fn ordered_pairs(&self) -> Vec<(&Agent, &Agent)> {
        let pairs = self.agents().flat_map(|from| self.agents().map(move |to| (from, to)));
        pairs.filter(|(from, to)| from.host() != to.host()).collect()
    }

    /// Sends between two hosts until both say that their path is of this kind; returns how long that took.
    ///
    /// # Errors
    /// If it takes longer than `within`; says what they said last.
    pub fn wait_path(
        &self,
        one: &str,
        other: &str,
        kind: PathKind,
        within: Duration,
    ) -> anyhow::Result<Duration> {
        let start = clock::now();
        let (one, other) = (self.agent(one), self.agent(other));
        // Paths are looked for while there is traffic.
        let (source, target) = (one.overlay_address()?, other.overlay_address()?);
        let mut last_sent: Option<Instant> = None;
        wait::wait_for(within, &format!("{kind:?} between {} and {}", one.host(), other.host()), || {
            if last_sent.is_none_or(|sent| sent.elapsed() > Duration::from_millis(200)) {
                traffic::poke(one.namespace(), target)?;
                traffic::poke(other.namespace(), source)?;
                last_sent = Some(clock::now());
            }
            let there = one.path_to(other)?;
            let back = other.path_to(one)?;
            anyhow::ensure!(there == kind && back == kind, "there {there:?}, back {back:?}");
            Ok(())
        })
        .with_context(|| format!("{}{}", one.log_end(), other.log_end()))?;
        Ok(start.elapsed())
    }

    /// Lets everything run on, for a lab that is kept.
    pub fn leave_running(self) {
        for agent in self.agents.into_values() {
            agent.leave_running();
        }
        self.relay.leave_running();
    }
}
