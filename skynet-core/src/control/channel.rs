//! One end of a control channel: bytes of a stream in, messages out, and back. Knows no socket.
//!
//! ```text
//! →  u16 length = 112 | Noise IK message 1 (96) | 16 MAC16(HASH("skynet control mac1" | relay key), message 1)
//! ←  u16 length = 48  | Noise IK message 2 (48)
//! ↔  u16 length ≤ 16,384 | Noise transport message
//! ```
//!
//! Guarantees: the responder does no scalar multiplication for a first message whose MAC is wrong; nothing is said to
//! whoever sent it; after any error the channel is dead and says nothing more.

use std::collections::VecDeque;

use snow::{HandshakeState, TransportState};
use zeroize::Zeroize;

use crate::crypto;
use crate::key::{PublicKey, StaticSecret};
use crate::noise::Primitives;
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// Longest frame after its length field, bytes.
pub const MAX_FRAME: usize = 16_384;
/// Longest message a frame carries, bytes.
pub const MAX_MESSAGE: usize = MAX_FRAME - TAG_LEN;
/// A handshake is one round trip; who needs longer is dead or holds a slot on purpose.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

const TAG_LEN: usize = 16;
const MESSAGE_1: usize = 96;
const MESSAGE_2: usize = 48;
const MAC_LEN: usize = 16;
const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// What one read may hand over beyond an unfinished frame. Messages are taken out after each read, so this is no limit
/// on the stream.
const MAX_INBOX: usize = 4 * (2 + MAX_FRAME);

/// What a channel carries. Each has a prologue of its own, so that neither can be taken for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Control messages.
    Control,
    /// Relay frames, where UDP is dead.
    Frames,
}

impl Purpose {
    fn prologue(self) -> &'static [u8] {
        match self {
            Self::Control => b"skynet control 1",
            Self::Frames => b"skynet frames 1",
        }
    }

    fn mac1_label(self) -> &'static [u8] {
        match self {
            Self::Control => b"skynet control mac1",
            Self::Frames => b"skynet frames mac1",
        }
    }
}

/// Why a channel died.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum ChannelError {
    /// A frame whose length is not allowed at this point.
    #[error("control frame of a forbidden length")]
    Length,
    /// The first message was not made for this relay's key.
    #[error("first message is not for this key")]
    Mac1,
    /// The handshake failed: wrong key, altered bytes, or a point of small order.
    #[error("control handshake failed")]
    Handshake,
    /// A message that does not open.
    #[error("control message failed authentication")]
    Authentication,
    /// More bytes than may wait.
    #[error("too many bytes before messages were taken out")]
    Overflow,
    /// A message above [`MAX_MESSAGE`].
    #[error("message too long for a control frame")]
    TooLong,
    /// Used before the handshake was complete or after an error.
    #[error("control channel is not established")]
    NotEstablished,
}

enum State {
    AwaitMessage1(Box<Responder>),
    AwaitMessage2(Box<HandshakeState>),
    Established(Box<TransportState>),
    Dead(ChannelError),
}

struct Responder {
    purpose: Purpose,
    local: StaticSecret,
    rng: Rng,
}

/// One end of a control channel.
///
/// *Getters* [`remote`](Self::remote), [`is_established`](Self::is_established), [`deadline`](Self::deadline);
/// *handle* [`feed`](Self::feed); *commands* [`send`](Self::send); *poll* [`poll_message`](Self::poll_message), then
/// [`poll_bytes`](Self::poll_bytes). After each `feed`, take out messages until `None`.
pub struct Channel {
    state: State,
    inbox: Vec<u8>,
    outbox: VecDeque<Vec<u8>>,
    remote: Option<PublicKey>,
    deadline: Instant,
}

impl Channel {
    /// The node's end; message 1 is ready in [`poll_bytes`](Self::poll_bytes).
    pub fn initiator(local: &StaticSecret, relay: &PublicKey, rng: &mut Rng, now: Instant) -> Self {
        Self::initiator_for(Purpose::Control, local, relay, rng, now)
    }

