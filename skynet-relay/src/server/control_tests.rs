use skynet_core::control::message::{Lookup, Member};
use skynet_core::control::{ControlClient, ControlConfig, ControlEvent, ControlTarget, DeniedCode, Message};
use skynet_core::key::{Identity, Secret};
use skynet_core::time::{Duration, UnixTime};
use skynet_core::wire::relay::{Ticket, bind_key};

use super::*;

#[path = "control/bulletin_tests.rs"]
mod bulletin;

pub(super) const NET: [u8; 8] = *b"network1";

pub(super) struct World {
    pub(super) now: Now,
    pub(super) server: ControlServer,
    relay_key: StaticSecret,
    rng: Rng,
    next_conn: u64,
}

/// A node and its connection.
pub(super) struct Node {
    pub(super) conn: ConnId,
    pub(super) client: ControlClient,
    pub(super) events: Vec<ControlEvent>,
    closed: bool,
}

impl World {
    pub(super) fn new() -> Self {
        let mut rng = Rng::from_seed([3; 32]);
        let relay_key = StaticSecret::random(&mut rng);
        let keys = ClusterKeys::new((1, Secret::from_bytes([1; 32])), []);
        let mut server = ControlServer::new(ControlServerConfig::new(1, relay_key.clone()), keys, rng.fork());
        let now = Now { mono: Instant::ZERO, unix: UnixTime(1_800_000_000), unix_nanos: 5_000_000 };
        server.handle_timeout(now);
        let asked = server.poll_store_request().expect("what is in force is asked first");
        assert_eq!(asked, StoreRequest { id: 0, op: StoreOp::InForce });
        let asked = server.poll_store_request().expect("then who may have gone unseen");
        assert_eq!(asked, StoreRequest { id: 0, op: StoreOp::Ephemeral });
        Self { now, server, relay_key, rng, next_conn: 1 }
    }
    fn open(&mut self, from: &str) -> Option<ConnId> {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.server.handle_stream_opened(conn, from.parse().unwrap(), self.now).then_some(conn)
    }
    fn connect(&mut self, from: &str) -> Node {
        let conn = self.open(from).expect("accepted");
        let config = ControlConfig {
            local: StaticSecret::random(&mut self.rng),
            targets: vec![ControlTarget {
                relay_no: 1,
                relay: self.relay_key.public(),
                address: "192.0.2.99:3478".parse().unwrap(),
            }],
        };
        let mut client = ControlClient::new(config, self.rng.fork(), self.now.mono);
        client.handle_connected(self.now.mono);
        let mut node = Node { conn, client, events: vec![], closed: false };
        self.exchange(&mut node);
        node
    }
    pub(super) fn join(&mut self, from: &str, identity: u8) -> Node {
        self.join_as(from, identity, &Tags::default())
    }
    pub(super) fn join_as(&mut self, from: &str, identity: u8, tags: &Tags) -> Node {
        let mut node = self.connect(from);
        node.client.join(vec![identity; 30], self.now.mono);
        self.exchange(&mut node);
        let request = self.server.poll_store_request().expect("JOIN at the registrar");
        let StoreOp::Join { bundle, .. } = &request.op else { panic!("{request:?}") };
        assert_eq!(bundle, &[identity; 30]);
        let who = Enrolled { tags: tags.clone(), ..enrolled(identity) };
        let joined = Joined { who, ..joined(identity) };
        self.reply(&mut node, request.id, StoreReply::Joined(Box::new(joined)));
        assert!(node.client.is_joined());
        node
    }
    fn reply(&mut self, node: &mut Node, id: u64, reply: StoreReply) {
        self.server.handle_store_reply(id, reply, self.now);
        self.exchange(node);
    }
    /// Moves bytes both ways until quiet.
    pub(super) fn exchange(&mut self, node: &mut Node) {
        loop {
            let mut moved = false;
            while let Some(bytes) = node.client.poll_bytes() {
                self.server.handle_stream_bytes(node.conn, &bytes, self.now);
                moved = true;
            }
            while let Some(output) = self.server.poll_stream_write() {
                match output {
                    StreamOutput::Bytes(conn, bytes) => {
                        assert_eq!(conn, node.conn, "bytes for another");
                        self.server.handle_stream_written(conn, bytes.len());
                        node.client.handle_bytes(&bytes, self.now.mono);
                    }
                    StreamOutput::Close(conn) => node.closed |= conn == node.conn,
                }
                moved = true;
            }
            while let Some(event) = node.client.poll_event() {
                node.events.push(event);
            }
            if !moved {
                return;
            }
        }
    }
    pub(super) fn pass(&mut self, duration: Duration) {
        self.now.mono = self.now.mono + duration;
        self.now.unix = self.now.unix.plus_secs(duration.as_secs());
        self.server.handle_timeout(self.now);
    }
}

