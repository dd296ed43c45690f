//! Several networks in one process, each an agent of its own: interface, port, state, control socket and threads. What
//! they share is the control task's thread.
//!
//! ```text
//! first network ── its socket ── "start NAME" ──▶ Overseer ──▶ NAME: an agent with its own socket, until `down` there
//!       └─────────── ends ──────────────────────────▶ all others end, then it does
//! ```
//! A network that cannot start is tried again and disturbs no other; one that breaks ends the process, which is never half
//! alive.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use skynet_core::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::Ended;
use super::agent::sleep_until;
use crate::api::Reply;
use crate::clock;
use crate::config::{Config, MAX_NETWORKS, NetworkName};
use crate::secret::SecretText;

/// A network that could not start is tried again after this, then after twice as long …
const AGAIN: Duration = Duration::from_secs(2);
/// … up to this.
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);
/// For taking leave of a relay and removing an interface.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client says of how a network is to run: flags of `up`, and the proxy, which may have a password.
#[derive(Default)]
pub struct Wishes {
    /// As on the command line.
    pub flags: Vec<String>,
    /// The HTTP proxy.
    pub proxy: Option<SecretText>,
}

/// Makes the configuration of a further network; without wishes as its file and the process's own command line say.
pub type LoadNetwork<'a> = dyn Fn(&NetworkName, Option<Wishes>) -> anyhow::Result<Config> + 'a;

/// A network is to run.
pub(super) struct Start {
    network: NetworkName,
    wishes: Wishes,
    reply: oneshot::Sender<Reply>,
}

/// The first network's hold on the others.
#[derive(Clone)]
pub(super) struct Others {
    starts: mpsc::Sender<Start>,
    stop: watch::Sender<bool>,
    running: watch::Receiver<BTreeSet<NetworkName>>,
    begun: Arc<Notify>,
}

impl Others {
    /// The first has what it needs: the others may take what is left.
    pub(super) fn first_has_begun(&self) {
        self.begun.notify_one();
    }

    /// Starts one unless it runs; it answers by itself.
    pub(super) fn start(&self, network: NetworkName, wishes: Wishes, reply: oneshot::Sender<Reply>) {
        if let Err(e) = self.starts.try_send(Start { network, wishes, reply }) {
            let _ =
                e.into_inner().reply.send(Reply::error(1, "too many networks are being started; try again"));
        }
    }

    /// Those that run.
    pub(super) fn running(&self) -> Vec<String> {
        self.running.borrow().iter().map(NetworkName::to_string).collect()
    }

    /// Ends them all.
    pub(super) async fn end(self) {
        self.stop.send_replace(true);
        let mut running = self.running;
        let _ = tokio::time::timeout(PATIENCE, running.wait_for(BTreeSet::is_empty)).await;
    }
}

/// How a further network ended.
enum Outcome {
    Stopped,
    NotStarted(anyhow::Error),
    Broken(anyhow::Error),
}

type Running<'a> = Pin<Box<dyn Future<Output = (NetworkName, Outcome)> + 'a>>;

/// Starts the further networks and looks after them.
pub(super) struct Overseer<'a> {
    load: &'a LoadNetwork<'a>,
    starts: mpsc::Receiver<Start>,
    stop: watch::Receiver<bool>,
    running: watch::Sender<BTreeSet<NetworkName>>,
    begun: Arc<Notify>,
    futures: FuturesUnordered<Running<'a>>,
    /// Those that could not start: when they are tried again, and the pause after that.
    due: BTreeMap<NetworkName, (Instant, Duration)>,
}

impl<'a> Overseer<'a> {
    /// With `networks` to be started as soon as the first has begun.
    pub(super) fn new(networks: BTreeSet<NetworkName>, load: &'a LoadNetwork<'a>) -> (Self, Others) {
        let (starts, requested) = mpsc::channel(MAX_NETWORKS);
        let (stop, stopping) = watch::channel(false);
        let (running, shown) = watch::channel(BTreeSet::new());
        let due = networks.into_iter().map(|network| (network, (Instant::ZERO, AGAIN))).collect();
        let (futures, begun) = (FuturesUnordered::new(), Arc::new(Notify::new()));
        let others = Others { starts, stop, running: shown, begun: Arc::clone(&begun) };
        (Self { load, starts: requested, stop: stopping, running, begun, futures, due }, others)
    }

