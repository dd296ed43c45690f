//! What the workers know: an immutable snapshot, published by `Node` after every change and swapped in whole.
//!
//! A worker looks a packet's peer up here and finds all it needs behind one reference: the sealing key, the path and
//! the counters. Nothing in it is ever changed in place but atomics.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use crate::allowed_ips::{AllowedIps, Prefix};
use crate::flows::LaneLoad;
use crate::id::{Generation, LaneNo, NodeNo, PeerSlot, PortNo, RelayNo};
use crate::policy::PeerPolicy;
use crate::session::{Activity, Mac1Check, PathSource, SealingKey};
use crate::time::{Duration, Instant};
use crate::wire::relay::DATA_HEADER_LEN;

/// Silence after which the next packet sent wakes control.
pub const EDGE: Duration = Duration::from_secs(10);

/// The snapshot.
#[derive(Default, Debug)]
pub struct ForwardingTable {
    /// Rises with every snapshot; a worker that holds an older one is at most one batch behind.
    pub version: u64,
    /// Which peer an overlay address belongs to; the same table checks sources.
    pub allowed_ips: AllowedIps,
    /// By [`PeerSlot`].
    pub peers: Vec<Option<Arc<PeerEntry>>>,
    /// Our own overlay addresses: the only destinations handed to the TUN device.
    pub own: Vec<IpAddr>,
    /// Prefixes whose members may be asked of the directory. Elsewhere, no route means a drop.
    pub overlay: Vec<Prefix>,
    /// Where relay frames may come from, and the number of the relay there. At most thirteen.
    pub relays: Vec<(SocketAddr, RelayNo)>,
    /// Where answers to STUN may come from. At most three.
    pub stun: Vec<SocketAddr>,
    /// Keeps handshakes of strangers out of the queue to `Node`; `None` only before the first snapshot.
    pub mac1: Option<Mac1Check>,
}

/// One peer as a worker sees it.
#[derive(Debug)]
pub struct PeerEntry {
    /// Its place in the table.
    pub slot: PeerSlot,
    /// Which use of the slot: an opening key of another generation is refused.
    pub generation: Generation,
    /// Its number at relays; `None` for stock WireGuard peers.
    pub node_no: Option<NodeNo>,
    /// What to seal with; none before the first handshake and after the last key has expired.
    pub sealing: Option<Arc<SealingKey>>,
    /// Where to send; none while no path is known.
    pub path: Option<DataPath>,
    /// The largest inner packet towards it, bytes: whoever sends larger ones is told. [`UNKNOWN_MTU`] while its path is
    /// being searched: nobody is told anything.
    pub mtu: u16,
    /// Lanes for bulk that can be used now, ascending. Empty: everything goes on lane 0.
    pub bulk: Vec<LaneEntry>,
    /// Lanes for bulk there may be: below two there is nothing to choose, and flows are not kept.
    pub most_lanes: u8,
    /// Rises, modulo 16, when a lane is added to `bulk`: flows assigned before may move once.
    pub lane_epoch: u8,
    /// What may pass between us and it; `None`: everything, so nothing is looked at.
    pub policy: Option<Arc<PeerPolicy>>,
    /// Counters and time stamps shared with the session's timers.
    pub activity: Arc<Activity>,
    /// Counters of what goes direct, shared with the path agent.
    pub direct: Arc<PathActivity>,
    /// Counters of what goes through relays, shared with the path agent.
    pub relayed: Arc<PathActivity>,
    /// Counters of what goes direct by ports 1, 2, … in this order, shared with their path agents.
    pub by_port: Vec<Arc<PathActivity>>,
}

/// [`PeerEntry::mtu`] before it is known.
pub const UNKNOWN_MTU: u16 = u16::MAX;

/// A lane that is open: its key, and the way through its own port.
#[derive(Clone, Debug)]
pub struct LaneEntry {
    /// Which.
    pub lane: LaneNo,
    /// What to seal with.
    pub sealing: Arc<SealingKey>,
    /// Where to send.
    pub path: DataPath,
    /// How packets become messages.
    pub framing: Framing,
    /// What it carries.
    pub load: Arc<LaneLoad>,
}

