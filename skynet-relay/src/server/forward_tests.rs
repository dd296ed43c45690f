use super::*;
use core::net::{IpAddr, Ipv4Addr};
use skynet_core::relay::{RelayClient, RelayClientConfig, RelayClock, RelayEvent};
use skynet_core::time::UnixTime;
use skynet_core::wire::relay::{
    BIND_LEN, Bind, Class, DATA_HEADER_LEN, HELLO_LEN, Hello, KEEP_LEN, Keep, NACK_LEN,
};

#[path = "forward_drain_tests.rs"]
mod drain;
#[path = "forward_local_tests.rs"]
mod local;
#[path = "forward_parts_tests.rs"]
mod parts;
#[path = "police_tests.rs"]
mod police;
#[path = "revoked_tests.rs"]
mod revoked;

const NET_A: [u8; 8] = *b"networkA";
const NET_B: [u8; 8] = *b"networkB";
/// An address of the relay's host.
const RELAY_A: Local = Local(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)));
const START_UNIX: u64 = 1_800_000_000;

fn cluster_key() -> Secret {
    Secret::from_bytes([1; 32])
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct World {
    relay: Forwarder,
    now: Now,
    /// The relay's address that datagrams come to.
    asked: Local,
}

impl World {
    fn new() -> Self {
        Self::with(ForwardConfig::default())
    }
    fn with(config: ForwardConfig) -> Self {
        let now = Now { mono: Instant::ZERO, unix: UnixTime(START_UNIX), unix_nanos: 0 };
        Self { relay: relay(config, 1, now), now, asked: RELAY_A }
    }
    fn pass(&mut self, ms: u64) {
        let mono = self.now.mono + Duration::from_millis(ms);
        let unix_ms = START_UNIX * 1000 + mono.as_nanos() / 1_000_000;
        self.now =
            Now { mono, unix: UnixTime(unix_ms / 1000), unix_nanos: (unix_ms % 1000) as u32 * 1_000_000 };
    }
    fn ms(&self) -> u64 {
        crate::server::unix_ms(self.now)
    }
    /// Gives the relay a datagram; what it sends, and to whom.
    fn send(&mut self, from: &str, bytes: &[u8]) -> Result<(SocketAddr, Vec<u8>), DropReason> {
        let mut buffer = bytes.to_vec();
        match self.relay.handle_datagram(self.asked, addr(from), &mut buffer, self.now) {
            Action::Forward { to, .. } => Ok((to, buffer)),
            Action::Reply { len } => Ok((addr(from), buffer[..len].to_vec())),
            Action::Drop(reason) => Err(reason),
        }
    }
    fn drops(&self, reason: DropReason) -> u64 {
        self.relay.drops().get(reason)
    }
}

fn relay(config: ForwardConfig, seed: u8, now: Now) -> Forwarder {
    let keys = ClusterKeys::new((7, cluster_key()), []);
    Forwarder::new(config, keys, Rng::from_seed([seed; 32]), now.mono)
}

#[derive(Clone)]
struct Node {
    ticket: [u8; TICKET_LEN],
    key: Secret,
    lane: u8,
    from: &'static str,
}

fn ticket(network_id: [u8; 8], node_no: u32) -> Ticket {
    Ticket {
        kid: 7,
        rate_class: 0,
        node_no,
        network_id,
        not_after: START_UNIX + 86_400,
        issue_nonce: 1,
        identity_hash: [0; 16],
    }
}

impl Node {
    fn new(network_id: [u8; 8], node_no: u32, from: &'static str) -> Self {
        Self::of(&ticket(network_id, node_no), from)
    }
    fn of(ticket: &Ticket, from: &'static str) -> Self {
        let ticket = ticket.mint(&cluster_key());
        Self { ticket, key: bind_key(&cluster_key(), &ticket), lane: 0, from }
    }
    fn hello(&self, ts_ms: u64) -> Vec<u8> {
        Hello { lane: self.lane, ticket: self.ticket, ts_ms }.encode(&self.key).to_vec()
    }
    fn bind_frame(&self, ts_ms: u64, cookie: [u8; 16]) -> Vec<u8> {
        Bind { lane: self.lane, ticket: self.ticket, ts_ms, cookie }.encode(&self.key).to_vec()
    }
    fn cookie(&self, w: &mut World) -> [u8; 16] {
        let ts_ms = w.ms();
        let (to, bytes) = w.send(self.from, &self.hello(ts_ms)).unwrap();
        assert_eq!(to, addr(self.from));
        assert!(relay::mac_is_valid(&bytes, &self.key));
        let Ok(Frame::Cookie(f)) = Frame::parse(&bytes) else { panic!("not COOKIE") };
        assert_eq!(f.ts_ms, ts_ms);
        f.cookie
    }
    fn bind(&self, w: &mut World) -> Bound {
        let cookie = self.cookie(w);
        w.pass(1);
        self.bind_with(w, cookie)
    }
    fn bind_with(&self, w: &mut World, cookie: [u8; 16]) -> Bound {
        let bytes = w.send(self.from, &self.bind_frame(w.ms(), cookie)).unwrap().1;
        assert!(relay::mac_is_valid(&bytes, &self.key));
        let Ok(Frame::Bound(f)) = Frame::parse(&bytes) else { panic!("not BOUND") };
        f
    }
}

fn data(gen_no: u16, to: u32, lane: u8, payload: &[u8]) -> Vec<u8> {
    [&DataHeader::new(Class::Bulk, lane, gen_no, to).encode()[..], payload].concat()
}

fn nack(bytes: &[u8]) -> u8 {
    let Ok(Frame::Nack(f)) = Frame::parse(bytes) else { panic!("not NACK: {bytes:02x?}") };
    f.code
}

#[test]
fn forwards_between_two_sessions_of_one_network_in_place() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (bound_a, bound_b) = (a.bind(&mut w), b.bind(&mut w));
    assert_eq!(bound_a.observed, addr(a.from));
    let (to, bytes) = w.send(a.from, &data(bound_a.gen_no, 2, 0, b"hello")).unwrap();
    assert_eq!(to, addr(b.from));
    let Ok(Frame::Data(header, payload)) = Frame::parse(&bytes) else { panic!("not DATA") };
    assert_eq!((header.gen_no, header.node_no, payload), (bound_b.gen_no, 1, &b"hello"[..]));
    assert_eq!(w.relay.counters().forwarded, 1);
}

