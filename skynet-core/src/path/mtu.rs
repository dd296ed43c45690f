//! The size of one path, found by its own probes: DPLPMTUD (RFC 8899). Sans-IO; no ICMP is waited for or believed.
//!
//! ```text
//!             BASE and the common sizes at once          no size left between what passes and what does not
//!   unknown ───────────────────────────────▶ SEARCHING ─────────────────────────────────▶ SEARCH_COMPLETE
//!                                              ▲   ▲   raise timer: larger ones, once          │  │ while data flows:
//!                                              │   └───────────────────────────────────────────┘  │ is it still so?
//!                                              └── black hole: 5 of 5 lost, small ones pass ◀─────┘
//! ```
//! Sizes are *limits*: bytes of plaintext that fit one message of transport data ([`DATAGRAM`] more make the datagram,
//! and IP, UDP and a relay's header stay outside). A message is padded to 16, so all limits are multiples of 16, and
//! nothing finer is asked for.
//!
//! RFC 8899 sends one probe at a time. Here a round of them leaves together: a path is known after one round trip where
//! it carries what this host's links carry, and three or four elsewhere. A probe is a PING padded to the size; the PONG
//! is small and says how large the PING was, so only the way there is measured. The peer measures the other way.

use std::collections::VecDeque;

use crate::constants::PADDING_MULTIPLE;
use crate::time::{Duration, Instant, earliest};
use crate::wire::wireguard::TRANSPORT_OVERHEAD;

/// What a datagram has beyond the plaintext of its message.
pub const DATAGRAM: u16 = TRANSPORT_OVERHEAD as u16;
const STEP: u16 = PADDING_MULTIPLE as u16;

/// BASE_PLPMTU: what is taken to pass until it is known: 1,280 bytes of IPv6, the least that is allowed to exist.
pub const BASE: u16 = 1_200;
/// MIN_PLPMTU: what is used where not even [`BASE`] passes: 576 bytes of IPv4.
pub const MIN: u16 = 512;
/// MAX_PROBES: a size is given up after so many.
const MAX_PROBES: u8 = 3;
/// Sizes that paths have, of 1,124, 1,280, 1,400, 1,460 and 1,500 bytes, over IPv4, IPv6 or a relay, and the ones after
/// them, which then do not pass.
const COMMON: [u16; 13] =
    [MIN, 1_056, 1_072, BASE, 1_216, 1_232, 1_328, 1_344, 1_376, 1_392, 1_408, 1_424, 1_440];
/// Of these, what is asked for first.
const FIRST: [u16; 3] = [BASE, 1_408, 1_440];
/// Sizes of one round between two that are known.
const BISECT: u16 = 6;
/// A probe is waited for so long, within the path's own time-out.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The same while it is asked whether a size still passes: TCP repeats after 200, 600 and 1,400 ms, and the last of
/// these has to find the way.
const CONFIRM_WAIT: (Duration, Duration) = (Duration::from_millis(60), Duration::from_secs(1));
/// While data flows it is looked so often whether to ask if full size still passes,
const CONFIRM_EVERY: Duration = Duration::from_millis(300);
/// and while none does, so often whether any does.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Messages since the last probe that make it worth asking: a probe beside them is of no account.
const MANY: u32 = 30;
/// The same once [`LOOK_EVERY`] has passed, or if no more are coming: the sender may wait for what is lost.
const FEW: u32 = 5;
/// A search in which nothing came back, not even a small probe, says nothing. It is repeated after this time.
const RETRY: Duration = Duration::from_secs(2);
/// PMTU_RAISE_TIMER: the first time after a search, and, doubled each time, at last.
const RAISE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// Probes remembered; the oldest is forgotten.
const OUTSTANDING: usize = 32;

/// Between which limits to search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Taken to pass without asking.
    pub least: u16,
    /// Never more. As much as `least`: nothing is asked for.
    pub most: u16,
}

impl Bounds {
    /// Both rounded down to what padding leaves usable, `most` not below `least`.
    pub fn new(least: u16, most: u16) -> Self {
        let least = least - least % STEP;
        Self { least, most: (most - most % STEP).max(least) }
    }

    fn is_fixed(self) -> bool {
        self.least == self.most
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(MIN, 1_440)
    }
}

/// What is configured, and what this host's links allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MtuConfig {
    /// The largest IP packet this host's links take.
    pub link: u16,
    /// Inner packets of so many bytes are taken to pass everywhere. As large as `most`: nothing is asked for.
    pub least: u16,
    /// The largest inner packet.
    pub most: u16,
}

