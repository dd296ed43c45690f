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
/// A packet older than this is not worth delivering: whoever sent it has sent it again.
pub const MAX_AGE: Duration = Duration::from_secs(5);

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

    /// Takes all that are still worth sending, in order.
    pub fn drain(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let fresh = |at: &Instant| now.saturating_since(*at) <= MAX_AGE;
        self.packets.drain(..).filter(|(at, _)| fresh(at)).map(|(_, p)| p).collect()
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

/// Packets for overlay addresses the directory has been asked about.
#[derive(Default, Debug)]
pub struct Unresolved {
    by_destination: BTreeMap<IpAddr, (Instant, Staged)>,
}

impl Unresolved {
    /// Adds a packet. `None` if there are too many destinations already, else whether this one is new and has to be
    /// asked for.
    pub fn push(&mut self, destination: IpAddr, packet: Vec<u8>, now: Instant) -> Option<bool> {
        let known = self.by_destination.contains_key(&destination);
        if !known && self.by_destination.len() >= MAX_DESTINATIONS {
            return None;
        }
        let (_, staged) = self.by_destination.entry(destination).or_insert_with(|| (now, Staged::default()));
        staged.push(packet, MAX_STAGED_PER_DESTINATION, now);
        Some(!known)
    }

    /// The packets that waited for `destination`.
    pub fn take(&mut self, destination: IpAddr) -> Option<Staged> {
        self.by_destination.remove(&destination).map(|(_, staged)| staged)
    }

    /// Forgets destinations nobody answered for in time; returns how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let before = self.by_destination.len();
        self.by_destination.retain(|_, (since, _)| now.saturating_since(*since) < MAX_AGE);
        before - self.by_destination.len()
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
        assert_eq!(staged.drain(later), [vec![3]]);
        assert!(staged.is_empty());
    }

    #[test]
    fn a_destination_is_asked_for_once_and_forgotten_in_time() {
        let mut unresolved = Unresolved::default();
        let a = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(unresolved.push(a, vec![1], Instant::ZERO), Some(true));
        assert_eq!(unresolved.push(a, vec![2], Instant::ZERO), Some(false));
        assert_eq!(unresolved.poll_timeout(), Some(Instant::ZERO + MAX_AGE));
        assert_eq!(unresolved.expire(Instant::ZERO + MAX_AGE), 1);
        assert!(unresolved.take(a).is_none());
    }

    #[test]
    fn a_scan_of_the_overlay_cannot_fill_memory() {
        let mut unresolved = Unresolved::default();
        let refused = (0..1000u32)
            .filter(|i| unresolved.push(IpAddr::from(i.to_be_bytes()), vec![], Instant::ZERO).is_none());
        assert_eq!(refused.count(), 1000 - MAX_DESTINATIONS);
    }
}
