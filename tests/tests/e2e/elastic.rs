//! A cluster grows and shrinks under traffic: others join while some talk, and are killed all at once.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use skynet_tests::fleet::traffic::Pinger;
use skynet_tests::fleet::{Agent, Binaries, Relay};
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::JOIN;

/// From the start of a process to its first byte with a peer in another cloud; three times that.
const FIRST_BYTE: Duration = Duration::from_secs(9);
/// Whoever was killed is out of names, addresses and rosters; three times that.
const GONE: Duration = Duration::from_secs(90);
const CLOUDS: [(&str, NatKind); 8] = [
    ("a", NatKind::PortRestricted),
    ("b", NatKind::FullCone),
    ("c", NatKind::Symmetric),
    ("d", NatKind::PortRestricted),
    ("e", NatKind::AddressRestricted),
    ("f", NatKind::FullCone),
    ("g", NatKind::PortRestrictedNotPreserving),
    ("h", NatKind::Symmetric),
];

/// Joins a process at a time, so many a second, each of which is asked for its first byte.
struct Arrivals {
    agents: Vec<Agent>,
    first_bytes: Vec<Duration>,
}

/// Until the peer has answered, from the moment the process was started.
fn first_byte(from: &Agent, peer: Ipv4Addr, started: Instant) -> anyhow::Result<Duration> {
    let target = peer.to_string();
    let argv = ["ping", "-n", "-c1", "-W0.2", &target];
    loop {
        // There is no route before the interface is there.
        let answered = from.namespace().exec_within(Duration::from_secs(5), &argv, "")?.status.success();
        let took = started.elapsed();
        if answered {
            return Ok(took);
        }
        anyhow::ensure!(took < 2 * FIRST_BYTE, "no answer after {took:?}; {}", from.log_end());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn arrive(lab: &Lab, hosts: &[String], token: &str, targets: &[Ipv4Addr], every: Duration) -> Arrivals {
    let binaries = Binaries::find().unwrap();
    let begun = clock::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = hosts
            .iter()
            .zip(targets.iter().cycle())
            .enumerate()
            .map(|(n, (host, target))| {
                let binaries = &binaries;
                scope.spawn(move || -> anyhow::Result<(Agent, Duration)> {
                    let at = every * u32::try_from(n)?;
                    std::thread::sleep(at.saturating_sub(begun.elapsed()));
                    let started = clock::now();
                    let agent = Agent::start(lab, host, binaries, token)?;
                    let took = first_byte(&agent, *target, started)?;
                    Ok((agent, took))
                })
            })
            .collect();
        let arrived = threads.into_iter().map(|thread| thread.join().expect("no panic").unwrap());
        let (agents, mut first_bytes): (Vec<_>, Vec<_>) = arrived.unzip();
        first_bytes.sort();
        Arrivals { agents, first_bytes }
    })
}

/// How many members an agent lists, itself included.
fn roster(agent: &Agent) -> anyhow::Result<usize> {
    let said = agent.command(&["hosts", "--format", "hosts"])?;
    anyhow::ensure!(said.code == Some(0), "{said:?}");
    // A line for IPv4 and one for IPv6.
    Ok(said.stdout.lines().count() / 2)
}

fn memory_mb(agents: &[Agent]) -> u64 {
    let rss = |agent: &Agent| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    agents.iter().filter_map(rss).sum::<u64>() / 1024
}

