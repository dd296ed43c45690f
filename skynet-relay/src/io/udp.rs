//! UDP in batches: one system call receives up to [`BATCH`] datagrams, one sends what became of them.
//!
//! All memory is allocated once. A received datagram is changed and sent from where it was received; there is no copy.
//! The only `unsafe` of the relay is in this file.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::pktinfo::Control;
use crate::server::Local;

/// Datagrams per system call.
pub const BATCH: usize = 64;
/// Longest datagram, bytes: a jumbo frame. Longer ones are cut by the kernel and dropped here.
pub const MAX_DATAGRAM: usize = 9_216;
/// How long a receive waits, so that the caller sees its timers and a request to stop.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_millis(250);
/// Asked of the kernel for both directions; it gives what `net.core.rmem_max` allows.
const SOCKET_BUFFER: usize = 4 << 20;

/// A blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    v6: bool,
}

impl UdpSocket {
    /// Binds `addr`; an IPv6 wildcard also receives IPv4. On a wildcard the socket learns to which of the host's
    /// addresses each datagram came; bound to one address there is nothing to learn.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Less than asked for is not an error.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        never_fragment(&socket, addr.is_ipv6())?;
        if addr.ip().is_unspecified() {
            // Before the bind: nothing may arrive that does not tell.
            tell_local(&socket, addr.is_ipv6())?;
        }
        socket.bind(&addr.into())?;
        Ok(Self { socket, v6: addr.is_ipv6() })
    }

    /// The address bound.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Receives at least one datagram into `batch` and returns how many; 0 after [`RECEIVE_TIMEOUT`].
    ///
    /// # Errors
    /// As `recvmmsg(2)`, timeouts and interruptions excepted.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        let mut headers = batch.headers(MAX_DATAGRAM);
        // SAFETY: the headers point into `batch`, which outlives the call, and say how long each buffer is.
        let n = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            batch.received = 0;
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                // An earlier datagram of ours met a closed port: nobody's error.
                io::ErrorKind::ConnectionRefused => Ok(0),
                _ => Err(error),
            };
        }
        batch.received = n as usize;
        for (slot, header) in headers.iter().take(batch.received).enumerate() {
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            batch.lens[slot] = if cut { 0 } else { header.msg_len as usize };
            batch.locals[slot] = batch.controls[slot].local(header.msg_hdr.msg_controllen);
            batch.outgoing[slot] = false;
        }
        Ok(batch.received)
    }

    /// Sends the slots marked by [`Batch::send_to`]; returns how many left. A datagram the kernel refuses is skipped.
    pub fn send(&self, batch: &mut Batch) -> usize {
        let mut chosen = [0usize; BATCH];
        let mut count = 0;
        for slot in 0..batch.received {
            if batch.outgoing[slot] {
                chosen[count] = slot;
                count += 1;
            }
        }
        let all = batch.headers(0);
        // SAFETY: mmsghdr is a C structure for which all zero bytes are a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for (header, &slot) in headers.iter_mut().zip(&chosen[..count]) {
            *header = all[slot];
        }
        let (mut done, mut sent) = (0, 0);
        while done < count {
            // SAFETY: `done < count ≤ BATCH` headers follow; they point into `batch`, which outlives the call.
            let n = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    headers.as_mut_ptr().add(done),
                    (count - done) as u32,
                    0,
                )
            };
            if n > 0 {
                sent += n as usize;
                done += n as usize;
            } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                done += 1;
            }
        }
        sent
    }

    fn native(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if self.v6 => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            to => to,
        }
    }
}

/// Has every datagram received say which address it came to.
fn tell_local(socket: &Socket, v6: bool) -> io::Result<()> {
    let (level, option) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    set_option(socket, level, option, 1)
}

