//! The two halves of a worker with their descriptors, and the loops that run them: one thread for each, or one for both.
//!
//! ```text
//! skynet-out-k:  poll(TUN queue, waker) ─ read ≤ 64 packets ─ Outbound ─ one sendmsg per train, by its port's socket
//! skynet-in-k:   poll(UDP, waker) ─ commands ─ recvmmsg ─ Inbound ─ coalesce ─ write to the TUN queue
//! skynet-io-k:   poll(UDP, TUN queue, waker) ─ a batch of the one, a batch of the other, until neither has any
//! ```
//! Where there are cores for both, each half has its own thread while there is much to do (`handover`); otherwise the
//! inbound half's runs both.
//!
//! No lock, no allocation and no clock reading per packet; one clock reading and one snapshot per batch.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use arc_swap::{ArcSwap, Cache};
use skynet_core::batch::{Outer, SendBatch};
use skynet_core::drop::DropCounters;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::PortNo;
use skynet_core::offload::VnetHeader;
use skynet_core::receive::Inbound;
use skynet_core::send::{Outbound, Sent};

use super::handover::Seat;
use super::load::BusyWatch;
use super::more_sockets::MoreSockets;
use super::onward::OnwardRuns;
use super::priority::Priority;
use super::queues::QueueSink;
use super::threads::{Bell, Shared, Sockets, ToInbound};
use super::to_tun::ToTun;
use crate::clock;
use crate::tun::{PacketBatch, TunDevice, TunRead, TunWrite};
use crate::udp::{ReceiveBatch, Room, SEND_WAIT, UdpSocket, segments_mut, wait_for_room};
use crate::wake::Waker;

/// What is read from the TUN device is larger where TCP sends much: a super-packet.
const SMALL_READ: u64 = 2_048;
/// A datagram is larger where TCP sends much: as large as the path takes.
const SMALL_DATAGRAM: u64 = 256;

/// What a thread looks at anew for every batch.
struct Snapshots<'a> {
    table: Cache<&'a ArcSwap<ForwardingTable>, Arc<ForwardingTable>>,
    sockets: Cache<&'a ArcSwap<Sockets>, Arc<Sockets>>,
}

impl<'a> Snapshots<'a> {
    fn of(shared: &'a Shared) -> Self {
        Self { table: Cache::new(&shared.table), sockets: Cache::new(&shared.sockets) }
    }
}

/// The outbound half with its TUN queue.
pub(super) struct OutboundIo {
    tun: TunDevice,
    packets: PacketBatch,
    send: SendIo,
    watch: BusyWatch,
}

/// What turns packets into trains and sends them.
struct SendIo {
    half: Outbound,
    drops: Arc<DropCounters>,
    sink: QueueSink,
    batch: SendBatch,
}

impl OutboundIo {
    pub(super) fn new(tun: TunDevice, half: Outbound, drops: Arc<DropCounters>, sink: QueueSink) -> Self {
        let send = SendIo { half, drops, sink, batch: SendBatch::default() };
        Self { tun, packets: PacketBatch::new(), send, watch: BusyWatch::new(SMALL_READ) }
    }

    /// How much it has to do.
    pub(super) fn watch(&self) -> &BusyWatch {
        &self.watch
    }

    /// One batch, if there is any: whether there was. `room` is called while a socket's buffer is full.
    fn turn(
        &mut self,
        shared: &Shared,
        snapshots: &mut Snapshots<'_>,
        room: &mut Room<'_>,
    ) -> io::Result<bool> {
        self.packets.clear();
        if self.tun.read_batch(&mut self.packets)? == 0 {
            return Ok(false);
        }
        let now = clock::monotonic();
        self.send.half.begin(now, snapshots.table.load(), self.packets.len());
        let sockets = snapshots.sockets.load();
        let mut bytes = 0;
        // Small packets do not wait behind the super-packets they were read with.
        for read in self.packets.small_first() {
            bytes += read.len();
            self.send.packet(read, sockets, room);
        }
        self.send.flush(sockets, room);
        while let Some(answer) = self.send.half.poll_answer() {
            self.tun.write(VnetHeader::NONE, answer)?;
        }
        self.watch.note(self.packets.len(), bytes, now, &shared.busy);
        Ok(true)
    }
}

impl SendIo {
    fn packet(&mut self, read: &[u8], sockets: &Sockets, room: &mut Room<'_>) {
        match VnetHeader::parse(read) {
            Ok((header, packet)) => {
                while self.half.handle_packet(header, packet, &mut self.batch, &mut self.sink)
                    == Sent::BatchFull
                {
                    self.flush(sockets, room);
                }
            }
            Err(reason) => self.drops.count(reason),
        }
    }

