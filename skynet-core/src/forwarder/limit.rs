//! Token buckets: one, and a fixed-size table of them by source prefix.

use core::net::IpAddr;

use crate::rng::{Rng, RngCore as _};
use crate::time::Instant;

/// A token bucket whose tokens are counted in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    milli: u64,
    last: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn full(burst: u64, now: Instant) -> Self {
        Self { milli: burst.saturating_mul(1000), last: now }
    }
    /// Takes `n` tokens if they are there, after refilling at `per_s` tokens a second up to `burst`.
    pub fn take(&mut self, n: u64, per_s: u64, burst: u64, now: Instant) -> bool {
        let elapsed_us = u64::try_from(now.saturating_since(self.last).as_micros()).unwrap_or(u64::MAX);
        let earned = elapsed_us.saturating_mul(per_s) / 1000;
        if earned > 0 {
            self.milli = self.milli.saturating_add(earned).min(burst.saturating_mul(1000));
            self.last = now;
        }
        match self.milli.checked_sub(n.saturating_mul(1000)) {
            Some(left) => {
                self.milli = left;
                true
            }
            None => false,
        }
    }
}

/// The prefix one customer of an access network controls: an IPv4 address or an IPv6 /64.
pub fn prefix(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
    }
}

/// Buckets in a [`PrefixLimiter`]: 8,192 × 16 bytes.
const BUCKETS: usize = 8_192;

/// A token bucket per source prefix in constant memory. Prefixes that collide under a secret hash share a bucket, so
/// a flood from many prefixes can slow others down, never make the table grow or forget.
pub struct PrefixLimiter {
    seed: u64,
    per_s: u64,
    burst: u64,
    buckets: Vec<Bucket>,
}

impl PrefixLimiter {
    /// Full buckets of `burst` tokens, refilled at `per_s` a second.
    pub fn new(per_s: u64, burst: u64, rng: &mut Rng, now: Instant) -> Self {
        let buckets = vec![Bucket::full(burst, now); BUCKETS];
        Self { seed: rng.next_u64() | 1, per_s, burst, buckets }
    }
    /// Takes a token of this source's prefix, if there is one.
    pub fn allow(&mut self, ip: IpAddr, now: Instant) -> bool {
        let index = fold(prefix(ip) ^ self.seed, 0x9e37_79b9_7f4a_7c15) as usize % BUCKETS;
        self.buckets[index].take(1, self.per_s, self.burst, now)
    }
}

/// Both halves of a 128-bit product: cheap, and every input bit reaches every output bit.
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut now = Instant::ZERO;
        let mut bucket = Bucket::full(10, now);
        assert_eq!((0..100).filter(|_| bucket.take(1, 5, 10, now)).count(), 10);
        for _ in 0..1000 {
            now = now + Duration::from_millis(10);
            bucket.take(1, 5, 10, now);
        }
        now = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(1, 5, 10, now)).count(), 5);
    }

    #[test]
    fn one_prefix_does_not_use_up_anothers_tokens() {
        let mut limiter = PrefixLimiter::new(1, 3, &mut Rng::from_seed([1; 32]), Instant::ZERO);
        let a: IpAddr = "2001:db8::1".parse().unwrap();
        let same: IpAddr = "2001:db8::ffff".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        assert_eq!((0..9).filter(|_| limiter.allow(a, Instant::ZERO)).count(), 3);
        assert!(!limiter.allow(same, Instant::ZERO));
        assert!(limiter.allow(other, Instant::ZERO));
    }
}
