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
