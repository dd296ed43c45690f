use super::*;
use crate::control::channel::HANDSHAKE_DEADLINE;
use crate::key::Secret;

/// A client and the relay's end of its connection.
struct World {
    now: Instant,
    client: ControlClient,
    relay_key: StaticSecret,
    relay: Option<Channel>,
    rng: Rng,
    events: Vec<ControlEvent>,
}

impl World {
    fn new() -> Self {
        let mut rng = Rng::from_seed([1; 32]);
        let relay_key = StaticSecret::random(&mut rng);
        let config = ControlConfig {
            local: StaticSecret::random(&mut rng),
            targets: ["192.0.2.1:3478", "192.0.2.2:3478"]
                .map(|address| ControlTarget {
                    relay_no: 1,
                    relay: relay_key.public(),
                    address: address.parse().unwrap(),
                })
                .to_vec(),
        };
        let client = ControlClient::new(config, rng.fork(), Instant::ZERO);
        Self { now: Instant::ZERO, client, relay_key, relay: None, rng, events: Vec::new() }
    }
    fn events(&mut self) -> Vec<ControlEvent> {
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
        core::mem::take(&mut self.events)
    }
    fn accept(&mut self) {
        self.relay = Some(Channel::responder(&self.relay_key, &mut self.rng, self.now));
        self.client.handle_connected(self.now);
        self.exchange();
    }
    /// Moves bytes until both are quiet; returns what the relay received.
    fn exchange(&mut self) -> Vec<(u32, Message)> {
        let mut got = Vec::new();
        let relay = self.relay.as_mut().expect("accepted before");
        loop {
            let mut moved = false;
            while let Some(bytes) = self.client.poll_bytes() {
                relay.feed(&bytes).unwrap();
                moved = true;
            }
            while let Some(bytes) = relay.poll_message().unwrap() {
                got.push(Message::parse(&bytes).unwrap());
            }
            while let Some(bytes) = relay.poll_bytes() {
                self.client.handle_bytes(&bytes, self.now);
                moved = true;
            }
            if !moved {
                return got;
            }
        }
    }
    fn answer(&mut self, request: u32, message: &Message) {
        let bytes = message.encode(request).unwrap();
        self.relay.as_mut().unwrap().send(&bytes).unwrap();
        self.exchange();
    }
    /// Lets time pass to the client's next deadline.
    fn tick(&mut self) -> ControlTimer {
        let (at, why) = self.client.poll_timeout().unwrap();
        self.now = self.now.max(at);
        self.client.handle_timeout(self.now);
        why
    }
}

fn welcome() -> Message {
    Message::Welcome(Box::new(Welcome {
        relay_unix_ms: 5,
        observed: "198.51.100.1:9".parse().unwrap(),
        ticket: [1; 64],
        bind_key: Secret::from_bytes([2; 32]),
        relay_no: 1,
        receipt: vec![],
        genesis: vec![],
        manifest: vec![],
    }))
}

#[test]
fn joins_as_soon_as_the_relay_has_proven_its_key() {
    let mut w = World::new();
    w.client.join(vec![1, 2, 3], w.now);
    assert_eq!(w.events(), [ControlEvent::WantConnect("192.0.2.1:3478".parse().unwrap())]);
    w.relay = Some(Channel::responder(&w.relay_key, &mut w.rng, w.now));
    w.client.handle_connected(w.now);
    let got = w.exchange();
    let [(request, Message::Join(bundle))] = &got[..] else { panic!("{got:?}") };
    assert_eq!(bundle, &[1, 2, 3]);
    assert!(!w.client.is_joined());
    w.answer(*request, &welcome());
    assert!(w.client.is_joined());
    assert!(matches!(&w.events()[..], [ControlEvent::Ready, ControlEvent::Joined(_)]));
}

#[test]
fn every_request_gets_its_own_answer() {
    let mut w = World::new();
    w.accept();
    let a = w.client.get(Lookup::Name("a".into()), w.now).unwrap();
    let b = w.client.update(vec![4], w.now).unwrap();
    assert_eq!(w.exchange().len(), 2);
    w.events();
    w.answer(b.0, &Message::Ack(9));
    w.answer(a.0, &Message::NoPeer);
    w.answer(a.0, &Message::NoPeer);
    assert_eq!(w.events(), [ControlEvent::Acknowledged(b, 9), ControlEvent::NoPeer(a)]);
}

#[test]
fn an_unanswered_request_fails_after_five_seconds() {
    let mut w = World::new();
    w.accept();
    let id = w.client.list(0, 10, w.now).unwrap();
    w.exchange();
    w.events();
    assert_eq!(w.tick(), ControlTimer::Request);
    assert_eq!(w.now, Instant::ZERO + REQUEST_DEADLINE);
    assert_eq!(w.events(), [ControlEvent::Failed(id)]);
}

