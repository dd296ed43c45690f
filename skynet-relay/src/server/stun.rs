//! STUN Binding (RFC 8489) on the relay's port, in place and never larger than the request; and on the port above what
//! shows a client how its NAT behaves (RFC 5780).

use core::net::SocketAddr;

use skynet_core::wire::binding::{CHANGE_PORT, CHANGE_REQUEST, RESPONSE_PORT};
use stun_rs::attributes::stun::{Fingerprint, XorMappedAddress};
use stun_rs::methods::BINDING;
use stun_rs::{MessageClass, MessageDecoderBuilder, MessageEncoderBuilder, StunMessage, StunMessageBuilder};

use super::DropReason;

const HEADER_LEN: usize = 20;
const MAGIC: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// A request is asked to carry padding, not to fill a datagram.
const MAX_REQUEST: usize = 576;
const PADDING: u16 = 0x0026;
/// Longest request on the port above: a jumbo frame, for clients that measure what passes.
const MAX_MEASURING: usize = 9_216;
/// Types below this must be understood (RFC 8489 §14).
const COMPREHENSION_OPTIONAL: u16 = 0x8000;

/// Whether a datagram is STUN: two zero bits in front and the magic cookie at offset 4.
pub(super) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_LEN && datagram[0] <= 1 && datagram[4..8] == MAGIC
}

/// Answers a Binding request from `from` in place; the length of the answer.
pub(super) fn answer(datagram: &mut [u8], from: SocketAddr) -> Result<usize, DropReason> {
    check_form(datagram, MAX_REQUEST, |kind| kind == PADDING)?;
    answer_checked(datagram, from)
}

/// Where an answer on the port above the relay's leaves and goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// Length of the answer.
    pub len: usize,
    /// From the relay's own port, which this client may never have sent to (CHANGE-REQUEST).
    pub from_main: bool,
    /// To this port of the client's address (RESPONSE-PORT).
    pub to_port: Option<u16>,
}

/// Answers a Binding request that came to the port above the relay's: as [`answer`], and it may ask for the answer by the
/// other port, or to another port of its own address. Never to another address.
pub(super) fn measure(datagram: &mut [u8], from: SocketAddr) -> Result<Measured, DropReason> {
    let known = |kind| matches!(kind, PADDING | CHANGE_REQUEST | RESPONSE_PORT);
    check_form(datagram, MAX_MEASURING, known)?;
    let change = attribute(datagram, CHANGE_REQUEST).and_then(|v| v.try_into().ok()).map(u32::from_be_bytes);
    let to_port =
        attribute(datagram, RESPONSE_PORT).and_then(|v| Some(u16::from_be_bytes([*v.first()?, *v.get(1)?])));
    // There is no other address to answer from.
    if change.is_some_and(|c| c & !CHANGE_PORT != 0) || to_port == Some(0) {
        return Err(DropReason::StunUnsupported);
    }
    let len = answer_checked(datagram, from)?;
    Ok(Measured { len, from_main: change.is_some_and(|c| c & CHANGE_PORT != 0), to_port })
}

/// The value of the first attribute of this kind, in a datagram whose form was checked.
fn attribute(datagram: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = datagram.get(HEADER_LEN..)?;
    while let [k0, k1, l0, l1, value @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        if u16::from_be_bytes([*k0, *k1]) == wanted {
            return value.get(..len);
        }
        rest = rest.get(4 + len.next_multiple_of(4)..)?;
    }
    None
}

fn answer_checked(datagram: &mut [u8], from: SocketAddr) -> Result<usize, DropReason> {
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
fn check_form(datagram: &[u8], most: usize, known: impl Fn(u16) -> bool) -> Result<(), DropReason> {
    let unsupported = Err(DropReason::StunUnsupported);
    let len = datagram.len();
    let field = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
    if !is_stun(datagram) || len > most || field(0) != 1 || usize::from(field(2)) != len - HEADER_LEN {
        return unsupported;
    }
    let mut at = HEADER_LEN;
    while at < len {
        if at + 4 > len {
            return unsupported;
        }
        let kind = field(at);
        if kind < COMPREHENSION_OPTIONAL && !known(kind) {
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
    fn the_port_above_answers_by_the_other_port_or_to_another_of_the_client_and_nowhere_else() {
        use skynet_core::wire::binding::{Answer, Request};
        let from: SocketAddr = "203.0.113.7:4711".parse().unwrap();
        for (request, from_main, to_port) in [
            (Request { len: 1_400, ..Request::default() }, false, None),
            (Request { change_port: true, ..Request::default() }, true, None),
            (Request { response_port: Some(99), ..Request::default() }, false, Some(99)),
        ] {
            let mut buffer = request.encode([5; 12]);
            let before = buffer.len();
            let measured = measure(&mut buffer, from).unwrap();
            assert!(measured.len <= before);
            assert_eq!((measured.from_main, measured.to_port), (from_main, to_port));
            assert_eq!(
                Answer::parse(&buffer[..measured.len]),
                Some(Answer { transaction: [5; 12], mapped: from })
            );
        }
        let asked = Request { change_port: true, ..Request::default() }.encode([5; 12]);
        assert_eq!(answer(&mut asked.clone(), from), Err(DropReason::StunUnsupported), "on the relay's port");
        let mut address = asked;
        address[27] = 4;
        assert_eq!(measure(&mut address, from), Err(DropReason::StunUnsupported));
        for port in [None, Some(0)] {
            let len = 9_300 * usize::from(port.is_none());
            let mut request = Request { response_port: port, len, ..Request::default() }.encode([5; 12]);
            assert_eq!(measure(&mut request, from), Err(DropReason::StunUnsupported), "{port:?}");
        }
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
            if let Ok(measured) = measure(&mut bytes.to_vec(), from) {
                assert!(measured.len <= bytes.len());
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
