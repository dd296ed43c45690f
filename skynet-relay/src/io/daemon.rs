//! The running relay: its sockets, its thread and its task, from start to a clean stop.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skynet_core::key::{Secret, StaticSecret};
use skynet_core::rng::Rng;
use skynet_tls::TlsAcceptor;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::io::control::{self, ControlStats, Directory};
use crate::io::forward::{ForwardStats, ForwardThread};
use crate::io::measure::MeasureThread;
use crate::io::port;
use crate::io::tls::{TlsParts, TlsPort, TlsStats};
use crate::io::udp::UdpSocket;
use crate::server::{ClusterKeys, ControlServer, ControlServerConfig, ForwardConfig, Forwarder, Measure};

/// Both sockets of one port, and the UDP socket beside it.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    /// The port above, by which nodes measure their NATs; not there if it is taken.
    measure: Option<UdpSocket>,
    tcp: std::net::TcpListener,
    tls: Option<std::net::TcpListener>,
    /// The address bound; with port 0 asked for, the one the system chose.
    pub addr: SocketAddr,
}

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{protocol} {addr} cannot be opened: {error}{holders}; {cure}")]
pub struct PortError {
    protocol: &'static str,
    addr: SocketAddr,
    error: io::Error,
    holders: String,
    cure: &'static str,
}

const TLS_CURE: &str = "choose another port with --tls-listen, or `--tls-listen off`";

impl PortError {
    fn new(protocol: &'static str, addr: SocketAddr, error: io::Error) -> Self {
        let (mut holders, mut cure) = (String::new(), "check --listen");
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                let found = port::holders(protocol, addr);
                if !found.is_empty() {
                    holders = format!(" by {}", found.join(", "));
                }
                cure = "stop that process or choose another port with --listen";
            }
            io::ErrorKind::AddrNotAvailable => {
                cure = "no interface has this address: listen on 0.0.0.0 or [::]";
            }
            io::ErrorKind::PermissionDenied => {
                cure = "ports below 1024 need root or CAP_NET_BIND_SERVICE";
            }
            _ => {}
        }
        Self { protocol, addr, error, holders, cure }
    }
}

impl Sockets {
    /// Opens UDP and TCP on `listen`.
    ///
    /// # Errors
    /// [`PortError`], which names the process in the way.
    pub fn bind(listen: SocketAddr) -> Result<Self, PortError> {
        let udp = UdpSocket::bind(listen).map_err(|e| PortError::new("udp", listen, e))?;
        let addr = udp.local_addr().map_err(|e| PortError::new("udp", listen, e))?;
        let tcp = bind_tcp(addr).map_err(|e| PortError::new("tcp", addr, e))?;
        Ok(Self { udp, measure: bind_above(addr), tcp, tls: None, addr })
    }

    /// Opens the TLS port as well.
    ///
    /// # Errors
    /// [`PortError`], which names the process in the way.
    pub fn bind_tls(&mut self, listen: SocketAddr) -> Result<SocketAddr, PortError> {
        let failed = |error| PortError { cure: TLS_CURE, ..PortError::new("tcp", listen, error) };
        let listener = bind_tcp(listen).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        self.tls = Some(listener);
        Ok(addr)
    }

