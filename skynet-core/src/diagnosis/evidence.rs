//! What is known of a pair when somebody asks why it is as it is: facts, no judgement.

use core::net::{IpAddr, SocketAddr};

use crate::path::{CandidateKind, MAX_CANDIDATES, Path, Reason, Step};
use crate::time::Duration;

/// Which mappings a NAT reuses for one internal socket (RFC 4787 §4.1), in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Mapping {
    /// Not known.
    #[default]
    Unknown = 0,
    /// One for all destinations; also where nothing is translated.
    EndpointIndependent = 1,
    /// One per destination address.
    AddressDependent = 2,
    /// One per destination address and port.
    AddressAndPortDependent = 3,
}

/// From whom a mapping admits packets (RFC 4787 §5), in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Filtering {
    /// Not known.
    #[default]
    Unknown = 0,
    /// From anybody.
    EndpointIndependent = 1,
    /// From addresses the inside has sent to.
    AddressDependent = 2,
    /// From addresses and ports the inside has sent to.
    AddressAndPortDependent = 3,
}

/// Whether UDP to the relay and back works, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Udp {
    /// Not known.
    #[default]
    Unknown = 0,
    /// Answers come.
    Works = 1,
    /// Nothing comes back.
    Blocked = 2,
    /// The machine itself refuses to send.
    Refused = 3,
}

/// Whose machine this is, as its firmware says, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Cloud {
    /// None that is known.
    #[default]
    Unknown = 0,
    /// Amazon EC2.
    Aws = 1,
    /// Microsoft Azure.
    Azure = 2,
    /// Google Compute Engine.
    Google = 3,
}

macro_rules! from_wire {
    ($type:ty: $($value:literal => $variant:ident),+) => {
        impl $type {
            /// The variant with this value on the wire; what is not known here is unknown.
            pub fn from_wire(value: u8) -> Self {
                match value { $($value => Self::$variant,)+ _ => Self::Unknown }
            }
        }
    };
}
from_wire!(Mapping: 1 => EndpointIndependent, 2 => AddressDependent, 3 => AddressAndPortDependent);
from_wire!(Filtering: 1 => EndpointIndependent, 2 => AddressDependent, 3 => AddressAndPortDependent);
from_wire!(Udp: 1 => Works, 2 => Blocked, 3 => Refused);
from_wire!(Cloud: 1 => Aws, 2 => Azure, 3 => Google);

impl Mapping {
    /// Whether a peer cannot know by which port a packet to it will leave.
    pub fn is_hard(self) -> bool {
        matches!(self, Self::AddressDependent | Self::AddressAndPortDependent)
    }
    /// In the words of RFC 5780.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

impl Filtering {
    /// In the words of RFC 5780.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

impl Udp {
    /// In one word.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Works => "works",
            Self::Blocked => "blocked",
            Self::Refused => "refused",
        }
    }
}

/// What a node knows of the network it is in, told by the shell, which has looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostView {
    /// UDP to the relay and back.
    pub udp: Udp,
    /// Of the NAT in front of it.
    pub mapping: Mapping,
    /// Of the NAT or firewall in front of it.
    pub filtering: Filtering,
    /// The step between the external ports of successive mappings; 0: none seen.
    pub port_delta: i16,
    /// Whether its address is translated.
    pub translated: Option<bool>,
    /// Whether the external port is the internal one.
    pub preserves_port: Option<bool>,
    /// Whether a packet to the external address of another socket of its comes back.
    pub hairpin: Option<bool>,
    /// The largest IP packet that reaches the relay.
    pub mtu: Option<u16>,
    /// Whose machine it is.
    pub cloud: Cloud,
    /// All external ports seen lie in one block of 64.
    pub port_block: bool,
}

/// One end of the pair, as it sees itself and the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct End {
    /// Its network.
    pub host: HostView,
    /// Its relay session is open.
    pub relay_up: bool,
    /// Its address as the relay sees it.
    pub observed: Option<SocketAddr>,
    /// How many seconds its clock is ahead of the relay's; negative: behind.
    pub clock_ahead_s: Option<i32>,
    /// What became of each candidate of the other, at most 16.
    pub pairs: Vec<PairView>,
    /// How its path to the other changed, oldest first, at most [`MAX_CHANGES`].
    pub changes: Vec<Change>,
}

