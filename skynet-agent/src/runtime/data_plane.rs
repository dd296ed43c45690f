//! The two OS threads of a worker, each run to completion.
//!
//! ```text
//! skynet-out-0:  poll(TUN, waker) ─ read ≤ 64 packets ─ Outbound ─ one sendmsg per train
//! skynet-in-0:   poll(UDP, waker) ─ commands ─ recvmmsg ─ Inbound ─ coalesce ─ write to TUN
//! ```
//! No lock, no allocation and no clock reading per packet; one clock reading and one snapshot per batch. The inbound
//! thread runs from the start, because handshakes and relay frames come through it; the outbound thread runs while
//! there is a TUN device.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use arc_swap::{ArcSwap, Cache};
use skynet_core::batch::SendBatch;
use skynet_core::drop::DropCounters;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::PortNo;
use skynet_core::offload::{Offloads, VnetHeader};
use skynet_core::receive::Inbound;
use skynet_core::send::{Outbound, Sent};
use skynet_core::worker::InboundCommand;
use tokio::sync::mpsc;

use super::queues::QueueSink;
use super::to_tun::{ToTun, WriteState};
use crate::clock;
use crate::tun::{PacketBatch, TunDevice, TunRead};
use crate::udp::{ReceiveBatch, UdpSocket, segments_mut};
use crate::wake::Waker;

/// Changes of keys on their way to the inbound thread. It drains them before every batch, so a sender that finds the
/// queue full waits for one batch at most.
const COMMANDS: usize = 1_024;

/// Why a data-plane thread ended without being told to.
pub(super) type Fault = anyhow::Error;

/// What both threads share with the control task.
struct Shared {
    table: ArcSwap<ForwardingTable>,
    socket: Arc<UdpSocket>,
    written: Arc<WriteState>,
    faults: mpsc::Sender<Fault>,
}

enum ToInbound {
    Command(InboundCommand),
    /// Deliver here from now on; `None`: nowhere.
    Tun(Option<TunDevice>),
}

/// A running worker; dropping it stops and joins its threads.
pub(super) struct DataPlane {
    shared: Arc<Shared>,
    drops: Arc<DropCounters>,
    sink: QueueSink,
    to_inbound: SyncSender<ToInbound>,
    inbound: Option<Thread>,
    outbound: Option<Thread>,
}

struct Thread {
    handle: JoinHandle<()>,
    bell: Arc<Bell>,
}

/// How a thread is told something: look at the commands, or at the flag and end.
struct Bell {
    waker: Waker,
    stop: AtomicBool,
}

impl DataPlane {
    /// Starts the inbound thread on `socket`.
    pub(super) fn start(
        socket: Arc<UdpSocket>,
        drops: Arc<DropCounters>,
        sink: QueueSink,
        coalesce: Offloads,
        faults: mpsc::Sender<Fault>,
    ) -> io::Result<Self> {
        let written = Arc::new(WriteState::new(coalesce));
        let shared = Arc::new(Shared { table: ArcSwap::default(), socket, written, faults });
        let (to_inbound, commands) = sync_channel(COMMANDS);
        let half = InboundThread {
            shared: Arc::clone(&shared),
            half: Inbound::new(PortNo(0), Arc::clone(&drops)),
            commands,
            sink: sink.clone(),
            tun: ToTun::new(coalesce, Arc::clone(&shared.written)),
        };
        let inbound = Thread::spawn("skynet-in-0", &shared, move |bell| half.run(bell))?;
        Ok(Self { shared, drops, sink, to_inbound, inbound: Some(inbound), outbound: None })
    }

    /// Packets flow to and from `tun` from now on.
    pub(super) fn attach(&mut self, tun: TunDevice) -> io::Result<()> {
        self.detach();
        self.tell_inbound(ToInbound::Tun(Some(tun.clone())));
        let half = OutboundThread {
            shared: Arc::clone(&self.shared),
            half: Outbound::new(Arc::clone(&self.drops)),
            drops: Arc::clone(&self.drops),
            sink: self.sink.clone(),
            tun,
            batch: SendBatch::default(),
        };
        self.outbound = Some(Thread::spawn("skynet-out-0", &self.shared, move |bell| half.run(bell))?);
        Ok(())
    }