    /// Where the TLS port is, if there is one.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

fn bind_above(addr: SocketAddr) -> Option<UdpSocket> {
    let above = SocketAddr::new(addr.ip(), addr.port().checked_add(1)?);
    match UdpSocket::bind(above) {
        Ok(socket) => Some(socket),
        Err(error) => {
            warn!(%above, %error, "not opened: nodes cannot measure how their NATs behave; the relay does all else");
            None
        }
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restarted relay must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// What a relay is made of.
pub struct RelayParts<D> {
    /// Its number in the manifest.
    pub relay_no: u16,
    /// Its Noise static key.
    pub key: StaticSecret,
    /// The cluster key.
    pub cluster_key: Secret,
    /// Registrar and store.
    pub directory: D,
    /// Where `status` asks; no socket if `None`.
    pub status_socket: Option<PathBuf>,
    /// The certificate of the TLS port; without one it stays closed.
    pub tls: Option<TlsAcceptor>,
}

/// What `status` shows.
#[derive(Clone, Debug, Default)]
struct Stats {
    forward: ForwardStats,
    control: ControlStats,
    tls: Option<TlsStats>,
}

/// Control channels from the TLS port that may wait for the control server.
const INCOMING: usize = 64;

/// Number of the only cluster key until rotation exists.
const KID: u8 = 1;

/// Runs a relay until `stop` says so.
///
/// # Errors
/// A thread or task of the relay has failed; the relay is never left half alive.
pub async fn run<D: Directory>(
    parts: RelayParts<D>,
    sockets: Sockets,
    mut rng: Rng,
    clock: Clock,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let keys = ClusterKeys::new((KID, parts.cluster_key), []);
    let config = ForwardConfig { relay_no: parts.relay_no, ..ForwardConfig::default() };
    let forwarder = Forwarder::new(config, keys.clone(), rng.fork(), clock.now().mono);
    let (to_control, incoming) = mpsc::channel(INCOMING);
    let tls = match sockets.tls.zip(parts.tls) {
        Some((listener, acceptor)) => {
            let (udp, key) = (sockets.addr, parts.key.clone());
            let parts = TlsParts { listener, acceptor, udp, key, control: to_control.clone() };
            Some(TlsPort::start(parts, rng.fork(), clock)?)
        }
        None => None,
    };
    let server = ControlServer::new(ControlServerConfig::new(parts.relay_no, parts.key), keys, rng.fork());
    let measure = match sockets.measure {
        Some(socket) => {
            let measure = Measure::new(&mut rng, clock.now().mono);
            Some(MeasureThread::start(socket, sockets.udp.try_clone()?, measure, clock)?)
        }
        None => None,
    };
    let thread = ForwardThread::start(sockets.udp, forwarder, clock)?;
    let control_stats = Arc::new(Mutex::new(ControlStats::default()));
    let listener = TcpListener::from_std(sockets.tcp)?;
    let control =
        control::run(listener, incoming, server, parts.directory, clock, control_stats.clone(), stop);
    let status = parts.status_socket.as_deref().and_then(bind_status);
    let result = tokio::select! {
        result = control => result,
        () = serve_status(status, &thread, &control_stats, tls.as_ref(), sockets.addr) => {
            unreachable!("serves for ever")
        }
        () = watch_threads(&thread, tls.as_ref()) => Err(io::Error::other("a thread of the relay has ended")),
    };
    drop(to_control);
    if let Some(tls) = tls {
        tls.stop();
    }
    if let Some(path) = &parts.status_socket {
        let _ = std::fs::remove_file(path);
    }
    if let Some(measure) = measure {
        measure.stop();
    }
    let stopped = thread.stop();
    info!("stopped");
    result.and(stopped)
}

async fn watch_threads(thread: &ForwardThread, tls: Option<&TlsPort>) {
    while !thread.is_finished() && !tls.is_some_and(TlsPort::is_finished) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A socket left by a relay that was killed is in the way and nobody's any more; the port was free, so this is it.
fn bind_status(path: &Path) -> Option<UnixListener> {
    let _ = std::fs::remove_file(path);
    match UnixListener::bind(path) {
        Ok(listener) => Some(listener),
        Err(error) => {
            warn!(path = %path.display(), %error, "no status socket");
            None
        }
    }
}

/// One JSON object per connection. The socket lies in a directory only the relay's user can enter.
async fn serve_status(
    listener: Option<UnixListener>,
    thread: &ForwardThread,
    control: &Mutex<ControlStats>,
    tls: Option<&TlsPort>,
    addr: SocketAddr,
) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let stats = Stats {
            forward: thread.stats(),
            control: control.lock().map(|stats| stats.clone()).unwrap_or_default(),
            tls: tls.map(TlsPort::stats),
        };
        let text = stats.to_json(addr).to_string();
        let write = stream.write_all(text.as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), write).await;
    }
}

impl Stats {
    fn to_json(&self, addr: SocketAddr) -> serde_json::Value {
        let mut drops = self.forward.drops.clone();
        drops.add(&self.control.drops);
        let tls = self.tls.clone().unwrap_or_default();
        drops.add(&tls.drops);
        let drops: serde_json::Map<String, serde_json::Value> =
            drops.nonzero().map(|(reason, n)| (reason.as_str().to_owned(), n.into())).collect();
        let counters = self.forward.counters;
        serde_json::json!({
            "schema": "skynet.relay.status/1",
            "listen": addr.to_string(),
            "process": std::process::id(),
            "sessions": self.forward.sessions,
            "control_connections": self.control.connections,
            "members_online": self.control.joined,
            "datagrams_received": counters.received,
            "datagrams_forwarded": counters.forwarded,
            "bytes_forwarded": counters.forwarded_bytes,
            "datagrams_unsent": self.forward.unsent,
            "replies": counters.replies,
            "tls_connections": tls.connections,
            "tls_carriers": tls.carriers,
            "tls_frames_received": tls.frames.0,
            "tls_frames_sent": tls.frames.1,
            "drops": drops,
        })
    }
}
