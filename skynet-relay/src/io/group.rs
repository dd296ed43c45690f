//! The sockets of the relay's port: two for each forwarding thread, so that control never waits behind bulk, in the
//! kernel's buffers no more than here.
//!
//! ```text
//!                    ┌─▶ control ─ first ─┐
//!   kernel ─ steer ──┤                    ├─▶ thread        the same for every thread; all have one port
//!                    └─▶ bulk ────────────┘
//! ```
//! A buffer that is full of one member's bulk has the kernel throw away what comes next, whatever it is: sessions would
//! end because others send. Where the kernel takes no program, a thread has one socket for both.

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use skynet_core::rng::RngCore as _;

use super::steer;
use super::udp::{RECEIVE_TIMEOUT_MS, UdpSocket};
use crate::clock::os_rng;

/// What the kernel calls the sockets of a thread.
const CONTROL: u64 = 0;
const BULK: u64 = 1;

/// What one thread receives and sends by.
#[derive(Debug)]
pub struct ThreadSockets {
    bulk: UdpSocket,
    control: Option<UdpSocket>,
    /// Both. `poll(2)` would take twice the time, for it looks at each anew.
    ready: Epoll,
}

impl ThreadSockets {
    /// Two sockets for each of `threads`, at least one, bound to one address; and whether the kernel tells control from
    /// bulk: if not, there is one each. All datagrams of a client's port come to the same thread.
    ///
    /// The first is bound as if it were the only one, so a port that another process has is still refused.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn bind(addr: SocketAddr, threads: usize) -> io::Result<(Vec<Self>, io::Result<()>)> {
        let bulk = Self::bind_bulk(addr, threads)?;
        let (control, is_steered) = match Self::bind_control(&bulk) {
            Ok(control) => (control, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        Ok((Self::pair(bulk, control)?, is_steered))
    }

    fn bind_bulk(addr: SocketAddr, threads: usize) -> io::Result<Vec<UdpSocket>> {
        let first = UdpSocket::bind(addr)?;
        let addr = first.local_addr()?;
        first.share_port()?;
        let others = (1..threads).map(|_| UdpSocket::bind_shared(addr));
        [Ok(first)].into_iter().chain(others).collect()
    }

    /// As many for control, which the kernel numbers behind those for bulk: it goes by the order of binding.
    fn bind_control(bulk: &[UdpSocket]) -> io::Result<Vec<UdpSocket>> {
        let addr = bulk[0].local_addr()?;
        let control = bulk.iter().map(|_| UdpSocket::bind_shared(addr)).collect::<io::Result<Vec<_>>>()?;
        control.iter().try_for_each(UdpSocket::send_first)?;
        let mut rng = os_rng()?;
        steer::attach(&bulk[0], bulk.len(), [(); 4].map(|()| rng.next_u32() | 1))?;
        Ok(control)
    }

    fn pair(bulk: Vec<UdpSocket>, control: Vec<UdpSocket>) -> io::Result<Vec<Self>> {
        let mut control = control.into_iter();
        bulk.into_iter().map(|bulk| Self::of(bulk, control.next())).collect()
    }

    fn of(bulk: UdpSocket, control: Option<UdpSocket>) -> io::Result<Self> {
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        ready.add(&bulk, EpollEvent::new(EpollFlags::EPOLLIN, BULK))?;
        if let Some(control) = &control {
            ready.add(control, EpollEvent::new(EpollFlags::EPOLLIN, CONTROL))?;
        }
        Ok(Self { bulk, control, ready })
    }

    /// Waits until something has come, and where it is: first the socket for control, then the one for bulk. Nowhere after
    /// [`RECEIVE_TIMEOUT_MS`].
    ///
    /// # Errors
    /// As `epoll_wait(2)`, interruptions excepted.
    pub(super) fn wait(&self) -> io::Result<[Option<&UdpSocket>; 2]> {
        let mut events = [EpollEvent::empty(); 2];
        let ready = match self.ready.wait(&mut events, RECEIVE_TIMEOUT_MS) {
            Ok(n) => &events[..n],
            Err(Errno::EINTR) => &[],
            Err(error) => return Err(error.into()),
        };
        let is_ready = |which: u64| ready.iter().any(|event| event.data() == which);
        Ok([self.control.as_ref().filter(|_| is_ready(CONTROL)), Some(&self.bulk).filter(|_| is_ready(BULK))])
    }

    /// How many datagrams the kernel has thrown away because nobody came to receive them: bulk, and control.
    ///
    /// # Errors
    /// As `getsockopt(2)`.
    pub(super) fn overflowed(&self) -> io::Result<[u32; 2]> {
        Ok([self.bulk.overflowed()?, self.control.as_ref().map_or(Ok(0), UdpSocket::overflowed)?])
    }

    /// Whether control has a socket of its own.
    pub(super) fn are_apart(&self) -> bool {
        self.control.is_some()
    }

    /// The socket that bulk comes to, which sends as well as any.
    pub fn bulk(&self) -> &UdpSocket {
        &self.bulk
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
