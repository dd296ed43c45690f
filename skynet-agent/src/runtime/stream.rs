//! The TCP connection of the control channel: bytes both ways, no look inside.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use skynet_core::node::ControlStreamEvent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

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
    events: mpsc::Receiver<(u64, ControlStreamEvent)>,
    sender: mpsc::Sender<(u64, ControlStreamEvent)>,
    /// Which connection is meant: events of earlier ones are late and dropped.
    generation: u64,
    writer: Option<mpsc::Sender<Vec<u8>>>,
    /// The open connection failed on our side and `Closed` has not been told yet.
    failed: bool,
    /// The present connection was accepted and has brought nothing yet.
    silent: bool,
    /// Connections in a row that were accepted and closed without a byte.
    unanswered: u32,
}

impl ControlStream {
    pub(super) fn new() -> Self {
        let (sender, events) = mpsc::channel(64);
        Self { events, sender, generation: 0, writer: None, failed: false, silent: false, unanswered: 0 }
    }

    /// Opens a connection to `to`; the outcome is an event.
    pub(super) fn connect(&mut self, to: SocketAddr) {
        self.close();
        let (writer, unwritten) = mpsc::channel(UNWRITTEN);
        self.writer = Some(writer);
        let link = Link { generation: self.generation, events: self.sender.clone() };
        tokio::spawn(async move {
            if let Err(e) = link.run(to, unwritten).await {
                tracing::debug!(relay = %to, %e, "control stream ended");
            }
            link.tell(ControlStreamEvent::Closed).await;
        });
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

    /// Connections in a row that the other end accepted and closed without a word.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    fn note(&mut self, event: &ControlStreamEvent) {
        match event {
            ControlStreamEvent::Connected => self.silent = true,
            ControlStreamEvent::Bytes(_) => (self.silent, self.unanswered) = (false, 0),
            // One that was not even accepted says nothing about who would have answered.
            ControlStreamEvent::Closed => {
                self.unanswered = if self.silent { self.unanswered + 1 } else { 0 };
                self.silent = false;
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
                Some((generation, event)) if generation == self.generation => {
                    self.note(&event);
                    return event;
                }
                Some(_) => {}
                None => unreachable!("we hold a sender ourselves"),
            }
        }
    }
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket2::SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    socket.connect(to).await
}

struct Link {
    generation: u64,
    events: mpsc::Sender<(u64, ControlStreamEvent)>,
}

impl Link {
    async fn tell(&self, event: ControlStreamEvent) {
        // Nobody listening: the agent is ending.
        let _ = self.events.send((self.generation, event)).await;
    }

    async fn run(&self, to: SocketAddr, mut unwritten: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(to)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        self.tell(ControlStreamEvent::Connected).await;
        let (mut read, mut write) = stream.into_split();
        let reading = async {
            let mut buffer = vec![0; READ];
            loop {
                let len = read.read(&mut buffer).await?;
                if len == 0 {
                    return io::Result::Ok(());
                }
                self.tell(ControlStreamEvent::Bytes(buffer[..len].to_vec())).await;
            }
        };
        let writing = async {
            while let Some(bytes) = unwritten.recv().await {
                write.write_all(&bytes).await?;
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
            let mut stream = ControlStream::new();
            stream.connect(listener.local_addr().unwrap());
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
            let mut stream = ControlStream::new();
            stream.connect(address);
            assert_eq!(stream.next().await, ControlStreamEvent::Closed);
            assert_eq!(stream.unanswered(), 0);
        });
    }

    #[test]
    fn a_relay_that_hangs_up_without_a_word_is_counted() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = ControlStream::new();
            for attempt in 1..=3 {
                stream.connect(listener.local_addr().unwrap());
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
            let mut stream = ControlStream::new();
            stream.connect(first.local_addr().unwrap());
            let (mut old, _) = first.accept().await.unwrap();
            old.write_all(b"old").await.unwrap();
            stream.connect(second.local_addr().unwrap());
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
            let mut stream = ControlStream::new();
            stream.connect(listener.local_addr().unwrap());
            let _other = listener.accept().await.unwrap();
            assert_eq!(stream.next().await, ControlStreamEvent::Connected);
            for _ in 0..=UNWRITTEN {
                stream.send(vec![0; 16]);
            }
            assert_eq!(stream.next().await, ControlStreamEvent::Closed);
        });
    }
}
