//! Out: a packet from the kernel becomes the chunks of one unit.

use super::format::{CHUNK_HEADER_LEN, Shape};
use crate::offload::SuperPacket;

/// Segments from which a super-packet is worth a unit: with fewer there is nothing to save.
pub const MIN_SEGMENTS: usize = 3;

/// A packet that is to be sent as chunks.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    packet: &'a [u8],
    shape: Shape,
    /// A checksum the kernel left to us, and where it belongs.
    checksum: Option<(usize, [u8; 2])>,
}

impl<'a> Unit<'a> {
    /// The unit for `packet` on a path that carries `limit` bytes in a message. `None` if it goes better or only
    /// without: it has few segments and fits, or is too long for a unit.
    pub fn cut(packet: &SuperPacket<'a>, limit: u16) -> Option<Self> {
        if packet.segments() < MIN_SEGMENTS && packet.segment_len_max() <= limit.into() {
            return None;
        }
        let bytes = packet.ip().bytes();
        let total = u16::try_from(bytes.len()).ok()?;
        let share = limit.checked_sub(CHUNK_HEADER_LEN as u16)?;
        let shape = Shape::new(total, share, packet.gso_size())?;
        Some(Self { packet: bytes, shape, checksum: packet.missing_checksum() })
    }

    /// How many chunks there are; their counters have to be consecutive.
    pub fn chunks(&self) -> usize {
        self.shape.chunks()
    }

    /// Bytes of chunk `i`, which is below [`Self::chunks`].
    pub fn chunk_len(&self, i: usize) -> usize {
        CHUNK_HEADER_LEN + self.shape.range(i).len()
    }

    /// Writes chunk `i` to the front of `out` and says how long it is. Panics if `i` is not below [`Self::chunks`] or
    /// `out` is shorter than [`Self::chunk_len`].
    pub fn write_chunk(&self, i: usize, out: &mut [u8]) -> usize {
        let range = self.shape.range(i);
        let len = CHUNK_HEADER_LEN + range.len();
        let (header, payload) = out[..len].split_at_mut(CHUNK_HEADER_LEN);
        header.copy_from_slice(&self.shape.header(i));
        payload.copy_from_slice(&self.packet[range.clone()]);
        if let Some((field, checksum)) = self.checksum {
            for (at, byte) in (field..).zip(checksum) {
                if range.contains(&at) {
                    payload[at - range.start] = byte;
                }
            }
        }
        len
    }
}
