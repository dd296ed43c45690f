//! Conformance: an independent WireGuard, `boringtun::noise::Tunn`, as the other side of our session, in process.
//!
//! `Tunn` reads the real clock, ours is virtual, so a rekey is forced on its side and comes by time on ours.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use skynet_core::drop::DropReason;
use skynet_core::key::{PublicKey, Secret, StaticSecret};
use skynet_core::rng::Rng;
use skynet_core::session::{
    Admission, Context, Engine, IndexAllocator, LocalKey, OpeningKey, PathSource, PeerPsk, Role, SealingKey,
    Session, SessionConfig, SessionEvent, Tai64n, TimestampClock, Verdict, consume_initiation, sealed_len,
};
use skynet_core::time::{Duration, Instant, Now, UnixTime};
use skynet_core::wire::wireguard::Message;

const OURS: [u8; 32] = [3; 32];
const THEIRS: [u8; 32] = [4; 32];

/// Our session, with its data plane inlined.
struct Us {
    local: LocalKey,
    indices: IndexAllocator,
    timestamps: TimestampClock,
    rng: Rng,
    session: Session,
    opening: Vec<OpeningKey>,
    sealing: Option<Arc<SealingKey>>,
    sent: VecDeque<Vec<u8>>,
    received: Vec<Vec<u8>>,
    now: Now,
}

impl Us {
    fn new(psk: Option<[u8; 32]>) -> Self {
        let config = SessionConfig {
            peer: StaticSecret::from_bytes(THEIRS).public(),
            psk: PeerPsk::stock(psk.map(Secret::from_bytes).as_ref()),
            persistent_keepalive: None,
            certified: false,
            greatest_timestamp: Tai64n::ZERO,
        };
        Self {
            local: LocalKey::new(StaticSecret::from_bytes(OURS), Engine::Noise),
            indices: IndexAllocator::new(),
            timestamps: TimestampClock::default(),
            rng: Rng::from_seed([9; 32]),
            session: Session::new(config),
            opening: Vec::new(),
            sealing: None,
            sent: VecDeque::new(),
            received: Vec::new(),
            now: Now { mono: Instant::from_nanos(1), unix: UnixTime(1_800_000_000), unix_nanos: 0 },
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now.mono = self.now.mono + by;
        self.now.unix.0 += by.as_secs();
    }

    fn control<R>(&mut self, f: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let mut cx = Context {
            local: &self.local,
            indices: &mut self.indices,
            timestamps: &mut self.timestamps,
            rng: &mut self.rng,
        };
        let result = f(&mut self.session, &mut cx);
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::InstallOpening(key) => {
                    let index = key.local_index();
                    self.opening.push(key);
                    self.session.opening_installed(index, self.now.mono, &mut cx);
                }
                SessionEvent::UseSealing(key) => self.sealing = Some(key),
                SessionEvent::StopSealing => self.sealing = None,
                SessionEvent::RemoveOpening(index) => self.opening.retain(|k| k.local_index() != index),
                SessionEvent::SendKeepalive => {
                    self.sent.extend(self.session.seal_keepalive(self.now.mono).map(|d| d.to_vec()));
                }
                SessionEvent::HandshakeFailed => panic!("no answer"),
            }
        }
        while let Some(message) = self.session.poll_transmit() {
            self.sent.push_back(message.to_vec());
        }
        result
    }

    fn initiate(&mut self) {
        let now = self.now;
        self.control(|s, cx| s.initiate(now, cx));
    }

    fn send(&mut self, payload: &[u8]) {
        let key = self.sealing.clone().expect("established");
        let counter = key.reserve(1, self.now.mono).unwrap().start;
        let mut datagram = vec![0; sealed_len(payload.len())];
        datagram[16..16 + payload.len()].copy_from_slice(payload);
        let len = key.seal(counter, &mut datagram, payload.len());
        let _ = self.session.activity().note_tx(self.now.mono, 1, len as u64, payload.is_empty());
        self.sent.push_back(datagram);
    }

    fn receive(&mut self, datagram: &[u8]) -> Result<(), DropReason> {
        let now = self.now;
        match Message::parse(datagram)? {
            Message::Initiation(message) => {
                let pending = consume_initiation(&self.local, &message, &mut self.rng)?;
                self.control(|s, cx| s.handle_initiation(pending, now, cx))
            }
            Message::Response(message) => self.control(|s, cx| s.handle_response(&message, now, cx)),
            Message::CookieReply(message) => self.control(|s, _| s.handle_cookie_reply(&message, now.mono)),
            Message::Transport(header) => {
                let key = self.opening.iter_mut().find(|k| k.local_index() == header.receiver);
                let key = key.ok_or(DropReason::UnknownIndex)?;
                let plain = key.open(&mut datagram.to_vec(), now.mono)?.to_vec();
                let confirms = key.take_confirmation();
                let _ = self.session.activity().note_rx(now.mono, 1, 1, plain.is_empty());
                if confirms {
                    self.control(|s, cx| s.handle_authenticated(header.receiver, now.mono, cx));
                }
                if !plain.is_empty() {
                    self.received.push(plain);
                }
                Ok(())
            }
        }
    }
}

