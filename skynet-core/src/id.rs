//! Small names for things, so that one cannot be passed for another.

/// A peer's place in the tables of this node. Reused after removal; a [`Generation`] tells the uses apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerSlot(pub u32);

/// Which use of a [`PeerSlot`] is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u32);

/// A member's number at a relay: its overlay IPv4 address (PROTOCOL §3.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeNo(pub u32);

/// Ports of a node at most: a relay frame has three bits for one.
pub const MAX_PORTS: usize = 8;

/// Sockets for guessing ports at most (`path/agent/guess.rs`), numbered after the ports: `PortNo(MAX_PORTS)` and up.
/// What comes to them is worker 0's.
pub const MAX_GUESS_SOCKETS: usize = 192;

/// A UDP port of ours with its worker: a socket, a TUN queue, an inbound and an outbound half; or, from [`MAX_PORTS`] on,
/// a further socket of worker 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortNo(pub u8);

impl PortNo {
    /// A socket of worker 0 beside its own.
    pub fn is_guess_socket(self) -> bool {
        usize::from(self.0) >= MAX_PORTS
    }
}

/// A key and counter space between two nodes (design §3.2). Lane 0 is WireGuard; lane k ≥ 1 carries bulk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LaneNo(pub u8);

impl LaneNo {
    /// The port it runs through: lane 1 shares lane 0's, lane k has port k − 1.
    pub fn port(self) -> PortNo {
        PortNo(self.0.saturating_sub(1))
    }
}

/// A relay's number in the manifest, or from [`RelayNo::FIRST_MEMBER`] on that of a member which relays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelayNo(pub u16);

impl RelayNo {
    /// The numbers from here on are members', in the manifest's place.
    pub const FIRST_MEMBER: u16 = 0x8000;

    /// The number of a member that relays, by the last fifteen bits of its own; none for all ones, which means something
    /// else ([`CARRIER`](crate::path::CARRIER)). Of two members with one number the lower node number has it.
    pub fn of_member(node: NodeNo) -> Option<Self> {
        let no = Self::FIRST_MEMBER | (node.0 & 0x7fff) as u16;
        (no != u16::MAX).then_some(Self(no))
    }

    /// Whether it is a member's.
    pub const fn is_member(self) -> bool {
        self.0 >= Self::FIRST_MEMBER
    }
}
