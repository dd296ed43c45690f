//! What a node costs that has nothing to do.

use std::time::Duration;

use skynet_tests::fleet::{Agent, PathKind, traffic};
use skynet_tests::{Lab, NatKind, clock};

use crate::{DIRECT, Story};

/// Direct paths rest after 45 s without traffic, and with them the last timer of a pair.
const FALLEN_ASLEEP: Duration = Duration::from_secs(50);
const WINDOW: Duration = Duration::from_secs(40);

/// Processor time of an agent's process so far.
fn processor_time(agent: &Agent) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.id().unwrap())).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

/// Packets from and to a host so far, as it sees them itself.
fn packets(story: &Story, host: &str) -> u64 {
    let mine = story.lab.host(host).address();
    let relay = story.lab.relay().address();
    let others = ["a1", "b1"].map(|other| story.lab.public_address(other));
    let far = others.into_iter().chain([relay]);
    far.map(|far| {
        let there = story.sniffer().traffic(host, mine, far).packets;
        there + story.sniffer().traffic(host, far, mine).packets
    })
    .sum()
}

#[test]
#[ignore = "for ./x soak: a minute and a half of waiting"]
fn an_idle_agent_costs_less_than_a_hundredth_of_a_core_and_its_keepalive() {
    let lab = Lab::builder("idle")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .build()
        .unwrap();
    let story = Story::begin(lab);
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let target = b.overlay_address().unwrap();
    traffic::echo_icmp(a.namespace(), target, 20, Duration::from_millis(50)).unwrap();
    std::thread::sleep(FALLEN_ASLEEP);
    let begin = clock::now();
    let before = [a, b].map(|agent| (processor_time(agent), packets(&story, agent.host())));
    std::thread::sleep(WINDOW);
    let after = [a, b].map(|agent| (processor_time(agent), packets(&story, agent.host())));
    let seconds = begin.elapsed().as_secs_f64();
    for ((busy_before, sent_before), (busy, sent)) in before.into_iter().zip(after) {
        let core = (busy - busy_before).as_secs_f64() / seconds;
        // A datagram and its echo every 20 s; on TCP a PING, a PONG and two acknowledgements in the same time.
        let keepalives = 6.0 * (seconds / 20.0 + 1.0);
        let beyond = ((sent - sent_before) as f64 - keepalives).max(0.0) / seconds;
        println!(
            "idle: {:.2} % of a core, {} packets in {seconds:.0} s, {beyond:.2} a second beyond the relay's keepalives",
            core * 100.0,
            sent - sent_before
        );
        assert!(core < 0.01, "{core}");
        assert!(beyond < 1.0, "{beyond}");
    }
    story.end();
}
