//! Members that relay (PROTOCOL §4.4), as their clients see them: whom to ask for a ticket, when, and for how long.
//!
//! ```text
//!              ┌─────────── APPLY inside the tunnel ───────────┐
//! data goes ─▶ ASKING ──────────── TICKET ──────────▶ GRANTED ─┴ a direct path to it ─▶ OPEN ─ unused for 5 min ─▶ closed
//! by a relay   no answer ─▶ left alone for 10 min     none in 10 s ─▶ for 10 min        lost ─▶ for 30 s
//! for 3 s
//! ```
//! Nobody is asked before data has gone by a relay for a while, so a network whose pairs reach each other directly does
//! nothing here. Both ends must be at the same member: those the peer has told come first, then all in the order of their
//! numbers, which is the same for everybody.

use crate::id::{NodeNo, RelayNo};
use crate::key::PublicKey;
use crate::node::relay_set::members::MAX_MEMBERS;
use crate::time::{Duration, Instant, earliest};
use crate::wire::record::Grant;

/// Direct paths are found within a second where there are any.
pub(super) const RELAYED_FOR: Duration = Duration::from_secs(3);
/// How often members are looked for while data goes by a relay.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two APPLYs, and how many.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASKS: u8 = 8;
/// How long a ticket waits for a direct path, and how often it is looked for.
const DIRECT_WITHIN: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(100);
/// A session nobody has wanted for so long is closed.
const UNWANTED: Duration = Duration::from_secs(300);
/// Who does not relay, or cannot be reached directly, is left alone for so long;
const USELESS: Duration = Duration::from_secs(600);
/// whose session was lost, for so long.
const LOST: Duration = Duration::from_secs(30);
/// Members left alone at once; the oldest is forgotten.
const MAX_RESTING: usize = 32;

/// A member that may relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Candidate {
    /// No peer has told that it is there. First in the order.
    pub(super) is_untold: bool,
    pub(super) node: NodeNo,
    pub(super) no: RelayNo,
    pub(super) key: PublicKey,
}

/// What the owner has to do.
#[derive(Debug)]
pub(super) enum Step {
    /// Data goes by a relay: look for members, then call [`MemberRelays::seek`].
    Look,
    /// Say APPLY with this number to this member, beginning a session if there is none.
    Apply(PublicKey, u32),
    /// If there is a direct path to this member, open a session at it with this ticket, and call [`MemberRelays::opened`].
    Bind(RelayNo, PublicKey, Box<(Grant, Instant)>),
    /// End the session.
    Close(RelayNo),
}

#[derive(Debug)]
enum Stage {
    Asking { id: u32, asked: u8 },
    Granted { grant: Grant, at: Instant },
    Open,
}

#[derive(Debug)]
struct Sought {
    candidate: Candidate,
    stage: Stage,
    /// When something is to be done.
    next: Instant,
    wanted_until: Instant,
}

/// The machine. At most [`MAX_MEMBERS`] at once.
#[derive(Default, Debug)]
pub(super) struct MemberRelays {
    sought: Vec<Sought>,
    resting: Vec<(NodeNo, Instant)>,
    /// Since when data goes by a relay, and until when that holds.
    relayed: Option<(Instant, Instant)>,
    look_at: Option<Instant>,
    next_id: u32,
}

impl MemberRelays {
    /// Whether this is a member we ask, or have asked: what goes to it is no reason to look for others.
    pub(super) fn is_sought(&self, key: &PublicKey) -> bool {
        self.sought.iter().any(|s| s.candidate.key == *key)
    }

    /// The member whose session has this number.
    pub(super) fn node_of(&self, no: RelayNo) -> Option<NodeNo> {
        self.sought.iter().find(|s| s.candidate.no == no).map(|s| s.candidate.node)
    }

    /// Data to a peer goes by a relay, and will until `until`.
    pub(super) fn note_relayed(&mut self, until: Instant, now: Instant) {
        match &mut self.relayed {
            Some((_, last)) if *last > now => *last = until.max(*last),
            other => {
                *other = Some((now, until));
                self.look_at = Some(now + RELAYED_FOR);
            }
        }
    }

    /// No data goes by a relay any more.
    pub(super) fn forget_relayed(&mut self) {
        (self.relayed, self.look_at) = (None, None);
    }

    /// A peer has told members it is at: look at once, if data goes by a relay.
    pub(super) fn look_now(&mut self, now: Instant) {
        if self.is_relayed(now) {
            self.look_at = Some(now);
        }
    }

