//! Waking a data-plane thread out of `poll`: an eventfd it waits on beside its own descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A level-triggered wake-up: any number of [`Waker::wake`] before the sleeper looks count as one.
pub struct Waker(EventFd);

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Woken {
    /// The descriptor waited for is ready, or broken: the next call on it tells.
    pub ready: bool,
    /// Somebody called [`Waker::wake`].
    pub waker: bool,
}

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

    /// Waits until `fd` is readable or somebody wakes; a wake-up is consumed.
    ///
    /// # Errors
    /// The kernel's, except interruption by a signal, which is waited out.
    pub fn wait_readable(&self, fd: BorrowedFd<'_>) -> io::Result<Woken> {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => break,
                Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let fired = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        let woken = Woken { ready: fired(&fds[0]), waker: fired(&fds[1]) };
        if woken.waker {
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
        assert_eq!(waker.wait_readable(reader.as_fd()).unwrap(), Woken { ready: false, waker: true });
        nix::unistd::write(&writer, b"x").unwrap();
        assert_eq!(waker.wait_readable(reader.as_fd()).unwrap(), Woken { ready: true, waker: false });
    }

    #[test]
    fn a_closed_descriptor_ends_the_wait() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(writer);
        assert!(Waker::new().unwrap().wait_readable(reader.as_fd()).unwrap().ready);
    }
}
