//! Is the selected path alive, in both directions, for probes and for data.

use super::{Attention, PathAgent, PathEvent};
use crate::path::agent::probes::Purpose;
use crate::path::agent::rounds::Role;
use crate::path::history::{Path, Reason};
use crate::time::{Duration, Instant};

/// How the selected path is checked.
struct Pace {
    /// Between checks that are answered.
    every: Duration,
    /// Shortest and longest wait for the first answer.
    first_wait: (Duration, Duration),
    /// Between the second check and the later ones.
    gap: Duration,
    /// An interval does not fail earlier: outages of less are common and heal.
    least: Duration,
    /// Checks of one interval.
    tries: u32,
}

/// A path that carries data. The longest whole must end before [`SILENCE`] and half a second. At 20 % loss each way
/// twelve checks fail together once in 200,000 intervals, which is five days; six would once in 15 minutes.
const CALM: Pace = Pace {
    every: Duration::from_secs(2),
    first_wait: (Duration::from_millis(150), Duration::from_millis(400)),
    gap: Duration::from_millis(48),
    least: Duration::from_secs(1),
    tries: 12,
};
/// A path that carries bulk while other lanes stand by. A TCP sender on it repeats after 200 ms, 600 ms and 1.4 s: the
/// second of these must find another lane, so all that may pass until then is 150 + 80 + 6 × 20 + 80 = 430 ms, and more
/// only where the round-trip time is above 80 ms; [`QUIET`] makes it less. What heals later costs nothing but a change
/// of lane.
const BRISK: Pace = Pace {
    every: Duration::from_millis(150),
    first_wait: (Duration::from_millis(80), Duration::from_millis(400)),
    gap: Duration::from_millis(20),
    least: Duration::ZERO,
    tries: 8,
};
/// A path that carries bulk and is counted on: asked thirteen times as often, and as seldom wrong: three checks more in the
/// same time make up for it.
const COUNTING: Pace =
    Pace { every: BRISK.every, gap: Duration::from_millis(36), tries: CALM.tries + 3, ..CALM };
/// Data messages in one interval from which on it is bulk.
const BULK: u32 = 10;
/// Between checks of a direct path whose traffic paused: below the 30 s at which common NATs forget a mapping.
const COOLING: Duration = Duration::from_secs(15);
/// After this long without traffic nothing is sent and the direct path is no longer believed in.
const IDLE: Duration = Duration::from_secs(45);
/// No packet for so long while sending: suspect.
const SILENCE: Duration = Duration::from_secs(3);
/// A lane is quiet when it received this often in an interval of [`BRISK`], and now nothing for [`QUIET`] while other lanes
/// of the peer go on. An application that pauses looks the same, so it only counts together with [`QUIET_TRIES`] checks
/// unanswered for longer than a round trip: what is left of them is a path that died.
const QUIET_MIN: u32 = 4;
const QUIET: Duration = Duration::from_millis(150);
const QUIET_TRIES: u32 = 3;
/// Another lane received so recently: this machine and the peer are not what is slow.
const OTHERS_FRESH: Duration = Duration::from_millis(60);
/// A quiet lane is asked again after a round trip and a quarter, but no earlier.
const QUIET_WAIT: Duration = Duration::from_millis(40);
/// Checks of a suspect path,
const SUSPECT_MS: [u64; 4] = [0, 200, 500, 1000];
/// and its end.
const SUSPECT_END: Duration = Duration::from_millis(1500);
/// Every so many watch intervals the other valid pairs are checked too.
const OTHERS_EVERY: u32 = 5;
/// At most so many of them,
const OTHERS: usize = 2;
/// and one that misses so many is not valid any more.
const OTHERS_MISSES: u32 = 3;

/// A relay by which so many PINGs in a row were not answered may have lost the peer.
const RELAY_MISSES: u32 = 3;
/// So many relays are given up before the peer is heard again.
const SILENT_RELAYS: u8 = 2;

