//! Explicit congestion notification through a tunnel (RFC 6040, normal mode). DSCP stays with the inner packet.

use super::checksum;
use crate::drop::DropReason;

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable transport, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable transport, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

const MASK: u8 = 0b11;

/// The codepoint of an IP packet; [`NOT_ECT`] if it is none.
pub fn codepoint(packet: &[u8]) -> u8 {
    match packet {
        [first, tos, ..] if first >> 4 == 4 => tos & MASK,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & MASK,
        _ => NOT_ECT,
    }
}

/// The outer codepoint for an inner one (§4.1): the same. Other bits of a traffic class may be set and are ignored.
pub fn encapsulate(inner: u8) -> u8 {
    inner & MASK
}

/// Gives the inner packet what happened to its outer one (§4.2):
///
/// ```text
/// inner \ outer   Not-ECT  ECT(0)   ECT(1)   CE
/// Not-ECT         Not-ECT  Not-ECT  Not-ECT  drop
/// ECT(0)          ECT(0)   ECT(0)   ECT(1)   CE
/// ECT(1)          ECT(1)   ECT(1)   ECT(1)   CE
/// CE              CE       CE       CE       CE
/// ```
///
/// The drop is [`DropReason::EcnCorrupt`]: somebody marked what was never marked as markable. What is no IP packet is
/// [`DropReason::NotIp`].
pub fn decapsulate(packet: &mut [u8], outer: u8) -> Result<(), DropReason> {
    let v4 = match packet {
        [first, _, ..] if *first >> 4 == 4 => true,
        [first, _, ..] if *first >> 4 == 6 => false,
        _ => return Err(DropReason::NotIp),
    };
    let new = match (codepoint(packet), outer & MASK) {
        (NOT_ECT, CE) => return Err(DropReason::EcnCorrupt),
        (NOT_ECT | CE, _) => return Ok(()),
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => return Ok(()),
    };
    if v4 {
        return remark_v4(packet, new);
    }
    packet[1] = packet[1] & !(MASK << 4) | new << 4;
    Ok(())
}

fn remark_v4(packet: &mut [u8], new: u8) -> Result<(), DropReason> {
    let header: &mut [u8; 20] = packet.first_chunk_mut().ok_or(DropReason::NotIp)?;
    let word = |header: &[u8; 20], at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let old = word(header, 0);
    header[1] = header[1] & !MASK | new;
    let updated = checksum::update(word(header, 10), old, word(header, 0));
    header[10..12].copy_from_slice(&updated.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::udp_v4;

    const ALL: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];

    /// A packet of version 4 or 6 with the given codepoint, and DSCP 46.
    fn packet(v6: bool, codepoint: u8) -> Vec<u8> {
        if v6 {
            let mut p = vec![0x6b, 0x80 | codepoint << 4 | 5, 1, 2, 0, 0, 59, 64];
            p.extend([0xfd; 32]);
            return p;
        }
        let mut p = udp_v4([10, 1, 0, 1].into(), [10, 1, 0, 2].into(), (1, 2), b"x");
        p[1] = 46 << 2 | codepoint;
        p[10..12].fill(0);
        let checksum = checksum::finish(checksum::sum(0, &p[..20]));
        p[10..12].copy_from_slice(&checksum.to_be_bytes());
        p
    }

    #[test]
    fn decapsulation_is_the_table_of_rfc_6040() {
        let drop = 9;
        let table = [
            [NOT_ECT, NOT_ECT, NOT_ECT, drop],
            [ECT_0, ECT_0, ECT_1, CE],
            [ECT_1, ECT_1, ECT_1, CE],
            [CE, CE, CE, CE],
        ];
        for v6 in [false, true] {
            for (inner, row) in ALL.into_iter().zip(table) {
                for (outer, expected) in ALL.into_iter().zip(row) {
                    let mut p = packet(v6, inner);
                    let result = decapsulate(&mut p, 46 << 2 | outer);
                    if expected == drop {
                        assert_eq!((result, p), (Err(DropReason::EcnCorrupt), packet(v6, inner)));
                    } else {
                        assert_eq!((result, p), (Ok(()), packet(v6, expected)), "{v6} {inner} {outer}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_inner_codepoint_is_found_and_copied_outside() {
        for v6 in [false, true] {
            for ecn in ALL {
                assert_eq!(encapsulate(codepoint(&packet(v6, ecn))), ecn);
            }
        }
        assert_eq!(encapsulate(46 << 2 | CE), CE);
    }

    #[test]
    fn what_is_too_short_to_be_marked_does_no_harm() {
        for v6 in [false, true] {
            for len in 0..20 {
                let mut p = packet(v6, ECT_0)[..len].to_vec();
                let result = decapsulate(&mut p, CE);
                assert_eq!(result.is_ok(), v6 && len > 1, "{v6} {len}");
            }
        }
    }
}
