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
}

impl WriteState {
    pub(super) fn new(coalesce: Offloads) -> Self {
        Self {
            drops: AtomicU64::new(0),
            tcp: AtomicBool::new(coalesce.tcp4 || coalesce.tcp6),
            udp: AtomicBool::new(coalesce.udp4 || coalesce.udp6),
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
}

/// The TUN device as the core's last step sees it.
pub(super) struct ToTun {
    coalescer: Coalescer,
    wanted: Offloads,
    writer: Writer,
}

/// The coalescer's sink.
struct Writer {
    device: Option<TunDevice>,
    state: Arc<WriteState>,
    /// The kernel has refused a super-packet of this kind in this batch.
    refused: Option<Gso>,
    gone: Option<io::Error>,
}

impl ToTun {
    /// Delivers to nowhere until [`Self::attach`]; coalesces what is `wanted` and the device takes.
    pub(super) fn new(wanted: Offloads, state: Arc<WriteState>) -> Self {
        let writer = Writer { device: None, state, refused: None, gone: None };
        Self { coalescer: Coalescer::new(wanted), wanted, writer }
    }

    /// From now on to this device, or to nowhere.
    pub(super) fn attach(&mut self, device: Option<TunDevice>) {
        self.coalescer.flush(&mut self.writer);
        if let Some(device) = &device {
            self.wanted.tcp4 &= device.has_offload();
            self.wanted.tcp6 &= device.has_offload();
            self.wanted.udp4 &= device.has_udp_offload();
            self.wanted.udp6 &= device.has_udp_offload();
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
        if let Some(kind) = self.writer.refused.take() {
            self.forgo(kind);
        }
        self.writer.gone.take().map_or(Ok(()), Err)
    }

    /// The kernel does not take super-packets of `kind`: some refuse valid ones.
    fn forgo(&mut self, kind: Gso) {
        tracing::warn!(?kind, "the kernel refuses super-packets of this kind; writing packet by packet");
        match kind {
            Gso::TcpV4 | Gso::TcpV6 => (self.wanted.tcp4, self.wanted.tcp6) = (false, false),
            Gso::UdpL4 => (self.wanted.udp4, self.wanted.udp6) = (false, false),
            Gso::None => {}
        }
        self.allow();
    }

    fn allow(&mut self) {
        self.coalescer.set_allowed(self.wanted);
        self.writer.state.tcp.store(self.wanted.tcp4 || self.wanted.tcp6, Relaxed);
        self.writer.state.udp.store(self.wanted.udp4 || self.wanted.udp6, Relaxed);
    }
}

impl Deliver for ToTun {
    fn deliver(&mut self, packet: &[u8]) {
        self.coalescer.push(packet, &mut self.writer);
    }
}

impl TunSink for Writer {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        if self.write_once(header, packet) == Written::NotAsSuperPacket {
            self.refused = Some(header.gso);
            self.write_segments(header, packet);
        }
    }
}

impl Writer {
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

    /// The batch is not lost: what was joined is taken apart again.
    fn write_segments(&mut self, header: VnetHeader, packet: &[u8]) {
        let Ok(packet) = SuperPacket::parse(header, packet) else { return };
        let mut segment = vec![0; packet.segment_len_max()];
        for i in 0..packet.segments() {
            let len = packet.write_segment(i, &mut segment);
            self.write_once(VnetHeader::NONE, &segment[..len]);
        }
    }
}
