//! What this node's NAT does, as two STUN answers show it, in the words of RFC 4787 §4.1. Hints: whatever they say, the
//! plain rounds are tried first.

pub use crate::diagnosis::Mapping;

/// A NAT as seen from inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatSeen {
    /// Its mapping behaviour.
    pub mapping: Mapping,
    /// From one new mapping to the next, if the last ones were all the same number of ports apart; else 0.
    pub port_delta: i16,
}

/// Ports may be that far apart and still be called a sequence: a busy NAT skips some, a random one is rarely so near.
const MAX_DELTA: i16 = 16;

impl NatSeen {
    /// What is known of the far end by its CALL.
    pub(super) fn told(mapping: u8, port_delta: i16) -> Self {
        Self { mapping: Mapping::from_wire(mapping), port_delta }
    }

    /// The step of a NAT that hands out one port after another.
    pub(super) fn step(self) -> Option<i16> {
        let steps = self.mapping.is_hard() && (1..=MAX_DELTA).contains(&self.port_delta.saturating_abs());
        steps.then_some(self.port_delta)
    }
}
