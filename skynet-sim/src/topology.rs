//! Builders: an internet, clouds behind NATs of a named kind, hosts in them, a relay.
//!
//! ```text
//!  internet 8 hops ─┬─ 203.0.113.n              public hosts: relays, observers
//!                   ├─ 20.c.c.1   NAT of cloud c ── 10.c.c.10, .11, …    shared address
//!                   └─ 20.c.c.10… 1:1 of cloud c ── 10.c.c.10, .11, …    public and security group
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use skynet_core::time::Duration;

use crate::host::{Host, HostId};
use crate::link::LinkConfig;
use crate::nat::{Addresses, Filtering, Mapping, Nat, NatConfig, PortAllocation};
use crate::network::{GatewayId, SegmentId};
use crate::world::World;

/// Routers between any two access links of the internet: more than a low-TTL opener lives.
pub const INTERNET_HOPS: u8 = 8;

/// What stands before a cloud, by the names of the namespace lab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NatKind {
    /// Every VM has a public address and an open port.
    Public,
    /// Every VM has a public address; its security group lets only replies in.
    SecurityGroup,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering: Linux masquerade, INPUT closed.
    PortRestricted,
    /// The same without port preservation: a cloud NAT with endpoint-independent mapping.
    PortRestrictedRandom,
    /// Port-restricted, and the router answers unsolicited packets itself: a NAT VM with INPUT open.
    PortRestrictedAnswering,
    /// Address-dependent mapping.
    AddressDependent,
    /// Address-and-port-dependent mapping with consecutive ports.
    SymmetricSequential,
    /// Address-and-port-dependent mapping with random ports: the clouds' NAT gateways.
    Symmetric,
    /// No UDP passes; streams do.
    UdpBlocked,
}

impl NatKind {
    /// All kinds, easiest first.
    pub const ALL: [Self; 11] = [
        Self::Public,
        Self::SecurityGroup,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedRandom,
        Self::PortRestrictedAnswering,
        Self::AddressDependent,
        Self::SymmetricSequential,
        Self::Symmetric,
        Self::UdpBlocked,
    ];

    /// The short name, as in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::SecurityGroup => "sg",
            Self::FullCone => "fullcone",
            Self::AddressRestricted => "addr",
            Self::PortRestricted => "port",
            Self::PortRestrictedRandom => "port-np",
            Self::PortRestrictedAnswering => "port-in",
            Self::AddressDependent => "adm",
            Self::SymmetricSequential => "sym-seq",
            Self::Symmetric => "sym",
            Self::UdpBlocked => "udpblock",
        }
    }

    /// Whether each VM has an external address of its own.
    pub const fn is_one_to_one(self) -> bool {
        matches!(self, Self::Public | Self::SecurityGroup)
    }

    /// The kind in RFC 4787 words.
    pub fn config(self) -> NatConfig {
        let base = NatConfig::default();
        let random = 20_000..=39_999;
        match self {
            Self::Public | Self::FullCone => NatConfig { filtering: Filtering::EndpointIndependent, ..base },
            Self::AddressRestricted => NatConfig { filtering: Filtering::AddressDependent, ..base },
            Self::SecurityGroup | Self::PortRestricted => base,
            Self::PortRestrictedRandom => {
                NatConfig { allocation: PortAllocation::Random, ports: random, ..base }
            }
            Self::PortRestrictedAnswering => NatConfig { answers_unsolicited: true, ..base },
            Self::AddressDependent => NatConfig {
                mapping: Mapping::AddressDependent,
                allocation: PortAllocation::Random,
                ports: random,
                ..base
            },
            Self::SymmetricSequential => NatConfig {
                mapping: Mapping::AddressAndPortDependent,
                allocation: PortAllocation::Sequential,
                ports: 20_000..=23_999,
                ..base
            },
            Self::Symmetric => NatConfig {
                mapping: Mapping::AddressAndPortDependent,
                allocation: PortAllocation::Random,
                ..base
            },
            Self::UdpBlocked => NatConfig { blocks_udp: true, ..base },
        }
    }
}

/// A cloud of a [`Topology`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CloudId(pub usize);

#[derive(Debug)]
struct Cloud {
    kind: NatKind,
    segment: SegmentId,
    gateway: GatewayId,
    hosts: u8,
}

/// Where a host is being built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// The host's id.
    pub id: HostId,
    /// Its address on its own network.
    pub ip: IpAddr,
    /// Its seed.
    pub seed: [u8; 32],
}

/// A world with an internet in it.
pub struct Topology {
    /// The world being built; add invariants, run it.
    pub world: World,
    internet: SegmentId,
    clouds: Vec<Cloud>,
    cloud_of: BTreeMap<HostId, CloudId>,
    public_hosts: u8,
}

