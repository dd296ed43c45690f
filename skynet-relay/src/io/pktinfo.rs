//! The control message that names the local address of one datagram: `IP_PKTINFO` (ip(7)), `IPV6_PKTINFO` (RFC 3542
//! §6.2). Coming in it tells which of the host's addresses was asked, going out which one to answer from.
//!
//! ```text
//! IP_PKTINFO    cmsghdr 16 │ i32 ifindex │ 4 spec_dst │ 4 addr                32 with its padding
//! IPV6_PKTINFO  cmsghdr 16 │ 16 addr │ u32 ifindex                            40
//! ```

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr};

use crate::server::Local;

const LEN: usize = size_of::<usize>();
const HEADER: usize = LEN + 8;
const _: () = assert!(HEADER == size_of::<libc::cmsghdr>(), "cmsghdr is length, level, type");
const _: () = assert!(size_of::<libc::in_pktinfo>() == 12 && size_of::<libc::in6_pktinfo>() == 20);

/// Room for one message; `cmsghdr` wants the alignment of `usize`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control([u8; Self::SIZE]);

impl Control {
    pub(super) const SIZE: usize = (HEADER + 20).next_multiple_of(LEN);
    pub(super) const EMPTY: Self = Self([0; Self::SIZE]);

    /// The address the datagram came to, from the first `len` bytes. [`Local::ANY`] if they do not tell, or if it is
    /// one that nothing can be sent from: a multicast or the broadcast address.
    pub(super) fn local(&self, len: usize) -> Local {
        read(&self.0[..len.min(Self::SIZE)]).filter(is_unicast).map_or(Local::ANY, Local)
    }

    /// Asks for `local` as the source on a socket of IPv6 (`v6`) or IPv4; the length to pass, 0 if the kernel is to
    /// choose. The interface is always left to the routes: they know the way from that source.
    pub(super) fn set(&mut self, local: Local, v6: bool) -> usize {
        match local.0 {
            ip if ip.is_unspecified() => 0,
            IpAddr::V4(ip) if v6 => self.set_v6(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) if v6 => self.set_v6(ip.octets()),
            IpAddr::V4(ip) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                self.write(libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
            }
            IpAddr::V6(_) => 0,
        }
    }

    /// On an IPv6 socket IPv4 goes as its mapped form, here as in every address.
    fn set_v6(&mut self, ip: [u8; 16]) -> usize {
        let mut info = [0; 20];
        info[..16].copy_from_slice(&ip);
        self.write(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
    }

    fn write(&mut self, level: i32, kind: i32, info: &[u8]) -> usize {
        *self = Self::EMPTY;
        self.0[..LEN].copy_from_slice(&(HEADER + info.len()).to_ne_bytes());
        self.0[LEN..LEN + 4].copy_from_slice(&level.to_ne_bytes());
        self.0[LEN + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        self.0[HEADER..HEADER + info.len()].copy_from_slice(info);
        (HEADER + info.len()).next_multiple_of(LEN)
    }
}

/// The kernel writes no other message: no other was asked for.
fn read(bytes: &[u8]) -> Option<IpAddr> {
    let (header, _) = bytes.split_at_checked(HEADER)?;
    let len = usize::from_ne_bytes(header[..LEN].try_into().ok()?);
    let level = i32::from_ne_bytes(header[LEN..LEN + 4].try_into().ok()?);
    let kind = i32::from_ne_bytes(header[LEN + 4..].try_into().ok()?);
    let info = bytes.get(HEADER..len)?;
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

    #[test]
    fn what_was_asked_is_where_the_answer_comes_from() {
        for (text, v6, len) in
            [("192.0.2.1", false, 32), ("192.0.2.1", true, 40), ("2001:db8::1", true, 40), ("::1", true, 40)]
        {
            let mut control = Control::EMPTY;
            assert_eq!(control.set(local(text), v6), len, "{text}");
            assert_eq!(control.local(len), local(text), "{text}");
        }
    }

    #[test]
    fn no_source_is_asked_for_that_the_socket_cannot_have() {
        let mut control = Control::EMPTY;
        assert_eq!(control.set(Local::ANY, true), 0);
        assert_eq!(control.set(Local::ANY, false), 0);
        assert_eq!(control.set(local("::"), true), 0);
        assert_eq!(control.set(local("2001:db8::1"), false), 0);
        for group in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
            let len = control.set(local(group), true);
            assert_eq!(control.local(len), Local::ANY, "{group}");
        }
    }

    #[test]
    fn cut_and_flipped_messages_never_panic() {
        for (text, v6) in [("192.0.2.1", false), ("2001:db8::1", true)] {
            let mut control = Control::EMPTY;
            let len = control.set(local(text), v6);
            let told = if v6 { HEADER + 20 } else { HEADER + 12 };
            for cut in 0..=len + 8 {
                assert_eq!(control.local(cut) == local(text), cut >= told, "{text} cut to {cut}");
            }
            // In the header a flipped bit makes it another message, or one of another length.
            for bit in 0..HEADER * 8 {
                let mut flipped = control;
                flipped.0[bit / 8] ^= 1 << (bit % 8);
                let got = flipped.local(len);
                assert!(got == Local::ANY || got == local(text), "{text} bit {bit}: {got:?}");
            }
        }
    }
}
