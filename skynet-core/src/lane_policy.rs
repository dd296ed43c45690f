//! When a pair opens another lane, and when lanes are given back: pure decisions from what was measured.
//!
//! Two things are a reason for another lane, and each has a sign of its own:
//!
//! - **A core is full.** One of the two threads behind a lane is busy ≥ 85 % of the time, twice in a row, and there is
//!   more than one flow: a flow keeps its lane, so one alone gains nothing.
//! - **The rate of the 5-tuple is limited**, by a policer or by a cloud's cap per flow: ≥ 20 Mbit/s flow, between 0.05 %
//!   and 50 % of it is lost over the last second, or at least 2 % over the last 0.4 s, and the round-trip time is not
//!   above what the path can do. A queue that is full loses too, but it is slow first; more lanes gain nothing there.
//!
//! Lanes double, 1 → 2 → 4 → … up to what both ends agreed on, and the result is looked at before the next step. Where
//! 2 % is lost all are opened at once: a cap is meant, and another lane is no other flow, so nobody's share grows by it.
//! A step that brought less than a tenth more is not repeated for the same reason for 30 s, then for twice as long each
//! time. Lanes that were opened for a core are then given back: where no other core is idle, a further thread only costs.
//! Those against loss stay, for loss comes and goes. Thirty seconds without work, and all but the first are given back.
//!
//! **Spreading.** A flow keeps the lane it began on, and what it will send is not known then. So flows that began at once
//! may meet on one lane. If that one is full or limited for 0.3 s, while another carries less than half as much, all
//! flows may move once more; if that did not help, again after 1, 2, 4 … 32 s.

use std::collections::VecDeque;

use crate::id::{LaneNo, MAX_PORTS};
use crate::path::Counted;
use crate::time::{Duration, Instant};

/// A thread this busy is full: what is left is wake-ups between batches.
pub const FULL_PERMILLE: u16 = 850;
/// For so many samples in a row, 100 ms each.
const FULL_SAMPLES: u32 = 2;
/// Below this rate a lane is never limited: bits per second.
pub const LIMITED_BITS: u64 = 20_000_000;
/// Loss of a limited lane in parts per million. Below, it is noise; above, the path is broken, not limited. Eight TCP
/// streams that share a policer at half a millisecond of round-trip time lose 35 %: each has its least window.
const LIMITED_PPM: core::ops::RangeInclusive<u64> = 500..=500_000;
/// Loss is looked at over so long,
const LOSS_WINDOW: Duration = Duration::from_secs(1);
/// or so long if it is plain: at least so many parts per million,
const PLAIN_WINDOW: Duration = Duration::from_millis(400);
const PLAIN_PPM: u64 = 20_000;
/// and so many messages: as many as may be on their way between two workers without being lost.
const PLAIN_MESSAGES: u64 = 200;
/// Above half as much again as the least round-trip time, this much is a queue and not a busy processor.
const QUEUED: Duration = Duration::from_millis(10);
/// A pair that moves less than this is idle: bits per second.
const IDLE_BITS: u64 = 1_000_000;
/// After so long idle, lanes are given back.
pub const IDLE_AFTER: Duration = Duration::from_secs(30);
/// After a step its effect is waited for: punching, and most of a second of traffic.
const SETTLE: Duration = Duration::from_millis(1200);
/// How long a step that was of no use keeps further ones away, doubled each time up to the second.
const STEP_WAITS: Waits = [Duration::from_secs(30), Duration::from_secs(600)];
/// One lane carries too much and another too little for so many samples in a row: flows may move.
const UNEVEN_SAMPLES: u32 = 3;
/// Then they stay where they are for so long, doubled while it does not help up to the second.
const SPREAD_WAITS: Waits = [Duration::from_secs(1), Duration::from_secs(32)];
/// Points of comparison kept per lane: two and a half seconds of PONGs 150 ms apart.
const SAMPLES: usize = 16;

/// One lane in one interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneLoad {
    /// Which.
    pub lane: LaneNo,
    /// Bytes sent in this interval.
    pub bytes: u64,
    /// Flows that sent something by it lately.
    pub flows: u32,
    /// The busier of the two threads behind its port, in thousandths.
    pub busy_permille: u16,
    /// What both ends have counted last.
    pub counted: Option<Counted>,
    /// Smoothed round-trip time,
    pub rtt: Duration,
    /// and the least of the last ones.
    pub least_rtt: Duration,
}

impl LaneLoad {
    fn is_full(&self) -> bool {
        self.busy_permille >= FULL_PERMILLE
    }
}

