//! Faults seeded in the lab, and what `why` and `netcheck` call them: one lab with all of them at once, asked side by side.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use skynet_tests::fleet::{Agent, AgentState, Binaries, Extra, Relay};
use skynet_tests::{Lab, NatKind, Netns, clock, wait_for};

use crate::JOIN;

/// One question and the answer it must have.
struct Fault {
    name: &'static str,
    at: &'static str,
    ask: &'static [&'static str],
    cause: &'static str,
    exit: i32,
    /// Somewhere in verdict, cure or notes.
    says: &'static str,
}

const fn fault(
    name: &'static str,
    at: &'static str,
    ask: &'static [&'static str],
    (cause, exit): (&'static str, i32),
    says: &'static str,
) -> Fault {
    Fault { name, at, ask, cause, exit, says }
}

const FAULTS: &[Fault] = &[
    // Pairs.
    fault("none", "a1", &["why", "f1"], ("direct", 0), "a1 and f1 talk directly"),
    fault(
        "symmetric twice",
        "a1",
        &["why", "b1"],
        ("both-symmetric", 6),
        "Open UDP 41820 to the world on one end",
    ),
    fault("address of a container", "b1", &["why", "a1"], ("both-symmetric", 6), "a1 also offers 172.17.0.1"),
    fault(
        "symmetric and restricted",
        "a1",
        &["why", "c1"],
        ("symmetric-and-filtered", 6),
        "Open UDP 41820 to the world on c1",
    ),
    fault("the same from the other end", "c1", &["why", "b1"], ("symmetric-and-filtered", 6), "on c1"),
    fault("symmetric and moving ports", "b1", &["why", "d1"], ("symmetric-and-filtered", 6), "b1's NAT"),
    fault("symmetric and security group", "a1", &["why", "g3"], ("symmetric-and-filtered", 6), "on g3"),
    fault("no hairpin, no way inside", "c1", &["why", "c2"], ("hairpin-missing", 6), "behind one NAT"),
    fault(
        "a firewall between",
        "c1",
        &["why", "d1"],
        ("blocked-between", 6),
        "Allow UDP between 198.51.100.",
    ),
    fault("one-way firewall", "d1", &["why", "f1"], ("one-way", 6), "Packets from f1 do not reach d1"),
    fault(
        "one-way firewall, its end",
        "f1",
        &["why", "d1"],
        ("one-way", 6),
        "Packets from f1 do not reach d1",
    ),
    fault(
        "MTU hole, which the pair's own probes have found",
        "f1",
        &["why", "h1"],
        ("direct", 0),
        "f1 and h1 talk directly",
    ),
    fault(
        "a firewall on the peer's interface",
        "f1",
        &["why", "f5"],
        ("data-blocked", 1),
        "f5's own firewall",
    ),
    fault("a scrubber that eats data", "f1", &["why", "f6"], ("data-dropped", 6), "data is eaten"),
    // One end.
    fault("UDP blocked here", "e1", &["why", "f1"], ("udp-by-tls", 6), "security group of e1"),
    fault("UDP blocked there", "f1", &["why", "e1"], ("udp-by-tls", 6), "security group of e1"),
    fault("local firewall", "g1", &["why", "f1"], ("local-firewall", 1), "outgoing UDP on this machine"),
    fault("peer is off", "f1", &["why", "f2"], ("peer-offline", 1), "Start f2"),
    fault("peer is unknown", "a1", &["why", "b11"], ("unknown-peer", 1), "Did you mean b1"),
    fault(
        "peer never joined",
        "a1",
        &["why", "elsewhere"],
        ("unknown-peer", 1),
        "skynet-agent up --token … on elsewhere",
    ),
    fault("not joined", "g2", &["why", "a1"], ("not-joined", 4), "skynet-agent up --token"),
    fault("clock ahead", "f3", &["why", "a1"], ("clock-wrong", 1), "Set the clock of this node"),
    fault("clock behind", "h2", &["why", "a1"], ("clock-wrong", 1), "s behind"),
    fault("relay's address is wrong", "h3", &["why", "a1"], ("relay-unreachable", 1), "203.0.113.99:3478"),
    fault(
        "relay's port is wrong",
        "f4",
        &["why", "a1"],
        ("relay-refused", 1),
        "203.0.113.11:9 does not listen",
    ),
    // Networks.
    fault("symmetric NAT", "a1", &["netcheck"], ("symmetric-nat", 6), "endpoint-independent mapping"),
    fault("a good NAT", "c1", &["netcheck"], ("network-fine", 0), "lets peers in"),
    fault("UDP blocked", "e1", &["netcheck"], ("udp-by-tls", 6), "reached by TLS on port 443"),
    fault("local firewall alone", "g1", &["netcheck"], ("local-firewall", 1), "nft"),
    fault("MTU hole alone", "h1", &["netcheck"], ("mtu-hole", 6), "more than 1300 bytes"),
    fault(
        "port conflict",
        "d3",
        &["netcheck", "--relay", "203.0.113.10:3478"],
        ("port-taken", 1),
        "UDP port 41820",
    ),
    fault(
        "relay down",
        "d3",
        &["netcheck", "--relay", "203.0.113.11:3478"],
        ("relay-refused", 1),
        "203.0.113.11:3478 does not listen",
    ),
];

