//! Does the overlay's prefix collide with what the machine already has? Decided before anything is changed.

use super::{Prefix, Snapshot};

/// Something the machine has lies inside the overlay's prefix: skynet would cut it off.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{what} overlaps the overlay's prefix {overlay} and would become unreachable; the cure: remove it, or \
     create the network with another prefix"
)]
pub struct Overlap {
    /// What collides, with the interface's name.
    pub what: String,
    /// The overlay's prefix.
    pub overlay: Prefix,
}

/// A wider route that holds the overlay's prefix: legal, since the longer prefix wins, but worth a line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Covered {
    /// The wider route and its interface.
    pub what: String,
    /// The overlay's prefix.
    pub overlay: Prefix,
}

/// Checks each of `overlays` against addresses and routes, those of `own_interface` and what is left of our own left out.
///
/// # Errors
/// The first address or route inside an overlay prefix, or another overlay that shares addresses with it.
pub fn check(
    overlays: &[Prefix],
    snapshot: &Snapshot,
    own_interface: Option<u32>,
) -> Result<Vec<Covered>, Overlap> {
    let mut covered = Vec::new();
    for &overlay in overlays {
        for interface in snapshot.interfaces.iter().filter(|i| Some(i.index) != own_interface) {
            if let Some(a) = interface.addresses.iter().find(|a| overlay.contains(a.ip)) {
                let what = format!("the address {}/{} of {}", a.ip, a.prefix_len, interface.name);
                return Err(Overlap { what, overlay });
            }
        }
        // Another overlay of this machine, wider or narrower: one of the two would lose members to the other.
        for other in snapshot.routes.iter().filter(|r| r.ours) {
            let meets = overlay.covers(&other.destination) || other.destination.covers(&overlay);
            let holder = snapshot.on_link(other.destination).filter(|i| Some(i.index) != own_interface);
            if let Some(holder) = holder.filter(|_| meets) {
                let what = format!("the overlay {} of {}", other.destination, holder.name);
                return Err(Overlap { what, overlay });
            }
        }
        for route in snapshot.routes.iter().filter(|r| !r.ours) {
            if own_interface.is_some() && route.interface == own_interface {
                continue;
            }
            let what = || format!("the route {} ({})", route.destination, snapshot.name_of(route.interface));
            if overlay.covers(&route.destination) {
                return Err(Overlap { what: what(), overlay });
            }
            // A default route covers everything and surprises nobody.
            if route.destination.prefix_len() > 0 && route.destination.covers(&overlay) {
                covered.push(Covered { what: what(), overlay });
            }
        }
    }
    Ok(covered)
}

#[cfg(test)]
mod tests {
    use super::super::{Interface, InterfaceAddress, Route};
    use super::*;

    fn machine(address: &str, routes: &[(&str, u32, bool)]) -> Snapshot {
        let (ip, len) = address.split_once('/').unwrap();
        let (ip, prefix_len) = (ip.parse().unwrap(), len.parse().unwrap());
        let address = InterfaceAddress { ip, prefix_len, usable: true, temporary: false };
        let interface = |index, name: &str, addresses| Interface {
            index,
            name: name.to_owned(),
            up: true,
            mtu: 1_500,
            addresses,
            ..Interface::default()
        };
        Snapshot {
            interfaces: vec![interface(2, "eth0", vec![address]), interface(9, "skynet0", vec![])],
            routes: routes
                .iter()
                .map(|&(d, i, ours)| Route {
                    destination: d.parse().unwrap(),
                    interface: Some(i),
                    gateway: None,
                    metric: 0,
                    ours,
                })
                .collect(),
        }
    }

    fn overlay() -> Vec<Prefix> {
        vec!["10.7.0.0/16".parse().unwrap(), "fd00:1::/48".parse().unwrap()]
    }

    #[test]
    fn an_address_inside_is_refused_by_name() {
        let error = check(&overlay(), &machine("10.7.200.1/24", &[]), None).unwrap_err();
        assert!(error.to_string().contains("the address 10.7.200.1/24 of eth0"), "{error}");
    }

    #[test]
    fn a_route_inside_is_refused_by_name_whatever_its_length() {
        for inside in ["10.7.0.0/16", "10.7.9.0/24", "10.7.1.1/32", "fd00:1:0:5::/64"] {
            let error =
                check(&overlay(), &machine("192.168.1.5/24", &[(inside, 2, false)]), None).unwrap_err();
            assert!(error.to_string().contains(&format!("the route {inside} (eth0)")), "{error}");
        }
    }

    #[test]
    fn a_wider_route_is_a_warning_and_a_default_route_nothing() {
        let machine = machine("10.9.0.1/8", &[("10.0.0.0/8", 2, false), ("0.0.0.0/0", 2, false)]);
        let covered = check(&overlay(), &machine, None).unwrap();
        assert_eq!(covered.len(), 1);
        assert!(covered[0].what.contains("10.0.0.0/8 (eth0)"));
    }

    #[test]
    fn another_overlay_is_refused_by_name_whether_wider_or_narrower_and_what_is_left_of_one_is_not() {
        for other in ["10.7.3.0/24", "10.7.0.0/16", "10.0.0.0/8"] {
            let other: Prefix = other.parse().unwrap();
            // Its own address is outside, for a wider one.
            let address = if other.prefix_len() == 8 {
                "10.250.0.1/8".to_owned()
            } else {
                format!("10.7.3.1/{}", other.prefix_len())
            };
            let held = machine(&address, &[(&other.to_string(), 2, true)]);
            let error = check(&overlay(), &held, None).unwrap_err().to_string();
            let named = [format!("the overlay {other} of eth0"), format!("the address {address} of eth0")];
            assert!(named.iter().any(|n| error.contains(n.as_str())), "{error}");
            let left = machine("192.168.1.5/24", &[(&other.to_string(), 0, true)]);
            assert_eq!(check(&overlay(), &left, None), Ok(vec![]));
        }
    }

    #[test]
    fn neighbours_and_what_is_ours_do_not_collide() {
        let machine = machine(
            "10.8.0.1/16",
            &[("10.8.0.0/16", 2, false), ("10.7.0.0/16", 1, true), ("10.7.0.0/16", 9, false)],
        );
        assert_eq!(check(&overlay(), &machine, Some(9)), Ok(vec![]));
    }
}
