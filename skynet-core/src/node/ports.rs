//! This node's UDP ports: which are open, where each can be reached, and each one's session at the relay.
//!
//! Port 0 is always open, and its sessions are those of [`RelaySet`]. The others are opened when a lane wants one, and
//! closed when none has for [`CLOSE_AFTER`]. Each has a session of its own at the home relay while it is open: it is what
//! tells how a NAT translates that port, and it keeps the translation alive. Only port 0's carry data.
//!
//! ```text
//! closed ── want ─▶ OpenPort ─▶ opening ── port_opened ─▶ open ── unused for 60 s ─▶ ClosePort ─▶ closed
//!                                  └─────── port_failed ─▶ not again for 60 s
//! ```

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use crate::control::message::Welcome;
use crate::id::{MAX_PORTS, PortNo, RelayNo};
use crate::key::PublicKey;
use crate::node::relay_set::{Relay, RelaySet, RelaySetEvent};
use crate::node::{NodeEvent, Transmit};
use crate::path::{Candidate, CandidateKind, MAX_CANDIDATES};
use crate::relay::{RelayClient, RelayEvent};
use crate::rng::Rng;
use crate::time::{Duration, Instant, earliest};
use crate::wire::relay::{Class, DATA_HEADER_LEN};

/// A port no lane has used for so long is closed: longer than traffic pauses, so a job's next phase finds it open.
const CLOSE_AFTER: Duration = Duration::from_secs(60);
/// A port that could not be opened is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// So long a fresh port waits for the relay to say where it is seen before it is used without knowing.
const OBSERVE: Duration = Duration::from_millis(400);
/// Events of port 0's sessions that wait for the owner.
const MAX_RELAY_EVENTS: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Closed,
    /// The shell was asked.
    Opening,
    Open,
    Failed {
        until: Instant,
    },
}

#[derive(Default)]
struct Port {
    state: State,
    /// The host's addresses with this port's number.
    local: Vec<SocketAddr>,
    /// Of a further port, at the home relay.
    client: Option<RelayClient>,
    /// Just opened: until then the relay may say how it sees it.
    observe_until: Option<Instant>,
    /// Since when no lane uses it.
    unused: Option<Instant>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Ports {
    ports: [Port; MAX_PORTS],
    pub(super) relays: RelaySet,
    /// Where the sessions of further ports are.
    further_at: Option<(RelayNo, SocketAddr)>,
    /// What became of port 0's sessions and is of concern to more than this.
    relay_events: VecDeque<RelaySetEvent>,
    /// Where port 0 can be reached besides, as the shell has found out or was told.
    told: Vec<Candidate>,
    events: VecDeque<NodeEvent>,
}

impl Ports {
    /// Port 0 is open. A session at a relay is expected, if this is to be a member.
    pub(super) fn new(relays: RelaySet) -> Self {
        let mut ports = Self { relays, ..Self::default() };
        ports.ports[0].state = State::Open;
        ports
    }

    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    /// The home relay.
    pub(super) fn relay(&self) -> Option<&Relay> {
        self.relays.home()
    }

    /// Port 0's session at the home relay: by UDP, or by a stream while only that is open.
    pub(super) fn main_client(&self) -> Option<(&Relay, &RelayClient)> {
        let relay = self.relays.home()?;
        Some((relay, self.relays.session(relay.no)?.1))
    }

    /// The header of a frame by port 0's session at this relay, and where it goes; `None` while that is down.
    pub(super) fn relay_header(
        &self,
        relay: RelayNo,
        node_no: u32,
        class: Class,
    ) -> Option<(SocketAddr, [u8; DATA_HEADER_LEN])> {
        let (address, client) = self.relays.session(relay)?;
        Some((address, client.data_header(node_no, class, 0)?))
    }

    /// The session of `port`, if `from` is its relay's address, or the stream's that leads there; a stream that is being
    /// left has none any more.
    pub(super) fn client_of(
        &mut self,
        port: PortNo,
        from: SocketAddr,
    ) -> Option<(RelayNo, Option<&mut RelayClient>)> {
        if port == PortNo(0) {
            return self.relays.client_at(from);
        }
        let (relay, _) = self.further_at.filter(|(_, address)| *address == from)?;
        Some((relay, Some(self.ports.get_mut(usize::from(port.0))?.client.as_mut()?)))
    }

