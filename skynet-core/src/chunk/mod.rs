//! Chunks: one packet of up to 64 KiB, a super-packet or one too large for the path, carried as one unit of
//! full-size messages (PROTOCOL §2.2).
//!
//! ```text
//! OUT   super-packet ─ Unit::cut ─ write_chunk(0), (1) … under consecutive counters ─ seal each
//! BACK  open each ─ Chunk::parse ─ Joiner::add … finish ─ one write to the TUN queue
//! ```
//!
//! Against a message per segment this saves, at both ends, headers and checksums of every segment, and the pass that
//! joins segments again. A lost chunk costs the segments it has bytes of, nothing else. Pure functions of bytes and
//! time; no allocation per packet.

mod cut;
mod format;
mod join;
mod loss;

#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod pipeline_tests;

pub use cut::{MIN_SEGMENTS, Unit};
pub use format::{CHUNK, CHUNK_HEADER_LEN, Chunk, MAX_CHUNKS, MIN_SHARE, Shape};
pub use join::{Exit, From, Joiner, MAX_OPEN_PER_KEY, MAX_OPEN_UNITS, UNIT_LIFETIME};
pub use loss::{LOSS_HOLD, LossGuard};
