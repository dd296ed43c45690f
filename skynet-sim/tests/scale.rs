//! What the world itself costs, before any production machine is in it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(clippy::disallowed_methods, reason = "this test measures real time; the world never sees it")]

use std::net::SocketAddr;

use skynet_core::time::Duration;
use skynet_sim::Host;
use skynet_sim::invariants::{NoSilentTimer, QueuesBounded};
use skynet_sim::topology::{NatKind, Topology};
use skynet_sim::toy::{Observer, Script};

/// 2,000 hosts in 100 clouds, each asking an observer every 20 virtual seconds for 10 minutes.
#[test]
fn two_thousand_hosts_run_far_faster_than_real_time() {
    let mut t = Topology::new(1);
    let ips = [t.next_public_ip(), t.next_public_ip()];
    let internet = t.internet();
    let link = skynet_sim::link::LinkConfig::latency(Duration::from_millis(5));
    t.world.add_host(internet, ips[0], link.clone(), link, Box::new(Observer::new(ips)) as Box<dyn Host>);
    let server = SocketAddr::new(ips[0], 3478);
    let mut first = None;
    for i in 0..100 {
        let cloud = t.add_cloud(NatKind::ALL[i % 10], Duration::from_millis(20));
        for _ in 0..20 {
            let id = t.add_host(cloud, |site| {
                let mut host = Script::new(site.ip);
                for k in 0..30u8 {
                    let at = Duration::from_secs(20 * u64::from(k)) + Duration::from_millis(site.id.0 as u64);
                    host.say(at, 5_000, server, &Observer::request(false, false, k));
                }
                Box::new(host)
            });
            first = first.or(Some(id));
        }
    }
    t.world.add_invariant(QueuesBounded::default());
    t.world.add_invariant(NoSilentTimer);
    let started = std::time::Instant::now();
    t.world.run_for(Duration::from_secs(600)).unwrap();
    let took = started.elapsed();
    let events = t.world.stats().events;
    println!(
        "2000 hosts: {events} events in {took:?}, {:.0} virtual seconds per second, {:.2} us per event",
        600.0 / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / events as f64
    );
    assert_eq!(t.world.host::<Script>(first.unwrap()).received().len(), 30);
    assert!(events >= 2_000 * 30 * 4);
    assert!(t.world.pending_events() < 10, "nothing is left behind: {}", t.world.pending_events());
}
