use super::*;
use crate::control::message::Welcome;
use crate::key::{PublicKey, Secret};
use crate::node::carrier::tests::reply;
use crate::wire::probe::RelayRtt;

const FIRST: &str = "203.0.113.10:3478";
const SECOND: &str = "198.51.100.7:3478";
const STREAM: &str = "127.0.0.1:40000";

/// Two relays, of which those in `answering` are there.
struct World {
    set: RelaySet,
    rng: Rng,
    now: Instant,
    control: Option<RelayNo>,
    answering: Vec<SocketAddr>,
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn told(set: &RelaySet) -> Vec<u16> {
    set.told().iter().map(|RelayRtt { relay_no, .. }| *relay_no).collect()
}

/// Relay 2's.
fn welcome() -> Welcome {
    Welcome {
        relay_unix_ms: 1_800_000_000_000,
        observed: addr("192.0.2.1:1"),
        ticket: [1; crate::wire::relay::TICKET_LEN],
        bind_key: Secret::from_bytes([2; 32]),
        relay_no: 2,
        receipt: Vec::new(),
        genesis: Vec::new(),
        manifest: Vec::new(),
    }
}

impl World {
    /// With the ticket of relay 2.
    fn new(control: Option<u16>) -> Self {
        let (mut rng, now) = (Rng::from_seed([5; 32]), Instant::ZERO);
        let mut set = RelaySet::expecting(now);
        let relay = |no: u8, at| (RelayNo(no.into()), addr(at), PublicKey([no; 32]));
        set.set_ticket(&welcome(), &[relay(1, FIRST), relay(2, SECOND)], &mut rng, now);
        Self { set, rng, now, control: control.map(RelayNo), answering: Vec::new() }
    }

    /// Passes `ms`; what the shell is asked for on the way.
    fn pass(&mut self, ms: u64) -> Vec<NodeEvent> {
        let (end, mut asked) = (self.now + Duration::from_millis(ms), Vec::new());
        loop {
            self.set.handle_timeout(&mut self.rng, self.now);
            self.set.tend_carrier(self.control, self.now);
            while self.set.poll_event(&mut self.rng, self.now).is_some() {
                self.set.tend_carrier(self.control, self.now);
            }
            while let Some((to, bytes)) = self.set.poll_transmit() {
                let Some((no, Some(client))) = self.set.client_at(to) else { continue };
                if let Some(reply) = reply(no.0, &bytes).filter(|_| self.answering.contains(&to)) {
                    client.handle_datagram(&reply, self.now);
                }
            }
            asked.extend(core::iter::from_fn(|| self.set.poll_carrier()));
            if self.now >= end {
                return asked;
            }
            self.now = self.now + Duration::from_millis(1);
        }
    }