/// `first` members talk, as many more come `per_second`, and are killed.
fn grow_and_shrink(title: &str, first: usize, per_second: u32, flows: usize) {
    let in_each = (2 * first).div_ceil(CLOUDS.len());
    let mut builder = Lab::builder(title).relay();
    for (name, kind) in CLOUDS {
        builder = builder.cloud(name, kind, in_each);
    }
    let lab = builder.build().unwrap();
    println!("{} hosts in {:.1?}", 2 * first, lab.setup_time());
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let ephemeral = relay.create_token(&["--token-ephemeral"]).unwrap();
    // One of each cloud in turn, so that the n-th and the next are in different ones.
    let host = |n: usize| format!("{}{}", CLOUDS[n % CLOUDS.len()].0, n / CLOUDS.len() + 1);
    let hosts: Vec<String> = (0..2 * first).map(host).collect();

    let begun = clock::now();
    let residents: Vec<Agent> = hosts[..first]
        .iter()
        .map(|host| Agent::start(&lab, host, &binaries, relay.token()).unwrap())
        .collect();
    for agent in &residents {
        agent.wait_joined(5 * JOIN).unwrap();
    }
    println!("{first} members have joined after {:.1?}, {} MB", begun.elapsed(), memory_mb(&residents));
    let addresses: Vec<Ipv4Addr> = residents.iter().map(|agent| agent.overlay_address().unwrap()).collect();
    let talk: Vec<(usize, usize)> = (0..flows).map(|n| (n, (n + 1) % first)).collect();
    let pingers: Vec<Pinger> = talk
        .iter()
        .map(|(from, to)| {
            crate::first_answer(&residents[*from], &residents[*to], 2 * JOIN).unwrap();
            Pinger::start(residents[*from].namespace(), addresses[*to], Duration::from_millis(100)).unwrap()
        })
        .collect();

    // The n-th that comes asks a resident of the next cloud.
    let targets: Vec<Ipv4Addr> = (0..first).map(|n| addresses[(n + first + 1) % first]).collect();
    let begun = clock::now();
    let mut arrivals =
        arrive(&lab, &hosts[first..], &ephemeral, &targets, Duration::from_secs(1) / per_second);
    let of = &arrivals.first_bytes;
    let percentile = |share: usize| of[(of.len() * share / 100).min(of.len() - 1)];
    println!(
        "+{first} within {:.1?}: process start to first byte p50 {:.2?}, p99 {:.2?}, longest {:.2?}; {} MB more",
        begun.elapsed(),
        percentile(50),
        percentile(99),
        of[of.len() - 1],
        memory_mb(&arrivals.agents)
    );
    assert!(percentile(99) <= FIRST_BYTE, "{of:?}");
    let witnesses = [&residents[0], &residents[first / 2], &residents[first - 1]];
    let wait_roster = |count: usize, within: Duration| {
        let begun = clock::now();
        wait_for(within, &format!("rosters of {count}"), || {
            for agent in witnesses {
                let there = roster(agent)?;
                anyhow::ensure!(there == count, "{there} at {}", agent.host());
            }
            Ok(())
        })
        .unwrap();
        begun.elapsed()
    };
    println!("rosters of {} after {:.1?}", 2 * first, wait_roster(2 * first, GONE));

    // All at once.
    let killed = clock::now();
    arrivals.agents.iter_mut().for_each(|agent| agent.kill().unwrap());
    wait_for(GONE, "the directory without them", || {
        let said = relay.command(&["node", "list", "--json"])?;
        let nodes: serde_json::Value = serde_json::from_str(&said)?;
        let count = nodes["nodes"].as_array().context("a list")?.len();
        anyhow::ensure!(count == first, "{count} names and addresses are taken");
        Ok(())
    })
    .unwrap();
    println!("\u{2212}{first} by SIGKILL: names and addresses free after {:.1?}", killed.elapsed());
    wait_roster(first, GONE);
    println!("rosters free after {:.1?}", killed.elapsed());

    for ((from, to), pinger) in talk.iter().zip(pingers) {
        let echoes = pinger.stop().unwrap();
        let lost = echoes.sent - echoes.received;
        if lost > 0 {
            println!("{} to {}: {lost} of {} pings lost", hosts[*from], hosts[*to], echoes.sent);
        }
        // One may be under way, and one in a thousand is the machine's.
        assert!(lost <= 1 + echoes.sent / 1_000, "{echoes:?}{}", residents[*from].log_end());
    }
    drop((arrivals, residents, relay));
    lab.remove().unwrap();
}

#[test]
fn eight_more_join_eight_under_traffic_and_are_killed() {
    grow_and_shrink("elastic", 8, 5, 3);
}

#[test]
#[ignore = "for ./x soak: two hundred agents take minutes and gigabytes"]
fn a_hundred_more_join_a_hundred_under_traffic_and_are_killed() {
    grow_and_shrink("elastic-100", 100, 5, 10);
}
