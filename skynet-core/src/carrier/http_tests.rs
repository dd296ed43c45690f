use super::*;

fn request(text: &str) -> Request {
    let (request, len) = parse_request(text.as_bytes()).unwrap().unwrap();
    assert_eq!(len, text.len());
    request
}

#[test]
fn an_upgrade_is_understood_and_so_is_its_answer() {
    for purpose in [Purpose::Control, Purpose::Frames] {
        let bytes = upgrade_request(purpose, "203.0.113.10:443");
        assert_eq!(parse_request(&bytes), Ok(Some((Request::Upgrade(purpose), bytes.len()))));
    }
    let (answer, len) = parse_answer(&upgrade_answer()).unwrap().unwrap();
    assert!(answer.is_upgrade() && len == upgrade_answer().len());
}

#[test]
fn whatever_is_no_upgrade_of_ours_gets_a_page() {
    let page = |status, head_only| Request::Page { status, head_only };
    assert_eq!(request("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), page(Status::Ok, false));
    assert_eq!(request("HEAD / HTTP/1.0\r\n\r\n"), page(Status::Ok, true));
    assert_eq!(request("GET /.env HTTP/1.1\r\n\r\n"), page(Status::NotFound, false));
    assert_eq!(request("POST / HTTP/1.1\r\n\r\n"), page(Status::MethodNotAllowed, false));
    // The right path without the upgrade, the upgrade on another path, another upgrade.
    assert_eq!(request("GET /skynet/v1/frames HTTP/1.1\r\n\r\n"), page(Status::NotFound, false));
    assert_eq!(request("GET / HTTP/1.1\r\nUpgrade: skynet/1\r\n\r\n"), page(Status::Ok, false));
    let websocket = "GET /skynet/v1/frames HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(request(websocket), page(Status::NotFound, false));
    let listed = "GET /skynet/v1/frames HTTP/1.1\r\nupgrade: h2c, Skynet/1\r\n\r\n";
    assert_eq!(request(listed), Request::Upgrade(Purpose::Frames));
}

#[test]
fn pages_are_complete_answers() {
    for status in [Status::Ok, Status::BadRequest, Status::NotFound, Status::MethodNotAllowed] {
        let (full, head) = (page(status, false), page(status, true));
        let (answer, len) = parse_answer(&full).unwrap().unwrap();
        assert!((200..500).contains(&answer.status) && !answer.upgraded);
        assert_eq!(head.len(), len);
        let text = String::from_utf8(full.clone()).unwrap();
        assert!(text.contains(&format!("Content-Length: {}\r\n", full.len() - len)));
    }
}

#[test]
fn a_tunnel_is_asked_for_with_and_without_credentials() {
    assert_eq!(
        connect_request("203.0.113.10:443", None),
        b"CONNECT 203.0.113.10:443 HTTP/1.1\r\nHost: 203.0.113.10:443\r\n\r\n"
    );
    let with = String::from_utf8(connect_request("[2001:db8::1]:443", Some("Aladdin:open sesame"))).unwrap();
    // RFC 7617 §2.
    assert!(with.ends_with("Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"));
    let answer = |text: &str| parse_answer(text.as_bytes()).unwrap().unwrap().0;
    assert!(answer("HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n").is_tunnel());
    assert!(!answer("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").is_tunnel());
    // A proxy or a portal cannot pass for a relay by its status alone.
    assert!(!answer("HTTP/1.1 101 Switching Protocols\r\n\r\n").is_upgrade());
    assert!(!answer("HTTP/1.1 200 OK\r\nUpgrade: skynet/1\r\n\r\n").is_upgrade());
}

#[test]
fn what_follows_a_head_is_left_alone() {
    let mut bytes = upgrade_answer();
    let len = bytes.len();
    bytes.extend_from_slice(&[0, 48, 1, 2, 3]);
    assert_eq!(parse_answer(&bytes).unwrap().unwrap().1, len);
}

#[test]
fn every_cut_of_a_head_waits_for_more() {
    let whole = upgrade_request(Purpose::Frames, "relay.example:443");
    for end in 0..whole.len() {
        assert_eq!(parse_request(&whole[..end]), Ok(None), "{end}");
    }
    let whole = upgrade_answer();
    for end in 0..whole.len() {
        assert_eq!(parse_answer(&whole[..end]), Ok(None), "{end}");
    }
}

#[test]
fn a_flipped_bit_never_makes_the_other_upgrade_of_it() {
    let whole = upgrade_request(Purpose::Frames, "relay.example:443");
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Some((request, len))) = parse_request(&flipped) {
            assert_ne!(request, Request::Upgrade(Purpose::Control), "bit {bit}");
            assert!(len <= flipped.len());
        }
        let mut answer = upgrade_answer();
        let bit = bit % (answer.len() * 8);
        answer[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Some((_, len))) = parse_answer(&answer) {
            assert!(len <= answer.len());
        }
    }
}

#[test]
fn heads_are_bounded() {
    let endless = [b"GET /".as_slice(), &[b'a'; MAX_HEAD]].concat();
    assert_eq!(parse_request(&endless), Err(HeadError::TooLong));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
    assert_eq!(parse_request(many.as_bytes()), Err(HeadError::TooLong));
    assert_eq!(parse_request(b"\x16\x03\x01\x02\x00\x01"), Err(HeadError::Malformed));
    assert_eq!(parse_answer(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), Err(HeadError::Malformed));
}

#[test]
fn an_authority_cannot_smuggle_a_line() {
    for good in ["relay.example:443", "[2001:db8::1]:443", "192.0.2.1:8443"] {
        assert!(is_authority(good), "{good}");
    }
    for bad in ["", "a b", "a\r\nX: y", "user@host", "host/path", "höst", "a\0"] {
        assert!(!is_authority(bad), "{bad:?}");
    }
}