impl Default for MtuConfig {
    /// Ordinary Ethernet.
    fn default() -> Self {
        Self { link: 1_500, least: MIN, most: 1_440 }
    }
}

impl MtuConfig {
    /// For a path on which a datagram has so many bytes of headers in front.
    pub(super) fn bounds(&self, headers: u16) -> Bounds {
        if self.least >= self.most {
            return Bounds::new(self.most, self.most);
        }
        Bounds::new(self.least, self.most.min(self.link.saturating_sub(headers + DATAGRAM)))
    }
}

/// What a path carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Bytes of plaintext per message.
    pub limit: u16,
    /// It is found, not assumed: worth telling those who send.
    pub settled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not asked for yet; from when on it is to be.
    Unknown(Option<Instant>),
    Searching(Search),
    Complete(Complete),
}

/// Probes are out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Search {
    /// The largest that came through in this search; 0: none yet.
    passed: u16,
    /// The smallest that does not pass.
    ceiling: u16,
    /// How often the sizes of this round were sent,
    attempt: u8,
    /// and how often they are to be.
    attempts: u8,
    /// When the present attempt is over.
    until: Instant,
    /// A small probe came through.
    alive: bool,
}

/// What passes is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Complete {
    /// When to look, or, while a probe is out, when to stop waiting for it.
    next: Instant,
    /// Batches of probes of full size that were sent in vain.
    attempt: u8,
    /// A small probe came through since.
    alive: bool,
    /// Messages sent until it was asked last,
    tx: u32,
    /// and when that was.
    asked: Instant,
    raise_at: Instant,
}

/// The search on one path.
#[derive(Clone, Debug)]
pub struct PathMtu {
    bounds: Bounds,
    limit: u16,
    settled: bool,
    state: State,
    /// Sizes of the present round of a search, ascending.
    round: Vec<u16>,
    raise_after: Duration,
    /// Messages sent, as of the last time-out.
    tx: u32,
    /// Sizes to probe now; 0: a small one.
    queue: VecDeque<u16>,
    /// Probes on their way.
    outstanding: VecDeque<(u64, u16)>,
    /// How often a size that had passed did not any more.
    black_holes: u32,
}

impl Default for PathMtu {
    fn default() -> Self {
        Self {
            bounds: Bounds::default(),
            limit: BASE,
            settled: false,
            state: State::Unknown(None),
            round: Vec::new(),
            raise_after: RAISE.0,
            tx: 0,
            queue: VecDeque::new(),
            outstanding: VecDeque::new(),
            black_holes: 0,
        }
    }
}

impl PathMtu {
    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    /// What the path carries, as far as is known.
    pub fn size(&self) -> Size {
        Size { limit: self.limit, settled: self.settled }
    }

    /// How often a size that had passed did not any more.
    pub fn black_holes(&self) -> u32 {
        self.black_holes
    }

