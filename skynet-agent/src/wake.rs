//! Waking a data-plane thread out of `poll`: an eventfd it waits on beside its own descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A level-triggered wake-up: any number of [`Waker::wake`] before the sleeper looks count as one.
pub struct Waker(EventFd);

impl Waker {
    /// A waker nobody has called yet.
    ///
    /// # Errors
    /// The kernel's: out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }

    /// Ends the current or the next wait. Never blocks.
    pub fn wake(&self) {
        // The only error is a counter at its maximum, and then the sleeper is being woken anyway.
        let _ = self.0.write(1);
    }

    /// Waits until `sink` is writable or `source` readable, at most so long: whether `sink` is. Nobody can wake this wait.
    ///
    /// # Errors
    /// The kernel's, except interruption by a signal, which ends it early.
    pub fn wait_writable(
        sink: BorrowedFd<'_>,
        source: BorrowedFd<'_>,
        at_most: std::time::Duration,
    ) -> io::Result<bool> {
        let mut fds = [PollFd::new(sink, PollFlags::POLLOUT), PollFd::new(source, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(fds[0].revents().is_some_and(|r| !r.is_empty())),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until one of `fds`, three at most, is readable or somebody wakes. Whether somebody did; a wake-up is consumed.
    /// A broken descriptor ends the wait too: the next call on it tells.
    ///
    /// # Errors
    /// The kernel's, except interruption by a signal, which is waited out.
    pub fn wait_readable(&self, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let on = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let own = self.0.as_fd();
        // Places that are not needed wait for the waker once more.
        let place = |i: usize| on(fds.get(i).copied().unwrap_or(own));
        let mut polled = [on(own), place(0), place(1), place(2)];
        let polled = &mut polled[..(fds.len() + 1).min(4)];
        loop {
            match poll(polled, PollTimeout::NONE) {
                Ok(_) => break,
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let woken = polled[0].revents().is_some_and(|r| !r.is_empty());
        if woken {
            let _ = self.0.read();
        }
        Ok(woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_wait_is_not_lost_and_counts_once() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.wake();
        assert!(waker.wait_readable(&[reader.as_fd()]).unwrap());
        nix::unistd::write(&writer, b"x").unwrap();
        assert!(!waker.wait_readable(&[reader.as_fd()]).unwrap());
    }

    #[test]
    fn a_closed_descriptor_ends_the_wait() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(writer);
        assert!(!Waker::new().unwrap().wait_readable(&[reader.as_fd()]).unwrap());
    }
}
