//! One `u64` seeds the world; every part derives its own stream of randomness from it and from what it is.

use skynet_core::crypto::hash;
use skynet_core::rng::Rng;

/// The 32-byte seed of part `index` of kind `what`. Parts are independent: adding a host does not change what a
/// link draws.
pub(crate) fn derive(world: u64, what: &str, index: u64) -> [u8; 32] {
    hash(&[b"skynet sim 1", what.as_bytes(), &world.to_be_bytes(), &index.to_be_bytes()])
}

/// A generator from [`derive`].
pub(crate) fn rng(world: u64, what: &str, index: u64) -> Rng {
    Rng::from_seed(derive(world, what, index))
}

/// True in `ppm` of a million cases. Draws nothing for 0, so an ideal link consumes no randomness.
pub(crate) fn chance(rng: &mut Rng, ppm: u32) -> bool {
    ppm != 0 && rng.below(1_000_000) < u64::from(ppm)
}
