//! Paths that die, lie, come back, or are merely bad.

use super::net::*;
use crate::path::*;
use crate::time::{Duration, Instant};

fn direct_pair(seed: u8) -> Net {
    let mut net = Net::new([Nat::Port, Nat::Port], seed).with_relay();
    net.send_every(0, ms(10));
    net.send_every(1, ms(10));
    net.run(at(20_000));
    assert!(net.is_direct(0) && net.is_direct(1));
    for s in &mut net.sides {
        s.longest_gap = Duration::ZERO;
    }
    net
}

#[test]
fn a_cut_moves_data_to_the_relay_and_back() {
    let (mut worst_gap, mut worst_return) = (Duration::ZERO, Duration::ZERO);
    for offset in (0..2000).step_by(130) {
        let mut net = direct_pair(1);
        net.run(at(20_000 + offset));
        net.ways.iter_mut().for_each(|w| w.cut = true);
        let cut = net.now;
        // Any time after it was left, so that no hold is over.
        net.run(cut + ms(5_000 + 7 * offset));
        for s in &net.sides {
            worst_gap = worst_gap.max(s.longest_gap);
        }
        assert_eq!(net.sides[0].agent.state(), PathState::Relayed);
        net.ways.iter_mut().for_each(|w| w.cut = false);
        let restored = net.now;
        let back = net.run_until(restored + ms(20_000), |n| n.is_direct(0) && n.is_direct(1));
        worst_return = worst_return.max(back.expect("direct again") - restored);
    }
    println!("cut: worst gap {worst_gap:?}; restored: direct again after at most {worst_return:?}");
    assert!(worst_gap <= ms(3500));
    assert!(worst_return <= ms(5000));
}

#[test]
fn one_way_traffic_notices_a_cut_too() {
    let mut net = Net::new([Nat::Port, Nat::Port], 2).with_relay();
    net.send_every(0, ms(10));
    net.run(at(20_700));
    assert!(net.is_direct(0));
    net.sides[1].longest_gap = Duration::ZERO;
    net.ways.iter_mut().for_each(|w| w.cut = true);
    net.run(at(30_000));
    println!("one-way traffic, cut: gap {:?}", net.sides[1].longest_gap);
    assert!(net.sides[1].longest_gap <= ms(3500));
}

#[test]
fn a_path_that_fails_in_one_direction_is_left_in_that_direction() {
    let mut net = direct_pair(3);
    net.ways[0].cut = true;
    let cut = net.now;
    let when = net.run_until(cut + ms(10_000), |n| !n.is_direct(0));
    println!("0→1 cut, 1→0 fine: 0 leaves after {:?}", when.map(|t| t - cut));
    assert!(when.is_some_and(|t| t - cut <= ms(3500)));
    net.run(cut + ms(10_000));
    assert!(net.sides[1].longest_gap <= ms(3500));
}

#[test]
fn vanished_data_is_noticed_though_probes_pass() {
    let mut worst = Duration::ZERO;
    for offset in (0..2000).step_by(190) {
        let mut net = direct_pair(4);
        net.run(at(20_000 + offset));
        net.ways[0].drops_data = true;
        let cut = net.now;
        let when = net.run_until(cut + ms(20_000), |n| !n.is_direct(0)).expect("notices");
        worst = worst.max(when - cut);
        net.run(cut + ms(50_000));
        assert!(!net.is_direct(0), "demoted for a minute");
        assert_eq!(net.sides[0].selections.last().map(|s| s.2), Some(Reason::DataLost));
    }
    println!("probes pass, data does not: noticed after at most {worst:?}");
    assert!(worst <= ms(6000));
}

#[test]
fn a_peer_that_starts_anew_is_noticed_and_its_path_not_blamed() {
    let mut worst = Duration::ZERO;
    for offset in (0..2000).step_by(190) {
        let mut net = direct_pair(9);
        net.run(at(20_000 + offset));
        net.restart(1);
        // Until there is a new session, nothing the peer receives can be opened, and so counted.
        net.ways[0].drops_data = true;
        let restarted = net.now;
        let when = net.run_until(restarted + ms(20_000), |n| !n.sides[0].peer_restarts.is_empty());
        let when = when.expect("notices");
        worst = worst.max(when - restarted);
        // No two initiations within 5 s: the new session may be that late.
        net.run(when + ms(5000));
        net.ways[0].drops_data = false;
        net.sides[0].agent.handle_new_session();
        net.run(restarted + ms(20_000));
        assert!(net.is_direct(0) && net.is_direct(1));
        let blamed = net.sides[0].selections.iter().any(|s| s.0 > restarted && s.2 == Reason::DataLost);
        assert!(!blamed, "{:?}", net.sides[0].selections);
        assert_eq!(net.sides[0].peer_restarts.len(), 1, "once per start");
        assert!(net.sides[1].peer_restarts.is_empty());
    }
    println!("a peer that starts anew: noticed after at most {worst:?}");
    assert!(worst <= ms(2500));
}

