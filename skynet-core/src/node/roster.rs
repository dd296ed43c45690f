//! How a node learns in the background who is a member: few members at once and again and again, many a page at a time.
//!
//! A network of n nodes in which each lists all the others costs its relay n² documents. So a pass through the list goes on
//! at once only for the first [`AT_ONCE`] members; the rest comes a page every ten to twenty minutes, of whoever joined or
//! did not: a join makes nobody else ask for anything.

use std::collections::BTreeSet;

use crate::control::RequestId;
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// How often all members are listed again while there are few.
const INTERVAL: Duration = Duration::from_secs(20);
/// How often a page of many is; as long again at random, or all nodes would ask at once after a relay's restart.
const LARGE_INTERVAL: Duration = Duration::from_secs(600);
/// Members learned without a pause.
const AT_ONCE: usize = 128;
/// The relay cuts a page by size; this is only a bound.
const PAGE: u16 = 64;

/// A page that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub(super) after: u32,
    pub(super) limit: u16,
}

/// The pass through the list.
pub(super) struct Roster {
    /// Members to learn at most; those asked for one by one come on top.
    pub(super) most: usize,
    request: Option<RequestId>,
    next: Option<Instant>,
    /// The pass goes on above this number.
    after: u32,
    /// Listed in this pass, and who, as far as a pass at once goes.
    listed: usize,
    numbers: BTreeSet<u32>,
    /// The last pass could not be made at once.
    large: bool,
    rng: Rng,
}

/// What a page means for the pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    /// The next one now.
    Next(Asked),
    /// Wait for the time.
    Later,
    /// Its numbers do not rise: a relay that would keep us asking for ever.
    Circular,
}