#[test]
fn two_networks_on_one_relay_never_meet() {
    let mut w = World::new();
    let a1 = Node::new(NET_A, 1, "192.0.2.1:1000");
    let b1 = Node::new(NET_B, 1, "192.0.2.3:1000");
    let b2 = Node::new(NET_B, 2, "192.0.2.2:1000");
    let gen_a = a1.bind(&mut w).gen_no;
    let gen_b = b1.bind(&mut w).gen_no;
    b2.bind(&mut w);
    let (to, bytes) = w.send(a1.from, &data(gen_a, 2, 0, b"for a stranger")).unwrap();
    assert_eq!((to, nack(&bytes)), (addr(a1.from), NackCode::NoSuchPeer as u8));
    assert_eq!(w.send(b1.from, &data(gen_b, 2, 0, b"for a friend")).unwrap().0, addr(b2.from));
    assert_eq!(w.relay.counters().forwarded, 1);
}

#[test]
fn an_unbound_source_moves_nothing() {
    let mut w = World::new();
    let b = Node::new(NET_A, 2, "192.0.2.2:1000");
    b.bind(&mut w);
    for gen_no in 0..=u16::MAX {
        if let Ok((to, _)) = w.send("203.0.113.1:5", &data(gen_no, 2, 0, b"forged")) {
            assert_eq!(to, addr("203.0.113.1:5"));
        }
    }
    assert_eq!(w.relay.counters().forwarded, 0);
}

