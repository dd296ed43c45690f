//! System calls of the UDP socket: `sendmsg` with control messages and `recvmmsg`. The only `unsafe` of the UDP layer.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockAddr;

/// Room for the control messages of one datagram: segment size, TTL, TOS and source going out; segment size, TOS and
/// destination coming in.
/// `cmsghdr` wants the alignment of `usize`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlBuffer([u8; CONTROL]);

/// Three control messages of one word each, and one of `IPV6_PKTINFO`'s twenty bytes.
const CONTROL: usize = 112;
/// The ECN field: the low two bits of TOS or traffic class (RFC 3168 §5).
const ECN: u8 = 0b11;

/// What may accompany one `sendmsg`.
#[derive(Clone, Copy, Default)]
pub(super) struct SendOptions {
    /// Split the payload into datagrams of this many bytes (`UDP_SEGMENT`).
    pub(super) segment: Option<u16>,
    /// Send with this TTL (`IP_TTL`) or hop limit (`IPV6_HOPLIMIT`).
    pub(super) ttl: Option<u8>,
    /// Send with this TOS (`IP_TOS`) or traffic class (`IPV6_TCLASS`); 0 is the socket's own.
    pub(super) tos: u8,
    /// Send from this address of the host (`IP_PKTINFO`, `IPV6_PKTINFO`); the way is the routes' to choose.
    pub(super) from: Option<IpAddr>,
}

