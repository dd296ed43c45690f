//! The way to the relay where UDP is dead: a stream of frames that the shell opens, and a session of port 0 by it.
//!
//! ```text
//!    no UDP session anywhere for 1 s        carrier_opened              UDP session
//! OFF ─────────────────────────▶ OPENING ──────────────────▶ OPEN ──────────────────▶ LEAVING ── 2 s ──▶ OFF
//!                                   ▲ │ carrier_closed          │ closed, or session lost
//!                                   │ ▼                         ▼
//!                                   FAILED: again after 1, 2, 4 … 60 s
//! ```
//! To everything else the stream is an address of this host in place of the relay's: datagrams go there and come from
//! there, in the same frames. UDP is tried all the while, at every relay, and wins as soon as it has a session at one.
//! While leaving, what is still on its way comes in; nothing is sent.

use core::net::SocketAddr;
use std::collections::VecDeque;

use crate::carrier::Way;
use crate::control::message::Welcome;
use crate::id::RelayNo;
use crate::node::NodeEvent;
use crate::node::relay_set::Relay;
use crate::relay::{RelayClient, RelayClock, RelayEvent};
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// So long UDP may be without a session: a round trip for COOKIE, one for BOUND, and two retransmissions.
const PATIENCE: Duration = Duration::from_secs(1);
/// A stream by which nothing has gone for so long may go elsewhere.
const UNUSED: Duration = Duration::from_secs(60);
/// What the slower stream still holds when UDP has taken over: its queues are a tenth of a second long.
const LEAVE: Duration = Duration::from_secs(2);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Default)]
enum State {
    #[default]
    Off,
    Opening,
    Open {
        address: SocketAddr,
        way: Way,
        client: Box<RelayClient>,
    },
    Leaving {
        address: SocketAddr,
        until: Instant,
    },
    Failed {
        until: Instant,
    },
}

/// The machine.
#[derive(Default)]
pub(super) struct Carrier {
    state: State,
    /// Where the stream leads, or led last.
    relay: Option<RelayNo>,
    /// Since when no session is open by UDP, while one is wanted.
    without_udp: Option<Instant>,
    failures: u32,
    /// Until when data goes by it.
    used_until: Instant,
    events: VecDeque<NodeEvent>,
}

impl Carrier {
    /// The session by the stream, if one is open or being opened, and the address that leads into it.
    pub(super) fn client(&self) -> Option<(SocketAddr, &RelayClient)> {
        match &self.state {
            State::Open { address, client, .. } => Some((*address, client)),
            _ => None,
        }
    }

    /// Whether frames travel by the stream.
    pub(super) fn is_up(&self) -> bool {
        self.client().is_some_and(|(_, client)| client.is_up())
    }

    /// The relay that the stream leads to, or is to lead to.
    pub(super) fn relay(&self) -> Option<RelayNo> {
        self.relay.filter(|_| !matches!(self.state, State::Off | State::Failed { .. }))
    }

    /// The relay that the shell is asked for a stream to.
    pub(super) fn opening(&self) -> Option<RelayNo> {
        self.relay.filter(|_| matches!(self.state, State::Opening))
    }

    /// How many attempts have failed since the last that did not.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// By which way the stream goes.
    pub(super) fn way(&self) -> Option<Way> {
        match &self.state {
            State::Open { way, .. } => Some(*way),
            _ => None,
        }
    }

    /// Where frames may come from.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Open { address, .. } | State::Leaving { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// The session that a frame from `from` belongs to.
    pub(super) fn client_of(&mut self, from: SocketAddr) -> Option<&mut RelayClient> {
        match &mut self.state {
            State::Open { address, client, .. } if *address == from => Some(client),
            _ => None,
        }
    }

    /// Data goes by this relay.
    pub(super) fn note_use(&mut self, relay: RelayNo, until: Instant) {
        if self.relay() == Some(relay) {
            self.used_until = self.used_until.max(until);
        }
    }

    /// Whether there is a stream to another relay, which nothing goes by.
    pub(super) fn leads_elsewhere(&self, relay: RelayNo, now: Instant) -> bool {
        self.is_up() && self.relay != Some(relay) && now >= self.used_until + UNUSED
    }

    /// It is given up, and soon opened to where it is wanted.
    pub(super) fn let_go(&mut self, now: Instant) {
        self.events.push_back(NodeEvent::CloseCarrier);
        self.state = State::Failed { until: now + FIRST_BACKOFF };
    }

    /// The shell has opened the stream; datagrams to `address` go into it, and `client` has its session by it.
    pub(super) fn opened(&mut self, address: SocketAddr, way: Way, client: RelayClient) {
        if matches!(self.state, State::Opening) {
            self.state = State::Open { address, way, client: Box::new(client) };
        }
    }

