//! An agent dies, comes back, or goes for good.

use std::time::Duration;

use skynet_tests::fleet::traffic::Pinger;
use skynet_tests::fleet::{Agent, PathKind};
use skynet_tests::{Lab, NatKind, clock};

use crate::{DIRECT, JOIN, Story, first_answer};

/// A peer that gets no answer tries a new handshake after 15 s (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT); three times that.
const RESUME: Duration = Duration::from_secs(45);

fn two_hosts(title: &str) -> Story {
    let lab =
        Lab::builder(title).relay().cloud("a", NatKind::PortRestricted, 1).cloud("b", NatKind::Public, 1);
    Story::begin(lab.build().unwrap())
}

#[test]
fn an_agent_killed_and_restarted_has_the_same_address_and_traffic_resumes() {
    let mut story = two_hosts("agent-killed");
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let address = story.fleet.agent("a1").overlay_address().unwrap();
    let pinger =
        Pinger::start(story.fleet.agent("b1").namespace(), address, Duration::from_millis(50)).unwrap();
    std::thread::sleep(Duration::from_millis(500));

    let start = clock::now();
    story.fleet.agent_mut("a1").kill().unwrap();
    story.fleet.agent_mut("a1").restart().unwrap();
    let joined = story.fleet.agent("a1").wait_joined(JOIN).unwrap();
    assert_eq!(story.fleet.agent("a1").overlay_address().unwrap(), address);
    first_answer(story.fleet.agent("b1"), story.fleet.agent("a1"), RESUME).unwrap();
    let resumed = start.elapsed();
    first_answer(story.fleet.agent("a1"), story.fleet.agent("b1"), RESUME).unwrap();
    let echoes = pinger.stop().unwrap();
    println!(
        "agent killed: joined again after {joined:.1?}, traffic towards it after {resumed:.1?}, {echoes:?}"
    );
    let direct = story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    println!("direct again {direct:.1?} later");
    story.end();
}

#[test]
fn down_leaves_no_device_no_route_and_no_socket() {
    let mut story = two_hosts("agent-down");
    first_answer(story.fleet.agent("a1"), story.fleet.agent("b1"), DIRECT).unwrap();
    let agent = story.fleet.agent("a1");
    let before = Traces::of(agent);
    assert!(before.device && before.socket && !before.routes.is_empty(), "{before:?}");

    let finished = agent.command(&["down"]).unwrap();
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(story.fleet.agent_mut("a1").wait_ended(Duration::from_secs(5)).unwrap(), Some(0));
    assert_eq!(Traces::of(story.fleet.agent("a1")), Traces::default());
    let finished = story.fleet.agent("a1").command(&["status"]).unwrap();
    assert_eq!(finished.code, Some(3), "{finished:?}");

    // The identity stays.
    story.fleet.agent_mut("a1").restart().unwrap();
    story.fleet.agent("a1").wait_joined(JOIN).unwrap();
    first_answer(story.fleet.agent("a1"), story.fleet.agent("b1"), RESUME).unwrap();
    story.end();
}

/// What an agent leaves on its host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traces {
    device: bool,
    socket: bool,
    /// Routes by that device, of both families.
    routes: Vec<String>,
}

impl Traces {
    fn of(agent: &Agent) -> Self {
        let lines = |argv: &[&str]| agent.namespace().exec(argv).unwrap().ok().unwrap();
        let routes = lines(&["ip", "route", "show", "table", "all"])
            + &lines(&["ip", "-6", "route", "show", "table", "all"]);
        Self {
            device: lines(&["ip", "-o", "link"]).contains(agent.interface()),
            socket: agent.socket().exists(),
            routes: routes
                .lines()
                .filter(|line| line.contains(agent.interface()))
                .map(str::to_owned)
                .collect(),
        }
    }
}
