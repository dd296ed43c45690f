//! Whatever happens, it works again afterwards: random scripts of mishaps with production nodes.

use skynet_sim::chaos;

/// The script of a seed: a plain congruential generator, so that it never changes with a library.
fn script(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let len = 3 + usize::from(next() % 30);
    (0..len).map(|_| next()).collect()
}

fn hold(seeds: std::ops::Range<u64>) {
    let failures: Vec<String> = seeds
        .filter_map(|seed| chaos::run(seed, &script(seed)).err().map(|e| format!("seed {seed}: {e}")))
        .collect();
    assert!(failures.is_empty(), "{} failed, the first:\n{}", failures.len(), failures[0]);
}

#[test]
fn everything_works_again_after_any_mishap() {
    hold(0..20);
}

/// `SKYNET_SEEDS` scripts.
#[test]
#[ignore = "long; part of the soak"]
fn everything_works_again_after_hundreds_of_mishaps() {
    let seeds = std::env::var("SKYNET_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    hold(1_000..1_000 + seeds);
}
