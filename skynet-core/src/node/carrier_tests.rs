use super::*;
use crate::key::Secret;
use crate::relay::RelayClientConfig;
use crate::wire::relay::{Bound, Cookie, Frame, NACK, Nack, TICKET_LEN};

const ADDRESS: &str = "127.0.0.1:40000";

struct World {
    carrier: Carrier,
    relay: Relay,
    rng: Rng,
    now: Instant,
    udp_is_up: bool,
}

impl World {
    fn new() -> Self {
        let rng = Rng::from_seed([7; 32]);
        let address = "203.0.113.10:3478".parse().unwrap();
        let relay = Relay::at(RelayNo(1), address, crate::key::PublicKey([3; 32]));
        Self { carrier: Carrier::default(), relay, rng, now: Instant::ZERO, udp_is_up: false }
    }

    /// One turn of the owner; what the shell is asked for.
    fn turn(&mut self) -> Vec<NodeEvent> {
        self.carrier.handle_timeout(self.now);
        self.carrier.tend(&self.relay, self.udp_is_up, self.now);
        while self.carrier.poll_session(&mut self.rng, self.now).is_some() {}
        core::iter::from_fn(|| self.carrier.poll_event()).collect()
    }

    fn pass(&mut self, ms: u64) -> Vec<NodeEvent> {
        self.now = self.now + Duration::from_millis(ms);
        self.turn()
    }

    /// Goes from deadline to deadline until the shell is asked for something; how long that took.
    fn until_asked(&mut self, most: Duration) -> (Duration, NodeEvent) {
        let begun = self.now;
        loop {
            if let Some(event) = self.turn().pop() {
                return (self.now - begun, event);
            }
            // Nobody answers.
            while self.carrier.poll_transmit().is_some() {}
            let next = self.carrier.poll_timeout().expect("something is due");
            self.now = self.now.max(next);
            assert!(self.now - begun <= most, "not asked within {most:?}");
        }
    }

    fn open(&mut self) {
        let address = ADDRESS.parse().unwrap();
        let config = RelayClientConfig {
            relay_no: 1,
            lane: 0,
            ticket: [1; TICKET_LEN],
            bind_key: Secret::from_bytes([2; 32]),
            clock: RelayClock::new(1_800_000_000_000, Instant::ZERO),
        };
        let client = RelayClient::new(config, self.rng.fork(), self.now);
        self.carrier.opened(address, Way::Tls, client);
    }

    /// The relay answers every HELLO and BIND that comes by the stream.
    fn answer(&mut self) {
        while let Some((to, bytes)) = self.carrier.poll_transmit() {
            assert_eq!(to, ADDRESS.parse().unwrap());
            let Some(reply) = reply(1, &bytes) else { continue };
            let client = self.carrier.client_of(to).unwrap();
            client.handle_datagram(&reply, self.now);
        }
    }

    fn opened() -> Self {
        let mut w = Self::new();
        w.turn();
        w.pass(1_000);
        assert_eq!(w.carrier.opening(), Some(w.relay.no));
        w.open();
        w.answer();
        w.turn();
        assert!(w.carrier.is_up());
        w
    }
}

/// What a relay says to HELLO, BIND and KEEP.
pub(in crate::node) fn reply(relay_no: u16, bytes: &[u8]) -> Option<Vec<u8>> {
    let key = Secret::from_bytes([2; 32]);
    match Frame::parse(bytes).unwrap() {
        Frame::Hello(f) => Some(Cookie { relay_no, cookie: [9; 16], ts_ms: f.ts_ms }.encode(&key).to_vec()),
        Frame::Bind(f) => {
            let bound = Bound {
                flags: 0,
                gen_no: 5,
                lifetime_s: 120,
                keepalive_s: 20,
                observed: "127.200.1.1:1".parse().unwrap(),
                rate_kbit: 0,
                burst_kb: 0,
                features: 0,
                ts_ms: f.ts_ms,
            };
            Some(bound.encode(&key).to_vec())
        }
        Frame::Keep(_) => Some(bytes.to_vec()),
        _ => None,
    }
}

fn is_open(events: &[NodeEvent]) -> bool {
    matches!(events, [NodeEvent::OpenCarrier { .. }])
}

fn is_close(events: &[NodeEvent]) -> bool {
    matches!(events, [NodeEvent::CloseCarrier])
}