    /// A new ticket.
    pub(super) fn set_ticket(&mut self, welcome: &Welcome, now: Instant) {
        if let State::Open { client, .. } = &mut self.state {
            let clock = RelayClock::new(welcome.relay_unix_ms, now);
            client.set_ticket(welcome.ticket, welcome.bind_key.clone(), clock);
            client.rebind(now);
        }
    }

    /// The stream could not be opened, or is gone. True if a session went with it.
    pub(super) fn closed(&mut self, rng: &mut Rng, now: Instant) -> bool {
        let was_up = self.is_up();
        if was_up {
            self.failures = 0;
        }
        match self.state {
            State::Opening | State::Open { .. } => self.fail(rng, now),
            State::Leaving { .. } => self.state = State::Off,
            State::Off | State::Failed { .. } => {}
        }
        was_up
    }

    /// Whether any session is open by UDP, and the relay that a stream would lead to. Opens, leaves and gives up
    /// accordingly.
    pub(super) fn tend(&mut self, relay: &Relay, udp_is_up: bool, now: Instant) {
        if udp_is_up {
            self.without_udp = None;
            self.leave(now);
        } else {
            let since = *self.without_udp.get_or_insert(now);
            let may_open = match self.state {
                State::Off => now >= since + PATIENCE,
                State::Failed { until } => now >= until,
                _ => false,
            };
            if may_open {
                self.state = State::Opening;
                self.relay = Some(relay.no);
                self.events.push_back(NodeEvent::OpenCarrier {
                    relay: relay.no,
                    address: relay.address,
                    key: relay.key,
                });
            }
        }
        if matches!(self.state, State::Leaving { until, .. } if now >= until) {
            self.close();
        }
    }

    /// The relay is none of ours any more: its stream ends at once.
    pub(super) fn reset(&mut self) {
        if !matches!(self.state, State::Off | State::Failed { .. }) {
            self.events.push_back(NodeEvent::CloseCarrier);
        }
        let events = core::mem::take(&mut self.events);
        *self = Self { events, ..Self::default() };
    }

    /// The network may have changed: a stream that does not answer is given up in two seconds.
    pub(super) fn check(&mut self, now: Instant) {
        if let State::Open { client, .. } = &mut self.state {
            client.check(now);
        }
        self.failures = 0;
        if let State::Failed { until } = &mut self.state {
            *until = now;
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let State::Open { client, .. } = &mut self.state {
            client.handle_timeout(now);
        }
    }

    /// The next datagram for the stream.
    pub(super) fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        match &mut self.state {
            State::Open { address, client, .. } => Some((*address, client.poll_transmit()?)),
            _ => None,
        }
    }

    /// What became of the session; one that is lost takes the stream with it.
    pub(super) fn poll_session(&mut self, rng: &mut Rng, now: Instant) -> Option<RelayEvent> {
        let State::Open { client, .. } = &mut self.state else { return None };
        let event = client.poll_event()?;
        if event == RelayEvent::Down {
            self.events.push_back(NodeEvent::CloseCarrier);
            self.failures = 0;
            self.fail(rng, now);
        }
        Some(event)
    }

    /// What the shell has to do.
    pub(super) fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// When to look here again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Off => self.without_udp.map(|since| since + PATIENCE),
            State::Opening => None,
            State::Open { client, .. } => client.poll_timeout().map(|(at, _)| at),
            State::Leaving { until, .. } | State::Failed { until } => Some(*until),
        }
    }

    fn leave(&mut self, now: Instant) {
        match self.state {
            State::Opening => self.close(),
            State::Open { address, .. } => self.state = State::Leaving { address, until: now + LEAVE },
            State::Failed { .. } => self.state = State::Off,
            State::Off | State::Leaving { .. } => {}
        }
        self.failures = 0;
    }

    fn close(&mut self) {
        self.state = State::Off;
        self.events.push_back(NodeEvent::CloseCarrier);
    }

    fn fail(&mut self, rng: &mut Rng, now: Instant) {
        let pause = (FIRST_BACKOFF * 2u32.saturating_pow(self.failures.min(16))).min(MAX_BACKOFF);
        let jitter = Duration::from_millis(rng.below(pause.as_millis() as u64 / 4 + 1));
        self.failures = self.failures.saturating_add(1);
        self.state = State::Failed { until: now + pause.saturating_sub(jitter) };
    }
}

#[cfg(test)]
#[path = "carrier_tests.rs"]
pub(super) mod tests;
