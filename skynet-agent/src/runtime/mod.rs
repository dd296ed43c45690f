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
mod halves;
mod hooks;
mod interface;
mod load;
mod membership;
mod more_sockets;
mod offload_faults;
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

use crate::config::Config;
use crate::notify;

/// Runs the agent in this process until SIGTERM, SIGINT or `down`.
///
/// # Errors
/// What kept it from starting, or broke while it ran.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
        let stop = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        run_until(config, stop).await
    });
    // Connections of clients that wait for nothing any more.
    runtime.shutdown_background();
    result
}

/// Runs an agent until `stop` resolves or a client tells it to stop, on the current single-threaded tokio runtime and
/// in its thread's network namespace.
///
/// # Errors
/// What kept it from starting, or broke while it ran.
pub async fn run_until(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    // The socket first: if another agent runs, nothing of its is touched.
    let mut calls = agent::listen(&config.socket)?;
    let mut agent = agent::Agent::start(config).await?;
    notify::ready();
    let result = agent.run(stop, &mut calls).await;
    notify::stopping();
    agent.finish().await;
    drop(calls);
    result
}