    /// A probe of full size has not been answered in time.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.state, State::Complete(c) if c.attempt > 1)
    }

    /// A probe of full size is on its way, and nothing is known yet.
    pub fn is_asking(&self) -> bool {
        matches!(self.state, State::Complete(c) if c.attempt == 1)
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// Data takes this path from now on; probes leave from `at` on. What was known of it holds until it is asked again,
    /// which is at once.
    pub fn begin(&mut self, bounds: Bounds, at: Instant) {
        self.outstanding.clear();
        self.queue.clear();
        let same = core::mem::replace(&mut self.bounds, bounds) == bounds;
        self.limit = self.limit.clamp(bounds.least, bounds.most);
        if bounds.is_fixed() {
            (self.settled, self.state) = (true, State::Unknown(None));
            return;
        }
        match &mut self.state {
            State::Complete(complete) if same => {
                *complete = Complete { next: at, attempt: 0, alive: false, tx: complete.tx, ..*complete };
                // As if data flowed: the first look asks.
                complete.tx = complete.tx.wrapping_sub(MANY);
            }
            state => {
                *state = State::Unknown(Some(at));
                self.settled = false;
            }
        }
    }

    /// The datagram of a probe of this size is about to leave.
    pub fn sent(&mut self, txid: u64, size: u16) {
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((txid, size));
    }

    /// A PONG to a PING of `received` bytes. False if it answers none of these probes.
    pub fn handle_pong(&mut self, txid: u64, received: u16, now: Instant) -> bool {
        let Some(i) = self.outstanding.iter().position(|(id, _)| *id == txid) else { return false };
        let Some((_, size)) = self.outstanding.remove(i) else { return false };
        if size == 0 {
            self.note_alive();
        } else if received == size + DATAGRAM {
            self.note_passed(size, now);
        }
        true
    }

    /// Time has passed. A probe is waited for as long as `wait` says; `tx` counts the messages of data sent on this path.
    pub fn handle_timeout(&mut self, wait: Duration, tx: u32, now: Instant) {
        let moved = tx.wrapping_sub(core::mem::replace(&mut self.tx, tx));
        match self.state {
            State::Unknown(Some(at)) if at <= now => self.search(&FIRST, wait, now),
            State::Searching(search) if search.until <= now => self.attempt_over(search, wait, now),
            State::Complete(complete) if complete.next <= now => self.look(complete, moved, wait, now),
            State::Complete(complete) if self.raise_due(&complete).is_some_and(|at| at <= now) => {
                self.raise(wait, now);
            }
            _ => {}
        }
    }

    /// Data vanishes while small probes pass: ask at once whether it is its size.
    pub fn handle_doubt(&mut self, wait: Duration, now: Instant) {
        if let State::Complete(complete) = self.state
            && complete.attempt == 0
        {
            self.ask(complete, wait, now);
        }
    }

    /// What was taken to pass does not any more.
    pub fn handle_black_hole(&mut self, wait: Duration, now: Instant) {
        self.black_holes += 1;
        self.outstanding.clear();
        self.queue.clear();
        self.limit = if self.limit > BASE { BASE } else { MIN }.max(self.bounds.least);
        self.settled = false;
        self.search(&COMMON, wait, now);
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The next probe to send: its size, 0 for a small one.
    pub fn poll_probe(&mut self) -> Option<u16> {
        self.queue.pop_front()
    }

    /// When to call [`Self::handle_timeout`], as long as there is traffic.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Unknown(at) => *at,
            State::Searching(search) => Some(search.until),
            State::Complete(complete) => earliest(Some(complete.next), self.raise_due(complete)),
        }
    }

    // ── How ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn raise_due(&self, complete: &Complete) -> Option<Instant> {
        (self.limit < self.bounds.most && complete.attempt == 0).then_some(complete.raise_at)
    }

    /// Begins a search with these sizes; after the first attempt, which is usually enough, with all common ones.
    fn search(&mut self, first: &[u16], wait: Duration, now: Instant) {
        let ceiling = self.bounds.most + STEP;
        self.raise_after = RAISE.0;
        self.round = self.table(first, 0);
        let attempts = MAX_PROBES + 1;
        self.send_round(
            Search { passed: 0, ceiling, attempt: 0, attempts, until: now, alive: false },
            wait,
            now,
        );
    }

    /// Sizes beyond what passes, once: most paths stay as they are.
    fn raise(&mut self, wait: Duration, now: Instant) {
        let (passed, ceiling) = (self.limit, self.bounds.most + STEP);
        self.raise_after = (self.raise_after * 2).min(RAISE.1);
        self.round = self.table(&COMMON, passed);
        self.send_round(
            Search { passed, ceiling, attempt: 0, attempts: 1, until: now, alive: true },
            wait,
            now,
        );
    }

    /// Those of `sizes` that are in question above `passed`, and the largest there can be.
    fn table(&self, sizes: &[u16], passed: u16) -> Vec<u16> {
        let Bounds { least, most } = self.bounds;
        // A little less than the largest jumbo frame: over IPv6, by a relay, or inside a cloud's own encapsulation.
        let below = [6 * STEP, 2 * STEP, STEP].map(|less| most.saturating_sub(less));
        let jumbo = below.into_iter().filter(|size| sizes.len() > FIRST.len() && *size > 1_440);
        let known = |size: &u16| *size > passed && *size >= least;
        sizes.iter().copied().chain(jumbo).filter(|size| *size < most).chain([most]).filter(known).collect()
    }

    /// Sizes spread between what passes and what does not.
    fn between(passed: u16, ceiling: u16) -> Vec<u16> {
        let steps = (ceiling - passed) / STEP;
        let parts = (steps - 1).min(BISECT);
        (1..=parts).map(|i| passed + steps * i / (parts + 1) * STEP).collect()
    }

    /// Sends the sizes of the round that are still open.
    fn send_round(&mut self, search: Search, wait: Duration, now: Instant) {
        if search.passed == 0 {
            self.queue.push_back(0);
        }
        self.queue.extend(self.round.iter().filter(|size| **size > search.passed));
        let until = now + wait.clamp(WAIT.0, WAIT.1);
        self.state = State::Searching(Search { attempt: search.attempt + 1, until, ..search });
    }

    fn note_alive(&mut self) {
        match &mut self.state {
            State::Searching(search) => search.alive = true,
            State::Complete(complete) => complete.alive = true,
            State::Unknown(_) => {}
        }
    }

    fn note_passed(&mut self, size: u16, now: Instant) {
        match &mut self.state {
            State::Searching(search) => {
                search.alive = true;
                search.passed = search.passed.max(size);
                if self.round.last().is_some_and(|last| *last <= search.passed) {
                    // Nothing of this round is open: no need to wait.
                    search.until = now;
                }
                self.limit = self.limit.max(size);
                if self.limit >= self.bounds.most {
                    self.complete(self.limit, now);
                }
            }
            State::Complete(complete) if size == self.limit => {
                complete.attempt = 0;
                complete.next = now + CONFIRM_EVERY;
            }
            // It came late; it passed all the same.
            State::Complete(_) if size > self.limit => self.limit = size,
            _ => {}
        }
    }

    fn complete(&mut self, limit: u16, now: Instant) {
        if limit > self.limit {
            self.raise_after = RAISE.0;
        }
        (self.limit, self.settled) = (limit, true);
        self.round.clear();
        self.state = State::Complete(Complete {
            next: now + CONFIRM_EVERY,
            attempt: 0,
            alive: false,
            tx: self.tx,
            asked: now,
            raise_at: now + self.raise_after,
        });
    }

    /// What has not come back by now is sent again, or does not pass.
    fn attempt_over(&mut self, search: Search, wait: Duration, now: Instant) {
        if search.passed > 0 && search.passed < self.limit {
            self.limit = search.passed.max(self.bounds.least);
        }
        let open = self.round.iter().copied().find(|size| *size > search.passed);
        if open.is_some() && search.attempt < search.attempts {
            if search.attempt == 1 && search.ceiling > self.bounds.most {
                self.round = self.table(&COMMON, search.passed);
            }
            return self.send_round(search, wait, now);
        }
        if search.passed == 0 {
            if search.alive {
                self.complete(MIN.max(self.bounds.least), now);
            } else {
                // Nothing passes: that is not about size.
                self.state = State::Unknown(Some(now + RETRY));
            }
            return;
        }
        let ceiling = open.unwrap_or(search.ceiling);
        let raised_in_vain = search.attempts == 1 && open == self.round.first().copied();
        if raised_in_vain || ceiling <= search.passed + STEP {
            return self.complete(search.passed, now);
        }
        self.round = Self::between(search.passed, ceiling);
        self.send_round(Search { ceiling, attempt: 0, attempts: MAX_PROBES, ..search }, wait, now);
    }

    /// Does data flow? Then full size is asked for; or, a probe is out and did not come back.
    fn look(&mut self, complete: Complete, moved: u32, wait: Duration, now: Instant) {
        let tx = self.tx;
        match complete.attempt {
            0 => {
                let sent = tx.wrapping_sub(complete.tx);
                let late = moved < 2 || now.saturating_since(complete.asked) >= LOOK_EVERY;
                if sent >= MANY || (sent >= FEW && late) {
                    return self.ask(complete, wait, now);
                }
                let pause = if moved > 0 { CONFIRM_EVERY } else { LOOK_EVERY };
                self.state = State::Complete(Complete { next: now + pause, ..complete });
            }
            1..MAX_PROBES => self.ask(complete, wait, now),
            _ if complete.alive => self.handle_black_hole(wait, now),
            // Nothing passes: that is not about size.
            _ => {
                let next = now + CONFIRM_EVERY;
                self.state = State::Complete(Complete { attempt: 0, next, tx, ..complete });
            }
        }
    }

    /// One probe of full size; after the first in vain two each time, and a small one to compare.
    fn ask(&mut self, complete: Complete, wait: Duration, now: Instant) {
        self.queue.push_back(self.limit);
        if complete.attempt > 0 {
            self.queue.extend([self.limit, 0]);
        }
        let alive = complete.attempt > 0 && complete.alive;
        let next = now + wait.clamp(CONFIRM_WAIT.0, CONFIRM_WAIT.1);
        let attempt = complete.attempt + 1;
        self.state = State::Complete(Complete { attempt, alive, next, tx: self.tx, asked: now, ..complete });
    }
}

#[cfg(test)]
#[path = "mtu_tests.rs"]
mod tests;
