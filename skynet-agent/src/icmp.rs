//! ICMP echo (RFC 792, RFC 4443): what `ping` sends through the overlay.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skynet_core::time::Instant;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock;

/// Longest reply looked at.
const MAX_REPLY: usize = 1_500;
/// Bytes of payload, as `ping` sends by default.
const PAYLOAD: usize = 56;

/// A socket that sends echo requests to one address.
pub struct Pinger {
    socket: Socket,
    family: Family,
    /// A raw socket sees everybody's replies and, with IPv4, the IP header; a ping socket only its own ICMP.
    raw: bool,
    id: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

impl Pinger {
    /// A ping socket where the system allows it (`net.ipv4.ping_group_range`), else a raw one. Its requests leave by
    /// `interface` and no other.
    ///
    /// # Errors
    /// Neither is allowed, there is no such interface here, or no route.
    pub fn new(to: IpAddr, interface: &str) -> io::Result<Self> {
        let (domain, protocol, family) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, Family::V4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, Family::V6),
        };
        let (socket, raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
            Ok(socket) => (socket, false),
            Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
        };
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        let id = (std::process::id() & 0xffff) as u16;
        Ok(Self { socket, family, raw, id })
    }

    /// Sends request number `sequence` and waits for its reply: the round-trip time, `None` if none came in time.
    ///
    /// # Errors
    /// The kernel's, e.g. no route.
    pub fn ping(&mut self, sequence: u16, timeout: Duration) -> io::Result<Option<Duration>> {
        let sent = clock::monotonic();
        self.socket.send(&request(self.family, self.id, sequence))?;
        self.wait(sequence, sent, sent + timeout)
    }

    fn wait(&mut self, sequence: u16, sent: Instant, deadline: Instant) -> io::Result<Option<Duration>> {
        let id = self.raw.then_some(self.id);
        let mut buffer = [0; MAX_REPLY];
        loop {
            let left = deadline.saturating_since(clock::monotonic());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let len = match (&self.socket).read(&mut buffer) {
                Ok(len) => len,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let has_header = self.raw && self.family == Family::V4;
            if is_reply(&buffer[..len], self.family, has_header, id, sequence) {
                return Ok(Some(clock::monotonic() - sent));
            }
        }
    }
}

fn request(family: Family, id: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0; 8 + PAYLOAD];
    packet[0] = if family == Family::V4 { 8 } else { 128 };
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    for (i, byte) in packet[8..].iter_mut().enumerate() {
        *byte = i as u8;
    }
    // The kernel fills in the checksum of ICMPv6, which covers the addresses.
    if family == Family::V4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether `bytes` answer request `sequence` (of `id`, where the kernel does not sort that out itself). Never
/// panics; an entry for fuzzing.
fn is_reply(bytes: &[u8], family: Family, has_header: bool, id: Option<u16>, sequence: u16) -> bool {
    let header = if has_header { bytes.first().map_or(0, |b| usize::from(b & 0x0f) * 4) } else { 0 };
    let Some(icmp) = bytes.get(header..).filter(|i| i.len() >= 8) else { return false };
    let kind = if family == Family::V4 { 0 } else { 129 };
    icmp[0] == kind
        && icmp[1] == 0
        && id.is_none_or(|id| icmp[4..6] == id.to_be_bytes())
        && icmp[6..8] == sequence.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_request_counts() {
        let mut reply = request(Family::V4, 7, 9);
        assert_eq!(checksum(&reply), 0, "a packet with its checksum sums to zero");
        assert!(!is_reply(&reply, Family::V4, false, Some(7), 9), "a request is no reply");
        reply[0] = 0;
        assert!(is_reply(&reply, Family::V4, false, Some(7), 9));
        assert!(is_reply(&reply, Family::V4, false, None, 9));
        assert!(!is_reply(&reply, Family::V4, false, Some(8), 9));
        assert!(!is_reply(&reply, Family::V4, false, Some(7), 10));
        let with_header = [&[0x45; 20][..], &reply].concat();
        assert!(is_reply(&with_header, Family::V4, true, Some(7), 9));
        for cut in 0..with_header.len() {
            is_reply(&with_header[..cut], Family::V4, true, Some(7), 9);
        }
        for bit in 0..with_header.len() * 8 {
            let mut flipped = with_header.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            is_reply(&flipped, Family::V4, true, Some(7), 9);
        }
    }

    #[test]
    fn loopback_answers() {
        let Ok(mut pinger) = Pinger::new(IpAddr::from([127, 0, 0, 1]), "lo") else { return };
        assert!(pinger.ping(1, Duration::from_secs(2)).unwrap().is_some());
        assert!(pinger.ping(2, Duration::from_secs(2)).unwrap().is_some());
    }
}
