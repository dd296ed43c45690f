//! Documents that hold for the whole network: who is told, when, and who goes.

use super::super::bulletin::MAX_ANNOUNCED;
use super::*;
use crate::registrar::Ousted;
use crate::server::Revoked;

fn in_force(documents: &[&[u8]], ousted: &[u8]) -> StoreReply {
    StoreReply::InForce(Box::new(InForce {
        network_id: NET,
        documents: documents.iter().map(|d| d.to_vec()).collect(),
        ousted: ousted
            .iter()
            .map(|n| Ousted { identity: Identity([*n; 32]), node_no: 0x0a00_0000 + u32::from(*n) })
            .collect(),
        relays: vec![],
    }))
}

fn told(node: &Node) -> Vec<Vec<u8>> {
    let document = |e: &ControlEvent| match e {
        ControlEvent::Document(bytes) => Some(bytes.clone()),
        _ => None,
    };
    node.events.iter().filter_map(document).collect()
}

#[test]
fn whoever_joins_is_told_after_its_welcome_and_only_once() {
    let mut w = World::new();
    w.server.handle_store_reply(0, in_force(&[b"list", b"word"], &[]), w.now);
    let mut node = w.join("192.0.2.1:500", 7);
    let at = |f: fn(&ControlEvent) -> bool| node.events.iter().position(f).unwrap();
    assert!(
        at(|e| matches!(e, ControlEvent::Joined(_))) < at(|e| matches!(e, ControlEvent::Document(_))),
        "{:?}",
        node.events
    );
    assert_eq!(told(&node), [b"list", b"word"]);
    // It renews itself: nothing is said twice.
    node.client.join(vec![7; 30], w.now.mono);
    w.exchange(&mut node);
    let request = w.server.poll_store_request().unwrap();
    w.reply(&mut node, request.id, StoreReply::Joined(Box::new(joined(7))));
    assert_eq!(told(&node).len(), 2);
}

#[test]
fn news_go_to_all_who_are_online_and_nothing_else_does() {
    let mut w = World::new();
    w.server.handle_store_reply(0, in_force(&[b"list", b"word"], &[]), w.now);
    let mut node = w.join("192.0.2.1:500", 7);
    w.server.handle_store_reply(0, in_force(&[b"list", b"word"], &[]), w.now);
    w.exchange(&mut node);
    assert_eq!(told(&node).len(), 2, "the same again is no news");
    w.server.handle_store_reply(0, in_force(&[b"list 2", b"word"], &[]), w.now);
    w.exchange(&mut node);
    assert_eq!(told(&node)[2..], [b"list 2"]);
}

/// A document that says it is a manifest.
fn manifest(content: u8) -> Vec<u8> {
    vec![2, 1, 0, 1, content]
}

fn with_manifest(node: u8, manifest: Vec<u8>) -> StoreReply {
    StoreReply::Joined(Box::new(Joined { manifest, ..joined(node) }))
}

#[test]
fn another_manifest_goes_to_all_who_are_online_and_not_to_whom_its_welcome_told() {
    let mut w = World::new();
    let documents = |content| in_force(&[&manifest(content), b"list"], &[]);
    w.server.handle_store_reply(0, documents(1), w.now);
    let mut node = w.connect("192.0.2.1:500");
    node.client.join(vec![7; 30], w.now.mono);
    w.exchange(&mut node);
    let request = w.server.poll_store_request().unwrap();
    w.reply(&mut node, request.id, with_manifest(7, manifest(1)));
    assert_eq!(told(&node), [b"list".to_vec()]);
    w.server.handle_store_reply(0, documents(2), w.now);
    w.exchange(&mut node);
    assert_eq!(told(&node)[1..], [manifest(2)]);
    // It renews itself before the relay has heard of the next: what its WELCOME held is not said again.
    node.client.join(vec![7; 30], w.now.mono);
    w.exchange(&mut node);
    let request = w.server.poll_store_request().unwrap();
    w.reply(&mut node, request.id, with_manifest(7, manifest(2)));
    assert_eq!(told(&node).len(), 2);
}

fn pushed(node: &Node) -> Vec<Vec<u8>> {
    let bundle = |e: &ControlEvent| match e {
        ControlEvent::Pushed(member) => Some(member.bundle.clone()),
        _ => None,
    };
    node.events.iter().filter_map(bundle).collect()
}

/// Gives everybody what is for them.
fn deliver(w: &mut World, nodes: &mut [Node]) {
    while let Some(output) = w.server.poll_stream_write() {
        let StreamOutput::Bytes(conn, bytes) = output else { panic!("{output:?}") };
        let node = nodes.iter_mut().find(|node| node.conn == conn).unwrap();
        node.client.handle_bytes(&bytes, w.now.mono);
        node.events.extend(core::iter::from_fn(|| node.client.poll_event()));
    }
}

