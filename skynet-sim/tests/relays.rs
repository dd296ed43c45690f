//! Several relays: who is kept, which one a pair takes, and what happens when one dies, drains or comes back.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use skynet_core::path::Path;
use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_core::wire::relay::Class;
use skynet_sim::network::Datagram;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Two agents in clouds of this kind, joined, and relays so far from the internet.
fn pair(seed: u64, kind: NatKind, relays: &[Duration]) -> (Overlay, HostId, HostId) {
    let mut o = Overlay::with_relays(seed, Engine::Noise, relays);
    o.watch_for_clear_text();
    let [a, b] = [kind; 2].map(|kind| {
        let cloud = o.cloud(kind);
        o.add_agent(cloud)
    });
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    // Sessions stand, and a trial among more than two is over.
    o.world_mut().run_for(5 * S).unwrap();
    (o, a, b)
}

fn relay_of(o: &Overlay, from: HostId, to: HostId) -> Option<u16> {
    match o.path(from, to) {
        Some(Path::Relayed { relay, .. }) => Some(relay),
        _ => None,
    }
}

/// The longest run of packets that did not arrive, as time.
fn longest_gap(o: &Overlay, from: HostId, to: HostId, every: Duration, count: u64) -> Duration {
    let missing = o.received(from, to).map(|book| book.missing(count)).unwrap_or_default();
    let (mut longest, mut run, mut last) = (0u32, 0u32, None);
    for n in missing {
        run = if last == Some(n - 1) { run + 1 } else { 1 };
        last = Some(n);
        longest = longest.max(run);
    }
    every * longest
}

#[test]
fn a_pair_takes_the_nearest_of_two_relays_and_both_ends_the_same() {
    let (mut o, a, b) = pair(1, NatKind::Symmetric, &[40 * MS, 5 * MS]);
    o.flow(a, b, 100 * MS, 50).unwrap();
    o.flow(b, a, 100 * MS, 50).unwrap();
    o.world_mut().run_for(6 * S).unwrap();
    assert_eq!((relay_of(&o, a, b), relay_of(&o, b, a)), (Some(2), Some(2)), "{}", o.report());
    let status = o.agent(a).status().unwrap();
    assert_eq!(status.control_relay, Some(1), "the directory is at the first");
    assert!(status.relays.iter().all(|r| r.up) && status.relays.len() == 2 && status.relays[0].relay_no == 2);
    assert!(o.received(a, b).unwrap().is_complete(50), "{}", o.report());
}

#[test]
fn of_five_relays_the_two_nearest_are_kept() {
    let (mut o, a, b) = pair(2, NatKind::Symmetric, &[60 * MS, 30 * MS, 5 * MS, 90 * MS, 12 * MS]);
    for agent in [a, b] {
        let mut kept: Vec<u16> = o.agent(agent).status().unwrap().relays.iter().map(|r| r.relay_no).collect();
        kept.sort_unstable();
        assert_eq!(kept, [3, 5], "{}", o.report());
    }
    // Both are lost: the others are found again.
    o.flow(a, b, 50 * MS, 400).unwrap();
    o.world_mut().run_for(S).unwrap();
    o.stop_relay_no(3, Stop::PowerOff);
    o.stop_relay_no(5, Stop::PowerOff);
    o.world_mut().run_for(24 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(2), "{}", o.report());
    let gap = longest_gap(&o, a, b, 50 * MS, 400);
    println!("both kept relays died: gap {gap:?}");
    assert!(gap <= 4 * S, "{gap:?}\n{}", o.report());
}

#[test]
fn relayed_pairs_flow_again_within_three_seconds_when_their_relay_dies() {
    let every = 20 * MS;
    let mut worst = Duration::ZERO;
    for (seed, how) in (10..16).zip([Stop::Kill, Stop::PowerOff].into_iter().cycle()) {
        let (mut o, a, b) = pair(seed, NatKind::Symmetric, &[5 * MS, 15 * MS]);
        o.flow(a, b, every, 1_500).unwrap();
        o.flow(b, a, every, 1_500).unwrap();
        o.world_mut().run_for(10 * S + (seed as u32) * 170 * MS).unwrap();
        assert_eq!(relay_of(&o, a, b), Some(1), "{}", o.report());
        o.stop_relay_no(1, how);
        o.world_mut().run_for(25 * S).unwrap();
        for (from, to) in [(a, b), (b, a)] {
            let gap = longest_gap(&o, from, to, every, 1_500);
            worst = worst.max(gap);
            assert!(gap <= 3 * S, "{how:?} {gap:?}\n{}", o.report());
            assert_eq!(relay_of(&o, from, to), Some(2));
        }
    }
    println!("relay in use died: longest gap {worst:?}");
}

