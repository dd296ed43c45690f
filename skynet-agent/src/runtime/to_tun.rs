//! The last step of the inbound half: what a batch has brought is coalesced and written to the TUN queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use skynet_core::offload::{Coalescer, Gso, Offloads, SuperPacket, TunSink, VnetHeader};
use skynet_core::receive::Deliver;

use crate::tun::{TunDevice, TunWrite, Written};

/// What others may see of the writing side.
#[derive(Debug)]
pub(super) struct WriteState {
    /// Packets the device did not take.
    drops: AtomicU64,
    tcp: AtomicBool,
    udp: AtomicBool,
    /// Super-packets the device did not take although it took their segments.
    refused_tcp: AtomicU64,
    refused_udp: AtomicU64,
}

impl WriteState {
    pub(super) fn new(coalesce: Offloads) -> Self {
        Self {
            drops: AtomicU64::new(0),
            tcp: AtomicBool::new(coalesce.tcp4 || coalesce.tcp6),
            udp: AtomicBool::new(coalesce.udp4 || coalesce.udp6),
            refused_tcp: AtomicU64::new(0),
            refused_udp: AtomicU64::new(0),
        }
    }

    /// Packets the TUN device did not take.
    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Relaxed)
    }

    /// Whether TCP segments are still written as super-packets.
    pub(super) fn coalesces_tcp(&self) -> bool {
        self.tcp.load(Relaxed)
    }

    /// Whether UDP datagrams are still written as super-packets.
    pub(super) fn coalesces_udp(&self) -> bool {
        self.udp.load(Relaxed)
    }

    /// TCP super-packets that had to be written segment by segment.
    pub(super) fn refused_tcp(&self) -> u64 {
        self.refused_tcp.load(Relaxed)
    }

    /// UDP super-packets that had to be written datagram by datagram.
    pub(super) fn refused_udp(&self) -> u64 {
        self.refused_udp.load(Relaxed)
    }
}

/// The TUN device as the core's last step sees it.
pub(super) struct ToTun<D = TunDevice> {
    coalescer: Coalescer,
    wanted: Offloads,
    writer: Writer<D>,
}

/// The coalescer's sink.
struct Writer<D> {
    device: Option<D>,
    state: Arc<WriteState>,
    /// Kinds of which the kernel has refused a super-packet in this batch.
    refused: Offloads,
    gone: Option<io::Error>,
}

impl<D: TunWrite> ToTun<D> {
    /// Delivers to nowhere until [`Self::attach`]; coalesces what is `wanted` and the device takes.
    pub(super) fn new(wanted: Offloads, state: Arc<WriteState>) -> Self {
        let writer = Writer { device: None, state, refused: Offloads::NONE, gone: None };
        Self { coalescer: Coalescer::new(wanted), wanted, writer }
    }

    /// From now on to this device, or to nowhere.
    pub(super) fn attach(&mut self, device: Option<D>) {
        self.coalescer.flush(&mut self.writer);
        if let Some(device) = &device {
            self.wanted = both(self.wanted, device.takes());
        }
        self.writer.device = device;
        self.allow();
    }

    /// Ends a batch: nothing waits for the next one.
    ///
    /// # Errors
    /// The device is gone.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.coalescer.flush(&mut self.writer);
        let refused = std::mem::take(&mut self.writer.refused);
        if refused != Offloads::NONE {
            self.forgo(refused);
        }
        self.writer.gone.take().map_or(Ok(()), Err)
    }

    /// The kernel does not take super-packets of these kinds: some refuse valid ones.
    fn forgo(&mut self, refused: Offloads) {
        let (tcp, udp) = (refused.tcp4 || refused.tcp6, refused.udp4 || refused.udp6);
        tracing::warn!(tcp, udp, "the kernel refuses joined packets; writing them one by one");
        let keep = Offloads { tcp4: !tcp, tcp6: !tcp, udp4: !udp, udp6: !udp };
        self.wanted = both(self.wanted, keep);
        self.allow();
    }

    fn allow(&mut self) {
        self.coalescer.set_allowed(self.wanted);
        self.writer.state.tcp.store(self.wanted.tcp4 || self.wanted.tcp6, Relaxed);
        self.writer.state.udp.store(self.wanted.udp4 || self.wanted.udp6, Relaxed);
    }
}

/// What both allow.
fn both(a: Offloads, b: Offloads) -> Offloads {
    Offloads {
        tcp4: a.tcp4 && b.tcp4,
        tcp6: a.tcp6 && b.tcp6,
        udp4: a.udp4 && b.udp4,
        udp6: a.udp6 && b.udp6,
    }
}

impl<D: TunWrite> Deliver for ToTun<D> {
    fn deliver(&mut self, packet: &[u8]) {
        self.coalescer.push(packet, &mut self.writer);
    }
}

impl<D: TunWrite> TunSink for Writer<D> {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        if self.write_once(header, packet) == Written::NotAsSuperPacket {
            self.write_segments(header, packet);
        }
    }
}

impl<D: TunWrite> Writer<D> {
    fn write_once(&mut self, header: VnetHeader, packet: &[u8]) -> Written {
        let written = match &mut self.device {
            Some(device) => device.write(header, packet),
            None => Ok(Written::Refused),
        };
        let written = written.unwrap_or_else(|e| {
            self.gone = Some(e);
            Written::Refused
        });
        if written == Written::Refused {
            self.state.drops.fetch_add(1, Relaxed);
        }
        written
    }

    /// The batch is not lost: what was joined is taken apart again. Only a segment that is taken proves that it is their
    /// being joined that is not.
    fn write_segments(&mut self, header: VnetHeader, packet: &[u8]) {
        let Ok(packet) = SuperPacket::parse(header, packet) else { return };
        let mut segment = vec![0; packet.segment_len_max()];
        let mut taken = false;
        for i in 0..packet.segments() {
            let len = packet.write_segment(i, &mut segment);
            taken |= self.write_once(VnetHeader::NONE, &segment[..len]) == Written::Yes;
        }
        if taken {
            self.note_refused(header.gso);
        }
    }

    fn note_refused(&mut self, kind: Gso) {
        let counter = match kind {
            Gso::TcpV4 | Gso::TcpV6 => {
                (self.refused.tcp4, self.refused.tcp6) = (true, true);
                &self.state.refused_tcp
            }
            Gso::UdpL4 => {
                (self.refused.udp4, self.refused.udp6) = (true, true);
                &self.state.refused_udp
            }
            Gso::None => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
#[path = "to_tun_tests.rs"]
mod tests;
