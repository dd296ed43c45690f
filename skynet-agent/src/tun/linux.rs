//! [`TunDevice`]: a non-persistent TUN device of the kernel. It vanishes with the process, whatever ends it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use tun_rs::{DeviceBuilder, SyncDevice};

use skynet_core::offload::{Gso, Offloads, VNET_HEADER_LEN, VnetHeader};

use super::{PacketBatch, TunRead, TunWrite, Written};

/// A device that cannot be made: what is missing and the cure.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No `/dev/net/tun`.
    #[error(
        "/dev/net/tun is missing; the cure: modprobe tun (in a container: run it with --device /dev/net/tun)"
    )]
    NoDevice,
    /// The device may not be opened.
    #[error("/dev/net/tun may not be opened by this user; the cure: run as root, or chmod 0666 /dev/net/tun")]
    NotAllowed,
    /// No right to configure interfaces.
    #[error(
        "the capability CAP_NET_ADMIN is missing; the cure: run as root (in a container: --cap-add NET_ADMIN)"
    )]
    NoCapability,
    /// Somebody else has an interface of this name.
    #[error(
        "an interface named {name} exists already; the cure: stop what owns it, or choose another --interface"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Not a name an interface can have.
    #[error("{name:?} cannot name an interface: 1 to 15 characters of a-z A-Z 0-9 . _ -")]
    BadName {
        /// The name.
        name: String,
    },
    /// Anything else.
    #[error("creating the interface {name}: {source}")]
    Io {
        /// The name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A handle on one TUN queue; clones share it. The device is removed when the last one is dropped.
#[derive(Clone)]
pub struct TunDevice {
    device: Arc<SyncDevice>,
    /// The kernel puts a virtio header in front of every packet and wants one (`IFF_VNET_HDR`).
    offload: bool,
    takes: Offloads,
}

impl TunDevice {
    /// Says what would keep [`Self::create`] from making the device `name`, and makes nothing.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn check(name: &str) -> Result<(), TunError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 15 || !name.chars().all(valid) || matches!(name, "." | "..") {
            return Err(TunError::BadName { name: name.to_owned() });
        }
        check_access(name)
    }

    /// Creates the device `name` with the given MTU in bytes, administratively down and without addresses. With
    /// `offload` the kernel hands over super-packets and partial checksums (`TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`,
    /// and since Linux 6.2 `TUN_F_USO4`, `TUN_F_USO6`). With `queues` it can have more than one (`IFF_MULTI_QUEUE`).
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn create(name: &str, mtu: u16, offload: bool, queues: bool) -> Result<Self, TunError> {
        Self::check(name)?;
        let built = DeviceBuilder::new()
            .name(name)
            .mtu(mtu)
            .enable(false)
            .with(|b| {
                b.offload(offload).packet_information(false).multi_queue(queues);
            })
            .build_sync();
        let device = built.map_err(|e| creation_error(name, e))?;
        device.set_nonblocking(true).map_err(|source| TunError::Io { name: name.to_owned(), source })?;
        // Since Linux 6.2 the kernel segments UDP (USO); an older one refuses super-packets of it.
        let udp = offload && device.udp_gso();
        let takes = Offloads { tcp4: offload, tcp6: offload, udp4: udp, udp6: udp };
        Ok(Self { device: Arc::new(device), offload, takes })
    }

    /// Another queue of the same device, which must have been created with `queues`. The kernel spreads flows over all
    /// queues, and keeps one on the queue that it was last written to. A queue is gone with its last handle.
    ///
    /// # Errors
    /// The device is gone, or has one queue only.
    pub fn queue(&self) -> io::Result<Self> {
        let device = self.device.try_clone()?;
        device.set_nonblocking(true)?;
        Ok(Self { device: Arc::new(device), offload: self.offload, takes: self.takes })
    }

    /// Whether packets come and go with a meaningful virtio header.
    pub fn has_offload(&self) -> bool {
        self.offload
    }

    /// Through this handle and its clones made later, only the super-packets in `takes` are written.
    pub fn set_takes(&mut self, takes: Offloads) {
        self.takes = takes;
    }

    /// The interface's index.
    ///
    /// # Errors
    /// The device is gone.
    pub fn index(&self) -> io::Result<u32> {
        self.device.if_index()
    }
}

/// Says what is missing before the kernel's terser answer does.
fn check_access(name: &str) -> Result<(), TunError> {
    // Asked of this network namespace; /sys may show another one.
    if nix::net::if_::if_nametoindex(name).is_ok() {
        return Err(TunError::NameTaken { name: name.to_owned() });
    }
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(e) => Err(match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice,
            Some(libc::EACCES | libc::EPERM) => TunError::NotAllowed,
            _ => TunError::Io { name: name.to_owned(), source: e },
        }),
    }
}

fn creation_error(name: &str, source: io::Error) -> TunError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::NoCapability,
        Some(libc::EBUSY | libc::EEXIST) => TunError::NameTaken { name: name.to_owned() },
        Some(libc::ENOENT | libc::ENODEV) => TunError::NoDevice,
        _ => TunError::Io { name: name.to_owned(), source },
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.device`, which the returned borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) }
    }
}

impl TunRead for TunDevice {
    fn read_batch(&mut self, batch: &mut PacketBatch) -> io::Result<usize> {
        let before = batch.len();
        while let Some(slot) = batch.slot() {
            let skip = if self.offload { 0 } else { VNET_HEADER_LEN };
            slot[..skip].fill(0);
            match self.device.recv(&mut slot[skip..]) {
                Ok(len) => batch.commit(skip + len),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(gone(&e)),
            }
        }
        Ok(batch.len() - before)
    }
}

impl TunWrite for TunDevice {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) -> io::Result<Written> {
        let bytes = header.encode();
        let skip = if self.offload { 0 } else { VNET_HEADER_LEN };
        loop {
            let sent = self.device.send_vectored(&[IoSlice::new(&bytes[skip..]), IoSlice::new(packet)]);
            return match sent {
                Ok(_) => Ok(Written::Yes),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EINVAL) if header.gso != Gso::None => Ok(Written::NotAsSuperPacket),
                    // EIO: the interface is down at the moment; EINVAL: not an IP packet to the kernel's mind.
                    Some(libc::EAGAIN | libc::EINVAL | libc::ENOBUFS | libc::ENOMEM | libc::EIO) => {
                        Ok(Written::Refused)
                    }
                    _ => Err(gone(&e)),
                },
            };
        }
    }

    fn takes(&self) -> Offloads {
        self.takes
    }
}

/// What remains is a device that somebody has deleted.
fn gone(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the TUN device is gone ({error})"))
}
