//! Bytes that are expected at every position, so that a receiver needs no copy of what was sent.

use std::sync::LazyLock;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::fleet::traffic::MARKER;

/// A prime, so that no segment or block size divides it.
const PERIOD: usize = 1_048_573;
/// Each pass through the block starts this much further on: without, a loss of exactly one period would go unnoticed.
const SHIFT: usize = 7_919;
/// One datagram is contiguous wherever it begins.
const TAIL: usize = 65_536;
/// A [`MARKER`] in every so many bytes.
const MARKER_INTERVAL: usize = 1024;

/// How far apart the patterns of two seeds begin: further than anything that is ever sent.
const SEED_INTERVAL: u64 = (1 << 40) + 12_345;

/// An endless stream of pseudo-random bytes, different for each seed, with the overlay's marker in it. All are windows
/// on one block.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    start: u64,
}

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut block = vec![0; PERIOD];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut block);
    for at in (0..PERIOD - MARKER.len()).step_by(MARKER_INTERVAL) {
        block[at..at + MARKER.len()].copy_from_slice(MARKER);
    }
    block.extend_from_within(..TAIL);
    block
});

impl Pattern {
    /// The pattern of a seed.
    pub fn new(seed: u64) -> Self {
        Self { start: seed.wrapping_mul(SEED_INTERVAL) }
    }

    /// What follows `position`: at least one byte, at most `limit`.
    pub fn at(&self, position: u64, limit: usize) -> &'static [u8] {
        let position = self.start.wrapping_add(position);
        let (pass, offset) = (position / PERIOD as u64, (position % PERIOD as u64) as usize);
        let start = (offset + (pass % PERIOD as u64) as usize * SHIFT) % PERIOD;
        // To the end of the block or of the pass, whatever comes first.
        let length = (PERIOD - offset).min(PERIOD - start).min(limit);
        &BLOCK[start..start + length]
    }

    /// Datagram `number` of `length` ≤ 65,536 bytes.
    pub fn datagram(&self, number: usize, length: usize) -> &'static [u8] {
        let number = self.start.wrapping_add(number as u64);
        let start = (number.wrapping_mul(SHIFT as u64 * 31) % PERIOD as u64) as usize;
        &BLOCK[start..start + length]
    }

    /// Whether `bytes` are what belongs at `position`; else the offset of the first that is not.
    ///
    /// # Errors
    /// The offset within `bytes`.
    pub fn check(&self, position: u64, bytes: &[u8]) -> Result<(), usize> {
        let mut done = 0;
        while done < bytes.len() {
            let expected = self.at(position + done as u64, bytes.len() - done);
            let found = &bytes[done..done + expected.len()];
            if found != expected {
                let first = found.iter().zip(expected).position(|(a, b)| a != b);
                return Err(done + first.expect("the slices differ"));
            }
            done += expected.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(pattern: &Pattern, mut position: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let part = pattern.at(position, length - bytes.len());
            bytes.extend_from_slice(part);
            position += part.len() as u64;
        }
        bytes
    }

    #[test]
    fn a_byte_changed_lost_or_repeated_is_found_where_it_is() {
        let pattern = Pattern::new(1);
        let start = PERIOD as u64 - 100;
        let good = bytes(&pattern, start, 3000);
        assert_eq!(pattern.check(start, &good), Ok(()));
        let mut bad = good.clone();
        bad[1234] ^= 1;
        assert_eq!(pattern.check(start, &bad), Err(1234));
        bad = good.clone();
        bad.remove(500);
        assert!(pattern.check(start, &bad).is_err_and(|at| (500..520).contains(&at)));
    }

    #[test]
    fn a_whole_period_that_is_lost_is_found() {
        let pattern = Pattern::new(2);
        for lost in 1..20 {
            assert!(pattern.check(lost * PERIOD as u64, &bytes(&pattern, 0, 3000)).is_err(), "{lost}");
        }
    }

    #[test]
    fn patterns_of_different_seeds_differ_everywhere() {
        for seed in 1..100 {
            assert!(Pattern::new(0).check(0, &bytes(&Pattern::new(seed), 0, 64)).is_err(), "{seed}");
        }
    }

    #[test]
    fn every_datagram_is_contiguous_and_neighbours_differ() {
        let pattern = Pattern::new(3);
        for number in [0, 1, 2, 1_000, usize::MAX] {
            assert_eq!(pattern.datagram(number, 65_507).len(), 65_507);
        }
        assert_ne!(pattern.datagram(0, 64), pattern.datagram(1, 64));
    }
}
