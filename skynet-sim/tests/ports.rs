//! Lanes open, each punched on its own, and die alone: production agents behind simulated NATs.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::id::{MAX_PORTS, PortNo};
use skynet_core::node::{LoadSample, PortLoad};
use skynet_core::path::Path;
use skynet_core::time::Duration;
use skynet_sim::HostId;
use skynet_sim::host::{AgentHost, Flow};
use skynet_sim::overlay::Overlay;
use skynet_sim::topology::NatKind;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Two agents behind these NATs, the first of which wants four lanes.
fn pair(kinds: [NatKind; 2], seed: u64) -> (Overlay, [HostId; 2]) {
    let mut overlay = Overlay::new(seed);
    let clouds = kinds.map(|kind| overlay.cloud(kind));
    let hosts = [overlay.add_agent_with_lanes(clouds[0], 4), overlay.add_agent(clouds[1])];
    assert!(overlay.join_all(Duration::from_secs(10)).unwrap());
    (overlay, hosts)
}

/// Two agents behind these NATs that have talked: what waited for the first key is no matter here.
fn warm_pair(kinds: [NatKind; 2], seed: u64, min_lanes: u8) -> (Overlay, [HostId; 2]) {
    let mut overlay = Overlay::new(seed);
    let clouds = kinds.map(|kind| overlay.cloud(kind));
    let hosts = clouds.map(|cloud| overlay.add_agent_with_lanes(cloud, min_lanes));
    assert!(overlay.join_all(Duration::from_secs(10)).unwrap());
    start_flows(&mut overlay, hosts, 1, MS(10), 1);
    overlay.world_mut().run_for(Duration::from_secs(1)).unwrap();
    overlay
        .world_mut()
        .with_host(hosts[1], |agent: &mut AgentHost, _| agent.application_mut().forget())
        .unwrap();
    (overlay, hosts)
}

/// So many flows at once, each a packet per `every`, for as long as `count` lasts.
fn start_flows(overlay: &mut Overlay, hosts: [HostId; 2], flows: u16, every: Duration, count: u64) {
    start_numbered(overlay, hosts, 0..flows, every, count);
}

/// The same, of these numbers: each is a flow of its own.
fn start_numbered(
    overlay: &mut Overlay,
    [from, to]: [HostId; 2],
    flows: core::ops::Range<u16>,
    every: Duration,
    count: u64,
) {
    let to = overlay.address(to);
    overlay
        .world_mut()
        .with_host(from, |agent: &mut AgentHost, now| {
            for port in flows {
                let flow = Flow::new(to, now.mono, every, count, 200).with_port(9_000 + port);
                agent.application_mut().start(flow);
            }
        })
        .unwrap();
}

/// Milliseconds until both ends use four lanes, each direct and on its own 5-tuple.
fn time_to_four(overlay: &mut Overlay, [a, b]: [HostId; 2]) -> Option<u128> {
    let begin = overlay.elapsed();
    for _ in 0..1_000 {
        overlay.world_mut().run_for(MS(10)).unwrap();
        let ends = [overlay.lane_paths(a, b), overlay.lane_paths(b, a)];
        let four = ends.iter().all(|lanes| {
            let mut remotes: Vec<_> = lanes
                .iter()
                .filter_map(|(_, path)| match path {
                    Some(Path::Direct { remote }) => Some(*remote),
                    _ => None,
                })
                .collect();
            remotes.dedup();
            remotes.len() == 4
        });
        if four {
            return Some((overlay.elapsed() - begin).as_millis());
        }
    }
    None
}

#[test]
fn every_lane_of_an_easy_pair_is_punched_on_its_own() {
    use NatKind::*;
    for kinds in [
        [Public, Public],
        [Public, PortRestricted],
        [PortRestricted, FullCone],
        [PortRestricted, PortRestricted],
        [PortRestricted, PortRestrictedAnswering],
    ] {
        let (mut overlay, hosts) = pair(kinds, 3);
        start_flows(&mut overlay, hosts, 8, MS(20), 5_000);
        let took = time_to_four(&mut overlay, hosts);
        println!("{kinds:?}: {took:?} ms");
        assert!(took.is_some_and(|ms| ms <= 1_500), "{kinds:?}: {took:?}\n{}", overlay.report());
    }
}

