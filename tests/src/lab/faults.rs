//! What can be changed or broken while a lab runs.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::plan::CloudPlan;
use super::{Lab, NatKind, nat, setup};
use crate::wan::{Profile, WanHandle, WanLink};

/// The internet's forwarding: everything, minus the faults in these sets and in chain `extra`. It is one router here and a
/// dozen in the world: what is sent to die on the way does.
pub(super) const RULESET: &str = r#"flush ruleset
table ip lab {
    set cut { type ifname; }
    set without_udp { type ifname . ifname; }
    set without_packets { type ipv4_addr . ipv4_addr; }
    chain extra { }
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname @cut drop
        oifname @cut drop
        meta l4proto udp iifname . oifname @without_udp drop
        ip saddr . ip daddr @without_packets drop
        ip ttl < 8 drop
        jump extra
    }
}
"#;

/// Drops everything at a bridge port, both ways; the bridge's own port states are only kept with spanning tree.
fn port_cut(port: &str, cut: bool) -> String {
    // Declared first, so that deleting succeeds whether it was there or not.
    let table = format!("table netdev cut-{port}");
    let absent = format!("{table}\ndelete {table}\n");
    if !cut {
        return absent;
    }
    absent
        + &format!(
            r#"{table} {{
    chain from_host {{
        type filter hook ingress device "{port}" priority filter; policy drop;
    }}
    chain to_host {{
        type filter hook egress device "{port}" priority filter; policy drop;
    }}
}}
"#
        )
}

/// The NAT of a cloud.
impl Lab {
    /// Replaces the NAT of a cloud by one of another kind; its mappings are forgotten.
    ///
    /// # Errors
    /// If the cloud's hosts have public addresses and `kind` would have to translate them.
    pub fn set_nat(&self, cloud: &str, kind: NatKind) -> anyhow::Result<()> {
        let index = self.cloud_index(cloud)?;
        let translates = !matches!(kind, NatKind::Public | NatKind::SecurityGroup | NatKind::UdpBlocked);
        let has_public_hosts = self.clouds[index].has_public_hosts();
        ensure!(
            !(has_public_hosts && translates),
            "cloud {cloud} has public hosts: {kind:?} cannot be put there"
        );
        self.states.lock().expect("no panic holds it")[index].kind = kind;
        self.apply_nat(index)
    }

    /// Reboots the NAT of a cloud: all state is lost, addresses stay.
    ///
    /// # Errors
    /// If nftables or conntrack fail.
    pub fn reboot_nat(&self, cloud: &str) -> anyhow::Result<()> {
        self.apply_nat(self.cloud_index(cloud)?)
    }

    /// Gives the NAT of a cloud another public address (a second call gives the first one back); all state is lost.
    /// Returns the new address, of the first host if every host has one.
    ///
    /// # Errors
    /// If the cloud's hosts have public addresses of their own.
    pub fn change_public_address(&self, cloud: &str) -> anyhow::Result<Ipv4Addr> {
        let index = self.cloud_index(cloud)?;
        let plan = &self.clouds[index];
        ensure!(!plan.has_public_hosts(), "cloud {cloud} has no NAT whose address could change");
        let second_set = {
            let mut states = self.states.lock().expect("no panic holds it");
            states[index].second_set = !states[index].second_set;
            states[index].second_set
        };
        self.router(cloud).ip_batch(&setup::router_side(plan, second_set))?;
        self.apply_nat(index)?;
        Ok(plan.uplink_address(second_set, 0))
    }

    /// How long the NAT of a cloud keeps an idle UDP mapping: `unreplied` before, `stream` after traffic in both
    /// directions (whole seconds). Mappings are forgotten now.
    ///
    /// # Errors
    /// If this kernel does not let namespaces set it.
    pub fn set_mapping_timeouts(
        &self,
        cloud: &str,
        unreplied: Duration,
        stream: Duration,
    ) -> anyhow::Result<()> {
        let index = self.cloud_index(cloud)?;
        let router = self.router(cloud);
        let seconds = |timeout: Duration| timeout.as_secs().max(1).to_string();
        router.set_sysctl("net/netfilter/nf_conntrack_udp_timeout", &seconds(unreplied))?;
        router.set_sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", &seconds(stream))?;
        self.states.lock().expect("no panic holds it")[index].mapping_timeout = stream;
        self.apply_nat(index)
    }

    fn apply_nat(&self, index: usize) -> anyhow::Result<()> {
        let plan = &self.clouds[index];
        let state = self.state(index);
        let router = self.router(&plan.name);
        router.nft(&nat::ruleset(plan, state.kind, state.second_set, state.mapping_timeout))?;
        router.exec(&["conntrack", "-F"])?.ok()?;
        Ok(())
    }
}

