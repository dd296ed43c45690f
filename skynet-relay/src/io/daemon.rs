//! The running relay: its sockets, its thread and its task, from start to a clean stop.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skynet_core::key::{Secret, StaticSecret};
use skynet_core::member::Manifest;
use skynet_core::rng::Rng;
use skynet_tls::TlsAcceptor;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::io::control::{self, ControlStats, Directory};
use crate::io::descriptors;
use crate::io::follow::Follow;
use crate::io::forward::ForwardThreads;
use crate::io::group::ThreadSockets;
use crate::io::measure::MeasureThread;
use crate::io::metrics;
use crate::io::port;
use crate::io::status::{Monitor, StatusSocket};
use crate::io::tls::{TlsParts, TlsPort};
use crate::io::udp::UdpSocket;
use crate::server::{
    self, ClusterKeys, ControlServer, ControlServerConfig, ForwardConfig, Forwarder, Measure,
};
use crate::store::View;

/// All sockets of one port, and the UDP socket beside it.
#[derive(Debug)]
pub struct Sockets {
    /// For each forwarding thread.
    udp: Vec<ThreadSockets>,
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

/// How often a port is looked for, where any will do.
const ANY_PORT_TRIES: u32 = 16;

impl Sockets {
    /// Opens UDP, for so many threads, and TCP on `listen`.
    ///
    /// # Errors
    /// [`PortError`], which names the process in the way.
    pub fn bind(listen: SocketAddr, threads: u8) -> Result<Self, PortError> {
        // A port that is free for UDP may be taken for TCP, if only by a connection of somebody.
        let tries = if listen.port() == 0 { ANY_PORT_TRIES } else { 1 };
        let found = (1..tries).find_map(|_| Self::bind_once(listen, threads).ok());
        let (sockets, lacks) = found.map_or_else(|| Self::bind_once(listen, threads), Ok)?;
        lacks.tell(sockets.addr);
        Ok(sockets)
    }

