//! The TUN device: batches of IP packets in and out, behind two traits so that a test may stand in for the kernel.

mod batch;
mod linux;

use std::io;

pub use batch::{MAX_PACKET, PACKETS_PER_BATCH, PacketBatch};
pub use linux::{TunDevice, TunError};

/// The reading half of a TUN queue.
pub trait TunRead {
    /// Appends what is there to `batch` until it is full or nothing is left, without waiting; how many packets were
    /// appended.
    ///
    /// # Errors
    /// The device is gone. A single bad packet is no error.
    fn read_batch(&mut self, batch: &mut PacketBatch) -> io::Result<usize>;
}

/// The writing half of a TUN queue.
pub trait TunWrite {
    /// Writes one IP packet; `false` if the queue is full or the kernel refused it (the packet is dropped).
    ///
    /// # Errors
    /// The device is gone.
    fn write(&mut self, packet: &[u8]) -> io::Result<bool>;
}