/// Cuts and drops. All are silent: no carrier is lost, no ICMP is sent.
impl Lab {
    /// Cuts a cloud (`a`), a host (`a1`) or the `relay` off; a host also from its neighbours.
    ///
    /// # Errors
    /// If there is no such party.
    pub fn cut(&self, party: &str) -> anyhow::Result<()> {
        self.set_cut(party, true)
    }

    /// Undoes [`Lab::cut`].
    ///
    /// # Errors
    /// If there is no such party, or it is a cloud or the relay and was not cut.
    pub fn restore(&self, party: &str) -> anyhow::Result<()> {
        self.set_cut(party, false)
    }

    fn set_cut(&self, party: &str, cut: bool) -> anyhow::Result<()> {
        if let Some((cloud, k)) = self.locate(party) {
            return self.router(&self.clouds[cloud].name).nft(&port_cut(&setup::port_name(k), cut));
        }
        if party == "inet" || (party == "relay" && !self.namespaces.contains_key("relay")) {
            bail!("lab {} has no {party} that could be cut", self.title);
        }
        let interface = self.interface_of(party)?;
        self.change_element(cut, "cut", &format!("\"{interface}\""))
    }

    /// Drops all UDP between two clouds (or a cloud and the `relay`), both ways; what else they send passes. Forces a
    /// pair of hosts to use the relay.
    ///
    /// # Errors
    /// If there is no such cloud.
    pub fn block_udp_between(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.set_udp_between(one, other, true)
    }

    /// Undoes [`Lab::block_udp_between`].
    ///
    /// # Errors
    /// If there is no such cloud, or it was not blocked.
    pub fn unblock_udp_between(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.set_udp_between(one, other, false)
    }

    fn set_udp_between(&self, one: &str, other: &str, block: bool) -> anyhow::Result<()> {
        let (one, other) = (self.interface_of(one)?, self.interface_of(other)?);
        let pairs = format!("\"{one}\" . \"{other}\", \"{other}\" . \"{one}\"");
        self.change_element(block, "without_udp", &pairs)
    }

    /// Drops packets from one public address to another, in this direction only.
    ///
    /// # Errors
    /// If nftables fails.
    pub fn block_packets(&self, from: Ipv4Addr, to: Ipv4Addr) -> anyhow::Result<()> {
        self.change_element(true, "without_packets", &format!("{from} . {to}"))
    }

    /// Undoes [`Lab::block_packets`].
    ///
    /// # Errors
    /// If it was not blocked.
    pub fn unblock_packets(&self, from: Ipv4Addr, to: Ipv4Addr) -> anyhow::Result<()> {
        self.change_element(false, "without_packets", &format!("{from} . {to}"))
    }

    /// Adds a rule of nftables to the internet's forwarding, such as `meta l4proto udp @th,64,32 0x04000000 drop`, which
    /// drops WireGuard's transport data and nothing else.
    ///
    /// # Errors
    /// If nftables does not understand it.
    pub fn add_rule(&self, rule: &str) -> anyhow::Result<()> {
        self.internet().nft(&format!("add rule ip lab extra {rule}\n"))
    }

    /// How many packets have passed the rules of [`Lab::add_rule`] that count, in their order.
    ///
    /// # Errors
    /// If nftables fails.
    pub fn rule_packets(&self) -> anyhow::Result<Vec<u64>> {
        let text = self.internet().exec(&["nft", "list", "chain", "ip", "lab", "extra"])?.ok()?;
        let counts = text.lines().filter_map(|line| line.split_once("counter packets ")?.1.split(' ').next());
        counts.map(|count| Ok(count.parse()?)).collect()
    }

    /// Removes all rules of [`Lab::add_rule`].
    ///
    /// # Errors
    /// If nftables fails.
    pub fn clear_rules(&self) -> anyhow::Result<()> {
        self.internet().nft("flush chain ip lab extra\n")
    }

    fn change_element(&self, add: bool, set: &str, elements: &str) -> anyhow::Result<()> {
        let verb = if add { "add" } else { "delete" };
        self.internet().nft(&format!("{verb} element ip lab {set} {{ {elements} }}\n"))
    }

    /// The internet's interface towards a cloud or the relay.
    fn interface_of(&self, party: &str) -> anyhow::Result<String> {
        if party == "relay" {
            return Ok("to-relay".to_owned());
        }
        Ok(self.clouds[self.cloud_index(party)?].internet_interface())
    }
}

