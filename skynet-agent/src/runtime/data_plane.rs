//! The workers: one per open port, each with its OS threads, a UDP socket and a TUN queue of its own.
//!
//! ```text
//!              ┌─ worker 0: skynet-in-0, skynet-out-0, the configured UDP port, TUN queue 0
//!  DataPlane ──┼─ worker 1: skynet-in-1, skynet-out-1, any free UDP port,       TUN queue 1
//!              └─ …         as lanes want them           (one thread for both halves: skynet-io-k)
//! ```
//! Worker 0's inbound half runs from the start, because handshakes and relay frames come through it; outbound halves
//! run while there is a TUN device. The kernel keeps a flow on the TUN queue it last was written to.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use arc_swap::ArcSwap;
use skynet_core::drop::DropCounters;
use skynet_core::flows::FlowTable;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::{MAX_PORTS, PortNo};
use skynet_core::node::{LoadSample, PortLoad};
use skynet_core::offload::Offloads;
use skynet_core::receive::Inbound;
use skynet_core::send::Outbound;
use skynet_core::time::Instant;
use skynet_core::worker::InboundCommand;
use tokio::sync::mpsc;

use super::halves::{InboundIo, OutboundIo, run_inbound, run_outbound};
use super::handover::seat;
use super::load::{BusyBell, CpuMeter};
use super::queues::QueueSink;
pub(super) use super::threads::Fault;
use super::threads::{Bell, Shared, Sockets, Thread, ToInbound};
use super::to_tun::{ToTun, WriteState};
use crate::config::{Threading, WorkerThreads};
use crate::tun::TunDevice;
use crate::udp::{UdpFigures, UdpSocket};

/// Changes of keys on their way to the inbound thread. It drains them before every batch, so a sender that finds the
/// queue full waits for one batch at most.
const COMMANDS: usize = 1_024;

/// Longest wait for a thread to let go of the TUN device. A batch takes a millisecond.
const LET_GO: std::time::Duration = std::time::Duration::from_millis(500);

/// What `Node` and the workers share.
pub(super) struct Counted {
    pub(super) drops: Arc<DropCounters>,
    pub(super) flows: Arc<FlowTable>,
}

/// The running workers; dropping it stops and joins their threads.
pub(super) struct DataPlane {
    shared: Arc<Shared>,
    counted: Counted,
    sink: QueueSink,
    coalesce: Offloads,
    threading: Threading,
    /// The TUN device, by its first queue.
    tun: Option<TunDevice>,
    workers: [Option<Worker>; MAX_PORTS],
    /// What the sockets of closed ports have counted.
    closed: UdpFigures,
}

/// One port's threads.
struct Worker {
    to_inbound: SyncSender<ToInbound>,
    inbound: Option<Thread>,
    outbound: Option<Thread>,
    meters: (CpuMeter, CpuMeter),
}

impl DataPlane {
    /// Starts worker 0 on `socket`.
    pub(super) fn start(
        socket: Arc<UdpSocket>,
        counted: Counted,
        sink: QueueSink,
        coalesce: Offloads,
        threading: Threading,
        faults: mpsc::Sender<Fault>,
    ) -> io::Result<Self> {
        let written = Arc::new(WriteState::new(coalesce));
        let shared = Arc::new(Shared {
            table: ArcSwap::default(),
            sockets: ArcSwap::default(),
            written,
            busy: Arc::default(),
            nice: threading.nice,
            faults,
        });
        let workers = [const { None }; MAX_PORTS];
        let mut plane =
            Self { shared, counted, sink, coalesce, threading, tun: None, workers, closed: UdpFigures::NONE };
        plane.open(PortNo(0), socket)?;
        Ok(plane)
    }

