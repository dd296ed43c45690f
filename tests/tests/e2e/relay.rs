//! The relay dies and comes back.

use std::time::Duration;

use skynet_tests::fleet::PathKind;
use skynet_tests::fleet::traffic::{Pinger, echo_udp};
use skynet_tests::{Lab, NatKind};

use crate::{DIRECT, Story, first_answer};

const INTERVAL: Duration = Duration::from_millis(50);
/// One retry of the control channel and one bind; three times that.
const RECOVERY: Duration = Duration::from_secs(15);

#[test]
fn direct_pairs_lose_nothing_when_the_relay_dies() {
    let lab = Lab::builder("relay-killed")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .build()
        .unwrap();
    let mut story = Story::begin(lab);
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let target = story.fleet.agent("b1").overlay_address().unwrap();
    let pinger = Pinger::start(story.fleet.agent("a1").namespace(), target, INTERVAL).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    story.fleet.relay_mut().kill().unwrap();
    // Long enough for probes of the path and for the loss of the relay to be noticed.
    std::thread::sleep(Duration::from_secs(9));
    let echoes = pinger.stop().unwrap();
    println!("relay killed: {echoes:?}");
    assert_eq!(echoes.received, echoes.sent, "{echoes:?}");
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    assert_eq!(a.path_to(b).unwrap(), PathKind::Direct);
    assert_eq!(echo_udp(a.namespace(), b.namespace(), target, 30).unwrap(), 30);
    story.end();
}

#[test]
fn relayed_pairs_recover_when_the_relay_comes_back() {
    let lab = Lab::builder("relay-restarted")
        .relay()
        .cloud("a", NatKind::Symmetric, 1)
        .cloud("b", NatKind::Symmetric, 1)
        .build()
        .unwrap();
    let mut story = Story::begin(lab);
    first_answer(story.fleet.agent("a1"), story.fleet.agent("b1"), DIRECT).unwrap();
    let target = story.fleet.agent("b1").overlay_address().unwrap();
    let pinger = Pinger::start(story.fleet.agent("a1").namespace(), target, INTERVAL).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    story.fleet.relay_mut().kill().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    story.fleet.relay_mut().restart().unwrap();
    let took = first_answer(story.fleet.agent("a1"), story.fleet.agent("b1"), RECOVERY).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let echoes = pinger.stop().unwrap();
    println!("relay away for 1 s: first answer {took:.1?} after its return, {echoes:?}");
    for agent in story.fleet.agents() {
        agent.wait_joined(RECOVERY).unwrap();
    }
    story.end();
}
