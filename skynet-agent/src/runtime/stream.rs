//! The connection of the control channel: bytes both ways, no look inside. TCP to the relay's port, or where that does not
//! open within a second, TLS to port 443, directly and through the proxy if there is one.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use skynet_core::carrier::{Way, ways};
use skynet_core::control::channel::Purpose;
use skynet_core::node::ControlStreamEvent;
use skynet_tls::{Dialer, Route};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::config::TlsWays;

/// A relay that accepts no connection within this is down for now; the core decides what then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Segments in either direction, in bytes: small enough for any path there is. This is TCP, so where ICMP is eaten nobody
/// would find out that larger ones vanish; a few kilobytes an hour need none.
const SEGMENT: u32 = 1_000;
/// A stalled connection is given up after this many unwritten messages.
const UNWRITTEN: usize = 256;
/// Read at a time: one control message at its hard maximum.
const READ: usize = 16 << 10;

/// At most one connection; opening another closes it.
pub(super) struct ControlStream {
    tls: TlsWays,
    events: mpsc::Receiver<(u64, Heard)>,
    sender: mpsc::Sender<(u64, Heard)>,
    /// Which connection is meant: events of earlier ones are late and dropped.
    generation: u64,
    writer: Option<mpsc::Sender<Vec<u8>>>,
    /// The open connection failed on our side and `Closed` has not been told yet.
    failed: bool,
    /// The present connection was accepted and has brought nothing yet.
    silent: bool,
    /// Connections in a row that were accepted and closed without a byte.
    unanswered: u32,
    /// The way of the present connection, or of the last one.
    way: Option<Way>,
    /// The way that led to somebody without a word.
    mute: Option<Way>,
}

/// What a connection tells.
enum Heard {
    Connected(Way),
    Bytes(Vec<u8>),
    Closed,
}

impl ControlStream {
    pub(super) fn new(tls: TlsWays) -> Self {
        let (sender, events) = mpsc::channel(64);
        Self {
            tls,
            events,
            sender,
            generation: 0,
            writer: None,
            failed: false,
            silent: false,
            unanswered: 0,
            way: None,
            mute: None,
        }
    }

    /// Opens a connection to `to`, which is the first relay or another; the outcome is an event.
    pub(super) fn connect(&mut self, to: SocketAddr, is_first: bool) {
        self.close();
        let (writer, unwritten) = mpsc::channel(UNWRITTEN);
        self.writer = Some(writer);
        let link = Link { generation: self.generation, events: self.sender.clone() };
        let attempts = self.attempts(to, &self.tls.of(is_first));
        tokio::spawn(async move {
            if let Err(e) = link.run(attempts, unwritten).await {
                tracing::debug!(relay = %to, %e, "control stream ended");
            }
            link.tell(Heard::Closed).await;
        });
    }

    /// What is tried, and how long after the beginning each.
    fn attempts(&self, to: SocketAddr, tls: &TlsWays) -> Vec<(Target, Duration)> {
        let proxied = tls.proxied(to);
        let target = |way| match way {
            Way::Tcp => Some(Target::Tcp(to)),
            Way::Tls => Some(Target::Tls(way, tls.direct(to))),
            Way::Proxy => proxied.clone().map(|route| Target::Tls(way, route)),
        };
        let plan = ways(proxied.is_some(), self.way, self.mute);
        plan.into_iter().filter_map(|(way, after)| Some((target(way)?, after))).collect()
    }

    /// Queues bytes for the open connection.
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        let Some(writer) = &self.writer else { return };
        if writer.try_send(bytes).is_err() {
            self.close();
            self.failed = true;
        }
    }

    /// Closes the connection; no event of it follows.
    pub(super) fn close(&mut self) {
        self.generation += 1;
        self.writer = None;
        self.failed = false;
    }

    /// Closes the connection when everything queued is written, and waits for that.
    pub(super) async fn finish(&mut self) {
        if self.writer.take().is_some() {
            while self.next().await != ControlStreamEvent::Closed {}
        }
    }

    /// Connections in a row that the other end accepted and closed without a word.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    fn note(&mut self, heard: Heard) -> ControlStreamEvent {
        match heard {
            Heard::Connected(way) => {
                (self.silent, self.way) = (true, Some(way));
                ControlStreamEvent::Connected
            }
            Heard::Bytes(bytes) => {
                (self.silent, self.unanswered, self.mute) = (false, 0, None);
                ControlStreamEvent::Bytes(bytes)
            }
            // One that was not even accepted says nothing about who would have answered.
            Heard::Closed => {
                self.unanswered = if self.silent { self.unanswered + 1 } else { 0 };
                self.mute = self.way.filter(|_| self.silent);
                self.silent = false;
                ControlStreamEvent::Closed
            }
        }
    }

    /// The next event of the present connection. Loses none if dropped while waiting.
    pub(super) async fn next(&mut self) -> ControlStreamEvent {
        if std::mem::take(&mut self.failed) {
            return ControlStreamEvent::Closed;
        }
        loop {
            match self.events.recv().await {
                Some((generation, heard)) if generation == self.generation => return self.note(heard),
                Some(_) => {}
                None => unreachable!("we hold a sender ourselves"),
            }
        }
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket2::SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What can be connected to.
enum Target {
    Tcp(SocketAddr),
    Tls(Way, Route),
}

/// Both sides of an open connection.
struct Open {
    way: Way,
    read: Box<dyn AsyncRead + Send + Unpin>,
    write: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Target {
    async fn open(self) -> io::Result<Open> {
        match self {
            Self::Tcp(to) => {
                let (read, write) = connect(to).await?.into_split();
                Ok(Open { way: Way::Tcp, read: Box::new(read), write: Box::new(write) })
            }
            Self::Tls(way, route) => {
                let dialled = Dialer::new().dial(&route, Purpose::Control).await;
                let (stream, early) = dialled.map_err(io::Error::other)?;
                let (read, write) = tokio::io::split(stream);
                let read = io::Cursor::new(early).chain(read);
                Ok(Open { way, read: Box::new(read), write: Box::new(write) })
            }
        }
    }
}

/// All of them, each at its time or as soon as another has failed; the first that opens.
async fn race(attempts: Vec<(Target, Duration)>) -> io::Result<Open> {
    let failed = std::sync::Arc::new(Notify::new());
    let mut running = JoinSet::new();
    for (target, after) in attempts {
        let failed = std::sync::Arc::clone(&failed);
        running.spawn(async move {
            if !after.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(after) => {}
                    () = failed.notified() => {}
                }
            }
            target.open().await
        });
    }
    let mut first = None;
    while let Some(done) = running.join_next().await {
        match done.map_err(io::Error::other).and_then(|opened| opened) {
            Ok(open) => return Ok(open),
            Err(error) => {
                first.get_or_insert(error);
                failed.notify_waiters();
            }
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::NotConnected.into()))
}

