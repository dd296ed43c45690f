//! A look at the network around this machine: what a NAT does, what a firewall drops, how large packets may be.
//!
//! Everything is asked from sockets of its own, which end with the look: the agent's ports and their mappings in the NAT
//! are not touched. Servers are the relay's port and the one above, which answers from the other port when asked
//! (PROTOCOL §4, STUN). What the answers mean is the core's matter ([`skynet_core::diagnosis`]).
//!
//! ```text
//!   8 sockets ─▶ port, port + 1, further addresses      mapping, port step, block of 64
//!   a socket  ─▶ port + 1: "answer from the other port" filtering
//!   two more  ─▶ each other's external addresses        hairpin
//!   one, DF   ─▶ port + 1, padded                       MTU
//!   TCP       ─▶ port                                   refused, silent or open
//!   TLS       ─▶ 443, directly and by proxy             only if no UDP comes back
//! ```

mod environment;
mod exchange;
mod measure;
mod timeout;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skynet_core::diagnosis::NetworkEvidence;

use crate::config::TlsWays;

pub use environment::{Proxies, own_addresses};

/// Most relay addresses looked at.
pub const MAX_RELAYS: usize = 8;

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Addresses of relays; those beyond [`MAX_RELAYS`] are left out.
    pub relays: Vec<SocketAddr>,
    /// The agent's UDP port.
    pub port: u16,
    /// No agent holds that port, so it is tried.
    pub try_port: bool,
    /// How long an idle mapping is waited for; not at all if `None`.
    pub timeout: Option<Duration>,
    /// How relays are reached by TLS.
    pub tls: TlsWays,
    /// Our clock against the relay's, if the agent knows.
    pub clock_ahead_s: Option<i32>,
}

/// Looks. Blocks for about two seconds, longer where nothing answers or if `plan.timeout` says so.
pub fn look(plan: &Plan) -> NetworkEvidence {
    let relays = &plan.relays[..plan.relays.len().min(MAX_RELAYS)];
    let mut evidence = NetworkEvidence {
        local: own_addresses(),
        cloud: environment::cloud(),
        port: plan.port,
        port_taken: plan.try_port.then(|| environment::port_taken(plan.port)).flatten(),
        has_proxy: !Proxies::from_environment().is_empty() || plan.tls.proxy_name().is_some(),
        clock_ahead_s: plan.clock_ahead_s,
        ..NetworkEvidence::default()
    };
    std::thread::scope(|scope| {
        let tcp: Vec<_> = relays.iter().map(|r| scope.spawn(|| measure::tcp(*r))).collect();
        let mapping = scope.spawn(|| measure::mapping(relays));
        let filtering = scope.spawn(|| few(relays).find_map(measure::filtering));
        let mtu = scope.spawn(|| few(relays).find_map(measure::mtu));
        let hairpin = scope.spawn(|| few(relays).find_map(measure::hairpin));
        let timeout =
            plan.timeout.map(|most| scope.spawn(move || timeout::measure(relays.first().copied()?, most)));
        // A thread that panicked has seen nothing.
        let seen = mapping.join().unwrap_or_default();
        evidence.observations = seen.observations;
        evidence.refused = seen.refused;
        let streams = match relays.first() {
            Some(relay) if evidence.observations.iter().all(|o| o.mapped.is_none()) => {
                Some(scope.spawn(|| measure::streams(*relay, &plan.tls)))
            }
            _ => None,
        };
        evidence.relays = relays
            .iter()
            .zip(tcp)
            .zip(seen.round_trips)
            .map(|((address, tcp), udp)| measure::relay(*address, tcp.join().ok(), udp))
            .collect();
        evidence.streams = streams.and_then(|s| s.join().ok()).unwrap_or_default();
        evidence.stranger_heard = filtering.join().ok().flatten();
        evidence.mtu = mtu.join().ok().flatten();
        let translated =
            evidence.observations.iter().any(|o| o.mapped.is_some_and(|m| !is_local(&evidence.local, m)));
        evidence.hairpin = hairpin.join().ok().flatten().filter(|_| translated);
        evidence.timeout_s = timeout.and_then(|t| t.join().ok().flatten());
    });
    evidence
}

/// Those asked one after the other: silence must not last.
fn few(relays: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
    relays.iter().copied().take(2)
}

fn is_local(local: &[IpAddr], mapped: SocketAddr) -> bool {
    local.contains(&mapped.ip())
}
