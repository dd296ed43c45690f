//! What kind of NAT is before this node: what several STUN servers see of one socket, compared.
//!
//! The relay's BOUND tells how port 0 is seen at the relay's port; the relay's next port, and another address of a relay if
//! there is one, are asked when that is new. Before ports are guessed, a fresh socket is asked about too: where it is seen,
//! and how far apart two new mappings are.

use core::net::SocketAddr;

use crate::drop::DropReason;
use crate::id::PortNo;
use crate::node::{Node, Transmit};
use crate::path::{Mapping, NatSeen, canonical};
use crate::rng::Rng;
use crate::time::{Duration, Instant, Now, earliest};
use crate::wire::binding::{Answer, Request};

/// Requests leave at these times after the first.
const SCHEDULE_MS: [u64; 4] = [0, 100, 300, 900];
/// What has not been answered by then will not be. Guessing waits for it.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Port 0 is asked about at most this often.
const EVERY: Duration = Duration::from_secs(10);
/// Servers asked about one socket at most.
const SERVERS: usize = 2;

/// The questions under way: at most one about port 0 and one about a socket for guessing.
#[derive(Default)]
pub(super) struct NatObserver {
    questions: Vec<Question>,
    asked_at: Option<Instant>,
}

struct Question {
    socket: PortNo,
    began: Instant,
    sent: usize,
    servers: Vec<Server>,
}

struct Server {
    at: SocketAddr,
    id: [u8; 12],
    seen: Option<SocketAddr>,
}

impl Question {
    fn due(&self) -> Instant {
        let next = SCHEDULE_MS.get(self.sent).map(|ms| self.began + Duration::from_millis(*ms));
        let end = self.began + PATIENCE;
        next.map_or(end, |at| at.min(end))
    }

    fn is_answered(&self) -> bool {
        self.servers.iter().all(|s| s.seen.is_some())
    }
}

impl NatObserver {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.questions.iter().fold(None, |least, q| earliest(least, Some(q.due())))
    }

    fn ask(&mut self, socket: PortNo, servers: &[SocketAddr], rng: &mut Rng, now: Instant) {
        self.questions.retain(|q| q.socket != socket);
        let server = |at: &SocketAddr| Server { at: *at, id: rng.array(), seen: None };
        let servers = servers.iter().take(SERVERS).map(server).collect();
        self.questions.push(Question { socket, began: now, sent: 0, servers });
    }

    fn poll_transmit(&mut self, now: Instant) -> Vec<Transmit> {
        let mut out = Vec::new();
        for q in &mut self.questions {
            if q.sent < SCHEDULE_MS.len() && q.due() <= now {
                q.sent += 1;
                let open = q.servers.iter().filter(|s| s.seen.is_none());
                out.extend(open.map(|s| {
                    let bytes = Request::default().encode(s.id);
                    Transmit { port: q.socket, to: s.at, from: None, ttl: None, bytes }
                }));
            }
        }
        out
    }

    fn take_ended(&mut self, now: Instant) -> Option<Question> {
        let at = self.questions.iter().position(|q| q.is_answered() || now >= q.began + PATIENCE)?;
        Some(self.questions.swap_remove(at))
    }
}

impl Node {
    /// The relay sees port 0 as it says since now: what do others see?
    pub(super) fn observe_nat(&mut self, now: Now) {
        let servers = self.other_servers();
        let recent = self.observer.asked_at.is_some_and(|at| now.mono - at < EVERY);
        if recent || servers.is_empty() {
            return;
        }
        self.observer.asked_at = Some(now.mono);
        self.observer.ask(PortNo(0), &servers, &mut self.rng, now.mono);
        self.drain_observer(now);
    }

    /// Where is this fresh socket seen, and how far apart are two of its mappings?
    pub(super) fn observe_socket(&mut self, socket: PortNo, now: Now) -> bool {
        let Some(relay) = self.ports.relay().map(|r| r.address) else { return false };
        let servers = [relay, next_port(relay)];
        self.observer.ask(socket, &servers, &mut self.rng, now.mono);
        self.drain_observer(now);
        true
    }

