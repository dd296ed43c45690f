//! Two nodes on a perfect wire with a session between them: where the steps get their keys and tables.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use skynet_core::batch::SendBatch;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::PortNo;
use skynet_core::key::StaticSecret;
use skynet_core::node::{Floors, Membership, Node, NodeConfig, NodeEvent, StockConfig, StockPeer};
use skynet_core::offload::{Gso, VnetHeader};
use skynet_core::receive::{Deliver, Inbound};
use skynet_core::send::{Outbound, Sent};
use skynet_core::session::{Engine, OpeningKey};
use skynet_core::time::{Instant, Now, UnixTime};
use skynet_core::wire::ip::udp_v4;
use skynet_core::worker::{InboundCommand, LocalQueues, ToControl};

/// One node with its worker.
pub(crate) struct Host {
    /// Where its datagrams come from.
    pub(crate) address: SocketAddr,
    inner: Ipv4Addr,
    node: Node,
    /// Its outbound half.
    pub(crate) outbound: Outbound,
    /// Its inbound half.
    pub(crate) inbound: Inbound,
    /// The snapshot both use.
    pub(crate) table: Arc<ForwardingTable>,
    /// What they tell the node.
    pub(crate) queues: LocalQueues,
    /// The opening key, if it was kept from the inbound half.
    pub(crate) kept: Option<Box<OpeningKey>>,
    keeps: bool,
}

/// Looks at what arrives, and that is all.
#[derive(Default)]
pub(crate) struct Sink;

impl Deliver for Sink {
    fn deliver(&mut self, packet: &[u8]) {
        std::hint::black_box(packet);
    }
}

/// A virtual now, after the handshake.
pub(crate) const NOW: Instant = Instant::from_nanos(1_000_000_000);

fn now() -> Now {
    Now { mono: NOW, unix: UnixTime(1_800_000_000), unix_nanos: 0 }
}

impl Host {
    fn new(id: u8, peer: u8, keeps: bool) -> Self {
        let secret = |n: u8| StaticSecret::from_bytes([n; 32]);
        let socket = |n: u8| SocketAddr::from(([192, 0, 2, n], 1000));
        let inner = |n: u8| Ipv4Addr::new(10, 0, 0, n);
        let allowed = format!("{}/32", inner(peer)).parse().expect("a prefix");
        let stock = StockConfig {
            secret: secret(id),
            addresses: vec![inner(id).into()],
            peers: vec![StockPeer {
                public_key: secret(peer).public(),
                preshared_key: None,
                endpoint: Some(socket(peer)),
                allowed_ips: vec![allowed],
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
            suites: 0,
            max_lanes: 0,
            chunks: false,
            min_lanes: 0,
            mtu: skynet_core::path::MtuConfig::default(),
            known_members: skynet_core::node::directory::MAX_MEMBERS,
            guessing: skynet_core::path::Guessing::default(),
            relay_for_members: None,
        };
        let node = Node::new(config, [id; 32], now()).expect("the configuration is valid");
        let (drops, flows) = (Arc::clone(node.drops()), Arc::clone(node.flows()));
        Self {
            address: socket(id),
            inner: inner(id),
            node,
            outbound: Outbound::new(Arc::clone(&drops), Arc::clone(&flows)),
            inbound: Inbound::new(PortNo::default(), drops, flows),
            table: Arc::default(),
            queues: LocalQueues::default(),
            kept: None,
            keeps,
        }
    }

    /// Everything the node has to say.
    fn drain(&mut self, wire: &mut VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>) {
        loop {
            while let Some(message) = self.queues.pop() {
                self.node.handle_worker(message, now());
            }
            if let Some(transmit) = self.node.poll_transmit() {
                wire.push_back((self.address, transmit.to, transmit.bytes));
                continue;
            }
            match self.node.poll_event() {
                None => return,
                Some(NodeEvent::Publish(table)) => self.table = table,
                Some(NodeEvent::Inbound { command: InboundCommand::Install { key, .. }, .. })
                    if self.keeps =>
                {
                    self.node.handle_worker(ToControl::Installed(key.local_index()), now());
                    self.kept = Some(key);
                }
                Some(NodeEvent::Inbound { command, .. }) => {
                    self.inbound.handle_command(command, &mut self.queues);
                }
                Some(_) => {}
            }
        }
    }
}

/// Two hosts; the first has the sealing key of a fresh session, the second opens with it.
pub(crate) struct World {
    /// Who sends.
    pub(crate) sender: Host,
    /// Who receives.
    pub(crate) receiver: Host,
}

impl World {
    /// After the handshake; `keeps` leaves the receiver's opening key in [`Host::kept`].
    pub(crate) fn new(keeps: bool) -> Self {
        let mut world = Self { sender: Host::new(1, 2, false), receiver: Host::new(2, 1, keeps) };
        // The first packet makes the sender initiate.
        let packet = world.packet(1360);
        let mut batch = SendBatch::default();
        world.settle();
        world.sender.outbound.begin(NOW, &world.sender.table, 1);
        let queues = &mut world.sender.queues;
        world.sender.outbound.handle_packet(VnetHeader::NONE, &packet, &mut batch, queues);
        world.settle();
        assert!(
            world.sender.table.peers[0].as_ref().is_some_and(|peer| peer.sealing.is_some()),
            "no session"
        );
        world
    }

    /// A UDP packet of `len` bytes, header included, from sender to receiver.
    pub(crate) fn packet(&self, len: usize) -> Vec<u8> {
        udp_v4(self.sender.inner, self.receiver.inner, (1, 2), &vec![7; len - 28])
    }

    /// What the kernel hands over of a bulk TCP stream: `segments` packets of `len` bytes in one, headers 40 of them.
    pub(crate) fn super_packet(&self, segments: usize, len: usize) -> (VnetHeader, Vec<u8>) {
        let payload = len - 40;
        let mut packet = self.packet(40 + segments * payload);
        // TCP instead of UDP: ports stay; sequence, acknowledgement, ACK, window. Checksums are the splitter's.
        packet[9] = 6;
        packet[24..40].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0xf5, 0, 0, 0, 0]);
        let gso_size = u16::try_from(payload).expect("a segment fits a packet");
        let mut header = VnetHeader { needs_csum: true, gso: Gso::TcpV4, hdr_len: 40, ..VnetHeader::NONE };
        (header.gso_size, header.csum_start, header.csum_offset) = (gso_size, 20, 16);
        (header, packet)
    }

    /// `count` sealed datagrams of one `packet`, with consecutive counters.
    pub(crate) fn datagrams(&mut self, packet: &[u8], count: usize) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::with_capacity(count);
        let mut batch = SendBatch::default();
        for _ in 0..count {
            let sender = &mut self.sender;
            sender.outbound.begin(NOW, &sender.table, 1);
            let sent =
                sender.outbound.handle_packet(VnetHeader::NONE, packet, &mut batch, &mut sender.queues);
            assert_eq!(sent, Sent::Done);
            datagrams.extend(batch.trains().map(|train| train.bytes.to_vec()));
            batch.clear();
        }
        datagrams
    }

    fn settle(&mut self) {
        let mut wire = VecDeque::new();
        loop {
            self.sender.drain(&mut wire);
            self.receiver.drain(&mut wire);
            let Some((from, to, mut bytes)) = wire.pop_front() else { return };
            let to = if to == self.sender.address { &mut self.sender } else { &mut self.receiver };
            to.inbound.begin(NOW, &to.table);
            to.inbound.handle_datagram(from, 0, &mut bytes, &mut Sink, &mut to.queues);
            to.inbound.finish(&mut Sink, &mut to.queues);
        }
    }
}
