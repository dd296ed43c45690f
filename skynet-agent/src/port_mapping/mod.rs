//! Port mappings on the gateway: asks as the core says, and keeps what gateways granted until it is given back.
//!
//! ```text
//!  core's PortMapping ── Ask, Release ─▶ Mappings ── a task each ─▶ MappingClient ── UDP 5351, SSDP, HTTP ─▶ gateway
//!                     ◀─ handle_answer ─          ◀─ Answer ──────
//! ```
//! Only the gateway of the default route is asked, and only by the control task's runtime: the data plane waits for none
//! of it, nor does the start. [`survey`] finds out what a gateway speaks without changing anything there.

mod client;
mod survey;
mod upnp;

use std::collections::BTreeMap;
use std::time::Duration;

use skynet_core::port_mapping::{Gateway, Grant, MappingAction, NoMapping};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use client::GatewayClient;
pub use survey::{Survey, Surveyed, survey};

/// A clean stop waits no longer for a gateway to take its mapping back.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

/// What is asked of a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whom.
    pub gateway: Gateway,
    /// Which UDP port of ours; also the external one that is suggested.
    pub port: u16,
    /// For how long.
    pub lifetime: Duration,
}

/// How gateways are asked: the seam to the protocols.
pub trait MappingClient: Clone + Send + Sync + 'static {
    /// What it takes to renew or give back a mapping.
    type Lease: Clone + Send + 'static;

    /// Makes or, with `lease`, prolongs a mapping. Bounded in time, whatever the gateway does.
    fn map(
        &self,
        request: Request,
        lease: Option<Self::Lease>,
    ) -> impl Future<Output = Result<(Grant, Self::Lease), NoMapping>> + Send;

    /// Gives it back, as far as the gateway goes along.
    fn release(&self, lease: Self::Lease) -> impl Future<Output = ()> + Send;
}

/// A question was answered.
#[derive(Debug)]
pub struct Answer<L> {
    ask: u64,
    renews: Option<u64>,
    granted: Result<(Grant, L), NoMapping>,
}

/// The questions on their way and the mappings there are. At most one of each at a time, by the core's rules; one more
/// of either while a network changes.
pub struct Mappings<C: MappingClient> {
    client: C,
    leases: BTreeMap<u64, C::Lease>,
    /// Ends with this: what a gateway still grants then runs out by itself.
    tasks: JoinSet<()>,
    answers: mpsc::Receiver<Answer<C::Lease>>,
    answer: mpsc::Sender<Answer<C::Lease>>,
}

impl<C: MappingClient> Mappings<C> {
    /// Nothing asked yet.
    pub fn new(client: C) -> Self {
        let (answer, answers) = mpsc::channel(4);
        Self { client, leases: BTreeMap::new(), tasks: JoinSet::new(), answers, answer }
    }

    /// Does what the core says. Must be called within a tokio runtime.
    pub fn act(&mut self, action: MappingAction) {
        while self.tasks.try_join_next().is_some() {}
        let client = self.client.clone();
        match action {
            MappingAction::Ask { ask, gateway, port, lifetime, renews } => {
                let lease = renews.and_then(|id| self.leases.get(&id).cloned());
                let answer = self.answer.clone();
                self.tasks.spawn(async move {
                    let granted = client.map(Request { gateway, port, lifetime }, lease).await;
                    // Fails only if nobody is there to be told.
                    let _ = answer.send(Answer { ask, renews, granted }).await;
                });
            }
            MappingAction::Release { lease } => {
                if let Some(lease) = self.leases.remove(&lease) {
                    self.tasks.spawn(async move { client.release(lease).await });
                }
            }
        }
    }

    /// The next answer; for ever, if nothing is asked.
    pub async fn next(&mut self) -> Answer<C::Lease> {
        match self.answers.recv().await {
            Some(answer) => answer,
            // Not while `self.answer` lives.
            None => std::future::pending().await,
        }
    }

    /// Keeps what was granted, and says which question was answered and how.
    pub fn keep(&mut self, answer: Answer<C::Lease>) -> (u64, Result<Grant, NoMapping>) {
        let Answer { ask, renews, granted } = answer;
        let grant = granted.map(|(grant, lease)| {
            renews.map(|id| self.leases.remove(&id));
            self.leases.insert(ask, lease);
            grant
        });
        (ask, grant)
    }

    /// Gives back what is left, and waits for gateways a second at most.
    pub async fn finish(mut self) {
        let leases = std::mem::take(&mut self.leases);
        for lease in leases.into_values() {
            let client = self.client.clone();
            self.tasks.spawn(async move { client.release(lease).await });
        }
        let done = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(RELEASE_WITHIN, done).await.is_err() {
            tracing::info!("the gateway did not take its port mapping back; it runs out by itself");
        }
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
