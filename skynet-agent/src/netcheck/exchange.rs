//! Binding requests and their answers on a socket of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use skynet_core::time::Instant;
use skynet_core::wire::binding::{Answer, Request};

use crate::{clock, entropy};

/// Requests leave at these times after the first, until they are answered.
const SCHEDULE: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(120), Duration::from_millis(360), Duration::from_millis(800)];
/// Longest answer looked at.
const MAX_ANSWER: usize = 1_500;

/// One question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) to: SocketAddr,
    pub(super) request: Request,
}

impl Question {
    pub(super) fn plain(to: SocketAddr) -> Self {
        Self { to, request: Request::default() }
    }
}

/// What came of one question.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Reply {
    /// Our address as the server sees it, and after how long it said so.
    pub(super) mapped: Option<(SocketAddr, Duration)>,
    /// The kernel refused to send.
    pub(super) refused: bool,
}

/// A socket that looks.
pub(super) struct Looker {
    pub(super) socket: UdpSocket,
    pub(super) port: u16,
}

impl Looker {
    /// On any port, for destinations of the family of `to`.
    pub(super) fn towards(to: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr =
            if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any)?;
        let port = socket.local_addr()?.port();
        Ok(Self { socket, port })
    }

    /// Asks everything at once, in order, and again what is not answered, until all is or `within` is over.
    pub(super) fn ask(&self, questions: &[Question], within: Duration) -> Vec<Reply> {
        let start = clock::monotonic();
        let seed = entropy::seed().unwrap_or_default();
        let id = |i: usize| transaction(&seed, i);
        let mut replies = vec![Reply::default(); questions.len()];
        let mut sent = 0;
        loop {
            let elapsed = clock::monotonic() - start;
            if sent < SCHEDULE.len() && elapsed >= SCHEDULE[sent] {
                for (i, (question, reply)) in questions.iter().zip(&mut replies).enumerate() {
                    if reply.mapped.is_none() {
                        let result = self.socket.send_to(&question.request.encode(id(i)), question.to);
                        reply.refused |= result.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
                    }
                }
                sent += 1;
            }
            let next = SCHEDULE.get(sent).copied().unwrap_or(within).min(within);
            if elapsed >= within || replies.iter().all(|r| r.mapped.is_some()) {
                return replies;
            }
            if let Some(answer) = self.receive(start + next)
                && let Some(i) = (0..questions.len()).find(|i| id(*i) == answer.transaction)
                && replies[i].mapped.is_none()
            {
                replies[i].mapped = Some((answer.mapped, clock::monotonic() - start));
            }
        }
    }

    /// The next answer before `deadline`, if any.
    fn receive(&self, deadline: Instant) -> Option<Answer> {
        let mut buffer = [0; MAX_ANSWER];
        let left = deadline.saturating_since(clock::monotonic()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).ok()?;
        let (len, _) = self.socket.recv_from(&mut buffer).ok()?;
        Answer::parse(&buffer[..len])
    }

    /// Whether these bytes come in before `within` is over.
    pub(super) fn hears(&self, bytes: &[u8], within: Duration) -> bool {
        let deadline = clock::monotonic() + within;
        let mut buffer = [0; MAX_ANSWER];
        loop {
            let left = deadline.saturating_since(clock::monotonic());
            if left.is_zero() || self.socket.set_read_timeout(Some(left)).is_err() {
                return false;
            }
            match self.socket.recv_from(&mut buffer) {
                Ok((len, _)) if buffer[..len] == *bytes => return true,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return false,
            }
        }
    }
}

/// Question `i`'s: random in all but its last byte, so a stranger cannot answer it.
fn transaction(seed: &[u8; 32], i: usize) -> [u8; 12] {
    let mut id = [0; 12];
    id[..11].copy_from_slice(&seed[..11]);
    id[11] = u8::try_from(i).unwrap_or(u8::MAX);
    id
}