/// One `sendmsg` of `bytes` to `to`, which must be in the socket's own family.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    to: SocketAddr,
    bytes: &[u8],
    options: SendOptions,
) -> io::Result<usize> {
    let address = SockAddr::from(to);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = ControlBuffer([0; CONTROL]);
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = address.as_ptr().cast_mut().cast();
    header.msg_namelen = address.len();
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_controllen = write_control(&mut control, to, options);
    if header.msg_controllen > 0 {
        header.msg_control = control.0.as_mut_ptr().cast();
    }
    // SAFETY: every pointer in `header` refers to a local that outlives the call; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes the control messages asked for and returns their total length.
fn write_control(control: &mut ControlBuffer, to: SocketAddr, options: SendOptions) -> usize {
    let mut used = 0;
    if let Some(segment) = options.segment {
        used += put_cmsg(&mut control.0[used..], libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    // A v4-mapped destination leaves through the IPv4 stack, which reads IPv4's options even on an IPv6 socket.
    let is_v4 = match to {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(a) => a.ip().to_ipv4_mapped().is_some(),
    };
    if let Some(ttl) = options.ttl {
        let (level, kind) =
            if is_v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) };
        used += put_cmsg(&mut control.0[used..], level, kind, &i32::from(ttl).to_ne_bytes());
    }
    if let Some(from) = options.from {
        used += put_source(&mut control.0[used..], to, from);
    }
    if options.tos != 0 {
        let (level, kind) =
            if is_v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        used += put_cmsg(&mut control.0[used..], level, kind, &i32::from(options.tos).to_ne_bytes());
    }
    used
}

/// The control message that asks for a source; none if the destination is of the other family.
///
/// ```text
/// IP_PKTINFO    i32 interface │ 4 source │ 4 –          IPV6_PKTINFO  16 source │ u32 interface
/// ```
fn put_source(space: &mut [u8], to: SocketAddr, from: IpAddr) -> usize {
    match (to, from.to_canonical()) {
        (SocketAddr::V4(_), IpAddr::V4(from)) => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&from.octets());
            put_cmsg(space, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
        }
        // An IPv6 socket takes IPv4 addresses in their mapped form, here too.
        (SocketAddr::V6(to), from) if to.ip().to_ipv4_mapped().is_some() == from.is_ipv4() => {
            let from = match from {
                IpAddr::V4(from) => from.to_ipv6_mapped(),
                IpAddr::V6(from) => from,
            };
            let mut info = [0; 20];
            info[..16].copy_from_slice(&from.octets());
            put_cmsg(space, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
        }
        _ => 0,
    }
}

/// One control message at the start of `space`, laid out as `CMSG_SPACE`; returns the space it takes.
fn put_cmsg(space: &mut [u8], level: i32, kind: i32, value: &[u8]) -> usize {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    space[..size_of::<usize>()].copy_from_slice(&(HEADER + value.len()).to_ne_bytes());
    space[size_of::<usize>()..][..4].copy_from_slice(&level.to_ne_bytes());
    space[size_of::<usize>() + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
    space[HEADER..][..value.len()].copy_from_slice(value);
    (HEADER + value.len()).next_multiple_of(size_of::<usize>())
}

const _: () = assert!(size_of::<libc::cmsghdr>() == size_of::<usize>() + 8, "cmsghdr is length, level, type");

/// Buffers of one `recvmmsg`: `count` datagrams (or GRO trains) of up to `size` bytes each.
pub(super) struct ReceiveBuffers {
    bytes: Box<[u8]>,
    size: usize,
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[ControlBuffer]>,
    /// Length, stride and sender of what the last call filled.
    pub(super) filled: Vec<Filled>,
}

/// One buffer after `recvmmsg`.
#[derive(Clone, Copy)]
pub(super) struct Filled {
    pub(super) from: SocketAddr,
    /// The host's address it came to.
    pub(super) local: Option<IpAddr>,
    pub(super) len: usize,
    /// Bytes per datagram in the buffer; the last one may be shorter.
    pub(super) stride: usize,
    /// The ECN field all of them carried: the kernel coalesces no two that differ.
    pub(super) ecn: u8,
}

impl ReceiveBuffers {
    pub(super) fn new(count: usize, size: usize) -> Self {
        // SAFETY: sockaddr_in6 is plain data for which all zeroes is a valid value.
        let name: libc::sockaddr_in6 = unsafe { zeroed() };
        Self {
            bytes: vec![0; count * size].into_boxed_slice(),
            size,
            names: vec![name; count].into_boxed_slice(),
            controls: vec![ControlBuffer([0; CONTROL]); count].into_boxed_slice(),
            filled: Vec::with_capacity(count),
        }
    }

    /// The bytes of buffer `index`.
    pub(super) fn buffer_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.bytes[index * self.size..][..self.size]
    }

    /// All buffers in order, each as one slice.
    pub(super) fn buffers_mut(&mut self) -> (std::slice::ChunksExactMut<'_, u8>, &[Filled]) {
        (self.bytes.chunks_exact_mut(self.size), &self.filled)
    }
}

/// Largest `recvmmsg` vector, so that headers live on the stack.
pub(super) const MAX_VECTOR: usize = 16;

/// One non-blocking `recvmmsg`; fills `buffers.filled`.
pub(super) fn receive(fd: BorrowedFd<'_>, buffers: &mut ReceiveBuffers) -> io::Result<()> {
    buffers.filled.clear();
    let count = buffers.names.len().min(MAX_VECTOR);
    // SAFETY: iovec is plain data for which all zeroes is a valid value.
    let mut iovs: [libc::iovec; MAX_VECTOR] = unsafe { zeroed() };
    // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
    let mut headers: [libc::mmsghdr; MAX_VECTOR] = unsafe { zeroed() };
    for i in 0..count {
        iovs[i].iov_base = buffers.buffer_mut(i).as_mut_ptr().cast();
        iovs[i].iov_len = buffers.size;
        let header = &mut headers[i].msg_hdr;
        header.msg_name = (&raw mut buffers.names[i]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
        header.msg_iov = &raw mut iovs[i];
        header.msg_iovlen = 1;
        header.msg_control = buffers.controls[i].0.as_mut_ptr().cast();
        header.msg_controllen = size_of::<ControlBuffer>();
    }
    // SAFETY: the first `count` headers point to disjoint buffers owned by `buffers`, alive for the whole call.
    let received = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count as u32,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (i, header) in headers.iter().enumerate().take(received) {
        let len = (header.msg_len as usize).min(buffers.size);
        let control = &buffers.controls[i].0[..header.msg_hdr.msg_controllen.min(CONTROL)];
        let told = read_control(control);
        let stride = told.segment.filter(|s| *s > 0).unwrap_or(len.max(1));
        let from = sender(&buffers.names[i]);
        buffers.filled.push(Filled { from, local: told.local, len, stride, ecn: told.ecn });
    }
    Ok(())
}

/// The sender's address; a v4-mapped one becomes plain IPv4. Both families fit `sockaddr_in6`.
fn sender(name: &libc::sockaddr_in6) -> SocketAddr {
    if i32::from(name.sin6_family) == libc::AF_INET {
        // SAFETY: sockaddr_in is smaller than sockaddr_in6, no more aligned, and the family says it is one.
        let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        return SocketAddr::from((ip, u16::from_be(v4.sin_port)));
    }
    let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
    let port = u16::from_be(name.sin6_port);
    match ip.to_ipv4_mapped() {
        Some(v4) => SocketAddr::from((v4, port)),
        None => SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into(),
    }
}

/// What the kernel tells beside a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Told {
    /// The segment size of a GRO train.
    segment: Option<usize>,
    ecn: u8,
    /// The host's address it came to, if it is one to send from.
    local: Option<IpAddr>,
}

/// Reads control messages without trusting their lengths; what makes no sense ends the reading.
fn read_control(mut control: &[u8]) -> Told {
    let mut told = Told::default();
    while let Some((level, kind, value, rest)) = next_cmsg(control) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = value.first_chunk().map(|v| i32::from_ne_bytes(*v));
                told.segment = size.and_then(|s| usize::try_from(s).ok());
            }
            // One byte of TOS, but a whole int of traffic class.
            (libc::IPPROTO_IP, libc::IP_TOS) => told.ecn = value.first().map_or(0, |tos| tos & ECN),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                let class = value.first_chunk().map_or(0, |v| i32::from_ne_bytes(*v));
                told.ecn = class.to_le_bytes()[0] & ECN;
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ip = value.get(4..8).and_then(|ip| ip.first_chunk::<4>());
                told.local = ip.map(|ip| IpAddr::from(*ip)).filter(is_unicast);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip = value.first_chunk::<16>();
                told.local = ip.map(|ip| IpAddr::from(*ip).to_canonical()).filter(is_unicast);
            }
            _ => {}
        }
        control = rest;
    }
    told
}