/// One peer in one interval.
#[derive(Clone, Copy, Debug)]
pub struct PeerLoad<'a> {
    /// Those that are usable.
    pub lanes: &'a [LaneLoad],
    /// Bytes received in this interval, by whatever lane.
    pub received: u64,
    /// Flows that sent something lately, by whatever lane.
    pub flows: u32,
    /// Lanes both ends agreed on.
    pub most: u8,
    /// Lanes the operator wants at least.
    pub least: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Core,
    Loss { plain: bool },
}

/// What one interval calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// So many lanes.
    pub lanes: u8,
    /// Flows that are badly spread over them may move, once.
    pub spread: bool,
}

/// A step up, until its effect is known.
#[derive(Clone, Copy, Debug)]
struct Step {
    cause: Cause,
    at: Instant,
    /// Lanes before,
    lanes: u8,
    /// and bits per second.
    rate: u64,
}

/// The first wait and the longest.
type Waits = [Duration; 2];

/// How long something that did not help is not tried again.
#[derive(Clone, Copy, Debug, Default)]
struct BackOff {
    until: Instant,
    /// The last wait; none if it helped last, or is not needed.
    waited: Option<Duration>,
}

impl BackOff {
    fn begin(&mut self, [first, longest]: Waits, now: Instant) {
        let wait = self.waited.map_or(first, |before| (before * 2).min(longest));
        *self = Self { until: now + wait, waited: Some(wait) };
    }

    /// A step has been judged.
    fn note(&mut self, was_of_use: bool, now: Instant) {
        if was_of_use {
            *self = Self::default();
        } else {
            self.begin(STEP_WAITS, now);
        }
    }

