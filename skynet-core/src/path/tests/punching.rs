//! Who goes direct, and how soon.

use super::net::*;
use crate::path::*;
use crate::time::Instant;

/// Milliseconds until the initiator and the responder send direct; the initiator sends data from t = 0 on.
fn time_to_direct(nats: [Nat; 2], records: bool) -> [Option<u64>; 2] {
    let mut net = Net::new(nats, 1).with_relay();
    if records {
        for i in 0..2 {
            let peer = net.candidates(1 - i);
            net.sides[i].agent.set_peer_endpoints(&peer, &[], wall(Instant::ZERO));
        }
    }
    net.send_every(0, ms(10));
    let mut first: [Option<u64>; 2] = [None, None];
    net.run_until(at(10_000), |n| {
        for (i, first) in first.iter_mut().enumerate() {
            if first.is_none() && n.is_direct(i) {
                *first = Some(n.now.as_nanos() / 1_000_000);
            }
        }
        first.iter().all(Option::is_some)
    });
    first
}

/// Relay one way 50 ms, direct one way 70 ms. With an open peer whose record is known: one direct round trip.
/// Else the CALL's way, then one direct round trip, and one early retransmission where a filter ate the first volley.
#[test]
fn the_matrix_of_nats() {
    use Nat::*;
    let table = [
        // initiator, responder, latest direct of both in ms with the peer's record, and without
        (Open, Open, Some(([140, 210], [240, 190]))),
        (Port, Open, Some(([140, 210], [240, 240]))),
        (PortTrap, Open, Some(([140, 210], [240, 240]))),
        (Symmetric, Open, Some(([140, 210], [240, 310]))),
        (Open, Port, Some(([260, 210], [260, 210]))),
        (Open, PortTrap, Some(([260, 210], [260, 210]))),
        (Open, Symmetric, Some(([260, 210], [260, 210]))),
        (Port, Port, Some(([260, 260], [260, 260]))),
        (Port, PortTrap, Some(([260, 260], [260, 260]))),
        (PortTrap, Port, Some(([260, 260], [260, 260]))),
        (PortTrap, PortTrap, Some(([260, 260], [260, 260]))),
        (Symmetric, Port, None),
        (Port, Symmetric, None),
        (Symmetric, Symmetric, None),
    ];
    let mut late = Vec::new();
    for (a, b, latest) in table {
        for records in [true, false] {
            let got = time_to_direct([a, b], records);
            println!("{a:?} x {b:?}, record known: {records}: {got:?} ms");
            let want = latest.map(|(with, without)| if records { with } else { without });
            let fine = match want {
                None => got == [None, None],
                Some(want) => (0..2).all(|i| got[i].is_some_and(|t| t <= want[i])),
            };
            if !fine {
                late.push((a, b, records, got, want));
            }
        }
    }
    assert!(late.is_empty(), "{late:#?}");
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

/// The CALL takes longer than the direct path, so an initiator that fired at once would be early.
#[test]
fn openers_keep_a_slow_call_from_springing_the_trap() {
    use Nat::*;
    for nats in [[Port, PortTrap], [PortTrap, Port], [PortTrap, PortTrap]] {
        let mut net = Net::new(nats, 1);
        net.relay_delay = ms(150);
        net.ways.iter_mut().for_each(|w| w.delay = ms(20));
        let mut net = net.with_relay();
        for i in 0..2 {
            let peer = net.candidates(1 - i);
            net.sides[i].agent.set_peer_endpoints(&peer, &[], wall(Instant::ZERO));
        }
        net.send_every(0, ms(10));
        let when = net.run_until(at(4000), |n| n.is_direct(0) && n.is_direct(1));
        println!("{nats:?}, CALL 150 ms, direct 20 ms: {when:?}");
        assert!(when.is_some_and(|t| t <= at(210)), "{nats:?}: {when:?}");
    }
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
    // The peer hears the last keep-warm PING at 105 s, and rests 45 s later.
    net.run(at(165_000));
    let quiet = net.direct_datagrams;
    assert!(net.sides.iter().all(|s| s.agent.poll_timeout().is_none()));
    assert_eq!(net.sides[0].agent.selected(), Some(Net::relayed(0)), "the next data starts on the relay");
    net.run(at(1_000_000));
    assert_eq!(net.direct_datagrams, quiet);
    net.send_every(0, ms(10));
    let when = net.run_until(at(1_010_000), |n| n.is_direct(0));
    assert!(when.is_some_and(|t| t <= at(1_000_260)), "{when:?}");
}
