use super::*;
use crate::wire::relay::{BIND_LEN, Bound, Cookie, HELLO_LEN};

const RELAY_NO: u16 = 3;

fn key() -> Secret {
    Secret::from_bytes([4; 32])
}

struct World {
    now: Instant,
    client: RelayClient,
}

impl World {
    fn new() -> Self {
        let config = RelayClientConfig {
            relay_no: RELAY_NO,
            lane: 0,
            ticket: [1; TICKET_LEN],
            bind_key: key(),
            clock: RelayClock::new(1_700_000_000_000, Instant::ZERO),
        };
        Self { now: Instant::ZERO, client: RelayClient::new(config, Rng::from_seed([2; 32]), Instant::ZERO) }
    }
    fn up() -> Self {
        let mut w = Self::new();
        let hello = w.hello();
        w.cookie(hello.ts_ms, [7; 16]);
        let bind = w.bind();
        assert_eq!(bind.cookie, [7; 16]);
        w.bound(bind.ts_ms, 11, "198.51.100.1:1000");
        assert!(matches!(w.client.poll_event(), Some(RelayEvent::Up { gen_no: 11, .. })));
        w
    }
    fn sent(&mut self) -> Option<Vec<u8>> {
        self.client.poll_transmit()
    }
    fn hello(&mut self) -> Hello {
        let bytes = self.sent().expect("HELLO");
        assert_eq!(bytes.len(), HELLO_LEN);
        assert!(relay::mac_is_valid(&bytes, &key()));
        let Ok(Frame::Hello(f)) = Frame::parse(&bytes) else { panic!("not HELLO") };
        f
    }
    fn bind(&mut self) -> Bind {
        let bytes = self.sent().expect("BIND");
        assert_eq!(bytes.len(), BIND_LEN);
        assert!(relay::mac_is_valid(&bytes, &key()));
        let Ok(Frame::Bind(f)) = Frame::parse(&bytes) else { panic!("not BIND") };
        f
    }
    fn keep(&mut self) -> Keep {
        let bytes = self.sent().expect("KEEP");
        let Ok(Frame::Keep(f)) = Frame::parse(&bytes) else { panic!("not KEEP") };
        f
    }
    fn cookie(&mut self, ts_ms: u64, cookie: [u8; 16]) {
        let f = Cookie { relay_no: RELAY_NO, cookie, ts_ms };
        self.client.handle_datagram(&f.encode(&key()), self.now);
    }
    fn bound(&mut self, ts_ms: u64, gen_no: u16, observed: &str) {
        let f = bound(ts_ms, gen_no, observed);
        self.client.handle_datagram(&f.encode(&key()), self.now);
    }
    fn tick(&mut self) -> RelayTimer {
        let (at, why) = self.client.poll_timeout().unwrap();
        assert!(at >= self.now);
        self.now = at;
        self.client.handle_timeout(at);
        why
    }
    fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }
}

fn bound(ts_ms: u64, gen_no: u16, observed: &str) -> Bound {
    Bound {
        flags: 0,
        gen_no,
        lifetime_s: 120,
        keepalive_s: 20,
        observed: observed.parse().unwrap(),
        rate_kbit: 0,
        burst_kb: 0,
        features: 0,
        ts_ms,
    }
}

#[test]
fn binds_in_two_round_trips_and_measures_the_second() {
    let mut w = World::new();
    let hello = w.hello();
    w.pass(30);
    w.cookie(hello.ts_ms, [7; 16]);
    let bind = w.bind();
    assert!(bind.ts_ms > hello.ts_ms);
    w.pass(30);
    w.bound(bind.ts_ms, 9, "198.51.100.1:1000");
    let rtt = Duration::from_millis(30);
    let observed = "198.51.100.1:1000".parse().unwrap();
    assert_eq!(w.client.poll_event(), Some(RelayEvent::Up { gen_no: 9, observed, rtt }));
    assert_eq!(w.client.data_header(7, Class::Bulk, 0), Some([0xA1, 0, 0, 9, 0, 0, 0, 7]));
}

#[test]
fn says_hello_again_after_250_500_1000_and_2000_ms_and_never_gives_up() {
    let mut w = World::new();
    let mut at = vec![];
    while at.len() < 40 {
        while w.sent().is_some() {
            at.push(w.now.as_nanos() / 1_000_000);
        }
        w.tick();
    }
    assert_eq!(at[..4], [0, 250, 750, 1750]);
    assert!(at.windows(2).all(|p| p[1] - p[0] <= 2_000 + 5_000));
}

