//! Segmentation offload: what is split is whole and sound, and what is joined comes apart again as it came.

use std::collections::BTreeMap;

use skynet_core::offload::{
    Coalescer, Gso, MAX_TOO_BIG, Offloads, SuperPacket, TunSink, VNET_HEADER_LEN, VnetHeader, checksum,
    flow_hash, mss, write_too_big,
};
use skynet_core::wire::ip::IpPacket;

use crate::Input;

/// Bytes as read from a TUN device: header and packet.
pub fn split(bytes: &[u8]) -> bool {
    flow_hash(bytes);
    let Ok((header, packet)) = VnetHeader::parse(bytes) else { return false };
    assert_eq!(header.encode(), bytes[..VNET_HEADER_LEN]);
    clamp(packet);
    let Ok(whole) = SuperPacket::parse(header, packet) else { return false };
    let segments = segments(&whole);
    too_large(&whole);
    if header.gso != Gso::None {
        assert!(segments.iter().all(|s| is_sound(s)));
        let share = usize::from(header.gso_size);
        let header_len = segments[0].len() - share.min(segments[0].len());
        let headers = if segments.len() > 1 { header_len } else { 0 };
        let payload: usize = segments.iter().map(|s| s.len() - headers).sum();
        assert_eq!(payload + headers, packet.len());
    }
    true
}

/// The MSS of whatever this is: what was sound stays sound, and nothing but a SYN changes.
fn clamp(packet: &[u8]) {
    let mut clamped = packet.to_vec();
    if mss::clamp(&mut clamped, 1_280, false) {
        assert_eq!(clamped.len(), packet.len());
        assert_eq!(is_sound(packet), is_sound(&clamped));
        assert!(!mss::clamp(&mut clamped, 1_280, false));
    } else {
        assert_eq!(clamped, packet);
    }
    let _maybe = mss::may_be_syn(packet);
}

/// For a path of less: told, and a TCP stream cut smaller.
fn too_large(whole: &SuperPacket<'_>) {
    let mut answer = [0; MAX_TOO_BIG];
    let len = write_too_big(whole.ip().bytes(), 1_280, &mut answer).expect("it is an IP packet");
    assert_eq!(IpPacket::parse(&answer[..len]).map(|ip| ip.destination()), Ok(whole.ip().source()));
    for limit in [48, 512, 1_200] {
        let Some(resized) = whole.resized(limit) else { continue };
        let parts = segments(&resized);
        assert!(parts.iter().all(|part| part.len() <= usize::from(limit) && is_sound(part)));
    }
}

fn segments(whole: &SuperPacket<'_>) -> Vec<Vec<u8>> {
    let mut out = vec![0; whole.segment_len_max()];
    let mut write = |i| {
        let len = whole.write_segment(i, &mut out);
        assert_eq!(len, whole.segment_len(i));
        assert_eq!(IpPacket::parse(&out[..len]).map(|p| p.bytes().len()), Ok(len));
        out[..len].to_vec()
    };
    (0..whole.segments()).map(&mut write).collect()
}

/// Where the transport header begins, and the protocol; as in the bytes, without looking at anything else.
fn transport(packet: &[u8]) -> Option<(usize, u8)> {
    match packet.first()? >> 4 {
        4 => Some((usize::from(packet[0] & 0xf) * 4, *packet.get(9)?)).filter(|t| t.0 >= 20),
        6 => Some((40, *packet.get(6)?)),
        _ => None,
    }
    .filter(|t| packet.len() >= t.0)
}

/// The sum over pseudo header and transport header with payload.
fn transport_sum(packet: &[u8], (at, protocol): (usize, u8)) -> u32 {
    let addresses = if at == 40 && packet[0] >> 4 == 6 { &packet[8..40] } else { &packet[12..20] };
    checksum::sum(checksum::pseudo_header(addresses, protocol, packet.len() - at), &packet[at..])
}

fn is_sound(packet: &[u8]) -> bool {
    let Some(t) = transport(packet) else { return false };
    let ip_sound = packet[0] >> 4 == 6 || checksum::fold(checksum::sum(0, &packet[..t.0])) == 0xffff;
    ip_sound && checksum::fold(transport_sum(packet, t)) == 0xffff
}

/// Gives TCP and UDP packets right lengths and checksums, where they have room for them.
pub fn complete(packet: &mut [u8]) {
    let Some((at, protocol)) = transport(packet) else { return };
    let put = |packet: &mut [u8], at: usize, value: u16| {
        if let Some(field) = packet.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    };
    let len = |from: usize| u16::try_from(packet.len() - from).unwrap_or(0);
    let (total, transport_len) = (len(0), len(at));
    let v6 = packet[0] >> 4 == 6;
    put(packet, if v6 { 4 } else { 2 }, if v6 { transport_len } else { total });
    let field = match protocol {
        6 => at + 16,
        17 => {
            put(packet, at + 4, transport_len);
            at + 6
        }
        _ => packet.len(),
    };
    put(packet, field, 0);
    let sum = transport_sum(packet, (at, protocol));
    put(packet, field, if protocol == 17 { checksum::finish_udp(sum) } else { checksum::finish(sum) });
    if !v6 {
        put(packet, 10, 0);
        let sum = checksum::finish(checksum::sum(0, &packet[..at]));
        put(packet, 10, sum);
    }
}

