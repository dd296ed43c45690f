//! What a NAT does to UDP, measured with plain sockets, in the words of RFC 4787.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;

use crate::lab::{Lab, Netns, RELAY_ADDRESSES};

/// Long against a round trip inside one machine, also a busy one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// A probe that must not arrive is followed, this much later, by one that must: when that is there, the former is lost.
const FENCE_DELAY: Duration = Duration::from_millis(30);

/// Which mappings a NAT reuses for one internal socket (RFC 4787 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// One for all destinations.
    EndpointIndependent,
    /// One per destination address.
    AddressDependent,
    /// One per destination address and port.
    AddressAndPortDependent,
}

/// From whom a mapping admits packets (RFC 4787 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From addresses the inside has sent to.
    AddressDependent,
    /// From addresses and ports the inside has sent to.
    AddressAndPortDependent,
}

/// A NAT as seen from one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behavior {
    /// Mapping behaviour.
    pub mapping: Mapping,
    /// Filtering behaviour.
    pub filtering: Filtering,
    /// Whether the external port equals the internal one (RFC 4787 §4.2.1).
    pub preserves_port: bool,
    /// Whether the external address differs from the internal one.
    pub translates: bool,
    /// The external ports of one socket towards three destinations, in the order sent.
    pub ports: [u16; 3],
}

/// Four sockets at the relay's namespace: both addresses, two ports each.
#[derive(Debug)]
pub struct Observers {
    /// `sockets[address][port]`.
    sockets: [[UdpSocket; 2]; 2],
}

impl Observers {
    /// Binds them to ports the kernel chooses.
    ///
    /// # Errors
    /// If a socket cannot be bound.
    pub fn new(lab: &Lab) -> anyhow::Result<Self> {
        let bind = |address: Ipv4Addr| udp_socket(lab.relay(), address, 0);
        let [first, second] = RELAY_ADDRESSES;
        Ok(Self { sockets: [[bind(first)?, bind(first)?], [bind(second)?, bind(second)?]] })
    }

    /// Sends from `host`'s socket to an observer; returns the source the observer saw, `None` if nothing arrived.
    fn observe(&self, host: &UdpSocket, address: usize, port: usize) -> anyhow::Result<Option<SocketAddrV4>> {
        let observer = &self.sockets[address][port];
        drain(observer)?;
        host.send_to(b"observe", observer.local_addr()?)?;
        let mut buffer = [0; 64];
        match receive(observer, &mut buffer) {
            Ok((_, SocketAddr::V4(source))) => Ok(Some(source)),
            Ok((_, SocketAddr::V6(_))) => unreachable!("an IPv4 socket"),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The external address and port of a new flow from `host`'s socket to the first observer; `None` if UDP is blocked.
    ///
    /// # Errors
    /// If a socket fails.
    pub fn mapped(&self, host: &UdpSocket) -> anyhow::Result<Option<SocketAddrV4>> {
        self.observe(host, 0, 0)
    }

    /// Whether an observer that `host` has sent to reaches its mapping `mapped`.
    ///
    /// # Errors
    /// If a socket fails.
    pub fn reaches(&self, host: &UdpSocket, mapped: SocketAddrV4) -> anyhow::Result<bool> {
        drain(host)?;
        self.sockets[0][0].send_to(b"reach", mapped)?;
        let mut buffer = [0; 64];
        match receive(host, &mut buffer) {
            Ok(_) => Ok(true),
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn filtering(&self, host: &UdpSocket, mapped: SocketAddrV4) -> anyhow::Result<Filtering> {
        drain(host)?;
        self.sockets[1][1].send_to(b"other address", mapped)?;
        self.sockets[0][1].send_to(b"other port", mapped)?;
        std::thread::sleep(FENCE_DELAY);
        self.sockets[0][0].send_to(b"fence", mapped)?;
        let (mut address, mut port) = (false, false);
        let mut buffer = [0; 64];
        loop {
            let (length, _) =
                receive(host, &mut buffer).context("an answer of the contacted socket must always pass")?;
            match &buffer[..length] {
                b"other address" => address = true,
                b"other port" => port = true,
                _ => break,
            }
        }
        Ok(match (address, port) {
            (true, _) => Filtering::EndpointIndependent,
            (false, true) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
        })
    }

    /// Measures the NAT in front of `host`; `None` if UDP does not pass.
    ///
    /// # Errors
    /// If a socket fails.
    pub fn behavior(&self, host: &Netns) -> anyhow::Result<Option<Behavior>> {
        let socket = udp_socket(host, Ipv4Addr::UNSPECIFIED, 0)?;
        let internal_port = socket.local_addr()?.port();
        let Some(first) = self.observe(&socket, 0, 0)? else { return Ok(None) };
        // A second socket, as the first one is about to contact everybody.
        let fresh = udp_socket(host, Ipv4Addr::UNSPECIFIED, 0)?;
        let fresh_mapped = self.mapped(&fresh)?.context("the first socket passed, the second did not")?;
        let filtering = self.filtering(&fresh, fresh_mapped)?;
        let other_port = self.observe(&socket, 0, 1)?.context("the second destination saw nothing")?;
        let other_address = self.observe(&socket, 1, 0)?.context("the third destination saw nothing")?;
        let mapping = match (first == other_port, first == other_address) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            (false, _) => Mapping::AddressAndPortDependent,
        };
        Ok(Some(Behavior {
            mapping,
            filtering,
            preserves_port: first.port() == internal_port,
            translates: *first.ip() != host.address(),
            ports: [first.port(), other_port.port(), other_address.port()],
        }))
    }
}

/// A UDP socket inside a namespace, with a receive timeout of 1 s; usable from any thread.
///
/// # Errors
/// If the address or port is taken or foreign.
pub fn udp_socket(namespace: &Netns, address: Ipv4Addr, port: u16) -> anyhow::Result<UdpSocket> {
    let socket = namespace
        .run(|| UdpSocket::bind((address, port)))?
        .with_context(|| format!("UDP {address}:{port} in {}", namespace.name()))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// Receives one datagram. A receive with a timeout is not resumed by the kernel after the process was stopped and
/// continued, unlike other calls, so an interruption is not an answer.
///
/// # Errors
/// `WouldBlock` after the timeout; others if the socket fails.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Throws away what has arrived so far.
fn drain(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 64];
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_nonblocking(false)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
