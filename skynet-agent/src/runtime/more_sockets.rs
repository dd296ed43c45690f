//! Further sockets of worker 0: the ones opened to guess ports, of which the one that was hit stays as a path. Their
//! inbound half is worker 0's. There are none on most machines at most times, and then they cost nothing: the thread
//! waits for one descriptor more only while there are some.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use skynet_core::id::PortNo;

use crate::udp::UdpSocket;

/// Sockets looked at in one turn; the others are ready in the next.
const TURN: usize = 32;

/// Those that are open, and the descriptor that is readable when one of them is.
#[derive(Default)]
pub(super) struct MoreSockets {
    sockets: BTreeMap<PortNo, Arc<UdpSocket>>,
    epoll: Option<Epoll>,
}

impl MoreSockets {
    /// Adds one, or takes it away. One that cannot be watched is as good as not open: no guess comes in by it.
    pub(super) fn set(&mut self, port: PortNo, socket: Option<Arc<UdpSocket>>) {
        if let Some((epoll, old)) = self.epoll.as_ref().zip(self.sockets.remove(&port)) {
            let _ = epoll.delete(old.as_fd());
        }
        if let Some(socket) = socket {
            match self.watch(port, &socket) {
                Ok(()) => drop(self.sockets.insert(port, socket)),
                Err(e) => tracing::debug!(port = port.0, %e, "socket for guessing not watched"),
            }
        }
        if self.sockets.is_empty() {
            self.epoll = None;
        }
    }

    fn watch(&mut self, port: PortNo, socket: &UdpSocket) -> io::Result<()> {
        if self.epoll.is_none() {
            self.epoll = Some(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        }
        let Some(epoll) = &self.epoll else { return Ok(()) };
        Ok(epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, port.0.into()))?)
    }

    /// Readable when one of them is; none if there are none.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.0.as_fd())
    }

    /// Those that can be read now.
    pub(super) fn ready(&self) -> impl Iterator<Item = PortNo> + use<> {
        let mut events = [EpollEvent::empty(); TURN];
        let n = self.epoll.as_ref().and_then(|e| e.wait(&mut events, EpollTimeout::ZERO).ok()).unwrap_or(0);
        events.into_iter().take(n).filter_map(|event| u8::try_from(event.data()).ok().map(PortNo))
    }

    /// One of them.
    pub(super) fn get(&self, port: PortNo) -> Option<Arc<UdpSocket>> {
        self.sockets.get(&port).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::UdpOffloads;

    #[test]
    fn a_socket_that_was_hit_is_ready_and_one_that_was_closed_is_not() {
        let bind = || Arc::new(UdpSocket::bind(0, UdpOffloads { gso: false, gro: false }).unwrap());
        let (mut more, sockets, sender) = (MoreSockets::default(), [bind(), bind()], bind());
        assert!(more.descriptor().is_none() && more.ready().next().is_none());
        for (port, socket) in (8..).zip(&sockets) {
            more.set(PortNo(port), Some(Arc::clone(socket)));
            let to = ([127, 0, 0, 1], socket.port().unwrap()).into();
            sender.send_one(to, None, b"guess", None).unwrap();
        }
        let numbers = |more: &MoreSockets| {
            let mut numbers: Vec<u8> = more.ready().map(|port| port.0).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(numbers(&more), [8, 9]);
        more.set(PortNo(8), None);
        assert_eq!(numbers(&more), [9]);
        more.set(PortNo(9), None);
        assert!(more.descriptor().is_none());
    }
}
