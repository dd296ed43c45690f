//! STUN Binding (RFC 8489) as a client that measures its NAT uses it (RFC 5780): a request, and the one attribute of
//! the answer that matters.
//!
//! ```text
//! 0  u16 type: 0001 request, 0101 success   2  u16 length behind the header   4  2112A442   8  12 B transaction ID
//! 20 attributes: u16 type | u16 length | value, padded to 4
//!    0003 CHANGE-REQUEST   u32, bit 1: answer from your other port
//!    0027 RESPONSE-PORT    u16 port, 2 B zero: answer to this port of my address
//!    0026 PADDING          makes the request as long as wanted, and never shorter than the answer
//!    0020 XOR-MAPPED-ADDRESS
//! ```

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const HEADER: usize = 20;
const COOKIE: u32 = 0x2112_a442;
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
/// CHANGE-REQUEST (RFC 5780 §7.2).
pub const CHANGE_REQUEST: u16 = 0x0003;
/// The bit of [`CHANGE_REQUEST`] that asks for another port.
pub const CHANGE_PORT: u32 = 2;
/// RESPONSE-PORT (RFC 5780 §7.5).
pub const RESPONSE_PORT: u16 = 0x0027;
/// PADDING (RFC 5780 §7.6).
pub const PADDING: u16 = 0x0026;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// The least a request is padded to: the answer with an IPv6 address and a fingerprint is no longer.
pub const LEAST_REQUEST: usize = 60;

/// What a request asks for beside the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// Answer from your other port.
    pub change_port: bool,
    /// Answer to this port.
    pub response_port: Option<u16>,
    /// Length of the whole request; rounded up to 4, at least [`LEAST_REQUEST`].
    pub len: usize,
}

impl Request {
    /// The datagram.
    pub fn encode(&self, transaction: [u8; 12]) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        if self.change_port {
            attribute(&mut out, CHANGE_REQUEST, &CHANGE_PORT.to_be_bytes());
        }
        if let Some(port) = self.response_port {
            let [high, low] = port.to_be_bytes();
            attribute(&mut out, RESPONSE_PORT, &[high, low, 0, 0]);
        }
        let wanted = self.len.clamp(LEAST_REQUEST, usize::from(u16::MAX) - HEADER).next_multiple_of(4);
        let fill = wanted.saturating_sub(out.len() + 4);
        attribute(&mut out, PADDING, &vec![0; fill]);
        let length = u16::try_from(out.len() - HEADER).expect("clamped");
        out[..2].copy_from_slice(&REQUEST.to_be_bytes());
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out[4..8].copy_from_slice(&COOKIE.to_be_bytes());
        out[8..20].copy_from_slice(&transaction);
        out
    }
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// An answer to a Binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Of the request.
    pub transaction: [u8; 12],
    /// Our address as the server sees it.
    pub mapped: SocketAddr,
}

impl Answer {
    /// Reads a success response with a mapped address; `None` is anything else. Attributes behind it are not looked at.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (header, mut rest) = datagram.split_at_checked(HEADER)?;
        let short = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let is_answer = short(0) == SUCCESS && header[4..8] == COOKIE.to_be_bytes();
        if !is_answer || usize::from(short(2)) != rest.len() || rest.len() % 4 != 0 {
            return None;
        }
        let transaction: [u8; 12] = header[8..20].try_into().ok()?;
        while let [t0, t1, l0, l1, value @ ..] = rest {
            let len = usize::from(u16::from_be_bytes([*l0, *l1]));
            let value = value.get(..len)?;
            if u16::from_be_bytes([*t0, *t1]) == XOR_MAPPED_ADDRESS {
                return Some(Self { transaction, mapped: unmask(value, &transaction)? });
            }
            rest = rest.get(4 + len.next_multiple_of(4)..)?;
        }
        None
    }
}

/// `u8 0 | u8 family | u16 port ^ cookie | address ^ (cookie | transaction)` (RFC 8489 §14.2).
fn unmask(value: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let [_, family, p0, p1, address @ ..] = value else { return None };
    let port = u16::from_be_bytes([*p0, *p1]) ^ (COOKIE >> 16) as u16;
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    let clear = |i: usize| address[i] ^ mask[i];
    let ip: IpAddr = match (family, address.len()) {
        (1, 4) => Ipv4Addr::from(core::array::from_fn::<u8, 4, _>(clear)).into(),
        (2, 16) => Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(clear)).into(),
        _ => return None,
    };
    Some(super::address::canonical(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.2 without SOFTWARE, MESSAGE-INTEGRITY and FINGERPRINT; §2.3 likewise.
    fn answers() -> [(Vec<u8>, SocketAddr); 2] {
        let head = |len: u8| {
            let mut bytes = vec![1, 1, 0, len, 0x21, 0x12, 0xa4, 0x42];
            bytes.extend([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);
            bytes
        };
        let mut v4 = head(12);
        v4.extend([0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let mut v6 = head(24);
        v6.extend([0, 0x20, 0, 20, 0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79]);
        v6.extend([0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9]);
        [
            (v4, "192.0.2.1:32853".parse().unwrap()),
            (v6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap()),
        ]
    }

    #[test]
    fn reads_the_answers_of_rfc_5769() {
        for (bytes, mapped) in answers() {
            assert_eq!(Answer::parse(&bytes).map(|a| a.mapped), Some(mapped));
        }
    }

    #[test]
    fn cut_and_flipped_answers_never_panic_and_cut_ones_are_none() {
        for (bytes, _) in answers() {
            for len in 0..bytes.len() {
                assert_eq!(Answer::parse(&bytes[..len]), None, "{len}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                // The reserved first byte of the value is the only one whose change means nothing.
                let same = Answer::parse(&flipped) == Answer::parse(&bytes);
                assert!(!same || bit / 8 == HEADER + 4, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_request_is_as_long_as_wanted_and_says_what_it_asks() {
        for len in [0, 60, 61, 576, 1472] {
            let request = Request { len, ..Request::default() }.encode([7; 12]);
            assert_eq!(request.len(), len.max(LEAST_REQUEST).next_multiple_of(4));
            assert_eq!(usize::from(u16::from_be_bytes([request[2], request[3]])), request.len() - HEADER);
        }
        let asks = Request { change_port: true, response_port: Some(0x1234), len: 0 }.encode([7; 12]);
        assert_eq!(asks[20..36], [0, 3, 0, 4, 0, 0, 0, 2, 0, 0x27, 0, 4, 0x12, 0x34, 0, 0]);
    }
}
