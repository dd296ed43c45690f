//! A box on the way that loses what the kernel hands on as a train: the agents find out and send datagram by datagram.

use std::time::Duration;

use anyhow::Context;
use skynet_tests::fleet::{Agent, PathKind};
use skynet_tests::{Lab, NatKind};

use crate::offload::everything_arrives_as_sent;
use crate::{DIRECT, Story, first_answer};

/// Three trains and two rounds of single datagrams, a second each; three times that.
const CHECKED: Duration = Duration::from_secs(15);

/// A train of segments that nobody has cut yet is one long packet to a router's firewall.
const LOSES_TRAINS: &str = "table inet trains {
    chain forward {
        type filter hook forward priority -10; policy accept;
        meta l4proto udp meta length > 1500 counter drop
    }
}";

fn off(agent: &Agent) -> anyhow::Result<String> {
    let status = agent.status()?;
    status
        .offloads_off
        .get("udp-gso")
        .cloned()
        .with_context(|| format!("udp-gso is in use; {}", agent.log_end()))
}

#[test]
fn where_trains_do_not_arrive_segmentation_goes_off_towards_that_peer_and_traffic_flows() {
    let lab = Lab::builder("trains").relay().cloud("a", NatKind::Public, 1).cloud("b", NatKind::Public, 1);
    let lab = lab.build().unwrap();
    lab.router("a").nft(LOSES_TRAINS).unwrap();
    let story = Story::begin(lab);
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    first_answer(a, b, DIRECT).unwrap();
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    for (agent, peer) in [(a, "b1"), (b, "a1")] {
        let why = skynet_tests::wait_for(CHECKED, "the check of trains", || off(agent)).unwrap();
        println!("{}: udp-gso {why}", agent.host());
        assert_eq!(why, format!("failed towards {peer}"));
        let warnings = agent.log_end().lines().filter(|line| line.contains("WARN")).count();
        assert_eq!(warnings, 1, "{}", agent.log_end());
    }
    everything_arrives_as_sent(a, b, 1);
    let rules =
        story.lab.router("a").exec(&["nft", "list", "table", "inet", "trains"]).unwrap().ok().unwrap();
    println!("{rules}");
    story.end();
}