/// Everything that runs, by host.
struct Faulty {
    agents: BTreeMap<&'static str, Agent>,
    relay: Relay,
    _holder: UdpSocket,
    lab: Lab,
}

impl Faulty {
    fn begin() -> Self {
        let lab = Lab::builder("why")
            .relay()
            .cloud("a", NatKind::Symmetric, 1)
            .cloud("b", NatKind::Symmetric, 1)
            .cloud("c", NatKind::PortRestricted, 2)
            .cloud("d", NatKind::PortRestrictedNotPreserving, 3)
            .cloud("e", NatKind::UdpBlocked, 1)
            .cloud("f", NatKind::Public, 6)
            .cloud("g", NatKind::SecurityGroup, 3)
            .cloud("h", NatKind::Public, 3)
            .build()
            .unwrap();
        seed(&lab);
        let binaries = Binaries::find().unwrap();
        let relay = Relay::start(&lab, &binaries).unwrap();
        let shim = clock_shim(&lab);
        let mut agents = BTreeMap::new();
        for host in [
            "a1", "b1", "c1", "c2", "d1", "e1", "f1", "f2", "f3", "f4", "f5", "f6", "g1", "g3", "h1", "h2",
            "h3",
        ] {
            let extra = extra(host, &shim);
            agents.insert(host, Agent::start_with(&lab, host, &binaries, relay.token(), &extra).unwrap());
        }
        agents.insert("g2", Agent::start_with_config(&lab, "g2", &binaries, "").unwrap());
        agents.insert("d3", Agent::new(&lab, "d3", &binaries).unwrap());
        let holder = lab.host("d3").run(|| UdpSocket::bind("0.0.0.0:41820").unwrap()).unwrap();
        for host in ["a1", "b1", "c1", "c2", "d1", "e1", "f1", "f2", "f5", "f6", "g1", "g3", "h1"] {
            agents[host].wait_status(JOIN, "to join", |s| s.state == AgentState::Up).unwrap();
        }
        agents.get_mut("f2").unwrap().kill().unwrap();
        Self { agents, relay, _holder: holder, lab }
    }

    /// Asks, and says what is wrong with the answer.
    fn ask(&self, fault: &Fault) -> Result<String, String> {
        let start = clock::now();
        let agent = &self.agents[fault.at];
        let finished = agent.command(&[fault.ask, &["--json"]].concat()).map_err(|e| format!("{e:#}"))?;
        let json: Value = serde_json::from_str(&finished.stdout).map_err(|e| format!("{e}: {finished:?}"))?;
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let all = format!("{} {} {} {}", text("verdict"), text("cure"), json["notes"], json["findings"]);
        let line =
            format!("{:28} {:22} {:.1?}  {}", fault.name, text("cause"), start.elapsed(), text("verdict"));
        if text("cause") == fault.cause && finished.code == Some(fault.exit) && all.contains(fault.says) {
            Ok(line)
        } else {
            Err(format!(
                "{line}\n  wanted {} and {:?}, got {:?}: {json:#}\n{}",
                fault.cause,
                fault.says,
                finished.code,
                agent.log_end()
            ))
        }
    }
}