#[test]
fn direct_pairs_lose_nothing_when_a_relay_dies() {
    let (mut o, a, b) = pair(3, NatKind::PortRestricted, &[5 * MS, 15 * MS]);
    o.flow(a, b, 50 * MS, 800).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    assert!(o.is_direct(a, b), "{}", o.report());
    o.stop_relay_no(1, Stop::Kill);
    o.world_mut().run_for(31 * S).unwrap();
    assert!(o.received(a, b).unwrap().is_complete(800), "{}", o.report());
}

#[test]
fn a_relay_that_drains_loses_no_packet_and_no_pair() {
    let every = 20 * MS;
    let (mut o, a, b) = pair(4, NatKind::Symmetric, &[5 * MS, 15 * MS]);
    o.flow(a, b, every, 1_500).unwrap();
    o.flow(b, a, every, 1_500).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(1));
    o.drain_relay(1).unwrap();
    o.world_mut().run_for(3 * S).unwrap();
    assert_eq!((relay_of(&o, a, b), relay_of(&o, b, a)), (Some(2), Some(2)), "{}", o.report());
    o.world_mut().run_for(5 * S).unwrap();
    assert_eq!(o.agent(a).status().unwrap().control_relay, Some(2), "{}", o.report());
    o.stop_relay_no(1, Stop::Kill);
    o.world_mut().run_for(20 * S).unwrap();
    for (from, to) in [(a, b), (b, a)] {
        let book = o.received(from, to).unwrap();
        assert!(book.is_complete(1_500), "missing {:?}\n{}", book.missing(1_500), o.report());
    }
}

/// What keeps a pair alive is told to the relay as that: it does not wait behind bulk there.
#[test]
fn handshakes_and_probes_by_a_relay_are_of_class_control() {
    let mut o = Overlay::with_relays(7, Engine::Noise, &[5 * MS]);
    let seen: Rc<RefCell<BTreeSet<(u8, u8)>>> = Rc::default();
    let (internet, into) = (o.topology.internet(), Rc::clone(&seen));
    let tap = move |d: &Datagram| {
        // DATA: what is behind the header, and its class.
        if let [0xa1, flags, _, _, _, _, _, _, first, ..] = d.bytes[..] {
            into.borrow_mut().insert((first, flags & 3));
        }
        true
    };
    o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(tap)));
    let [a, b] = [NatKind::Symmetric; 2].map(|kind| {
        let cloud = o.cloud(kind);
        o.add_agent(cloud)
    });
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    o.flow(a, b, 100 * MS, 50).unwrap();
    o.world_mut().run_for(6 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(1), "{}", o.report());
    let (control, data) = (Class::Control as u8, Class::Normal as u8);
    assert_eq!(*seen.borrow(), BTreeSet::from([(1, control), (2, control), (4, data), (0xa0, control)]));
}

/// The operator takes a relay out of the list, and puts it back: whoever is online hears of it, and lets go of it, or binds
/// there, without a restart and without a lost packet.
#[test]
fn another_list_of_relays_is_in_force_at_all_who_are_online_within_five_seconds() {
    let every = 20 * MS;
    let (mut o, a, b) = pair(8, NatKind::Symmetric, &[40 * MS, 5 * MS]);
    o.flow(a, b, every, 2_000).unwrap();
    o.world_mut().run_for(8 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(2), "{}", o.report());
    let mut taken = None;
    o.change_relays(|relays| taken = relays.pop()).unwrap();
    let bound = |o: &Overlay, agent| -> Vec<u16> {
        let relays = o.agent(agent).status().unwrap().relays;
        relays.iter().filter(|r| r.up).map(|r| r.relay_no).collect()
    };
    let epoch = |o: &Overlay, agent| o.agent(agent).status().unwrap().documents.unwrap().manifest_epoch;
    let mut waited = Duration::ZERO;
    while [a, b].iter().any(|agent| bound(&o, *agent) != [1] || epoch(&o, *agent) != 3) {
        o.world_mut().run_for(100 * MS).unwrap();
        waited += 100 * MS;
        assert!(waited <= 5 * S, "{}", o.report());
    }
    println!("a relay taken out is left by all within {waited:?}");
    o.world_mut().run_for(2 * S).unwrap();
    assert_eq!((relay_of(&o, a, b), relay_of(&o, b, a)), (Some(1), Some(1)), "{}", o.report());
    o.change_relays(|relays| relays.extend(taken)).unwrap();
    waited = Duration::ZERO;
    while [a, b].iter().any(|agent| bound(&o, *agent).len() != 2 || epoch(&o, *agent) != 4) {
        o.world_mut().run_for(100 * MS).unwrap();
        waited += 100 * MS;
        assert!(waited <= 5 * S, "{}", o.report());
    }
    println!("a relay that is listed is bound at by all within {waited:?}");
    o.world_mut().run_for(35 * S).unwrap();
    let missing = o.received(a, b).unwrap().missing(2_000);
    println!("missing {}", missing.len());
    assert!(missing.len() <= 10, "{missing:?}\n{}", o.report());
    // What it was told it keeps, and a newcomer is not told twice.
    o.restart_agent(a, Stop::Kill);
    o.world_mut().run_for(5 * S).unwrap();
    assert_eq!(epoch(&o, a), 4);
}