#[test]
fn a_stream_is_wanted_after_one_second_without_udp_and_not_before() {
    let mut w = World::new();
    assert!(w.turn().is_empty());
    assert_eq!(w.carrier.poll_timeout(), Some(Instant::ZERO + PATIENCE));
    assert!(w.pass(999).is_empty());
    assert!(is_open(&w.pass(1)));
    assert!(w.pass(60_000).is_empty(), "asked for once");
}

#[test]
fn nothing_is_wanted_while_udp_works() {
    let mut w = World { udp_is_up: true, ..World::new() };
    for _ in 0..100 {
        assert!(w.pass(1_000).is_empty());
    }
    assert_eq!(w.carrier.poll_timeout(), None);
}

#[test]
fn a_session_opens_by_the_stream_and_takes_the_place_of_the_relays_address() {
    let w = World::opened();
    let (address, client) = w.carrier.client().unwrap();
    assert_eq!((address, client.gen_no()), (ADDRESS.parse().unwrap(), Some(5)));
    assert_eq!(w.carrier.way(), Some(Way::Tls));
}

#[test]
fn udp_takes_over_and_what_is_on_its_way_still_comes_for_two_seconds() {
    let mut w = World::opened();
    w.udp_is_up = true;
    assert!(w.turn().is_empty());
    assert!(w.carrier.client().is_none(), "nothing is sent by it any more");
    assert!(w.carrier.address().is_some(), "what comes by it is taken");
    assert!(w.carrier.client_of(ADDRESS.parse().unwrap()).is_none());
    assert!(w.pass(1_999).is_empty());
    assert!(is_close(&w.pass(1)));
    assert_eq!(w.carrier.address(), None);
}

#[test]
fn a_session_that_moved_to_udp_is_not_moved_back_by_the_relays_refusals() {
    let mut w = World::opened();
    w.udp_is_up = true;
    w.turn();
    let nack = Nack { code: 1, gen_no: 5, node_no: 0, retry_ms: 0 }.encode();
    assert_eq!(nack[0], NACK);
    assert!(w.carrier.client_of(ADDRESS.parse().unwrap()).is_none(), "nobody is there to read {nack:?}");
    w.pass(100);
    assert_eq!(w.carrier.poll_transmit(), None);
}

#[test]
fn udp_that_answers_first_stops_the_opening() {
    let mut w = World::new();
    w.turn();
    assert!(is_open(&w.pass(1_000)));
    w.udp_is_up = true;
    assert!(is_close(&w.pass(10)));
    // What the shell had done already is not taken.
    w.open();
    assert_eq!(w.carrier.address(), None);
}

#[test]
fn failures_are_repeated_ever_more_slowly_and_a_change_of_network_begins_anew() {
    let mut w = World::new();
    w.turn();
    assert!(is_open(&w.pass(1_000)));
    let mut waits = Vec::new();
    for _ in 0..10 {
        w.carrier.closed(&mut w.rng, w.now);
        waits.push(w.until_asked(MAX_BACKOFF).0);
    }
    assert!(waits[0] >= Duration::from_millis(750) && waits[0] <= FIRST_BACKOFF, "{waits:?}");
    assert!(waits[9] >= Duration::from_secs(45) && waits[9] <= MAX_BACKOFF, "{waits:?}");
    w.carrier.closed(&mut w.rng, w.now);
    w.carrier.check(w.now);
    assert!(is_open(&w.turn()));
}

#[test]
fn a_stream_that_does_not_answer_any_more_is_closed_and_opened_again() {
    let mut w = World::opened();
    let (took, event) = w.until_asked(Duration::from_secs(30));
    assert!(matches!(event, NodeEvent::CloseCarrier), "{event:?}");
    // A keepalive interval, a second, three fast ones.
    assert!(took <= Duration::from_millis(22_200), "{took:?}");
    let (took, event) = w.until_asked(Duration::from_secs(2));
    assert!(matches!(event, NodeEvent::OpenCarrier { .. }) && took <= FIRST_BACKOFF);
    let mut w = World::opened();
    w.carrier.check(w.now);
    let (took, _) = w.until_asked(Duration::from_secs(30));
    assert!(took <= Duration::from_millis(2_200), "after a change of network: {took:?}");
}

#[test]
fn another_relay_ends_the_stream() {
    let mut w = World::opened();
    w.carrier.reset();
    let events: Vec<_> = core::iter::from_fn(|| w.carrier.poll_event()).collect();
    assert!(is_close(&events));
    assert!(w.turn().is_empty());
    assert!(is_open(&w.pass(1_000)));
}
