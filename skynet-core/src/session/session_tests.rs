//! The session's timers and messages in virtual time.

use super::testing::{End, established, now_at, settle};
use super::*;
use crate::constants::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME};
use crate::wire::wireguard::{Message, TYPE_INITIATION, TYPE_TRANSPORT};

const SECOND: u64 = 1_000_000_000;

fn secs(secs: u64) -> Now {
    now_at(secs * SECOND)
}

/// Runs the timers of both ends up to `until`, carrying what they send; `pump` is called every second.
fn run(from: u64, until: u64, a: &mut End, b: &mut End, mut pump: impl FnMut(u64, &mut End, &mut End)) {
    let mut last = secs(from);
    for second in from..until {
        pump(second, a, b);
        settle(secs(second), a, b);
        let end = secs(second + 1);
        for _ in 0..50 {
            let next = [&*a, &*b].iter().filter_map(|e| e.session.poll_timeout()).map(|t| t.0).min();
            let Some(next) = next.filter(|&at| at < end.mono) else { break };
            last = now_at(next.as_nanos().max(last.mono.as_nanos()));
            for e in [&mut *a, &mut *b] {
                if e.session.poll_timeout().is_some_and(|(at, _)| at <= last.mono) {
                    e.timeout(last);
                }
            }
            settle(last, a, b);
        }
        let due = [&*a, &*b].iter().any(|e| e.session.poll_timeout().is_some_and(|(at, _)| at < end.mono));
        assert!(!due, "a timer fires again and again");
    }
}

fn initiations(end: &mut End) -> usize {
    let all: Vec<_> = end.sent.drain(..).collect();
    all.iter().filter(|d| d[0] == TYPE_INITIATION).count()
}

#[test]
fn an_idle_known_peer_costs_less_than_a_kibibyte() {
    assert!(size_of::<Session>() + size_of::<Activity>() <= 1_024, "{}", size_of::<Session>());
}

#[test]
fn message_2_waits_until_the_opening_key_is_installed() {
    let (mut a, mut b) = End::pair(Engine::Noise, true);
    a.initiate(secs(1));
    let first = a.sent.pop_front().unwrap();
    b.receive(secs(1), &first);
    assert!(b.sent.is_empty());
    b.step_data(secs(1));
    assert!(b.sent.is_empty(), "installed, not yet acknowledged");
    b.step_control(secs(1));
    assert_eq!(b.sent.len(), 1);
    assert!(b.sealing.is_none(), "no sealing before confirmation");
}

#[test]
fn the_responder_seals_with_the_old_key_until_the_new_one_is_confirmed() {
    let (mut a, mut b) = established(Engine::Noise, true);
    let old = b.sealing.clone().unwrap().id();
    a.initiate(secs(20));
    let first = a.sent.pop_front().unwrap();
    b.receive(secs(20), &first);
    b.settle(secs(20));
    assert_eq!(b.sealing.as_ref().unwrap().id(), old);
    settle(secs(21), &mut a, &mut b);
    assert_ne!(b.sealing.as_ref().unwrap().id(), old);
    assert_eq!(a.sealing.as_ref().unwrap().id(), b.sealing.as_ref().unwrap().id());
}

#[test]
fn the_initiator_confirms_at_once() {
    let (mut a, mut b) = End::pair(Engine::Noise, true);
    a.initiate(secs(1));
    settle(secs(1), &mut a, &mut b);
    assert_eq!((a.keepalives, b.keepalives), (1, 0));
    assert_eq!((a.session.role(), b.session.role()), (Some(Role::Initiator), Some(Role::Responder)));
    assert_eq!(a.session.last_handshake(), Some(secs(1).mono));
    let id = a.session.sealing().unwrap().id();
    let (ra, rb) = (a.session.take_lane_root(id).unwrap(), b.session.take_lane_root(id).unwrap());
    assert!(ra.lane_secret.ct_eq(&rb.lane_secret) && ra.handshake_hash == rb.handshake_hash);
    assert!(a.session.take_lane_root(id).is_none(), "there is one copy");
}

#[test]
fn a_replayed_initiation_is_refused() {
    let (mut a, mut b) = End::pair(Engine::Noise, true);
    a.initiate(secs(1));
    let first = a.sent[0].clone();
    settle(secs(1), &mut a, &mut b);
    b.receive(secs(2), &first);
    assert_eq!(b.drops, [DropReason::Replayed]);
    assert_eq!(b.opening.len(), 1);
}

