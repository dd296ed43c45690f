//! The whole way, sealed and opened: lane, cipher, framing and offload are values, and none of them is seen by whoever
//! receives.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::allowed_ips::Prefix;
use crate::batch::SendBatch;
use crate::drop::{DropCounters, DropReason};
use crate::forwarding::{DataPath, ForwardingTable, Framing, LaneEntry, PeerEntry};
use crate::id::{Generation, LaneNo, NodeNo, PeerSlot, PortNo};
use crate::key::Secret;
use crate::offload::samples::{Collect, Sample};
use crate::offload::{Coalescer, Offloads, SuperPacket, VnetHeader};
use crate::receive::{Deliver, Inbound};
use crate::send::{Outbound, Sent};
use crate::session::{AeadKey, KeypairId, OpeningKey, SealingKey, Suite};
use crate::time::Instant;
use crate::wire::relay::DATA_HEADER_LEN;
use crate::wire::wireguard::ReceiverIndex;
use crate::worker::{InboundCommand, LocalQueues};

/// One way of carrying packets.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// The suite of lane 1; without one everything goes on lane 0.
    lane: Option<Suite>,
    framing: Framing,
    /// Bytes of plaintext per message.
    limit: u16,
    /// What the receiver's TUN device takes as super-packets.
    joins: Offloads,
}

const PLAIN: Way = Way { lane: None, framing: Framing::Plain, limit: u16::MAX, joins: Offloads::NONE };

fn all_ways() -> Vec<Way> {
    let lanes = [None, Some(Suite::ChaCha20Poly1305), Some(Suite::Aes256Gcm)];
    let framings = [(Framing::Plain, u16::MAX), (Framing::Chunks, 1_360), (Framing::Chunks, 1_040)];
    let mut ways = Vec::new();
    for lane in lanes {
        for (framing, limit) in framings {
            for joins in [Offloads::NONE, Offloads::ALL] {
                ways.push(Way { lane, framing, limit, joins });
            }
        }
    }
    ways
}

/// The last step, as the agent has it.
struct ToTun {
    coalescer: Coalescer,
    written: Collect,
}

impl Deliver for ToTun {
    fn deliver(&mut self, packet: &[u8]) {
        self.coalescer.push(packet, &mut self.written);
    }
    fn deliver_super(&mut self, header: VnetHeader, packet: &[u8]) {
        self.coalescer.push_super(header, packet, &mut self.written);
    }
}

/// One node that sends and one that receives.
struct Tunnel {
    outbound: Outbound,
    inbound: Inbound,
    sending: Arc<ForwardingTable>,
    receiving: Arc<ForwardingTable>,
    queues: LocalQueues,
    drops: Arc<DropCounters>,
    tun: ToTun,
    messages: usize,
}

/// What ends in `last`, of both versions.
fn addresses(last: u8) -> [IpAddr; 2] {
    let mut v6 = [0; 16];
    (v6[0], v6[15]) = (10, last);
    [[10, 0, 0, last].into(), v6.into()]
}

fn table(ours: u8, theirs: u8, peer: PeerEntry) -> Arc<ForwardingTable> {
    let mut table = ForwardingTable { own: addresses(ours).to_vec(), ..ForwardingTable::default() };
    addresses(theirs).into_iter().for_each(|a| table.allowed_ips.insert(Prefix::host(a), PeerSlot(0)));
    table.peers.push(Some(Arc::new(peer)));
    Arc::new(table)
}

fn keys(lane: u8, aead: fn(&Secret) -> AeadKey) -> (Arc<SealingKey>, Box<OpeningKey>) {
    let (id, index, key) = (KeypairId(1), ReceiverIndex(lane.into()), || aead(&Secret::from_bytes([3; 32])));
    let sealing = SealingKey::new(id, index, key(), Instant::ZERO, false);
    let opening = OpeningKey::new(id, LaneNo(lane), index, key(), Instant::ZERO, false);
    (Arc::new(sealing), Box::new(opening))
}

