//! Segments, the hosts and gateways attached to them, and the way of a datagram between them.
//!
//! A segment is one address space (a cloud's private network, a carrier's, the internet). A gateway joins an inner
//! segment to an outer one through a [`Nat`]; NAT chains are segments behind segments. Every attachment has an
//! `up` link towards its segment and a `down` link from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use skynet_core::time::{Duration, Instant};

use crate::host::HostId;
use crate::link::{Link, LinkConfig, LinkDrop};
use crate::nat::{Addresses, Nat, NatDrop, Outbound};
use crate::seed;

/// An address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub usize);

/// An interface on a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttachmentId(pub usize);

/// A NAT or firewall between two segments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GatewayId(pub usize);

/// A datagram on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Source, as rewritten so far.
    pub from: SocketAddr,
    /// Destination, as rewritten so far.
    pub to: SocketAddr,
    /// Hops left.
    pub ttl: u8,
    /// UDP payload.
    pub bytes: Vec<u8>,
}

/// Why the network dropped a datagram.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DropCause {
    /// By a link.
    Link(LinkDrop),
    /// By a NAT or firewall.
    Nat(NatDrop),
    /// Nobody on the segment has the address and there is no default route.
    NoRoute,
    /// The time to live ran out (low-TTL openers die like this).
    TtlExpired,
    /// By a middlebox of the test.
    Middlebox,
    /// The host is stopped.
    HostDown,
    /// The host has no such local address.
    NoLocalAddress,
}

impl DropCause {
    /// A number for the trace.
    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Link(d) => 0x100 + d as u64,
            Self::Nat(d) => 0x200 + d as u64,
            Self::NoRoute => 1,
            Self::TtlExpired => 2,
            Self::HostDown => 3,
            Self::NoLocalAddress => 4,
            Self::Middlebox => 5,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Host(HostId),
    /// The inner side of a gateway.
    Inside(GatewayId),
    /// The outer side of a gateway.
    Outside(GatewayId),
}

#[derive(Debug)]
struct Attachment {
    owner: Owner,
    segment: SegmentId,
    addresses: Vec<IpAddr>,
    up: Link,
    down: Link,
}

/// Decides whether a datagram in the middle of a segment goes on.
pub type Middlebox = Box<dyn Fn(&Datagram) -> bool>;

#[derive(Default)]
struct Segment {
    addresses: BTreeMap<IpAddr, AttachmentId>,
    default_route: Option<AttachmentId>,
    /// Routers a datagram passes on its way through the segment.
    hops: u8,
    middlebox: Option<Middlebox>,
    /// Everybody's datagrams but this one's take so much longer behind the middlebox.
    detour: Option<(IpAddr, Duration)>,
}

#[derive(Debug)]
struct Gateway {
    nat: Nat,
    inside: AttachmentId,
    outside: AttachmentId,
}

/// Where a datagram is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Leaving through an attachment.
    Up(AttachmentId),
    /// In the middle of a segment.
    Middle(SegmentId),
    /// Past its middlebox, and past the detour if there is one.
    Crossed(SegmentId),
    /// At the far end of an attachment's down link.
    Arrived(AttachmentId),
}

/// What one step of a datagram's way led to.
#[derive(Debug)]
pub(crate) enum Hop {
    /// It will be there then.
    Later(Instant, Place, Datagram),
    /// It is at the host.
    Deliver(HostId, Datagram),
    /// It is gone.
    Drop(DropCause, Datagram),
}

/// Which direction of an attachment's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Towards the segment.
    Up,
    /// From the segment.
    Down,
}

/// The way of a stream's packets from client to server.
#[derive(Clone, Debug)]
pub(crate) struct StreamPath {
    pub(crate) links: Vec<(AttachmentId, Direction)>,
    pub(crate) gateways: Vec<GatewayId>,
    pub(crate) server: HostId,
    /// Local endpoint at the server.
    pub(crate) local: SocketAddr,
    /// The client's address as the server sees it.
    pub(crate) observed: IpAddr,
}

/// NATs one behind the other; more is a loop in the topology.
const MAX_GATEWAYS_ON_PATH: usize = 16;

/// Everything between hosts.
pub struct Network {
    seed: u64,
    segments: Vec<Segment>,
    attachments: Vec<Attachment>,
    gateways: Vec<Gateway>,
}

