//! The production relay as a host: `Server`, registrar and the store of a single relay in memory.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use skynet_core::control::DeniedCode;
use skynet_core::control::message::{ConflictWhat, Lookup};
use skynet_core::key::{Identity, PublicKey};
use skynet_core::member::Bundle;
use skynet_core::rng::Rng;
use skynet_core::time::{Instant, Now, earliest};
use skynet_relay::registrar::{GetBy, Refusal, Registrar, find, list};
use skynet_relay::server::{
    Action, ClusterKeys, ConnId, ControlServer, ControlServerConfig, ForwardConfig, Forwarder, Joined,
    Listed, Server, StoreOp, StoreReply, StreamOutput,
};
use skynet_relay::store::{MemoryStore, StoreError};

use super::{Host, MemberNetwork, Queue, StreamCommand, StreamEvent, StreamId, Transmit};

/// UDP and TCP port of a relay.
pub const CONTROL_PORT: u16 = 3478;

/// Bytes given to the control server at once, as its contract asks.
const MAX_FEED: usize = 16 * 1024;

/// Bytes of members in one answer to LIST; more do not fit a control message.
const MAX_LIST_BYTES: usize = 15 * 1024;

/// What a relay may hold back before its turn counts as stuck.
const MAX_OUT: usize = 65_536;

/// The relay. Its store outlives it: a successor in the same place is given the same one.
pub struct RelayHost {
    network: MemberNetwork,
    local: SocketAddr,
    seed: [u8; 32],
    limits: ForwardConfig,
    registrar: Registrar,
    store: Arc<MemoryStore>,
    server: Option<Server>,
    out: VecDeque<Transmit>,
    commands: VecDeque<(StreamId, StreamCommand)>,
}

impl RelayHost {
    /// A relay at `local` that has not started.
    pub fn new(network: MemberNetwork, local: SocketAddr, seed: [u8; 32], store: Arc<MemoryStore>) -> Self {
        let registrar = network.registrar();
        Self {
            network,
            local,
            seed,
            limits: ForwardConfig { max_sessions: 4_096, ..ForwardConfig::default() },
            registrar,
            store,
            server: None,
            out: VecDeque::new(),
            commands: VecDeque::new(),
        }
    }

    /// The same with other limits of the UDP side.
    pub fn with_limits(self, limits: ForwardConfig) -> Self {
        Self { limits, ..self }
    }

    /// The production machine, once started.
    pub const fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Serves the store's requests and collects what goes to streams, until nothing is left.
    fn settle(&mut self, now: Now) {
        let Some(mut server) = self.server.take() else { return };
        loop {
            if let Some(request) = server.control.poll_store_request() {
                let reply = self.serve(request.op, now);
                server.control.handle_store_reply(request.id, reply, now);
            } else if let Some(output) = server.control.poll_stream_write() {
                match output {
                    StreamOutput::Bytes(conn, bytes) => {
                        server.control.handle_stream_written(conn, bytes.len());
                        self.commands.push_back((StreamId(conn.0), StreamCommand::Send(bytes)));
                    }
                    StreamOutput::Close(conn) => {
                        self.commands.push_back((StreamId(conn.0), StreamCommand::Close));
                    }
                }
            } else {
                break;
            }
        }
        self.server = Some(server);
    }

    fn serve(&self, op: StoreOp, now: Now) -> StoreReply {
        let done = match op {
            StoreOp::Join { bundle, key } => {
                self.registrar.join(&bundle, &key, &*self.store, now.unix).map(|plan| {
                    StoreReply::Joined(Box::new(Joined {
                        network_id: self.registrar.trust().network_id().0,
                        identity: plan.identity,
                        node_no: plan.node_no,
                        receipt: plan.receipt,
                        genesis: self.network.genesis().to_vec(),
                        manifest: self.network.manifest().to_vec(),
                    }))
                })
            }
            StoreOp::Update { identity, record, .. } => self
                .key_of(identity)
                .and_then(|key| self.registrar.update(&record, &key, &*self.store).map(StoreReply::Done)),
            StoreOp::Leave { identity, .. } => self
                .key_of(identity)
                .and_then(|key| self.registrar.leave(&key, &*self.store).map(|()| StoreReply::Done(0))),
            StoreOp::Get { lookup, .. } => self.get(lookup).map_err(Refusal::from),
            StoreOp::List { after, limit, .. } => self.list(after, limit).map_err(Refusal::from),
        };
        done.unwrap_or_else(|refusal| match refusal {
            Refusal::AddressTaken => StoreReply::Conflict(ConflictWhat::Ipv4),
            Refusal::NameTaken => StoreReply::Conflict(ConflictWhat::Name),
            Refusal::Denied { code, text } => {
                let code = DeniedCode::from_u16(code as u16).unwrap_or(DeniedCode::TryAgain);
                StoreReply::Denied(code, text)
            }
        })
    }

