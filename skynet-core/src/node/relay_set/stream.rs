//! The session by a stream, while no relay is up by UDP: it counts as that of the relay it leads to.
//!
//! It leads to the relay of the control channel, which has just shown that it can be reached. So nodes without UDP meet
//! where control meets, at the first relay if that is there: of each other's streams they can use none but at the same
//! relay.

use core::net::SocketAddr;

use super::{Relay, RelaySet, RelaySetEvent};
use crate::carrier::Way;
use crate::control::message::Welcome;
use crate::id::RelayNo;
use crate::node::NodeEvent;
use crate::relay::{RelayClient, RelayClientConfig, RelayEvent};
use crate::rng::Rng;
use crate::time::{Duration, Instant};

impl RelaySet {
    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Where frames go by a stream because they go nowhere by UDP, and by which way.
    pub(in crate::node) fn stream(&self) -> Option<(RelayNo, Way)> {
        let up = self.carrier.is_up() && !self.udp_is_up();
        self.carrier.relay().zip(self.carrier.way()).filter(|_| up)
    }

    /// What is to be told when it changes: where frames go by a stream, and the address they come from then.
    pub(in crate::node) fn transport(&self) -> (Option<RelayNo>, Option<SocketAddr>) {
        (self.stream().map(|(no, _)| no), self.carrier.address())
    }

    /// The session that frames to and from this relay travel by now, and the address they are sent to for that.
    pub(in crate::node) fn session(&self, no: RelayNo) -> Option<(SocketAddr, &RelayClient)> {
        let by_stream = self.stream().filter(|(at, _)| *at == no).and_then(|_| self.carrier.client());
        by_stream.or_else(|| self.get(no).and_then(|r| Some((r.address, r.client.as_ref()?))))
    }

    /// Every relay with a session by either way, or about to have one.
    pub(in crate::node) fn sessions(&self) -> impl Iterator<Item = (&Relay, &RelayClient)> {
        self.relays.iter().filter_map(|r| Some((r, self.session(r.no)?.1)))
    }

    /// Where frames of relays may come from.
    pub(in crate::node) fn addresses(&self) -> Vec<(SocketAddr, RelayNo)> {
        let stream = self.carrier.address().zip(self.carrier.relay());
        let sessions = self.active().chain(self.members());
        stream.into_iter().chain(sessions.map(|(r, _)| (r.address, r.no))).collect()
    }

    /// Whether UDP is to be tried in no hurry.
    pub(in crate::node) fn is_unhurried(&self) -> bool {
        self.carrier.is_up()
    }

    /// Whether a relay of the manifest is reached by UDP.
    pub(in crate::node) fn udp_is_up(&self) -> bool {
        self.relays.iter().any(Relay::is_up)
    }

    /// The relay of [`stream`](Self::stream), and how far it is by it.
    pub(super) fn stream_rtt(&self) -> Option<(RelayNo, Option<Duration>)> {
        let (no, _) = self.stream()?;
        Some((no, self.carrier.client().and_then(|(_, client)| client.least_rtt())))
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// [`NodeEvent::OpenCarrier`] was done: what port 0 sends to `address` goes to the relay.
    pub(in crate::node) fn carrier_opened(
        &mut self,
        address: SocketAddr,
        way: Way,
        rng: &mut Rng,
        now: Instant,
    ) {
        if let Some((no, ticket)) = self.carrier.opening().zip(self.ticket.clone()) {
            let config = RelayClientConfig { relay_no: no.0, lane: 0, ..ticket };
            self.carrier.opened(address, way, RelayClient::new(config, rng.fork(), now));
            self.carrier.note_use(no, now);
        }
    }

    /// It could not be done, or the stream is gone.
    pub(in crate::node) fn carrier_closed(&mut self, rng: &mut Rng, now: Instant) {
        if self.carrier.closed(rng, now) {
            self.begin_trial(rng, now);
            self.refresh();
        }
    }

    /// The stream goes on with another ticket, or ends if its relay is none of ours any more.
    pub(super) fn keep_stream(&mut self, welcome: &Welcome, now: Instant) {
        if !self.end_foreign_stream() {
            self.carrier.set_ticket(welcome, now);
        }
    }

    /// Ends it if its relay is none of ours any more: whether it is not.
    pub(super) fn end_foreign_stream(&mut self) -> bool {
        let known = self.carrier.relay().map_or(!self.relays.is_empty(), |no| self.get(no).is_some());
        if !known {
            self.carrier.reset();
        }
        !known
    }

    // ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Opens a stream if UDP is dead, leaves it if it is not, and has UDP tried in no hurry meanwhile. One that led
    /// to the relay of the control channel, and that nothing goes by, follows it.
    pub(in crate::node) fn tend_carrier(&mut self, control: Option<RelayNo>, now: Instant) {
        let udp_is_up = self.udp_is_up();
        // Where control is the others without UDP meet.
        if let Some(no) = control.filter(|_| self.stream_follows)
            && self.carrier.leads_elsewhere(no, now)
        {
            self.carrier.let_go(now);
            self.refresh();
        }
        let Some(at) = self.stream_target(control) else { return };
        self.carrier.tend(&self.relays[at], udp_is_up, now);
        if let Some(no) = self.carrier.opening() {
            self.stream_follows = control == Some(no);
        }
        let unhurried = self.carrier.is_up();
        for client in self.relays.iter_mut().filter_map(|r| r.client.as_mut()) {
            client.set_unhurried(unhurried, now);
        }
    }

    /// The relay of the control channel, then home, then the first, which has the directory: the next one from the second
    /// failure in a row on.
    fn stream_target(&self, control: Option<RelayNo>) -> Option<usize> {
        let at = |no: RelayNo| self.relays.iter().position(|r| r.no == no);
        let wanted = [control.and_then(at), self.home.and_then(at), (!self.relays.is_empty()).then_some(0)];
        let mut targets: Vec<usize> = Vec::with_capacity(wanted.len());
        for target in wanted.into_iter().flatten() {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        let turn = self.carrier.failures().saturating_sub(1) as usize;
        targets.get(turn % targets.len().max(1)).copied()
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// A stream to open or close.
    pub(in crate::node) fn poll_carrier(&mut self) -> Option<NodeEvent> {
        self.carrier.poll_event()
    }

    /// What became of the session by the stream.
    pub(super) fn poll_stream_session(&mut self, rng: &mut Rng, now: Instant) -> Option<RelaySetEvent> {
        let no = self.carrier.relay()?;
        let event = self.carrier.poll_session(rng, now)?;
        let told = match event {
            RelayEvent::NoSuchPeer(node_no) => return Some(RelaySetEvent::NoSuchPeer(no, node_no)),
            RelayEvent::Up { .. } => RelaySetEvent::Up(no),
            RelayEvent::Down => {
                self.begin_trial(rng, now);
                RelaySetEvent::Down(no)
            }
            RelayEvent::Draining(_) | RelayEvent::ObservedChanged(_) => RelaySetEvent::Changed,
        };
        self.refresh();
        Some(told)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
