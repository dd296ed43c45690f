use super::*;

fn key() -> ProbeKey {
    ProbeKey::new(&Secret::from_bytes([9; 32]))
}

const NONCE: Nonce = Nonce { start: 1_700_000_000, random: 77, counter: 3 };

fn samples() -> Vec<Body> {
    vec![
        Body::Ping(Ping { txid: 1, t_us: 2, path_id: 3, wire_size: 100, tx_data: 5, rx_data: 6 }),
        Body::Pong(Pong {
            txid: 1,
            t_us: 2,
            path_id: 3,
            received_size: 100,
            tx_data: 5,
            rx_data: 6,
            seen: "198.51.100.2:7001".parse().unwrap(),
        }),
        Body::Call(Call {
            txid: 1,
            round: 2,
            flags: 3,
            mapping: 1,
            filtering: 3,
            port_delta: -2,
            candidates: vec![
                CallCandidate { kind: 0, prio: 9, addr: "10.1.0.10:7001".parse().unwrap() },
                CallCandidate { kind: 5, prio: 8, addr: "[2001:db8::1]:7001".parse().unwrap() },
            ],
            relays: vec![RelayRtt { relay_no: 1, rtt_ms: 20 }],
        }),
    ]
}

#[test]
fn every_probe_survives_its_way() {
    for body in samples() {
        let mut bytes = seal(&key(), FLAG_CARRIES_DATA, [7; 8], NONCE, &body, 0);
        let (head, opened) = open(&key(), &mut bytes).unwrap();
        assert_eq!((head.flags, head.tag, head.nonce), (FLAG_CARRIES_DATA, [7; 8], NONCE));
        assert_eq!(opened, body);
    }
}

#[test]
fn an_answer_is_smaller_than_its_cause() {
    let s = samples();
    let ping = seal(&key(), 0, [7; 8], NONCE, &s[0], 0);
    let pong = seal(&key(), 0, [7; 8], NONCE, &s[1], 0);
    assert_eq!((ping.len(), pong.len()), (100, 82));
}

#[test]
fn a_padded_ping_says_its_size() {
    let mut bytes = seal(&key(), FLAG_MTU, [7; 8], NONCE, &samples()[0], 1392);
    assert_eq!(bytes.len(), 1392);
    let Body::Ping(p) = open(&key(), &mut bytes).unwrap().1 else { panic!("not a ping") };
    assert_eq!(p.wire_size, 1392);
}

#[test]
fn no_flipped_bit_is_accepted() {
    for body in samples() {
        let good = seal(&key(), 0, [7; 8], NONCE, &body, 0);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&key(), &mut bad).is_err(), "bit {bit} of {body:?}");
        }
    }
}

#[test]
fn no_other_length_is_accepted() {
    for body in samples() {
        let good = seal(&key(), 0, [7; 8], NONCE, &body, 0);
        for len in 0..good.len() {
            assert!(open(&key(), &mut good[..len].to_vec()).is_err(), "{len} bytes of {body:?}");
        }
        for extra in [0u8, 1] {
            let mut bad = good.clone();
            bad.push(extra);
            assert!(open(&key(), &mut bad).is_err(), "one byte more of {body:?}");
        }
    }
}

#[test]
fn a_body_is_refused_one_byte_short_or_long() {
    let kinds = [Kind::Ping, Kind::Pong, Kind::Call];
    for (kind, body) in kinds.into_iter().zip(samples()) {
        let mut plain = Vec::new();
        match &body {
            Body::Ping(p) => write_ping(p, p.wire_size, &mut plain),
            Body::Pong(p) => write_pong(p, &mut plain),
            Body::Call(c) => write_call(c, &mut plain),
        }
        assert_eq!(parse_body(kind, &plain), Ok(body));
        for len in 0..plain.len() {
            assert!(parse_body(kind, &plain[..len]).is_err());
        }
        plain.push(0);
        assert_eq!(parse_body(kind, &plain), Err(ProbeError::Malformed));
    }
}

#[test]
fn a_call_never_exceeds_its_caps() {
    let Body::Call(mut call) = samples().remove(2) else { panic!("not a call") };
    call.candidates = vec![call.candidates[0]; 40];
    call.relays = vec![call.relays[0]; 40];
    let mut bytes = seal(&key(), 0, [7; 8], NONCE, &Body::Call(call), 0);
    assert_eq!(bytes.len(), CALL_MAX);
    let Body::Call(read) = open(&key(), &mut bytes).unwrap().1 else { panic!("not a call") };
    assert_eq!((read.candidates.len(), read.relays.len()), (MAX_CANDIDATES, MAX_RELAYS));
    let mut plain = vec![0; CALL_FIXED];
    plain[18] = 17;
    plain.resize(1000, 0);
    assert_eq!(parse_body(Kind::Call, &plain), Err(ProbeError::Malformed));
}
