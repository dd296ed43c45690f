//! The steps that turn a plan into namespaces: one `ip` process for all names, then one per namespace.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::netns::{Netns, run_to_end};
use super::plan::{CloudPlan, RELAY_ADDRESSES, RELAY_GATEWAY, RELAY_V6, RELAY_V6_GATEWAY};
use super::{Lab, faults, nat};
use crate::wait;

/// Generous for a busy machine; it takes milliseconds.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Interface indices, see [`veth`].
const RELAY_INDEX: u8 = 100;
const FIRST_UPLINK_INDEX: u8 = 101;
const FIRST_PORT_INDEX: u8 = 100;
const FIRST_NESTED_INDEX: u8 = 200;

/// In every namespace before its first interface exists, so that interfaces inherit them. Strict reverse-path
/// filtering would drop what takes different ways in and out; duplicate address detection would hold an IPv6 address
/// back for a second.
const SYSCTLS: [(&str, &str); 8] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/neigh/default/gc_thresh1", "1024"),
];
/// In routers. The bridge's own netfilter hook would translate bridged frames; the key exists only if it is loaded.
const ROUTER_SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
];

/// The namespaces a plan consists of, by role; none exists yet.
pub(super) fn namespaces(
    prefix: &str,
    clouds: &[CloudPlan],
    has_relay: bool,
    logs: &Arc<Path>,
) -> BTreeMap<String, Netns> {
    let mut all = vec![Netns::new(prefix, "inet", &[RELAY_GATEWAY], logs)];
    if has_relay {
        all.push(Netns::new(prefix, "relay", &RELAY_ADDRESSES, logs));
    }
    for cloud in clouds {
        let router = [cloud.uplink_address(false, 0), cloud.lan_gateway()];
        all.push(Netns::new(prefix, &format!("nat-{}", cloud.name), &router, logs));
        for k in 0..cloud.hosts {
            all.push(Netns::new(prefix, &cloud.host_name(k), &[cloud.host_address(k)], logs));
        }
    }
    all.into_iter().map(|namespace| (namespace.role().to_owned(), namespace)).collect()
}

impl Lab {
    pub(super) fn set_up(&self) -> anyhow::Result<()> {
        self.add_namespaces()?;
        in_parallel(self.all().map(|namespace| move || set_sysctls(namespace)))?;
        self.internet().ip_batch(&self.internet_links())?;
        self.internet().nft(faults::RULESET)?;
        if let Some(relay) = self.namespaces.get("relay") {
            relay.ip_batch(&relay_links(self.has_v6()))?;
        }
        let (outer, nested): (Vec<_>, Vec<_>) = self.clouds.iter().partition(|c| c.carrier.is_none());
        for clouds in [outer, nested] {
            in_parallel(clouds.into_iter().map(|cloud| move || self.set_up_cloud(cloud)))?;
        }
        in_parallel(self.all().map(|namespace| move || wait_for_carriers(namespace)))
    }

    fn has_v6(&self) -> bool {
        self.clouds.iter().any(CloudPlan::has_v6)
    }

    fn add_namespaces(&self) -> anyhow::Result<()> {
        let lines: String = self.all().map(|namespace| format!("netns add {}\n", namespace.name())).collect();
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        run_to_end(command, STEP_TIMEOUT, &lines)?.ok()?;
        Ok(())
    }

    fn internet_links(&self) -> String {
        let mut lines = "link set lo up\n".to_owned();
        if let Some(relay) = self.namespaces.get("relay") {
            lines += &veth("to-relay", RELAY_INDEX, "eth0", relay);
            lines += &format!("addr add {RELAY_GATEWAY}/24 dev to-relay\nlink set to-relay up\n");
            if self.has_v6() {
                lines += &format!("addr add {RELAY_V6_GATEWAY}/64 dev to-relay nodad\n");
            }
        }
        for cloud in self.clouds.iter().filter(|c| c.carrier.is_none()) {
            lines += &uplink(cloud, self.router(&cloud.name));
            lines += &internet_side(cloud);
        }
        lines
    }

    fn set_up_cloud(&self, cloud: &CloudPlan) -> anyhow::Result<()> {
        let router = self.router(&cloud.name);
        let mut lines = format!(
            "link set lo up\n\
             link add lan type bridge mcast_snooping 0\n\
             addr add {}/{} dev lan\n\
             link set lan up\n",
            cloud.lan_gateway(),
            cloud.lan_prefix_length()
        );
        for k in 0..cloud.hosts {
            let port = port_name(k);
            lines += &veth(&port, FIRST_PORT_INDEX + k, "eth0", self.host(&cloud.host_name(k)));
            lines += &format!("link set {port} master lan up\n");
        }
        for nested in self.clouds.iter().filter(|c| c.carrier.as_ref().is_some_and(|(n, _)| *n == cloud.name))
        {
            let port = format!("in-{}", nested.name);
            lines += &veth(&port, FIRST_NESTED_INDEX + nested.index, "wan", self.router(&nested.name));
            lines += &format!("link set {port} master lan up\n");
        }
        lines += &router_side(cloud, false);
        router.ip_batch(&lines)?;
        router.nft(&nat::ruleset(cloud, cloud.kind, false, nat::MAPPING_TIMEOUT))?;
        for k in 0..cloud.hosts {
            self.host(&cloud.host_name(k)).ip_batch(&host_side(cloud, k))?;
        }
        Ok(())
    }
}

