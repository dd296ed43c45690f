//! Which relay a pair's data takes: the one with the least *sum* of both ends' round-trip times.
//!
//! Both ends know both vectors, for each tells the other what it reckons with (record and CALL), and reckons with what
//! it told. So both compute the same answer: one hop, the same way there and back. It is kept as long as it is there and
//! nothing is clearly better: two relays that are as near as each other never take turns.

use crate::id::RelayNo;
use crate::time::{Duration, Instant};
use crate::wire::probe::RelayRtt;

/// Another relay must save so much,
const MARGIN_MS: u32 = 10;
/// and this part of what the present one takes,
const MARGIN_PART: u32 = 5;
/// and the present one must have been used for so long.
const SETTLED: Duration = Duration::from_secs(60);
/// A pair's first was chosen before the others were known: sessions at members begin when there is traffic for them.
const FIRST_SETTLED: Duration = Duration::from_secs(5);
/// A relay by which the peer could not be reached is left alone for so long, if there is another.
const AVOID: Duration = Duration::from_secs(30);
/// Relays avoided at once; the oldest is forgotten.
const MAX_AVOIDED: usize = 4;

/// A pair's relay over time.
#[derive(Clone, Debug, Default)]
pub struct PairRelay {
    current: Option<(u16, Instant)>,
    /// The present one is the pair's first.
    is_first: bool,
    avoided: Vec<(u16, Instant)>,
}

impl PairRelay {
    /// The relay chosen last.
    pub fn current(&self) -> Option<u16> {
        self.current.map(|(no, _)| no)
    }

    /// The peer did not answer by this relay, or the relay says that it is not there.
    pub fn avoid(&mut self, relay_no: u16, now: Instant) {
        self.avoided.retain(|(no, until)| *no != relay_no && *until > now);
        if self.avoided.len() == MAX_AVOIDED {
            self.avoided.remove(0);
        }
        self.avoided.push((relay_no, now + AVOID));
    }

    /// Chooses among the relays at which this node has a session (`mine`). Of a peer that told none (`theirs` empty) it
    /// is taken that it is as far from each of them as we are. If there is none in common, ours is tried all the same:
    /// what is known of the peer may be old. A member that relays is used only where both have told it.
    pub fn choose(&mut self, mine: &[RelayRtt], theirs: &[RelayRtt], now: Instant) -> Option<u16> {
        self.avoided.retain(|(_, until)| *until > now);
        let common = |no: u16| theirs.iter().find(|t| t.relay_no == no).map(|t| u32::from(t.rtt_ms));
        let any = mine.iter().any(|m| common(m.relay_no).is_some());
        let sums = mine.iter().filter_map(|m| {
            let own = u32::from(m.rtt_ms);
            let both_told = any || RelayNo(m.relay_no).is_member();
            let other = if both_told { common(m.relay_no)? } else { own };
            Some((self.is_avoided(m.relay_no), own + other, m.relay_no))
        });
        let sums: Vec<(bool, u32, u16)> = sums.collect();
        let (avoided, least, best) = sums.iter().min().copied()?;
        if let Some((current, since)) = self.current
            && let Some((is_avoided, sum, _)) = sums.iter().find(|(_, _, no)| *no == current)
            && *is_avoided == avoided
        {
            let clearly = least + MARGIN_MS.max(sum / MARGIN_PART) <= *sum;
            let settled = if self.is_first { FIRST_SETTLED } else { SETTLED };
            if !(clearly && now.saturating_since(since) >= settled) {
                return Some(current);
            }
        }
        if self.current() != Some(best) {
            self.is_first = self.current.is_none();
            self.current = Some((best, now));
        }
        Some(best)
    }

    fn is_avoided(&self, relay_no: u16) -> bool {
        self.avoided.iter().any(|(no, _)| *no == relay_no)
    }
}

