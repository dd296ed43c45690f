//! Transfers whose every byte is compared: what arrives is what was sent, in order, or the place of the first difference.
//!
//! Sender and receiver know the same [`Pattern`], so nothing is hashed and a difference has a position. Both run in
//! this process, each with its sockets in its own namespace; one thread per TCP stream and end.

mod beat;
mod pattern;
mod udp;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

pub use beat::{Beat, BeatReport};
pub use pattern::Pattern;
pub use udp::{Train, UdpPlan, UdpReport, receive as receive_datagram, udp};

use crate::lab::Netns;
use crate::{clock, wait};

/// A stream that makes no progress for this long has failed.
const STALL: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 256 * 1024;

/// From where to where.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// Where the sender runs.
    pub from: &'a Netns,
    /// Where the receiver runs.
    pub to: &'a Netns,
    /// The receiver's own address.
    pub bind: IpAddr,
    /// What the sender calls it: another address if something in between translates.
    pub target: IpAddr,
    /// The receiver's port; 0 for any.
    pub port: u16,
}

impl<'a> Ends<'a> {
    /// From one host to the address of another.
    pub fn new(from: &'a Netns, to: &'a Netns, target: IpAddr) -> Self {
        Self { from, to, bind: target, target, port: 0 }
    }
}

/// How much one stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes; stream k carries k more, so that ends are odd.
    Bytes(u64),
    /// As much as passes in this time.
    For(Duration),
}

/// What to send by TCP.
#[derive(Debug, Clone)]
pub struct TcpPlan {
    /// Parallel streams, at least 1.
    pub streams: usize,
    /// How much on each.
    pub amount: Amount,
    /// Sizes of the writes, in turn; each is pushed at once (`TCP_NODELAY`).
    pub writes: Vec<usize>,
    /// What the bytes are.
    pub seed: u64,
    /// TOS or traffic class of the sender, if not 0.
    pub tos: u8,
    /// Between two writes.
    pub pause: Duration,
    /// Ends the streams before their time once it is true.
    pub is_over: Arc<AtomicBool>,
}

impl TcpPlan {
    /// Large writes.
    pub fn bulk(streams: usize, amount: Amount) -> Self {
        Self {
            streams,
            amount,
            writes: vec![128 * 1024],
            seed: 1,
            tos: 0,
            pause: Duration::ZERO,
            is_over: Arc::default(),
        }
    }

    /// A write of `bytes` every `pause`, for as long as this.
    pub fn trickle(bytes: usize, pause: Duration, time: Duration) -> Self {
        Self { writes: vec![bytes], pause, ..Self::bulk(1, Amount::For(time)) }
    }

    /// Writes of every kind: single bytes, one byte beside a segment's size, large odd ones.
    pub fn ragged(streams: usize, amount: Amount) -> Self {
        let writes =
            vec![1, 65_535, 1_308, 7, 1_307, 1_309, 40_001, 2, 2_616, 536, 100_003, 63, 64, 65, 9_973];
        Self { writes, ..Self::bulk(streams, amount) }
    }
}

/// One stream as its receiver saw it.
#[derive(Debug, Clone, Copy)]
pub struct StreamReport {
    /// Bytes, all as expected.
    pub bytes: u64,
    /// When the first byte came.
    pub first: Instant,
    /// When the end came.
    pub end: Instant,
    /// The longest time without progress between the first byte and the end.
    pub longest_stall: Duration,
}

/// A transfer that arrived whole.
#[derive(Debug, Clone)]
pub struct TcpReport {
    /// By stream.
    pub streams: Vec<StreamReport>,
}

impl TcpReport {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.streams.iter().map(|stream| stream.bytes).sum()
    }

    /// From the first byte of any stream to the end of the last.
    pub fn elapsed(&self) -> Duration {
        let first = self.streams.iter().map(|stream| stream.first).min();
        let end = self.streams.iter().map(|stream| stream.end).max();
        first.zip(end).map(|(first, end)| end - first).unwrap_or_default()
    }

    /// The longest stall of any stream.
    pub fn longest_stall(&self) -> Duration {
        self.streams.iter().map(|stream| stream.longest_stall).max().unwrap_or_default()
    }

    /// Payload of all streams, in bits per second.
    pub fn bits_per_second(&self) -> f64 {
        self.bytes() as f64 * 8.0 / self.elapsed().as_secs_f64().max(1e-6)
    }
}

