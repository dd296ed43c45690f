//! Production nodes and a production relay: joining, paths, death of the relay, determinism.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_sim::oracle::Direct;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay, RunError};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Two agents in clouds of these kinds, joined.
fn pair(seed: u64, kinds: [NatKind; 2]) -> (Overlay, HostId, HostId) {
    let mut o = Overlay::new(seed);
    let [a, b] = kinds.map(|kind| {
        let cloud = o.cloud(kind);
        o.add_agent(cloud)
    });
    let joined = o.join_all(10 * S).unwrap();
    assert!(joined, "{}", o.report());
    (o, a, b)
}

#[test]
fn two_nodes_join_through_the_relay_and_exchange_packets() {
    let (mut o, a, b) = pair(1, [NatKind::PortRestricted; 2]);
    assert!(o.elapsed() < S, "joined after {:?}", o.elapsed());
    o.flow(a, b, 100 * MS, 50).unwrap();
    o.flow(b, a, 100 * MS, 50).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    for (from, to) in [(a, b), (b, a)] {
        let book = o.received(from, to).unwrap_or_else(|| panic!("nothing arrived\n{}", o.report()));
        assert!(book.is_complete(50), "missing {:?}\n{}", book.missing(50), o.report());
    }
    assert_eq!(o.agent(a).application().foreign() + o.agent(b).application().foreign(), 0);
}

/// The stand-in for cryptography protects nothing, so the sniffer must see it.
#[test]
fn sniffer_sees_what_is_in_clear() {
    let mut o = Overlay::with_engine(1, Engine::Null);
    o.watch_for_clear_text();
    let [a, b] = [NatKind::Public; 2].map(|kind| {
        let cloud = o.cloud(kind);
        o.add_agent(cloud)
    });
    assert!(o.join_all(10 * S).unwrap());
    o.flow(a, b, 100 * MS, 5).unwrap();
    let ended = o.world_mut().run_for(5 * S);
    assert!(matches!(ended, Err(RunError::Invariant { name: "nothing in clear", .. })), "{ended:?}");
}

/// The pairs of the first issue, and what the oracle demands of each.
#[test]
fn pairs_go_direct_or_stay_relayed_as_the_oracle_demands() {
    use NatKind::{PortRestricted, Public, Symmetric};
    for kinds in
        [[Public, Public], [PortRestricted, PortRestricted], [Public, Symmetric], [Symmetric, Symmetric]]
    {
        let (mut o, a, b) = pair(2, kinds);
        o.flow(a, b, 100 * MS, 300).unwrap();
        o.world_mut().run_for(20 * S).unwrap();
        match o.expected(a, b) {
            Direct::Must => assert!(o.is_direct(a, b), "{kinds:?}\n{}", o.report()),
            Direct::MustNot => assert!(!o.claims_direct(a, b), "{kinds:?}\n{}", o.report()),
            Direct::Timing | Direct::Guess => {}
        }
        o.world_mut().run_for(20 * S).unwrap();
        let book = o.received(a, b).unwrap();
        assert!(book.is_complete(300), "{kinds:?} missing {:?}\n{}", book.missing(300), o.report());
    }
}

#[test]
fn direct_pair_loses_nothing_when_the_relay_dies() {
    for how in [Stop::Kill, Stop::PowerOff] {
        let (mut o, a, b) = pair(3, [NatKind::PortRestricted; 2]);
        o.flow(a, b, 50 * MS, 4_000).unwrap();
        o.world_mut().run_for(10 * S).unwrap();
        assert!(o.is_direct(a, b), "{}", o.report());
        o.stop_relay(how);
        o.world_mut().run_for(200 * S).unwrap();
        let book = o.received(a, b).unwrap();
        assert!(book.is_complete(4_000), "{how:?} missing {:?}\n{}", book.missing(4_000), o.report());
        assert!(o.is_direct(a, b), "{}", o.report());
    }
}

#[test]
fn relayed_pair_recovers_when_the_relay_comes_back() {
    let (mut o, a, b) = pair(4, [NatKind::Symmetric; 2]);
    o.flow(a, b, 100 * MS, 1_200).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    o.stop_relay(Stop::Kill);
    o.world_mut().run_for(5 * S).unwrap();
    o.start_relay();
    o.world_mut().run_for(125 * S).unwrap();
    let missing = o.received(a, b).unwrap().missing(1_200);
    let last = missing.last().copied().unwrap_or(0);
    assert!(!missing.is_empty(), "nothing can pass a dead relay");
    assert!(last < 350, "last lost packet {last}: recovery took too long\n{}", o.report());
}

#[test]
fn restarted_agent_keeps_its_address_and_traffic_resumes() {
    let (mut o, a, b) = pair(5, [NatKind::PortRestricted, NatKind::Public]);
    o.flow(a, b, 100 * MS, 600).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    let before = o.address(b);
    o.restart_agent(b, Stop::Kill);
    o.world_mut().run_for(55 * S).unwrap();
    assert_eq!(o.address(b), before);
    let book = o.received(a, b).unwrap_or_else(|| panic!("nothing after the restart\n{}", o.report()));
    let first = (0..600).find(|n| !book.missing(600).contains(n)).unwrap();
    assert!((90..300).contains(&first), "resumed at packet {first}\n{}", o.report());
}

/// Time from the first packet to both ends being direct, of a pair that talks as soon as it has joined: before the
/// relay sessions stand and before the two know each other's reflexive endpoints.
fn impatient(kinds: [NatKind; 2]) -> Duration {
    let (mut o, a, b) = pair(8, kinds);
    let start = o.elapsed();
    o.flow(a, b, 100 * MS, 2_000).unwrap();
    while !o.is_direct(a, b) {
        o.world_mut().run_for(10 * MS).unwrap();
        assert!(o.elapsed() < 200 * S, "{kinds:?} {}", o.report());
    }
    o.elapsed() - start
}

#[test]
fn pair_that_talks_at_once_goes_direct_at_once() {
    // The last kind would be trapped by a probe that comes before its own side has sent.
    for kind in [NatKind::Public, NatKind::PortRestricted, NatKind::PortRestrictedAnswering] {
        let took = impatient([kind; 2]);
        assert!(took <= 500 * MS, "{kind:?} {took:?}");
    }
}

#[test]
fn same_seed_same_trace_with_production_machines() {
    let run = |seed| {
        let mut o = Overlay::new(seed);
        for kind in [NatKind::Public, NatKind::PortRestricted, NatKind::Symmetric] {
            let cloud = o.cloud(kind);
            o.add_agent(cloud);
            o.add_agent(cloud);
        }
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        let agents = o.agents().to_vec();
        for (i, &from) in agents.iter().enumerate() {
            o.flow(from, agents[(i + 1) % agents.len()], 200 * MS, 20).unwrap();
        }
        o.world_mut().run_for(20 * S).unwrap();
        (o.world().trace().hash(), o.world().stats().clone())
    };
    let (hash, stats) = run(6);
    assert_eq!(run(6), (hash, stats));
    assert_ne!(run(7).0, hash);
}
