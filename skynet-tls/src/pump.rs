//! Moves frames between a stream and a UDP socket of this host, which is connected to whoever deals with datagrams: the
//! relay's port on one end, the agent's on the other. To those it is one more UDP peer.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skynet_core::carrier::{CarrierError, FrameStream, StreamDrops};
use skynet_core::time::Instant;
use skynet_core::wire::relay::BOUND;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UdpSocket;

/// Read of the stream at a time; what one `feed` takes.
const READ: usize = 16 * 1024;
/// Longest datagram; longer ones do not fit a message of the stream either.
const MAX_DATAGRAM: usize = 16 * 1024;
/// Datagrams taken before the stream gets its turn.
const BATCH: usize = 64;
/// Three keepalives of a session and some.
const IDLE: Duration = Duration::from_secs(75);
/// Who takes nothing for so long does not read.
const STALLED: Duration = Duration::from_secs(10);
/// Who has no session by then holds a place for nothing.
const UNBOUND: Duration = Duration::from_secs(10);

/// Frames of all pumps that share it, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// From streams.
    pub received: AtomicU64,
    /// Into streams.
    pub sent: AtomicU64,
    /// Waited too long for their stream.
    pub old: AtomicU64,
    /// Found too many before them.
    pub full: AtomicU64,
    /// Of a kind that has no business there.
    pub foreign: AtomicU64,
    /// The UDP socket did not take them.
    pub unsent: AtomicU64,
}

/// Why a pump ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// By the other end.
    #[error("closed by the other end")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The stream inside broke.
    #[error("{0}")]
    Carrier(#[from] CarrierError),
    /// No Noise handshake in time.
    #[error("no handshake in time; whoever answers there is not the relay")]
    Handshake,
    /// No session in time.
    #[error("no session in time")]
    Unbound,
    /// Nothing came.
    #[error("silent for too long")]
    Idle,
    /// Nothing is taken.
    #[error("the other end does not read")]
    SlowReader,
}

/// A pump about to run.
pub struct Pump<'a> {
    /// The stream's inner end.
    pub frames: FrameStream,
    /// The socket, connected.
    pub udp: &'a UdpSocket,
    /// Whether the stream ends if no BOUND has gone into it in time: the relay's end.
    pub demands_session: bool,
    /// Where frames are counted.
    pub counters: &'a Counters,
}

/// What is being written.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    written: usize,
    /// TLS may still hold some of what it took.
    dirty: bool,
}

impl Out {
    fn is_done(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Writes some, or flushes. Dropping it while it waits loses nothing.
    async fn progress(&mut self, write: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.is_done() {
            write.flush().await?;
            self.dirty = false;
        } else {
            let n = write.write(&self.bytes[self.written..]).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += n;
            self.dirty = true;
        }
        Ok(())
    }
}

impl Pump<'_> {
    /// Runs until one end is gone. `early`: bytes of the stream that have come already. `now`: the shell's clock.
    pub async fn run<S>(mut self, stream: S, early: &[u8], now: impl Fn() -> Instant) -> Ended
    where
        S: AsyncRead + AsyncWrite,
    {
        match self.try_run(stream, early, now).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn try_run<S>(&mut self, stream: S, early: &[u8], now: impl Fn() -> Instant) -> Result<Ended, Ended>
    where
        S: AsyncRead + AsyncWrite,
    {
        let (mut read, mut write) = tokio::io::split(stream);
        let (mut bytes, mut datagram) = (vec![0; READ], vec![0; MAX_DATAGRAM]);
        let mut out = Out::default();
        let mut drops = StreamDrops::default();
        let begun = now();
        let (mut heard, mut moved) = (begun, begun);
        self.feed(early)?;
        loop {
            if out.is_done() && !out.dirty {
                // What waits to be written is only late if something did wait.
                moved = now();
                if let Some(next) = self.frames.poll_bytes(moved) {
                    out = Out { bytes: next, ..Out::default() };
                }
            }
            let busy = !out.is_done() || out.dirty;
            self.count(&mut drops);
            let (deadline, ended) = self.deadline(begun, heard, busy.then_some(moved));
            tokio::select! {
                read = read.read(&mut bytes) => match read? {
                    0 => return Ok(Ended::Closed),
                    n => {
                        heard = now();
                        self.feed(&bytes[..n])?;
                    }
                },
                done = out.progress(&mut write), if busy => {
                    done?;
                    moved = now();
                }
                _ = self.udp.readable() => self.take(&mut datagram, now()),
                () = tokio::time::sleep(deadline.saturating_since(now())) => return Ok(ended),
            }
        }
    }

    /// Bytes of the stream; their frames go out as datagrams.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), CarrierError> {
        let (udp, counters) = (self.udp, self.counters);
        self.frames.feed(bytes, |frame| {
            counters.received.fetch_add(1, Ordering::Relaxed);
            if udp.try_send(frame).is_err() {
                counters.unsent.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Datagrams that have come, into the queue.
    fn take(&mut self, buffer: &mut [u8], now: Instant) {
        for _ in 0..BATCH {
            // An error is one of an earlier send: whom this socket is connected to has gone, and may come back.
            let Ok(len) = self.udp.try_recv(buffer) else { return };
            let frame = &buffer[..len];
            self.demands_session &= frame.first() != Some(&BOUND);
            self.counters.sent.fetch_add(1, Ordering::Relaxed);
            self.frames.push(frame, now);
        }
    }

    /// What ends next if nothing happens before.
    fn deadline(&self, begun: Instant, heard: Instant, writing: Option<Instant>) -> (Instant, Ended) {
        let mut first = (heard + IDLE, Ended::Idle);
        let mut or = |at: Instant, ended| {
            if at < first.0 {
                first = (at, ended);
            }
        };
        if let Some(at) = self.frames.deadline() {
            or(at, Ended::Handshake);
        }
        if let Some(moved) = writing {
            or(moved + STALLED, Ended::SlowReader);
        }
        if self.demands_session {
            or(begun + UNBOUND, Ended::Unbound);
        }
        first
    }

    /// Adds what was dropped since the last time.
    fn count(&self, last: &mut StreamDrops) {
        let drops = self.frames.drops();
        if drops != *last {
            self.counters.old.fetch_add(drops.queue.old - last.queue.old, Ordering::Relaxed);
            self.counters.full.fetch_add(drops.queue.full - last.queue.full, Ordering::Relaxed);
            self.counters.foreign.fetch_add(drops.foreign - last.foreign, Ordering::Relaxed);
            *last = drops;
        }
    }
}
