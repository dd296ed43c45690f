//! The threads that move datagrams: each has sockets and a [`Forwarder`] of its own, receives trains, lets it decide on
//! each datagram and sends what is left as trains. Control is received, answered and sent before bulk.
//!
//! ```text
//!   kernel, by source ──▶ sockets 0 ─ thread 0 ─▶ any client        all sockets have one port: whatever thread sends,
//!                     ╲             ▲ │ Update                       it comes from where the client sent to
//!                      ╲▶ sockets 1 ─ thread 1 ─▶ any client
//! ```
//! What they tell each other ([`Update`]) is little: when a session begins, moves or ends, and twice a minute that it is
//! in use. Per packet they share nothing.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use skynet_core::time::{Instant, Now};

use crate::clock::Clock;
use crate::io::desk::{Desk, Desks, ForwardStats};
use crate::io::group::ThreadSockets;
use crate::io::udp::{Batch, MAX_DATAGRAM, UdpSocket};
use crate::server::{Action, Forwarder, Revoked, Update};

const PUBLISH: Duration = Duration::from_secs(1);
/// Between two looks whether the socket was full.
const PRESSURE: Duration = Duration::from_millis(100);
/// Sessions told to whoever asks, of each thread.
const LISTED: usize = 20_000;
/// Updates on their way to one thread. What does not fit waits with the sender, a session at most once.
const INBOX: usize = 4_096;

/// What a control task orders and every thread looks at between two batches.
#[derive(Debug, Default)]
struct Bans {
    /// Rises with every list.
    version: AtomicU64,
    list: Mutex<Arc<Revoked>>,
}

/// Tells the threads whom they must not serve.
#[derive(Clone, Debug)]
pub struct BanDesk(Arc<Bans>);

impl BanDesk {
    /// From now on this list.
    pub fn publish(&self, revoked: Revoked) {
        *self.0.list.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(revoked);
        self.0.version.fetch_add(1, Ordering::Release);
    }
}

/// The running forwarding threads.
#[derive(Debug)]
pub struct ForwardThreads {
    stop: Arc<AtomicBool>,
    drain: Arc<AtomicBool>,
    bans: BanDesk,
    desks: Desks,
    threads: Vec<thread::JoinHandle<io::Result<()>>>,
}

impl ForwardThreads {
    /// Starts a thread for each pair of sockets. `parts` are as many, made together.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(sockets: Vec<ThreadSockets>, parts: Vec<Forwarder>, clock: Clock) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let drain = Arc::new(AtomicBool::new(false));
        let bans = BanDesk(Arc::default());
        let (senders, inboxes): (Vec<_>, Vec<_>) = parts.iter().map(|_| sync_channel(INBOX)).unzip();
        let (mut desks, mut threads) = (Vec::new(), Vec::new());
        for (index, ((sockets, forwarder), inbox)) in sockets.into_iter().zip(parts).zip(inboxes).enumerate()
        {
            let others = senders.iter().enumerate().filter(|(other, _)| *other != index);
            let outbox = Outbox { others: others.map(|(_, sender)| sender.clone()).collect(), waiting: None };
            let desk = Arc::new(Desk::default());
            let thread = Thread {
                forwarder,
                inbox,
                outbox,
                clock,
                unsent: 0,
                lost: [Lost::default(); 2],
                drain: Arc::clone(&drain),
                bans: Arc::clone(&bans.0),
                banned: 0,
            };
            let (stop, published) = (Arc::clone(&stop), Arc::clone(&desk));
            let handle = thread::Builder::new()
                .name(format!("forward-{index}"))
                .spawn(move || thread.run(&sockets, &stop, &published))?;
            desks.push(desk);
            threads.push(handle);
        }
        Ok(Self { stop, drain, bans, desks: Desks(desks), threads })
    }

    /// Binds nobody from now on, and tells those who are bound to go.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::Relaxed);
    }

    /// Where they are told whom not to serve.
    pub fn bans(&self) -> BanDesk {
        self.bans.clone()
    }

    /// The last published figures of each thread.
    pub fn stats(&self) -> Vec<ForwardStats> {
        self.desks.stats()
    }

    /// Where they tell how they are.
    pub fn desks(&self) -> Desks {
        self.desks.clone()
    }

    /// Whether one has ended without being told to.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().any(thread::JoinHandle::is_finished)
    }

    /// Stops all and waits for them, at most a receive timeout.
    ///
    /// # Errors
    /// What ended a thread before.
    pub fn stop(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(thread::JoinHandle::join);
        let mut result = Ok(());
        for one in ended {
            let one = one.unwrap_or_else(|_| Err(io::Error::other("a forwarding thread panicked")));
            result = result.and(one);
        }
        result
    }
}

struct Thread {
    forwarder: Forwarder,
    inbox: Receiver<Update>,
    outbox: Outbox,
    clock: Clock,
    drain: Arc<AtomicBool>,
    bans: Arc<Bans>,
    /// The version of the list that is in force here.
    banned: u64,
    unsent: u64,
    /// By the socket for bulk, and by that for control.
    lost: [Lost; 2],
}

