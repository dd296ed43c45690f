//! Which path carries data.

use super::{PathAgent, PathEvent};
use crate::chunk::LossGuard;
use crate::path::history::{HistoryEntry, Path, Reason};
use crate::path::link::Link;
use crate::path::score::Score;
use crate::time::Duration;

/// A challenger must be clearly better in so many consecutive samples,
const SAMPLES: u32 = 3;
/// the last change this long ago,
const SETTLED: Duration = Duration::from_secs(10);
/// and the last change for a better path this long: more is flapping.
const BETTER_EVERY: Duration = Duration::from_secs(60);
/// An answer so recent speaks for a path.
const FRESH: Duration = Duration::from_secs(1);

impl PathAgent {
    pub(super) fn select(&mut self, path: Option<Path>, reason: Reason) {
        if path == self.selected {
            return;
        }
        let when = self.now.mono;
        self.history.push(HistoryEntry { when, from: self.selected, to: path, reason });
        self.counters.switches += u64::from(self.selected.is_some());
        self.selected = path;
        self.loss = LossGuard::default();
        self.selected_at = when;
        self.resting = false;
        self.begin_mtu();
        self.emit(PathEvent::Selected { path, reason });
        for pair in &mut self.pairs {
            pair.better = 0;
        }
    }

    fn relay_path(&self) -> Option<Path> {
        self.relay.map(|r| Path::Relayed { relay: r.relay_no, node_no: r.node_no })
    }

    fn score(&self, i: usize) -> Score {
        Score::direct(&self.pairs[i].candidate, self.pairs[i].link.rtt.least())
    }

    fn best_usable(&self) -> Option<usize> {
        let now = self.now.mono;
        (0..self.pairs.len()).filter(|i| self.pairs[*i].is_usable(now)).min_by_key(|i| self.score(*i))
    }

    fn go_direct(&mut self, i: usize, reason: Reason) {
        let remote = self.pairs[i].candidate.addr;
        self.pairs[i].link.forget_data();
        self.suspect = None;
        self.confirm_at = None;
        self.end_rounds();
        self.select(Some(Path::Direct { remote }), reason);
        self.watch_after_selection();
    }

    fn end_rounds(&mut self) {
        self.retry_at = None;
        self.next_round = None;
        self.failed_rounds = 0;
        self.caller.stop_calling();
    }

    /// Pair `i` has answered.
    pub(super) fn pair_answered(&mut self, i: usize) {
        let path = Path::Direct { remote: self.pairs[i].candidate.addr };
        let now = self.now.mono;
        if self.is_direct() && self.selected == Some(path) {
            if self.is_watched() {
                self.watch_answered();
            } else {
                self.watch_after_selection();
                self.end_rounds();
            }
            return;
        }
        if !self.is_direct() {
            // Without a relay there is nothing better to wait on.
            let usable = self.pairs[i].is_usable(now) || self.relay.is_none();
            if usable {
                let recovered = self.suspect_answered(path);
                self.go_direct(i, if recovered { Reason::Recovered } else { Reason::Validated });
            }
            return;
        }
        let Some(current) = self.selected_pair() else { return };
        let jitter = self.pairs[current].link.rtt.variation();
        let better =
            self.pairs[i].is_usable(now) && self.score(i).clearly_beats(&self.score(current), jitter);
        self.pairs[i].better = if better { self.pairs[i].better + 1 } else { 0 };
        let settled =
            now - self.selected_at >= SETTLED && self.bettered_at.is_none_or(|at| now - at >= BETTER_EVERY);
        if self.pairs[i].better >= SAMPLES && settled {
            self.bettered_at = Some(now);
            self.go_direct(i, Reason::Better);
        }
    }

    /// Data must leave the selected direct path. True if another direct path took it, which must have answered in
    /// the last second: what failed one path may have failed all. Else data goes to the relay, or stays if there
    /// is none.
    pub(super) fn leave_direct(&mut self, reason: Reason) -> bool {
        let now = self.now.mono;
        let fresh = |l: &Link| l.last_pong.is_some_and(|at| now - at <= FRESH);
        if let Some(i) = self.best_usable().filter(|i| fresh(&self.pairs[*i].link)) {
            self.go_direct(i, reason);
            return true;
        }
        if let Some(relay) = self.relay_path() {
            self.select(Some(relay), reason);
        }
        false
    }

    /// The suspect path is dead. Without a relay data stays on it: nothing is better, and it may come back.
    pub(super) fn give_up_direct(&mut self) {
        if matches!(self.selected, Some(Path::Relayed { .. })) {
            self.watch_after_selection();
        }
    }

    /// Probes pass, data does not. False if there is nowhere else to go.
    pub(super) fn demote_for_data(&mut self) -> bool {
        let Some(i) = self.selected_pair() else { return false };
        let other = self.pairs.iter().enumerate().any(|(k, p)| k != i && p.is_usable(self.now.mono));
        if self.relay.is_none() && !other {
            return false;
        }
        self.pairs[i].demote(self.now.mono);
        self.confirm_at = None;
        if !self.leave_direct(Reason::DataLost) {
            self.watch_after_selection();
            self.next_round = Some(self.now.mono + Duration::from_secs(5));
            self.arm_retry();
        }
        true
    }

    pub(super) fn relay_changed(&mut self) {
        let relay = self.relay_path();
        match self.selected {
            Some(Path::Direct { .. }) => {}
            None if relay.is_some() => {
                self.select(relay, Reason::RelayUp);
                self.watch_after_selection();
            }
            None => {}
            Some(Path::Relayed { .. }) if relay.is_some() => {
                self.select(relay, Reason::RelayChanged);
                self.watch_after_selection();
            }
            Some(Path::Relayed { .. }) => match self.best_usable() {
                Some(i) => self.go_direct(i, Reason::RelayDown),
                None => {
                    self.watch = None;
                    self.select(None, Reason::RelayDown);
                }
            },
        }
    }

    pub(super) fn fall_asleep(&mut self) {
        if let Some(relay) = self.relay_path() {
            for pair in &mut self.pairs {
                pair.valid = false;
                pair.check = None;
                pair.opener_at = None;
            }
            self.select(Some(relay), Reason::Idle);
            self.resting = true;
        }
    }
}
