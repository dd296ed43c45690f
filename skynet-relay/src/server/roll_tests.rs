//! Who is told of whom, when, and by how many bytes.

use std::collections::BTreeMap;

use skynet_core::control::ControlEvent;
use skynet_core::control::roll::{Presence, Roll};
use skynet_core::key::Identity;
use skynet_core::member::Tags;
use skynet_core::time::Duration;

use super::tests::{NET, Node, World, enrolled};
use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn tags(tags: &[&str]) -> Tags {
    Tags::new(tags).unwrap()
}

/// Gives what waits to whom it is for; bytes for each.
fn deliver(w: &mut World, nodes: &mut [&mut Node]) -> BTreeMap<ConnId, usize> {
    let mut bytes_of = BTreeMap::new();
    while let Some(output) = w.server.poll_stream_write() {
        let StreamOutput::Bytes(conn, bytes) = output else { continue };
        *bytes_of.entry(conn).or_default() += bytes.len();
        w.server.handle_stream_written(conn, bytes.len());
        if let Some(node) = nodes.iter_mut().find(|n| n.conn == conn) {
            node.client.handle_bytes(&bytes, w.now.mono);
            while let Some(event) = node.client.poll_event() {
                node.events.push(event);
            }
        }
    }
    bytes_of
}

fn watch(w: &mut World, node: &mut Node, wanted: &[&str]) {
    assert!(node.client.watch(Some(tags(wanted)), w.now.mono).is_some());
    w.exchange(node);
}

/// What the node was told: (number, presence), of all rolls since the last snapshot began.
fn roll(node: &Node) -> Vec<(u32, Presence)> {
    let rolls: Vec<&Roll> = node
        .events
        .iter()
        .filter_map(|e| if let ControlEvent::Roll(roll) = e { Some(roll) } else { None })
        .collect();
    let begin = rolls.iter().rposition(|roll| roll.begins).expect("a snapshot");
    let entries = rolls[begin..].iter().flat_map(|roll| &roll.entries);
    entries.map(|e| (e.node_no & 0xff, e.presence)).collect()
}

#[test]
fn whoever_watches_gets_who_is_there_and_then_nine_bytes_for_each_change() {
    let mut w = World::new();
    let mut head = w.join("192.0.2.1:1", 1);
    let mut other = w.join_as("192.0.2.2:1", 2, &tags(&["worker"]));
    watch(&mut w, &mut head, &["worker"]);
    assert_eq!(roll(&head), [(2, Presence::Online)]);

    let quiet = w.join_as("192.0.2.3:1", 3, &tags(&["storage"]));
    w.pass(S);
    assert!(deliver(&mut w, &mut [&mut head, &mut other]).is_empty(), "not of those watched");
    let late = w.join_as("192.0.2.4:1", 4, &tags(&["gpu", "worker"]));
    w.pass(500 * MS);
    let bytes = deliver(&mut w, &mut [&mut head, &mut other]);
    // Frame 2 + 16, header 5, flags 1, entry 9; nobody else is told anything.
    assert_eq!(bytes, [(head.conn, 33)].into());
    assert_eq!(roll(&head), [(2, Presence::Online), (4, Presence::Online)]);
    drop((quiet, late));
}

#[test]
fn changes_are_told_together_every_half_second() {
    let mut w = World::new();
    let mut head = w.join("192.0.2.1:1", 1);
    watch(&mut w, &mut head, &[]);
    let mut told = 0;
    for n in 2..=21 {
        let _member = w.join(&format!("192.0.2.{n}:1"), n);
        w.pass(50 * MS);
        told += usize::from(!deliver(&mut w, &mut [&mut head]).is_empty());
    }
    w.pass(S);
    told += usize::from(!deliver(&mut w, &mut [&mut head]).is_empty());
    assert_eq!(roll(&head).len(), 1 + 20);
    assert!((2..=4).contains(&told), "{told} messages for 20 members in a second");
}

#[test]
fn a_closed_connection_is_no_goodbye_for_ten_seconds_and_bye_is_one_at_once() {
    let mut w = World::new();
    let mut head = w.join("192.0.2.1:1", 1);
    watch(&mut w, &mut head, &[]);
    let first = w.join("192.0.2.2:1", 2);
    let mut second = w.join("192.0.2.3:1", 3);
    w.pass(S);
    deliver(&mut w, &mut [&mut head]);
    w.server.handle_stream_closed(first.conn, w.now);
    second.client.bye(w.now.mono);
    w.exchange(&mut second);
    w.pass(S);
    deliver(&mut w, &mut [&mut head]);
    assert_eq!(roll(&head).last(), Some(&(3, Presence::Away)));
    // The first is back in time, and nobody was told.
    w.pass(8 * S);
    let again = w.join("192.0.2.2:2", 2);
    w.pass(2 * S);
    assert!(deliver(&mut w, &mut [&mut head]).is_empty());
    w.server.handle_stream_closed(again.conn, w.now);
    w.pass(10 * S - MS);
    assert!(deliver(&mut w, &mut [&mut head]).is_empty());
    w.pass(MS);
    deliver(&mut w, &mut [&mut head]);
    assert_eq!(roll(&head).last(), Some(&(2, Presence::Away)));
}

#[test]
fn whoever_loses_or_gets_a_role_is_told_to_both_kinds_of_watchers() {
    let mut w = World::new();
    let mut old = w.join("192.0.2.1:1", 1);
    let mut new = w.join("192.0.2.2:1", 2);
    watch(&mut w, &mut old, &["worker"]);
    watch(&mut w, &mut new, &["storage"]);
    let before = w.join_as("192.0.2.3:1", 3, &tags(&["worker"]));
    w.pass(S);
    deliver(&mut w, &mut [&mut old, &mut new]);
    w.server.handle_stream_closed(before.conn, w.now);
    let _after = w.join_as("192.0.2.3:2", 3, &tags(&["storage"]));
    w.pass(S);
    let told = deliver(&mut w, &mut [&mut old, &mut new]);
    assert_eq!(told.len(), 2);
    assert_eq!(roll(&new), [(3, Presence::Online)]);
}

#[test]
fn whoever_watches_no_more_is_told_no_more() {
    let mut w = World::new();
    let mut head = w.join("192.0.2.1:1", 1);
    watch(&mut w, &mut head, &[]);
    head.client.watch(None, w.now.mono).unwrap();
    w.exchange(&mut head);
    let _member = w.join("192.0.2.2:1", 2);
    w.pass(S);
    assert!(deliver(&mut w, &mut [&mut head]).is_empty());
}

#[test]
fn a_snapshot_above_a_message_takes_several_and_costs_of_the_rate() {
    let mut w = World::new();
    let mut head = w.join("192.0.2.1:1", 1);
    for n in 0..2_000_u32 {
        let mut identity = [9; 32];
        identity[..4].copy_from_slice(&n.to_be_bytes());
        let key = MemberKey { network_id: NET, identity: Identity(identity) };
        let arrived = Enrolled { node_no: 0x0a01_0000 + n, ..enrolled(9) };
        w.server.rolls.arrived(key, &arrived, w.now.mono);
    }
    watch(&mut w, &mut head, &[]);
    let parts = head.events.iter().filter(|e| matches!(e, ControlEvent::Roll(_))).count();
    assert_eq!((parts, roll(&head).len()), (2, 2_001));
    let refused = |node: &Node| node.events.iter().any(|e| matches!(e, ControlEvent::Denied(Some(_), 8, _)));
    for _ in 0..20 {
        watch(&mut w, &mut head, &[]);
    }
    assert!(refused(&head), "twenty snapshots at once");
}
