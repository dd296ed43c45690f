//! Static keys that change under sessions that go on: ours, and those of peers.
//!
//! ```text
//!  ours     the registrar has admitted the new key ─▶ handshakes by it; the old one answers until its end
//!  a peer's its documents name another key ─▶ the same peer, session, paths and lanes under another name
//! ```
//! What was agreed under the old key is not touched: transport keys and lanes live on their 180 s, probes of both keys are
//! opened. A probe is sealed under the key of ours that the peer is known to know, which its last handshake tells, and under
//! the newest of its own; so either end always can open what the other sends.

use std::sync::Arc;

use crate::id::{MAX_PORTS, PeerSlot, PortNo};
use crate::key::{PublicKey, StaticSecret};
use crate::member::Member;
use crate::member::chain::CLOCK_TOLERANCE;
use crate::node::Node;
use crate::node::peers::Peer;
use crate::path::{KeyRing, PairKeys};
use crate::session::Mac1Check;
use crate::time::{Duration, Instant, Now, UnixTime, earliest};

/// Peers that are told of a new key by a handshake at once; others hear of it with their next.
const GREETED: usize = 256;

/// A key that a peer had before.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreviousKey {
    pub(super) key: PublicKey,
    until: Instant,
}

impl Node {
    /// Session keys are replaced when they are half as old as this, if that is sooner than otherwise.
    pub fn set_key_lifetime(&mut self, lifetime: Duration, now: Now) {
        if let Some(membership) = &mut self.membership {
            membership.set_key_lifetime(lifetime.as_secs(), now);
        }
        self.settle(now);
    }

    /// The credentials have another session key, or the one before is over.
    pub(super) fn take_keys(&mut self, now: Now) {
        let Some(credentials) = self.membership.as_ref().and_then(|m| m.credentials()) else { return };
        let secret = &credentials.node().static_secret;
        let is_new = secret.public() != self.local.public();
        let previous = credentials.previous_key().map(|(secret, _)| secret.public());
        if is_new {
            self.local = self.local.clone().succeed(secret.clone());
        }
        let held = self.local.previous().map(|key| key.public());
        let retired = if held == previous { None } else { self.local.retire() };
        self.tell_keys();
        for slot in self.peers.slots() {
            if let Some(key) = &retired {
                let _done = self.with_session(slot, |peer, cx| {
                    peer.session.retire_local(key, cx);
                    Ok(())
                });
            }
            self.renew_rings(slot);
        }
        if is_new {
            self.greet_with_new_key(now);
        }
    }

    /// A start with a key before the one in use.
    pub(super) fn resume_keys(&mut self, previous: StaticSecret) {
        let current = self.local.secret().clone();
        let before = crate::session::LocalKey::new(previous, self.local.engine());
        self.local = before.succeed(current);
        self.tell_keys();
    }

    fn tell_keys(&mut self) {
        let (ours, previous) = (self.local.public(), self.local.previous().map(|key| key.public()));
        self.mac1 = Mac1Check::new(&ours).or(previous.as_ref());
        self.admission.set_keys(&ours, previous.as_ref());
        self.dirty = true;
    }

    fn greet_with_new_key(&mut self, now: Now) {
        let established = |p: &&Peer| p.member().is_some() && p.session.is_established();
        let slots: Vec<PeerSlot> =
            self.peers.iter().filter(established).map(|p| p.slot).take(GREETED).collect();
        for slot in slots {
            self.initiate(slot, now);
        }
    }

    /// A peer of the run before may not have heard of the key of this one, and then our probes tell it nothing: a handshake
    /// does, for who does not know its key asks.
    pub(super) fn greet_between_keys(&mut self, slot: PeerSlot, now: Now) {
        let is_between = self.local.previous().is_some() && self.data_path(slot).is_some();
        let Some(peer) = self.peers.get_mut(slot).filter(|_| is_between) else { return };
        if core::mem::take(&mut peer.is_greeted) && !peer.session.is_established() {
            self.initiate(slot, now);
        }
    }

