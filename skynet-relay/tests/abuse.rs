//! What somebody without rights gets out of a relay: never more than went in, and nothing to anybody else.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use skynet_core::control::message::{ConflictWhat, Lookup};
use skynet_core::control::{Channel, DeniedCode, Message};
use skynet_core::key::{Secret, StaticSecret};
use skynet_core::rng::{Rng, RngCore as _};
use skynet_core::time::{Duration, Instant, Now, UnixTime};
use skynet_core::wire::binding::Request;
use skynet_core::wire::relay::{
    Bind, Class, DATA_HEADER_LEN, DataHeader, Frame, Hello, Keep, Nack, TICKET_LEN, Ticket, bind_key,
};
use skynet_relay::server::{
    Action, ClusterKeys, ConnId, ControlServer, ControlServerConfig, Forwarder, Local, Measure, StoreReply,
    StreamOutput, forward_config,
};

const NETS: [[u8; 8]; 2] = [*b"networkA", *b"networkB"];
const UNIX: u64 = 1_800_000_000;
const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), 3478);

fn cluster_key() -> Secret {
    Secret::from_bytes([1; 32])
}

fn at(ms: u64) -> Now {
    Now {
        mono: Instant::ZERO + Duration::from_millis(ms),
        unix: UnixTime(UNIX + ms / 1_000),
        unix_nanos: (ms % 1_000) as u32 * 1_000_000,
    }
}

fn unix_ms(ms: u64) -> u64 {
    UNIX * 1_000 + ms
}

struct Node {
    ticket: [u8; TICKET_LEN],
    key: Secret,
    from: SocketAddr,
    gen_no: u16,
}

impl Node {
    fn new(network_id: [u8; 8], node_no: u32, from: SocketAddr) -> Self {
        let ticket = Ticket {
            kid: 1,
            rate_class: 0,
            node_no,
            network_id,
            not_after: UNIX + 86_400,
            issue_nonce: 1,
            identity_hash: [0; 16],
        };
        let ticket = ticket.mint(&cluster_key());
        Self { ticket, key: bind_key(&cluster_key(), &ticket), from, gen_no: 0 }
    }
    fn hello(&self, ms: u64) -> Vec<u8> {
        Hello { lane: 0, ticket: self.ticket, ts_ms: unix_ms(ms) }.encode(&self.key).to_vec()
    }
    fn bind_frame(&self, ms: u64, cookie: [u8; 16]) -> Vec<u8> {
        Bind { lane: 0, ticket: self.ticket, ts_ms: unix_ms(ms), cookie }.encode(&self.key).to_vec()
    }
    fn data(&self, to: u32, payload: &[u8]) -> Vec<u8> {
        [&DataHeader::new(Class::Bulk, 0, self.gen_no, to).encode()[..], payload].concat()
    }
}

struct World {
    relay: Forwarder,
    measure: Measure,
    ms: u64,
}

impl World {
    fn new(seed: u8) -> Self {
        let mut rng = Rng::from_seed([seed; 32]);
        let keys = ClusterKeys::new((1, cluster_key()), []);
        let measure = Measure::new(&mut rng, Instant::ZERO);
        Self { relay: Forwarder::new(forward_config(), keys, rng, Instant::ZERO), measure, ms: 0 }
    }

    fn handle(&mut self, from: SocketAddr, bytes: &[u8]) -> (Action, Vec<u8>) {
        let mut buffer = bytes.to_vec();
        let action = self.relay.handle_datagram(Local(RELAY.ip()), from, &mut buffer, at(self.ms));
        (action, buffer)
    }

    fn bind(&mut self, node: &mut Node) {
        let (Action::Reply { len }, bytes) = self.handle(node.from, &node.hello(self.ms)) else { panic!() };
        let Ok(Frame::Cookie(f)) = Frame::parse(&bytes[..len]) else { panic!() };
        self.ms += 1;
        let (Action::Reply { len }, bytes) = self.handle(node.from, &node.bind_frame(self.ms, f.cookie))
        else {
            panic!()
        };
        let Ok(Frame::Bound(f)) = Frame::parse(&bytes[..len]) else { panic!() };
        node.gen_no = f.gen_no;
    }
}

