//! Admission under floods: the rows every WireGuard implementation is measured by.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cookie::{Cookie, open_reply, seal_macs};
use super::*;
use crate::constants::{
    HANDSHAKES_PER_SECOND, PROVEN_HANDSHAKES_PER_SECOND, SOURCE_HANDSHAKE_BURST, SOURCE_HANDSHAKES_PER_SECOND,
};
use crate::key::StaticSecret;
use crate::wire::wireguard::{Initiation, Message};

struct Gate {
    ours: PublicKey,
    gate: Admission,
    message: [u8; 148],
}

fn at(micros: u64) -> Instant {
    Instant::from_nanos(micros * 1_000)
}

fn v4(n: u32) -> PathSource {
    PathSource::Direct(SocketAddr::new(Ipv4Addr::from(n).into(), 7))
}

impl Gate {
    fn new() -> Self {
        let ours = StaticSecret::from_bytes([5; 32]).public();
        let gate = Admission::new(&ours, &mut Rng::from_seed([1; 32]), Instant::ZERO);
        let mut message = Initiation::encode(ReceiverIndex(7), &[3; 108]);
        seal_macs(&mut message, &ours, None);
        Self { ours, gate, message }
    }

    /// Uses up the budget for everyone.
    fn saturate(&mut self, now: Instant) {
        while self.gate.check(now, v4(0), &self.message) == Verdict::Pass {}
    }

    /// The cookie the gate gives `source` under load.
    fn cookie(&mut self, now: Instant, source: PathSource) -> Cookie {
        self.saturate(now);
        let Verdict::CookieReply(reply) = self.gate.check(now, source, &self.message) else {
            panic!("no cookie")
        };
        let Ok(Message::CookieReply(reply)) = Message::parse(&reply) else { panic!("no cookie reply") };
        let Ok(Message::Initiation(sent)) = Message::parse(&self.message) else { panic!() };
        open_reply(&self.ours, &sent.mac1(), &reply).unwrap()
    }

    fn with_cookie(&self, cookie: &Cookie) -> [u8; 148] {
        let mut message = self.message;
        seal_macs(&mut message, &self.ours, Some(cookie));
        message
    }
}

#[test]
fn who_does_not_know_our_key_gets_silence() {
    let mut g = Gate::new();
    let mut bad = g.message;
    bad[9] ^= 1;
    for now in [at(0), at(1)] {
        assert_eq!(g.gate.check(now, v4(1), &bad), Verdict::Drop(DropReason::BadMac1));
        g.saturate(now);
    }
    assert_eq!(g.gate.check(at(1), v4(1), &bad), Verdict::Drop(DropReason::BadMac1), "under load too");
    for junk in [&[][..], &[1, 0, 0, 0], &[9; 148], &[4; 148]] {
        assert!(matches!(g.gate.check(at(1), v4(1), junk), Verdict::Drop(_)));
    }
}

#[test]
fn a_few_handshakes_pass_without_cookie() {
    let mut g = Gate::new();
    for second in 0..100 {
        for n in 0..20 {
            assert_eq!(g.gate.check(at(second * 1_000_000), v4(n), &g.message), Verdict::Pass);
        }
    }
    assert_eq!(g.gate.load(at(200_000_000)), Duration::ZERO);
}

#[test]
fn a_flood_from_spoofed_sources_meets_the_global_budget_and_stores_nothing() {
    let mut g = Gate::new();
    let (mut passed, mut cookies) = (0, 0);
    // 20,000 per second for 2 s, each from another address.
    for n in 0..40_000u32 {
        match g.gate.check(at(u64::from(n) * 50), v4(n), &g.message) {
            Verdict::Pass => passed += 1,
            Verdict::CookieReply(_) => cookies += 1,
            Verdict::Drop(reason) => panic!("{reason}"),
        }
    }
    assert!(passed <= 2 * HANDSHAKES_PER_SECOND + HANDSHAKES_PER_SECOND / 4 + 1, "{passed}");
    assert_eq!(passed + cookies, 40_000);
    assert!(!format!("{:?}", g.gate).contains("fingerprint"), "no entry for an unproven source");
}

#[test]
fn a_cookie_reply_is_less_than_half_of_what_it_answers() {
    let mut g = Gate::new();
    g.saturate(at(0));
    let Verdict::CookieReply(reply) = g.gate.check(at(0), v4(1), &g.message) else { panic!() };
    assert!(reply.len() * 100 <= g.message.len() * 45);
}

