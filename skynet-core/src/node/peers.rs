//! The peers this node talks to: the only place one is added or removed.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::allowed_ips::{AllowedIps, Prefix};
use crate::forwarding::PathActivity;
use crate::id::{Generation, NodeNo, PeerSlot};
use crate::key::PublicKey;
use crate::member::Member;
use crate::member::document::Kind as DocumentKind;
use crate::node::lane_paths::LanePaths;
use crate::node::lanes::LaneSet;
use crate::node::load::Load;
use crate::node::rotation::PreviousKey;
use crate::node::sessions::Source;
use crate::node::staging::Staged;
use crate::node::train_check::TrainCheck;
use crate::node::views::Views;
use crate::path::{PathAgent, StockPath};
use crate::policy::PeerPolicy;
use crate::relay::PairRelay;
use crate::session::{SealingKey, Session};
use crate::time::Instant;

/// Peers at most; as many as the directory caches.
pub const MAX_PEERS: usize = 4096;

/// One peer: a session, a path, and what waits for them.
pub(super) struct Peer {
    pub(super) slot: PeerSlot,
    pub(super) generation: Generation,
    pub(super) key: PublicKey,
    /// The one before, while its binding lasts.
    pub(super) previous_key: Option<PreviousKey>,
    pub(super) kind: Kind,
    pub(super) session: Session,
    pub(super) sealing: Option<Arc<SealingKey>>,
    pub(super) staged: Staged,
    /// Of the run before, and told of this one.
    pub(super) is_greeted: bool,
    /// Where its last authentic handshake message came from: where to answer while no path is selected.
    pub(super) heard_from: Option<Source>,
    /// Which relay its data takes where it takes one.
    pub(super) relay: PairRelay,
    pub(super) relayed: Arc<PathActivity>,
    pub(super) direct: Arc<PathActivity>,
    /// Its paths of ports 1, 2, …
    pub(super) lane_paths: LanePaths,
    /// What its lanes carry, and how many there should be.
    pub(super) load: Load,
    /// Without keys for a stock peer.
    pub(super) lanes: LaneSet,
    /// Idle for a stock peer.
    pub(super) trains: TrainCheck,
    /// What the two ends told each other of what they see.
    pub(super) views: Views,
    /// When it was last shown which document of the network; at most one of each kind.
    pub(super) shown: Vec<(DocumentKind, Instant)>,
    /// When it last asked to relay by us.
    pub(super) applied_at: Option<Instant>,
    /// What may pass, under the policy in force.
    pub(super) policy: Option<Arc<PeerPolicy>>,
}

/// What the peer is to us.
pub(super) enum Kind {
    /// A certified member of the network: its paths are found and watched.
    Member { member: Arc<Member>, path: Box<PathAgent> },
    /// A stock WireGuard peer from the configuration.
    Stock { name: String, path: StockPath, allowed_ips: Vec<Prefix>, addresses: Vec<IpAddr> },
}

impl Peer {
    /// Its name, or its key if it has none.
    pub(super) fn name(&self) -> String {
        match &self.kind {
            Kind::Member { member, .. } => member.name().to_string(),
            Kind::Stock { name, .. } => name.clone(),
        }
    }

    pub(super) fn node_no(&self) -> Option<NodeNo> {
        self.member().map(|m| NodeNo(m.node_no()))
    }

    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        match &self.kind {
            Kind::Member { member, .. } => Some(member),
            Kind::Stock { .. } => None,
        }
    }

    pub(super) fn path_mut(&mut self) -> Option<&mut PathAgent> {
        match &mut self.kind {
            Kind::Member { path, .. } => Some(path),
            Kind::Stock { .. } => None,
        }
    }

    fn prefixes(&self) -> Vec<Prefix> {
        match &self.kind {
            Kind::Member { member, .. } => {
                vec![Prefix::host(member.v4().into()), Prefix::host(member.v6().into())]
            }
            Kind::Stock { allowed_ips, .. } => allowed_ips.clone(),
        }
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
    /// How often each slot was used.
    generations: Vec<u32>,
    by_key: BTreeMap<PublicKey, PeerSlot>,
    allowed_ips: AllowedIps,
}

impl Peers {
    /// Adds a peer without keys, packets or paths heard of yet; `None` if there is no room.
    pub(super) fn insert(&mut self, kind: Kind, session: Session) -> Option<PeerSlot> {
        let at = match self.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.slots.len() < MAX_PEERS => {
                self.slots.push(None);
                self.generations.push(0);
                self.slots.len() - 1
            }
            None => return None,
        };
        self.generations[at] = self.generations[at].wrapping_add(1);
        let slot = PeerSlot(u32::try_from(at).expect("at most MAX_PEERS slots"));
        let peer = Peer {
            slot,
            generation: Generation(self.generations[at]),
            key: session.peer(),
            previous_key: None,
            is_greeted: false,
            lanes: LaneSet::new(session.peer()),
            trains: TrainCheck::new(),
            views: Views::default(),
            shown: Vec::new(),
            applied_at: None,
            policy: None,
            kind,
            session,
            sealing: None,
            staged: Staged::default(),
            heard_from: None,
            relay: PairRelay::default(),
            relayed: Arc::default(),
            direct: Arc::default(),
            lane_paths: LanePaths::default(),
            load: Load::default(),
        };
        self.by_key.insert(peer.key, slot);
        for prefix in peer.prefixes() {
            self.allowed_ips.insert(prefix, slot);
        }
        self.slots[at] = Some(peer);
        Some(slot)
    }

    /// Takes a peer out. Its slot's next use has another generation.
    pub(super) fn remove(&mut self, slot: PeerSlot) -> Option<Peer> {
        self.forget_previous_key(slot);
        let peer = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.by_key.remove(&peer.key);
        self.index_prefixes();
        Some(peer)
    }

    /// A peer has another key; it is found by the one before as well.
    pub(super) fn rekey(&mut self, slot: PeerSlot, key: PublicKey, previous: PreviousKey) {
        self.forget_previous_key(slot);
        if let Some(peer) = self.get_mut(slot) {
            (peer.key, peer.previous_key) = (key, Some(previous));
            self.by_key.insert(key, slot);
        }
    }

    /// The key that a peer had before is over.
    pub(super) fn forget_previous_key(&mut self, slot: PeerSlot) {
        let Some(peer) = self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        if let Some(previous) = peer.previous_key.take() {
            peer.session.forget_previous_peer();
            self.by_key.remove(&previous.key);
        }
    }

    /// Builds the table of prefixes anew, after a peer has gone or has others.
    pub(super) fn index_prefixes(&mut self) {
        self.allowed_ips = AllowedIps::default();
        for peer in self.slots.iter().flatten() {
            for prefix in peer.prefixes() {
                self.allowed_ips.insert(prefix, peer.slot);
            }
        }
    }

    pub(super) fn get(&self, slot: PeerSlot) -> Option<&Peer> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }
    pub(super) fn get_mut(&mut self, slot: PeerSlot) -> Option<&mut Peer> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }
    pub(super) fn by_key(&self, key: &PublicKey) -> Option<PeerSlot> {
        self.by_key.get(key).copied()
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }
    /// Whether there is a peer of the configuration.
    pub(super) fn has_stock(&self) -> bool {
        self.iter().any(|p| p.member().is_none())
    }
    pub(super) fn slots(&self) -> Vec<PeerSlot> {
        self.iter().map(|p| p.slot).collect()
    }
    /// Slots in use or used before: the length of a table by slot.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }
    pub(super) fn allowed_ips(&self) -> &AllowedIps {
        &self.allowed_ips
    }
}
