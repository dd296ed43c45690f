//! What connections ask: by the table of methods let through, refused, or handed to the store.

use skynet_core::control::message::MessageError;
use skynet_core::control::{DeniedCode, Message};
use skynet_core::time::Instant;

use super::{Asked, ConnId, ControlServer, StoreOp, StoreRequest};
use crate::server::StreamDrop;
use crate::server::connection::{JOIN_DEADLINE, MAX_JOINS, MAX_PENDING, REQUEST_RATE};
use crate::server::methods::{Method, Standing};

/// Most members asked of the store at once; a frame holds fewer.
const MAX_LISTED: u16 = 256;

impl ControlServer {
    pub(super) fn on_message(&mut self, conn: ConnId, bytes: &[u8], now: Instant) -> Result<(), StreamDrop> {
        let connection = self.connections.get_mut(&conn).expect("the caller just looked it up");
        let (request, message) = match Message::parse(bytes) {
            Ok(parsed) => parsed,
            Err(MessageError::UnknownType { request: 0, .. }) => return Ok(()),
            Err(MessageError::UnknownType { request, .. }) => {
                let text = "this relay does not know that request";
                return connection.refuse(request, DeniedCode::Malformed, text);
            }
            Err(_) => {
                return connection.refuse(0, DeniedCode::Malformed, "malformed message");
            }
        };
        let key = connection.channel.remote().ok_or(StreamDrop::BrokenChannel)?;
        let standing = match connection.member {
            Some(_) => Standing::Member,
            None if self.config.relays.contains(&key) => Standing::Relay,
            None => Standing::Pending,
        };
        let method = Method::of(&message);
        if method == Some(Method::Ping)
            && let Message::Ping(t) = message
        {
            return connection.send(request, &Message::Pong(t));
        }
        let (rate, burst) = REQUEST_RATE;
        if connection.pending >= MAX_PENDING || !connection.requests.take(1, rate, burst, now) {
            return connection.refuse(request, DeniedCode::TryAgain, "too many requests");
        }
        match method {
            Some(method) if method.is_open_to(standing) => self.serve(conn, request, message, now),
            None if standing == Standing::Member => {
                connection.refuse(request, DeniedCode::Malformed, "this message is not a request")
            }
            _ => {
                let text = match standing {
                    Standing::Pending => "join first",
                    Standing::Relay => "a relay may only ask for members and the manifest",
                    Standing::Member => "only another relay of the network may ask this",
                };
                connection.refuse(request, DeniedCode::NotJoined, text)
            }
        }
    }

    /// A request that the table of methods lets through.
    fn serve(
        &mut self,
        conn: ConnId,
        request: u32,
        message: Message,
        now: Instant,
    ) -> Result<(), StreamDrop> {
        let connection = self.connections.get(&conn).ok_or(StreamDrop::BrokenChannel)?;
        let key = connection.channel.remote().ok_or(StreamDrop::BrokenChannel)?;
        let member = connection.member;
        let network_id = member.map_or(self.config.network_id, |member| member.network_id);
        let identity = member.map(|member| member.identity);
        let op = match message {
            Message::Join(bundle) => return self.on_join(conn, request, bundle, now),
            Message::Watch(tags) => return self.on_watch(conn, request, tags, now),
            Message::Bye => {
                self.on_bye(conn, now);
                return Ok(());
            }
            Message::Start(epoch) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.epoch = Some(epoch);
                }
                return Ok(());
            }
            Message::Pong(t) => {
                self.on_alive(conn, t);
                return Ok(());
            }
            Message::Update(record) => {
                identity.map(|identity| StoreOp::Update { network_id, identity, key, record })
            }
            Message::Leave => identity.map(|identity| StoreOp::Leave { network_id, identity, key }),
            Message::Get(lookup) => Some(StoreOp::Get { network_id, lookup }),
            Message::List { after, limit } => {
                Some(StoreOp::List { network_id, after, limit: limit.min(MAX_LISTED) })
            }
            Message::GetManifest => Some(StoreOp::Manifest),
            _ => None,
        };
        // The table lets nobody else get here.
        let op = op.ok_or(StreamDrop::BrokenChannel)?;
        self.ask(conn, request, op);
        Ok(())
    }

    fn on_join(
        &mut self,
        conn: ConnId,
        request: u32,
        bundle: Vec<u8>,
        now: Instant,
    ) -> Result<(), StreamDrop> {
        let connection = self.connections.get_mut(&conn).expect("the caller just looked it up");
        let key = connection.channel.remote().ok_or(StreamDrop::BrokenChannel)?;
        if connection.joins >= MAX_JOINS {
            return Err(StreamDrop::JoinDeadline);
        }
        connection.joins += 1;
        if self.drain_next.is_some() {
            let text = "this relay is going away, another lets you in";
            return connection.send(request, &Message::denied(DeniedCode::TryAgain, text));
        }
        if connection.member.is_none() {
            // The store's time is not the node's.
            connection.deadline = now + 2 * JOIN_DEADLINE;
        } else {
            connection.joins = 0;
        }
        self.ask(conn, request, StoreOp::Join { bundle, key });
        Ok(())
    }

    fn ask(&mut self, conn: ConnId, request: u32, op: StoreOp) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.pending += 1;
        let id = self.next_id;
        self.next_id += 1;
        let leaves = matches!(op, StoreOp::Leave { .. });
        self.asked.insert(id, Asked { conn, request, leaves });
        self.requests.push_back(StoreRequest { id, op });
    }
}