    /// Open, and it is known, or was waited for long enough, how the relay sees it.
    pub(super) fn is_ready(&self, port: PortNo) -> bool {
        let port = self.ports.get(usize::from(port.0));
        port.is_some_and(|p| p.state == State::Open && p.observe_until.is_none())
    }

    pub(super) fn is_open(&self, port: PortNo) -> bool {
        self.ports.get(usize::from(port.0)).is_some_and(|p| p.state == State::Open)
    }

    /// How the relay sees port 0, while it does.
    pub(super) fn observed(&self) -> Option<SocketAddr> {
        self.observed_by(PortNo(0))
    }

    /// How home sees port 0 by UDP, or another relay while home does not; how home sees a further port.
    fn observed_by(&self, port: PortNo) -> Option<SocketAddr> {
        if port != PortNo(0) {
            return self.ports.get(usize::from(port.0))?.client.as_ref()?.observed();
        }
        let home = self.relays.home().and_then(|r| r.client.as_ref()?.observed());
        home.or_else(|| self.relays.active().find_map(|(_, client)| client.observed()))
    }

    /// Where a port can be reached: what the shell was told of port 0, the address the relay sees, and interface
    /// addresses as far as there is room: they are the ones there may be many of.
    pub(super) fn candidates(&self, no: PortNo) -> Vec<Candidate> {
        let host = |a: &SocketAddr| {
            let kind = match a.ip() {
                IpAddr::V6(ip) if ip.segments()[0] & 0xe000 == 0x2000 => CandidateKind::GlobalV6,
                _ => CandidateKind::Host,
            };
            Candidate::new(kind, *a)
        };
        let Some(port) = self.ports.get(usize::from(no.0)) else { return Vec::new() };
        let mut candidates = if no == PortNo(0) { self.told.clone() } else { Vec::new() };
        if let Some(observed) = self.observed_by(no)
            && !port.local.contains(&observed)
        {
            candidates.push(Candidate::new(CandidateKind::ServerReflexive, observed));
        }
        let room = MAX_CANDIDATES.saturating_sub(candidates.len());
        candidates.extend(port.local.iter().take(room).map(host));
        candidates
    }

    /// Whether this host has another address of the family of `ip`, which the system might send from instead.
    pub(super) fn is_ambiguous(&self, ip: IpAddr) -> bool {
        self.ports[0].local.iter().any(|a| a.ip() != ip && a.is_ipv4() == ip.is_ipv4())
    }

    // ── What happened ──────────────────────────────────────────────────────────────────────────────────────────

    /// The host's addresses, with port 0's number; every open port has them with its own. False if nothing changed.
    pub(super) fn set_addresses(&mut self, addresses: &[SocketAddr], now: Instant) -> bool {
        let addresses = &addresses[..addresses.len().min(MAX_CANDIDATES)];
        if self.ports[0].local == addresses {
            return false;
        }
        self.relays.move_on(now);
        for (i, port) in self.ports.iter_mut().enumerate() {
            let number = port.local.first().map(SocketAddr::port);
            port.local = match number {
                _ if i == 0 => addresses.to_vec(),
                Some(number) => addresses.iter().map(|a| SocketAddr::new(a.ip(), number)).collect(),
                None => continue,
            };
            if let Some(client) = &mut port.client {
                client.rebind(now);
            }
        }
        true
    }

    /// Where port 0 can be reached besides. False if nothing changed. No binding is renewed: the network has not moved.
    pub(super) fn set_told(&mut self, candidates: &[Candidate]) -> bool {
        let candidates = &candidates[..candidates.len().min(MAX_CANDIDATES)];
        let changed = self.told != candidates;
        self.told = candidates.to_vec();
        changed
    }