/// The packet that continues `packet`, with `payload_len` bytes of payload and other TCP flags.
fn next(packet: &mut Vec<u8>, payload_len: usize, flags: Option<u8>) {
    let Some((at, protocol)) = transport(packet) else { return };
    let header_len = match (protocol, packet.get(at + 12)) {
        (6, Some(offset)) => usize::from(offset >> 4) * 4,
        _ => 8,
    };
    let payload = at + header_len.max(8);
    let len = packet.len().saturating_sub(payload);
    if packet[0] >> 4 == 4 {
        let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(1);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
    }
    if protocol == 6 && packet.len() >= at + 20 {
        let sequence: [u8; 4] = packet[at + 4..at + 8].try_into().expect("four bytes");
        let sequence = u32::from_be_bytes(sequence).wrapping_add(u32::try_from(len).expect("a short packet"));
        packet[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        packet[at + 13] = flags.unwrap_or(packet[at + 13]);
    }
    packet.resize(payload + payload_len, 7);
    complete(packet);
}

/// What was written, super-packets split again.
#[derive(Default)]
struct Written {
    packets: Vec<Vec<u8>>,
    joined: bool,
}

impl TunSink for Written {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        if header == VnetHeader::NONE {
            return self.packets.push(packet.to_vec());
        }
        self.joined = true;
        let whole = SuperPacket::parse(header, packet).expect("a super-packet of ours");
        assert!(whole.segments() > 1);
        self.packets.extend(segments(&whole));
    }
}

/// What has a meaning: the identification of a packet that must not be fragmented has none (RFC 6864 §4.1).
fn meaning(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 28 && packet[0] == 0x45 && packet[6..8] == [0x40, 0] && is_sound(&packet) {
        packet[4..6].fill(0);
        complete(&mut packet);
    }
    packet
}

/// Packets by flow: version, protocol, addresses and, of what can be joined, ports; the rest all in one.
fn by_flow(packets: Vec<Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let key = match transport(&packet) {
            Some((at, protocol @ (6 | 17))) if packet.len() >= at + 4 => {
                let addresses = if packet[0] >> 4 == 6 { &packet[8..40] } else { &packet[12..20] };
                [&[packet[0] >> 4, protocol], addresses, &packet[at..at + 4]].concat()
            }
            _ => vec![],
        };
        flows.entry(key).or_default().push(meaning(packet));
    }
    flows
}

/// A script of packets of up to four flows. Each step is a byte (flow and kind), then:
/// 0 a slice as it is · 1 a slice, made complete: the flow from now on · 2–4 the next packet, 3 with its length, 4 with
/// length and flags · 5 the flow's packet with a bit flipped · 6 what may be joined · 7 the end of a batch.
pub fn coalesce(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let mut coalescer = Coalescer::new(Offloads::ALL);
    let mut flows: [Vec<u8>; 4] = Default::default();
    let (mut pushed, mut written) = (Vec::new(), Written::default());
    for _ in 0..512 {
        if input.is_empty() {
            break;
        }
        let op = input.byte();
        let flow = &mut flows[usize::from(op >> 3 & 3)];
        let mut packet = None;
        match op & 7 {
            0 => packet = Some(input.slice().to_vec()),
            1 => {
                let slice = input.slice();
                *flow = slice[..slice.len().min(4096)].to_vec();
                complete(flow);
            }
            2 => next(flow, 64, None),
            3 => next(flow, usize::from(input.byte()), None),
            4 => next(flow, usize::from(input.byte()), Some(input.byte())),
            5 => {
                let mut flipped = flow.clone();
                let at = usize::from(input.byte());
                if let Some(byte) = flipped.get_mut(at) {
                    *byte ^= 1;
                }
                packet = Some(flipped);
            }
            6 => {
                let [tcp4, tcp6, udp4, udp6] =
                    [1, 2, 4, 8].map(|bit| input.0.first().is_none_or(|b| b & bit == 0));
                coalescer.set_allowed(Offloads { tcp4, tcp6, udp4, udp6 });
                input.byte();
                continue;
            }
            _ => {
                coalescer.flush(&mut written);
                continue;
            }
        }
        let packet = packet.unwrap_or_else(|| flow.clone());
        coalescer.push(&packet, &mut written);
        pushed.push(packet);
    }
    coalescer.flush(&mut written);
    assert_eq!(by_flow(written.packets), by_flow(pushed));
    written.joined
}

/// One complete packet of TCP or UDP over IPv4 or IPv6.
pub fn sample(v6: bool, tcp: bool) -> Vec<u8> {
    let protocol = if tcp { 6 } else { 17 };
    let mut packet = if v6 {
        [&[0x60, 0, 0, 0, 0, 0, protocol, 64][..], &[0xfd; 16], &[0xfe; 16]].concat()
    } else {
        vec![0x45, 0, 0, 0, 1, 2, 0x40, 0, 64, protocol, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]
    };
    packet.extend([0x9c, 0x40, 0x01, 0xbb]);
    if tcp {
        packet.extend([0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9, 0x60, 0x10, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    } else {
        packet.extend([0; 4]);
    }
    packet.extend([7; 64]);
    complete(&mut packet);
    packet
}

/// A super-packet of three segments, as read from a TUN device.
pub fn super_packet(v6: bool, tcp: bool) -> Vec<u8> {
    struct Last(Vec<u8>);
    impl TunSink for Last {
        fn write(&mut self, header: VnetHeader, packet: &[u8]) {
            self.0 = [&header.encode()[..], packet].concat();
        }
    }
    let (mut packet, mut last) = (sample(v6, tcp), Last(vec![]));
    let mut coalescer = Coalescer::new(Offloads::ALL);
    for len in [64, 64, 33] {
        coalescer.push(&packet, &mut last);
        next(&mut packet, len, None);
    }
    coalescer.flush(&mut last);
    last.0
}