#[test]
fn a_path_that_keeps_eating_data_is_demoted_longer_each_time() {
    let mut net = direct_pair(5);
    net.ways[0].drops_data = true;
    net.run(at(3_600_000));
    let falls: Vec<Instant> =
        net.sides[0].selections.iter().filter(|s| s.2 == Reason::DataLost).map(|s| s.0).collect();
    let gaps: Vec<u64> = falls.windows(2).map(|w| (w[1] - w[0]).as_secs()).collect();
    println!("demotions in an hour: {gaps:?} s apart");
    assert!(gaps.windows(2).all(|g| g[0] <= g[1] + 5) && gaps.iter().max().is_some_and(|g| *g >= 600));
}

/// Most changes of path in any minute.
fn most_in_a_minute(selections: &[(Instant, Option<Path>, Reason)]) -> usize {
    let minute = |i: usize| selections[i..].iter().take_while(|s| s.0 < selections[i].0 + ms(60_000)).count();
    (0..selections.len()).map(minute).max().unwrap_or(0)
}

fn does_not_flap(loss_percent: u64, jitter: Duration, seeds: core::ops::Range<u8>) {
    let (mut switches, mut worst, mut pings) = (0, 0, 0);
    for both in [true, false] {
        for seed in seeds.clone() {
            let mut net = Net::new([Nat::Port, Nat::Port], seed).with_relay();
            for way in &mut net.ways {
                way.loss_percent = loss_percent;
                way.jitter = jitter;
            }
            net.send_every(0, ms(20));
            if both {
                net.send_every(1, ms(20));
            }
            net.run(at(20_000));
            let begun = net.sides.each_ref().map(|s| s.selections.len());
            net.run(at(620_000));
            for (s, begun) in net.sides.iter().zip(begun) {
                let changes = &s.selections[begun..];
                (switches, worst) = (switches + changes.len(), worst.max(most_in_a_minute(changes)));
                pings = pings.max(s.agent.counters().pings_sent);
            }
        }
    }
    println!(
        "{loss_percent} % loss, {jitter:?} jitter, {} times 10 minutes: {switches} changes of path, at most {worst} in \
         a minute; at most {pings} PINGs",
        4 * seeds.len()
    );
    assert!(worst <= 1, "{worst} in a minute");
}

#[test]
fn loss_and_jitter_do_not_make_it_flap() {
    does_not_flap(20, ms(100), 0..6);
}

#[test]
#[ignore = "for ./x soak: days of virtual time"]
fn loss_and_jitter_do_not_make_it_flap_in_two_hundred_seeds() {
    does_not_flap(20, ms(100), 0..200);
}

#[test]
fn a_peer_that_moves_is_followed_after_a_challenge() {
    let mut net = direct_pair(6);
    net.renumber(1, "192.0.2.77".parse().unwrap());
    let moved = net.now;
    let local = net.candidates(1);
    net.sides[1].agent.set_local_candidates(&local, wall(moved));
    let target = "192.0.2.77:7001".parse().unwrap();
    let when = net.run_until(moved + ms(10_000), |n| {
        n.sides[0].agent.selected() == Some(Path::Direct { remote: target })
    });
    println!("peer moved: followed after {:?}", when.map(|t| t - moved));
    assert!(when.is_some_and(|t| t - moved <= ms(5000)));
}

#[test]
fn a_relay_that_dies_costs_a_direct_pair_nothing() {
    let mut net = direct_pair(7);
    for i in 0..2 {
        net.set_relay(i, false);
    }
    net.run(at(40_000));
    assert!(net.is_direct(0) && net.is_direct(1));
    assert!(net.sides.iter().all(|s| s.longest_gap <= ms(10)));
}

#[test]
fn without_a_relay_a_dead_path_is_kept_and_found_again() {
    let mut net = direct_pair(8);
    for i in 0..2 {
        net.set_relay(i, false);
    }
    net.ways.iter_mut().for_each(|w| w.cut = true);
    net.run(at(60_000));
    assert_eq!(net.sides[0].agent.state(), PathState::Suspect);
    assert!(net.is_direct(0), "nothing is better");
    net.ways.iter_mut().for_each(|w| w.cut = false);
    let back = net.run_until(at(70_000), |n| n.sides[0].agent.state() == PathState::Direct);
    assert!(back.is_some_and(|t| t <= at(65_000)), "{back:?}");
}

#[test]
fn the_history_says_why() {
    let mut net = direct_pair(9);
    net.ways.iter_mut().for_each(|w| w.cut = true);
    net.run(at(40_000));
    let reasons: Vec<Reason> = net.sides[0].agent.history().map(|e| e.reason).collect();
    assert_eq!(reasons[..2], [Reason::RelayUp, Reason::Validated]);
    assert!(matches!(reasons[2], Reason::ProbesLost | Reason::Silent), "{reasons:?}");
    assert_eq!(reasons.len(), 3);
}
