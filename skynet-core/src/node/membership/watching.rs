//! Who comes and goes, for whoever waits for it here: what `node::watch` decides, carried out.

use super::{MembershipAgent, MembershipEvent, boot_epoch};
use crate::control::message::{DeniedCode, Lookup};
use crate::control::roll::Roll;
use crate::control::{ControlEvent, RequestId};
use crate::member::{Bundle, Tags};
use crate::node::kept;
use crate::rng::Rng;
use crate::time::Now;

impl MembershipAgent {
    /// Watches members with one of these tags, everybody if there are none; `None`: nobody any more.
    pub(in crate::node) fn set_watch(&mut self, wanted: Option<Tags>, now: Now) {
        if self.watch.set(wanted) {
            // Whoever begins to watch is told what there is.
            self.told = None;
            self.ask_watch(now);
        }
    }

    /// Whether the relay has told of everybody watched who is there.
    pub(in crate::node) fn is_roll_current(&self) -> bool {
        self.control.is_joined() && self.watch.is_current()
    }

    /// Whether the roster is another than when this was asked last, and somebody watches.
    pub(in crate::node) fn take_roster_change(&mut self) -> bool {
        let shown = Some((self.directory.revision(), self.me().is_some(), self.is_roll_current()));
        self.watch.is_on() && core::mem::replace(&mut self.told, shown) != shown
    }

    /// This process ends. A node that is to be forgotten then says so, which is answered; another only that it need not be
    /// waited for.
    pub(in crate::node) fn stop(&mut self, now: Now) -> bool {
        let ephemeral = self.me().is_some_and(|me| me.candidate().certificate().ephemeral);
        let leaves = ephemeral && self.control.is_joined() && self.control.leave(now.mono).is_some();
        if !leaves {
            self.control.bye(now.mono);
        }
        self.drain_control(now);
        leaves
    }

    /// Another process with this identity runs elsewhere, says the relay. One that was never let in is the copy, and falls
    /// silent; one that was goes on, for no relay can end a membership.
    pub(super) fn on_duplicate(&mut self) {
        if !self.welcomed {
            self.kept = kept::Roster::default();
            self.events.extend(self.directory.clear().into_iter().map(MembershipEvent::Gone));
        }
    }

    /// This machine may be a copy from now on: what both would say alike is said no more.
    pub(in crate::node) fn reseed(&mut self, rng: &mut Rng, now: Now) {
        self.rng = rng.fork();
        self.control.set_epoch(boot_epoch(rng, now));
        self.control.reseed(rng.fork(), now.mono);
        self.watch.down();
        self.roster.down();
        self.drain_control(now);
    }

    pub(super) fn ask_watch(&mut self, now: Now) {
        if self.control.is_joined() && (self.watch.is_on() || self.watch.was_asked()) {
            let request = self.control.watch(self.watch.wanted(), now.mono);
            self.watch.asked(request);
            self.drain_control(now);
        }
    }

    pub(super) fn on_roll(&mut self, roll: &Roll, now: Now) {
        let Some(own) = self.me().map(|me| me.node_no()) else { return };
        self.watch.handle_roll(roll, own, &mut self.directory, now.mono);
        self.fetch(now);
    }

    /// A request was not answered as it was meant: WATCH, or the question for a member on the roll.
    pub(super) fn not_watched(&mut self, event: &ControlEvent, id: RequestId, now: Now) {
        let later = DeniedCode::TryAgain as u16;
        match event {
            ControlEvent::NoPeer(_) => self.watch.fetched(id),
            ControlEvent::Denied(_, code, _) if *code != later => self.watch.unknown(id),
            _ => {}
        }
        self.watch.failed(id, now.mono);
    }

    /// Asks for the documents of whoever is on the roll and not known.
    pub(super) fn fetch(&mut self, now: Now) {
        while let Some(node_no) = self.watch.poll_fetch() {
            let lookup = Lookup::Ipv4(node_no.into());
            let request = self.control.get(lookup.clone(), now.mono);
            if let Some(id) = request {
                self.lookups.insert(id, lookup);
            }
            self.watch.fetching(node_no, request, now.mono);
        }
    }

    /// Whether this member is known, online, and watched: then only the roll says that it is gone, not the list, which
    /// is shorter than the network while all join again.
    pub(super) fn is_held_online(&self, bundle: &[u8]) -> bool {
        let identity = Bundle::parse(bundle).ok().map(|b| b.certificate.unverified().identity);
        let held = identity.and_then(|i| self.directory.get(&i));
        held.is_some_and(|held| held.online && self.watch.covers(held.member.tags()))
    }
}