impl Roster {
    pub(super) fn new(most: usize, rng: Rng) -> Self {
        Self {
            most,
            request: None,
            next: None,
            after: 0,
            listed: 0,
            numbers: BTreeSet::new(),
            large: false,
            rng,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Joined, at first or again. Whoever joins again may do so with all others at once, and has time: a large network's
    /// pass goes on when it is due, a small one's within [`INTERVAL`].
    pub(super) fn begin(&mut self, again: bool, now: Instant) -> Option<Asked> {
        self.request = None;
        match self.next {
            Some(_) if self.large => None,
            Some(at) if again => {
                let soon = now + Duration::from_millis(self.rng.below(INTERVAL.as_millis() as u64));
                self.next = Some(at.min(soon).max(now));
                None
            }
            _ => {
                self.schedule(now);
                self.ask()
            }
        }
    }

    /// The page that is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Asked> {
        self.next.filter(|at| now >= *at)?;
        self.schedule(now);
        if self.request.is_some() { None } else { self.ask() }
    }

    /// A page was asked for under this number, or could not be.
    pub(super) fn asked(&mut self, request: Option<RequestId>) {
        self.request = request;
    }

    /// This request failed, if it is ours.
    pub(super) fn failed(&mut self, id: RequestId) {
        self.request.take_if(|request| *request == id);
    }

    /// The channel is down.
    pub(super) fn down(&mut self) {
        self.request = None;
    }

    /// Whether this answers the page that was asked for.
    pub(super) fn takes(&mut self, id: RequestId) -> bool {
        self.request.take_if(|request| *request == id).is_some()
    }

    /// The page that was taken held members with these numbers. `known`: members in the directory now.
    pub(super) fn handle_page(&mut self, numbers: &[u32], more: bool, known: usize, now: Instant) -> Page {
        let rises = numbers.iter().try_fold(self.after, |last, &no| (no > last).then_some(no));
        let Some(last) = rises.filter(|_| !(more && numbers.is_empty())) else {
            self.end(now);
            return Page::Circular;
        };
        self.listed += numbers.len();
        if self.listed <= AT_ONCE {
            self.numbers.extend(numbers);
        }
        if !more {
            self.large = self.listed > AT_ONCE;
            self.end(now);
            return Page::Later;
        }
        self.after = last;
        if self.large || self.listed >= AT_ONCE || known >= self.most {
            self.large = true;
            self.schedule(now);
            return Page::Later;
        }
        self.ask().map_or(Page::Later, Page::Next)
    }

    /// Everybody there is, if the page just taken ended a pass that was made at once.
    pub(super) fn take_all(&mut self) -> Option<BTreeSet<u32>> {
        let numbers = core::mem::take(&mut self.numbers);
        (self.after == 0 && self.listed == 0 && !self.large).then_some(numbers)
    }

    fn end(&mut self, now: Instant) {
        (self.after, self.listed) = (0, 0);
        self.schedule(now);
    }

    fn ask(&self) -> Option<Asked> {
        let limit = PAGE.min(u16::try_from(self.most).unwrap_or(PAGE));
        (limit > 0).then_some(Asked { after: self.after, limit })
    }

    fn schedule(&mut self, now: Instant) {
        let spread = LARGE_INTERVAL.as_millis() as u64;
        let wait = if self.large {
            LARGE_INTERVAL + Duration::from_millis(self.rng.below(spread))
        } else {
            INTERVAL
        };
        self.next = Some(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(s)
    }

    fn roster(most: usize) -> Roster {
        Roster::new(most, Rng::from_seed([1; 32]))
    }

    /// Answers as a relay with members 1 … n would, until the roster rests; how many it listed.
    fn pass(roster: &mut Roster, mut asked: Option<Asked>, n: u32, now: Instant) -> u32 {
        let mut listed = 0;
        while let Some(Asked { after, limit }) = asked {
            let numbers: Vec<u32> = (after + 1..=n).take(limit.into()).collect();
            let more = numbers.last().is_some_and(|last| *last < n);
            listed += numbers.len() as u32;
            let known = (listed as usize).min(roster.most);
            asked = match roster.handle_page(&numbers, more, known, now) {
                Page::Next(asked) => Some(asked),
                Page::Later => None,
                Page::Circular => panic!("it rises"),
            };
        }
        listed
    }

    #[test]
    fn few_members_are_listed_every_twenty_seconds() {
        let mut roster = roster(4_096);
        let asked = roster.begin(false, at(0));
        assert_eq!(pass(&mut roster, asked, 100, at(0)), 100);
        for s in [20, 40, 60] {
            assert_eq!(roster.handle_timeout(at(s - 1)), None);
            let asked = roster.handle_timeout(at(s));
            assert_eq!(pass(&mut roster, asked, 100, at(s)), 100);
        }
    }

    #[test]
    fn of_many_a_page_comes_every_ten_to_twenty_minutes_until_all_are_known() {
        let mut roster = roster(4_096);
        let asked = roster.begin(false, at(0));
        assert_eq!(pass(&mut roster, asked, 1_000, at(0)), 128);
        let (mut known, mut last) = (128, at(0));
        while known < 1_000 {
            let due = roster.poll_timeout().unwrap();
            let gap = due.saturating_since(last);
            assert!((600..=1_200).contains(&gap.as_secs()), "{gap:?}");
            let asked = roster.handle_timeout(due);
            let page = pass(&mut roster, asked, 1_000, due);
            assert!(page <= 64, "{page}");
            (known, last) = (known + page, due);
        }
        assert_eq!(known, 1_000);
        // The next pass begins with the first, and no faster.
        let due = roster.poll_timeout().unwrap();
        assert_eq!(roster.handle_timeout(due), Some(Asked { after: 0, limit: 64 }));
    }

    #[test]
    fn a_restarted_relay_of_many_is_not_asked_before_it_is_time() {
        let mut roster = roster(4_096);
        let asked = roster.begin(false, at(0));
        pass(&mut roster, asked, 1_000, at(0));
        roster.down();
        assert_eq!(roster.begin(true, at(30)), None);
        let due = roster.poll_timeout().unwrap();
        assert_eq!(roster.handle_timeout(due), Some(Asked { after: 128, limit: 64 }));
    }

    #[test]
    fn whoever_wants_to_know_few_asks_for_few() {
        let mut roster = roster(8);
        let asked = roster.begin(false, at(0));
        assert_eq!(asked, Some(Asked { after: 0, limit: 8 }));
        assert_eq!(pass(&mut roster, asked, 1_000, at(0)), 8);
        assert!(roster.poll_timeout().unwrap() >= at(600));
        assert_eq!(self::roster(0).begin(false, at(0)), None);
    }

    #[test]
    fn a_list_whose_numbers_do_not_rise_ends_the_pass() {
        for numbers in [&[5, 5][..], &[5, 4], &[0], &[]] {
            let mut roster = roster(4_096);
            roster.begin(false, at(0));
            assert_eq!(roster.handle_page(numbers, true, 0, at(0)), Page::Circular, "{numbers:?}");
        }
        let mut roster = roster(4_096);
        roster.begin(false, at(0));
        assert!(matches!(roster.handle_page(&[7, 9], true, 2, at(0)), Page::Next(Asked { after: 9, .. })));
        assert_eq!(roster.handle_page(&[7, 9], true, 2, at(0)), Page::Circular);
    }
}
