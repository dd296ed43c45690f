//! Traffic that carries a marker, so that a [`Sniffer`](crate::Sniffer) sees it if it crosses the underlay in clear.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::lab::{Netns, Process};
use crate::{clock, wait};

/// What no underlay may ever carry in clear; 16 bytes, because `ping` can repeat that many.
pub const MARKER: &[u8; 16] = b"skynet-in-clear!";

/// A transfer that makes no progress for this long has failed.
const STALL: Duration = Duration::from_secs(10);
/// One marker in each, so that no segmentation can hide them all.
const BLOCK_BYTES: usize = 1024;
const DISCARD_PORT: u16 = 9;

/// Sends one datagram to a port where nobody listens: traffic, whether or not there is a path.
///
/// # Errors
/// If the namespace cannot be entered or has no route.
pub fn poke(from: &Netns, target: Ipv4Addr) -> anyhow::Result<()> {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(MARKER, (target, DISCARD_PORT)).map(drop)
    })?
    .with_context(|| format!("sending from {} to {target}", from.role()))
}

/// Sends `bytes` of noise and markers by TCP and compares the checksums of both ends; returns the time it took.
///
/// # Errors
/// If the connection fails or stalls, or what arrives is not what was sent.
pub fn transfer_tcp(from: &Netns, to: &Netns, target: Ipv4Addr, bytes: usize) -> anyhow::Result<Duration> {
    let listener = to.run(|| TcpListener::bind((target, 0)))?.context("listening")?;
    let address = listener.local_addr()?;
    let start = clock::now();
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_all(&listener));
        let sent = send_all(from, address, bytes);
        (sent, receiver.join().expect("the receiver does not panic"))
    });
    let what = || format!("TCP from {} to {}", from.role(), to.role());
    let (sent, (received, arrived)) = (sent.with_context(what)?, received.with_context(what)?);
    ensure!(arrived == bytes, "{}: {arrived} of {bytes} bytes arrived", what());
    ensure!(sent == received, "{}: the checksums differ", what());
    Ok(start.elapsed())
}

fn send_all(from: &Netns, address: SocketAddr, bytes: usize) -> anyhow::Result<u64> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&address, STALL))?.context("connecting")?;
    stream.set_write_timeout(Some(STALL))?;
    let mut rng = ChaCha8Rng::seed_from_u64(bytes as u64);
    let mut hasher = DefaultHasher::new();
    let mut block = [0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        rng.fill_bytes(&mut block);
        block[..MARKER.len()].copy_from_slice(MARKER);
        let part = &block[..left.min(BLOCK_BYTES)];
        stream.write_all(part).context("sending")?;
        hasher.write(part);
        left -= part.len();
    }
    Ok(hasher.finish())
}

/// Checksum and count of everything until the end of the only connection.
fn receive_all(listener: &TcpListener) -> anyhow::Result<(u64, usize)> {
    listener.set_nonblocking(true)?;
    let (mut stream, _) = wait::wait_for(STALL, "a connection", || listener.accept())?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STALL))?;
    let mut hasher = DefaultHasher::new();
    let mut buffer = [0; BLOCK_BYTES];
    let mut count = 0;
    loop {
        // Whole blocks, because the hash depends on how its input is cut.
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("receiving, after {count} bytes")),
            }
        }
        if filled == 0 {
            return Ok((hasher.finish(), count));
        }
        hasher.write(&buffer[..filled]);
        count += filled;
    }
}

/// Sends `count` datagrams, one after the other's echo, in sizes from 64 to 1,200 B; returns how many came back whole
/// within a second each.
///
/// # Errors
/// If the sockets cannot be made or sending fails.
pub fn echo_udp(from: &Netns, to: &Netns, target: Ipv4Addr, count: u32) -> anyhow::Result<u32> {
    let server = to.run(|| UdpSocket::bind((target, 0)))?.context("listening")?;
    let client = from.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("binding")?;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    client.connect(server.local_addr()?)?;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((length, source)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], source);
                }
            }
        });
        let result = (0..count).try_fold(0, |echoed, number| {
            let whole = echo_once(&client, number).with_context(|| format!("UDP from {}", from.role()))?;
            Ok(echoed + u32::from(whole))
        });
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    })
}