    fn bind_once(listen: SocketAddr, threads: u8) -> Result<(Self, Lacks), PortError> {
        let udp = ThreadSockets::bind(listen, threads.into());
        let (udp, steered) = udp.map_err(|e| PortError::new("udp", listen, e))?;
        let first = udp[0].bulk();
        let addr = first.local_addr().map_err(|e| PortError::new("udp", listen, e))?;
        let small_buffer = first.small_buffer();
        let tcp = bind_tcp(addr).map_err(|e| PortError::new("tcp", addr, e))?;
        let (measure, unmeasured) = match bind_above(addr) {
            Ok(measure) => (measure, None),
            Err(error) => (None, Some(error)),
        };
        let lacks = Lacks { small_buffer, unsteered: steered.err(), unmeasured };
        Ok((Self { udp, measure, tcp, tls: None, addr }, lacks))
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

/// What this host does not give, and the relay does without.
struct Lacks {
    /// Bytes that its sockets hold.
    small_buffer: Option<usize>,
    unsteered: Option<io::Error>,
    unmeasured: Option<io::Error>,
}

impl Lacks {
    fn tell(&self, addr: SocketAddr) {
        if let Some(bytes) = self.small_buffer {
            warn!(
                bytes,
                "small socket buffers: bursts will be lost; cure: sysctl net.core.rmem_max=4194304 net.core.wmem_max=4194304"
            );
        }
        if let Some(error) = &self.unsteered {
            warn!(%error, "the kernel does not tell control from bulk: under a flood sessions may end");
        }
        if let Some(error) = &self.unmeasured {
            let above = u32::from(addr.port()) + 1;
            warn!(above, %error, "not opened: nodes cannot measure how their NATs behave; the relay does all else");
        }
    }
}

/// The port above; no error if there is none.
fn bind_above(addr: SocketAddr) -> io::Result<Option<UdpSocket>> {
    let above = addr.port().checked_add(1).map(|port| SocketAddr::new(addr.ip(), port));
    above.map(UdpSocket::bind).transpose()
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
    /// The same store, for whoever wants to see what is in it.
    pub view: Option<Arc<dyn View + Send + Sync>>,
    /// The network's manifest: who the other relays are.
    pub manifest: Manifest,
    /// Where `status` asks; no socket if `None`.
    pub status_socket: Option<StatusSocket>,
    /// What the operator has set.
    pub config: Config,
    /// The certificate of the TLS port; without one it stays closed.
    pub tls: Option<TlsAcceptor>,
    /// Documents of the network that the operator has replaced while the relay runs.
    pub news: mpsc::Receiver<Vec<u8>>,
}

/// What the operator wants, each true once and for good.
#[derive(Clone, Debug)]
pub struct Orders {
    /// End.
    pub stop: watch::Receiver<bool>,
    /// Let go of everybody, but serve who is still there.
    pub drain: watch::Receiver<bool>,
}

/// Control channels from the TLS port that may wait for the control server.
const INCOMING: usize = 64;

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
    let config = ForwardConfig {
        relay_no: parts.relay_no,
        classes: parts.config.classes,
        uplink_kbit: parts.config.uplink_kbit,
        ..server::forward_config()
    };
    let threads = u8::try_from(sockets.udp.len()).unwrap_or(u8::MAX);
    let forwarders = Forwarder::parts(threads, &config, &keys, &mut rng, clock.now().mono);
    let follow = Follow::of(&parts.manifest, &parts.key);
    let tls_key = parts.key.clone();
    let mut control = ControlServerConfig {
        class_tags: parts.config.class_tags,
        relays: parts.manifest.relays.iter().map(|relay| relay.key).collect(),
        network_id: parts.manifest.network_id.0,
        ..ControlServerConfig::new(parts.relay_no, parts.key)
    };
    let descriptors = descriptors::raise();
    let by_tls = if sockets.tls.is_some() { descriptors / descriptors::TLS_SHARE } else { 0 };
    descriptors::bound(&mut control, descriptors - by_tls);
    let server = ControlServer::new(control, keys, rng.fork());
    let follow = follow.map(|follow| (follow, rng.fork()));
    let (to_control, incoming) = mpsc::channel(INCOMING);
    let tls = match sockets.tls.zip(parts.tls) {
        Some((listener, acceptor)) => {
            let parts =
                TlsParts { listener, acceptor, udp: sockets.addr, key: tls_key, control: to_control.clone() };
            Some(TlsPort::start(parts, rng.fork(), clock)?)
        }
        None => None,
    };
    let measure = match sockets.measure {
        Some(socket) => {
            let measure = Measure::new(&mut rng, clock.now().mono);
            Some(MeasureThread::start(socket, sockets.udp[0].bulk().try_clone()?, measure, clock)?)
        }
        None => None,
    };
    let metrics = metrics::bind(parts.config.metrics).await?;
    let threads = ForwardThreads::start(sockets.udp, forwarders, clock)?;
    let control_stats = Arc::new(Mutex::new(ControlStats::default()));
    let listener = TcpListener::from_std(sockets.tcp)?;
    let mut drain = orders.drain.clone();
    let control = control::run(
        (listener, incoming),
        (server, clock),
        (parts.directory, follow),
        (Arc::clone(&control_stats), threads.bans()),
        (orders, parts.news),
    );
    let desks = tls.as_ref().map(TlsPort::desk);
    let monitor = Arc::new(
        Monitor::new(sockets.addr, clock, (threads.desks(), desks), control_stats).with_view(parts.view),
    );
    let status = parts.status_socket.as_ref().and_then(StatusSocket::listener);
    let result = tokio::select! {
        result = control => result,
        () = monitor.serve(status) => unreachable!("serves for ever"),
        () = monitor.watch() => unreachable!("watches for ever"),
        () = metrics::serve(metrics, Arc::clone(&monitor)) => unreachable!("serves for ever"),
        () = drain_forwarding(&mut drain, &threads) => unreachable!("waits for ever"),
        () = watch_threads(&threads, tls.as_ref()) => Err(io::Error::other("a thread of the relay has ended")),
    };
    drop(to_control);
    if let Some(tls) = tls {
        tls.stop();
    }
    drop(parts.status_socket);
    if let Some(measure) = measure {
        measure.stop();
    }
    let stopped = threads.stop();
    info!("stopped");
    result.and(stopped)
}

async fn drain_forwarding(drain: &mut watch::Receiver<bool>, threads: &ForwardThreads) {
    if drain.wait_for(|drain| *drain).await.is_ok() {
        threads.drain();
    }
    std::future::pending().await
}

async fn watch_threads(threads: &ForwardThreads, tls: Option<&TlsPort>) {
    while !threads.is_finished() && !tls.is_some_and(TlsPort::is_finished) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
