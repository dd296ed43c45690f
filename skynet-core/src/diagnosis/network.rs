//! From what was measured of the network around a node to the words of RFC 4787 and to causes.

use core::net::{IpAddr, SocketAddr};

use super::cause::Cause;
use super::evidence::{Cloud, Filtering, HostView, Mapping, Udp};
use super::rules::{CLOCK_TOLERANCE_S, FULL_DATAGRAM};
use crate::carrier::Way;
use crate::time::Duration;

/// Google Cloud NAT hands out ports in aligned blocks of this size.
const BLOCK: u16 = 64;
/// Different external ports seen before they are believed to come from one block: by chance all of so many are in one of
/// 1,008 blocks once in 10^15.
const BLOCK_EVIDENCE: usize = 6;
/// Steps between successive external ports that are a sequence.
const LARGEST_STEP: i32 = 16;
/// RFC 4787 REQ-5 forbids less than two minutes; what keeps relays and paths alive is sent every 20 s.
const SHORT_TIMEOUT_S: u32 = 30;

/// One answer, or none, of a STUN server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observation {
    /// Which of our sockets asked.
    pub socket: u16,
    /// Its port.
    pub local_port: u16,
    /// Whom.
    pub to: SocketAddr,
    /// How it was seen; `None`: no answer.
    pub mapped: Option<SocketAddr>,
}

/// What became of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpProbe {
    /// Open, after so long.
    Open(Duration),
    /// Refused by the host.
    Refused,
    /// Not answered, or no way there.
    Silent,
}

/// One address of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayProbe {
    /// The address.
    pub address: SocketAddr,
    /// TCP to it.
    pub tcp: TcpProbe,
    /// Least round trip by UDP; `None`: no answer.
    pub udp: Option<Duration>,
}

/// What became of a stream to a relay's TLS port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamProbe {
    /// By which way.
    pub way: Way,
    /// After how long it was open, or why it was not.
    pub outcome: Result<Duration, String>,
}

/// Everything that was measured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkEvidence {
    /// Each address of each relay.
    pub relays: Vec<RelayProbe>,
    /// Streams to the first relay's TLS port; tried only if no UDP came back.
    pub streams: Vec<StreamProbe>,
    /// Sockets × servers, in the order sent.
    pub observations: Vec<Observation>,
    /// This machine's own addresses.
    pub local: Vec<IpAddr>,
    /// The kernel refused to send.
    pub refused: bool,
    /// Whether an answer from a port that was not asked came in.
    pub stranger_heard: Option<bool>,
    /// Whether a packet to our own external address came back.
    pub hairpin: Option<bool>,
    /// The largest IP packet that reached the relay.
    pub mtu: Option<u16>,
    /// Whose machine it is.
    pub cloud: Cloud,
    /// Who has the agent's port, if it is not the agent.
    pub port_taken: Option<String>,
    /// Idle seconds after which a mapping still admitted an answer, and the least after which it did not.
    pub timeout_s: Option<(u32, Option<u32>)>,
    /// How many seconds our clock is ahead of the relay's.
    pub clock_ahead_s: Option<i32>,
    /// The environment names an HTTP proxy.
    pub has_proxy: bool,
    /// UDP port of the agent.
    pub port: u16,
}

/// One thing that stands in the way, or that nothing does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// From the table.
    pub cause: Cause,
    /// In a sentence.
    pub verdict: String,
    /// The one change that would set it right.
    pub cure: String,
}

/// The network in the words of RFC 4787.
pub fn host_view(e: &NetworkEvidence) -> HostView {
    let answered =
        e.observations.iter().any(|o| o.mapped.is_some()) || e.relays.iter().any(|r| r.udp.is_some());
    let asked = !e.observations.is_empty() || !e.relays.is_empty();
    let udp = match (answered, e.refused, asked) {
        (true, ..) => Udp::Works,
        (_, true, _) => Udp::Refused,
        (_, _, true) => Udp::Blocked,
        _ => Udp::Unknown,
    };
    let first = e.observations.iter().find_map(|o| Some((o.local_port, o.mapped?)));
    HostView {
        udp,
        mapping: mapping(e),
        filtering: match e.stranger_heard {
            None => Filtering::Unknown,
            // It came from the address that was asked, so no more than this is known.
            Some(true) => Filtering::AddressDependent,
            Some(false) => Filtering::AddressAndPortDependent,
        },
        port_delta: port_delta(e),
        translated: first.map(|(_, mapped)| !e.local.contains(&mapped.ip())),
        preserves_port: first.map(|(local, mapped)| local == mapped.port()),
        hairpin: e.hairpin,
        mtu: e.mtu,
        cloud: e.cloud,
        port_block: port_block(e),
    }
}

/// Pairs of answers to one socket, in the order sent.
fn pairs(e: &NetworkEvidence) -> impl Iterator<Item = (&Observation, &Observation)> {
    let seen = || e.observations.iter().filter(|o| o.mapped.is_some());
    seen()
        .enumerate()
        .flat_map(move |(i, a)| seen().skip(i + 1).filter(move |b| b.socket == a.socket).map(move |b| (a, b)))
}

fn mapping(e: &NetworkEvidence) -> Mapping {
    let (mut ports, mut addresses, mut known) = (false, false, false);
    for (a, b) in pairs(e).filter(|(a, b)| a.to != b.to && a.to.is_ipv4() == b.to.is_ipv4()) {
        known = true;
        let differs = a.mapped != b.mapped;
        ports |= differs && a.to.ip() == b.to.ip();
        addresses |= differs && a.to.ip() != b.to.ip();
    }
    let untranslated = e
        .observations
        .iter()
        .any(|o| o.mapped.is_some_and(|m| m.port() == o.local_port && e.local.contains(&m.ip())));
    match (ports, addresses) {
        (true, _) => Mapping::AddressAndPortDependent,
        (false, true) => Mapping::AddressDependent,
        (false, false) if known || untranslated => Mapping::EndpointIndependent,
        _ => Mapping::Unknown,
    }
}