/// Every kind of frame, as right as somebody without a session can make it.
fn samples(member: &Node, ms: u64) -> Vec<Vec<u8>> {
    let stun = |len, change_port, response_port| Request { len, change_port, response_port }.encode([5; 12]);
    let mut software = stun(0, false, None);
    software.truncate(20);
    software[2..4].copy_from_slice(&16_u16.to_be_bytes());
    software.extend([0x80, 0x22, 0, 12]);
    software.extend([b'x'; 12]);
    vec![
        member.hello(ms),
        member.bind_frame(ms, [7; 16]),
        member.data(1, &[0; 60]),
        member.data(2, &[1]),
        Keep { flags: 0, gen_no: member.gen_no, t: 7 }.encode().to_vec(),
        Nack { code: 1, gen_no: 1, node_no: 1, retry_ms: 1 }.encode().to_vec(),
        stun(0, false, None),
        stun(200, false, None),
        stun(1_400, true, None),
        stun(0, false, Some(53)),
        software,
        b"\x00\x01\x00\x00\x21\x12\xa4\x42............".to_vec(),
        vec![1, 0, 0, 0],
    ]
}

/// Another datagram: one of the samples whole, changed, cut, longer, two in one, or none of them.
fn mutate(samples: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let pick = |rng: &mut Rng| samples[rng.below(samples.len() as u64) as usize].clone();
    let mut bytes = pick(rng);
    match rng.below(6) {
        0 => {}
        1 => (0..1 + rng.below(8)).for_each(|_| {
            let bit = rng.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }),
        2 => bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize),
        3 => bytes.extend((0..rng.below(1_500)).map(|_| rng.next_u32() as u8).collect::<Vec<u8>>()),
        4 => bytes.extend(pick(rng)),
        _ => {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at..].iter_mut().for_each(|b| *b = rng.next_u32() as u8);
        }
    }
    bytes
}

fn stranger(rng: &mut Rng) -> SocketAddr {
    let [a, b, c] = rng.array();
    SocketAddr::from(([198, 18 | (a & 1), b, c], 1 + rng.below(65_535) as u16))
}

/// Byte for byte and packet for packet, for every single datagram.
#[test]
fn whoever_has_proven_nothing_gets_no_more_bytes_or_packets_than_it_sent() {
    let mut w = World::new(1);
    let mut rng = Rng::from_seed([2; 32]);
    let mut members: Vec<Node> =
        (1..=4).map(|n| Node::new(NETS[n as usize % 2], n, ([192, 0, 2, n as u8], 1_000).into())).collect();
    members.iter_mut().for_each(|m| w.bind(m));
    let (mut sent, mut got) = ([0_u64; 2], [0_u64; 2]);
    for round in 0..120_000_u64 {
        w.ms += round % 2;
        let member = &members[rng.below(4) as usize];
        let bytes = mutate(&samples(member, w.ms), &mut rng);
        let from = stranger(&mut rng);
        sent = [sent[0] + bytes.len() as u64, sent[1] + 1];
        match w.handle(from, &bytes).0 {
            Action::Reply { len } => {
                assert!(len <= bytes.len(), "{len} for {} of {bytes:02x?}", bytes.len());
                got = [got[0] + len as u64, got[1] + 1];
            }
            Action::Forward { to, .. } => panic!("{from} moved {bytes:02x?} to {to}"),
            Action::Drop(_) => {}
        }
        let mut asked = bytes.clone();
        if let Ok(measured) = w.measure.handle_datagram(from, &mut asked, at(w.ms).mono) {
            assert!(measured.len <= bytes.len());
        }
    }
    println!(
        "out/in: {:.3} bytes, {:.3} packets",
        got[0] as f64 / sent[0] as f64,
        got[1] as f64 / sent[1] as f64
    );
    assert!(got[1] > 10_000, "the samples are answered at all: {got:?}");
}

