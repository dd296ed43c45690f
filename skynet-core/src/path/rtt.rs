//! Round-trip time of a path: smoothed as in RFC 6298 §2, and the least of the last eight samples.

use crate::time::Duration;

/// Smoothed round-trip time. Without samples everything is `None`.
#[derive(Clone, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    recent: [Option<Duration>; 8],
    next: usize,
}

impl Rtt {
    /// Adds a sample (RFC 6298 equations 2.2 and 2.3).
    pub fn sample(&mut self, rtt: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(s) => {
                self.variation = (self.variation * 3 + s.abs_diff(rtt)) / 4;
                self.smoothed = Some((s * 7 + rtt) / 8);
            }
        }
        self.recent[self.next] = Some(rtt);
        self.next = (self.next + 1) % self.recent.len();
    }

    /// Smoothed round-trip time.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Mean deviation from it (RFC 6298 RTTVAR).
    pub fn variation(&self) -> Duration {
        self.variation
    }

    /// Least of the last eight samples: what the path can do when nothing queues.
    pub fn least(&self) -> Option<Duration> {
        self.recent.iter().flatten().min().copied()
    }

    /// How long to wait for an answer: `SRTT + 4 × RTTVAR` (RFC 6298 equation 2.3), 1 s before the first sample.
    pub fn timeout(&self) -> Duration {
        self.smoothed.map_or(Duration::from_secs(1), |s| s + self.variation * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_rfc_6298() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), Duration::from_secs(1));
        rtt.sample(Duration::from_millis(100));
        assert_eq!(rtt.timeout(), Duration::from_millis(300));
        rtt.sample(Duration::from_millis(180));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(110)));
        assert_eq!(rtt.variation, Duration::from_micros(57_500));
        assert_eq!(rtt.least(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn the_least_forgets_after_eight() {
        let mut rtt = Rtt::default();
        for ms in [5, 50, 50, 50, 50, 50, 50, 50, 50] {
            rtt.sample(Duration::from_millis(ms));
        }
        assert_eq!(rtt.least(), Some(Duration::from_millis(50)));
    }
}
