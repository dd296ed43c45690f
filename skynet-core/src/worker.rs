//! What passes between the workers and `Node`: both ways by bounded queues that the shell owns.
//!
//! ```text
//!            ── ForwardingTable (snapshot) ──▶
//!    Node    ── InboundCommand ─────────────▶   Inbound half of a port  
//!            ◀── ToControl, six classes ─────   both halves
//! ```

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::forwarder::{MemberRelay, Revoked};
use crate::id::{Generation, PeerSlot, PortNo};
use crate::session::OpeningKey;
use crate::time::Instant;
use crate::wire::wireguard::ReceiverIndex;

/// From `Node` to the inbound half of a port. Answered by [`ToControl::Installed`] where the order of change needs it.
#[derive(Debug)]
pub enum InboundCommand {
    /// Start opening with this key.
    Install {
        /// The key and its window; it belongs to this half from now on.
        key: Box<OpeningKey>,
        /// Whose it is.
        slot: PeerSlot,
        /// Which use of the slot.
        generation: Generation,
    },
    /// Stop opening with the key of this index.
    Remove(ReceiverIndex),
    /// Relay for members from now on, or no more. For the half of port 0.
    Relay(Option<Box<MemberRelay>>),
    /// Relay for these no more, and end their sessions; whom the list before named and this one does not may come again.
    RefuseRelay(Arc<Revoked>),
    /// Forget members that have not been heard for long: while nothing comes nobody else says so.
    TendRelay(Instant),
}

/// From a worker to `Node`.
#[derive(Debug)]
pub enum ToControl {
    /// A datagram that is not transport data, as received, with its relay header if it had one.
    Datagram {
        /// Which queue it belongs in.
        class: ControlClass,
        /// Which of our ports it came to.
        port: PortNo,
        /// Where it came from.
        from: SocketAddr,
        /// Which address of this host it came to, if the shell was told.
        local: Option<IpAddr>,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A packet for a known peer that has no key or no path yet. `Node` stages it and starts what is missing.
    Stage {
        /// The peer.
        slot: PeerSlot,
        /// The IP packet.
        packet: Vec<u8>,
    },
    /// A packet for an overlay address nobody is known to own yet.
    Unresolved {
        /// The IP packet.
        packet: Vec<u8>,
    },
    /// Traffic with this peer began after a pause: its timers want to run again.
    Awake {
        /// The peer.
        slot: PeerSlot,
    },
    /// A key in use wants a successor: it is worn, or has come of age.
    Worn {
        /// The peer.
        slot: PeerSlot,
    },
    /// The inbound half opens with this key from now on.
    Installed(ReceiverIndex),
    /// The first packet under this key was authentic (WireGuard paper §5.4.5: key confirmation).
    Confirmed {
        /// The key.
        index: ReceiverIndex,
        /// Whose.
        slot: PeerSlot,
    },
    /// A stock peer's packet was authentic and came from elsewhere than we send to (roaming, WireGuard paper §2.1).
    Roamed {
        /// The peer.
        slot: PeerSlot,
        /// Where it came from.
        from: SocketAddr,
    },
    /// A control record from inside the tunnel (PROTOCOL §2.1).
    Record {
        /// Who sent it: authenticated.
        slot: PeerSlot,
        /// Under which key.
        index: ReceiverIndex,
        /// The record, with the padding that followed it.
        bytes: Vec<u8>,
    },
}

/// The queues towards `Node`, most urgent first: separate, so that junk in one cannot starve another. What strangers can
/// fill (probes, handshakes) is apart from what keeps sessions alive, and so is what local applications can fill.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ControlClass {
    /// What a worker tells of its own sessions: keys installed and confirmed, traffic begun, roaming.
    Keys,
    /// What came from one of our relays' addresses and is not DATA: keepalives of the relay session.
    RelayUpkeep,
    /// Path probes.
    Probe,
    /// Handshakes with a valid mac1, and cookie replies.
    Handshake,
    /// Control records of members: authenticated, but a member may send as many as it likes.
    Record,
    /// Packets that wait for a key, a path or the directory.
    Packet,
}

impl ControlClass {
    /// Entries each queue holds at most; beyond, [`ControlSink::offer`] refuses and the worker counts a drop.
    pub const CAPACITY: usize = 1024;
    /// All of them, most urgent first.
    pub const ALL: [Self; 6] =
        [Self::Keys, Self::RelayUpkeep, Self::Probe, Self::Handshake, Self::Record, Self::Packet];
}

impl ToControl {
    /// The queue this belongs in.
    pub fn class(&self) -> ControlClass {
        match self {
            Self::Datagram { class, .. } => *class,
            Self::Stage { .. } | Self::Unresolved { .. } => ControlClass::Packet,
            Self::Awake { .. }
            | Self::Worn { .. }
            | Self::Installed(_)
            | Self::Confirmed { .. }
            | Self::Roamed { .. } => ControlClass::Keys,
            Self::Record { .. } => ControlClass::Record,
        }
    }
}

/// The worker's end of the queues.
pub trait ControlSink {
    /// Takes the message, or refuses it because its queue is full.
    fn offer(&mut self, message: ToControl) -> bool;
}

/// Queues without threads, for tests and the simulator: the production caps, first in, first out per class.
#[derive(Default, Debug)]
pub struct LocalQueues {
    queues: [std::collections::VecDeque<ToControl>; ControlClass::ALL.len()],
}

impl LocalQueues {
    /// The most urgent waiting message.
    pub fn pop(&mut self) -> Option<ToControl> {
        self.queues.iter_mut().find_map(std::collections::VecDeque::pop_front)
    }
}

impl ControlSink for LocalQueues {
    fn offer(&mut self, message: ToControl) -> bool {
        let queue = &mut self.queues[message.class() as usize];
        let room = queue.len() < ControlClass::CAPACITY;
        if room {
            queue.push_back(message);
        }
        room
    }
}
