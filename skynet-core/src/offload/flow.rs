//! Which flow a packet belongs to.

use super::layers::{TCP, UDP, long, word};

/// What the packets of one flow have in common.
///
/// Ports are there for TCP and UDP whose ports can be told from every packet of the flow alike: not for fragments,
/// of which only the first has them, and not behind IPv6 extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FlowKey {
    source: u128,
    destination: u128,
    /// Source and destination port.
    ports: Option<(u16, u16)>,
    v6: bool,
    /// IPv4 protocol, or the next header of the IPv6 header.
    protocol: u8,
}

impl FlowKey {
    /// Reads the first bytes; `None` if there is no whole IP header.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let fragment = word(header, 6) & 0x3fff != 0;
                let transport = packet.get(usize::from(header[0] & 0x0f).max(5) * 4..).unwrap_or_default();
                Some(Self {
                    source: long(header, 12).into(),
                    destination: long(header, 16).into(),
                    ports: if fragment { None } else { ports(header[9], transport) },
                    v6: false,
                    protocol: header[9],
                })
            }
            6 => {
                let (header, transport) = packet.split_first_chunk::<40>()?;
                let address = |at: usize| {
                    u128::from_be_bytes(
                        *header[at..].first_chunk().expect("both addresses are in the header"),
                    )
                };
                Some(Self {
                    source: address(8),
                    destination: address(24),
                    ports: ports(header[6], transport),
                    v6: true,
                    protocol: header[6],
                })
            }
            _ => None,
        }
    }

    /// Whether a packet with this key may carry part of `flow`, a TCP or UDP flow with ports: it does if they are
    /// equal, it might if it is a fragment or has extension headers. ICMP, for one, never does.
    pub(super) fn may_carry(&self, flow: &Self) -> bool {
        if self.ports.is_some() {
            return self == flow;
        }
        let hidden = if self.v6 { is_v6_extension(self.protocol) } else { self.protocol == flow.protocol };
        hidden && (self.v6, self.source, self.destination) == (flow.v6, flow.source, flow.destination)
    }

    /// The same for both directions.
    fn symmetric_hash(&self) -> u32 {
        let (from, to) = self.ports.unwrap_or_default();
        // Addition forgets which end was which; what is added is mixed first, so (a:1, b:2) is not (a:2, b:1).
        let ends = endpoint(self.source, from).wrapping_add(endpoint(self.destination, to));
        u32::try_from(mix(ends ^ u64::from(self.protocol)) >> 32).expect("the upper half")
    }
}

/// A hash of the flow of an IP packet: of addresses, protocol and, where every packet of the flow shows them, ports.
/// It is the same in both directions and for all fragments of a datagram; 0 for what is no IP packet. It is not keyed,
/// so whoever chooses ports can choose hashes: use it to spread work, not to look up what belongs to somebody.
pub fn flow_hash(packet: &[u8]) -> u32 {
    FlowKey::of(packet).map_or(0, |key| key.symmetric_hash())
}

fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    let has_ports = (protocol == TCP || protocol == UDP) && transport.len() >= 4;
    has_ports.then(|| (word(transport, 0), word(transport, 2)))
}

/// Hop-by-hop, routing, fragment, AH, destination options, mobility, HIP, shim6 (IANA); and TCP or UDP cut short.
fn is_v6_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | TCP | UDP)
}

fn endpoint(address: u128, port: u16) -> u64 {
    let [high, low] = [address >> 64, address].map(|half| half as u64);
    mix(low ^ u64::from(port).rotate_right(16)).wrapping_add(mix(high))
}

/// Every bit of the input changes about half of the output's (the finalizer of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::samples::Sample;

    #[test]
    fn both_directions_have_one_hash_and_other_flows_another() {
        for sample in Sample::KINDS {
            let (there, back) = (sample.packet(), sample.reversed().packet());
            assert_eq!(flow_hash(&there), flow_hash(&back), "{sample:?}");
            let swapped = Sample { ports: (sample.ports.1, sample.ports.0), ..sample };
            assert_ne!(flow_hash(&there), flow_hash(&swapped.packet()), "{sample:?}");
        }
        let hashes: std::collections::BTreeSet<u32> = (0..1000)
            .map(|port| flow_hash(&Sample { ports: (port, 443), ..Sample::KINDS[0] }.packet()))
            .collect();
        assert!(hashes.len() > 997);
        let mut eighths = [0; 8];
        hashes.iter().for_each(|h| eighths[*h as usize % 8] += 1);
        assert!(eighths.iter().all(|n| (80..175).contains(n)), "{eighths:?}");
    }

    #[test]
    fn all_fragments_of_a_datagram_have_one_hash() {
        for sample in Sample::KINDS.into_iter().filter(|s| !s.v6) {
            let mut first = sample.packet();
            first[6] = 0x20;
            let mut last = sample.packet();
            last[6..8].copy_from_slice(&100u16.to_be_bytes());
            last[20..24].copy_from_slice(b"data");
            assert_eq!(flow_hash(&first), flow_hash(&last));
            assert_eq!(flow_hash(&first), flow_hash(&last[..20]));
        }
    }

    #[test]
    fn a_fragment_may_carry_any_flow_between_its_ends_and_icmp_none() {
        let flow = FlowKey::of(&Sample::KINDS[0].packet()).unwrap();
        let mut packet = Sample::KINDS[0].packet();
        assert!(FlowKey::of(&packet).unwrap().may_carry(&flow));
        packet[20] ^= 1;
        assert!(!FlowKey::of(&packet).unwrap().may_carry(&flow));
        packet[6] = 0x20;
        assert!(FlowKey::of(&packet).unwrap().may_carry(&flow));
        packet[9] = 1;
        assert!(!FlowKey::of(&packet).unwrap().may_carry(&flow));
    }

    #[test]
    fn no_truncation_or_bit_flip_panics() {
        for packet in Sample::KINDS.map(|s| s.packet()) {
            for len in 0..packet.len() {
                flow_hash(&packet[..len]);
            }
            for bit in 0..packet.len() * 8 {
                let mut flipped = packet.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                flow_hash(&flipped);
            }
        }
    }
}