/// No direct path at all: one lane, by the relay, and no silence.
#[test]
fn a_pair_that_cannot_be_punched_keeps_lane_1_by_the_relay() {
    for kinds in [[NatKind::Symmetric; 2], [NatKind::Symmetric, NatKind::PortRestrictedRandom]] {
        let (mut overlay, [a, b]) = warm_pair(kinds, 4, 4);
        start_flows(&mut overlay, [a, b], 8, MS(20), 500);
        overlay.world_mut().run_for(Duration::from_secs(15)).unwrap();
        for (from, to) in [(a, b), (b, a)] {
            let lanes = overlay.lane_paths(from, to);
            assert!(matches!(lanes[..], [(1, Some(Path::Relayed { .. }))]), "{kinds:?}: {lanes:?}");
        }
        assert_eq!(overlay.received(a, b).unwrap().packets, 8 * 500, "{}", overlay.report());
    }
}

/// A carried flow whose 5-tuple dies is somewhere else within half a second, whichever lane it was on.
#[test]
fn the_flows_of_a_dead_lane_are_on_another_within_half_a_second() {
    for (dead, when) in [(1, 0), (2, 70), (3, 130), (4, 190), (2, 1_040), (3, 3_333)] {
        let (mut overlay, hosts) = warm_pair([NatKind::PortRestricted; 2], 5, 4);
        start_flows(&mut overlay, hosts, 8, MS(5), 4_000);
        assert!(time_to_four(&mut overlay, hosts).is_some(), "{}", overlay.report());
        overlay.world_mut().run_for(Duration::from_secs(3) + MS(when)).unwrap();
        let [there, back] = [(hosts[0], hosts[1]), (hosts[1], hosts[0])].map(|(from, to)| {
            match overlay.lane_paths(from, to)[dead - 1] {
                (_, Some(Path::Direct { remote })) => remote,
                other => panic!("{other:?}"),
            }
        });
        let remote = there;
        let internet = overlay.topology.internet();
        let middlebox = move |d: &skynet_sim::network::Datagram| {
            (d.from, d.to) != (back, there) && (d.from, d.to) != (there, back)
        };
        overlay.world_mut().network_mut().set_middlebox(internet, Some(Box::new(middlebox)));
        // Twelve hundred packets a second; what the dead lane eats is its quarter of half a second.
        overlay.world_mut().run_for(MS(600)).unwrap();
        let now = overlay.lane_paths(hosts[0], hosts[1]);
        println!("lane {dead} dies {when} ms later: {now:?}");
        assert!(now.len() >= 3 && now.iter().all(|(_, p)| *p != Some(Path::Direct { remote })), "{now:?}");
        overlay.world_mut().run_for(Duration::from_secs(20)).unwrap();
        let book = overlay.received(hosts[0], hosts[1]).unwrap();
        println!("  arrived {} of {}", book.packets, 8 * 4_000);
        assert!(book.packets >= 8 * 4_000 - 400, "{}\n{}", book.packets, overlay.report());
    }
}

#[test]
fn lanes_that_nobody_needs_any_more_are_closed_and_cost_nothing() {
    let (mut overlay, hosts) = warm_pair([NatKind::PortRestricted; 2], 6, 1);
    start_flows(&mut overlay, hosts, 8, MS(5), 800);
    overlay.world_mut().run_for(MS(500)).unwrap();
    busy_with_more(&mut overlay, hosts, 500);
    assert_eq!(overlay.lane_paths(hosts[0], hosts[1]).len(), 4, "{}", overlay.report());
    overlay.world_mut().run_for(Duration::from_secs(40)).unwrap();
    assert_eq!(overlay.lane_paths(hosts[0], hosts[1]).len(), 1, "{}", overlay.report());
    // The other end closes its ports when the keys are gone.
    overlay.world_mut().run_for(Duration::from_secs(300)).unwrap();
    assert_eq!(hosts.map(|h| overlay.agent(h).open_ports()), [1, 1]);
}

