//! Tells who asks from where it was heard, from another address or port if asked to: RFC 5780 in four bytes.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use skynet_core::time::{Instant, Now};

use crate::host::{Host, Transmit};

/// A server on two addresses and any port. A request is `[b'Q', change address, change port, tag]`, the answer
/// `[b'R', tag]` followed by the observed endpoint as text.
#[derive(Debug)]
pub struct Observer {
    ips: [IpAddr; 2],
    answers: VecDeque<Transmit>,
}

impl Observer {
    /// An observer on two addresses, the second on an interface of its own.
    pub const fn new(ips: [IpAddr; 2]) -> Self {
        Self { ips, answers: VecDeque::new() }
    }

    /// A request.
    pub const fn request(change_address: bool, change_port: bool, tag: u8) -> [u8; 4] {
        [b'Q', change_address as u8, change_port as u8, tag]
    }

    /// Tag and observed endpoint of an answer.
    pub fn parse(bytes: &[u8]) -> Option<(u8, SocketAddr)> {
        let [b'R', tag, text @ ..] = bytes else { return None };
        Some((*tag, std::str::from_utf8(text).ok()?.parse().ok()?))
    }
}

impl Host for Observer {
    fn on_start(&mut self, _: Now) {}

    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, bytes: Vec<u8>, _: Now) {
        let [b'Q', change_address, change_port, tag] = bytes[..] else { return };
        let other_ip = if local.ip() == self.ips[0] { self.ips[1] } else { self.ips[0] };
        let ip = if change_address == 1 { other_ip } else { local.ip() };
        let port = local.port() ^ u16::from(change_port == 1);
        let mut bytes = vec![b'R', tag];
        bytes.extend(from.to_string().bytes());
        self.answers.push_back(Transmit { from: SocketAddr::new(ip, port), to: from, ttl: None, bytes });
    }

    fn on_timer(&mut self, _: Now) {}

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.answers.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
