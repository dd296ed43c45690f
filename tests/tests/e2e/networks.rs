//! Two networks on one host, by one agent: both work, nothing crosses, and what happens to one is nothing to the other.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use skynet_tests::fleet::traffic::Pinger;
use skynet_tests::fleet::{Agent, Binaries, Extra, Finished, Relay, traffic};
use skynet_tests::lab::{Process, RELAY_ADDRESSES};
use skynet_tests::{Lab, NatKind, wait_for};

use crate::JOIN;

/// What `tcpdump` sees on an interface of a host that has to do with the other network's prefix.
struct Watch(Process);

impl Watch {
    fn start(on: &Agent, interface: &str, foreign: &str) -> Self {
        let mut command = Command::new("tcpdump");
        command.args(["-l", "-n", "-i", interface, "net", foreign]);
        let process = on.namespace().spawn(command).unwrap();
        wait_for(Duration::from_secs(5), "tcpdump to listen", || {
            anyhow::ensure!(process.log().contains("listening on"), "{}", process.log());
            Ok(())
        })
        .unwrap();
        Self(process)
    }

    fn packets(&self) -> usize {
        self.0.log().lines().filter(|line| line.contains(" > ")).count()
    }
}

/// The further network `lab` of an agent.
fn in_lab(agent: &Agent, arguments: &[&str]) -> Finished {
    agent.command(&[arguments, &["--network", "lab"]].concat()).unwrap()
}

/// `up --network NAME` beside the running agent.
fn up(agent: &Agent, network: &str, token: &str) -> Finished {
    let state = agent.state_directory().display().to_string();
    let arguments =
        ["up", "--network", network, "--token", token, "--name", agent.host(), "--state-dir", &state];
    agent.command(&[&arguments[..], &["--dns", "on"]].concat()).unwrap()
}

fn status(finished: &Finished) -> serde_json::Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"))
}

fn address(status: &serde_json::Value) -> Ipv4Addr {
    status["self"]["ipv4"].as_str().unwrap_or_else(|| panic!("{status}")).parse().unwrap()
}

fn answers(from: &Agent, target: Ipv4Addr) -> u32 {
    traffic::echo_icmp(from.namespace(), target, 3, Duration::from_millis(100)).unwrap().received
}

fn wait_answers(from: &Agent, target: Ipv4Addr) {
    wait_for(JOIN, &format!("{target} to answer {}", from.host()), || {
        anyhow::ensure!(answers(from, target) > 0, "no answer; {}", from.log_end());
        Ok(())
    })
    .unwrap();
}

fn routes(agent: &Agent) -> String {
    agent.namespace().exec(&["ip", "route"]).unwrap().stdout
}