/// Runs for so many tenths of a second with every thread of `host` so busy.
fn busy(overlay: &mut Overlay, host: HostId, tenths: u32, permille: u16) {
    for _ in 0..tenths {
        overlay.world_mut().run_for(MS(100)).unwrap();
        let load = |port| PortLoad { port, outbound_permille: permille, inbound_permille: 100 };
        let sample = LoadSample { ports: (0..MAX_PORTS as u8).map(PortNo).map(load).collect() };
        let world = overlay.world_mut();
        world.with_host(host, |agent: &mut AgentHost, now| agent.handle_load(&sample, now)).unwrap();
    }
}

/// Three seconds of full threads, in which what is sent doubles with each step: 24 more flows of so many packets.
fn busy_with_more(overlay: &mut Overlay, hosts: [HostId; 2], count: u64) {
    busy(overlay, hosts[0], 5, 950);
    start_numbered(overlay, hosts, 8..16, MS(5), count);
    busy(overlay, hosts[0], 15, 950);
    start_numbered(overlay, hosts, 16..32, MS(5), count);
    busy(overlay, hosts[0], 10, 950);
}

#[test]
fn a_full_core_opens_lanes_without_loss() {
    let (mut overlay, hosts) = warm_pair([NatKind::PortRestricted, NatKind::FullCone], 7, 1);
    start_flows(&mut overlay, hosts, 8, MS(5), 2_000);
    overlay.world_mut().run_for(Duration::from_secs(2)).unwrap();
    assert_eq!(overlay.lane_paths(hosts[0], hosts[1]).len(), 1, "an idle core needs one");
    busy_with_more(&mut overlay, hosts, 1_000);
    assert_eq!(overlay.lane_paths(hosts[0], hosts[1]).len(), 4, "{}", overlay.report());
    overlay.world_mut().run_for(Duration::from_secs(10)).unwrap();
    let sent = 8 * 2_000 + 24 * 1_000;
    assert_eq!(overlay.received(hosts[0], hosts[1]).unwrap().packets, sent, "{}", overlay.report());
}

#[test]
fn lanes_for_a_full_core_that_carry_no_more_are_given_back() {
    let (mut overlay, hosts) = warm_pair([NatKind::PortRestricted; 2], 8, 1);
    start_flows(&mut overlay, hosts, 8, MS(5), 2_000);
    busy(&mut overlay, hosts[0], 10, 950);
    assert_eq!(overlay.lane_paths(hosts[0], hosts[1]).len(), 2, "{}", overlay.report());
    busy(&mut overlay, hosts[0], 10, 950);
    assert_eq!(overlay.lane_paths(hosts[0], hosts[1]).len(), 1, "{}", overlay.report());
    overlay.world_mut().run_for(Duration::from_secs(15)).unwrap();
    assert_eq!(overlay.received(hosts[0], hosts[1]).unwrap().packets, 8 * 2_000, "{}", overlay.report());
}

/// Only one end asked for the lanes. While the HELLOs of a new keypair are on their way, those of the one before count.
#[test]
fn lanes_stay_open_through_the_rekeys_of_traffic_that_goes_on() {
    let (mut overlay, hosts) = pair([NatKind::PortRestricted; 2], 5);
    start_flows(&mut overlay, hosts, 8, MS(20), 20_000);
    assert!(time_to_four(&mut overlay, hosts).is_some(), "{}", overlay.report());
    let [a, b] = hosts;
    overlay.world_mut().run_for(Duration::from_secs(2)).unwrap();
    for step in 0..3_000 {
        overlay.world_mut().run_for(MS(100)).unwrap();
        let usable = overlay.lane_paths(a, b).iter().filter(|(_, path)| path.is_some()).count();
        assert_eq!(usable, 4, "{} ms on\n{}", step * 100, overlay.report());
    }
}