struct Link {
    generation: u64,
    events: mpsc::Sender<(u64, Heard)>,
}

impl Link {
    async fn tell(&self, event: Heard) {
        // Nobody listening: the agent is ending.
        let _ = self.events.send((self.generation, event)).await;
    }

    async fn run(
        &self,
        attempts: Vec<(Target, Duration)>,
        mut unwritten: mpsc::Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, race(attempts)).await;
        let open = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.tell(Heard::Connected(open.way)).await;
        let (mut read, mut write) = (open.read, open.write);
        let reading = async {
            let mut buffer = vec![0; READ];
            loop {
                let len = read.read(&mut buffer).await?;
                if len == 0 {
                    return io::Result::Ok(());
                }
                self.tell(Heard::Bytes(buffer[..len].to_vec())).await;
            }
        };
        let writing = async {
            while let Some(bytes) = unwritten.recv().await {
                write.write_all(&bytes).await?;
                // TLS may hold some of it.
                write.flush().await?;
            }
            write.shutdown().await
        };
        tokio::select! { result = reading => result, result = writing => result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn block_on(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn bytes_go_both_ways_and_the_end_is_told() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = ControlStream::new(TlsWays::default());
            stream.connect(listener.local_addr().unwrap(), true);
            let (mut other, _) = listener.accept().await.unwrap();
            assert_eq!(stream.next().await, ControlStreamEvent::Connected);
            stream.send(b"hello".to_vec());
            let mut buffer = [0; 5];
            other.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"hello");
            other.write_all(b"welcome").await.unwrap();
            assert_eq!(stream.next().await, ControlStreamEvent::Bytes(b"welcome".to_vec()));
            drop(other);
            assert_eq!(stream.next().await, ControlStreamEvent::Closed);
        });
    }

    #[test]
    fn a_refused_connection_is_a_closed_one() {
        block_on(async {
            let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let mut stream = ControlStream::new(TlsWays::default());
            stream.connect(address, true);
            assert_eq!(stream.next().await, ControlStreamEvent::Closed);
            assert_eq!(stream.unanswered(), 0);
        });
    }

    #[test]
    fn a_relay_that_hangs_up_without_a_word_is_counted() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = ControlStream::new(TlsWays::default());
            for attempt in 1..=3 {
                stream.connect(listener.local_addr().unwrap(), true);
                drop(listener.accept().await.unwrap());
                assert_eq!(stream.next().await, ControlStreamEvent::Connected);
                assert_eq!(stream.next().await, ControlStreamEvent::Closed);
                assert_eq!(stream.unanswered(), attempt);
            }
        });
    }

    #[test]
    fn nothing_is_heard_of_a_connection_that_was_replaced() {
        block_on(async {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = ControlStream::new(TlsWays::default());
            stream.connect(first.local_addr().unwrap(), true);
            let (mut old, _) = first.accept().await.unwrap();
            old.write_all(b"old").await.unwrap();
            stream.connect(second.local_addr().unwrap(), true);
            let (mut new, _) = second.accept().await.unwrap();
            new.write_all(b"new").await.unwrap();
            assert_eq!(stream.next().await, ControlStreamEvent::Connected);
            assert_eq!(stream.next().await, ControlStreamEvent::Bytes(b"new".to_vec()));
        });
    }

    #[test]
    fn a_relay_that_reads_nothing_is_given_up() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = ControlStream::new(TlsWays::default());
            stream.connect(listener.local_addr().unwrap(), true);
            let _other = listener.accept().await.unwrap();
            assert_eq!(stream.next().await, ControlStreamEvent::Connected);
            for _ in 0..=UNWRITTEN {
                stream.send(vec![0; 16]);
            }
            assert_eq!(stream.next().await, ControlStreamEvent::Closed);
        });
    }
}
