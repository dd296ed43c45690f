//! Many production nodes on one relay, with the free session engine: what a node costs and how fast a world runs.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(clippy::disallowed_methods, reason = "this test measures real time; the world never sees it")]

use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_sim::host::AgentHost;
use skynet_sim::topology::NatKind;
use skynet_sim::{Offer, Overlay};

const S: Duration = Duration::from_secs(1);

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// `nodes` in clouds of ten, each talking to three others for a minute.
fn run(nodes: usize) {
    let before = resident_bytes();
    let started = std::time::Instant::now();
    let mut o = Overlay::with_engine(1, Engine::Null);
    let kinds = [NatKind::SecurityGroup, NatKind::PortRestricted, NatKind::Symmetric, NatKind::Public];
    let mut cloud = None;
    for i in 0..nodes {
        if i % 10 == 0 {
            cloud = Some(o.cloud(kinds[i / 10 % kinds.len()]));
        }
        o.add_agent(cloud.unwrap());
    }
    let joined = o.join_all(120 * S).unwrap();
    let (join_virtual, join_real) = (o.elapsed(), started.elapsed());
    assert!(joined, "{} joined", o.agents().iter().filter(|a| o.agent(**a).addresses().is_some()).count());
    println!("{nodes} nodes joined in {join_virtual:?} virtual, {join_real:?} real");
    let idle = resident_bytes().saturating_sub(before) / nodes as u64;

    o.world_mut().run_for(10 * S).unwrap();
    let agents = o.agents().to_vec();
    let peers = |i: usize| [1, 11, 17].map(|step| agents[(i + step) % nodes]);
    for (i, &from) in agents.iter().enumerate() {
        for to in peers(i) {
            o.flow(from, to, S, 60).unwrap();
        }
    }
    let (at, events, clock) = (o.elapsed(), o.world().stats().events, std::time::Instant::now());
    o.world_mut().run_for(80 * S).unwrap();
    let real = clock.elapsed().as_secs_f64();
    let events = o.world().stats().events - events;
    let active = resident_bytes().saturating_sub(before) / nodes as u64;
    println!(
        "{nodes} nodes: {:.1} virtual s per real s, {events} events, {:.1} us each; {} kB per node joined, {} kB with 6 peers",
        (o.elapsed() - at).as_secs_f64() / real,
        real * 1e6 / events as f64,
        idle / 1024,
        active / 1024
    );
    let (mut sent, mut arrived, mut direct, mut must) = (0, 0, 0, 0);
    for (i, &from) in agents.iter().enumerate() {
        for to in peers(i) {
            sent += 60;
            arrived += o.received(from, to).map_or(0, |book| book.distinct());
            if o.expected(from, to) == skynet_sim::oracle::Direct::Must {
                must += 1;
                direct += usize::from(o.is_direct(from, to));
            }
        }
    }
    println!("{arrived} of {sent} packets, {direct} of {must} pairs direct that must be");
    assert_eq!(arrived, sent);
    assert_eq!(direct, must);
}

#[test]
fn thirty_nodes_on_one_relay() {
    run(30);
}

/// Minutes without optimisation: `cargo test --release -p skynet-sim --test scale_nodes -- --ignored --nocapture`.
#[test]
#[ignore = "long; part of the soak"]
fn three_hundred_nodes_on_one_relay() {
    run(300);
}

