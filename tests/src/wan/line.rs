//! One direction of a WAN link as a pure function of its seed and of what is put in: no device, thread or clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use super::Profile;

/// Frames in flight in one direction; more are dropped as if the queue were full. 65,536 × 1,514 B ≈ 100 MB is
/// 8 Gbit/s at 100 ms.
const MAX_FRAMES: usize = 65_536;
/// Ethernet and IPv4 headers: corruption leaves them alone, else a frame would be lost rather than corrupted.
const HEADERS: usize = 14 + 20;

/// What happened to the frames of one direction so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineStats {
    /// Frames put in.
    pub offered: u64,
    /// Frames that came out, duplicates included.
    pub delivered: u64,
    /// Dropped by the loss probability.
    pub lost: u64,
    /// Dropped because the queue in front of the bottleneck was full.
    pub overflowed: u64,
    /// Dropped for being longer than the path's MTU.
    pub too_big: u64,
    /// Dropped while the link was cut.
    pub cut: u64,
    /// Held back so that later frames overtake.
    pub reordered: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered with a flipped bit.
    pub corrupted: u64,
}

/// A bottleneck with a queue, then a delay line ordered by a heap.
///
/// Each frame consumes the same number of random numbers whatever the profile, so the fate of frame *n* depends on the
/// seed, on *n* and on the profile only, not on what happened to others.
#[derive(Debug)]
pub(crate) struct DelayLine {
    rng: ChaCha8Rng,
    /// Due time, then order of arrival, then the frame.
    heap: BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>,
    /// When the bottleneck will have sent what it was given.
    bottleneck_free_at: Duration,
    /// Due time of the latest frame that keeps its place.
    last_due: Duration,
    sequence: u64,
    stats: LineStats,
}

/// The dice of one frame, all thrown in advance.
struct Fate {
    lost: f64,
    duplicated: f64,
    reordered: f64,
    corrupted: f64,
    jitter: f64,
    bit: u64,
}

impl DelayLine {
    /// An empty line; `seed` decides the fate of every frame.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            heap: BinaryHeap::new(),
            bottleneck_free_at: Duration::ZERO,
            last_due: Duration::ZERO,
            sequence: 0,
            stats: LineStats::default(),
        }
    }

    pub(crate) fn stats(&self) -> LineStats {
        self.stats
    }

    /// Counts a frame that met a cut link.
    pub(crate) fn drop_cut(&mut self) {
        self.stats.offered += 1;
        self.stats.cut += 1;
        // The dice are thrown all the same, so that a cut does not shift the fate of later frames.
        self.throw();
    }

    /// Takes a frame at `now` (since any fixed start) and decides what becomes of it.
    pub(crate) fn push(&mut self, now: Duration, mut frame: Vec<u8>, profile: &Profile) {
        self.stats.offered += 1;
        let fate = self.throw();
        if fate.lost < profile.loss {
            self.stats.lost += 1;
            return;
        }
        if profile.mtu_bytes.is_some_and(|mtu| frame.len() > mtu + 14) {
            self.stats.too_big += 1;
            return;
        }
        let Some(sent) = self.pass_bottleneck(now, frame.len(), profile) else {
            self.stats.overflowed += 1;
            return;
        };
        if fate.corrupted < profile.corrupt {
            self.stats.corrupted += 1;
            corrupt(&mut frame, fate.bit);
        }
        let mut due = sent + profile.delay + profile.jitter.mul_f64(fate.jitter);
        if fate.reordered < profile.reorder {
            self.stats.reordered += 1;
            due += profile.reorder_by;
        } else {
            // Jitter alone stretches and squeezes gaps; it never reorders.
            due = due.max(self.last_due);
            self.last_due = due;
        }
        if fate.duplicated < profile.duplicate && self.heap.len() + 1 < MAX_FRAMES {
            self.stats.duplicated += 1;
            self.insert(due, frame.clone());
        }
        self.insert(due, frame);
    }

    /// The next frame due at `now`, in order of due time.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        self.stats.delivered += 1;
        self.heap.pop().map(|Reverse((_, _, frame))| frame)
    }

    /// When to call [`DelayLine::pop`] next.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((due, _, _))| *due)
    }

    /// Loses everything in flight, as a cut does.
    pub(crate) fn clear(&mut self) {
        self.stats.cut += self.heap.len() as u64;
        self.heap.clear();
    }

    /// When the last bit of a frame has left the bottleneck; `None` if there is no room before it.
    fn pass_bottleneck(&mut self, now: Duration, bytes: usize, profile: &Profile) -> Option<Duration> {
        if self.heap.len() >= MAX_FRAMES {
            return None;
        }
        let Some(rate) = profile.rate_bits_per_second else { return Some(now) };
        let rate = rate.max(1) as f64;
        let starts = self.bottleneck_free_at.max(now);
        let waiting_bytes = (starts - now).as_secs_f64() * rate / 8.0;
        if waiting_bytes + bytes as f64 > profile.queue_bytes as f64 {
            return None;
        }
        self.bottleneck_free_at = starts + Duration::from_secs_f64(bytes as f64 * 8.0 / rate);
        Some(self.bottleneck_free_at)
    }

    fn insert(&mut self, due: Duration, frame: Vec<u8>) {
        self.heap.push(Reverse((due, self.sequence, frame)));
        self.sequence += 1;
    }

    fn throw(&mut self) -> Fate {
        let mut die = || f64::from(self.rng.next_u32()) / (f64::from(u32::MAX) + 1.0);
        let (lost, duplicated, reordered, corrupted, jitter) = (die(), die(), die(), die(), die());
        Fate { lost, duplicated, reordered, corrupted, jitter, bit: self.rng.next_u64() }
    }
}

