//! One direction of a link: latency, jitter, loss, reorder, duplication, rate and a drop-tail queue.
//!
//! Each direction has its own seeded generator, so what one link draws does not depend on any other.

use skynet_core::rng::Rng;
use skynet_core::time::{Duration, Instant};

use crate::seed::chance;

/// Which datagrams die on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Each datagram independently, in parts per million.
    Independent {
        /// Probability, parts per million.
        ppm: u32,
    },
    /// Bursts (Gilbert 1960): in the bad state everything is lost, in the good state nothing.
    Gilbert {
        /// Probability per datagram of turning bad, parts per million.
        to_bad_ppm: u32,
        /// Probability per datagram of turning good again, parts per million.
        to_good_ppm: u32,
    },
}

/// What one direction of a link does to datagrams. The default is ideal: instant, lossless, unlimited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Propagation delay.
    pub latency: Duration,
    /// Uniform extra delay in `0..jitter`. Order is kept unless `reorder_ppm` says otherwise.
    pub jitter: Duration,
    /// Which datagrams are lost.
    pub loss: Loss,
    /// Datagrams delivered twice, parts per million.
    pub duplicate_ppm: u32,
    /// Datagrams held back by `reorder_delay` and overtaken by their successors, parts per million.
    pub reorder_ppm: u32,
    /// How long a reordered datagram is held back.
    pub reorder_delay: Duration,
    /// Bytes per second; `None` is unlimited. Counted with [`HEADER_BYTES`] per datagram.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate; more are dropped at the tail. Unused without `rate`.
    pub queue_bytes: u64,
    /// Largest IP packet in bytes; larger ones vanish without ICMP, as on the paths that hurt.
    pub mtu: usize,
}

/// IPv4 and UDP header: what a payload costs on the wire beyond itself.
pub const HEADER_BYTES: usize = 28;

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::Independent { ppm: 0 },
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_delay: Duration::from_millis(10),
            rate: None,
            queue_bytes: 256 * 1024,
            mtu: 65_535,
        }
    }
}

impl LinkConfig {
    /// A clean link of this one-way delay.
    pub fn latency(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// The same with independent loss.
    pub fn with_loss(self, ppm: u32) -> Self {
        Self { loss: Loss::Independent { ppm }, ..self }
    }

    /// The same with jitter.
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }
}

/// Why a link delivered nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LinkDrop {
    /// The link is cut.
    Down,
    /// Larger than the MTU.
    TooBig,
    /// The queue is full.
    QueueFull,
    /// Lost.
    Lost,
}

/// When the datagram arrives: once, or twice if it was duplicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// First arrival.
    pub first: Instant,
    /// Arrival of the duplicate.
    pub duplicate: Option<Instant>,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    rng: Rng,
    up: bool,
    bad: bool,
    /// The transmitter is busy until then.
    busy_until: Instant,
    /// Nothing in order arrives before this.
    last_arrival: Instant,
    sent: u64,
    dropped: u64,
}

impl Link {
    pub(crate) fn new(config: LinkConfig, rng: Rng) -> Self {
        Self {
            config,
            rng,
            up: true,
            bad: false,
            busy_until: Instant::ZERO,
            last_arrival: Instant::ZERO,
            sent: 0,
            dropped: 0,
        }
    }

    /// What the link does now.
    pub const fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Datagrams offered and dropped so far.
    pub const fn counters(&self) -> (u64, u64) {
        (self.sent, self.dropped)
    }

