//! The TUN device and the host's side of it, as the check uses them.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::PATIENCE;
use super::pattern::Framed;
use super::tap::{self, Tap};
use crate::tun::{PacketBatch, TunDevice, TunRead, TunWrite, Written};

/// Both sides of a device. A test stands in for a kernel.
pub(super) trait Rig {
    /// Into the device, as the inbound half writes.
    fn write(&mut self, framed: &Framed) -> Written;
    /// The next packet the host has received from the device; `None` if none came within the patience.
    fn received(&mut self) -> Option<Framed>;
    /// From the host to the device.
    fn transmit(&mut self, framed: &Framed) -> io::Result<()>;
    /// What the device has to be read; empty if nothing came within the patience.
    fn read(&mut self) -> Vec<Framed>;
    /// The port that the host's UDP socket has on this address of ours.
    fn port(&self, own: IpAddr) -> Option<u16>;
    /// The next datagram at that socket; `None` if none came within the patience.
    fn datagram(&mut self, own: IpAddr) -> Option<Vec<u8>>;
}

/// The real one.
pub(super) struct Kernel<'a> {
    tun: &'a mut TunDevice,
    tap: Option<Tap>,
    sockets: Vec<(IpAddr, UdpSocket)>,
    batch: PacketBatch,
}

impl<'a> Kernel<'a> {
    /// With a UDP socket on each of `own`, as far as the host has the address.
    pub(super) fn new(tun: &'a mut TunDevice, own: &[IpAddr]) -> io::Result<Self> {
        let tap = Tap::open(tun.index()?)
            .inspect_err(
                |e| tracing::debug!(%e, "no packet socket: super-packets are checked less thoroughly"),
            )
            .ok();
        let mut sockets = Vec::new();
        for &ip in own {
            let Ok(socket) = UdpSocket::bind((ip, 0)) else { continue };
            socket.set_read_timeout(Some(Duration::from_millis(PATIENCE.into())))?;
            sockets.push((ip, socket));
        }
        Ok(Self { tun, tap, sockets, batch: PacketBatch::new() })
    }

    fn socket(&self, own: IpAddr) -> Option<&UdpSocket> {
        self.sockets.iter().find(|(ip, _)| *ip == own).map(|(_, socket)| socket)
    }
}

impl Rig for Kernel<'_> {
    fn write(&mut self, framed: &Framed) -> Written {
        self.tun.write(framed.header, &framed.packet).unwrap_or(Written::Refused)
    }

    fn received(&mut self) -> Option<Framed> {
        self.tap.as_mut()?.next()
    }

    fn transmit(&mut self, framed: &Framed) -> io::Result<()> {
        self.tap.as_mut().ok_or(io::ErrorKind::PermissionDenied)?.transmit(framed)
    }

    fn read(&mut self) -> Vec<Framed> {
        self.batch.clear();
        tap::wait(self.tun.as_fd());
        let _read = self.tun.read_batch(&mut self.batch);
        self.batch.packets().map(|p| Framed::parse(p).unwrap_or_default()).collect()
    }

    fn port(&self, own: IpAddr) -> Option<u16> {
        Some(self.socket(own)?.local_addr().ok()?.port())
    }

    fn datagram(&mut self, own: IpAddr) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let (len, _) = self.socket(own)?.recv_from(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    }
}
