//! One end of a stream of relay frames: bytes of the stream in, frames out, and back.
//!
//! Inside is a Noise channel as the control channel's, under a prologue of its own, so whoever looks into the TLS (a
//! proxy that opens it, whoever made the certificate) sees neither ticket nor frame. The node's static key in it is
//! random: the ticket in the frames says who it is.

use super::packing::{Frames, LENGTH, PackingError};
use super::queue::{FrameQueue, QueueDrops};
use crate::control::channel::{Channel, ChannelError, MAX_MESSAGE, Purpose};
use crate::key::{PublicKey, StaticSecret};
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::relay;

/// Longest frame that a stream carries.
const MAX_FRAME: usize = MAX_MESSAGE - LENGTH;

/// Why a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CarrierError {
    /// The Noise channel inside broke.
    #[error("the stream of frames broke: {0}")]
    Channel(#[from] ChannelError),
    /// What came out of it is no list of frames.
    #[error("the stream of frames broke: {0}")]
    Packing(#[from] PackingError),
}

/// What a stream gave up, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StreamDrops {
    /// Of those to be sent.
    pub queue: QueueDrops,
    /// Of a kind that does not travel in this direction, or too long.
    pub foreign: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Node,
    Relay,
}

impl Side {
    /// Whether `frame` is one that this side sends: the other is not handed anything else, whatever it serves besides.
    fn sends(self, frame: &[u8]) -> bool {
        let kinds: &[u8] = match self {
            Self::Node => &[relay::DATA, relay::HELLO, relay::BIND, relay::KEEP],
            Self::Relay => &[relay::DATA, relay::COOKIE, relay::BOUND, relay::KEEP, relay::NACK],
        };
        frame.len() <= MAX_FRAME && frame.first().is_some_and(|kind| kinds.contains(kind))
    }

    fn other(self) -> Self {
        if self == Self::Node { Self::Relay } else { Self::Node }
    }
}

/// One end. *Getters* [`is_established`](Self::is_established), [`deadline`](Self::deadline),
/// [`drops`](Self::drops); *handle* [`feed`](Self::feed); *commands* [`push`](Self::push); *poll*
/// [`poll_bytes`](Self::poll_bytes).
pub struct FrameStream {
    side: Side,
    channel: Channel,
    queue: FrameQueue,
    foreign: u64,
    plaintext: Vec<u8>,
}

impl FrameStream {
    /// The node's end, towards the relay with this key.
    pub fn initiator(relay: &PublicKey, rng: &mut Rng, now: Instant) -> Self {
        let nobody = StaticSecret::random(rng);
        Self::new(Side::Node, Channel::initiator_for(Purpose::Frames, &nobody, relay, rng, now))
    }

    /// The relay's end.
    pub fn responder(local: &StaticSecret, rng: &mut Rng, now: Instant) -> Self {
        Self::new(Side::Relay, Channel::responder_for(Purpose::Frames, local, rng, now))
    }

    fn new(side: Side, channel: Channel) -> Self {
        Self { side, channel, queue: FrameQueue::default(), foreign: 0, plaintext: Vec::new() }
    }

    /// Whether the other end has proven its key (node), or knows ours (relay).
    pub fn is_established(&self) -> bool {
        self.channel.is_established()
    }

    /// When the handshake must be complete; `None` once it is.
    pub fn deadline(&self) -> Option<Instant> {
        self.channel.deadline()
    }

    /// What was given up so far.
    pub fn drops(&self) -> StreamDrops {
        StreamDrops { queue: self.queue.drops(), foreign: self.foreign }
    }

    /// Bytes of the stream, at most 16 KiB at a time; each frame in them is handed to `deliver`.
    ///
    /// # Errors
    /// The stream is dead; nothing more can be had from it.
    pub fn feed(&mut self, bytes: &[u8], mut deliver: impl FnMut(&[u8])) -> Result<(), CarrierError> {
        self.channel.feed(bytes)?;
        while let Some(message) = self.channel.poll_message()? {
            for frame in Frames::of(&message) {
                let frame = frame?;
                if self.side.other().sends(frame) {
                    deliver(frame);
                } else {
                    self.foreign += 1;
                }
            }
        }
        Ok(())
    }

    /// A frame for the other end.
    pub fn push(&mut self, frame: &[u8], now: Instant) {
        if self.side.sends(frame) {
            self.queue.push(frame, now);
        } else {
            self.foreign += 1;
        }
    }

    /// The next bytes for the stream: the handshake's, else one message with what waits.
    pub fn poll_bytes(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some(bytes) = self.channel.poll_bytes() {
            return Some(bytes);
        }
        if !self.is_established() || self.queue.is_empty() {
            return None;
        }
        self.plaintext.clear();
        self.queue.pack(&mut self.plaintext, MAX_MESSAGE, now);
        if self.plaintext.is_empty() {
            return None;
        }
        self.channel.send(&self.plaintext).ok()?;
        self.channel.poll_bytes()
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
