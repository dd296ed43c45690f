//! Control connections: TCP streams around the [`ControlServer`], and the thread that asks the directory.
//!
//! One task owns the machine. Each connection has a reader that hands over bytes and a writer whose queue the machine
//! bounds; the directory runs on a thread of its own because committing waits for the disk.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::io::daemon::Orders;
use crate::io::follow::Follow;
use crate::io::forward::BanDesk;
use crate::server::{ConnId, ControlServer, StoreOp, StoreReply, StreamDrops, StreamOutput};

/// What a reader hands over at once, bytes.
const READ: usize = 16 * 1024;
/// Events from readers and writers that may wait; full means that readers stop reading.
const EVENTS: usize = 1024;
/// When many come at once, so many of these are dealt with before the next connection is taken from the kernel's queue,
/// where waiting costs nothing.
const EVENTS_PER_NEWCOMER: usize = 64;
/// After an accept that failed for lack of descriptors: existing connections go on meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests that are answered together at most: some ten milliseconds of signatures.
const GROUP: usize = 32;
/// A writer that cannot finish within this has a dead other side.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Who answers what leaves the machine: registrar and store.
pub trait Directory: Send + 'static {
    /// Does `op`; what it answers is durable when it returns.
    fn execute(&mut self, op: StoreOp, now: UnixTime) -> StoreReply;

    /// Does them in order; all that is answered is durable when it returns.
    fn execute_all(&mut self, ops: Vec<StoreOp>, now: UnixTime) -> Vec<StoreReply> {
        ops.into_iter().map(|op| self.execute(op, now)).collect()
    }
}

impl<D: Directory + ?Sized> Directory for Box<D> {
    fn execute(&mut self, op: StoreOp, now: UnixTime) -> StoreReply {
        (**self).execute(op, now)
    }

    fn execute_all(&mut self, ops: Vec<StoreOp>, now: UnixTime) -> Vec<StoreReply> {
        (**self).execute_all(ops, now)
    }
}

/// What the control side tells others, at most a second old.
#[derive(Clone, Default, Debug)]
pub struct ControlStats {
    /// Open connections.
    pub connections: usize,
    /// Members online.
    pub joined: usize,
    /// Refusals by reason.
    pub drops: StreamDrops,
}

/// A connection that was accepted elsewhere: on the TLS port.
pub struct Incoming {
    /// From where.
    pub peer: SocketAddr,
    /// What comes by it.
    pub read: ReadSide,
    /// What goes by it.
    pub write: WriteSide,
}

/// The reading side of a connection.
pub type ReadSide = Box<dyn AsyncRead + Send + Unpin>;
/// The writing side.
pub type WriteSide = Box<dyn AsyncWrite + Send + Unpin>;

enum Event {
    Bytes(ConnId, Vec<u8>),
    Written(ConnId, usize),
    Closed(ConnId),
}

struct Stream {
    writer: mpsc::UnboundedSender<Vec<u8>>,
    reader: AbortHandle,
}

struct Shell {
    server: ControlServer,
    clock: Clock,
    streams: BTreeMap<ConnId, Stream>,
    next: u64,
    events: mpsc::Sender<Event>,
    store: mpsc::UnboundedSender<(u64, StoreOp)>,
    bans: BanDesk,
}

/// Serves `listener`, and what comes by `incoming`, until `stop` says so; `news` are documents from the operator.
///
/// # Errors
/// The directory's thread cannot be started or has ended.
pub async fn run(
    (listener, mut incoming): (TcpListener, mpsc::Receiver<Incoming>),
    (server, clock): (ControlServer, Clock),
    (directory, follow): (impl Directory, Option<(Follow, Rng)>),
    (stats, bans): (Arc<Mutex<ControlStats>>, BanDesk),
    (orders, mut news): (Orders, mpsc::Receiver<Vec<u8>>),
) -> io::Result<()> {
    let (events, mut from_streams) = mpsc::channel(EVENTS);
    let (store, mut from_store) = start_directory(directory, clock)?;
    let following =
        follow.map(|(follow, rng)| tokio::spawn(follow.run(store.clone(), rng, clock)).abort_handle());
    let mut shell = Shell { server, clock, streams: BTreeMap::new(), next: 1, events, store, bans };
    let Orders { mut stop, mut drain } = orders;
    let mut publish = tokio::time::interval(Duration::from_secs(1));
    let mut draining = false;
    loop {
        let deadline = shell.server.poll_timeout().map(|at| clock.deadline(at));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(event) = from_streams.recv() => {
                shell.on_event(event);
                // Before others come in: a newcomer takes the place of whoever has not been listened to yet.
                for _ in 0..EVENTS_PER_NEWCOMER {
                    let Ok(event) = from_streams.try_recv() else { break };
                    shell.on_event(event);
                }
            }
            reply = from_store.recv() => {
                let Some((id, reply)) = reply else {
                    return Err(io::Error::other("the directory thread has ended"));
                };
                shell.server.handle_store_reply(id, reply, clock.now());
            }
            accepted = accept(&listener) => {
                if let Some((stream, peer)) = accepted {
                    let _ = stream.set_nodelay(true);
                    let (read, write) = stream.into_split();
                    shell.on_accept(peer, Box::new(read), Box::new(write));
                }
            }
            Some(Incoming { peer, read, write }) = incoming.recv() => shell.on_accept(peer, read, write),
            Some(document) = news.recv() => {
                let _gone = shell.store.send((0, StoreOp::Adopt { document }));
            }
            () = sleep_until(deadline) => shell.server.handle_timeout(clock.now()),
            Ok(_) = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                shell.server.drain(clock.now());
            }
            _ = publish.tick() => if let Ok(mut stats) = stats.lock() {
                stats.connections = shell.server.connections();
                stats.joined = shell.server.joined();
                stats.drops = shell.server.drops().clone();
            },
        }
        shell.drain();
    }
    for stream in shell.streams.values() {
        stream.reader.abort();
    }
    if let Some(following) = following {
        following.abort();
    }
    Ok(())
}