    /// The shell has bound a socket.
    pub(super) fn opened(&mut self, no: PortNo, addresses: &[SocketAddr], rng: &mut Rng, now: Instant) {
        let Some(port) = self.ports.get_mut(usize::from(no.0)) else { return };
        if port.state != State::Opening {
            return;
        }
        port.state = State::Open;
        port.local = addresses.iter().take(MAX_CANDIDATES).copied().collect();
        port.client = self.relays.further_client(no, rng, now);
        port.observe_until = port.client.is_some().then(|| now + OBSERVE);
    }

    /// The shell could not.
    pub(super) fn failed(&mut self, no: PortNo, now: Instant) {
        if let Some(port) = self.ports.get_mut(usize::from(no.0))
            && no != PortNo(0)
        {
            *port = Port { state: State::Failed { until: now + RETRY_AFTER }, ..Port::default() };
        }
    }

    /// The relays' ticket: every open port binds, or goes on with the new one.
    pub(super) fn set_ticket(
        &mut self,
        welcome: &Welcome,
        relays: &[(RelayNo, SocketAddr, PublicKey)],
        rng: &mut Rng,
        now: Instant,
    ) {
        self.relays.set_ticket(welcome, relays, rng, now);
        let clock = crate::relay::RelayClock::new(welcome.relay_unix_ms, now);
        for client in self.ports.iter_mut().filter_map(|p| p.client.as_mut()) {
            client.set_ticket(welcome.ticket, welcome.bind_key.clone(), clock);
            // Who was away may have forgotten the session, and who does not send would learn it late.
            client.rebind(now);
        }
        self.follow_home(rng, now);
    }

    /// The relays there are now, at which the ticket holds.
    pub(super) fn set_relays(
        &mut self,
        relays: &[(RelayNo, SocketAddr, PublicKey)],
        rng: &mut Rng,
        now: Instant,
    ) {
        self.relays.set_relays(relays, rng, now);
        self.follow_home(rng, now);
    }

    /// Further ports are bound where home is now.
    fn follow_home(&mut self, rng: &mut Rng, now: Instant) {
        let home = self.relays.home().map(|r| (r.no, r.address));
        if home == self.further_at {
            return;
        }
        self.further_at = home;
        for (i, port) in (0..).zip(&mut self.ports).skip(1) {
            let open = port.state == State::Open;
            port.client = if open { self.relays.further_client(PortNo(i), rng, now) } else { None };
        }
    }

    /// Time has passed. True if a port has become ready by that, or has been unused for too long.
    pub(super) fn handle_timeout(&mut self, rng: &mut Rng, now: Instant) -> bool {
        let mut changed = false;
        self.relays.handle_timeout(rng, now);
        self.follow_home(rng, now);
        for port in &mut self.ports {
            if let Some(client) = &mut port.client {
                client.handle_timeout(now);
            }
            changed |= port.observe_until.take_if(|at| *at <= now).is_some();
            changed |= port.unused.is_some_and(|since| now >= since + CLOSE_AFTER);
        }
        changed
    }

    /// Opens a stream if UDP is dead, leaves it if it is not, and has UDP tried in no hurry meanwhile.
    pub(super) fn tend_carrier(&mut self, control: Option<RelayNo>, now: Instant) {
        self.relays.tend_carrier(control, now);
        let unhurried = self.relays.is_unhurried();
        for client in self.ports.iter_mut().filter_map(|port| port.client.as_mut()) {
            client.set_unhurried(unhurried, now);
        }
    }

    // ── Commands ───────────────────────────────────────────────────────────────────────────────────────────────

    /// A lane wants this port.
    pub(super) fn want(&mut self, no: PortNo, now: Instant) {
        let Some(port) = self.ports.get_mut(usize::from(no.0)) else { return };
        port.unused = None;
        let ask = match port.state {
            State::Closed => true,
            State::Failed { until } => now >= until,
            State::Opening | State::Open => false,
        };
        if ask {
            port.state = State::Opening;
            self.events.push_back(NodeEvent::OpenPort(no));
        }
    }