    /// The session key the directory holds for a joined member.
    fn key_of(&self, identity: Identity) -> Result<PublicKey, Refusal> {
        let found = find(&*self.store, &GetBy::Identity(identity))?;
        let bundle = Bundle::parse(&found.unwrap_or_default())?;
        Ok(bundle.binding.unverified().x25519)
    }

    fn get(&self, lookup: Lookup) -> Result<StoreReply, StoreError> {
        let by = match lookup {
            Lookup::Key(key) => GetBy::Key(key),
            Lookup::Identity(identity) => GetBy::Identity(identity),
            Lookup::Ipv4(address) => GetBy::V4(address),
            Lookup::Ipv6(address) => GetBy::V6(address),
            Lookup::Name(name) => match name.parse() {
                Ok(name) => GetBy::Name(name),
                Err(_) => return Ok(StoreReply::NotFound),
            },
        };
        Ok(find(&*self.store, &by)?.and_then(listed).map_or(StoreReply::NotFound, StoreReply::Found))
    }

    fn list(&self, after: u32, limit: u16) -> Result<StoreReply, StoreError> {
        let (page, more) = list(&*self.store, after, usize::from(limit), MAX_LIST_BYTES)?;
        Ok(StoreReply::Listed(more, page.into_iter().filter_map(|(_, bundle)| listed(bundle)).collect()))
    }
}

fn listed(bundle: Vec<u8>) -> Option<Listed> {
    let identity = Bundle::parse(&bundle).ok()?.certificate.unverified().identity;
    Some(Listed { identity, bundle })
}

impl Host for RelayHost {
    fn on_start(&mut self, now: Now) {
        let mut rng = Rng::from_seed(self.seed);
        let keys = ClusterKeys::new((1, self.network.cluster_key()), []);
        let config = ControlServerConfig::new(1, self.network.relay_key());
        self.server = Some(Server {
            forwarder: Forwarder::new(self.limits.clone(), keys.clone(), rng.fork(), now.mono),
            control: ControlServer::new(config, keys, rng),
        });
    }

    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, mut bytes: Vec<u8>, now: Now) {
        let Some(server) = &mut self.server else { return };
        if local.port() != CONTROL_PORT {
            return;
        }
        let to = match server.forwarder.handle_datagram(from, &mut bytes, now) {
            Action::Forward { to } => to,
            Action::Reply { len } => {
                bytes.truncate(len);
                from
            }
            Action::Drop(_) => return,
        };
        self.out.push_back(Transmit { from: self.local, to, ttl: None, bytes });
    }

    fn on_timer(&mut self, now: Now) {
        if let Some(server) = &mut self.server {
            server.forwarder.handle_timeout(now.mono);
            server.control.handle_timeout(now);
        }
        self.settle(now);
    }

    fn on_stream(&mut self, stream: StreamId, event: StreamEvent, now: Now) {
        let Some(server) = &mut self.server else { return };
        let conn = ConnId(stream.0);
        match event {
            StreamEvent::Accepted { from, .. } => {
                if !server.control.handle_stream_opened(conn, from, now) {
                    self.commands.push_back((stream, StreamCommand::Close));
                }
            }
            StreamEvent::Bytes(bytes) => {
                bytes.chunks(MAX_FEED).for_each(|part| server.control.handle_stream_bytes(conn, part, now));
            }
            StreamEvent::Closed => server.control.handle_stream_closed(conn),
            StreamEvent::Connected => {}
        }
        self.settle(now);
    }

    fn listens_on(&self, local: SocketAddr) -> bool {
        local == self.local
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    fn poll_stream(&mut self) -> Option<(StreamId, StreamCommand)> {
        self.commands.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let server = self.server.as_ref()?;
        earliest(Some(server.forwarder.poll_timeout()), server.control.poll_timeout())
    }

    fn timer_name(&self) -> String {
        "relay".to_owned()
    }

    fn queues(&self) -> Vec<Queue> {
        vec![
            Queue { name: "relay datagrams out", len: self.out.len(), cap: 1 },
            Queue { name: "relay stream commands", len: self.commands.len(), cap: MAX_OUT },
        ]
    }
}
