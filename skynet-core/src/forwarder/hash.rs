//! Hashing for tables that strangers fill.

use core::hash::{BuildHasher, Hasher};

use crate::rng::{Rng, RngCore as _};

use super::limit::fold;

/// Secretly seeded hashing, so that nobody can choose addresses that collide.
#[derive(Clone, Copy)]
pub(super) struct Seed(u64);

impl Seed {
    pub(super) fn random(rng: &mut Rng) -> Self {
        Self(rng.next_u64() | 1)
    }
}

impl BuildHasher for Seed {
    type Hasher = FoldHasher;
    fn build_hasher(&self) -> FoldHasher {
        FoldHasher { state: self.0, seed: self.0 }
    }
}

pub(super) struct FoldHasher {
    state: u64,
    seed: u64,
}

impl FoldHasher {
    fn mix(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.seed ^ 0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.mix(n.into());
    }
    fn write_u16(&mut self, n: u16) {
        self.mix(n.into());
    }
    fn write_u32(&mut self, n: u32) {
        self.mix(n.into());
    }
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }
    fn finish(&self) -> u64 {
        fold(self.state, self.seed)
    }
}