    /// The node's end of a channel for `purpose`.
    pub fn initiator_for(
        purpose: Purpose,
        local: &StaticSecret,
        relay: &PublicKey,
        rng: &mut Rng,
        now: Instant,
    ) -> Self {
        let mut channel = Self::new(State::Dead(ChannelError::Handshake), now);
        if let Ok((state, frame)) = begin(purpose, local, relay, rng) {
            channel.state = State::AwaitMessage2(Box::new(state));
            channel.remote = Some(*relay);
            channel.outbox.push_back(frame);
        }
        channel
    }

    /// The relay's end.
    pub fn responder(local: &StaticSecret, rng: &mut Rng, now: Instant) -> Self {
        Self::responder_for(Purpose::Control, local, rng, now)
    }

    /// The relay's end of a channel for `purpose`.
    pub fn responder_for(purpose: Purpose, local: &StaticSecret, rng: &mut Rng, now: Instant) -> Self {
        let responder = Responder { purpose, local: local.clone(), rng: rng.fork() };
        Self::new(State::AwaitMessage1(Box::new(responder)), now)
    }

    fn new(state: State, now: Instant) -> Self {
        let deadline = now + HANDSHAKE_DEADLINE;
        Self { state, inbox: Vec::new(), outbox: VecDeque::new(), remote: None, deadline }
    }

    /// The key the other end has proven; for an initiator, the one it must prove.
    pub fn remote(&self) -> Option<PublicKey> {
        self.remote
    }

    /// Whether messages can be sent.
    pub fn is_established(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    /// When the handshake must be complete; `None` once it is.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.is_established()).then_some(self.deadline)
    }

    /// Takes bytes from the stream and does the handshake's part of them. At most 16 KiB at a time.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        if let State::Dead(error) = self.state {
            return Err(error);
        }
        if self.inbox.len() + bytes.len() > MAX_INBOX {
            return Err(self.die(ChannelError::Overflow));
        }
        self.inbox.extend_from_slice(bytes);
        while !self.is_established() {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(self.die(error)),
            }
        }
        Ok(())
    }

    /// The next message, opened.
    pub fn poll_message(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        let State::Established(transport) = &mut self.state else {
            return match self.state {
                State::Dead(error) => Err(error),
                _ => Ok(None),
            };
        };
        let frame = match take_frame(&mut self.inbox, TAG_LEN..=MAX_FRAME) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.die(error)),
        };
        let mut message = vec![0; frame.len()];
        match transport.read_message(&frame, &mut message) {
            Ok(len) => {
                message.truncate(len);
                Ok(Some(message))
            }
            Err(_) => Err(self.die(ChannelError::Authentication)),
        }
    }

    /// Seals `message` (1 to [`MAX_MESSAGE`] bytes) into the stream.
    pub fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        let State::Established(transport) = &mut self.state else { return Err(ChannelError::NotEstablished) };
        if message.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLong);
        }
        let mut frame = vec![0; 2 + message.len() + TAG_LEN];
        let len =
            transport.write_message(message, &mut frame[2..]).map_err(|_| ChannelError::NotEstablished)?;
        self.push_frame(frame, len);
        Ok(())
    }

    /// The next bytes for the stream.
    pub fn poll_bytes(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    fn push_frame(&mut self, mut frame: Vec<u8>, len: usize) {
        frame[..2].copy_from_slice(&(len as u16).to_be_bytes());
        frame.truncate(2 + len);
        self.outbox.push_back(frame);
    }

    /// One step of the handshake; `false` if it needs more bytes.
    fn step(&mut self) -> Result<bool, ChannelError> {
        match &mut self.state {
            State::AwaitMessage1(responder) => {
                let Some(frame) = take_frame(&mut self.inbox, MESSAGE_1 + MAC_LEN..=MESSAGE_1 + MAC_LEN)?
                else {
                    return Ok(false);
                };
                let (transport, remote, answer) = respond(responder, &frame)?;
                self.state = State::Established(Box::new(transport));
                self.remote = Some(remote);
                self.push_frame(answer, MESSAGE_2);
            }
            State::AwaitMessage2(_) => {
                let Some(frame) = take_frame(&mut self.inbox, MESSAGE_2..=MESSAGE_2)? else {
                    return Ok(false);
                };
                let State::AwaitMessage2(mut handshake) =
                    core::mem::replace(&mut self.state, State::Dead(ChannelError::Handshake))
                else {
                    unreachable!("matched above")
                };
                handshake.read_message(&frame, &mut [0; MESSAGE_2]).map_err(|_| ChannelError::Handshake)?;
                let transport = handshake.into_transport_mode().map_err(|_| ChannelError::Handshake)?;
                self.state = State::Established(Box::new(transport));
            }
            State::Established(_) => {}
            State::Dead(error) => return Err(*error),
        }
        Ok(true)
    }

    fn die(&mut self, error: ChannelError) -> ChannelError {
        self.state = State::Dead(error);
        self.inbox.zeroize();
        self.outbox.clear();
        error
    }
}

