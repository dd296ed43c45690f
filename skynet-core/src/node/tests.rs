//! Two stock nodes with their workers on a perfect wire: the whole way of a packet, in virtual time.
//! Members, relays and NATs are the simulator's matter.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::batch::SendBatch;
use crate::forwarding::ForwardingTable;
use crate::id::PortNo;
use crate::key::StaticSecret;
use crate::offload::VnetHeader;
use crate::receive::{Deliver, Inbound};
use crate::send::{Outbound, Sent};
use crate::session::Engine;
use crate::time::UnixTime;
use crate::wire::ip::udp_v4;
use crate::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use crate::worker::LocalQueues;

struct Host {
    address: SocketAddr,
    inner: Ipv4Addr,
    node: Node,
    outbound: Outbound,
    inbound: Inbound,
    table: Arc<ForwardingTable>,
    queues: LocalQueues,
    delivered: Delivered,
    floors: Option<Floors>,
}

#[derive(Default)]
struct Delivered(Vec<Vec<u8>>);
impl Deliver for Delivered {
    fn deliver(&mut self, packet: &[u8]) {
        self.0.push(packet.to_vec());
    }
}

type Wire = VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>;

fn now_at(mono: Instant) -> Now {
    Now { mono, unix: UnixTime(1_800_000_000 + mono.as_nanos() / 1_000_000_000), unix_nanos: 0 }
}

impl Host {
    fn new(id: u8, peer: u8, psk: Option<[u8; 32]>, allowed: &str) -> Self {
        let address = SocketAddr::from(([192, 0, 2, id], 1000));
        let secret = |n: u8| StaticSecret::from_bytes([n; 32]);
        let inner = Ipv4Addr::new(10, 0, 0, id);
        let stock = StockConfig {
            secret: secret(id),
            addresses: vec![inner.into()],
            peers: vec![StockPeer {
                public_key: secret(peer).public(),
                preshared_key: psk.map(crate::key::Secret::from_bytes),
                endpoint: Some(([192, 0, 2, peer], 1000).into()),
                allowed_ips: vec![allowed.parse().unwrap()],
                persistent_keepalive: None,
            }],
        };
        let config = NodeConfig {
            membership: Membership::None,
            stock: Some(stock),
            floors: Floors::default(),
            last_peers: Vec::new(),
            roster: Vec::new(),
            engine: Engine::Noise,
            suites: SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM,
            max_lanes: 4,
            chunks: true,
            min_lanes: 1,
            mtu: MtuConfig::default(),
            known_members: directory::MAX_MEMBERS,
            guessing: Guessing::default(),
            relay_for_members: None,
        };
        let node = Node::new(config, [id; 32], now_at(Instant::ZERO)).unwrap();
        let (drops, flows) = (Arc::clone(node.drops()), Arc::clone(node.flows()));
        Self {
            address,
            inner,
            node,
            outbound: Outbound::new(Arc::clone(&drops), Arc::clone(&flows)),
            inbound: Inbound::new(PortNo(0), drops, flows),
            table: Arc::default(),
            queues: LocalQueues::default(),
            delivered: Delivered::default(),
            floors: None,
        }
    }

    fn packet_to(&self, to: Ipv4Addr, text: &[u8]) -> Vec<u8> {
        udp_v4(self.inner, to, (1, 2), text)
    }

