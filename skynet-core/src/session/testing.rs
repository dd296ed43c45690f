//! One end of a session for tests: control, an inbound and an outbound half, with the queues between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use super::*;
use crate::key::StaticSecret;
use crate::time::UnixTime;
use crate::wire::wireguard::{Message, TransportHeader};

/// Control to data plane, in order.
#[derive(Debug)]
pub(super) enum ToData {
    Install(OpeningKey),
    Remove(ReceiverIndex),
    Use(Arc<SealingKey>),
    Stop,
    Keepalive,
}

/// Data plane to control, in order.
#[derive(Debug)]
pub(super) enum ToControl {
    Installed(ReceiverIndex),
    Authenticated(ReceiverIndex),
    Wake,
}

pub(super) struct End {
    pub(super) local: LocalKey,
    pub(super) indices: IndexAllocator,
    pub(super) timestamps: TimestampClock,
    pub(super) rng: Rng,
    pub(super) session: Session,
    pub(super) to_data: VecDeque<ToData>,
    pub(super) to_control: VecDeque<ToControl>,
    pub(super) opening: BTreeMap<ReceiverIndex, OpeningKey>,
    pub(super) sealing: Option<Arc<SealingKey>>,
    /// Datagrams sealed or written, to be carried to the other end.
    pub(super) sent: VecDeque<Vec<u8>>,
    pub(super) received: Vec<Vec<u8>>,
    pub(super) drops: Vec<DropReason>,
    pub(super) failures: u32,
    pub(super) keepalives: u32,
    pub(super) seals: Vec<(KeypairId, u64)>,
}

/// Both clocks at `nanos`.
pub(super) fn now_at(nanos: u64) -> Now {
    let unix = UnixTime(1_800_000_000 + nanos / 1_000_000_000);
    Now { mono: Instant::from_nanos(nanos), unix, unix_nanos: (nanos % 1_000_000_000) as u32 }
}

impl End {
    pub(super) fn new(local: LocalKey, peer: PublicKey, certified: bool) -> Self {
        let seed = local.public().0;
        let config = SessionConfig {
            peer,
            psk: PeerPsk::stock(None),
            persistent_keepalive: None,
            certified,
            greatest_timestamp: Tai64n::ZERO,
        };
        Self {
            local,
            indices: IndexAllocator::new(),
            timestamps: TimestampClock::default(),
            rng: Rng::from_seed(seed),
            session: Session::new(config),
            to_data: VecDeque::new(),
            to_control: VecDeque::new(),
            opening: BTreeMap::new(),
            sealing: None,
            sent: VecDeque::new(),
            received: Vec::new(),
            drops: Vec::new(),
            failures: 0,
            keepalives: 0,
            seals: Vec::new(),
        }
    }

    pub(super) fn pair(engine: Engine, certified: bool) -> (Self, Self) {
        static KEYS: OnceLock<[LocalKey; 4]> = OnceLock::new();
        let make = |seed, engine| LocalKey::new(StaticSecret::from_bytes([seed; 32]), engine);
        let keys = KEYS.get_or_init(|| {
            [make(3, Engine::Noise), make(4, Engine::Noise), make(3, Engine::Null), make(4, Engine::Null)]
        });
        let first = if engine == Engine::Noise { 0 } else { 2 };
        let (a, b) = (keys[first].clone(), keys[first + 1].clone());
        let (pa, pb) = (a.public(), b.public());
        (Self::new(a, pb, certified), Self::new(b, pa, certified))
    }

