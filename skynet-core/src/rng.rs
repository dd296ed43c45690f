//! Randomness as an argument: one seeded generator per node.

use rand_chacha::ChaCha20Rng;
pub use rand_core::RngCore;
use rand_core::{CryptoRng, SeedableRng};

/// A ChaCha20 generator seeded by the caller: with 32 bytes of the operating system's in production, with the
/// world's seed in a simulation. Whoever holds the seed can replay the node.
#[derive(Clone)]
pub struct Rng(ChaCha20Rng);

impl Rng {
    /// A generator whose output is a function of `seed` alone.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// A generator for a child, independent of what this one yields later.
    pub fn fork(&mut self) -> Self {
        Self::from_seed(self.array())
    }

    /// `N` random bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill_bytes(&mut out);
        out
    }

    /// Uniform in `0..bound`; 0 if `bound` is 0. The bias of a 64-bit remainder is irrelevant for jitter, its only use.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64().checked_rem(bound).unwrap_or(0)
    }
}

impl RngCore for Rng {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.try_fill_bytes(dest)
    }
}

impl CryptoRng for Rng {}

impl core::fmt::Debug for Rng {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Rng(***)")
    }
}