/// Whatever the two hosts of one network try to send to the other network, through the host that is in both.
fn nothing_crosses(both: &Agent, first: &Agent, second: &Agent, net: [&str; 2]) {
    both.namespace().set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    let watches = [
        (Watch::start(both, "skynet0", net[1]), "second's at skynet0"),
        (Watch::start(both, "sky-lab", net[0]), "first's at sky-lab"),
        (Watch::start(second, "skynet0", net[0]), "first's at the second's host"),
        (Watch::start(first, "skynet0", net[1]), "second's at the first's host"),
    ];
    // A host that believes that the other network is behind its interface, and asks the neighbour it has there.
    let own = [
        address(&status(&both.command(&["status", "--json"]).unwrap())),
        address(&status(&in_lab(both, &["status", "--json"]))),
    ];
    for (host, foreign, target) in [(first, net[1], own[1]), (second, net[0], own[0])] {
        host.namespace().exec(&["ip", "route", "add", foreign, "dev", "skynet0"]).unwrap().ok().unwrap();
        assert_eq!(answers(host, target), 0, "{} reached {target}", host.host());
    }
    let other_end = second.overlay_address().unwrap();
    assert_eq!(answers(first, other_end), 0);
    // What the host in both sends with the one network's address into the other.
    let from = own[0].to_string();
    let argv = ["ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "-I", &from, &other_end.to_string()];
    both.namespace().exec(&argv).unwrap();
    for (watch, what) in &watches {
        println!("{what}: {} packets", watch.packets());
    }
    // On the hosts that are in one network alone their own attempts are seen, which end in the agent there.
    assert_eq!(watches[0].0.packets(), 0, "{}", watches[0].0.0.log());
    assert_eq!(watches[2].0.0.log().matches(&format!("IP {from} >")).count(), 0, "{}", watches[2].0.0.log());
    let crossed = watches[1].0.0.log();
    assert!(
        crossed.lines().filter(|l| l.contains(" > ")).all(|l| l.contains(&format!("IP {from} >"))),
        "{crossed}"
    );
}

#[test]
fn one_agent_is_in_two_networks_and_what_happens_to_one_is_nothing_to_the_other() {
    let lab = Lab::builder("networks")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .cloud("b", NatKind::FullCone, 1)
        .cloud("c", NatKind::Symmetric, 1)
        .build()
        .unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let other = Relay::start_at(&lab, &binaries, RELAY_ADDRESSES[1]).unwrap();
    let hosts = lab.logs().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let arguments = ["--dns", "on", "--hosts-file", &hosts.display().to_string()].map(str::to_owned).to_vec();
    let extra = Extra { arguments, ..Extra::default() };
    let mut both = Agent::start_with(&lab, "a1", &binaries, relay.token(), &extra).unwrap();
    let first = Agent::start(&lab, "b1", &binaries, relay.token()).unwrap();
    let second = Agent::start(&lab, "c1", &binaries, other.token()).unwrap();
    for agent in [&both, &first, &second] {
        agent.wait_joined(JOIN).unwrap();
    }
    let joined = up(&both, "lab", other.token());
    assert_eq!(joined.code, Some(0), "{joined:?}{}", both.log_end());
    assert!(joined.stdout.contains("(sky-lab)"), "{joined:?}");
    let id = both.id();

    let (b1, c1) = (first.overlay_address().unwrap(), second.overlay_address().unwrap());
    wait_answers(&both, b1);
    wait_answers(&both, c1);
    let seen = status(&both.command(&["status", "--json"]).unwrap());
    assert_eq!(seen["further_networks"], serde_json::json!(["lab"]), "{seen}");
    let lab_status = status(&in_lab(&both, &["status", "--json"]));
    assert_eq!(
        (&lab_status["network"], &lab_status["self"]["interface"]),
        (&"lab".into(), &"sky-lab".into())
    );
    assert_ne!(seen["self"]["port"], lab_status["self"]["port"]);
    // Each has its members, its resolver and its files.
    let listed = |finished: Finished| {
        finished
            .stdout
            .lines()
            .skip(1)
            .map(|l| l.split_whitespace().next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(both.command(&["hosts"]).unwrap()), ["a1", "b1"]);
    assert_eq!(listed(in_lab(&both, &["hosts"])), ["a1", "c1"]);
    for status in [&seen, &lab_status] {
        assert_eq!(status["names"]["dns"]["listening"].as_array().unwrap().len(), 2, "{status}");
    }
    let net = [b1, c1].map(|ip| format!("10.{}.0.0/16", ip.octets()[1]));
    nothing_crosses(&both, &first, &second, [&net[0], &net[1]]);

    let pings = Pinger::start(both.namespace(), b1, Duration::from_millis(100)).unwrap();
    let before = routes(&both);
    assert_eq!(before.matches("unreachable").count(), 2, "{before}");
    let down = in_lab(&both, &["down"]);
    assert_eq!(down.code, Some(0), "{down:?}");
    assert_eq!(in_lab(&both, &["status"]).code, Some(3), "no such network any more");
    assert_eq!(routes(&both).matches("unreachable").count(), 1, "{}", routes(&both));
    assert!(!both.namespace().exec(&["ip", "link"]).unwrap().stdout.contains("sky-lab"));
    let again = up(&both, "lab", other.token());
    assert_eq!(again.code, Some(0), "{again:?}");
    wait_answers(&both, c1);
    let echoes = pings.stop().unwrap();
    println!("while the other network went and came: {} of {} answered", echoes.received, echoes.sent);
    assert_eq!(echoes.received, echoes.sent);
    assert_eq!(both.id(), id, "one process all the time");

    // Killed: nothing of either is left that hurts, and both come back by themselves.
    both.kill().unwrap();
    both.restart().unwrap();
    both.wait_joined(JOIN).unwrap();
    wait_answers(&both, b1);
    wait_answers(&both, c1);
    assert_eq!(routes(&both).matches("unreachable").count(), 2, "{}", routes(&both));
    assert_eq!(both.command(&["down"]).unwrap().code, Some(0));
    assert!(!routes(&both).contains("unreachable"), "{}", routes(&both));
    assert_eq!(std::fs::read_to_string(&hosts).unwrap(), "127.0.0.1 localhost\n");
    drop((both, first, second, relay, other));
    lab.remove().unwrap();
}

/// Exit code 1 and the culprit.
fn assert_refused(finished: &Finished, culprit: &str) {
    println!("{}", finished.stderr.trim());
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(culprit), "{finished:?}");
}

#[test]
fn a_network_that_overlaps_another_or_a_route_is_refused_and_the_culprit_named() {
    let lab = Lab::builder("overlaps").relay().cloud("a", NatKind::PortRestricted, 2).build().unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let [both, bare] = ["a1", "a2"].map(|host| Agent::new(&lab, host, &binaries).unwrap());
    assert_eq!(both.up(relay.token()).unwrap().code, Some(0));
    let own = both.overlay_address().unwrap();
    let range = format!("10.{}.0.0/16", own.octets()[1]);
    let twin = Relay::start_in(&lab, &binaries, RELAY_ADDRESSES[1], &range).unwrap();
    let before = routes(&both);
    // An address of the first one is inside, or its prefix: whichever, it is the first one's interface that is named.
    assert_refused(&up(&both, "twin", twin.token()), "of skynet0 overlaps the overlay's prefix");
    assert_eq!(routes(&both), before, "nothing of the first one's has changed");
    assert!(!both.namespace().exec(&["ip", "link"]).unwrap().stdout.contains("sky-twin"));
    assert_eq!(both.overlay_address().unwrap(), own);

    let route = format!("10.{}.9.0/24", own.octets()[1]);
    bare.namespace().exec(&["ip", "route", "add", &route, "dev", "lo"]).unwrap().ok().unwrap();
    assert_refused(&bare.up(relay.token()).unwrap(), &format!("the route {route} (lo) overlaps"));
    bare.namespace().exec(&["ip", "route", "del", &route]).unwrap().ok().unwrap();
    assert_eq!(bare.up(relay.token()).unwrap().code, Some(0));
    wait_answers(&bare, own);
    for agent in [&both, &bare] {
        assert_eq!(agent.command(&["down"]).unwrap().code, Some(0));
    }
    drop((relay, twin));
    lab.remove().unwrap();
}

#[test]
fn networks_come_by_their_files_or_by_a_flag_and_one_that_cannot_start_is_tried_again() {
    let lab = Lab::builder("network-files").relay().cloud("a", NatKind::PortRestricted, 2).build().unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let other = Relay::start_at(&lab, &binaries, RELAY_ADDRESSES[1]).unwrap();

    // By a file beside agent.toml. The first network has the port that it asks for.
    let config = |token: &str, port: u16| format!("token = \"{token}\"\n[interface]\nlisten_port = {port}\n");
    let mut filed = Agent::new(&lab, "a1", &binaries).unwrap();
    let directory = filed.socket().parent().unwrap().join("networks");
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("lab.toml");
    std::fs::write(&file, config(other.token(), filed.port())).unwrap();
    drop(filed);
    filed = Agent::start_with_config(&lab, "a1", &binaries, &config(relay.token(), 41_820)).unwrap();
    filed.wait_joined(JOIN).unwrap();
    wait_for(JOIN, "the other one to fail", || {
        anyhow::ensure!(filed.log().contains("network not started, trying again"), "{}", filed.log_end());
        Ok(())
    })
    .unwrap();
    assert_eq!(in_lab(&filed, &["status"]).code, Some(3), "not there");
    std::fs::write(&file, config(other.token(), 41_830)).unwrap();
    wait_for(3 * JOIN, "the other one to come by itself", || {
        let finished = in_lab(&filed, &["status", "--json"]);
        anyhow::ensure!(finished.code == Some(0), "{finished:?}{}", filed.log_end());
        Ok(())
    })
    .unwrap();
    assert_eq!(status(&in_lab(&filed, &["status", "--json"]))["self"]["port"], 41_830);
    filed.wait_joined(JOIN).unwrap();

    // By a flag where no agent runs: one begins, with this network and a first one that is not joined.
    let flagged = Agent::new(&lab, "a2", &binaries).unwrap();
    let refused = up(&flagged, "lab", &other.token().replace('1', "2"));
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(!flagged.state_directory().exists(), "nothing is left of what was refused");
    let joined = up(&flagged, "lab", other.token());
    assert_eq!(joined.code, Some(0), "{joined:?}");
    let first = flagged.command(&["status", "--json"]).unwrap();
    assert_eq!((first.code, &status(&first)["state"]), (Some(4), &"not_joined".into()), "{first:?}");
    wait_answers(&flagged, address(&status(&in_lab(&filed, &["status", "--json"]))));
    for agent in [&filed, &flagged] {
        assert_eq!(agent.command(&["down"]).unwrap().code, Some(0));
        assert_eq!(in_lab(agent, &["status"]).code, Some(3));
        assert!(!routes(agent).contains("unreachable"), "{}", routes(agent));
    }
    drop((filed, flagged, relay, other));
    lab.remove().unwrap();
}
