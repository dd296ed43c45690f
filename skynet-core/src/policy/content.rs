//! What a packet is about, as far as a policy asks.

use crate::member::policy::{ICMP, TCP, UDP};

/// ICMP for IPv6.
const ICMP_V6: u8 = 58;
/// Extension headers followed at most; whoever sends more hides its ports.
const MAX_EXTENSIONS: usize = 8;

/// What is in an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// Part of a flow, with source and destination port, or what stands for them; `None` where the packet does not show
    /// them. An ICMP echo request is from its identifier to 0, its reply from 0 to it; other protocols have 0 for both.
    Flow {
        /// The protocol behind all extension headers; ICMP of either family is one.
        protocol: u8,
        /// From and to.
        ports: Option<(u16, u16)>,
    },
    /// An error about a packet that the receiver of this one has sent: of this protocol, from and to these ports.
    About {
        /// Its protocol.
        protocol: u8,
        /// From and to.
        ports: Option<(u16, u16)>,
    },
    /// A fragment that is not the first: nothing comes of it without that one.
    Rest,
}

impl Content {
    /// Reads a packet whose IP header is whole.
    pub(super) fn of(packet: &[u8]) -> Self {
        let Some(ip) = Ip::of(packet) else { return Self::Flow { protocol: 0, ports: None } };
        if ip.is_rest {
            return Self::Rest;
        }
        if let Some(inside) = ip.error_about()
            && let Some(about) = Ip::of(inside)
            && about.source == ip.destination
            && !about.is_rest
        {
            return Self::About { protocol: about.protocol, ports: about.ports() };
        }
        Self::Flow { protocol: ip.protocol, ports: ip.ports() }
    }
}

/// An IP packet taken apart, of which not all need be here.
struct Ip<'a> {
    source: &'a [u8],
    destination: &'a [u8],
    protocol: u8,
    is_rest: bool,
    transport: &'a [u8],
    v6: bool,
}