/// How the packets of a lane become messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Framing {
    /// Each in one of its own; super-packets are split before.
    #[default]
    Plain,
    /// The same, but a packet that is too large for the path, and no stream that could be cut elsewhere, in chunks
    /// (PROTOCOL §2.2): fragments.
    Fragments,
    /// Super-packets, and packets that are too large for the path, in chunks.
    Chunks,
}

/// How a sealed message leaves.
#[derive(Clone, Debug)]
pub struct DataPath {
    /// Whose socket sends it.
    pub port: PortNo,
    /// The peer's endpoint, or the relay's.
    pub to: SocketAddr,
    /// From which address of this host, if it has several and the system might choose another one than the peer expects.
    pub from: Option<IpAddr>,
    /// Whether trains arrive there: if not, each datagram leaves by itself.
    pub trains: bool,
    /// What it carries in one message, bytes of plaintext; a multiple of 16 wastes nothing on padding.
    pub limit: u16,
    /// The DATA header in front, if `to` is a relay.
    pub relay_header: Option<[u8; DATA_HEADER_LEN]>,
    /// What is counted for this path.
    pub activity: Arc<PathActivity>,
}

/// Transport data on one path, counted by the workers and read by the path agent: "probes pass, data does not" is
/// seen by comparing these with what the peer reports in its PONGs.
#[derive(Default, Debug)]
pub struct PathActivity {
    tx: AtomicU32,
    rx: AtomicU32,
    last_tx: AtomicU64,
    last_rx: AtomicU64,
}

impl PathActivity {
    /// Messages were sent. True if they end a silence of at least [`EDGE`]: the path agent wants to know.
    pub fn note_tx(&self, now: Instant, messages: u32) -> bool {
        self.tx.fetch_add(messages, Relaxed);
        let before = self.last_tx.swap(now.as_nanos(), Relaxed);
        now.saturating_since(Instant::from_nanos(before)) >= EDGE
    }
    /// Messages were received and authentic.
    pub fn note_rx(&self, now: Instant, messages: u32) {
        self.rx.fetch_add(messages, Relaxed);
        self.last_rx.store(now.as_nanos(), Relaxed);
    }
    /// Messages sent, modulo 2^32.
    pub fn tx(&self) -> u32 {
        self.tx.load(Relaxed)
    }
    /// Messages received, modulo 2^32.
    pub fn rx(&self) -> u32 {
        self.rx.load(Relaxed)
    }
    /// When the last message was received.
    pub fn last_rx(&self) -> Option<Instant> {
        match self.last_rx.load(Relaxed) {
            0 => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }
}

impl ForwardingTable {
    /// The peer at `slot`.
    pub fn peer(&self, slot: PeerSlot) -> Option<&Arc<PeerEntry>> {
        self.peers.get(usize::try_from(slot.0).ok()?)?.as_ref()
    }

    /// The peer at `slot` if it is still the one of `generation`.
    pub fn admitted(&self, slot: PeerSlot, generation: Generation) -> Option<&Arc<PeerEntry>> {
        self.peer(slot).filter(|p| p.generation == generation)
    }

    /// The relay at `address`, if it is one of ours.
    pub fn relay_at(&self, address: SocketAddr) -> Option<RelayNo> {
        self.relays.iter().find(|(a, _)| *a == address).map(|(_, no)| *no)
    }

    /// Whether the directory may know who owns `address`.
    pub fn in_overlay(&self, address: IpAddr) -> bool {
        self.overlay.iter().any(|p| p.contains(address))
    }
}

impl PeerEntry {
    /// The counters of the tier, and of the port, a datagram came by; none of a port whose path is not watched any more.
    pub fn path_activity(&self, port: PortNo, source: PathSource) -> Option<&PathActivity> {
        match (source, usize::from(port.0).checked_sub(1)) {
            (PathSource::Relayed { .. }, _) => Some(&self.relayed),
            (PathSource::Direct(_), None) => Some(&self.direct),
            (PathSource::Direct(_), Some(further)) => self.by_port.get(further).map(|a| &**a),
        }
    }

    /// Whether an authentic message from `source` moves this peer's endpoint: a stock peer roams, a member's path
    /// moves only after a challenge.
    pub fn roams_to(&self, source: PathSource) -> Option<SocketAddr> {
        match (source, &self.path) {
            (PathSource::Direct(from), path) if self.node_no.is_none() => {
                path.as_ref().is_none_or(|p| p.to != from).then_some(from)
            }
            _ => None,
        }
    }
}
