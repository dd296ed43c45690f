//! Which interfaces are of the underlay: whose addresses mean this host to another one. Not those of containers, whose
//! addresses mean another machine there, and not those of other tunnels: an overlay inside an overlay has two MTUs, two
//! ciphers and one more thing that can fail.
//!
//! The kernel knows what it made an interface of (`IFLA_INFO_KIND`), and nobody can rename that. Names decide only where
//! that does not, and then only names that container engines and tunnels give: of an interface of no kind, and of the two
//! ends of a pair, which are of one kind on the host and in the container.

use super::{Interface, Snapshot};

/// Tunnels and other overlays, and what has no wire: `dummy` holds service addresses of clusters.
const NOT_UNDERLAY: [&str; 27] = [
    "amt",
    "bareudp",
    "dummy",
    "erspan",
    "fou",
    "geneve",
    "gre",
    "gretap",
    "gtp",
    "ifb",
    "ip6erspan",
    "ip6gre",
    "ip6gretap",
    "ip6tnl",
    "ipip",
    "l2tpeth",
    "nlmon",
    "ovpn",
    "ovpn-dco",
    "sit",
    "tun",
    "vcan",
    "vti",
    "vti6",
    "vxlan",
    "wireguard",
    "xfrm",
];

/// Pairs of which one end is in a container.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// Names that container engines and tunnels give on the host.
const NAMES: [&str; 20] = [
    "cali",
    "cilium",
    "cni",
    "docker",
    "flannel",
    "incusbr",
    "kube-",
    "lxc",
    "lxdbr",
    "nebula",
    "podman",
    "skynet",
    "tailscale",
    "tap",
    "tun",
    "ve-",
    "veth",
    "virbr",
    "weave",
    "zt",
];

/// Whether `interface` is of the underlay.
pub(super) fn is_underlay(interface: &Interface, snapshot: &Snapshot) -> bool {
    match interface.kind.as_deref() {
        Some(kind) if NOT_UNDERLAY.contains(&kind) => false,
        // The way out of a container in which this agent runs, or into one. Only the first has a router behind it, but a
        // link between two containers has none either.
        Some(kind) if PAIRS.contains(&kind) => {
            leads_to_a_router(interface, snapshot) || !is_known(&interface.name)
        }
        // A host's own LAN with its card in it, or a switch for containers and virtual machines only.
        Some("bridge" | "openvswitch") => has_a_card(interface, snapshot),
        Some(_) => true,
        None => !is_known(&interface.name),
    }
}

fn is_known(name: &str) -> bool {
    NAMES.iter().any(|known| name.starts_with(known))
}

fn leads_to_a_router(interface: &Interface, snapshot: &Snapshot) -> bool {
    snapshot.routes.iter().any(|r| r.interface == Some(interface.index) && r.gateway.is_some())
}

fn has_a_card(bridge: &Interface, snapshot: &Snapshot) -> bool {
    let inside = |kind: &str| kind == "tun" || PAIRS.contains(&kind);
    let ports = snapshot.interfaces.iter().filter(|i| i.master == Some(bridge.index));
    ports.into_iter().any(|port| !port.kind.as_deref().is_some_and(inside))
        // A bridge in a network namespace of its own, with the way out through it.
        || leads_to_a_router(bridge, snapshot)
}

#[cfg(test)]
mod tests {
    use super::super::Route;
    use super::*;

    /// What stands around the interface in question.
    #[derive(Clone, Copy)]
    enum Around {
        Nothing,
        Router,
        Port(Option<&'static str>),
    }
    use Around::{Nothing, Port, Router};

    fn snapshot(name: &str, kind: Option<&str>, around: Around) -> Snapshot {
        let interface = |index, name: &str, kind: Option<&str>| Interface {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            up: true,
            ..Interface::default()
        };
        let mut snapshot = Snapshot { interfaces: vec![interface(7, name, kind)], routes: vec![] };
        match around {
            Nothing => {}
            Router => snapshot.routes.push(Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                interface: Some(7),
                gateway: Some("10.0.2.2".parse().unwrap()),
                metric: 0,
                ours: false,
            }),
            Port(kind) => {
                let port = Interface { master: Some(7), ..interface(8, "port", kind) };
                snapshot.interfaces.push(port);
            }
        }
        snapshot
    }