fn host_side(cloud: &CloudPlan, k: u8) -> String {
    let mut lines = "link set lo up\nlink set eth0 up\n".to_owned();
    if cloud.has_v4() {
        let (address, length) = (cloud.host_address(k), cloud.lan_prefix_length());
        let gateway = cloud.lan_gateway();
        lines += &format!("addr add {address}/{length} dev eth0\nroute add default via {gateway}\n");
    }
    if cloud.has_v6() {
        let (address, gateway) = (cloud.v6_address(Some(k)), cloud.v6_address(None));
        lines += &format!("addr add {address}/64 dev eth0 nodad\nroute add default via {gateway}\n");
    }
    lines
}

/// The bridge port of host `k` in its cloud's router.
pub(super) fn port_name(k: u8) -> String {
    format!("port{}", k + 1)
}

/// The lines that give host `k` another interface, `swapped0`, in its cloud's router.
pub(super) fn swapped_port(k: u8, host: &Netns) -> String {
    let port = port_name(k);
    veth(&port, FIRST_PORT_INDEX + 50 + k, "swapped0", host) + &format!("link set {port} master lan up\n")
}

/// The line that adds the plain uplink of a cloud, in the internet's namespace.
pub(super) fn uplink(cloud: &CloudPlan, router: &Netns) -> String {
    veth(&cloud.internet_interface(), FIRST_UPLINK_INDEX + cloud.index, "wan", router)
}

/// The line that adds a veth pair from here into `namespace`. Our end gets `index`: where both ends have the same one,
/// by default 2, the kernel sees no link to another namespace and takes a second to act upon the carrier.
fn veth(here: &str, index: u8, there: &str, namespace: &Netns) -> String {
    format!("link add {here} index {index} type veth peer name {there} netns {}\n", namespace.name())
}

/// Address and routes of a cloud's uplink at the internet's end, once the interface exists.
pub(super) fn internet_side(cloud: &CloudPlan) -> String {
    let interface = cloud.internet_interface();
    let mut lines =
        format!("addr add {}/27 dev {interface}\nlink set {interface} up\n", cloud.uplink_gateway());
    if cloud.has_public_hosts() {
        let router = cloud.uplink_address(false, 0);
        writeln!(lines, "route add {} via {router}", cloud.public_network()).expect("writing to a string");
    }
    if cloud.has_v6() {
        let [here, router] = cloud.v6_uplink();
        let hosts = cloud.v6_address(None);
        lines += &format!("addr add {here}/64 dev {interface} nodad\nroute add {hosts}/64 via {router}\n");
    }
    lines
}

/// Addresses and default route of a cloud's uplink at the router's end, once the interface exists.
pub(super) fn router_side(cloud: &CloudPlan, second_set: bool) -> String {
    let mut lines = "addr flush dev wan\n".to_owned();
    // One per host: what a 1:1 NAT answers ARP for.
    for k in cloud.translated() {
        let (address, length) = (cloud.uplink_address(second_set, k), cloud.uplink_prefix_length());
        writeln!(lines, "addr add {address}/{length} dev wan").expect("writing to a string");
    }
    lines += &format!("link set wan up\nroute replace default via {}\n", cloud.uplink_gateway());
    if cloud.has_v6() {
        let ([gateway, here], lan) = (cloud.v6_uplink(), cloud.v6_address(None));
        lines += &format!("addr add {here}/64 dev wan nodad\naddr replace {lan}/64 dev lan nodad\n");
        lines += &format!("route replace default via {gateway}\n");
    }
    lines
}

fn relay_links(v6: bool) -> String {
    let addresses: String =
        RELAY_ADDRESSES.iter().map(|address| format!("addr add {address}/24 dev eth0\n")).collect();
    let mut lines =
        format!("link set lo up\n{addresses}link set eth0 up\nroute add default via {RELAY_GATEWAY}\n");
    if v6 {
        lines +=
            &format!("addr add {RELAY_V6}/64 dev eth0 nodad\nroute add default via {RELAY_V6_GATEWAY}\n");
    }
    lines
}

/// Waits until every interface has acted upon its carrier. The kernel does so in the background; before, a bridge port
/// does not forward and a queue drops, and the first ARP request would be repeated only a second later.
pub(super) fn wait_for_carriers(namespace: &Netns) -> anyhow::Result<()> {
    let what = format!("the interfaces of {} to be up", namespace.name());
    wait::wait_for(STEP_TIMEOUT, &what, || {
        let links = namespace.exec(&["ip", "-br", "link"])?.ok()?;
        // Loopback and TUN/TAP devices have no carrier of their own: UNKNOWN.
        let down =
            links.lines().find(|line| !matches!(line.split_whitespace().nth(1), Some("UP" | "UNKNOWN")));
        match down {
            None => Ok(()),
            Some(line) => Err(anyhow::anyhow!("{line}")),
        }
    })
}

fn set_sysctls(namespace: &Netns) -> anyhow::Result<()> {
    let is_router = namespace.role() == "inet" || namespace.role().starts_with("nat-");
    namespace.run(|| {
        let router = if is_router { &ROUTER_SYSCTLS[..] } else { &[] };
        for (key, value) in SYSCTLS.iter().chain(router) {
            let path = Path::new("/proc/sys").join(key);
            // Kernels without IPv6 or without the bridge's netfilter hook lack some keys, and then need none of them.
            if path.exists() {
                let _ = std::fs::write(path, value);
            }
        }
    })
}

/// Runs the steps in a thread each; the first error wins.
fn in_parallel<F: FnOnce() -> anyhow::Result<()> + Send>(
    steps: impl Iterator<Item = F>,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = steps.map(|step| scope.spawn(step)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a step does not panic"))
    })
}