    /// The relay's next port, and an address of a relay that is not the one we use.
    fn other_servers(&self) -> Vec<SocketAddr> {
        let Some(relay) = self.ports.relay().map(|r| r.address) else { return Vec::new() };
        let all =
            self.trust().into_iter().flat_map(|trust| &trust.manifest().relays).flat_map(|r| &r.addresses);
        let same_kind = |a: &&SocketAddr| a.ip() != relay.ip() && a.is_ipv4() == relay.is_ipv4();
        [next_port(relay)].into_iter().chain(all.copied().find(|a| same_kind(&a))).collect()
    }

    /// From where STUN may come.
    pub(super) fn stun_servers(&self) -> Vec<SocketAddr> {
        let relay = self.ports.relay().map(|r| r.address);
        relay.into_iter().chain(self.other_servers()).collect()
    }

    pub(super) fn on_stun(
        &mut self,
        port: PortNo,
        from: SocketAddr,
        datagram: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        let answer = Answer::parse(datagram).ok_or(DropReason::Malformed)?;
        let questions = self.observer.questions.iter_mut().filter(|q| q.socket == port);
        let server =
            questions.flat_map(|q| &mut q.servers).find(|s| (s.id, s.at) == (answer.transaction, from));
        server.ok_or(DropReason::BadTag)?.seen = Some(answer.mapped);
        self.drain_observer(now);
        Ok(())
    }

    /// Sends what is due and takes what is known.
    pub(super) fn drain_observer(&mut self, now: Now) {
        let due = self.observer.poll_transmit(now.mono);
        self.transmits.extend(due);
        while let Some(question) = self.observer.take_ended(now.mono) {
            let seen: Vec<Option<SocketAddr>> = question.servers.iter().map(|s| s.seen).collect();
            if question.socket == PortNo(0) {
                self.note_nat(&seen);
            } else {
                self.guess_socket_observed(question.socket, &seen, now);
            }
        }
    }

    fn note_nat(&mut self, seen: &[Option<SocketAddr>]) {
        let here = self.ports.observed().map(canonical);
        if let Some(nat) = here.and_then(|here| compare(here, seen)) {
            tracing::debug!(?nat, "what STUN says of the NAT");
            self.set_nat(nat);
        }
    }
}

/// The port beside the relay's, where it answers STUN alone (PROTOCOL §4).
fn next_port(relay: SocketAddr) -> SocketAddr {
    SocketAddr::new(relay.ip(), relay.port().wrapping_add(1).max(1))
}

/// From what the relay sees, and its next port, and another address: nothing if only the relay answers.
fn compare(here: SocketAddr, seen: &[Option<SocketAddr>]) -> Option<NatSeen> {
    let beside = (*seen.first()?)?;
    let elsewhere = seen.get(1).copied().flatten();
    let mapping = match (beside == here, elsewhere.is_none_or(|e| e == here)) {
        (true, true) => Mapping::EndpointIndependent,
        (true, false) => Mapping::AddressDependent,
        (false, _) => Mapping::AddressAndPortDependent,
    };
    let last = elsewhere.unwrap_or(beside);
    let before =
        if mapping == Mapping::AddressAndPortDependent && elsewhere.is_some() { beside } else { here };
    Some(NatSeen { mapping, port_delta: delta(before, last) })
}

/// From one external port to the next.
pub(super) fn delta(before: SocketAddr, last: SocketAddr) -> i16 {
    last.port().wrapping_sub(before.port()).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(port: u16) -> SocketAddr {
        ([198, 51, 100, 1], port).into()
    }

    #[test]
    fn two_answers_name_the_mapping_and_the_step() {
        use Mapping as M;
        let nat = |mapping, port_delta| Some(NatSeen { mapping, port_delta });
        assert_eq!(compare(seen(5000), &[Some(seen(5000)), None]), nat(M::EndpointIndependent, 0));
        assert_eq!(
            compare(seen(5000), &[Some(seen(5000)), Some(seen(5000))]),
            nat(M::EndpointIndependent, 0)
        );
        assert_eq!(
            compare(seen(5000), &[Some(seen(5000)), Some(seen(7000))]),
            nat(M::AddressDependent, 2000)
        );
        assert_eq!(compare(seen(5000), &[Some(seen(5001)), None]), nat(M::AddressAndPortDependent, 1));
        assert_eq!(
            compare(seen(5000), &[Some(seen(5007)), Some(seen(5008))]),
            nat(M::AddressAndPortDependent, 1)
        );
        assert_eq!(compare(seen(5000), &[None, Some(seen(5000))]), None);
    }
}