/// The relay with the registrar dies: another gives tickets and answers look-ups, and admits nobody new. It comes back:
/// control returns.
#[test]
fn control_goes_on_at_another_relay_and_returns() {
    let (mut o, a, b) = pair(5, NatKind::Symmetric, &[5 * MS, 15 * MS]);
    o.stop_relay_no(1, Stop::Kill);
    o.world_mut().run_for(5 * S).unwrap();
    for agent in [a, b] {
        assert_eq!(o.agent(agent).status().unwrap().control_relay, Some(2), "{}", o.report());
    }
    // An agent that starts anew has nothing but its credentials, and what it kept.
    o.restart_agent(b, Stop::Kill);
    o.world_mut().run_for(5 * S).unwrap();
    o.flow(b, a, 100 * MS, 50).unwrap();
    o.world_mut().run_for(7 * S).unwrap();
    assert!(o.received(b, a).unwrap().is_complete(50), "{}", o.report());
    let cloud = o.cloud(NatKind::Symmetric);
    let late = o.add_agent(cloud);
    o.world_mut().run_for(20 * S).unwrap();
    assert!(o.agent(late).addresses().is_none(), "only the registrar admits\n{}", o.report());
    o.start_relay_no(1);
    o.world_mut().run_for(40 * S).unwrap();
    assert!(o.agent(late).addresses().is_some(), "{}", o.report());
    for agent in [a, b, late] {
        assert_eq!(o.agent(agent).status().unwrap().control_relay, Some(1), "{}", o.report());
    }
}

/// No session tells a node without UDP that the first relay is back.
#[test]
fn control_returns_to_the_first_relay_without_udp_too() {
    let mut o = Overlay::with_relays(9, Engine::Noise, &[5 * MS, 15 * MS]);
    let internet = o.topology.internet();
    o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(|_: &Datagram| false)));
    let cloud = o.cloud(NatKind::Symmetric);
    let agents = [(); 8].map(|()| o.add_agent(cloud));
    let at = |o: &Overlay, relay: u16| {
        agents.iter().all(|agent| o.agent(*agent).status().unwrap().control_relay == Some(relay))
    };
    o.world_mut().run_for(10 * S).unwrap();
    assert!(at(&o, 1), "{}", o.report());
    o.stop_relay_no(1, Stop::PowerOff);
    o.world_mut().run_for(100 * S).unwrap();
    assert!(at(&o, 2), "{}", o.report());
    // It tries in vain: a minute and a half, three and six minutes after the channel moved, at the latest.
    o.world_mut().run_for(600 * S).unwrap();
    o.start_relay_no(1);
    let mut waited = Duration::ZERO;
    while !at(&o, 1) {
        o.world_mut().run_for(S).unwrap();
        waited += S;
        assert!(waited <= 460 * S, "{}", o.report());
    }
    println!("without UDP back within {waited:?} after an outage of 700 s");
    o.stop_relay_no(1, Stop::Kill);
    o.world_mut().run_for(5 * S).unwrap();
    assert!(at(&o, 2), "{}", o.report());
    o.start_relay_no(1);
    waited = Duration::ZERO;
    while !at(&o, 1) {
        o.world_mut().run_for(S).unwrap();
        waited += S;
        assert!(waited <= 96 * S, "{}", o.report());
    }
    println!("without UDP back within {waited:?} after an outage of 5 s");
}

/// The relay of a pair dies, comes back and dies again with the other: nothing flaps and nothing is forgotten.
#[test]
fn a_relay_that_comes_back_is_used_again_only_when_it_is_worth_it() {
    let (mut o, a, b) = pair(6, NatKind::Symmetric, &[5 * MS, 6 * MS]);
    o.flow(a, b, 100 * MS, 3_000).unwrap();
    o.world_mut().run_for(5 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(1));
    o.stop_relay_no(1, Stop::Kill);
    o.world_mut().run_for(10 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(2));
    o.start_relay_no(1);
    o.world_mut().run_for(100 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(2), "2 ms are not worth a change\n{}", o.report());
    o.stop_relay_no(2, Stop::Kill);
    o.world_mut().run_for(10 * S).unwrap();
    assert_eq!(relay_of(&o, a, b), Some(1), "{}", o.report());
}
