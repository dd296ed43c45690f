//! A view of an IP packet: just enough to route and to filter. Every accessor is total once [`IpPacket::parse`] agreed.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 packet whose header is whole and whose length field fits the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    source: IpAddr,
    destination: IpAddr,
}

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotIp {
    /// The first nibble is neither 4 nor 6, or there is no first nibble.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// The header does not fit, or its length field is smaller than the header or larger than the buffer.
    #[error("length field does not fit the packet")]
    Length,
}

impl<'a> IpPacket<'a> {
    /// Reads the header. Bytes after the packet's own length (padding of transport data) are cut off.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, NotIp> {
        match buffer.first().ok_or(NotIp::Version)? >> 4 {
            4 => Self::parse_v4(buffer),
            6 => Self::parse_v6(buffer),
            _ => Err(NotIp::Version),
        }
    }

    fn parse_v4(buffer: &'a [u8]) -> Result<Self, NotIp> {
        let header: &[u8; 20] = buffer.first_chunk().ok_or(NotIp::Length)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < 20 || total_len < header_len {
            return Err(NotIp::Length);
        }
        let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        let bytes = buffer.get(..total_len).ok_or(NotIp::Length)?;
        Ok(Self { bytes, source: source.into(), destination: destination.into() })
    }

    fn parse_v6(buffer: &'a [u8]) -> Result<Self, NotIp> {
        let header: &[u8; 40] = buffer.first_chunk().ok_or(NotIp::Length)?;
        let total_len = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let address = |at: usize| {
            let octets: [u8; 16] = header[at..at + 16].try_into().expect("16 bytes inside a 40-byte header");
            IpAddr::from(Ipv6Addr::from(octets))
        };
        let bytes = buffer.get(..total_len).ok_or(NotIp::Length)?;
        Ok(Self { bytes, source: address(8), destination: address(24) })
    }

    /// The packet, without what followed it in the buffer.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.source
    }
    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }
}

/// The source address of a packet of which only the beginning is here; `None` if not even that is whole.
pub fn source_of(beginning: &[u8]) -> Option<IpAddr> {
    match beginning.first()? >> 4 {
        4 => beginning.get(12..16).and_then(|a| Some(IpAddr::from(*a.first_chunk::<4>()?))),
        6 => beginning.get(8..24).and_then(|a| Some(IpAddr::from(*a.first_chunk::<16>()?))),
        _ => None,
    }
}

/// An IPv4 UDP packet with a correct header checksum and no UDP checksum; for tests, simulations and benches.
pub fn udp_v4(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(28 + payload.len()).expect("a test packet fits 64 KiB");
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    p[2..4].copy_from_slice(&total.to_be_bytes());
    p.extend(source.octets());
    p.extend(destination.octets());
    let sum: u32 = p.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice");
    p[10..12].copy_from_slice(&checksum.to_be_bytes());
    p.extend(ports.0.to_be_bytes());
    p.extend(ports.1.to_be_bytes());
    p.extend((total - 20).to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        udp_v4([10, 1, 0, 1].into(), [10, 1, 0, 2].into(), (1, 2), b"payload")
    }

    #[test]
    fn padding_is_not_part_of_the_packet() {
        let mut padded = sample();
        padded.extend([0; 9]);
        let packet = IpPacket::parse(&padded).unwrap();
        assert_eq!(packet.bytes(), sample());
        assert_eq!(packet.source(), IpAddr::from([10, 1, 0, 1]));
        assert_eq!(packet.destination(), IpAddr::from([10, 1, 0, 2]));
    }

    #[test]
    fn the_source_is_read_from_the_beginning_alone() {
        let packet = sample();
        assert_eq!(source_of(&packet[..16]), Some(IpAddr::from([10, 1, 0, 1])));
        assert_eq!((source_of(&packet[..15]), source_of(&[]), source_of(&[0x10; 40])), (None, None, None));
        let mut v6 = vec![0x60; 8];
        v6.extend([7; 16]);
        assert_eq!(source_of(&v6), Some(IpAddr::from([7; 16])));
        assert_eq!(source_of(&v6[..23]), None);
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = sample();
        for len in 0..whole.len() {
            assert!(IpPacket::parse(&whole[..len]).is_err(), "{len}");
        }
        let mut v6 = vec![0x60, 0, 0, 0, 0, 4, 17, 64];
        v6.resize(44, 1);
        assert!(IpPacket::parse(&v6).is_ok());
        for len in 0..v6.len() {
            assert!(IpPacket::parse(&v6[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn no_single_bit_flip_panics_or_reads_past_the_buffer() {
        for sample in [sample(), vec![0x60; 64]] {
            for bit in 0..sample.len() * 8 {
                let mut flipped = sample.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                if let Ok(packet) = IpPacket::parse(&flipped) {
                    assert!(packet.bytes().len() <= flipped.len());
                }
            }
        }
    }

    #[test]
    fn a_header_longer_than_the_packet_is_refused() {
        let mut p = sample();
        p[0] = 0x4f;
        p[2..4].copy_from_slice(&40u16.to_be_bytes());
        assert_eq!(IpPacket::parse(&p), Err(NotIp::Length));
    }
}
