//! What the store has answered, as whoever asked hears it.

use skynet_core::control::Message;
use skynet_core::control::channel::MAX_MESSAGE;
use skynet_core::control::message::{HEADER_LEN, MAX_BUNDLE, Member, member_len};
use skynet_core::time::{Instant, Now};

use super::{ConnId, ControlServer, Listed, StoreReply};
use crate::server::connection::{Connection, JOIN_DEADLINE, denied_within};

/// Who waits for an answer.
pub(super) struct Asked {
    pub(super) conn: ConnId,
    pub(super) request: u32,
    /// It then has left.
    pub(super) leaves: bool,
}

impl ControlServer {
    /// The answer to a [`StoreRequest`](super::StoreRequest).
    pub fn handle_store_reply(&mut self, id: u64, reply: StoreReply, now: Now) {
        self.last_now = self.last_now.max(now.mono);
        let reply = match reply {
            StoreReply::InForce(in_force) => return self.on_in_force(*in_force, now.mono),
            StoreReply::Ephemeral(members) => return self.on_ephemeral(members, now.mono),
            reply => reply,
        };
        let Some(asked) = self.asked.remove(&id) else { return };
        let Some(connection) = self.connections.get_mut(&asked.conn) else { return };
        connection.pending -= 1;
        let stranger = connection.member.is_none();
        let message = match reply {
            StoreReply::Joined(joined) => match self.fence(asked.conn, asked.request, *joined, now) {
                Some(joined) => self.welcome(asked.conn, joined, now),
                None => return,
            },
            StoreReply::Conflict(what) => Message::Conflict(what),
            StoreReply::Denied(code, text) => Message::denied(code, &text),
            StoreReply::Done(version) => Message::Ack(version),
            StoreReply::NotFound => Message::NoPeer,
            StoreReply::Found(found) => Message::Peer(self.describe(asked.conn, found)),
            StoreReply::Listed(more, members) => self.members(asked.conn, more, members),
            StoreReply::Manifest(bytes) => Message::Manifest(bytes),
            StoreReply::InForce(_) | StoreReply::Ephemeral(_) => return,
        };
        if asked.leaves && matches!(message, Message::Ack(_)) {
            self.set_offline(asked.conn, now.mono);
        }
        let message = match message {
            Message::Denied(code, text) if stranger => {
                let room = self.connections.get(&asked.conn).map_or(0, Connection::room);
                let Some(cut) = denied_within(room, code, &text) else { return };
                cut
            }
            message => message,
        };
        self.answer(asked.conn, asked.request, &message, now.mono);
    }

    fn describe(&self, conn: ConnId, found: Listed) -> Member {
        let network = self.connections.get(&conn).and_then(|c| c.member).map(|m| m.network_id);
        let online = network.is_some_and(|network_id| self.is_online(network_id, found.identity));
        Member { online, bundle: found.bundle }
    }

    /// As many members as fit a frame.
    fn members(&self, conn: ConnId, mut more: bool, listed: Vec<Listed>) -> Message {
        let mut room = MAX_MESSAGE - HEADER_LEN - 1;
        let mut members = Vec::new();
        for found in listed {
            if found.bundle.len() > MAX_BUNDLE {
                continue;
            }
            let Some(left) = room.checked_sub(member_len(found.bundle.len())) else {
                more = true;
                break;
            };
            room = left;
            members.push(self.describe(conn, found));
        }
        Message::Members { more, members }
    }

    /// Says it; what brings the manifest is followed by the other documents in force.
    pub(super) fn answer(&mut self, conn: ConnId, request: u32, message: &Message, now: Instant) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.member.is_none() {
            connection.deadline = now + JOIN_DEADLINE;
        }
        let manifest = match message {
            Message::Welcome(welcome) => Some(&welcome.manifest),
            Message::Manifest(manifest) => Some(manifest),
            _ => None,
        };
        if let Some(manifest) = manifest {
            connection.has_manifest = self.bulletin.number_of(manifest);
        }
        match connection.send(request, message) {
            Ok(()) => self.flush(conn),
            Err(reason) => self.close(conn, reason),
        }
        if manifest.is_some() {
            self.tell(conn);
        }
    }
}