    fn holds(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// The decision for one peer. Feed it every 100 ms while the pair is busy.
#[derive(Debug, Default)]
pub struct LanePolicy {
    wanted: u8,
    last: Option<Instant>,
    full: u32,
    losses: [LossMeter; MAX_PORTS],
    /// Bits per second that are sent, or received if these are more, smoothed over about half a second.
    rate: u64,
    step: Option<Step>,
    not_for_core: BackOff,
    not_for_loss: BackOff,
    last_busy: Instant,
    spreading: Spreading,
}

/// When flows were allowed to move.
#[derive(Debug, Default)]
struct Spreading {
    /// Samples in a row that were uneven.
    uneven: u32,
    /// For so long they stay.
    stay: BackOff,
}

impl Spreading {
    /// Whether flows may move now.
    fn take(&mut self, uneven: bool, now: Instant) -> bool {
        self.uneven = if uneven { self.uneven + 1 } else { 0 };
        if self.stay.holds(now) {
            return false;
        }
        if !uneven {
            self.stay = BackOff::default();
        }
        let spreads = self.uneven >= UNEVEN_SAMPLES;
        if spreads {
            self.uneven = 0;
            self.stay.begin(SPREAD_WAITS, now);
        }
        spreads
    }
}

impl LanePolicy {
    /// One interval has passed.
    pub fn handle_load(&mut self, load: &PeerLoad<'_>, now: Instant) -> Verdict {
        let since = self.last.replace(now).map_or(Duration::ZERO, |at| now.saturating_since(at));
        let least = load.least.clamp(1, load.most.max(1));
        self.wanted = self.wanted.max(least).min(load.most.max(1));
        if since.is_zero() {
            return Verdict { lanes: self.wanted, spread: false };
        }
        // Whoever only receives may be the one whose core is full.
        let sent: u64 = load.lanes.iter().map(|l| rate(l.bytes, since)).sum();
        let bits = sent.max(rate(load.received, since));
        self.rate = if self.rate == 0 { bits } else { (self.rate * 3 + bits) / 4 };
        if bits >= IDLE_BITS {
            self.last_busy = now;
        }
        for lane in load.lanes {
            self.losses[usize::from(lane.lane.port().0)].add(lane.counted);
        }
        let full = load.lanes.iter().any(LaneLoad::is_full);
        self.full = if full { self.full + 1 } else { 0 };
        self.judge_step(full, now);
        if self.step.is_none()
            && self.wanted < load.most
            && let Some(cause) = self.cause(load, since, now)
        {
            self.step = Some(Step { cause, at: now, lanes: self.wanted, rate: self.rate });
            let all = cause == Cause::Loss { plain: true };
            self.wanted = if all { load.most } else { (self.wanted * 2).min(load.most) };
            self.losses = Default::default();
            self.full = 0;
            self.last_busy = now;
        }
        let spread = self.spreading.take(self.is_uneven(load, since), now);
        Verdict { lanes: self.wanted, spread }
    }

    /// When to call [`LanePolicy::handle_timeout`]: lanes are open that nobody may need.
    pub fn poll_timeout(&self, least: u8) -> Option<Instant> {
        (self.wanted > least.max(1)).then(|| self.last_busy + IDLE_AFTER)
    }

    /// Time has passed: how many lanes there should be.
    pub fn handle_timeout(&mut self, least: u8, now: Instant) -> u8 {
        if now >= self.last_busy + IDLE_AFTER && self.wanted > least.max(1) {
            *self = Self { wanted: least.max(1), last_busy: now, ..Self::default() };
        }
        self.wanted
    }

    /// What speaks for another lane.
    fn cause(&self, load: &PeerLoad<'_>, since: Duration, now: Instant) -> Option<Cause> {
        if self.full >= FULL_SAMPLES && load.flows > 1 && !self.not_for_core.holds(now) {
            return Some(Cause::Core);
        }
        if self.not_for_loss.holds(now) {
            return None;
        }
        let most = load.lanes.iter().filter_map(|l| self.limited_ppm(l, since)).max()?;
        Some(Cause::Loss { plain: most >= PLAIN_PPM })
    }

    /// What a lane loses whose rate is limited.
    fn limited_ppm(&self, lane: &LaneLoad, since: Duration) -> Option<u64> {
        let queued = lane.rtt > lane.least_rtt + lane.least_rtt / 2 + QUEUED;
        if rate(lane.bytes, since) < LIMITED_BITS || queued {
            return None;
        }
        self.losses[usize::from(lane.lane.port().0)].loss_ppm().filter(|ppm| LIMITED_PPM.contains(ppm))
    }

    /// Several flows share a lane that can carry no more, while another has room.
    fn is_uneven(&self, load: &PeerLoad<'_>, since: Duration) -> bool {
        let least = load.lanes.iter().map(|l| l.bytes).min().unwrap_or(0);
        let can_no_more = |l: &LaneLoad| l.is_full() || self.limited_ppm(l, since).is_some();
        load.lanes.iter().any(|l| l.flows > 1 && l.bytes / 2 > least && can_no_more(l))
    }

    /// Whether the last step was of use.
    fn judge_step(&mut self, full: bool, now: Instant) {
        let Some(step) = self.step.take_if(|s| now >= s.at + SETTLE) else { return };
        let was_of_use = self.rate > step.rate + step.rate / 10;
        match step.cause {
            // If no core is full any more, there is less to do and nothing to be said.
            Cause::Core if full || was_of_use => {
                self.not_for_core.note(was_of_use, now);
                if !was_of_use {
                    self.wanted = step.lanes;
                }
            }
            Cause::Core => {}
            Cause::Loss { .. } => self.not_for_loss.note(was_of_use, now),
        }
    }
}

fn rate(bytes: u64, over: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 8_000_000_000 / over.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// Loss of one lane over the last seconds, from the two ends' counts.
///
/// What is on its way when a PING leaves looks like loss, so single differences mean little. But it does not add up:
/// loss is believed when every difference of the later half is above every one of the earlier half, over a second, or
/// sooner if by more than can be on its way.
#[derive(Clone, Debug, Default)]
struct LossMeter {
    /// When, sent, and sent minus arrived; oldest first.
    samples: VecDeque<(Instant, u32, i32)>,
}

impl LossMeter {
    fn add(&mut self, counted: Option<Counted>) {
        let Some(Counted { at, sent, arrived }) = counted else { return };
        if self.samples.back().is_some_and(|(last, ..)| *last >= at) {
            return;
        }
        // Counters that go back are those of another path: what was counted before says nothing of it.
        if self.samples.back().is_some_and(|(_, before, _)| sent.wrapping_sub(*before).cast_signed() < 0) {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((at, sent, sent.wrapping_sub(arrived).cast_signed()));
    }

    /// Parts per million lost; `None` before there is enough to look at.
    fn loss_ppm(&self) -> Option<u64> {
        let (&(oldest, _, first), &(newest, ..)) = (self.samples.front()?, self.samples.back()?);
        let looked_at = newest.saturating_since(oldest);
        if looked_at < PLAIN_WINDOW {
            return None;
        }
        let missing = |s: &&(Instant, u32, i32)| s.2.wrapping_sub(first);
        let half = self.samples.len() / 2;
        let (early, late) = (self.samples.range(..half), self.samples.range(half..));
        let worst = early.clone().max_by_key(missing)?;
        let (early, late) = (early.min_by_key(missing)?, late.min_by_key(missing)?);
        if missing(&late) <= missing(&worst) {
            return (looked_at >= LOSS_WINDOW).then_some(0);
        }
        let sent = u64::from(late.1.wrapping_sub(early.1));
        let lost = u64::try_from(late.2.wrapping_sub(early.2)).unwrap_or(0);
        let ppm = (sent > 0).then(|| lost * 1_000_000 / sent)?;
        (looked_at >= LOSS_WINDOW || (ppm >= PLAIN_PPM && lost >= PLAIN_MESSAGES)).then_some(ppm)
    }
}

#[cfg(test)]
#[path = "lane_policy_tests.rs"]
mod tests;