    #[test]
    fn the_table_of_interfaces() {
        let table: &[(&str, Option<&str>, Around, bool)] = &[
            // Network cards, and what is built of them.
            ("eth0", None, Router, true),
            ("ens5", None, Nothing, true),
            ("enp3s0f1np1", None, Nothing, true),
            ("ib0", Some("ipoib"), Nothing, true),
            ("bond0", Some("bond"), Nothing, true),
            ("team0", Some("team"), Nothing, true),
            ("eth0.100", Some("vlan"), Nothing, true),
            ("macvlan0", Some("macvlan"), Nothing, true),
            ("ipvl0", Some("ipvlan"), Nothing, true),
            ("ppp0", Some("ppp"), Nothing, true),
            ("wlan0", None, Nothing, true),
            ("venet0", None, Router, true),
            ("tunnel0", Some("vlan"), Nothing, true),
            // Bridges: a LAN, or a switch for containers.
            ("br0", Some("bridge"), Port(None), true),
            ("br-lan", Some("bridge"), Port(Some("vlan")), true),
            ("ovs0", Some("openvswitch"), Port(None), true),
            ("docker0", Some("bridge"), Nothing, false),
            ("docker0", Some("bridge"), Port(Some("veth")), false),
            ("br-0123456789ab", Some("bridge"), Port(Some("veth")), false),
            ("podman1", Some("bridge"), Port(Some("veth")), false),
            ("cni0", Some("bridge"), Port(Some("veth")), false),
            ("virbr0", Some("bridge"), Port(Some("tun")), false),
            ("lxdbr0", Some("bridge"), Port(Some("netkit")), false),
            ("mybridge", Some("bridge"), Port(Some("veth")), false),
            // Pairs: into a container, or out of the one we are in.
            ("veth1a2b3c4", Some("veth"), Nothing, false),
            ("cali0123456", Some("veth"), Nothing, false),
            ("lxc_health", Some("veth"), Nothing, false),
            ("lxc1a2b3c4d5e6", Some("netkit"), Nothing, false),
            ("ve-machine", Some("veth"), Nothing, false),
            ("eth0", Some("veth"), Router, true),
            ("veth0", Some("veth"), Router, true),
            ("net1", Some("veth"), Nothing, true),
            ("eth0", Some("netkit"), Router, true),
            // Tunnels, whatever they are called.
            ("wg0", Some("wireguard"), Router, false),
            ("corp", Some("wireguard"), Nothing, false),
            ("tailscale0", Some("tun"), Nothing, false),
            ("nebula1", Some("tun"), Nothing, false),
            ("ztabcdefgh", Some("tun"), Nothing, false),
            ("skynet1", Some("tun"), Nothing, false),
            ("overlay", Some("tun"), Router, false),
            ("tap0", Some("tun"), Router, false),
            ("ovpn0", Some("ovpn"), Nothing, false),
            ("flannel.1", Some("vxlan"), Nothing, false),
            ("cilium_vxlan", Some("vxlan"), Nothing, false),
            ("genev_sys_6081", Some("geneve"), Nothing, false),
            ("gre1", Some("gre"), Nothing, false),
            ("he-ipv6", Some("sit"), Router, false),
            ("tunl0", Some("ipip"), Nothing, false),
            ("ipsec0", Some("xfrm"), Nothing, false),
            ("kube-ipvs0", Some("dummy"), Nothing, false),
            ("nodelocaldns", Some("dummy"), Nothing, false),
            // The kernel does not say.
            ("docker0", None, Nothing, false),
            ("virbr0", None, Nothing, false),
            ("flannel.1", None, Nothing, false),
            ("tun0", None, Nothing, false),
            ("zt5u4y6ejv", None, Nothing, false),
        ];
        for &(name, kind, around, expected) in table {
            let snapshot = snapshot(name, kind, around);
            assert_eq!(is_underlay(&snapshot.interfaces[0], &snapshot), expected, "{name} {kind:?}");
        }
    }
}