pub(super) fn enrolled(identity: u8) -> Enrolled {
    Enrolled {
        network_id: NET,
        identity: Identity([identity; 32]),
        node_no: 0x0a00_0000 + u32::from(identity),
        key: PublicKey([identity; 32]),
        tags: Tags::default(),
        mark: u32::from(identity),
        ephemeral: false,
    }
}

pub(super) fn joined(identity: u8) -> Joined {
    Joined {
        who: enrolled(identity),
        announce: None,
        receipt: vec![1; 200],
        genesis: vec![2; 100],
        manifest: vec![3; 900],
    }
}

#[test]
fn join_brings_a_ticket_the_forwarder_accepts() {
    let mut w = World::new();
    let node = w.join("192.0.2.1:500", 7);
    let Some(ControlEvent::Joined(welcome)) = node.events.last() else { panic!("{:?}", node.events) };
    assert_eq!(welcome.relay_unix_ms, 1_800_000_000_005);
    assert_eq!(welcome.observed, "192.0.2.1:500".parse().unwrap());
    let cluster_key = Secret::from_bytes([1; 32]);
    assert!(Ticket::is_authentic(&welcome.ticket, &cluster_key));
    assert!(welcome.bind_key.ct_eq(&bind_key(&cluster_key, &welcome.ticket)));
    let ticket = Ticket::parse(&welcome.ticket).unwrap();
    assert_eq!((ticket.node_no, ticket.network_id), (0x0a00_0007, NET));
    assert_eq!(ticket.identity_hash, Ticket::hash_identity(&Identity([7; 32])));
    assert!(w.server.is_online(NET, Identity([7; 32])));
}

#[test]
fn a_members_tags_decide_the_rate_class_of_its_ticket() {
    let mut config = ControlServerConfig::new(1, StaticSecret::from_bytes([1; 32]));
    config.class_tags = vec![("bulk".into(), 7), ("lab".into(), 2)];
    let class = |tags: &[&str]| config.rate_class(&Tags::new(tags).unwrap());
    assert_eq!([class(&[]), class(&["web"]), class(&["lab", "web"]), class(&["bulk", "lab"])], [0, 0, 2, 7]);
}

#[test]
fn the_registrar_sees_the_key_the_handshake_proved() {
    let mut w = World::new();
    let mut node = w.connect("192.0.2.1:500");
    node.client.join(vec![1], w.now.mono);
    w.exchange(&mut node);
    let Some(StoreRequest { op: StoreOp::Join { key, .. }, id }) = w.server.poll_store_request() else {
        panic!("no JOIN")
    };
    assert_eq!(Some(key), w.server.connections[&node.conn].channel.remote());
    w.reply(&mut node, id, StoreReply::Denied(DeniedCode::TokenExpired, "expired".into()));
    let denied = ControlEvent::Denied(None, DeniedCode::TokenExpired as u16, "expired".into());
    assert_eq!(node.events.last(), Some(&denied));
    assert_eq!(w.server.joined(), 0);
}

