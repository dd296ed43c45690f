//! A stock `Node` with its worker halves, a genuine peer, and a wire in the hands of the fuzzer.
//!
//! ```text
//!  target: Node + Outbound + Inbound ◀── wire: lose, repeat, reorder, flip, delay ──▶ peer: the same, honest
//!                                    ◀── junk, with a right mac1 or without ────────── attacker
//! ```
//!
//! Promises: no panic; what is delivered is what the peer sent, at most as often; nothing but genuine bytes changes the
//! status; an attacker gets nothing larger than what he sent; queues stay within their caps; timers do not spin; and
//! when the wire is left alone, the pair works again.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use skynet_core::batch::SendBatch;
use skynet_core::constants::LABEL_MAC1;
use skynet_core::crypto;
use skynet_core::forwarder::{MemberRelay, RelayLimits, RelayTime};
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::{PortNo, RelayNo};
use skynet_core::key::{PublicKey, Secret, StaticSecret};
use skynet_core::node::staging::MAX_STAGED_PER_PEER;
use skynet_core::node::{
    ControlStreamEvent, Floors, Membership, Node, NodeConfig, NodeEvent, NodeTimer, StockConfig, StockPeer,
};
use skynet_core::offload::VnetHeader;
use skynet_core::receive::{Deliver, Inbound};
use skynet_core::rng::Rng;
use skynet_core::send::{Outbound, Sent};
use skynet_core::session::Engine;
use skynet_core::time::{Duration, Instant, Now, UnixTime};
use skynet_core::wire::ip::udp_v4;
use skynet_core::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use skynet_core::worker::{ControlClass, InboundCommand, LocalQueues};

use crate::Input;
use crate::sample::NOW;

/// Longer scripts only repeat themselves.
const MAX_STEPS: usize = 64;
/// Datagrams a single step may set free at most: a staged queue and what goes with it.
const MAX_OUTPUT: usize = MAX_STAGED_PER_PEER + 16;
/// Packets the wire and the log hold.
const MAX_WIRE: usize = 256;

#[derive(Default)]
struct Delivered(Vec<Vec<u8>>);
impl Deliver for Delivered {
    fn deliver(&mut self, packet: &[u8]) {
        self.0.push(packet.to_vec());
    }
}

/// A datagram under way: from, to, bytes.
type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

struct Host {
    address: SocketAddr,
    inner: Ipv4Addr,
    node: Node,
    outbound: Outbound,
    inbound: Inbound,
    table: Arc<ForwardingTable>,
    queues: LocalQueues,
    delivered: Delivered,
    public: PublicKey,
}

fn now_at(mono: Instant) -> Now {
    let nanos = mono.as_nanos();
    let unix_nanos = (nanos % 1_000_000_000) as u32;
    Now { mono, unix: UnixTime(NOW.0 + nanos / 1_000_000_000), unix_nanos }
}