    /// Runs `f` on the session with its context, then drains it.
    pub(super) fn control<R>(&mut self, f: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let mut cx = Context {
            local: &self.local,
            indices: &mut self.indices,
            timestamps: &mut self.timestamps,
            rng: &mut self.rng,
        };
        let result = f(&mut self.session, &mut cx);
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::InstallOpening(key) => self.to_data.push_back(ToData::Install(key)),
                SessionEvent::UseSealing(key) => self.to_data.push_back(ToData::Use(key)),
                SessionEvent::StopSealing => self.to_data.push_back(ToData::Stop),
                SessionEvent::RemoveOpening(index) => self.to_data.push_back(ToData::Remove(index)),
                SessionEvent::SendKeepalive => self.to_data.push_back(ToData::Keepalive),
                SessionEvent::HandshakeFailed => self.failures += 1,
            }
        }
        while let Some(message) = self.session.poll_transmit() {
            self.sent.push_back(message.to_vec());
        }
        result
    }

    pub(super) fn initiate(&mut self, now: Now) {
        self.control(|s, cx| s.initiate(now, cx));
    }

    pub(super) fn timeout(&mut self, now: Now) {
        self.control(|s, cx| s.handle_timeout(now, cx));
    }

    /// One message from control to the data plane.
    pub(super) fn step_data(&mut self, now: Now) {
        match self.to_data.pop_front() {
            Some(ToData::Install(key)) => {
                let index = key.local_index();
                assert!(self.opening.insert(index, key).is_none());
                self.to_control.push_back(ToControl::Installed(index));
            }
            Some(ToData::Remove(index)) => {
                let removed = self.opening.remove(&index).expect("only installed keys are removed");
                let sealing = self.sealing.as_ref().map(|k| k.id());
                assert_ne!(sealing, Some(removed.id()), "sealing ends before opening");
            }
            Some(ToData::Use(key)) => {
                assert!(self.opening.values().any(|o| o.id() == key.id()), "opening comes before sealing");
                self.sealing = Some(key);
            }
            Some(ToData::Stop) => self.sealing = None,
            Some(ToData::Keepalive) => {
                self.keepalives += 1;
                self.send_data(now, b"");
            }
            None => {}
        }
    }

    /// One message from the data plane to control.
    pub(super) fn step_control(&mut self, now: Now) {
        match self.to_control.pop_front() {
            Some(ToControl::Installed(index)) => {
                self.control(|s, cx| s.opening_installed(index, now.mono, cx));
            }
            Some(ToControl::Authenticated(index)) => {
                self.control(|s, cx| s.handle_authenticated(index, now.mono, cx));
            }
            Some(ToControl::Wake) => self.control(|s, cx| s.handle_wake(now, cx)),
            None => {}
        }
    }

    /// Seals a payload with the published key; false if there is none.
    pub(super) fn send_data(&mut self, now: Now, payload: &[u8]) -> bool {
        let Some(key) = self.sealing.clone() else { return false };
        let Some(range) = key.reserve(1, now.mono) else { return false };
        let mut datagram = vec![0; sealed_len(payload.len())];
        datagram[16..16 + payload.len()].copy_from_slice(payload);
        let len = key.seal(range.start, &mut datagram, payload.len());
        self.seals.push((key.id(), range.start));
        if self.session.activity().note_tx(now.mono, 1, len as u64, payload.is_empty()) {
            self.to_control.push_back(ToControl::Wake);
        }
        self.sent.push_back(datagram);
        true
    }

    /// One datagram from the network.
    pub(super) fn receive(&mut self, now: Now, datagram: &[u8]) {
        if let Err(reason) = self.try_receive(now, datagram) {
            self.drops.push(reason);
        }
    }

    fn try_receive(&mut self, now: Now, datagram: &[u8]) -> Result<(), DropReason> {
        match Message::parse(datagram)? {
            Message::Initiation(message) => {
                let pending = consume_initiation(&self.local, &message, &mut self.rng)?;
                self.control(|s, cx| s.handle_initiation(pending, now, cx))
            }
            Message::Response(message) => {
                self.indices.peer_of(message.receiver()).ok_or(DropReason::UnexpectedHandshake)?;
                self.control(|s, cx| s.handle_response(&message, now, cx))
            }
            Message::CookieReply(message) => self.control(|s, _| s.handle_cookie_reply(&message, now.mono)),
            Message::Transport(TransportHeader { receiver, .. }) => {
                let key = self.opening.get_mut(&receiver).ok_or(DropReason::UnknownIndex)?;
                let mut datagram = datagram.to_vec();
                let plain = key.open(&mut datagram, now.mono)?.to_vec();
                if key.take_confirmation() {
                    self.to_control.push_back(ToControl::Authenticated(receiver));
                }
                if self.session.activity().note_rx(now.mono, 1, 1, plain.is_empty()) {
                    self.to_control.push_back(ToControl::Wake);
                }
                if !plain.is_empty() {
                    self.received.push(plain);
                }
                Ok(())
            }
        }
    }

    /// Runs the queues between control and data plane dry.
    pub(super) fn settle(&mut self, now: Now) {
        while !self.to_data.is_empty() || !self.to_control.is_empty() {
            self.step_data(now);
            self.step_control(now);
        }
    }
}

/// Carries everything in order until nobody has anything to say.
pub(super) fn settle(now: Now, a: &mut End, b: &mut End) {
    loop {
        a.settle(now);
        b.settle(now);
        match (a.sent.pop_front(), b.sent.pop_front()) {
            (None, None) => return,
            (to_b, to_a) => {
                to_b.into_iter().for_each(|d| b.receive(now, &d));
                to_a.into_iter().for_each(|d| a.receive(now, &d));
            }
        }
    }
}

/// A pair with keys, `a` being the initiator.
pub(super) fn established(engine: Engine, certified: bool) -> (End, End) {
    let (mut a, mut b) = End::pair(engine, certified);
    a.initiate(now_at(1));
    settle(now_at(1), &mut a, &mut b);
    assert!(a.session.is_established() && b.session.is_established());
    (a, b)
}
