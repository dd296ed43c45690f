//! The router of the IPv4 default route: who is asked for a port mapping.

use std::net::IpAddr;

use skynet_core::port_mapping::Gateway;

use super::underlay::is_underlay;
use super::{Interface, Prefix, Snapshot};

/// The router of the best IPv4 default route, with our address towards it; none if that route leads into a tunnel.
pub fn default_gateway(snapshot: &Snapshot, own_interface: Option<u32>) -> Option<Gateway> {
    let is_default = |p: &Prefix| p.prefix_len() == 0 && p.address().is_ipv4();
    let defaults = snapshot.routes.iter().filter(|r| !r.ours && is_default(&r.destination));
    let route = defaults.min_by_key(|r| r.metric)?;
    let (address, index) = (route.gateway?, route.interface?);
    let interface = snapshot.interfaces.iter().find(|i| i.index == index)?;
    if !interface.up || Some(index) == own_interface || !is_underlay(interface, snapshot) {
        return None;
    }
    Some(Gateway { address, own: source(interface, address)? })
}

/// The address by which the kernel talks to `gateway`: the one it is on-link for, else the first.
fn source(interface: &Interface, gateway: IpAddr) -> Option<IpAddr> {
    let v4 = || interface.addresses.iter().filter(|a| a.usable && a.ip.is_ipv4());
    let on_link =
        v4().find(|a| Prefix::new(a.ip, a.prefix_len).is_some_and(|prefix| prefix.contains(gateway)));
    on_link.or_else(|| v4().next()).map(|a| a.ip)
}

#[cfg(test)]
mod tests {
    use super::super::{InterfaceAddress, Route};
    use super::*;

    fn interface(index: u32, kind: Option<&str>, addresses: &[&str]) -> Interface {
        let address = |a: &&str| InterfaceAddress {
            ip: a.parse().unwrap(),
            prefix_len: 24,
            usable: true,
            temporary: false,
        };
        Interface {
            index,
            name: format!("if{index}"),
            up: true,
            kind: kind.map(str::to_owned),
            addresses: addresses.iter().map(address).collect(),
            ..Interface::default()
        }
    }

    fn route(interface: u32, gateway: Option<&str>, metric: u32) -> Route {
        let gateway = gateway.map(|g| g.parse().unwrap());
        Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            interface: Some(interface),
            gateway,
            metric,
            ours: false,
        }
    }

    #[test]
    fn the_router_of_the_best_default_route_with_the_address_it_is_on_link_for() {
        let mut snapshot = Snapshot {
            interfaces: vec![
                interface(2, None, &["192.168.7.5", "10.1.0.10"]),
                interface(3, None, &["192.168.9.5"]),
                interface(4, Some("wireguard"), &["10.9.0.1"]),
            ],
            routes: vec![route(3, Some("192.168.9.1"), 600), route(2, Some("10.1.0.1"), 100)],
        };
        let found = default_gateway(&snapshot, None).unwrap();
        assert_eq!(
            (found.address.to_string(), found.own.to_string()),
            ("10.1.0.1".into(), "10.1.0.10".into())
        );
        snapshot.routes.push(route(4, None, 50));
        assert_eq!(default_gateway(&snapshot, None), None, "everything goes by another tunnel");
        snapshot.routes.pop();
        assert_eq!(default_gateway(&snapshot, Some(2)), None);
        assert_eq!(default_gateway(&Snapshot::default(), None), None);
    }
}