#[test]
fn timestamps_rise_even_if_the_clock_does_not() {
    let mut w = World::new();
    let first = w.hello().ts_ms;
    w.client.rebind(w.now);
    let second = w.hello().ts_ms;
    assert!(second > first);
}

#[test]
fn believes_no_answer_with_a_wrong_mac_an_unknown_timestamp_or_another_relay() {
    let mut w = World::new();
    let ts_ms = w.hello().ts_ms;
    let good = Cookie { relay_no: RELAY_NO, cookie: [7; 16], ts_ms };
    let bad_key = Secret::from_bytes([5; 32]);
    w.client.handle_datagram(&good.encode(&bad_key), w.now);
    w.client.handle_datagram(&Cookie { ts_ms: ts_ms + 1, ..good.clone() }.encode(&key()), w.now);
    w.client.handle_datagram(&Cookie { relay_no: 4, ..good.clone() }.encode(&key()), w.now);
    w.client.handle_datagram(&bound(ts_ms + 9, 1, "1.2.3.4:5").encode(&key()), w.now);
    assert_eq!(w.sent(), None);
    assert!(!w.client.is_up());
    for bit in 0..good.encode(&key()).len() * 8 {
        let mut bytes = good.encode(&key());
        bytes[bit / 8] ^= 1 << (bit % 8);
        w.client.handle_datagram(&bytes, w.now);
        assert_eq!(w.sent(), None, "bit {bit}");
    }
}

#[test]
fn an_old_bound_does_not_replace_a_newer_one() {
    let mut w = World::up();
    w.client.rebind(w.now);
    let first = w.bind();
    w.pass(250);
    w.client.handle_timeout(w.now);
    let second = w.hello();
    w.cookie(second.ts_ms, [8; 16]);
    let third = w.bind();
    w.bound(third.ts_ms, 12, "198.51.100.1:1000");
    w.bound(first.ts_ms, 11, "198.51.100.1:1000");
    assert_eq!(w.client.gen_no(), Some(12));
}

#[test]
fn keeps_every_twenty_seconds_while_answered() {
    let mut w = World::up();
    for _ in 0..10 {
        let before = w.now;
        assert_eq!(w.tick(), RelayTimer::Keepalive);
        assert_eq!(w.now.saturating_since(before).as_secs(), if before == Instant::ZERO { 20 } else { 19 });
        let keep = w.keep();
        w.pass(1_000 - 1);
        w.client.handle_datagram(&keep.encode(), w.now);
        w.pass(1);
    }
    assert!(w.client.is_up());
    let rtt = w.client.rtt().unwrap();
    assert!(rtt > Duration::from_millis(700) && w.client.least_rtt() == Some(Duration::ZERO), "{rtt:?}");
}

#[test]
fn a_relay_that_carries_data_is_missed_within_two_seconds() {
    let mut w = World::up();
    let used = Duration::from_secs(60);
    w.client.note_use(w.now + used, w.now);
    for _ in 0..20 {
        let before = w.now;
        assert_eq!(w.tick(), RelayTimer::Keepalive);
        assert_eq!(w.now.saturating_since(before), Duration::from_secs(1));
        let keep = w.keep();
        w.client.handle_datagram(&keep.encode(), w.now);
    }
    // It dies right after an answer.
    let (died, mut keeps) = (w.now, 0);
    while w.client.is_up() {
        w.tick();
        keeps += core::iter::from_fn(|| w.sent()).filter(|b| b.len() == relay::KEEP_LEN).count();
    }
    let took = w.now.saturating_since(died);
    assert!(keeps == 7 && took <= Duration::from_millis(1_950), "{keeps} KEEPs in {took:?}");
    assert!(w.client.poll_timeout().is_some());
}

#[test]
fn a_lost_answer_or_five_do_not_end_a_session_in_use() {
    let mut w = World::up();
    w.client.note_use(w.now + Duration::from_secs(60), w.now);
    for _ in 0..5 {
        w.tick();
        w.keep();
    }
    w.tick();
    let keep = w.keep();
    w.client.handle_datagram(&keep.encode(), w.now);
    assert!(w.client.is_up());
    assert_eq!(w.client.poll_timeout().unwrap().1, RelayTimer::Keepalive);
}

