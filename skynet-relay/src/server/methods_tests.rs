//! Every request by everybody, over real channels at a real registrar: what is answered.

use std::sync::Arc;

use skynet_core::control::message::{BootEpoch, Lookup};
use skynet_core::control::roll::Roll;
use skynet_core::control::{Channel, DeniedCode};
use skynet_core::key::{Secret, StaticSecret};
use skynet_core::member::Credentials;
use skynet_core::time::{Instant, Now};

use super::*;
use crate::io::control::Directory as _;
use crate::io::directory::LocalDirectory;
use crate::registrar::tests::{NOW, World};
use crate::server::{ClusterKeys, ConnId, ControlServer, ControlServerConfig, StreamOutput};
use crate::store::MemoryStore;

/// What comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// What was asked for.
    Yes,
    /// DENIED.
    No(DeniedCode),
    /// Nothing at all, and the connection ends.
    Silence,
}

use Answer::{No, Silence, Yes};
use DeniedCode::{Malformed, NotJoined, NotProven, TokenRevoked};

struct Bench {
    server: ControlServer,
    directory: LocalDirectory<Arc<MemoryStore>>,
    relay: StaticSecret,
    now: Now,
    world: World,
    next: u64,
}

/// The node, another member, one that was revoked, and the key of another relay of the network.
struct Cast {
    node: Credentials,
    other: Credentials,
    revoked: Credentials,
    relay: StaticSecret,
}

impl Bench {
    fn new() -> (Self, Cast) {
        let mut world = World::new();
        let token = world.token(|_| ());
        let [node, other, revoked] = ["node", "other", "revoked"].map(|name| world.joined(&token, name));
        world.revoke(1, &[&revoked], &[]);
        let (relay, further) = (StaticSecret::random(&mut world.rng), StaticSecret::random(&mut world.rng));
        let config = ControlServerConfig {
            network_id: world.registrar.trust().network_id().0,
            ..ControlServerConfig::new(1, relay.clone())
        };
        let keys = ClusterKeys::new((1, Secret::from_bytes([1; 32])), []);
        let server = ControlServer::new(config, keys, world.rng.fork());
        let store = Arc::new(std::mem::take(&mut world.store));
        let directory = LocalDirectory::new(world.registrar.clone(), store);
        let now = Now { mono: Instant::ZERO, unix: NOW, unix_nanos: 0 };
        let mut bench = Self { server, directory, relay, now, world, next: 1 };
        bench.server.handle_timeout(now);
        bench.settle(None);
        bench.server.set_relays(vec![further.public()]);
        (bench, Cast { node, other, revoked, relay: further })
    }

    /// Serves the store and returns what is said on `conn`, and whether it was closed.
    fn settle(&mut self, conn: Option<ConnId>) -> (Vec<u8>, bool) {
        let (mut said, mut closed) = (Vec::new(), false);
        loop {
            if let Some(request) = self.server.poll_store_request() {
                let reply = self.directory.execute(request.op, self.now.unix);
                self.server.handle_store_reply(request.id, reply, self.now);
            } else if let Some(output) = self.server.poll_stream_write() {
                match output {
                    StreamOutput::Bytes(to, bytes) if Some(to) == conn => said.extend(bytes),
                    StreamOutput::Close(of) => closed |= Some(of) == conn,
                    StreamOutput::Bytes(..) => {}
                }
            } else {
                return (said, closed);
            }
        }
    }

    /// Opens a connection, proves `key`, joins with `join` if given, and then asks `message`.
    fn ask(&mut self, key: Option<&StaticSecret>, join: Option<&Credentials>, message: &Message) -> Answer {
        let conn = ConnId(self.next);
        self.next += 1;
        assert!(self.server.handle_stream_opened(conn, ([192, 0, 2, 1], 7).into(), self.now));
        let Some(key) = key else {
            // Whoever proves nothing can only shout.
            let bytes = message.encode(1).unwrap();
            let framed = [&(bytes.len() as u16).to_be_bytes()[..], &bytes, &[0; 200]].concat();
            self.server.handle_stream_bytes(conn, &framed, self.now);
            let (said, closed) = self.settle(Some(conn));
            assert!(said.is_empty());
            return if closed { Silence } else { Yes };
        };
        let mut channel = Channel::initiator(key, &self.relay.public(), &mut self.world.rng, self.now.mono);
        if let Some(credentials) = join {
            channel_exchange(self, conn, &mut channel);
            let bundle = credentials.bundle().encode();
            channel.send(&Message::Join(bundle).encode(7).unwrap()).unwrap();
        }
        channel_exchange(self, conn, &mut channel);
        while let Ok(Some(_)) = channel.poll_message() {}
        channel.send(&message.encode(9).unwrap()).unwrap();
        channel_exchange(self, conn, &mut channel);
        let mut answer = Silence;
        while let Ok(Some(bytes)) = channel.poll_message() {
            if let Ok((9, message)) = Message::parse(&bytes) {
                answer = match message {
                    Message::Denied(code, _) => No(DeniedCode::from_u16(code).unwrap()),
                    _ => Yes,
                };
            }
        }
        self.server.handle_stream_closed(conn, self.now);
        answer
    }
}

