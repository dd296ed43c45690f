//! An inbound half with keys of two lanes.

use super::*;
use crate::allowed_ips::Prefix;
use crate::drop::DropCounters;
use crate::forwarding::{ForwardingTable, PeerEntry};
use crate::id::{Generation, LaneNo, NodeNo};
use crate::key::Secret;
use crate::receive::{Deliver, Inbound};
use crate::session::{AeadKey, Engine, KeypairId, LaneRoot, OpeningKey, Role, SealingKey, Suite, sealed_len};
use crate::wire::record::{Hello, Holding};
use crate::worker::{InboundCommand, LocalQueues};

/// One inbound half with a key of lane 0 and one of lane 1, and the keys that seal for them.
struct Half {
    inbound: Inbound,
    queues: LocalQueues,
    delivered: Vec<Vec<u8>>,
    drops: Arc<DropCounters>,
    sealing: [Arc<SealingKey>; 2],
}

impl Deliver for Vec<Vec<u8>> {
    fn deliver(&mut self, packet: &[u8]) {
        self.push(packet.to_vec());
    }
}

const US: [u8; 4] = [10, 7, 0, 1];
const THEM: [u8; 4] = [10, 7, 0, 2];

fn table(generation: u32) -> Arc<ForwardingTable> {
    let mut table = ForwardingTable { own: vec![IpAddr::from(US)], ..ForwardingTable::default() };
    table.allowed_ips.insert(Prefix::host(IpAddr::from(THEM)), PeerSlot(0));
    table.peers.push(Some(Arc::new(PeerEntry {
        mtu: 1_360,
        slot: PeerSlot(0),
        generation: Generation(generation),
        node_no: Some(NodeNo(2)),
        sealing: None,
        path: None,
        most_lanes: 1,
        lane_epoch: 0,
        policy: None,
        by_port: Vec::new(),
        bulk: Vec::new(),
        activity: Arc::default(),
        direct: Arc::default(),
        relayed: Arc::default(),
    })));
    Arc::new(table)
}

impl Half {
    fn new() -> Self {
        let drops = Arc::new(DropCounters::default());
        let mut inbound = Inbound::new(PortNo(0), Arc::clone(&drops), Arc::default());
        let mut queues = LocalQueues::default();
        let root = |role| LaneRoot {
            id: KeypairId(1),
            local: ReceiverIndex(1),
            handshake_hash: [1; 32],
            lane_secret: Secret::from_bytes([1; 32]),
            role,
            born: Instant::ZERO,
        };
        let derive = |role| root(role).derive(1, Suite::Aes256Gcm, &[0; 32], Engine::Noise).remove(0);
        let chacha = || AeadKey::chacha20_poly1305(&Secret::from_bytes([2; 32]));
        let lane0 = OpeningKey::new(KeypairId(1), LaneNo(0), ReceiverIndex(1), chacha(), Instant::ZERO, true);
        let lane1 = derive(Role::Responder).take_opening(ReceiverIndex(2)).unwrap();
        for key in [lane0, lane1] {
            let (slot, generation) = (PeerSlot(0), Generation(1));
            inbound.handle_command(
                InboundCommand::Install { key: Box::new(key), slot, generation },
                &mut queues,
            );
        }
        while queues.pop().is_some() {}
        let sealing = [
            Arc::new(SealingKey::new(KeypairId(1), ReceiverIndex(1), chacha(), Instant::ZERO, true)),
            derive(Role::Initiator).take_sealing(ReceiverIndex(2)).unwrap(),
        ];
        Self { inbound, queues, delivered: Vec::new(), drops, sealing }
    }

    fn receive(&mut self, lane: usize, plaintext: &[u8], table: &Arc<ForwardingTable>) -> Vec<ToControl> {
        let key = &self.sealing[lane];
        let mut bytes = vec![0; sealed_len(plaintext.len())];
        bytes[16..16 + plaintext.len()].copy_from_slice(plaintext);
        key.seal(key.reserve(1, Instant::ZERO).unwrap().start, &mut bytes, plaintext.len());
        self.inbound.begin(Instant::ZERO, table);
        let from = SocketAddr::from(([192, 0, 2, 2], 1));
        self.inbound.handle_datagram(from, 0, &mut bytes, &mut self.delivered, &mut self.queues);
        self.inbound.finish(&mut self.delivered, &mut self.queues);
        core::iter::from_fn(|| self.queues.pop()).collect()
    }
}

#[test]
fn records_are_taken_from_lane_0_only_and_data_from_both() {
    let (mut half, table) = (Half::new(), table(1));
    let hello = Hello {
        suites: 3,
        max_lanes: 1,
        max_packet: 1360,
        manifest: Holding { epoch: 1, hash: [1; 32] },
        documents: None,
        features: 1,
    };
    let record = hello.encode();
    let records =
        |told: Vec<ToControl>| told.iter().filter(|m| matches!(m, ToControl::Record { .. })).count();
    assert_eq!([0, 1].map(|lane| records(half.receive(lane, &record, &table))), [1, 0]);
    assert_eq!(half.drops.get(DropReason::NotIp), 1);
    for lane in [0, 1] {
        let packet = crate::wire::ip::udp_v4(THEM.into(), US.into(), (1, 2), &[lane as u8; 9]);
        half.receive(lane, &packet, &table);
        assert_eq!(half.delivered.pop(), Some(packet));
    }
}

#[test]
fn the_first_packet_of_each_lane_is_told_once() {
    let (mut half, table) = (Half::new(), table(1));
    for lane in [1, 0] {
        let told: Vec<_> = half.receive(lane, b"", &table);
        let index = ReceiverIndex(u32::try_from(lane).unwrap() + 1);
        assert!(told.iter().any(|m| matches!(m, ToControl::Confirmed { index: i, .. } if *i == index)));
        assert!(half.receive(lane, b"", &table).is_empty());
    }
}

#[test]
fn a_removed_peer_is_out_on_every_lane_with_the_next_snapshot() {
    let mut half = Half::new();
    let packet = crate::wire::ip::udp_v4(THEM.into(), US.into(), (1, 2), b"late");
    for lane in [0, 1] {
        assert!(half.receive(lane, &packet, &table(2)).is_empty());
    }
    assert!(half.delivered.is_empty());
    assert_eq!(half.drops.get(DropReason::NotMember), 2);
}
