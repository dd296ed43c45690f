//! The header in front of every chunk (PROTOCOL §2.2).
//!
//! ```text
//! 0     0x20 chunk
//! 1     i: which chunk of its unit
//! 2  ┐  u16 bytes of the whole packet
//! 4  │  u16 bytes of it in each chunk but the last              the same in all chunks of a unit
//! 6  ┘  u16 payload bytes per segment if the packet is a super-packet, else 0
//! 8     bytes i × share … of the packet, then zeros up to a multiple of 16
//! ```
//!
//! All else follows: how many chunks there are, how long each is, and where a unit begins, since the counters of its
//! messages are consecutive.

use crate::constants::PADDING_MULTIPLE;
use crate::drop::DropReason;

/// First byte of a chunk.
pub const CHUNK: u8 = 0x20;
/// Bytes in front of a chunk's share of the packet.
pub const CHUNK_HEADER_LEN: usize = 8;
/// Chunks in a unit at most: what one train carries, and the bits of a word.
pub const MAX_CHUNKS: usize = 64;
/// The smallest share: all headers of the packet, 60 bytes of IP and 60 of TCP at most, are in chunk 0.
pub const MIN_SHARE: u16 = 128;

/// What all chunks of a unit say alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Bytes of the whole packet.
    pub(super) total: u16,
    /// Bytes of it in each chunk but the last.
    share: u16,
    /// Payload bytes of its segments; 0 for an ordinary packet.
    pub(super) segment: u16,
}

impl Shape {
    /// A packet of `total` bytes in chunks of `share`; `None` if there is nothing to cut, the share is below
    /// [`MIN_SHARE`] or there would be more than [`MAX_CHUNKS`].
    pub fn new(total: u16, share: u16, segment: u16) -> Option<Self> {
        let shape = Self { total, share, segment };
        let valid = total > 0 && share >= MIN_SHARE && shape.chunks() <= MAX_CHUNKS;
        valid.then_some(shape)
    }

    /// Bytes of the whole packet.
    pub fn total(&self) -> usize {
        self.total.into()
    }

    /// Payload bytes per segment of a super-packet, except its last; 0 for an ordinary packet.
    pub fn segment(&self) -> u16 {
        self.segment
    }

    /// How many chunks there are, at least one.
    pub fn chunks(&self) -> usize {
        self.total.div_ceil(self.share).into()
    }

    /// Which bytes of the packet chunk `i` carries; `i` is below [`Self::chunks`].
    pub fn range(&self, i: usize) -> core::ops::Range<usize> {
        let from = i * usize::from(self.share);
        from..self.total().min(from + usize::from(self.share))
    }

    /// The chunk that carries byte `at` of the packet.
    pub fn chunk_of(&self, at: usize) -> usize {
        at / usize::from(self.share)
    }

    /// The header of chunk `i`.
    pub fn header(&self, i: usize) -> [u8; CHUNK_HEADER_LEN] {
        let i = u8::try_from(i).expect("a unit has at most 64 chunks");
        let ([a, b], [c, d], [e, f]) =
            (self.total.to_be_bytes(), self.share.to_be_bytes(), self.segment.to_be_bytes());
        [CHUNK, i, a, b, c, d, e, f]
    }
}