/// What is wrong from the beginning.
fn seed(lab: &Lab) {
    let address = |host: &str| lab.public_address(host);
    for host in ["a1", "b1"] {
        // A bridge of containers would not be told as a candidate at all; a pair of an unknown engine's naming is.
        for line in [
            "link add dock0 type veth peer name dock1",
            "addr add 172.17.0.1/16 dev dock0",
            "link set dock1 up",
            "link set dock0 up",
        ] {
            ip(lab.host(host), line);
        }
    }
    for port in ["port1", "port2"] {
        ip(lab.router("c"), &format!("link set {port} type bridge_slave isolated on"));
    }
    lab.block_udp_between("c", "d").unwrap();
    lab.block_packets(address("f1"), address("d1")).unwrap();
    let refuse = "table inet fw { chain output { type filter hook output priority filter; meta l4proto udp drop; }\n}\n";
    lab.host("g1").nft(refuse).unwrap();
    lab.host("f5")
        .nft(&refuse.replace("output", "input").replace("meta l4proto udp", "iifname \"skynet0\""))
        .unwrap();
    // Transport data of WireGuard, on the direct way alone.
    let (one, other) = (lab.host("f1").address(), lab.host("f6").address());
    lab.router("f").nft(&format!(
        "table bridge scrubber {{ chain forward {{ type filter hook forward priority filter; \
         ip saddr {{ {one}, {other} }} ip daddr {{ {one}, {other} }} udp dport 41820 @th,64,32 0x04000000 drop; }}\n}}\n"
    ))
    .unwrap();
    // As behind a tunnel whose router clamps TCP's segments and tells nobody of the rest.
    for way in ["iifname", "oifname"] {
        lab.add_rule(&format!("{way} \"to-h\" meta l4proto udp meta length > 1300 drop")).unwrap();
    }
}

fn ip(namespace: &Netns, line: &str) {
    let argv: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
    namespace.exec(&argv).unwrap().ok().unwrap();
}

fn extra(host: &str, shim: &str) -> Extra {
    let clock = |seconds: &str| {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![variable("LD_PRELOAD", shim), variable("CLOCK_AHEAD_S", seconds)]
    };
    let relay = |address: &str| vec!["--relay".to_owned(), address.to_owned()];
    let (arguments, environment) = match host {
        "f3" => (vec![], clock("3600")),
        "h2" => (vec![], clock("-3600")),
        "h3" => (relay("203.0.113.99:3478"), vec![]),
        "f4" => (relay("203.0.113.11:9"), vec![]),
        _ => (vec![], vec![]),
    };
    Extra { arguments, environment, ..Extra::default() }
}

/// A library that moves the wall clock of the program it is loaded into; its path.
fn clock_shim(lab: &Lab) -> String {
    let source: PathBuf = lab.logs().join("clock.c");
    let library = lab.logs().join("clock.so").display().to_string();
    let text = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdlib.h>\n#include <time.h>\n\
        int clock_gettime(clockid_t id, struct timespec *t) {\n\
          int (*next)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, \"clock_gettime\");\n\
          int result = next(id, t);\n\
          if (result == 0 && id == CLOCK_REALTIME) t->tv_sec += atol(getenv(\"CLOCK_AHEAD_S\"));\n\
          return result;\n}\n";
    std::fs::write(&source, text).unwrap();
    let source = source.display().to_string();
    lab.internet().exec(&["cc", "-shared", "-fPIC", "-o", &library, &source, "-ldl"]).unwrap().ok().unwrap();
    library
}

#[test]
fn every_seeded_fault_is_called_by_its_name_with_its_cure() {
    let start = clock::now();
    let mut faulty = Faulty::begin();
    println!("a lab with all faults: {:.1?}", start.elapsed());
    let before = seen_as(&faulty.agents["a1"]);
    let start = clock::now();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = FAULTS.iter().map(|fault| scope.spawn(|| faulty.ask(fault))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for line in answers.iter().filter_map(|a| a.as_ref().ok()) {
        println!("{line}");
    }
    println!("{} faults asked after in {:.1?}", FAULTS.len(), start.elapsed());
    let wrong: Vec<&String> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        FAULTS.len(),
        wrong.iter().map(|w| format!("{w}\n")).collect::<String>()
    );

    // Behind a NAT that maps every new flow anew: what was looked at was not the agent's own mapping.
    assert_eq!(seen_as(&faulty.agents["a1"]), before);
    a_reader_sees_verdict_and_cure_first(&faulty.agents["a1"]);

    faulty.relay.kill().unwrap();
    let down = fault("relay is down", "a1", &["why", "b1"], ("relay-refused", 1), "Start the relay");
    println!("{}", faulty.ask(&down).unwrap_or_else(|wrong| panic!("{wrong}")));
    drop(faulty.agents);
    faulty.lab.remove().unwrap();
}

/// How the relay sees the agent's own port.
fn seen_as(agent: &Agent) -> String {
    let status: Value = serde_json::from_str(&agent.command(&["status", "--json"]).unwrap().stdout).unwrap();
    status["relays"][0]["observed"].as_str().unwrap().to_owned()
}

fn a_reader_sees_verdict_and_cure_first(agent: &Agent) {
    for (ask, first) in
        [(&["why", "b1"][..], "a1 to b1: relay 1. a1 and b1 are both"), (&["netcheck"], "The NAT uses")]
    {
        let text = agent.command(ask).unwrap().stdout;
        println!("{text}");
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with(first)), "{text}");
        assert!(lines.next().is_some_and(|line| line.starts_with("Cure: ")), "{text}");
    }
}

