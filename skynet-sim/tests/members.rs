//! Who gets in, and who knows whom, with production nodes, registrar and directory.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::time::{Duration, UnixTime};
use skynet_sim::host::{AgentConfig, AgentHost, HostClock, UNIX_START};
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn overlay(seed: u64, kinds: &[NatKind]) -> (Overlay, Vec<HostId>) {
    let mut o = Overlay::new(seed);
    for kind in kinds {
        let cloud = o.cloud(*kind);
        o.add_agent(cloud);
    }
    let agents = o.agents().to_vec();
    (o, agents)
}

/// Changes how an agent starts, before it does.
fn reconfigure(o: &mut Overlay, id: HostId, change: impl FnOnce(&mut AgentConfig)) {
    let mut config = o.agent(id).config().clone();
    change(&mut config);
    let host = o.agent(id).successor(config);
    o.world_mut().stop_host(id, Stop::Kill);
    o.world_mut().start_host(id, Box::new(host));
}

#[test]
fn token_of_another_network_opens_nothing() {
    let foreign = Overlay::new(99).token().to_owned();
    let (mut o, agents) = overlay(1, &[NatKind::Public, NatKind::Public]);
    reconfigure(&mut o, agents[1], |c| c.token = foreign);
    o.world_mut().run_for(30 * S).unwrap();
    assert!(o.agent(agents[0]).addresses().is_some());
    assert!(o.agent(agents[1]).addresses().is_none(), "{}", o.report());
    assert!(!o.agent(agents[1]).notes().is_empty(), "it says why\n{}", o.report());
}

#[test]
fn damaged_token_is_a_sentence_not_a_start() {
    let (mut o, agents) = overlay(2, &[NatKind::Public]);
    reconfigure(&mut o, agents[0], |c| c.token.truncate(100));
    o.world_mut().run_for(5 * S).unwrap();
    assert!(o.agent(agents[0]).notes()[0].1.starts_with("does not start"), "{}", o.report());
}

#[test]
fn same_name_twice_gets_a_suffix() {
    let (mut o, agents) = overlay(3, &[NatKind::Public, NatKind::Public]);
    for &id in &agents {
        reconfigure(&mut o, id, |c| c.name = "web".to_owned());
    }
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    let mut names: Vec<_> = agents.iter().map(|a| o.agent(*a).addresses().unwrap().name.clone()).collect();
    names.sort();
    assert_eq!(names[0], "web");
    assert!(names[1].starts_with("web-"), "{names:?}");
}

/// Documents allow five minutes; the relay's bind goes by the relay's own clock.
#[test]
fn clocks_four_minutes_apart_do_not_part_nodes() {
    for seconds in [240, -240] {
        let mut o = Overlay::new(4);
        let cloud = o.cloud(NatKind::PortRestricted);
        let a = o.add_agent(cloud);
        let cloud = o.cloud(NatKind::PortRestricted);
        let b = o.add_agent(cloud);
        let unix_start = UnixTime(UNIX_START.0.checked_add_signed(seconds).unwrap());
        o.world_mut().set_clock(b, HostClock { mono_start: 7 * S, unix_start });
        assert!(o.join_all(20 * S).unwrap(), "{seconds} {}", o.report());
        o.world_mut().run_for(25 * S).unwrap();
        o.flow(a, b, 100 * MS, 100).unwrap();
        o.flow(b, a, 100 * MS, 100).unwrap();
        o.world_mut().run_for(12 * S).unwrap();
        for (from, to) in [(a, b), (b, a)] {
            assert!(o.received(from, to).is_some_and(|r| r.is_complete(100)), "{seconds} {}", o.report());
        }
        assert!(o.is_direct(a, b), "{seconds} {}", o.report());
    }
}

#[test]
fn sessions_survive_their_rekeys_without_loss() {
    let (mut o, agents) = overlay(5, &[NatKind::PortRestricted, NatKind::Symmetric]);
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(25 * S).unwrap();
    // Ten minutes: five rekeys.
    o.flow(agents[0], agents[1], 250 * MS, 2_400).unwrap();
    o.world_mut().run_for(605 * S).unwrap();
    let book = o.received(agents[0], agents[1]).unwrap();
    assert!(book.is_complete(2_400), "missing {:?}\n{}", book.missing(2_400), o.report());
    assert!(book.longest_gap < 600 * MS, "{:?}", book.longest_gap);
    let age = o.agent(agents[0]).status().unwrap().peers[0].last_handshake.unwrap();
    let now = o.world().host_now(agents[0]).mono;
    assert!(now - age < 125 * S, "last handshake {:?} ago", now - age);
}

#[test]
fn quiet_node_costs_the_wire_next_to_nothing() {
    let (mut o, agents) = overlay(6, &[NatKind::PortRestricted, NatKind::PortRestricted]);
    assert!(o.join_all(10 * S).unwrap());
    o.flow(agents[0], agents[1], 100 * MS, 20).unwrap();
    o.world_mut().run_for(120 * S).unwrap();
    let before = o.world().stats().clone();
    o.world_mut().run_for(600 * S).unwrap();
    let sent = o.world().stats().datagrams - before.datagrams;
    // One KEEP every 20 s and its echo, for each of the two.
    assert!(sent <= 2 * 2 * 31, "{sent} datagrams in ten quiet minutes\n{}", o.report());
    let host: &AgentHost = o.agent(agents[0]);
    assert!(host.application().is_done());
}
