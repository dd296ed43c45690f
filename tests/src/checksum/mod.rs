//! Proof that no packet has a wrong checksum, by a verifier of our own and by `tcpdump`.
//!
//! Captures on a host that sends, and on a TUN device into which whole trains are written, see checksums that are left
//! to an offload. [`Watch`] tells these apart by what the kernel says and checks their pseudo-header; `tcpdump` cannot,
//! so [`Tcpdump`] belongs where packets are final: behind a forwarding host ([`Lab::attach_behind`](crate::Lab::attach_behind)).

mod verify;

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

pub use verify::{Fault, Verdict, verify};

use crate::lab::{Netns, Process};
use crate::{sys, wait};

const RECEIVE_BUFFER_BYTES: usize = 64 << 20;
const PACKET_BYTES: usize = 65_536 + 64;
/// Between two looks at whether to stop.
const POLL_MILLIS: u8 = 50;
/// Faults kept in words; more are only counted.
const MAX_FAULTS: usize = 8;
/// Packets `tcpdump` decodes at most.
const MAX_DECODED: u32 = 200_000;

/// Verifies every packet of one interface until stopped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Verdicts>,
}

/// How many packets of an interface were what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Complete and right.
    pub right: u64,
    /// Left to an offload.
    pub partial: u64,
    /// Without any.
    pub none: u64,
    /// Wrong.
    pub wrong: u64,
    /// The first wrong ones, in words.
    pub faults: Vec<String>,
    /// The longest packet, in bytes: more than the MTU, if offloads were at work.
    pub longest: usize,
    /// Not seen, because this thread was too slow.
    pub missed: u64,
}

impl Watch {
    /// Begins to verify what passes `interface`, both ways.
    ///
    /// # Errors
    /// If there is no such interface or no packet socket.
    pub fn start(namespace: &Netns, interface: &str) -> anyhow::Result<Self> {
        let tap = namespace
            .run(|| sys::packet_tap(nix::net::if_::if_nametoindex(interface)?))?
            .with_context(|| format!("packet socket on {interface} of {}", namespace.name()))?;
        setsockopt(&tap, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("checksums".to_owned()).spawn(move || watch(&tap, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// Verifies what was captured so far and ends.
    ///
    /// # Panics
    /// If its thread did.
    pub fn stop(self) -> Verdicts {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the thread does not panic")
    }
}

impl Verdicts {
    /// Packets looked at.
    pub fn packets(&self) -> u64 {
        self.right + self.partial + self.none + self.wrong
    }

    fn count(&mut self, packet: &[u8], partial: bool) {
        self.longest = self.longest.max(packet.len());
        match verify(packet, partial) {
            Verdict::Right => self.right += 1,
            Verdict::Partial => self.partial += 1,
            Verdict::None => self.none += 1,
            Verdict::Wrong(fault) => {
                self.wrong += 1;
                if self.faults.len() < MAX_FAULTS {
                    let head: String = packet.iter().take(80).map(|byte| format!("{byte:02x}")).collect();
                    self.faults.push(format!("{fault} in {} B: {head}…", packet.len()));
                }
            }
        }
    }
}

fn watch(tap: &OwnedFd, stop: &AtomicBool) -> Verdicts {
    let mut verdicts = Verdicts::default();
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        // Read before the drain: what was captured when we were told to stop is still verified.
        let stopped = stop.load(Ordering::Acquire);
        while let Ok((length, partial)) = sys::receive_packet(tap.as_fd(), &mut buffer) {
            let packet = &buffer[..length];
            // ARP and the like come without an IP version.
            if packet.first().is_some_and(|first| [4, 6].contains(&(first >> 4))) {
                verdicts.count(packet, partial);
            }
        }
        if stopped {
            verdicts.missed = u64::from(sys::packets_missed(tap.as_fd()).unwrap_or(0));
            return verdicts;
        }
        let _ = poll(&mut [PollFd::new(tap.as_fd(), PollFlags::POLLIN)], PollTimeout::from(POLL_MILLIS));
    }
}

/// A running `tcpdump -vv`.
#[derive(Debug)]
pub struct Tcpdump {
    process: Process,
}

/// What `tcpdump` said about the packets it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Packets captured.
    pub captured: u64,
    /// Packets the kernel dropped because it was too slow.
    pub dropped: u64,
    /// Lines that name a checksum it calls bad or incorrect.
    pub bad: Vec<String>,
}

impl Tcpdump {
    /// Starts it on an interface and waits until it listens. `filter` is in its own language.
    ///
    /// # Errors
    /// If it is not installed or refuses.
    pub fn start(namespace: &Netns, interface: &str, filter: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("tcpdump");
        command.args(["-vv", "-n", "-B", "32768", "-i", interface, "-c", &MAX_DECODED.to_string(), filter]);
        let mut process = namespace.spawn(command)?;
        wait::wait_until(Duration::from_secs(5), "tcpdump to listen", || {
            !process.is_running() || process.log().contains("listening on")
        })?;
        ensure!(process.is_running(), "tcpdump: {}", process.log());
        Ok(Self { process })
    }

    /// Ends it when it has read what was captured.
    ///
    /// # Errors
    /// If it has ended by itself or cannot be understood.
    pub fn stop(mut self) -> anyhow::Result<Decoded> {
        // The kernel hands a block over when it is full or after a second at most.
        std::thread::sleep(Duration::from_millis(1_100));
        if self.process.is_running() {
            self.process.signal(Signal::SIGINT)?;
        }
        self.process.wait_within(Duration::from_secs(10))?;
        parse_tcpdump(&self.process.log())
    }
}

fn parse_tcpdump(log: &str) -> anyhow::Result<Decoded> {
    let count = |what: &str| {
        let line = log.lines().find(|line| line.contains(what))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let is_bad = |line: &&str| {
        line.contains("bad cksum") || line.contains("bad udp cksum") || line.contains("(incorrect")
    };
    Ok(Decoded {
        captured: count("packets captured").or(count("packet captured")).context("no count of packets")?,
        dropped: count("dropped by kernel").unwrap_or(0),
        bad: log.lines().filter(is_bad).map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcpdumps_complaints_are_found() {
        let log = "listening on eth0\n\
            00:00:00 IP (tos 0x0, ttl 64, id 1, offset 0, flags [DF], proto TCP (6), length 40, bad cksum 0 (->3ccf)!)\n    \
            1.1.1.1.1 > 2.2.2.2.2: Flags [.], cksum 0xfe28 (incorrect -> 0xb1c2), seq 1\n    \
            1.1.1.1.1 > 2.2.2.2.2: [bad udp cksum 0xfe1e -> 0xc4d4!] UDP, length 3\n    \
            1.1.1.1.1 > 2.2.2.2.2: Flags [.], cksum 0xb1c2 (correct), seq 1\n\
            4 packets captured\n4 packets received by filter\n1 packet dropped by kernel\n";
        let decoded = parse_tcpdump(log).unwrap();
        assert_eq!((decoded.captured, decoded.dropped, decoded.bad.len()), (4, 1, 3));
        assert!(parse_tcpdump("tcpdump: eth9: No such device exists").is_err());
    }
}