impl Host {
    fn new(id: u8, peer: u8) -> Self {
        let secret = |n: u8| StaticSecret::from_bytes([n; 32]);
        let inner = Ipv4Addr::new(10, 0, 0, id);
        let stock = StockConfig {
            secret: secret(id),
            addresses: vec![inner.into()],
            peers: vec![StockPeer {
                public_key: secret(peer).public(),
                preshared_key: None,
                endpoint: Some(([192, 0, 2, peer], 1000).into()),
                allowed_ips: vec![format!("10.0.0.{peer}/32").parse().expect("a prefix")],
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
            mtu: skynet_core::path::MtuConfig::default(),
            known_members: skynet_core::node::directory::MAX_MEMBERS,
            guessing: skynet_core::path::Guessing::default(),
            relay_for_members: None,
        };
        let node = Node::new(config, [id; 32], now_at(Instant::ZERO)).expect("it has a key");
        let (drops, flows) = (Arc::clone(node.drops()), Arc::clone(node.flows()));
        let mut queues = LocalQueues::default();
        let mut inbound = Inbound::new(PortNo(0), Arc::clone(&drops), Arc::clone(&flows));
        // It relays as well, for nobody: the key of tickets is the fuzzer's to guess.
        let (limits, start) = (RelayLimits { sessions: 4, ..RelayLimits::default() }, now_at(Instant::ZERO));
        let relay = MemberRelay::new(
            (RelayNo(RelayNo::FIRST_MEMBER), limits),
            Secret::from_bytes([id; 32]),
            Arc::default(),
            Rng::from_seed([id; 32]),
            (RelayTime::new(start), start.mono),
        );
        inbound.handle_command(InboundCommand::Relay(Some(Box::new(relay))), &mut queues);
        Self {
            address: ([192, 0, 2, id], 1000).into(),
            inner,
            public: node.public_key(),
            node,
            outbound: Outbound::new(drops, flows),
            inbound,
            table: Arc::default(),
            queues,
            delivered: Delivered::default(),
        }
    }

    fn send(&mut self, packet: &[u8], now: Instant, wire: &mut VecDeque<Datagram>) {
        let mut batch = SendBatch::default();
        self.outbound.begin(now, &self.table, 1);
        assert_eq!(
            self.outbound.handle_packet(VnetHeader::NONE, packet, &mut batch, &mut self.queues),
            Sent::Done
        );
        for train in batch.trains() {
            wire.extend(
                train.bytes.chunks(train.segment).map(|s| (self.address, train.outer.to, s.to_vec())),
            );
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.inbound.begin(now, &self.table);
        let mut bytes = datagram.to_vec();
        let onward = self.inbound.handle_datagram(from, 0, &mut bytes, &mut self.delivered, &mut self.queues);
        if let Some(onward) = onward {
            assert!(onward.len <= bytes.len());
        }
        self.inbound.finish(&mut self.delivered, &mut self.queues);
    }

    /// Everything `Node` has to say, until it is silent.
    fn drain(&mut self, now: Instant, wire: &mut VecDeque<Datagram>) {
        let (mut told, mut sent) = (0, 0);
        loop {
            while let Some(message) = self.queues.pop() {
                told += 1;
                self.node.handle_worker(message, now_at(now));
            }
            if let Some(t) = self.node.poll_transmit() {
                sent += 1;
                wire.push_back((self.address, t.to, t.bytes));
            } else if let Some(event) = self.node.poll_event() {
                match event {
                    NodeEvent::Publish(table) => {
                        assert!(table.version > self.table.version, "snapshots only get newer");
                        self.table = table;
                    }
                    NodeEvent::Inbound { command, .. } => {
                        self.inbound.handle_command(command, &mut self.queues)
                    }
                    NodeEvent::PersistFloors(_) => {}
                    other => panic!("a stock node does not ask for {other:?}"),
                }
            } else {
                break;
            }
        }
        assert!(told <= ControlClass::ALL.len() * ControlClass::CAPACITY + MAX_OUTPUT, "{told} waited");
        assert!(sent <= told + MAX_OUTPUT, "{sent} datagrams after {told} messages");
        assert!(self.node.poll_timeout().is_none_or(|(_, timer)| timer != NodeTimer::Output), "drained");
    }

    fn status(&self) -> String {
        format!("{:?}", self.node.status())
    }
}

struct World {
    target: Host,
    peer: Host,
    now: Instant,
    wire: VecDeque<Datagram>,
    /// Genuine datagrams towards the target, for later use.
    log: Vec<Vec<u8>>,
    /// Packets the peer handed to its TUN device, and how often.
    offered: BTreeMap<Vec<u8>, usize>,
}

/// Runs a script: an operation a byte, its operands behind it.
pub fn node(bytes: &[u8]) -> bool {
    let mut world = World {
        target: Host::new(1, 2),
        peer: Host::new(2, 1),
        now: Instant::ZERO,
        wire: VecDeque::new(),
        log: Vec::new(),
        offered: BTreeMap::new(),
    };
    world.settle();
    let mut input = Input(bytes);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.check();
    }
    let worked = !world.target.delivered.0.is_empty();
    world.recovers();
    worked
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 => self.junk(input.slice()),
            1 => self.junk(&self.with_mac1(input.slice())),
            2 => self.flipped(input.byte(), input.short(), input.byte()),
            3 => self.target_sends(&udp_v4(self.target.inner, self.peer.inner, (1, 2), input.slice())),
            4 => self.target_sends(input.slice()),
            5 => self.peer_sends(input.slice(), input.byte()),
            6 => (0..=input.byte()).for_each(|_| self.carry()),
            7 => drop(self.wire.pop_front()),
            8 => self.wire.extend(self.wire.front().cloned()),
            9 => self.wire.rotate_left(usize::from(!self.wire.is_empty())),
            10 => self.advance(Duration::from_millis(u64::from(input.short()))),
            11 => self.advance(Duration::from_secs(u64::from(input.byte()))),
            12 => self.peer.address.set_port(1000 + u16::from(input.byte() & 3)),
            13 => self.burst(input.slice()),
            14 => self.replayed(input.byte(), input.byte()),
            _ => self.command(input.byte()),
        }
        self.settle();
    }