    fn flush(&mut self, sockets: &Sockets, room: &mut Room<'_>) {
        for train in self.batch.trains() {
            // A port that closed a moment ago: the next snapshot does not name it.
            let Some(Some(socket)) = sockets.get(usize::from(train.outer.port.0)) else { continue };
            let Outer { to, from, ecn, .. } = train.outer;
            // Counted by the socket; a destination without a route is for the path agent to notice.
            if let Err(e) = socket.send_train_while(to, from, ecn, train.bytes, train.segment, room) {
                tracing::trace!(%to, %e, "train not sent");
            }
        }
        self.batch.clear();
    }
}

/// The inbound half with its socket.
pub(super) struct InboundIo {
    half: Inbound,
    sink: QueueSink,
    socket: Arc<UdpSocket>,
    more: MoreSockets,
    tun: ToTun,
    batch: ReceiveBatch,
    onward: OnwardRuns,
    watch: BusyWatch,
}

impl InboundIo {
    pub(super) fn new(socket: Arc<UdpSocket>, half: Inbound, sink: QueueSink, tun: ToTun) -> Self {
        let (more, batch, watch) =
            (MoreSockets::default(), ReceiveBatch::new(), BusyWatch::new(SMALL_DATAGRAM));
        Self { half, sink, socket, more, tun, batch, onward: OnwardRuns::new(), watch }
    }

    /// One batch, if there is any: whether there was.
    fn turn(&mut self, shared: &Shared, snapshots: &mut Snapshots<'_>) -> io::Result<bool> {
        let mut worked = self.socket.receive_batch(&mut self.batch)? > 0;
        if worked {
            self.handle(None, shared, snapshots)?;
        }
        if self.more.descriptor().is_some() {
            for port in self.more.ready() {
                let Some(socket) = self.more.get(port) else { continue };
                if socket.receive_batch(&mut self.batch)? > 0 {
                    self.handle(Some(port), shared, snapshots)?;
                    worked = true;
                }
            }
        }
        Ok(worked)
    }

    /// What one socket received at once; `arrival` is one of the further ones.
    fn handle(
        &mut self,
        arrival: Option<PortNo>,
        shared: &Shared,
        snapshots: &mut Snapshots<'_>,
    ) -> io::Result<()> {
        let now = clock::monotonic();
        self.half.begin(now, snapshots.table.load());
        if let Some(socket) = arrival {
            self.half.arrived_by(socket);
        }
        let (mut bytes, mut datagrams) = (0, 0);
        for mut received in self.batch.iter_mut() {
            let (from, ecn) = (received.from, received.ecn);
            self.half.set_local(received.local);
            let before = bytes;
            for datagram in segments_mut(&mut received) {
                let at = bytes - before;
                bytes += datagram.len();
                datagrams += 1;
                let onward = self.half.handle_datagram(from, ecn, datagram, &mut self.tun, &mut self.sink);
                if let Some(onward) = onward {
                    self.onward.add(at, onward);
                }
            }
            if !self.onward.is_empty() {
                self.onward.send(&self.socket, received.bytes, ecn);
            }
        }
        self.half.finish(&mut self.tun, &mut self.sink);
        self.tun.finish()?;
        self.watch.note(datagrams, bytes, now, &shared.busy);
        Ok(())
    }
}

