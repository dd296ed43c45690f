//! A lane of several dies, or only looks as if it did: production agents behind simulated NATs.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use skynet_core::path::Path;
use skynet_core::time::Duration;
use skynet_sim::HostId;
use skynet_sim::host::{AgentHost, Flow};
use skynet_sim::network::Datagram;
use skynet_sim::overlay::Overlay;
use skynet_sim::topology::NatKind;

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;

struct Lanes {
    o: Overlay,
    hosts: [HostId; 2],
}

impl Lanes {
    /// Four lanes between two clouds, each `latency` from the internet, and eight flows each way, two on every lane.
    fn new(seed: u64, latency: Duration, every: Duration) -> Self {
        let mut o = Overlay::new(seed);
        let clouds = [0, 1].map(|_| o.topology.add_cloud(NatKind::PortRestricted, latency));
        let hosts = clouds.map(|cloud| o.add_agent_with_lanes(cloud, 4));
        assert!(o.join_all(S(10)).unwrap());
        let mut lanes = Self { o, hosts };
        lanes.start_flows(9_000..9_008, every, 1_000_000);
        for _ in 0..100 {
            lanes.o.world_mut().run_for(MS(50)).unwrap();
            if [0, 1].iter().all(|end| lanes.usable(*end).len() == 4) {
                break;
            }
        }
        assert_eq!([0, 1].map(|end| lanes.usable(end).len()), [4; 2], "{}", lanes.o.report());
        lanes.o.world_mut().run_for(S(3)).unwrap();
        lanes
    }

    /// A flow one way has the ports of the one the other way: both are on one lane.
    fn start_flows(&mut self, ports: core::ops::Range<u16>, every: Duration, count: u64) {
        let [a, b] = self.hosts;
        for (from, to) in [(a, b), (b, a)] {
            let to = self.o.address(to);
            let start = |agent: &mut AgentHost, now: skynet_core::time::Now| {
                for port in ports.clone() {
                    let flow = Flow::new(to, now.mono, every, count, 200).with_port(port);
                    agent.application_mut().start(flow);
                }
            };
            self.o.world_mut().with_host(from, start).unwrap();
        }
    }

    fn usable(&self, end: usize) -> BTreeMap<u8, Option<Path>> {
        self.o.lane_paths(self.hosts[end], self.hosts[1 - end]).into_iter().collect()
    }

    fn remote(&self, end: usize, lane: u8) -> SocketAddr {
        match self.usable(end).get(&lane) {
            Some(Some(Path::Direct { remote })) => *remote,
            other => panic!("{other:?}"),
        }
    }

    fn drop_on_the_internet(&mut self, eats: impl Fn(&Datagram) -> bool + 'static) {
        let internet = self.o.topology.internet();
        self.o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(move |d| !eats(d))));
    }

    /// Until each end has left `lane`, after it was cut from the first end to the second, or both ways.
    fn time_to_leave(&mut self, lane: u8, both_ways: bool, loss_permille: u64) -> [Duration; 2] {
        let [there, back] = [self.remote(0, lane), self.remote(1, lane)];
        let noise = noise(7);
        self.drop_on_the_internet(move |d| {
            let cut = (d.to == there && d.from == back) || (both_ways && d.to == back && d.from == there);
            cut || noise(1_000) < loss_permille
        });
        let begin = self.o.elapsed();
        let mut left = [None; 2];
        for _ in 0..400 {
            self.o.world_mut().run_for(MS(5)).unwrap();
            for (end, left) in left.iter_mut().enumerate() {
                let gone =
                    self.usable(end).get(&lane).is_none_or(|p| !matches!(p, Some(Path::Direct { .. })));
                if gone {
                    left.get_or_insert(self.o.elapsed() - begin);
                }
            }
        }
        left.map(|left| left.unwrap_or(Duration::MAX))
    }
}

/// A stream of numbers that a closure may draw from.
fn noise(seed: u64) -> impl Fn(u64) -> u64 {
    let state = Cell::new(seed);
    move |below| {
        state
            .set(state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        (state.get() >> 33) % below
    }
}

#[test]
fn both_ends_leave_a_lane_that_dies_in_the_middle_of_traffic_within_350_ms() {
    let mut worst = [Duration::ZERO; 2];
    for (i, both_ways) in [true, false].into_iter().enumerate() {
        for (lane, offset) in [(2, 0), (3, 37), (4, 74), (2, 111), (3, 148)] {
            for loss_permille in [0, 50] {
                let mut lanes = Lanes::new(31, MS(5), MS(10));
                lanes.o.world_mut().run_for(MS(offset)).unwrap();
                let left = lanes.time_to_leave(lane, both_ways, loss_permille);
                worst[i] = worst[i].max(left[0]).max(left[1]);
            }
        }
    }
    println!(
        "a lane of four cut both ways: left by both ends within {:?}, one way: {:?}",
        worst[0], worst[1]
    );
    assert!(worst[0] <= MS(350), "{worst:?}");
    // Of a flow that goes on without answers only the checks tell, and they wait for theirs.
    assert!(worst[1] <= MS(450), "{worst:?}");
}

/// How often an end leaves a lane within `duration`; `act` is called once a second.
fn times_left(lanes: &mut Lanes, duration: Duration, mut act: impl FnMut(&mut Lanes)) -> usize {
    let mut left = 0;
    let mut before = [0, 1].map(|end| lanes.usable(end).len());
    for step in 0..duration.as_millis() / 10 {
        if step % 100 == 0 {
            act(lanes);
        }
        lanes.o.world_mut().run_for(MS(10)).unwrap();
        let now = [0, 1].map(|end| lanes.usable(end).len());
        left += before.iter().zip(&now).map(|(before, now)| before.saturating_sub(*now)).sum::<usize>();
        before = now;
    }
    left
}

#[test]
fn a_lane_that_only_loses_is_not_left() {
    for (latency, every, permille) in [(MS(5), MS(10), 50), (MS(50), MS(25), 50), (MS(5), MS(10), 100)] {
        let mut lanes = Lanes::new(32, latency, every);
        let noise = noise(9);
        lanes.drop_on_the_internet(move |_| noise(1_000) < permille);
        let left = times_left(&mut lanes, S(60), |_| {});
        println!(
            "{} % loss, {latency:?} to the internet: a lane of 8 left {left} times in a minute",
            permille / 10
        );
        assert!(left <= 1, "{left}\n{}", lanes.o.report());
    }
}

#[test]
fn a_lane_whose_flows_pause_is_not_left() {
    let mut lanes = Lanes::new(33, MS(5), MS(200));
    let left = times_left(&mut lanes, S(30), |lanes| {
        // For 600 ms of each second.
        lanes.start_flows(9_100..9_108, MS(5), 120);
    });
    assert_eq!(left, 0, "{}", lanes.o.report());
}
