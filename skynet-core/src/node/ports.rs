//! This node's UDP ports: which are open, where each can be reached, and each one's session at the relay.
//!
//! Port 0 is always open. The others are opened when a lane wants one, and closed when none has for [`CLOSE_AFTER`].
//! Each has a relay session of its own while it is open: it is what tells how a NAT translates that port, and it keeps
//! the translation alive. Only port 0's carries data.
//!
//! ```text
//! closed ── want ─▶ OpenPort ─▶ opening ── port_opened ─▶ open ── unused for 60 s ─▶ ClosePort ─▶ closed
//!                                  └─────── port_failed ─▶ not again for 60 s
//! ```

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use crate::carrier::Way;
use crate::control::message::Welcome;
use crate::id::{MAX_PORTS, PortNo, RelayNo};
use crate::key::PublicKey;
use crate::node::carrier::Carrier;
use crate::node::{NodeEvent, Transmit};
use crate::path::{Candidate, CandidateKind, MAX_CANDIDATES};
use crate::relay::{RelayClient, RelayClientConfig, RelayClock, RelayEvent};
use crate::rng::Rng;
use crate::time::{Duration, Instant, earliest};
use crate::wire::relay::{Class, DATA_HEADER_LEN};

/// A port no lane has used for so long is closed: longer than traffic pauses, so a job's next phase finds it open.
const CLOSE_AFTER: Duration = Duration::from_secs(60);
/// A port that could not be opened is tried again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// So long a fresh port waits for the relay to say where it is seen before it is used without knowing.
const OBSERVE: Duration = Duration::from_millis(400);

/// The relay all ports use.
#[derive(Clone)]
pub(super) struct Relay {
    pub(super) no: RelayNo,
    pub(super) address: SocketAddr,
    /// What it proves itself by.
    pub(super) key: PublicKey,
    ticket: RelayClientConfig,
}

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
    relay: Option<Relay>,
    carrier: Carrier,
    /// Where port 0 can be reached besides, as the shell has found out or was told.
    told: Vec<Candidate>,
    events: VecDeque<NodeEvent>,
}

impl Ports {
    /// Port 0 is open.
    pub(super) fn new() -> Self {
        let mut ports = Self::default();
        ports.ports[0].state = State::Open;
        ports
    }

    // ── Getters ────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// The session of port 0, if the relay is known: by UDP, or by a stream while only that is open.
    pub(super) fn main_client(&self) -> Option<(&Relay, &RelayClient)> {
        let relay = self.relay.as_ref()?;
        Some((relay, self.active()?.1))
    }

    /// The session that frames travel by now, and the address they are sent to for that.
    fn active(&self) -> Option<(SocketAddr, &RelayClient)> {
        let udp = self.relay.as_ref().map(|r| r.address).zip(self.ports[0].client.as_ref());
        let by_stream = self.carrier.client().filter(|(_, client)| client.is_up());
        udp.filter(|(_, client)| client.is_up()).or(by_stream).or(udp)
    }

    /// By which way the session of port 0 goes if it is not UDP.
    pub(super) fn stream(&self) -> Option<Way> {
        self.carrier.way().filter(|_| self.carrier.is_up() && !self.udp_is_up())
    }

    /// What is to be told when it changes: whether frames travel by a stream, and the address they come from then.
    pub(super) fn transport(&self) -> (bool, Option<SocketAddr>) {
        (self.stream().is_some(), self.carrier.address())
    }

    fn udp_is_up(&self) -> bool {
        self.ports[0].client.as_ref().is_some_and(RelayClient::is_up)
    }

    /// Where frames of the relay may come from.
    pub(super) fn relay_addresses(&self) -> Vec<(SocketAddr, RelayNo)> {
        let of = |relay: &Relay| [Some(relay.address), self.carrier.address()].map(|a| Some((a?, relay.no)));
        self.relay.iter().flat_map(of).flatten().collect()
    }

    /// The header of a frame by port 0's session, and where it goes; `None` while that is down.
    pub(super) fn relay_header(
        &self,
        node_no: u32,
        class: Class,
    ) -> Option<(SocketAddr, [u8; DATA_HEADER_LEN])> {
        let (address, client) = self.active()?;
        Some((address, client.data_header(node_no, class, 0)?))
    }

