//! [`Netlink`]: the network configuration through rtnetlink, in the network namespace of the calling thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::{
    Interface, InterfaceAddress, NetConfig, NetError, Prefix, ROUTE_PROTOCOL, Route, Snapshot,
    UNREACHABLE_METRIC,
};

/// A netlink connection, served by a task on the current tokio runtime.
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens the connection; must be called within a tokio runtime.
    ///
    /// # Errors
    /// No netlink socket to be had.
    pub fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| NetError { what: "opening a netlink socket".to_owned(), source })?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    async fn interfaces(&self) -> Result<Vec<Interface>, NetError> {
        let mut links = self.handle.link().get().execute();
        let mut interfaces = Vec::new();
        while let Some(link) = links.try_next().await.map_err(failed("listing interfaces"))? {
            interfaces.extend(interface(&link));
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed("listing addresses"))? {
            let owner = interfaces.iter_mut().find(|i| i.index == message.header.index);
            if let (Some(owner), Some(address)) = (owner, address(&message)) {
                owner.addresses.push(address);
            }
        }
        Ok(interfaces)
    }

    async fn route_messages(&self) -> Result<Vec<RouteMessage>, NetError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut all = Vec::new();
        for query in [v4, v6] {
            let mut routes = self.handle.route().get(query).execute();
            loop {
                match routes.try_next().await {
                    Ok(Some(route)) => all.push(route),
                    Ok(None) => break,
                    // A kernel without IPv6 has no such routes.
                    Err(e) if errno(&e) == Some(libc::EOPNOTSUPP) => break,
                    Err(e) => return Err(failed("listing routes")(e)),
                }
            }
        }
        Ok(all)
    }
}

impl NetConfig for Netlink {
    async fn snapshot(&self) -> Result<Snapshot, NetError> {
        let interfaces = self.interfaces().await?;
        let routes = self.route_messages().await?.iter().filter_map(route).collect();
        Ok(Snapshot { interfaces, routes })
    }

    async fn bring_up(&self, index: u32, addresses: &[(IpAddr, u8)]) -> Result<(), NetError> {
        for &(ip, len) in addresses {
            let mut request = self.handle.address().add(index, ip, len);
            if ip.is_ipv6() {
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            match request.execute().await {
                Ok(()) => {}
                Err(e) if errno(&e) == Some(libc::EEXIST) => {}
                Err(e)
                    if ip.is_ipv6()
                        && matches!(errno(&e), Some(libc::EACCES | libc::EPERM | libc::EOPNOTSUPP)) =>
                {
                    tracing::warn!(%ip, "IPv6 is switched off on this machine; the overlay runs on IPv4 only");
                }
                Err(e) => return Err(failed(&format!("adding the address {ip}/{len}"))(e)),
            }
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(failed("setting the interface up"))
    }

    async fn limit_super_packets(&self, index: u32, bytes: u32) -> Result<(), NetError> {
        let mut limit = LinkUnspec::new_with_index(index).build();
        limit.attributes.push(LinkAttribute::GsoMaxSize(bytes));
        self.handle.link().set(limit).execute().await.map_err(failed("limiting super-packets"))
    }

    async fn add_route(&self, prefix: Prefix, index: u32) -> Result<(), NetError> {
        let message = with_destination(prefix, |b| b.output_interface(index), |b| b.output_interface(index));
        self.add(message, prefix).await
    }

    async fn add_unreachable(&self, prefix: Prefix) -> Result<(), NetError> {
        let message = with_destination(
            prefix,
            |b| b.kind(RouteType::Unreachable).priority(UNREACHABLE_METRIC),
            |b| b.kind(RouteType::Unreachable).priority(UNREACHABLE_METRIC),
        );
        self.add(message, prefix).await
    }

    async fn remove_unreachable(&self) -> Result<usize, NetError> {
        let mut removed = 0;
        let snapshot = self.snapshot().await?;
        let is_held = |route: &RouteMessage| {
            self::route(route).is_some_and(|route| snapshot.on_link(route.destination).is_some())
        };
        for message in self.route_messages().await? {
            if is_ours(&message) && message.header.kind == RouteType::Unreachable && !is_held(&message) {
                let result = self.handle.route().del(message).execute().await;
                result.map_err(failed("removing the unreachable route"))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Netlink {
    async fn add(&self, message: RouteMessage, prefix: Prefix) -> Result<(), NetError> {
        match self.handle.route().add(message).execute().await {
            Err(e) if errno(&e) == Some(libc::EEXIST) => Ok(()),
            result => result.map_err(failed(&format!("adding a route for {prefix}"))),
        }
    }
}

/// A route of ours to `prefix`, finished by the builder of its family.
fn with_destination(
    prefix: Prefix,
    v4: impl FnOnce(RouteMessageBuilder<Ipv4Addr>) -> RouteMessageBuilder<Ipv4Addr>,
    v6: impl FnOnce(RouteMessageBuilder<Ipv6Addr>) -> RouteMessageBuilder<Ipv6Addr>,
) -> RouteMessage {
    let protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    match prefix.address() {
        IpAddr::V4(ip) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().protocol(protocol);
            v4(builder.destination_prefix(ip, prefix.prefix_len())).build()
        }
        IpAddr::V6(ip) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new().protocol(protocol);
            v6(builder.destination_prefix(ip, prefix.prefix_len())).build()
        }
    }
}

fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let name = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mtu = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let kind = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind.to_string()),
            _ => None,
        }),
        _ => None,
    });
    let master = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    Some(Interface {
        index: link.header.index,
        name,
        mtu: mtu.unwrap_or(1_500),
        kind,
        master,
        up: link.header.flags.contains(LinkFlags::Up),
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        addresses: Vec::new(),
    })
}

fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let mut ip = None;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the other end and `Local` is ours.
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) if ip.is_none() => ip = Some(*address),
            AddressAttribute::Flags(f) => flags = *f,
            _ => {}
        }
    }
    let unusable = AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    Some(InterfaceAddress {
        ip: ip?,
        prefix_len: message.header.prefix_len,
        usable: !flags.intersects(unusable),
        // The same bit says "secondary" of an IPv4 address, which is as good as the first.
        temporary: flags.contains(AddressFlags::Secondary) && message.header.family == AddressFamily::Inet6,
    })
}

/// The route, unless it is one of the kernel's own for local, broadcast or multicast addresses.
fn route(message: &RouteMessage) -> Option<Route> {
    let kinds = [
        RouteType::Unicast,
        RouteType::Unreachable,
        RouteType::BlackHole,
        RouteType::Prohibit,
        RouteType::Throw,
    ];
    if !kinds.contains(&message.header.kind) {
        return None;
    }
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut interface, mut gateway, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(IpAddr::from(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some(IpAddr::from(*ip)),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = IpAddr::from(*ip),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = IpAddr::from(*ip),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let destination = Prefix::new(destination, message.header.destination_prefix_length)?;
    Some(Route { destination, interface, gateway, metric, ours: is_ours(message) })
}

fn failed(what: &str) -> impl FnOnce(rtnetlink::Error) -> NetError {
    let what = what.to_owned();
    move |error| {
        let source = match errno(&error) {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error.to_string()),
        };
        NetError { what, source }
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|c| c.get().saturating_neg()),
        _ => None,
    }
}