fn is_unicast(ip: &IpAddr) -> bool {
    !ip.is_multicast() && !ip.is_unspecified() && *ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Level, type and value of the first control message, and what follows it.
fn next_cmsg(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    const WORD: usize = size_of::<usize>();
    let header = control.get(..HEADER)?;
    let len = usize::from_ne_bytes(*header.first_chunk()?);
    let level = i32::from_ne_bytes(header[WORD..WORD + 4].try_into().ok()?);
    let kind = i32::from_ne_bytes(header[WORD + 4..WORD + 8].try_into().ok()?);
    let value = control.get(HEADER..len)?;
    let rest = control.get(len.checked_next_multiple_of(WORD)?..).unwrap_or_default();
    Some((level, kind, value, rest))
}

/// `setsockopt` of an `int` option that socket2 does not know.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is a local i32 and its size is passed along; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_of_any_length_never_panic() {
        let mut control = ControlBuffer([0; CONTROL]);
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        let from = Some([127, 0, 0, 2].into());
        let options = SendOptions { segment: Some(1200), ttl: Some(3), tos: 2, from };
        let used = write_control(&mut control, to, options);
        assert_eq!(used, 104);
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 9));
        assert_eq!(write_control(&mut control, mapped, options), CONTROL);
        for cut in 0..CONTROL {
            read_control(&control.0[..cut]);
        }
        for byte in 0..8 {
            for bit in 0..8 {
                let mut flipped = control;
                flipped.0[byte] ^= 1 << bit;
                read_control(&flipped.0);
            }
        }
    }

    #[test]
    fn a_source_is_asked_for_in_the_family_of_the_destination() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        for (to, from, read) in [
            ("192.0.2.9:1", v4, Some(v4)),
            ("[::ffff:192.0.2.9]:1", v4, Some(v4)),
            ("[2001:db8::9]:1", v6, Some(v6)),
            ("[2001:db8::9]:1", v4, None),
            ("192.0.2.9:1", v6, None),
        ] {
            let mut control = [0; CONTROL];
            let used = put_source(&mut control, to.parse().unwrap(), from);
            assert_eq!(read_control(&control[..used]).local, read, "{to} from {from}");
        }
    }

    #[test]
    fn segment_size_and_ecn_are_read_in_either_order_and_family() {
        let mut gro = [0u8; 24];
        put_cmsg(&mut gro, libc::SOL_UDP, libc::UDP_GRO, &1412i32.to_ne_bytes());
        let (mut tos, mut class) = ([0u8; 24], [0u8; 24]);
        put_cmsg(&mut tos, libc::IPPROTO_IP, libc::IP_TOS, &[0xfb]);
        put_cmsg(&mut class, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0xb9i32.to_ne_bytes());
        assert_eq!(read_control(&[gro, tos].concat()), Told { segment: Some(1412), ecn: 3, local: None });
        assert_eq!(read_control(&[class, gro].concat()), Told { segment: Some(1412), ecn: 1, local: None });
        assert_eq!(read_control(&[]), Told::default());
    }
}
