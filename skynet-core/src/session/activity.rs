//! What the data plane tells control about one peer: a few relaxed atomics, and one edge.
//!
//! Timers of WireGuard §6 depend on when packets last went and came. Data-plane threads note that here, once per
//! batch; control reads it when a deadline fires. While nothing is due control sleeps, and the first note that may
//! create a deadline says so: `note_*` returns true and the data plane wakes control once.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::time::Instant;

/// Traffic of one peer; shared by all threads. Times are nanoseconds of the monotonic clock, 0 for never.
#[derive(Debug, Default)]
pub struct Activity {
    last_data_tx: AtomicU64,
    last_any_tx: AtomicU64,
    last_data_rx: AtomicU64,
    last_any_rx: AtomicU64,
    /// First data sent since anything was last received.
    unheard_tx: AtomicU64,
    /// First data received since anything was last sent.
    unanswered_rx: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    /// Whether control has a deadline at which it will look here.
    awake: AtomicBool,
}

/// Packets and bytes of the tunnel, both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Packets sent, keepalives included.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Authenticated packets received, keepalives included.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
}

impl Activity {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes `packets` sealed packets of `bytes` bytes in all; `keepalive` if none carries data.
    /// True if control sleeps and must be woken to call [`super::Session::handle_wake`].
    #[must_use = "control must be woken if this is true"]
    pub fn note_tx(&self, now: Instant, packets: u64, bytes: u64, keepalive: bool) -> bool {
        let now = now.as_nanos().max(1);
        self.tx_packets.fetch_add(packets, Relaxed);
        self.tx_bytes.fetch_add(bytes, Relaxed);
        self.last_any_tx.store(now, Relaxed);
        if self.unanswered_rx.load(Relaxed) != 0 {
            self.unanswered_rx.store(0, Relaxed);
        }
        if keepalive {
            return false;
        }
        self.last_data_tx.store(now, Relaxed);
        self.begins(&self.unheard_tx, now)
    }

    /// Notes `packets` authenticated packets, as [`Activity::note_tx`].
    #[must_use = "control must be woken if this is true"]
    pub fn note_rx(&self, now: Instant, packets: u64, bytes: u64, keepalive: bool) -> bool {
        let now = now.as_nanos().max(1);
        self.rx_packets.fetch_add(packets, Relaxed);
        self.rx_bytes.fetch_add(bytes, Relaxed);
        self.last_any_rx.store(now, Relaxed);
        if self.unheard_tx.load(Relaxed) != 0 {
            self.unheard_tx.store(0, Relaxed);
        }
        if keepalive {
            return false;
        }
        self.last_data_rx.store(now, Relaxed);
        self.begins(&self.unanswered_rx, now)
    }

    /// Starts a period if none runs. The period is visible before `awake` is read, and control clears `awake`
    /// before it reads the periods, both sequentially consistent: one of the two sees the other.
    fn begins(&self, period: &AtomicU64, now: u64) -> bool {
        if period.load(Relaxed) == 0 {
            period.store(now, SeqCst);
            return !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst);
        }
        false
    }

    /// Control announces that it will (or will not) look here by itself.
    pub(super) fn set_awake(&self, awake: bool) {
        self.awake.store(awake, SeqCst);
    }

    /// When data went out first without anything coming back since.
    pub fn unheard_since(&self) -> Option<Instant> {
        instant(self.unheard_tx.load(SeqCst))
    }

    /// When data came in first without anything going out since.
    pub fn unanswered_since(&self) -> Option<Instant> {
        instant(self.unanswered_rx.load(SeqCst))
    }

    /// Last packet sent.
    pub fn last_any_tx(&self) -> Option<Instant> {
        instant(self.last_any_tx.load(Relaxed))
    }

    /// Last data sent.
    pub fn last_data_tx(&self) -> Option<Instant> {
        instant(self.last_data_tx.load(Relaxed))
    }

    /// Last authenticated packet received.
    pub fn last_any_rx(&self) -> Option<Instant> {
        instant(self.last_any_rx.load(Relaxed))
    }

    /// Last data received.
    pub fn last_data_rx(&self) -> Option<Instant> {
        instant(self.last_data_rx.load(Relaxed))
    }

    /// Counters so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            tx_packets: self.tx_packets.load(Relaxed),
            tx_bytes: self.tx_bytes.load(Relaxed),
            rx_packets: self.rx_packets.load(Relaxed),
            rx_bytes: self.rx_bytes.load(Relaxed),
        }
    }

    /// Control begins anew: what was unheard under dead keys is not counted against new ones.
    pub(super) fn forget_unheard(&self) {
        self.unheard_tx.store(0, SeqCst);
    }
}

fn instant(nanos: u64) -> Option<Instant> {
    (nanos != 0).then(|| Instant::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    #[test]
    fn control_is_woken_once_when_traffic_starts() {
        let activity = Activity::new();
        assert!(activity.note_tx(at(1), 3, 300, false), "asleep: wake it");
        assert!(!activity.note_tx(at(2), 1, 100, false));
        assert!(!activity.note_rx(at(3), 1, 100, false), "awake already");
        activity.set_awake(false);
        assert!(!activity.note_tx(at(4), 1, 32, true), "a keepalive creates no deadline");
        assert!(activity.note_rx(at(5), 1, 100, false));
        assert_eq!(
            activity.traffic(),
            Traffic { tx_packets: 5, tx_bytes: 432, rx_packets: 2, rx_bytes: 200 }
        );
    }

    #[test]
    fn periods_start_with_the_first_packet_and_end_with_one_the_other_way() {
        let activity = Activity::new();
        let _ = activity.note_tx(at(1), 1, 1, false);
        let _ = activity.note_tx(at(2), 1, 1, false);
        assert_eq!(activity.unheard_since(), Some(at(1)));
        let _ = activity.note_rx(at(3), 1, 1, true);
        assert_eq!((activity.unheard_since(), activity.unanswered_since()), (None, None));
        let _ = activity.note_rx(at(4), 1, 1, false);
        let _ = activity.note_rx(at(5), 1, 1, false);
        assert_eq!(activity.unanswered_since(), Some(at(4)));
        let _ = activity.note_tx(at(6), 1, 1, true);
        assert_eq!(activity.unanswered_since(), None);
    }
}