/// 5,000 nodes in clouds of 100 that know twenty others each, and talk to one: what a world of that size costs. A roster
/// of all in all would be 25 million signatures to check and 17 GB.
#[test]
#[ignore = "for ./x soak: minutes"]
fn five_thousand_nodes_on_one_relay() {
    let (nodes, before, started) = (5_000, resident_bytes(), std::time::Instant::now());
    let mut o = Overlay::with_engine(1, Engine::Null);
    let offer = Offer { known_members: 20, ..Offer::default() };
    let mut cloud = None;
    for i in 0..nodes {
        if i % 100 == 0 {
            cloud = Some(o.cloud([NatKind::SecurityGroup, NatKind::PortRestricted][i / 100 % 2]));
        }
        o.add_agent_with(cloud.unwrap(), offer);
    }
    assert!(o.join_all(600 * S).unwrap());
    let per_node = |bytes: u64| bytes.saturating_sub(before) / nodes as u64 / 1024;
    println!(
        "{nodes} nodes joined in {:?}, {:?} real; {} kB each",
        o.elapsed(),
        started.elapsed(),
        per_node(resident_bytes())
    );
    let agents = o.agents().to_vec();
    let peer = |i: usize| agents[(i + 101) % nodes];
    for (i, &from) in agents.iter().enumerate() {
        o.flow(from, peer(i), S, 20).unwrap();
    }
    report_speed("5,000 nodes with a flow each", &mut o, 30);
    println!("{} kB per node with two peers", per_node(resident_bytes()));
    let arrived: usize = (0..nodes).map(|i| o.received(agents[i], peer(i)).map_or(0, |b| b.distinct())).sum();
    let direct = (0..nodes).filter(|i| o.is_direct(agents[*i], peer(*i))).count();
    for (i, &from) in agents.iter().enumerate() {
        let missing = o.received(from, peer(i)).map_or_else(|| (0..20).collect(), |book| book.missing(20));
        if !missing.is_empty() {
            let drops = |host| -> Vec<_> { o.agent(host).drops().into_iter().filter(|d| d.1 > 0).collect() };
            println!("{i} lost {missing:?}: {:?} here, {:?} there", drops(from), drops(peer(i)));
        }
    }
    assert_eq!((arrived, direct), (20 * nodes, nodes));
    report_speed("5,000 idle nodes", &mut o, 120);
}

/// A virtual day of thirty nodes that talk for a minute in every hour, with real cryptography.
#[test]
#[ignore = "for ./x soak: minutes"]
fn a_virtual_day_of_thirty_nodes() {
    let mut o = Overlay::new(2);
    for i in 0..30 {
        let cloud = o.cloud([NatKind::SecurityGroup, NatKind::PortRestricted, NatKind::Symmetric][i % 3]);
        o.add_agent(cloud);
    }
    assert!(o.join_all(60 * S).unwrap());
    let agents = o.agents().to_vec();
    o.world_mut().set_event_budget(1_000_000_000);
    let started = std::time::Instant::now();
    let next = |i: usize| agents[(i + 1) % agents.len()];
    let mut arrived = 0;
    for _hour in 0..24 {
        for (i, &from) in agents.iter().enumerate() {
            o.flow(from, next(i), S, 60).unwrap();
        }
        o.world_mut().run_for(3600 * S).unwrap();
        // Every hour numbers its packets from 0 again.
        for (i, &from) in agents.iter().enumerate() {
            arrived += o.received(from, next(i)).map_or(0, |book| book.distinct());
            let forget = |agent: &mut AgentHost, _| agent.application_mut().forget();
            o.world_mut().with_host(next(i), forget).unwrap();
        }
    }
    println!("30 nodes, one day: {:.2} virtual days per real minute", 60.0 / started.elapsed().as_secs_f64());
    assert_eq!(arrived, 24 * 60 * agents.len());
}

fn report_speed(what: &str, o: &mut Overlay, seconds: u32) {
    let (events, clock) = (o.world().stats().events, std::time::Instant::now());
    o.world_mut().run_for(seconds * S).unwrap();
    let real = clock.elapsed().as_secs_f64();
    println!(
        "{what}: {:.1} virtual s per real s ({:.4} days per minute), {} events of {:.1} us",
        f64::from(seconds) / real,
        f64::from(seconds) / real * 60.0 / 86_400.0,
        o.world().stats().events - events,
        real * 1e6 / (o.world().stats().events - events) as f64
    );
}
