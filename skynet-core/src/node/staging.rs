//! Packets that wait for something: for a key (per peer) or for the directory's answer (per destination). Bounded in
//! count and age; the oldest gives way, as in WireGuard's staged queue.

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};

use crate::time::{Duration, Instant};

/// Packets one peer may have waiting for its first key.
pub const MAX_STAGED_PER_PEER: usize = 128;
/// Packets one unresolved destination may have waiting.
pub const MAX_STAGED_PER_DESTINATION: usize = 16;
/// Destinations that may be unresolved at once.
pub const MAX_DESTINATIONS: usize = 256;
/// A packet older than this is not worth delivering: whoever sent it has sent it again. Long enough for a handshake of
/// which one message was lost: it begins anew after 5 s and up to a third of one.
pub const MAX_AGE: Duration = Duration::from_millis(6_500);

/// One bounded queue of packets.
#[derive(Default, Debug)]
pub struct Staged {
    packets: VecDeque<(Instant, Vec<u8>)>,
}

impl Staged {
    /// Adds a packet; returns whether an older one had to go.
    pub fn push(&mut self, packet: Vec<u8>, cap: usize, now: Instant) -> bool {
        let full = self.packets.len() >= cap;
        if full {
            self.packets.pop_front();
        }
        self.packets.push_back((now, packet));
        full
    }

    /// Takes all that are still worth sending, in order, and says how many were not.
    pub fn drain(&mut self, now: Instant) -> (Vec<Vec<u8>>, usize) {
        let waited = self.packets.len();
        let fresh = |at: &Instant| now.saturating_since(*at) <= MAX_AGE;
        let packets: Vec<_> = self.packets.drain(..).filter(|(at, _)| fresh(at)).map(|(_, p)| p).collect();
        let stale = waited - packets.len();
        (packets, stale)
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// When the last packet came.
    pub fn newest(&self) -> Option<Instant> {
        self.packets.back().map(|(at, _)| *at)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

/// What became of a packet for an unresolved destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// It waits, the first for its destination, which has to be asked for.
    New,
    /// It waits like others for its destination,
    Known,
    /// and the oldest of them had to go.
    InPlaceOfAnother,
    /// Too many destinations are unresolved.
    Refused,
}

/// Packets for overlay addresses the directory has been asked about.
#[derive(Default, Debug)]
pub struct Unresolved {
    by_destination: BTreeMap<IpAddr, (Instant, Staged)>,
}

impl Unresolved {
    /// Adds a packet, if there is room for its destination.
    pub fn push(&mut self, destination: IpAddr, packet: Vec<u8>, now: Instant) -> Added {
        let known = self.by_destination.contains_key(&destination);
        if !known && self.by_destination.len() >= MAX_DESTINATIONS {
            return Added::Refused;
        }
        let (_, staged) = self.by_destination.entry(destination).or_insert_with(|| (now, Staged::default()));
        match (staged.push(packet, MAX_STAGED_PER_DESTINATION, now), known) {
            (true, _) => Added::InPlaceOfAnother,
            (false, true) => Added::Known,
            (false, false) => Added::New,
        }
    }

    /// The packets that waited for `destination`.
    pub fn take(&mut self, destination: IpAddr) -> Option<Staged> {
        self.by_destination.remove(&destination).map(|(_, staged)| staged)
    }

    /// Forgets destinations nobody answered for in time; returns how many packets go with them.
    pub fn expire(&mut self, now: Instant) -> usize {
        let in_time = |_: &IpAddr, (since, _): &mut (Instant, Staged)| now.saturating_since(*since) < MAX_AGE;
        let waited = self.len();
        self.by_destination.retain(in_time);
        waited - self.len()
    }

    fn len(&self) -> usize {
        self.by_destination.values().map(|(_, staged)| staged.len()).sum()
    }

    /// When the next destination is to be forgotten.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.by_destination.values().map(|(since, _)| *since + MAX_AGE).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_packet_gives_way_and_stale_ones_are_not_sent() {
        let mut staged = Staged::default();
        let later = Instant::ZERO + MAX_AGE + Duration::from_nanos(1);
        assert!(!staged.push(vec![1], 2, Instant::ZERO));
        assert!(!staged.push(vec![2], 2, Instant::ZERO));
        assert!(staged.push(vec![3], 2, later));
        assert_eq!(staged.drain(later), (vec![vec![3]], 1));
        assert!(staged.is_empty());
    }

    #[test]
    fn a_destination_is_asked_for_once_and_forgotten_in_time() {
        let mut unresolved = Unresolved::default();
        let a = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(unresolved.push(a, vec![1], Instant::ZERO), Added::New);
        assert_eq!(unresolved.push(a, vec![2], Instant::ZERO), Added::Known);
        assert_eq!(unresolved.poll_timeout(), Some(Instant::ZERO + MAX_AGE));
        for _ in 2..MAX_STAGED_PER_DESTINATION {
            assert_eq!(unresolved.push(a, vec![3], Instant::ZERO), Added::Known);
        }
        assert_eq!(unresolved.push(a, vec![4], Instant::ZERO), Added::InPlaceOfAnother);
        assert_eq!(unresolved.expire(Instant::ZERO + MAX_AGE), MAX_STAGED_PER_DESTINATION);
        assert!(unresolved.take(a).is_none());
    }

    #[test]
    fn a_scan_of_the_overlay_cannot_fill_memory() {
        let mut unresolved = Unresolved::default();
        let refused = (0..1000u32).filter(|i| {
            unresolved.push(IpAddr::from(i.to_be_bytes()), vec![], Instant::ZERO) == Added::Refused
        });
        assert_eq!(refused.count(), 1000 - MAX_DESTINATIONS);
    }
}