/// Two networks with the same numbers on one relay: everybody sends to every number, with every generation it could know.
#[test]
fn nothing_crosses_from_one_network_to_the_other_and_strangers_move_nothing() {
    let mut w = World::new(3);
    let mut nodes = Vec::new();
    for (k, net) in NETS.into_iter().enumerate() {
        for node_no in 1..=8_u8 {
            let mut node =
                Node::new(net, node_no.into(), ([192, 0, 2, 16 * k as u8 + node_no], 1_000).into());
            w.bind(&mut node);
            nodes.push(node);
        }
    }
    let (inside, outside): (Vec<_>, Vec<_>) = nodes.iter().partition(|n| n.ticket[8..16] == NETS[0]);
    let home: Vec<SocketAddr> = inside.iter().map(|n| n.from).collect();
    let gens: Vec<u16> = nodes.iter().map(|n| n.gen_no).collect();
    let mut moved = 0;
    for sender in &inside {
        for to in 0..=20 {
            for hops in [0, 0x40, 0x80, 0xc0] {
                for gen_no in &gens {
                    let mut frame = DataHeader::new(Class::Bulk, 0, *gen_no, to).encode().to_vec();
                    frame[1] |= hops;
                    frame.extend([9; 40]);
                    if let (Action::Forward { to, .. }, _) = w.handle(sender.from, &frame) {
                        assert!(home.contains(&to), "to {to} of the other network");
                        moved += 1;
                    }
                    // The same from an address nobody has bound.
                    let stranger = SocketAddr::new(sender.from.ip(), 2_000);
                    assert!(!matches!(w.handle(stranger, &frame).0, Action::Forward { .. }));
                }
            }
        }
    }
    assert_eq!(moved, 8 * 7, "each reaches the seven others of its network, under its own number alone");
    assert_eq!(outside.len(), 8);
}

/// The relay is told, by forged sources, to talk to itself: each datagram's offspring ends.
#[test]
fn a_relay_that_is_made_to_hear_itself_falls_silent() {
    let mut w = World::new(4);
    let mut node = Node::new(NETS[0], 1, RELAY);
    let mut rng = Rng::from_seed([5; 32]);
    for _ in 0..20_000 {
        w.ms += 1;
        let mut datagram = mutate(&samples(&node, w.ms), &mut rng);
        let mut bytes = 0;
        loop {
            bytes += datagram.len();
            assert!(bytes <= 70_000, "{datagram:02x?} goes round");
            match w.handle(RELAY, &datagram) {
                (Action::Reply { len }, answer) => datagram = answer[..len].to_vec(),
                (Action::Forward { to, .. }, answer) if to == RELAY => datagram = answer,
                _ => break,
            }
        }
    }
    // Even if somebody could bind the relay's own address: between two members there, hops end it.
    let mut other = Node::new(NETS[0], 2, ([192, 0, 2, 2], 1_000).into());
    w.ms += 60_000;
    w.bind(&mut node);
    w.bind(&mut other);
    let (action, forwarded) = w.handle(other.from, &other.data(1, &[7; 1_400]));
    assert!(matches!(action, Action::Forward { to, .. } if to == RELAY));
    assert!(matches!(w.handle(RELAY, &forwarded).0, Action::Drop(_) | Action::Reply { .. }));
    assert!(forwarded.len() > DATA_HEADER_LEN);
}

/// A stranger at the control port.
struct Client {
    conn: ConnId,
    channel: Option<Channel>,
    sent: u64,
    got: u64,
    open: bool,
}

struct Control {
    server: ControlServer,
    key: StaticSecret,
    rng: Rng,
    now: Now,
    clients: BTreeMap<ConnId, Client>,
}

impl Control {
    fn new() -> Self {
        let mut rng = Rng::from_seed([6; 32]);
        let key = StaticSecret::random(&mut rng);
        let keys = ClusterKeys::new((1, cluster_key()), []);
        let server = ControlServer::new(ControlServerConfig::new(1, key.clone()), keys, rng.fork());
        Self { server, key, rng, now: at(0), clients: BTreeMap::new() }
    }

    fn connect(&mut self, conn: u64, shakes_hands: bool) {
        let conn = ConnId(conn);
        let open = self.server.handle_stream_opened(conn, stranger(&mut self.rng), self.now);
        let secret = StaticSecret::random(&mut self.rng);
        let channel = shakes_hands
            .then(|| Channel::initiator(&secret, &self.key.public(), &mut self.rng, self.now.mono));
        self.clients.insert(conn, Client { conn, channel, sent: 0, got: 0, open });
        self.flush(conn);
    }

    fn flush(&mut self, conn: ConnId) {
        while let Some(bytes) = self.clients.get_mut(&conn).and_then(|c| c.channel.as_mut()?.poll_bytes()) {
            self.send(conn, &bytes);
        }
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.clients.get_mut(&conn).unwrap().sent += bytes.len() as u64;
        self.server.handle_stream_bytes(conn, bytes, self.now);
        self.settle();
    }