/// A NAT as clouds sell it: 64 ports for a machine, and idle UDP forgotten after five seconds.
#[test]
fn a_nat_with_few_ports_and_a_short_memory_is_called_so() {
    let lab = Lab::builder("few-ports").relay().cloud("a", NatKind::PortRestricted, 1).build().unwrap();
    lab.set_mapping_timeouts("a", Duration::from_secs(4), Duration::from_secs(4)).unwrap();
    let budget = format!(
        "table ip budget {{ chain post {{ type nat hook postrouting priority srcnat - 1; \
         oifname \"wan\" meta l4proto udp snat to {}:20032-20095; }}\n}}\n",
        lab.public_address("a1")
    );
    lab.router("a").nft(&budget).unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let agent = Agent::new(&lab, "a1", &binaries).unwrap();
    let address = relay.address().to_string();
    let finished = agent.command(&["netcheck", "--relay", &address, "--timeout", "10s", "--json"]).unwrap();
    let json: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"));
    println!("{} to {} s; {}", json["udp_timeout_alive_s"], json["udp_timeout_dead_s"], json["findings"]);
    let causes: Vec<&str> =
        json["findings"].as_array().unwrap().iter().map(|f| f["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["port-budget-64", "short-udp-timeout"], "{json:#}");
    assert_eq!((finished.code, &json["udp_timeout_dead_s"]), (Some(6), &5.into()), "{json:#}");
    drop(relay);
    lab.remove().unwrap();
}

/// A stock peer that is not where the configuration says.
#[test]
fn a_wrong_static_endpoint_is_called_so() {
    let lab = Lab::builder("wrong-endpoint").cloud("a", NatKind::Public, 1).build().unwrap();
    let key = "4Bw7nmWPrmz6ZMvNfGmn3vqWlpjf1xvoIy+rP2vBmAo=";
    let config = format!(
        "[interface]\nprivate_key = \"{key}\"\naddress = \"172.30.0.1/24\"\n\n\
         [[peer]]\npublic_key = \"{key}\"\nendpoint = \"192.0.2.30:51820\"\nallowed_ips = [\"172.30.0.2/32\"]\n"
    );
    let agent = Agent::start_with_config(&lab, "a1", &Binaries::find().unwrap(), &config).unwrap();
    let finished = wait_for(JOIN, "an answer", || {
        let finished = agent.command(&["why", "172.30.0.2", "--json"])?;
        anyhow::ensure!(finished.stdout.contains("endpoint-silent"), "{finished:?}{}", agent.log_end());
        Ok(finished)
    })
    .unwrap();
    assert!(finished.stdout.contains("192.0.2.30:51820") && finished.code == Some(1), "{finished:?}");
    drop(agent);
    lab.remove().unwrap();
}
