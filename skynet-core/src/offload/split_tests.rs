//! What a super-packet is cut into, and what is refused.

use super::checksum::{fold, sum};
use super::layers::{put, word};
use super::samples::{Collect, Sample};
use super::*;
use crate::drop::DropReason;
use crate::wire::ip::IpPacket;

/// A super-packet of `n` segments of the sample's payload length, as the coalescer makes it.
fn joined(sample: Sample, n: usize) -> (VnetHeader, Vec<u8>) {
    let mut written = Collect::default();
    let mut coalescer = Coalescer::new(Offloads::ALL);
    sample.flow(n).iter().for_each(|p| coalescer.push(p, &mut written));
    coalescer.flush(&mut written);
    assert_eq!(written.0.len(), 1, "{sample:?}");
    written.0.remove(0)
}

fn refused(header: VnetHeader, packet: &[u8]) -> bool {
    SuperPacket::parse(header, packet).err() == Some(DropReason::BadOffload)
}

#[test]
fn an_ordinary_packet_is_one_segment_with_the_same_bytes() {
    for sample in Sample::KINDS {
        let packet = sample.packet();
        let whole = SuperPacket::parse(VnetHeader::NONE, &packet).unwrap();
        assert_eq!((whole.segments(), whole.segment_len_max()), (1, packet.len()));
        let mut out = vec![0; packet.len()];
        assert_eq!(whole.write_segment(0, &mut out), packet.len());
        assert_eq!(out, packet);
    }
}

#[test]
fn a_partial_checksum_is_completed() {
    for sample in Sample::KINDS {
        let packet = sample.packet();
        let (header, _) = joined(sample, 2);
        let header = VnetHeader { gso: Gso::None, gso_size: 0, ..header };
        let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
        let addresses = if sample.v6 { &packet[8..40] } else { &packet[12..20] };
        let protocol = if sample.tcp { 6 } else { 17 };
        let mut partial = packet.clone();
        put(
            &mut partial,
            start + offset,
            fold(checksum::pseudo_header(addresses, protocol, packet.len() - start)),
        );
        let mut out = vec![0; packet.len()];
        let len = SuperPacket::parse(header, &partial).unwrap().write_segment(0, &mut out);
        assert_eq!((len, out), (packet.len(), packet), "{sample:?}");
    }
}

#[test]
fn a_udp_checksum_of_zero_becomes_all_ones() {
    let sample = Sample { payload_len: 2, ..Sample::KINDS[2] };
    let mut packet = sample.packet();
    // The payload is chosen so that everything sums to 65,535.
    put(&mut packet, 26, 0);
    put(&mut packet, 28, 0);
    let total = fold(sum(checksum::pseudo_header(&packet[12..20], 17, 10), &packet[20..]));
    put(&mut packet, 28, !total);
    let partial = fold(checksum::pseudo_header(&packet[12..20], 17, 10));
    put(&mut packet, 26, partial);
    for (gso, gso_size) in [(Gso::None, 0), (Gso::UdpL4, 2)] {
        let header = VnetHeader {
            needs_csum: true,
            gso,
            gso_size,
            csum_start: 20,
            csum_offset: 6,
            ..VnetHeader::NONE
        };
        let mut out = [0; 30];
        SuperPacket::parse(header, &packet).unwrap().write_segment(0, &mut out);
        assert_eq!(word(&out, 26), 0xffff);
    }
}

#[test]
fn flags_that_end_something_are_on_the_last_segment_and_cwr_on_the_first() {
    for sample in Sample::KINDS.into_iter().filter(|s| s.tcp) {
        let (header, mut packet) = joined(sample, 3);
        let flags = usize::from(header.csum_start) + 13;
        packet[flags] = 0xf9; // CWR, ECE, URG, ACK, PSH, FIN.
        let whole = SuperPacket::parse(header, &packet).unwrap();
        let mut out = vec![0; whole.segment_len_max()];
        let written: Vec<u8> = (0..3)
            .map(|i| {
                whole.write_segment(i, &mut out);
                out[flags]
            })
            .collect();
        assert_eq!(written, [0xf0, 0x70, 0x79]);
    }
}