    /// The registrar refuses everything at length; then every byte that leaves is booked.
    fn settle(&mut self) {
        loop {
            if let Some(request) = self.server.poll_store_request() {
                let conflict = self.rng.below(8) == 0;
                let reply = match conflict {
                    true => StoreReply::Conflict(ConflictWhat::Name),
                    false => StoreReply::Denied(DeniedCode::BadSignature, "no ".repeat(60)),
                };
                self.server.handle_store_reply(request.id, reply, self.now);
                continue;
            }
            let Some(output) = self.server.poll_stream_write() else { return };
            match output {
                StreamOutput::Bytes(conn, bytes) => {
                    self.server.handle_stream_written(conn, bytes.len());
                    let client = self.clients.get_mut(&conn).unwrap();
                    client.got += bytes.len() as u64;
                    assert!(client.got <= client.sent, "{} for {}", client.got, client.sent);
                    if let Some(channel) = &mut client.channel {
                        let _ = channel.feed(&bytes);
                    }
                }
                StreamOutput::Close(conn) => self.clients.get_mut(&conn).unwrap().open = false,
            }
        }
    }

    fn say(&mut self, conn: ConnId, message: &[u8]) {
        if let Some(channel) = self.clients.get_mut(&conn).and_then(|c| c.channel.as_mut())
            && channel.send(message).is_ok()
        {
            self.flush(conn);
        }
    }
}

#[test]
fn a_control_client_that_has_not_joined_gets_no_more_bytes_than_it_sent() {
    let mut w = Control::new();
    let mut rng = Rng::from_seed([8; 32]);
    let (mut sent, mut got) = (0, 0);
    for n in 0..1_500 {
        w.now = at(n * 100);
        w.server.handle_timeout(w.now);
        w.settle();
        w.connect(n, n % 4 != 0);
        let conn = ConnId(n);
        for _ in 0..12 {
            if !w.clients[&conn].open {
                break;
            }
            let bundle = (0..rng.below(900)).map(|_| rng.next_u32() as u8).collect();
            let messages = [
                Message::Join(bundle),
                Message::Ping(7),
                Message::Get(Lookup::Name("a".into())),
                Message::Get(Lookup::Key(w.key.public())),
                Message::List { after: 0, limit: 64 },
                Message::Update(vec![1; 3]),
                Message::Leave,
                Message::Pong(1),
            ];
            let encoded: Vec<Vec<u8>> = messages.iter().filter_map(|m| m.encode(3).ok()).collect();
            let mut bytes = mutate(&encoded, &mut rng);
            if rng.below(10) == 0 {
                bytes = vec![200, 0, 0, 0, 9];
            }
            if w.clients[&conn].channel.is_some() && rng.below(10) > 0 {
                w.say(conn, &bytes);
            } else {
                w.send(conn, &bytes);
            }
        }
        let client = &w.clients[&conn];
        (sent, got) = (sent + client.sent, got + client.got);
        assert_eq!(client.conn, conn);
    }
    println!("control channel before JOIN: out/in {:.3}", got as f64 / sent as f64);
    assert!(got > 100_000 && w.server.joined() == 0, "{got}");
}

/// 5,000 connections that say nothing, from as many sources as the attacker likes: whoever comes to join gets through at
/// once, every time.
#[test]
fn half_open_connections_keep_nobody_out() {
    for sources in [1, 3, 40, 5_000] {
        let mut w = Control::new();
        for n in 0..5_000_u32 {
            let source =
                SocketAddr::from(([198, 18, ((n % sources) >> 8) as u8, (n % sources) as u8], 1_000));
            w.server.handle_stream_opened(ConnId(n.into()), source, w.now);
            w.clients.insert(
                ConnId(n.into()),
                Client { conn: ConnId(n.into()), channel: None, sent: 0, got: 0, open: true },
            );
            w.settle();
            if n % 250 == 249 {
                let honest = 1_000_000 + u64::from(n);
                w.connect(honest, true);
                let client = &w.clients[&ConnId(honest)];
                assert!(client.open && client.got > 0, "after {n} of {sources} sources: kept out");
                assert!(w.clients[&ConnId(honest)].channel.as_ref().unwrap().is_established());
                w.server.handle_stream_closed(ConnId(honest), w.now);
            }
        }
        assert!(w.server.connections() <= 512, "{}", w.server.connections());
        w.now = at(6_000);
        w.server.handle_timeout(w.now);
        assert_eq!(w.server.connections(), 0);
    }
}
