//! What may pass at all. Members of a network trust each other (design: single security context), so beyond the
//! addresses that never belong in an overlay everything is allowed; policy by tags will compile into this step.

use core::net::IpAddr;

use crate::wire::ip::IpPacket;

/// The filter's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Let it pass.
    Pass,
    /// An address that is only meaningful on one link or one host, or addresses nobody in particular.
    Martian,
}

/// Loopback, link-local (metadata services among them), multicast, broadcast and unspecified addresses.
fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            a.is_loopback() || a.is_link_local() || a.is_multicast() || a.is_broadcast() || a.octets()[0] == 0
        }
        IpAddr::V6(a) => {
            a.is_loopback() || a.is_unicast_link_local() || a.is_multicast() || a.is_unspecified()
        }
    }
}

/// From the TUN device towards a peer, and the same from a peer towards the TUN device.
pub fn check(packet: &IpPacket<'_>) -> Verdict {
    if is_martian(packet.source()) || is_martian(packet.destination()) {
        Verdict::Martian
    } else {
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::udp_v4;

    #[test]
    fn metadata_services_and_multicast_never_cross_the_overlay() {
        for (destination, verdict) in [
            ([169, 254, 169, 254], Verdict::Martian),
            ([224, 0, 0, 251], Verdict::Martian),
            ([255, 255, 255, 255], Verdict::Martian),
            ([127, 0, 0, 1], Verdict::Martian),
            ([10, 1, 2, 3], Verdict::Pass),
        ] {
            let bytes = udp_v4([10, 1, 0, 1].into(), destination.into(), (1, 2), b"");
            assert_eq!(check(&IpPacket::parse(&bytes).unwrap()), verdict, "{destination:?}");
        }
    }
}
