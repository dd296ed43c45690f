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
mod hooks;
mod hosts_file;
mod interface;
mod load;
mod membership;
mod more_sockets;
mod names;
mod offload_faults;
mod onward;
mod ports;
mod queues;
mod reach;
mod report;
mod roster;
mod selfcheck;
mod stream;
mod threads;
mod to_tun;
mod why;

use std::future::Future;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{BootMetadata, BootSettings, Config};
use crate::{boot, notify};

/// Runs the agent in this process until SIGTERM, SIGINT or `down`. `load` makes the configuration, with settings that the
/// machine's metadata give below it; those are looked for first, and again while there is nothing to join with.
///
/// # Errors
/// What kept it from starting, or broke while it ran.
pub fn run(load: impl Fn(&[BootSettings]) -> anyhow::Result<Config>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        let mut stop = std::pin::pin!(stop);
        let own = load(&[])?;
        let asks = own.wireguard.is_none() && own.token.is_none();
        let mode = if asks { own.boot_metadata } else { BootMetadata::Never };
        drop(own);
        let mut settings = boot::Places::default().look(mode).await;
        loop {
            match run_until(load(&settings)?, &mut stop).await? {
                Ended::Stopped => return Ok(()),
                Ended::Found(found) => settings = found,
            }
        }
    });
    // Connections of clients that wait for nothing any more.
    runtime.shutdown_background();
    result
}

/// Why an agent ended.
pub(super) enum Ended {
    /// It was told to.
    Stopped,
    /// It had nothing to join with, and this was found: begin again with it.
    Found(Vec<BootSettings>),
}

/// Runs an agent until `stop` resolves, a client tells it to stop or it finds what it is to be, on the current
/// single-threaded tokio runtime and in its thread's network namespace.
async fn run_until(config: Config, stop: &mut (impl Future<Output = ()> + Unpin)) -> anyhow::Result<Ended> {
    // The socket first: if another agent runs, nothing of its is touched.
    let (mut calls, serving) = agent::listen(&config.socket)?;
    let mut agent = agent::Agent::start(config).await?;
    notify::ready();
    let result = agent.run(stop, &mut calls).await;
    if !matches!(result, Ok(Ended::Found(_))) {
        notify::stopping();
    }
    agent.finish().await;
    drop(calls);
    // Its file goes with it, before another takes its place.
    let _ = serving.await;
    result
}
