//! Knowing at once who comes and goes: only while somebody here waits for it, and only of the tags asked for.
//!
//! ```text
//! wanted ── WATCH ──▶ ROLL begins … ROLL ends ──▶ current ── ROLL ──▶ current        each new entry: GET its documents
//!    ▲                                                 │
//!    └──────────────── the channel is down ────────────┘
//! ```
//! The roll says who is there; who they are, only their documents say. A relay that does not know WATCH leaves this node
//! with the members' list, which tells the same every twenty seconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::control::RequestId;
use crate::control::roll::{Presence, Roll};
use crate::id::NodeNo;
use crate::member::Tags;
use crate::node::directory::{Directory, MAX_MEMBERS};
use crate::time::{Duration, Instant, earliest};

/// Documents asked for at once: the relay takes 32 requests of a connection.
const MAX_FETCHES: usize = 16;
/// A fetch that failed is tried again after this: the relay takes 50 requests a second.
const FETCH_AGAIN: Duration = Duration::from_millis(500);
/// WATCH that was not answered, or told to come later, is said again after this.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Whoever was online and is not in a snapshot has so long to come: after a relay's restart all join again, within about
/// ten seconds.
const ABSENT_AFTER: Duration = Duration::from_secs(20);

/// How far the roll is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not asked on this channel.
    Unasked,
    Asked(RequestId),
    /// A snapshot is being told.
    Telling,
    Current,
    /// The relay does not know the question.
    Unknown,
}

/// The machine.
pub(super) struct Watch {
    /// Nobody, those with one of these tags, or with none everybody.
    wanted: Option<Tags>,
    state: State,
    /// The relay was asked on this channel.
    told: bool,
    /// Listed in the snapshot under way.
    seen: BTreeSet<u32>,
    /// Online here, not in the last snapshot, and when that is believed.
    absent: BTreeMap<u32, Instant>,
    /// Documents to ask for; at most [`MAX_MEMBERS`], as the directory would not take more.
    queue: VecDeque<u32>,
    fetching: BTreeMap<RequestId, u32>,
    fetch_at: Option<Instant>,
    ask_at: Option<Instant>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            wanted: None,
            state: State::Unasked,
            told: false,
            seen: BTreeSet::new(),
            absent: BTreeMap::new(),
            queue: VecDeque::new(),
            fetching: BTreeMap::new(),
            fetch_at: None,
            ask_at: None,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether everybody watched who is online is known, as far as the relay tells.
    pub(super) fn is_current(&self) -> bool {
        self.state == State::Current && self.queue.is_empty() && self.fetching.is_empty()
    }

    /// Whether the roll, and not the members' list, says of somebody with these tags that they are gone.
    pub(super) fn covers(&self, tags: &Tags) -> bool {
        let wants = |wanted: &Tags| wanted.is_empty() || wanted.iter().any(|tag| tags.contains(tag));
        matches!(self.state, State::Telling | State::Current) && self.wanted.as_ref().is_some_and(wants)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let fetch = self.fetch_at.filter(|_| !self.queue.is_empty());
        [fetch, self.ask_at].into_iter().fold(self.absent.values().min().copied(), earliest)
    }

    /// Watches these from now on; whether the relay is to be told.
    pub(super) fn set(&mut self, wanted: Option<Tags>) -> bool {
        if self.wanted == wanted {
            return false;
        }
        self.wanted = wanted;
        let told = self.told;
        self.down();
        self.told = told;
        true
    }

    /// Whether the relay tells on this channel, or is about to.
    pub(super) fn was_asked(&self) -> bool {
        self.told
    }

    /// What to say to the relay.
    pub(super) fn wanted(&self) -> Option<Tags> {
        self.wanted.clone()
    }

    /// WATCH was sent under this number, or could not be.
    pub(super) fn asked(&mut self, request: Option<RequestId>) {
        self.state = request.filter(|_| self.is_on()).map_or(State::Unasked, State::Asked);
        self.told = request.is_some() && self.is_on();
    }