#[test]
fn a_peer_whose_clock_went_back_is_accepted_with_its_persisted_mark() {
    let (mut a, mut b) = established(Engine::Noise, true);
    let floor = a.timestamps.floor();
    for (floor, accepted) in [(Tai64n::ZERO, false), (floor, true)] {
        let (mut again, _) = End::pair(Engine::Noise, true);
        again.timestamps = TimestampClock::new(floor);
        again.rng = Rng::from_seed([77; 32]);
        // A day back.
        let mut now = secs(30);
        now.unix.0 -= 86_400;
        again.initiate(now);
        let message = again.sent.pop_front().unwrap();
        b.receive(secs(30), &message);
        assert_eq!(b.drops.pop(), (!accepted).then_some(DropReason::Replayed));
    }
    a.sent.clear();
}

#[test]
fn initiations_from_one_peer_are_at_least_20_ms_apart() {
    let (mut a, mut b) = End::pair(Engine::Noise, true);
    let mut messages = Vec::new();
    for _ in 0..2 {
        a.control(|s, cx| s.close(cx));
        a.session.last_initiation_tx = None;
        a.initiate(secs(1));
        messages.extend(a.sent.drain(..));
    }
    b.receive(now_at(SECOND), &messages[0]);
    b.receive(now_at(SECOND + 19_000_000), &messages[1]);
    assert_eq!(b.drops, [DropReason::RateLimited]);
    b.receive(now_at(SECOND + 20_000_000), &messages[1]);
    assert_eq!(b.drops.len(), 1);
}

#[test]
fn an_unanswered_initiation_is_repeated_every_5_seconds_and_given_up_after_90() {
    let (mut a, _) = End::pair(Engine::Noise, true);
    a.initiate(secs(0));
    let (mut sent, mut at) = (vec![(0, a.sent.pop_front().unwrap())], Instant::ZERO);
    while a.failures == 0 {
        let (next, timer) = a.session.poll_timeout().unwrap();
        assert_eq!(timer, Timer::Retransmit);
        let gap = next.saturating_since(at);
        assert!(gap >= Duration::from_secs(5) && gap <= Duration::from_millis(5_333), "{gap:?}");
        at = next;
        a.timeout(now_at(next.as_nanos()));
        sent.extend(a.sent.drain(..).map(|m| (next.as_nanos(), m)));
    }
    assert!(at.saturating_since(Instant::ZERO) >= REKEY_ATTEMPT_TIME);
    assert!((17..=18).contains(&sent.len()), "{}", sent.len());
    assert!(sent.windows(2).all(|w| w[0].1[8..40] != w[1].1[8..40]), "a fresh ephemeral key each time");
    assert!(a.session.poll_timeout().is_none() && a.indices.is_empty());
    a.initiate(now_at(at.as_nanos() + 6 * SECOND));
    assert_eq!(a.sent.len(), 1, "traffic begins anew");
}

#[test]
fn asking_twice_sends_one_initiation() {
    let (mut a, _) = End::pair(Engine::Noise, true);
    for milli in 0..4_000 {
        a.initiate(now_at(milli * 1_000_000));
    }
    assert_eq!(initiations(&mut a), 1);
}

#[test]
fn the_initiator_renews_a_busy_key_at_120_seconds_and_the_responder_does_not() {
    for sender in 0..2 {
        let (mut a, mut b) = established(Engine::Null, true);
        let first = a.sealing.clone().unwrap().id();
        let traffic = move |second: u64, a: &mut End, b: &mut End| {
            let (x, y) = if sender == 0 { (a, b) } else { (b, a) };
            x.send_data(secs(second), b"request");
            y.send_data(secs(second), b"answer");
        };
        run(1, 120, &mut a, &mut b, traffic);
        assert_eq!(a.sealing.as_ref().unwrap().id(), first);
        run(120, 122, &mut a, &mut b, traffic);
        assert_ne!(a.sealing.as_ref().unwrap().id(), first, "sender {sender}");
        assert_eq!(a.session.role(), Some(Role::Initiator));
        run(122, 600, &mut a, &mut b, traffic);
        assert!(a.drops.is_empty() && b.drops.is_empty(), "{:?} {:?}", a.drops, b.drops);
        assert_eq!((a.received.len(), b.received.len()), (599, 599));
    }
}

#[test]
fn an_initiator_that_receives_on_a_key_of_165_seconds_renews_it() {
    let (mut a, mut b) = established(Engine::Null, true);
    let first = a.sealing.clone().unwrap().id();
    run(2, 163, &mut a, &mut b, |_, _, _| ());
    let traffic = |second, _: &mut End, b: &mut End| {
        b.send_data(secs(second), b"one way");
    };
    run(163, 165, &mut a, &mut b, traffic);
    assert_eq!(a.sealing.clone().unwrap().id(), first, "it sent nothing, and 165 s are not over");
    run(165, 167, &mut a, &mut b, traffic);
    assert_ne!(a.sealing.clone().unwrap().id(), first);
    assert_eq!(a.keepalives, 2, "one confirmation per key");
}

