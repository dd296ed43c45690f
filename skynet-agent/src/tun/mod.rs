//! The TUN device: batches of IP packets in and out, behind two traits so that a test may stand in for the kernel.

mod batch;
mod linux;

use std::io;

use skynet_core::offload::{Offloads, VnetHeader};

pub use batch::{MAX_PACKET, PACKETS_PER_BATCH, PacketBatch};
pub use linux::{TunDevice, TunError};

/// The reading half of a TUN queue.
pub trait TunRead {
    /// Appends what is there to `batch` until it is full or nothing is left, without waiting; how many packets were
    /// appended. Each begins with a [`VnetHeader`].
    ///
    /// # Errors
    /// The device is gone. A single bad packet is no error.
    fn read_batch(&mut self, batch: &mut PacketBatch) -> io::Result<usize>;
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// The kernel has it.
    Yes,
    /// The queue is full, the interface is down, or it is no packet: dropped.
    Refused,
    /// The kernel takes no such super-packet: its segments may be written one by one.
    NotAsSuperPacket,
}

/// The writing half of a TUN queue.
pub trait TunWrite {
    /// Writes one IP packet or super-packet.
    ///
    /// # Errors
    /// The device is gone.
    fn write(&mut self, header: VnetHeader, packet: &[u8]) -> io::Result<Written>;

    /// Which super-packets it takes.
    fn takes(&self) -> Offloads;
}