    /// Whether the cable is in.
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// Changes what the link does from now on. Datagrams under way keep their arrival.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// Cuts the link or plugs it in again.
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
    }

    /// Parts per million of datagrams lost at the moment: what a stream's retransmissions are drawn from.
    pub(crate) fn loss_ppm(&self) -> u32 {
        match self.config.loss {
            Loss::Independent { ppm } => ppm,
            Loss::Gilbert { to_bad_ppm, to_good_ppm } => {
                let total = u64::from(to_bad_ppm) + u64::from(to_good_ppm);
                u32::try_from(u64::from(to_bad_ppm) * 1_000_000 / total.max(1)).unwrap_or(1_000_000)
            }
        }
    }

    /// Sends one datagram of `payload` bytes at `now`.
    pub fn send(&mut self, payload: usize, now: Instant) -> Result<Delivery, LinkDrop> {
        self.sent += 1;
        self.carry(payload, now).inspect_err(|_| self.dropped += 1)
    }

    fn carry(&mut self, payload: usize, now: Instant) -> Result<Delivery, LinkDrop> {
        let bytes = payload + HEADER_BYTES;
        if !self.up {
            return Err(LinkDrop::Down);
        }
        if bytes > self.config.mtu {
            return Err(LinkDrop::TooBig);
        }
        let departure = self.depart(bytes as u64, now)?;
        if self.is_lost() {
            return Err(LinkDrop::Lost);
        }
        let first = self.arrive(departure);
        let duplicate = chance(&mut self.rng, self.config.duplicate_ppm).then(|| self.arrive(departure));
        Ok(Delivery { first, duplicate })
    }

    /// The rate and its queue: when the last bit has left.
    fn depart(&mut self, bytes: u64, now: Instant) -> Result<Instant, LinkDrop> {
        let Some(rate) = self.config.rate.filter(|r| *r > 0) else { return Ok(now) };
        let waiting = self.busy_until.saturating_since(now).as_nanos() * u128::from(rate) / 1_000_000_000;
        if waiting + u128::from(bytes) > u128::from(self.config.queue_bytes) {
            return Err(LinkDrop::QueueFull);
        }
        let transmission = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        self.busy_until = self.busy_until.max(now) + transmission;
        Ok(self.busy_until)
    }

    fn is_lost(&mut self) -> bool {
        match self.config.loss {
            Loss::Independent { ppm } => chance(&mut self.rng, ppm),
            Loss::Gilbert { to_bad_ppm, to_good_ppm } => {
                let flip = if self.bad { to_good_ppm } else { to_bad_ppm };
                if chance(&mut self.rng, flip) {
                    self.bad = !self.bad;
                }
                self.bad
            }
        }
    }

    fn arrive(&mut self, departure: Instant) -> Instant {
        let jitter_nanos = u64::try_from(self.config.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = if jitter_nanos == 0 { 0 } else { self.rng.below(jitter_nanos) };
        let arrival = departure + self.config.latency + Duration::from_nanos(jitter);
        if chance(&mut self.rng, self.config.reorder_ppm) {
            // Held back outside the queue: its successors do not wait for it.
            return arrival + self.config.reorder_delay;
        }
        self.last_arrival = self.last_arrival.max(arrival);
        self.last_arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    fn link(config: LinkConfig, seed: u64) -> Link {
        Link::new(config, seed::rng(seed, "link", 0))
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn ideal_link_delivers_at_once_and_once() {
        let mut l = link(LinkConfig::default(), 1);
        assert_eq!(l.send(1_000, at(3)), Ok(Delivery { first: at(3), duplicate: None }));
    }

    #[test]
    fn loses_about_as_much_as_asked() {
        let mut l = link(LinkConfig::default().with_loss(100_000), 2);
        let lost = (0..10_000).filter(|_| l.send(100, at(0)).is_err()).count();
        assert!((900..1_100).contains(&lost), "lost {lost} of 10000 at 10 %");
        assert_eq!(l.counters(), (10_000, lost as u64));
    }

    #[test]
    fn gilbert_loss_comes_in_bursts() {
        let loss = Loss::Gilbert { to_bad_ppm: 10_000, to_good_ppm: 100_000 };
        let mut l = link(LinkConfig { loss, ..LinkConfig::default() }, 3);
        assert_eq!(l.loss_ppm(), 90_909);
        let fate: Vec<bool> = (0..20_000).map(|_| l.send(100, at(0)).is_err()).collect();
        let lost = fate.iter().filter(|l| **l).count();
        let bursts = fate.windows(2).filter(|w| !w[0] && w[1]).count();
        assert!((1_200..2_500).contains(&lost), "lost {lost}");
        assert!(lost > 5 * bursts, "{lost} losses in {bursts} bursts: a burst is about 10 long");
    }

    #[test]
    fn jitter_keeps_order_and_reorder_breaks_it() {
        let ordered = LinkConfig::latency(Duration::from_millis(10)).with_jitter(Duration::from_millis(5));
        let arrivals = |config: LinkConfig| -> Vec<Instant> {
            let mut l = link(config, 4);
            (0..500).filter_map(|ms| l.send(100, at(ms)).ok()).map(|d| d.first).collect()
        };
        let jittered = arrivals(ordered.clone());
        assert!(jittered.is_sorted());
        assert!(jittered.iter().zip(0..).all(|(a, ms)| *a >= at(ms + 10) && *a < at(ms + 15)));
        let reordered = arrivals(LinkConfig { reorder_ppm: 50_000, ..ordered });
        assert!(!reordered.is_sorted());
    }

    #[test]
    fn duplicates_about_as_much_as_asked() {
        let mut l = link(LinkConfig { duplicate_ppm: 200_000, ..LinkConfig::default() }, 5);
        let twice =
            (0..10_000).filter_map(|_| l.send(100, at(0)).ok()).filter(|d| d.duplicate.is_some()).count();
        assert!((1_800..2_200).contains(&twice), "{twice}");
    }

    #[test]
    fn rate_paces_and_the_queue_drops_at_its_tail() {
        // 100 kB/s and 1,000-byte packets: one per 10 ms, five may wait.
        let config = LinkConfig { rate: Some(100_000), queue_bytes: 5_000, ..LinkConfig::default() };
        let mut l = link(config, 6);
        let payload = 1_000 - HEADER_BYTES;
        let results: Vec<_> = (0..7).map(|_| l.send(payload, at(0)).map(|d| d.first)).collect();
        assert_eq!(results[0], Ok(at(10)));
        assert_eq!(results[4], Ok(at(50)));
        assert_eq!(results[5], Err(LinkDrop::QueueFull));
        assert_eq!(l.send(payload, at(20)).map(|d| d.first), Ok(at(60)), "the queue drains");
    }

    #[test]
    fn silent_about_what_is_too_big_or_cut() {
        let mut l = link(LinkConfig { mtu: 1_400, ..LinkConfig::default() }, 7);
        assert!(l.send(1_372, at(0)).is_ok());
        assert_eq!(l.send(1_373, at(0)), Err(LinkDrop::TooBig));
        l.set_up(false);
        assert_eq!(l.send(1, at(0)), Err(LinkDrop::Down));
    }

    #[test]
    fn same_seed_same_fate() {
        let config = LinkConfig {
            duplicate_ppm: 10_000,
            reorder_ppm: 10_000,
            ..LinkConfig::latency(Duration::from_millis(1))
                .with_loss(50_000)
                .with_jitter(Duration::from_millis(3))
        };
        let fate = |seed| {
            let mut l = link(config.clone(), seed);
            (0..1_000).map(|ms| l.send(100, at(ms)).ok()).collect::<Vec<_>>()
        };
        assert_eq!(fate(8), fate(8));
        assert_ne!(fate(8), fate(9));
    }
}