    fn send(&mut self, packet: &[u8], now: Instant, wire: &mut Wire) {
        let mut batch = SendBatch::default();
        self.outbound.begin(now, &self.table, 1);
        assert_eq!(
            self.outbound.handle_packet(VnetHeader::NONE, packet, &mut batch, &mut self.queues),
            Sent::Done
        );
        for train in batch.trains() {
            for segment in train.bytes.chunks(train.segment) {
                wire.push_back((self.address, train.outer.to, segment.to_vec()));
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, mut datagram: Vec<u8>, now: Instant) {
        self.inbound.begin(now, &self.table);
        self.inbound.handle_datagram(from, 0, &mut datagram, &mut self.delivered, &mut self.queues);
        self.inbound.finish(&mut self.delivered, &mut self.queues);
    }

    /// Everything `Node` has to say, until it is silent.
    fn drain(&mut self, now: Instant, wire: &mut Wire) {
        loop {
            while let Some(message) = self.queues.pop() {
                self.node.handle_worker(message, now_at(now));
            }
            if let Some(t) = self.node.poll_transmit() {
                wire.push_back((self.address, t.to, t.bytes));
            } else if let Some(event) = self.node.poll_event() {
                match event {
                    NodeEvent::Publish(table) => {
                        assert!(table.version > self.table.version);
                        self.table = table;
                    }
                    NodeEvent::Inbound { command, .. } => {
                        self.inbound.handle_command(command, &mut self.queues)
                    }
                    NodeEvent::PersistFloors(floors) => self.floors = Some(floors),
                    other => panic!("a stock node does not ask for {other:?}"),
                }
            } else {
                return;
            }
        }
    }
}

/// Two hosts and what is between them.
struct Pair {
    hosts: [Host; 2],
    now: Instant,
    wire: Wire,
    /// Datagrams carried so far, by first byte.
    carried: [usize; 8],
}

impl Pair {
    fn new() -> Self {
        Self::with(Host::new(1, 2, None, "10.0.0.2/32"), Host::new(2, 1, None, "10.0.0.1/32"))
    }

    fn with(a: Host, b: Host) -> Self {
        let mut pair = Self { hosts: [a, b], now: Instant::ZERO, wire: Wire::new(), carried: [0; 8] };
        pair.settle();
        pair
    }

    fn settle(&mut self) {
        loop {
            for host in &mut self.hosts {
                host.drain(self.now, &mut self.wire);
            }
            let Some((from, to, bytes)) = self.wire.pop_front() else { return };
            self.carried[usize::from(bytes[0] & 7)] += 1;
            if let Some(host) = self.hosts.iter_mut().find(|h| h.address == to) {
                host.receive(from, bytes, self.now);
            }
        }
    }

    fn send(&mut self, from: usize, text: &[u8]) {
        let to = self.hosts[1 - from].inner;
        let packet = self.hosts[from].packet_to(to, text);
        self.hosts[from].send(&packet, self.now, &mut self.wire);
        self.settle();
    }

    /// Virtual time passes; timers fire at their very instants.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let next = self.hosts.iter().filter_map(|h| h.node.poll_timeout()).min();
            let Some((at, _)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            for host in &mut self.hosts {
                if host.node.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                    host.node.handle_timeout(now_at(self.now));
                    let again = host.node.poll_timeout();
                    assert!(
                        again.is_none_or(|(at, timer)| at > self.now || timer == NodeTimer::Output),
                        "a timer that stays due spins: {again:?}"
                    );
                }
            }
            self.settle();
        }
        self.now = end;
    }

    fn texts(&self, host: usize) -> Vec<String> {
        self.hosts[host].delivered.0.iter().map(|p| String::from_utf8_lossy(&p[28..]).into_owned()).collect()
    }
}

#[test]
fn the_first_packet_waits_for_the_handshake_and_none_is_lost() {
    let mut pair = Pair::new();
    pair.send(0, b"one");
    pair.send(1, b"two");
    pair.send(0, b"three");
    assert_eq!(pair.texts(1), ["one", "three"]);
    assert_eq!(pair.texts(0), ["two"]);
    assert_eq!((pair.carried[1], pair.carried[2]), (1, 1), "one initiation, one response");
}

#[test]
fn steady_traffic_outlives_rekeys_without_losing_a_packet() {
    let mut pair = Pair::new();
    for i in 0..600 {
        pair.send(i % 2, format!("{i}").as_bytes());
        pair.advance(Duration::from_secs(1));
    }
    assert_eq!(pair.texts(0).len() + pair.texts(1).len(), 600);
    assert!((4..=6).contains(&pair.carried[1]), "a rekey every 120 s: {} initiations", pair.carried[1]);
}

#[test]
fn an_idle_pair_sends_nothing_and_asks_for_no_timer() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    pair.advance(Duration::from_secs(1000));
    let before = pair.carried;
    pair.advance(Duration::from_secs(10_000));
    assert_eq!(pair.carried, before);
    assert!(pair.hosts.iter().all(|h| h.node.poll_timeout().is_none()));
}