    /// Which ports lanes use now: the others are closed in time.
    pub(super) fn close_unused(&mut self, used: [bool; MAX_PORTS], now: Instant) {
        for ((i, port), used) in (0..).zip(&mut self.ports).zip(used).skip(1) {
            let open = port.state == State::Open;
            port.unused = (open && !used).then(|| port.unused.unwrap_or(now));
            if port.unused.is_some_and(|since| now >= since + CLOSE_AFTER) {
                *port = Port::default();
                self.events.push_back(NodeEvent::ClosePort(PortNo(i)));
            }
        }
    }

    /// The network may have changed under this port: ask the relay how it sees it.
    pub(super) fn observe_again(&mut self, port: PortNo, now: Instant) {
        if port == PortNo(0) {
            return self.relays.rebind(now);
        }
        if let Some(client) = self.ports.get_mut(usize::from(port.0)).and_then(|p| p.client.as_mut()) {
            client.rebind(now);
        }
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The next datagram for a relay.
    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = |port, to, bytes| Transmit { port, to, from: None, ttl: None, bytes };
        if let Some((to, bytes)) = self.relays.poll_transmit() {
            return Some(transmit(PortNo(0), to, bytes));
        }
        let (_, to) = self.further_at?;
        (0..)
            .zip(&mut self.ports)
            .find_map(|(i, port)| Some(transmit(PortNo(i), to, port.client.as_mut()?.poll_transmit()?)))
    }

    /// The next port of which a relay tells something new.
    pub(super) fn poll_changed(&mut self, rng: &mut Rng, now: Instant) -> Option<PortNo> {
        let mut changed = false;
        while let Some(event) = self.relays.poll_event(rng, now) {
            changed |= !matches!(event, RelaySetEvent::NoSuchPeer(..));
            // What is said while others wait is a hint that comes again.
            if self.relay_events.len() < MAX_RELAY_EVENTS {
                self.relay_events.push_back(event);
            }
        }
        if changed {
            self.follow_home(rng, now);
            return Some(PortNo(0));
        }
        let told = |client: &mut RelayClient| {
            let mut changed = false;
            while let Some(event) = client.poll_event() {
                changed |= matches!(
                    event,
                    RelayEvent::Up { .. } | RelayEvent::Down | RelayEvent::ObservedChanged(_)
                );
            }
            changed
        };
        let at = self.ports.iter_mut().position(|p| p.client.as_mut().is_some_and(told))?;
        let port = &mut self.ports[at];
        if port.client.as_ref().is_some_and(|c| c.observed().is_some()) {
            port.observe_until = None;
        }
        Some(PortNo(u8::try_from(at).expect("at most MAX_PORTS ports")))
    }

    /// What became of a session of port 0.
    pub(super) fn poll_relay_event(&mut self) -> Option<RelaySetEvent> {
        self.relay_events.pop_front()
    }

    /// A port, or a stream, to open or close.
    pub(super) fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front().or_else(|| self.relays.poll_carrier())
    }

    /// When to look here again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ports.iter().fold(self.relays.poll_timeout(), |least, port| {
            let client = port.client.as_ref().and_then(RelayClient::poll_timeout).map(|(at, _)| at);
            let close = port.unused.map(|since| since + CLOSE_AFTER);
            [client, port.observe_until, close].into_iter().fold(least, earliest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_never_crowded_out_by_interfaces_and_is_port_0s_alone() {
        let mut ports = Ports::new(RelaySet::default());
        let many: Vec<SocketAddr> = (1..=40).map(|i| SocketAddr::from(([192, 0, 2, i], 41_820))).collect();
        assert!(ports.set_addresses(&many, Instant::ZERO));
        let told = [
            Candidate::new(CandidateKind::Configured, "203.0.113.7:41820".parse().unwrap()),
            Candidate::new(CandidateKind::PortMapping, "198.51.100.2:5000".parse().unwrap()),
        ];
        assert!(ports.set_told(&told) && !ports.set_told(&told), "a change is one once");
        let all = ports.candidates(PortNo(0));
        assert_eq!(all.len(), MAX_CANDIDATES);
        assert!(told.iter().all(|t| all.contains(t)));
        assert!(ports.candidates(PortNo(1)).is_empty());
    }
}
