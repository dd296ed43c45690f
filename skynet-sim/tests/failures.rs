//! What breaks between two nodes, and how long their users notice.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::IpAddr;

use skynet_core::time::Duration;
use skynet_sim::host::AgentHost;
use skynet_sim::network::Datagram;
use skynet_sim::topology::{CloudId, NatKind};
use skynet_sim::{HostId, Overlay};

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
        o.flow(hosts[0], hosts[1], 50 * MS, 100_000).unwrap();
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
        assert!(silent < S, "silent for {silent:?}\n{}", self.o.report());
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

#[test]
fn traffic_moves_to_the_relay_when_the_direct_path_is_cut_and_back_when_it_heals() {
    let mut p = Pair::new(1, [NatKind::PortRestricted; 2]);
    assert!(p.is_direct(), "{}", p.o.report());
    let gap = p.gap(20 * S, |p| p.eat(|_| true));
    println!("direct path cut: silent for {gap:?}");
    assert!(gap <= 3_500 * MS, "{gap:?}\n{}", p.o.report());
    assert!(!p.is_direct());
    // A path is looked for by whoever sends, so both do.
    let [a, b] = p.hosts;
    p.o.flow(b, a, S, 1_000).unwrap();
    let gap = p.gap(65 * S, Pair::heal);
    println!("healed: silent for {gap:?}");
    assert!(p.is_direct(), "{}", p.o.report());
    assert!(gap <= 200 * MS, "going back loses nothing: {gap:?}");
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
