//! UDP in trains: one system call receives up to 128 of them (`UDP_GRO`), one sends what became of them
//! (`UDP_SEGMENT`).
//!
//! What costs is a datagram's way through the kernel, not its bytes: a train goes that way once. Where the kernel does not
//! take trains, the same datagrams leave one by one. The `unsafe` of the relay is in this file, in `steer.rs` and in
//! `sockaddr.rs`.

use std::io;
use std::mem;
use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

pub use super::batch::{Batch, MAX_DATAGRAM, Train};
use super::batch::{RUNS, Run, SLOTS};
use super::cmsg::Control;
use super::sockaddr::{name_len, read_name, write_name};

/// How long a receive waits, so that the caller sees its timers and a request to stop.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_millis(RECEIVE_TIMEOUT_MS as u64);
pub(super) const RECEIVE_TIMEOUT_MS: u8 = 250;
/// Asked of the kernel for both directions: 10 ms at 3 Gbit/s.
const SOCKET_BUFFER: libc::c_int = 4 << 20;

/// The highest that needs no privilege (socket(7)).
const PRIORITY: libc::c_int = 6;

/// What SO_MEMINFO tells (linux/sock_diag.h), and where in it what was thrown away is.
const MEMINFO_WORDS: usize = 9;
const MEMINFO_DROPS: usize = 8;

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
        Self::open(addr, false)
    }

    /// Binds one more socket to an address whose sockets [share](Self::share_port) it.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub(super) fn bind_shared(addr: SocketAddr) -> io::Result<Self> {
        Self::open(addr, true)
    }

    /// Others of this process's user may be bound to the same port from now on.
    pub(super) fn share_port(&self) -> io::Result<()> {
        self.socket.set_reuse_port(true)
    }

    /// What is sent here is ahead of other traffic in the queues of this host that know priorities.
    pub(super) fn send_first(&self) -> io::Result<()> {
        set_option(&self.socket, libc::SOL_SOCKET, libc::SO_PRIORITY, PRIORITY)
    }

    fn open(addr: SocketAddr, shares_its_port: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // The privileged options pass the machine's limit; without the privilege the limit decides.
        for (forced, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            let _ = set_option(&socket, libc::SOL_SOCKET, forced, SOCKET_BUFFER)
                .or_else(|_| set_option(&socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER));
        }
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        if addr.ip().is_unspecified() {
            // Before the bind: nothing may arrive that does not tell.
            let (level, option) = if addr.is_ipv6() {
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
            } else {
                (libc::IPPROTO_IP, libc::IP_PKTINFO)
            };
            set_option(&socket, level, option, 1)?;
        }
        never_fragment(&socket, addr.is_ipv6())?;
        if let Err(error) = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1) {
            debug!(%error, "the kernel does not join datagrams on receive");
        }
        socket.set_reuse_port(shares_its_port)?;
        socket.bind(&addr.into())?;
        Ok(Self { socket, v6: addr.is_ipv6() })
    }

    /// The same socket once more, for another thread to send by.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, v6: self.v6 })
    }

    /// The address bound.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Bytes of datagrams that may wait here, as far as the machine allows what was asked for; `None` if it allows all.
    pub fn small_buffer(&self) -> Option<usize> {
        // The kernel counts what it keeps of a datagram beside its bytes, and so doubles what was asked.
        self.socket
            .recv_buffer_size()
            .ok()
            .map(|bytes| bytes / 2)
            .filter(|bytes| *bytes < SOCKET_BUFFER as usize)
    }

    /// Receives at least one datagram into `batch` and returns how many slots were filled; 0 after [`RECEIVE_TIMEOUT`].
    ///
    /// # Errors
    /// As `recvmmsg(2)`, timeouts and interruptions excepted.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        self.receive_with(batch, libc::MSG_WAITFORONE)
    }

    /// Receives what is there.
    pub(super) fn receive_now(&self, batch: &mut Batch) -> io::Result<usize> {
        self.receive_with(batch, libc::MSG_DONTWAIT)
    }

    fn receive_with(&self, batch: &mut Batch, flags: libc::c_int) -> io::Result<usize> {
        batch.received = 0;
        let wanted = batch.wanted;
        // SAFETY: iovec and mmsghdr are C structures for which all zero bytes are a value.
        let (mut vectors, mut headers): ([libc::iovec; SLOTS], [libc::mmsghdr; SLOTS]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for (i, (vector, header)) in vectors.iter_mut().zip(&mut headers).take(wanted).enumerate() {
            let bytes = batch.slot_mut(i);
            *vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let slot = &mut batch.slots[i];
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut slot.control).cast();
            header.msg_hdr.msg_controllen = Control::SIZE;
            header.msg_hdr.msg_name = (&raw mut slot.name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: the headers point into `batch` and `vectors`, which outlive the call, and say how long each buffer is.
        let n = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                wanted as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        if n < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                // An earlier datagram of ours met a closed port: nobody's error.
                io::ErrorKind::ConnectionRefused => Ok(0),
                _ => Err(error),
            };
        }
        for (slot, header) in batch.slots.iter_mut().zip(&headers).take(n as usize) {
            let told = slot.control.read(header.msg_hdr.msg_controllen);
            let train = |from| Train::new(told.local, from, header.msg_len as usize, told.segment);
            slot.train = read_name(&slot.name).filter(|_| header.msg_len > 0).map(train);
        }
        batch.filled(n as usize);
        Ok(batch.received)
    }

    /// How many datagrams the kernel has thrown away because nobody came to receive them, since the socket was opened.
    ///
    /// # Errors
    /// As `getsockopt(2)`.
    pub fn overflowed(&self) -> io::Result<u32> {
        let mut info = [0u32; MEMINFO_WORDS];
        let mut len = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, which is the size of the array, and says how many.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(info[MEMINFO_DROPS]) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends and forgets all runs of `batch`; how many datagrams did not leave because the kernel refused them.
    pub fn send(&self, batch: &mut Batch) -> u64 {
        let mut refused = 0;
        let mut done = 0;
        while done < batch.runs().len() {
            let error = match self.send_runs(batch, done) {
                Ok(sent) => {
                    done += sent;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let run = &batch.runs()[done];
            let segmented = run.datagrams > 1;
            let lost = if segmented { self.send_one_by_one(batch, run) } else { 1 };
            // Also the answer to datagrams above the device's MTU: only a run whose datagrams go out one by one proves
            // that it is segmentation that does not work.
            if segmented && lost == 0 && matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) {
                warn!(%error, "the kernel refuses trains; sending datagram by datagram from now on");
                batch.joins = false;
            }
            refused += lost;
            done += 1;
        }
        batch.clear_runs();
        refused
    }

    /// Sends runs from number `first` on by one system call: how many left, or why the first did not.
    fn send_runs(&self, batch: &Batch, first: usize) -> io::Result<usize> {
        let runs = &batch.runs()[first..];
        // SAFETY: mmsghdr is a C structure for which all zero bytes are a value.
        let mut headers: [libc::mmsghdr; RUNS] = unsafe { mem::zeroed() };
        let mut names = [super::sockaddr::empty(); RUNS];
        let mut controls = [Control::EMPTY; RUNS];
        let mut vectors = Vectors::new();
        for (i, run) in runs.iter().enumerate() {
            write_name(&mut names[i], self.native(run.to));
            let segment = (run.datagrams > 1).then_some(run.segment as u16);
            let control_len = controls[i].write(run.local, self.v6, segment);
            let Some(pieces) = vectors.add(batch, run) else {
                return self.send_headers(&mut headers[..i]);
            };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = name_len(&names[i]);
            (header.msg_iov, header.msg_iovlen) = pieces;
            if control_len > 0 {
                header.msg_control = (&raw mut controls[i]).cast();
                header.msg_controllen = control_len;
            }
        }
        self.send_headers(&mut headers[..runs.len()])
    }

    fn send_headers(&self, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
        // SAFETY: every header points to a name, a control message and vectors that its maker keeps alive for this call,
        // and the vectors into the batch.
        let n =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the datagrams of a refused run; how many were refused again.
    fn send_one_by_one(&self, batch: &Batch, run: &Run) -> u64 {
        let mut name = super::sockaddr::empty();
        write_name(&mut name, self.native(run.to));
        let mut control = Control::EMPTY;
        let control_len = control.write(run.local, self.v6, None);
        let mut refused = 0;
        for at in run.datagrams() {
            let bytes = batch.piece(at);
            let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: msghdr is a C structure for which all zero bytes are a value.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_name = (&raw mut name).cast();
            header.msg_namelen = name_len(&name);
            (header.msg_iov, header.msg_iovlen) = (&raw mut vector, 1);
            if control_len > 0 {
                header.msg_control = (&raw mut control).cast();
                header.msg_controllen = control_len;
            }
            // SAFETY: the header points to locals and into the batch, all of which outlive the call; the kernel reads.
            refused += u64::from(unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const header, 0) } < 0);
        }
        refused
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

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The pieces of all runs of one system call.
struct Vectors {
    vectors: [libc::iovec; Self::MOST],
    used: usize,
}

impl Vectors {
    /// Four for each run; whoever needs more sends in two calls.
    const MOST: usize = 4 * RUNS;

    fn new() -> Self {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self { vectors: [none; Self::MOST], used: 0 }
    }

    /// Those of one run; `None` if there is no room.
    fn add(&mut self, batch: &Batch, run: &Run) -> Option<(*mut libc::iovec, usize)> {
        let room = self.vectors.get_mut(self.used..self.used + run.pieces.len())?;
        for (vector, piece) in room.iter_mut().zip(&run.pieces) {
            let bytes = batch.piece(piece.clone());
            // The kernel only reads what is to be sent.
            *vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        }
        self.used += run.pieces.len();
        Some((room.as_mut_ptr(), run.pieces.len()))
    }
}

/// No datagram is fragmented on its way, by whatever ICMP says: what passes by this relay is for its users to find out.
fn never_fragment(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

fn set_option(socket: &Socket, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
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

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
