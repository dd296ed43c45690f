//! Links that drop what is too large without a word: production nodes find out, and whoever uses them notices little.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::node::PeerStatus;
use skynet_core::time::Duration;
use skynet_sim::host::{AgentHost, Flow};
use skynet_sim::network::Direction;
use skynet_sim::topology::{CloudId, NatKind};
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

struct Pair {
    o: Overlay,
    a: HostId,
    b: HostId,
    clouds: [CloudId; 2],
}

impl Pair {
    /// Two agents that are about to know each other, the second behind a link of this MTU.
    fn new(seed: u64, kinds: [NatKind; 2], mtu: usize) -> Self {
        let mut o = Overlay::new(seed);
        let clouds = kinds.map(|kind| o.cloud(kind));
        let [a, b] = clouds.map(|cloud| o.add_agent(cloud));
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        let mut pair = Self { o, a, b, clouds };
        pair.set_mtu(mtu);
        pair
    }

    /// From now on larger packets vanish between cloud b and everybody else.
    fn set_mtu(&mut self, mtu: usize) {
        let gateway = self.o.topology.gateway(self.clouds[1]);
        let network = self.o.world_mut().network_mut();
        let access = network.access(gateway);
        for direction in [Direction::Up, Direction::Down] {
            let link = network.link_mut(access, direction);
            let config = skynet_sim::link::LinkConfig { mtu, ..link.config().clone() };
            link.set_config(config);
        }
    }

    fn run(&mut self, time: Duration) {
        self.o.world_mut().run_for(time).unwrap();
    }

    /// From a to b, packets of this size.
    fn send(&mut self, every: Duration, count: u64, size: usize) {
        let to = self.o.address(self.b);
        let start = |h: &mut AgentHost, now: skynet_core::time::Now| {
            h.application_mut().start(Flow::new(to, now.mono, every, count, size));
        };
        self.o.world_mut().with_host(self.a, start).unwrap();
    }

    /// The two have talked, and know their path.
    fn warm(&mut self) {
        self.send(100 * MS, 60, 100);
        self.run(8 * S);
        self.o.world_mut().with_host(self.b, |h: &mut AgentHost, _| h.application_mut().forget()).unwrap();
    }

    fn peer(&self, from: HostId, to: HostId) -> PeerStatus {
        let address = self.o.address(to);
        let status = self.o.agent(from).status().unwrap();
        status.peers.into_iter().find(|p| p.addresses.contains(&address.into())).unwrap()
    }

    fn mtus(&self) -> [Option<u16>; 2] {
        [self.peer(self.a, self.b).mtu, self.peer(self.b, self.a).mtu]
    }

    fn told(&self) -> Vec<u16> {
        self.o.agent(self.a).application().told().iter().map(|(_, mtu)| *mtu).collect()
    }
}

#[test]
fn every_link_is_used_in_its_own_size_and_nothing_is_lost_to_find_it() {
    for (mtu, inside) in [(1_124, 1_280), (1_280, 1_280), (1_400, 1_328), (1_460, 1_392), (1_500, 1_440)] {
        let mut pair = Pair::new(1, [NatKind::PortRestricted; 2], mtu);
        pair.warm();
        assert!(pair.o.is_direct(pair.a, pair.b));
        assert_eq!(pair.mtus(), [Some(inside); 2], "{mtu}: {}", pair.o.report());
        // The first packets are larger than what passes: they are carried in fragments, and the sender is told.
        pair.send(2 * MS, 1_000, 1_440);
        pair.run(4 * S);
        let book = pair.o.received(pair.a, pair.b).unwrap();
        assert!(book.is_complete(1_000), "{mtu}: {:?}\n{}", book.missing(1_000), pair.o.report());
        assert_eq!(pair.told().first().copied(), (inside < 1_440).then_some(inside), "{mtu}");
    }
}

#[test]
fn a_relayed_path_has_a_size_of_its_own() {
    for (mtu, inside) in [(1_500, 1_424), (1_400, 1_328), (1_124, 1_280)] {
        let mut pair = Pair::new(2, [NatKind::Symmetric; 2], mtu);
        pair.warm();
        assert!(!pair.o.is_direct(pair.a, pair.b));
        assert_eq!(pair.mtus(), [Some(inside); 2], "{mtu}: {}", pair.o.report());
        pair.send(2 * MS, 1_000, 1_440);
        pair.run(4 * S);
        let book = pair.o.received(pair.a, pair.b).unwrap();
        assert!(book.is_complete(1_000), "{mtu}: {:?}", book.missing(1_000));
    }
}

#[test]
fn a_link_that_shrinks_under_traffic_is_noticed_within_two_seconds_and_its_growth_within_a_minute() {
    let mut worst = Duration::ZERO;
    for (seed, smaller) in [(1, 1_400), (2, 1_280), (3, 1_124), (4, 1_280), (5, 1_280), (6, 1_400)] {
        let mut pair = Pair::new(seed, [NatKind::PortRestricted; 2], 1_500);
        pair.warm();
        assert_eq!(pair.mtus(), [Some(1_440); 2]);
        pair.send(5 * MS, 3_000, 1_440);
        pair.run(5 * S + 37 * MS * seed as u32);
        pair.set_mtu(smaller);
        pair.run(10 * S);
        let book = pair.o.received(pair.a, pair.b).unwrap();
        worst = worst.max(book.longest_gap);
        assert!(book.longest_gap <= 2 * S, "{smaller}: {:?}\n{}", book.longest_gap, pair.o.report());
        let late = book.missing(3_000).into_iter().filter(|n| *n > 1_500).collect::<Vec<_>>();
        assert!(late.is_empty(), "{smaller}: {late:?}\n{}", pair.o.report());
        assert!(pair.o.is_direct(pair.a, pair.b), "the path was not to blame: {}", pair.o.report());
        assert!(pair.peer(pair.a, pair.b).black_holes >= 1);
        pair.set_mtu(1_500);
        pair.send(50 * MS, 1_400, 100);
        pair.run(68 * S);
        assert_eq!(pair.mtus()[0], Some(1_440), "{}", pair.o.report());
    }
    println!("longest silence {worst:?}");
}

#[test]
fn loss_is_not_taken_for_a_hole() {
    let mut pair = Pair::new(9, [NatKind::PortRestricted; 2], 1_500);
    pair.warm();
    let gateway = pair.o.topology.gateway(pair.clouds[1]);
    let network = pair.o.world_mut().network_mut();
    let access = network.access(gateway);
    for direction in [Direction::Up, Direction::Down] {
        let link = network.link_mut(access, direction);
        let config = link.config().clone().with_loss(50_000);
        link.set_config(config);
    }
    pair.send(5 * MS, 24_000, 1_000);
    pair.run(120 * S);
    assert_eq!(pair.mtus(), [Some(1_440); 2], "{}", pair.o.report());
    assert_eq!(pair.peer(pair.a, pair.b).black_holes, 0);
}