#[test]
fn nothing_is_acknowledged_before_the_store_has_answered() {
    let mut w = World::new();
    let mut node = w.join("192.0.2.1:500", 7);
    let id = node.client.update(vec![9; 40], w.now.mono).unwrap();
    w.exchange(&mut node);
    let request = w.server.poll_store_request().unwrap();
    let key = w.server.connections[&node.conn].channel.remote().unwrap();
    let op = StoreOp::Update { network_id: NET, identity: Identity([7; 32]), key, record: vec![9; 40] };
    assert_eq!(request.op, op);
    assert!(!node.events.iter().any(|e| matches!(e, ControlEvent::Acknowledged(..))));
    w.reply(&mut node, request.id, StoreReply::Done(4));
    assert_eq!(node.events.last(), Some(&ControlEvent::Acknowledged(id, 4)));
}

#[test]
fn a_stranger_gets_join_and_ping_and_nothing_else() {
    let mut w = World::new();
    let mut node = w.connect("192.0.2.1:500");
    let now = w.now.mono;
    let asked = [
        node.client.get(Lookup::Name("web".into()), now).unwrap(),
        node.client.list(0, 10, now).unwrap(),
        node.client.update(vec![1], now).unwrap(),
        node.client.leave(now).unwrap(),
    ];
    w.exchange(&mut node);
    for id in asked {
        let denied = |e: &&ControlEvent| matches!(e, ControlEvent::Denied(Some(of), 9, _) if *of == id);
        assert!(node.events.iter().find(denied).is_some());
    }
    assert_eq!(w.server.poll_store_request(), None);
}

#[test]
fn presence_follows_the_connection() {
    let mut w = World::new();
    let mut a = w.join("192.0.2.1:500", 1);
    let b = w.join("192.0.2.2:500", 2);
    for online in [true, false] {
        let id = a.client.get(Lookup::Identity(Identity([2; 32])), w.now.mono).unwrap();
        w.exchange(&mut a);
        let request = w.server.poll_store_request().unwrap();
        let found = Listed { identity: Identity([2; 32]), bundle: vec![5; 10] };
        w.reply(&mut a, request.id, StoreReply::Found(found));
        let member = Member { online, bundle: vec![5; 10] };
        assert_eq!(a.events.last(), Some(&ControlEvent::Peer(id, member)));
        w.server.handle_stream_closed(b.conn, w.now);
    }
}

#[test]
fn a_second_connection_of_a_member_keeps_it_online_when_the_first_ends() {
    let mut w = World::new();
    let first = w.join("192.0.2.1:500", 1);
    let second = w.join("192.0.2.1:501", 1);
    w.server.handle_stream_closed(first.conn, w.now);
    assert!(w.server.is_online(NET, Identity([1; 32])));
    w.server.handle_stream_closed(second.conn, w.now);
    assert!(!w.server.is_online(NET, Identity([1; 32])));
}

#[test]
fn leave_ends_presence_after_the_store_has_it() {
    let mut w = World::new();
    let mut node = w.join("192.0.2.1:500", 1);
    node.client.leave(w.now.mono).unwrap();
    w.exchange(&mut node);
    let request = w.server.poll_store_request().unwrap();
    assert!(w.server.is_online(NET, Identity([1; 32])));
    w.reply(&mut node, request.id, StoreReply::Done(0));
    assert!(!w.server.is_online(NET, Identity([1; 32])));
    assert_eq!(node.events.last(), Some(&ControlEvent::WantClose));
}

#[test]
fn a_list_is_cut_to_a_frame_and_says_so() {
    let mut w = World::new();
    let mut node = w.join("192.0.2.1:500", 1);
    let id = node.client.list(0, 500, w.now.mono).unwrap();
    w.exchange(&mut node);
    let request = w.server.poll_store_request().unwrap();
    assert!(matches!(request.op, StoreOp::List { limit: 256, .. }));
    let listed = |i: u8| Listed { identity: Identity([i; 32]), bundle: vec![i; 1000] };
    w.reply(&mut node, request.id, StoreReply::Listed(false, (0..40).map(listed).collect()));
    let Some(ControlEvent::Members(got, more, members)) = node.events.last() else { panic!("no MEMBERS") };
    assert_eq!((*got, *more, members.len()), (id, true, 16));
    assert!(members[1].online && !members[2].online);
}

