//! Who is a peer: members the directory knows, and peers of the configuration.

use core::net::IpAddr;
use std::sync::Arc;

use crate::drop::DropReason;
use crate::id::PeerSlot;
use crate::member::NetworkTrust;
use crate::node::config::StockPeer;
use crate::node::directory::Inserted;
use crate::node::membership::{MembershipAgent, MembershipEvent};
use crate::node::peers::Kind;
use crate::node::{Node, NodeEvent};
use crate::path::StockPath;
use crate::session::{PeerPsk, Session, SessionConfig, Tai64n};
use crate::time::Now;

impl Node {
    /// What is known of the network, once joined.
    pub(super) fn trust(&self) -> Option<&NetworkTrust> {
        Some(self.membership.as_ref()?.credentials()?.trust())
    }

    /// Talks to nobody any more as soon as no registrar has said for a day what is in force, until one says it.
    pub fn fail_closed(&mut self, now: Now) {
        if let Some(membership) = &mut self.membership {
            membership.fail_closed(now);
        }
        self.settle(now);
    }

    /// Passes on what the membership says and asks for.
    pub(super) fn drain_membership(&mut self, now: Now) {
        while let Some(event) = self.membership.as_mut().and_then(|m| m.poll_event()) {
            match event {
                MembershipEvent::Connect(address) => {
                    self.control_address = Some(address);
                    self.events.push_back(NodeEvent::ConnectControl(address));
                }
                MembershipEvent::Send(bytes) => self.events.push_back(NodeEvent::SendControl(bytes)),
                MembershipEvent::Close => self.events.push_back(NodeEvent::CloseControl),
                MembershipEvent::Persist(blob) => self.events.push_back(NodeEvent::Persist(blob)),
                MembershipEvent::PersistRoster(roster) => {
                    self.events.push_back(NodeEvent::PersistRoster(roster));
                }
                MembershipEvent::JoinFailed { reason, fatal } => {
                    self.events.push_back(NodeEvent::JoinFailed { reason, fatal });
                }
                MembershipEvent::Alarm(reason) => self.events.push_back(NodeEvent::Alarm(reason)),
                MembershipEvent::Joined(welcome) => {
                    if let Some(addresses) = self.membership.as_ref().and_then(|m| m.addresses()) {
                        self.events.push_back(NodeEvent::Joined(addresses));
                    }
                    self.dirty = true;
                    self.tend_serving(now);
                    self.on_ticket(&welcome, now);
                    self.publish_record(now);
                    self.look_up_remembered(now);
                }
                MembershipEvent::Learned { member, inserted } => self.on_learned(*member, inserted, now),
                MembershipEvent::KeysChanged => self.take_keys(now),
                MembershipEvent::Policy => self.apply_policy(),
                MembershipEvent::Relays => self.on_relay_list(now),
                MembershipEvent::Gone(key) => {
                    self.end_relaying_with(&key);
                    if let Some(slot) = self.peers.by_key(&key) {
                        self.remove_peer(slot, now);
                    }
                    // It may be that nobody is a peer any more.
                    self.tend_serving(now);
                }
                // What waits for an answer that did not come is forgotten by its age.
                MembershipEvent::NotFound(lookup) => tracing::debug!(?lookup, "nobody answers to this"),
            }
        }
        if self.membership.as_mut().is_some_and(MembershipAgent::take_roster_change) {
            self.events.push_back(NodeEvent::RosterChanged);
        }
    }

    /// The directory holds something new: peers follow, and what waited goes on.
    pub(super) fn on_learned(&mut self, member: crate::member::Member, inserted: Inserted, now: Now) {
        let member = Arc::new(member);
        if let Inserted::Newer { old_key: Some(old_key) } = inserted
            && let Some(slot) = self.peers.by_key(&old_key)
        {
            self.rekey_member(slot, &member, now);
            self.compile_policy(slot);
        }
        if let (Some(slot), Inserted::Newer { old_key: None }) =
            (self.peers.by_key(&member.x25519()), inserted)
        {
            self.refresh_member(slot, &member, now);
            self.compile_policy(slot);
        }
        if inserted == Inserted::Full {
            return;
        }
        self.greet_if_remembered(&member, now);
        for address in [IpAddr::V4(member.v4()), IpAddr::V6(member.v6())] {
            if let Some(mut staged) = self.unresolved.take(address)
                && let Some(slot) = self.add_member(&member, now)
            {
                let (packets, stale) = staged.drain(now.mono);
                self.drops.add(DropReason::NoPeer, stale as u64);
                for packet in packets {
                    let _counted = self.on_stage(slot, packet, now);
                }
            }
        }
        self.resume_initiation(&member.x25519(), now);
    }

    /// Takes a peer away: its keys stop sealing, the snapshot loses it, then its opening keys go.
    pub(super) fn remove_peer(&mut self, slot: PeerSlot, now: Now) {
        let _closed = self.with_session(slot, |peer, cx| {
            peer.session.close(cx);
            Ok(())
        });
        self.drain_session(slot, now);
        self.tags.remove_peer(slot);
        self.peers.remove(slot);
        self.close_guess_sockets(slot, None);
        self.note_guessing(slot);
        self.dirty = true;
        self.lanes_changed = true;
    }

    /// A peer of the configuration.
    pub(super) fn add_stock(&mut self, configured: StockPeer) {
        let config = SessionConfig {
            peer: configured.public_key,
            psk: PeerPsk::stock(configured.preshared_key.as_ref()),
            persistent_keepalive: configured.persistent_keepalive,
            certified: false,
            greatest_timestamp: Tai64n::ZERO,
        };
        let kind = Kind::Stock {
            name: configured.public_key.to_string(),
            path: StockPath::new(configured.endpoint),
            addresses: configured
                .allowed_ips
                .iter()
                .filter_map(crate::allowed_ips::Prefix::as_host)
                .collect(),
            allowed_ips: configured.allowed_ips,
        };
        self.peers.insert(kind, Session::new(config));
        self.dirty = true;
    }
}
