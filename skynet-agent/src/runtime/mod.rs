//! The running agent: one control task on a single-threaded tokio runtime, and the data plane's own OS threads.
//!
//! ```text
//!  control socket ─┐                             ┌─ skynet-in-0   UDP → TUN
//!  TCP to relay ───┼─ control task ── Node ──────┤      ▲ keys, snapshots │ bounded queues
//!  netlink, timers ┘   (tokio, one thread)       ├─ skynet-out-0  TUN → UDP     (or skynet-io-0 for both)
//!                                                └─ … the same for every further port that lanes want
//! ```
//! The control task is the only caller of `Node`; the threads own the worker's halves. A thread that fails ends the
//! agent: it is never half alive.

mod agent;
mod carrier;
mod data_plane;
mod first_boot;
mod generation;
mod halves;
mod handover;
mod hooks;
mod hosts_file;
mod interface;
mod load;
mod membership;
mod more_sockets;
mod names;
mod networks;
mod offload_faults;
mod onward;
mod ports;
mod priority;
mod queues;
mod reach;
mod report;
mod requests;
mod roster;
mod selfcheck;
mod stream;
mod threads;
mod to_tun;
mod why;

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use networks::{Others, Overseer};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::api::Call;
use crate::config::{BootMetadata, BootSettings, Config, NetworkName};
use crate::{boot, notify};

pub use networks::{LoadNetwork, Wishes};

/// For an orderly end after a network has broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the agent in this process until SIGTERM, SIGINT or `down`. `load` makes the configuration, with settings that the
/// machine's metadata give below it; those are looked for first, and again while there is nothing to join with. Beside the
/// first network run those that this machine has settings or credentials for, and `wanted`; `load_network` makes theirs.
///
/// # Errors
/// What kept it from starting, or broke while it ran.
pub fn run(
    load: impl Fn(&[BootSettings]) -> anyhow::Result<Config>,
    wanted: Option<NetworkName>,
    load_network: &LoadNetwork<'_>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
        let broken = Notify::new();
        let stop = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, () = broken.notified() => {} }
        };
        let own = load(&[])?;
        let networks = own.places().networks().into_iter().chain(wanted).collect();
        let (overseer, others) = Overseer::new(networks, load_network);
        let mut first = std::pin::pin!(run_first(own, load, others, stop));
        tokio::select! {
            result = &mut first => result,
            error = overseer.run() => {
                broken.notify_one();
                let _ = tokio::time::timeout(PATIENCE, first).await;
                Err(error)
            }
        }
    });
    // Connections of clients that wait for nothing any more.
    runtime.shutdown_background();
    result
}

/// The network that is always there, though perhaps not joined.
async fn run_first(
    own: Config,
    load: impl Fn(&[BootSettings]) -> anyhow::Result<Config>,
    others: Others,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop);
    let asks = own.wireguard.is_none() && own.token.is_none();
    let mode = if asks { own.boot_metadata } else { BootMetadata::Never };
    drop(own);
    let mut settings = boot::Places::default().look(mode).await;
    loop {
        match begin(load(&settings)?, Some(others.clone())).await?.run(&mut stop).await? {
            Ended::Stopped => return Ok(()),
            Ended::Found(found) => settings = found,
        }
    }
}

/// Why an agent ended.
pub(super) enum Ended {
    /// It was told to.
    Stopped,
    /// It had nothing to join with, and this was found: begin again with it.
    Found(Vec<BootSettings>),
}

/// One network's agent that has begun, and its control socket.
struct Begun {
    agent: agent::Agent,
    calls: mpsc::Receiver<Call>,
    serving: JoinHandle<()>,
    /// The first network's alone.
    others: Option<Others>,
}

/// Begins an agent on the current single-threaded tokio runtime and in its thread's network namespace.
async fn begin(config: Config, others: Option<Others>) -> anyhow::Result<Begun> {
    // The socket first: if another agent runs, nothing of its is touched.
    let (calls, serving) = requests::listen(&config.socket)?;
    let agent = agent::Agent::start(config, others.clone()).await?;
    if let Some(others) = &others {
        notify::ready();
        others.first_has_begun();
    }
    Ok(Begun { agent, calls, serving, others })
}

impl Begun {
    /// Runs until `stop` resolves, a client tells it to stop or it finds what it is to be. The other networks end with the
    /// first.
    async fn run(mut self, stop: &mut (impl Future<Output = ()> + Unpin)) -> anyhow::Result<Ended> {
        let result = self.agent.run(stop, &mut self.calls).await;
        let others = self.others.filter(|_| !matches!(result, Ok(Ended::Found(_))));
        if others.is_some() {
            notify::stopping();
        }
        let end_others = async {
            if let Some(others) = others {
                others.end().await;
            }
        };
        tokio::join!(self.agent.finish(), end_others);
        drop(self.calls);
        // Its file goes with it, before another takes its place.
        let _ = self.serving.await;
        result
    }
}
