//! What breaks between two nodes, and how long their users notice.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::IpAddr;

use skynet_core::time::Duration;
use skynet_sim::host::AgentHost;
use skynet_sim::network::Datagram;
use skynet_sim::topology::{CloudId, NatKind};
use skynet_sim::{HostId, Offer, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

struct Pair {
    o: Overlay,
    hosts: [HostId; 2],
    clouds: [CloudId; 2],
}

impl Pair {
    /// Two agents that have known each other for a while, and a packet from the first every 50 ms.
    fn new(seed: u64, kinds: [NatKind; 2]) -> Self {
        let mut o = Overlay::new(seed);
        let clouds = kinds.map(|kind| o.cloud(kind));
        let hosts = clouds.map(|cloud| o.add_agent(cloud));
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        o.world_mut().run_for(25 * S).unwrap();
        o.flow(hosts[0], hosts[1], 50 * MS, 1_000_000).unwrap();
        o.world_mut().run_for(10 * S).unwrap();
        Self { o, hosts, clouds }
    }

    fn is_direct(&self) -> bool {
        self.o.is_direct(self.hosts[0], self.hosts[1])
    }

    /// Lets `act` happen and runs for `duration`: the longest silence the receiver noticed, and since when it hears
    /// again.
    fn gap(&mut self, duration: Duration, act: impl FnOnce(&mut Self)) -> Duration {
        let [a, b] = self.hosts;
        self.o.world_mut().with_host(b, |h: &mut AgentHost, _| h.application_mut().forget()).unwrap();
        self.o.world_mut().run_for(S).unwrap();
        act(self);
        self.o.world_mut().run_for(duration).unwrap();
        let book = self.o.received(a, b).unwrap();
        let silent = self.o.world().host_now(b).mono - book.last.unwrap();
        assert!(duration.is_zero() || silent < S, "silent for {silent:?}\n{}", self.o.report());
        book.longest_gap
    }

    /// Drops what `eats` says between the two clouds, nothing towards the relay.
    fn eat(&mut self, eats: impl Fn(&Datagram) -> bool + 'static) {
        let nats = self.clouds.map(|c| self.o.topology.gateway(c));
        let world = self.o.world_mut();
        let addresses: Vec<IpAddr> =
            nats.iter().flat_map(|g| world.network().nat(*g).external_addresses()).collect();
        let internet = self.o.topology.internet();
        let passes = move |d: &Datagram| {
            !(addresses.contains(&d.from.ip()) && addresses.contains(&d.to.ip()) && eats(d))
        };
        self.o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(passes)));
    }

    fn heal(&mut self) {
        let internet = self.o.topology.internet();
        self.o.world_mut().network_mut().set_middlebox(internet, None);
    }
}

/// The 95th of a hundred.
fn p95(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() * 95 / 100]
}

/// Until both send directly.
fn time_to_direct(p: &mut Pair, limit: Duration) -> Option<Duration> {
    let begin = p.o.elapsed();
    while p.o.elapsed() - begin < limit {
        if p.is_direct() {
            return Some(p.o.elapsed() - begin);
        }
        p.o.world_mut().run_for(20 * MS).unwrap();
    }
    None
}

#[test]
fn traffic_moves_to_the_relay_when_the_direct_path_is_cut_and_back_when_it_heals() {
    let (mut gaps, mut returns) = (Vec::new(), Vec::new());
    let mut p = Pair::new(1, [NatKind::PortRestricted; 2]);
    let [a, b] = p.hosts;
    p.o.flow(b, a, 50 * MS, 1_000_000).unwrap();
    // A minute and a half apart: a path that fails more often is trusted later each time.
    for n in 0..20 {
        p.o.world_mut().run_for(300 * S + 103 * n * MS).unwrap();
        assert!(p.is_direct(), "{}", p.o.report());
        let cut_for = [4, 7, 12, 30, 100][n as usize % 5];
        gaps.push(p.gap(cut_for * S, |p| p.eat(|_| true)));
        assert!(!p.is_direct());
        let gap = p.gap(Duration::ZERO, Pair::heal);
        returns.push(time_to_direct(&mut p, 60 * S).unwrap());
        assert!(gap <= 200 * MS, "going back loses nothing: {gap:?}");
    }
    let (worst, back) = (gaps.iter().max().copied(), returns.iter().max().copied());
    println!("direct path cut 20 times: silent for {:?} (p95), {worst:?} (worst)", p95(gaps.clone()));
    println!(
        "healed after 4 to 100 s: direct again after {:?} (p95), {back:?} (worst)",
        p95(returns.clone())
    );
    assert!(p95(gaps) <= 3_500 * MS, "{}", p.o.report());
    assert!(back.unwrap() <= 5 * S, "{}", p.o.report());
}