impl Tunnel {
    fn new(way: Way, relayed: bool) -> Self {
        let drops = Arc::new(DropCounters::new());
        let (mut inbound, mut queues) =
            (Inbound::new(PortNo(0), Arc::clone(&drops), Arc::default()), LocalQueues::default());
        let mut install = |key: Box<OpeningKey>| {
            let command = InboundCommand::Install { key, slot: PeerSlot(0), generation: Generation(1) };
            inbound.handle_command(command, &mut queues);
        };
        let (lane0, opening) = keys(0, AeadKey::chacha20_poly1305);
        install(opening);
        let to = SocketAddr::from(([192, 0, 2, 1], 7));
        let relay_header = relayed.then_some([0xa1; DATA_HEADER_LEN]);
        let path = |limit| DataPath {
            port: PortNo(0),
            to,
            from: None,
            relay_header,
            trains: true,
            limit,
            activity: Arc::default(),
        };
        let mut bulk = Vec::new();
        if let Some(suite) = way.lane {
            let (sealing, opening) = keys(
                1,
                match suite {
                    Suite::ChaCha20Poly1305 => AeadKey::chacha20_poly1305,
                    Suite::Aes256Gcm => AeadKey::aes_256_gcm,
                },
            );
            install(opening);
            bulk.push(LaneEntry {
                lane: LaneNo(1),
                sealing,
                path: path(way.limit),
                framing: way.framing,
                load: Arc::default(),
            });
        }
        let peer = |sealing, path, bulk| PeerEntry {
            mtu: way.limit,
            most_lanes: 1,
            lane_epoch: 0,
            policy: None,
            by_port: Vec::new(),
            slot: PeerSlot(0),
            generation: Generation(1),
            node_no: Some(NodeNo(9)),
            sealing,
            path,
            bulk,
            activity: Arc::default(),
            direct: Arc::default(),
            relayed: Arc::default(),
        };
        let tun = ToTun { coalescer: Coalescer::new(way.joins), written: Collect::default() };
        Self {
            outbound: Outbound::new(Arc::clone(&drops), Arc::default()),
            inbound,
            sending: table(1, 2, peer(Some(lane0), Some(path(u16::MAX)), bulk)),
            receiving: table(2, 1, peer(None, None, Vec::new())),
            queues,
            drops,
            tun,
            messages: 0,
        }
    }

    /// One drain of the TUN device to the other end; message i is lost if `lost` says so.
    fn carry(&mut self, packets: &[(VnetHeader, Vec<u8>)], lost: &dyn Fn(usize) -> bool) {
        let mut batch = SendBatch::default();
        self.outbound.begin(Instant::from_nanos(1), &self.sending, packets.len());
        for (header, packet) in packets {
            while self.outbound.handle_packet(*header, packet, &mut batch, &mut self.queues)
                == Sent::BatchFull
            {
                self.receive(&mut batch, lost);
            }
        }
        self.receive(&mut batch, lost);
    }

    fn receive(&mut self, batch: &mut SendBatch, lost: &dyn Fn(usize) -> bool) {
        self.inbound.begin(Instant::from_nanos(1), &self.receiving);
        for train in batch.trains() {
            for segment in train.bytes.chunks(train.segment) {
                self.messages += 1;
                if lost(self.messages) {
                    continue;
                }
                let front = if segment[0] == 0xa1 { DATA_HEADER_LEN } else { 0 };
                let mut datagram = segment[front..].to_vec();
                let from = ([192, 0, 2, 2], 7).into();
                self.inbound.handle_datagram(
                    from,
                    train.outer.ecn,
                    &mut datagram,
                    &mut self.tun,
                    &mut self.queues,
                );
            }
        }
        self.inbound.finish(&mut self.tun, &mut self.queues);
        self.tun.coalescer.flush(&mut self.tun.written);
        batch.clear();
    }

    /// What was written to the TUN device, by flow: all of a flow in its order.
    fn written(&self) -> BTreeMap<(bool, bool, Vec<u8>), Vec<Vec<u8>>> {
        let mut flows = BTreeMap::<_, Vec<_>>::new();
        for packet in self.tun.written.split() {
            let v6 = packet[0] >> 4 == 6;
            let transport = if v6 { 40 } else { 20 };
            let tcp = packet[if v6 { 6 } else { 9 }] == 6;
            flows.entry((v6, tcp, packet[transport..transport + 4].to_vec())).or_default().push(packet);
        }
        flows
    }
}