/// Checks of the selected path.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    first: Instant,
    pub(super) next: Instant,
    tries: u32,
    intervals: u32,
    /// Data sent until the first check of this interval,
    tx: u32,
    /// and received;
    rx: u32,
    /// how much of that in each of the two intervals before.
    received: [u32; 2],
    /// When the next check leaves whatever is heard; `next` is earlier where a quiet lane is looked at.
    due: Instant,
    attention: Attention,
}

impl Watch {
    fn at(at: Instant, tx: u32) -> Self {
        Self {
            first: at,
            next: at,
            tries: 0,
            intervals: 0,
            tx,
            rx: 0,
            received: [0; 2],
            due: at,
            attention: Attention::Calm,
        }
    }

    /// Much came by it while it was looked at closely.
    fn is_busy(&self) -> bool {
        self.attention == Attention::Brisk && self.received.iter().any(|n| *n >= QUIET_MIN)
    }

    fn pace(&self) -> Pace {
        match self.attention {
            Attention::Calm => CALM,
            Attention::Counting => COUNTING,
            Attention::Brisk => BRISK,
        }
    }
}

/// A direct path in doubt.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    path: Path,
    since: Instant,
    next: usize,
}

impl PathAgent {
    /// Traffic after silence.
    pub(super) fn wake(&mut self) {
        self.resting = false;
        if self.selected.is_some() {
            self.watch_from(self.now.mono);
        }
        if !self.is_direct() {
            self.failed_rounds = 0;
            self.start_round(Role::Initiator);
            self.arm_retry();
        }
        self.run_watch();
    }