/// No datagram is fragmented on its way, by whatever ICMP says: what passes by this relay is for its users to find out.
fn never_fragment(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is a local int and its size is passed along; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Buffers, lengths and addresses of up to [`BATCH`] datagrams.
pub struct Batch {
    bytes: Box<[u8]>,
    lens: [usize; BATCH],
    names: Box<[libc::sockaddr_storage; BATCH]>,
    controls: Box<[Control; BATCH]>,
    /// Bytes of each control message to send.
    control_lens: [usize; BATCH],
    locals: [Local; BATCH],
    vectors: Box<[libc::iovec; BATCH]>,
    outgoing: [bool; BATCH],
    received: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch; all its memory is reserved here.
    pub fn new() -> Self {
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: sockaddr_storage is a C structure for which all zero bytes are a value.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            bytes: vec![0; BATCH * MAX_DATAGRAM].into_boxed_slice(),
            lens: [0; BATCH],
            names: Box::new([name; BATCH]),
            controls: Box::new([Control::EMPTY; BATCH]),
            control_lens: [0; BATCH],
            locals: [Local::ANY; BATCH],
            vectors: Box::new([vector; BATCH]),
            outgoing: [false; BATCH],
            received: 0,
        }
    }

    /// The datagram in `slot`, to which address it came and from where; `None` if it was cut or its family is unknown.
    pub fn datagram(&mut self, slot: usize) -> Option<(Local, SocketAddr, &mut [u8])> {
        let from = read_name(&self.names[slot])?;
        let len = self.lens[slot];
        let start = slot * MAX_DATAGRAM;
        (len > 0).then(|| (self.locals[slot], from, &mut self.bytes[start..start + len]))
    }

    /// Marks `slot` to be sent: its first `len` bytes, from one address to another, or back the way it came.
    pub fn send_to(
        &mut self,
        slot: usize,
        len: usize,
        ends: Option<(Local, SocketAddr)>,
        socket: &UdpSocket,
    ) {
        let mut local = self.locals[slot];
        if let Some((from, to)) = ends {
            local = from;
            write_name(&mut self.names[slot], socket.native(to));
        }
        self.control_lens[slot] = self.controls[slot].set(local, socket.v6);
        self.lens[slot] = len.min(MAX_DATAGRAM);
        self.outgoing[slot] = true;
    }

    /// Headers over all slots: with `capacity` bytes each for receiving, with their own lengths if it is 0.
    fn headers(&mut self, capacity: usize) -> [libc::mmsghdr; BATCH] {
        // SAFETY: mmsghdr is a C structure for which all zero bytes are a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for (slot, header) in headers.iter_mut().enumerate() {
            let start = slot * MAX_DATAGRAM;
            let buffer = &mut self.bytes[start..start + MAX_DATAGRAM];
            let receiving = capacity > 0;
            self.vectors[slot].iov_base = buffer.as_mut_ptr().cast();
            self.vectors[slot].iov_len = if receiving { capacity } else { self.lens[slot] };
            header.msg_hdr.msg_iov = &mut self.vectors[slot];
            header.msg_hdr.msg_iovlen = 1;
            let control_len = if receiving { Control::SIZE } else { self.control_lens[slot] };
            if control_len > 0 {
                header.msg_hdr.msg_control = (&raw mut self.controls[slot]).cast();
                header.msg_hdr.msg_controllen = control_len;
            }
            header.msg_hdr.msg_name = (&raw mut self.names[slot]).cast();
            header.msg_hdr.msg_namelen = if receiving {
                size_of::<libc::sockaddr_storage>() as libc::socklen_t
            } else {
                name_len(&self.names[slot])
            };
        }
        headers
    }
}

fn name_len(name: &libc::sockaddr_storage) -> libc::socklen_t {
    if i32::from(name.ss_family) == libc::AF_INET6 {
        size_of::<libc::sockaddr_in6>() as libc::socklen_t
    } else {
        size_of::<libc::sockaddr_in>() as libc::socklen_t
    }
}

fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage is as large and as aligned as any socket address; the family says which it is.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn write_name(name: &mut libc::sockaddr_storage, addr: SocketAddr) {
    match addr {
        SocketAddr::V4(a) => {
            // SAFETY: sockaddr_storage is as large and as aligned as any socket address; zero bytes are a value of it.
            let v4 = unsafe {
                *name = mem::zeroed();
                &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_in>()
            };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = a.port().to_be();
            v4.sin_addr.s_addr = u32::from(*a.ip()).to_be();
        }
        SocketAddr::V6(a) => {
            // SAFETY: as above.
            let v6 = unsafe {
                *name = mem::zeroed();
                &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_in6>()
            };
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = a.port().to_be();
            v6.sin6_addr.s6_addr = a.ip().octets();
            v6.sin6_scope_id = a.scope_id();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_out_from_where_they_came_in() {
        let relay = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = relay.local_addr().unwrap();
        let a = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let b = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for i in 0..10u8 {
            a.send_to(&vec![i; 100 + usize::from(i)], to).unwrap();
        }
        let (mut batch, mut got) = (Batch::new(), 0);
        while got < 10 {
            let n = relay.receive(&mut batch).unwrap();
            for slot in 0..n {
                let (local, from, bytes) = batch.datagram(slot).unwrap();
                assert_eq!((local, from), (Local::ANY, a.local_addr().unwrap()));
                let (len, first) = (bytes.len(), bytes[0]);
                assert_eq!(len, 100 + usize::from(first));
                let target = (first % 2 == 0).then(|| (Local::ANY, b.local_addr().unwrap()));
                batch.send_to(slot, len, target, &relay);
            }
            assert_eq!(relay.send(&mut batch), n);
            got += n;
        }
        let mut buffer = [0; 300];
        for socket in [&a, &b] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for _ in 0..5 {
                let (len, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((len, from), (100 + usize::from(buffer[0]), to));
            }
        }
    }

    #[test]
    fn a_source_the_host_no_longer_has_costs_only_its_own_datagram() {
        for (listen, gone) in
            [("0.0.0.0:0", "203.0.113.9"), ("[::]:0", "203.0.113.9"), ("[::]:0", "2001:db8::9")]
        {
            let relay = UdpSocket::bind(listen.parse().unwrap()).unwrap();
            let port = relay.local_addr().unwrap().port();
            let host = if gone.contains(':') { "::1" } else { "127.0.0.1" };
            let client = std::net::UdpSocket::bind((host, 0)).unwrap();
            for i in 0..4u8 {
                client.send_to(&[i], (host, port)).unwrap();
            }
            let mut batch = Batch::new();
            assert_eq!(relay.receive(&mut batch).unwrap(), 4);
            for slot in 0..4 {
                let (local, from, _) = batch.datagram(slot).unwrap();
                let local = if slot % 2 == 0 { Local(gone.parse().unwrap()) } else { local };
                batch.send_to(slot, 1, Some((local, from)), &relay);
            }
            assert_eq!(relay.send(&mut batch), 2, "{gone} on {listen}");
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 9];
            for expected in [1, 3] {
                client.recv(&mut buffer).unwrap();
                assert_eq!(buffer[0], expected);
            }
        }
    }

    #[test]
    fn an_ipv6_socket_serves_both_families() {
        let relay = UdpSocket::bind("[::]:0".parse().unwrap()).unwrap();
        let port = relay.local_addr().unwrap().port();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        let mut batch = Batch::new();
        assert_eq!(relay.receive(&mut batch).unwrap(), 1);
        let (local, canonical, _) = batch.datagram(0).unwrap();
        assert_eq!(local, Local(Ipv4Addr::LOCALHOST.into()));
        let canonical = SocketAddr::new(canonical.ip().to_canonical(), canonical.port());
        batch.send_to(0, 5, Some((local, canonical)), &relay);
        assert_eq!(relay.send(&mut batch), 1);
        assert_eq!(client.recv(&mut [0; 9]).unwrap(), 5);
    }
}