#[test]
fn a_wrong_preshared_key_yields_no_session() {
    let a = Host::new(1, 2, Some([1; 32]), "10.0.0.2/32");
    let b = Host::new(2, 1, Some([2; 32]), "10.0.0.1/32");
    let mut pair = Pair::with(a, b);
    pair.send(0, b"x");
    pair.advance(Duration::from_secs(20));
    assert!(pair.texts(1).is_empty());
    assert!(!pair.hosts[0].node.status().peers[0].established);
}

#[test]
fn a_source_that_is_not_the_senders_is_dropped_even_inside_a_wider_prefix() {
    // B accepts 10.0.0.0/24 from A but has 10.0.0.99 from nobody else; A may not send as B itself.
    let mut pair = Pair::new();
    pair.send(0, b"x");
    let forged = udp_v4([10, 0, 0, 77].into(), pair.hosts[1].inner, (1, 2), b"forged");
    pair.hosts[0].send(&forged, pair.now, &mut pair.wire);
    pair.settle();
    assert_eq!(pair.texts(1), ["x"]);
    assert_eq!(pair.hosts[1].node.drops().get(DropReason::SourceNotAllowed), 1);
}

#[test]
fn a_replayed_datagram_is_delivered_once() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    let packet = pair.hosts[0].packet_to(pair.hosts[1].inner, b"once");
    pair.hosts[0].send(&packet, pair.now, &mut pair.wire);
    let copy = pair.wire.back().cloned().unwrap();
    pair.wire.push_back(copy);
    pair.settle();
    assert_eq!(pair.texts(1), ["x", "once"]);
    assert_eq!(pair.hosts[1].node.drops().get(DropReason::Replayed), 1);
}

#[test]
fn a_stock_peer_roams_to_where_its_last_authentic_packet_came_from() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    pair.hosts[0].address = ([192, 0, 2, 77], 4242).into();
    pair.send(0, b"from elsewhere");
    pair.send(1, b"answer");
    assert_eq!(pair.texts(0), ["answer"]);
}

#[test]
fn junk_changes_nothing_and_gets_no_answer() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    let (status, carried) = (format!("{:?}", pair.hosts[1].node.status()), pair.carried);
    let attacker = SocketAddr::from(([203, 0, 113, 9], 9));
    for len in 0..200usize {
        for first in 0..=255u8 {
            let mut junk = vec![0; len];
            if let Some(b) = junk.first_mut() {
                *b = first;
            }
            pair.hosts[1].receive(attacker, junk, pair.now);
            pair.hosts[1].drain(pair.now, &mut pair.wire);
            assert!(pair.wire.is_empty(), "answered junk of {len} bytes starting {first:#x}");
        }
    }
    assert_eq!((format!("{:?}", pair.hosts[1].node.status()), pair.carried), (status, carried));
}

#[test]
fn after_a_reset_nothing_is_sealed_with_an_old_key() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    pair.hosts[0].node.reset_sessions([9; 32], now_at(pair.now));
    pair.settle();
    assert!(pair.hosts[0].table.peers.iter().flatten().all(|p| p.sealing.is_none()));
    pair.advance(Duration::from_secs(6));
    pair.send(0, b"again");
    assert_eq!(pair.texts(1), ["x", "again"]);
}

#[test]
fn the_timestamp_floor_is_persisted_ahead_of_what_was_sent() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    let floor = pair.hosts[0].floors.expect("persisted before the first handshake").handshake_timestamp;
    assert!(floor > Tai64n::from_now(now_at(pair.now)));
}

#[test]
fn an_address_nobody_owns_is_one_counted_drop() {
    let mut pair = Pair::new();
    let stray = pair.hosts[0].packet_to([10, 9, 9, 9].into(), b"?");
    pair.hosts[0].send(&stray, pair.now, &mut pair.wire);
    assert_eq!(pair.hosts[0].node.drops().get(DropReason::NoPeer), 1);
    assert_eq!(pair.hosts[0].table.own, [IpAddr::from([10, 0, 0, 1])]);
}