/// Sequence numbers tell: nothing is lost by going to the direct path and back to it, a failure costs what was sent
/// before it was noticed, and nothing arrives twice.
#[test]
fn a_planned_switch_loses_nothing_and_a_failure_only_what_was_sent_before_it_was_noticed() {
    let mut o = Overlay::new(11);
    let clouds = [0, 1].map(|_| o.cloud(NatKind::PortRestricted));
    let hosts = clouds.map(|cloud| o.add_agent(cloud));
    assert!(o.join_all(10 * S).unwrap());
    let mut p = Pair { o, hosts, clouds };
    let [a, b] = p.hosts;
    for (from, to) in [(a, b), (b, a)] {
        p.o.flow(from, to, 5 * MS, 20_000).unwrap();
    }
    // From the relay, where the first packets go, to the direct path.
    p.o.world_mut().run_for(10 * S).unwrap();
    assert!(p.is_direct(), "{}", p.o.report());
    let missing = |p: &Pair, (from, to), until| p.o.received(from, to).unwrap().missing(until);
    for way in [(a, b), (b, a)] {
        assert_eq!(missing(&p, way, 1_900), [0; 0], "{}", p.o.report());
    }
    p.eat(|_| true);
    p.o.world_mut().run_for(20 * S).unwrap();
    p.heal();
    p.o.world_mut().run_for(30 * S).unwrap();
    assert!(p.is_direct());
    for way in [(a, b), (b, a)] {
        let lost = missing(&p, way, 11_000);
        let (first, last) = (lost[0], lost[lost.len() - 1]);
        println!("{way:?}: {} packets lost in {:?}", lost.len(), (last - first) as u32 * 5 * MS);
        // One run of them, from the cut on: what the direct path ate until it was left.
        assert_eq!(last - first + 1, lost.len() as u64);
        assert!((1_990..2_010).contains(&first) && lost.len() <= 700, "{first} {}", lost.len());
        assert_eq!(p.o.received(way.0, way.1).unwrap().duplicates, 0);
    }
}

#[test]
fn a_path_that_dies_in_one_direction_is_left_in_it() {
    for dead in [0, 1] {
        let mut p = Pair::new(12, [NatKind::PortRestricted; 2]);
        let [a, b] = p.hosts;
        p.o.flow(b, a, 50 * MS, 100_000).unwrap();
        p.o.world_mut().run_for(2 * S).unwrap();
        let from = p.o.topology.gateway(p.clouds[dead]);
        let addresses = p.o.world().network().nat(from).external_addresses();
        let gap = p.gap(20 * S, |p| p.eat(move |d| addresses.contains(&d.from.ip())));
        let back = p.o.received(b, a).unwrap().longest_gap;
        println!("only one direction dies: silent for {gap:?} and {back:?}");
        assert!(gap.max(back) <= 3_500 * MS, "{}", p.o.report());
    }
}

/// Checks of a path that carries traffic are closer than that.
#[test]
fn a_nat_that_forgets_after_five_seconds_costs_seconds_at_most() {
    for kind in [NatKind::PortRestricted, NatKind::PortRestrictedRandom, NatKind::Symmetric] {
        let mut p = Pair::new(13, [kind; 2]);
        let [a, b] = p.hosts;
        p.o.flow(b, a, 50 * MS, 100_000).unwrap();
        let gap = p.gap(60 * S, |p| {
            for cloud in p.clouds {
                let gateway = p.o.topology.gateway(cloud);
                let mut config = kind.config();
                (config.unreplied_timeout, config.assured_timeout) = (5 * S, 5 * S);
                p.o.world_mut().network_mut().nat_mut(gateway).set_config(config);
                p.o.world_mut().reboot_nat(gateway);
            }
        });
        println!("{}: mappings of 5 s, steady traffic: silent for {gap:?}", kind.name());
        assert!(gap <= 5 * S, "{gap:?}\n{}", p.o.report());
    }
}

