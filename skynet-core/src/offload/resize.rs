//! TCP segments that are larger than the path carries, made smaller: what the kernel would have done had it known.

use super::layers::{Layers, TCP};
use super::split::{FLAGS, MAX_SEGMENTS, Plan, RST, SYN, SuperPacket};

impl SuperPacket<'_> {
    /// The same bytes of a TCP stream in packets of at most `limit` bytes. `None` if it is no TCP, begins or breaks a
    /// connection, or would become too many.
    pub fn resized(&self, limit: u16) -> Option<Self> {
        let bytes = self.ip.bytes();
        let (header_len, payload_len) = match &self.plan {
            Plan::Segment(template) if template.layers.protocol == TCP => {
                (self.header_len, template.layers.len - template.layers.payload)
            }
            Plan::Segment(_) => return None,
            Plan::Copy | Plan::Checksum { .. } => {
                let layers = Layers::parse(bytes).filter(|l| l.protocol == TCP)?;
                if bytes[layers.transport + FLAGS] & (SYN | RST) != 0 {
                    return None;
                }
                (layers.payload, layers.len - layers.payload)
            }
        };
        let share = usize::from(limit).checked_sub(header_len).filter(|share| *share > 0)?;
        let segments = payload_len.div_ceil(share);
        if !(1..=MAX_SEGMENTS).contains(&segments) {
            return None;
        }
        match &self.plan {
            Plan::Segment(_) => Some(Self { segments, share, ..*self }),
            _ => SuperPacket::of_segments(bytes, u16::try_from(share).ok()?).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::VnetHeader;
    use crate::offload::samples::tcp;

    fn written(packet: &SuperPacket<'_>) -> Vec<Vec<u8>> {
        let write = |i| {
            let mut out = vec![0; packet.segment_len(i)];
            packet.write_segment(i, &mut out);
            out
        };
        (0..packet.segments()).map(write).collect()
    }

    #[test]
    fn a_resized_packet_is_cut_as_if_the_kernel_had_said_so_at_once() {
        for v6 in [false, true] {
            let packet = tcp(v6, 20_000);
            let header_len = packet.len() - 20_000;
            let small = SuperPacket::of_segments(&packet, 1_000).unwrap();
            let limit = (1_000 + header_len) as u16;
            let large = SuperPacket::of_segments(&packet, 8_900).unwrap();
            let ordinary = SuperPacket::parse(VnetHeader::NONE, &packet).unwrap();
            for resized in [large.resized(limit).unwrap(), ordinary.resized(limit).unwrap()] {
                assert_eq!(written(&resized), written(&small));
                assert!(resized.segment_len_max() <= usize::from(limit));
            }
        }
    }

    #[test]
    fn what_is_no_stream_stays_whole() {
        let mut packet = tcp(false, 3_000);
        packet[20 + FLAGS] |= RST;
        assert!(SuperPacket::parse(VnetHeader::NONE, &packet).unwrap().resized(1_000).is_none());
        let udp = crate::wire::ip::udp_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), (1, 2), &[7; 3_000]);
        assert!(SuperPacket::parse(VnetHeader::NONE, &udp).unwrap().resized(1_000).is_none());
        let whole = tcp(false, 3_000);
        assert!(SuperPacket::of_segments(&whole, 1_000).unwrap().resized(40).is_none());
    }
}