    /// The members there are. Those that are worth it are asked, as far as there is room.
    pub(super) fn seek(&mut self, mut candidates: Vec<Candidate>, now: Instant) {
        candidates.sort_unstable();
        // Of two with one number everybody takes the same.
        let mut by_node = candidates.clone();
        by_node.sort_unstable_by_key(|c| c.node);
        candidates.retain(|c| by_node.iter().find(|other| other.no == c.no) == Some(c));
        self.resting.retain(|(_, until)| *until > now);
        for candidate in candidates {
            if let Some(sought) = self.sought.iter_mut().find(|s| s.candidate.node == candidate.node) {
                sought.wanted_until = now + UNWANTED;
            } else if self.sought.len() < MAX_MEMBERS
                && self.resting.iter().all(|(node, _)| *node != candidate.node)
            {
                self.next_id = self.next_id.wrapping_add(1);
                let stage = Stage::Asking { id: self.next_id, asked: 0 };
                self.sought.push(Sought { candidate, stage, next: now, wanted_until: now + UNWANTED });
            }
        }
    }

    /// A TICKET of this member. False if nothing was asked.
    pub(super) fn handle_ticket(&mut self, key: &PublicKey, grant: Grant, now: Instant) -> bool {
        let asked = |s: &&mut Sought| {
            s.candidate.key == *key && matches!(s.stage, Stage::Asking { id, .. } if id == grant.id)
        };
        let Some(sought) = self.sought.iter_mut().find(asked) else { return false };
        (sought.stage, sought.next) = (Stage::Granted { grant, at: now }, now);
        true
    }

    /// [`Step::Bind`] was done.
    pub(super) fn opened(&mut self, no: RelayNo) {
        if let Some(sought) = self.sought.iter_mut().find(|s| s.candidate.no == no) {
            (sought.stage, sought.next) = (Stage::Open, sought.wanted_until);
        }
    }

    /// This member does not relay.
    pub(super) fn refused(&mut self, key: &PublicKey, now: Instant) {
        if let Some(at) = self.sought.iter().position(|s| s.candidate.key == *key) {
            self.rest(at, USELESS, now);
        }
    }

    /// Nobody is wanted any more: the numbers of all sessions there may be.
    pub(super) fn end(&mut self) -> Vec<RelayNo> {
        core::mem::take(self).sought.into_iter().map(|s| s.candidate.no).collect()
    }

    /// It is no member any more: the number of its session, if one was wanted.
    pub(super) fn forget(&mut self, key: &PublicKey) -> Option<RelayNo> {
        let at = self.sought.iter().position(|s| s.candidate.key == *key)?;
        Some(self.sought.remove(at).candidate.no)
    }

    /// The session there has ended.
    pub(super) fn lost(&mut self, no: RelayNo, now: Instant) {
        if let Some(at) = self.sought.iter().position(|s| s.candidate.no == no) {
            self.rest(at, LOST, now);
        }
    }

    /// The next thing to do; call it until there is none.
    pub(super) fn poll_step(&mut self, now: Instant) -> Option<Step> {
        if self.look_at.take_if(|at| *at <= now).is_some() && self.is_relayed(now) {
            self.look_at = Some(now + LOOK_EVERY);
            return Some(Step::Look);
        }
        let at = self.sought.iter().position(|s| s.next <= now)?;
        let sought = &mut self.sought[at];
        let Candidate { no, key, .. } = sought.candidate;
        match &mut sought.stage {
            Stage::Asking { id, asked } if *asked < ASKS => {
                *asked += 1;
                sought.next = now + ASK_EVERY;
                Some(Step::Apply(key, *id))
            }
            Stage::Granted { grant, at } if now - *at < DIRECT_WITHIN => {
                sought.next = now + TRY_EVERY;
                Some(Step::Bind(no, key, Box::new((grant.clone(), *at))))
            }
            Stage::Asking { .. } | Stage::Granted { .. } => {
                self.rest(at, USELESS, now);
                self.poll_step(now)
            }
            Stage::Open if sought.wanted_until > now => {
                sought.next = sought.wanted_until;
                self.poll_step(now)
            }
            Stage::Open => {
                self.sought.remove(at);
                Some(Step::Close(no))
            }
        }
    }

    /// When to call [`MemberRelays::poll_step`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.look_at, self.sought.iter().map(|s| s.next).min())
    }

    fn is_relayed(&self, now: Instant) -> bool {
        self.relayed.is_some_and(|(since, until)| now < until && now - since >= RELAYED_FOR)
    }

    fn rest(&mut self, at: usize, pause: Duration, now: Instant) {
        let sought = self.sought.remove(at);
        if self.resting.len() == MAX_RESTING {
            self.resting.remove(0);
        }
        self.resting.push((sought.candidate.node, now + pause));
    }
}

#[cfg(test)]
#[path = "member_relays_tests.rs"]
mod tests;
