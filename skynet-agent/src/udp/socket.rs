//! [`UdpSocket`]: options, segmentation offload with its fall-back, and the receive batch.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::sys::{self, Filled, ReceiveBuffers, SendOptions};
use super::train::{SendMessage, Trains};

/// Kernel buffer asked for in each direction: about 10 ms at 5 Gbit/s, so a worker that was descheduled for a
/// slice loses nothing.
const BUFFER_BYTES: i32 = 8 << 20;
/// What is taken if 8 MiB is refused.
const BUFFER_BYTES_SMALL: usize = 4 << 20;
/// How long a send waits for a full socket buffer before its datagrams are dropped. Waiting is the back-pressure: packets
/// stay in the TUN queue, where a drop costs no encryption.
pub const SEND_WAIT: Duration = Duration::from_millis(100);
/// Receive buffers per batch. Each may hold a whole GRO train, so eight are as good as more (measured).
const RECEIVE_COUNT: usize = 8;
/// One GRO train is at most 64 KiB.
const RECEIVE_SIZE: usize = 1 << 16;

/// Segmentation offloads of the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpOffloads {
    /// `UDP_SEGMENT`: one system call sends a train of datagrams.
    pub gso: bool,
    /// `UDP_GRO`: one buffer receives a train of datagrams.
    pub gro: bool,
}

impl UdpOffloads {
    /// All of them: the default.
    pub const ALL: Self = Self { gso: true, gro: true };
}

/// How one socket fares, or several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpFigures {
    /// What works with every one of them.
    pub offloads: UdpOffloads,
    /// See [`UdpSocket::dropped`].
    pub dropped: u64,
    /// See [`UdpSocket::refused_trains`].
    pub refused_trains: u64,
}

impl UdpFigures {
    /// Of no socket.
    pub const NONE: Self = Self { offloads: UdpOffloads::ALL, dropped: 0, refused_trains: 0 };

    /// Of this one.
    pub fn of(socket: &UdpSocket) -> Self {
        let (dropped, refused_trains) = (socket.dropped(), socket.refused_trains());
        Self { offloads: socket.offloads(), dropped, refused_trains }
    }

    /// Of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (a, b) = (self.offloads, other.offloads);
        Self {
            offloads: UdpOffloads { gso: a.gso && b.gso, gro: a.gro && b.gro },
            dropped: self.dropped + other.dropped,
            refused_trains: self.refused_trains + other.refused_trains,
        }
    }
}

/// Waits a bounded time for room in the buffer of a socket: whether there is any.
pub type Room<'a> = dyn FnMut(BorrowedFd<'_>) -> io::Result<bool> + 'a;

/// One UDP port: shared by the outbound and the inbound half of a worker and by the control task.
pub struct UdpSocket {
    socket: Socket,
    v6: bool,
    trains: Trains,
    /// `UDP_GRO` is on.
    coalescing: bool,
}

