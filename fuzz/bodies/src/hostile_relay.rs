//! A member node whose relay is hostile: it holds the relay's key and says what the fuzzer likes, on the control channel
//! and over UDP.
//!
//! Promises (the relay is a mailbox, never an authority): no panic; the node keeps its name and addresses; only the
//! network's genuine members ever become peers; nothing is delivered; an alarm or a silence is all a relay can cause.

use std::net::SocketAddr;
use std::sync::Arc;

use skynet_core::batch::SendBatch;
use skynet_core::control::Channel;
use skynet_core::control::message::{ConflictWhat, Member, Message, Welcome};
use skynet_core::crypto;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::PortNo;
use skynet_core::key::Secret;
use skynet_core::member::{Credentials, Tags};
use skynet_core::node::{ControlStreamEvent, Floors, Membership, Node, NodeConfig, NodeEvent};
use skynet_core::offload::VnetHeader;
use skynet_core::receive::{Deliver, Inbound};
use skynet_core::rng::Rng;
use skynet_core::send::Outbound;
use skynet_core::session::Engine;
use skynet_core::time::{Duration, Instant, Now, UnixTime};
use skynet_core::wire::ip::udp_v4;
use skynet_core::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use skynet_core::wire::relay::{Class, DataHeader, TICKET_LEN};
use skynet_core::worker::{ControlClass, LocalQueues};

use crate::Input;
use crate::sample::{self, NOW};

const MAX_STEPS: usize = 32;
/// Timers that fire in one script. After that time jumps, as on a host that slept: each reconnect is a handshake, and a
/// script of days is no better than one of minutes.
const MAX_TIMERS: usize = 100;
/// PROTOCOL §4.1.
const ROLL: u8 = 25;
/// What one step may make the node say: everything its queues hold, and some.
const MAX_OUTPUT: usize = 4 * ControlClass::CAPACITY;
/// `K_b` of the session at the relay.
const BIND_KEY: [u8; 32] = [5; 32];

struct NothingAtAll;
impl Deliver for NothingAtAll {
    fn deliver(&mut self, _packet: &[u8]) {
        panic!("a relay made the node deliver a packet");
    }
}

struct World {
    node: Node,
    inbound: Inbound,
    outbound: Outbound,
    table: Arc<ForwardingTable>,
    queues: LocalQueues,
    rng: Rng,
    now: Now,
    /// The relay's end of the control stream, while there is one.
    channel: Option<Channel>,
    /// Number of the node's last request.
    request: u32,
    /// The relay's address on which the node last tried something.
    relay: SocketAddr,
    timers: usize,
    met: bool,
}