    /// Lets both nodes speak and keeps wire and log small.
    fn settle(&mut self) {
        let before = self.wire.len();
        self.target.drain(self.now, &mut self.wire);
        self.peer.drain(self.now, &mut self.wire);
        for (_, to, bytes) in self.wire.range(before.min(self.wire.len())..) {
            if *to == self.target.address && self.log.len() < MAX_WIRE {
                self.log.push(bytes.clone());
            }
        }
        while self.wire.len() > MAX_WIRE {
            self.wire.pop_front();
        }
    }

    fn carry(&mut self) {
        let Some((from, to, bytes)) = self.wire.pop_front() else { return };
        if to == self.target.address {
            self.target.receive(from, &bytes, self.now);
        } else if to == self.peer.address {
            self.peer.receive(from, &bytes, self.now);
        }
        self.settle();
    }

    fn target_sends(&mut self, packet: &[u8]) {
        self.target.send(packet, self.now, &mut self.wire);
    }

    /// The peer may use a source that is not its own.
    fn peer_sends(&mut self, text: &[u8], source: u8) {
        let source = if source == 0 { self.peer.inner } else { Ipv4Addr::new(10, 0, 0, source) };
        let packet = udp_v4(source, self.target.inner, (1, 2), text);
        let before = self.wire.len();
        self.peer.send(&packet, self.now, &mut self.wire);
        self.log.extend(self.wire.range(before..).map(|(_, _, bytes)| bytes.clone()));
        self.log.truncate(MAX_WIRE);
        *self.offered.entry(packet).or_default() += usize::from(source == self.peer.inner);
    }

    /// Bytes from nobody: no effect, unless they are the peer's own, and no answer larger than the cause.
    fn junk(&mut self, bytes: &[u8]) {
        if self.log.iter().any(|genuine| same(genuine, bytes)) {
            return;
        }
        let before = self.target.status();
        self.target.receive(attacker(), bytes, self.now);
        let mut answers = VecDeque::new();
        self.target.drain(self.now, &mut answers);
        assert_eq!(self.target.status(), before, "junk changed the status");
        for (_, to, answer) in answers {
            assert_eq!(to, attacker(), "junk made the node speak to others");
            assert!(answer.len() < bytes.len(), "an answer larger than its cause");
        }
    }

    /// Anyone who knows the target's public key can do this.
    fn with_mac1(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        let at = match out.first() {
            Some(1) => 116,
            Some(2) => 60,
            _ => return out,
        };
        out.resize(at + 32, 0);
        let key = crypto::hash(&[LABEL_MAC1, self.target.public.as_bytes()]);
        let mac = crypto::mac16(&key, &[&out[..at]]);
        out[at..at + 16].copy_from_slice(&mac);
        out
    }

