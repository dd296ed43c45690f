//! STUN Binding (RFC 8489) on the relay's port, in place and never larger than the request.

use core::net::SocketAddr;

use stun_rs::attributes::stun::{Fingerprint, XorMappedAddress};
use stun_rs::methods::BINDING;
use stun_rs::{MessageClass, MessageDecoderBuilder, MessageEncoderBuilder, StunMessage, StunMessageBuilder};

use skynet_core::rng::Rng;
use skynet_core::time::Instant;

use super::drops::DropReason;
use super::limit::PrefixLimiter;

const HEADER_LEN: usize = 20;
const MAGIC: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// A request is asked to carry padding, not to fill a datagram.
const MAX_REQUEST: usize = 576;
const PADDING: u16 = 0x0026;
/// Types below this must be understood (RFC 8489 §14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;

/// Requests answered per second and source prefix, and their burst.
const RATE: (u64, u64) = (20, 40);

/// STUN and nothing else, on the port beside the relay's: whoever asks both learns how a NAT maps towards two of them.
pub struct StunServer(PrefixLimiter);

impl StunServer {
    /// One that has answered nobody.
    pub fn new(rng: &mut Rng, now: Instant) -> Self {
        Self(PrefixLimiter::new(RATE.0, RATE.1, rng, now))
    }

    /// Answers in place; the length of the answer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<usize, DropReason> {
        if from.port() == 0 {
            return Err(DropReason::NoSourcePort);
        }
        if !is_stun(datagram) {
            return Err(DropReason::UnknownKind);
        }
        if !self.0.allow(from.ip(), now) {
            return Err(DropReason::StunRate);
        }
        answer(datagram, from)
    }
}

/// Whether a datagram is STUN: two zero bits in front and the magic cookie at offset 4.
pub(super) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN && datagram[0] <= 1 && datagram[4..8] == MAGIC
}

/// Answers a Binding request from `from` in place; the length of the answer.
pub(super) fn answer(datagram: &mut [u8], from: SocketAddr) -> Result<usize, DropReason> {
    check_form(datagram)?;
    let (request, _) =
        MessageDecoderBuilder::default().build().decode(datagram).map_err(|_| DropReason::StunUnsupported)?;
    if request.method() != BINDING || request.class() != MessageClass::Request {
        return Err(DropReason::StunUnsupported);
    }
    let fingerprint = request.get::<Fingerprint>().is_some();
    let mut buffer = [0; 64];
    let len = encode(&request, from, fingerprint, &mut buffer)
        .filter(|&len| len <= datagram.len())
        .or_else(|| encode(&request, from, false, &mut buffer))
        .ok_or(DropReason::StunUnsupported)?;
    if len > datagram.len() {
        return Err(DropReason::StunTooSmall);
    }
    datagram[..len].copy_from_slice(&buffer[..len]);
    Ok(len)
}

fn encode(request: &StunMessage, from: SocketAddr, fingerprint: bool, out: &mut [u8]) -> Option<usize> {
    let mut builder = StunMessageBuilder::new(BINDING, MessageClass::SuccessResponse)
        .with_transaction_id(*request.transaction_id())
        .with_attribute(XorMappedAddress::from(from));
    if fingerprint {
        builder = builder.with_attribute(Fingerprint::default());
    }
    MessageEncoderBuilder::default().build().encode(out, &builder.build()).ok()
}

/// The header and the chain of attributes are consistent, and none must be understood that is not. Checked before the
/// codec sees the bytes, so that it only works on requests worth an answer.
fn check_form(datagram: &[u8]) -> Result<(), DropReason> {
    let unsupported = Err(DropReason::StunUnsupported);
    let len = datagram.len();
    let field = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
    if !is_stun(datagram) || len > MAX_REQUEST || field(0) != 1 || usize::from(field(2)) != len - HEADER_LEN {
        return unsupported;
    }
    let mut at = HEADER_LEN;
    while at < len {
        if at + 4 > len {
            return unsupported;
        }
        let kind = field(at);
        if kind < COMPREHENSION_OPTIONAL && kind != PADDING {
            return unsupported;
        }
        at += 4 + usize::from(field(at + 2)).next_multiple_of(4);
    }
    if at == len { Ok(()) } else { unsupported }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::rng::{Rng, RngCore as _};
    use stun_rs::attributes::stun::Software;

    fn request(software: Option<&str>) -> Vec<u8> {
        let mut builder = StunMessageBuilder::new(BINDING, MessageClass::Request);
        if let Some(text) = software {
            builder = builder.with_attribute(Software::new(text).unwrap());
        }
        let mut out = vec![0; 200];
        let len = MessageEncoderBuilder::default().build().encode(&mut out, &builder.build()).unwrap();
        out.truncate(len);
        out
    }

    fn mapped(answer: &[u8]) -> SocketAddr {
        let (message, _) = MessageDecoderBuilder::default().build().decode(answer).unwrap();
        assert_eq!(message.class(), MessageClass::SuccessResponse);
        *message.get::<XorMappedAddress>().unwrap().as_xor_mapped_address().unwrap().socket_address()
    }

    #[test]
    fn tells_the_source_its_address_in_both_families() {
        for from in ["203.0.113.7:4711", "[2001:db8::7]:4711"] {
            let from: SocketAddr = from.parse().unwrap();
            let mut buffer = request(Some("padding of a client"));
            let before = buffer.len();
            let len = answer(&mut buffer, from).unwrap();
            assert!(len <= before);
            assert_eq!(mapped(&buffer[..len]), from);
        }
    }

    #[test]
    fn does_not_answer_what_is_smaller_than_the_answer() {
        let from: SocketAddr = "203.0.113.7:4711".parse().unwrap();
        assert_eq!(answer(&mut request(None), from), Err(DropReason::StunTooSmall));
    }

    #[test]
    fn answers_requests_padded_with_padding() {
        let mut buffer = request(None);
        buffer.extend_from_slice(&[0, 0x26, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        buffer[3] = 16;
        let from: SocketAddr = "203.0.113.7:4711".parse().unwrap();
        assert_eq!(answer(&mut buffer, from), Ok(32));
    }

    #[test]
    fn altered_cut_and_random_requests_never_panic_and_are_never_amplified() {
        let from: SocketAddr = "[2001:db8::7]:4711".parse().unwrap();
        let good = request(Some("padding of a client, long enough"));
        let try_one = |bytes: &[u8]| {
            let mut buffer = bytes.to_vec();
            if let Ok(len) = answer(&mut buffer, from) {
                assert!(len <= bytes.len());
            }
        };
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            try_one(&flipped);
        }
        for len in 0..good.len() {
            try_one(&good[..len]);
        }
        try_one(&[&good[..], &[0]].concat());
        let mut rng = Rng::from_seed([1; 32]);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(6) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.next_u32() as u8;
            }
            bytes[..4].copy_from_slice(&good[..4]);
            try_one(&bytes);
        }
    }
}