/// The machine's interface is replaced by another, with another address: netlink says so.
#[test]
fn a_machine_whose_interface_is_swapped_is_heard_again_within_five_seconds() {
    for kind in [NatKind::PortRestricted, NatKind::FullCone, NatKind::Symmetric] {
        for side in [0, 1] {
            let mut p = Pair::new(15, [kind; 2]);
            let [a, b] = p.hosts;
            p.o.flow(b, a, 50 * MS, 100_000).unwrap();
            let cloud = p.clouds[side].0 as u8;
            let gap = p.gap(60 * S, |p| {
                p.o.readdress_agent(p.hosts[side], std::net::Ipv4Addr::new(10, 0, cloud, 77).into()).unwrap();
            });
            let back = p.o.received(b, a).unwrap().longest_gap;
            println!("{}: interface of side {side} swapped: silent for {gap:?} and {back:?}", kind.name());
            assert!(gap.max(back) <= 5 * S, "{gap:?} {back:?}\n{}", p.o.report());
            assert!(kind == NatKind::Symmetric || p.is_direct(), "{}", p.o.report());
            // The directory has to know as well: a peer that comes later finds it.
            let status = p.o.agent(p.hosts[side]).status().unwrap();
            assert!(status.control_connected && status.relays[0].up, "{}", p.o.report());
        }
    }
}

/// A process that is killed and starts again at once: its peers have sessions that mean nothing any more.
#[test]
fn a_restarted_agent_is_heard_again_as_soon_as_it_has_joined() {
    for kinds in
        [[NatKind::PortRestricted; 2], [NatKind::Symmetric; 2], [NatKind::PortRestricted, NatKind::Public]]
    {
        for (both, offset) in [(false, 0), (false, 700), (true, 300), (true, 1_400), (true, 1_900)] {
            let mut p = Pair::new(16, kinds);
            let [a, b] = p.hosts;
            if both {
                p.o.flow(b, a, 50 * MS, 100_000).unwrap();
            }
            p.o.world_mut().run_for(5 * S + offset * MS).unwrap();
            // The second time its peer has begun a handshake less than 5 s ago, and may not begin another.
            for again in [false, true] {
                p.o.restart_agent(b, skynet_sim::world::Stop::Kill);
                let begin = p.o.elapsed();
                let mut heard = None;
                while heard.is_none() && p.o.elapsed() - begin < 30 * S {
                    p.o.world_mut().run_for(10 * MS).unwrap();
                    heard = p.o.received(a, b).is_some().then(|| p.o.elapsed() - begin);
                }
                println!("{kinds:?}, both {both}, again {again}: heard {heard:?} after the start");
                let limit = if again { 1_500 * MS } else { S };
                assert!(heard.is_some_and(|at| at <= limit), "{heard:?}\n{}", p.o.report());
                p.o.world_mut().run_for(S).unwrap();
            }
        }
    }
}

#[test]
fn path_that_passes_probes_but_no_data_is_left() {
    let mut p = Pair::new(2, [NatKind::PortRestricted; 2]);
    assert!(p.is_direct(), "{}", p.o.report());
    let gap = p.gap(30 * S, |p| p.eat(|d| d.bytes.first() == Some(&4)));
    println!("only data eaten: silent for {gap:?}");
    assert!(gap <= 6 * S, "{gap:?}\n{}", p.o.report());
}

#[test]
fn rebooted_and_readdressed_nats_cost_seconds_not_the_session() {
    for kind in [NatKind::PortRestricted, NatKind::Symmetric] {
        for readdress in [false, true] {
            for side in [0, 1] {
                let mut p = Pair::new(3, [kind; 2]);
                let gap = p.gap(60 * S, |p| {
                    let gateway = p.o.topology.gateway(p.clouds[side]);
                    match readdress {
                        false => p.o.world_mut().reboot_nat(gateway),
                        true => p.o.world_mut().readdress_nat(gateway, "20.9.9.9".parse().unwrap()),
                    }
                });
                println!("{} side {side} readdress {readdress}: silent for {gap:?}", kind.name());
                assert!(gap <= 5 * S, "{kind:?} {side} {readdress} {gap:?}\n{}", p.o.report());
            }
        }
    }
}

/// A machine with a second address, which is the only one its peer can reach: what is asked there must be answered there,
/// or the peer's NAT, which knows nobody else, drops it.
#[test]
fn a_host_with_several_addresses_answers_from_the_one_that_was_asked() {
    let mut o = Overlay::new(17);
    let clouds = [NatKind::PortRestricted, NatKind::UdpBlocked].map(|kind| o.cloud(kind));
    let second = o.topology.next_public_ip();
    let a = o.add_agent(clouds[0]);
    let b = o.add_multihomed_agent(clouds[1], Offer::default(), vec![second]);
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(25 * S).unwrap();
    for (from, to) in [(a, b), (b, a)] {
        o.flow(from, to, 50 * MS, 400).unwrap();
    }
    o.world_mut().run_for(10 * S).unwrap();
    assert!(o.is_direct(a, b), "{}", o.report());
    let gap = [(a, b), (b, a)].map(|(from, to)| o.received(from, to).unwrap().longest_gap);
    assert!(gap.iter().all(|gap| *gap <= S), "{gap:?}");
}