/// Flips one bit behind the IP header. A UDP checksum over IPv4 is switched off (0), else the receiver's kernel would
/// drop the frame and nobody would ever see the corruption.
fn corrupt(frame: &mut [u8], bit: u64) {
    let is_plain_udp = frame.len() > HEADERS + 8
        && frame[12..15] == [0x08, 0x00, 0x45]
        && frame[23] == 17
        && frame[20] & 0x3f == 0
        && frame[21] == 0;
    let first = if is_plain_udp { HEADERS + 8 } else { HEADERS };
    if frame.len() <= first {
        return;
    }
    if is_plain_udp {
        frame[HEADERS + 6..HEADERS + 8].fill(0);
    }
    let bits = (frame.len() - first) as u64 * 8;
    let position = (bit % bits) as usize;
    frame[first + position / 8] ^= 1 << (position % 8);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn frame(n: u32) -> Vec<u8> {
        let mut frame = vec![0; 100];
        frame[60..64].copy_from_slice(&n.to_be_bytes());
        frame
    }

    /// Puts `count` frames in, 1 ms apart, and returns what comes out, and when.
    fn run(seed: u64, profile: &Profile, count: u32) -> (Vec<(Duration, Vec<u8>)>, LineStats) {
        let mut line = DelayLine::new(seed);
        let mut out = Vec::new();
        for n in 0..count {
            let now = MS * n;
            while let Some(due) = line.next_due().filter(|due| *due <= now) {
                out.push((due, line.pop(due).unwrap()));
            }
            line.push(now, frame(n), profile);
        }
        while let Some(due) = line.next_due() {
            out.push((due, line.pop(due).unwrap()));
        }
        (out, line.stats())
    }

    fn number(frame: &[u8]) -> u32 {
        u32::from_be_bytes(frame[60..64].try_into().unwrap())
    }

    fn rough() -> Profile {
        Profile {
            delay: 40 * MS,
            jitter: 5 * MS,
            loss: 0.1,
            reorder: 0.05,
            reorder_by: 10 * MS,
            duplicate: 0.02,
            corrupt: 0.01,
            ..Profile::default()
        }
    }

    #[test]
    fn same_seed_and_frames_give_the_same_decisions() {
        assert_eq!(run(7, &rough(), 2_000), run(7, &rough(), 2_000));
        assert_ne!(run(7, &rough(), 2_000).0, run(8, &rough(), 2_000).0);
    }

    #[test]
    fn the_fate_of_a_frame_does_not_depend_on_the_other_settings() {
        let lost = |profile: &Profile| {
            let (out, _) = run(3, profile, 1_000);
            let arrived: Vec<_> = out.iter().map(|(_, frame)| number(frame)).collect();
            (0..1_000).filter(|n| !arrived.contains(n)).collect::<Vec<_>>()
        };
        let only_loss = Profile { loss: 0.1, ..Profile::default() };
        assert_eq!(lost(&only_loss), lost(&Profile { corrupt: 0.0, ..rough() }));
    }

    #[test]
    fn meets_the_rates_asked_for() {
        let (_, stats) = run(1, &rough(), 20_000);
        let near = |count: u64, expected: f64| (count as f64 - expected).abs() < expected * 0.15;
        assert!(near(stats.lost, 2_000.0), "{stats:?}");
        assert!(near(stats.reordered, 900.0), "{stats:?}");
        assert!(near(stats.duplicated, 360.0), "{stats:?}");
        assert!(near(stats.corrupted, 180.0), "{stats:?}");
        assert_eq!(stats.delivered, stats.offered - stats.lost + stats.duplicated);
    }

    #[test]
    fn delays_by_no_less_than_asked_and_no_more_than_delay_and_jitter() {
        let profile = Profile { delay: 40 * MS, jitter: 5 * MS, ..Profile::default() };
        let (out, _) = run(1, &profile, 1_000);
        assert_eq!(out.len(), 1_000);
        for (due, frame) in &out {
            let took = *due - MS * number(frame);
            assert!((40 * MS..=45 * MS).contains(&took), "{took:?}");
        }
    }

    #[test]
    fn jitter_alone_never_reorders_but_reorder_does() {
        let order = |profile: &Profile| {
            run(5, profile, 1_000).0.iter().map(|(_, frame)| number(frame)).collect::<Vec<_>>()
        };
        assert!(order(&Profile { jitter: 20 * MS, ..Profile::default() }).is_sorted());
        let reordering = Profile { reorder: 0.1, reorder_by: 5 * MS, ..Profile::default() };
        assert!(!order(&reordering).is_sorted());
    }

    #[test]
    fn the_bottleneck_spaces_frames_and_drops_what_its_queue_cannot_hold() {
        // 100 bytes at 80 kbit/s take 10 ms; room for five frames.
        let profile = Profile { rate_bits_per_second: Some(80_000), queue_bytes: 500, ..Profile::default() };
        let mut line = DelayLine::new(1);
        for n in 0..10 {
            line.push(Duration::ZERO, frame(n), &profile);
        }
        assert_eq!(line.stats().overflowed, 5);
        let dues: Vec<_> = std::iter::from_fn(|| {
            let due = line.next_due()?;
            line.pop(due).map(|_| due)
        })
        .collect();
        assert_eq!(dues, [10 * MS, 20 * MS, 30 * MS, 40 * MS, 50 * MS]);
    }

    #[test]
    fn an_mtu_hole_swallows_long_frames_silently() {
        let profile = Profile { mtu_bytes: Some(86), ..Profile::default() };
        assert_eq!(run(1, &profile, 3).0.len(), 3);
        let profile = Profile { mtu_bytes: Some(85), ..Profile::default() };
        assert_eq!(run(1, &profile, 3).1.too_big, 3);
    }

    #[test]
    fn corruption_flips_one_bit_and_switches_the_udp_checksum_off() {
        let mut udp = vec![0xaa; 80];
        udp[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        udp[20..22].fill(0);
        udp[23] = 17;
        for bit in 0..1_000 {
            let mut corrupted = udp.clone();
            corrupt(&mut corrupted, bit);
            assert_eq!(corrupted[40..42], [0, 0]);
            let flipped: u32 = (42..80).map(|i| (corrupted[i] ^ udp[i]).count_ones()).sum();
            assert_eq!((flipped, &corrupted[..40]), (1, &udp[..40]));
        }
        corrupt(&mut [0; 34], 1);
    }
}
