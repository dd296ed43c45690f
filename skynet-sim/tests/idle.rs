//! What a pair that has been quiet finds when the world changed meanwhile.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::time::Duration;
use skynet_sim::topology::NatKind;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A pair that went direct, fell quiet for `quiet`, and whose second node then got another public address.
fn moved(quiet: Duration) -> (Overlay, HostId, HostId) {
    let mut o = Overlay::new(21);
    let clouds = [0, 1].map(|_| o.cloud(NatKind::PortRestricted));
    let [a, b] = clouds.map(|cloud| o.add_agent(cloud));
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(25 * S).unwrap();
    o.flow(a, b, 100 * MS, 50).unwrap();
    o.flow(b, a, 100 * MS, 50).unwrap();
    o.world_mut().run_for(10 * S + quiet).unwrap();
    let gateway = o.topology.gateway(clouds[1]);
    o.world_mut().readdress_nat(gateway, "20.200.0.1".parse().unwrap());
    o.world_mut().run_for(30 * S).unwrap();
    for id in [a, b] {
        o.world_mut()
            .with_host(id, |h: &mut skynet_sim::host::AgentHost, _| h.application_mut().forget())
            .unwrap();
    }
    (o, a, b)
}

/// Packets lost of a flow of 200 that then begins in one direction only.
fn lost(quiet: Duration, forward: bool) -> (Overlay, Vec<u64>) {
    let (mut o, a, b) = moved(quiet);
    let (from, to) = if forward { (a, b) } else { (b, a) };
    o.flow(from, to, 100 * MS, 200).unwrap();
    o.world_mut().run_for(60 * S).unwrap();
    let lost = o.received(from, to).map_or_else(|| (0..200).collect(), |book| book.missing(200));
    (o, lost)
}

#[test]
fn quiet_pair_finds_each_other_after_one_of_them_moved() {
    for quiet in [30, 100, 200, 400] {
        for forward in [true, false] {
            let (o, lost) = lost(quiet * S, forward);
            // A path trusted for a minute of silence is found dead within 1.2 s; a longer silence loses nothing.
            assert!(lost.last().is_none_or(|last| *last < 15), "{quiet} s, {lost:?}\n{}", o.report());
            assert!(quiet < 100 || lost.is_empty(), "{quiet} s, {lost:?}\n{}", o.report());
        }
    }
}

/// Only one of the two sends, and it is the one that moves: the other's path must follow, or the answers to the
/// next handshakes go where nobody is.
#[test]
fn receiver_follows_a_sender_that_moves() {
    let mut o = Overlay::new(22);
    let clouds = [0, 1].map(|_| o.cloud(NatKind::PortRestricted));
    let [a, b] = clouds.map(|cloud| o.add_agent(cloud));
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(25 * S).unwrap();
    o.flow(a, b, 100 * MS, 6_000).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    let gateway = o.topology.gateway(clouds[0]);
    o.world_mut().readdress_nat(gateway, "20.200.0.1".parse().unwrap());
    o.world_mut().run_for(600 * S).unwrap();
    let missing = o.received(a, b).unwrap().missing(6_000);
    assert!(missing.iter().all(|n| (100..130).contains(n)), "{missing:?}\n{}", o.report());
    assert!(o.is_direct(a, b), "{}", o.report());
}

/// A whole day of four nodes that have all talked and then fell silent: each sends its keepalive to the relay every 20 s
/// and otherwise nothing to speak of.
#[test]
fn an_idle_day_costs_the_keepalive_to_the_relay_and_nothing_else() {
    const DAY: u64 = 86_400;
    let mut o = Overlay::new(23);
    let kinds = [NatKind::PortRestricted, NatKind::Public, NatKind::Symmetric, NatKind::AddressRestricted];
    for kind in kinds {
        let cloud = o.cloud(kind);
        o.add_agent(cloud);
    }
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(5 * S).unwrap();
    let agents = o.agents().to_vec();
    for &from in &agents {
        for &to in agents.iter().filter(|to| **to != from) {
            o.flow(from, to, 100 * MS, 50).unwrap();
        }
    }
    // Until the last session is over.
    o.world_mut().run_for(300 * S).unwrap();
    let before = o.world().stats().datagrams;
    o.world_mut().run_for(Duration::from_secs(DAY)).unwrap();
    let all = o.world().stats().datagrams - before;
    // One from the node and its echo by the relay every 20 s.
    let keepalives = DAY / 20 * 2 * agents.len() as u64;
    let beyond = all.saturating_sub(keepalives) as f64 / DAY as f64 / agents.len() as f64;
    println!(
        "{all} datagrams in an idle day of {} nodes, {keepalives} of them keepalives: {beyond:.6} a second and node beyond them",
        agents.len()
    );
    assert!(beyond < 0.01, "{beyond}\n{}", o.report());
}
