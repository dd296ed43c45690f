//! Hard NATs against filters by port: birthday, prediction and the fresh socket, with production nodes.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::path::Guessing;
use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_sim::topology::NatKind;
use skynet_sim::{HostId, Offer, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Three plain rounds, at 0, 5 and 20 s, come first; the decision falls when the third is over.
const DECISION: Duration = Duration::from_secs(26);

fn pair(seed: u64, kinds: [NatKind; 2], sockets: u8, engine: Engine) -> (Overlay, [HostId; 2]) {
    let mut o = Overlay::with_engine(seed, engine);
    let guessing = Guessing { sockets, bulk_only: false };
    let pair = kinds.map(|kind| {
        let cloud = o.cloud(kind);
        o.add_agent_with(cloud, Offer { guessing, ..Offer::default() })
    });
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    o.world_mut().run_for(5 * S).unwrap();
    (o, pair)
}

/// Time from the decision until both ends send direct.
fn time_to_direct(o: &mut Overlay, [a, b]: [HostId; 2], within: Duration) -> Option<Duration> {
    let start = o.world().now();
    o.flow(a, b, 100 * MS, 600).unwrap();
    o.world_mut().run_for(DECISION - 100 * MS).unwrap();
    assert!(!o.claims_direct(a, b), "{}", o.report());
    let decided = start + DECISION;
    while o.world().now() < decided + within {
        o.world_mut().run_for(10 * MS).unwrap();
        if o.is_direct(a, b) {
            return Some(o.world().now().saturating_since(decided));
        }
    }
    None
}

#[test]
fn a_birthday_joins_a_symmetric_nat_and_a_filter_by_port() {
    for kinds in
        [[NatKind::Symmetric, NatKind::PortRestricted], [NatKind::PortRestricted, NatKind::Symmetric]]
    {
        let (mut o, [a, b]) = pair(1, kinds, 128, Engine::Noise);
        let took = time_to_direct(&mut o, [a, b], 6 * S);
        println!("{kinds:?}: {took:?}");
        assert!(took.is_some(), "{}", o.report());
        let hard = if kinds[0] == NatKind::Symmetric { a } else { b };
        o.world_mut().run_for(S).unwrap();
        assert_eq!(o.agent(hard).open_guess_sockets(), 1, "the winner stays, the others are closed");
        o.world_mut().run_for(40 * S).unwrap();
        assert_eq!(o.received(a, b).unwrap().distinct(), 600, "nothing is lost\n{}", o.report());
        assert!(o.is_direct(a, b), "and it lasts\n{}", o.report());
    }
}

#[test]
fn the_next_ports_of_a_sequence_are_predicted_without_any_permission() {
    let kinds = [NatKind::PortRestricted, NatKind::SymmetricSequential];
    for kinds in [kinds, [kinds[1], kinds[0]]] {
        let (mut o, pair) = pair(2, kinds, 0, Engine::Noise);
        let took = time_to_direct(&mut o, pair, 2 * S);
        println!("{kinds:?}: {took:?}");
        assert!(took.is_some(), "{}", o.report());
        let sent: u64 = pair.iter().map(|a| guesses(&o, *a)).sum();
        assert!(sent <= 40, "{sent} datagrams");
    }
}

#[test]
fn nothing_is_guessed_that_one_of_the_operators_forbids() {
    let mut o = Overlay::with_engine(3, Engine::Noise);
    let pair = [(NatKind::Symmetric, 128), (NatKind::PortRestricted, 0)].map(|(kind, sockets)| {
        let cloud = o.cloud(kind);
        let guessing = Guessing { sockets, bulk_only: false };
        o.add_agent_with(cloud, Offer { guessing, ..Offer::default() })
    });
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(5 * S).unwrap();
    assert_eq!(time_to_direct(&mut o, pair, 30 * S), None);
    assert!(pair.iter().all(|a| guesses(&o, *a) == 0));
}

#[test]
fn the_default_guesses_only_for_bulk() {
    for (every, expected) in [(100 * MS, false), (5 * MS, true)] {
        let mut o = Overlay::with_engine(4, Engine::Noise);
        let [a, b] = [NatKind::PortRestricted, NatKind::Symmetric].map(|kind| {
            let cloud = o.cloud(kind);
            o.add_agent(cloud)
        });
        assert!(o.join_all(10 * S).unwrap());
        o.world_mut().run_for(5 * S).unwrap();
        o.flow(a, b, every, 40 * S.as_millis() as u64 / every.as_millis() as u64).unwrap();
        o.world_mut().run_for(35 * S).unwrap();
        assert_eq!(guesses(&o, a) > 0, expected, "{every:?}");
    }
}

/// Guesses and openers a host has sent for its only peer.
fn guesses(o: &Overlay, host: HostId) -> u64 {
    o.agent(host).status().unwrap().peers.iter().map(|p| p.guesses_sent).sum()
}

/// Of 1,000 seeds; how long each took is printed.
#[test]
#[ignore = "for ./x soak: minutes"]
fn of_a_thousand_birthdays_with_128_sockets_ninety_nine_in_a_hundred_are_direct_within_six_seconds() {
    let seeds = 1000;
    let mut took: Vec<Duration> = Vec::new();
    for seed in 0..seeds {
        let mut kinds = [NatKind::Symmetric, NatKind::PortRestricted];
        if seed % 2 == 1 {
            kinds.reverse();
        }
        let (mut o, pair) = pair(1000 + seed, kinds, 128, Engine::Null);
        took.extend(time_to_direct(&mut o, pair, 6 * S));
    }
    took.sort();
    let at = |permille: usize| took[took.len() * permille / 1000];
    println!("{} of {seeds} within 6 s: p50 {:?}, p90 {:?}, p99 {:?}", took.len(), at(500), at(900), at(990));
    assert!(took.len() as u64 >= seeds * 99 / 100);
}