/// Message from an unproven source → bytes of the answer. Nothing is answered with more than it brought, and no
/// message with more than one.
#[test]
fn nothing_larger_than_its_cause_goes_to_an_unproven_source() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let stun = |extra: usize| {
        let mut m = vec![0u8; 20 + extra];
        m[..8].copy_from_slice(&[0, 1, 0, extra as u8, 0x21, 0x12, 0xA4, 0x42]);
        if extra > 0 {
            m[20..24].copy_from_slice(&[0x80, 0x22, 0, extra as u8 - 4]);
            m[24..].fill(b'x');
        }
        m
    };
    let ts_ms = w.ms();
    let table: Vec<(&str, Vec<u8>, Option<usize>)> = vec![
        ("HELLO", a.hello(ts_ms), Some(48)),
        ("HELLO, wrong MAC", [&a.hello(ts_ms)[..95], &[0]].concat(), None),
        ("BIND, wrong cookie", a.bind_frame(ts_ms, [0; 16]), Some(48)),
        ("KEEP", Keep { flags: 0, gen_no: 3, t: 4 }.encode().to_vec(), Some(12)),
        ("DATA, 1 byte", data(1, 2, 0, b"x"), None),
        ("DATA, 4 bytes", data(1, 2, 0, b"xxxx"), Some(12)),
        ("DATA, 1400 bytes", data(1, 2, 0, &[0; 1400]), Some(12)),
        ("NACK", Nack { code: 1, gen_no: 0, node_no: 0, retry_ms: 0 }.encode().to_vec(), None),
        ("COOKIE", Cookie { relay_no: 1, cookie: [0; 16], ts_ms }.encode(&a.key).to_vec(), None),
        ("BOUND", w.relay.bound(1, Rate::default(), addr("1.2.3.4:5"), ts_ms).encode(&a.key).to_vec(), None),
        ("STUN without attributes", stun(0), None),
        ("STUN of 32 bytes", stun(12), Some(32)),
        ("STUN of 100 bytes", stun(80), Some(32)),
        ("WireGuard initiation", [&[1, 0, 0, 0][..], &[9; 144]].concat(), None),
        ("probe", [&[0xA0][..], &[9; 99]].concat(), None),
        ("junk", vec![0x55; 500], None),
        ("nothing", vec![], None),
    ];
    for (name, bytes, expected) in table {
        let got = w.send("203.0.113.9:99", &bytes).ok().map(|(to, answer)| {
            assert_eq!(to, addr("203.0.113.9:99"), "{name}");
            answer.len()
        });
        assert_eq!(got, expected, "{name}");
        assert!(got.unwrap_or(0) <= bytes.len(), "{name}");
    }
    assert_eq!(w.relay.sessions(), 0);
}

#[test]
fn a_cookie_is_good_only_from_its_address_and_port() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let cookie = a.cookie(&mut w);
    for from in ["192.0.2.1:1001", "192.0.2.9:1000", "[2001:db8::1]:1000"] {
        let thief = Node { from, ..a.clone() };
        let (_, bytes) = w.send(from, &thief.bind_frame(w.ms(), cookie)).unwrap();
        assert!(matches!(Frame::parse(&bytes), Ok(Frame::Cookie(_))), "asked to prove {from}");
    }
    assert_eq!(w.relay.sessions(), 0);
    for other in [Node { lane: 1, ..a.clone() }, Node::new(NET_A, 2, a.from), Node::new(NET_B, 1, a.from)] {
        w.send(a.from, &other.bind_frame(w.ms(), cookie)).unwrap();
        assert_eq!(w.relay.sessions(), 0, "good only for its node and lane");
    }
    a.bind_with(&mut w, cookie);
    assert_eq!(w.relay.sessions(), 1);
}

#[test]
fn a_cookie_lasts_two_secrets() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let cookie = a.cookie(&mut w);
    w.pass(121_000);
    a.bind_with(&mut w, cookie);
    w.pass(240_000);
    let (_, bytes) = w.send(a.from, &a.bind_frame(w.ms(), cookie)).unwrap();
    assert!(matches!(Frame::parse(&bytes), Ok(Frame::Cookie(_))));
}

#[test]
fn a_replayed_bind_is_refused() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let cookie = a.cookie(&mut w);
    let frame = a.bind_frame(w.ms(), cookie);
    w.send(a.from, &frame).unwrap();
    assert_eq!(w.send(a.from, &frame), Err(DropReason::Replay));
    let older = a.bind_frame(w.ms() - 1, cookie);
    assert_eq!(w.send(a.from, &older), Err(DropReason::Replay));
    // Also after another node was bound from the same address.
    let b = Node::new(NET_A, 2, a.from);
    b.bind(&mut w);
    assert_eq!(w.send(a.from, &frame), Err(DropReason::Replay));
    w.pass(31_000);
    assert_eq!(w.send(a.from, &frame), Err(DropReason::Skew));
}