fn echo_once(client: &UdpSocket, number: u32) -> anyhow::Result<bool> {
    let size = [64, 512, 1200][number as usize % 3];
    let mut datagram = vec![0; size];
    datagram[..4].copy_from_slice(&number.to_be_bytes());
    datagram[4..4 + MARKER.len()].copy_from_slice(MARKER);
    client.send(&datagram)?;
    let start = clock::now();
    let mut buffer = [0; 2048];
    while start.elapsed() < Duration::from_secs(1) {
        match client.recv(&mut buffer) {
            Ok(length) if buffer[..length] == datagram => return Ok(true),
            // A late echo of an earlier one, or nothing yet.
            Ok(_) => {}
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted]
                    .contains(&error.kind()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// A running series of echoes that carry the marker.
#[derive(Debug)]
pub struct Pinger {
    process: Process,
    interval: Duration,
}

/// What a series of echoes showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echoes {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// The longest time in which no request was answered, by their sequence numbers.
    pub longest_gap: Duration,
    /// Median round trip; zero if nothing came back.
    pub median: Duration,
}

impl Pinger {
    /// Begins to ping `target`, one request per `interval`.
    ///
    /// # Errors
    /// If `ping` cannot be started.
    pub fn start(from: &Netns, target: Ipv4Addr, interval: Duration) -> anyhow::Result<Self> {
        let mut command = Command::new("ping");
        let pattern: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
        command.args(["-n", "-p", &pattern, "-i", &format!("{:.3}", interval.as_secs_f64())]);
        command.arg(IpAddr::V4(target).to_string());
        Ok(Self { process: from.spawn(command)?, interval })
    }

    /// Ends it after a moment for the last answer.
    ///
    /// # Errors
    /// If `ping` has ended by itself or cannot be understood.
    pub fn stop(mut self) -> anyhow::Result<Echoes> {
        std::thread::sleep(Duration::from_millis(200));
        self.process.signal(Signal::SIGINT).with_context(|| self.process.log())?;
        self.process.wait_within(Duration::from_secs(5))?;
        let log = self.process.log();
        parse_pings(&log, self.interval).with_context(|| format!("output of ping:\n{log}"))
    }
}

/// Pings `target` `count` times, one request per `interval`, with the marker.
///
/// # Errors
/// If `ping` cannot be run or understood; lost packets are no error.
pub fn echo_icmp(from: &Netns, target: Ipv4Addr, count: u32, interval: Duration) -> anyhow::Result<Echoes> {
    let pattern: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
    let (count_text, target) = (count.to_string(), target.to_string());
    let interval_text = format!("{:.3}", interval.as_secs_f64());
    let argv = ["ping", "-n", "-W2", "-p", &pattern, "-c", &count_text, "-i", &interval_text, &target];
    let output = from.exec_within(interval * count + Duration::from_secs(10), &argv, "")?;
    ensure!(output.status.code().is_some_and(|code| code < 2), "ping {target}: {}", output.stderr);
    parse_pings(&output.stdout, interval).with_context(|| output.stdout)
}

fn parse_pings(log: &str, interval: Duration) -> anyhow::Result<Echoes> {
    let number = |text: &str| text.split(' ').next().and_then(|number| number.parse::<u32>().ok());
    let after = |line: &str, key: &str| line.split_once(key).and_then(|(_, rest)| number(rest));
    let summary = log.lines().find(|line| line.contains("packets transmitted")).context("no summary")?;
    let sent = number(summary).context("no count of requests")?;
    // A router's "unreachable" names its request too; an answer has a round trip.
    let answers = log.lines().filter(|line| line.contains(" time="));
    let mut answered: Vec<u32> = answers.clone().filter_map(|line| after(line, " icmp_seq=")).collect();
    answered.sort_unstable();
    answered.dedup();
    let received = u32::try_from(answered.len())?;
    // A request that is on its way when ping is told to stop is not lost.
    let sent = sent.max(received);
    let ends =
        [0].into_iter().chain(answered.iter().copied()).zip(answered.iter().copied().chain([sent + 1]));
    let missing = ends.map(|(before, after)| after.saturating_sub(before + 1)).max().unwrap_or(0);
    let mut round_trips: Vec<f64> =
        answers.filter_map(|line| line.split_once(" time=")?.1.split_once(" ms")?.0.parse().ok()).collect();
    round_trips.sort_by(f64::total_cmp);
    let median = round_trips.get(round_trips.len() / 2).copied().unwrap_or(0.0);
    Ok(Echoes {
        sent,
        received,
        longest_gap: interval * missing,
        median: Duration::from_secs_f64(median / 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(answered: &[u32], sent: u32) -> String {
        let lines: String = answered
            .iter()
            .map(|number| format!("64 bytes from 10.0.0.1: icmp_seq={number} ttl=64 time=0.5{number} ms\n"))
            .collect();
        format!("PING\n{lines}\n--- statistics ---\n{sent} packets transmitted, x received, 0% packet loss\n")
    }

    #[test]
    fn counts_what_is_missing_in_the_middle_and_at_the_ends() {
        let interval = Duration::from_millis(100);
        let echoes = parse_pings(&log(&[1, 2, 5, 6], 6), interval).unwrap();
        assert_eq!((echoes.sent, echoes.received, echoes.longest_gap), (6, 4, interval * 2));
        let refused = format!("From 198.51.100.1 icmp_seq=1 Destination Net Unreachable\n{}", log(&[2], 2));
        assert_eq!(parse_pings(&refused, interval).unwrap().received, 1, "a refusal is no answer");
        assert_eq!(parse_pings(&log(&[4], 4), interval).unwrap().longest_gap, interval * 3);
        assert_eq!(parse_pings(&log(&[1], 4), interval).unwrap().longest_gap, interval * 3);
        assert_eq!(parse_pings(&log(&[], 4), interval).unwrap().longest_gap, interval * 4);
        assert_eq!(parse_pings(&log(&[1, 2], 2), interval).unwrap().longest_gap, Duration::ZERO);
    }

    #[test]
    fn an_answer_that_comes_twice_counts_once() {
        let echoes = parse_pings(&log(&[1, 1, 2], 2), Duration::from_millis(10)).unwrap();
        assert_eq!((echoes.received, echoes.median), (2, Duration::from_micros(510)));
    }
}
