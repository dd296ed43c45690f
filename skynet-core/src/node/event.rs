//! Everything that enters and leaves `Node`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::forwarding::ForwardingTable;
use crate::id::{NodeNo, PortNo, RelayNo};
use crate::key::PublicKey;
use crate::session::Tai64n;
use crate::worker::InboundCommand;

/// A datagram to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// From which of our ports.
    pub port: PortNo,
    /// Where to.
    pub to: SocketAddr,
    /// From which address of this host, if the system is not to choose.
    pub from: Option<IpAddr>,
    /// Hop limit, if not the socket's own: openers that must die before they reach the peer's NAT.
    pub ttl: Option<u8>,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// What the shell has to do, in order.
#[derive(Debug)]
pub enum NodeEvent {
    /// Give this snapshot to all workers.
    Publish(Arc<ForwardingTable>),
    /// Give this to an inbound half.
    Inbound {
        /// That of this port.
        port: PortNo,
        /// The change of keys.
        command: InboundCommand,
    },
    /// Bind a UDP socket, give it a worker with a TUN queue of its own, and answer with `Node::port_opened` or
    /// `Node::port_failed`. What is for this port's inbound half follows only after that.
    ///
    /// If it is a socket for guessing ([`PortNo::is_guess_socket`]), only bind it: worker 0's inbound half reads it too.
    OpenPort(PortNo),
    /// Nobody uses this port any more: its worker may end, its socket be closed.
    ClosePort(PortNo),
    /// Send these datagrams of `segment` bytes each by one `sendmsg` with `UDP_SEGMENT`, if that is used at all.
    SendTrain {
        /// From which of our ports.
        port: PortNo,
        /// Where to.
        to: SocketAddr,
        /// From which address of this host, if the system is not to choose.
        from: Option<IpAddr>,
        /// The datagrams, end to end.
        bytes: Vec<u8>,
        /// Bytes of each.
        segment: usize,
    },
    /// UDP to the relay is dead: open a stream of frames (`carrier::FrameStream`) to its TLS port, and a UDP socket of this
    /// host that what is sent to it goes into that stream. Answer with `Node::carrier_opened` or `Node::carrier_closed`;
    /// with the latter also when it ends. There is one at most.
    OpenCarrier {
        /// The relay's number,
        relay: RelayNo,
        /// its address for UDP,
        address: SocketAddr,
        /// and the key it proves itself by.
        key: PublicKey,
    },
    /// Close it, or stop opening it.
    CloseCarrier,
    /// Open the control stream (TCP) to this address, closing the one that is open.
    ConnectControl(SocketAddr),
    /// Write these bytes to the control stream.
    SendControl(Vec<u8>),
    /// Close the control stream.
    CloseControl,
    /// Keep these credentials, durably, in place of the ones kept before.
    Persist(Vec<u8>),
    /// Keep these high-water marks, durably.
    PersistFloors(Floors),
    /// Keep the numbers of these peers in place of the ones kept before: a later start begins with them. Only a hint;
    /// at most [`MAX_REMEMBERED`](crate::node::MAX_REMEMBERED).
    PersistPeers(Vec<NodeNo>),
    /// Keep these members' documents in place of the ones kept before, for a later start without any relay. At most
    /// [`MAX_ROSTER`](crate::node::kept::MAX_ROSTER) bytes, at most once a minute.
    PersistRoster(Vec<u8>),
    /// This node is a member: it has these addresses until told otherwise.
    Joined(Addresses),
    /// `Node::roster` has changed, and somebody watches.
    RosterChanged,
    /// Joining failed. If `fatal`, trying again will not help.
    JoinFailed {
        /// A sentence for the person who asked.
        reason: String,
        /// Whether only a person can help.
        fatal: bool,
    },
    /// A relay said something that is not believed: worth a warning, nothing changed. The sentence names the relay; the same
    /// comes again after minutes at the soonest, and `Status::refused` counts all.
    Alarm(String),
    /// Somebody wants to know what the network around this node is like: look, and tell by `Node::set_host_view`. At
    /// most once in ten seconds.
    LookAround,
    /// The path to a peer changed.
    PathChanged {
        /// Its name, or its key if it has none.
        peer: String,
        /// The new path in words.
        path: String,
    },
}

/// Our place in the overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Our name.
    pub name: String,
    /// Our IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Length of the network's IPv4 prefix: on-link as a whole.
    pub ipv4_prefix_len: u8,
    /// Our IPv6 address, in a /48.
    pub ipv6: Ipv6Addr,
}

impl Addresses {
    /// Both, each with the length of its on-link prefix.
    pub fn on_link(&self) -> [(IpAddr, u8); 2] {
        [(self.ipv4.into(), self.ipv4_prefix_len), (self.ipv6.into(), 48)]
    }
}

/// What the shell tells about the control stream it was asked to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlStreamEvent {
    /// It is open.
    Connected,
    /// Bytes arrived.
    Bytes(Vec<u8>),
    /// It could not be opened, or is gone.
    Closed,
}

/// High-water marks that must rise over restarts even if the clock goes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Floors {
    /// No handshake was ever stamped later than this.
    pub handshake_timestamp: Tai64n,
    /// The start second our probes carried last.
    pub probe_start: u32,
}

/// Why `Node` wants to be woken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NodeTimer {
    /// Something is queued: drain it now.
    Output,
    /// The control channel.
    Control,
    /// The relay session.
    Relay,
    /// What STUN servers see of us.
    Nat,
    /// A peer's session.
    Session,
    /// A peer's lanes.
    Lane,
    /// The check whether trains arrive at a peer.
    Train,
    /// A peer's path.
    Path,
    /// Packets that wait for the directory.
    Unresolved,
    /// The members are to be listed again.
    Roster,
}
