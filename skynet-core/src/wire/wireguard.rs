//! WireGuard's four messages (WireGuard §5.4), byte-exact. Integers are little-endian.
//!
//! ```text
//! 1 initiation, 148 bytes                          2 response, 92 bytes
//! ┌──────────┬──────────┬───────────────────┐      ┌──────────┬──────────┬────────────┐
//! │1 │0  0  0│ sender   │ ephemeral      32 │      │2 │0  0  0│ sender   │ receiver   │
//! ├──────────┴──────────┴───────────────────┤      ├──────────┴──────────┴────────────┤
//! │ static, sealed                       48 │      │ ephemeral                     32 │
//! │ timestamp (TAI64N), sealed           28 │      │ nothing, sealed               16 │
//! │ mac1                                 16 │      │ mac1                          16 │
//! │ mac2                                 16 │      │ mac2                          16 │
//! └─────────────────────────────────────────┘      └──────────────────────────────────┘
//! 3 cookie reply, 64 bytes                         4 transport data, 32 bytes or more
//! ┌──────────┬──────────┬───────────────────┐      ┌──────────┬──────────┬────────────┐
//! │3 │0  0  0│ receiver │ nonce          24 │      │4 │0  0  0│ receiver │ counter  8 │
//! ├──────────┴──────────┴───────────────────┤      ├──────────┴──────────┴────────────┤
//! │ cookie, sealed                       32 │      │ payload, sealed, with tag   16 + n │
//! └─────────────────────────────────────────┘      └────────────────────────────────────┘
//! ```

use core::fmt;

use crate::drop::DropReason;

/// Length of an initiation.
pub const INITIATION_LEN: usize = 148;
/// Length of a response.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of the header of transport data.
pub const TRANSPORT_HEADER_LEN: usize = 16;
/// Length of an AEAD tag.
pub const TAG_LEN: usize = 16;
/// What transport data adds to a payload, padding aside.
pub const TRANSPORT_OVERHEAD: usize = TRANSPORT_HEADER_LEN + TAG_LEN;
/// Length of each of `mac1` and `mac2`.
pub const MAC_LEN: usize = 16;

/// First byte of an initiation.
pub const TYPE_INITIATION: u8 = 1;
/// First byte of a response.
pub const TYPE_RESPONSE: u8 = 2;
/// First byte of a cookie reply.
pub const TYPE_COOKIE_REPLY: u8 = 3;
/// First byte of transport data.
pub const TYPE_TRANSPORT: u8 = 4;

/// The index a receiver chose at random to find a session again (WireGuard §5.4.2, `I_m`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiverIndex(pub u32);

impl fmt::Debug for ReceiverIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:08x}", self.0)
    }
}

impl fmt::Display for ReceiverIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The `N` bytes at offset `at`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn index(bytes: &[u8], at: usize) -> ReceiverIndex {
    ReceiverIndex(u32::from_le_bytes(field(bytes, at)))
}

/// A message of any type whose length and reserved bytes are right. Nothing in it is authenticated yet.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Type 1.
    Initiation(Initiation<'a>),
    /// Type 2.
    Response(Response<'a>),
    /// Type 3.
    CookieReply(CookieReply<'a>),
    /// Type 4.
    Transport(TransportHeader),
}

impl<'a> Message<'a> {
    /// Parses a datagram.
    ///
    /// # Errors
    /// [`DropReason::UnknownType`] for another first byte, [`DropReason::Malformed`] for a wrong length or reserved
    /// bytes that are not zero.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, DropReason> {
        let Some((&kind, rest)) = datagram.split_first() else { return Err(DropReason::Malformed) };
        if !(TYPE_INITIATION..=TYPE_TRANSPORT).contains(&kind) {
            return Err(DropReason::UnknownType);
        }
        if rest.get(..3) != Some(&[0, 0, 0]) {
            return Err(DropReason::Malformed);
        }
        let malformed = |_| DropReason::Malformed;
        match kind {
            TYPE_INITIATION => Ok(Self::Initiation(Initiation(datagram.try_into().map_err(malformed)?))),
            TYPE_RESPONSE => Ok(Self::Response(Response(datagram.try_into().map_err(malformed)?))),
            TYPE_COOKIE_REPLY => Ok(Self::CookieReply(CookieReply(datagram.try_into().map_err(malformed)?))),
            _ => TransportHeader::parse(datagram).map(Self::Transport),
        }
    }
}

/// An initiation (type 1).
#[derive(Clone, Copy)]
pub struct Initiation<'a>(&'a [u8; INITIATION_LEN]);