    /// The next check of the selected path is at `at`.
    pub(super) fn watch_from(&mut self, at: Instant) {
        let wanted = self.selected.is_some() && self.suspect.is_none() && self.is_active();
        self.watch = wanted.then(|| Watch::at(at, self.traffic.direct.tx));
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    pub(super) fn watch_after_selection(&mut self) {
        self.watch_from(self.now.mono + CALM.every);
    }

    pub(super) fn run_watch(&mut self) {
        let now = self.now.mono;
        let Some(mut w) = self.watch.take_if(|w| w.next <= now) else { return };
        let Some(path) = self.selected else { return };
        let since_tx = self.traffic.last_tx.map_or(Duration::MAX, |at| now - at);
        let Path::Direct { remote } = path else {
            if since_tx < Self::EDGE {
                self.judge_relay();
                self.ping_relay();
                self.watch = Some(Watch { next: now + CALM.every, ..w });
            }
            return;
        };
        let Some(i) = self.pair_index(remote) else { return };
        if since_tx >= Self::EDGE {
            if since_tx < IDLE {
                self.ping_pair(i, Purpose::Watch);
                self.watch = Some(Watch { next: now + COOLING, ..Watch::at(now, self.traffic.direct.tx) });
            }
            return;
        }
        let quiet = self.quiet_since(i, &w);
        let is_dead = quiet.is_some_and(|since| self.is_dead_beside_others(i, since, &w));
        if is_dead || (w.tries >= w.pace().tries && now >= w.due) {
            self.suspect_path(path, if is_dead { Reason::Silent } else { Reason::ProbesLost });
            return;
        }
        if w.tries > 0 && now < w.due && quiet.is_none() {
            w.next = w.due.min(now + QUIET_WAIT);
            self.watch = Some(w);
            return;
        }
        if w.tries == 0 {
            self.begin_interval(i, &mut w);
        }
        let calm = w.attention == Attention::Calm;
        if self.ping_pair(i, if calm { Purpose::Watch } else { Purpose::Bulk }) {
            w.tries += 1;
            self.schedule_next(i, &mut w);
        } else {
            // Over budget: what was not sent is not unanswered. A path that is dead is found by its silence.
            w.due = now + w.pace().first_wait.1;
            w.next = w.due;
        }
        self.watch = Some(w);
    }

    /// The peer does not answer by the relay: another may reach it. A peer that is gone is not looked for for ever.
    fn judge_relay(&mut self) {
        let Some(relay) = self.relay.filter(|_| self.relay_link.unanswered >= RELAY_MISSES) else { return };
        if self.silent_relays < SILENT_RELAYS {
            self.silent_relays += 1;
            self.emit(PathEvent::RelaySilent(relay.relay_no));
        }
    }

    fn begin_interval(&mut self, i: usize, w: &mut Watch) {
        let direct = self.traffic.direct;
        w.first = self.now.mono;
        w.intervals += 1;
        let bulk = direct.tx.wrapping_sub(w.tx) >= BULK;
        let was_brisk = w.attention == Attention::Brisk;
        w.received = [w.received[1], if was_brisk { direct.rx.wrapping_sub(w.rx) } else { 0 }];
        w.attention = if bulk { self.attention } else { Attention::Calm };
        (w.tx, w.rx) = (direct.tx, direct.rx);
        if w.attention == Attention::Calm && w.intervals.is_multiple_of(OTHERS_EVERY) {
            self.check_others(i);
        }
    }

    /// A check has left.
    fn schedule_next(&self, i: usize, w: &mut Watch) {
        let now = self.now.mono;
        let (pace, rtt) = (w.pace(), &self.pairs[i].link.rtt);
        let wait = rtt.timeout().clamp(pace.first_wait.0, pace.first_wait.1);
        w.due = match w.tries {
            1 => now + wait,
            n if n >= pace.tries => (now + wait).max(w.first + pace.least),
            _ => now + pace.gap,
        };
        w.next = w.due;
        if w.tries == 1 && w.is_busy() {
            let round_trip = rtt.least().unwrap_or(wait);
            w.next = w.due.min(now + (round_trip + round_trip / 4).max(QUIET_WAIT));
        }
    }

    /// Since when nothing has come by a lane that was busy, if other lanes of the peer go on.
    fn quiet_since(&self, i: usize, w: &Watch) -> Option<Instant> {
        let now = self.now.mono;
        let others_go_on = self.traffic.others_rx.is_some_and(|at| now.saturating_since(at) <= OTHERS_FRESH);
        let heard = self.pairs[i].link.last_rx.max(self.traffic.direct.last_rx)?;
        let is_quiet = now.saturating_since(heard) >= QUIET_WAIT;
        (w.tries > 0 && w.is_busy() && others_go_on && is_quiet).then_some(heard)
    }

    fn is_dead_beside_others(&self, i: usize, quiet_since: Instant, w: &Watch) -> bool {
        let now = self.now.mono;
        let round_trip = self.pairs[i].link.rtt.least().unwrap_or(BRISK.first_wait.1);
        w.tries >= QUIET_TRIES
            && now.saturating_since(quiet_since) >= QUIET
            && now.saturating_since(w.first) > round_trip + round_trip / 4
    }

    /// The selected path answered: the interval is over.
    pub(super) fn watch_answered(&mut self) {
        let now = self.now.mono;
        if let Some(w) = &mut self.watch
            && w.tries > 0
        {
            w.tries = 0;
            let pace = w.pace();
            w.next = (w.first + pace.every).max(now + pace.first_wait.0);
            w.due = w.next;
        }
    }

    /// Bulk has begun between two calm checks: the next one is earlier.
    pub(super) fn hasten_watch(&mut self) {
        let (now, tx) = (self.now.mono, self.traffic.direct.tx);
        if let Some(w) = &mut self.watch
            && self.attention != Attention::Calm
            && w.tries == 0
            && w.attention == Attention::Calm
            && tx.wrapping_sub(w.tx) >= BULK
        {
            w.next = w.next.min(now + BRISK.every);
            w.due = w.next;
        }
    }

    /// Keeps the times of the other valid pairs fresh, so that a better one is found.
    fn check_others(&mut self, selected: usize) {
        let others: Vec<usize> =
            (0..self.pairs.len()).filter(|i| *i != selected && self.pairs[*i].valid).take(OTHERS).collect();
        for i in others {
            if self.pairs[i].link.unanswered >= OTHERS_MISSES {
                self.pairs[i].valid = false;
            } else {
                self.ping_pair(i, Purpose::Watch);
            }
        }
    }

    /// When anything came last on the selected direct path.
    fn heard(&self) -> Option<Instant> {
        self.pairs[self.selected_pair()?].link.last_rx.max(self.traffic.direct.last_rx)
    }

    pub(super) fn silence_due(&self) -> Option<Instant> {
        if !self.is_active() || !self.is_direct() {
            return None;
        }
        let since = self.heard().unwrap_or(Instant::ZERO).max(self.selected_at).max(self.sending_since);
        (self.traffic.last_tx? > since).then(|| since + SILENCE)
    }

    pub(super) fn run_silence(&mut self) {
        if self.silence_due().is_some_and(|at| at <= self.now.mono)
            && let Some(path) = self.selected
        {
            self.suspect_path(path, Reason::Silent);
        }
    }

    fn suspect_path(&mut self, path: Path, reason: Reason) {
        let Path::Direct { remote } = path else { return };
        let now = self.now.mono;
        self.watch = None;
        self.confirm_at = None;
        if let Some(i) = self.pair_index(remote) {
            self.pairs[i].fail(now);
        }
        self.emit(PathEvent::RefreshCandidates);
        if self.leave_direct(reason) {
            return;
        }
        self.suspect = Some(Suspect { path, since: now, next: 0 });
        self.run_suspect();
    }

    pub(super) fn suspect_due(&self) -> Option<Instant> {
        let s = self.suspect.as_ref()?;
        Some(s.since + SUSPECT_MS.get(s.next).map_or(SUSPECT_END, |ms| Duration::from_millis(*ms)))
    }

    pub(super) fn run_suspect(&mut self) {
        let now = self.now.mono;
        while self.suspect_due().is_some_and(|at| at <= now) {
            let Some(s) = &mut self.suspect else { return };
            let Path::Direct { remote } = s.path else { return };
            s.next += 1;
            let over = s.next > SUSPECT_MS.len();
            let Some(i) = self.pair_index(remote) else {
                self.suspect = None;
                return;
            };
            if !over {
                if self.suspect.as_ref().is_some_and(|s| s.next == 1) {
                    self.check_others(i);
                }
                self.ping_pair(i, Purpose::Watch);
                continue;
            }
            self.suspect = None;
            self.pairs[i].hold(now);
            self.failed_rounds = 0;
            self.give_up_direct();
            if self.is_active() {
                self.start_round(Role::Initiator);
                self.arm_retry();
            }
        }
    }

    pub(super) fn suspect_answered(&mut self, path: Path) -> bool {
        self.suspect.take_if(|s| s.path == path).is_some()
    }

    /// The peer's counters begin anew, and what it could not open did arrive: no path is to blame.
    pub(super) fn peer_restarted(&mut self) {
        for pair in &mut self.pairs {
            pair.hold_until = Instant::ZERO;
        }
        self.awaits_session = true;
        self.forget_data();
        self.emit(PathEvent::PeerRestarted);
    }

    pub(super) fn forget_data(&mut self) {
        for pair in &mut self.pairs {
            pair.link.forget_data();
        }
        self.confirm_at = None;
    }

    pub(super) fn run_confirm(&mut self) {
        if self.confirm_at.is_none_or(|at| at > self.now.mono) {
            return;
        }
        self.confirm_at = None;
        if let Some(i) = self.selected_pair() {
            self.ping_pair(i, Purpose::Watch);
        }
    }

    pub(super) fn idle_due(&self) -> Option<Instant> {
        let _direct = self.selected_pair()?;
        if self.resting {
            return None;
        }
        let last = self.traffic.last_tx.max(self.heard());
        Some(last.unwrap_or(Instant::ZERO).max(self.selected_at) + IDLE)
    }

    /// After 45 s the NATs on the way may have forgotten the path: the next data starts on the relay again.
    pub(super) fn rest_if_idle(&mut self) {
        if self.idle_due().is_none_or(|at| at > self.now.mono) {
            return;
        }
        self.resting = true;
        self.watch = None;
        self.confirm_at = None;
        self.retry_at = None;
        self.next_round = None;
        self.suspect = None;
        self.caller.stop_calling();
        self.fall_asleep();
    }
}