impl UdpSocket {
    /// Binds `port` (0: any) on all addresses: one dual-stack IPv6 socket, or IPv4 where IPv6 is off.
    ///
    /// # Errors
    /// The kernel's, with the port in the text, e.g. if it is in use.
    pub fn bind(port: u16, offloads: UdpOffloads) -> io::Result<Self> {
        let bound = Self::bind_v6(port, offloads).or_else(|e| match e.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPERM) => Self::bind_v4(port, offloads),
            _ => Err(e),
        });
        bound.map_err(|e| bind_error(port, &e))
    }

    fn bind_v6(port: u16, offloads: UdpOffloads) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        sys::set_option(
            socket.as_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )?;
        // Without it a CE mark on the way is lost; congestion then shows as loss, as it did without ECN.
        let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
        Self::finish(socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true, offloads)
    }

    fn bind_v4(port: u16, offloads: UdpOffloads) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        Self::finish(socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false, offloads)
    }

    fn finish(socket: Socket, local: SocketAddr, v6: bool, offloads: UdpOffloads) -> io::Result<Self> {
        // PROBE sets DF and ignores what ICMP claims about the path.
        sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        force_buffer(&socket, libc::SO_RCVBUFFORCE, Socket::set_recv_buffer_size);
        force_buffer(&socket, libc::SO_SNDBUFFORCE, Socket::set_send_buffer_size);
        let _ = sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
        let coalescing = offloads.gro
            && sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
                .inspect_err(|e| tracing::debug!(%e, "no receive coalescing on this kernel"))
                .is_ok();
        socket.set_nonblocking(true)?;
        socket.bind(&local.into())?;
        Ok(Self { socket, v6, trains: Trains::new(offloads.gso), coalescing })
    }

    /// The port the socket is bound to.
    ///
    /// # Errors
    /// The kernel's, if the socket is gone.
    pub fn port(&self) -> io::Result<u16> {
        let local = self.socket.local_addr()?;
        Ok(local.as_socket().map_or(0, |a| a.port()))
    }

    /// Whether the socket reaches IPv6 destinations.
    pub fn is_dual_stack(&self) -> bool {
        self.v6
    }

    /// Which offloads work now.
    pub fn offloads(&self) -> UdpOffloads {
        UdpOffloads { gso: self.trains.segments(), gro: self.coalescing }
    }

    /// Datagrams this socket could not send because its buffer stayed full or the kernel refused them.
    pub fn dropped(&self) -> u64 {
        self.trains.dropped()
    }

    /// Trains that the kernel refused although it took their datagrams one by one.
    pub fn refused_trains(&self) -> u64 {
        self.trains.refusals()
    }

    /// Sends `bytes` to `to` as datagrams of `segment` bytes each, the last one possibly shorter, all with the ECN field
    /// `ecn`: one `sendmsg` per 64 datagrams. Where segmentation is refused, the batch is sent again datagram by datagram and
    /// segmentation stays off for this socket.
    ///
    /// # Errors
    /// The first refused datagram's error; what could be sent was sent, the rest is counted in [`Self::dropped`].
    pub fn send_train(&self, to: SocketAddr, ecn: u8, bytes: &[u8], segment: usize) -> io::Result<()> {
        self.send_train_while(to, ecn, bytes, segment, &mut wait_for_room)
    }

    /// As [`Self::send_train`], with something to do while the socket's buffer is full: `room` waits for room, for a
    /// bounded time, and says whether there is any.
    ///
    /// # Errors
    /// As [`Self::send_train`], and those of `room`.
    pub fn send_train_while(
        &self,
        to: SocketAddr,
        ecn: u8,
        bytes: &[u8],
        segment: usize,
        room: &mut Room<'_>,
    ) -> io::Result<()> {
        let Some(to) = self.destination(to) else { return Err(no_ipv6()) };
        self.trains.send(&mut Leaf { socket: &self.socket, room }, to, ecn, bytes, segment)
    }

    /// Sends one datagram, with its own TTL (hop limit) if one is given.
    ///
    /// # Errors
    /// The kernel's; the datagram is then counted in [`Self::dropped`].
    pub fn send_one(&self, to: SocketAddr, bytes: &[u8], ttl: Option<u8>) -> io::Result<()> {
        let Some(to) = self.destination(to) else { return Err(no_ipv6()) };
        let options = SendOptions { ttl, ..SendOptions::default() };
        let mut leaf = Leaf { socket: &self.socket, room: &mut wait_for_room };
        self.trains.send_plain(&mut leaf, to, bytes, bytes.len().max(1), options)
    }

    /// `to` in the socket's own family.
    fn destination(&self, to: SocketAddr) -> Option<SocketAddr> {
        match (self.v6, to.ip()) {
            (true, IpAddr::V4(ip)) => Some(SocketAddr::from((ip.to_ipv6_mapped(), to.port()))),
            (true, IpAddr::V6(_)) | (false, IpAddr::V4(_)) => Some(to),
            (false, IpAddr::V6(ip)) => ip.to_ipv4_mapped().map(|v4| SocketAddr::from((v4, to.port()))),
        }
    }

    /// Receives what is there, without waiting: how many buffers of `batch` were filled, 0 if nothing was there.
    ///
    /// # Errors
    /// The kernel's; errors of single datagrams (ICMP) do not count.
    pub fn receive_batch(&self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        loop {
            match sys::receive(self.socket.as_fd(), &mut batch.0) {
                Ok(()) => return Ok(batch.0.filled.len()),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(0),
                    Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {}
                    _ => return Err(e),
                },
            }
        }
    }
}