impl Network {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, segments: Vec::new(), attachments: Vec::new(), gateways: Vec::new() }
    }

    /// A new address space whose crossing costs `hops` routers.
    pub fn add_segment(&mut self, hops: u8) -> SegmentId {
        self.segments.push(Segment { hops, ..Segment::default() });
        SegmentId(self.segments.len() - 1)
    }

    /// Puts a middlebox into a segment, or takes it away: an outage between two addresses, a scrubber that eats one
    /// kind of datagram. It must decide by the datagram alone.
    pub fn set_middlebox(&mut self, segment: SegmentId, middlebox: Option<Middlebox>) {
        self.segments[segment.0].middlebox = middlebox;
    }

    /// From now on a segment takes `delay` longer for what `except` has not sent: whoever watches it with a middlebox can
    /// be first with what it saw.
    pub fn set_detour(&mut self, segment: SegmentId, except: IpAddr, delay: Duration) {
        self.segments[segment.0].detour = Some((except, delay));
    }

    /// The first address of an attachment.
    ///
    /// # Panics
    /// If it has none, as the inner side of a gateway.
    pub fn address_of(&self, attachment: AttachmentId) -> IpAddr {
        self.attachments[attachment.0].addresses[0]
    }

    /// Joins `inner` to `outer`: everything unknown in `inner` leaves through this NAT. `up` and `down` are the
    /// gateway's access link at the outer segment.
    pub fn add_gateway(
        &mut self,
        inner: SegmentId,
        outer: SegmentId,
        nat: Nat,
        up: LinkConfig,
        down: LinkConfig,
    ) -> GatewayId {
        let id = GatewayId(self.gateways.len());
        let external = nat.external_addresses();
        let inside =
            self.attach(Owner::Inside(id), inner, Vec::new(), LinkConfig::default(), LinkConfig::default());
        let outside = self.attach(Owner::Outside(id), outer, external, up, down);
        self.segments[inner.0].default_route = Some(inside);
        self.gateways.push(Gateway { nat, inside, outside });
        id
    }

    pub(crate) fn attach_host(
        &mut self,
        host: HostId,
        segment: SegmentId,
        ip: IpAddr,
        up: LinkConfig,
        down: LinkConfig,
    ) -> AttachmentId {
        self.attach(Owner::Host(host), segment, vec![ip], up, down)
    }

    fn attach(
        &mut self,
        owner: Owner,
        segment: SegmentId,
        addresses: Vec<IpAddr>,
        up: LinkConfig,
        down: LinkConfig,
    ) -> AttachmentId {
        let id = AttachmentId(self.attachments.len());
        for ip in &addresses {
            let taken = self.segments[segment.0].addresses.insert(*ip, id);
            assert!(taken.is_none(), "{ip} is given out twice on one segment");
        }
        let rng = |what| seed::rng(self.seed, what, id.0 as u64);
        let (up, down) = (Link::new(up, rng("link up")), Link::new(down, rng("link down")));
        self.attachments.push(Attachment { owner, segment, addresses, up, down });
        id
    }

    /// A generator for gateway `index`, from the world's seed.
    pub fn nat_rng(&self) -> skynet_core::rng::Rng {
        seed::rng(self.seed, "nat", self.gateways.len() as u64)
    }

    /// The NAT of a gateway.
    pub fn nat(&self, gateway: GatewayId) -> &Nat {
        &self.gateways[gateway.0].nat
    }

    /// The NAT of a gateway, to change it.
    pub fn nat_mut(&mut self, gateway: GatewayId) -> &mut Nat {
        &mut self.gateways[gateway.0].nat
    }

    /// The gateway's attachment at its outer segment: its access link.
    pub fn access(&self, gateway: GatewayId) -> AttachmentId {
        self.gateways[gateway.0].outside
    }

    /// Gives an inside host of a 1:1 gateway an external address of its own.
    pub fn add_external_address(&mut self, gateway: GatewayId, inside: IpAddr, external: IpAddr) {
        let Gateway { nat, outside, .. } = &mut self.gateways[gateway.0];
        nat.add_address(inside, external);
        let attachment = &mut self.attachments[outside.0];
        attachment.addresses.push(external);
        let taken = self.segments[attachment.segment.0].addresses.insert(external, *outside);
        assert!(taken.is_none(), "{external} is given out twice on one segment");
    }

    /// Gives a gateway with a shared address another one; its tables are forgotten.
    pub fn readdress(&mut self, gateway: GatewayId, ip: IpAddr) {
        let outside = self.gateways[gateway.0].outside;
        let attachment = &mut self.attachments[outside.0];
        let addresses = &mut self.segments[attachment.segment.0].addresses;
        for old in &attachment.addresses {
            addresses.remove(old);
        }
        addresses.insert(ip, outside);
        attachment.addresses = vec![ip];
        self.gateways[gateway.0].nat.readdress(Addresses::Shared(ip));
    }

    /// Gives a host's interface another address on its segment.
    ///
    /// # Panics
    /// If the address is given out already.
    pub fn readdress_host(&mut self, attachment: AttachmentId, ip: IpAddr) {
        let Attachment { segment, addresses, .. } = &mut self.attachments[attachment.0];
        let given_out = &mut self.segments[segment.0].addresses;
        for old in addresses.drain(..) {
            given_out.remove(&old);
        }
        addresses.push(ip);
        let taken = given_out.insert(ip, attachment);
        assert!(taken.is_none(), "{ip} is given out twice on one segment");
    }

    /// One direction of an attachment's link.
    pub fn link_mut(&mut self, attachment: AttachmentId, direction: Direction) -> &mut Link {
        let attachment = &mut self.attachments[attachment.0];
        match direction {
            Direction::Up => &mut attachment.up,
            Direction::Down => &mut attachment.down,
        }
    }

    pub(crate) fn link(&self, attachment: AttachmentId, direction: Direction) -> &Link {
        let attachment = &self.attachments[attachment.0];
        match direction {
            Direction::Up => &attachment.up,
            Direction::Down => &attachment.down,
        }
    }

    /// Whether this attachment holds the address.
    pub(crate) fn has_address(&self, attachment: AttachmentId, ip: IpAddr) -> bool {
        self.attachments[attachment.0].addresses.contains(&ip)
    }

    /// Entries in the largest NAT table against its cap, over all gateways.
    pub(crate) fn fullest_nat(&self) -> Option<(usize, usize)> {
        self.gateways.iter().map(|g| (g.nat.entries(), g.nat.config().max_entries)).max()
    }

    /// Moves a datagram as far as it gets at `now`. Ends because every gateway costs a hop of its time to live.
    pub(crate) fn carry(&mut self, place: Place, datagram: Datagram, now: Instant, out: &mut Vec<Hop>) {
        let mut todo = vec![(place, datagram)];
        while let Some((place, datagram)) = todo.pop() {
            match place {
                Place::Up(attachment) => {
                    let then = Place::Middle(self.attachments[attachment.0].segment);
                    let link = &mut self.attachments[attachment.0].up;
                    cross(link, then, datagram, now, &mut todo, out);
                }
                Place::Middle(segment) => match self.pass_middlebox(segment, datagram) {
                    Ok(datagram) => match self.segments[segment.0].detour {
                        Some((except, delay)) if datagram.from.ip() != except => {
                            out.push(Hop::Later(now + delay, Place::Crossed(segment), datagram));
                        }
                        _ => todo.push((Place::Crossed(segment), datagram)),
                    },
                    Err((cause, datagram)) => out.push(Hop::Drop(cause, datagram)),
                },
                Place::Crossed(segment) => match self.route(segment, datagram) {
                    Ok((next, datagram)) => {
                        let attachment = &mut self.attachments[next.0];
                        let at_host = matches!(attachment.owner, Owner::Host(_));
                        let before = todo.len();
                        cross(&mut attachment.down, Place::Arrived(next), datagram, now, &mut todo, out);
                        if at_host {
                            // A host's turn is an event of its own, even over an instant link.
                            out.extend(todo.drain(before..).map(|(place, d)| Hop::Later(now, place, d)));
                        }
                    }
                    Err((cause, datagram)) => out.push(Hop::Drop(cause, datagram)),
                },
                Place::Arrived(attachment) => match self.arrive(attachment, datagram, now) {
                    Ok(Arrival::Host(host, datagram)) => out.push(Hop::Deliver(host, datagram)),
                    Ok(Arrival::Onward(place, datagram)) => todo.push((place, datagram)),
                    Err((cause, datagram)) => out.push(Hop::Drop(cause, datagram)),
                },
            }
        }
    }

    fn pass_middlebox(
        &self,
        segment: SegmentId,
        mut datagram: Datagram,
    ) -> Result<Datagram, (DropCause, Datagram)> {
        let segment = &self.segments[segment.0];
        if datagram.ttl <= segment.hops {
            return Err((DropCause::TtlExpired, datagram));
        }
        datagram.ttl -= segment.hops;
        if segment.middlebox.as_ref().is_some_and(|passes| !passes(&datagram)) {
            return Err((DropCause::Middlebox, datagram));
        }
        Ok(datagram)
    }

    fn route(
        &self,
        segment: SegmentId,
        datagram: Datagram,
    ) -> Result<(AttachmentId, Datagram), (DropCause, Datagram)> {
        let segment = &self.segments[segment.0];
        match segment.addresses.get(&datagram.to.ip()).copied().or(segment.default_route) {
            Some(next) => Ok((next, datagram)),
            None => Err((DropCause::NoRoute, datagram)),
        }
    }

    fn arrive(
        &mut self,
        attachment: AttachmentId,
        mut datagram: Datagram,
        now: Instant,
    ) -> Result<Arrival, (DropCause, Datagram)> {
        let gateway = match self.attachments[attachment.0].owner {
            Owner::Host(host) => return Ok(Arrival::Host(host, datagram)),
            Owner::Inside(gateway) | Owner::Outside(gateway) => gateway,
        };
        let from_inside = matches!(self.attachments[attachment.0].owner, Owner::Inside(_));
        let Gateway { nat, inside, outside } = &mut self.gateways[gateway.0];
        // Outbound, the hop is counted before the translation, so a datagram that dies here opens nothing.
        // Inbound it is counted after: the router's own entry (the early-packet trap) costs no hop.
        if from_inside && datagram.ttl <= 1 {
            return Err((DropCause::TtlExpired, datagram));
        }
        let onward = if from_inside {
            match nat.outbound(datagram.from, datagram.to, now) {
                Ok(Outbound::Forward { from }) => {
                    datagram.from = from;
                    *outside
                }
                Ok(Outbound::Hairpin { from, to }) => {
                    (datagram.from, datagram.to) = (from, to);
                    *inside
                }
                Err(why) => return Err((DropCause::Nat(why), datagram)),
            }
        } else {
            match nat.inbound(datagram.from, datagram.to, now) {
                Ok(to) => datagram.to = to,
                Err(why) => return Err((DropCause::Nat(why), datagram)),
            }
            if datagram.ttl <= 1 {
                return Err((DropCause::TtlExpired, datagram));
            }
            *inside
        };
        datagram.ttl -= 1;
        Ok(Arrival::Onward(Place::Up(onward), datagram))
    }

    /// The way a stream's packets take, if the NATs let the connection through.
    pub(crate) fn stream_path(&self, from: AttachmentId, to: SocketAddr) -> Option<StreamPath> {
        let mut observed = *self.attachments[from.0].addresses.first()?;
        let mut links = vec![(from, Direction::Up)];
        let mut gateways = Vec::new();
        let mut segment = self.attachments[from.0].segment;
        let mut destination = to.ip();
        while gateways.len() < MAX_GATEWAYS_ON_PATH {
            let here = &self.segments[segment.0];
            let next = here.addresses.get(&destination).copied().or(here.default_route)?;
            links.push((next, Direction::Down));
            match self.attachments[next.0].owner {
                Owner::Host(server) => {
                    let local = SocketAddr::new(destination, to.port());
                    return Some(StreamPath { links, gateways, server, local, observed });
                }
                Owner::Inside(id) => {
                    let gateway = &self.gateways[id.0];
                    observed = gateway.nat.external_address(observed)?;
                    links.push((gateway.outside, Direction::Up));
                    segment = self.attachments[gateway.outside.0].segment;
                    gateways.push(id);
                }
                Owner::Outside(id) => {
                    let gateway = &self.gateways[id.0];
                    destination = gateway.nat.accepts_stream(destination)?;
                    links.push((gateway.inside, Direction::Up));
                    segment = self.attachments[gateway.inside.0].segment;
                    gateways.push(id);
                }
            }
        }
        None
    }
}

enum Arrival {
    Host(HostId, Datagram),
    Onward(Place, Datagram),
}

/// Sends a datagram over one link: at once if the link is instant, else later; twice if duplicated.
fn cross(
    link: &mut Link,
    then: Place,
    datagram: Datagram,
    now: Instant,
    todo: &mut Vec<(Place, Datagram)>,
    out: &mut Vec<Hop>,
) {
    let delivery = match link.send(datagram.bytes.len(), now) {
        Ok(delivery) => delivery,
        Err(why) => return out.push(Hop::Drop(DropCause::Link(why), datagram)),
    };
    let mut hop = |at: Instant, datagram: Datagram| match at > now {
        true => out.push(Hop::Later(at, then, datagram)),
        false => todo.push((then, datagram)),
    };
    if let Some(at) = delivery.duplicate {
        hop(at, datagram.clone());
    }
    hop(delivery.first, datagram);
}
