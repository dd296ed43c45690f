//! What a NAT does, in the words and requirement numbers of RFC 4787.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use skynet_core::time::Duration;

/// "Address and Port Mapping" (RFC 4787 §4.1, REQ-1), easiest to traverse first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mapping {
    /// The NAT reuses the mapping for packets from the same inside endpoint to any external endpoint.
    EndpointIndependent,
    /// … to the same external address, whatever its port.
    AddressDependent,
    /// … to the same external address and port only.
    AddressAndPortDependent,
}

/// "Filtering Behavior" (RFC 4787 §5, REQ-8), easiest to traverse first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Filtering {
    /// Anybody may send to a mapping.
    EndpointIndependent,
    /// Only addresses the inside endpoint has sent to.
    AddressDependent,
    /// Only endpoints the inside endpoint has sent to.
    AddressAndPortDependent,
}

/// "Port Assignment" (RFC 4787 §4.2). None of them overloads a port (REQ-3 a).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortAllocation {
    /// The inside port if it is free, else a random one.
    Preserving,
    /// The next free port of the range.
    Sequential,
    /// A random port of the range.
    Random,
}

/// What a NAT does. The default is Linux's masquerade with a closed INPUT chain: endpoint-independent mapping,
/// address-and-port-dependent filtering.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// REQ-1.
    pub mapping: Mapping,
    /// REQ-8.
    pub filtering: Filtering,
    /// REQ-3.
    pub allocation: PortAllocation,
    /// Ports given to mappings whose inside port is not preserved.
    pub ports: RangeInclusive<u16>,
    /// REQ-5: lifetime of a mapping or session without an answer yet (Linux and AWS: 30 s).
    pub unreplied_timeout: Duration,
    /// REQ-5: lifetime once traffic went both ways; the RFC asks for at least 2 minutes (Linux: 120 s).
    pub assured_timeout: Duration,
    /// REQ-6: outbound packets refresh. The RFC demands true.
    pub refresh_outbound: bool,
    /// REQ-6 a: inbound packets refresh too.
    pub refresh_inbound: bool,
    /// REQ-9, "External source IP address and port": inside hosts reach each other by external endpoints.
    pub hairpinning: bool,
    /// The router itself takes (answers or rejects) UDP that belongs to no session, as a Linux NAT instance with an
    /// open INPUT chain does. Its own entry then holds the tuple, and an inside host that sends on the same tuple
    /// later gets another port: the early-packet trap, a violation of REQ-11 (deterministic behaviour).
    pub answers_unsolicited: bool,
    /// A firewall that forwards no UDP at all. Streams pass.
    pub blocks_udp: bool,
    /// Cap of each table.
    pub max_entries: usize,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
            allocation: PortAllocation::Preserving,
            ports: 1_024..=65_535,
            unreplied_timeout: Duration::from_secs(30),
            assured_timeout: Duration::from_secs(120),
            refresh_outbound: true,
            refresh_inbound: true,
            hairpinning: false,
            answers_unsolicited: false,
            blocks_udp: false,
            max_entries: 55_000,
        }
    }
}

/// Why a NAT forwarded nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NatDrop {
    /// No UDP here.
    UdpBlocked,
    /// Inbound to a port without a mapping.
    NoMapping,
    /// Inbound from a remote endpoint the filter does not know.
    Filtered,
    /// To an external address of the NAT itself, without hairpinning.
    NoHairpin,
    /// A table is at its cap.
    TableFull,
    /// Every port of the range is taken.
    OutOfPorts,
    /// The inside address has no external one.
    NoAddress,
}

/// Where a packet from inside goes, with its new source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outbound {
    /// To the outside network.
    Forward {
        /// External source endpoint.
        from: SocketAddr,
    },
    /// Back to an inside endpoint (REQ-9).
    Hairpin {
        /// External source endpoint.
        from: SocketAddr,
        /// Inside destination.
        to: SocketAddr,
    },
}

/// External addresses of a NAT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Addresses {
    /// One address shared by all inside hosts; REQ-2 (paired pooling) holds trivially.
    Shared(IpAddr),
    /// One external address per inside address, ports untouched: an instance with a public address.
    OneToOne(BTreeMap<IpAddr, IpAddr>),
}