    /// A peer's documents name another key.
    pub(super) fn rekey_member(&mut self, slot: PeerSlot, newer: &Arc<Member>, now: Now) {
        let key = newer.x25519();
        let Some(peer) = self.peers.get(slot) else { return };
        let old = peer.key;
        let left =
            peer.member().map_or(0, |m| m.candidate().binding().not_after.0.saturating_sub(now.unix.0));
        let until = now.mono + Duration::from_secs(left.saturating_add(CLOCK_TOLERANCE));
        self.peers.rekey(slot, key, PreviousKey { key: old, until });
        self.indices.rename(&old, key);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.session.set_peer(key);
            peer.lanes.set_peer(key);
        }
        self.refresh_member(slot, newer, now);
        self.renew_rings(slot);
        self.drain_session(slot, now);
    }

    /// A handshake may have shown that the peer knows our new key.
    pub(super) fn follow_known_key(&mut self, slot: PeerSlot) {
        if self.local.previous().is_some() {
            self.renew_rings(slot);
        }
    }

    /// When a key that a peer had before is over.
    pub(super) fn next_key_end(&self) -> Option<Instant> {
        self.peers
            .iter()
            .filter_map(|p| p.previous_key.map(|k| k.until))
            .fold(None, |a, b| earliest(a, Some(b)))
    }

    /// Forgets keys that peers had before.
    pub(super) fn forget_old_keys(&mut self, now: Now) {
        let over = |p: &&Peer| p.previous_key.is_some_and(|k| k.until <= now.mono);
        let slots: Vec<PeerSlot> = self.peers.iter().filter(over).map(|p| p.slot).collect();
        for slot in slots {
            self.peers.forget_previous_key(slot);
            self.renew_rings(slot);
        }
    }

    /// The keys of a peer's probes on a port, as they are to be now.
    pub(super) fn ring(&self, peer: &Peer, port: PortNo) -> Option<KeyRing> {
        let root_pin = self.trust()?.root_pin().0;
        let previous = self.local.previous();
        let knows_old = |key: &&crate::session::LocalKey| peer.session.known_as() == Some(key.public());
        let sealing = previous.filter(knows_old).unwrap_or(&self.local);
        let other = if sealing.public() == self.local.public() { previous } else { Some(&self.local) };
        let theirs = [Some(peer.key), peer.previous_key.map(|k| k.key)].into_iter().flatten();
        let pair = |ours: &crate::session::LocalKey, key: &PublicKey| {
            PairKeys::new(&root_pin, ours.secret(), key, port)
        };
        let mut rings = [Some(sealing), other]
            .into_iter()
            .flatten()
            .flat_map(|ours| theirs.clone().map(move |key| (ours, key)))
            .filter_map(|(ours, key)| pair(ours, &key));
        let first = rings.next()?;
        Some(KeyRing::new(first, rings.collect()))
    }

    /// Probes of a peer, of all its ports, under the keys there are now.
    pub(super) fn renew_rings(&mut self, slot: PeerSlot) {
        for port in (0..MAX_PORTS).filter_map(|port| u8::try_from(port).ok()).map(PortNo) {
            let Some(peer) = self.peers.get(slot).filter(|p| p.agent(port).is_some()) else { continue };
            let Some(ring) = self.ring(peer, port) else { continue };
            // The place is taken already.
            let _room = self.tags.add(slot, port, ring.iter());
            if let Some(agent) = self.peers.get_mut(slot).and_then(|p| p.agent_mut(port)) {
                agent.set_keys(ring);
            }
        }
    }
}

/// A second of Unix time as an instant to come.
pub(super) fn at(unix: UnixTime, now: Now) -> Instant {
    now.mono + Duration::from_secs(unix.0.saturating_sub(now.unix.0))
}
