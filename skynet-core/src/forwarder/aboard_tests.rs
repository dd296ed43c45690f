use super::*;
use crate::forwarder::unix_ms;
use crate::time::Duration;
use crate::wire::relay::{
    Bind, Bound, Class, Cookie, DATA_HEADER_LEN, Frame, Hello, Keep, Nack, Ticket, bind_key,
};

const NET: [u8; 8] = *b"networkA";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn key() -> Secret {
    Secret::from_bytes([7; 32])
}

fn start() -> Now {
    Now {
        mono: Instant::ZERO + Duration::from_secs(5),
        unix: UnixTime(1_800_000_000),
        unix_nanos: 900_000_000,
    }
}

fn relay(limits: RelayLimits) -> MemberRelay {
    let (time, rng) = (RelayTime::new(start()), Rng::from_seed([1; 32]));
    MemberRelay::new((RelayNo(0x8001), limits), key(), Arc::default(), rng, (time, start().mono))
}

fn ticket(network_id: [u8; 8], node_no: u32, key: &Secret) -> ([u8; 64], Secret) {
    let ticket = Ticket {
        kid: KID,
        rate_class: 0,
        node_no,
        network_id,
        not_after: start().unix.0 + 60,
        issue_nonce: 3,
        identity_hash: [4; 16],
    };
    let bytes = ticket.mint(key);
    (bytes, bind_key(key, &bytes))
}

/// Binds a node of a network; its session's number, or `None` if it is not let in.
fn bind(
    relay: &mut MemberRelay,
    (network, node_no): ([u8; 8], u32),
    from: &str,
    with: &Secret,
) -> Option<u16> {
    let (now, (ticket, key)) = (start().mono, ticket(network, node_no, with));
    let ts_ms = unix_ms(start()) + u64::from(node_no);
    let mut hello = Hello { lane: 0, ticket, ts_ms }.encode(&key);
    let Onward { len, .. } = relay.handle_datagram(None, addr(from), &mut hello, now)?;
    let Ok(Frame::Cookie(Cookie { cookie, relay_no: 0x8001, .. })) = Frame::parse(&hello[..len]) else {
        return None;
    };
    let mut bind = Bind { lane: 0, ticket, ts_ms: ts_ms + 1, cookie }.encode(&key);
    let Onward { len, .. } = relay.handle_datagram(None, addr(from), &mut bind, now)?;
    let Ok(Frame::Bound(Bound { gen_no, .. })) = Frame::parse(&bind[..len]) else { return None };
    Some(gen_no)
}

fn data(gen_no: u16, to: u32, len: usize) -> Vec<u8> {
    let mut frame = DataHeader::new(Class::Bulk, 0, gen_no, to).encode().to_vec();
    frame.resize(DATA_HEADER_LEN + len, 4);
    frame
}

#[test]
fn who_has_a_ticket_of_this_member_is_served_from_where_it_was_asked_and_nobody_else() {
    let mut relay = relay(RelayLimits::default());
    let a = bind(&mut relay, (NET, 1), "192.0.2.1:1", &key()).unwrap();
    let b = bind(&mut relay, (NET, 2), "192.0.2.2:1", &key()).unwrap();
    assert_eq!(
        bind(&mut relay, (NET, 3), "192.0.2.3:1", &Secret::from_bytes([8; 32])),
        None,
        "another's ticket"
    );
    let mut frame = data(a, 2, 100);
    let onward = relay.handle_datagram(None, addr("192.0.2.1:1"), &mut frame, start().mono).unwrap();
    assert_eq!(onward, Onward { to: addr("192.0.2.2:1"), from: None, len: 108 });
    let header = DataHeader::parse(&frame).unwrap();
    assert_eq!((header.gen_no, header.node_no, header.hops()), (b, 1, 1));
    // One of another network, even with a ticket under this key, reaches nobody of this one.
    let foreign = bind(&mut relay, (*b"networkB", 9), "192.0.2.9:1", &key()).unwrap();
    let mut frame = data(foreign, 2, 100);
    let refused = relay.handle_datagram(None, addr("192.0.2.9:1"), &mut frame, start().mono).unwrap();
    assert_eq!((refused.to, refused.len), (addr("192.0.2.9:1"), 12));
    // It answers, and forwards, from the address it was asked at.
    let local: IpAddr = "203.0.113.9".parse().unwrap();
    let mut keep = Keep { flags: 0, gen_no: a, t: 1 }.encode();
    let echo = relay.handle_datagram(Some(local), addr("192.0.2.1:1"), &mut keep, start().mono).unwrap();
    assert_eq!(echo.from, Some(local));
    relay.tend(start().mono);
    let served = &relay.served;
    assert_eq!((served.sessions(), served.forwarded(), served.bytes()), (3, 1, 108));
    assert!(served.dropped() >= 1);
    relay.tend(start().mono + Duration::from_secs(121));
    assert_eq!(relay.served.sessions(), 0, "they were silent");
}

