//! The port above the relay's: STUN for nodes that measure what their NAT does (RFC 5780). No state but a rate per source.

use core::net::SocketAddr;

use skynet_core::rng::Rng;
use skynet_core::time::Instant;

use super::DropReason;
use super::limit::PrefixLimiter;
use super::stun::{self, Measured};

/// Answers per second and at once to one source prefix: one look at the network asks about 30 times.
const RATE: (u64, u64) = (20, 120);

/// Decides about what comes to the port above.
pub struct Measure {
    limiter: PrefixLimiter,
}

impl Measure {
    /// Nobody has asked yet.
    pub fn new(rng: &mut Rng, now: Instant) -> Self {
        Self { limiter: PrefixLimiter::new(RATE.0, RATE.1, rng, now) }
    }

    /// Writes the answer into `datagram` and says which way it goes.
    ///
    /// # Errors
    /// Why there is none.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Measured, DropReason> {
        if !stun::is_stun(datagram) {
            return Err(DropReason::StunUnsupported);
        }
        if !self.limiter.allow(from.ip(), now) {
            return Err(DropReason::StunRate);
        }
        stun::measure(datagram, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::wire::binding::Request;

    #[test]
    fn one_source_has_its_share_and_no_more() {
        let mut measure = Measure::new(&mut Rng::from_seed([1; 32]), Instant::ZERO);
        let from: SocketAddr = "198.51.100.7:4711".parse().unwrap();
        let request = Request::default().encode([1; 12]);
        let mut ask = |from| measure.handle_datagram(from, &mut request.clone(), Instant::ZERO);
        assert_eq!((0..500).filter(|_| ask(from).is_ok()).count(), 120);
        assert_eq!(ask(from), Err(DropReason::StunRate));
        assert!(ask("198.51.100.8:1".parse().unwrap()).is_ok());
    }

    #[test]
    fn what_is_no_stun_gets_no_answer() {
        let mut measure = Measure::new(&mut Rng::from_seed([1; 32]), Instant::ZERO);
        let from: SocketAddr = "198.51.100.7:4711".parse().unwrap();
        assert_eq!(
            measure.handle_datagram(from, &mut [0xa1; 40], Instant::ZERO),
            Err(DropReason::StunUnsupported)
        );
        assert_eq!(measure.handle_datagram(from, &mut [], Instant::ZERO), Err(DropReason::StunUnsupported));
    }
}
