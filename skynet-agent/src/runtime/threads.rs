//! The two OS threads of a worker, each run to completion.
//!
//! ```text
//! skynet-out-k:  poll(TUN queue, waker) ─ read ≤ 64 packets ─ Outbound ─ one sendmsg per train, by its port's socket
//! skynet-in-k:   poll(UDP, waker) ─ commands ─ recvmmsg ─ Inbound ─ coalesce ─ write to the TUN queue
//! ```
//! No lock, no allocation and no clock reading per packet; one clock reading and one snapshot per batch.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use arc_swap::{ArcSwap, Cache};
use skynet_core::batch::{Outer, SendBatch};
use skynet_core::drop::DropCounters;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::{MAX_PORTS, PortNo};
use skynet_core::offload::VnetHeader;
use skynet_core::receive::Inbound;
use skynet_core::send::{Outbound, Sent};
use skynet_core::worker::InboundCommand;
use tokio::sync::mpsc;

use super::load::{BusyBell, BusyWatch, CpuClock};
use super::queues::QueueSink;
use super::to_tun::{ToTun, WriteState};
use crate::clock;
use crate::tun::{PacketBatch, TunDevice, TunRead};
use crate::udp::{ReceiveBatch, UdpSocket, segments_mut};
use crate::wake::Waker;

/// Why a data-plane thread ended without being told to.
pub(super) type Fault = anyhow::Error;

/// The sockets of all open ports: any worker sends by any of them, each receives by its own.
pub(super) type Sockets = [Option<Arc<UdpSocket>>; MAX_PORTS];

/// What all threads share with the control task.
pub(super) struct Shared {
    pub(super) table: ArcSwap<ForwardingTable>,
    pub(super) sockets: ArcSwap<Sockets>,
    pub(super) written: Arc<WriteState>,
    pub(super) busy: Arc<BusyBell>,
    pub(super) faults: mpsc::Sender<Fault>,
}

pub(super) enum ToInbound {
    Command(InboundCommand),
    /// Deliver here from now on; `None`: nowhere.
    Tun(Option<TunDevice>),
}

/// A running thread.
pub(super) struct Thread {
    handle: JoinHandle<()>,
    bell: Arc<Bell>,
}

/// How a thread is told something: look at the commands, or at the flag and end.
pub(super) struct Bell {
    waker: Waker,
    stop: AtomicBool,
    cpu: CpuClock,
}

impl Thread {
    pub(super) fn spawn(
        name: String,
        shared: &Arc<Shared>,
        run: impl FnOnce(&Bell) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let bell =
            Arc::new(Bell { waker: Waker::new()?, stop: AtomicBool::new(false), cpu: CpuClock::default() });
        let (faults, mine, what) = (shared.faults.clone(), Arc::clone(&bell), name.clone());
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            mine.cpu.start();
            if let Err(e) = run(&mine) {
                // A full queue of faults already ends the agent.
                let _ = faults.try_send(anyhow::Error::new(e).context(what));
            }
        })?;
        Ok(Self { handle, bell })
    }

    pub(super) fn wake(&self) {
        self.bell.waker.wake();
    }

    /// Its processor time.
    pub(super) fn cpu(&self) -> &CpuClock {
        &self.bell.cpu
    }

    /// Ends the thread and waits for it. A panic in it goes on here: never half alive.
    pub(super) fn end(self) {
        self.bell.stop.store(true, Relaxed);
        self.bell.waker.wake();
        if let Err(panic) = self.handle.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Bell {
    fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

pub(super) struct OutboundThread {
    pub(super) shared: Arc<Shared>,
    pub(super) half: Outbound,
    pub(super) drops: Arc<DropCounters>,
    pub(super) sink: QueueSink,
    pub(super) tun: TunDevice,
    pub(super) batch: SendBatch,
}

impl OutboundThread {
    pub(super) fn run(mut self, bell: &Bell) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut table = Cache::new(&shared.table);
        let mut sockets = Cache::new(&shared.sockets);
        let mut packets = PacketBatch::new();
        let mut watch = BusyWatch::default();
        while !bell.is_stopped() {
            packets.clear();
            if self.tun.read_batch(&mut packets)? == 0 {
                bell.waker.wait_readable(self.tun.as_fd())?;
                continue;
            }
            let now = clock::monotonic();
            self.half.begin(now, table.load(), packets.len());
            let sockets = sockets.load();
            let mut bytes = 0;
            // Small packets do not wait behind the super-packets they were read with.
            for read in packets.small_first() {
                bytes += read.len();
                match VnetHeader::parse(read) {
                    Ok((header, packet)) => self.send(header, packet, sockets),
                    Err(reason) => self.drops.count(reason),
                }
            }
            self.flush(sockets);
            watch.note(bytes, now, &shared.busy);
        }
        Ok(())
    }

    fn send(&mut self, header: VnetHeader, packet: &[u8], sockets: &Sockets) {
        while self.half.handle_packet(header, packet, &mut self.batch, &mut self.sink) == Sent::BatchFull {
            self.flush(sockets);
        }
    }

    fn flush(&mut self, sockets: &Sockets) {
        for train in self.batch.trains() {
            // A port that closed a moment ago: the next snapshot does not name it.
            let Some(socket) = &sockets[usize::from(train.outer.port.0)] else { continue };
            // Counted by the socket; a destination without a route is for the path agent to notice.
            let Outer { to, from, ecn, .. } = train.outer;
            if let Err(e) = socket.send_train(to, from, ecn, train.bytes, train.segment) {
                tracing::trace!(%to, %e, "train not sent");
            }
        }
        self.batch.clear();
    }
}

pub(super) struct InboundThread {
    pub(super) shared: Arc<Shared>,
    pub(super) socket: Arc<UdpSocket>,
    pub(super) half: Inbound,
    pub(super) commands: Receiver<ToInbound>,
    pub(super) sink: QueueSink,
    pub(super) tun: ToTun,
}

impl InboundThread {
    pub(super) fn run(mut self, bell: &Bell) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut table = Cache::new(&shared.table);
        let mut batch = ReceiveBatch::new();
        let mut watch = BusyWatch::default();
        while !bell.is_stopped() {
            self.take_commands();
            if self.socket.receive_batch(&mut batch)? == 0 {
                bell.waker.wait_readable(self.socket.as_fd())?;
                continue;
            }
            let now = clock::monotonic();
            self.half.begin(now, table.load());
            let mut bytes = 0;
            for mut received in batch.iter_mut() {
                let (from, ecn) = (received.from, received.ecn);
                self.half.set_local(received.local);
                for datagram in segments_mut(&mut received) {
                    bytes += datagram.len();
                    self.half.handle_datagram(from, ecn, datagram, &mut self.tun, &mut self.sink);
                }
            }
            self.half.finish(&mut self.tun, &mut self.sink);
            self.tun.finish()?;
            watch.note(bytes, now, &shared.busy);
        }
        Ok(())
    }

    fn take_commands(&mut self) {
        while let Ok(message) = self.commands.try_recv() {
            match message {
                ToInbound::Command(command) => self.half.handle_command(command, &mut self.sink),
                ToInbound::Tun(device) => self.tun.attach(device),
            }
        }
    }
}

/// The name of a thread: `skynet-in-0`.
pub(super) fn name(half: &str, port: PortNo) -> String {
    format!("skynet-{half}-{}", port.0)
}
