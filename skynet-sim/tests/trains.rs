//! A network card that loses what is sent as a train: production nodes find out by themselves and send datagram by
//! datagram; nobody else notices.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::time::Duration;
use skynet_sim::topology::NatKind;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// So close together that many leave in one turn, as trains if those are used.
const BURST: Duration = Duration::ZERO;

struct Pair {
    o: Overlay,
    a: HostId,
    b: HostId,
    sent: u64,
}

impl Pair {
    fn new(seed: u64, kind: NatKind) -> Self {
        let mut o = Overlay::new(seed);
        let [a, b] = [kind; 2].map(|kind| {
            let cloud = o.cloud(kind);
            o.add_agent(cloud)
        });
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        Self { o, a, b, sent: 0 }
    }

    /// `a` sends `count` packets at this pace, and `seconds` pass.
    fn send(&mut self, every: Duration, count: u64, seconds: u64) {
        self.o.flow(self.a, self.b, every, count).unwrap();
        self.o.world_mut().run_for(Duration::from_secs(seconds)).unwrap();
        self.sent += count;
    }

    fn arrived(&self) -> u64 {
        self.o.received(self.a, self.b).map_or(0, |r| r.packets)
    }

    fn trains(&self) -> [(bool, u32); 2] {
        [self.o.trains(self.a, self.b).unwrap(), self.o.trains(self.b, self.a).unwrap()]
    }
}

#[test]
fn a_card_that_loses_trains_gets_none_after_the_check_and_its_peer_notices_nothing() {
    let mut pair = Pair::new(1, NatKind::PortRestricted);
    pair.o.set_eats_trains(pair.a, true).unwrap();
    pair.send(50 * MS, 200, 12);
    assert!(pair.o.is_direct(pair.a, pair.b), "{}", pair.o.report());
    assert_eq!(pair.trains(), [(false, 1), (true, 0)], "{}", pair.o.report());
    assert_eq!(pair.arrived(), pair.sent, "single packets were never lost");
    pair.send(BURST, 500, 5);
    assert_eq!(pair.arrived(), pair.sent, "bursts leave datagram by datagram");
    assert_eq!(pair.trains(), [(false, 1), (true, 0)]);
}

#[test]
fn a_card_that_loses_trains_would_lose_bursts() {
    let mut pair = Pair::new(2, NatKind::PortRestricted);
    pair.send(50 * MS, 200, 12);
    assert_eq!(pair.trains(), [(true, 0); 2]);
    pair.o.set_eats_trains(pair.a, true).unwrap();
    pair.send(BURST, 500, 2);
    assert!(pair.arrived() < pair.sent, "the burst was no train: the test above proves nothing");
}

#[test]
fn where_trains_arrive_they_are_used_on_every_kind_of_path() {
    for kind in [NatKind::PortRestricted, NatKind::Symmetric] {
        let mut pair = Pair::new(3, kind);
        pair.send(50 * MS, 200, 12);
        pair.send(BURST, 500, 5);
        assert_eq!(pair.arrived(), pair.sent);
        assert_eq!(pair.trains(), [(true, 0); 2], "{}", pair.o.report());
    }
}