/// What happens to a host's own configuration.
impl Lab {
    /// Replaces the only interface of a host behind a NAT by another one, with another name and another address of the
    /// same network, as when a network card is swapped. Returns the new address.
    ///
    /// # Errors
    /// If the host is not behind a NAT, or `ip` fails.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn swap_interface(&self, host: &str) -> anyhow::Result<Ipv4Addr> {
        let (cloud, k) = self.locate(host).with_context(|| format!("no host {host}"))?;
        let plan = &self.clouds[cloud];
        ensure!(!plan.has_public_hosts(), "{host} has a public address, which cannot change");
        let address = plan.swapped_address(k);
        let router = self.router(&plan.name);
        // Its other end goes with it, and what the host had on it.
        router.ip_batch(&format!("link del {}\n", setup::port_name(k)))?;
        router.ip_batch(&setup::swapped_port(k, self.host(host)))?;
        self.host(host).ip_batch(&format!(
            "addr add {address}/{} dev swapped0\nlink set swapped0 up\nroute add default via {}\n",
            plan.lan_prefix_length(),
            plan.lan_gateway()
        ))?;
        Ok(address)
    }

    /// Gives a host with a public address a second one, from which its kernel sends nothing by itself. Returns it.
    ///
    /// # Errors
    /// If the host has no public address, or `ip` fails.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn add_address(&self, host: &str) -> anyhow::Result<Ipv4Addr> {
        let (cloud, k) = self.locate(host).with_context(|| format!("no host {host}"))?;
        let plan = &self.clouds[cloud];
        ensure!(plan.has_public_hosts(), "{host} is behind a NAT");
        let address = plan.second_host_address(k);
        self.host(host).ip_batch(&format!("addr add {address}/{} dev eth0\n", plan.lan_prefix_length()))?;
        Ok(address)
    }

    /// Takes the default route of a host away and gives it back, so often, each for `each`.
    ///
    /// # Errors
    /// If `ip` fails.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn flap_default_route(&self, host: &str, times: u32, each: Duration) -> anyhow::Result<()> {
        let (cloud, _) = self.locate(host).with_context(|| format!("no host {host}"))?;
        let gateway = self.clouds[cloud].lan_gateway();
        for _ in 0..times {
            self.host(host).ip_batch("route del default\n")?;
            std::thread::sleep(each);
            self.host(host).ip_batch(&format!("route add default via {gateway}\n"))?;
            std::thread::sleep(each);
        }
        Ok(())
    }

    /// A container comes to life on a host, with a bridge and a pair of interfaces like those of a container engine, and
    /// goes again after `life`.
    ///
    /// # Errors
    /// If `ip` fails.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn run_container(&self, host: &str, number: u8, life: Duration) -> anyhow::Result<()> {
        let (bridge, pair) = (format!("br-{number:04x}"), format!("veth{number:04x}"));
        let host = self.host(host);
        host.ip_batch(&format!(
            "link add {bridge} type bridge\naddr add 172.30.{number}.1/24 dev {bridge}\nlink set {bridge} up\n\
             link add {pair} type veth peer name {pair}p\nlink set {pair} master {bridge} up\nlink set {pair}p up\n\
             addr add 172.30.{number}.2/24 dev {pair}p\n"
        ))?;
        std::thread::sleep(life);
        host.ip_batch(&format!("link del {pair}\nlink del {bridge}\n"))
    }
}

/// Distance.
impl Lab {
    /// Replaces the uplink of a cloud by a WAN link with `profile` in both directions; mappings of its NAT survive. The
    /// lab owns the link, the handle changes it.
    ///
    /// # Errors
    /// If there is no such cloud, it has a WAN link already, or the devices cannot be made.
    pub fn insert_wan(&self, cloud: &str, profile: Profile, seed: u64) -> anyhow::Result<WanHandle> {
        let index = self.cloud_index(cloud)?;
        let mut links = self.wan_links.lock().expect("no panic holds it");
        ensure!(!links.contains_key(cloud), "cloud {cloud} has a WAN link already");
        let plan = &self.clouds[index];
        let interface = plan.internet_interface();
        self.internet().ip_batch(&format!("link del {interface}\n"))?;
        let router = self.router(cloud);
        let link = WanLink::between((router, "wan"), (self.internet(), &interface), profile, seed)?;
        self.configure_uplink(plan, self.state(index).second_set)?;
        let handle = link.handle();
        links.insert(cloud.to_owned(), link);
        Ok(handle)
    }

    /// Replaces the WAN link of a cloud by a plain one.
    ///
    /// # Errors
    /// If there is none.
    pub fn remove_wan(&self, cloud: &str) -> anyhow::Result<()> {
        let index = self.cloud_index(cloud)?;
        let link = self.wan_links.lock().expect("no panic holds it").remove(cloud);
        ensure!(link.is_some(), "cloud {cloud} has no WAN link");
        drop(link);
        let plan = &self.clouds[index];
        self.internet().ip_batch(&setup::uplink(plan, self.router(cloud)))?;
        self.configure_uplink(plan, self.state(index).second_set)
    }

    fn configure_uplink(&self, plan: &CloudPlan, second_set: bool) -> anyhow::Result<()> {
        self.router(&plan.name).ip_batch(&setup::router_side(plan, second_set))?;
        self.internet().ip_batch(&setup::internet_side(plan))?;
        setup::wait_for_carriers(self.router(&plan.name))?;
        setup::wait_for_carriers(self.internet())
    }
}
