//! Request and response over UDP, a pair of our own: one datagram at a time, as a small remote call.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use skynet_tests::clock;

use crate::link::Link;

/// A response that takes longer is lost.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How often the responder looks whether it is over.
const POLL: Duration = Duration::from_millis(50);
/// Payload of a request and of its response.
pub(crate) const PAYLOAD_BYTES: usize = 64;
/// Between a response and the next request: the processors go to sleep, as they do between calls.
const PAUSE: Duration = Duration::from_millis(2);

/// Sends requests one after another from left to right for `seconds`; returns how many, and the round trips of those
/// that were answered.
///
/// # Errors
/// If sockets cannot be made or used.
pub(crate) fn round_trips(
    link: &Link,
    target: Ipv4Addr,
    seconds: Duration,
) -> anyhow::Result<(u32, Vec<Duration>)> {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let responder = link.right().namespace.run(bind)?.context("responder")?;
    let requester = link.left().namespace.run(bind)?.context("requester")?;
    responder.set_read_timeout(Some(POLL))?;
    requester.set_read_timeout(Some(TIMEOUT))?;
    requester.connect((target, responder.local_addr()?.port()))?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| respond(&responder, &is_over));
        let result = ask(&requester, seconds);
        is_over.store(true, Ordering::Relaxed);
        result
    })
}

fn respond(socket: &UdpSocket, is_over: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !is_over.load(Ordering::Relaxed) {
        if let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], source);
        }
    }
}

fn ask(socket: &UdpSocket, seconds: Duration) -> anyhow::Result<(u32, Vec<Duration>)> {
    let (start, mut sent, mut round_trips) = (clock::now(), 0u32, Vec::new());
    while start.elapsed() < seconds {
        let mut request = [0; PAYLOAD_BYTES];
        request[..4].copy_from_slice(&sent.to_be_bytes());
        let before = clock::now();
        socket.send(&request)?;
        sent += 1;
        if is_answered(socket, &request)? {
            round_trips.push(before.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    Ok((sent, round_trips))
}

/// Waits for the response to this request; late ones to others are passed over.
fn is_answered(socket: &UdpSocket, request: &[u8]) -> anyhow::Result<bool> {
    let start = clock::now();
    let mut buffer = [0; 2048];
    while start.elapsed() < TIMEOUT {
        match socket.recv(&mut buffer) {
            Ok(length) if buffer[..length] == *request => return Ok(true),
            Ok(_) => {}
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
