//! Who goes direct, and how soon.

use super::net::*;
use crate::path::*;
use crate::time::Instant;

/// Milliseconds until the initiator and the responder send direct; both send data from t = 0 on.
fn time_to_direct(nats: [Nat; 2], seed: u8) -> [Option<u64>; 2] {
    let mut net = Net::new(nats, seed).with_relay();
    net.send_every(0, ms(10));
    let mut first: [Option<u64>; 2] = [None, None];
    net.run_until(at(10_000), |n| {
        for i in 0..2 {
            if first[i].is_none() && n.is_direct(i) {
                first[i] = Some(n.now.as_nanos() / 1_000_000);
            }
        }
        first.iter().all(Option::is_some)
    });
    first
}

/// Relay one way 50 ms, direct one way 70 ms.
#[test]
fn the_matrix_of_nats() {
    use Nat::*;
    let table = [
        // initiator, responder, latest direct of each in ms
        (Open, Open, Some([140, 210])),
        (Port, Open, Some([140, 210])),
        (PortTrap, Open, Some([140, 210])),
        (Symmetric, Open, Some([140, 210])),
        (Open, Port, Some([260, 190])),
        (Open, PortTrap, Some([260, 190])),
        (Open, Symmetric, Some([260, 190])),
        (Port, Port, Some([260, 260])),
        (Port, PortTrap, Some([260, 260])),
        (PortTrap, Port, Some([260, 260])),
        (PortTrap, PortTrap, Some([260, 260])),
        (Symmetric, Port, None),
        (Port, Symmetric, None),
        (Symmetric, Symmetric, None),
    ];
    for (a, b, latest) in table {
        let got = time_to_direct([a, b], 1);
        println!("{a:?} x {b:?}: {got:?} ms");
        match latest {
            None => assert_eq!(got, [None, None], "{a:?} x {b:?}"),
            Some(latest) => {
                for i in 0..2 {
                    assert!(got[i].is_some_and(|t| t <= latest[i]), "{a:?} x {b:?}: {got:?} > {latest:?}");
                }
            }
        }
    }
}

#[test]
fn an_early_packet_would_have_taken_the_mapping() {
    // The trap is real in this network: a full-TTL packet before the peer's own moves the peer's port.
    let mut net = Net::new([Nat::PortTrap, Nat::Port], 1);
    let peer = net.candidates(0);
    net.sides[1].agent.set_peer_endpoints(&peer, &[], wall(Instant::ZERO));
    net.send_every(1, ms(10));
    net.run(at(300));
    let mine = net.candidates(1);
    net.sides[0].agent.set_peer_endpoints(&mine, &[], wall(at(300)));
    net.send_every(0, ms(10));
    net.run(at(8000));
    assert!(!net.is_direct(0) && !net.is_direct(1));
}

#[test]
fn data_flows_by_the_relay_until_direct() {
    let mut net = Net::new([Nat::Port, Nat::Port], 2).with_relay();
    net.send_every(0, ms(10));
    net.run(at(60));
    assert_eq!(net.sides[0].agent.selected(), Some(Net::relayed(0)));
    assert_eq!(net.sides[1].last_data, Some(at(60)), "the first packet takes one way by the relay");
    net.run(at(3000));
    assert_eq!(net.sides[0].agent.state(), PathState::Direct);
    assert!(net.sides[1].longest_gap <= ms(30), "make before break: {:?}", net.sides[1].longest_gap);
}

#[test]
fn a_peer_without_a_relay_goes_direct_at_once() {
    let mut net = Net::new([Nat::Symmetric, Nat::Open], 3);
    let peer = net.candidates(1);
    net.sides[0].agent.set_peer_endpoints(&peer, &[], wall(Instant::ZERO));
    net.send_every(0, ms(10));
    let when = net.run_until(at(5000), |n| n.is_direct(0) && n.is_direct(1));
    assert_eq!(when, Some(at(210)), "one direct round trip, and half of one for the peer's own check");
}

#[test]
fn simultaneous_calls_make_one_round_each() {
    let mut net = Net::new([Nat::PortTrap, Nat::PortTrap], 4).with_relay();
    net.send_every(0, ms(10));
    net.send_every(1, ms(10));
    let when = net.run_until(at(5000), |n| n.is_direct(0) && n.is_direct(1));
    assert!(when.is_some_and(|t| t <= at(260)), "{when:?}");
    net.run(at(4000));
    for s in &net.sides {
        assert_eq!(s.agent.counters().rounds, 1);
        assert_eq!(s.agent.history().len(), 2);
    }
}

#[test]
fn loss_delays_direct_by_retransmissions_only() {
    let mut worst = 0;
    for seed in 0..40 {
        let mut net = Net::new([Nat::Port, Nat::PortTrap], seed).with_relay();
        for way in &mut net.ways {
            way.loss_percent = 10;
        }
        net.send_every(0, ms(10));
        let when = net.run_until(at(10_000), |n| n.is_direct(0) && n.is_direct(1));
        worst = worst.max(when.expect("goes direct").as_nanos() / 1_000_000);
    }
    println!("10 % loss, 40 runs: worst {worst} ms");
    assert!(worst <= 1500, "{worst} ms");
}

#[test]
fn a_pair_that_cannot_punch_costs_little() {
    let mut net = Net::new([Nat::Symmetric, Nat::Symmetric], 5).with_relay();
    net.send_every(0, ms(10));
    net.run(at(600_000));
    assert_eq!(net.sides[0].agent.state(), PathState::Relayed);
    assert!(net.sides[0].agent.rtt().is_some_and(|r| r == ms(100)), "the relayed path is measured");
    let c = *net.sides[0].agent.counters();
    println!("symmetric x symmetric, 10 min: {c:?}");
    assert!(c.rounds <= 13 && c.calls_sent <= 3 * c.rounds && c.pings_sent < 1000);
}

#[test]
fn an_idle_pair_has_no_timer_and_sends_nothing() {
    let mut net = Net::new([Nat::Port, Nat::Port], 6).with_relay();
    net.run(at(60_000));
    assert_eq!(net.direct_datagrams, 0);
    assert!(net.sides.iter().all(|s| s.agent.poll_timeout().is_none()));
    net.send_every(0, ms(10));
    net.run(at(70_000));
    assert!(net.is_direct(0) && net.is_direct(1));
    net.sides[0].interval = None;
    net.run(at(130_000));
    let quiet = net.direct_datagrams;
    assert!(net.sides.iter().all(|s| s.agent.poll_timeout().is_none()));
    assert_eq!(net.sides[0].agent.selected(), Some(Net::relayed(0)), "the next data starts on the relay");
    net.run(at(1_000_000));
    assert_eq!(net.direct_datagrams, quiet);
    net.send_every(0, ms(10));
    let when = net.run_until(at(1_010_000), |n| n.is_direct(0));
    assert!(when.is_some_and(|t| t <= at(1_000_260)), "{when:?}");
}

#[test]
fn a_clearly_better_direct_path_is_taken_after_three_samples() {
    let mut net = Net::new([Nat::Open, Nat::Open], 7).with_relay();
    net.send_every(0, ms(10));
    net.run(at(1000));
    assert!(net.is_direct(0));
    assert!(net.sides[0].agent.history().len() <= 2);
}
