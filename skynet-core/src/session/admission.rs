//! Who may make us compute: two-stage admission in front of the handshake.
//!
//! 1. Whoever does not know our public key is dropped (`mac1`).
//! 2. Below a global budget everyone else passes; nothing is stored about anyone.
//! 3. Above it a sender must show it receives at its source (cookie, `mac2`); the reply is smaller than the message.
//! 4. With a valid cookie, each source has a token bucket, in a table of fixed size, and all of them a second budget.
//!
//! Sources are path identities, so that peers behind one relay do not share one bucket. Responses need no cookie:
//! the owner lets only those in that name an index we chose at random, and they have a budget of their own.

use core::time::Duration;

use super::cookie::{CookieChecker, PathSource};
use crate::constants::{
    HANDSHAKES_PER_SECOND, PROVEN_HANDSHAKES_PER_SECOND, RESPONSES_PER_SECOND, SOURCE_HANDSHAKE_BURST,
    SOURCE_HANDSHAKES_PER_SECOND, SOURCE_TABLE_SETS, SOURCE_TABLE_WAYS,
};
use crate::crypto::mac16;
use crate::drop::DropReason;
use crate::key::{PublicKey, Secret};
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::wireguard::{COOKIE_REPLY_LEN, Message};

/// What to do with a handshake message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Handle it.
    Pass,
    /// Send this back to where it came from and forget it.
    CookieReply([u8; COOKIE_REPLY_LEN]),
    /// Forget it.
    Drop(DropReason),
}

/// A token bucket in the form of the generic cell rate algorithm: one number, the time at which it is full again.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Nanoseconds per token.
    interval: u64,
    /// Nanoseconds the bucket may be ahead of time.
    tolerance: u64,
}

impl Rate {
    const fn new(per_second: u64, burst: u64) -> Self {
        let interval = 1_000_000_000 / per_second;
        Self { interval, tolerance: (burst - 1) * interval }
    }

    /// Takes one token from the bucket that is full again at `full_at`.
    fn take(self, full_at: &mut u64, now: Instant) -> bool {
        let now = now.as_nanos();
        let start = (*full_at).max(now);
        if start - now > self.tolerance {
            return false;
        }
        *full_at = start.saturating_add(self.interval);
        true
    }
}

const ANYONE: Rate = Rate::new(HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SECOND / 4);
const PROVEN: Rate = Rate::new(PROVEN_HANDSHAKES_PER_SECOND, PROVEN_HANDSHAKES_PER_SECOND / 4);
const RESPONSES: Rate = Rate::new(RESPONSES_PER_SECOND, RESPONSES_PER_SECOND / 4);
const ONE_SOURCE: Rate = Rate::new(SOURCE_HANDSHAKES_PER_SECOND, SOURCE_HANDSHAKE_BURST);

/// One source: fingerprint and bucket. All zero is free.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    fingerprint: u64,
    full_at: u64,
}

/// Buckets of the sources seen under load, in sets of eight by keyed hash. An entry whose bucket is full says
/// nothing, so the entry that is full earliest is the one to overwrite.
#[derive(Debug)]
struct SourceTable {
    key: Secret,
    /// Empty until first used: a node that is never attacked never pays for it.
    entries: Vec<Entry>,
}

const TABLE_ENTRIES: usize = SOURCE_TABLE_SETS * SOURCE_TABLE_WAYS;
const _: () = assert!(TABLE_ENTRIES <= 65_536 && TABLE_ENTRIES * size_of::<Entry>() <= 4 << 20);

impl SourceTable {
    fn take(&mut self, source: &PathSource, now: Instant) -> bool {
        if self.entries.is_empty() {
            self.entries = vec![Entry::default(); TABLE_ENTRIES];
        }
        let (bytes, len) = source.limit_bytes();
        let digest = mac16(self.key.expose(), &[&bytes[..len]]);
        let (low, high) = digest.split_at(8);
        let set = u64::from_le_bytes(low.try_into().expect("8 of 16 bytes")) as usize % SOURCE_TABLE_SETS;
        let fingerprint = u64::from_le_bytes(high.try_into().expect("8 of 16 bytes"));
        let set = &mut self.entries[set * SOURCE_TABLE_WAYS..][..SOURCE_TABLE_WAYS];
        let slot = set.iter().position(|e| e.fingerprint == fingerprint).unwrap_or_else(|| {
            let oldest = (0..SOURCE_TABLE_WAYS).min_by_key(|&i| set[i].full_at).expect("a set is not empty");
            set[oldest] = Entry { fingerprint, full_at: 0 };
            oldest
        });
        ONE_SOURCE.take(&mut set[slot].full_at, now)
    }
}

/// The gate in front of the handshake; one per node.
#[derive(Debug)]
pub struct Admission {
    checker: CookieChecker,
    anyone: u64,
    proven: u64,
    responses: u64,
    sources: SourceTable,
}

impl Admission {
    /// For handshakes with `ours`. `rng` seeds the cookie secret and the table's hash.
    pub fn new(ours: &PublicKey, rng: &mut Rng, now: Instant) -> Self {
        let sources = SourceTable { key: Secret::random(rng), entries: Vec::new() };
        let checker = CookieChecker::new(ours, rng.fork(), now);
        Self { checker, anyone: 0, proven: 0, responses: 0, sources }
    }

    /// From now on for handshakes with `ours`, and with the key before it.
    pub fn set_keys(&mut self, ours: &PublicKey, previous: Option<&PublicKey>) {
        self.checker.set_keys(ours, previous);
    }

    /// Judges an initiation or a response before any Diffie-Hellman. For a response the owner has already found its
    /// receiver index among its own.
    pub fn check(&mut self, now: Instant, source: PathSource, message: &[u8]) -> Verdict {
        let parsed = match Message::parse(message) {
            Ok(parsed) => parsed,
            Err(reason) => return Verdict::Drop(reason),
        };
        if matches!(parsed, Message::CookieReply(_) | Message::Transport(_)) {
            return Verdict::Drop(DropReason::UnknownType);
        }
        if !self.checker.mac1_is_valid(message) {
            return Verdict::Drop(DropReason::BadMac1);
        }
        let Message::Initiation(initiation) = parsed else {
            return pass_or(RESPONSES.take(&mut self.responses, now), DropReason::UnderLoad);
        };
        if ANYONE.take(&mut self.anyone, now) {
            return Verdict::Pass;
        }
        if !self.checker.mac2_is_valid(now, &source, message) {
            let to_previous = self.checker.is_to_previous(message);
            let (sender, mac1) = (initiation.sender(), initiation.mac1());
            let reply = self.checker.reply(now, &source, sender, &mac1, to_previous);
            return Verdict::CookieReply(reply);
        }
        if !self.sources.take(&source, now) {
            return Verdict::Drop(DropReason::RateLimited);
        }
        pass_or(PROVEN.take(&mut self.proven, now), DropReason::UnderLoad)
    }

    /// Time until the budget for everyone is full again: zero when nothing presses.
    pub fn load(&self, now: Instant) -> Duration {
        Instant::from_nanos(self.anyone).saturating_since(now)
    }
}

fn pass_or(passes: bool, reason: DropReason) -> Verdict {
    if passes { Verdict::Pass } else { Verdict::Drop(reason) }
}
