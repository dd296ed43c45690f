//! `struct virtio_net_hdr`: what the kernel says about a packet on a TUN device with `IFF_VNET_HDR`
//! (virtio 1.2 §5.1.6).
//!
//! ```text
//!  0      1         2        4         6           8            10
//!  flags  gso_type  hdr_len  gso_size  csum_start  csum_offset  packet …     host byte order, as TUN's default is
//! ```

use crate::drop::DropReason;

/// Bytes of the header in front of every packet.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_ECN: u8 = 0x80;

/// How a packet is to be segmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Gso {
    /// Not at all: an ordinary packet.
    #[default]
    None = 0,
    /// TCP over IPv4.
    TcpV4 = 1,
    /// TCP over IPv6.
    TcpV6 = 4,
    /// UDP over either: each segment becomes a datagram of its own.
    UdpL4 = 5,
}

/// A decoded header. [`VnetHeader::NONE`] says nothing about its packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// The checksum field holds the pseudo header's sum only; the rest is to be added.
    pub needs_csum: bool,
    /// The checksum was verified already.
    pub data_valid: bool,
    /// How to segment.
    pub gso: Gso,
    /// TCP with explicit congestion notification: CWR belongs to the first segment only.
    pub gso_ecn: bool,
    /// Bytes of all headers of the packet; a hint.
    pub hdr_len: u16,
    /// Payload bytes of a segment, except the last, which may be shorter.
    pub gso_size: u16,
    /// With `needs_csum`: where the summed bytes begin, counted from the IP header.
    pub csum_start: u16,
    /// With `needs_csum`: where the checksum is stored, counted from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// An ordinary packet whose checksums are complete.
    pub const NONE: Self = Self {
        needs_csum: false,
        data_valid: false,
        gso: Gso::None,
        gso_ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// Takes the header off what was read from the device; the rest is the packet. A flag or a way to segment that
    /// was never asked for is [`DropReason::BadOffload`]: its meaning is unknown, so the packet cannot be completed.
    pub fn parse(buffer: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let (bytes, packet) = buffer.split_first_chunk::<VNET_HEADER_LEN>().ok_or(DropReason::BadOffload)?;
        let [flags, gso_type, fields @ ..] = *bytes;
        if flags & !(NEEDS_CSUM | DATA_VALID) != 0 {
            return Err(DropReason::BadOffload);
        }
        let gso = match gso_type & !GSO_ECN {
            0 => Gso::None,
            1 => Gso::TcpV4,
            4 => Gso::TcpV6,
            5 => Gso::UdpL4,
            _ => return Err(DropReason::BadOffload),
        };
        let [a, b, c, d, e, f, g, h] = fields;
        let header = Self {
            needs_csum: flags & NEEDS_CSUM != 0,
            data_valid: flags & DATA_VALID != 0,
            gso,
            gso_ecn: gso_type & GSO_ECN != 0,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        };
        Ok((header, packet))
    }

    /// The bytes to write in front of the packet.
    pub fn encode(&self) -> [u8; VNET_HEADER_LEN] {
        let flags =
            if self.needs_csum { NEEDS_CSUM } else { 0 } | if self.data_valid { DATA_VALID } else { 0 };
        let gso_type = self.gso as u8 | if self.gso_ecn { GSO_ECN } else { 0 };
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [flags, gso_type, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_that_parses_is_written_back_as_it_came() {
        let mut accepted = 0;
        for flags in 0..=255 {
            for gso_type in 0..=255 {
                let bytes = [flags, gso_type, 1, 2, 3, 4, 5, 6, 7, 8, 0x45];
                if let Ok((header, packet)) = VnetHeader::parse(&bytes) {
                    assert_eq!((&header.encode()[..], packet), (&bytes[..10], &[0x45][..]));
                    accepted += 1;
                }
            }
        }
        assert_eq!(accepted, 4 * 8);
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..VNET_HEADER_LEN {
            assert_eq!(VnetHeader::parse(&[0; 10][..len]), Err(DropReason::BadOffload));
        }
        assert_eq!(VnetHeader::parse(&[0; 10]), Ok((VnetHeader::NONE, &[][..])));
    }

    #[test]
    fn fields_lie_where_the_kernel_has_them() {
        let header = VnetHeader {
            needs_csum: true,
            gso: Gso::TcpV6,
            gso_ecn: true,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
            ..VnetHeader::NONE
        };
        let mut expected = vec![1, 0x84];
        for field in [0x0102u16, 0x0304, 0x0506, 0x0708] {
            expected.extend(field.to_ne_bytes());
        }
        assert_eq!(header.encode(), expected[..]);
    }
}
