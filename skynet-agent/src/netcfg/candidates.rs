//! Which of the machine's addresses a peer may try: the host candidates (RFC 8445 §5.1.1.1).

use std::net::{IpAddr, SocketAddr};

use super::underlay::is_underlay;
use super::{Interface, InterfaceAddress, Snapshot};

/// Most host candidates told to the core: as many endpoints as a node record holds.
pub const MAX_CANDIDATES: usize = 16;

/// The addresses of `snapshot` that may be tried with UDP port `port`, at most 16, in an order that only changes with
/// them: first the interface with the best default route, then the others by number; on each IPv4, then IPv6, and last
/// the IPv6 privacy addresses, which the kernel prefers for what we send and a stateful firewall therefore expects
/// answers to. Left out: loopback, interfaces that are down or not of the underlay, `own_interface`, link-local,
/// tentative and deprecated addresses.
pub fn host_candidates(
    snapshot: &Snapshot,
    own_interface: Option<u32>,
    port: u16,
    ipv6: bool,
) -> Vec<SocketAddr> {
    let first = best_default(snapshot);
    let mut found: Vec<(bool, u32, &InterfaceAddress)> = underlay(snapshot, own_interface)
        .flat_map(|i| i.addresses.iter().map(move |a| (Some(i.index) != first, i.index, a)))
        .filter(|(_, _, a)| a.usable && (ipv6 || a.ip.is_ipv4()) && is_reachable(a.ip))
        .collect();
    found.sort_by_key(|(later, index, a)| (a.temporary, *later, *index, a.ip.is_ipv6()));
    found.into_iter().map(|(_, _, a)| SocketAddr::new(a.ip, port)).take(MAX_CANDIDATES).collect()
}

/// The largest IP packet that any of the interfaces takes that peers may be reached by; 1,500 if there is none.
pub fn largest_packet(snapshot: &Snapshot, own_interface: Option<u32>) -> u16 {
    let has_address = |i: &&Interface| i.addresses.iter().any(|a| a.usable && is_reachable(a.ip));
    let mtus = underlay(snapshot, own_interface).filter(has_address).map(|i| i.mtu);
    mtus.max().map_or(1_500, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn underlay(snapshot: &Snapshot, own_interface: Option<u32>) -> impl Iterator<Item = &Interface> {
    let chosen = move |i: &&Interface| {
        i.up && !i.loopback && Some(i.index) != own_interface && is_underlay(i, snapshot)
    };
    snapshot.interfaces.iter().filter(chosen)
}

fn best_default(snapshot: &Snapshot) -> Option<u32> {
    let defaults = snapshot.routes.iter().filter(|r| r.destination.prefix_len() == 0 && !r.ours);
    defaults.min_by_key(|r| (r.metric, r.interface))?.interface
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
    use super::super::Route;
    use super::*;

    fn interface(index: u32, name: &str, kind: Option<&str>, addresses: &[&str]) -> Interface {
        let addresses = addresses
            .iter()
            .map(|a| InterfaceAddress {
                ip: a.trim_end_matches(['t', '!']).parse().unwrap(),
                prefix_len: 24,
                usable: !a.ends_with('!'),
                temporary: a.ends_with('t'),
            })
            .collect();
        let (name, kind, loopback) = (name.to_owned(), kind.map(str::to_owned), name == "lo");
        let mtu = 1_000 + 100 * index;
        Interface { index, name, kind, loopback, mtu, up: true, addresses, ..Interface::default() }
    }

    fn default_route(interface: u32, metric: u32) -> Route {
        let gateway = Some("192.168.9.1".parse().unwrap());
        let destination = "0.0.0.0/0".parse().unwrap();
        Route { destination, interface: Some(interface), gateway, metric, ours: false }
    }

    fn addresses(snapshot: &Snapshot, ipv6: bool) -> Vec<String> {
        let all = host_candidates(snapshot, Some(8), 51820, ipv6);
        assert!(all.iter().all(|a| a.port() == 51820));
        all.iter().map(|a| a.ip().to_string()).collect()
    }

    fn machine() -> Snapshot {
        let down = Interface { up: false, ..interface(7, "eth1", None, &["192.168.2.5"]) };
        Snapshot {
            interfaces: vec![
                interface(1, "lo", None, &["127.0.0.1", "203.0.113.9"]),
                interface(2, "ens5", None, &["2001:db8::5", "fe80::1", "192.168.1.5"]),
                interface(
                    3,
                    "eth0",
                    None,
                    &["2001:db8:1::7t", "2001:db8:1::6!", "2001:db8:1::5", "192.168.9.5"],
                ),
                interface(4, "docker0", Some("bridge"), &["172.17.0.1"]),
                interface(5, "veth1a2b", Some("veth"), &["169.254.3.4", "10.88.0.1"]),
                interface(6, "wg0", Some("wireguard"), &["10.9.0.1"]),
                down,
                interface(8, "skynet0", Some("tun"), &["10.7.0.1"]),
                interface(9, "skynet1", Some("tun"), &["10.8.0.1"]),
            ],
            routes: vec![default_route(3, 100), default_route(2, 600)],
        }
    }

    #[test]
    fn only_addresses_a_peer_can_mean_are_candidates_and_the_way_out_comes_first() {
        let expected = ["192.168.9.5", "2001:db8:1::5", "192.168.1.5", "2001:db8::5", "2001:db8:1::7"];
        assert_eq!(addresses(&machine(), true), expected);
        assert_eq!(addresses(&machine(), false), ["192.168.9.5", "192.168.1.5"]);
        assert_eq!(largest_packet(&machine(), Some(8)), 1_300, "of eth0");
        assert_eq!(largest_packet(&Snapshot::default(), None), 1_500);
    }

    #[test]
    fn containers_that_come_and_go_change_nothing() {
        let before = addresses(&machine(), true);
        let mut busy = machine();
        for index in 20..60 {
            let pair = interface(index, &format!("veth{index}"), Some("veth"), &["fe80::9", "10.244.0.1"]);
            busy.interfaces.insert(2, Interface { master: Some(10), ..pair });
        }
        busy.interfaces.insert(1, interface(10, "br-7f3a", Some("bridge"), &["172.18.0.1", "fd00:18::1"]));
        busy.interfaces.insert(1, interface(11, "tailscale0", Some("tun"), &["100.101.102.103"]));
        assert_eq!(addresses(&busy, true), before);
    }

    #[test]
    fn there_are_never_more_than_a_record_holds() {
        let many: Vec<String> = (1..40).map(|i| format!("192.168.1.{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let snapshot = Snapshot { interfaces: vec![interface(3, "eth0", None, &many)], routes: vec![] };
        assert_eq!(host_candidates(&snapshot, None, 1, true).len(), MAX_CANDIDATES);
    }
}
