//! Whether trains of datagrams arrive at one peer (PROTOCOL §2.1): an offload of a device or a hypervisor between here
//! and there may lose what one `sendmsg` with `UDP_SEGMENT` sends, and nobody says so. Sans-IO.
//!
//! ```text
//! new direct path ─▶ 8 patterned records as one train ─▶ REPORT: what arrived
//!   every record arrived in one of up to three trains ─▶ trains are used
//!   a record missing in all three ─▶ the same records one by one, twice
//!                        all of them arrived, twice ─▶ it is the trains: datagram by datagram from now on
//!                        not all                    ─▶ it is the path: nothing changes
//! ```
//! A path that loses packets is seldom mistaken for one that loses trains: by chance alone the same record has to be
//! missing in three trains and then no single one, which happens in less than 1 % of checks whatever the loss (tested;
//! the cost is that its datagrams leave one by one). A check costs 8 packets where all is well and 40 at most, and is
//! made once per path, at most every [`INTERVAL`]. An offload found broken stays off on the peer's next path until a
//! train arrives there.

use core::net::SocketAddr;
use std::collections::VecDeque;

use crate::constants::INNER_MTU;
use crate::time::{Duration, Instant, earliest};
use crate::wire::record::{PATTERN_OVERHEAD, PATTERNS, Pattern, Record, Report};

/// Between the beginnings of two checks of one peer.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);
/// How long a REPORT is waited for: a long round trip and [`PARTIAL_AFTER`].
const REPLY_WAIT: Duration = Duration::from_secs(1);
/// How long a recipient waits for the rest of a train.
const PARTIAL_AFTER: Duration = Duration::from_millis(200);
/// Trains in which a record has to be missing.
const TRAINS: u8 = 3;
/// Rounds of single records that have to arrive whole.
const SINGLES: u8 = 2;
const ALL: u8 = u8::MAX >> (8 - PATTERNS);

/// What the owner has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum TrainEvent {
    /// Send these by one `sendmsg`: they have one length.
    Train(Vec<Record>),
    /// Send each of these by itself.
    Single(Vec<Record>),
    /// [`TrainCheck::trains_arrive`] says something else now: publish.
    Changed,
}

/// The check of one peer. What it holds is bounded: one check, one collection of a peer's check, and output that the
/// owner drains after every call.
#[derive(Debug)]
pub(super) struct TrainCheck {
    path: Option<SocketAddr>,
    arrive: bool,
    failures: u32,
    /// A check is wanted; it begins when the interval allows.
    wanted: bool,
    begun: Option<Instant>,
    round: Option<Round>,
    next_id: u32,
    collecting: Option<Collecting>,
    events: VecDeque<TrainEvent>,
    /// Bytes of a record: what the path carries for sure.
    record_len: u16,
}

/// Records on their way.
#[derive(Clone, Copy, Debug)]
struct Round {
    id: u32,
    /// The trains before and this one, or none if single records are on their way.
    trains: u8,
    singles: u8,
    /// Bit i: record i was missing in every train.
    missing: u8,
    until: Instant,
}

/// Records of a peer's train.
#[derive(Clone, Copy, Debug)]
struct Collecting {
    id: u32,
    arrived: u8,
    until: Instant,
}

impl TrainCheck {
    /// No path yet; trains are used until it is known better.
    pub(super) fn new() -> Self {
        Self {
            path: None,
            arrive: true,
            failures: 0,
            wanted: false,
            begun: None,
            round: None,
            next_id: 0,
            collecting: None,
            events: VecDeque::new(),
            record_len: INNER_MTU,
        }
    }

    /// Whether trains may be sent to this peer.
    pub(super) fn trains_arrive(&self) -> bool {
        self.arrive
    }

