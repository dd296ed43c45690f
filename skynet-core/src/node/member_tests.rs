//! A node that is a member: what it makes of another member's documents and of packets for it.

use super::*;
use crate::node::directory::Inserted;
use crate::session::Engine;
use crate::time::UnixTime;
use crate::wire::ip::udp_v4;
use crate::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};

pub(super) fn now_at(mono: Instant) -> Now {
    Now { mono, unix: UnixTime(1_800_000_000 + mono.as_nanos() / 1_000_000_000), unix_nanos: 0 }
}

/// A node that is a member of `network`.
pub(super) fn member_node(network: &mut crate::member::fixture::Network) -> Node {
    let config = NodeConfig {
        membership: Membership::Joined(Box::new(network.credentials())),
        stock: None,
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
    };
    Node::new(config, [1; 32], now_at(Instant::ZERO)).unwrap()
}

fn discard_output(node: &mut Node) {
    while node.poll_transmit().is_some() || node.poll_event().is_some() {}
}

#[test]
fn a_packet_that_no_path_takes_does_not_keep_the_search_for_one_going() {
    let mut network = crate::member::fixture::Network::new();
    let mut node = member_node(&mut network);
    let member = Arc::new(network.credentials().member(crate::member::fixture::NOW).unwrap());
    let slot = node.add_member(&member, now_at(Instant::ZERO)).unwrap();
    let packet = udp_v4([10, 7, 0, 1].into(), member.v4(), (1, 2), b"?");
    node.handle_worker(ToControl::Stage { slot, packet }, now_at(Instant::ZERO));
    discard_output(&mut node);
    let searching = |node: &mut Node| node.peers.get_mut(slot).unwrap().path_mut().unwrap().poll_timeout();
    assert!(searching(&mut node).is_some());
    while let Some((at, _)) =
        node.poll_timeout().filter(|(at, _)| *at < Instant::ZERO + Duration::from_secs(600))
    {
        node.handle_timeout(now_at(at));
        discard_output(&mut node);
    }
    assert!(searching(&mut node).is_none());
}

#[test]
fn a_member_that_joined_anew_under_another_address_is_reached_and_heard_there() {
    use crate::member::document::Content;
    use crate::member::{Enrolment, fixture::NOW};
    let mut network = crate::member::fixture::Network::new();
    let mut node = member_node(&mut network);
    let theirs = network.credentials();
    let old = Arc::new(theirs.member(NOW).unwrap());
    let now = now_at(Instant::ZERO);
    let slot = node.add_member(&old, now).unwrap();
    let (later, name) = (NOW.plus_secs(60), "web-1".parse().unwrap());
    let identity = theirs.node().clone();
    let mut enrolment = Enrolment::new(network.token(), identity, name, later, &mut network.rng).unwrap();
    enrolment.retry_with_salt().unwrap();
    let mut receipt = network.receipt(enrolment.bundle());
    receipt.issued = later;
    let (receipt, trust) = (receipt.sign(&network.registrar).unwrap(), network.trust());
    let joined =
        enrolment.complete(network.genesis.bytes(), trust.manifest().bytes(), receipt.bytes(), later);
    let new = joined.unwrap().member(later).unwrap();
    assert_eq!(
        (new.supersedes(&old), new.v4() != old.v4(), new.x25519() == old.x25519()),
        (true, true, true)
    );
    node.on_learned(new.clone(), Inserted::Newer { old_key: None }, now);
    node.settle(now);
    let published = core::iter::from_fn(|| node.poll_event()).filter_map(|event| match event {
        NodeEvent::Publish(table) => Some(table),
        _ => None,
    });
    let table = published.last().unwrap();
    assert_eq!(table.allowed_ips.lookup(new.v4().into()), Some(slot));
    assert_eq!(table.allowed_ips.lookup(old.v4().into()), None);
}