/// A round-trip time as it is told: an old word stays until it is clearly wrong, so that noise is no news.
pub fn steady_ms(told: Option<u16>, measured: Duration) -> u16 {
    let ms = u16::try_from(measured.as_millis()).unwrap_or(u16::MAX);
    let margin = |told: u16| (MARGIN_MS as u16).max(told / MARGIN_PART as u16);
    told.filter(|told| ms.abs_diff(*told) < margin(*told)).unwrap_or(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtts(list: &[(u16, u16)]) -> Vec<RelayRtt> {
        list.iter().map(|&(relay_no, rtt_ms)| RelayRtt { relay_no, rtt_ms }).collect()
    }

    fn at(s: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(s)
    }

    #[test]
    fn the_sum_decides_and_both_ends_say_the_same() {
        let (a, b) = (rtts(&[(1, 10), (2, 40)]), rtts(&[(1, 90), (2, 15), (3, 1)]));
        let choose = |mine, theirs| PairRelay::default().choose(mine, theirs, at(0));
        assert_eq!(choose(&a, &b), Some(2), "55 and not 100, though 1 is nearer to a");
        assert_eq!(choose(&b, &a), Some(2), "and 3 is nearer to b");
        let tie = rtts(&[(7, 20), (4, 20)]);
        assert_eq!(choose(&tie, &tie), Some(4));
        assert_eq!(choose(&[], &a), None);
    }

    #[test]
    fn a_peer_that_told_nothing_or_shares_nothing_is_tried_by_our_nearest() {
        let mine = rtts(&[(1, 30), (2, 10)]);
        for theirs in [rtts(&[]), rtts(&[(9, 1)])] {
            assert_eq!(PairRelay::default().choose(&mine, &theirs, at(0)), Some(2));
        }
    }

    #[test]
    fn what_is_used_stays_until_another_is_clearly_better() {
        let mut pair = PairRelay::default();
        let peer = rtts(&[(1, 50), (2, 50)]);
        assert_eq!(pair.choose(&rtts(&[(1, 50), (2, 60)]), &peer, at(0)), Some(1));
        let a_little = rtts(&[(1, 50), (2, 31)]);
        assert_eq!(pair.choose(&a_little, &peer, at(100)), Some(1), "a fifth of 100 ms is 20");
        let clearly = rtts(&[(1, 50), (2, 30)]);
        assert_eq!(pair.choose(&clearly, &peer, at(4)), Some(1), "too early");
        assert_eq!(pair.choose(&clearly, &peer, at(5)), Some(2), "the first is soon left");
        let back = rtts(&[(1, 10), (2, 50)]);
        assert_eq!(pair.choose(&back, &peer, at(64)), Some(2), "the second is not");
        assert_eq!(pair.choose(&back, &peer, at(65)), Some(1));
        assert_eq!(pair.choose(&rtts(&[(2, 1)]), &peer, at(66)), Some(2), "but what is gone is left at once");
    }

    #[test]
    fn a_member_relays_a_pair_only_if_both_told_it() {
        let (member, other) = (RelayNo::FIRST_MEMBER | 5, RelayNo::FIRST_MEMBER | 6);
        let mine = rtts(&[(1, 50), (member, 1)]);
        for theirs in [rtts(&[]), rtts(&[(1, 50)]), rtts(&[(other, 1)]), rtts(&[(9, 1)])] {
            assert_eq!(PairRelay::default().choose(&mine, &theirs, at(0)), Some(1), "{theirs:?}");
        }
        let both = rtts(&[(1, 50), (member, 20)]);
        assert_eq!(PairRelay::default().choose(&mine, &both, at(0)), Some(member));
        let alone = rtts(&[(member, 1)]);
        assert_eq!(PairRelay::default().choose(&alone, &[], at(0)), None);
        assert_eq!(PairRelay::default().choose(&alone, &alone, at(0)), Some(member));
    }

    #[test]
    fn a_relay_without_the_peer_is_left_alone_for_a_while() {
        let mut pair = PairRelay::default();
        let all = rtts(&[(1, 10), (2, 90)]);
        assert_eq!(pair.choose(&all, &all, at(0)), Some(1));
        pair.avoid(1, at(5));
        assert_eq!(pair.choose(&all, &all, at(5)), Some(2));
        assert_eq!(pair.choose(&rtts(&[(1, 10)]), &all, at(6)), Some(1), "better than none");
        assert_eq!(pair.choose(&all, &all, at(7)), Some(2));
        assert_eq!(pair.choose(&all, &all, at(36)), Some(2), "not back and forth");
        assert_eq!(pair.choose(&all, &all, at(80)), Some(1));
    }

    #[test]
    fn noise_is_not_told() {
        let ms = Duration::from_millis;
        assert_eq!(steady_ms(None, ms(31)), 31);
        assert_eq!(steady_ms(Some(31), ms(40)), 31);
        assert_eq!(steady_ms(Some(31), ms(41)), 41);
        assert_eq!(steady_ms(Some(200), ms(165)), 200);
        assert_eq!(steady_ms(Some(200), ms(160)), 160);
        assert_eq!(steady_ms(None, Duration::from_secs(100)), u16::MAX);
    }
}