    /// Starts the worker of `port` on `socket`, with a TUN queue if there is a device.
    pub(super) fn open(&mut self, port: PortNo, socket: Arc<UdpSocket>) -> io::Result<()> {
        self.close(port);
        let (to_inbound, commands) = sync_channel(COMMANDS);
        let half = Inbound::new(port, Arc::clone(&self.counted.drops), Arc::clone(&self.counted.flows));
        let tun = ToTun::new(self.coalesce, Arc::clone(&self.shared.written));
        let io = InboundIo::new(Arc::clone(&socket), half, self.sink.clone(), tun);
        let name = match self.threading.per_worker {
            WorkerThreads::One => format!("skynet-io-{}", port.0),
            WorkerThreads::Two => format!("skynet-in-{}", port.0),
        };
        let run = move |shared: &Shared, bell: &Bell| run_inbound(io, &commands, shared, bell);
        let inbound = Thread::spawn(name, Bell::new()?, &self.shared, run)?;
        let worker =
            Worker { to_inbound, inbound: Some(inbound), outbound: None, meters: Default::default() };
        self.workers[usize::from(port.0)] = Some(worker);
        if let Err(e) = self.attach_worker(port) {
            self.close(port);
            return Err(e);
        }
        self.set_socket(port, Some(socket));
        Ok(())
    }

    /// Ends the worker of `port`. Its TUN queue and its socket go with it; the kernel spreads its flows anew.
    pub(super) fn close(&mut self, port: PortNo) {
        self.set_socket(port, None);
        if let Some(worker) = self.workers[usize::from(port.0)].take() {
            worker.end();
        }
    }

