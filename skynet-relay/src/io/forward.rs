//! The thread that moves datagrams: receive trains, let the [`Forwarder`] decide on each datagram, send what is left as
//! trains.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use skynet_core::time::Instant;

use crate::clock::Clock;
use crate::io::udp::{Batch, MAX_DATAGRAM, UdpSocket};
use crate::server::{Action, Drops, ForwardCounters, Forwarder};

const PUBLISH: Duration = Duration::from_secs(1);

/// What the thread tells others, at most a second old.
#[derive(Clone, Default, Debug)]
pub struct ForwardStats {
    /// Sessions in the table.
    pub sessions: usize,
    /// Datagrams and bytes.
    pub counters: ForwardCounters,
    /// Drops by reason.
    pub drops: Drops,
    /// Datagrams the kernel refused to send.
    pub unsent: u64,
    /// Whether nobody is bound any more.
    pub draining: bool,
}

/// A running forwarding thread.
#[derive(Debug)]
pub struct ForwardThread {
    stop: Arc<AtomicBool>,
    drain: Arc<AtomicBool>,
    stats: Arc<Mutex<ForwardStats>>,
    handle: thread::JoinHandle<io::Result<()>>,
}

impl ForwardThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(socket: UdpSocket, forwarder: Forwarder, clock: Clock) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stats = Arc::new(Mutex::new(ForwardStats::default()));
        let drain = Arc::new(AtomicBool::new(false));
        let (stop_2, drain_2, stats_2) = (Arc::clone(&stop), Arc::clone(&drain), Arc::clone(&stats));
        let handle = thread::Builder::new()
            .name("forward".into())
            .spawn(move || run(&socket, forwarder, clock, &stop_2, &drain_2, &stats_2))?;
        Ok(Self { stop, drain, stats, handle })
    }

    /// Binds nobody from now on, and tells those who are bound to go.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::Relaxed);
    }

    /// The last published figures.
    pub fn stats(&self) -> ForwardStats {
        self.stats.lock().map(|stats| stats.clone()).unwrap_or_default()
    }

    /// Whether the thread has ended without being told to.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Stops the thread and waits for it, at most a receive timeout.
    ///
    /// # Errors
    /// What ended the thread before.
    pub fn stop(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.handle.join().map_err(|_| io::Error::other("the forwarding thread panicked"))?
    }
}

fn run(
    socket: &UdpSocket,
    mut forwarder: Forwarder,
    clock: Clock,
    stop: &AtomicBool,
    drain: &AtomicBool,
    stats: &Mutex<ForwardStats>,
) -> io::Result<()> {
    let mut batch = Batch::new();
    let (mut next_publish, mut unsent) = (Instant::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        let received = socket.receive(&mut batch)?;
        let now = clock.now();
        let draining = drain.load(Ordering::Relaxed);
        forwarder.set_draining(draining);
        for slot in 0..received {
            let Some(train) = batch.train(slot) else { continue };
            for at in train.datagrams().filter(|at| at.len() <= MAX_DATAGRAM) {
                let datagram = batch.datagram_mut(slot, at.clone());
                let (at, local, to) = match forwarder.handle_datagram(train.local, train.from, datagram, now)
                {
                    Action::Forward { local, to } => (at, local, to),
                    Action::Reply { len } => (at.start..at.start + len, train.local, train.from),
                    Action::Drop(_) => continue,
                };
                while !batch.push(slot, at.clone(), local, to) {
                    unsent += socket.send(&mut batch);
                }
            }
        }
        unsent += socket.send(&mut batch);
        if now.mono >= forwarder.poll_timeout() {
            forwarder.handle_timeout(now.mono);
        }
        if now.mono >= next_publish {
            next_publish = now.mono + PUBLISH;
            if let Ok(mut stats) = stats.try_lock() {
                stats.sessions = forwarder.sessions();
                stats.counters = forwarder.counters();
                stats.drops = forwarder.drops().clone();
                stats.unsent = unsent;
                stats.draining = draining;
            }
        }
    }
    Ok(())
}