    /// A stream is open to the relay that was asked for, and its session with it.
    fn with_stream(control: Option<u16>) -> Self {
        let mut w = Self::new(control);
        w.pass(1_000);
        w.set.carrier_opened(addr(STREAM), Way::Tls, &mut w.rng, w.now);
        w.answering.push(addr(STREAM));
        w.pass(10);
        w
    }
}

fn opened_to(asked: &[NodeEvent]) -> Vec<u16> {
    let relay = |event: &NodeEvent| match event {
        NodeEvent::OpenCarrier { relay, .. } => Some(relay.0),
        _ => None,
    };
    asked.iter().filter_map(relay).collect()
}

#[test]
fn while_one_relay_of_two_answers_by_udp_no_stream_is_wanted() {
    let mut w = World::new(Some(1));
    w.answering.push(addr(SECOND));
    assert!(w.pass(70_000).is_empty());
    assert_eq!(told(&w.set), [2]);
}

#[test]
fn without_udp_anywhere_the_stream_is_the_session_of_the_control_channels_relay() {
    let mut w = World::new(Some(1));
    assert!(w.pass(999).is_empty());
    assert_eq!(opened_to(&w.pass(1)), [1]);
    assert!(w.set.expected_until().is_some());
    let w = &mut World::with_stream(Some(1));
    assert_eq!(w.set.stream(), Some((RelayNo(1), Way::Tls)));
    assert_eq!((told(&w.set), w.set.home().map(|r| r.no)), (vec![1], Some(RelayNo(1))));
    assert_eq!(
        w.set.session(RelayNo(1)).map(|(to, client)| (to, client.is_up())),
        Some((addr(STREAM), true))
    );
    assert!(w.set.session(RelayNo(2)).is_some_and(|(to, client)| to == addr(SECOND) && !client.is_up()));
    assert!(w.set.addresses().contains(&(addr(STREAM), RelayNo(1))));
    assert_eq!(w.set.expected_until(), None);
    w.set.carrier_closed(&mut w.rng, w.now);
    assert_eq!((told(&w.set), w.set.stream()), (vec![], None));
    assert_eq!(opened_to(&w.pass(1_000)), [1]);
}

#[test]
fn udp_at_any_relay_takes_over_and_what_the_stream_still_holds_is_taken_for_two_seconds() {
    for (at, no) in [(FIRST, 1), (SECOND, 2)] {
        let mut w = World::with_stream(Some(1));
        assert!(w.pass(3_000).is_empty());
        w.answering.push(addr(at));
        let mut passed = 0;
        while w.set.stream().is_some() {
            assert!(w.pass(100).is_empty());
            passed += 100;
            assert!(passed <= 65_000, "an attempt a minute, and what is left of the one before");
        }
        assert_eq!((told(&w.set), w.set.home().map(|r| r.no)), (vec![no], Some(RelayNo(no))));
        assert_eq!(
            w.set.session(RelayNo(no)).map(|(to, client)| (to, client.is_up())),
            Some((addr(at), true))
        );
        assert!(matches!(w.set.client_at(addr(STREAM)), Some((RelayNo(1), None))));
        assert!(w.pass(1_800).is_empty());
        assert!(w.set.client_at(addr(STREAM)).is_some());
        assert!(matches!(w.pass(300)[..], [NodeEvent::CloseCarrier]));
        assert!(w.set.client_at(addr(STREAM)).is_none());
    }
}

#[test]
fn a_stream_that_nothing_goes_by_follows_the_control_channel() {
    let mut w = World::with_stream(Some(2));
    assert_eq!(told(&w.set), [2]);
    w.control = Some(RelayNo(1));
    // Data goes by it until five seconds from now.
    let used_until = w.now + Duration::from_secs(5);
    w.set.note_use(RelayNo(2), used_until, w.now);
    assert!(w.pass(64_900).is_empty());
    let asked = w.pass(1_200);
    assert!(matches!(asked[..], [NodeEvent::CloseCarrier, NodeEvent::OpenCarrier { .. }]), "{asked:?}");
    assert_eq!((opened_to(&asked), told(&w.set)), (vec![1], vec![]));
    w.set.carrier_opened(addr(STREAM), Way::Tls, &mut w.rng, w.now);
    assert!(w.pass(200_000).is_empty(), "there it stays");
    assert_eq!(told(&w.set), [1]);
}

#[test]
fn a_stream_that_had_to_go_elsewhere_stays_there() {
    let mut w = World::new(Some(1));
    let mut asked = opened_to(&w.pass(1_000));
    for _ in 0..2 {
        w.set.carrier_closed(&mut w.rng, w.now);
        asked.extend(opened_to(&w.pass(3_000)));
    }
    assert_eq!(asked, [1, 1, 2], "no stream leads to the control channel's relay");
    w.set.carrier_opened(addr(STREAM), Way::Tls, &mut w.rng, w.now);
    w.answering.push(addr(STREAM));
    assert!(w.pass(300_000).is_empty());
    assert_eq!(told(&w.set), [2]);
}

#[test]
fn without_a_control_channel_home_is_tried_and_after_two_failures_the_first_relay() {
    let mut w = World::new(None);
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.extend(opened_to(&w.pass(20_000)));
        w.set.carrier_closed(&mut w.rng, w.now);
    }
    assert_eq!(asked, [2, 2, 1, 2, 1]);
}

#[test]
fn a_relay_that_is_none_of_ours_any_more_takes_its_stream_with_it() {
    let mut w = World::with_stream(Some(1));
    w.control = Some(RelayNo(2));
    w.set.set_ticket(&welcome(), &[(RelayNo(2), addr(SECOND), PublicKey([2; 32]))], &mut w.rng, w.now);
    assert!(matches!(w.pass(0)[..], [NodeEvent::CloseCarrier]));
    assert_eq!(opened_to(&w.pass(1_000)), [2]);
}