#[test]
fn silent_strangers_are_512_at_most_and_gone_after_five_seconds() {
    let mut w = World::new();
    let member = w.join("198.51.100.1:1", 1);
    let closed = |w: &mut World| core::iter::from_fn(|| w.server.poll_stream_write()).count();
    for i in 0..5000u32 {
        let from = format!("10.{}.{}.1:{}", i / 128 % 256, i / 100, 1000 + i);
        // The newest is let in, the oldest goes: who only waits keeps nobody out.
        assert!(w.open(&from).is_some());
        assert!(w.server.connections() <= 513);
    }
    assert_eq!(w.server.drops().get(StreamDrop::TooManyUnjoined), 5000 - 512);
    assert_eq!(closed(&mut w), 5000 - 512);
    w.pass(Duration::from_secs(5));
    assert_eq!(closed(&mut w), 512);
    assert_eq!(w.server.connections(), 1);
    assert!(w.server.connections.contains_key(&member.conn));
    assert!(w.open("10.0.0.1:1").is_some());
}

#[test]
fn one_source_does_not_take_all_places() {
    let mut w = World::new();
    assert!(w.open("192.0.2.2:1").is_some());
    (0..500).for_each(|i| assert!(w.open(&format!("192.0.2.1:{}", 1000 + i)).is_some()));
    assert_eq!(w.server.connections(), 129);
    // Of those who have shaken hands none goes for another.
    let mut proven: Vec<Node> = (0..128).map(|i| w.connect(&format!("192.0.2.1:{}", 2000 + i))).collect();
    assert!(proven.iter().all(|node| node.client.is_ready()));
    assert!(w.open("192.0.2.1:9").is_none());
    assert!(w.open("192.0.2.3:9").is_some());
    proven.iter_mut().for_each(|node| w.exchange(node));
    assert!(proven.iter().all(|node| !node.closed));
}

#[test]
fn a_stranger_who_only_shakes_hands_is_gone_after_five_seconds_too() {
    let mut w = World::new();
    let mut node = w.connect("192.0.2.1:500");
    assert!(node.client.is_ready());
    w.pass(Duration::from_millis(4_999));
    w.exchange(&mut node);
    assert!(!node.closed);
    w.pass(Duration::from_millis(1));
    w.exchange(&mut node);
    assert!(node.closed);
    assert_eq!(w.server.drops().get(StreamDrop::JoinDeadline), 1);
}

#[test]
fn a_joined_node_lives_on_its_pings_and_dies_75_seconds_after_the_last() {
    let mut w = World::new();
    let mut node = w.join("192.0.2.1:500", 1);
    for _ in 0..20 {
        w.pass(Duration::from_secs(20));
        node.client.handle_timeout(w.now.mono);
        w.exchange(&mut node);
    }
    assert_eq!(w.server.joined(), 1);
    for _ in 0..4 {
        w.pass(Duration::from_secs(20));
    }
    assert_eq!((w.server.joined(), w.server.connections()), (0, 0));
    assert_eq!(w.server.drops().get(StreamDrop::Idle), 1);
    assert_eq!(w.server.deadlines.len(), 0);
}

#[test]
fn a_reader_that_does_not_read_costs_256_kib() {
    let mut w = World::new();
    let mut node = w.join("192.0.2.1:500", 1);
    let mut out = 0;
    'asking: for _ in 0..1000 {
        w.pass(Duration::from_millis(100));
        let Some(_) = node.client.list(0, 100, w.now.mono) else { break };
        while let Some(bytes) = node.client.poll_bytes() {
            w.server.handle_stream_bytes(node.conn, &bytes, w.now);
        }
        let Some(request) = w.server.poll_store_request() else { break };
        let listed = |i: u8| Listed { identity: Identity([i; 32]), bundle: vec![i; 1000] };
        w.server.handle_store_reply(
            request.id,
            StoreReply::Listed(false, (0..16).map(listed).collect()),
            w.now,
        );
        while let Some(output) = w.server.poll_stream_write() {
            match output {
                StreamOutput::Bytes(_, bytes) => out += bytes.len(),
                StreamOutput::Close(_) => break 'asking,
            }
        }
    }
    assert!((240_000..=280_000).contains(&out), "{out}");
    assert_eq!(w.server.drops().get(StreamDrop::SlowReader), 1);
    assert_eq!(w.server.connections(), 0);
}