    /// The channel is down, or what is watched is another.
    pub(super) fn down(&mut self) {
        (self.state, self.told) = (State::Unasked, false);
        self.seen.clear();
        self.absent.clear();
        self.queue.clear();
        self.fetching.clear();
        (self.fetch_at, self.ask_at) = (None, None);
    }

    /// WATCH was answered by a relay that does not know it, if it was ours.
    pub(super) fn unknown(&mut self, id: RequestId) {
        if self.state == State::Asked(id) {
            self.state = State::Unknown;
        }
    }

    /// This request was refused for now or not answered, if it is ours.
    pub(super) fn failed(&mut self, id: RequestId, now: Instant) {
        if self.state == State::Asked(id) {
            self.state = State::Unasked;
            self.ask_at = Some(now + ASK_AGAIN);
        }
        if let Some(node_no) = self.fetching.remove(&id) {
            self.want(node_no);
            self.fetch_at = Some(now + FETCH_AGAIN);
        }
    }

    /// GET found somebody, or nobody, if it was ours.
    pub(super) fn fetched(&mut self, id: RequestId) {
        self.fetching.remove(&id);
    }

    /// Takes a message; who is online of those already known is noted in the directory.
    pub(super) fn handle_roll(&mut self, roll: &Roll, own: u32, directory: &mut Directory, now: Instant) {
        if roll.begins && self.is_on() {
            self.state = State::Telling;
            self.seen.clear();
        }
        if !matches!(self.state, State::Telling | State::Current) {
            return;
        }
        for entry in roll.entries.iter().filter(|e| e.node_no != own) {
            let node_no = NodeNo(entry.node_no);
            self.absent.remove(&entry.node_no);
            match entry.presence {
                Presence::Online => {
                    if self.state == State::Telling && self.seen.len() < MAX_MEMBERS {
                        self.seen.insert(entry.node_no);
                    }
                    if directory.mark_of(node_no) == Some(entry.mark) {
                        directory.set_online(node_no, true);
                    } else {
                        self.want(entry.node_no);
                    }
                }
                Presence::Away => directory.set_online(node_no, false),
                Presence::Left => directory.set_left(node_no),
            }
        }
        if roll.ends {
            self.state = State::Current;
            let gone = directory.iter().filter(|e| e.online && self.covers(e.member.tags()));
            let gone = gone.map(|e| e.member.node_no()).filter(|no| !self.seen.contains(no));
            self.absent = gone.map(|no| (no, now + ABSENT_AFTER)).collect();
            self.seen.clear();
        }
    }

    /// Whoever did not come after a snapshot without them is gone. Whether WATCH is to be said again.
    pub(super) fn handle_timeout(&mut self, directory: &mut Directory, now: Instant) -> bool {
        let gone: Vec<u32> = self.absent.iter().filter(|(_, at)| **at <= now).map(|(no, _)| *no).collect();
        for node_no in gone {
            self.absent.remove(&node_no);
            directory.set_online(NodeNo(node_no), false);
        }
        self.fetch_at.take_if(|at| *at <= now);
        self.ask_at.take_if(|at| *at <= now).is_some()
    }

    /// The next member to ask for.
    pub(super) fn poll_fetch(&mut self) -> Option<u32> {
        if self.fetching.len() >= MAX_FETCHES || self.fetch_at.is_some() {
            return None;
        }
        self.queue.pop_front()
    }

    /// It was asked for under this number, or could not be.
    pub(super) fn fetching(&mut self, node_no: u32, request: Option<RequestId>, now: Instant) {
        match request {
            Some(id) => drop(self.fetching.insert(id, node_no)),
            None => {
                self.want(node_no);
                self.fetch_at = Some(now + FETCH_AGAIN);
            }
        }
    }

    fn want(&mut self, node_no: u32) {
        let known = self.queue.contains(&node_no) || self.fetching.values().any(|no| *no == node_no);
        if !known && self.queue.len() < MAX_MEMBERS {
            self.queue.push_back(node_no);
        }
    }
}