/// Sends by TCP and compares every byte.
///
/// # Errors
/// If a connection fails or stalls for 10 s, or anything arrives that was not sent; with stream and position.
pub fn tcp(ends: Ends<'_>, plan: &TcpPlan) -> anyhow::Result<TcpReport> {
    let what = || format!("TCP from {} to {}", ends.from.role(), ends.to.role());
    let listener = ends.to.run(|| TcpListener::bind((ends.bind, ends.port)))?.context("listening")?;
    listener.set_nonblocking(true)?;
    let target = SocketAddr::new(ends.target, listener.local_addr()?.port());
    std::thread::scope(|scope| {
        let mut ends_of_streams = Vec::new();
        for k in 0..plan.streams {
            let pattern = Pattern::new(plan.seed.wrapping_mul(1_000).wrapping_add(k as u64));
            // One after the other, so that the k-th accepted is the k-th connected.
            let client = ends.from.run(|| connect(target, plan.tos))?.with_context(what)?;
            let (server, _) = wait::wait_for(STALL, "a connection", || listener.accept())?;
            let sender = scope.spawn(move || send(client, pattern, plan, k));
            let receiver = scope.spawn(move || receive(server, pattern));
            ends_of_streams.push((sender, receiver));
        }
        let mut streams = Vec::new();
        for (k, (sender, receiver)) in ends_of_streams.into_iter().enumerate() {
            let received = receiver.join().expect("the receiver does not panic");
            let sent = sender.join().expect("the sender does not panic");
            let stream = received.with_context(|| format!("{}, stream {k}", what()))?;
            let sent = sent.with_context(|| format!("{}, stream {k}", what()))?;
            ensure!(stream.bytes == sent, "{}, stream {k}: {} of {sent} bytes arrived", what(), stream.bytes);
            streams.push(stream);
        }
        Ok(TcpReport { streams })
    })
}

fn connect(target: SocketAddr, tos: u8) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, STALL).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(STALL))?;
    set_tos(&stream, target.ip(), tos)?;
    Ok(stream)
}

/// Marks what a socket sends to `target`.
pub(crate) fn set_tos(socket: &impl std::os::fd::AsFd, target: IpAddr, tos: u8) -> anyhow::Result<()> {
    match (tos, target) {
        (0, _) => {}
        (_, IpAddr::V4(_)) => setsockopt(socket, sockopt::Ipv4Tos, &i32::from(tos)).context("TOS")?,
        (_, IpAddr::V6(_)) => setsockopt(socket, sockopt::Ipv6TClass, &i32::from(tos)).context("class")?,
    }
    Ok(())
}

/// Sends the stream and its FIN; returns how many bytes that were.
fn send(mut stream: TcpStream, pattern: Pattern, plan: &TcpPlan, k: usize) -> anyhow::Result<u64> {
    let start = clock::now();
    let mut sent = 0;
    for size in plan.writes.iter().cycle() {
        let size = match plan.amount {
            Amount::Bytes(bytes) => (bytes + k as u64 - sent).min(*size as u64) as usize,
            Amount::For(time) if start.elapsed() < time && !plan.is_over.load(Ordering::Acquire) => *size,
            Amount::For(_) => 0,
        };
        if size == 0 {
            break;
        }
        let mut left = size;
        while left > 0 {
            let part = pattern.at(sent, left);
            stream.write_all(part).with_context(|| format!("sending, after {sent} bytes"))?;
            sent += part.len() as u64;
            left -= part.len();
        }
        if !plan.pause.is_zero() {
            std::thread::sleep(plan.pause);
        }
    }
    Ok(sent)
}

/// Compares everything until the end of the stream.
fn receive(mut stream: TcpStream, pattern: Pattern) -> anyhow::Result<StreamReport> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STALL))?;
    let mut buffer = vec![0; READ_BYTES];
    let (mut bytes, mut longest_stall) = (0, Duration::ZERO);
    let mut first = None;
    let mut last = clock::now();
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("receiving, after {bytes} bytes")),
        };
        let now = clock::now();
        match first {
            None => first = Some(now),
            Some(_) => longest_stall = longest_stall.max(now - last),
        }
        last = now;
        if count == 0 {
            return Ok(StreamReport { bytes, first: first.unwrap_or(now), end: now, longest_stall });
        }
        if let Err(at) = pattern.check(bytes, &buffer[..count]) {
            bail!("byte {} is not what was sent (read {count} at {bytes})", bytes + at as u64);
        }
        bytes += count as u64;
    }
}