/// Most changes of the path one end tells of.
pub const MAX_CHANGES: usize = 8;
/// Most candidate pairs one end tells of.
pub const MAX_PAIRS: usize = MAX_CANDIDATES;

/// One candidate pair of one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairView {
    /// How the address was learned.
    pub kind: CandidateKind,
    /// The other's address.
    pub addr: SocketAddr,
    /// How far it got.
    pub step: Step,
    /// PINGs sent to it, 65,535 at most,
    pub sent: u16,
    /// and answered.
    pub answered: u16,
}

/// One change of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// How long ago.
    pub age: Duration,
    /// Where data went from then on.
    pub to: Option<Way>,
    /// Why.
    pub reason: Reason,
}

/// A path without the numbers that only one end understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Through a relay.
    Relay(u16),
    /// To this address.
    Direct(SocketAddr),
}

impl From<Path> for Way {
    fn from(path: Path) -> Self {
        match path {
            Path::Relayed { relay, .. } => Self::Relay(relay),
            Path::Direct { remote } => Self::Direct(remote),
        }
    }
}

/// What this node knows of its relay's control channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Control {
    /// Joined.
    #[default]
    Joined,
    /// Not joined; nobody has looked why.
    Down,
    /// The host answers, and nothing listens on the port.
    Refused,
    /// Nothing answers.
    Silent,
    /// The relay is there, but this node is not let in,
    Denied,
    /// because its documents are from the future.
    ClockDenied,
}

impl Control {
    /// As the shell last saw it; that it was joined then says nothing now.
    pub fn or_down(self) -> Self {
        if self == Self::Joined { Self::Down } else { self }
    }
}

/// Who the peer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerKind {
    /// A member of the network.
    #[default]
    Member,
    /// A stock WireGuard peer of the configuration, whose endpoint is known,
    Stock,
    /// or not.
    StockSilent,
}

/// Echo requests through the overlay and their answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Echo {
    /// Sent.
    pub sent: u32,
    /// Answered.
    pub received: u32,
}

/// Everything known of one pair, from one end and, if it answers, from the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// This node's name,
    pub me: String,
    /// and the peer's.
    pub peer: String,
    /// This node is a member.
    pub joined: bool,
    /// This node's control channel.
    pub control: Control,
    /// The relay's address.
    pub relay: Option<SocketAddr>,
    /// This node's UDP port.
    pub port: u16,
    /// What kind of peer.
    pub kind: PeerKind,
    /// Whether the relay says the peer is there.
    pub online: Option<bool>,
    /// The peer's own record says that it has a relay session.
    pub peer_relay: bool,
    /// All addresses the peer is known by.
    pub candidates: Vec<SocketAddr>,
    /// This node's own.
    pub own: Vec<SocketAddr>,
    /// Where data goes now.
    pub path: Option<Way>,
    /// The largest packet that the ends have found to pass on it; `None`: they do not look for it, and send packets of
    /// one size on every path.
    pub path_mtu: Option<u16>,
    /// There is a key.
    pub established: bool,
    /// Handshakes begun without an answer since the last that succeeded.
    pub handshakes_unanswered: bool,
    /// Nothing is being tried any more that could still change the answer.
    pub settled: bool,
    /// Something was tried.
    pub tried: bool,
    /// This end.
    pub here: End,
    /// The other end, as it said itself.
    pub there: Option<End>,
    /// The peer understands the question.
    pub peer_answers: Option<bool>,
    /// Packets through the overlay just now.
    pub echo: Option<Echo>,
}

impl Evidence {
    /// Whether data goes direct.
    pub fn is_direct(&self) -> bool {
        matches!(self.path, Some(Way::Direct(_)))
    }
    /// Whether echo requests were sent and none came back.
    pub fn is_deaf(&self) -> bool {
        self.echo.is_some_and(|e| e.sent > 0 && e.received == 0)
    }
    /// Whether something came through the overlay just now.
    pub fn is_heard(&self) -> bool {
        self.echo.is_some_and(|e| e.received > 0)
    }
    pub(super) fn families(addresses: &[SocketAddr]) -> (bool, bool) {
        let v6 = |a: &SocketAddr| matches!(a.ip(), IpAddr::V6(_));
        (addresses.iter().any(|a| !v6(a)), addresses.iter().any(v6))
    }
}
