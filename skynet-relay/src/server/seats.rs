//! Who may have a connection on the TLS port: so many in all, so many of one source, so many handshakes a second.
//!
//! Many nodes behind one NAT or one proxy come from one address, so the bounds of a prefix are wide; they keep a single
//! host from taking every seat.

use core::net::IpAddr;
use std::collections::HashMap;

use skynet_core::rng::Rng;
use skynet_core::time::Instant;

use super::StreamDrop;
use super::limit::{PrefixLimiter, prefix};

/// Connections of one source prefix (an IPv4 address, an IPv6 /64).
pub const MAX_PER_PREFIX: u32 = 2_048;
/// Of those, such that have not said yet what they want.
pub const MAX_OPENING_PER_PREFIX: u32 = 64;
/// Such connections in all.
pub const MAX_OPENING: u32 = 1_024;
/// TLS handshakes per second and prefix, and their burst: one costs a fifth of a millisecond.
const HANDSHAKES: (u64, u64) = (50, 200);

/// A connection's place. Given back by [`Seats::leave`].
#[derive(PartialEq, Eq, Debug)]
pub struct Seat {
    prefix: u64,
    opening: bool,
}

#[derive(Clone, Copy, Default)]
struct Taken {
    all: u32,
    opening: u32,
}

/// All places. Memory is bounded by the connections there may be.
pub struct Seats {
    most: u32,
    all: Taken,
    by_prefix: HashMap<u64, Taken>,
    handshakes: PrefixLimiter,
}

impl Seats {
    /// Places for `most` connections.
    pub fn new(most: u32, rng: &mut Rng, now: Instant) -> Self {
        let (rate, burst) = HANDSHAKES;
        let handshakes = PrefixLimiter::new(rate, burst, rng, now);
        Self { most, all: Taken::default(), by_prefix: HashMap::new(), handshakes }
    }

    /// Connections now.
    pub fn taken(&self) -> u32 {
        self.all.all
    }

    /// A connection from `peer` that has not said yet what it wants.
    ///
    /// # Errors
    /// Why there is no place for it.
    pub fn enter(&mut self, peer: IpAddr, now: Instant) -> Result<Seat, StreamDrop> {
        let prefix = prefix(peer);
        let its = self.by_prefix.get(&prefix).copied().unwrap_or_default();
        let full = self.all.all >= self.most || self.all.opening >= MAX_OPENING;
        if full || its.all >= MAX_PER_PREFIX || its.opening >= MAX_OPENING_PER_PREFIX {
            return Err(StreamDrop::TlsConnections);
        }
        if !self.handshakes.allow(peer, now) {
            return Err(StreamDrop::TlsRate);
        }
        for taken in [&mut self.all, self.by_prefix.entry(prefix).or_default()] {
            taken.all += 1;
            taken.opening += 1;
        }
        Ok(Seat { prefix, opening: true })
    }

    /// It has said what it wants, and gets it.
    pub fn settle(&mut self, seat: &mut Seat) {
        if core::mem::take(&mut seat.opening) {
            self.all.opening -= 1;
            if let Some(its) = self.by_prefix.get_mut(&seat.prefix) {
                its.opening -= 1;
            }
        }
    }

    /// The connection is gone.
    pub fn leave(&mut self, mut seat: Seat) {
        self.settle(&mut seat);
        self.all.all -= 1;
        if let Some(its) = self.by_prefix.get_mut(&seat.prefix) {
            its.all -= 1;
            if its.all == 0 {
                self.by_prefix.remove(&seat.prefix);
            }
        }
    }
}

/// The address from which the frames of a TLS client reach the relay's UDP port: of this host alone, and another for
/// every source prefix, so that what is limited by source there treats TLS clients as it treats others.
///
/// ```text
/// 127 . 1xxxxxxx . x . x      x: 23 bits of a secret hash of the prefix
/// ```
pub fn bridge_address(peer: IpAddr, seed: u64) -> core::net::Ipv4Addr {
    let hash = super::limit::fold(prefix(peer) ^ seed, 0x9e37_79b9_7f4a_7c15) as u32;
    let host = (hash & 0x7f_ffff).clamp(1, 0x7f_fffe);
    core::net::Ipv4Addr::from_bits(0x7f80_0000 | host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::time::Duration;

    fn seats(most: u32) -> Seats {
        Seats::new(most, &mut Rng::from_seed([1; 32]), Instant::ZERO)
    }

    fn ip(n: u32) -> IpAddr {
        core::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    #[test]
    fn one_source_cannot_take_every_seat() {
        let mut seats = seats(10_000);
        let mut now = Instant::ZERO;
        let (mut held, mut refused) = (Vec::new(), 0);
        for _ in 0..10_000 {
            now = now + Duration::from_millis(20);
            match seats.enter(ip(1), now) {
                Ok(mut seat) => {
                    seats.settle(&mut seat);
                    held.push(seat);
                }
                Err(reason) => {
                    assert_eq!(reason, StreamDrop::TlsConnections);
                    refused += 1;
                }
            }
        }
        assert_eq!((held.len(), refused), (2_048, 7_952));
        assert!(seats.enter(ip(2), now).is_ok());
        held.into_iter().for_each(|seat| seats.leave(seat));
        assert_eq!(seats.taken(), 1);
        assert!(seats.enter(ip(1), now).is_ok());
        assert_eq!(seats.by_prefix.len(), 2, "nothing is remembered of who has gone");
    }

    #[test]
    fn half_open_connections_of_one_source_leave_room_for_others() {
        let mut seats = seats(10_000);
        let held: Vec<_> = (0..100).filter_map(|_| seats.enter(ip(1), Instant::ZERO).ok()).collect();
        assert_eq!(held.len(), 64);
        assert_eq!(seats.enter(ip(1), Instant::ZERO), Err(StreamDrop::TlsConnections));
        assert!(seats.enter(ip(2), Instant::ZERO).is_ok());
        let all = (3..2_000).filter(|n| seats.enter(ip(*n), Instant::ZERO).is_ok()).count();
        assert_eq!(all, 1_024 - 65);
    }

    #[test]
    fn handshakes_of_one_source_are_rated() {
        let mut seats = seats(10_000);
        let mut served = 0;
        for _ in 0..1_000 {
            if let Ok(seat) = seats.enter(ip(1), Instant::ZERO) {
                seats.leave(seat);
                served += 1;
            }
        }
        assert_eq!(served, 200);
        assert_eq!(seats.enter(ip(1), Instant::ZERO), Err(StreamDrop::TlsRate));
    }

    #[test]
    fn bridges_of_one_prefix_share_an_address_of_this_host_and_others_have_theirs() {
        let of = |text: &str| bridge_address(text.parse().unwrap(), 77);
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        let all: std::collections::BTreeSet<_> = (0..1_000).map(|n| bridge_address(ip(n), 77)).collect();
        assert!(all.len() > 995, "{}", all.len());
        assert!(all.iter().all(|a| a.octets()[0] == 127 && a.octets()[1] >= 128));
    }
}
