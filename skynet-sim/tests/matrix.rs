//! NAT × NAT with production nodes: which pairs go direct, how soon, and that every other pair has the relay.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::time::Duration;
use skynet_sim::Overlay;
use skynet_sim::oracle::Direct;
use skynet_sim::topology::NatKind;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Packets of the flow: 20 s of them.
const COUNT: u64 = 200;

/// Time to direct after the first packet in ms, if it came to that within the flow.
fn run(kinds: [NatKind; 2]) -> (Overlay, Option<u128>) {
    let mut o = Overlay::new(11);
    let [a, b] = kinds.map(|kind| {
        let cloud = o.cloud(kind);
        o.add_agent(cloud)
    });
    assert!(o.join_all(10 * S).unwrap(), "{kinds:?} {}", o.report());
    // Long enough that both have listed each other with all their endpoints.
    o.world_mut().run_for(30 * S).unwrap();
    let start = o.world().now();
    o.flow(a, b, 100 * MS, COUNT).unwrap();
    let mut direct = None;
    while o.world().now() < start + 25 * S {
        o.world_mut().run_for(10 * MS).unwrap();
        if direct.is_none() && o.is_direct(a, b) {
            direct = Some((o.world().now() - start).as_millis());
        }
    }
    (o, direct)
}

#[test]
fn every_pair_of_kinds_goes_direct_or_stays_relayed_as_the_oracle_demands() {
    let mut table = String::new();
    for (i, &a) in NatKind::ALL.iter().enumerate() {
        for &b in &NatKind::ALL[i..] {
            let (o, took) = run([a, b]);
            let [x, y] = [o.agents()[0], o.agents()[1]];
            let expected = o.expected(x, y);
            table += &format!("{:>9} {:<9} {expected:?} {took:?}\n", a.name(), b.name());
            match expected {
                // One round trip by the relay (50 ms) for the CALL, one direct (80 ms), one early retransmission.
                Direct::Must => assert!(took.is_some_and(|ms| ms <= 400), "{table}{}", o.report()),
                Direct::MustNot => assert!(!o.claims_direct(x, y), "{table}{}", o.report()),
                Direct::May => {}
            }
            let blocked = [a, b].contains(&NatKind::UdpBlocked);
            let arrived = o.received(x, y).map_or(0, |book| book.distinct() as u64);
            // Without UDP there is only TCP to the relay, which carries no packets yet.
            let wanted = if blocked { 0 } else { COUNT };
            assert_eq!(arrived, wanted, "{table}{}", o.report());
        }
    }
    println!("{table}");
}
