//! What has an end is renewed before it: the record, the session key, and with it the receipt. Certificates are prolonged by
//! the receipt.
//!
//! ```text
//!  half of the key's life, at the relay with the registrar
//!      │ the next key is made, bound and kept
//!      ▼
//!  CHANGING ── JOIN under the next key ── WELCOME ──▶ it is the one in use; the one before answers for another half
//!      │ refused, or 20 s
//!      └──▶ JOIN under the key in use, the next is tried again later
//! ```
//! The directory may have taken the next key although its answer was lost: a node that is refused because its key was replaced
//! goes on with the next, and one that has none binds its own anew. So it gets back in whatever instant it died at.

use super::{MembershipAgent, MembershipEvent, Phase};
use crate::key::StaticSecret;
use crate::member::Credentials;
use crate::member::enrol::RECORD_LIFETIME;
use crate::member::rotation::key_lifetime;
use crate::node::refused::Refusal;
use crate::node::rotation;
use crate::time::{Duration, Instant, Now, UnixTime, earliest};

/// A JOIN under the next key is waited for this long.
const CHANGE_WITHIN: Duration = Duration::from_secs(20);
/// After a refusal it is tried again; sooner if the key lives shorter.
const TRY_AGAIN: Duration = Duration::from_secs(3_600);
/// A binding that was refused as replaced is signed anew this often at most.
const BIND_AGAIN: Duration = Duration::from_secs(600);

/// Where the session key stands.
#[derive(Default)]
pub(super) struct Renewal {
    /// Shorter than usual, seconds.
    lifetime: Option<u64>,
    /// Peers of the configuration know this node by its key: it stays.
    is_fixed: bool,
    /// When the next key is due.
    due: Option<Instant>,
    /// The control channel is under the next key, until then at most.
    changing: Option<Instant>,
    bound_again: Option<Instant>,
    /// When the key before the one in use is erased.
    retire_at: Option<Instant>,
}

impl Renewal {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.due, self.changing, self.retire_at].into_iter().fold(None, earliest)
    }
}

impl MembershipAgent {
    pub(in crate::node) fn set_key_lifetime(&mut self, lifetime: u64, now: Now) {
        self.renewal.lifetime = Some(lifetime);
        self.arm_renewal(now);
    }

    /// The session key stays what it is: others have it in their configuration.
    pub(in crate::node) fn fix_key(&mut self) {
        self.renewal.is_fixed = true;
        self.renewal.due = None;
    }

    /// A later start whose next key may be in the directory already: it goes on there.
    pub(super) fn resume_change(&mut self, now: Now) {
        let is_half_way = self.credentials().is_some_and(|credentials| credentials.next_key().is_some());
        self.renewal.changing = is_half_way.then(|| now.mono + CHANGE_WITHIN);
        self.arm_renewal(now);
    }

    /// Looks at the credentials: when the next key is due, and until when the one before answers.
    pub(super) fn arm_renewal(&mut self, now: Now) {
        let Some(credentials) = self.credentials() else { return };
        let half = self.life_of(credentials) / 2;
        let due = rotation::at(credentials.key_since().plus_secs(half), now);
        let retire_at = credentials.previous_key().map(|(_, until)| rotation::at(until, now));
        self.renewal.retire_at = retire_at;
        self.renewal.due = (!self.renewal.is_fixed).then_some(due);
    }

    fn life_of(&self, credentials: &Credentials) -> u64 {
        key_lifetime(credentials.bundle().certificate.unverified(), self.renewal.lifetime)
    }

