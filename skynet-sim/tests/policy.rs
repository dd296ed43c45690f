//! A policy by tags, at production nodes: what passes, what does not, and how soon another one holds.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::drop::DropReason;
use skynet_core::member::policy::UDP;
use skynet_core::member::{Rule, Service, Tags};
use skynet_core::time::Duration;
use skynet_sim::host::{AgentHost, Flow};
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// How soon a policy must hold at all nodes that are online.
const BAR: Duration = Duration::from_secs(5);

struct World {
    o: Overlay,
    web: HostId,
    /// Reached directly,
    db: HostId,
    /// and by the relay.
    far: HostId,
}

fn rule(allow: bool, from: &str, to: &str, port: Option<u16>) -> Rule {
    let service = |port| Service { protocol: UDP, first: port, last: port };
    Rule {
        allow,
        from: Tags::new([from]).unwrap(),
        to: Tags::new([to]).unwrap(),
        services: port.map(service).into_iter().collect(),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut o = Overlay::new(seed);
        let kinds = [(NatKind::PortRestricted, "web"), (NatKind::FullCone, "db"), (NatKind::Symmetric, "db")];
        let agents = kinds.map(|(kind, tag)| {
            let cloud = o.cloud(kind);
            o.add_agent_tagged(cloud, &[tag])
        });
        let [web, db, far] = agents;
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        let mut world = Self { o, web, db, far };
        world.run(25 * S);
        world
    }

    fn run(&mut self, time: Duration) {
        self.o.world_mut().run_for(time).unwrap();
    }

    fn flow(&mut self, from: HostId, to: HostId, port: u16, count: u64) {
        let (address, now) = (self.o.address(to), self.o.world().host_now(from).mono);
        let flow = Flow::new(address, now, 20 * MS, count, 200).with_port(port);
        self.o
            .world_mut()
            .with_host(from, |agent: &mut AgentHost, _| agent.application_mut().start(flow))
            .unwrap();
    }

    /// How many of 50 packets arrive.
    fn arrive(&mut self, from: HostId, to: HostId, port: u16) -> u64 {
        let before = self.heard(from, to);
        self.flow(from, to, port, 50);
        self.run(4 * S);
        self.heard(from, to) - before
    }

    fn heard(&self, from: HostId, to: HostId) -> u64 {
        self.o.received(from, to).map_or(0, |book| book.packets)
    }

    fn filtered(&self, id: HostId) -> u64 {
        self.o
            .agent(id)
            .drops()
            .into_iter()
            .find(|(reason, _)| *reason == DropReason::Filtered)
            .map_or(0, |(_, n)| n)
    }
}

#[test]
fn questions_begin_where_they_may_and_answers_go_back_direct_and_relayed_alike() {
    let mut w = World::new(1);
    let (web, db, far) = (w.web, w.db, w.far);
    w.o.set_policy(false, vec![rule(true, "web", "db", Some(9_000))]).unwrap();
    w.run(S);
    for to in [db, far] {
        // Nobody has asked yet.
        assert_eq!(w.arrive(to, web, 9_000), 0, "{}", w.o.report());
        assert!(w.filtered(to) >= 50, "the sender itself says so");
        assert!(w.arrive(web, to, 9_000) >= 49, "{}", w.o.report());
        assert!(w.arrive(to, web, 9_000) >= 49, "an answer\n{}", w.o.report());
        assert_eq!((w.arrive(to, web, 9_001), w.arrive(web, to, 9_001)), (0, 0), "{}", w.o.report());
    }
    assert_eq!((w.arrive(db, far, 9_000), w.arrive(far, db, 9_000)), (0, 0));
    assert!(w.o.is_direct(web, db) && !w.o.is_direct(web, far), "{}", w.o.report());
}

#[test]
fn another_policy_holds_for_what_is_open_at_all_who_are_online_within_seconds() {
    let mut w = World::new(2);
    let (web, db, far) = (w.web, w.db, w.far);
    for to in [db, far] {
        w.flow(web, to, 9_000, u64::MAX);
        w.flow(to, web, 9_000, u64::MAX);
    }
    w.run(15 * S);
    let pairs = [(web, db), (db, web), (web, far), (far, web)];
    let heard = |w: &World| pairs.map(|(from, to)| w.heard(from, to));
    let before = heard(&w);
    w.run(S);
    assert!(heard(&w).into_iter().zip(before).all(|(now, before)| now >= before + 49), "{}", w.o.report());

    // Whoever is asked may answer, so a flow that both begin goes on.
    w.o.set_policy(true, vec![rule(false, "web", "db", None)]).unwrap();
    let before = heard(&w);
    w.run(2 * S);
    assert!(heard(&w).into_iter().zip(before).all(|(now, before)| now >= before + 98), "{}", w.o.report());

    w.o.set_policy(false, vec![]).unwrap();
    let begun = w.o.elapsed();
    let (mut counted, mut last) = (heard(&w), begun);
    while w.o.elapsed() - begun < BAR {
        w.run(MS);
        let now = heard(&w);
        if now != counted {
            (counted, last) = (now, w.o.elapsed());
        }
    }
    println!("the last packet of a forbidden flow arrived {:?} after the policy was set", last - begun);
    assert!(last - begun < S, "{}", w.o.report());
    let still = heard(&w);
    w.run(200 * S);
    assert_eq!(heard(&w), still, "rekeys bring nothing back");

    // And open again.
    w.o.set_policy(true, vec![]).unwrap();
    w.run(2 * S);
    let before = heard(&w);
    w.run(S);
    assert!(heard(&w).into_iter().zip(before).all(|(now, before)| now >= before + 49), "{}", w.o.report());
}

#[test]
fn a_member_that_was_away_or_restarts_goes_by_the_policy_in_force() {
    let mut w = World::new(3);
    let (web, db) = (w.web, w.db);
    w.o.world_mut().stop_host(db, Stop::Kill);
    w.o.set_policy(false, vec![]).unwrap();
    w.run(5 * S);
    w.o.restart_agent(db, Stop::Kill);
    w.run(10 * S);
    assert_eq!((w.arrive(web, db, 9_000), w.arrive(db, web, 9_000)), (0, 0), "{}", w.o.report());
    // Without a relay it knows by itself.
    w.o.stop_relay(Stop::Kill);
    w.o.restart_agent(db, Stop::Kill);
    w.run(10 * S);
    assert_eq!((w.arrive(web, db, 9_000), w.arrive(db, web, 9_000)), (0, 0), "{}", w.o.report());
    assert_eq!(w.o.agent(db).status().unwrap().documents.unwrap().policy_epoch, Some(1));
}