#[test]
fn what_no_kernel_hands_out_is_refused() {
    for sample in Sample::KINDS {
        let (good, packet) = joined(sample, 3);
        assert!(SuperPacket::parse(good, &packet).is_ok());
        let other = if good.gso == Gso::UdpL4 { Gso::TcpV4 } else { Gso::UdpL4 };
        let family = if good.gso == Gso::TcpV4 { Gso::TcpV6 } else { Gso::TcpV4 };
        for bad in [
            VnetHeader { gso_size: 0, ..good },
            VnetHeader { gso_size: 65_535, ..good },
            VnetHeader { gso_size: 1, ..good }, // 3,003 segments.
            VnetHeader { gso: other, ..good },
            VnetHeader { gso: family, ..good },
            VnetHeader { csum_start: good.csum_start + 2, ..good },
            VnetHeader { csum_offset: good.csum_offset + 2, ..good },
        ] {
            assert!(refused(bad, &packet), "{sample:?} {bad:?}");
        }
        // The header length is a hint: the kernel's may be too small or cover more.
        for hdr_len in [0, 1, 65_535] {
            let hinted = SuperPacket::parse(VnetHeader { hdr_len, ..good }, &packet).unwrap();
            assert_eq!(hinted.segments(), 3);
        }
        assert!(refused(good, &[&packet[..], &[0]].concat()), "bytes behind the packet");
    }
}

#[test]
fn fragments_jumbograms_and_extension_headers_are_not_segmented() {
    let (header, good) = joined(Sample::KINDS[0], 3);
    for (at, value) in [(6, 0x2000), (6, 0x4001), (6, 0x0001)] {
        let mut fragment = good.clone();
        put(&mut fragment, at, value);
        assert!(refused(header, &fragment));
    }
    for flag in [0x02, 0x04] {
        let mut packet = good.clone();
        packet[33] |= flag;
        assert!(refused(header, &packet), "SYN or RST");
    }
    let (header, good) = joined(Sample::KINDS[1], 3);
    let mut jumbogram = good.clone();
    put(&mut jumbogram, 4, 0);
    assert!(refused(header, &jumbogram));
    for next_header in [0, 43, 44, 60, 50] {
        let mut extended = good.clone();
        extended[6] = next_header;
        assert!(refused(header, &extended));
    }
    assert_eq!(SuperPacket::parse(header, &[]).err(), Some(DropReason::NotIp));
}

#[test]
fn a_checksum_to_be_stored_outside_the_packet_is_refused() {
    for sample in Sample::KINDS {
        let packet = sample.packet();
        let header = |start, offset| VnetHeader {
            needs_csum: true,
            csum_start: start,
            csum_offset: offset,
            ..VnetHeader::NONE
        };
        let len = u16::try_from(packet.len()).unwrap();
        for (start, offset) in
            [(0, 10), (19, 6), (len, 0), (len - 1, 0), (20, len - 21), (60, 7), (65_535, 65_534)]
        {
            assert!(refused(header(start, offset), &packet), "{start} {offset}");
        }
        assert!(SuperPacket::parse(header(60, (len - 62) & !1), &packet).is_ok());
    }
}

#[test]
fn ipv4_options_are_in_every_segment() {
    let (header, packet) = joined(Sample::KINDS[0], 3);
    let mut with_options = packet.clone();
    with_options.splice(20..20, [0x94, 4, 0, 0]); // Router alert (RFC 2113).
    with_options[0] = 0x46;
    let total = u16::try_from(with_options.len()).unwrap();
    put(&mut with_options, 2, total);
    let header = VnetHeader { csum_start: 24, ..header };
    let whole = SuperPacket::parse(header, &with_options).unwrap();
    for i in 0..3 {
        let mut out = vec![0; whole.segment_len(i)];
        whole.write_segment(i, &mut out);
        assert_eq!((&out[20..24], fold(sum(0, &out[..24]))), (&[0x94, 4, 0, 0][..], 0xffff));
        let pseudo = checksum::pseudo_header(&out[12..20], 6, out.len() - 24);
        assert_eq!(fold(sum(pseudo, &out[24..])), 0xffff);
    }
}

/// What parses is written whole, each segment is an IP packet of the length it was said to have.
fn write_all(header: VnetHeader, packet: &[u8]) -> bool {
    let Ok(whole) = SuperPacket::parse(header, packet) else { return false };
    let mut out = vec![0; whole.segment_len_max()];
    for i in 0..whole.segments() {
        let len = whole.write_segment(i, &mut out);
        assert_eq!(len, whole.segment_len(i));
        assert_eq!(IpPacket::parse(&out[..len]).unwrap().bytes().len(), len);
    }
    whole.flow_hash();
    true
}

#[test]
fn no_bit_flip_truncation_or_extension_panics() {
    for sample in Sample::KINDS {
        let (header, packet) = joined(Sample { payload_len: 50, ..sample }, 3);
        let none = VnetHeader { gso: Gso::None, ..header };
        for header in [header, none] {
            let read = [&header.encode()[..], &packet].concat();
            let run = |bytes: &[u8]| VnetHeader::parse(bytes).is_ok_and(|(h, p)| write_all(h, p));
            assert!(run(&read));
            for bit in 0..read.len() * 8 {
                let mut flipped = read.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                run(&flipped);
            }
            for len in 0..read.len() {
                assert!(!run(&read[..len]));
            }
            assert_eq!(run(&[&read[..], &[7]].concat()), header.gso == Gso::None);
        }
    }
}
