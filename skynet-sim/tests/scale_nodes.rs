//! Many production nodes on one relay, with the free session engine: what a node costs and how fast a world runs.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(clippy::disallowed_methods, reason = "this test measures real time; the world never sees it")]

use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_sim::Overlay;
use skynet_sim::topology::NatKind;

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
