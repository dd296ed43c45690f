//! Which name and address everything in a lab has. Pure: no namespace is touched here.
//!
//! ```text
//!   203.0.113.0/24     the relay's network: .1 internet, .10 and .11 relay
//!   198.51.100.32i/27  uplink of cloud i: +1 internet, +2… public addresses of its NAT (second set at +16…)
//!   192.0.2.32i/27     hosts of cloud i if it is public: +1 router, +2… hosts
//!   10.x.0.0/24        hosts of cloud i if it is private: .1 router, .10… hosts; x = i + 1 unless chosen;
//!                      .120… public addresses of NATs that stand behind this cloud's
//!   2001:db8:i::/64    hosts of cloud i if it has IPv6: ::1 router, ::10… hosts; 2001:db8:ff:i::/64 its uplink
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{bail, ensure};

use super::NatKind;

/// A /24 holds eight uplinks of a /27.
pub(crate) const MAX_CLOUDS: usize = 8;
/// A NAT has two sets of public addresses in its /27, each with one per host.
pub(crate) const MAX_HOSTS: usize = 13;
/// Behind one public address there is room for more; as many as interface numbers leave.
const MAX_HOSTS_BEHIND_ONE: usize = 40;
/// The internet's address on the relay's network.
pub(crate) const RELAY_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The relay's IPv6 address, if a cloud has IPv6, and the internet's on its network.
pub const RELAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf0, 0, 0, 0, 0, 0x10);
pub(crate) const RELAY_V6_GATEWAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf0, 0, 0, 0, 0, 1);
/// The two public addresses of the relay namespace.
pub const RELAY_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];

/// One cloud as asked for.
#[derive(Debug, Clone)]
pub(crate) struct CloudPlan {
    pub(crate) name: String,
    /// Position among the clouds; selects its address ranges.
    pub(crate) index: u8,
    /// The kind it starts with; [`NatKind::Public`] here means that hosts carry public addresses themselves.
    pub(crate) kind: NatKind,
    pub(crate) hosts: u8,
    /// Second octet of the private range.
    pub(crate) lan_octet: u8,
    /// The cloud whose network its NAT's outer side is on, instead of the internet: its name and private range.
    pub(crate) carrier: Option<(String, u8)>,
    /// Its NAT sends back what inside hosts send to its own public address.
    pub(crate) hairpin: bool,
    pub(crate) families: Families,
    /// Its last host has a public address of its own, translated one to one, with every port open.
    pub(crate) elastic: bool,
}

/// What a cloud's hosts have addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    /// IPv6 is global, behind a firewall that lets replies in.
    Both,
    V6,
}

