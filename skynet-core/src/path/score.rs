//! Which of two usable paths is better: the order of the declarations below is the policy.

use std::net::IpAddr;

use super::candidate::Candidate;
use crate::time::Duration;

/// Best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Straight to the peer.
    Direct,
    /// Through a relay.
    Relayed,
}

/// Less is better: the tier first, then round-trip time in µs after the bonus of the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Score {
    /// Decides alone if different.
    pub tier: Tier,
    /// µs, below zero where the bonus is larger than the time; `i64::MAX` if never measured.
    pub rtt_us: i64,
}

/// IPv6 has no NAT whose mapping could expire: worth 3 ms.
const IPV6_BONUS: i64 = 3_000;
/// A private address is inside one site: no egress fee, no shared gateway. A millisecond more than a change must pay, so
/// that of two neighbours' paths the private one wins though the way around by the gateway is as fast.
const PRIVATE_BONUS: i64 = 6_000;
/// A challenger must be better by this much at least,
const MARGIN_US: i64 = 5_000;
/// and by this part of the incumbent's time.
const MARGIN_PART: i64 = 10;

impl Score {
    pub(super) fn direct(candidate: &Candidate, rtt: Option<Duration>) -> Self {
        let bonus = match candidate.addr.ip() {
            IpAddr::V4(v4) if v4.is_private() => PRIVATE_BONUS,
            IpAddr::V4(_) => 0,
            IpAddr::V6(v6) if v6.is_unique_local() => PRIVATE_BONUS,
            IpAddr::V6(_) => IPV6_BONUS,
        };
        let measured = |r: Duration| i64::try_from(r.as_micros()).unwrap_or(i64::MAX);
        let rtt_us = rtt.map_or(i64::MAX, |r| measured(r).saturating_sub(bonus));
        Self { tier: Tier::Direct, rtt_us }
    }

    /// Is `self` so much better than `incumbent` that a change pays: a better tier, or max(5 ms, 10 %, `jitter`) in time.
    pub fn clearly_beats(&self, incumbent: &Self, jitter: Duration) -> bool {
        let jitter_us = i64::try_from(jitter.as_micros()).unwrap_or(i64::MAX);
        let margin = MARGIN_US.max(incumbent.rtt_us / MARGIN_PART).max(jitter_us);
        self.tier < incumbent.tier
            || (self.tier == incumbent.tier && self.rtt_us.saturating_add(margin) <= incumbent.rtt_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::CandidateKind;

    fn score(tier: Tier, rtt_us: i64) -> Score {
        Score { tier, rtt_us }
    }

    #[test]
    fn the_tier_decides_before_the_time() {
        assert!(score(Tier::Direct, 90_000) < score(Tier::Relayed, 1));
        assert!(score(Tier::Direct, 90_000).clearly_beats(&score(Tier::Relayed, 1), Duration::ZERO));
        assert!(!score(Tier::Relayed, 1).clearly_beats(&score(Tier::Direct, 90_000), Duration::ZERO));
    }

    #[test]
    fn what_jitter_explains_is_not_better() {
        let (old, new) = (score(Tier::Direct, 100_000), score(Tier::Direct, 70_000));
        assert!(new.clearly_beats(&old, Duration::from_millis(30)));
        assert!(!new.clearly_beats(&old, Duration::from_millis(31)));
    }

    #[test]
    fn a_neighbour_is_better_by_its_private_address_however_near_the_public_one_is() {
        let of = |addr: &str, us| {
            let candidate = Candidate::new(CandidateKind::Host, addr.parse().unwrap());
            Score::direct(&candidate, Some(Duration::from_micros(us)))
        };
        assert!(of("10.1.0.11:7001", 900).clearly_beats(&of("198.51.100.2:7001", 400), Duration::ZERO));
        assert!(!of("198.51.100.2:7001", 10).clearly_beats(&of("10.1.0.11:7001", 3_000), Duration::ZERO));
        assert!(
            of("10.1.0.11:7001", 80_000) > of("198.51.100.2:7001", 20_000),
            "a private line across the world"
        );
    }

    #[test]
    fn inside_a_tier_a_change_must_pay() {
        let old = score(Tier::Direct, 100_000);
        assert!(!score(Tier::Direct, 90_001).clearly_beats(&old, Duration::ZERO));
        assert!(score(Tier::Direct, 90_000).clearly_beats(&old, Duration::ZERO));
        let near = score(Tier::Direct, 10_000);
        assert!(!score(Tier::Direct, 5_001).clearly_beats(&near, Duration::ZERO));
        assert!(score(Tier::Direct, 5_000).clearly_beats(&near, Duration::ZERO));
    }
}