impl InboundIo {
    /// As [`wait_for_room`], but goes on receiving meanwhile: acknowledgements do not wait for what they acknowledge.
    fn turn_until_room(
        &mut self,
        full: BorrowedFd<'_>,
        shared: &Shared,
        snapshots: &mut Snapshots<'_>,
    ) -> io::Result<bool> {
        let until = clock::monotonic() + SEND_WAIT;
        loop {
            self.turn(shared, snapshots)?;
            let left = until.saturating_since(clock::monotonic());
            if Waker::wait_writable(full, self.socket.as_fd(), left)? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }
}

/// Runs the outbound half on a thread of its own, whenever it is given it.
pub(super) fn run_outbound(seat: &Seat, shared: &Shared, bell: &Bell) -> io::Result<()> {
    let (mut snapshots, mut priority) = (Snapshots::of(shared), Priority::take(shared.nice));
    let mut held: Option<Box<OutboundIo>> = None;
    while !bell.is_stopped() {
        held = held.or_else(|| seat.take());
        let Some(io) = &mut held else {
            bell.waker.wait_readable(&[])?;
            continue;
        };
        if io.turn(shared, &mut snapshots, &mut wait_for_room)? {
            priority.settle(io.watch.is_flooded());
            seat.settle(&mut held);
        } else {
            bell.waker.wait_readable(&[io.tun.as_fd()])?;
        }
    }
    Ok(())
}

/// Runs an inbound half, and with it the outbound half that [`ToInbound::Outbound`] may bring, until a thread that
/// [`ToInbound::OutboundThread`] names takes it over.
pub(super) fn run_inbound(
    mut io: InboundIo,
    commands: &Receiver<ToInbound>,
    shared: &Shared,
    bell: &Bell,
) -> io::Result<()> {
    let (mut snapshots, mut for_outbound) = (Snapshots::of(shared), Snapshots::of(shared));
    let mut priority = Priority::take(shared.nice);
    let mut outbound: Option<Box<OutboundIo>> = None;
    let mut outbound_thread = None;
    while !bell.is_stopped() {
        while let Ok(message) = commands.try_recv() {
            match message {
                ToInbound::Command(command) => io.half.handle_command(command, &mut io.sink),
                ToInbound::Socket(port, socket) => io.more.set(port, socket),
                ToInbound::Tun(device) => io.tun.attach(device),
                ToInbound::Outbound(half) => outbound = half,
                ToInbound::OutboundThread(thread) => outbound_thread = thread,
                ToInbound::Confirm(done) => _ = done.try_send(()),
            }
        }
        let mut worked = io.turn(shared, &mut snapshots)?;
        if let Some(outbound) = &mut outbound {
            let mut room = |full: BorrowedFd<'_>| io.turn_until_room(full, shared, &mut snapshots);
            worked |= outbound.turn(shared, &mut for_outbound, &mut room)?;
        }
        priority.settle(io.watch.is_flooded() || outbound.as_ref().is_some_and(|o| o.watch.is_flooded()));
        if let Some(thread) = &outbound_thread {
            thread.settle(&io.watch, &mut outbound);
        }
        if !worked {
            let (socket, tun) = (io.socket.as_fd(), outbound.as_ref().map(|o| o.tun.as_fd()));
            match (tun, io.more.descriptor()) {
                (None, None) => bell.waker.wait_readable(&[socket])?,
                (Some(other), None) | (None, Some(other)) => bell.waker.wait_readable(&[socket, other])?,
                (Some(tun), Some(more)) => bell.waker.wait_readable(&[socket, tun, more])?,
            };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use skynet_core::drop::DropReason;
    use skynet_core::offload::Offloads;
    use tokio::sync::mpsc;

    use super::super::queues::queues;
    use super::super::to_tun::WriteState;
    use super::*;
    use crate::udp::UdpOffloads;

    #[test]
    fn what_arrives_while_a_socket_is_full_does_not_wait_for_room() {
        let written = Arc::new(WriteState::new(Offloads::ALL));
        let shared = Shared {
            table: ArcSwap::default(),
            sockets: ArcSwap::default(),
            written: Arc::clone(&written),
            busy: Arc::default(),
            nice: crate::config::Nice::default(),
            faults: mpsc::channel(1).0,
        };
        let socket = Arc::new(UdpSocket::bind(0, UdpOffloads::ALL).unwrap());
        let (drops, (sink, _queues)) = (Arc::new(DropCounters::default()), queues());
        let half = Inbound::new(PortNo(0), Arc::clone(&drops), Arc::default());
        let mut io = InboundIo::new(Arc::clone(&socket), half, sink, ToTun::new(Offloads::ALL, written));
        let (full, reader) = UnixDatagram::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        while full.send(&[0; 1_000]).is_ok() {}
        socket.send_one(([127, 0, 0, 1], socket.port().unwrap()).into(), None, b"junk", None).unwrap();
        let begun = clock::monotonic();
        assert!(!io.turn_until_room(full.as_fd(), &shared, &mut Snapshots::of(&shared)).unwrap());
        assert!(clock::monotonic().saturating_since(begun) >= SEND_WAIT);
        assert_eq!(drops.get(DropReason::UnknownType), 1, "it was received meanwhile");
        reader.set_nonblocking(true).unwrap();
        while reader.recv(&mut [0; 1_000]).is_ok() {}
        assert!(io.turn_until_room(full.as_fd(), &shared, &mut Snapshots::of(&shared)).unwrap());
    }
}
