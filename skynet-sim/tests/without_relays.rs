//! All relays are dead: what goes on, what begins, and what happens when they come back.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_sim::host::RelayHost;
use skynet_sim::overlay::Offer;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn joined(seed: u64, kinds: &[NatKind]) -> (Overlay, Vec<HostId>) {
    let mut o = Overlay::with_relays(seed, Engine::Noise, &[5 * MS, 15 * MS]);
    let agents = kinds.iter().map(|kind| {
        let cloud = o.cloud(*kind);
        o.add_agent(cloud)
    });
    let agents: Vec<HostId> = agents.collect();
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    // Everybody has heard of everybody, and kept it.
    o.world_mut().run_for(90 * S).unwrap();
    (o, agents)
}

fn kill_all(o: &mut Overlay) {
    o.stop_relay_no(1, Stop::Kill);
    o.stop_relay_no(2, Stop::PowerOff);
}

#[test]
fn connected_direct_pairs_go_on_for_ten_minutes_through_rekeys() {
    let (mut o, agents) = joined(1, &[NatKind::PortRestricted; 2]);
    let (a, b) = (agents[0], agents[1]);
    o.flow(a, b, 50 * MS, 12_600).unwrap();
    o.flow(b, a, 50 * MS, 12_600).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    assert!(o.is_direct(a, b), "{}", o.report());
    kill_all(&mut o);
    o.world_mut().run_for(621 * S).unwrap();
    for (from, to) in [(a, b), (b, a)] {
        let book = o.received(from, to).unwrap();
        assert!(book.is_complete(12_600), "missing {:?}\n{}", book.missing(12_600), o.report());
    }
    let handshake = o.agent(a).status().unwrap().peers[0].last_handshake.unwrap();
    let age = o.world().now().saturating_since(o.world().world_time(a, handshake));
    assert!(age < 125 * S, "{age:?}");
}

/// Addresses that answer without a call: a public one, and one behind a NAT that lets everybody in.
#[test]
fn a_rebooted_agent_and_a_new_pair_connect_from_what_was_kept() {
    for there in [NatKind::Public, NatKind::FullCone] {
        let (mut o, agents) = joined(2, &[NatKind::PortRestricted, there, NatKind::PortRestricted]);
        let (a, b, c) = (agents[0], agents[1], agents[2]);
        kill_all(&mut o);
        o.world_mut().run_for(10 * S).unwrap();
        // Never talked before.
        o.flow(c, b, 100 * MS, 200).unwrap();
        o.world_mut().run_for(21 * S).unwrap();
        let got = 200 - o.received(c, b).map_or(200, |book| book.missing(200).len());
        println!("{there:?}: new pair {got} of 200 packets");
        assert!(o.claims_direct(c, b) && got >= 100, "{there:?} {got}\n{}", o.report());
        o.restart_agent(a, Stop::PowerOff);
        o.world_mut().run_for(5 * S).unwrap();
        o.flow(a, b, 100 * MS, 200).unwrap();
        o.world_mut().run_for(21 * S).unwrap();
        let got = 200 - o.received(a, b).map_or(200, |book| book.missing(200).len());
        println!("{there:?}: rebooted agent {got} of 200 packets");
        assert!(o.claims_direct(a, b) && got >= 100, "{there:?} {got}\n{}", o.report());
        o.start_relay_no(1);
        o.world_mut().run_for(20 * S).unwrap();
        assert!(o.agent(a).status().unwrap().control_connected, "{}", o.report());
    }
}

#[test]
fn two_hundred_agents_return_to_their_relays_without_a_storm() {
    return_of(200);
}

#[test]
#[ignore = "for ./x soak: a minute"]
fn a_thousand_agents_return_to_their_relays_without_a_storm() {
    return_of(1_000);
}

/// So many agents, all bound and joined again within half a minute after both relays return, and no second in which a relay
/// has more to do than a core can.
fn return_of(agents: usize) {
    let mut o = Overlay::with_relays(3, Engine::Null, &[5 * MS, 15 * MS]);
    let offer = Offer { known_members: 4, ..Offer::default() };
    for _ in 0..agents / 50 {
        let cloud = o.cloud(NatKind::Symmetric);
        for _ in 0..50 {
            o.add_agent_with(cloud, offer);
        }
    }
    assert!(o.join_all(60 * S).unwrap());
    o.world_mut().run_for(5 * S).unwrap();
    kill_all(&mut o);
    o.world_mut().run_for(60 * S).unwrap();
    o.start_relay_no(1);
    o.start_relay_no(2);
    let start = o.elapsed();
    let mut waiting: Vec<HostId> = o.agents().to_vec();
    while !waiting.is_empty() {
        o.world_mut().run_for(250 * MS).unwrap();
        waiting.retain(|agent| {
            let status = o.agent(*agent).status().unwrap();
            !(status.control_connected && status.relays.iter().all(|r| r.up))
        });
        assert!(o.elapsed() - start <= 30 * S, "{} are not back", waiting.len());
    }
    let took = o.elapsed() - start;
    // Their rosters, and the way back to the first relay, are part of it.
    o.world_mut().run_for(40 * S).unwrap();
    let [first, second] = [1, 2].map(|no| o.world().host::<RelayHost>(o.relay_host(no)).busiest_second());
    println!(
        "{agents} agents back after {took:?}; busiest second (requests, JOINs): relay 1 {first:?}, relay 2 {second:?}"
    );
    // A JOIN is five signatures and a handshake: about a millisecond.
    assert!(first.1 <= 500 && second.1 <= 500, "{first:?} {second:?}");
    for agent in o.agents() {
        assert_eq!(o.agent(*agent).status().unwrap().control_relay, Some(1));
    }
}
