//! The checksums of one IP packet, by RFC 1071 and nothing else: written without regard to the code under test.

use std::fmt;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// Of IPv6: hop-by-hop, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT_V6: u8 = 44;

/// What a packet's checksums are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Complete and right.
    Right,
    /// Left to an offload, with the sum of the pseudo-header in its place, which is right.
    Partial,
    /// It has none: a fragment, UDP over IPv4 without, another protocol.
    None,
    /// At least one is wrong.
    Wrong(Fault),
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Lengths that do not fit, or neither IPv4 nor IPv6.
    Malformed,
    /// The checksum of the IPv4 header.
    Header,
    /// The checksum of TCP, UDP or ICMP.
    Payload,
    /// The sum of the pseudo-header where an offload is to complete it.
    PseudoHeader,
    /// UDP over IPv6 without a checksum.
    Missing,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::Header => "wrong IPv4 header checksum",
            Self::Payload => "wrong checksum",
            Self::PseudoHeader => "wrong partial checksum",
            Self::Missing => "UDP over IPv6 without checksum",
        })
    }
}

/// Verifies everything in `packet`; `partial` if whoever carries it says that an offload completes it.
pub fn verify(packet: &[u8], partial: bool) -> Verdict {
    match packet.first().map(|first| first >> 4) {
        Some(4) => verify_v4(packet, partial),
        Some(6) => verify_v6(packet, partial),
        _ => Verdict::Wrong(Fault::Malformed),
    }
}

fn verify_v4(packet: &[u8], partial: bool) -> Verdict {
    let header = usize::from(packet[0] & 15) * 4;
    let length = |at: usize| packet.get(at..at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let Some(total) = length(2).filter(|&total| header >= 20 && total >= header && total <= packet.len())
    else {
        return Verdict::Wrong(Fault::Malformed);
    };
    if sum(0, &packet[..header]) != 0xffff {
        return Verdict::Wrong(Fault::Header);
    }
    // More fragments, or an offset.
    if u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0 {
        return Verdict::None;
    }
    payload(packet[9], &packet[12..20], &packet[header..total], partial, false)
}

fn verify_v6(packet: &[u8], partial: bool) -> Verdict {
    if packet.len() < 40 {
        return Verdict::Wrong(Fault::Malformed);
    }
    let end = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let (mut next, mut at) = (packet[6], 40);
    if end > packet.len() {
        return Verdict::Wrong(Fault::Malformed);
    }
    while EXTENSIONS.contains(&next) {
        let Some(extension) = packet[..end].get(at..at + 2) else { return Verdict::Wrong(Fault::Malformed) };
        next = extension[0];
        at += 8 + usize::from(extension[1]) * 8;
    }
    match packet[..end].get(at..) {
        _ if next == FRAGMENT_V6 => Verdict::None,
        Some(body) => payload(next, &packet[8..40], body, partial, true),
        None => Verdict::Wrong(Fault::Malformed),
    }
}

/// The checksum of what IP carries, with `addresses` for its pseudo-header.
fn payload(protocol: u8, addresses: &[u8], body: &[u8], partial: bool, is_v6: bool) -> Verdict {
    let place = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMP_V6 => 2,
        _ => return Verdict::None,
    };
    let Some(field) = body.get(place..place + 2).map(|b| u16::from_be_bytes([b[0], b[1]])) else {
        return Verdict::Wrong(Fault::Malformed);
    };
    let pseudo = if protocol == ICMP { 0 } else { sum(u64::from(protocol) + body.len() as u64, addresses) };
    if partial {
        let is_right = field == pseudo;
        return if is_right { Verdict::Partial } else { Verdict::Wrong(Fault::PseudoHeader) };
    }
    if protocol == UDP && field == 0 {
        return if is_v6 { Verdict::Wrong(Fault::Missing) } else { Verdict::None };
    }
    let is_right = sum(u64::from(pseudo), body) == 0xffff;
    if is_right { Verdict::Right } else { Verdict::Wrong(Fault::Payload) }
}

/// The one's complement sum of 16-bit words, folded. Four bytes at a time: 2^32 is 1 modulo 2^16 − 1.
fn sum(start: u64, bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = start;
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_be_bytes(last));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 127.0.0.1 to itself, UDP 4660 to 22136, "odd"; the sums added up by hand.
    const UDP_V4: [u8; 31] = [
        0x45, 0, 0, 0x1f, 0, 0, 0x40, 0, 0x40, 0x11, 0x3c, 0xcc, 127, 0, 0, 1, 127, 0, 0, 1, 0x12, 0x34,
        0x56, 0x78, 0, 11, 0xc5, 0xc4, b'o', b'd', b'd',
    ];

    #[test]
    fn a_right_packet_is_right_and_no_single_bit_flip_is() {
        assert_eq!(verify(&UDP_V4, false), Verdict::Right);
        for bit in 0..UDP_V4.len() * 8 {
            let mut flipped = UDP_V4;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(verify(&flipped, false), Verdict::Right, "bit {bit}");
        }
        for length in 0..UDP_V4.len() {
            assert_eq!(verify(&UDP_V4[..length], false), Verdict::Wrong(Fault::Malformed));
        }
    }

    #[test]
    fn a_partial_checksum_is_the_sum_of_the_pseudo_header() {
        assert_eq!(verify(&UDP_V4, true), Verdict::Wrong(Fault::PseudoHeader));
        let mut packet = UDP_V4;
        // 7f00 + 0001 + 7f00 + 0001 + 0011 + 000b
        packet[26..28].copy_from_slice(&0xfe1e_u16.to_be_bytes());
        assert_eq!(verify(&packet, true), Verdict::Partial);
        assert_eq!(verify(&packet, false), Verdict::Wrong(Fault::Payload));
    }

    #[test]
    fn fragments_have_none_and_udp_over_ipv6_must_have_one() {
        let mut fragment = UDP_V4;
        (fragment[6], fragment[10]) = (0x20, 0x5c);
        assert_eq!(verify(&fragment, false), Verdict::None);
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, UDP, 64];
        packet.resize(48, 0);
        assert_eq!(verify(&packet, false), Verdict::Wrong(Fault::Missing));
    }
}
