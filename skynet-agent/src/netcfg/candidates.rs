//! Which of the machine's addresses a peer may try: the host candidates (RFC 8445 §5.1.1.1).

use std::net::{IpAddr, SocketAddr};

use super::{Interface, Snapshot};

/// Most host candidates told to the core: as many endpoints as a node record holds.
pub const MAX_CANDIDATES: usize = 16;

/// Interfaces of container engines: their addresses mean another machine to a peer.
const CONTAINER_PREFIXES: [&str; 9] =
    ["docker", "br-", "veth", "cni", "cali", "flannel", "virbr", "lxcbr", "podman"];

/// The addresses of `snapshot` that may be tried with UDP port `port`, in the kernel's order, at most 16. Left out:
/// loopback, container interfaces, interfaces that are down, `own_interface`, link-local and unusable addresses.
pub fn host_candidates(
    snapshot: &Snapshot,
    own_interface: Option<u32>,
    port: u16,
    ipv6: bool,
) -> Vec<SocketAddr> {
    underlay(snapshot, own_interface)
        .flat_map(|i| &i.addresses)
        .filter(|a| a.usable && (ipv6 || a.ip.is_ipv4()) && is_reachable(a.ip))
        .map(|a| SocketAddr::new(a.ip, port))
        .take(MAX_CANDIDATES)
        .collect()
}

/// The largest IP packet that any of the interfaces takes that peers may be reached by; 1,500 if there is none.
pub fn largest_packet(snapshot: &Snapshot, own_interface: Option<u32>) -> u16 {
    let has_address = |i: &&Interface| i.addresses.iter().any(|a| a.usable && is_reachable(a.ip));
    let mtus = underlay(snapshot, own_interface).filter(has_address).map(|i| i.mtu);
    mtus.max().map_or(1_500, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn underlay(snapshot: &Snapshot, own_interface: Option<u32>) -> impl Iterator<Item = &Interface> {
    let is_underlay =
        move |i: &&Interface| i.up && !i.loopback && Some(i.index) != own_interface && !is_container(i);
    snapshot.interfaces.iter().filter(is_underlay)
}

fn is_container(interface: &Interface) -> bool {
    CONTAINER_PREFIXES.iter().any(|p| interface.name.starts_with(p))
}

fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::InterfaceAddress;
    use super::*;

    fn interface(index: u32, name: &str, up: bool, addresses: &[&str]) -> Interface {
        let addresses = addresses
            .iter()
            .map(|a| InterfaceAddress { ip: a.parse().unwrap(), prefix_len: 24, usable: true })
            .collect();
        Interface {
            index,
            name: name.to_owned(),
            up,
            loopback: name == "lo",
            mtu: 1_000 + 100 * index,
            addresses,
        }
    }

    #[test]
    fn only_addresses_a_peer_can_mean_are_candidates() {
        let mut v6 = interface(2, "ens5", true, &["2001:db8::5", "fe80::1"]);
        v6.addresses[0].usable = true;
        let snapshot = Snapshot {
            interfaces: vec![
                interface(1, "lo", true, &["127.0.0.1", "203.0.113.9"]),
                interface(3, "eth0", true, &["192.168.1.5", "169.254.3.4"]),
                v6,
                interface(4, "docker0", true, &["172.17.0.1"]),
                interface(5, "br-1234", true, &["172.18.0.1"]),
                interface(6, "vethab12", true, &["10.0.0.1"]),
                interface(7, "eth1", false, &["192.168.2.5"]),
                interface(8, "skynet0", true, &["10.7.0.1"]),
            ],
            routes: vec![],
        };
        let got = host_candidates(&snapshot, Some(8), 51820, true);
        assert_eq!(
            got,
            ["192.168.1.5:51820", "[2001:db8::5]:51820"].map(|a| a.parse::<SocketAddr>().unwrap())
        );
        assert_eq!(host_candidates(&snapshot, Some(8), 1, false).len(), 1);
        assert_eq!(largest_packet(&snapshot, Some(8)), 1_300, "of eth0");
        assert_eq!(largest_packet(&Snapshot::default(), None), 1_500);
    }

    #[test]
    fn there_are_never_more_than_a_record_holds() {
        let many: Vec<String> = (1..40).map(|i| format!("192.168.1.{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let snapshot = Snapshot { interfaces: vec![interface(3, "eth0", true, &many)], routes: vec![] };
        assert_eq!(host_candidates(&snapshot, None, 1, true).len(), MAX_CANDIDATES);
    }
}