/// Runs a script: an operation a byte, its operands behind it.
pub fn hostile_relay(bytes: &[u8]) -> bool {
    let config = NodeConfig {
        membership: Membership::Joined(Box::new(sample::network().credentials.clone())),
        stock: None,
        floors: Floors::default(),
        last_peers: Vec::new(),
        roster: Vec::new(),
        engine: Engine::Noise,
        suites: SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM,
        max_lanes: 4,
        chunks: true,
        min_lanes: 4,
        mtu: skynet_core::path::MtuConfig::default(),
        known_members: skynet_core::node::directory::MAX_MEMBERS,
        guessing: skynet_core::path::Guessing::default(),
        relay_for_members: None,
    };
    let now = Now { mono: Instant::ZERO, unix: NOW, unix_nanos: 0 };
    let node = Node::new(config, [1; 32], now).expect("the credentials are in order");
    let (drops, flows) = (Arc::clone(node.drops()), Arc::clone(node.flows()));
    let mut world = World {
        outbound: Outbound::new(Arc::clone(&drops), Arc::clone(&flows)),
        inbound: Inbound::new(PortNo(0), drops, flows),
        table: Arc::default(),
        queues: LocalQueues::default(),
        rng: Rng::from_seed([2; 32]),
        now,
        channel: None,
        request: 0,
        relay: sample::network().credentials.relays()[0].address,
        timers: 0,
        met: false,
        node,
    };
    world.settle();
    let mut input = Input(bytes);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.settle();
        world.check();
    }
    world.met
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 12 {
            0 => {
                let message = input.slice();
                // Somebody waits for whoever comes, so that a word about presence is heard.
                if message.first() == Some(&ROLL) {
                    self.node.watch(Some(Tags::default()), self.now);
                    self.settle();
                }
                self.say_bytes(message);
            }
            1 => self.welcome(),
            2 => self.members(input.byte(), input.short(), input.byte()),
            3 => self.datagram(self.relay, input.slice()),
            4 => self.datagram(([203, 0, 113, 9], 9).into(), input.slice()),
            5 => {
                let other = sample::network().other.certificate.unverified().v4.to_bits();
                let from = if input.byte() & 1 == 0 { other } else { u32::from(input.byte()) };
                let header = DataHeader::new(Class::Control, 0, 1, from);
                self.datagram(self.relay, &[&header.encode()[..], input.slice()].concat());
            }
            6 => self.frame_with_mac(input.slice()),
            7 => self.advance(Duration::from_millis(u64::from(input.short()))),
            8 => self.advance(Duration::from_secs(u64::from(input.short()))),
            9 => self.send(input.byte()),
            10 => self.node.handle_control(ControlStreamEvent::Bytes(input.slice().to_vec()), self.now),
            _ => {
                self.channel = None;
                self.node.handle_control(ControlStreamEvent::Closed, self.now);
            }
        }
    }

    fn settle(&mut self) {
        let mut said = 0;
        loop {
            while let Some(message) = self.queues.pop() {
                self.node.handle_worker(message, self.now);
            }
            said += 1;
            assert!(said <= MAX_OUTPUT, "the node does not fall silent");
            if self.node.poll_transmit().is_some() {
                continue;
            }
            match self.node.poll_event() {
                None => return,
                Some(NodeEvent::Publish(table)) => self.table = table,
                Some(NodeEvent::Inbound { port: PortNo(0), command }) => {
                    self.inbound.handle_command(command, &mut self.queues)
                }
                Some(NodeEvent::OpenPort(port)) => {
                    let address = ([127, 0, 0, 1], 1_000 + u16::from(port.0)).into();
                    self.node.port_opened(port, &[address], self.now);
                }
                Some(NodeEvent::ClosePort(port)) => assert_ne!(port, PortNo(0), "port 0 is always open"),
                Some(NodeEvent::Inbound { .. }) => {}
                Some(NodeEvent::ConnectControl(_)) => self.connect(),
                Some(NodeEvent::SendControl(bytes)) => self.heard(&bytes),
                Some(NodeEvent::CloseControl) => self.channel = None,
                Some(NodeEvent::OpenCarrier { .. }) => self.node.carrier_closed(self.now),
                Some(NodeEvent::Persist(blob)) => {
                    let kept = Credentials::decode(&blob).expect("what is kept can be read again");
                    assert!(kept.member(NOW).is_ok(), "credentials nobody would accept");
                }
                Some(NodeEvent::JoinFailed { fatal, .. }) => assert!(!fatal, "a member for good"),
                Some(
                    NodeEvent::Joined(_)
                    | NodeEvent::Alarm(_)
                    | NodeEvent::PersistFloors(_)
                    | NodeEvent::SendTrain { .. }
                    | NodeEvent::CloseCarrier
                    | NodeEvent::PersistPeers(_)
                    | NodeEvent::PersistRoster(_)
                    | NodeEvent::RosterChanged
                    | NodeEvent::LookAround
                    | NodeEvent::PathChanged { .. },
                ) => {}
            }
        }
    }

    fn connect(&mut self) {
        self.channel = Some(Channel::responder(&sample::relay_secret(), &mut self.rng, self.now.mono));
        self.node.handle_control(ControlStreamEvent::Connected, self.now);
    }

    /// What the node sends is genuine, so it opens and parses.
    fn heard(&mut self, bytes: &[u8]) {
        let Some(channel) = &mut self.channel else { return };
        channel.feed(bytes).expect("the node speaks the protocol");
        while let Some(message) = channel.poll_message().expect("the node's frames open") {
            let (request, message) = Message::parse(&message).expect("the node's messages parse");
            if !matches!(message, Message::Ping(_)) {
                self.request = request;
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(bytes) = self.channel.as_mut().and_then(Channel::poll_bytes) {
            self.node.handle_control(ControlStreamEvent::Bytes(bytes), self.now);
        }
    }

    fn say(&mut self, message: &Message) {
        if let Ok(bytes) = message.encode(self.request) {
            self.say_bytes(&bytes);
        }
    }

    fn say_bytes(&mut self, message: &[u8]) {
        if let Some(channel) = &mut self.channel
            && channel.send(message).is_ok()
        {
            self.flush();
        }
    }

    fn welcome(&mut self) {
        let network = sample::network();
        let receipt = network.credentials.bundle().receipt.as_ref().expect("it was admitted");
        self.say(&Message::Welcome(Box::new(Welcome {
            relay_unix_ms: self.now.unix.0 * 1000,
            observed: ([198, 51, 100, 4], 4000).into(),
            ticket: [4; TICKET_LEN],
            bind_key: Secret::from_bytes(BIND_KEY),
            relay_no: 1,
            receipt: receipt.bytes().to_vec(),
            genesis: network.genesis.bytes().to_vec(),
            manifest: network.manifest.bytes().to_vec(),
        })));
    }

    /// Documents of the other member, or the node's own, with a byte changed.
    fn members(&mut self, how: u8, at: u16, mask: u8) {
        let network = sample::network();
        let mut bundle =
            if how & 1 == 0 { network.other.encode() } else { network.credentials.bundle().encode() };
        let at = usize::from(at) % bundle.len();
        bundle[at] ^= mask;
        let member = Member { online: how & 2 == 0, bundle };
        match how >> 2 & 3 {
            0 => self.say(&Message::Peer(member)),
            1 => self
                .say(&Message::Members { more: how & 16 != 0, members: vec![member; usize::from(how >> 5)] }),
            2 => self.say(&Message::Conflict(ConflictWhat::Ipv4)),
            _ => self.say(&Message::Denied(u16::from(how >> 4), "no".into())),
        }
    }

    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.inbound.begin(self.now.mono, &self.table);
        self.inbound.handle_datagram(from, 0, &mut bytes.to_vec(), &mut NothingAtAll, &mut self.queues);
        self.inbound.finish(&mut NothingAtAll, &mut self.queues);
    }

    /// COOKIE, BOUND and whatever else, made right with the session's key.
    fn frame_with_mac(&mut self, bytes: &[u8]) {
        let mut frame = bytes.to_vec();
        if let Some(at) = frame.len().checked_sub(16) {
            let mac = crypto::mac16(&BIND_KEY, &[&frame[..at]]);
            frame[at..].copy_from_slice(&mac);
        }
        self.datagram(self.relay, &frame);
    }

    /// A packet from the TUN device: to the other member, or to nobody.
    fn send(&mut self, host: u8) {
        let network = sample::network();
        let mut to = network.other.certificate.unverified().v4;
        if host & 1 == 1 {
            to = [10, 7, 4, host].into();
        }
        let own = network.credentials.bundle().certificate.unverified().v4;
        let mut batch = SendBatch::default();
        self.outbound.begin(self.now.mono, &self.table, 1);
        self.outbound.handle_packet(
            VnetHeader::NONE,
            &udp_v4(own, to, (1, 2), b"data"),
            &mut batch,
            &mut self.queues,
        );
        assert!(batch.is_empty(), "sealed for a peer that never answered");
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now.mono + by;
        while self.timers < MAX_TIMERS {
            let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) else { break };
            self.timers += 1;
            self.at(self.now.mono.max(at));
            self.node.handle_timeout(self.now);
            self.settle();
        }
        self.at(end);
    }

    fn at(&mut self, mono: Instant) {
        let seconds = mono.as_nanos() / 1_000_000_000;
        self.now = Now { mono, unix: UnixTime(NOW.0 + seconds), unix_nanos: 0 };
    }

    fn check(&mut self) {
        let (network, status) = (sample::network(), self.node.status());
        let own = network.credentials.bundle().certificate.unverified();
        let addresses = status.addresses.expect("a member has its addresses");
        assert_eq!((addresses.name.as_str(), addresses.ipv4), (own.name.as_str(), own.v4));
        let other = network.other.binding.unverified().x25519;
        for peer in status.peers {
            assert_eq!(peer.public_key, other, "a relay made a member");
            assert!(!peer.established, "a session with nobody");
            self.met = true;
        }
        assert!(self.node.roster().members.len() <= 2, "a relay made a member");
    }
}