impl<'a> Initiation<'a> {
    /// The whole message.
    pub fn bytes(&self) -> &'a [u8; INITIATION_LEN] {
        self.0
    }
    /// The index under which the initiator wants its answer.
    pub fn sender(&self) -> ReceiverIndex {
        index(self.0, 4)
    }
    /// What Noise made: `e`, `es`, `s`, `ss` and the payload.
    pub fn noise(&self) -> &'a [u8] {
        &self.0[8..116]
    }
    /// `mac1`.
    pub fn mac1(&self) -> [u8; MAC_LEN] {
        field(self.0, 116)
    }
    /// Writes the first 116 bytes around a Noise message of 108.
    pub fn encode(sender: ReceiverIndex, noise: &[u8; 108]) -> [u8; INITIATION_LEN] {
        let mut out = [0; INITIATION_LEN];
        out[0] = TYPE_INITIATION;
        out[4..8].copy_from_slice(&sender.0.to_le_bytes());
        out[8..116].copy_from_slice(noise);
        out
    }
}

/// A response (type 2).
#[derive(Clone, Copy)]
pub struct Response<'a>(&'a [u8; RESPONSE_LEN]);

impl<'a> Response<'a> {
    /// The whole message.
    pub fn bytes(&self) -> &'a [u8; RESPONSE_LEN] {
        self.0
    }
    /// The responder's index, to which data is sent.
    pub fn sender(&self) -> ReceiverIndex {
        index(self.0, 4)
    }
    /// The initiator's index.
    pub fn receiver(&self) -> ReceiverIndex {
        index(self.0, 8)
    }
    /// What Noise made: `e`, `ee`, `se`, `psk` and an empty payload.
    pub fn noise(&self) -> &'a [u8] {
        &self.0[12..60]
    }
    /// `mac1`.
    pub fn mac1(&self) -> [u8; MAC_LEN] {
        field(self.0, 60)
    }
    /// Writes the first 60 bytes around a Noise message of 48.
    pub fn encode(sender: ReceiverIndex, receiver: ReceiverIndex, noise: &[u8; 48]) -> [u8; RESPONSE_LEN] {
        let mut out = [0; RESPONSE_LEN];
        out[0] = TYPE_RESPONSE;
        out[4..8].copy_from_slice(&sender.0.to_le_bytes());
        out[8..12].copy_from_slice(&receiver.0.to_le_bytes());
        out[12..60].copy_from_slice(noise);
        out
    }
}

/// A cookie reply (type 3).
#[derive(Clone, Copy)]
pub struct CookieReply<'a>(&'a [u8; COOKIE_REPLY_LEN]);

impl CookieReply<'_> {
    /// The index the sender of the refused handshake message gave as its own.
    pub fn receiver(&self) -> ReceiverIndex {
        index(self.0, 4)
    }
    /// Nonce of the sealed cookie.
    pub fn nonce(&self) -> [u8; 24] {
        field(self.0, 8)
    }
    /// The cookie with its tag.
    pub fn sealed(&self) -> [u8; 32] {
        field(self.0, 32)
    }
    /// Writes a message.
    pub fn encode(receiver: ReceiverIndex, nonce: &[u8; 24], sealed: &[u8; 32]) -> [u8; COOKIE_REPLY_LEN] {
        let mut out = [0; COOKIE_REPLY_LEN];
        out[0] = TYPE_COOKIE_REPLY;
        out[4..8].copy_from_slice(&receiver.0.to_le_bytes());
        out[8..32].copy_from_slice(nonce);
        out[32..].copy_from_slice(sealed);
        out
    }
}