/// One chunk, as opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk<'a> {
    /// What it shares with the other chunks of its unit.
    pub shape: Shape,
    /// Which it is; below [`Shape::chunks`].
    pub i: usize,
    /// Its bytes of the packet: as many as [`Shape::range`] says.
    pub payload: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads the plaintext of a message of transport data, with its padding.
    ///
    /// # Errors
    /// [`DropReason::BadChunk`]: fields that contradict each other or the length.
    pub fn parse(plaintext: &'a [u8]) -> Result<Self, DropReason> {
        let (header, rest) = plaintext.split_first_chunk::<CHUNK_HEADER_LEN>().ok_or(DropReason::BadChunk)?;
        let [CHUNK, i, a, b, c, d, e, f] = *header else { return Err(DropReason::BadChunk) };
        let short = |high, low| u16::from_be_bytes([high, low]);
        let shape = Shape::new(short(a, b), short(c, d), short(e, f)).ok_or(DropReason::BadChunk)?;
        let i = usize::from(i);
        if i >= shape.chunks() {
            return Err(DropReason::BadChunk);
        }
        let len = shape.range(i).len();
        if plaintext.len() != (CHUNK_HEADER_LEN + len).next_multiple_of(PADDING_MULTIPLE) {
            return Err(DropReason::BadChunk);
        }
        Ok(Self { shape, i, payload: &rest[..len] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(shape: Shape, i: usize) -> Vec<u8> {
        let mut bytes = shape.header(i).to_vec();
        bytes.extend(shape.range(i).map(|at| (at % 251) as u8));
        bytes.resize(bytes.len().next_multiple_of(PADDING_MULTIPLE), 0);
        bytes
    }

    #[test]
    fn a_chunk_survives_its_bytes_and_the_padding_of_transport_data() {
        for (total, share, segment) in
            [(3_000, 1_352, 1_308), (1_352, 1_352, 0), (65_535, 1_024, 9), (1, 128, 0)]
        {
            let shape = Shape::new(total, share, segment).unwrap();
            let mut bytes = 0;
            for i in 0..shape.chunks() {
                let encoded = encode(shape, i);
                let chunk = Chunk::parse(&encoded).unwrap();
                assert_eq!((chunk.shape, chunk.i, chunk.payload.len()), (shape, i, shape.range(i).len()));
                assert_eq!(chunk.payload.first(), Some(&((shape.range(i).start % 251) as u8)));
                assert!(shape.range(i).all(|at| shape.chunk_of(at) == i));
                bytes += chunk.payload.len();
            }
            assert_eq!(bytes, usize::from(total));
        }
    }

    #[test]
    fn what_cannot_be_a_unit_is_refused() {
        for (total, share) in [(0, 128), (100, 127), (100, 0), (8_193, 128), (65_535, 1_023)] {
            assert_eq!(Shape::new(total, share, 0), None, "{total} {share}");
        }
        assert_eq!(Shape::new(8_192, 128, 0).map(|s| s.chunks()), Some(MAX_CHUNKS));
    }

    #[test]
    fn no_flip_truncation_or_extension_panics_and_none_is_taken_for_the_same() {
        let shape = Shape::new(700, 300, 100).unwrap();
        for i in 0..shape.chunks() {
            let good = encode(shape, i);
            let expected = Chunk::parse(&good).unwrap();
            for bit in 0..(CHUNK_HEADER_LEN + expected.payload.len()) * 8 {
                let mut flipped = good.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(Chunk::parse(&flipped), Ok(expected), "bit {bit}");
            }
            for len in 0..good.len() {
                assert_eq!(Chunk::parse(&good[..len]), Err(DropReason::BadChunk), "{len}");
            }
            for more in 1..40 {
                let longer = [&good[..], &vec![0; more]].concat();
                assert_eq!(Chunk::parse(&longer), Err(DropReason::BadChunk), "{more}");
            }
        }
    }

    #[test]
    fn every_header_is_refused_or_says_what_it_was_parsed_from() {
        let mut accepted = 0;
        for i in 0..=255 {
            for (total, share) in
                [(1, 128), (128, 128), (129, 128), (8_192, 128), (8_193, 128), (65_535, 2_000)]
            {
                for len in (16..=2_016).step_by(16) {
                    let (t, s) = (u16::to_be_bytes(total), u16::to_be_bytes(share));
                    let mut bytes = vec![CHUNK, i, t[0], t[1], s[0], s[1], 0, 7];
                    bytes.resize(len, 1);
                    if let Ok(chunk) = Chunk::parse(&bytes) {
                        assert_eq!(chunk.shape.header(chunk.i), bytes[..8]);
                        accepted += 1;
                    }
                }
            }
        }
        assert_eq!(accepted, 1 + 1 + 2 + 64 + 33);
    }
}