/// A super-packet of `n` segments, or an ordinary packet.
fn read_from_tun(sample: Sample, n: usize) -> (VnetHeader, Vec<u8>) {
    let mut written = Collect::default();
    let mut coalescer = Coalescer::new(Offloads::ALL);
    sample.flow(n).iter().for_each(|p| coalescer.push(p, &mut written));
    coalescer.flush(&mut written);
    written.0.remove(0)
}

/// Some flows, each in super-packets and packets that follow each other.
fn any_drain() -> impl Strategy<Value = Vec<(VnetHeader, Vec<u8>)>> {
    let part = (0usize..4, 0u16..3, 1usize..45, 24usize..1_300);
    prop::collection::vec(part, 1..12).prop_map(|parts| {
        let mut next = BTreeMap::new();
        let read = |(kind, port, n, payload_len): (usize, u16, usize, usize)| {
            let flow = next.entry((kind, port)).or_insert(Sample {
                ports: (40_000 + port, 443),
                // So that an identification means something, and has to come out right.
                dont_fragment: Sample::KINDS[kind].tcp,
                ..Sample::KINDS[kind]
            });
            let sample = Sample { payload_len, ..*flow };
            for _ in 0..n {
                *flow = Sample { payload_len, ..*flow }.next();
            }
            read_from_tun(sample, n)
        };
        parts.into_iter().map(read).collect()
    })
}

/// What the packets are that the kernel would have sent without offload.
fn segments(drain: &[(VnetHeader, Vec<u8>)]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut all = Collect::default();
    all.0.extend_from_slice(drain);
    all.split().into_iter().map(|p| (VnetHeader::NONE, p)).collect()
}