#[test]
fn a_source_with_a_cookie_gets_twenty_per_second_and_others_are_not_hurt() {
    let mut g = Gate::new();
    let greedy = g.cookie(at(0), v4(1));
    let greedy = g.with_cookie(&greedy);
    let modest = g.cookie(at(0), v4(2));
    let modest = g.with_cookie(&modest);
    let (mut served, mut others) = (0, 0);
    // 1,000 per second for 10 s from one source, one per second from another.
    for milli in 0..10_000 {
        let now = at(milli * 1_000);
        g.saturate(now);
        served += u64::from(g.gate.check(now, v4(1), &greedy) == Verdict::Pass);
        if milli % 1_000 == 999 {
            others += u32::from(g.gate.check(now, v4(2), &modest) == Verdict::Pass);
        }
    }
    assert!(served <= 10 * SOURCE_HANDSHAKES_PER_SECOND + SOURCE_HANDSHAKE_BURST, "{served}");
    assert!(served >= 10 * SOURCE_HANDSHAKES_PER_SECOND - 1, "{served}");
    assert_eq!(others, 10);
}

#[test]
fn an_ipv6_site_and_an_ipv4_host_are_one_source_each() {
    let mut g = Gate::new();
    let site = |host: u128| {
        let ip = Ipv6Addr::from((0x2001_0db8_u128 << 96) | host);
        PathSource::Direct(SocketAddr::new(ip.into(), host as u16))
    };
    let mut passes = |sources: [PathSource; 12]| {
        let mut passed = 0;
        for source in sources {
            let cookie = g.cookie(at(0), source);
            passed += u64::from(g.gate.check(at(0), source, &g.with_cookie(&cookie)) == Verdict::Pass);
        }
        passed
    };
    assert_eq!(passes(core::array::from_fn(|i| site(i as u128))), SOURCE_HANDSHAKE_BURST);
    assert_eq!(passes(core::array::from_fn(|i| site((i as u128 + 1) << 64))), 12, "other /64s");
    let ports =
        core::array::from_fn(|i| PathSource::Direct(SocketAddr::new(Ipv4Addr::from(9).into(), i as u16)));
    assert_eq!(passes(ports), SOURCE_HANDSHAKE_BURST);
}

#[test]
fn peers_behind_one_relay_do_not_share_a_bucket() {
    let mut g = Gate::new();
    for sender in 0..100 {
        let source = PathSource::Relayed { relay: 1, sender };
        let cookie = g.cookie(at(0), source);
        let message = g.with_cookie(&cookie);
        assert_eq!(g.gate.check(at(0), source, &message), Verdict::Pass, "sender {sender}");
        let other = PathSource::Relayed { relay: 1, sender: sender + 1_000 };
        assert!(matches!(g.gate.check(at(0), other, &message), Verdict::CookieReply(_)), "not its cookie");
    }
}

#[test]
fn many_proven_sources_together_have_a_budget_too() {
    let mut g = Gate::new();
    let mut passed = 0;
    for n in 0..5_000u32 {
        let now = at(u64::from(n) * 200);
        let cookie = g.cookie(now, v4(n));
        let message = g.with_cookie(&cookie);
        g.saturate(now);
        passed += u64::from(g.gate.check(now, v4(n), &message) == Verdict::Pass);
    }
    // One second.
    assert!(passed <= PROVEN_HANDSHAKES_PER_SECOND + PROVEN_HANDSHAKES_PER_SECOND / 4 + 1, "{passed}");
    assert!(passed >= PROVEN_HANDSHAKES_PER_SECOND, "{passed}");
}

#[test]
fn responses_are_not_starved_by_a_flood_of_initiations() {
    let mut g = Gate::new();
    let mut response = Response::encode(ReceiverIndex(1), ReceiverIndex(2), &[0; 48]);
    seal_macs(&mut response, &g.ours, None);
    g.saturate(at(0));
    assert_eq!(g.gate.check(at(0), v4(1), &response), Verdict::Pass);
}

#[test]
fn a_response_flood_is_cut_without_a_reply() {
    let mut g = Gate::new();
    let mut response = Response::encode(ReceiverIndex(1), ReceiverIndex(2), &[0; 48]);
    seal_macs(&mut response, &g.ours, None);
    let verdicts: Vec<_> = (0..1_000).map(|_| g.gate.check(at(0), v4(1), &response)).collect();
    assert!(verdicts.iter().all(|v| matches!(v, Verdict::Pass | Verdict::Drop(DropReason::UnderLoad))));
    assert_eq!(verdicts.last(), Some(&Verdict::Drop(DropReason::UnderLoad)));
}
