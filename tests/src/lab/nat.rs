//! NATs made of nftables, in the words of RFC 4787.
//!
//! Linux keeps the source port of a flow while the translated tuple is free and gives all flows of one internal socket
//! the same mapping, so plain source NAT is endpoint-independent in practice. What it lacks, filtering weaker than
//! address-and-port-dependent, is added by learning each mapping *after* translation in a set with a timeout.
//!
//! The router never answers nor accepts an unsolicited packet, but for [`NatKind::PortRestrictedAnswering`]: an early
//! packet of a peer that is accepted occupies the tuple, and the inside host's own packet then gets another port.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::plan::CloudPlan;

/// What stands between a cloud's hosts and the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NatKind {
    /// No translation, no filtering. A cloud built with this kind gives its hosts public addresses; a private cloud
    /// switched to it translates one to one and admits everything (endpoint-independent filtering).
    Public,
    /// One public address per host (a cloud's 1:1 NAT), port preserved, and a security group that admits replies only:
    /// endpoint-independent mapping, address-and-port-dependent filtering.
    SecurityGroup,
    /// Endpoint-independent mapping, endpoint-independent filtering, port preserved.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering, port preserved.
    AddressRestricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering, port preserved.
    PortRestricted,
    /// As [`NatKind::PortRestricted`], but the external port never equals the internal one.
    PortRestrictedNotPreserving,
    /// As [`NatKind::PortRestricted`], and the router takes unsolicited packets for itself: a NAT VM whose INPUT chain
    /// accepts.
    PortRestrictedAnswering,
    /// Address-dependent mapping, address-and-port-dependent filtering.
    AddressDependent,
    /// Address-and-port-dependent mapping with random ports, address-and-port-dependent filtering.
    Symmetric,
    /// As [`NatKind::Symmetric`], but each new mapping takes the next port.
    SymmetricSequential,
    /// As [`NatKind::PortRestricted`] for TCP; UDP is dropped in both directions.
    UdpBlocked,
}

/// All kinds, in the order of declaration.
pub const NAT_KINDS: [NatKind; 11] = [
    NatKind::Public,
    NatKind::SecurityGroup,
    NatKind::FullCone,
    NatKind::AddressRestricted,
    NatKind::PortRestricted,
    NatKind::PortRestrictedNotPreserving,
    NatKind::PortRestrictedAnswering,
    NatKind::AddressDependent,
    NatKind::Symmetric,
    NatKind::SymmetricSequential,
    NatKind::UdpBlocked,
];

/// External ports of [`NatKind::PortRestrictedNotPreserving`]: below Linux's ephemeral range, whose ports would be kept.
const SHIFTED_PORTS: &str = "10000-29999";
/// External ports of [`NatKind::SymmetricSequential`]; enough that no test wraps around.
const SEQUENTIAL_PORTS: std::ops::Range<u16> = 20_000..24_000;
/// How long a learnt mapping admits strangers, unless the mapping timeouts are set: RFC 4787 REQ-5's recommendation.
pub(crate) const MAPPING_TIMEOUT: Duration = Duration::from_secs(300);

/// The tables of a cloud's router, replacing those of the former kind in one transaction; other tables stay.
pub(crate) fn ruleset(
    cloud: &CloudPlan,
    kind: NatKind,
    second_set: bool,
    mapping_timeout: Duration,
) -> String {
    let translation = if cloud.has_public_hosts() {
        String::new()
    } else {
        translation(cloud, kind, second_set, mapping_timeout)
    };
    let first = if kind == NatKind::UdpBlocked { "meta l4proto udp drop" } else { "" };
    // What a destination rule has let through may pass; on a public cloud there is no such rule to let it through.
    let last = match kind {
        NatKind::Public if cloud.has_public_hosts() => "accept",
        NatKind::Public | NatKind::FullCone | NatKind::AddressRestricted => "ct status dnat accept",
        _ => "",
    };
    let (elastic, last) = match cloud.elastic_host() {
        Some(ends) => (elastic(ends), "ct status dnat accept"),
        None => (String::new(), last),
    };
    let answers = if kind == NatKind::PortRestrictedAnswering { "meta l4proto udp accept" } else { "" };
    format!(
        r#"table ip nat
delete table ip nat
table inet firewall
delete table inet firewall
{elastic}
{translation}
table inet firewall {{
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname != "wan" accept
        ct state established,related accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        {answers}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        {first}
        ct state established,related accept
        iifname "lan" accept
        {last}
    }}
}}
"#
    )
}

/// Before the NAT of its neighbours.
fn elastic([inside, outside]: [Ipv4Addr; 2]) -> String {
    format!(
        r#"table ip elastic
delete table ip elastic
table ip elastic {{
    chain postrouting {{
        type nat hook postrouting priority srcnat - 1;
        oifname "wan" ip saddr {inside} snat ip to {outside}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat - 1;
        iifname "wan" ip daddr {outside} dnat ip to {inside}
    }}
}}"#
    )
}

