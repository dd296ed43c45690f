//! The TLS port: connections that carry frames are bridged to the relay's own UDP port, those that carry a control
//! channel are handed to the control server, everybody else gets a page.
//!
//! ```text
//!  TLS client ══▶ FrameStream ─▶ 127.128.0.0/9:port ─UDP─▶ relay's UDP port ─▶ Forwarder
//! ```
//! To the [`Forwarder`](crate::server::Forwarder) a bridge is one more UDP client: TLS and UDP clients reach each other,
//! and there is one session table (docs/adr/0011). It has threads of its own, for bulk in TLS must delay neither control
//! nor datagrams.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use skynet_core::carrier::FrameStream;
use skynet_core::control::channel::Purpose;
use skynet_core::key::StaticSecret;
use skynet_core::rng::{Rng, RngCore as _};
use skynet_tls::{Accepted, Counters, Ended, Pump, ServerStream, TlsAcceptor, accept};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::io::control::Incoming;
use crate::io::descriptors::TLS_SHARE;
use crate::server::{Seat, Seats, StreamDrop, StreamDrops, seats};

/// Connections at once, if the process may have as many descriptors.
const MAX_CONNECTIONS: u64 = 10_000;
/// Descriptors left for everything else.
const RESERVED_DESCRIPTORS: u64 = 256;
/// Threads for TLS: ciphers use what there is, and leave some to datagrams.
const MAX_THREADS: usize = 4;
/// After an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Receive buffer of a bridge, bytes: what comes for its client while its task waits for a core.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How often the end of the relay is looked for.
const STOP_EVERY: Duration = Duration::from_millis(100);

/// What the TLS port is made of.
pub struct TlsParts {
    /// The listening socket.
    pub listener: std::net::TcpListener,
    /// The certificate in force.
    pub acceptor: TlsAcceptor,
    /// The address the relay's UDP port is bound to.
    pub udp: SocketAddr,
    /// The relay's key, for the handshake inside.
    pub key: StaticSecret,
    /// Where control channels go.
    pub control: mpsc::Sender<Incoming>,
}

/// What the TLS port tells others.
#[derive(Clone, Default, Debug)]
pub struct TlsStats {
    /// Connections, those that still shake hands included.
    pub connections: usize,
    /// Of those, such that carry frames.
    pub carriers: usize,
    /// Frames from and to them.
    pub frames: (u64, u64),
    /// Drops by reason.
    pub drops: StreamDrops,
}

struct Shared {
    acceptor: TlsAcceptor,
    udp: SocketAddr,
    key: StaticSecret,
    clock: Clock,
    seed: u64,
    control: mpsc::Sender<Incoming>,
    seats: Mutex<Seats>,
    rng: Mutex<Rng>,
    drops: Mutex<StreamDrops>,
    counters: Counters,
    carriers: AtomicUsize,
}

/// The figures of a TLS port.
pub(super) struct TlsDesk(Arc<Shared>);

/// The running TLS port.
pub struct TlsPort {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl TlsPort {
    /// Starts its threads.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(parts: TlsParts, mut rng: Rng, clock: Clock) -> io::Result<Self> {
        skynet_tls::bound_segments(&parts.listener);
        let shared = Arc::new(Shared {
            acceptor: parts.acceptor,
            udp: parts.udp,
            key: parts.key,
            clock,
            seed: rng.next_u64(),
            control: parts.control,
            seats: Mutex::new(Seats::new(most_connections(), &mut rng, clock.now().mono)),
            rng: Mutex::new(rng),
            drops: Mutex::default(),
            counters: Counters::default(),
            carriers: AtomicUsize::new(0),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (shared_2, stop_2) = (Arc::clone(&shared), Arc::clone(&stop));
        let listener = parts.listener;
        let thread = thread::Builder::new().name("tls".into()).spawn(move || {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(cores.min(MAX_THREADS))
                .thread_name("tls-io")
                .enable_all()
                .build()?;
            let ended = runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                tokio::select! {
                    () = serve(&listener, &shared_2) => unreachable!("accepts for ever"),
                    () = until(&stop_2) => io::Result::Ok(()),
                }
            });
            runtime.shutdown_background();
            ended
        })?;
        Ok(Self { shared, stop, thread })
    }

    /// Where its figures are read.
    pub(super) fn desk(&self) -> TlsDesk {
        TlsDesk(Arc::clone(&self.shared))
    }