/// A socket, and what to do while its buffer is full.
struct Leaf<'a> {
    socket: &'a Socket,
    room: &'a mut Room<'a>,
}

impl SendMessage for Leaf<'_> {
    fn send_message(&mut self, to: SocketAddr, bytes: &[u8], options: SendOptions) -> io::Result<()> {
        loop {
            match sys::send(self.socket.as_fd(), to, bytes, options) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !(self.room)(self.socket.as_fd())? {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Waits for room in the buffer of `socket`; false if it stays full for [`SEND_WAIT`].
///
/// # Errors
/// The kernel's.
pub fn wait_for_room(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::POLLOUT)];
    let wait = PollTimeout::try_from(SEND_WAIT).expect("a tenth of a second");
    match poll(&mut fds, wait) {
        Ok(0) => Ok(false),
        Ok(_) | Err(nix::Error::EINTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind_error(port: u16, e: &io::Error) -> io::Error {
    let cure = match e.kind() {
        io::ErrorKind::AddrInUse => "; the cure: stop what uses it, or choose another --port (0 for any)",
        _ => "",
    };
    io::Error::new(e.kind(), format!("UDP port {port}: {e}{cure}"))
}

fn no_ipv6() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "IPv6 is off on this machine")
}

/// The privileged option passes the machine's limit; without the privilege the limit decides.
fn force_buffer(socket: &Socket, option: i32, set: fn(&Socket, usize) -> io::Result<()>) {
    if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, option, BUFFER_BYTES).is_err() {
        // The kernel clamps to rmem_max or wmem_max instead of failing.
        if let Err(e) = set(socket, BUFFER_BYTES_SMALL) {
            tracing::debug!(%e, "socket buffer stays at the system's default");
        }
    }
}

/// Buffers of one receive call: 8 × 64 KiB, allocated once per inbound thread.
pub struct ReceiveBatch(ReceiveBuffers);

/// One received buffer: one datagram, or a train of datagrams of `stride` bytes from one sender.
pub struct Received<'a> {
    /// The sender, never v4-mapped.
    pub from: SocketAddr,
    /// The whole buffer; may be empty (an empty datagram is legal).
    pub bytes: &'a mut [u8],
    /// Bytes per datagram; the last may be shorter. Never 0.
    pub stride: usize,
    /// The ECN field of the outer IP header (RFC 3168 §5).
    pub ecn: u8,
}

impl ReceiveBatch {
    /// Allocates the buffers.
    pub fn new() -> Self {
        Self(ReceiveBuffers::new(RECEIVE_COUNT, RECEIVE_SIZE))
    }

    /// What the last [`UdpSocket::receive_batch`] filled, in order of arrival.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Received<'_>> {
        let (buffers, filled) = self.0.buffers_mut();
        buffers.zip(filled).map(|(buffer, &Filled { from, len, stride, ecn })| Received {
            from,
            bytes: &mut buffer[..len],
            stride,
            ecn,
        })
    }
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// The single datagrams of a train.
pub fn segments_mut<'a>(received: &'a mut Received<'_>) -> impl Iterator<Item = &'a mut [u8]> {
    received.bytes.chunks_mut(received.stride)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
