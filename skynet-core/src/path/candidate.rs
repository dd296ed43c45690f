//! Candidates: transport addresses a peer may be reached at (RFC 8445 §4), and which addresses are never probed.

use crate::allowed_ips::Prefix;
pub use crate::wire::address::canonical;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::probe::CallCandidate;

/// Most candidates of one peer.
pub const MAX_CANDIDATES: usize = 16;

/// Kinds of `docs/PROTOCOL.md` §5, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CandidateKind {
    /// An address of an interface (RFC 8445 §4).
    Host = 0,
    /// Learned from STUN (RFC 8445 §4).
    ServerReflexive = 1,
    /// Opened by PCP, NAT-PMP or UPnP.
    PortMapping = 2,
    /// Learned from a probe that came from it (RFC 8445 §4).
    PeerReflexive = 3,
    /// Told by the operator, or by a cloud that translates one to one.
    Configured = 4,
    /// A global IPv6 address of an interface.
    GlobalV6 = 5,
}

impl CandidateKind {
    /// The kind with wire value `value`.
    pub fn from_wire(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Host,
            1 => Self::ServerReflexive,
            2 => Self::PortMapping,
            3 => Self::PeerReflexive,
            4 => Self::Configured,
            5 => Self::GlobalV6,
            _ => return None,
        })
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "server-reflexive",
            Self::PortMapping => "port-mapping",
            Self::PeerReflexive => "peer-reflexive",
            Self::Configured => "configured",
            Self::GlobalV6 => "global-ipv6",
        }
    }

    /// Default priority: what needs no hole first, the nearest first.
    pub fn priority(self) -> u8 {
        match self {
            Self::Configured => 240,
            Self::Host => 200,
            Self::GlobalV6 => 180,
            Self::PortMapping => 160,
            Self::ServerReflexive => 120,
            Self::PeerReflexive => 110,
        }
    }

    /// No NAT of the peer's translates towards this address, so an early packet cannot take the peer's mapping
    /// and it may be sent at full TTL at once.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::ServerReflexive | Self::PeerReflexive)
    }
}

/// Between [`CandidateKind::GlobalV6`] and [`CandidateKind::PortMapping`].
const CLOUD_PRIORITY: u8 = 170;

/// One candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// How it was learned.
    pub kind: CandidateKind,
    /// Higher is tried first.
    pub priority: u8,
    /// Where.
    pub addr: SocketAddr,
}

impl Candidate {
    /// A candidate with its kind's default priority. A v4-mapped address becomes IPv4.
    pub fn new(kind: CandidateKind, addr: SocketAddr) -> Self {
        Self { kind, priority: kind.priority(), addr: canonical(addr) }
    }

    /// The public address that a cloud translates to this host one to one. As open as what an operator tells, but tried
    /// after the addresses of interfaces, which are nearer for a neighbour.
    pub fn cloud(addr: SocketAddr) -> Self {
        Self { priority: CLOUD_PRIORITY, ..Self::new(CandidateKind::Configured, addr) }
    }

    pub(super) fn from_call(c: &CallCandidate) -> Option<Self> {
        let kind = CandidateKind::from_wire(c.kind)?;
        Some(Self { kind, priority: c.prio, addr: canonical(c.addr) })
    }

    pub(super) fn to_call(self) -> CallCandidate {
        CallCandidate { kind: self.kind as u8, prio: self.priority, addr: self.addr }
    }
}

/// Reachable from anywhere, as far as an address tells: not private (RFC 1918, RFC 4193), not a carrier's (RFC 6598).
pub(super) fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => is_beyond_site(ip) && !v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    }
}

fn in4(a: Ipv4Addr, p: Ipv4Addr, len: u8) -> bool {
    len == 0 || (u32::from(a) ^ u32::from(p)) >> (32 - u32::from(len.min(32))) == 0
}

fn in6(a: Ipv6Addr, p: Ipv6Addr, len: u8) -> bool {
    len == 0 || (u128::from(a) ^ u128::from(p)) >> (128 - u32::from(len.min(128))) == 0
}

/// May a probe be sent to `addr`? A member must not make its peers send to themselves, to their neighbours on the
/// link, to a cloud's metadata service, to many at once, or into the overlay, in any spelling.
pub fn is_probe_target(addr: &SocketAddr, overlay: &[Prefix]) -> bool {
    addr.port() != 0 && ip_is_probe_target(addr.ip().to_canonical(), overlay)
}

