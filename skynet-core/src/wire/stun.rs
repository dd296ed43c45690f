//! STUN Binding (RFC 8489) as a client: "from where do you see me?"
//!
//! ```text
//!  0              2              4                    8
//! ┌──────────────┬──────────────┬────────────────────┬──────────────────────┬────────────────────────────┐
//! │ 0001 or 0101 │ bytes behind │ cookie 2112A442    │ transaction ID (12)  │ attributes: type, length, … │
//! └──────────────┴──────────────┴────────────────────┴──────────────────────┴────────────────────────────┘
//! ```
//! A request is padded (RFC 5780 §7.6), because no answer is larger than its request.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a request: room for the answer with an IPv6 address.
pub const REQUEST_LEN: usize = HEADER_LEN + 4 + PADDING_LEN;
/// Longest answer looked at.
const ANSWER_MAX: usize = 576;

const HEADER_LEN: usize = 20;
const PADDING_LEN: usize = 24;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PADDING: u16 = 0x0026;

/// What an answer must repeat.
pub type TransactionId = [u8; 12];

/// A Binding request.
pub fn request(id: &TransactionId) -> [u8; REQUEST_LEN] {
    let mut out = [0; REQUEST_LEN];
    out[..2].copy_from_slice(&BINDING_REQUEST.to_be_bytes());
    out[2..4].copy_from_slice(&((REQUEST_LEN - HEADER_LEN) as u16).to_be_bytes());
    out[4..8].copy_from_slice(&COOKIE);
    out[8..20].copy_from_slice(id);
    out[20..22].copy_from_slice(&PADDING.to_be_bytes());
    out[22..24].copy_from_slice(&(PADDING_LEN as u16).to_be_bytes());
    out
}

/// Why a datagram is no answer to a Binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StunError {
    /// Its lengths do not fit.
    #[error("STUN message has the wrong length")]
    Length,
    /// Another method, a request, or an error.
    #[error("not a successful answer to a Binding request")]
    Type,
    /// It does not say where we are seen.
    #[error("STUN answer without an address")]
    NoAddress,
}

/// The transaction and the address of a successful answer.
pub fn parse_answer(datagram: &[u8]) -> Result<(TransactionId, SocketAddr), StunError> {
    let field = |at: usize| Some(u16::from_be_bytes(*datagram.get(at..)?.first_chunk()?));
    let (kind, len) = field(0).zip(field(2)).ok_or(StunError::Length)?;
    let id: TransactionId = *datagram.get(8..).and_then(|b| b.first_chunk()).ok_or(StunError::Length)?;
    if datagram.len() > ANSWER_MAX || datagram.len() - HEADER_LEN != usize::from(len) {
        return Err(StunError::Length);
    }
    if kind != BINDING_SUCCESS || datagram[4..8] != COOKIE {
        return Err(StunError::Type);
    }
    let mut at = HEADER_LEN;
    while at < datagram.len() {
        let (kind, len) = field(at).zip(field(at + 2)).ok_or(StunError::Length)?;
        let value = datagram.get(at + 4..at + 4 + usize::from(len)).ok_or(StunError::Length)?;
        if kind == XOR_MAPPED_ADDRESS {
            return Ok((id, xor_address(value, &id).ok_or(StunError::Length)?));
        }
        at += 4 + usize::from(len).next_multiple_of(4);
    }
    Err(StunError::NoAddress)
}

/// RFC 8489 §14.2: port and address are combined with the cookie and, beyond four bytes, the transaction ID.
fn xor_address(value: &[u8], id: &TransactionId) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*value.get(2..)?.first_chunk()?) ^ 0x2112;
    let address = value.get(4..)?;
    match (value.get(1)?, address.len()) {
        (1, 4) => {
            let bytes: [u8; 4] = core::array::from_fn(|i| address[i] ^ COOKIE[i]);
            Some((Ipv4Addr::from(bytes), port).into())
        }
        (2, 16) => {
            let mask = |i: usize| if i < 4 { COOKIE[i] } else { id[i - 4] };
            let bytes: [u8; 16] = core::array::from_fn(|i| address[i] ^ mask(i));
            Some((Ipv6Addr::from(bytes), port).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.2 and §2.3: the sample answers, without what they carry beside the address.
    const SAMPLE_ID: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn answer(value: &[u8]) -> Vec<u8> {
        let mut out = BINDING_SUCCESS.to_be_bytes().to_vec();
        out.extend((8 + 4 + value.len() as u16).to_be_bytes());
        out.extend(COOKIE);
        out.extend(SAMPLE_ID);
        out.extend([0x80, 0x22, 0, 3, b's', b'k', b'y', 0]);
        out.extend(XOR_MAPPED_ADDRESS.to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
        out
    }

    fn v4_answer() -> Vec<u8> {
        answer(&[0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43])
    }

    #[test]
    fn reads_the_samples_of_rfc_5769() {
        assert_eq!(parse_answer(&v4_answer()), Ok((SAMPLE_ID, "192.0.2.1:32853".parse().unwrap())));
        let v6 =
            [0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9];
        let mut value = vec![0, 2, 0xa1, 0x47];
        value.extend(v6);
        let wanted = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(parse_answer(&answer(&value)), Ok((SAMPLE_ID, wanted)));
    }

    #[test]
    fn no_prefix_of_an_answer_is_one_and_no_flipped_bit_makes_the_parser_fail() {
        let whole = v4_answer();
        for len in 0..whole.len() {
            assert!(parse_answer(&whole[..len]).is_err(), "{len} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok((id, addr)) = parse_answer(&flipped) {
                assert!(id != SAMPLE_ID || bit / 8 < 4 || bit / 8 >= 20, "bit {bit}: {addr}");
            }
        }
    }

    #[test]
    fn a_request_has_room_for_its_answer() {
        let request = request(&SAMPLE_ID);
        assert_eq!(crate::wire::Kind::of(&request), crate::wire::Kind::Stun);
        assert!(request.len() >= HEADER_LEN + 4 + 20);
        assert_eq!(parse_answer(&request), Err(StunError::Type));
    }
}