#[test]
fn what_does_not_prove_itself_is_dropped_for_its_reason() {
    let mut w = World::new();
    let good = ticket(NET_A, 1);
    let from = "192.0.2.1:1000";
    let a = Node::of(&good, from);
    let ts_ms = w.ms();
    let wrong_key = Node { key: Secret::from_bytes([9; 32]), ..a.clone() };
    assert_eq!(w.send(from, &wrong_key.hello(ts_ms)), Err(DropReason::BadMac));
    let foreign = good.mint(&Secret::from_bytes([2; 32]));
    let foreign =
        Node { ticket: foreign, key: bind_key(&Secret::from_bytes([2; 32]), &foreign), ..a.clone() };
    assert_eq!(w.send(from, &foreign.hello(ts_ms)), Err(DropReason::BadTicket));
    let expired = Node::of(&Ticket { not_after: START_UNIX - 1, ..good }, from);
    assert_eq!(w.send(from, &expired.hello(ts_ms)), Err(DropReason::TicketExpired));
    let unknown = Node::of(&Ticket { kid: 8, ..good }, from);
    assert_eq!(w.send(from, &unknown.hello(ts_ms)), Err(DropReason::UnknownClusterKey));
    assert_eq!(w.send(from, &a.hello(ts_ms + 30_001)), Err(DropReason::Skew));
    assert_eq!(w.send(from, &a.hello(ts_ms - 30_001)), Err(DropReason::Skew));
    assert!(w.send(from, &a.hello(ts_ms + 30_000)).is_ok());
    assert_eq!(w.send("192.0.2.1:0", &a.hello(ts_ms)), Err(DropReason::NoSourcePort));
    assert_eq!(w.drops(DropReason::Skew), 2);
}

#[test]
fn a_restarted_relay_accepts_old_tickets_and_no_old_bind() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let old_cookie = a.cookie(&mut w);
    let old_bind = a.bind_frame(w.ms(), old_cookie);
    let gen_no = {
        let bytes = w.send(a.from, &old_bind).unwrap().1;
        let Ok(Frame::Bound(f)) = Frame::parse(&bytes) else { panic!("not BOUND") };
        f.gen_no
    };
    w.relay = relay(ForwardConfig::default(), 2, w.now);
    assert_eq!(nack(&w.send(a.from, &data(gen_no, 2, 0, b"data")).unwrap().1), 1);
    let (_, bytes) = w.send(a.from, &old_bind).unwrap();
    assert!(matches!(Frame::parse(&bytes), Ok(Frame::Cookie(_))));
    assert_eq!(w.relay.sessions(), 0);
    a.bind(&mut w);
    assert_eq!(w.relay.sessions(), 1);
}

#[test]
fn a_silent_session_expires_and_a_keep_prolongs_it() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (gen_a, _) = (a.bind(&mut w).gen_no, b.bind(&mut w));
    for _ in 0..10 {
        w.pass(100_000);
        let keep = Keep { flags: 0, gen_no: gen_a, t: 5 }.encode();
        assert_eq!(w.send(a.from, &keep).unwrap().1, keep);
    }
    assert_eq!(nack(&w.send(a.from, &data(gen_a, 2, 0, b"late")).unwrap().1), 2);
    let next = w.relay.poll_timeout();
    assert!(next <= w.now.mono);
    w.relay.handle_timeout(w.now.mono);
    assert_eq!(w.relay.sessions(), 1);
    w.pass(120_000);
    w.relay.handle_timeout(w.now.mono);
    assert_eq!(w.relay.sessions(), 0);
}

#[test]
fn frames_on_their_way_while_a_session_moves_arrive_and_nothing_is_sent_to_its_former_address() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "127.200.0.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (gen_a, gen_b) = (a.bind(&mut w).gen_no, b.bind(&mut w).gen_no);
    w.pass(10);
    let moved = Node { from: "198.51.100.1:7", ..a.clone() };
    let new_gen = moved.bind(&mut w).gen_no;
    w.pass(1_990);
    assert_eq!(w.send(a.from, &data(gen_a, 2, 0, b"late")).unwrap().0, addr(b.from));
    // Under its own number only, and it keeps nothing alive there.
    assert_eq!(nack(&w.send(a.from, &data(new_gen, 2, 0, b"late")).unwrap().1), 1);
    let keep = Keep { flags: 0, gen_no: gen_a, t: 5 }.encode();
    assert_eq!(nack(&w.send(a.from, &keep).unwrap().1), 1);
    assert_eq!(w.send(b.from, &data(gen_b, 1, 0, b"data")).unwrap().0, addr(moved.from));
    w.relay.handle_timeout(w.now.mono + Duration::from_secs(10));
    assert_eq!(w.relay.sessions(), 2);
    assert_eq!(w.send(moved.from, &data(new_gen, 2, 0, b"data")).unwrap().0, addr(b.from));
}

