//! Which NATs let two hosts talk directly.

use std::time::Duration;

use skynet_tests::fleet::{PathKind, traffic};
use skynet_tests::{Lab, NatKind};

use crate::{DIRECT, Story, first_answer};

fn two_clouds(title: &str, one: NatKind, other: NatKind) -> Story {
    Story::begin(Lab::builder(title).relay().cloud("a", one, 1).cloud("b", other, 1).build().unwrap())
}

fn goes_direct(title: &str, one: NatKind, other: NatKind) {
    let story = two_clouds(title, one, other);
    let took = story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    println!("{one:?} and {other:?}: direct after {took:.1?}");
    let (from, to) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let target = to.overlay_address().unwrap();
    let relayed_before = relayed_bytes(&story);
    assert_eq!(traffic::echo_udp(from.namespace(), to.namespace(), target, 300).unwrap(), 300);
    // The status says direct; the relay's wire agrees: 300 round trips are 350 kB.
    let relayed = relayed_bytes(&story) - relayed_before;
    assert!(relayed < 50_000, "{relayed} bytes crossed the relay");
    story.end();
}

/// What the relay has received from any host by UDP or TCP so far.
fn relayed_bytes(story: &Story) -> u64 {
    let relay = story.lab.relay().address();
    story
        .lab
        .hosts()
        .map(|host| story.sniffer().traffic("relay", story.lab.public_address(host.role()), relay).bytes)
        .sum()
}

#[test]
fn two_public_hosts_go_direct() {
    goes_direct("public-public", NatKind::Public, NatKind::Public);
}

#[test]
fn two_port_restricted_clouds_go_direct() {
    goes_direct("restricted-restricted", NatKind::PortRestricted, NatKind::PortRestricted);
}

#[test]
fn a_public_host_and_a_symmetric_cloud_go_direct() {
    goes_direct("public-symmetric", NatKind::Public, NatKind::Symmetric);
}

#[test]
fn two_symmetric_clouds_stay_on_the_relay_and_say_so() {
    let story = two_clouds("symmetric-symmetric", NatKind::Symmetric, NatKind::Symmetric);
    let (from, to) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let took = first_answer(from, to, DIRECT).unwrap();
    println!("two symmetric NATs: first answer after {took:.1?}");
    let target = to.overlay_address().unwrap();
    // Longer than a whole round of probes: a path that only looks as if it worked would be taken by then.
    let echoes = traffic::echo_icmp(from.namespace(), target, 60, Duration::from_millis(100)).unwrap();
    assert_eq!(echoes.received, 60, "{echoes:?}");
    for (one, other) in [(from, to), (to, from)] {
        assert_eq!(one.path_to(other).unwrap(), PathKind::Relay, "{} to {}", one.host(), other.host());
    }
    let before = relayed_bytes(&story);
    assert_eq!(traffic::echo_udp(from.namespace(), to.namespace(), target, 300).unwrap(), 300);
    let relayed = relayed_bytes(&story) - before;
    assert!(relayed > 300_000, "only {relayed} bytes crossed the relay");
    story.end();
}