    /// Whether its thread has ended without being told to.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it and every connection.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

impl TlsDesk {
    /// The figures now.
    pub(super) fn stats(&self) -> TlsStats {
        let shared = &*self.0;
        let mut drops = lock(&shared.drops).clone();
        let counters = &shared.counters;
        let read = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        drops.count_many(StreamDrop::TlsFrameOld, read(&counters.old));
        drops.count_many(StreamDrop::TlsFrameFull, read(&counters.full));
        drops.count_many(StreamDrop::TlsFrameForeign, read(&counters.foreign));
        TlsStats {
            connections: lock(&shared.seats).taken() as usize,
            carriers: shared.carriers.load(Ordering::Relaxed),
            frames: (read(&counters.received), read(&counters.sent)),
            drops,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many as there are descriptors for: a connection has two, and control connections have most of them.
fn most_connections() -> u32 {
    let (soft, _) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((1_024, 0));
    let most = (soft.saturating_sub(RESERVED_DESCRIPTORS) / (2 * TLS_SHARE as u64)).clamp(8, MAX_CONNECTIONS);
    u32::try_from(most).expect("clamped")
}

async fn until(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(STOP_EVERY).await;
    }
}

/// Never ends: an error costs one connection or a pause.
async fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "accept on the TLS port failed");
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                ) {
                    warn!(%error, "no descriptors for another TLS connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let entered = lock(&shared.seats).enter(peer.ip(), shared.clock.now().mono);
        match entered {
            Ok(seat) => {
                let seated = Seated { seat: Some(seat), shared: Arc::clone(shared) };
                tokio::spawn(connection(stream, peer, seated));
            }
            Err(reason) => lock(&shared.drops).count(reason),
        }
    }
}

/// A seat that is given back however its connection ends.
struct Seated {
    seat: Option<Seat>,
    shared: Arc<Shared>,
}

impl Drop for Seated {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            lock(&self.shared.seats).leave(seat);
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, mut seated: Seated) {
    let shared = Arc::clone(&seated.shared);
    match accept(&shared.acceptor, stream).await {
        Ok(Accepted::Stream(purpose, stream, early)) => {
            if let Some(seat) = &mut seated.seat {
                lock(&shared.seats).settle(seat);
            }
            match purpose {
                Purpose::Frames => carry(&shared, *stream, &early, peer).await,
                Purpose::Control => control(&shared, *stream, early, peer, seated).await,
            }
        }
        Ok(Accepted::Page) => {}
        Err(error) => {
            debug!(%peer, %error, "no TLS stream");
            lock(&shared.drops).count(StreamDrop::TlsHandshake);
        }
    }
}

async fn carry(shared: &Shared, stream: ServerStream, early: &[u8], peer: SocketAddr) {
    let udp = match bridge(shared, peer.ip()).await {
        Ok(udp) => udp,
        Err(error) => return warn!(%peer, %error, "no socket for a TLS client's frames"),
    };
    let now = || shared.clock.now().mono;
    let frames = FrameStream::responder(&shared.key, &mut lock(&shared.rng), now());
    shared.carriers.fetch_add(1, Ordering::Relaxed);
    let pump = Pump { frames, udp: &udp, demands_session: true, counters: &shared.counters };
    let ended = pump.run(stream, early, now).await;
    shared.carriers.fetch_sub(1, Ordering::Relaxed);
    debug!(%peer, %ended, "stream of frames ended");
    let reason = match ended {
        Ended::Closed | Ended::Broken(_) => return,
        Ended::Carrier(_) => StreamDrop::BrokenChannel,
        Ended::Handshake => StreamDrop::TlsHandshake,
        Ended::Unbound => StreamDrop::TlsUnbound,
        Ended::Idle => StreamDrop::TlsIdle,
        Ended::SlowReader => StreamDrop::TlsSlowReader,
    };
    lock(&shared.drops).count(reason);
}

/// The UDP socket of one TLS client, connected to the relay's port: it can reach nothing else.
async fn bridge(shared: &Shared, peer: IpAddr) -> io::Result<UdpSocket> {
    let own = |ip: IpAddr| SocketAddr::new(ip, shared.udp.port());
    let bridge = IpAddr::V4(seats::bridge_address(peer, shared.seed));
    let (from, to) = match shared.udp.ip() {
        ip if ip.is_unspecified() => (bridge, own(Ipv4Addr::LOCALHOST.into())),
        IpAddr::V4(ip) => (bridge, own(ip.into())),
        // Bound to one IPv6 address: there is but one of this host to come from.
        IpAddr::V6(ip) => (Ipv6Addr::LOCALHOST.into(), own(ip.into())),
    };
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).await?;
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    socket.connect(to).await?;
    Ok(socket)
}

async fn control(shared: &Shared, stream: ServerStream, early: Vec<u8>, peer: SocketAddr, seated: Seated) {
    let (read, write) = tokio::io::split(stream);
    // The seat goes with the reading half, and so does the place.
    let read = io::Cursor::new(early).chain(Held { read, _seated: seated });
    let incoming = Incoming { peer, read: Box::new(read), write: Box::new(write) };
    // Full: the control server is behind, and so is who waits here.
    let _ = shared.control.send(incoming).await;
}

/// A reader that holds a seat for as long as it lives.
struct Held<R> {
    read: R,
    _seated: Seated,
}

impl<R: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Held<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.read).poll_read(cx, buffer)
    }
}