    /// The session of `port`, if `from` is the relay's address, or the stream's that leads there; a stream that is being
    /// left has none any more.
    pub(super) fn client_of(
        &mut self,
        port: PortNo,
        from: SocketAddr,
    ) -> Option<(RelayNo, Option<&mut RelayClient>)> {
        let relay = self.relay.as_ref()?;
        if relay.address == from {
            return Some((relay.no, Some(self.ports.get_mut(usize::from(port.0))?.client.as_mut()?)));
        }
        let is_stream = port == PortNo(0) && self.carrier.address() == Some(from);
        is_stream.then(|| (relay.no, self.carrier.client_of(from)))
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
        self.ports[0].client.as_ref().and_then(RelayClient::observed)
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
        if let Some(observed) = port.client.as_ref().and_then(RelayClient::observed)
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
        self.carrier.check(now);
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
        port.client = self.relay.as_ref().map(|r| r.client(no, rng, now));
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

    /// The relay's ticket: every open port binds, or goes on with the new one. True if the relay is another.
    pub(super) fn set_ticket(
        &mut self,
        welcome: &Welcome,
        (address, key): (SocketAddr, PublicKey),
        rng: &mut Rng,
        now: Instant,
    ) -> bool {
        let no = RelayNo(welcome.relay_no);
        let clock = RelayClock::new(welcome.relay_unix_ms, now);
        let ticket = RelayClientConfig {
            relay_no: no.0,
            lane: 0,
            ticket: welcome.ticket,
            bind_key: welcome.bind_key.clone(),
            clock,
        };
        let same = self.relay.as_ref().is_some_and(|r| (r.no, r.address) == (no, address));
        let relay = &*self.relay.insert(Relay { no, address, key, ticket });
        if !same {
            self.carrier.reset();
        }
        for (i, port) in (0..).zip(&mut self.ports) {
            match &mut port.client {
                Some(client) if same => {
                    client.set_ticket(welcome.ticket, welcome.bind_key.clone(), clock);
                    if !client.is_up() {
                        client.rebind(now);
                    }
                }
                client => {
                    let is_open = port.state == State::Open;
                    *client = is_open.then(|| relay.client(PortNo(i), rng, now));
                }
            }
        }
        !same
    }

    /// Time has passed. True if a port has become ready by that, or has been unused for too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for port in &mut self.ports {
            if let Some(client) = &mut port.client {
                client.handle_timeout(now);
            }
            changed |= port.observe_until.take_if(|at| *at <= now).is_some();
            changed |= port.unused.is_some_and(|since| now >= since + CLOSE_AFTER);
        }
        self.carrier.handle_timeout(now);
        changed
    }

    /// [`NodeEvent::OpenCarrier`] was done: what port 0 sends to `address` goes to the relay.
    pub(super) fn carrier_opened(&mut self, address: SocketAddr, way: Way, rng: &mut Rng, now: Instant) {
        if let Some(relay) = &self.relay {
            self.carrier.opened(address, way, relay, rng, now);
        }
    }

    /// It could not be done, or the stream is gone. True if a session went with it.
    pub(super) fn carrier_closed(&mut self, rng: &mut Rng, now: Instant) -> bool {
        self.carrier.closed(rng, now)
    }

    /// Opens a stream if UDP is dead, leaves it if it is not, and has UDP tried in no hurry meanwhile.
    pub(super) fn tend_carrier(&mut self, now: Instant) {
        let Some(relay) = &self.relay else { return };
        self.carrier.tend(relay, self.ports[0].client.as_ref().is_some_and(RelayClient::is_up), now);
        let unhurried = self.carrier.is_up();
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
        if let Some(client) = self.ports.get_mut(usize::from(port.0)).and_then(|p| p.client.as_mut()) {
            client.rebind(now);
        }
    }

    // ── What now? ──────────────────────────────────────────────────────────────────────────────────────────────

    /// The next datagram for the relay.
    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        let to = self.relay.as_ref()?.address;
        let by_udp = (0..)
            .zip(&mut self.ports)
            .find_map(|(i, port)| Some((PortNo(i), to, port.client.as_mut()?.poll_transmit()?)));
        let next = by_udp.or_else(|| self.carrier.poll_transmit().map(|(to, bytes)| (PortNo(0), to, bytes)));
        next.map(|(port, to, bytes)| Transmit { port, to, from: None, ttl: None, bytes })
    }

    /// The next port of which the relay tells something new.
    pub(super) fn poll_changed(&mut self, rng: &mut Rng, now: Instant) -> Option<PortNo> {
        if self.carrier.poll_changed(rng, now) {
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

    /// A port, or a stream, to open or close.
    pub(super) fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front().or_else(|| self.carrier.poll_event())
    }

    /// When to look here again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ports.iter().fold(self.carrier.poll_timeout(), |least, port| {
            let client = port.client.as_ref().and_then(RelayClient::poll_timeout).map(|(at, _)| at);
            let close = port.unused.map(|since| since + CLOSE_AFTER);
            [client, port.observe_until, close].into_iter().fold(least, earliest)
        })
    }
}

impl Relay {
    #[cfg(test)]
    pub(super) fn sample() -> Self {
        let ticket = RelayClientConfig {
            relay_no: 1,
            lane: 0,
            ticket: [1; crate::wire::relay::TICKET_LEN],
            bind_key: crate::key::Secret::from_bytes([2; 32]),
            clock: RelayClock::new(1_800_000_000_000, Instant::ZERO),
        };
        let address = "203.0.113.10:3478".parse().expect("an address");
        Self { no: RelayNo(1), address, key: PublicKey([3; 32]), ticket }
    }

    pub(super) fn client(&self, port: PortNo, rng: &mut Rng, now: Instant) -> RelayClient {
        RelayClient::new(RelayClientConfig { lane: port.0, ..self.ticket.clone() }, rng.fork(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_never_crowded_out_by_interfaces_and_is_port_0s_alone() {
        let mut ports = Ports::new();
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
