//! The handshake by itself, and each trap of the Noise library it stands on.

use super::cookie::seal_macs;
use super::handshake::{SentInitiation, consume_initiation};
use super::keys::SessionSecrets;
use super::testing::{End, established, now_at, settle};
use super::*;
use crate::key::Secret;
use crate::key::StaticSecret;
use crate::wire::wireguard::{Initiation, Message};

fn local(seed: u8, engine: Engine) -> LocalKey {
    LocalKey::new(StaticSecret::from_bytes([seed; 32]), engine)
}

fn initiation(bytes: &[u8]) -> Initiation<'_> {
    match Message::parse(bytes) {
        Ok(Message::Initiation(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn response(bytes: &[u8]) -> Response<'_> {
    match Message::parse(bytes) {
        Ok(Message::Response(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn create(from: &LocalKey, to: &LocalKey, rng: &mut Rng) -> (SentInitiation, [u8; 148]) {
    let mut clock = TimestampClock::default();
    SentInitiation::create(from, to.public(), ReceiverIndex(11), clock.next(now_at(5)), rng).unwrap()
}

/// A whole handshake: the initiator's secrets, then the responder's.
fn handshake(
    a: &LocalKey,
    b: &LocalKey,
    psks: [u8; 2],
) -> Result<(SessionSecrets, SessionSecrets), DropReason> {
    let [psk_a, psk_b] = psks.map(|p| Secret::from_bytes([p; 32]));
    let mut rng = Rng::from_seed([1; 32]);
    let (sent, message) = create(a, b, &mut rng);
    let pending = consume_initiation(b, &initiation(&message), &mut rng)?;
    assert_eq!((pending.peer_static(), pending.sender()), (a.public(), ReceiverIndex(11)));
    let (message, theirs) = pending.respond(&psk_b, ReceiverIndex(22))?;
    let ours = sent.consume_response(&response(&message), &psk_a)?;
    Ok((ours, theirs))
}

#[test]
fn both_ends_derive_the_same_keys_hash_and_lane_secret() {
    for engine in [Engine::Noise, Engine::Null] {
        let (a, b) = handshake(&local(3, engine), &local(4, engine), [9, 9]).unwrap();
        assert!(a.send.ct_eq(&b.receive) && a.receive.ct_eq(&b.send) && a.lane_secret.ct_eq(&b.lane_secret));
        assert_eq!(a.handshake_hash, b.handshake_hash);
        let all = [&a.send, &a.receive, &a.lane_secret];
        assert!(!all[0].ct_eq(all[1]) && !all[0].ct_eq(all[2]) && !all[1].ct_eq(all[2]));
    }
}

#[test]
fn another_psk_at_either_end_is_refused() {
    for engine in [Engine::Noise, Engine::Null] {
        let result = handshake(&local(3, engine), &local(4, engine), [9, 8]);
        assert_eq!(result.err(), Some(DropReason::BadHandshake));
    }
}

#[test]
fn all_randomness_comes_from_the_callers_generator() {
    let (a, b) = (local(3, Engine::Noise), local(4, Engine::Noise));
    let run = |seed| {
        let mut rng = Rng::from_seed([seed; 32]);
        let (_, first) = create(&a, &b, &mut rng);
        let pending = consume_initiation(&b, &initiation(&first), &mut rng).unwrap();
        let (second, _) = pending.respond(&Secret::from_bytes([0; 32]), ReceiverIndex(2)).unwrap();
        (first, second)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0[8..40], run(2).0[8..40]);
    assert_ne!(run(1).1[12..44], run(2).1[12..44]);
}

#[test]
fn a_point_of_small_order_ends_the_handshake() {
    // 0, 1 and p - 1 (RFC 7748 §6.1: the result is all zero).
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut one = [0; 32];
    one[0] = 1;
    let (a, b) = (local(3, Engine::Noise), local(4, Engine::Noise));
    let mut rng = Rng::from_seed([1; 32]);
    for point in [[0; 32], one, minus_one] {
        let created = SentInitiation::create(&a, PublicKey(point), ReceiverIndex(1), Tai64n::ZERO, &mut rng);
        assert_eq!(created.err(), Some(DropReason::BadHandshake), "as static key");
        let (sent, mut message) = create(&a, &b, &mut rng);
        let pending = consume_initiation(&b, &initiation(&message), &mut rng).unwrap();
        let (mut answer, _) = pending.respond(&Secret::from_bytes([0; 32]), ReceiverIndex(2)).unwrap();
        message[8..40].copy_from_slice(&point);
        let read = consume_initiation(&b, &initiation(&message), &mut rng);
        assert_eq!(read.err(), Some(DropReason::BadHandshake), "as ephemeral key of message 1");
        answer[12..44].copy_from_slice(&point);
        let read = sent.consume_response(&response(&answer), &Secret::from_bytes([0; 32]));
        assert_eq!(read.err(), Some(DropReason::BadHandshake), "as ephemeral key of message 2");
    }
}

#[test]
fn static_static_results_are_kept_for_authenticated_peers_only() {
    let (a, b) = (local(3, Engine::Noise), local(4, Engine::Noise));
    let mut rng = Rng::from_seed([1; 32]);
    let (_, good) = create(&a, &b, &mut rng);
    let mut bad = good;
    bad[100] ^= 1;
    assert!(consume_initiation(&b, &initiation(&bad), &mut rng).is_err());
    assert_eq!(b.cached_shared_secrets(), 0);
    assert!(consume_initiation(&b, &initiation(&good), &mut rng).is_ok());
    assert_eq!((a.cached_shared_secrets(), b.cached_shared_secrets()), (1, 1));
    // A clone shares it, and a handshake that uses it works.
    handshake(&a.clone(), &b.clone(), [0, 0]).unwrap();
    assert_eq!((a.cached_shared_secrets(), b.cached_shared_secrets()), (1, 1));
}

#[test]
fn no_bit_flip_truncation_or_extension_of_an_initiation_is_accepted() {
    let (a, b) = (local(3, Engine::Noise), local(4, Engine::Noise));
    let mut rng = Rng::from_seed([1; 32]);
    let (_, mut good) = create(&a, &b, &mut rng);
    seal_macs(&mut good, &b.public(), None);
    let mut gate = Admission::new(&b.public(), &mut rng, Instant::ZERO);
    let source = PathSource::Direct("192.0.2.1:9".parse().unwrap());
    let later = |i: usize| Instant::from_nanos(i as u64 * 1_000_000_000);
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        let passes = gate.check(later(bit), source, &bad) == Verdict::Pass;
        // mac2 is only looked at under load; everything before it is covered by mac1.
        assert_eq!(passes, bit / 8 >= 132, "bit {bit} at the gate");
        // And what Noise covers does not authenticate even without the gate.
        if (8..116).contains(&(bit / 8)) {
            let read = consume_initiation(&b, &initiation(&bad), &mut rng);
            assert_eq!(read.err(), Some(DropReason::BadHandshake), "bit {bit}");
        }
    }
    for len in 0..good.len() {
        assert!(Message::parse(&good[..len]).is_err());
    }
    assert!(Message::parse(&[&good[..], &[0]].concat()).is_err());
}

#[test]
fn no_damaged_response_is_accepted_and_the_true_one_still_is() {
    let (a, b) = (local(3, Engine::Noise), local(4, Engine::Noise));
    let (mut rng, psk) = (Rng::from_seed([1; 32]), Secret::from_bytes([5; 32]));
    let (sent, message) = create(&a, &b, &mut rng);
    let pending = consume_initiation(&b, &initiation(&message), &mut rng).unwrap();
    let (mut good, theirs) = pending.respond(&psk, ReceiverIndex(22)).unwrap();
    seal_macs(&mut good, &a.public(), None);
    let mut gate = Admission::new(&a.public(), &mut rng, Instant::ZERO);
    let source = PathSource::Direct("192.0.2.1:9".parse().unwrap());
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        let now = Instant::from_nanos(bit as u64 * 1_000_000_000);
        assert_eq!(gate.check(now, source, &bad) == Verdict::Pass, bit / 8 >= 76, "bit {bit} at the gate");
        if (8..60).contains(&(bit / 8)) {
            assert!(sent.consume_response(&response(&bad), &psk).is_err(), "bit {bit}");
        }
    }
    for len in 0..good.len() {
        assert!(Message::parse(&good[..len]).is_err());
    }
    assert!(Message::parse(&[&good[..], &[0]].concat()).is_err());
    let ours = sent.consume_response(&response(&good), &psk).expect("forgeries left no trace");
    assert!(ours.send.ct_eq(&theirs.receive));
}

#[test]
fn a_forged_response_does_not_disturb_the_session_that_waits() {
    let (mut a, mut b) = End::pair(Engine::Noise, true);
    a.initiate(now_at(1));
    let first = a.sent.pop_front().unwrap();
    b.receive(now_at(2), &first);
    b.settle(now_at(2));
    let answer = b.sent.pop_front().unwrap();
    let mut forged = answer.clone();
    forged[50] ^= 1;
    a.receive(now_at(3), &forged);
    assert_eq!(a.drops, [DropReason::BadHandshake]);
    assert!(a.session.is_initiating());
    a.receive(now_at(4), &answer);
    settle(now_at(5), &mut a, &mut b);
    assert!(a.session.is_established() && b.session.is_established());
}

#[test]
fn the_stand_in_has_the_same_messages_and_the_same_order() {
    let lengths = |engine| {
        let (mut a, mut b) = End::pair(engine, true);
        a.initiate(now_at(1));
        let first = a.sent[0].clone();
        b.receive(now_at(2), &first);
        b.settle(now_at(2));
        let second = b.sent[0].clone();
        a.receive(now_at(3), &second);
        a.settle(now_at(3));
        assert!(a.send_data(now_at(4), &[1; 100]));
        let data = a.sent.pop_back().unwrap();
        b.receive(now_at(5), &data);
        assert_eq!(b.received[0][..100], [1; 100]);
        [first, second, data].map(|m| (m[0], m.len()))
    };
    assert_eq!(lengths(Engine::Noise), lengths(Engine::Null));
}

#[test]
fn the_stand_in_refuses_foreign_keys_and_damaged_messages() {
    let (mut a, mut b) = established(Engine::Null, true);
    a.send_data(now_at(9), b"x");
    let mut datagram = a.sent.pop_back().unwrap();
    *datagram.last_mut().unwrap() ^= 1;
    b.receive(now_at(9), &datagram);
    assert_eq!(b.drops, [DropReason::BadTag]);
    let (_, mut message) =
        create(&local(3, Engine::Null), &local(4, Engine::Null), &mut Rng::from_seed([1; 32]));
    message[50] ^= 1;
    let read = consume_initiation(&b.local, &initiation(&message), &mut b.rng);
    assert_eq!(read.err(), Some(DropReason::BadHandshake));
}
