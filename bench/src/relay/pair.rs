//! Two clients and the way between them through a relay: whatever the relay's protocol, a pair is a socket to send by,
//! the bytes in front of the payload, and a socket where the payload comes out.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// Asked of the kernel for sockets of the generator: what a relay delivers is not lost here.
const BUFFER_BYTES: usize = 8 << 20;
const TIMEOUT: Duration = Duration::from_millis(500);

/// One direction between two clients, set up.
#[derive(Debug)]
pub(super) struct Pair {
    /// Connected to the relay.
    pub(super) sender: UdpSocket,
    /// In front of the payload as it is sent.
    pub(super) head: Vec<u8>,
    /// Where in it the payload's length stands, as `u16`, if it does.
    pub(super) length_at: Option<usize>,
    /// Where it arrives.
    pub(super) receiver: UdpSocket,
    /// Bytes in front of the payload as it arrives.
    pub(super) head_at_receiver: usize,
}

impl Pair {
    /// A payload of zeroes with its head, `n` times.
    pub(super) fn train(&self, payload: usize, n: usize) -> Vec<u8> {
        let mut datagram = [&self.head[..], &vec![0; payload]].concat();
        if let Some(at) = self.length_at {
            datagram[at..at + 2].copy_from_slice(&(payload as u16).to_be_bytes());
        }
        datagram.repeat(n)
    }
}

/// A socket of the generator on an address of the calling thread's namespace.
pub(super) fn socket(address: Ipv4Addr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, sockopt::SndBuf, &BUFFER_BYTES)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}
