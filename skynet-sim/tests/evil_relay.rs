//! A relay that lies: agents refuse every attempt, say so, and what goes directly loses nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;

use skynet_core::node::Refusal;
use skynet_core::time::{Duration, Instant};
use skynet_sim::overlay::Offer;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};
use skynet_tests::evil::{EvilDirectory, Loot, Orders, Trick};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// Between two packets of those who talk directly.
const EVERY: Duration = Duration::from_millis(20);

/// Four agents whose relay is the evil one from the beginning, and honest until it has orders: `a` and `b` talk directly, `c`
/// is somebody to be found, `d` knows nobody and asks.
struct World {
    o: Overlay,
    orders: Orders,
    loot: Loot,
    agents: [HostId; 4],
    /// Since when `a` and `b` talk directly, and what they had heard of each other then.
    since: (Instant, [u64; 2]),
    /// Name and address of everybody, as they were before the relay was bought.
    truth: BTreeMap<String, Vec<std::net::IpAddr>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut o = Overlay::new(seed);
        let old_document = Some(o.revoke(|_| ()).unwrap());
        o.revoke(|_| ()).unwrap();
        let loot = Loot {
            registrar: Some(o.network().registrar_key()),
            token: Some(o.token().to_owned()),
            old_manifest: Some(o.network().old_manifest().to_vec()),
            old_document,
        };
        let (agents, since) = ([o.relay(); 4], (Instant::ZERO, [0; 2]));
        let mut world = Self { orders: Orders::default(), loot, agents, since, truth: BTreeMap::new(), o };
        world.restart_relay(|relay| relay);
        let kinds = [NatKind::FullCone, NatKind::PortRestricted, NatKind::Public];
        for (agent, kind) in kinds.into_iter().enumerate() {
            let cloud = world.o.cloud(kind);
            world.agents[agent] = world.o.add_agent(cloud);
        }
        let cloud = world.o.cloud(NatKind::Public);
        world.agents[3] = world.o.add_agent_with(cloud, Offer { known_members: 0, ..Offer::default() });
        assert!(world.o.join_all(10 * S).unwrap());
        world.run(30);
        let [a, b, ..] = world.agents;
        for (from, to) in [(a, b), (b, a)] {
            world.o.flow(from, to, EVERY, u64::MAX).unwrap();
        }
        world.run(10);
        assert!(world.o.is_direct(a, b), "{}", world.o.report());
        world.since = (world.o.world().now(), world.heard());
        for agent in world.agents {
            let status = world.o.agent(agent).status().unwrap();
            assert_eq!(status.refused, [], "an honest relay is not blamed");
            let me = status.addresses.unwrap();
            world.truth.insert(me.name, vec![me.ipv4.into(), me.ipv6.into()]);
        }
        world
    }

    fn run(&mut self, seconds: u64) {
        self.o.world_mut().run_for(Duration::from_secs(seconds)).unwrap();
    }

    fn restart_relay(
        &mut self,
        make: impl FnOnce(skynet_sim::host::RelayHost) -> skynet_sim::host::RelayHost,
    ) {
        let (loot, orders) = (self.loot.clone(), self.orders.clone());
        self.o.stop_relay(Stop::Kill);
        self.o.start_relay_as(|relay| {
            make(relay.with_directory(|honest| Box::new(EvilDirectory::new(honest, loot, orders, [3; 32]))))
        });
    }

    /// How often these agents together have counted this.
    fn counted(&self, label: &str, agents: &[HostId]) -> u64 {
        let lines = agents.iter().flat_map(|a| self.o.agent(*a).status().unwrap().refused);
        lines.filter(|line| line.reason.as_str() == label).map(|line| line.count).sum()
    }

    fn heard(&self) -> [u64; 2] {
        let [a, b, ..] = self.agents;
        [(a, b), (b, a)].map(|(from, to)| self.o.received(from, to).map_or(0, |r| r.packets))
    }

    /// `a` and `b` send each other 50 packets a second all the time: after so much more of it nothing is lost and nothing
    /// came twice.
    fn talk(&mut self, seconds: u64) {
        self.run(seconds);
        let (start, before) = self.since;
        let sent = self.o.world().now().saturating_since(start).as_millis() / EVERY.as_millis();
        let [a, b, ..] = self.agents;
        for (heard, before) in self.heard().into_iter().zip(before) {
            // One may be under way.
            assert!(
                u128::from(heard - before) + 1 >= sent,
                "{heard} - {before} of {sent}\n{}",
                self.o.report()
            );
        }
        assert!(
            [(a, b), (b, a)].iter().all(|(from, to)| self.o.received(*from, *to).unwrap().duplicates == 0)
        );
        assert!(self.o.is_direct(a, b), "{}", self.o.report());
    }

    /// Nobody believes in anybody, or in an address, that was not there before.
    fn check_truth(&self, but: Option<HostId>) {
        for agent in self.agents.into_iter().filter(|a| Some(*a) != but) {
            let status = self.o.agent(agent).status().unwrap();
            let me = status.addresses.unwrap();
            assert_eq!(self.truth[&me.name], [std::net::IpAddr::V4(me.ipv4), me.ipv6.into()]);
            for peer in &status.peers {
                assert_eq!(self.truth.get(&peer.name), Some(&peer.addresses), "{}", self.o.report());
            }
        }
    }
}