#[test]
fn a_worn_key_is_renewed_by_either_end() {
    for worn in 0..2 {
        let (mut a, mut b) = established(Engine::Null, true);
        let first = a.sealing.clone().unwrap();
        let end = if worn == 0 { &mut a } else { &mut b };
        let key = end.sealing.clone().unwrap();
        key.set_next(crate::constants::REKEY_AFTER_MESSAGES);
        assert!(key.needs_rekey(secs(20).mono));
        end.control(|s, cx| s.handle_wake(secs(20), cx));
        settle(secs(20), &mut a, &mut b);
        assert_ne!(a.sealing.clone().unwrap().id(), first.id());
        assert_eq!(a.sealing.unwrap().id(), b.sealing.unwrap().id());
    }
}

#[test]
fn received_data_without_an_answer_brings_one_keepalive_after_10_seconds() {
    let (mut a, mut b) = established(Engine::Null, true);
    let before = b.keepalives;
    run(20, 40, &mut a, &mut b, |second, a, _| {
        if second == 21 {
            a.send_data(secs(21), b"no answer");
        }
    });
    assert_eq!(b.keepalives - before, 1);
    let sent = b.session.activity().last_any_tx().unwrap();
    assert_eq!(sent, secs(21).mono + KEEPALIVE_TIMEOUT);
}

#[test]
fn traffic_both_ways_brings_no_keepalive_and_silence_brings_nothing() {
    let (mut a, mut b) = established(Engine::Null, true);
    let (ka, kb) = (a.keepalives, b.keepalives);
    run(5, 100, &mut a, &mut b, |second, a, b| {
        a.send_data(secs(second), b"x");
        b.send_data(secs(second), b"y");
    });
    assert_eq!((a.keepalives, b.keepalives), (ka, kb));
    let (mut a, mut b) = established(Engine::Null, true);
    let handshakes = a.timestamps.floor();
    run(2, 1_000, &mut a, &mut b, |_, _, _| ());
    assert_eq!(
        (a.keepalives, b.keepalives, a.timestamps.floor()),
        (1, 0, handshakes),
        "only the confirmation"
    );
    assert!(a.indices.is_empty() && b.indices.is_empty() && a.opening.is_empty(), "keys are erased");
    assert!(a.session.poll_timeout().is_none() && b.session.poll_timeout().is_none());
}

#[test]
fn a_peer_that_falls_silent_brings_a_handshake_after_15_seconds() {
    let (mut a, mut b) = established(Engine::Null, true);
    run(2, 30, &mut a, &mut b, |_, _, _| ());
    a.send_data(secs(30), b"lost");
    a.settle(secs(30));
    a.sent.clear();
    let mut at = secs(30).mono;
    while !a.session.is_initiating() {
        let (next, _) = a.session.poll_timeout().unwrap();
        assert!(next > at);
        at = next;
        a.timeout(now_at(next.as_nanos()));
        a.settle(now_at(next.as_nanos()));
    }
    assert_eq!(at, secs(45).mono);
    assert_eq!(initiations(&mut a), 1);
}

#[test]
fn one_lost_keepalive_more_does_not_start_a_handshake_storm() {
    // Data flows one way only for a minute: the other end's keepalives are enough.
    let (mut a, mut b) = established(Engine::Null, true);
    let handshakes = (a.timestamps.floor(), b.timestamps.floor());
    run(2, 100, &mut a, &mut b, |second, _, b| {
        b.send_data(secs(second), b"one way");
    });
    assert_eq!((a.timestamps.floor(), b.timestamps.floor()), handshakes);
    assert!(a.keepalives >= 8, "{}", a.keepalives);
}

#[test]
fn keys_end_at_180_seconds_sealing_before_opening() {
    let (mut a, _) = established(Engine::Null, true);
    let born = a.session.last_handshake().unwrap();
    while a.sealing.is_some() {
        let (next, _) = a.session.poll_timeout().unwrap();
        a.timeout(now_at(next.as_nanos()));
        a.settle(now_at(next.as_nanos()));
        if a.sealing.is_none() {
            assert_eq!(next, born + REJECT_AFTER_TIME);
        }
    }
    assert!(a.opening.is_empty() && !a.session.is_established());
}

#[test]
fn a_persistent_keepalive_keeps_a_stock_peer_reachable_and_the_key_fresh() {
    let (mut a, mut b) = End::pair(Engine::Null, false);
    a.session.persistent_keepalive = Some(Duration::from_secs(25));
    a.initiate(secs(1));
    settle(secs(1), &mut a, &mut b);
    run(2, 1_000, &mut a, &mut b, |_, _, _| ());
    assert!((36..=50).contains(&a.keepalives), "{}", a.keepalives);
    assert!(a.session.is_established() && a.session.last_handshake().unwrap() > secs(800).mono);
}