#[test]
fn sessions_and_rates_are_bounded() {
    let mut relay = relay(RelayLimits { sessions: 2, session_kbit: 8_000, uplink_kbit: 0 });
    let a = bind(&mut relay, (NET, 1), "192.0.2.1:1", &key()).unwrap();
    bind(&mut relay, (NET, 2), "192.0.2.2:1", &key()).unwrap();
    assert_eq!(bind(&mut relay, (NET, 3), "192.0.2.3:1", &key()), None);
    let mut passed = 0;
    for ms in 0..2_000 {
        let now = start().mono + Duration::from_millis(ms);
        for _ in 0..5 {
            let mut frame = data(a, 2, 992);
            let onward = relay.handle_datagram(None, addr("192.0.2.1:1"), &mut frame, now);
            passed += onward.filter(|o| o.to == addr("192.0.2.2:1")).map_or(0, |o| o.len);
        }
    }
    // A megabyte a second for two seconds, and the burst of 256 kB.
    assert!((2_200_000..=2_260_000).contains(&passed), "{passed}");
}

/// Two that relay, each believing that frames come from the other: whatever is sent to one in the other's name ends.
#[test]
fn nothing_goes_round_between_two_that_relay() {
    let (a, b) = ("192.0.2.1:41820", "192.0.2.2:41820");
    let mut relays = [relay(RelayLimits::default()), relay(RelayLimits::default())];
    // Somebody at either address has bound at the other.
    let gens = [
        bind(&mut relays[0], (NET, 2), b, &key()).unwrap(),
        bind(&mut relays[1], (NET, 1), a, &key()).unwrap(),
    ];
    bind(&mut relays[0], (NET, 5), "192.0.2.5:1", &key()).unwrap();
    let (ticket, k) = ticket(NET, 2, &key());
    let ts_ms = unix_ms(start()) + 100;
    let bound = Bound {
        flags: 0,
        gen_no: 1,
        lifetime_s: 1,
        keepalive_s: 1,
        observed: addr(a),
        rate_kbit: 0,
        burst_kb: 0,
        features: 0,
        ts_ms,
    };
    let mut frames = vec![
        Hello { lane: 0, ticket, ts_ms }.encode(&k).to_vec(),
        Bind { lane: 0, ticket, ts_ms, cookie: [0; 16] }.encode(&k).to_vec(),
        Cookie { relay_no: 0x8001, cookie: [0; 16], ts_ms }.encode(&k).to_vec(),
        bound.encode(&k).to_vec(),
        Nack { code: 1, gen_no: gens[0], node_no: 5, retry_ms: 0 }.encode().to_vec(),
        Keep { flags: 0, gen_no: gens[0], t: 7 }.encode().to_vec(),
        Keep { flags: 0, gen_no: 9, t: 7 }.encode().to_vec(),
    ];
    for to in [1, 2, 5, 6] {
        for hops in 0..4u8 {
            let mut frame = data(gens[0], to, 1_000);
            frame[1] |= hops << 6;
            frames.push(frame);
        }
    }
    for start_frame in frames {
        let (mut frame, mut at, mut sent) = (start_frame.clone(), 0, 0);
        while MemberRelay::is_addressed(&frame, false) {
            let from = addr([b, a][at]);
            let Some(onward) = relays[at].handle_datagram(None, from, &mut frame, start().mono) else {
                break;
            };
            sent += 1;
            assert!(sent <= 2, "{start_frame:02x?}");
            frame.truncate(onward.len);
            match [a, b].iter().position(|x| addr(x) == onward.to) {
                Some(next) => at = next,
                None => break,
            }
        }
    }
}

#[test]
fn its_clock_is_the_wall_of_its_start_and_time_since() {
    let time = RelayTime::new(start());
    let later = time.at(start().mono + Duration::from_millis(1_250));
    assert_eq!((later.unix, later.unix_nanos), (UnixTime(1_800_000_002), 150_000_000));
    assert_eq!(time.at(Instant::ZERO).unix, start().unix, "never backwards");
}

#[test]
fn an_echo_of_its_own_relay_is_the_nodes() {
    let keep = Keep { flags: 0, gen_no: 1, t: 2 }.encode();
    assert!(MemberRelay::is_addressed(&keep, false) && !MemberRelay::is_addressed(&keep, true));
    let echo = Keep { flags: KEEP_ECHO, gen_no: 1, t: 2 }.encode();
    assert!(!MemberRelay::is_addressed(&echo, false), "and of another's");
    assert!(!MemberRelay::is_addressed(&[], false) && !MemberRelay::is_addressed(&[0xa1, 0], false));
}