#[test]
fn a_member_that_asks_too_fast_is_told_so() {
    let mut w = World::new();
    let mut node = w.join("192.0.2.1:500", 1);
    let mut denied = 0;
    for _ in 0..250 {
        node.client.get(Lookup::Name("x".into()), w.now.mono).unwrap();
        w.exchange(&mut node);
        match w.server.poll_store_request() {
            Some(request) => w.reply(&mut node, request.id, StoreReply::NotFound),
            None => denied += 1,
        }
    }
    assert!((50..=52).contains(&denied), "{denied}");
}

#[test]
fn bytes_that_are_no_handshake_close_the_stream_without_an_answer() {
    let mut w = World::new();
    let conn = w.open("192.0.2.1:500").unwrap();
    w.server.handle_stream_bytes(conn, b"GET / HTTP/1.1\r\n\r\n", w.now);
    assert_eq!(w.server.poll_stream_write(), Some(StreamOutput::Close(conn)));
    assert_eq!(w.server.poll_stream_write(), None);
    assert_eq!(w.server.connections(), 0);
}

#[test]
fn unknown_requests_are_denied_and_unknown_pushes_ignored() {
    let mut w = World::new();
    let key = StaticSecret::random(&mut w.rng);
    let conn = w.open("192.0.2.1:500").unwrap();
    let mut channel = Channel::initiator(&key, &w.relay_key.public(), &mut w.rng, w.now.mono);
    let hello = channel.poll_bytes().unwrap();
    w.server.handle_stream_bytes(conn, &hello, w.now);
    let Some(StreamOutput::Bytes(_, answer)) = w.server.poll_stream_write() else { panic!("no answer") };
    channel.feed(&answer).unwrap();
    channel.send(&[200, 0, 0, 0, 0, 1]).unwrap();
    channel.send(&[200, 0, 0, 0, 8, 1]).unwrap();
    channel.send(&[7, 0, 0]).unwrap();
    while let Some(bytes) = channel.poll_bytes() {
        w.server.handle_stream_bytes(conn, &bytes, w.now);
    }
    let mut got = vec![];
    while let Some(StreamOutput::Bytes(_, bytes)) = w.server.poll_stream_write() {
        channel.feed(&bytes).unwrap();
        let (request, message) = Message::parse(&channel.poll_message().unwrap().unwrap()).unwrap();
        assert!(matches!(message, Message::Denied(1, _)));
        got.push(request);
    }
    assert_eq!(got, [8, 0]);
}

#[test]
fn a_relay_that_drains_lets_its_members_go_one_after_the_other_and_lets_nobody_in() {
    let mut w = World::new();
    let nodes = [1, 2, 3, 4, 5].map(|identity| w.join("192.0.2.1:500", identity));
    w.server.drain(w.now);
    let mut gone = Vec::new();
    for _ in 0..12 {
        w.pass(Duration::from_millis(500));
        while let Some(output) = w.server.poll_stream_write() {
            if let StreamOutput::Close(conn) = output {
                gone.push((w.now.mono, conn));
            }
        }
    }
    assert_eq!((gone.len(), w.server.joined()), (nodes.len(), 0));
    let took = gone[4].0.saturating_since(gone[0].0);
    assert!(took >= Duration::from_secs(3) && took <= DRAIN_WITHIN, "{took:?}");
    let mut late = w.connect("192.0.2.2:500");
    late.client.join(vec![9; 30], w.now.mono);
    w.exchange(&mut late);
    let denied = |e: &ControlEvent| matches!(e, ControlEvent::Denied(None, 8, _));
    assert!(late.events.iter().any(denied), "{:?}", late.events);
    assert!(w.server.poll_store_request().is_none());
}
