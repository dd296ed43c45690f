//! Control messages of one datagram or train: which of the host's addresses it came to or leaves from, and how long its
//! datagrams are.
//!
//! ```text
//! IP_PKTINFO              cmsghdr 16 │ i32 ifindex │ 4 spec_dst │ 4 addr                32 with its padding    ip(7)
//! IPV6_PKTINFO            cmsghdr 16 │ 16 addr │ u32 ifindex                            40                     RFC 3542 §6.2
//! UDP_GRO, coming in      cmsghdr 16 │ i32 bytes of each datagram                       24                     udp(7)
//! UDP_SEGMENT, going out  cmsghdr 16 │ u16 bytes of each datagram                       24
//! ```

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr};

use crate::server::Local;

const LEN: usize = size_of::<usize>();
const HEADER: usize = LEN + 8;
const _: () = assert!(HEADER == size_of::<libc::cmsghdr>(), "cmsghdr is length, level, type");
const _: () = assert!(size_of::<libc::in_pktinfo>() == 12 && size_of::<libc::in6_pktinfo>() == 20);

/// Room for one message of each kind; `cmsghdr` wants the alignment of `usize`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control([u8; Self::SIZE]);

/// What the messages tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Told {
    /// The address of this host. [`Local::ANY`] if nothing tells it, or if it is one that nothing can be sent from: a
    /// multicast or the broadcast address.
    pub(super) local: Local,
    /// Bytes of each datagram but the last, if it is a train.
    pub(super) segment: Option<u16>,
}

impl Control {
    pub(super) const SIZE: usize = (HEADER + 20).next_multiple_of(LEN) + (HEADER + 4).next_multiple_of(LEN);
    pub(super) const EMPTY: Self = Self([0; Self::SIZE]);