    /// How often trains were found not to arrive.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// This is the peer's direct path now, and it understands records and has a key; `None`: not so.
    pub(super) fn handle_path(&mut self, path: Option<SocketAddr>, now: Instant) {
        if self.path == path {
            return;
        }
        // What is on its way says nothing about another path.
        if self.round.take().is_some() {
            self.begun = None;
        }
        self.path = path;
        self.wanted = path.is_some();
        self.begin_if_due(now);
    }

    /// Messages of so many bytes pass; records need not be larger than packets ever were.
    pub(super) fn set_limit(&mut self, limit: u16) {
        self.record_len = limit.min(INNER_MTU);
    }

    /// A record of the peer's check.
    pub(super) fn handle_pattern(&mut self, pattern: Pattern, now: Instant) {
        let fresh = Collecting { id: pattern.id, arrived: 0, until: now + PARTIAL_AFTER };
        let collecting = self.collecting.filter(|c| c.id == pattern.id).unwrap_or(fresh);
        let arrived = collecting.arrived | 1 << pattern.i;
        self.collecting = Some(Collecting { arrived, ..collecting });
        if arrived == ALL {
            self.report();
        }
    }

    /// What has arrived of ours.
    pub(super) fn handle_report(&mut self, report: Report, now: Instant) {
        if let Some(round) = self.round.filter(|r| r.id == report.id) {
            self.end_round(round, report.arrived, now);
        }
    }

    /// A deadline has come.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.collecting.is_some_and(|c| c.until <= now) {
            self.report();
        }
        if let Some(round) = self.round.filter(|r| r.until <= now) {
            self.end_round(round, 0, now);
        }
        self.begin_if_due(now);
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn poll_event(&mut self) -> Option<TrainEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = if self.wanted { self.begun.map(|at| at + INTERVAL) } else { None };
        let own = self.round.map(|r| r.until).or(next);
        earliest(own, self.collecting.map(|c| c.until))
    }

    // ── How ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn begin_if_due(&mut self, now: Instant) {
        let rested = self.begun.is_none_or(|at| at + INTERVAL <= now);
        if self.wanted && rested && self.round.is_none() {
            (self.wanted, self.begun) = (false, Some(now));
            self.send(Round { id: 0, trains: 1, singles: 0, missing: ALL, until: now }, now);
        }
    }

    /// Sends the records of this round under a number of their own.
    fn send(&mut self, round: Round, now: Instant) {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let fill = self.record_len - PATTERN_OVERHEAD;
        let records = (0..PATTERNS).map(|i| Record::Pattern(Pattern { id, i, fill })).collect();
        let event = if round.singles == 0 { TrainEvent::Train(records) } else { TrainEvent::Single(records) };
        self.events.push_back(event);
        self.round = Some(Round { id, until: now + REPLY_WAIT, ..round });
    }

    fn end_round(&mut self, round: Round, arrived: u8, now: Instant) {
        self.round = None;
        if round.singles > 0 {
            match (arrived == ALL, round.singles < SINGLES) {
                (true, true) => self.send(Round { singles: round.singles + 1, ..round }, now),
                (true, false) => self.conclude(false),
                // The path itself loses packets, or the peer does not answer.
                (false, _) => {}
            }
            return;
        }
        let missing = round.missing & !arrived;
        if missing == 0 {
            self.conclude(true);
        } else if round.trains < TRAINS {
            self.send(Round { trains: round.trains + 1, missing, ..round }, now);
        } else {
            self.send(Round { singles: 1, missing, ..round }, now);
        }
    }

    fn conclude(&mut self, arrive: bool) {
        self.failures += u32::from(!arrive);
        if core::mem::replace(&mut self.arrive, arrive) != arrive {
            self.events.push_back(TrainEvent::Changed);
        }
    }

    fn report(&mut self) {
        if let Some(Collecting { id, arrived, .. }) = self.collecting.take() {
            self.events.push_back(TrainEvent::Single(vec![Record::Report(Report { id, arrived })]));
        }
    }
}

#[cfg(test)]
#[path = "train_check_tests.rs"]
mod tests;