#[test]
fn a_cookie_reply_is_answered_once_with_mac2_and_remembered_120_seconds() {
    let (mut a, mut b) = End::pair(Engine::Noise, true);
    let source = PathSource::Direct("192.0.2.1:9".parse().unwrap());
    let mut gate = Admission::new(&b.local.public(), &mut b.rng, Instant::ZERO);
    a.initiate(secs(1));
    let first = a.sent.pop_front().unwrap();
    while gate.check(secs(1).mono, source, &first) == Verdict::Pass {}
    let Verdict::CookieReply(reply) = gate.check(secs(1).mono, source, &first) else { panic!("no cookie") };

    let mut forged = reply;
    forged[40] ^= 1;
    a.receive(secs(1), &forged);
    assert_eq!(a.drops, [DropReason::BadCookie]);
    assert!(a.sent.is_empty());

    a.receive(secs(1), &reply);
    let again = a.sent.pop_front().expect("repeated at once");
    assert_eq!(again[..132], first[..132]);
    assert_eq!(gate.check(secs(1).mono, source, &again), Verdict::Pass);
    a.receive(secs(1), &reply);
    assert!(a.sent.is_empty(), "but only once");
    b.receive(secs(1), &again);
    settle(secs(1), &mut a, &mut b);
    assert!(b.session.is_established());

    for (second, mac2) in [(100, true), (125, false)] {
        a.control(|s, _| s.last_initiation_tx = None);
        a.control(|s, cx| s.cancel_attempt(cx));
        a.initiate(secs(second));
        let message = a.sent.pop_front().unwrap();
        assert_eq!(message[132..] != [0; 16], mac2, "at {second} s");
    }
}

#[test]
fn a_cookie_reply_for_nothing_we_sent_is_refused() {
    let (mut a, _) = End::pair(Engine::Noise, true);
    let reply = CookieReply::encode(ReceiverIndex(5), &[0; 24], &[0; 32]);
    a.receive(secs(1), &reply);
    assert_eq!(a.drops, [DropReason::UnexpectedHandshake]);
}

#[test]
fn psk2_binds_identities_to_the_handshake() {
    use crate::key::Identity;
    let ids = [Identity([1; 32]), Identity([2; 32]), Identity([3; 32])];
    for (claimed, works) in [(1, true), (2, false)] {
        let (mut a, mut b) = End::pair(Engine::Noise, true);
        a.session.psk = PeerPsk::bound(&[7; 32], &ids[0], &ids[1], None);
        b.session.psk = PeerPsk::bound(&[7; 32], &ids[claimed], &ids[0], None);
        a.initiate(secs(1));
        settle(secs(1), &mut a, &mut b);
        assert_eq!(a.session.is_established(), works);
    }
}

#[test]
fn an_initiation_for_another_session_changes_nothing() {
    let (mut a, _) = End::pair(Engine::Noise, true);
    let (_, mut b) = End::pair(Engine::Noise, true);
    b.session.peer = PublicKey([9; 32]);
    a.initiate(secs(1));
    let message = a.sent.pop_front().unwrap();
    b.receive(secs(1), &message);
    assert_eq!(b.drops, [DropReason::NotMember]);
    assert!(b.indices.is_empty() && b.to_data.is_empty());
}

#[test]
fn unauthenticated_input_changes_no_state() {
    let (mut a, mut b) = established(Engine::Noise, true);
    a.initiate(secs(30));
    a.send_data(secs(30), b"data");
    a.settle(secs(30));
    let before = format!("{:?} {:?} {:?}", b.session, b.indices, b.opening);
    let mut noise = Rng::from_seed([8; 32]);
    let genuine: Vec<_> = a.sent.drain(..).collect();
    for n in 0..3_000u64 {
        let mut datagram = genuine[noise.below(genuine.len() as u64) as usize].clone();
        // Anything the message's own authentication covers: behind the indices, before the MACs.
        let covered = if datagram[0] == TYPE_TRANSPORT { 8..datagram.len() } else { 8..116 };
        let at = covered.start + noise.below(covered.len() as u64) as usize;
        datagram[at] ^= 1 << (n % 8);
        b.receive(secs(31), &datagram);
    }
    assert_eq!(b.drops.len(), 3_000);
    b.rng = Rng::from_seed([0; 32]);
    assert_eq!(format!("{:?} {:?} {:?}", b.session, b.indices, b.opening), before);
    for datagram in genuine {
        assert!(Message::parse(&datagram).is_ok());
        b.receive(secs(32), &datagram);
    }
    assert_eq!(b.drops.len(), 3_000, "the genuine ones are still accepted");
}