/// Key of the MAC in front of the handshake: whoever does not know the relay's public key costs it one hash.
fn mac1_key(purpose: Purpose, relay: &PublicKey) -> [u8; 32] {
    crypto::hash(&[purpose.mac1_label(), relay.as_bytes()])
}

fn builder(
    purpose: Purpose,
    local: &StaticSecret,
    rng: &mut Rng,
) -> Result<snow::Builder<'static>, snow::Error> {
    let params = PATTERN.parse().expect("the pattern is a constant");
    snow::Builder::with_resolver(params, Box::new(Primitives::alone(local, rng))).prologue(purpose.prologue())
}

fn begin(
    purpose: Purpose,
    local: &StaticSecret,
    relay: &PublicKey,
    rng: &mut Rng,
) -> Result<(HandshakeState, Vec<u8>), snow::Error> {
    let mut handshake = builder(purpose, local, rng)?
        .local_private_key(local.expose())?
        .remote_public_key(relay.as_bytes())?
        .build_initiator()?;
    let mut frame = vec![0; 2 + MESSAGE_1 + MAC_LEN];
    handshake.write_message(&[], &mut frame[2..2 + MESSAGE_1])?;
    let mac = crypto::mac16(&mac1_key(purpose, relay), &[&frame[2..2 + MESSAGE_1]]);
    frame[2 + MESSAGE_1..].copy_from_slice(&mac);
    frame[..2].copy_from_slice(&((MESSAGE_1 + MAC_LEN) as u16).to_be_bytes());
    Ok((handshake, frame))
}

fn respond(
    responder: &mut Responder,
    frame: &[u8],
) -> Result<(TransportState, PublicKey, Vec<u8>), ChannelError> {
    let (message, mac) = frame.split_at(MESSAGE_1);
    let key = mac1_key(responder.purpose, &responder.local.public());
    if !crypto::mac_eq(&crypto::mac16(&key, &[message]), mac) {
        return Err(ChannelError::Mac1);
    }
    let run = || -> Result<_, snow::Error> {
        let mut handshake = builder(responder.purpose, &responder.local, &mut responder.rng)?
            .local_private_key(responder.local.expose())?
            .build_responder()?;
        handshake.read_message(message, &mut [0; MESSAGE_1])?;
        let remote = handshake.get_remote_static().and_then(|key| key.try_into().ok()).map(PublicKey);
        let mut answer = vec![0; 2 + MESSAGE_2];
        handshake.write_message(&[], &mut answer[2..])?;
        Ok((handshake.into_transport_mode()?, remote, answer))
    };
    let mut run = run;
    let (transport, remote, answer) = run().map_err(|_| ChannelError::Handshake)?;
    Ok((transport, remote.ok_or(ChannelError::Handshake)?, answer))
}

/// Cuts one frame from the front of `inbox`. A forbidden length is refused before its bytes arrive.
fn take_frame(
    inbox: &mut Vec<u8>,
    allowed: core::ops::RangeInclusive<usize>,
) -> Result<Option<Vec<u8>>, ChannelError> {
    let &[a, b, ..] = inbox.as_slice() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([a, b]));
    if !allowed.contains(&len) {
        return Err(ChannelError::Length);
    }
    if inbox.len() < 2 + len {
        return Ok(None);
    }
    let frame = inbox[2..2 + len].to_vec();
    inbox.drain(..2 + len);
    Ok(Some(frame))
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