impl Topology {
    /// An empty internet.
    pub fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let internet = world.network_mut().add_segment(INTERNET_HOPS);
        Self { world, internet, clouds: Vec::new(), cloud_of: BTreeMap::new(), public_hosts: 0 }
    }

    /// The internet's segment.
    pub const fn internet(&self) -> SegmentId {
        self.internet
    }

    /// A cloud whose access link has this one-way delay.
    pub fn add_cloud(&mut self, kind: NatKind, latency: Duration) -> CloudId {
        self.add_cloud_with(kind, kind.config(), LinkConfig::latency(latency), LinkConfig::latency(latency))
    }

    /// A cloud with its own NAT settings and access link.
    pub fn add_cloud_with(
        &mut self,
        kind: NatKind,
        nat: NatConfig,
        up: LinkConfig,
        down: LinkConfig,
    ) -> CloudId {
        let outer = self.internet;
        self.add_cloud_behind(outer, |n| Ipv4Addr::new(20, n[0], n[1], 1).into(), kind, nat, (up, down))
    }

    /// A cloud behind a carrier: its NAT's external address is inside the carrier's network (CGN).
    pub fn add_cloud_in(&mut self, carrier: CloudId, kind: NatKind, latency: Duration) -> CloudId {
        let outer = self.clouds[carrier.0].segment;
        let link = LinkConfig::latency(latency);
        let address = |n: [u8; 2]| Ipv4Addr::new(100, 64, n[1], 2).into();
        self.add_cloud_behind(outer, address, kind, kind.config(), (link.clone(), link))
    }

    fn add_cloud_behind(
        &mut self,
        outer: SegmentId,
        address: impl FnOnce([u8; 2]) -> IpAddr,
        kind: NatKind,
        nat: NatConfig,
        (up, down): (LinkConfig, LinkConfig),
    ) -> CloudId {
        let number = u16::try_from(self.clouds.len()).expect("at most 65,536 clouds").to_be_bytes();
        let addresses = match kind.is_one_to_one() {
            true => Addresses::OneToOne(BTreeMap::new()),
            false => Addresses::Shared(address(number)),
        };
        let network = self.world.network_mut();
        let nat = Nat::new(nat, addresses, network.nat_rng());
        let segment = network.add_segment(0);
        let gateway = network.add_gateway(segment, outer, nat, up, down);
        self.clouds.push(Cloud { kind, segment, gateway, hosts: 0 });
        CloudId(self.clouds.len() - 1)
    }

    /// A host in a cloud, 0.1 ms from its router. At most 200 per cloud.
    pub fn add_host(&mut self, cloud: CloudId, build: impl FnOnce(Site) -> Box<dyn Host>) -> HostId {
        let number = u16::try_from(cloud.0).expect("at most 65,536 clouds").to_be_bytes();
        let Cloud { kind, segment, gateway, hosts } = &mut self.clouds[cloud.0];
        assert!(*hosts < 200, "a cloud's /24 is full");
        let last = 10 + *hosts;
        *hosts += 1;
        let ip: IpAddr = Ipv4Addr::new(10, number[0], number[1], last).into();
        if kind.is_one_to_one() {
            let external = Ipv4Addr::new(20, number[0], number[1], last).into();
            self.world.network_mut().add_external_address(*gateway, ip, external);
        }
        let id = self.world.next_host();
        let host = build(Site { id, ip, seed: self.world.host_seed(id.0) });
        let link = LinkConfig::latency(Duration::from_micros(100));
        self.world.add_host(*segment, ip, link.clone(), link, host);
        self.cloud_of.insert(id, cloud);
        id
    }

    /// Gives a host a global IPv6 address on a network of its own, behind a firewall that lets only replies in, this far from
    /// the internet. A host in no cloud may have that alone.
    pub fn add_v6(&mut self, host: HostId, latency: Duration) -> IpAddr {
        let ip = Self::v6_of(host);
        let (segment, link) = self.v6_network(Addresses::OneToOne(BTreeMap::from([(ip, ip)])), latency);
        self.world.add_interface(host, segment, ip, link.clone(), link);
        ip
    }

    /// A host with IPv6 and nothing else.
    pub fn add_v6_host(&mut self, latency: Duration, build: impl FnOnce(Site) -> Box<dyn Host>) -> HostId {
        let id = self.world.next_host();
        let ip = Self::v6_of(id);
        let (segment, link) = self.v6_network(Addresses::OneToOne(BTreeMap::from([(ip, ip)])), latency);
        let host = build(Site { id, ip, seed: self.world.host_seed(id.0) });
        self.world.add_host(segment, ip, link.clone(), link, host)
    }

    /// The IPv6 address a host has if it has one.
    pub fn v6_of(host: HostId) -> IpAddr {
        let number = u16::try_from(host.0).expect("at most 65,536 hosts");
        Ipv6Addr::new(0x2001, 0xdb8, 0xb, number, 0, 0, 0, 0x10).into()
    }

    fn v6_network(&mut self, addresses: Addresses, latency: Duration) -> (SegmentId, LinkConfig) {
        let outer = self.internet;
        let network = self.world.network_mut();
        let firewall = Nat::new(NatConfig::default(), addresses, network.nat_rng());
        let segment = network.add_segment(0);
        let access = LinkConfig::latency(latency);
        network.add_gateway(segment, outer, firewall, access.clone(), access);
        (segment, LinkConfig::latency(Duration::from_micros(100)))
    }

    /// A host on the internet itself, with this one-way delay to it.
    pub fn add_public_host(
        &mut self,
        latency: Duration,
        build: impl FnOnce(Site) -> Box<dyn Host>,
    ) -> HostId {
        let ip = self.next_public_ip();
        let id = self.world.next_host();
        let host = build(Site { id, ip, seed: self.world.host_seed(id.0) });
        let link = LinkConfig::latency(latency);
        self.world.add_host(self.internet, ip, link.clone(), link, host)
    }

    /// The address the next public host, or a second interface of the last one, will have.
    pub fn next_public_ip(&mut self) -> IpAddr {
        self.public_hosts = self.public_hosts.checked_add(1).expect("at most 255 public hosts");
        Ipv4Addr::new(203, 0, 113, self.public_hosts).into()
    }

    /// The NAT before a cloud.
    pub fn gateway(&self, cloud: CloudId) -> GatewayId {
        self.clouds[cloud.0].gateway
    }

    /// The cloud a host is in; none if it is on the internet.
    pub fn cloud_of(&self, host: HostId) -> Option<CloudId> {
        self.cloud_of.get(&host).copied()
    }

    /// What stands before a host: the kind of its cloud, or a public address.
    pub fn kind_of(&self, host: HostId) -> NatKind {
        self.cloud_of(host).map_or(NatKind::Public, |c| self.clouds[c.0].kind)
    }
}