/// The oracle.
struct Them {
    tunn: Tunn,
    received: Vec<Vec<u8>>,
    errors: Vec<String>,
}

const OUR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

impl Them {
    /// `limit` handshakes per second pass without a cookie.
    fn new(psk: Option<[u8; 32]>, limit: u64) -> Self {
        let secret = x25519::StaticSecret::from(THEIRS);
        let ours = x25519::PublicKey::from(StaticSecret::from_bytes(OURS).public().0);
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&secret), limit);
        let tunn = Tunn::new(secret, ours, psk, None, 0x5eed, Some(Arc::new(limiter)));
        Self { tunn, received: Vec::new(), errors: Vec::new() }
    }

    fn initiate(&mut self) -> Vec<u8> {
        let mut buf = [0; 2_048];
        match self.tunn.format_handshake_initiation(&mut buf, true) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut buf = [0; 2_048];
        match self.tunn.encapsulate(payload, &mut buf) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Handles one datagram; what it sends in return.
    fn receive(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        let mut buf = [0; 2_048];
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(Some(OUR_ADDRESS), input, &mut buf) {
                TunnResult::WriteToNetwork(reply) => replies.push(reply.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    self.received.push(packet.to_vec());
                    return replies;
                }
                TunnResult::Done => return replies,
                TunnResult::Err(error) => {
                    self.errors.push(format!("{error:?}"));
                    return replies;
                }
            }
            input = &[];
        }
    }
}

/// Carries everything until both are silent.
fn settle(us: &mut Us, them: &mut Them) {
    while let Some(datagram) = us.sent.pop_front() {
        for reply in them.receive(&datagram) {
            us.receive(&reply).unwrap();
        }
    }
}