macro_rules! debug_as_indices {
    ($($name:ident: $($index:ident),+;)*) => {$(
        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))$(.field(stringify!($index), &self.$index()))+.finish_non_exhaustive()
            }
        }
    )*};
}
debug_as_indices! {
    Initiation: sender;
    Response: sender, receiver;
    CookieReply: receiver;
}

/// The header of transport data (type 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransportHeader {
    /// The index of the receiver's session.
    pub receiver: ReceiverIndex,
    /// The nonce of this message.
    pub counter: u64,
}

impl TransportHeader {
    /// Parses the header of a datagram that must also hold at least a tag.
    ///
    /// # Errors
    /// [`DropReason::Malformed`].
    pub fn parse(datagram: &[u8]) -> Result<Self, DropReason> {
        if datagram.len() < TRANSPORT_OVERHEAD || datagram[..4] != [TYPE_TRANSPORT, 0, 0, 0] {
            return Err(DropReason::Malformed);
        }
        Ok(Self { receiver: index(datagram, 4), counter: u64::from_le_bytes(field(datagram, 8)) })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut [u8; TRANSPORT_HEADER_LEN]) {
        out[..4].copy_from_slice(&[TYPE_TRANSPORT, 0, 0, 0]);
        out[4..8].copy_from_slice(&self.receiver.0.to_le_bytes());
        out[8..].copy_from_slice(&self.counter.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let mut transport = vec![0; 48];
        TransportHeader { receiver: ReceiverIndex(9), counter: 7 }
            .encode(transport.first_chunk_mut().expect("48 bytes"));
        vec![
            Initiation::encode(ReceiverIndex(0x0403_0201), &[5; 108]).to_vec(),
            Response::encode(ReceiverIndex(1), ReceiverIndex(2), &[5; 48]).to_vec(),
            CookieReply::encode(ReceiverIndex(3), &[4; 24], &[6; 32]).to_vec(),
            transport,
        ]
    }

    #[test]
    fn what_is_encoded_parses_to_the_same_fields() {
        let s = samples();
        let Ok(Message::Initiation(m)) = Message::parse(&s[0]) else { panic!("type 1") };
        assert_eq!((m.sender(), m.noise()), (ReceiverIndex(0x0403_0201), &[5; 108][..]));
        assert_eq!(s[0][..8], [1, 0, 0, 0, 1, 2, 3, 4]);
        let Ok(Message::Response(m)) = Message::parse(&s[1]) else { panic!("type 2") };
        assert_eq!((m.sender(), m.receiver(), m.noise()), (ReceiverIndex(1), ReceiverIndex(2), &[5; 48][..]));
        let Ok(Message::CookieReply(m)) = Message::parse(&s[2]) else { panic!("type 3") };
        assert_eq!((m.receiver(), m.nonce(), m.sealed()), (ReceiverIndex(3), [4; 24], [6; 32]));
        let Ok(Message::Transport(h)) = Message::parse(&s[3]) else { panic!("type 4") };
        assert_eq!(h, TransportHeader { receiver: ReceiverIndex(9), counter: 7 });
    }

    #[test]
    fn wrong_types_lengths_and_reserved_bytes_are_refused() {
        for sample in samples() {
            let transport = sample[0] == TYPE_TRANSPORT;
            for len in 0..sample.len() {
                let fits = transport && len >= TRANSPORT_OVERHEAD;
                assert_eq!(Message::parse(&sample[..len]).is_ok(), fits, "type {} cut to {len}", sample[0]);
            }
            let mut longer = sample.clone();
            longer.push(0);
            assert_eq!(Message::parse(&longer).is_ok(), transport);
            for byte in 1..4 {
                for bit in 0..8 {
                    let mut flipped = sample.clone();
                    flipped[byte] ^= 1 << bit;
                    assert_eq!(Message::parse(&flipped).err(), Some(DropReason::Malformed));
                }
            }
        }
        for kind in (0..=255u8).filter(|k| !(1..=4).contains(k)) {
            let mut datagram = [0; 148];
            datagram[0] = kind;
            assert_eq!(Message::parse(&datagram).err(), Some(DropReason::UnknownType));
        }
    }
}
