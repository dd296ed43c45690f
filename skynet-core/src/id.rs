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

/// A relay's number in the manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelayNo(pub u16);