fn channel_exchange(bench: &mut Bench, conn: ConnId, channel: &mut Channel) {
    loop {
        let mut moved = false;
        while let Some(bytes) = channel.poll_bytes() {
            bench.server.handle_stream_bytes(conn, &bytes, bench.now);
            moved = true;
        }
        let (said, _) = bench.settle(Some(conn));
        if !said.is_empty() {
            channel.feed(&said).unwrap();
            moved = true;
        }
        if !moved {
            return;
        }
    }
}

/// D11. Columns: no key proven; a stranger's; that of a member that has not joined on this connection; a revoked node's;
/// another member's, joined, about the node's affairs; the node's own, joined; another relay's.
#[test]
fn every_request_by_everybody_is_answered_as_the_table_says() {
    let (mut bench, mut cast) = Bench::new();
    let record = |c: &mut Credentials| c.sign_record(vec![], vec![], NOW).unwrap().bytes().to_vec();
    let (bundle, update) = (cast.node.bundle().encode(), record(&mut cast.node));
    let revoked = cast.revoked.bundle().encode();
    let lookup = Lookup::Name("node".into());
    let no = No(NotJoined);
    let rows: [(&str, Message, [Answer; 7]); 16] = [
        (
            "JOIN as the node",
            Message::Join(bundle),
            [Silence, No(NotProven), Yes, No(NotProven), No(NotProven), Yes, No(NotProven)],
        ),
        (
            "JOIN as the revoked one",
            Message::Join(revoked),
            [
                Silence,
                No(TokenRevoked),
                No(TokenRevoked),
                No(TokenRevoked),
                No(TokenRevoked),
                No(TokenRevoked),
                No(TokenRevoked),
            ],
        ),
        ("PING", Message::Ping(1), [Silence, Yes, Yes, Yes, Yes, Yes, Yes]),
        ("UPDATE of the node", Message::Update(update), [Silence, no, no, no, No(NotProven), Yes, no]),
        ("GET", Message::Get(lookup), [Silence, no, no, no, Yes, Yes, Yes]),
        ("LIST", Message::List { after: 0, limit: 9 }, [Silence, no, no, no, Yes, Yes, Yes]),
        ("GETMANIFEST", Message::GetManifest, [Silence, no, no, no, no, no, Yes]),
        ("WELCOME's neighbour ACK", Message::Ack(1), [Silence, no, no, no, No(Malformed), No(Malformed), no]),
        ("PEER", Message::NoPeer, [Silence, no, no, no, No(Malformed), No(Malformed), no]),
        ("MANIFEST", Message::Manifest(vec![1]), [Silence, no, no, no, No(Malformed), No(Malformed), no]),
        ("DOCUMENT", Message::Document(vec![1]), [Silence, no, no, no, No(Malformed), No(Malformed), no]),
        ("WATCH", Message::Watch(None), [Silence, no, no, no, Yes, Yes, no]),
        ("ROLL", Message::Roll(Roll::default()), [Silence, no, no, no, No(Malformed), No(Malformed), no]),
        // Not answered where it is allowed.
        ("START", Message::Start(BootEpoch { started_ms: 1, nonce: 1 }), [Silence; 7]),
        ("BYE", Message::Bye, [Silence, no, no, no, Silence, Silence, no]),
        // Last: it takes whoever may out of the directory.
        ("LEAVE", Message::Leave, [Silence, no, no, no, Yes, Yes, no]),
    ];
    let stranger = StaticSecret::random(&mut bench.world.rng);
    let mut wrong = Vec::new();
    for (name, message, expected) in &rows {
        let key = |c: &Credentials| c.node().static_secret.clone();
        let callers = [
            (None, None),
            (Some(stranger.clone()), None),
            (Some(key(&cast.node)), None),
            (Some(key(&cast.revoked)), None),
            (Some(key(&cast.other)), Some(&cast.other)),
            (Some(key(&cast.node)), Some(&cast.node)),
            (Some(cast.relay.clone()), None),
        ];
        for (column, ((key, join), expected)) in callers.iter().zip(expected).enumerate() {
            let answer = bench.ask(key.as_ref(), *join, message);
            if answer != *expected {
                wrong.push(format!("{name}, column {column}: {answer:?} instead of {expected:?}"));
            }
        }
    }
    println!("{} requests by 7 callers, {} wrong answers", rows.len(), wrong.len());
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_table_has_every_method_once() {
    use Method::{Bye, Get, GetManifest, Join, Leave, List, Ping, Pong, Start, Update, Watch};
    for method in [Join, Ping, Update, Get, List, Leave, GetManifest, Watch, Bye, Start, Pong] {
        assert_eq!(TABLE.iter().filter(|(m, _)| *m == method).count(), 1, "{method:?}");
    }
}