impl CloudPlan {
    /// A cloud with checked name and size, in its default private range.
    pub(crate) fn new(name: &str, index: usize, kind: NatKind, hosts: usize) -> anyhow::Result<Self> {
        ensure!(index < MAX_CLOUDS, "a lab has at most {MAX_CLOUDS} clouds");
        let one_each = matches!(kind, NatKind::Public | NatKind::SecurityGroup);
        let most = if one_each { MAX_HOSTS } else { MAX_HOSTS_BEHIND_ONE };
        ensure!((1..=most).contains(&hosts), "cloud {name}: 1 to {most} hosts, not {hosts}");
        // Letters only, so that host 1 of cloud `a` and a cloud called `a1` cannot clash; short, for `to-NAME`.
        let named_well = (1..=8).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase());
        ensure!(named_well, "cloud name {name:?}: 1 to 8 lower-case letters");
        if ["inet", "relay", "nat"].contains(&name) {
            bail!("cloud name {name:?} is taken by the lab itself");
        }
        let index = u8::try_from(index)?;
        Ok(Self {
            name: name.to_owned(),
            index,
            kind,
            hosts: u8::try_from(hosts)?,
            lan_octet: index + 1,
            carrier: None,
            hairpin: false,
            families: Families::V4,
            elastic: false,
        })
    }

    /// Whether hosts carry public addresses themselves.
    pub(crate) fn has_public_hosts(&self) -> bool {
        self.kind == NatKind::Public
    }

    /// Hosts that can have a public address of their own.
    pub(crate) fn translated(&self) -> impl Iterator<Item = u8> + use<> {
        (0..self.hosts).take(MAX_HOSTS)
    }

    /// `a1`, `a2`, …: `k` counts from 0.
    pub(crate) fn host_name(&self, k: u8) -> String {
        format!("{}{}", self.name, k + 1)
    }

    pub(crate) fn host_address(&self, k: u8) -> Ipv4Addr {
        if self.has_public_hosts() {
            Ipv4Addr::new(192, 0, 2, 32 * self.index + 2 + k)
        } else {
            Ipv4Addr::new(10, self.lan_octet, 0, 10 + k)
        }
    }

    /// Of a host of a public cloud that has two.
    pub(crate) fn second_host_address(&self, k: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 32 * self.index + 16 + k)
    }

    /// Of a host behind a NAT whose interface was swapped.
    pub(crate) fn swapped_address(&self, k: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.lan_octet, 0, 100 + k)
    }

    /// The host with a public address of its own, if there is one: inside, outside.
    pub(crate) fn elastic_host(&self) -> Option<[Ipv4Addr; 2]> {
        let k = self.hosts - 1;
        self.elastic.then(|| [self.host_address(k), self.uplink_address(false, k)])
    }

    pub(crate) fn lan_gateway(&self) -> Ipv4Addr {
        if self.has_public_hosts() {
            Ipv4Addr::new(192, 0, 2, 32 * self.index + 1)
        } else {
            Ipv4Addr::new(10, self.lan_octet, 0, 1)
        }
    }

    pub(crate) fn lan_prefix_length(&self) -> u8 {
        if self.has_public_hosts() { 27 } else { 24 }
    }

    /// The range the internet routes to this cloud, if its hosts are public.
    pub(crate) fn public_network(&self) -> String {
        format!("192.0.2.{}/27", 32 * self.index)
    }

    pub(crate) fn has_v4(&self) -> bool {
        self.families != Families::V6
    }

    pub(crate) fn has_v6(&self) -> bool {
        self.families != Families::V4
    }

    /// The IPv6 address of host `k`, or of the router's side for `None`.
    pub(crate) fn v6_address(&self, k: Option<u8>) -> Ipv6Addr {
        let host = k.map_or(1, |k| 0x10 + u16::from(k));
        Ipv6Addr::new(0x2001, 0xdb8, u16::from(self.index) + 1, 0, 0, 0, 0, host)
    }

    /// The ends of its IPv6 uplink: the internet's, the router's.
    pub(crate) fn v6_uplink(&self) -> [Ipv6Addr; 2] {
        [1, 2].map(|end| Ipv6Addr::new(0x2001, 0xdb8, 0xff, self.index.into(), 0, 0, 0, end))
    }

    pub(crate) fn uplink_prefix_length(&self) -> u8 {
        if self.carrier.is_some() { 24 } else { 27 }
    }

    pub(crate) fn uplink_gateway(&self) -> Ipv4Addr {
        if let Some((_, octet)) = self.carrier {
            return Ipv4Addr::new(10, octet, 0, 1);
        }
        Ipv4Addr::new(198, 51, 100, 32 * self.index + 1)
    }

    /// Public address `k` of the NAT in its first or second set.
    pub(crate) fn uplink_address(&self, second_set: bool, k: u8) -> Ipv4Addr {
        if let Some((_, octet)) = self.carrier {
            return Ipv4Addr::new(10, octet, 0, 120 + 13 * self.index + k);
        }
        let first = if second_set { 16 } else { 2 };
        Ipv4Addr::new(198, 51, 100, 32 * self.index + first + k)
    }

    /// The interface of the internet namespace that leads to this cloud.
    pub(crate) fn internet_interface(&self) -> String {
        format!("to-{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_parties_share_a_public_address() {
        let mut seen = BTreeSet::from([RELAY_GATEWAY, RELAY_ADDRESSES[0], RELAY_ADDRESSES[1]]);
        for (index, name) in ["a", "b", "c", "d", "e", "f", "g", "h"].iter().enumerate() {
            let private = CloudPlan::new(name, index, NatKind::Symmetric, MAX_HOSTS).unwrap();
            let public = CloudPlan::new(name, index, NatKind::Public, MAX_HOSTS).unwrap();
            assert!(seen.insert(private.uplink_gateway()) && seen.insert(public.lan_gateway()));
            for k in 0..private.hosts {
                assert!(seen.insert(private.uplink_address(false, k)));
                assert!(seen.insert(private.uplink_address(true, k)));
                assert!(seen.insert(public.host_address(k)));
            }
        }
    }

    #[test]
    fn refuses_names_and_sizes_that_do_not_fit() {
        for name in ["", "A", "a1", "relay", "muchtoolong"] {
            assert!(CloudPlan::new(name, 0, NatKind::Public, 1).is_err(), "{name}");
        }
        assert!(CloudPlan::new("a", MAX_CLOUDS, NatKind::Public, 1).is_err());
        assert!(CloudPlan::new("a", 0, NatKind::Public, 0).is_err());
        assert!(CloudPlan::new("a", 0, NatKind::Public, MAX_HOSTS + 1).is_err());
        assert!(CloudPlan::new("a", 0, NatKind::Symmetric, MAX_HOSTS + 1).is_ok());
        assert!(CloudPlan::new("a", 0, NatKind::Symmetric, MAX_HOSTS_BEHIND_ONE + 1).is_err());
    }
}
