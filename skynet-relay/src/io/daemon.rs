//! The running relay: its sockets, its thread and its task, from start to a clean stop.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skynet_core::key::{Secret, StaticSecret};
use skynet_core::member::Manifest;
use skynet_core::rng::Rng;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::io::control::{self, ControlStats, Directory};
use crate::io::follow::Follow;
use crate::io::forward::{ForwardStats, ForwardThread};
use crate::io::measure::MeasureThread;
use crate::io::port;
use crate::io::udp::UdpSocket;
use crate::server::{ClusterKeys, ControlServer, ControlServerConfig, ForwardConfig, Forwarder, Measure};

/// Both sockets of one port, and the UDP socket beside it.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    /// The port above, by which nodes measure their NATs; not there if it is taken.
    measure: Option<UdpSocket>,
    tcp: std::net::TcpListener,
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
        Ok(Self { udp, measure: bind_above(addr), tcp, addr })
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
    /// The network's manifest: who the other relays are.
    pub manifest: Manifest,
    /// Where `status` asks; no socket if `None`.
    pub status_socket: Option<PathBuf>,
}

/// What `status` shows.
#[derive(Clone, Debug, Default)]
struct Stats {
    forward: ForwardStats,
    control: ControlStats,
}

/// What the operator wants, each true once and for good.
#[derive(Clone, Debug)]
pub struct Orders {
    /// End.
    pub stop: watch::Receiver<bool>,
    /// Let go of everybody, but serve who is still there.
    pub drain: watch::Receiver<bool>,
}

/// Number of the only cluster key until rotation exists.
const KID: u8 = 1;

/// Runs a relay until it is ordered to stop.
///
/// # Errors
/// A thread or task of the relay has failed; the relay is never left half alive.
pub async fn run<D: Directory>(
    parts: RelayParts<D>,
    sockets: Sockets,
    mut rng: Rng,
    clock: Clock,
    orders: Orders,
) -> io::Result<()> {
    let keys = ClusterKeys::new((KID, parts.cluster_key), []);
    let config = ForwardConfig { relay_no: parts.relay_no, ..ForwardConfig::default() };
    let forwarder = Forwarder::new(config, keys.clone(), rng.fork(), clock.now().mono);
    let follow = Follow::of(&parts.manifest, &parts.key);
    let server = ControlServerConfig {
        relays: parts.manifest.relays.iter().map(|relay| relay.key).collect(),
        network_id: parts.manifest.network_id.0,
        ..ControlServerConfig::new(parts.relay_no, parts.key)
    };
    let server = ControlServer::new(server, keys, rng.fork());
    let follow = follow.map(|follow| (follow, rng.fork()));
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
    let mut drain = orders.drain.clone();
    let control =
        control::run(listener, server, parts.directory, clock, control_stats.clone(), orders, follow);
    let status = parts.status_socket.as_deref().and_then(bind_status);
    let result = tokio::select! {
        result = control => result,
        () = serve_status(status, &thread, &control_stats, sockets.addr) => unreachable!("serves for ever"),
        () = drain_forwarding(&mut drain, &thread) => unreachable!("waits for ever"),
        () = watch_thread(&thread) => Err(io::Error::other("the forwarding thread has ended")),
    };
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

async fn drain_forwarding(drain: &mut watch::Receiver<bool>, thread: &ForwardThread) {
    if drain.wait_for(|drain| *drain).await.is_ok() {
        thread.drain();
    }
    std::future::pending().await
}

async fn watch_thread(thread: &ForwardThread) {
    while !thread.is_finished() {
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
        let drops: serde_json::Map<String, serde_json::Value> =
            drops.nonzero().map(|(reason, n)| (reason.as_str().to_owned(), n.into())).collect();
        let counters = self.forward.counters;
        serde_json::json!({
            "schema": "skynet.relay.status/1",
            "listen": addr.to_string(),
            "process": std::process::id(),
            "draining": self.forward.draining,
            "sessions": self.forward.sessions,
            "control_connections": self.control.connections,
            "members_online": self.control.joined,
            "datagrams_received": counters.received,
            "datagrams_forwarded": counters.forwarded,
            "bytes_forwarded": counters.forwarded_bytes,
            "datagrams_unsent": self.forward.unsent,
            "replies": counters.replies,
            "drops": drops,
        })
    }
}