impl Shell {
    fn on_accept(&mut self, peer: SocketAddr, read: ReadSide, write: WriteSide) {
        let conn = ConnId(self.next);
        self.next += 1;
        if !self.server.handle_stream_opened(conn, peer, self.clock.now()) {
            return;
        }
        let (writer, queue) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_stream(conn, read, self.events.clone())).abort_handle();
        tokio::spawn(write_stream(conn, write, queue, self.events.clone()));
        self.streams.insert(conn, Stream { writer, reader });
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Bytes(conn, bytes) => self.server.handle_stream_bytes(conn, &bytes, self.clock.now()),
            Event::Written(conn, n) => self.server.handle_stream_written(conn, n),
            Event::Closed(conn) => {
                self.server.handle_stream_closed(conn, self.clock.now());
                self.drop_stream(conn);
            }
        }
    }

    /// Carries out what the machine wants.
    fn drain(&mut self) {
        while let Some(request) = self.server.poll_store_request() {
            let _ = self.store.send((request.id, request.op));
        }
        while let Some(output) = self.server.poll_stream_write() {
            match output {
                StreamOutput::Bytes(conn, bytes) => {
                    if let Some(stream) = self.streams.get(&conn) {
                        let _ = stream.writer.send(bytes);
                    }
                }
                StreamOutput::Close(conn) => self.drop_stream(conn),
            }
        }
        if let Some(revoked) = self.server.poll_revoked() {
            self.bans.publish(revoked);
        }
    }

    /// The writer ends after its queue, or after its deadline.
    fn drop_stream(&mut self, conn: ConnId) {
        if let Some(stream) = self.streams.remove(&conn) {
            stream.reader.abort();
        }
    }
}

async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Never ends the loop: an error costs one connection or a pause.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            debug!(%error, "accept failed");
            if matches!(
                error.raw_os_error(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
            ) {
                warn!(%error, "no descriptors for another control connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// What has arrived, at most [`READ`] bytes. The buffer is there only while it is filled: ten thousand connections that are
/// silent most of the time have none.
async fn read_some(read: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        std::task::ready!(Pin::new(&mut *read).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().to_vec()))
    })
    .await
}

async fn read_stream(conn: ConnId, mut read: ReadSide, events: mpsc::Sender<Event>) {
    loop {
        match read_some(&mut read).await {
            Ok(bytes) if !bytes.is_empty() => {
                if events.send(Event::Bytes(conn, bytes)).await.is_err() {
                    return;
                }
            }
            _ => {
                let _ = events.send(Event::Closed(conn)).await;
                return;
            }
        }
    }
}

async fn write_stream(
    conn: ConnId,
    mut write: WriteSide,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    events: mpsc::Sender<Event>,
) {
    while let Some(bytes) = queue.recv().await {
        let written = async {
            write.write_all(&bytes).await?;
            // TLS may hold some of it.
            write.flush().await
        };
        match tokio::time::timeout(WRITE_DEADLINE, written).await {
            Ok(Ok(())) => {
                if events.send(Event::Written(conn, bytes.len())).await.is_err() {
                    return;
                }
            }
            _ => {
                let _ = events.send(Event::Closed(conn)).await;
                return;
            }
        }
    }
    let _ = write.shutdown().await;
}

type StoreChannel = (mpsc::UnboundedSender<(u64, StoreOp)>, mpsc::UnboundedReceiver<(u64, StoreReply)>);

/// Requests are bounded by the machine: so many per connection, so many connections.
fn start_directory(mut directory: impl Directory, clock: Clock) -> io::Result<StoreChannel> {
    let (store, mut requests) = mpsc::unbounded_channel();
    let (replies, from_store) = mpsc::unbounded_channel();
    thread::Builder::new().name("directory".into()).spawn(move || {
        while let Some((id, op)) = requests.blocking_recv() {
            // What has come meanwhile shares one sync of the disk: a thousand nodes that join wait for few.
            let (mut ids, mut ops) = (vec![id], vec![op]);
            while ops.len() < GROUP
                && let Ok((id, op)) = requests.try_recv()
            {
                ids.push(id);
                ops.push(op);
            }
            let done = directory.execute_all(ops, clock.now().unix);
            if ids.into_iter().zip(done).any(|answer| replies.send(answer).is_err()) {
                return;
            }
        }
    })?;
    Ok((store, from_store))
}