#[test]
fn three_unanswered_pings_end_the_channel_and_the_next_address_is_tried() {
    let mut w = World::new();
    w.accept();
    w.events();
    let id = w.client.get(Lookup::Name("a".into()), w.now).unwrap();
    while w.client.is_ready() {
        while w.client.poll_bytes().is_some() {}
        w.events();
        if w.now > Instant::ZERO + Duration::from_secs(200) {
            panic!("never noticed");
        }
        w.tick();
    }
    assert_eq!(w.now, Instant::ZERO + Duration::from_secs(80));
    assert!(!w.events().contains(&ControlEvent::Failed(id)), "it failed once already");
    w.tick();
    assert_eq!(w.events(), [ControlEvent::WantConnect("192.0.2.2:3478".parse().unwrap())]);
}

#[test]
fn answered_pings_keep_the_channel_for_ever() {
    let mut w = World::new();
    w.accept();
    w.events();
    for _ in 0..100 {
        assert_eq!(w.tick(), ControlTimer::Ping);
        let got = w.exchange();
        let [(0, Message::Ping(t))] = got[..] else { panic!("{got:?}") };
        w.answer(0, &Message::Pong(t));
    }
    assert!(w.client.is_ready());
}

#[test]
fn reconnects_with_growing_jittered_waits_and_fails_what_was_open() {
    let mut w = World::new();
    w.accept();
    let id = w.client.get(Lookup::Name("a".into()), w.now).unwrap();
    w.events();
    w.client.handle_closed(w.now);
    let events = w.events();
    assert_eq!(events[0], ControlEvent::Failed(id));
    let mut longest = Duration::ZERO;
    for _ in 0..12 {
        w.tick();
        w.client.handle_closed(w.now);
        for event in w.events() {
            if let ControlEvent::Reconnect(wait, cause) = event {
                assert_eq!(cause, DownCause::Closed);
                assert!(wait <= MAX_BACKOFF);
                longest = longest.max(wait);
            }
        }
    }
    assert!(longest >= MAX_BACKOFF / 2);
}

#[test]
fn a_silent_server_costs_five_seconds() {
    let mut w = World::new();
    w.client.handle_connected(w.now);
    while w.client.poll_bytes().is_some() {}
    w.events();
    assert_eq!(w.tick(), ControlTimer::Connect);
    assert_eq!(w.now, Instant::ZERO + HANDSHAKE_DEADLINE);
    assert!(w.events().iter().any(|e| matches!(e, ControlEvent::Reconnect(_, DownCause::HandshakeTimeout))));
}

#[test]
fn joins_again_after_a_reconnect_and_stops_after_leave() {
    let mut w = World::new();
    w.client.join(vec![7], w.now);
    w.accept();
    w.client.handle_closed(w.now);
    w.events();
    w.tick();
    w.relay = Some(Channel::responder(&w.relay_key, &mut w.rng, w.now));
    w.client.handle_connected(w.now);
    let got = w.exchange();
    let [(request, Message::Join(_))] = got[..] else { panic!("{got:?}") };
    w.answer(request, &welcome());
    let id = w.client.leave(w.now).unwrap();
    w.exchange();
    w.events();
    w.answer(id.0, &Message::Ack(0));
    assert_eq!(w.events(), [ControlEvent::Acknowledged(id, 0), ControlEvent::WantClose]);
    assert_eq!(w.client.poll_timeout(), None);
}

#[test]
fn a_relay_in_doubt_has_five_seconds_and_one_that_answers_is_none() {
    let mut w = World::new();
    w.accept();
    w.client.doubt(w.now);
    let got = w.exchange();
    let [(_, Message::Ping(t))] = got[..] else { panic!("{got:?}") };
    w.answer(0, &Message::Pong(t));
    let asked = w.now;
    while w.now.saturating_since(asked) < Duration::from_secs(15) {
        // What waits to be taken is due at once, and time stands still.
        w.events();
        w.tick();
        for (_, message) in w.exchange() {
            if let Message::Ping(t) = message {
                w.answer(0, &Message::Pong(t));
            }
        }
    }
    assert!(w.client.is_ready());
    w.events();
    let doubted = w.now;
    w.client.doubt(w.now);
    while w.client.is_ready() {
        w.tick();
        w.exchange();
    }
    assert_eq!(w.now.saturating_since(doubted), DOUBT);
    assert!(w.events().contains(&ControlEvent::WantClose));
}

#[test]
fn a_relay_that_refuses_is_left_for_the_next_at_once_and_all_of_them_for_a_while() {
    let mut w = World::new();
    w.accept();
    w.client.try_next(w.now);
    let refused = w.now;
    w.events();
    w.tick();
    assert!(w.now.saturating_since(refused) <= FIRST_BACKOFF);
    assert!(w.events().contains(&ControlEvent::WantConnect("192.0.2.2:3478".parse().unwrap())));
    w.accept();
    w.client.try_next(w.now);
    let refused = w.now;
    while !w.events().contains(&ControlEvent::WantConnect("192.0.2.1:3478".parse().unwrap())) {
        w.tick();
    }
    let waited = w.now.saturating_since(refused);
    assert!(waited >= MAX_BACKOFF / 2 && waited <= MAX_BACKOFF, "{waited:?}");
    w.client.return_to_first(w.now);
    assert_eq!(w.client.target(), w.client.first());
}