fn port_delta(e: &NetworkEvidence) -> i16 {
    let ports: Vec<(u16, i32)> =
        e.observations.iter().filter_map(|o| Some((o.socket, i32::from(o.mapped?.port())))).collect();
    let steps: Vec<i32> = ports.windows(2).filter(|w| w[0].0 == w[1].0).map(|w| w[1].1 - w[0].1).collect();
    let is_sequence =
        steps.iter().all(|s| (1..=LARGEST_STEP).contains(&s.abs()) && s.signum() == steps[0].signum());
    match steps.first() {
        Some(step) if is_sequence => i16::try_from(*step).unwrap_or(0),
        _ => 0,
    }
}

fn port_block(e: &NetworkEvidence) -> bool {
    let mut ports: Vec<u16> = e.observations.iter().filter_map(|o| Some(o.mapped?.port())).collect();
    ports.sort_unstable();
    ports.dedup();
    let translated = e.observations.iter().any(|o| o.mapped.is_some_and(|m| m.port() != o.local_port));
    translated && ports.len() >= BLOCK_EVIDENCE && ports.iter().all(|p| p / BLOCK == ports[0] / BLOCK)
}

/// What stands in the way of direct paths, the worst first; if nothing does, that.
pub fn examine(e: &NetworkEvidence) -> Vec<Finding> {
    let view = host_view(e);
    let mut causes: Vec<Cause> = Vec::new();
    let tcp = |f: fn(&TcpProbe) -> bool| e.relays.iter().any(|r| f(&r.tcp));
    let open = tcp(|t| matches!(t, TcpProbe::Open(_)));
    let refused = tcp(|t| *t == TcpProbe::Refused);
    match view.udp {
        Udp::Refused => causes.push(Cause::LocalFirewall),
        Udp::Blocked if stream(e).is_some() => causes.push(Cause::UdpByTls),
        Udp::Blocked if open => causes.push(Cause::UdpBlockedHere),
        Udp::Blocked if !refused && e.has_proxy => causes.push(Cause::ProxyOnly),
        Udp::Blocked if !refused => causes.push(Cause::RelayUnreachable),
        Udp::Blocked | Udp::Works if refused && !open => causes.push(Cause::RelayRefused),
        _ => {}
    }
    if e.clock_ahead_s.is_some_and(|s| s.unsigned_abs() >= CLOCK_TOLERANCE_S.unsigned_abs()) {
        causes.push(Cause::ClockWrong);
    }
    if e.port_taken.is_some() {
        causes.push(Cause::PortTaken);
    }
    if view.mtu.is_some_and(|mtu| mtu < FULL_DATAGRAM) {
        causes.push(Cause::MtuHole);
    }
    if view.mapping.is_hard() {
        causes.push(match view.cloud {
            Cloud::Aws => Cause::AwsNatGateway,
            Cloud::Azure => Cause::AzureNatGateway,
            Cloud::Google => Cause::GoogleCloudNat,
            Cloud::Unknown => Cause::SymmetricNat,
        });
    }
    if view.port_block {
        causes.push(Cause::PortBudget);
    }
    if e.timeout_s.is_some_and(|(_, dead)| dead.is_some_and(|s| s <= SHORT_TIMEOUT_S)) {
        causes.push(Cause::ShortTimeout);
    }
    if causes.is_empty() {
        causes.push(Cause::NetworkFine);
    }
    causes.into_iter().map(|cause| finding(cause, e)).collect()
}

/// The stream that opened first.
fn stream(e: &NetworkEvidence) -> Option<Way> {
    let open = |s: &StreamProbe| Some((*s.outcome.as_ref().ok()?, s.way));
    e.streams.iter().filter_map(open).min().map(|(_, way)| way)
}

fn finding(cause: Cause, e: &NetworkEvidence) -> Finding {
    let relay =
        e.relays.first().map_or_else(|| "the relay".to_owned(), |r| format!("the relay {}", r.address));
    let verdict = match cause {
        Cause::RelayRefused => format!("{relay} does not listen: its host answers and refuses TCP."),
        Cause::RelayUnreachable => format!("Nothing answers at {relay}, neither by TCP nor by UDP."),
        Cause::UdpByTls => {
            let how = if stream(e) == Some(Way::Proxy) { "through the HTTP proxy" } else { "on port 443" };
            format!("UDP between this machine and {relay} is blocked; the relay is reached by TLS {how}.")
        }
        Cause::UdpBlockedHere => format!("UDP between this machine and {relay} is blocked, TCP works."),
        Cause::ClockWrong => {
            let ahead = e.clock_ahead_s.unwrap_or_default();
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            format!(
                "This machine's clock is {} s {way} the relay's: certificates do not hold.",
                ahead.unsigned_abs()
            )
        }
        Cause::PortTaken => {
            let holder = e.port_taken.as_deref().unwrap_or("another program");
            format!("UDP port {} is held by {holder}.", e.port)
        }
        Cause::MtuHole => format!(
            "Packets of more than {} bytes vanish on the way to {relay}; {FULL_DATAGRAM} are needed.",
            e.mtu.unwrap_or_default()
        ),
        Cause::ShortTimeout => {
            let dead = e.timeout_s.and_then(|(_, dead)| dead).unwrap_or_default();
            format!("The NAT forgets UDP that was idle for {dead} s.")
        }
        _ => cause.what().to_owned(),
    };
    Finding { cause, verdict, cure: cause.cure().to_owned() }
}
