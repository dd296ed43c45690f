//! Who is here: a member from its WELCOME until its connection closes or it leaves.

use skynet_core::control::Message;
use skynet_core::control::message::Welcome;
use skynet_core::control::roll::Presence;
use skynet_core::key::Identity;
use skynet_core::rng::RngCore as _;
use skynet_core::time::{Instant, Now};
use skynet_core::wire::relay::{Ticket, bind_key};

use super::room::release;
use super::{ConnId, ControlServer, Joined};
use crate::server::connection::{JOIN_DEADLINE, MemberKey};
use crate::server::limit::prefix;
use crate::server::unix_ms;

impl ControlServer {
    /// Whether a member's control channel is open here.
    pub fn is_online(&self, network_id: [u8; 8], identity: Identity) -> bool {
        self.online.contains_key(&MemberKey { network_id, identity })
    }

    /// Enters the member as online and mints its ticket.
    pub(super) fn welcome(&mut self, conn: ConnId, joined: Joined, now: Now) -> Message {
        let Joined { who, announce, receipt, genesis, manifest } = joined;
        let member = MemberKey::of(&who);
        if let (Some(connection), true) = (self.connections.get_mut(&conn), who.ephemeral) {
            connection.ephemeral = true;
        }
        self.set_online(conn, member, now.mono);
        self.unheard.heard(&member);
        self.rolls.arrived(member, &who, now.mono);
        if let Some(bundle) = announce {
            self.announce(member, bundle, now.mono);
        }
        let (kid, cluster_key) = self.keys.current();
        let ticket = Ticket {
            kid,
            rate_class: self.config.rate_class(&who.tags),
            node_no: who.node_no,
            network_id: who.network_id,
            not_after: now.unix.0.saturating_add(self.config.ticket_lifetime_s),
            issue_nonce: self.rng.next_u64(),
            identity_hash: Ticket::hash_identity(&who.identity),
        }
        .mint(cluster_key);
        let observed = self.connections[&conn].peer;
        Message::Welcome(Box::new(Welcome {
            relay_unix_ms: unix_ms(now),
            observed,
            ticket,
            bind_key: bind_key(cluster_key, &ticket),
            relay_no: self.config.relay_no,
            receipt,
            genesis,
            manifest,
        }))
    }

    fn set_online(&mut self, conn: ConnId, member: MemberKey, now: Instant) {
        let connection = self.connections.get_mut(&conn).expect("the caller just looked it up");
        match connection.member.replace(member) {
            None => {
                let source = prefix(connection.peer.ip());
                release(&mut self.unjoined, source, conn);
            }
            Some(old) if old != member => {
                if self.online.get(&old) == Some(&conn) {
                    self.online.remove(&old);
                    self.rolls.closed(old, now);
                }
            }
            Some(_) => {}
        }
        connection.joins = 0;
        connection.heard(0, now);
        self.online.insert(member, conn);
    }

    /// After LEAVE the connection is one that has not joined.
    pub(super) fn set_offline(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Some(member) = connection.member.take() {
            self.unjoined.entry(prefix(connection.peer.ip())).or_default().insert(conn);
            connection.deadline = now + JOIN_DEADLINE;
            if self.online.get(&member) == Some(&conn) {
                self.online.remove(&member);
            }
            self.rolls.gone(member, Presence::Left, now);
            self.arm(conn);
        }
    }
}