    pub(super) fn handle_renewal_timeout(&mut self, now: Now) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        if is_due(self.renewal.retire_at) {
            self.renewal.retire_at = None;
            if let Phase::Member { credentials, .. } = &mut self.phase
                && credentials.retire_key(now.unix)
            {
                self.keep();
                self.events.push_back(MembershipEvent::KeysChanged);
            }
        }
        if is_due(self.renewal.changing) {
            self.give_up_change(now);
        }
        if is_due(self.renewal.due) {
            // Without a registrar: armed again by the next WELCOME of its relay.
            self.renewal.due = None;
            self.begin_change(now);
        }
    }

    /// The next session key, if the registrar can be asked.
    fn begin_change(&mut self, now: Now) {
        let can_ask = self.control.is_joined() && self.control.is_at_first();
        if !can_ask || self.renewal.changing.is_some() || self.is_closed() {
            return;
        }
        let Some(life) = self.credentials().map(|credentials| self.life_of(credentials)) else { return };
        let Phase::Member { credentials, .. } = &mut self.phase else { return };
        if credentials.prepare_key(life, now.unix, &mut self.rng).is_ok() {
            self.keep();
            self.join_under_next(now);
        }
    }

    fn join_under_next(&mut self, now: Now) {
        let Some(next) = self.credentials().and_then(with_next) else { return };
        self.renewal.changing = Some(now.mono + CHANGE_WITHIN);
        self.join_as(next, now);
    }

    fn give_up_change(&mut self, now: Now) {
        self.renewal.changing = None;
        let Some(credentials) = self.credentials() else { return };
        let again = TRY_AGAIN.min(Duration::from_secs(self.life_of(credentials) / 8));
        let present = with_present(credentials);
        self.renewal.due = (!self.renewal.is_fixed).then_some(now.mono + again);
        self.join_as(present, now);
    }

    /// Joins anew by this key. What was asked on the channel is asked again there.
    fn join_as(&mut self, (secret, bundle): (StaticSecret, Vec<u8>), now: Now) {
        self.control.set_local(secret);
        self.control.set_bundle(bundle);
        self.roster.down();
        self.watch.down();
        self.control.reconnect(now.mono);
        self.drain_control(now);
    }

    /// What WELCOME's receipt is for: the key in use, or the one that was to be the next.
    pub(super) fn take_receipt(&mut self, credentials: &mut Credentials, receipt: &[u8], now: Now) {
        let half = self.life_of(credentials) / 2;
        let taken = if self.renewal.changing.take().is_some() {
            let taken = credentials.adopt_key(receipt, half, now.unix);
            if taken.is_ok() {
                tracing::info!("another session key is in use; the one before answers for a while");
                self.events.push_back(MembershipEvent::KeysChanged);
            } else {
                // Given up at once, when it is known again who we are.
                self.renewal.changing = Some(now.mono);
            }
            taken
        } else {
            credentials.accept_receipt(receipt, now.unix)
        };
        if let Err(error) = taken {
            self.refuse(Refusal::from(&error), &error, now.mono);
        }
    }

    /// Whether a refusal is an affair of the keys, which knows what to do.
    pub(super) fn is_about_keys(&mut self, was_replaced: bool, now: Now) -> bool {
        if self.renewal.changing.is_some() {
            tracing::debug!("the next session key is refused; the one in use goes on");
            self.give_up_change(now);
            return true;
        }
        let recently = self.renewal.bound_again.is_some_and(|at| now.mono < at + BIND_AGAIN);
        let lifetime = self.renewal.lifetime;
        let Phase::Member { credentials, .. } = &mut self.phase else { return false };
        if !was_replaced || recently {
            return false;
        }
        self.renewal.bound_again = Some(now.mono);
        if credentials.next_key().is_some() {
            self.join_under_next(now);
            return true;
        }
        if credentials.renew_binding(lifetime, now.unix).is_err() {
            return false;
        }
        let bundle = credentials.bundle().encode();
        self.keep();
        self.control.join(bundle, now.mono);
        self.drain_control(now);
        true
    }

    /// Writes the credentials as they are now.
    fn keep(&mut self) {
        if let Phase::Member { credentials, .. } = &self.phase {
            let kept = credentials.encode().to_vec();
            self.events.push_back(MembershipEvent::Persist(kept));
        }
    }

    /// The record is renewed at half its life, by publishing it again; a binding whose key could not be replaced at three
    /// quarters, by joining again with a newer one. Members past their documents are forgotten.
    pub(super) fn renew(&mut self, now: Now) {
        for key in self.directory.expire(now.unix) {
            self.events.push_back(MembershipEvent::Gone(key));
        }
        let lifetime = self.renewal.lifetime;
        let is_changing = self.renewal.changing.is_some();
        let Phase::Member { credentials, .. } = &mut self.phase else { return };
        if !self.control.is_joined() || is_changing {
            return;
        }
        let record = credentials.bundle().record.as_ref().map(|r| r.unverified().not_after.0);
        if self.unpublished || record.is_some_and(|end| now.unix.0 + RECORD_LIFETIME / 2 >= end) {
            let (endpoints, relays) = core::mem::take(&mut self.published);
            return self.publish(endpoints, relays, now);
        }
        if binding_is_old(credentials, now.unix) && credentials.renew_binding(lifetime, now.unix).is_ok() {
            let bundle = credentials.bundle().encode();
            self.control.join(bundle, now.mono);
            self.drain_control(now);
        }
    }
}

/// Whether less than a quarter of its life is left.
pub(super) fn binding_is_old(credentials: &Credentials, now: UnixTime) -> bool {
    let binding = credentials.bundle().binding.unverified();
    let (begin, end) = (binding.not_before.0, binding.not_after.0);
    now.0 >= begin.saturating_add(end.saturating_sub(begin) / 4 * 3)
}

/// By which key, and with which documents, a later start joins.
pub(super) fn joins_with(credentials: &Credentials) -> (StaticSecret, Vec<u8>) {
    with_next(credentials).unwrap_or_else(|| with_present(credentials))
}

/// The next key, and the documents that name it.
fn with_next(credentials: &Credentials) -> Option<(StaticSecret, Vec<u8>)> {
    Some((credentials.next_key()?.clone(), credentials.next_bundle()?.encode()))
}

/// The key in use.
fn with_present(credentials: &Credentials) -> (StaticSecret, Vec<u8>) {
    (credentials.node().static_secret.clone(), credentials.bundle().encode())
}