    /// The first `len` bytes, as the kernel wrote them.
    pub(super) fn read(&self, len: usize) -> Told {
        let mut told = Told { local: Local::ANY, segment: None };
        let mut rest = &self.0[..len.min(Self::SIZE)];
        while let Some((level, kind, info, next)) = split(rest) {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => told.segment = segment_of(info),
                _ => told.local = address_of(level, kind, info).filter(is_unicast).map_or(told.local, Local),
            }
            rest = next;
        }
        told
    }

    /// Asks for `local` as the source on a socket of IPv6 (`v6`) or IPv4, and for datagrams of `segment` bytes if there
    /// is more than one; the length to pass, 0 if there is nothing to ask. The interface is always left to the routes:
    /// they know the way from that source.
    pub(super) fn write(&mut self, local: Local, v6: bool, segment: Option<u16>) -> usize {
        *self = Self::EMPTY;
        let mut at = match local.0 {
            ip if ip.is_unspecified() => 0,
            IpAddr::V4(ip) if v6 => self.put_v6(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) if v6 => self.put_v6(ip.octets()),
            IpAddr::V4(ip) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                self.put(0, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
            }
            IpAddr::V6(_) => 0,
        };
        if let Some(segment) = segment {
            at = self.put(at, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        at
    }

    /// On an IPv6 socket IPv4 goes as its mapped form, here as in every address.
    fn put_v6(&mut self, ip: [u8; 16]) -> usize {
        let mut info = [0; 20];
        info[..16].copy_from_slice(&ip);
        self.put(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
    }

    /// Writes a message at `at`; where the next one begins.
    fn put(&mut self, at: usize, level: i32, kind: i32, info: &[u8]) -> usize {
        let bytes = &mut self.0[at..];
        bytes[..LEN].copy_from_slice(&(HEADER + info.len()).to_ne_bytes());
        bytes[LEN..LEN + 4].copy_from_slice(&level.to_ne_bytes());
        bytes[LEN + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        bytes[HEADER..HEADER + info.len()].copy_from_slice(info);
        at + (HEADER + info.len()).next_multiple_of(LEN)
    }
}

/// Level, kind and content of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let header = bytes.get(..HEADER)?;
    let len = usize::from_ne_bytes(header[..LEN].try_into().ok()?);
    let level = i32::from_ne_bytes(header[LEN..LEN + 4].try_into().ok()?);
    let kind = i32::from_ne_bytes(header[LEN + 4..].try_into().ok()?);
    let info = bytes.get(HEADER..len)?;
    let next = bytes.get(len.checked_next_multiple_of(LEN)?..).unwrap_or_default();
    Some((level, kind, info, next))
}

fn segment_of(info: &[u8]) -> Option<u16> {
    let bytes = i32::from_ne_bytes(info.get(..4)?.try_into().ok()?);
    u16::try_from(bytes).ok().filter(|segment| *segment > 0)
}

fn address_of(level: i32, kind: i32, info: &[u8]) -> Option<IpAddr> {
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let ip: [u8; 4] = info.get(4..8)?.try_into().ok()?;
            Some(Ipv4Addr::from(ip).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let ip: [u8; 16] = info.get(..16)?.try_into().ok()?;
            Some(IpAddr::from(ip).to_canonical())
        }
        _ => None,
    }
}

fn is_unicast(ip: &IpAddr) -> bool {
    !ip.is_multicast() && *ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str) -> Local {
        Local(text.parse().unwrap())
    }

    /// As the kernel would write it: a train coming in says UDP_GRO.
    fn incoming(text: &str, v6: bool, segment: u16) -> (Control, usize) {
        let mut control = Control::EMPTY;
        let at = control.write(local(text), v6, None);
        let len = control.put(at, libc::SOL_UDP, libc::UDP_GRO, &i32::from(segment).to_ne_bytes());
        (control, len)
    }

    #[test]
    fn what_was_asked_is_where_the_answer_comes_from() {
        for (text, v6, len) in
            [("192.0.2.1", false, 32), ("192.0.2.1", true, 40), ("2001:db8::1", true, 40), ("::1", true, 40)]
        {
            let mut control = Control::EMPTY;
            assert_eq!(control.write(local(text), v6, None), len, "{text}");
            assert_eq!(control.read(len), Told { local: local(text), segment: None }, "{text}");
            assert_eq!(control.write(local(text), v6, Some(1_400)), len + 24, "{text}");
            assert_eq!(control.read(len + 24), Told { local: local(text), segment: None }, "{text}");
            let (control, len) = incoming(text, v6, 1_400);
            assert_eq!(control.read(len), Told { local: local(text), segment: Some(1_400) }, "{text}");
        }
    }

    #[test]
    fn no_source_is_asked_for_that_the_socket_cannot_have() {
        let mut control = Control::EMPTY;
        assert_eq!(control.write(Local::ANY, true, None), 0);
        assert_eq!(control.write(Local::ANY, false, None), 0);
        assert_eq!(control.write(local("::"), true, None), 0);
        assert_eq!(control.write(local("2001:db8::1"), false, None), 0);
        assert_eq!(control.write(Local::ANY, true, Some(9)), 24);
        for group in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
            let len = control.write(local(group), true, None);
            assert_eq!(control.read(len).local, Local::ANY, "{group}");
        }
    }

    #[test]
    fn cut_and_flipped_messages_never_panic() {
        for (text, v6) in [("192.0.2.1", false), ("2001:db8::1", true)] {
            let (control, len) = incoming(text, v6, 1_400);
            let told = if v6 { HEADER + 20 } else { HEADER + 12 };
            for cut in 0..=len + 8 {
                let read = control.read(cut);
                assert_eq!(read.local == local(text), cut >= told, "{text} cut to {cut}");
                assert_eq!(read.segment.is_some(), cut >= len - 4, "{text} cut to {cut}");
            }
            // In the header a flipped bit makes it another message, or one of another length.
            for bit in 0..len * 8 {
                let mut flipped = control;
                flipped.0[bit / 8] ^= 1 << (bit % 8);
                let read = flipped.read(len);
                assert!(read.segment != Some(0), "{text} bit {bit}: {read:?}");
                if bit < HEADER * 8 {
                    let is_known = [Local::ANY, local(text)].contains(&read.local);
                    assert!(is_known, "{text} bit {bit}: {read:?}");
                }
            }
        }
    }
}
