//! The MSS option of a TCP SYN (RFC 9293 §3.7.1) made no larger than what the path carries, so that a connection is
//! right from its first segment on, in both directions, and nobody has to be told by ICMP.

use super::checksum;
use super::layers::{Layers, TCP, put, word};
use super::split::{FLAGS, SYN};

/// The longest SYN without data: 60 bytes of IPv4 and 60 of TCP.
pub const MAX_SYN: usize = 120;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// No smaller than what any host must take (RFC 9293 §3.7.1), for IPv4.
const LEAST: u16 = 536 - 40;

/// Whether a packet may be the SYN of a connection: a look at two bytes.
pub fn may_be_syn(packet: &[u8]) -> bool {
    if packet.len() > MAX_SYN {
        return false;
    }
    let (protocol, transport) = match packet.first().map(|b| b >> 4) {
        Some(4) => (9, usize::from(packet[0] & 0x0f) * 4),
        Some(6) => (6, 40),
        _ => return false,
    };
    packet.get(protocol) == Some(&TCP) && packet.get(transport + FLAGS).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the MSS of a SYN to what fits inner packets of `mtu` bytes. `partial`: its checksum is not complete yet. True
/// if it changed. Without the option (which then means 536) and in fragments nothing is done.
pub fn clamp(packet: &mut [u8], mtu: u16, partial: bool) -> bool {
    let Some(layers) = Layers::parse(packet).filter(|l| l.protocol == TCP) else { return false };
    let headers = layers.transport as u16 + 20;
    let most = mtu.saturating_sub(headers).max(LEAST);
    let segment = &mut packet[layers.transport..layers.payload];
    let Some(at) = mss_at(segment).filter(|_| segment[FLAGS] & SYN != 0) else { return false };
    if word(segment, at) <= most {
        return false;
    }
    // Words for the checksum are those at even offsets; the option may begin anywhere.
    let before = [word(segment, at & !1), if at % 2 == 1 { word(segment, at + 1) } else { 0 }];
    put(segment, at, most);
    let after = [word(segment, at & !1), if at % 2 == 1 { word(segment, at + 1) } else { 0 }];
    if !partial {
        let sum = word(segment, 16);
        let sum = checksum::update(sum, before[0], after[0]);
        put(segment, 16, checksum::update(sum, before[1], after[1]));
    }
    true
}

/// Where the MSS lies in a TCP header.
fn mss_at(segment: &[u8]) -> Option<usize> {
    let mut at = 20;
    loop {
        match *segment.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let len = usize::from(*segment.get(at + 1)?);
                if kind == MSS {
                    return (len == 4 && at + 4 <= segment.len()).then_some(at + 2);
                }
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::samples::syn;

    fn sum_is_right(packet: &[u8]) -> bool {
        let layers = Layers::parse(packet).unwrap();
        let segment = &packet[layers.transport..];
        checksum::fold(checksum::sum(layers.pseudo_header(packet, segment.len()), segment)) == 0xffff
    }

    #[test]
    fn a_larger_mss_is_lowered_wherever_its_option_lies_and_the_checksum_stays_right() {
        for v6 in [false, true] {
            let headers = if v6 { 60 } else { 40 };
            for options in [
                &[2, 4, 0x23, 0x00][..],
                &[1, 2, 4, 0x05, 0xb4, 4, 2, 0],
                &[1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0xff, 0xff],
            ] {
                let mut packet = syn(v6, options);
                assert!(may_be_syn(&packet) && sum_is_right(&packet));
                assert!(clamp(&mut packet, 1_360, false));
                let at = headers + mss_at(&packet[headers - 20..]).unwrap() - 20;
                assert_eq!(word(&packet, at), 1_360 - headers as u16);
                assert!(sum_is_right(&packet), "{options:?}");
                assert!(!clamp(&mut packet, 1_360, false), "once is enough");
            }
        }
    }

    #[test]
    fn an_unfinished_checksum_is_left_unfinished() {
        let mut packet = syn(false, &[2, 4, 0x23, 0x00]);
        let before = word(&packet, 36);
        assert!(clamp(&mut packet, 1_360, true));
        assert_eq!(word(&packet, 36), before);
    }

    #[test]
    fn what_is_smaller_or_no_syn_stays_as_it_is() {
        for options in [&[2, 4, 0x02, 0x00][..], &[1, 1, 1, 1], &[], &[2, 3, 0x23]] {
            let mut packet = syn(false, options);
            let before = packet.clone();
            assert!(!clamp(&mut packet, 1_360, false), "{options:?}");
            assert_eq!(packet, before);
        }
        let mut ack = syn(false, &[2, 4, 0x23, 0x00]);
        ack[20 + FLAGS] = 0x10;
        assert!(!may_be_syn(&ack) && !clamp(&mut ack, 1_360, false));
    }

    #[test]
    fn no_flip_or_truncation_panics() {
        for v6 in [false, true] {
            let good = syn(v6, &[1, 2, 4, 0x23, 0x00, 3, 3, 7]);
            for bit in 0..good.len() * 8 {
                let mut flipped = good.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _maybe = may_be_syn(&flipped);
                clamp(&mut flipped, 600, false);
            }
            for len in 0..good.len() {
                let mut short = good[..len].to_vec();
                let _maybe = may_be_syn(&short);
                assert!(!clamp(&mut short, 600, false));
            }
        }
    }
}