/// Datagrams of one socket that this thread did not come to.
#[derive(Clone, Copy, Default)]
struct Lost {
    /// What the kernel last said: a counter of 32 bits.
    said: u32,
    total: u64,
}

impl Lost {
    /// Whether there are more.
    fn grows(&mut self, said: u32) -> bool {
        let more = said.wrapping_sub(self.said);
        *self = Self { said, total: self.total + u64::from(more) };
        more > 0
    }
}

impl Thread {
    fn run(mut self, sockets: &ThreadSockets, stop: &AtomicBool, desk: &Desk) -> io::Result<()> {
        let mut batches = [Batch::new(), Batch::new()];
        let (mut next_publish, mut next_pressure) = (Instant::ZERO, Instant::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let ready = sockets.wait()?;
            let now = self.clock.now();
            self.forwarder.set_draining(self.drain.load(Ordering::Relaxed));
            self.look_at_bans();
            // Before the datagrams: what a client sends after its BOUND finds its session known to all.
            while let Ok(update) = self.inbox.try_recv() {
                self.forwarder.handle_update(&update, now.mono);
            }
            for (socket, batch) in ready.into_iter().zip(&mut batches) {
                if let Some(socket) = socket {
                    self.turn(socket, batch, now)?;
                }
            }
            if now.mono >= next_pressure {
                next_pressure = now.mono + PRESSURE;
                self.look_at_sockets(sockets, now.mono);
            }
            if now.mono >= self.forwarder.poll_timeout() {
                self.forwarder.handle_timeout(now.mono);
            }
            if now.mono >= next_publish {
                next_publish = now.mono + PUBLISH;
                self.publish(sockets, desk);
            }
            desk.answer(|| self.forwarder.list_sessions(LISTED, now.mono));
        }
        Ok(())
    }

    /// One receive, and everything that comes of it.
    fn turn(&mut self, socket: &UdpSocket, batch: &mut Batch, now: Now) -> io::Result<()> {
        for slot in 0..socket.receive_now(batch)? {
            let Some(train) = batch.train(slot) else { continue };
            for at in train.datagrams().filter(|at| at.len() <= MAX_DATAGRAM) {
                let datagram = batch.datagram_mut(slot, at.clone());
                let action = self.forwarder.handle_datagram(train.local, train.from, datagram, now);
                let (at, local, to) = match action {
                    Action::Forward { local, to } => (at, local, to),
                    Action::Reply { len } => (at.start..at.start + len, train.local, train.from),
                    Action::Drop(_) => continue,
                };
                while !batch.push(slot, at.clone(), local, to) {
                    self.send(socket, batch);
                }
            }
        }
        self.send(socket, batch);
        Ok(())
    }

    /// Takes over a newer list, if there is one; a lock is taken only then.
    fn look_at_bans(&mut self) {
        let version = self.bans.version.load(Ordering::Acquire);
        if version != self.banned {
            self.banned = version;
            let list = Arc::clone(&self.bans.list.lock().unwrap_or_else(PoisonError::into_inner));
            self.forwarder.set_revoked(list);
        }
    }

    /// Sends what is in `batch`, and before it tells the other threads what the answers in it may cause.
    fn send(&mut self, socket: &UdpSocket, batch: &mut Batch) {
        self.outbox.pass_on(&mut self.forwarder);
        self.unsent += socket.send(batch);
    }

    /// Shares are made of bulk alone: who floods with control takes nothing of it from others.
    fn look_at_sockets(&mut self, sockets: &ThreadSockets, now: Instant) {
        let Ok([bulk, control]) = sockets.overflowed() else { return };
        let is_pressed = self.lost[0].grows(bulk);
        let _more = self.lost[1].grows(control);
        self.forwarder.handle_pressure(is_pressed, now);
    }

    fn publish(&self, sockets: &ThreadSockets, desk: &Desk) {
        desk.publish(|stats| {
            stats.control_apart = sockets.are_apart();
            stats.draining = self.drain.load(Ordering::Relaxed);
            stats.sessions = self.forwarder.sessions();
            stats.bridged = self.forwarder.bridged_sessions();
            stats.counters = self.forwarder.counters();
            stats.drops = self.forwarder.drops().clone();
            stats.unsent = self.unsent;
            [stats.overflowed, stats.overflowed_control] = self.lost.map(|lost| lost.total);
            stats.busy = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(stats.busy, Into::into);
        });
    }
}

/// The way to the other threads.
struct Outbox {
    others: Vec<SyncSender<Update>>,
    /// An update that an inbox had no room for, and whose: later ones wait in the forwarder.
    waiting: Option<(Update, usize)>,
}

impl Outbox {
    fn pass_on(&mut self, forwarder: &mut Forwarder) {
        while let Some((update, first)) =
            self.waiting.take().or_else(|| forwarder.poll_update().map(|update| (update, 0)))
        {
            for (index, other) in self.others.iter().enumerate().skip(first) {
                if let Err(TrySendError::Full(_)) = other.try_send(update) {
                    self.waiting = Some((update, index));
                    return;
                }
            }
        }
    }
}
