//! How busy the data-plane threads are: asked ten times a second while one of them is, and never while none is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use nix::time::{ClockId, clock_gettime};
use skynet_core::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often the control task measures while something is busy.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);
/// Bytes a thread moves within one interval from which on it is busy: 10 Mbit/s.
const BUSY_BYTES: u64 = 128 * 1024;
/// Packets a second of one thread from which on it is flooded, if they are small. The acknowledgements of a TCP stream at
/// 9 Gbit/s are half as many.
const FLOOD_RATE: u64 = 40_000;
/// So many intervals without a busy thread end the measuring.
const QUIET_INTERVALS: u32 = 20;

/// Rung by a busy thread while nobody measures.
#[derive(Debug, Default)]
pub(super) struct BusyBell {
    measuring: AtomicBool,
    notify: Notify,
}

impl BusyBell {
    /// Waits until a thread is busy. Loses nothing if dropped while waiting.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }

    fn ring(&self) {
        if !self.measuring.swap(true, Relaxed) {
            self.notify.notify_one();
        }
    }
}

/// One half's view: how much it has moved in this interval.
#[derive(Debug)]
pub(super) struct BusyWatch {
    /// Bytes of a packet up to which many of them are a flood, on average.
    small: u64,
    since: Instant,
    bytes: u64,
    packets: u64,
    flooded: bool,
}

impl BusyWatch {
    /// For a half that sees packets of more than `small` bytes where TCP sends as fast as it can.
    pub(super) fn new(small: u64) -> Self {
        Self { small, since: Instant::default(), bytes: 0, packets: 0, flooded: false }
    }

    /// A batch of so many packets and bytes, at the time read for it.
    pub(super) fn note(&mut self, packets: usize, bytes: usize, now: Instant, bell: &BusyBell) {
        let passed = now.saturating_since(self.since);
        if passed >= INTERVAL {
            let rate = u128::from(self.packets) * 1_000_000_000 / passed.as_nanos();
            let small = self.bytes <= self.packets * self.small;
            self.flooded = small && rate >= u128::from(FLOOD_RATE);
            (self.since, self.bytes, self.packets) = (now, 0, 0);
        }
        self.bytes += bytes as u64;
        self.packets += packets as u64;
        if self.is_busy() && !bell.measuring.load(Relaxed) {
            bell.ring();
        }
    }

    /// Whether this interval is a busy one.
    pub(super) fn is_busy(&self) -> bool {
        self.bytes >= BUSY_BYTES
    }

    /// Whether the last interval had more small packets than a program may be able to take.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded
    }

    /// When this interval began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

/// The processor time of another thread of this process.
#[derive(Debug, Default)]
pub(super) struct CpuClock {
    /// The thread's id, once it runs; 0 before.
    tid: AtomicU32,
}

impl CpuClock {
    /// To be called by the thread itself.
    pub(super) fn start(&self) {
        self.tid.store(nix::unistd::gettid().as_raw().cast_unsigned(), Relaxed);
    }

    /// Nanoseconds it has run; `None` before it runs, and after it has ended.
    fn read(&self) -> Option<u64> {
        let tid = self.tid.load(Relaxed);
        // The kernel's clock of a thread by its id (`MAKE_THREAD_CPUCLOCK(tid, CPUCLOCK_SCHED)`).
        let clock = ClockId::from_raw((!tid << 3 | 6).cast_signed());
        let time = (tid != 0).then(|| clock_gettime(clock).ok())??;
        Some(u64::try_from(time.tv_sec()).ok()? * 1_000_000_000 + u64::try_from(time.tv_nsec()).ok()?)
    }
}

/// What was read from one clock last.
#[derive(Debug, Default)]
pub(super) struct CpuMeter(Option<(Instant, u64)>);

