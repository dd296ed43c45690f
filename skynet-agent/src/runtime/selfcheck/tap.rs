//! The host's side of an interface: a packet socket that sees every packet with its virtio header and can send such.
//! Nothing above the interface takes part: no routes, no firewall, no connection tracking (packet(7)).

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::PATIENCE;
use super::pattern::Framed;
use crate::udp::set_option;

/// Every protocol, as `bind` wants it.
const ETH_P_ALL: u16 = 0x0003;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// The largest super-packet and its header.
const BUFFER: usize = (1 << 16) + 64;

/// An open tap. Needs CAP_NET_RAW.
pub(super) struct Tap {
    socket: Socket,
    index: i32,
    buffer: Vec<u8>,
}

impl Tap {
    /// On the interface with this index.
    pub(super) fn open(index: u32) -> io::Result<Self> {
        let index = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // Protocol 0: nothing arrives before the socket is bound to the interface.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address(index, ETH_P_ALL))?;
        Ok(Self { socket, index, buffer: vec![0; BUFFER] })
    }

    /// Towards the interface, as if the host's stack had sent it.
    pub(super) fn transmit(&mut self, framed: &Framed) -> io::Result<()> {
        let is_v4 = framed.packet.first().is_some_and(|b| b >> 4 == 4);
        let to = address(self.index, if is_v4 { ETH_P_IP } else { ETH_P_IPV6 });
        self.socket.send_to(&framed.bytes(), &to).map(drop)
    }

    /// The next packet that passed, waited for at most [`PATIENCE`].
    pub(super) fn next(&mut self) -> Option<Framed> {
        wait(self.socket.as_fd());
        let len = (&self.socket).read(&mut self.buffer).ok()?;
        // One that cannot be parsed is none of ours, but is no end either.
        Some(Framed::parse(&self.buffer[..len]).unwrap_or_default())
    }
}

/// Waits until `fd` is readable, at most [`PATIENCE`].
pub(super) fn wait(fd: BorrowedFd<'_>) {
    // An error or a signal shortens the wait.
    let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(PATIENCE));
}

/// A link-layer address: the interface and the protocol; a TUN device has nothing else.
fn address(index: i32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data, no larger and no more aligned than the storage, and begins with the family.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = index;
    // SAFETY: the storage holds a whole sockaddr_ll, written just now.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
