//! `addr18`: an address and port in 18 bytes.
//!
//! ```text
//! 0  16 bytes IPv6, IPv4 as ::ffff:a.b.c.d      16  u16 port
//! ```

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Length of the encoding, bytes.
pub const LEN: usize = 18;

/// The one form in which addresses are compared: an IPv4-mapped IPv6 address is the IPv4 address it maps, and scope
/// and flow label are dropped.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The 18 bytes of `addr`. An IPv4 address and its mapped form have the same bytes.
pub fn encode(addr: SocketAddr) -> [u8; LEN] {
    let ip = match addr.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut out = [0; LEN];
    out[..16].copy_from_slice(&ip.octets());
    out[16..].copy_from_slice(&addr.port().to_be_bytes());
    out
}

/// The address in canonical form. Every 18 bytes are an address.
pub fn decode(bytes: &[u8; LEN]) -> SocketAddr {
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[..16]);
    let port = u16::from_be_bytes([bytes[16], bytes[17]]);
    canonical(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one() {
        let v4: SocketAddr = "192.0.2.7:3478".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:3478".parse().unwrap();
        assert_eq!(encode(v4), encode(mapped));
        assert_eq!(decode(&encode(mapped)), v4);
        let v6: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
        assert_eq!(decode(&encode(v6)), v6);
    }
}
