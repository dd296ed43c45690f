use super::*;
use crate::forwarding::{DataPath, Framing, PathActivity};
use crate::id::{Generation, LaneNo, PortNo};
use crate::key::Secret;
use crate::session::{Engine, KeypairId, LaneRoot, Role, SealingKey, Suite};
use crate::wire::wireguard::ReceiverIndex;
use std::collections::BTreeMap;
use std::sync::Arc;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

/// Keys of eight lanes.
fn sealing_keys() -> Vec<Arc<SealingKey>> {
    let root = LaneRoot {
        id: KeypairId(9),
        local: ReceiverIndex(1),
        handshake_hash: [1; 32],
        lane_secret: Secret::from_bytes([2; 32]),
        role: Role::Initiator,
        born: Instant::ZERO,
    };
    let keys = root.derive(8, Suite::ChaCha20Poly1305, &[3; 32], Engine::Noise);
    keys.into_iter().map(|mut k| k.take_sealing(ReceiverIndex(2)).unwrap()).collect()
}

fn peer(lanes: &[u8], epoch: u8) -> PeerEntry {
    let keys = sealing_keys();
    let entry = |lane: &u8| LaneEntry {
        lane: LaneNo(*lane),
        sealing: Arc::clone(&keys[usize::from(*lane) - 1]),
        path: DataPath {
            limit: 1_360,
            port: LaneNo(*lane).port(),
            to: ([192, 0, 2, 1], 1).into(),
            from: None,
            relay_header: None,
            trains: true,
            activity: Arc::new(PathActivity::default()),
        },
        framing: Framing::Plain,
        load: Arc::default(),
    };
    PeerEntry {
        mtu: 1_360,
        slot: PeerSlot(3),
        generation: Generation(1),
        node_no: None,
        sealing: None,
        path: None,
        bulk: lanes.iter().map(entry).collect(),
        most_lanes: 4,
        lane_epoch: epoch,
        policy: None,
        activity: Arc::default(),
        direct: Arc::default(),
        relayed: Arc::default(),
        by_port: Vec::new(),
    }
}

/// The same peer with other lanes: loads stay.
fn with_lanes(before: &PeerEntry, lanes: &[u8], epoch: u8) -> PeerEntry {
    let mut after = peer(lanes, epoch);
    for entry in &mut after.bulk {
        if let Some(old) = before.bulk.iter().find(|l| l.lane == entry.lane) {
            entry.load = Arc::clone(&old.load);
        }
    }
    after
}

fn spread(table: &FlowTable, peer: &PeerEntry, flows: u32, now: Instant) -> BTreeMap<u8, u32> {
    let mut count = BTreeMap::new();
    for hash in 0..flows {
        *count.entry(table.lane_of(hash * 0x01f3_5711, peer, now).0).or_default() += 1;
    }
    count
}

#[test]
fn new_flows_are_spread_evenly_and_stay() {
    let (table, peer) = (FlowTable::default(), peer(&[1, 2, 3, 4], 0));
    let first: Vec<LaneNo> = (0..8).map(|h| table.lane_of(h, &peer, at(0))).collect();
    for lane in 1..=4 {
        assert_eq!(first.iter().filter(|l| l.0 == lane).count(), 2, "{first:?}");
    }
    // Whatever the loads say later.
    peer.bulk[0].load.set(90_000, 1000);
    for ms in (0..60_000).step_by(500) {
        let now: Vec<LaneNo> = (0..8).map(|h| table.lane_of(h, &peer, at(ms))).collect();
        assert_eq!(now, first);
    }
}

#[test]
fn a_new_flow_takes_the_least_loaded_lane() {
    let (table, peer) = (FlowTable::default(), peer(&[1, 2, 3], 0));
    for (lane, rate) in peer.bulk.iter().zip([500, 100, 300]) {
        lane.load.set(rate, 150);
    }
    let lanes: Vec<u8> = (0..4).map(|h| table.lane_of(h, &peer, at(0)).0).collect();
    assert_eq!(lanes, [2, 2, 3, 2], "each is expected to weigh 150");
}

#[test]
fn a_flow_that_was_silent_is_a_new_one() {
    let (table, peer) = (FlowTable::default(), peer(&[1, 2], 0));
    assert_eq!(table.lane_of(7, &peer, at(0)).0, 1);
    peer.bulk[0].load.set(1_000, 10);
    assert_eq!(table.lane_of(7, &peer, at(9_900)).0, 1);
    assert_eq!(table.lane_of(7, &peer, at(20_100)).0, 2);
}

