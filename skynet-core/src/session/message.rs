//! Handshake messages on their way out.

use core::ops::Deref;

use super::cookie::{Cookie, seal_macs};
use crate::key::PublicKey;
use crate::wire::wireguard::{INITIATION_LEN, MAC_LEN};

/// An initiation or a response, complete with its MACs, ready to be sent to the peer by whatever path the owner
/// chooses. Dereferences to the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeMessage {
    bytes: [u8; INITIATION_LEN],
    len: u8,
}

impl Deref for HandshakeMessage {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A message that is out, kept to read a cookie reply to it and to send it once more with the cookie.
#[derive(Clone, Debug)]
pub(super) struct SentMessage {
    message: Box<HandshakeMessage>,
    repeated: bool,
}

impl SentMessage {
    /// `message` with room for MACs at its end.
    pub(super) fn new(message: &[u8]) -> Self {
        let mut bytes = [0; INITIATION_LEN];
        bytes[..message.len()].copy_from_slice(message);
        let len = u8::try_from(message.len()).expect("a handshake message has at most 148 bytes");
        Self { message: Box::new(HandshakeMessage { bytes, len }), repeated: false }
    }

    /// The datagram with both MACs made for `peer`.
    pub(super) fn seal(&mut self, peer: &PublicKey, cookie: Option<&Cookie>) -> HandshakeMessage {
        let len = usize::from(self.message.len);
        seal_macs(&mut self.message.bytes[..len], peer, cookie);
        (*self.message).clone()
    }

    pub(super) fn mac1(&self) -> [u8; MAC_LEN] {
        let (_, macs) = self.message.split_last_chunk::<{ 2 * MAC_LEN }>().expect("it ends in two MACs");
        *macs.first_chunk().expect("16 of 32 bytes")
    }

    /// True the first time: a cookie is answered once, so that replayed replies cannot make us repeat ourselves.
    pub(super) fn may_repeat(&mut self) -> bool {
        !core::mem::replace(&mut self.repeated, true)
    }
}
