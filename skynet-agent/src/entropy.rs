//! The one place of the agent that asks the operating system for randomness: the seed of the core's generator.

use std::io;

/// 32 bytes of the kernel's generator; blocks early at boot until it is seeded, as key generation must.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| io::Error::other(format!("no randomness from the kernel: {e}")))?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_seeds_differ() {
        assert_ne!(super::seed().unwrap(), super::seed().unwrap());
    }
}
