//! Documents of the whole network that the relay pushes: judged, kept, and what follows from them.

use super::{MembershipAgent, MembershipEvent, Phase, targets_of};
use crate::member::document::Kind;
use crate::node::refused::Refusal;
use crate::time::{Duration, Instant, Now, UnixTime};

/// A relay that has let a node in has shown it what is in force by then.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// A word on what is in force is written to the disk this often at most.
const KEEP_WORD: Duration = Duration::from_secs(1_800);
/// What a node whose credentials were taken back says.
const REVOKED: &str = "the operator has revoked this machine; it talks to nobody any more. The cure: ask for a new token, and join anew";

/// Which documents hold here, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Documents {
    /// Epoch of the manifest.
    pub manifest_epoch: u64,
    /// Epoch of the revocations; `None` if nothing was ever taken back.
    pub revocations_epoch: Option<u64>,
    /// Epoch of the policy; `None` if there never was one.
    pub policy_epoch: Option<u64>,
    /// Until when a registrar's last word on what is in force is good; `None` before the first.
    pub good_until: Option<UnixTime>,
    /// Whether that is past: newer ones may have been missed.
    pub is_stale: bool,
    /// Whether this node was taken back itself.
    pub is_revoked: bool,
}

/// What is known of the age of what is held.
#[derive(Default)]
pub(super) struct Age {
    is_stale: bool,
    /// When it will be.
    stale_at: Option<Instant>,
    /// When a word was written last.
    word_kept_at: Option<Instant>,
    /// Then nobody is a peer until there is a fresh word.
    fail_closed: bool,
}

impl Age {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.stale_at
    }
}

impl MembershipAgent {
    /// A document that holds for the whole network. One that is not newer, or not by who may sign it, changes nothing.
    pub(super) fn on_document(&mut self, document: &[u8], now: Now) {
        let Phase::Member { credentials, .. } = &mut self.phase else { return };
        match credentials.trust_mut().take_at(document, now.unix) {
            Ok(Some(kind)) => self.in_force(kind, now),
            Ok(None) => {}
            Err(error) => self.refuse(Refusal::from(&error), &error, now.mono),
        }
    }

    /// The same, from a member: newer than what the relay has shown. True if it is another of one epoch, signed by who may.
    pub(in crate::node) fn on_document_of(&mut self, peer: &str, document: &[u8], now: Now) -> bool {
        let Phase::Member { credentials, .. } = &mut self.phase else { return false };
        match credentials.trust_mut().take_at(document, now.unix) {
            Ok(Some(kind)) => {
                if self.control.is_joined() && self.joined_at.is_some_and(|at| now.mono >= at + SHOWN_WITHIN)
                {
                    let detail = format!("{peer} has passed on a newer {kind}");
                    self.refuse(Refusal::Withheld, detail, now.mono);
                }
                self.in_force(kind, now);
                false
            }
            Ok(None) => false,
            Err(error) => {
                tracing::debug!(peer, %error, "a document that a member has passed on");
                error.is_alarm()
            }
        }
    }

    pub(in crate::node) fn alarm(&mut self, text: String, now: Now) {
        self.events.push_back(MembershipEvent::Alarm(text));
        self.drain_control(now);
    }

    /// A newer document holds.
    fn in_force(&mut self, kind: Kind, now: Now) {
        let Phase::Member { credentials, .. } = &mut self.phase else { return };
        tracing::debug!(%kind, "a newer document of the network");
        // A word comes every hour, or as often as a relay likes: it is written seldom.
        let is_word = kind == Kind::Freshness;
        if !is_word || self.age.word_kept_at.is_none_or(|at| now.mono >= at + KEEP_WORD) {
            self.age.word_kept_at = Some(now.mono);
            let kept = credentials.encode().to_vec();
            self.events.push_back(MembershipEvent::Persist(kept));
        }
        match kind {
            Kind::Revocations => self.apply_revocations(),
            Kind::Policy => self.events.push_back(MembershipEvent::Policy),
            Kind::Manifest => {
                self.control.set_targets(targets_of(credentials.trust().manifest()));
                self.events.push_back(MembershipEvent::Relays);
            }
            _ => {}
        }
        self.look_at_age(now);
    }

    /// Whoever was taken back is a member no more, and at once; if it is this node, it has no peers any more.
    fn apply_revocations(&mut self) {
        let Phase::Member { credentials, me } = &self.phase else { return };
        let trust = credentials.trust();
        self.is_revoked = trust.is_revoked(me.candidate().certificate());
        if self.is_revoked {
            self.events.push_back(MembershipEvent::JoinFailed { reason: REVOKED.into(), fatal: true });
            return self.forget_everybody();
        }
        let gone = self.directory.remove_if(|member| trust.is_revoked(member.candidate().certificate()));
        self.roster_changed |= !gone.is_empty();
        self.events.extend(gone.into_iter().map(MembershipEvent::Gone));
    }

    fn forget_everybody(&mut self) {
        let gone = self.directory.remove_if(|_| true);
        self.events.extend(gone.into_iter().map(MembershipEvent::Gone));
    }

    /// Whether nobody may be a peer now.
    pub(in crate::node) fn is_closed(&self) -> bool {
        self.is_revoked || (self.age.fail_closed && self.age.is_stale)
    }

    /// From now on stale documents end all sessions.
    pub(in crate::node) fn fail_closed(&mut self, now: Now) {
        self.age.fail_closed = true;
        self.look_at_age(now);
    }

    /// What may have been missed: told when it begins, and acted upon if the operator wants that.
    pub(super) fn look_at_age(&mut self, now: Now) {
        let Some(credentials) = self.credentials() else { return };
        let Some(until) = credentials.trust().stale_since() else { return };
        let was_closed = self.is_closed();
        let was_stale = core::mem::replace(&mut self.age.is_stale, now.unix >= until);
        self.age.stale_at =
            (!self.age.is_stale).then(|| now.mono + Duration::from_secs(until.0.saturating_sub(now.unix.0)));
        if self.age.is_stale && !was_stale {
            let what = if self.age.fail_closed { "; until one does, this node talks to nobody" } else { "" };
            let text = format!("no relay with a registrar has confirmed for a day who is revoked{what}");
            self.events.push_back(MembershipEvent::Alarm(text));
        }
        match (was_closed, self.is_closed()) {
            (false, true) => self.forget_everybody(),
            (true, false) => {
                let first = self.roster.begin(false, now.mono);
                self.list(first, now);
            }
            _ => {}
        }
    }

    /// Which documents hold here.
    pub(in crate::node) fn documents(&self) -> Option<Documents> {
        let trust = self.credentials()?.trust();
        Some(Documents {
            manifest_epoch: trust.manifest().epoch,
            revocations_epoch: trust.revocations().map(|revocations| revocations.epoch),
            policy_epoch: trust.policy().map(|policy| policy.epoch),
            good_until: trust.stale_since(),
            is_stale: self.age.is_stale,
            is_revoked: self.is_revoked,
        })
    }
}
