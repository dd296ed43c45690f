//! Sockets for guessing ports: which is whose. They are opened by the dozen for one attempt of one peer; the one that is
//! hit stays with that peer, the others are closed at once.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use crate::id::{MAX_GUESS_SOCKETS, MAX_PORTS, PeerSlot, PortNo};
use crate::node::nat_observer::delta;
use crate::node::peers::Peer;
use crate::node::{Node, NodeEvent};
use crate::path::NatSeen;
use crate::time::Now;

/// By number; at most [`MAX_GUESS_SOCKETS`]. And whose attempt runs: one at a time, for all share one NAT.
#[derive(Default)]
pub(super) struct GuessSockets {
    owners: BTreeMap<PortNo, PeerSlot>,
    busy: Option<PeerSlot>,
}

impl GuessSockets {
    pub(super) fn owner(&self, socket: PortNo) -> Option<PeerSlot> {
        self.owners.get(&socket).copied()
    }

    /// Nobody else guesses.
    pub(super) fn is_free_for(&self, slot: PeerSlot) -> bool {
        self.busy.is_none_or(|busy| busy == slot)
    }

    fn note(&mut self, slot: PeerSlot, guesses: bool) {
        if guesses {
            self.busy = Some(slot);
        } else if self.busy == Some(slot) {
            self.busy = None;
        }
    }

    fn take_free(&mut self, slot: PeerSlot, count: usize) -> Vec<PortNo> {
        let first = MAX_PORTS as u8;
        let all = (first..).take(MAX_GUESS_SOCKETS).map(PortNo);
        let free: Vec<PortNo> = all.filter(|s| !self.owners.contains_key(s)).take(count).collect();
        self.owners.extend(free.iter().map(|s| (*s, slot)));
        free
    }

    fn take_all_but(&mut self, slot: PeerSlot, keep: Option<PortNo>) -> Vec<PortNo> {
        let others = |(socket, owner): (&PortNo, &PeerSlot)| {
            (*owner == slot && Some(*socket) != keep).then_some(*socket)
        };
        let gone: Vec<PortNo> = self.owners.iter().filter_map(others).collect();
        gone.iter().for_each(|socket| {
            self.owners.remove(socket);
        });
        gone
    }
}

impl Node {
    /// What STUN says of the NAT before this node: every path agent has to know.
    pub(super) fn set_nat(&mut self, nat: NatSeen) {
        self.nat = nat;
        for slot in self.peers.slots() {
            if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut) {
                path.set_nat(nat);
            }
        }
    }

    pub(super) fn open_guess_sockets(&mut self, slot: PeerSlot, count: u8) {
        let sockets = self.guess_sockets.take_free(slot, count.into());
        if sockets.is_empty() {
            if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut) {
                path.sockets_refused();
            }
            return self.note_guessing(slot);
        }
        self.events.extend(sockets.into_iter().map(NodeEvent::OpenPort));
        self.note_guessing(slot);
    }

    /// The shell has bound one.
    pub(super) fn guess_socket_opened(&mut self, socket: PortNo, now: Now) {
        match self.guess_sockets.owner(socket) {
            Some(slot) => {
                let path = self.peers.get_mut(slot).and_then(Peer::path_mut);
                let first = path.is_some_and(|p| p.wants_to_know_socket(socket));
                if !(first && self.observe_socket(socket, now)) {
                    self.guess_socket_observed(socket, &[], now);
                }
            }
            // The attempt has ended meanwhile.
            None => self.events.push_back(NodeEvent::ClosePort(socket)),
        }
    }

    /// STUN has told, or not, what it sees of a fresh socket.
    pub(super) fn guess_socket_observed(&mut self, socket: PortNo, seen: &[Option<SocketAddr>], now: Now) {
        let Some(slot) = self.guess_sockets.owner(socket) else { return };
        let fresh = match seen {
            [Some(before), Some(last)] => Some((*last, delta(*before, *last))),
            _ => None,
        };
        if let Some(path) = self.peers.get_mut(slot).and_then(Peer::path_mut) {
            path.socket_opened(socket, fresh);
        }
        self.drain_path(slot, now);
    }

    /// The shell could not: the attempt goes on with fewer.
    pub(super) fn guess_socket_failed(&mut self, socket: PortNo) {
        self.guess_sockets.owners.remove(&socket);
    }

    /// Closes a peer's sockets for guessing, but one.
    pub(super) fn close_guess_sockets(&mut self, slot: PeerSlot, keep: Option<PortNo>) {
        let gone = self.guess_sockets.take_all_but(slot, keep);
        self.events.extend(gone.into_iter().map(NodeEvent::ClosePort));
    }

    /// After whatever happened to a peer's path.
    pub(super) fn note_guessing(&mut self, slot: PeerSlot) {
        let path = self.peers.get_mut(slot).and_then(Peer::path_mut);
        let guesses = path.is_some_and(|p| p.is_guessing());
        self.guess_sockets.note(slot, guesses);
    }
}