fn ip_is_probe_target(ip: IpAddr, overlay: &[Prefix]) -> bool {
    if overlay.iter().any(|p| p.contains(ip)) {
        return false;
    }
    match ip {
        IpAddr::V4(v4) => !REFUSED_V4.iter().any(|(p, len)| in4(v4, Ipv4Addr::from_octets(*p), *len)),
        IpAddr::V6(v6) => {
            TARGETS_V6.iter().any(|(p, len)| in6(v6, Ipv6Addr::from_segments(*p), *len))
                && !REFUSED_V6.iter().any(|(p, len)| in6(v6, Ipv6Addr::from_segments(*p), *len))
                && embedded_v4(v6).is_none_or(|v4| ip_is_probe_target(IpAddr::V4(v4), overlay))
        }
    }
}

/// Does `ip` mean the same host beyond this site? Not what each site numbers for itself: RFC 1918, the shared space of
/// carriers' NATs (RFC 6598), unique local IPv6 (RFC 4193).
pub fn is_beyond_site(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_private() || in4(v4, Ipv4Addr::new(100, 64, 0, 0), 10)),
        IpAddr::V6(v6) => !v6.is_unique_local(),
    }
}

/// Does a NAT translate `public`, which a cloud's metadata calls ours, to this host one to one? Only if what a relay sees
/// agrees: it sees that very address, or, inside the cloud, an address of an interface (`local`), or it is reached by IPv6
/// and sees nothing of IPv4. Whoever else answers in a metadata service's place could make peers probe a stranger.
pub fn is_one_to_one(public: IpAddr, observed: Option<SocketAddr>, local: &[IpAddr]) -> bool {
    let plausible = is_beyond_site(public) && ip_is_probe_target(public.to_canonical(), &[]);
    let agrees = observed.is_some_and(|o| {
        let seen = o.ip().to_canonical();
        seen.is_ipv6() || seen == public.to_canonical() || local.contains(&seen)
    });
    plausible && agrees && !local.contains(&public)
}

const REFUSED_V4: [([u8; 4], u8); 9] = [
    ([0, 0, 0, 0], 8),          // "this network"
    ([127, 0, 0, 0], 8),        // loopback
    ([169, 254, 0, 0], 16),     // link-local, most clouds' metadata
    ([192, 0, 0, 0], 24),       // protocol assignments; one cloud's metadata is 192.0.0.192
    ([168, 63, 129, 16], 32),   // Azure's platform address
    ([100, 100, 100, 200], 32), // Alibaba's metadata
    ([192, 88, 99, 0], 24),     // 6to4 relays, by anycast
    ([224, 0, 0, 0], 4),        // multicast
    ([240, 0, 0, 0], 4),        // reserved, and the limited broadcast
];

/// Where IPv6 hosts are. What is not in here (IANA's registry has more exceptions than rules) is no host's address.
const TARGETS_V6: [([u16; 8], u8); 3] = [
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3),     // global unicast
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),     // unique local
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), // NAT64 by its well-known prefix; a site's own hides its IPv4 address
];

const REFUSED_V6: [([u16; 8], u8); 5] = [
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // protocol assignments; of them Teredo hides an IPv4 address and a port
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), // AWS metadata, DNS and time
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0], 32), // Google's metadata
    ([0xfd00, 0xc1, 0, 0, 0, 0, 0, 0], 32), // Oracle's metadata
    ([0xfd00, 0x42, 0, 0, 0, 0, 0, 0], 32), // Scaleway's metadata
];

/// The IPv4 address that a packet to `ip` may end at: NAT64 (RFC 6052), 6to4 (RFC 3056), ISATAP (RFC 5214).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |hi: u16, lo: u16| Ipv4Addr::from((u32::from(hi) << 16) | u32::from(lo));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] => Some(v4(hi, lo)),
        [0x2002, hi, lo, ..] => Some(v4(hi, lo)),
        [_, _, _, _, 0 | 0x200, 0x5efe, hi, lo] => Some(v4(hi, lo)),
        _ => None,
    }
}

/// Keeps the targets that may be probed, one per address (an open kind before a reflexive one, then the higher
/// priority), best first, at most [`MAX_CANDIDATES`].
pub fn select_candidates(offered: &[Candidate], overlay: &[Prefix]) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for c in offered.iter().map(|c| Candidate { addr: canonical(c.addr), ..*c }) {
        if !is_probe_target(&c.addr, overlay) {
            continue;
        }
        match kept.iter_mut().find(|k| k.addr == c.addr) {
            Some(k) if (c.kind.is_open(), c.priority) > (k.kind.is_open(), k.priority) => *k = c,
            Some(_) => {}
            None => kept.push(c),
        }
    }
    kept.sort_by_key(|c| core::cmp::Reverse(c.priority));
    kept.truncate(MAX_CANDIDATES);
    kept
}

#[cfg(test)]
#[path = "candidate_tests.rs"]
mod tests;
