//! One measurement each, some tenths of a second long.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use skynet_core::carrier::Way;
use skynet_core::control::channel::Purpose;
use skynet_core::diagnosis::{Observation, RelayProbe, StreamProbe, TcpProbe};
use skynet_core::wire::binding::Request;
use skynet_tls::{Dialer, Route};

use super::exchange::{Looker, Question, Reply};
use crate::config::TlsWays;
use crate::{clock, udp};

/// How long answers are waited for.
const WAIT: Duration = Duration::from_millis(1_500);
/// How long one size of packet, or one unasked answer, is waited for.
const SHORT_WAIT: Duration = Duration::from_millis(900);
/// Sockets that ask every server,
const FULL_SOCKETS: u16 = 2;
/// and those that only ask the first: enough to tell a block of 64 ports, few enough to leave room in it.
const SOCKETS: u16 = 8;
/// IPv4 and UDP headers.
const HEADERS_V4: usize = 28;
/// IPv6 and UDP headers.
const HEADERS_V6: usize = 48;
/// Packet sizes tried first: what tunnels, clouds and jumbo frames leave.
const SIZES: [usize; 8] = [1_200, 1_280, 1_340, 1_400, 1_428, 1_460, 1_500, 9_000];

/// What the sockets of [`mapping`] saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) observations: Vec<Observation>,
    /// Per relay.
    pub(super) round_trips: Vec<Option<Duration>>,
    pub(super) refused: bool,
}

/// The port above a relay's.
pub(super) fn above(relay: SocketAddr) -> SocketAddr {
    SocketAddr::new(relay.ip(), relay.port().saturating_add(1))
}

/// How several sockets are seen by several servers.
pub(super) fn mapping(relays: &[SocketAddr]) -> Seen {
    let mut seen = Seen { round_trips: vec![None; relays.len()], ..Seen::default() };
    std::thread::scope(|scope| {
        let asked = |socket: u16| {
            let mine: Vec<SocketAddr> = match relays.first() {
                Some(first) if socket >= FULL_SOCKETS => vec![*first],
                _ => relays.iter().flat_map(|r| [*r, above(*r)]).collect(),
            };
            ask_each_family(socket, &mine)
        };
        let threads: Vec<_> = (0..SOCKETS).map(|socket| scope.spawn(move || asked(socket))).collect();
        for (observation, reply) in threads.into_iter().flat_map(|t| t.join().unwrap_or_default()) {
            seen.refused |= reply.refused;
            if let (Some(i), Some((_, after))) =
                (relays.iter().position(|r| *r == observation.to), reply.mapped)
            {
                seen.round_trips[i] = Some(seen.round_trips[i].map_or(after, |least| least.min(after)));
            }
            seen.observations.push(observation);
        }
    });
    seen
}

fn ask_each_family(socket: u16, servers: &[SocketAddr]) -> Vec<(Observation, Reply)> {
    let mut all = Vec::new();
    for v4 in [true, false] {
        let questions: Vec<Question> =
            servers.iter().filter(|s| s.is_ipv4() == v4).map(|s| Question::plain(*s)).collect();
        let Some(first) = questions.first() else { continue };
        let Ok(looker) = Looker::towards(first.to) else { continue };
        // The families are different sockets.
        let number = if v4 { socket } else { socket + SOCKETS };
        for (question, reply) in questions.iter().zip(looker.ask(&questions, WAIT)) {
            let mapped = reply.mapped.map(|(mapped, _)| mapped);
            let observation =
                Observation { socket: number, local_port: looker.port, to: question.to, mapped };
            all.push((observation, reply));
        }
    }
    all
}

/// Whether an answer comes in from a port that was never sent to; `None` if the relay cannot be asked.
pub(super) fn filtering(relay: SocketAddr) -> Option<bool> {
    let looker = Looker::towards(relay).ok()?;
    let to = above(relay);
    looker.ask(&[Question::plain(to)], WAIT).first()?.mapped?;
    let request = Request { change_port: true, ..Request::default() };
    let reply = looker.ask(&[Question { to, request }], SHORT_WAIT);
    Some(reply.first()?.mapped.is_some())
}