/// An IPv4 packet of `len` bytes, 20 or more.
fn ip_packet(len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

fn established(psk: Option<[u8; 32]>, we_initiate: bool) -> (Us, Them) {
    let (mut us, mut them) = (Us::new(psk), Them::new(psk, 1_000));
    if we_initiate {
        us.initiate();
    } else {
        us.receive(&them.initiate()).unwrap();
    }
    settle(&mut us, &mut them);
    assert!(them.errors.is_empty(), "{:?}", them.errors);
    assert_eq!(us.session.role(), Some(if we_initiate { Role::Initiator } else { Role::Responder }));
    (us, them)
}

fn exchange(us: &mut Us, them: &mut Them, sizes: impl Iterator<Item = usize>) {
    for size in sizes {
        let packet = ip_packet(size.max(20));
        us.send(&packet);
        settle(us, them);
        assert_eq!(them.received.pop().as_ref(), Some(&packet), "{size} bytes from us");
        // It sends anything, and does not pad.
        let payload = &packet[..size];
        let datagram = them.send(payload);
        us.receive(&datagram).unwrap();
        if size > 0 {
            assert_eq!(us.received.pop().as_deref(), Some(payload), "{size} bytes from the oracle");
        }
    }
    assert!(them.errors.is_empty(), "{:?}", them.errors);
}

#[test]
fn handshakes_and_carries_every_packet_size_when_we_initiate() {
    let (mut us, mut them) = established(None, true);
    exchange(&mut us, &mut them, 0..=1_500);
}

#[test]
fn handshakes_and_carries_every_packet_size_when_the_oracle_initiates() {
    let (mut us, mut them) = established(None, false);
    exchange(&mut us, &mut them, 0..=1_500);
}

#[test]
fn a_preshared_key_works_both_ways() {
    for we_initiate in [true, false] {
        let (mut us, mut them) = established(Some([0x77; 32]), we_initiate);
        exchange(&mut us, &mut them, [64, 1_000].into_iter());
    }
}

#[test]
fn another_preshared_key_does_not_connect() {
    let (mut us, mut them) = (Us::new(Some([1; 32])), Them::new(Some([2; 32]), 1_000));
    us.initiate();
    let initiation = us.sent.pop_front().unwrap();
    let replies = them.receive(&initiation);
    assert_eq!(us.receive(&replies[0]), Err(DropReason::BadHandshake));
    assert!(us.sealing.is_none());
}

#[test]
fn our_key_is_renewed_at_120_seconds_while_data_flows() {
    let (mut us, mut them) = established(None, true);
    let mut ids = vec![us.sealing.clone().unwrap().id()];
    for _ in 0..400 {
        us.advance(Duration::from_secs(1));
        exchange(&mut us, &mut them, [100].into_iter());
        while us.session.poll_timeout().is_some_and(|(at, _)| at <= us.now.mono) {
            let now = us.now;
            us.control(|s, cx| s.handle_timeout(now, cx));
            settle(&mut us, &mut them);
        }
        let id = us.sealing.clone().unwrap().id();
        if ids.last() != Some(&id) {
            ids.push(id);
        }
    }
    assert_eq!(ids.len(), 4, "at 120, 240 and 360 s");
}

#[test]
fn a_rekey_by_the_oracle_loses_nothing() {
    let (mut us, mut them) = established(None, false);
    for round in 0..8 {
        us.advance(Duration::from_secs(5));
        let before = us.sealing.clone().unwrap().id();
        // Data sealed before, arriving after.
        let late_theirs = them.send(&ip_packet(200));
        us.receive(&them.initiate()).unwrap();
        us.send(&ip_packet(300));
        assert_eq!(us.sealing.clone().unwrap().id(), before, "not before the oracle confirms");
        settle(&mut us, &mut them);
        assert_ne!(us.sealing.clone().unwrap().id(), before);
        us.receive(&late_theirs).unwrap();
        assert_eq!(them.received.pop(), Some(ip_packet(300)), "round {round}");
        assert_eq!(us.received.pop().map(|p| p[..200].to_vec()), Some(ip_packet(200)));
        exchange(&mut us, &mut them, [20, 1_400].into_iter());
    }
}

#[test]
fn roles_may_change_from_one_key_to_the_next() {
    let (mut us, mut them) = established(None, true);
    for _ in 0..4 {
        us.advance(Duration::from_secs(6));
        us.receive(&them.initiate()).unwrap();
        settle(&mut us, &mut them);
        assert_eq!(us.session.role(), Some(Role::Responder));
        exchange(&mut us, &mut them, [99].into_iter());
        us.advance(Duration::from_secs(6));
        us.initiate();
        settle(&mut us, &mut them);
        assert_eq!(us.session.role(), Some(Role::Initiator));
        exchange(&mut us, &mut them, [99].into_iter());
    }
}

#[test]
fn we_answer_the_cookie_of_an_oracle_under_load() {
    // Our initiation is refused with a cookie, sent again with mac2 at once, and answered.
    let (mut us, mut them) = (Us::new(None), Them::new(None, 0));
    us.initiate();
    let first = us.sent.pop_front().unwrap();
    let replies = them.receive(&first);
    assert_eq!((replies.len(), replies[0].len()), (1, 64), "a cookie reply");
    us.receive(&replies[0]).unwrap();
    assert_eq!(us.sent.len(), 1, "at once, not after 5 s");
    settle(&mut us, &mut them);
    exchange(&mut us, &mut them, [500].into_iter());

    // And so is our response.
    let (mut us, mut them) = (Us::new(None), Them::new(None, 0));
    us.receive(&them.initiate()).unwrap();
    settle(&mut us, &mut them);
    assert!(us.session.is_established());
    exchange(&mut us, &mut them, [500].into_iter());
}

#[test]
fn the_oracle_answers_our_cookie_when_we_are_under_load() {
    let (mut us, mut them) = (Us::new(None), Them::new(None, 1_000));
    let ours: PublicKey = us.local.public();
    let mut gate = Admission::new(&ours, &mut us.rng, us.now.mono);
    let source = PathSource::Direct("192.0.2.7:51820".parse().unwrap());
    let first = them.initiate();
    while gate.check(us.now.mono, source, &first) == Verdict::Pass {}
    let Verdict::CookieReply(reply) = gate.check(us.now.mono, source, &first) else { panic!("no cookie") };
    assert!(them.receive(&reply).is_empty());
    assert!(them.errors.is_empty(), "{:?}", them.errors);
    let second = them.initiate();
    assert_eq!(gate.check(us.now.mono, source, &second), Verdict::Pass, "its mac2 is good");
    let elsewhere = PathSource::Direct("192.0.2.7:51821".parse().unwrap());
    assert!(
        matches!(gate.check(us.now.mono, elsewhere, &second), Verdict::CookieReply(_)),
        "only from there"
    );
    us.receive(&second).unwrap();
    settle(&mut us, &mut them);
    exchange(&mut us, &mut them, [500].into_iter());
}

#[test]
fn keepalives_are_understood_both_ways() {
    let (mut us, mut them) = established(None, true);
    let keepalive = us.session.seal_keepalive(us.now.mono).unwrap();
    assert!(them.receive(&keepalive).is_empty());
    us.receive(&them.send(&[])).unwrap();
    assert!(them.errors.is_empty() && us.received.is_empty() && them.received.is_empty());
}

#[test]
fn damaged_data_of_the_oracle_is_refused_and_the_true_packet_still_accepted() {
    let (mut us, mut them) = established(None, true);
    let good = them.send(&ip_packet(60));
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(us.receive(&bad).is_err(), "bit {bit}");
    }
    us.receive(&good).unwrap();
    assert_eq!(us.receive(&good), Err(DropReason::Replayed));
}