#[test]
fn a_relay_that_drains_is_told_once_and_stays_up() {
    let mut w = World::up();
    let mut events = Vec::new();
    for draining in [true, true, false] {
        w.tick();
        let keep = Keep { flags: u8::from(draining), ..w.keep() };
        w.client.handle_datagram(&keep.encode(), w.now);
        assert!(w.client.is_up() && w.client.is_draining() == draining);
        events.extend(core::iter::from_fn(|| w.client.poll_event()));
    }
    assert_eq!(events, [RelayEvent::Draining(true), RelayEvent::Draining(false)]);
    let mut down = World::new();
    down.hello();
    down.client.handle_datagram(&Nack { code: 4, gen_no: 0, node_no: 0, retry_ms: 0 }.encode(), down.now);
    assert_eq!(down.client.poll_event(), Some(RelayEvent::Draining(true)));
    w.client.handle_datagram(&Nack { code: 4, gen_no: 0, node_no: 0, retry_ms: 0 }.encode(), w.now);
    assert!(!w.client.is_draining(), "an answer to a HELLO says nothing of a session that is up");
}

#[test]
fn goes_down_2_2_seconds_after_an_unanswered_keep() {
    let mut w = World::up();
    w.tick();
    let start = w.now;
    let mut keeps = 0;
    while w.client.is_up() {
        while w.sent().is_some() {
            keeps += 1;
        }
        w.tick();
    }
    assert_eq!(keeps, 4);
    assert_eq!(w.now.saturating_since(start), Duration::from_millis(1000 + 3 * 400));
    assert_eq!(w.client.poll_event(), Some(RelayEvent::Down));
    w.hello();
}

#[test]
fn data_from_the_relay_counts_as_life() {
    let mut w = World::up();
    w.tick();
    w.keep();
    let header = DataHeader::new(Class::Bulk, 0, 11, 5).encode();
    w.client.handle_datagram(&[&header[..], b"x"].concat(), w.now);
    assert_eq!(w.client.poll_timeout().unwrap().1, RelayTimer::Keepalive);
    let stale = DataHeader::new(Class::Bulk, 0, 10, 5).encode();
    w.tick();
    w.keep();
    w.client.handle_datagram(&[&stale[..], b"x"].concat(), w.now);
    assert_eq!(w.client.poll_timeout().unwrap().1, RelayTimer::KeepAnswer);
}

#[test]
fn a_nack_starts_one_attempt_in_five_seconds_and_ends_nothing() {
    let mut w = World::up();
    let nack = Nack { code: 1, gen_no: 11, node_no: 0, retry_ms: 0 }.encode();
    for _ in 0..100 {
        w.client.handle_datagram(&nack, w.now);
    }
    w.bind();
    assert_eq!(w.sent(), None);
    assert!(w.client.is_up());
    let end = w.now + Duration::from_secs(4);
    while w.client.poll_timeout().unwrap().0 < end {
        w.tick();
        w.client.handle_datagram(&nack, w.now);
        while w.sent().is_some() {}
    }
    assert!(w.client.is_up(), "an unanswered hint ends nothing");
    w.client.handle_datagram(&Nack { code: 1, gen_no: 99, node_no: 0, retry_ms: 0 }.encode(), w.now);
    assert_eq!(w.sent(), None);
}

#[test]
fn a_restarted_relay_that_answers_bind_with_a_cookie_is_bound_in_two_round_trips() {
    let mut w = World::up();
    w.client.rebind(w.now);
    let bind = w.bind();
    w.cookie(bind.ts_ms, [8; 16]);
    let again = w.bind();
    assert_eq!(again.cookie, [8; 16]);
    w.bound(again.ts_ms, 12, "198.51.100.1:1000");
    assert!(matches!(w.client.poll_event(), Some(RelayEvent::Up { gen_no: 12, .. })));
}

#[test]
fn tells_a_changed_address_within_a_session() {
    let mut w = World::up();
    w.client.rebind(w.now);
    let bind = w.bind();
    w.bound(bind.ts_ms, 11, "198.51.100.1:2000");
    let observed = "198.51.100.1:2000".parse().unwrap();
    assert_eq!(w.client.poll_event(), Some(RelayEvent::ObservedChanged(observed)));
}

#[test]
fn an_old_cookie_is_not_used_again() {
    let mut w = World::up();
    w.pass(120_001);
    w.client.rebind(w.now);
    w.hello();
}
