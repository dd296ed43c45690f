//! The sockets of the resolver and what bounds them. What is asked is answered by the control task, which has the roster.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{MAX_QUERY, Parsed, Question};

/// Questions by UDP that wait for their answer; further ones wait in the sockets' buffers.
const MAX_WAITING: usize = 64;
/// TCP connections at a time, on each address.
const MAX_CONNECTIONS: usize = 16;
/// A connection that asks nothing is closed.
const IDLE: Duration = Duration::from_secs(5);
/// Queries a second on each address: a few per cent of a core. What is above waits in the socket's buffer, and goes when
/// that is full.
const RATE: u32 = 2_000;
/// And at once.
const BURST: u32 = 500;
/// So long a name may take to become known, when nobody has asked for any before.
const PATIENCE: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(25);
/// A port that is taken may become free.
const BIND_AGAIN: Duration = Duration::from_secs(30);

/// A question on its way to the control task.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub question: Question,
    /// There is no time left: answer with what is known.
    pub last: bool,
    /// The answer; `None`: not known yet, ask again.
    pub reply: oneshot::Sender<Option<Vec<u8>>>,
}

/// What it did since it began.
#[derive(Debug, Default)]
pub struct Figures {
    answered: AtomicU64,
    dropped: AtomicU64,
}

impl Figures {
    /// Queries answered.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Queries that got no answer: no queries at all, of somebody else, or a connection too many.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn count(&self, is_answered: bool) {
        let counter = if is_answered { &self.answered } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A running resolver; dropping it closes its sockets.
pub struct Server {
    _tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    asks: mpsc::Sender<Ask>,
    figures: Arc<Figures>,
    waiting: Arc<Semaphore>,
    /// Each address, and why it cannot be listened on.
    listening: Mutex<Vec<(SocketAddr, Result<(), String>)>>,
}

impl Server {
    /// Listens on each of `addresses`, or goes on trying. Must be called within a tokio runtime.
    pub fn start(addresses: &[IpAddr], port: u16, asks: mpsc::Sender<Ask>, figures: Arc<Figures>) -> Self {
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let shared = Arc::new(Shared { asks, figures, waiting, listening: Mutex::default() });
        let mut tasks = JoinSet::new();
        for &ip in addresses {
            let address = SocketAddr::new(ip, port);
            let bound = bind(address);
            shared.note(address, bound.as_ref().map(drop).map_err(io::Error::to_string));
            tasks.spawn(serve(address, bound, Arc::clone(&shared)));
        }
        Self { _tasks: tasks, shared }
    }

    /// Where it listens, and why not elsewhere.
    pub fn listening(&self) -> Vec<(SocketAddr, Result<(), String>)> {
        self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn note(&self, address: SocketAddr, state: Result<(), String>) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let known = listening.iter().position(|(known, _)| *known == address);
        // The same again and again is one line.
        if let (Err(why), true) = (&state, known.is_none_or(|at| listening[at].1 != state)) {
            tracing::warn!(%address, why, "no DNS here");
        }
        match known {
            Some(at) => listening[at].1 = state,
            None => listening.push((address, state)),
        }
    }

    /// The answer to these bytes, if they get one.
    async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let question = match Question::parse(query) {
            Parsed::Ask(question) => question,
            Parsed::Reply(reply) => return Some(reply),
            Parsed::Silence => return None,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (reply, answer) = oneshot::channel();
            let last = Instant::now() >= deadline;
            self.asks.try_send(Ask { question: question.clone(), last, reply }).ok()?;
            match answer.await {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) if !last => tokio::time::sleep(ASK_AGAIN).await,
                _ => return None,
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let udp = std::net::UdpSocket::bind(address)?;
    // With SO_REUSEADDR, so that connections of a run before are not in the way.
    let tcp = std::net::TcpListener::bind(address)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

type Bound = io::Result<(std::net::UdpSocket, std::net::TcpListener)>;

async fn serve(address: SocketAddr, mut bound: Bound, shared: Arc<Shared>) {
    loop {
        let sockets = bound.and_then(|(u, t)| Ok((UdpSocket::from_std(u)?, TcpListener::from_std(t)?)));
        match sockets {
            Ok((udp, tcp)) => {
                shared.note(address, Ok(()));
                tokio::join!(serve_udp(Arc::new(udp), &shared), serve_tcp(tcp, &shared));
                return;
            }
            Err(e) => shared.note(address, Err(e.to_string())),
        }
        tokio::time::sleep(BIND_AGAIN).await;
        bound = bind(address);
    }
}

/// Only this machine: what it sends to an address of its own has an address of its own.
fn is_own(from: SocketAddr, to: io::Result<SocketAddr>) -> bool {
    to.is_ok_and(|to| from.ip() == to.ip()) || from.ip().is_loopback()
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: &Arc<Shared>) {
    let (mut buffer, mut pace) = ([0; MAX_QUERY + 1], Pace::new());
    let mut questions = JoinSet::new();
    loop {
        pace.next().await;
        let Ok(slot) = Arc::clone(&shared.waiting).acquire_owned().await else { return };
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        while questions.try_join_next().is_some() {}
        if !is_own(from, socket.local_addr()) {
            shared.figures.count(false);
            continue;
        }
        let (query, socket, shared) = (buffer[..len].to_vec(), Arc::clone(&socket), Arc::clone(shared));
        questions.spawn(async move {
            let _slot = slot;
            let answer = shared.answer(&query).await;
            shared.figures.count(answer.is_some());
            if let Some(answer) = answer {
                // Whoever has gone needs none.
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, shared: &Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors: others give theirs back.
            tokio::time::sleep(ASK_AGAIN).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) if is_own(from, stream.local_addr()) => {
                let shared = Arc::clone(shared);
                connections.spawn(async move {
                    let _slot = slot;
                    let _ = converse(stream, &shared).await;
                });
            }
            _ => shared.figures.count(false),
        }
    }
}

/// Queries behind their lengths (RFC 1035 §4.2.2), one after the other.
async fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let (mut buffer, mut pace) = ([0; MAX_QUERY], Pace::new());
    loop {
        pace.next().await;
        let query = async {
            let len = usize::from(stream.read_u16().await?);
            let query = buffer.get_mut(..len).ok_or(io::ErrorKind::InvalidData)?;
            stream.read_exact(query).await?;
            io::Result::Ok(len)
        };
        let len = tokio::time::timeout(IDLE, query).await??;
        let answer = shared.answer(&buffer[..len]).await;
        shared.figures.count(answer.is_some());
        let answer = answer.ok_or(io::ErrorKind::InvalidData)?;
        let len = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let framed = [&len.to_be_bytes()[..], &answer].concat();
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// [`RATE`] a second, [`BURST`] at once.
struct Pace {
    left: u32,
    filled: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { left: BURST, filled: Instant::now() }
    }

    async fn next(&mut self) {
        if self.left == 0 {
            let full = Duration::from_secs(1) * BURST / RATE;
            tokio::time::sleep_until(self.filled + full).await;
            (self.left, self.filled) = (BURST, Instant::now());
        }
        self.left -= 1;
    }
}