#[test]
fn a_former_address_that_another_session_binds_is_that_sessions() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "127.200.0.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (gen_a, _) = (a.bind(&mut w).gen_no, b.bind(&mut w).gen_no);
    w.pass(10);
    let moved = Node { from: "198.51.100.1:7", ..a.clone() };
    let moved_gen = moved.bind(&mut w).gen_no;
    let c = Node::new(NET_A, 3, a.from);
    let gen_c = c.bind(&mut w).gen_no;
    if gen_a != gen_c {
        assert_eq!(nack(&w.send(a.from, &data(gen_a, 2, 0, b"late")).unwrap().1), 1);
    }
    assert_eq!(w.send(c.from, &data(gen_c, 2, 0, b"data")).unwrap().0, addr(b.from));
    // Back again: what was its former address a moment ago is c's no more, and a's number is new.
    w.pass(10);
    let back = a.bind(&mut w).gen_no;
    assert_ne!(back, moved_gen);
    assert_eq!(w.send(a.from, &data(back, 2, 0, b"data")).unwrap().0, addr(b.from));
    w.relay.handle_timeout(w.now.mono + Duration::from_secs(10));
    assert_eq!(w.send(a.from, &data(back, 2, 0, b"data")).unwrap().0, addr(b.from));
}

#[test]
fn binding_again_from_the_same_address_keeps_the_number() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let first = a.bind(&mut w).gen_no;
    w.pass(10);
    assert_eq!(a.bind(&mut w).gen_no, first);
}

#[test]
fn a_lane_not_bound_at_the_recipient_is_delivered_on_lane_0() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let b0 = Node::new(NET_A, 2, "192.0.2.2:1000");
    let b1 = Node { lane: 1, from: "192.0.2.2:1001", ..b0.clone() };
    let gen_a = a.bind(&mut w).gen_no;
    b0.bind(&mut w);
    assert_eq!(w.send(a.from, &data(gen_a, 2, 1, b"x")).unwrap().0, addr(b0.from));
    b1.bind(&mut w);
    assert_eq!(w.send(a.from, &data(gen_a, 2, 1, b"x")).unwrap().0, addr(b1.from));
    assert_eq!(w.send(a.from, &data(gen_a, 2, 0, b"x")).unwrap().0, addr(b0.from));
}

#[test]
fn frames_do_not_loop() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let b = Node::new(NET_A, 2, "192.0.2.2:1000");
    let (gen_a, _) = (a.bind(&mut w).gen_no, b.bind(&mut w).gen_no);
    assert_eq!(w.send(a.from, &data(gen_a, 1, 0, b"me")), Err(DropReason::ToSelf));
    let mut again = data(gen_a, 2, 0, b"x");
    again[1] |= 1 << 6;
    assert_eq!(w.send(a.from, &again), Err(DropReason::Hops));
}

#[test]
fn a_node_has_at_most_four_sessions_and_the_table_its_cap() {
    let mut w = World::with(ForwardConfig { max_sessions: 6, ..ForwardConfig::default() });
    let froms = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "192.0.2.1:5"];
    for (lane, from) in froms.into_iter().enumerate() {
        let node = Node { lane: lane as u8, from, ..Node::new(NET_A, 1, from) };
        let cookie = node.cookie(&mut w);
        let result = w.send(from, &node.bind_frame(w.ms(), cookie));
        assert_eq!(result.err(), (lane == 4).then_some(DropReason::NodeSessions));
    }
    Node::new(NET_A, 2, "192.0.2.2:1").bind(&mut w);
    Node::new(NET_A, 3, "192.0.2.3:1").bind(&mut w);
    let late = Node::new(NET_A, 4, "192.0.2.4:1");
    let cookie = late.cookie(&mut w);
    assert_eq!(w.send(late.from, &late.bind_frame(w.ms(), cookie)), Err(DropReason::TableFull));
    w.pass(121_000);
    late.bind(&mut w);
    assert_eq!(w.relay.sessions(), 1, "expired sessions make room");
}