    fn flipped(&mut self, which: u8, at: u16, mask: u8) {
        let Some(genuine) = self.log.get(usize::from(which) % self.log.len().max(1)) else { return };
        let mut bytes = genuine.clone();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= mask;
        self.junk(&bytes);
    }

    /// A genuine datagram once more, from the peer or from elsewhere.
    fn replayed(&mut self, which: u8, from: u8) {
        let Some(genuine) = self.log.get(usize::from(which) % self.log.len().max(1)).cloned() else { return };
        let from = if from & 1 == 0 { self.peer.address } else { attacker() };
        self.target.receive(from, &genuine, self.now);
    }

    /// The same datagram more often than any queue is long, before `Node` gets a turn.
    fn burst(&mut self, bytes: &[u8]) {
        let bytes = self.with_mac1(bytes);
        if self.log.iter().any(|genuine| same(genuine, &bytes)) {
            return;
        }
        let before = self.target.status();
        for _ in 0..ControlClass::CAPACITY + 8 {
            self.target.receive(attacker(), &bytes, self.now);
        }
        let mut answers = VecDeque::new();
        self.target.drain(self.now, &mut answers);
        assert_eq!(self.target.status(), before, "junk changed the status");
        assert!(answers.iter().all(|(_, to, answer)| *to == attacker() && answer.len() < bytes.len()));
    }

    fn command(&mut self, which: u8) {
        let now = now_at(self.now);
        match which % 4 {
            0 => self.target.node.reset_sessions([which; 32], now),
            1 => self.target.node.set_local_addresses(&[([192, 0, 2, 1], u16::from(which)).into()], now),
            2 => self.target.node.handle_control(ControlStreamEvent::Bytes(vec![which; 40]), now),
            _ => self.target.node.handle_control(ControlStreamEvent::Closed, now),
        }
    }

    /// Time passes; timers fire at their very instants, and none stays due.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let next = [&self.target, &self.peer].into_iter().filter_map(|h| h.node.poll_timeout()).min();
            let Some((at, _)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            for host in [&mut self.target, &mut self.peer] {
                if host.node.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                    host.node.handle_timeout(now_at(self.now));
                    let again = host.node.poll_timeout();
                    let spins = again.is_some_and(|(at, why)| at <= self.now && why != NodeTimer::Output);
                    assert!(!spins, "a timer that stays due: {again:?}");
                }
            }
            self.settle();
        }
        self.now = end;
    }

    fn check(&self) {
        let mut delivered: BTreeMap<&[u8], usize> = BTreeMap::new();
        for packet in &self.target.delivered.0 {
            *delivered.entry(packet).or_default() += 1;
        }
        for (packet, n) in delivered {
            assert!(self.offered.get(packet).is_some_and(|offered| n <= *offered), "forged or repeated");
        }
    }

    /// After whatever happened, two honest nodes on a perfect wire talk again.
    fn recovers(&mut self) {
        self.wire.clear();
        let text = b"once more".as_slice();
        let packet = udp_v4(self.peer.inner, self.target.inner, (3, 4), text);
        for _ in 0..200 {
            self.peer.send(&packet, self.now, &mut self.wire);
            self.settle();
            while !self.wire.is_empty() {
                self.carry();
            }
            if self.target.delivered.0.last() == Some(&packet) {
                return;
            }
            self.advance(Duration::from_secs(1));
        }
        panic!("the pair did not recover in 200 s");
    }
}

fn attacker() -> SocketAddr {
    ([203, 0, 113, 9], 9).into()
}

/// Equal but for mac2, which nobody checks while there is no load.
fn same(genuine: &[u8], bytes: &[u8]) -> bool {
    let end = match genuine {
        [1, ..] => 132,
        [2, ..] => 76,
        _ => genuine.len(),
    };
    genuine.len() == bytes.len() && genuine.get(..end) == bytes.get(..end)
}
