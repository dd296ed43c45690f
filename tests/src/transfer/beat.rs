//! A datagram every so often, in one direction, and what became of them: how long the receiver heard nothing, and whether
//! anything came twice. It goes on while a test breaks things.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Ends;
use crate::clock;
use crate::fleet::traffic::MARKER;

/// How long sender and receiver look away from whether they should end.
const GLANCE: Duration = Duration::from_millis(50);
const BYTES: usize = 200;

/// A running series.
#[derive(Debug)]
pub struct Beat {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    is_over: AtomicBool,
    sent: AtomicU64,
    heard: Mutex<Heard>,
}

#[derive(Debug)]
struct Heard {
    seen: BTreeSet<u64>,
    duplicates: u64,
    last: Instant,
    longest_gap: Duration,
}

/// What became of a whole series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeatReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Of these arrived, each counted once.
    pub arrived: u64,
    /// Arrivals of what had arrived before.
    pub duplicates: u64,
}

impl Beat {
    /// Begins to send a datagram `every` so often.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn start(ends: Ends<'_>, every: Duration) -> anyhow::Result<Self> {
        let receiver = ends.to.run(|| UdpSocket::bind((ends.bind, ends.port)))?.context("binding")?;
        receiver.set_read_timeout(Some(GLANCE))?;
        let target = SocketAddr::new(ends.target, receiver.local_addr()?.port());
        let any: IpAddr = if ends.target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let sender = ends.from.run(|| UdpSocket::bind((any, 0)))?.context("binding")?;
        let heard =
            Heard { seen: BTreeSet::new(), duplicates: 0, last: clock::now(), longest_gap: Duration::ZERO };
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            heard: Mutex::new(heard),
        });
        let (sends, receives) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || sends.send(&sender, target, every)),
            std::thread::spawn(move || receives.receive(&receiver)),
        ];
        Ok(Self { shared, threads })
    }

    /// Forgets the silences until now: measures from here on.
    pub fn mark(&self) {
        let mut heard = self.shared.heard();
        heard.last = clock::now();
        heard.longest_gap = Duration::ZERO;
    }

    /// The longest silence since the last mark, the one that goes on included.
    pub fn longest_gap(&self) -> Duration {
        let heard = self.shared.heard();
        heard.longest_gap.max(heard.last.elapsed())
    }

    /// Since when nothing was heard.
    pub fn silence(&self) -> Duration {
        self.shared.heard().last.elapsed()
    }

    /// Ends it, after a moment for what is on its way.
    pub fn stop(mut self) -> BeatReport {
        let sent = self.shared.sent.load(Ordering::Acquire);
        std::thread::sleep(Duration::from_millis(300));
        self.end();
        let heard = self.shared.heard();
        let arrived = heard.seen.range(..sent).count() as u64;
        BeatReport { sent, arrived, duplicates: heard.duplicates }
    }

    fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no panic holds it")
    }

    fn send(&self, socket: &UdpSocket, target: SocketAddr, every: Duration) {
        let mut datagram = [0; BYTES];
        datagram[8..8 + MARKER.len()].copy_from_slice(MARKER);
        while !self.is_over.load(Ordering::Acquire) {
            let number = self.sent.fetch_add(1, Ordering::AcqRel);
            datagram[..8].copy_from_slice(&number.to_be_bytes());
            // Without a route there is nothing to send; that is one of the things that happen.
            let _ = socket.send_to(&datagram, target);
            std::thread::sleep(every);
        }
    }

    fn receive(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        while !self.is_over.load(Ordering::Acquire) {
            let Ok(BYTES) = socket.recv(&mut buffer) else { continue };
            let number = u64::from_be_bytes(*buffer.first_chunk().expect("longer than eight bytes"));
            let now = clock::now();
            let mut heard = self.heard();
            heard.longest_gap = heard.longest_gap.max(now - heard.last);
            heard.last = now;
            let is_new = heard.seen.insert(number);
            heard.duplicates += u64::from(!is_new);
        }
    }
}
