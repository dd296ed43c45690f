//! What the relay says of members and of us: judged, kept if it holds, counted against the relay if not.

use super::{MembershipAgent, MembershipEvent, Phase};
use crate::control::RequestId;
use crate::control::message::{self, Lookup};
use crate::member::{Bundle, Member};
use crate::node::directory::{Inserted, is_answer};
use crate::node::refused::{Refusal, Refused};
use crate::node::roster::{Asked, Page};
use crate::time::{Instant, Now};
use crate::wire::relay::{TICKET_LEN, Ticket};

impl MembershipAgent {
    /// Whether a ticket is for this node: with another's, we would bind in its place.
    pub(in crate::node) fn takes_ticket(&mut self, ticket: &[u8; TICKET_LEN], now: Instant) -> bool {
        let Phase::Member { credentials, me } = &self.phase else { return false };
        let ours = Ticket::parse(ticket).is_ok_and(|t| {
            t.node_no == me.node_no()
                && t.network_id == credentials.trust().network_id().0
                && t.identity_hash == Ticket::hash_identity(&me.identity())
        });
        if !ours {
            self.refuse(Refusal::FalseTicket, "what it relays goes on by other relays only", now);
        }
        ours
    }

    /// What relays said that was not believed.
    pub(in crate::node) fn refused(&self) -> Vec<Refused> {
        self.refused.lines()
    }

    /// Counts what the relay in use said and was not believed, and tells it once in a while.
    pub(super) fn refuse(&mut self, reason: Refusal, detail: impl core::fmt::Display, now: Instant) {
        let Some(relay) = self.relay_address else { return };
        if self.refused.count(relay, reason, now) {
            let text = format!("the relay at {relay} showed {}: {detail}", reason.words());
            self.events.push_back(MembershipEvent::Alarm(text));
        }
    }

    pub(super) fn list(&mut self, page: Option<Asked>, now: Now) {
        if let Some(Asked { after, limit }) = page {
            let request = self.control.list(after, limit, now.mono);
            self.roster.asked(request);
            self.drain_control(now);
        }
    }

    pub(super) fn on_members(&mut self, id: RequestId, more: bool, members: &[message::Member], now: Now) {
        if !self.roster.takes(id) {
            return;
        }
        let mut numbers = Vec::with_capacity(members.len());
        for found in members {
            if let Ok(bundle) = Bundle::parse(&found.bundle) {
                let certificate = bundle.certificate.unverified();
                numbers.push(certificate.v4.to_bits());
                let known = self.directory.get(&certificate.identity).is_some();
                if !known && self.directory.len() >= self.roster.most {
                    continue;
                }
            }
            let online = found.online || self.is_held_online(&found.bundle);
            self.learn(&found.bundle, online, None, now);
        }
        match self.roster.handle_page(&numbers, more, self.directory.len(), now.mono) {
            Page::Next(asked) => self.list(Some(asked), now),
            Page::Later => {
                if let Some(all) = self.roster.take_all() {
                    self.directory.keep_ephemeral(&all);
                }
            }
            Page::Circular => self.refuse(Refusal::EndlessList, "the numbers do not rise", now.mono),
        }
    }

    /// Checks documents as the chain demands and keeps them if they are news. False if they do not hold, or are not
    /// of whom we asked for.
    pub(super) fn learn(&mut self, bundle: &[u8], online: bool, asked: Option<&Lookup>, now: Now) -> bool {
        let inserted = self.judge(bundle, online, asked, now);
        match inserted {
            Ok(Some((member, inserted))) => {
                self.events.push_back(MembershipEvent::Learned { member: Box::new(member), inserted });
                true
            }
            Ok(None) => asked.is_none(),
            Err((reason, detail)) => {
                self.refuse(reason, detail, now.mono);
                false
            }
        }
    }

    /// The member these documents make, and what became of them; `None` if they say nothing new of anybody.
    fn judge(
        &mut self,
        bundle: &[u8],
        online: bool,
        asked: Option<&Lookup>,
        now: Now,
    ) -> Result<Option<(Member, Inserted)>, (Refusal, String)> {
        let Phase::Member { credentials, me } = &self.phase else { return Ok(None) };
        if self.is_closed() {
            return Ok(None);
        }
        let parsed = Bundle::parse(bundle).map_err(|e| (Refusal::Malformed, e.to_string()))?;
        // The same bytes as before were verified before: a roster of hundreds costs its signatures once.
        let identity = parsed.certificate.unverified().identity;
        if asked.is_none() && self.directory.confirm(&identity, bundle, online) {
            return Ok(None);
        }
        let member = credentials
            .trust()
            .verify_member(&parsed, now.unix)
            .map_err(|e| (Refusal::from(e), format!("{e} ({})", parsed.certificate.unverified().name)))?;
        if let Some(lookup) = asked.filter(|lookup| !is_answer(lookup, &member)) {
            return Err((Refusal::OtherMember, format!("{} instead of {lookup:?}", member.name())));
        }
        if member.identity() == me.identity() {
            return Ok(None);
        }
        // My own address and name are mine, whoever else was let in with them.
        if member.v4() == me.v4() || member.name() == me.name() {
            return Err((
                Refusal::Taken,
                format!("{} at {}, which is this node", member.name(), member.v4()),
            ));
        }
        let what = format!("{} at {}", member.name(), member.v4());
        let displaced = self.directory.make_place_for(&member);
        self.events.extend(displaced.into_iter().map(MembershipEvent::Gone));
        let inserted = self.directory.insert(member.clone(), online);
        self.roster_changed |= matches!(inserted, Inserted::New | Inserted::Newer { .. });
        match inserted {
            Inserted::Older => Err((Refusal::OlderMember, what)),
            Inserted::Forked => Err((Refusal::ForkedMember, what)),
            Inserted::Taken => Err((Refusal::Taken, what)),
            inserted => {
                self.roster_changed |= matches!(inserted, Inserted::New | Inserted::Newer { .. });
                Ok(Some((member, inserted)))
            }
        }
    }
}
