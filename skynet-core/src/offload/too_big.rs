//! "Fragmentation needed" (RFC 792, RFC 1191 §4) and "packet too big" (RFC 4443 §3.2): what a router on the way would
//! say, said by ourselves, for those on the way are not to be relied on.
//!
//! ```text
//! IPv4  │ IP 20 │ 3 4 checksum │ 0 │ mtu (2) │ the packet's beginning │      from the packet's destination to its source
//! IPv6  │ IP 40 │ 2 0 checksum │   mtu (4)   │ the packet's beginning │
//! ```

use super::checksum;
use super::layers::put;

/// Bytes of the packet that are repeated: all headers there can be.
const QUOTED: usize = 128;
/// Bytes of an answer at most.
pub const MAX_TOO_BIG: usize = 40 + 8 + QUOTED;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Writes the answer to `packet`, a whole IP packet, to the front of `out`, and says how long it is.
pub fn write_too_big(packet: &[u8], mtu: u16, out: &mut [u8; MAX_TOO_BIG]) -> Option<usize> {
    let quoted = &packet[..packet.len().min(QUOTED)];
    out.fill(0);
    match packet.first()? >> 4 {
        4 => {
            let len = 28 + quoted.len();
            let (source, destination) = (packet.get(12..16)?, packet.get(16..20)?);
            out[0] = 0x45;
            put(out, 2, u16::try_from(len).ok()?);
            (out[8], out[9]) = (64, ICMP);
            out[12..16].copy_from_slice(destination);
            out[16..20].copy_from_slice(source);
            let sum = checksum::finish(checksum::sum(0, &out[..20]));
            put(out, 10, sum);
            (out[20], out[21]) = (3, 4);
            put(out, 26, mtu);
            out[28..len].copy_from_slice(quoted);
            let sum = checksum::finish(checksum::sum(0, &out[20..len]));
            put(out, 22, sum);
            Some(len)
        }
        6 => {
            let len = 48 + quoted.len();
            let (source, destination) = (packet.get(8..24)?, packet.get(24..40)?);
            out[0] = 0x60;
            put(out, 4, u16::try_from(len - 40).ok()?);
            (out[6], out[7]) = (ICMPV6, 64);
            out[8..24].copy_from_slice(destination);
            out[24..40].copy_from_slice(source);
            out[40] = 2;
            put(out, 46, mtu);
            out[48..len].copy_from_slice(quoted);
            let pseudo = checksum::pseudo_header(&out[8..40], ICMPV6, len - 40);
            let sum = checksum::finish(checksum::sum(pseudo, &out[40..len]));
            put(out, 42, sum);
            Some(len)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::samples::tcp;
    use crate::wire::ip::IpPacket;

    #[test]
    fn the_answer_goes_back_to_the_source_and_sums_up() {
        for v6 in [false, true] {
            let packet = tcp(v6, 3_000);
            let mut out = [0xaa; MAX_TOO_BIG];
            let len = write_too_big(&packet, 1_280, &mut out).unwrap();
            let (asked, answer) = (IpPacket::parse(&packet).unwrap(), IpPacket::parse(&out[..len]).unwrap());
            assert_eq!((answer.source(), answer.destination()), (asked.destination(), asked.source()));
            assert_eq!(answer.bytes().len(), len);
            let (icmp, pseudo) = if v6 {
                (&out[40..len], checksum::pseudo_header(&out[8..40], ICMPV6, len - 40))
            } else {
                assert_eq!(checksum::fold(checksum::sum(0, &out[..20])), 0xffff);
                (&out[20..len], 0)
            };
            assert_eq!(checksum::fold(checksum::sum(pseudo, icmp)), 0xffff);
            assert_eq!(icmp[..2], if v6 { [2, 0] } else { [3, 4] });
            assert_eq!(icmp[6..8], 1_280u16.to_be_bytes());
            assert_eq!(icmp[8..], packet[..QUOTED]);
        }
    }

    #[test]
    fn no_beginning_of_a_packet_panics() {
        for v6 in [false, true] {
            let packet = tcp(v6, 100);
            for len in 0..packet.len() {
                let mut out = [0; MAX_TOO_BIG];
                let written = write_too_big(&packet[..len], 1_280, &mut out);
                assert_eq!(written.is_some(), len >= if v6 { 40 } else { 20 }, "{len}");
            }
        }
    }
}
