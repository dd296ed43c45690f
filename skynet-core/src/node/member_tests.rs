//! A node that is a member: what it makes of another member's documents and of packets for it.

use super::*;
use crate::node::directory::Inserted;
use crate::session::{Context, Engine, PeerPsk, Session, SessionConfig, TimestampClock};
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
        relay_for_members: None,
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

/// A node and a peer of its network, both with a session key of their own.
fn initiation_for(
    node: &Node,
    network: &mut crate::member::fixture::Network,
) -> (Arc<crate::member::Member>, Vec<u8>) {
    let theirs = network.credentials();
    let member = Arc::new(theirs.member(crate::member::fixture::NOW).unwrap());
    let local = LocalKey::new(theirs.node().static_secret.clone(), Engine::Noise);
    let mut rng = Rng::from_seed([9; 32]);
    let mut session = Session::new(SessionConfig {
        peer: node.public_key(),
        psk: PeerPsk::stock(None),
        persistent_keepalive: None,
        certified: true,
        greatest_timestamp: Tai64n::ZERO,
    });
    let (mut indices, mut timestamps) = (IndexAllocator::new(), TimestampClock::new(Tai64n::ZERO));
    let mut cx = Context { local: &local, indices: &mut indices, timestamps: &mut timestamps, rng: &mut rng };
    session.initiate(now_at(Instant::ZERO), &mut cx);
    (member, session.poll_transmit().unwrap().to_vec())
}

#[test]
fn a_handshake_whose_sender_claims_to_be_where_no_member_can_be_is_not_answered() {
    for (from, answered) in [
        ("198.51.100.7:7001", true),
        ("127.0.0.1:7001", false),
        ("169.254.169.254:80", false),
        ("[::ffff:169.254.169.254]:80", false),
        ("[fd00:ec2::254]:80", false),
        ("10.7.0.9:7001", false),
        ("224.0.0.1:7001", false),
    ] {
        let mut network = crate::member::fixture::Network::new();
        let mut node = member_node(&mut network);
        let now = now_at(Instant::ZERO);
        let (member, mut initiation) = initiation_for(&node, &mut network);
        node.add_member(&member, now).unwrap();
        discard_output(&mut node);
        node.handle_datagram(PortNo(0), from.parse().unwrap(), &mut initiation, now);
        let martian = node.drops().get(DropReason::Martian);
        assert_eq!(martian, u64::from(!answered), "{from}");
        if !answered {
            assert!(node.poll_transmit().is_none(), "{from}");
        }
    }
}

/// A WELCOME with this ticket, at a network whose relay is at this address.
fn welcomed(
    relay: &str,
    change: impl FnOnce(&mut crate::wire::relay::Ticket),
) -> (Node, Vec<Transmit>, Vec<NodeEvent>) {
    use crate::control::message::Welcome;
    use crate::wire::relay::{Ticket, bind_key};
    let mut network = crate::member::fixture::Network::new();
    network.manifest.relays[0].addresses = vec![relay.parse().unwrap()];
    let mut node = member_node(&mut network);
    let now = now_at(Instant::ZERO);
    discard_output(&mut node);
    let (no, identity) = {
        let me = node.membership.as_ref().unwrap().me().unwrap();
        (me.node_no(), me.identity())
    };
    let mut ticket = Ticket {
        kid: 1,
        rate_class: 0,
        node_no: no,
        network_id: network.genesis.root_pin().network_id().0,
        not_after: u64::MAX,
        issue_nonce: 1,
        identity_hash: Ticket::hash_identity(&identity),
    };
    change(&mut ticket);
    let key = crate::key::Secret::from_bytes([1; 32]);
    let ticket = ticket.mint(&key);
    node.control_address = None;
    node.on_ticket(
        &Welcome {
            relay_unix_ms: 1,
            observed: "198.51.100.7:1".parse().unwrap(),
            ticket,
            bind_key: bind_key(&key, &ticket),
            relay_no: 1,
            receipt: Vec::new(),
            genesis: Vec::new(),
            manifest: Vec::new(),
        },
        now,
    );
    node.settle(now);
    let sent = core::iter::from_fn(|| node.poll_transmit()).collect();
    let told = core::iter::from_fn(|| node.poll_event()).collect();
    (node, sent, told)
}

#[test]
fn a_ticket_is_used_if_it_is_for_this_node_and_counted_against_the_relay_if_not() {
    let (node, sent, _) = welcomed("192.0.2.1:3478", |_| {});
    assert!(
        sent.iter().any(|t| t.to == "192.0.2.1:3478".parse().unwrap()) && node.status().refused.is_empty()
    );
    for change in [
        |t: &mut crate::wire::relay::Ticket| t.node_no ^= 1,
        |t: &mut crate::wire::relay::Ticket| t.network_id[0] ^= 1,
        |t: &mut crate::wire::relay::Ticket| t.identity_hash[0] ^= 1,
    ] {
        let (node, sent, _) = welcomed("192.0.2.1:3478", change);
        assert!(sent.is_empty());
        assert_eq!(node.status().refused[0].reason, Refusal::FalseTicket);
    }
}

#[test]
fn nothing_is_sent_to_a_relay_inside_the_overlay() {
    for relay in ["10.7.0.1:3478", "[::ffff:10.7.0.1]:3478"] {
        let (_, sent, told) = welcomed(relay, |_| {});
        assert!(sent.is_empty(), "{relay}");
        assert!(told.iter().any(|e| matches!(e, NodeEvent::Alarm(text) if text.contains("public-address"))));
    }
}
