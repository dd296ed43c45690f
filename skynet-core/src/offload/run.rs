//! Some of the segments of a super-packet as a super-packet of their own, and what a super-packet's own headers say.

use core::ops::Range;

use super::checksum::fold;
use super::layers::{Layers, TCP, put, short};
use super::split::{CWR, FLAGS, Place, Plan, SuperPacket, completed};
use super::vnet::VnetHeader;
use crate::drop::DropReason;

/// Bytes of all headers of a super-packet at most: 60 of IP and 60 of TCP.
pub const MAX_HEADERS: usize = 120;

impl<'a> SuperPacket<'a> {
    /// `packet` as a super-packet of segments with `segment` bytes of payload. Everything else that an offload header
    /// says is taken from the packet's own headers. Only the first [`MAX_HEADERS`] bytes are read.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_segments(packet: &'a [u8], segment: u16) -> Result<Self, DropReason> {
        let layers = Layers::parse(packet).ok_or(DropReason::BadOffload)?;
        Self::parse(layers.vnet_header(segment.into()), packet)
    }

    /// Payload bytes per segment, except the last; 0 for an ordinary packet.
    pub fn gso_size(&self) -> u16 {
        match &self.plan {
            Plan::Segment(_) => short(self.share),
            Plan::Copy | Plan::Checksum { .. } => 0,
        }
    }

    /// Bytes of the headers that are in front of each segment's payload; 0 for an ordinary packet.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Whether its segments are TCP's.
    pub fn is_tcp(&self) -> bool {
        matches!(&self.plan, Plan::Segment(t) if t.layers.protocol == TCP)
    }

    /// The checksum of an ordinary packet that the kernel left to us, and where it belongs.
    pub fn missing_checksum(&self) -> Option<(usize, [u8; 2])> {
        match &self.plan {
            Plan::Checksum { start, field } => {
                Some((*field, completed(self.ip.bytes(), *start, *field).to_be_bytes()))
            }
            Plan::Copy | Plan::Segment(_) => None,
        }
    }

    /// The payload of these segments.
    pub fn payloads(&self, segments: Range<usize>) -> &'a [u8] {
        &self.ip.bytes()[self.offset(segments.start)..self.offset(segments.end)]
    }

    /// Where in the packet the payload of segment `i` begins, or that of the one before ends.
    pub fn offset(&self, i: usize) -> usize {
        self.ip.bytes().len().min(self.header_len + i * self.share)
    }

    /// Writes the headers that [`Self::payloads`] of two or more segments have as one super-packet to the front of `out`, and says
    /// what stands in front of them: sequence number, identification and flags are the kernel's, as if it had been
    /// cut there. An ordinary packet has none.
    pub fn write_run_headers(&self, segments: Range<usize>, out: &mut [u8; MAX_HEADERS]) -> VnetHeader {
        let Plan::Segment(template) = &self.plan else { return VnetHeader::NONE };
        let layers = &template.layers;
        let headers = &mut out[..self.header_len];
        headers.copy_from_slice(&self.ip.bytes()[..self.header_len]);
        let transport_len = self.header_len - layers.transport + self.payloads(segments.clone()).len();
        let place = Place {
            i: segments.start,
            offset: segments.start * self.share,
            last: segments.end == self.segments,
        };
        let pseudo = fold(layers.pseudo_header(headers, transport_len));
        let (ip, transport) = headers.split_at_mut(layers.transport);
        if layers.v6 {
            put(ip, 4, short(transport_len));
        } else {
            template.finish_ipv4(ip, short(transport_len), place);
        }
        let mut header = layers.vnet_header(self.share);
        if layers.protocol == TCP {
            template.place_tcp(transport, place);
            header.gso_ecn = transport[FLAGS] & CWR != 0;
        } else {
            put(transport, 4, short(transport_len));
        }
        put(transport, layers.checksum_offset(), pseudo);
        header
    }
}