/// Each trick for 45 seconds: a relay that comes back with it meets JOIN, two passes of LIST, and the look-ups of an agent
/// that has just started.
#[test]
fn every_lie_of_a_relay_is_refused_and_told_and_direct_flows_lose_nothing() {
    let mut w = World::new(61);
    let [a, _, c, d] = w.agents;
    for trick in Trick::ALL {
        let lasting = w.agents[..3].to_vec();
        let before = w.counted(trick.refusal(), &lasting);
        w.orders.set([trick]);
        w.restart_relay(|relay| relay);
        // A stranger with a token and a receipt is a member for who never knew whose name it took: nothing can tell.
        let deceived = (trick == Trick::TakeName).then_some(d);
        if deceived.is_none() {
            w.o.restart_agent(d, Stop::Kill);
            w.run(3);
            w.o.flow(d, c, 100 * MS, 20).unwrap();
        }
        w.talk(45);
        let anew = if deceived.is_none() { w.counted(trick.refusal(), &[d]) } else { 0 };
        let counted = w.counted(trick.refusal(), &lasting) + anew - before;
        println!("{trick:?}: {} refused {counted} times", trick.refusal());
        assert!(counted > 0, "{trick:?} passed unnoticed\n{}", w.o.report());
        w.check_truth(deceived);
        let lines = w.o.agent(a).status().unwrap().refused;
        // The only relay there is, by the address at which it was asked: it has several.
        assert!(lines.iter().all(|line| line.relay.to_string().starts_with("203.0.113.")), "{lines:?}");
    }
    // Honest again, and everybody is found.
    w.orders.set([]);
    w.restart_relay(|relay| relay);
    w.o.restart_agent(d, Stop::Kill);
    w.run(10);
    w.o.flow(d, c, 100 * MS, 20).unwrap();
    w.run(10);
    assert!(w.o.received(d, c).is_some_and(|r| r.packets >= 18), "{}", w.o.report());
    w.check_truth(None);
}

#[test]
fn a_relay_that_tells_another_time_ends_nothing() {
    for (days, told) in [(3, true), (400, false)] {
        let mut w = World::new(62);
        w.restart_relay(|relay| relay.with_clock_ahead(Duration::from_secs(days * 86_400)));
        w.talk(45);
        let counted = w.counted(Refusal::OtherTime.as_str(), &w.agents);
        println!("{days} days ahead: told {counted} times");
        // Beyond its certificate's end a node is not let in, so it is not told the time either.
        assert_eq!(counted > 0, told, "{}", w.o.report());
        w.check_truth(None);
        w.restart_relay(|relay| relay);
        w.run(20);
        let status = w.o.agent(w.agents[0]).status().unwrap();
        assert!(status.control_connected && status.relays.iter().any(|r| r.up), "{}", w.o.report());
    }
}

/// It drops every other frame it should forward, sends old ones again, and swaps senders; for longer than a session lives.
#[test]
fn a_relay_that_drops_replays_and_swaps_what_it_relays_touches_no_direct_flow() {
    let mut w = World::new(63);
    let [a, _, c, _] = w.agents;
    w.restart_relay(skynet_sim::host::RelayHost::with_replays);
    let relay = w.o.world().network().address_of(w.o.world().attachment(w.o.relay()));
    let internet = w.o.topology.internet();
    let n = std::cell::Cell::new(0_u64);
    // Only what it forwards: a relay that answers nothing is a dead one.
    let drops = move |d: &skynet_sim::network::Datagram| {
        let forwarded = d.from.ip() == relay && d.bytes.first() == Some(&0xa1);
        n.set(n.get() + u64::from(forwarded));
        !forwarded || n.get().is_multiple_of(2)
    };
    w.o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(drops)));
    w.o.flow(a, c, 20 * MS, 1_000).unwrap();
    w.talk(400);
    let book = w.o.received(a, c).unwrap();
    println!("to a peer that was relayed at first: {} of 1000, {} twice", book.packets, book.duplicates);
    // Half of what finds the direct path is lost; the path is found.
    assert!(book.packets >= 700 && book.duplicates == 0, "{}", w.o.report());
    w.check_truth(None);
}

/// Many worlds, each with tricks of its own choice together.
#[test]
fn any_mixture_of_lies_is_refused() {
    let seeds: u64 = std::env::var("SKYNET_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        let mut w = World::new(6_400 + seed);
        let bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let chosen = Trick::ALL.into_iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, t)| t);
        w.orders.set(chosen.filter(|trick| *trick != Trick::TakeName));
        w.restart_relay(skynet_sim::host::RelayHost::with_replays);
        w.talk(30);
        w.check_truth(None);
    }
}
