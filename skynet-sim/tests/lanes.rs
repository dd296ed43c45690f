//! Production nodes agree on lane 1 and its cipher, whatever happens to what they say about it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::session::{Engine, Suite};
use skynet_core::time::Duration;
use skynet_core::wire::record::{SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305};
use skynet_sim::network::Datagram;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Offer, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const BOTH: u32 = SUITE_CHACHA20_POLY1305 | SUITE_AES_256_GCM;
const AES: (Option<Suite>, u8) = (Some(Suite::Aes256Gcm), 1);
const CHACHA: (Option<Suite>, u8) = (Some(Suite::ChaCha20Poly1305), 1);
const LANE_0: (Option<Suite>, u8) = (Some(Suite::ChaCha20Poly1305), 0);

struct Pair {
    o: Overlay,
    a: HostId,
    b: HostId,
}

impl Pair {
    fn new(seed: u64, engine: Engine, kind: NatKind, offers: [(u32, u8); 2]) -> Self {
        Self::with_chunks(seed, engine, kind, offers, [true; 2])
    }

    fn with_chunks(
        seed: u64,
        engine: Engine,
        kind: NatKind,
        offers: [(u32, u8); 2],
        chunks: [bool; 2],
    ) -> Self {
        let mut o = Overlay::with_engine(seed, engine);
        let clouds = [kind; 2].map(|kind| o.cloud(kind));
        let [a, b] = [0, 1].map(|i| {
            let (suites, max_lanes) = offers[i];
            o.add_agent_with(clouds[i], Offer { suites, max_lanes, chunks: chunks[i], ..Offer::default() })
        });
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        Self { o, a, b }
    }

    /// Both send for so long, and all of it arrives.
    fn talk(&mut self, seconds: u64) {
        let count = seconds * 20;
        for (from, to) in [(self.a, self.b), (self.b, self.a)] {
            self.o.flow(from, to, 50 * MS, count).unwrap();
        }
        self.o.world_mut().run_for(Duration::from_secs(seconds + 2)).unwrap();
        for (from, to) in [(self.a, self.b), (self.b, self.a)] {
            let book = self.o.received(from, to).unwrap();
            assert!(book.is_complete(count), "missing {:?}\n{}", book.missing(count), self.o.report());
        }
    }

    fn lanes(&self) -> [(Option<Suite>, u8); 2] {
        [self.o.lanes(self.a, self.b), self.o.lanes(self.b, self.a)]
    }

    fn drop_on_the_internet(&mut self, eats: impl Fn(&Datagram) -> bool + 'static) {
        let internet = self.o.topology.internet();
        self.o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(move |d| !eats(d))));
    }
}

/// By its length, which is all that tells: HELLO is 80 bytes padded, OPEN and ACCEPT 32.
fn is_record(d: &Datagram) -> bool {
    let message = if d.bytes.first() == Some(&0xa1) { &d.bytes[8..] } else { &d.bytes[..] };
    message.first() == Some(&4) && matches!(message.len(), 112 | 64)
}

#[test]
fn bulk_moves_to_lane_1_with_the_cipher_both_offer() {
    for (offers, expected) in [
        ([(BOTH, 4), (BOTH, 4)], AES),
        ([(BOTH, 1), (BOTH, 8)], AES),
        ([(SUITE_CHACHA20_POLY1305, 4), (BOTH, 4)], CHACHA),
        ([(BOTH, 4), (SUITE_CHACHA20_POLY1305, 4)], CHACHA),
        ([(BOTH, 0), (BOTH, 4)], LANE_0),
    ] {
        for engine in [Engine::Noise, Engine::Null] {
            let mut pair = Pair::new(1, engine, NatKind::PortRestricted, offers);
            pair.talk(10);
            assert_eq!(pair.lanes(), [expected; 2], "{offers:?} {engine:?}\n{}", pair.o.report());
        }
    }
}

#[test]
fn a_relayed_pair_has_lane_1_too() {
    let mut pair = Pair::new(2, Engine::Noise, NatKind::Symmetric, [(BOTH, 4); 2]);
    pair.talk(10);
    assert!(!pair.o.is_direct(pair.a, pair.b));
    assert_eq!(pair.lanes(), [AES; 2], "{}", pair.o.report());
}