#[test]
fn crossing_initiations_deliver_what_waited_without_a_timer() {
    let mut pair = Pair::new();
    for host in 0..2 {
        let packet = pair.hosts[host].packet_to(pair.hosts[1 - host].inner, b"at once");
        pair.hosts[host].send(&packet, Instant::ZERO, &mut pair.wire);
    }
    pair.settle();
    assert_eq!((pair.texts(0), pair.texts(1)), (vec!["at once".into()], vec!["at once".into()]));
}

/// A queue of keys with room for nothing more.
fn fill_keys(queues: &mut LocalQueues) {
    use crate::worker::ControlSink;
    while queues.offer(ToControl::Awake { slot: PeerSlot(99) }) {}
}

fn drain_queues(queues: &mut LocalQueues) -> Vec<ToControl> {
    core::iter::from_fn(|| queues.pop()).collect()
}

/// Brings the pair to where host 1 has its opening key and the first data of host 0 is on the wire.
fn up_to_the_first_data(pair: &mut Pair) -> Vec<u8> {
    let packet = pair.hosts[0].packet_to(pair.hosts[1].inner, b"first");
    pair.hosts[0].send(&packet, pair.now, &mut pair.wire);
    for turn in [0, 1, 0] {
        pair.hosts[turn].drain(pair.now, &mut pair.wire);
        let (from, _, bytes) = pair.wire.pop_front().unwrap();
        if bytes[0] == 4 {
            return bytes;
        }
        pair.hosts[1 - turn].receive(from, bytes, pair.now);
    }
    pair.hosts[0].drain(pair.now, &mut pair.wire);
    pair.wire.pop_front().unwrap().2
}

#[test]
fn a_confirmation_without_room_in_the_queue_is_told_with_the_next_packet() {
    let mut pair = Pair::new();
    let first = up_to_the_first_data(&mut pair);
    let from = pair.hosts[0].address;
    fill_keys(&mut pair.hosts[1].queues);
    pair.hosts[1].receive(from, first, pair.now);
    drain_queues(&mut pair.hosts[1].queues);
    let packet = pair.hosts[0].packet_to(pair.hosts[1].inner, b"second");
    pair.hosts[0].send(&packet, pair.now, &mut pair.wire);
    pair.settle();
    assert!(pair.hosts[1].table.peers[0].as_ref().unwrap().sealing.is_some());
    assert_eq!(pair.texts(1), ["first", "second"]);
}

#[test]
fn an_installed_key_without_room_in_the_queue_is_acknowledged_with_the_next_datagram() {
    let mut pair = Pair::new();
    let packet = pair.hosts[0].packet_to(pair.hosts[1].inner, b"x");
    pair.hosts[0].send(&packet, pair.now, &mut pair.wire);
    pair.hosts[0].drain(pair.now, &mut pair.wire);
    let (from, _, initiation) = pair.wire.pop_front().unwrap();
    pair.hosts[1].receive(from, initiation, pair.now);
    let message = pair.hosts[1].queues.pop().unwrap();
    pair.hosts[1].node.handle_worker(message, now_at(pair.now));
    let host = &mut pair.hosts[1];
    fill_keys(&mut host.queues);
    while let Some(event) = host.node.poll_event() {
        match event {
            NodeEvent::Inbound { command, .. } => host.inbound.handle_command(command, &mut host.queues),
            NodeEvent::Publish(table) => host.table = table,
            _ => {}
        }
    }
    drain_queues(&mut host.queues);
    host.receive(from, vec![0xff], pair.now);
    pair.settle();
    assert_eq!(pair.texts(1), ["x"]);
}

#[test]
fn a_peer_that_roams_at_line_rate_tells_it_once() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    let elsewhere = SocketAddr::from(([192, 0, 2, 77], 4242));
    for _ in 0..5 {
        let packet = pair.hosts[0].packet_to(pair.hosts[1].inner, b"y");
        pair.hosts[0].send(&packet, pair.now, &mut pair.wire);
        let (_, _, bytes) = pair.wire.pop_back().unwrap();
        pair.hosts[1].receive(elsewhere, bytes, pair.now);
    }
    let told = drain_queues(&mut pair.hosts[1].queues);
    assert_eq!(told.iter().filter(|m| matches!(m, ToControl::Roamed { .. })).count(), 1);
}

