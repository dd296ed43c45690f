//! Who is here: the same on all members, at once for whoever waits, free for everybody else.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_sim::overlay::Offer;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn offer(role: &'static str) -> Offer {
    Offer { role: Some(role), ..Offer::default() }
}

fn overlay(seed: u64, roles: &[&'static str]) -> (Overlay, Vec<HostId>) {
    let mut o = Overlay::with_engine(seed, Engine::Null);
    let cloud = o.cloud(NatKind::PortRestricted);
    for role in roles {
        o.add_agent_with(cloud, offer(role));
    }
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    let agents = o.agents().to_vec();
    (o, agents)
}

/// Runs until `id` takes so many members of the role to be there; how long that took.
fn until(o: &mut Overlay, id: HostId, role: Option<&str>, count: usize, limit: Duration) -> Option<Duration> {
    let begin = o.elapsed();
    while o.elapsed().saturating_sub(begin) <= limit {
        if o.present(id, role).len() == count {
            return Some(o.elapsed().saturating_sub(begin));
        }
        o.world_mut().run_for(10 * MS).unwrap();
    }
    None
}

#[test]
fn whoever_waits_for_a_role_knows_of_a_member_within_a_second_of_its_joining() {
    let (mut o, agents) = overlay(1, &["head", "worker", "worker"]);
    let cloud = o.topology.cloud_of(agents[0]).unwrap();
    o.watch(agents[0], Some("worker")).unwrap();
    until(&mut o, agents[0], Some("worker"), 2, S).expect("the snapshot");
    assert!(o.agent(agents[0]).roster().unwrap().complete);
    let late = o.add_agent_with(cloud, offer("worker"));
    assert!(o.join_all(10 * S).unwrap());
    let took = until(&mut o, agents[0], Some("worker"), 3, 5 * S).expect("the third worker");
    println!("a member is known to whoever waits {took:?} after it joined");
    assert!(took <= S, "{took:?}");
    assert!(o.agent(agents[0]).roster_changes() > 0);
    // The others have not asked, and hear of it with the next list.
    assert!(!o.present(agents[1], None).contains(&o.agent(late).addresses().unwrap().name));
    until(&mut o, agents[1], Some("worker"), 3, 21 * S).expect("the list");
}

#[test]
fn a_member_that_stops_is_gone_at_once_and_one_that_is_killed_within_thirty_seconds() {
    let (mut o, agents) = overlay(2, &["head", "worker", "worker", "worker"]);
    o.watch(agents[0], None).unwrap();
    until(&mut o, agents[0], None, 4, S).unwrap();
    o.stop_agent(agents[1]).unwrap();
    let stopped = until(&mut o, agents[0], None, 3, S).expect("one has stopped");
    o.world_mut().stop_host(agents[2], Stop::Kill);
    let killed = until(&mut o, agents[0], None, 2, 30 * S).expect("one was killed");
    println!("stopped: told after {:?}; killed: after {killed:?}", stopped + 500 * MS);
    // It comes back as who it was.
    o.restart_agent(agents[2], Stop::Kill);
    until(&mut o, agents[0], None, 3, 5 * S).expect("one came back");
}

#[test]
fn one_that_comes_back_at_once_was_never_gone() {
    let (mut o, agents) = overlay(3, &["head", "worker"]);
    o.watch(agents[0], None).unwrap();
    until(&mut o, agents[0], None, 2, S).unwrap();
    let before = o.agent(agents[0]).roster_changes();
    o.restart_agent(agents[1], Stop::Kill);
    for _ in 0..300 {
        o.world_mut().run_for(100 * MS).unwrap();
        assert_eq!(o.present(agents[0], None).len(), 2);
    }
    assert_eq!(o.agent(agents[0]).roster_changes(), before, "nobody was told anything");
}

#[test]
fn a_relay_that_is_restarted_makes_nobody_leave() {
    let (mut o, agents) = overlay(4, &["head", "worker", "worker", "worker", "worker"]);
    o.watch(agents[0], None).unwrap();
    until(&mut o, agents[0], None, 5, S).unwrap();
    o.stop_relay(Stop::Kill);
    o.world_mut().run_for(3 * S).unwrap();
    o.start_relay();
    for _ in 0..400 {
        o.world_mut().run_for(100 * MS).unwrap();
        assert_eq!(o.present(agents[0], None).len(), 5, "{}", o.report());
    }
    assert!(o.agent(agents[0]).roster().unwrap().complete);
    // One that did not survive it is found out.
    o.stop_relay(Stop::Kill);
    o.world_mut().stop_host(agents[4], Stop::PowerOff);
    o.world_mut().run_for(3 * S).unwrap();
    o.start_relay();
    until(&mut o, agents[0], None, 4, 40 * S).expect("one is gone");
}

#[test]
fn a_hundred_members_have_equal_rosters() {
    let mut o = Overlay::with_engine(5, Engine::Null);
    let clouds = [NatKind::PortRestricted, NatKind::Symmetric, NatKind::Public].map(|kind| o.cloud(kind));
    let roles = ["worker", "worker", "worker", "storage", "head"];
    for n in 0..100 {
        let id = o.add_agent_with(clouds[n % 3], offer(roles[n % 5]));
        o.watch(id, None).unwrap();
        // Five a second.
        o.world_mut().run_for(200 * MS).unwrap();
    }
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    let agents = o.agents().to_vec();
    let took = until(&mut o, agents[0], None, 100, 5 * S).expect("all are known to the first");
    o.world_mut().run_for((5 * S).saturating_sub(took)).unwrap();
    let mut all: Vec<_> = agents
        .iter()
        .map(|id| {
            let roster = o.agent(*id).roster().unwrap();
            assert!(roster.complete, "{id:?} {}", roster.members.len());
            roster.members.into_iter().map(|m| (m.name, m.v4, m.v6, m.tags, m.online)).collect::<Vec<_>>()
        })
        .collect();
    all.dedup();
    assert_eq!((all.len(), all[0].len()), (1, 100));
    println!("100 members, five a second: the first knew all {took:?} after the last had joined");
    assert_eq!(o.present(agents[7], Some("worker")).len(), 60);
}

fn ephemeral() -> Offer {
    Offer { ephemeral: true, ..offer("worker") }
}

/// Whether `id` knows a member of this name, there or not.
fn knows(o: &Overlay, id: HostId, name: &str) -> bool {
    o.agent(id).roster().unwrap().members.iter().any(|m| m.name.as_str() == name)
}

#[test]
fn ephemeral_members_leave_names_addresses_and_rosters_within_thirty_seconds() {
    for how in [None, Some(Stop::Kill), Some(Stop::PowerOff)] {
        let (mut o, agents) = overlay(6, &["head", "head"]);
        let cloud = o.topology.cloud_of(agents[0]).unwrap();
        let gone = o.add_agent_with(cloud, ephemeral());
        o.watch(agents[0], None).unwrap();
        assert!(o.join_all(10 * S).unwrap());
        o.world_mut().run_for(30 * S).unwrap();
        let name = o.agent(gone).addresses().unwrap().name.clone();
        assert!(agents.iter().all(|id| knows(&o, *id, &name)));
        let begin = o.elapsed();
        match how {
            None => o.stop_agent(gone).unwrap(),
            Some(how) => o.world_mut().stop_host(gone, how),
        }
        let mut after = [None, None];
        while o.elapsed() - begin < 70 * S {
            o.world_mut().run_for(100 * MS).unwrap();
            for (id, after) in agents.iter().zip(&mut after) {
                if !knows(&o, *id, &name) {
                    after.get_or_insert(o.elapsed() - begin);
                }
            }
        }
        let [watching, listing] = after.map(|after| after.expect("forgotten"));
        println!(
            "{how:?}: gone from a roster that is watched after {watching:?}, from one that is not after {listing:?}"
        );
        let (soon, late) = match how {
            None => (S, 21 * S),
            Some(Stop::Kill) => (9 * S, 30 * S),
            Some(Stop::PowerOff) => (30 * S, 50 * S),
        };
        assert!(watching <= soon && listing <= late, "{how:?} {watching:?} {listing:?}");
        // The name is free: the next of the same name has no number behind it.
        let next = o.add_agent_named(cloud, ephemeral(), &name);
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        assert_eq!(o.agent(next).addresses().unwrap().name, name);
        until(&mut o, agents[0], None, 3, 5 * S).expect("the next of that name");
    }
}

#[test]
fn ephemeral_members_that_died_while_the_relay_was_away_leave_when_it_is_back_and_the_others_stay() {
    let (mut o, agents) = overlay(11, &["head", "head"]);
    let cloud = o.topology.cloud_of(agents[0]).unwrap();
    let [dead, alive] = [ephemeral(), ephemeral()].map(|offer| o.add_agent_with(cloud, offer));
    o.watch(agents[0], None).unwrap();
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(30 * S).unwrap();
    let [dead_name, alive_name] = [dead, alive].map(|id| o.agent(id).addresses().unwrap().name.clone());
    o.stop_relay(Stop::Kill);
    o.world_mut().run_for(5 * S).unwrap();
    o.world_mut().stop_host(dead, Stop::PowerOff);
    o.world_mut().run_for(60 * S).unwrap();
    assert!(agents.iter().all(|id| knows(&o, *id, &dead_name)), "nobody was there to see it go");
    o.start_relay();
    let begin = o.elapsed();
    let mut after = [None, None];
    while o.elapsed() - begin < 60 * S {
        o.world_mut().run_for(100 * MS).unwrap();
        for (id, after) in agents.iter().zip(&mut after) {
            if !knows(&o, *id, &dead_name) {
                after.get_or_insert(o.elapsed() - begin);
            }
            assert!(knows(&o, *id, &alive_name), "{}", o.report());
        }
    }
    let [watching, listing] = after.map(|after| after.expect("forgotten"));
    println!(
        "after the relay's start gone from a roster that is watched {watching:?}, from one that is not {listing:?}"
    );
    assert!(watching <= 12 * S && listing <= 31 * S, "{watching:?} {listing:?}");
    let next = o.add_agent_named(cloud, ephemeral(), &dead_name);
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    assert_eq!(o.agent(next).addresses().unwrap().name, dead_name, "its name is free");
}

#[test]
fn ephemeral_member_that_comes_back_at_once_is_who_it_was() {
    let (mut o, agents) = overlay(7, &["head"]);
    let cloud = o.topology.cloud_of(agents[0]).unwrap();
    let id = o.add_agent_with(cloud, ephemeral());
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(5 * S).unwrap();
    let before = o.agent(id).addresses().cloned();
    o.restart_agent(id, Stop::Kill);
    o.world_mut().run_for(60 * S).unwrap();
    assert_eq!(o.agent(id).addresses().cloned(), before);
    assert!(o.agent(id).is_joined());
}

#[test]
fn a_machine_made_anew_takes_the_place_that_an_issuer_gave_it() {
    let (mut o, agents) = overlay(8, &["head", "head"]);
    let cloud = o.topology.cloud_of(agents[0]).unwrap();
    let token = o.network().token_for_place(&"db".parse().unwrap(), "10.7.200.1/32".parse().unwrap());
    let first = o.add_agent_with_token(cloud, &token, "db");
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    o.world_mut().run_for(25 * S).unwrap();
    o.flow(agents[0], first, 100 * MS, 50).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    assert!(o.received(agents[0], first).unwrap().is_complete(50), "{}", o.report());
    o.world_mut().stop_host(first, Stop::PowerOff);
    let second = o.add_agent_with_token(cloud, &token, "db");
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    let place = o.agent(second).addresses().unwrap();
    assert_eq!((place.name.as_str(), place.ipv4.to_string()), ("db", "10.7.200.1".to_owned()));
    // Everybody finds the new one there.
    o.world_mut().run_for(25 * S).unwrap();
    o.flow(agents[0], second, 100 * MS, 100).unwrap();
    o.world_mut().run_for(15 * S).unwrap();
    let missing = o.received(agents[0], second).map_or(100, |r| r.missing(100).len());
    assert!(missing == 0, "{missing} missing\n{}", o.report());
}

/// A hundred more, five a second, on a hundred: nobody waits long, and nobody hears of it who did not ask.
#[test]
fn a_hundred_more_join_a_hundred_and_are_killed_again() {
    let mut o = Overlay::with_engine(9, Engine::Null);
    let clouds = [NatKind::PortRestricted, NatKind::Symmetric, NatKind::Public].map(|kind| o.cloud(kind));
    for n in 0..100 {
        o.add_agent_with(clouds[n % 3], offer("worker"));
    }
    assert!(o.join_all(20 * S).unwrap(), "{}", o.report());
    let old = o.agents().to_vec();
    o.watch(old[0], None).unwrap();
    o.world_mut().run_for(25 * S).unwrap();
    for pair in old[..40].chunks_exact(2) {
        o.flow(pair[0], pair[1], 100 * MS, 600).unwrap();
    }
    let mut joins = Vec::new();
    let mut new = Vec::new();
    for n in 0..100 {
        let id = o.add_agent_with(clouds[n % 3], ephemeral());
        let begin = o.elapsed();
        new.push((id, begin));
        o.world_mut().run_for(200 * MS).unwrap();
    }
    o.world_mut().run_for(3 * S).unwrap();
    for (id, begin) in &new {
        let joined = o.agent(*id).joined_at().expect("joined");
        joins.push(
            o.world().world_time(*id, joined).saturating_since(skynet_core::time::Instant::ZERO) - *begin,
        );
    }
    joins.sort();
    println!("100 joins, five a second: median {:?}, slowest {:?}", joins[50], joins[99]);
    assert!(joins[99] <= 3 * S, "{:?}", joins[99]);
    until(&mut o, old[0], None, 200, 5 * S).expect("all two hundred");
    for (id, _) in &new {
        o.world_mut().stop_host(*id, Stop::Kill);
    }
    let took = until(&mut o, old[0], None, 100, 30 * S).expect("the hundred are gone");
    println!("100 killed at once: gone from the roster after {took:?}");
    o.world_mut().run_for(40 * S).unwrap();
    for pair in old[..40].chunks_exact(2) {
        let missing = o.received(pair[0], pair[1]).unwrap().missing(600);
        assert!(missing.is_empty(), "{missing:?}\n{}", o.report());
    }
}