/// Without what has no meaning: the identification of a packet that must not be fragmented (RFC 6864 §4.1).
fn meaning(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

fn same(
    a: BTreeMap<(bool, bool, Vec<u8>), Vec<Vec<u8>>>,
    b: BTreeMap<(bool, bool, Vec<u8>), Vec<Vec<u8>>>,
) -> bool {
    let plain = |flows: BTreeMap<_, Vec<Vec<u8>>>| -> BTreeMap<_, Vec<Vec<u8>>> {
        flows.into_iter().map(|(k, v)| (k, v.into_iter().map(meaning).collect())).collect()
    };
    plain(a) == plain(b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_lane_cipher_framing_and_offload_delivers_the_same_packets(
        drains in prop::collection::vec(any_drain(), 1..3),
        relayed: bool,
    ) {
        let run = |way: Way, without_offload: bool| {
            let mut tunnel = Tunnel::new(way, relayed);
            for drain in &drains {
                let packets = if without_offload { segments(drain) } else { drain.clone() };
                tunnel.carry(&packets, &|_| false);
            }
            assert_eq!(tunnel.drops.total(), 0, "{way:?}");
            tunnel.written()
        };
        let expected = run(PLAIN, true);
        for way in all_ways() {
            for without_offload in [false, true] {
                prop_assert!(same(run(way, without_offload), expected.clone()), "{way:?} {without_offload}");
            }
        }
    }

    #[test]
    fn what_is_lost_takes_whole_packets_with_it_and_leaves_the_others_unchanged_and_in_order(
        drains in prop::collection::vec(any_drain(), 1..3),
        seed: u64,
    ) {
        for way in all_ways() {
            let mut tunnel = Tunnel::new(way, false);
            let mut all = Tunnel::new(PLAIN, false);
            let lost = |i: usize| (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 == 0;
            for drain in &drains {
                tunnel.carry(drain, &lost);
                all.carry(drain, &|_| false);
            }
            let all = all.written();
            for (flow, packets) in tunnel.written() {
                let mut sent = all[&flow].iter().cloned().map(meaning);
                for packet in packets {
                    let packet = meaning(packet);
                    prop_assert!(sent.any(|p| p == packet), "{way:?}: altered, twice or out of order");
                }
            }
            let harmless = [DropReason::ChunkMissing];
            let counted = tunnel.drops.total() - harmless.map(|r| tunnel.drops.get(r))[0];
            prop_assert_eq!(counted, 0);
        }
    }
}

#[test]
fn chunks_save_messages_and_writes_and_go_to_lane_1_only() {
    let packet = read_from_tun(Sample { payload_len: 1_308, options: 3, ..Sample::KINDS[0] }, 45);
    let chunks = Framing::Chunks;
    let all = Offloads::ALL;
    for (way, messages) in [
        (Way { lane: Some(Suite::Aes256Gcm), framing: chunks, limit: 1_360, joins: all }, 44),
        (Way { lane: Some(Suite::Aes256Gcm), framing: Framing::Plain, limit: 1_360, joins: all }, 45),
        (Way { lane: None, framing: chunks, limit: 1_360, joins: all }, 45),
    ] {
        let mut tunnel = Tunnel::new(way, false);
        tunnel.carry(core::slice::from_ref(&packet), &|_| false);
        assert_eq!((tunnel.messages, tunnel.tun.written.0.len()), (messages, 1), "{way:?}");
    }
}

/// The sender goes by no policy, as one that was changed would.
#[test]
fn the_receiver_judges_by_the_policy_a_unit_of_chunks_once_and_packets_each() {
    let packet = read_from_tun(Sample { payload_len: 1_308, options: 3, ..Sample::KINDS[0] }, 45);
    let lane = Some(Suite::Aes256Gcm);
    for (lane, framing, counted) in
        [(lane, Framing::Chunks, 1), (lane, Framing::Plain, 45), (None, Framing::Plain, 45)]
    {
        let mut tunnel = Tunnel::new(Way { lane, framing, limit: 1_360, joins: Offloads::ALL }, false);
        let denied =
            PeerEntry { policy: Some(deny_all()), ..entry_like(tunnel.receiving.peer(PeerSlot(0)).unwrap()) };
        tunnel.receiving = table(2, 1, denied);
        tunnel.carry(core::slice::from_ref(&packet), &|_| false);
        assert_eq!(tunnel.tun.written.0.len(), 0, "{framing:?}");
        assert_eq!(tunnel.drops.get(DropReason::Filtered), counted, "{framing:?}");
    }
}

#[test]
fn what_the_policy_forbids_is_not_even_sent() {
    let packet = read_from_tun(Sample::KINDS[0], 5);
    let mut tunnel = Tunnel::new(PLAIN, false);
    let peer = tunnel.sending.peer(PeerSlot(0)).unwrap();
    let denied = PeerEntry {
        policy: Some(deny_all()),
        sealing: peer.sealing.clone(),
        path: peer.path.clone(),
        ..entry_like(peer)
    };
    tunnel.sending = table(1, 2, denied);
    tunnel.carry(core::slice::from_ref(&packet), &|_| false);
    assert_eq!((tunnel.messages, tunnel.drops.get(DropReason::Filtered)), (0, 1), "a super-packet once");
}

fn deny_all() -> Arc<crate::policy::PeerPolicy> {
    let policy = crate::member::Policy {
        network_id: crate::member::NetworkId([0; 8]),
        epoch: 1,
        issued: crate::time::UnixTime(0),
        signer: crate::key::Identity([0; 32]),
        allow_by_default: false,
        rules: vec![],
    };
    let connections = Arc::new(crate::policy::Connections::new(&mut crate::rng::Rng::from_seed([1; 32])));
    let tags = crate::member::Tags::default();
    crate::policy::PeerPolicy::new(&policy, &tags, &tags, &connections).unwrap()
}

/// The same peer, without keys and paths.
fn entry_like(peer: &PeerEntry) -> PeerEntry {
    PeerEntry {
        mtu: peer.mtu,
        most_lanes: peer.most_lanes,
        lane_epoch: 0,
        policy: None,
        by_port: Vec::new(),
        slot: peer.slot,
        generation: peer.generation,
        node_no: peer.node_no,
        sealing: None,
        path: None,
        bulk: Vec::new(),
        activity: Arc::default(),
        direct: Arc::default(),
        relayed: Arc::default(),
    }
}

#[test]
fn a_chunk_on_lane_0_or_of_a_stock_peer_is_dropped() {
    let packet = read_from_tun(Sample::KINDS[0], 5);
    let whole = SuperPacket::parse(packet.0, &packet.1).unwrap();
    let unit = super::Unit::cut(&whole, 1_360).unwrap();
    for (lane, member) in [(0, true), (1, false)] {
        let way = Way { lane: Some(Suite::ChaCha20Poly1305), ..PLAIN };
        let mut tunnel = Tunnel::new(way, false);
        let entry = tunnel.sending.peer(PeerSlot(0)).unwrap();
        let key = if lane == 0 { entry.sealing.clone().unwrap() } else { Arc::clone(&entry.bulk[0].sealing) };
        if !member {
            let peer = tunnel.receiving.peer(PeerSlot(0)).unwrap();
            let stock = PeerEntry { mtu: 1_360, most_lanes: 0, node_no: None, ..entry_like(peer) };
            tunnel.receiving = table(2, 1, stock);
        }
        let mut datagram = vec![0; crate::session::sealed_len(unit.chunk_len(0))];
        let len = unit.write_chunk(0, &mut datagram[16..]);
        key.seal(key.reserve(1, Instant::ZERO).unwrap().start, &mut datagram, len);
        let from = ([192, 0, 2, 2], 7).into();
        tunnel.inbound.begin(Instant::ZERO, &tunnel.receiving);
        tunnel.inbound.handle_datagram(from, 0, &mut datagram, &mut tunnel.tun, &mut tunnel.queues);
        tunnel.inbound.finish(&mut tunnel.tun, &mut tunnel.queues);
        assert_eq!((tunnel.drops.get(DropReason::NotIp), tunnel.tun.written.0.len()), (1, 0));
    }
}

#[test]
fn a_packet_of_the_same_flow_stays_behind_the_chunks_that_came_before_it() {
    let sample = Sample { payload_len: 600, ..Sample::KINDS[0] };
    let unit = read_from_tun(sample, 9);
    let after = (0..9).fold(sample, |s, _| s.next());
    let next = (VnetHeader::NONE, after.packet());
    let (framing, limit) = (Framing::Chunks, 1_040);
    for joins in [Offloads::ALL, Offloads::NONE] {
        let mut tunnel = Tunnel::new(Way { lane: Some(Suite::Aes256Gcm), framing, limit, joins }, false);
        tunnel.carry(&[unit.clone(), next.clone()], &|message| message == 3);
        let written = tunnel.tun.written.split();
        assert_eq!(written.last(), Some(&next.1));
        assert_eq!(written.len(), 9 - 3 + 1, "the lost chunk had bytes of three");
    }
}

#[test]
fn what_is_larger_than_the_path_is_cut_and_its_sender_told_and_lost_only_where_nobody_joins_fragments() {
    let large = |kind: usize| Sample { payload_len: 3_000, ..Sample::KINDS[kind] };
    for (v4, v6) in [(2, 3), (3, 2)] {
        let (udp, tcp) = (large(v4).packet(), large(v6 - 2).packet());
        let packets = [(VnetHeader::NONE, udp.clone()), (VnetHeader::NONE, tcp.clone())];
        for (framing, parts) in [(Framing::Chunks, 1), (Framing::Fragments, 4), (Framing::Plain, 4)] {
            let way = Way { lane: Some(Suite::Aes256Gcm), framing, limit: 1_040, joins: Offloads::NONE };
            let mut tunnel = Tunnel::new(way, false);
            tunnel.carry(&packets, &|_| false);
            let mut written = tunnel.tun.written.split();
            let arrived = framing != Framing::Plain;
            if arrived {
                assert_eq!(written.remove(0), udp, "{framing:?}");
            }
            assert_eq!(tunnel.drops.get(DropReason::TooBig), u64::from(!arrived));
            assert_eq!(written.len(), parts, "{framing:?}");
            let headers = tcp.len() - 3_000;
            let stream: Vec<u8> = written.iter().flat_map(|part| part[headers..].to_vec()).collect();
            assert_eq!(stream, tcp[headers..]);
            let told: Vec<_> =
                core::iter::from_fn(|| tunnel.outbound.poll_answer().map(<[u8]>::len)).collect();
            assert_eq!(told.len(), 2, "{framing:?}");
        }
    }
}