#[test]
fn relay_upkeep_and_stun_of_strangers_fill_no_queue() {
    let mut pair = Pair::new();
    let stranger = SocketAddr::from(([203, 0, 113, 9], 9));
    let relay = SocketAddr::from(([192, 0, 2, 200], 3478));
    let relays = vec![(relay, crate::id::RelayNo(1))];
    pair.hosts[1].table = Arc::new(ForwardingTable { relays, ..ForwardingTable::default() });
    let stun = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42].to_vec();
    for datagram in [vec![0xa8; 40], vec![0xab; 40], vec![0xad; 40], stun] {
        pair.hosts[1].receive(stranger, datagram, pair.now);
    }
    assert!(pair.hosts[1].queues.pop().is_none());
    assert_eq!(pair.hosts[1].node.drops().get(DropReason::BadRelayHeader), 4);
    pair.hosts[1].receive(relay, vec![0xab; 40], pair.now);
    assert!(pair.hosts[1].queues.pop().is_some());
}

#[test]
fn a_packet_handed_over_for_a_slot_that_means_another_peer_by_now_is_not_sealed_for_it() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    let carried = pair.carried;
    let packet = pair.hosts[0].packet_to([10, 0, 0, 9].into(), b"for somebody else");
    pair.hosts[0].node.handle_worker(ToControl::Stage { slot: PeerSlot(0), packet }, now_at(pair.now));
    pair.settle();
    assert_eq!(pair.carried, carried);
    assert_eq!(pair.hosts[0].node.drops().get(DropReason::NoPeer), 1);
}

#[test]
fn a_record_under_a_key_of_another_peer_is_not_taken_for_this_one() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    let hello = crate::wire::record::Hello {
        suites: 1,
        max_lanes: 1,
        max_packet: 1360,
        manifest: crate::wire::record::Holding { epoch: 1, hash: [0; 32] },
        documents: None,
        features: 0,
    };
    let record = ToControl::Record { slot: PeerSlot(0), index: ReceiverIndex(7), bytes: hello.encode() };
    pair.hosts[0].node.handle_worker(record, now_at(pair.now));
    assert_eq!(pair.hosts[0].node.drops().get(DropReason::UnknownIndex), 1);
}

#[test]
fn a_new_key_is_confirmed_at_once_even_if_the_old_one_sealed_at_the_same_instant() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    pair.advance(Duration::from_secs(125));
    // The rekey begins with this packet; its sealing and the new keys all come at one reading of the clock.
    pair.send(0, b"y");
    let key = |pair: &Pair, host: usize| {
        pair.hosts[host].table.peers[0].as_ref().unwrap().sealing.as_ref().map(|k| k.id())
    };
    assert!(key(&pair, 0).is_some());
    assert_eq!(key(&pair, 0), key(&pair, 1), "the responder seals with the key the initiator has");
}

#[test]
fn a_worn_key_is_told_once_per_snapshot_and_replaced_without_loss() {
    let mut pair = Pair::new();
    pair.send(0, b"x");
    pair.advance(Duration::from_secs(10));
    let key = |pair: &Pair| pair.hosts[1].table.peers[0].as_ref().unwrap().sealing.clone().unwrap();
    let worn = key(&pair);
    worn.set_next(crate::constants::REKEY_AFTER_MESSAGES);
    for text in [b"1", b"2", b"3"] {
        let packet = pair.hosts[1].packet_to(pair.hosts[0].inner, text);
        pair.hosts[1].send(&packet, pair.now, &mut pair.wire);
    }
    let told = drain_queues(&mut pair.hosts[1].queues);
    assert_eq!(told.iter().filter(|m| matches!(m, ToControl::Worn { .. })).count(), 1);
    for message in told {
        pair.hosts[1].node.handle_worker(message, now_at(pair.now));
    }
    pair.settle();
    assert_ne!(key(&pair).id(), worn.id(), "either end begins, also the responder");
    pair.send(1, b"4");
    assert_eq!(pair.texts(0), ["1", "2", "3", "4"]);
}