impl<'a> Ip<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::v4(packet),
            6 => Self::v6(packet),
            _ => None,
        }
    }

    fn v4(packet: &'a [u8]) -> Option<Self> {
        let header = packet.get(..20)?;
        let transport = packet.get(usize::from(header[0] & 0xf) * 4..).filter(|_| header[0] & 0xf >= 5)?;
        let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        Some(Self {
            source: &header[12..16],
            destination: &header[16..20],
            protocol: header[9],
            is_rest: offset != 0,
            transport,
            v6: false,
        })
    }

    fn v6(packet: &'a [u8]) -> Option<Self> {
        let (header, mut transport) = packet.split_at_checked(40)?;
        let mut ip = Self {
            source: &header[8..24],
            destination: &header[24..40],
            protocol: header[6],
            is_rest: false,
            transport,
            v6: true,
        };
        for _ in 0..MAX_EXTENSIONS {
            let &[next, length, high, low, ..] = transport else { break };
            let length = match ip.protocol {
                // Hop-by-hop options, routing, destination options (RFC 8200 §4); authentication (RFC 4302).
                0 | 43 | 60 => (usize::from(length) + 1) * 8,
                51 => (usize::from(length) + 2) * 4,
                44 => {
                    ip.is_rest = u16::from_be_bytes([high, low]) >> 3 != 0;
                    8
                }
                _ => break,
            };
            // A header that does not end here: what follows is not shown.
            transport = transport.get(length..).unwrap_or_default();
            ip.protocol = next;
            if ip.is_rest {
                break;
            }
        }
        ip.transport = transport;
        if ip.protocol == ICMP_V6 {
            ip.protocol = ICMP;
        }
        Some(ip)
    }

    fn ports(&self) -> Option<(u16, u16)> {
        match (self.protocol, self.transport) {
            (TCP | UDP, &[a, b, c, d, ..]) => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
            (TCP | UDP, _) => None,
            (ICMP, &[kind, _, _, _, a, b, ..]) => {
                let id = u16::from_be_bytes([a, b]);
                // RFC 792, RFC 4443 §4. Of other kinds each is a flow of its own.
                let (request, reply) = if self.v6 { (128, 129) } else { (8, 0) };
                match kind {
                    kind if kind == request => Some((id, 0)),
                    kind if kind == reply => Some((0, id)),
                    kind => Some((kind.into(), kind.into())),
                }
            }
            _ => Some((0, 0)),
        }
    }

    /// The packet that an ICMP error quotes (RFC 792, RFC 4443 §2.4).
    fn error_about(&self) -> Option<&'a [u8]> {
        let kind = *self.transport.first().filter(|_| self.protocol == ICMP)?;
        let is_error = if self.v6 { (1..=4).contains(&kind) } else { matches!(kind, 3 | 11 | 12) };
        if is_error { self.transport.get(8..) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::udp_v4;

    const A: [u8; 4] = [10, 7, 0, 1];
    const B: [u8; 4] = [10, 7, 0, 2];

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
        packet.extend([[0xfd; 16], [0xfe; 16]].concat());
        packet.extend_from_slice(rest);
        packet
    }

    #[test]
    fn ports_are_found_behind_options_and_extension_headers() {
        let ports = Some((700, 22));
        let flow = |protocol| Content::Flow { protocol, ports };
        let plain = udp_v4(A.into(), B.into(), (700, 22), b"x");
        assert_eq!(Content::of(&plain), flow(UDP));
        let mut options = plain.clone();
        options[0] = 0x46;
        options.splice(20..20, [1, 1, 1, 1]);
        assert_eq!(Content::of(&options), flow(UDP));
        let tcp = [&700_u16.to_be_bytes()[..], &22_u16.to_be_bytes(), &[0; 16]].concat();
        assert_eq!(Content::of(&v6(6, &tcp)), flow(TCP));
        let hop_by_hop = [&[60, 0, 0, 0, 0, 0, 0, 0][..], &[6, 1], &[0; 14], &tcp].concat();
        assert_eq!(Content::of(&v6(0, &hop_by_hop)), flow(TCP));
        let first_fragment = [&[6, 0, 0, 1, 0, 0, 0, 9][..], &tcp].concat();
        assert_eq!(Content::of(&v6(44, &first_fragment)), flow(TCP));
        let later_fragment = [&[6, 0, 0, 9, 0, 0, 0, 9][..], &tcp].concat();
        assert_eq!(Content::of(&v6(44, &later_fragment)), Content::Rest);
        let ping = v6(58, &[128, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(Content::of(&ping), Content::Flow { protocol: ICMP, ports: Some((1, 0)) });
        let pong = v6(58, &[129, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(Content::of(&pong), Content::Flow { protocol: ICMP, ports: Some((0, 1)) });
    }

    #[test]
    fn what_hides_its_ports_has_none() {
        let hidden = |protocol| Content::Flow { protocol, ports: None };
        let mut short = udp_v4(A.into(), B.into(), (700, 22), b"");
        short.truncate(23);
        assert_eq!(Content::of(&short), hidden(UDP));
        let endless = [0, 0, 0, 0, 0, 0, 0, 0].repeat(9);
        assert_eq!(Content::of(&v6(0, &endless)), Content::Flow { protocol: 0, ports: Some((0, 0)) });
        assert_eq!(
            Content::of(&v6(0, &[6, 9, 0, 0, 0, 0, 0, 0])),
            hidden(TCP),
            "a header longer than the packet"
        );
        let mut rest = udp_v4(A.into(), B.into(), (700, 22), b"x");
        rest[6..8].copy_from_slice(&185_u16.to_be_bytes());
        assert_eq!(Content::of(&rest), Content::Rest);
    }

    #[test]
    fn an_error_is_about_what_it_quotes_if_that_is_the_receivers() {
        let sent = udp_v4(A.into(), B.into(), (700, 22), b"x");
        let error = |to: [u8; 4]| {
            let mut packet = udp_v4(B.into(), to.into(), (0, 0), &[]);
            packet[9] = 1;
            packet.truncate(20);
            packet.extend([3, 3, 0, 0, 0, 0, 0, 0]);
            packet.extend_from_slice(&sent);
            packet
        };
        assert_eq!(Content::of(&error(A)), Content::About { protocol: UDP, ports: Some((700, 22)) });
        let plain = Content::Flow { protocol: ICMP, ports: Some((3, 3)) };
        assert_eq!(Content::of(&error([10, 7, 0, 9])), plain);
        assert_eq!(Content::of(&error(A)[..30]), plain);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let samples =
            [udp_v4(A.into(), B.into(), (1, 2), b"abc"), v6(0, &[60, 0, 0, 0, 0, 0, 0, 0, 6, 1, 1, 1, 1])];
        for sample in samples {
            for bit in 0..sample.len() * 8 {
                let mut flipped = sample.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = Content::of(&flipped);
            }
            for len in 0..=sample.len() {
                let _ = Content::of(&sample[..len]);
            }
        }
    }
}