    /// Runs until a network breaks.
    pub(super) async fn run(mut self) -> anyhow::Error {
        self.begun.notified().await;
        loop {
            let due = self.due.values().map(|(at, _)| *at).min();
            tokio::select! {
                Some(start) = self.starts.recv() => self.on_start(start),
                Some((network, outcome)) = self.futures.next() => {
                    if let Some(broken) = self.on_ended(network, outcome) {
                        return broken;
                    }
                }
                () = sleep_until(due) => self.start_due(),
            }
        }
    }

    fn on_start(&mut self, start: Start) {
        let Start { network, wishes, reply } = start;
        if let Some(at_once) = self.needs_no_start(&network) {
            // Who asked may have gone.
            let _ = reply.send(at_once);
            return;
        }
        self.due.remove(&network);
        self.spawn(network, Some(wishes), AGAIN, Some(reply));
    }

    /// The answer where nothing is to be started.
    fn needs_no_start(&self, network: &NetworkName) -> Option<Reply> {
        let running = self.running.borrow();
        if running.contains(network) {
            return Some(started());
        }
        if *self.stop.borrow() {
            return Some(Reply::error(3, "the agent is stopping"));
        }
        let is_full = running.len() >= MAX_NETWORKS;
        is_full.then(|| Reply::error(1, &format!("{MAX_NETWORKS} further networks run already")))
    }

    fn start_due(&mut self) {
        let now = clock::monotonic();
        let due: Vec<_> =
            self.due.iter().filter(|(_, (at, _))| *at <= now).map(|(n, d)| (n.clone(), d.1)).collect();
        for (network, pause) in due {
            self.due.remove(&network);
            self.spawn(network, None, pause, None);
        }
    }

    fn spawn(
        &mut self,
        network: NetworkName,
        wishes: Option<Wishes>,
        pause: Duration,
        reply: Option<oneshot::Sender<Reply>>,
    ) {
        if *self.stop.borrow() {
            return;
        }
        let config = (self.load)(&network, wishes);
        self.running.send_modify(|running| _ = running.insert(network.clone()));
        // Until it ends, it is not tried again; who asked for it is told, and tries himself.
        if reply.is_none() {
            self.due.insert(network.clone(), (Instant::FAR_FUTURE, (pause * 2).min(AGAIN_AT_MOST)));
        }
        let stop = self.stop.clone();
        self.futures.push(Box::pin(async move {
            let outcome = match config {
                Err(e) => Err(e),
                Ok(config) => run_one(config, stop, reply).await,
            };
            (network, outcome.unwrap_or_else(Outcome::NotStarted))
        }));
    }

    fn on_ended(&mut self, network: NetworkName, outcome: Outcome) -> Option<anyhow::Error> {
        self.running.send_modify(|running| _ = running.remove(&network));
        let pause = self.due.remove(&network).map(|(_, pause)| pause);
        match (outcome, pause) {
            (Outcome::Stopped, _) => tracing::info!(%network, "network stopped"),
            (Outcome::Broken(e), _) => return Some(e.context(format!("network {network}"))),
            (Outcome::NotStarted(e), None) => tracing::warn!(%network, "network not started: {e:#}"),
            (Outcome::NotStarted(e), Some(pause)) => {
                tracing::warn!(%network, "network not started, trying again: {e:#}");
                self.due.insert(network, (clock::monotonic() + pause / 2, pause));
            }
        }
        None
    }
}

fn started() -> Reply {
    Reply::ok(&serde_json::json!({ "started": true }))
}

/// One network, from its socket to its end.
async fn run_one(
    config: Config,
    mut stop: watch::Receiver<bool>,
    reply: Option<oneshot::Sender<Reply>>,
) -> anyhow::Result<Outcome> {
    let mut stop = Box::pin(async move { drop(stop.wait_for(|stop| *stop).await) });
    let begun = super::begin(config, None).await;
    let refused = begun.as_ref().err().map(|e| Reply::error(1, &format!("{e:#}")));
    // Who asked may have gone.
    let _ = reply.map(|reply| reply.send(refused.unwrap_or_else(started)));
    Ok(match begun?.run(&mut stop).await {
        Ok(Ended::Stopped | Ended::Found(_)) => Outcome::Stopped,
        Err(e) => Outcome::Broken(e),
    })
}