#[test]
fn hello_stun_and_nack_have_a_rate_per_source_prefix() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let hello = a.hello(w.ms());
    assert_eq!((0..500).filter(|_| w.send(a.from, &hello).is_ok()).count(), 100);
    assert!(w.send("192.0.2.77:1000", &hello).is_ok());
    let keep = Keep { flags: 0, gen_no: 1, t: 1 }.encode();
    assert_eq!((0..500).filter(|_| w.send(a.from, &keep).is_ok()).count(), 10);
    assert_eq!(w.drops(DropReason::NoSession), 500);
    w.pass(1000);
    let hello = a.hello(w.ms());
    assert_eq!((0..500).filter(|_| w.send(a.from, &hello).is_ok()).count(), 20);
}

#[test]
fn a_session_keeps_to_its_rate() {
    let class = RateClass { session: Rate { kbit: 8_000, burst_kb: 10 }, ..RateClass::NONE };
    let limits = ForwardConfig { classes: vec![class], ..ForwardConfig::default() };
    let mut w = World::with(limits);
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (gen_a, _) = (a.bind(&mut w).gen_no, b.bind(&mut w));
    let frame = data(gen_a, 2, 0, &[0; 992]);
    for _ in 0..1000 {
        w.pass(1);
        for _ in 0..10 {
            let _ = w.send(a.from, &frame);
        }
    }
    let forwarded = w.relay.counters().forwarded_bytes;
    assert!((1_000_000..=1_011_000).contains(&forwarded), "{forwarded} bytes in 1 s at 1 MB/s");
}

#[test]
fn flipped_cut_and_extended_frames_open_nothing() {
    let mut w = World::new();
    let a = Node::new(NET_A, 1, "192.0.2.1:1000");
    let cookie = a.cookie(&mut w);
    let frames =
        [a.hello(w.ms()), a.bind_frame(w.ms(), cookie), Keep { flags: 0, gen_no: 1, t: 1 }.encode().to_vec()];
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [HELLO_LEN, BIND_LEN, KEEP_LEN]);
    for frame in &frames {
        let mut tries: Vec<Vec<u8>> = (0..frame.len()).map(|len| frame[..len].to_vec()).collect();
        tries.push([&frame[..], &[0]].concat());
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            tries.push(flipped);
        }
        for bytes in tries {
            if let Ok((to, answer)) = w.send(a.from, &bytes) {
                assert_eq!(to, addr(a.from));
                assert_eq!(answer.len(), NACK_LEN, "only a hint: {bytes:02x?}");
            }
        }
    }
    assert_eq!((w.relay.sessions(), w.relay.counters().forwarded), (0, 0));
    assert_eq!(DATA_HEADER_LEN, 8);
}

#[test]
fn the_nodes_machine_binds_here_and_survives_a_restart() {
    let mut w = World::new();
    let node = Node::new(NET_A, 1, "192.0.2.1:1000");
    let config = RelayClientConfig {
        relay_no: 1,
        lane: 0,
        ticket: node.ticket,
        bind_key: node.key.clone(),
        clock: RelayClock::new(w.ms(), w.now.mono),
    };
    let mut client = RelayClient::new(config, Rng::from_seed([5; 32]), w.now.mono);
    let run = |w: &mut World, client: &mut RelayClient, seconds: u64| {
        let end = w.now.mono + Duration::from_secs(seconds);
        let mut ups = 0;
        loop {
            while let Some(bytes) = client.poll_transmit() {
                if let Ok((_, answer)) = w.send(node.from, &bytes) {
                    w.pass(10);
                    client.handle_datagram(&answer, w.now.mono);
                }
            }
            while let Some(event) = client.poll_event() {
                ups += usize::from(matches!(event, RelayEvent::Up { .. }));
            }
            let (at, _) = client.poll_timeout().unwrap();
            if at > end {
                return ups;
            }
            w.pass(at.saturating_since(w.now.mono).as_millis() as u64 + 1);
            client.handle_timeout(w.now.mono);
        }
    };
    assert_eq!(run(&mut w, &mut client, 600), 1, "one session for ten minutes");
    w.relay = relay(ForwardConfig::default(), 9, w.now);
    assert_eq!(run(&mut w, &mut client, 60), 1, "bound again after the restart");
    assert_eq!(client.rtt(), Some(Duration::from_millis(10)));
}