/// Whether two sockets hear each other by their external addresses.
pub(super) fn hairpin(relay: SocketAddr) -> Option<bool> {
    let (one, other) = (Looker::towards(relay).ok()?, Looker::towards(relay).ok()?);
    let seen = |l: &Looker| l.ask(&[Question::plain(relay)], WAIT).first().and_then(|r| r.mapped);
    let ((seen_one, _), (seen_other, _)) = (seen(&one)?, seen(&other)?);
    let hello = crate::entropy::seed().ok()?;
    for _ in 0..3 {
        // Both, so that the filters of both let the other in.
        let _ = one.socket.send_to(&hello, seen_other);
        let _ = other.socket.send_to(&hello, seen_one);
        if one.hears(&hello, Duration::from_millis(150)) {
            return Some(true);
        }
    }
    Some(other.hears(&hello, Duration::from_millis(50)))
}

/// The largest IP packet that reaches the relay, within 4 bytes; `None` if not even a small one is answered.
pub(super) fn mtu(relay: SocketAddr) -> Option<u16> {
    let looker = Looker::towards(relay).ok()?;
    udp::never_fragment(looker.socket.as_fd(), relay.is_ipv4()).ok()?;
    let (mut passes, mut fails) = (None, usize::from(u16::MAX));
    let mut sizes: Vec<usize> = SIZES.to_vec();
    while !sizes.is_empty() {
        let headers = if relay.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let question = |size: &usize| Question {
            to: above(relay),
            request: Request { len: (size - headers) & !3, ..Request::default() },
        };
        let questions: Vec<Question> = sizes.iter().map(question).collect();
        let replies = looker.ask(&questions, SHORT_WAIT);
        let answered = sizes.iter().zip(&replies).filter(|(_, r)| r.mapped.is_some()).map(|(s, _)| *s).max();
        passes = passes.max(answered);
        let least = passes?;
        let failed = sizes.iter().copied().filter(|s| *s > least).min();
        fails = fails.min(failed.unwrap_or(fails));
        // Ethernet's own size is what it looks like.
        let done = fails - least <= 4 || least == 1_500 || failed.is_none();
        sizes = if done { Vec::new() } else { between(least, fails) };
    }
    // Requests come in steps of four bytes.
    let headers = if relay.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
    u16::try_from(headers + ((passes? - headers) & !3)).ok()
}

fn between(low: usize, high: usize) -> Vec<usize> {
    let step = ((high - low) / 9).max(4);
    (1..=8).map(|i| low + i * step).take_while(|size| *size < high).collect()
}

/// What becomes of a TCP connection.
pub(super) fn tcp(relay: SocketAddr) -> TcpProbe {
    let start = clock::monotonic();
    match TcpStream::connect_timeout(&relay, WAIT) {
        Ok(_) => TcpProbe::Open(clock::monotonic() - start),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => TcpProbe::Refused,
        Err(_) => TcpProbe::Silent,
    }
}

/// Streams to a relay's TLS port, by every way there is, side by side.
pub(super) fn streams(relay: SocketAddr, ways: &TlsWays) -> Vec<StreamProbe> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let probe = |way: Way, route: Option<Route>| async move {
        let begun = clock::monotonic();
        let dialled = Dialer::new().dial(&route?, Purpose::Control).await;
        let outcome = dialled.map(|_| clock::monotonic() - begun).map_err(|e| e.to_string());
        Some(StreamProbe { way, outcome })
    };
    let probes = async {
        tokio::join!(probe(Way::Tls, Some(ways.direct(relay))), probe(Way::Proxy, ways.proxied(relay)))
    };
    let (direct, proxied) = runtime.block_on(probes);
    direct.into_iter().chain(proxied).collect()
}

pub(super) fn relay(address: SocketAddr, tcp: Option<TcpProbe>, udp: Option<Duration>) -> RelayProbe {
    RelayProbe { address, tcp: tcp.unwrap_or(TcpProbe::Silent), udp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_between_two_lie_between_them_and_close_in() {
        let (mut low, mut high, mut rounds) = (1_280, 1_340, 0);
        while high - low > 4 {
            let sizes = between(low, high);
            assert!(!sizes.is_empty() && sizes.iter().all(|s| (low + 1..high).contains(s)), "{sizes:?}");
            low = sizes.iter().copied().filter(|s| *s <= 1_300).max().unwrap_or(low);
            high = sizes.iter().copied().filter(|s| *s > 1_300).min().unwrap_or(high);
            rounds += 1;
        }
        assert!(low <= 1_300 && high > 1_300 && rounds <= 3, "{low} to {high} in {rounds}");
    }
}