    fn set_socket(&mut self, port: PortNo, socket: Option<Arc<UdpSocket>>) {
        if let Some(closed) = self.socket(port) {
            let UdpFigures { dropped, refused_trains, .. } = self.closed.and(UdpFigures::of(&closed));
            self.closed = UdpFigures { dropped, refused_trains, ..self.closed };
        }
        let mut sockets = Sockets::clone(&self.shared.sockets.load());
        let at = usize::from(port.0);
        sockets.resize(sockets.len().max(at + 1), None);
        sockets[at] = socket;
        sockets.truncate(sockets.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        self.shared.sockets.store(Arc::new(sockets));
    }

    /// Gives worker 0 a further socket, for guessing, or takes it away.
    pub(super) fn set_guess_socket(&mut self, port: PortNo, socket: Option<Arc<UdpSocket>>) {
        if let Some(worker) = &self.workers[0] {
            worker.tell_inbound(ToInbound::Socket(port, socket.clone()));
        }
        self.set_socket(port, socket);
    }

    /// The socket of a port that is open.
    pub(super) fn socket(&self, port: PortNo) -> Option<Arc<UdpSocket>> {
        self.shared.sockets.load().get(usize::from(port.0))?.clone()
    }

    /// How the sockets of all ports fare, those closed included.
    pub(super) fn udp(&self) -> UdpFigures {
        self.shared.sockets.load().iter().flatten().fold(self.closed, |sum, s| sum.and(UdpFigures::of(s)))
    }

    /// Packets flow to and from `tun` from now on.
    pub(super) fn attach(&mut self, tun: TunDevice) -> io::Result<()> {
        self.detach();
        self.tun = Some(tun);
        self.attach_worker(PortNo(0))?;
        for port in (1..MAX_PORTS as u8).map(PortNo) {
            // Its lanes then have no way, and their flows go by others.
            if let Err(e) = self.attach_worker(port) {
                tracing::warn!(port = port.0, %e, "no further queue of the TUN device");
                self.close(port);
            }
        }
        Ok(())
    }

    /// Gives a worker that is open its TUN queue: the first is worker 0's.
    fn attach_worker(&mut self, port: PortNo) -> io::Result<()> {
        let (Some(tun), Some(worker)) = (&self.tun, &mut self.workers[usize::from(port.0)]) else {
            return Ok(());
        };
        let tun = if port == PortNo(0) { tun.clone() } else { tun.queue()? };
        let queue = tun.clone();
        let drops = Arc::clone(&self.counted.drops);
        let half = Outbound::new(Arc::clone(&drops), Arc::clone(&self.counted.flows));
        let io = OutboundIo::new(tun, half, drops, self.sink.clone());
        // First whoever reads the queue: one that nobody reads swallows the flows the kernel puts there.
        worker.tell_inbound(ToInbound::Outbound(Some(Box::new(io))));
        if self.threading.per_worker == WorkerThreads::Two
            && let Some(inbound) = &worker.inbound
        {
            let bell = Bell::new()?;
            let (way, seat) = seat(Arc::clone(&bell), Arc::clone(inbound.bell()), worker.to_inbound.clone());
            let name = format!("skynet-out-{}", port.0);
            let run = move |shared: &Shared, bell: &Bell| run_outbound(&seat, shared, bell);
            worker.outbound = Some(Thread::spawn(name, bell, &self.shared, run)?);
            worker.tell_inbound(ToInbound::OutboundThread(Some(way)));
        }
        worker.tell_inbound(ToInbound::Tun(Some(queue)));
        Ok(())
    }

    /// Lets go of the TUN device; when this returns no thread holds it any more.
    pub(super) fn detach(&mut self) {
        if self.tun.take().is_none() {
            return;
        }
        let (done, confirmed) = sync_channel(MAX_PORTS);
        let mut told = 0;
        for worker in self.workers.iter_mut().flatten() {
            worker.outbound.take().into_iter().for_each(Thread::end);
            worker.tell_inbound(ToInbound::OutboundThread(None));
            worker.tell_inbound(ToInbound::Outbound(None));
            worker.tell_inbound(ToInbound::Tun(None));
            worker.tell_inbound(ToInbound::Confirm(done.clone()));
            told += 1;
        }
        for _ in 0..told {
            // One that has ended confirms nothing, and holds nothing either.
            let _ = confirmed.recv_timeout(LET_GO);
        }
    }

    /// Gives the workers a new snapshot.
    pub(super) fn publish(&self, table: Arc<ForwardingTable>) {
        self.shared.table.store(table);
    }

    /// Gives the inbound half of `port` a change of keys; in order with all others.
    pub(super) fn command(&self, port: PortNo, command: InboundCommand) {
        if let Some(worker) = &self.workers[usize::from(port.0)] {
            worker.tell_inbound(ToInbound::Command(command));
        }
    }

    /// The writing side of the TUN device.
    pub(super) fn written(&self) -> &WriteState {
        &self.shared.written
    }

    /// Rung when a thread is busy and nobody measures.
    pub(super) fn busy(&self) -> &Arc<BusyBell> {
        &self.shared.busy
    }

    /// How busy every thread was since the last call.
    pub(super) fn sample(&mut self, now: Instant) -> LoadSample {
        let load = |(port, worker): (u8, &mut Worker)| {
            let permille = |meter: &mut CpuMeter, thread: &Option<Thread>| {
                thread.as_ref().map_or(0, |t| meter.permille(t.cpu(), now))
            };
            PortLoad {
                port: PortNo(port),
                outbound_permille: permille(&mut worker.meters.0, &worker.outbound),
                inbound_permille: permille(&mut worker.meters.1, &worker.inbound),
            }
        };
        let workers = (0..).zip(&mut self.workers).filter_map(|(i, w)| Some((i, w.as_mut()?)));
        LoadSample { ports: workers.map(load).collect() }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.workers.iter_mut().filter_map(Option::take).for_each(Worker::end);
    }
}

impl Worker {
    fn tell_inbound(&self, message: ToInbound) {
        // Fails only if the thread has ended, and then its fault is on the way.
        let _ = self.to_inbound.send(message);
        if let Some(inbound) = &self.inbound {
            inbound.bell().wake();
        }
    }

    fn end(self) {
        [self.outbound, self.inbound].into_iter().flatten().for_each(Thread::end);
    }
}