/// It joins, and is to be told of, or not.
fn join_announced(w: &mut World, node: &mut Node, identity: u8, announce: Option<Vec<u8>>) {
    node.client.join(vec![9; 30], w.now.mono);
    w.exchange(node);
    let request = w.server.poll_store_request().unwrap();
    let joined = Joined { announce, ..joined(identity) };
    w.server.handle_store_reply(request.id, StoreReply::Joined(Box::new(joined)), w.now);
}

#[test]
fn a_member_that_begins_to_relay_is_told_of_to_all_who_are_online_once() {
    let mut w = World::new();
    let mut nodes = vec![w.join("192.0.2.1:500", 7), w.join("192.0.2.2:500", 8), w.connect("192.0.2.3:500")];
    for announce in [Some(vec![9; 40]), None] {
        join_announced(&mut w, &mut nodes[2], 9, announce);
        w.pass(Duration::from_millis(50));
        deliver(&mut w, &mut nodes);
    }
    let heard: Vec<_> = nodes.iter().map(pushed).collect();
    assert_eq!(heard, [vec![vec![9; 40]], vec![vec![9; 40]], vec![]]);
    assert!(pushed(&w.join("192.0.2.4:500", 10)).is_empty(), "who comes later lists it");
}

#[test]
fn of_too_many_that_begin_to_relay_at_once_the_first_are_left_to_the_list() {
    let mut w = World::new();
    let mut nodes = vec![w.join("192.0.2.1:500", 7)];
    for n in 0..MAX_ANNOUNCED as u8 + 3 {
        let mut node = w.connect("192.0.2.3:500");
        join_announced(&mut w, &mut node, 100 + n, Some(vec![n; 40]));
        nodes.push(node);
        deliver(&mut w, &mut nodes);
    }
    for _ in 0..10 {
        w.pass(Duration::from_millis(50));
        deliver(&mut w, &mut nodes);
    }
    let heard = pushed(&nodes[0]);
    assert_eq!((heard.len(), heard[0][0]), (MAX_ANNOUNCED, 3));
    assert_eq!(w.server.drops().get(StreamDrop::AnnouncementFull), 3);
}

#[test]
fn thousands_are_told_within_two_seconds_and_not_at_once() {
    let mut w = World::new();
    let mut nodes: Vec<Node> = (0..1_000)
        .map(|n: u32| {
            let from = format!("10.{}.{}.1:500", n / 200, n % 200);
            let mut node = w.connect(&from);
            node.client.join(vec![1; 30], w.now.mono);
            w.exchange(&mut node);
            let request = w.server.poll_store_request().unwrap();
            let mut identity = [0; 32];
            identity[..4].copy_from_slice(&n.to_be_bytes());
            let who = Enrolled { identity: Identity(identity), node_no: n, ..enrolled(1) };
            let joined = Joined { who, ..joined(1) };
            w.reply(&mut node, request.id, StoreReply::Joined(Box::new(joined)));
            node
        })
        .collect();
    let begun = w.now.mono;
    w.server.handle_store_reply(0, in_force(&[b"list"], &[]), w.now);
    let mut heard = 0;
    while heard < nodes.len() {
        let before = heard;
        while let Some(output) = w.server.poll_stream_write() {
            let StreamOutput::Bytes(conn, bytes) = output else { panic!("{output:?}") };
            let node = nodes.iter_mut().find(|node| node.conn == conn).unwrap();
            node.client.handle_bytes(&bytes, w.now.mono);
            heard += 1;
        }
        assert!(heard - before <= 256, "{} at once", heard - before);
        if heard < nodes.len() {
            let next = w.server.poll_timeout().unwrap().saturating_since(w.now.mono);
            w.pass(next);
        }
    }
    let took = w.now.mono.saturating_since(begun);
    println!("1,000 told within {took:?}: 10,000 within {:?}", took * 10);
    assert!(took * 10 <= Duration::from_secs(2));
}

#[test]
fn whoever_is_revoked_is_told_and_let_go_and_the_forwarding_side_hears() {
    let mut w = World::new();
    let mut node = w.join("192.0.2.1:500", 7);
    w.server.handle_store_reply(0, in_force(&[b"list"], &[7, 9]), w.now);
    w.exchange(&mut node);
    assert_eq!(told(&node), [b"list"]);
    assert!(node.closed && !w.server.is_online(NET, Identity([7; 32])));
    assert_eq!(w.server.drops().get(StreamDrop::Revoked), 1);
    let ousted = [7, 9].map(|n: u8| (Identity([n; 32]), 0x0a00_0000 + u32::from(n)));
    assert_eq!(w.server.poll_revoked(), Some(Revoked::new(NET, ousted)));
    assert_eq!(w.server.poll_revoked(), None);
}

#[test]
fn what_is_in_force_is_asked_again_every_ten_minutes() {
    let mut w = World::new();
    w.pass(Duration::from_secs(599));
    assert_eq!(w.server.poll_store_request(), None);
    w.pass(Duration::from_secs(1));
    assert!(matches!(w.server.poll_store_request(), Some(StoreRequest { id: 0, op: StoreOp::InForce })));
}