#[test]
fn a_lane_that_opens_takes_its_share_of_the_flows_once() {
    let table = FlowTable::default();
    let one = peer(&[1], 0);
    assert_eq!(spread(&table, &one, 8, at(0)), BTreeMap::from([(1, 8)]));
    one.bulk[0].load.set(8_000, 1_000);
    let four = with_lanes(&one, &[1, 2, 3, 4], 1);
    four.bulk.iter().skip(1).for_each(|l| l.load.set(0, 1_000));
    let moved = spread(&table, &four, 8, at(100));
    assert_eq!(moved, BTreeMap::from([(1, 2), (2, 2), (3, 2), (4, 2)]));
    // However the loads turn out, nothing moves again before the next opening.
    four.bulk[0].load.set(50_000, 1_000);
    assert_eq!(spread(&table, &four, 8, at(200)), moved);
}

#[test]
fn flows_of_a_dead_lane_leave_it_with_their_next_packet() {
    let table = FlowTable::default();
    let four = peer(&[1, 2, 3, 4], 0);
    let before: Vec<LaneNo> = (0..64).map(|h| table.lane_of(h, &four, at(0))).collect();
    let three = with_lanes(&four, &[1, 2, 4], 0);
    for (hash, was) in (0..64).zip(before) {
        let is = table.lane_of(hash, &three, at(10));
        assert!(is.0 != 3 && (is == was || was.0 == 3), "{was:?} to {is:?}");
    }
    let none = with_lanes(&four, &[], 0);
    assert_eq!(table.lane_of(1, &none, at(20)), LaneNo(0));
}

#[test]
fn answers_take_the_lane_a_flow_comes_by_and_follow_it() {
    let (table, peer) = (FlowTable::default(), peer(&[1, 2, 3, 4], 0));
    table.learn(9, &peer, LaneNo(3), at(0));
    assert_eq!(table.lane_of(9, &peer, at(1)).0, 3);
    table.learn(9, &peer, LaneNo(4), at(200));
    assert_eq!(table.lane_of(9, &peer, at(201)).0, 4);
}

#[test]
fn who_began_a_flow_does_not_follow() {
    let (table, peer) = (FlowTable::default(), peer(&[1, 2, 3, 4], 0));
    let mine = table.lane_of(9, &peer, at(0));
    table.learn(9, &peer, LaneNo(3), at(1));
    assert_eq!(table.lane_of(9, &peer, at(2)), mine);
}

#[test]
fn two_ends_that_began_at_once_do_not_chase_each_other() {
    let (tables, ends) = ([FlowTable::default(), FlowTable::default()], [peer(&[1, 2], 0), peer(&[1, 2], 0)]);
    ends[1].bulk[0].load.set(100, 1);
    let first = [tables[0].lane_of(5, &ends[0], at(0)), tables[1].lane_of(5, &ends[1], at(0))];
    assert_ne!(first[0], first[1]);
    for ms in (0..5_000).step_by(10) {
        for i in 0..2 {
            tables[i].learn(5, &ends[i], first[1 - i], at(ms));
            assert_eq!(tables[i].lane_of(5, &ends[i], at(ms)), first[i]);
        }
    }
}

#[test]
fn flows_of_two_peers_differ() {
    let table = FlowTable::default();
    let (a, mut b) = (peer(&[1, 2], 0), peer(&[2, 3], 0));
    b.slot = PeerSlot(4);
    assert_eq!((table.lane_of(1, &a, at(0)).0, table.lane_of(1, &b, at(0)).0), (1, 2));
    let mut counted = BTreeMap::new();
    table.count_active(at(100), |slot, _| *counted.entry(slot.0).or_insert(0) += 1);
    assert_eq!(counted, BTreeMap::from([(3, 1), (4, 1)]));
    table.count_active(at(5_000), |_, _| panic!("nobody sent lately"));
}

#[test]
fn a_full_table_gives_the_oldest_place_away() {
    let (table, peer) = (FlowTable::default(), peer(&[1, 2], 0));
    for hash in 0..200_000u32 {
        table.lane_of(hash.wrapping_mul(0x9e37_79b1), &peer, at(u64::from(hash) / 1_000));
    }
    let mut flows = 0;
    table.count_active(at(200), |_, _| flows += 1);
    assert!((FLOWS - FLOWS / 50..=FLOWS).contains(&flows), "{flows}");
}

#[test]
fn an_entry_comes_back_as_it_was() {
    let flow = Flow { tag: 0x0abc_def1, slot: 4095, time: TICKS - 1, theirs: true, epoch: 15, lane: 8 };
    assert_eq!(Flow::decode(flow.encode()), Some(flow));
    assert_eq!(Flow::decode(0), None);
    assert_eq!(PortNo(7), LaneNo(flow.lane).port());
}