fn translation(cloud: &CloudPlan, kind: NatKind, second_set: bool, mapping_timeout: Duration) -> String {
    let wan = cloud.uplink_address(second_set, 0);
    match kind {
        NatKind::Public => one_to_one(cloud, second_set, true),
        NatKind::SecurityGroup => one_to_one(cloud, second_set, false),
        NatKind::FullCone => learning(cloud, wan, Some(""), mapping_timeout),
        NatKind::AddressRestricted => {
            learning(cloud, wan, Some("udp dport . ip saddr @contacted"), mapping_timeout)
        }
        NatKind::PortRestricted if cloud.hairpin => learning(cloud, wan, None, mapping_timeout),
        NatKind::PortRestricted | NatKind::PortRestrictedAnswering | NatKind::UdpBlocked => {
            source_nat(&format!("snat ip to {wan}"))
        }
        NatKind::AddressDependent => source_nat(&format!(
            "meta l4proto udp snat ip to {wan} : {}\n        oifname \"wan\" snat ip to {wan}",
            port_by("jhash ip saddr . udp sport . ip daddr")
        )),
        NatKind::PortRestrictedNotPreserving => source_nat(&format!(
            "meta l4proto {{ tcp, udp }} snat ip to {wan}:{SHIFTED_PORTS}\n        oifname \"wan\" snat ip to {wan}"
        )),
        NatKind::Symmetric => source_nat(&format!("snat ip to {wan} fully-random")),
        NatKind::SymmetricSequential => source_nat(&format!(
            "meta l4proto {{ tcp, udp }} snat ip to {wan} : {}\n        oifname \"wan\" snat ip to {wan}",
            port_by("numgen inc")
        )),
    }
}

/// A counter or a hash as port. Through a map, because a bare `numgen` is host-endian where a port is big-endian: ports
/// would step by 256.
fn port_by(number: &str) -> String {
    let mut map = format!("{number} mod {} map {{ ", SEQUENTIAL_PORTS.len());
    for (i, port) in SEQUENTIAL_PORTS.enumerate() {
        write!(map, "{i} : {port}, ").expect("writing to a string");
    }
    map + "}"
}

fn source_nat(statement: &str) -> String {
    format!(
        r#"table ip nat {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname "wan" {statement}
    }}
}}"#
    )
}

fn one_to_one(cloud: &CloudPlan, second_set: bool, admit: bool) -> String {
    let pairs = |swap: bool| {
        cloud
            .translated()
            .map(|k| (cloud.host_address(k), cloud.uplink_address(second_set, k)))
            .map(|(inside, outside)| if swap { (outside, inside) } else { (inside, outside) })
            .map(|(key, value)| format!("{key} : {value}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let admission = if admit {
        format!(
            r#"chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname "wan" dnat ip to ip daddr map {{ {} }}
    }}"#,
            pairs(true)
        )
    } else {
        String::new()
    };
    format!(
        r#"table ip nat {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname "wan" snat ip to ip saddr map {{ {} }}
    }}
    {admission}
}}"#,
        pairs(false)
    )
}

/// Source NAT that remembers, after translation, which external port belongs to which internal socket and whom it has
/// contacted. `ct direction` matters: without it the answers of the inside host would overwrite the mapping. From outside
/// it admits what `admission` does, from inside what is for its own address if it is to hairpin.
fn learning(cloud: &CloudPlan, wan: Ipv4Addr, admission: Option<&str>, timeout: Duration) -> String {
    let timeout = timeout.as_secs().max(1);
    let admit = admission.map_or_else(String::new, |admission| {
        format!(r#"iifname "wan" {admission} dnat ip to udp dport map @mappings"#)
    });
    let (back, from_outside) = if cloud.hairpin {
        (
            format!(r#"iifname "lan" ip daddr {wan} dnat ip to udp dport map @mappings"#),
            format!(r#"iifname "lan" oifname "lan" ct status dnat snat ip to {wan}"#),
        )
    } else {
        (String::new(), String::new())
    };
    format!(
        r#"table ip nat {{
    map mappings {{
        type inet_service : ipv4_addr . inet_service
        flags dynamic,timeout
        timeout {timeout}s
        size 65535
    }}
    set contacted {{
        type inet_service . ipv4_addr
        flags dynamic,timeout
        timeout {timeout}s
        size 65535
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname "wan" snat ip to {wan}
        {from_outside}
    }}
    chain learn {{
        type filter hook postrouting priority srcnat + 10;
        oifname != "wan" return
        meta l4proto != udp return
        ct direction original update @mappings {{ udp sport : ct original ip saddr . ct original proto-src }}
        ct direction reply update @mappings {{ udp sport : ct reply ip saddr . ct reply proto-src }}
        update @contacted {{ udp sport . ip daddr }}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        {admit}
        {back}
    }}
}}"#
    )
}