    /// Lets go of the TUN device; when this returns no thread holds it but, for one batch, the inbound one.
    pub(super) fn detach(&mut self) {
        if let Some(outbound) = self.outbound.take() {
            outbound.end();
            self.tell_inbound(ToInbound::Tun(None));
        }
    }

    /// Gives the workers a new snapshot.
    pub(super) fn publish(&self, table: Arc<ForwardingTable>) {
        self.shared.table.store(table);
    }

    /// Gives the inbound half a change of keys; in order with all others.
    pub(super) fn command(&self, command: InboundCommand) {
        self.tell_inbound(ToInbound::Command(command));
    }

    /// The writing side of the TUN device.
    pub(super) fn written(&self) -> &WriteState {
        &self.shared.written
    }

    fn tell_inbound(&self, message: ToInbound) {
        // Fails only if the thread has ended, and then its fault is on the way.
        let _ = self.to_inbound.send(message);
        if let Some(inbound) = &self.inbound {
            inbound.bell.waker.wake();
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        for thread in [self.outbound.take(), self.inbound.take()].into_iter().flatten() {
            thread.end();
        }
    }
}

impl Thread {
    fn spawn(
        name: &str,
        shared: &Arc<Shared>,
        run: impl FnOnce(&Bell) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let bell = Arc::new(Bell { waker: Waker::new()?, stop: AtomicBool::new(false) });
        let (faults, mine, what) = (shared.faults.clone(), Arc::clone(&bell), name.to_owned());
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Err(e) = run(&mine) {
                // A full queue of faults already ends the agent.
                let _ = faults.try_send(anyhow::Error::new(e).context(what));
            }
        })?;
        Ok(Self { handle, bell })
    }

    /// Ends the thread and waits for it. A panic in it goes on here: never half alive.
    fn end(self) {
        self.bell.stop.store(true, Relaxed);
        self.bell.waker.wake();
        if let Err(panic) = self.handle.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

struct OutboundThread {
    shared: Arc<Shared>,
    half: Outbound,
    drops: Arc<DropCounters>,
    sink: QueueSink,
    tun: TunDevice,
    batch: SendBatch,
}

impl OutboundThread {
    fn run(mut self, bell: &Bell) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut table = Cache::new(&shared.table);
        let mut packets = PacketBatch::new();
        while !bell.stop.load(Relaxed) {
            packets.clear();
            if self.tun.read_batch(&mut packets)? == 0 {
                bell.waker.wait_readable(self.tun.as_fd())?;
                continue;
            }
            self.half.begin(clock::monotonic(), table.load(), packets.len());
            // Small packets do not wait behind the super-packets they were read with.
            for read in packets.small_first() {
                match VnetHeader::parse(read) {
                    Ok((header, packet)) => self.send(header, packet),
                    Err(reason) => self.drops.count(reason),
                }
            }
            self.flush();
        }
        Ok(())
    }

    fn send(&mut self, header: VnetHeader, packet: &[u8]) {
        while self.half.handle_packet(header, packet, &mut self.batch, &mut self.sink) == Sent::BatchFull {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for train in self.batch.trains() {
            // Counted by the socket; a destination without a route is for the path agent to notice.
            if let Err(e) =
                self.shared.socket.send_train(train.outer.to, train.outer.ecn, train.bytes, train.segment)
            {
                tracing::trace!(to = %train.outer.to, %e, "train not sent");
            }
        }
        self.batch.clear();
    }
}

struct InboundThread {
    shared: Arc<Shared>,
    half: Inbound,
    commands: Receiver<ToInbound>,
    sink: QueueSink,
    tun: ToTun,
}

impl InboundThread {
    fn run(mut self, bell: &Bell) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut table = Cache::new(&shared.table);
        let mut batch = ReceiveBatch::new();
        while !bell.stop.load(Relaxed) {
            self.take_commands();
            if shared.socket.receive_batch(&mut batch)? == 0 {
                bell.waker.wait_readable(shared.socket.as_fd())?;
                continue;
            }
            self.half.begin(clock::monotonic(), table.load());
            for mut received in batch.iter_mut() {
                let (from, ecn) = (received.from, received.ecn);
                for datagram in segments_mut(&mut received) {
                    self.half.handle_datagram(from, ecn, datagram, &mut self.tun, &mut self.sink);
                }
            }
            self.half.finish(&mut self.sink);
            self.tun.finish()?;
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
