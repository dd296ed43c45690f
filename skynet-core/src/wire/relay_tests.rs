use super::*;

fn key() -> Secret {
    Secret::from_bytes([9; 32])
}

fn ticket() -> [u8; TICKET_LEN] {
    Ticket {
        kid: 1,
        rate_class: 2,
        node_no: 0x0a01_0203,
        network_id: *b"network1",
        not_after: 2_000_000_000,
        issue_nonce: 77,
        identity_hash: [5; 16],
    }
    .mint(&key())
}

/// One of each frame; the flag says that its last 16 bytes are a MAC under [`key`].
fn samples() -> Vec<(Vec<u8>, bool)> {
    let hello = Hello { lane: 1, ticket: ticket(), ts_ms: 1_700_000_000_123 };
    let cookie = Cookie { relay_no: 3, cookie: [7; 16], ts_ms: 1_700_000_000_123 };
    let bind = Bind { lane: 1, ticket: ticket(), ts_ms: 1_700_000_000_124, cookie: [7; 16] };
    let bound = Bound {
        flags: 0,
        gen_no: 513,
        lifetime_s: 120,
        keepalive_s: 20,
        observed: "198.51.100.7:4242".parse().unwrap(),
        rate_kbit: 200_000,
        burst_kb: 4_000,
        features: 0,
        ts_ms: 1_700_000_000_124,
    };
    let mut data = DataHeader::new(Class::Control, 2, 513, 0x0a01_0204).encode().to_vec();
    data.extend_from_slice(b"payload");
    vec![
        (hello.encode(&key()).to_vec(), true),
        (cookie.encode(&key()).to_vec(), true),
        (bind.encode(&key()).to_vec(), true),
        (bound.encode(&key()).to_vec(), true),
        (Keep { flags: 0, gen_no: 513, t: 99 }.encode().to_vec(), false),
        (Nack { code: 1, gen_no: 513, node_no: 4, retry_ms: 250 }.encode().to_vec(), false),
        (data, false),
    ]
}

fn encode_again(frame: &Frame<'_>) -> Vec<u8> {
    match frame {
        Frame::Data(h, p) => [&h.encode()[..], p].concat(),
        Frame::Hello(f) => f.encode(&key()).to_vec(),
        Frame::Cookie(f) => f.encode(&key()).to_vec(),
        Frame::Bind(f) => f.encode(&key()).to_vec(),
        Frame::Bound(f) => f.encode(&key()).to_vec(),
        Frame::Keep(f) => f.encode().to_vec(),
        Frame::Nack(f) => f.encode().to_vec(),
    }
}

#[test]
fn every_frame_survives_its_bytes() {
    for (bytes, authenticated) in samples() {
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!(encode_again(&frame), bytes);
        assert!(is_relay_frame(bytes[0]));
        assert_eq!(mac_is_valid(&bytes, &key()), authenticated);
    }
}

#[test]
fn no_flipped_bit_passes_for_an_authenticated_frame() {
    for (bytes, authenticated) in samples() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let parsed = Frame::parse(&flipped).is_ok();
            if authenticated {
                assert!(!(parsed && mac_is_valid(&flipped, &key())), "bit {bit} of {:02x}", bytes[0]);
            }
            fuzz_frame(&flipped);
        }
    }
}

#[test]
fn no_truncated_or_extended_frame_parses() {
    for (bytes, _) in samples() {
        let data = bytes[0] == DATA;
        for len in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..len]).is_ok(), data && len > DATA_HEADER_LEN);
        }
        let extended = [&bytes[..], &[0]].concat();
        assert_eq!(Frame::parse(&extended).is_ok(), data);
    }
}

#[test]
fn no_flipped_bit_passes_for_a_ticket() {
    let good = ticket();
    assert!(Ticket::is_authentic(&good, &key()));
    assert_eq!(Ticket::parse(&good).unwrap().mint(&key()), good);
    for bit in 0..TICKET_LEN * 8 {
        let mut flipped = good;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!Ticket::is_authentic(&flipped, &key()), "bit {bit}");
    }
    assert!(!Ticket::is_authentic(&good, &Secret::from_bytes([8; 32])));
}

#[test]
fn the_bind_key_differs_per_ticket_and_per_cluster() {
    let other = Ticket { node_no: 9, ..Ticket::parse(&ticket()).unwrap() }.mint(&key());
    let base = bind_key(&key(), &ticket());
    assert!(!base.ct_eq(&bind_key(&key(), &other)));
    assert!(!base.ct_eq(&bind_key(&Secret::from_bytes([8; 32]), &ticket())));
}

#[test]
fn rewriting_keeps_length_class_lane_and_payload() {
    let header = DataHeader::new(Class::Control, 5, 1, 2);
    let mut frame = [&header.encode()[..], b"abc"].concat();
    header.rewrite(&mut frame, 0x1122, 0x3344_5566);
    let Ok(Frame::Data(got, payload)) = Frame::parse(&frame) else { panic!("not DATA") };
    assert_eq!((got.gen_no, got.node_no, got.lane(), got.hops()), (0x1122, 0x3344_5566, 5, 1));
    assert_eq!(got.flags & 3, Class::Control as u8);
    assert_eq!(payload, b"abc");
}
