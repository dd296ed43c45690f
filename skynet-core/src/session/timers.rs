//! WireGuard's timers (WireGuard §6), evaluated lazily from what the data plane noted.
//!
//! No packet arms a timer. While traffic flows, control looks at [`Activity`](super::Activity) at least every 10 s,
//! the shortest time in which a new condition can fall due; when nothing is pending it sleeps, and the first packet
//! that could make something due wakes it. So each deadline is met exactly or re-armed early, never missed.

use core::time::Duration;

use super::{Context, Session, SessionEvent};
use crate::constants::{
    DEAD_PEER_TIMEOUT, KEEPALIVE_TIMEOUT, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_ON_RECEIVE_AFTER_TIME,
    REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER,
};
use crate::rng::Rng;
use crate::time::{Instant, Now, earliest};

/// Why a session wants to be called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Timer {
    /// An initiation without response is repeated, or given up.
    Retransmit,
    /// A wanted handshake may begin.
    Initiate,
    /// Traffic is looked at: keepalive, dead peer, rekey.
    Look,
    /// A keypair is 180 s old.
    KeyExpiry,
}

/// [`REKEY_TIMEOUT`] plus jitter.
pub(super) fn retransmit_after(rng: &mut Rng) -> Duration {
    let jitter = u64::try_from(REKEY_TIMEOUT_JITTER.as_nanos()).expect("a third of a second");
    REKEY_TIMEOUT + Duration::from_nanos(rng.below(jitter + 1))
}

/// The deadline of a condition that began at `since`, if it did.
fn due(since: Option<Instant>, after: Duration) -> Option<Instant> {
    since.map(|since| since + after)
}

impl Session {
    /// When to call [`Session::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let mut first = self.attempt.as_ref().map(|a| (a.retransmit_at, Timer::Retransmit));
        if self.wanted && self.attempt.is_none() {
            first = earliest(first, Some((self.may_initiate_at(), Timer::Initiate)));
        }
        first = earliest(first, self.look_at.map(|at| (at, Timer::Look)));
        earliest(first, self.keys.next_expiry().map(|at| (at, Timer::KeyExpiry)))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, cx: &mut Context<'_>) {
        let change = self.keys.expire(now.mono);
        self.apply(change, cx);
        let _expires = self.fresh_cookie(now.mono);
        if self.look_at.is_some_and(|at| at <= now.mono) {
            self.look(now, cx);
        }
        if let Some(attempt) = self.attempt.as_ref().filter(|a| a.retransmit_at <= now.mono) {
            let started = attempt.started;
            self.retransmit(started, now, cx);
        }
        self.serve_wish(now, cx);
    }

    /// The data plane found control asleep and noted traffic, or [`SealingKey::needs_rekey`](super::SealingKey) is
    /// true: looks at it now. Calling it too often costs time and nothing else.
    pub fn handle_wake(&mut self, now: Now, cx: &mut Context<'_>) {
        self.look(now, cx);
    }

    /// New keys: looks soon, whatever was noted under the old ones.
    pub(super) fn begin_looking(&mut self, now: Instant) {
        self.look_at = earliest(self.look_at, Some(now + KEEPALIVE_TIMEOUT));
        self.activity.set_awake(true);
    }

    fn retransmit(&mut self, started: Instant, now: Now, cx: &mut Context<'_>) {
        let superseded = self.keys.current().is_some_and(|k| k.born >= started);
        let gave_up = now.mono.saturating_since(started) >= REKEY_ATTEMPT_TIME;
        if superseded || gave_up {
            self.cancel_attempt(cx);
            if !superseded {
                self.events.push_back(SessionEvent::HandshakeFailed);
            }
            return;
        }
        self.send_initiation(started, now, cx);
    }

    /// Evaluates every rule that depends on traffic, and decides when to look again.
    fn look(&mut self, now: Now, cx: &mut Context<'_>) {
        // Asleep first, then read: traffic that begins after the reads finds us asleep and wakes us.
        self.activity.set_awake(false);
        self.look_at = None;
        let Some(born) = self.keys.current().map(|k| k.born) else {
            if let Some(every) = self.persistent_keepalive {
                self.look_at = Some(now.mono + every);
                self.initiate(now, cx);
            }
            return;
        };
        let keepalive = self.keepalive_due(now.mono);
        let dead = due(self.activity.unheard_since(), DEAD_PEER_TIMEOUT);
        let persistent = self.persistent_due(born);
        let sends_now = [keepalive, persistent].iter().flatten().any(|&at| at <= now.mono);
        if sends_now {
            self.events.push_back(SessionEvent::SendKeepalive);
        }
        let rekey = self.rekey_due(sends_now, now.mono);
        if dead.is_some_and(|at| at <= now.mono) {
            self.activity.forget_unheard();
            self.initiate(now, cx);
        } else if rekey.is_some_and(|at| at <= now.mono) {
            self.initiate(now, cx);
        }

        let pending = keepalive.is_some() || dead.is_some();
        let again = pending.then_some(now.mono + KEEPALIVE_TIMEOUT);
        let future = |at: Option<Instant>| at.filter(|&at| at > now.mono);
        let persistent_again = self.persistent_keepalive.map(|every| match persistent {
            Some(at) if at > now.mono => at,
            _ => now.mono + every,
        });
        self.look_at = [future(keepalive), future(dead), future(rekey), persistent_again, again]
            .into_iter()
            .flatten()
            .min();
        if pending {
            self.activity.set_awake(true);
        }
    }

    /// Data came and nothing went: an empty packet tells the peer we live (§6.5).
    fn keepalive_due(&self, now: Instant) -> Option<Instant> {
        let since = self.activity.unanswered_since()?;
        Some(since.min(now) + KEEPALIVE_TIMEOUT)
    }

    fn persistent_due(&self, born: Instant) -> Option<Instant> {
        let every = self.persistent_keepalive?;
        let last = Some(born).max(self.activity.last_any_tx()).max(self.activity.last_any_rx());
        due(last, every)
    }

    /// When the current key is to be renewed: 120 s old and sending, 165 s old and receiving (initiator only), or
    /// enough messages (either end).
    fn rekey_due(&self, sends_now: bool, now: Instant) -> Option<Instant> {
        let key = self.keys.current()?;
        if key.sealing.is_worn() {
            return Some(now);
        }
        if !key.initiator {
            return None;
        }
        let (on_send, on_receive) = (key.born + REKEY_AFTER_TIME, key.born + REKEY_ON_RECEIVE_AFTER_TIME);
        // Traffic of the last 10 s counts as going on, so a busy key is renewed on time and not at the next look.
        let busy = |last: Option<Instant>, mark: Instant| {
            last.is_some_and(|at| at >= mark || now.saturating_since(at) <= KEEPALIVE_TIMEOUT)
        };
        if now < on_send {
            Some(on_send)
        } else if sends_now || busy(self.activity.last_any_tx(), on_send) {
            Some(now)
        } else if now < on_receive {
            Some(on_receive)
        } else {
            busy(self.activity.last_any_rx(), on_receive).then_some(now)
        }
    }
}
