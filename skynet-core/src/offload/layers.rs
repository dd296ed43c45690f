//! Where the headers of an ordinary TCP or UDP packet end. What is not ordinary has no layers here.
//!
//! ```text
//! 0            transport           payload                  len
//! │ IP header  │ TCP or UDP header │ payload                │
//! ```

use super::checksum;

/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;
/// IP protocol number of UDP.
pub(super) const UDP: u8 = 17;

/// IPv4 without fragmentation, or IPv6 without extension headers; inside a whole TCP or UDP header. All lengths agree
/// with each other and with the packet's, so that no index computed from these is out of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layers {
    pub(super) v6: bool,
    /// [`TCP`] or [`UDP`].
    pub(super) protocol: u8,
    /// Where the TCP or UDP header begins.
    pub(super) transport: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
    /// Bytes of the whole packet.
    pub(super) len: usize,
}

impl Layers {
    /// Reads the headers; `None` if the packet is not ordinary. Checksums are not looked at.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let len = packet.len();
        let (v6, protocol, transport) = match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let header_len = usize::from(header[0] & 0x0f) * 4;
                let more_or_offset = word(header, 6) & 0x3fff;
                if header_len < 20 || usize::from(word(header, 2)) != len || more_or_offset != 0 {
                    return None;
                }
                (false, header[9], header_len)
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                if 40 + usize::from(word(header, 4)) != len {
                    return None;
                }
                (true, header[6], 40)
            }
            _ => return None,
        };
        let segment = packet.get(transport..)?;
        let header_len = match protocol {
            TCP => usize::from(segment.get(12)? >> 4) * 4,
            UDP if usize::from(word(segment.get(..8)?, 4)) == segment.len() => 8,
            _ => return None,
        };
        let long_enough = protocol == UDP || header_len >= 20;
        let payload = transport + header_len;
        (long_enough && payload <= len).then_some(Self { v6, protocol, transport, payload, len })
    }

    /// Source and destination address as they lie in the packet.
    pub(super) fn addresses<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        if self.v6 { &packet[8..40] } else { &packet[12..20] }
    }

    /// The sum of the pseudo header if the transport header and payload have `len` bytes.
    pub(super) fn pseudo_header(&self, packet: &[u8], len: usize) -> u32 {
        checksum::pseudo_header(self.addresses(packet), self.protocol, len)
    }

    /// Where the checksum lies in the transport header.
    pub(super) fn checksum_offset(&self) -> usize {
        checksum_offset(self.protocol)
    }
}

/// Where TCP, or else UDP, has its checksum.
pub(super) fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// The big-endian word at `at`, which must be inside.
pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian double word at `at`, which must be inside.
pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// Writes a big-endian word at `at`, which must be inside.
pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length field: the callers know that it fits.
pub(super) fn short(len: usize) -> u16 {
    u16::try_from(len).expect("an IP packet's length was checked")
}