#[test]
fn who_withholds_all_records_leaves_the_pair_on_lane_0_and_downgrades_nothing() {
    let mut pair = Pair::new(3, Engine::Noise, NatKind::PortRestricted, [(BOTH, 4); 2]);
    pair.drop_on_the_internet(is_record);
    pair.talk(300);
    assert_eq!(pair.lanes(), [LANE_0; 2], "{}", pair.o.report());
}

#[test]
fn rekeys_under_traffic_lose_nothing_and_lane_1_stays_open() {
    let mut pair = Pair::new(4, Engine::Noise, NatKind::PortRestricted, [(BOTH, 4); 2]);
    pair.talk(620);
    assert_eq!(pair.lanes(), [AES; 2], "{}", pair.o.report());
}

#[test]
fn records_that_get_lost_half_of_the_time_cost_no_packet() {
    for seed in 0..20 {
        let mut pair = Pair::new(100 + seed, Engine::Noise, NatKind::PortRestricted, [(BOTH, 4); 2]);
        let n = std::cell::Cell::new(seed);
        pair.drop_on_the_internet(move |d| {
            n.set(n.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
            is_record(d) && n.get() >> 63 == 1
        });
        pair.talk(260);
        let lanes = pair.lanes();
        assert!(lanes.iter().all(|l| *l == AES || *l == LANE_0), "{lanes:?}");
    }
}

#[test]
fn a_peer_that_restarts_gets_lane_1_again() {
    for how in [Stop::Kill, Stop::PowerOff] {
        let mut pair = Pair::new(5, Engine::Noise, NatKind::PortRestricted, [(BOTH, 4); 2]);
        pair.talk(10);
        pair.o.restart_agent(pair.b, how);
        pair.o.world_mut().run_for(30 * S).unwrap();
        pair.o.flow(pair.a, pair.b, 50 * MS, 1_000).unwrap();
        pair.o.world_mut().run_for(40 * S).unwrap();
        assert_eq!(pair.lanes(), [AES; 2], "{}", pair.o.report());
    }
}

#[test]
fn chunks_are_sent_if_both_ends_offer_them_and_a_lane_is_open() {
    for (chunks, lanes, expected) in [
        ([true, true], 4, true),
        ([true, false], 4, false),
        ([false, true], 4, false),
        ([true, true], 0, false),
    ] {
        let offers = [(BOTH, lanes); 2];
        for kind in [NatKind::PortRestricted, NatKind::Symmetric] {
            let mut pair = Pair::with_chunks(6, Engine::Null, kind, offers, chunks);
            pair.talk(10);
            for (from, to) in [(pair.a, pair.b), (pair.b, pair.a)] {
                assert_eq!(pair.o.sends_chunks(from, to), expected, "{chunks:?} {lanes}");
            }
        }
    }
}

#[test]
fn a_path_that_loses_data_goes_without_chunks_until_it_loses_none() {
    for kind in [NatKind::PortRestricted, NatKind::Symmetric] {
        let mut pair = Pair::new(7, Engine::Null, kind, [(BOTH, 4); 2]);
        pair.talk(10);
        assert!(pair.o.sends_chunks(pair.a, pair.b));
        let n = std::cell::Cell::new(0);
        // One in twenty of what is as long as the flow's messages.
        pair.drop_on_the_internet(move |d| {
            n.set(n.get() + u64::from(d.bytes.len() > 200));
            d.bytes.len() > 200 && n.get().is_multiple_of(20)
        });
        pair.o.flow(pair.a, pair.b, 2 * MS, 30_000).unwrap();
        pair.o.world_mut().run_for(30 * S).unwrap();
        assert!(!pair.o.sends_chunks(pair.a, pair.b), "{}", pair.o.report());
        assert!(pair.o.sends_chunks(pair.b, pair.a), "the other direction is fine");
        pair.drop_on_the_internet(|_| false);
        pair.o.world_mut().run_for(29 * S).unwrap();
        assert!(pair.o.sends_chunks(pair.a, pair.b), "{}", pair.o.report());
    }
}