impl CpuMeter {
    /// Processor time since the last look, in thousandths of the time that has passed.
    pub(super) fn permille(&mut self, clock: &CpuClock, now: Instant) -> u16 {
        let Some(ran) = clock.read() else { return 0 };
        let Some((at, before)) = self.0.replace((now, ran)) else { return 0 };
        let passed = u64::try_from(now.saturating_since(at).as_nanos()).unwrap_or(u64::MAX).max(1);
        u16::try_from(ran.saturating_sub(before) * 1_000 / passed).unwrap_or(u16::MAX).min(1_000)
    }
}

/// When the control task measures next.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    next: Option<Instant>,
    quiet: u32,
}

impl Sampling {
    /// A thread is busy: measure from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        self.quiet = 0;
        self.next = self.next.or(Some(now));
    }

    /// When to measure; `None` while nothing is busy.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// A measurement was made: `busy` if there was work in it.
    pub(super) fn measured(&mut self, busy: bool, now: Instant, bell: &BusyBell) {
        self.quiet = if busy { 0 } else { self.quiet + 1 };
        self.next = (self.quiet < QUIET_INTERVALS).then(|| now + INTERVAL);
        if self.next.is_none() {
            self.quiet = 0;
            bell.measuring.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_thread_that_computes_is_seen_by_another() {
        let clock = std::sync::Arc::new(CpuClock::default());
        assert_eq!(clock.read(), None);
        let (mine, stop) = (std::sync::Arc::clone(&clock), std::sync::Arc::new(AtomicBool::new(false)));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            mine.start();
            while !stopped.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        let mut meter = CpuMeter::default();
        let deadline = crate::clock::monotonic() + Duration::from_secs(20);
        // On a machine with much else to do it gets its share late.
        let seen = loop {
            let now = crate::clock::monotonic();
            let permille = meter.permille(&clock, now);
            if permille > 50 || now > deadline {
                break permille;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        stop.store(true, Relaxed);
        thread.join().unwrap();
        assert!(seen > 50, "{seen}");
        // Joined is a moment before the kernel has let go of it.
        let gone = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            clock.read().is_none()
        });
        assert!(gone, "it has ended");
    }

    #[test]
    fn ten_megabits_ring_once_and_a_trickle_never() {
        let (bell, mut watch) = (BusyBell::default(), BusyWatch::new(2_048));
        for ms in 0..1_000 {
            watch.note(1, 1_000, at(ms), &bell);
        }
        assert!(!bell.measuring.load(Relaxed) && !watch.is_busy(), "8 Mbit/s");
        watch.note(1, 64 * 1024, at(2_000), &bell);
        watch.note(1, 64 * 1024, at(2_050), &bell);
        assert!(bell.measuring.load(Relaxed) && watch.is_busy());
    }

    #[test]
    fn many_small_packets_are_a_flood_and_as_many_large_ones_or_few_are_not() {
        let flooded = |packets: usize, each: usize| {
            let (bell, mut watch) = (BusyBell::default(), BusyWatch::new(2_048));
            (0..=300).step_by(10).for_each(|ms| watch.note(packets, packets * each, at(ms), &bell));
            watch.is_flooded()
        };
        assert!(flooded(400, 64) && flooded(400, 1_200));
        assert!(!flooded(390, 64) && !flooded(400, 9_000));
        let (bell, mut watch) = (BusyBell::default(), BusyWatch::new(2_048));
        watch.note(100_000, 100_000, at(0), &bell);
        watch.note(1, 64, at(100), &bell);
        assert!(watch.is_flooded());
        watch.note(1, 64, at(60_000), &bell);
        assert!(!watch.is_flooded(), "it was over long ago");
    }

    #[test]
    fn measuring_ends_two_seconds_after_the_last_work() {
        let (bell, mut sampling) = (BusyBell::default(), Sampling::default());
        bell.ring();
        sampling.begin(at(0));
        let mut now = at(0);
        while let Some(due) = sampling.due() {
            now = due;
            sampling.measured(due < at(1_000), due, &bell);
        }
        assert_eq!(now, at(2_900));
        assert!(!bell.measuring.load(Relaxed), "the next busy thread rings again");
    }
}
