//! `up` and `run`.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use skynet_core::member::{Ipv4Prefix, Manifest};
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::config::{Config, ConfigError};
use skynet_relay::io::daemon::{self, RelayParts, Sockets};
use skynet_relay::io::directory::LocalDirectory;
use skynet_relay::io::status::StatusSocket;
use skynet_relay::network::{
    CreateOptions, Created, Invitation, Network, accept_invitation, create_network, load_documents,
    load_network, network_exists, set_relay_addresses,
};
use skynet_relay::store::RedbStore;
use skynet_tls::Certificate;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::token::{TokenArgs, to_json};
use super::{Common, Failure, log, user};

/// The relay's port, that of STUN (RFC 8489).
pub(super) const PORT: u16 = 3478;
/// Read if it is there.
const CONFIG: &str = "/etc/skynet/relay.toml";
/// Documents on their way to the running relay.
const MAX_NEWS: usize = 16;
/// Forwarding threads at most.
const MAX_THREADS: usize = 64;
/// The TLS port: that of HTTPS, because that is what networks without UDP let out.
const TLS_PORT: u16 = 443;

#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Address and port of UDP and TCP; `[::]:3478` serves both families.
    #[arg(long, env = "SKYNET_RELAY_LISTEN", default_value = "0.0.0.0:3478")]
    listen: SocketAddr,
    #[command(flatten)]
    tls: Tls,
    /// The user the relay runs as if root starts it, by name or number: it gets all files of a new network but
    /// `operator/`, with the root key. Default: `skynet` if there is such a user, else `nobody`; `root` stays root.
    #[arg(long, env = "SKYNET_RELAY_USER", value_name = "USER")]
    user: Option<String>,
    /// Forwarding threads, each with a UDP socket of its own; as many as there are cores if not given.
    #[arg(long, env = "SKYNET_RELAY_THREADS", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
    /// Rates, shares, metrics: `docs/RELAY.md`. The default file need not exist.
    #[arg(long, env = "SKYNET_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve Prometheus metrics there, on loopback; wins over the file.
    #[arg(long, env = "SKYNET_RELAY_METRICS", value_name = "IP:PORT", value_parser = loopback)]
    metrics: Option<SocketAddr>,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr = text.parse().map_err(|_| "expected IP:PORT".to_owned())?;
    if addr.ip().is_loopback() {
        Ok(addr)
    } else {
        Err("metrics are for this host: 127.0.0.1 or [::1]".into())
    }
}

impl Run {
    fn config(&self) -> Result<Config, ConfigError> {
        let default = Path::new(CONFIG);
        let file = self.config.as_deref().unwrap_or(default);
        let mut config = Config::load(file, self.config.is_some())?;
        config.metrics = self.metrics.or(config.metrics);
        Ok(config)
    }
}

/// The port for nodes without UDP.
#[derive(Args, Debug)]
struct Tls {
    /// Address and port for nodes that reach nothing but HTTPS; `off` for none. Default: port 443 of the address of
    /// --listen, if it is free. Nodes look for it there; for another port each of them needs `[relay] tls`.
    #[arg(long, env = "SKYNET_RELAY_TLS_LISTEN", value_name = "ADDRESS:PORT|off")]
    tls_listen: Option<TlsListen>,
    /// Certificate chain of the TLS port, PEM; self-signed if not given. Nodes do not care: the relay proves itself
    /// inside.
    #[arg(long, env = "SKYNET_RELAY_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, env = "SKYNET_RELAY_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug)]
enum TlsListen {
    Off,
    On(SocketAddr),
}

impl FromStr for TlsListen {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::On) }
    }
}

impl Tls {
    /// Opens the TLS port. One that nobody asked for need not be had.
    fn bind(&self, sockets: &mut Sockets) -> Result<(), Failure> {
        match self.tls_listen {
            Some(TlsListen::Off) => {}
            Some(TlsListen::On(addr)) => {
                sockets.bind_tls(addr)?;
            }
            None => {
                let addr = SocketAddr::new(sockets.addr.ip(), TLS_PORT);
                if let Err(error) = sockets.bind_tls(addr) {
                    warn!("nodes without UDP will not reach this relay: {error}");
                }
            }
        }
        Ok(())
    }

    /// The operator's certificate, read while this process may.
    fn certificate(&self) -> Result<Option<Certificate>, Failure> {
        match self.tls_cert.as_deref().zip(self.tls_key.as_deref()) {
            Some((chain, key)) => Ok(Some(Certificate::read(chain, key).map_err(anyhow::Error::new)?)),
            None => Ok(None),
        }
    }
}

impl Run {
    fn bind(&self) -> Result<Sockets, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS) as u8);
        let mut sockets = Sockets::bind(self.listen, self.threads.unwrap_or(cores))?;
        self.tls.bind(&mut sockets)?;
        Ok(sockets)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    run: Run,
    /// Where nodes reach this relay; up to four. Default: the address this host uses towards the internet.
    #[arg(long = "public-address", value_name = "IP[:PORT]")]
    public_addresses: Vec<PublicAddress>,
    /// Become a further relay of a network: what `network add-relay` printed, or `file:PATH` with that in it.
    #[arg(long, env = "SKYNET_RELAY_INVITATION", value_name = "INVITATION", hide_env_values = true)]
    invitation: Option<String>,
    /// Name of the new network; the host's name if not given.
    #[arg(long)]
    network_name: Option<String>,
    /// IPv4 range of the new network; a random 10.x.0.0/16 if not given.
    #[arg(long, value_name = "PREFIX")]
    range: Option<Ipv4Prefix>,
    #[command(flatten)]
    token: TokenArgs,
    /// Stay in the foreground; `up` always does, for a daemon use `run` in a service.
    #[arg(long)]
    foreground: bool,
}

/// An address whose port may be left out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PublicAddress {
    Ip(IpAddr),
    Socket(SocketAddr),
}

impl FromStr for PublicAddress {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::Socket).or_else(|_| text.parse().map(Self::Ip))
    }
}

impl PublicAddress {
    pub(super) fn with_port(self, port: u16) -> SocketAddr {
        match self {
            Self::Ip(ip) => SocketAddr::new(ip, port),
            Self::Socket(addr) => addr,
        }
    }
}

pub(super) fn up(common: &Common, up: &Up) -> Result<(), Failure> {
    // The file and the port first: if one is wrong or taken, nothing is changed.
    let config = up.run.config()?;
    let sockets = up.run.bind()?;
    let clock = Clock::new();
    let given: Vec<SocketAddr> =
        up.public_addresses.iter().map(|a| a.with_port(sockets.addr.port())).collect();
    if let Some(invitation) = &up.invitation {
        accept(common, up, invitation)?;
    }
    let created = if network_exists(&common.dir) {
        refuse_other_network(common, up)?;
        if !given.is_empty() && given != published(common)? {
            set_relay_addresses(&common.dir, &given, clock.now().unix)?;
        }
        None
    } else {
        let options = CreateOptions {
            name: up.network_name.clone().unwrap_or_else(host_name),
            v4: up.range,
            relay_addresses: if given.is_empty() { vec![own_address(&sockets)?] } else { given },
            daemon: user::daemon_user(up.run.user.as_deref())?,
            token: up.token.options()?,
        };
        make_parent(common)?;
        Some(create_network(&common.dir, &options, &mut os_rng()?, clock.now().unix)?)
    };
    let announce = |sockets: &Sockets| announce(common, sockets, created.as_ref());
    serve(common, sockets, (config, up.run.tls.certificate()?), clock, announce)
}

/// Makes this host the relay it is invited to be.
fn accept(common: &Common, up: &Up, text: &str) -> Result<(), Failure> {
    let read = |path: &str| {
        let bytes = std::fs::read_to_string(path).map(Zeroizing::new);
        bytes.with_context(|| format!("the invitation in {path} cannot be read"))
    };
    let text = match text.strip_prefix("file:") {
        Some(path) => read(path)?,
        None => Zeroizing::new(text.to_owned()),
    };
    let invitation = Invitation::parse(&text)?;
    make_parent(common)?;
    Ok(accept_invitation(&common.dir, &invitation, user::daemon_user(up.run.user.as_deref())?)?)
}

fn make_parent(common: &Common) -> anyhow::Result<()> {
    let Some(parent) = common.dir.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).with_context(|| format!("{} cannot be created", parent.display()))
}

pub(super) fn run(common: &Common, run: &Run) -> Result<(), Failure> {
    common.require_network()?;
    let config = run.config()?;
    serve(common, run.bind()?, (config, run.tls.certificate()?), Clock::new(), |_| Ok(()))
}

/// What the manifest says of this relay's addresses: changing it takes the root key, saying it again does not.
fn published(common: &Common) -> Result<Vec<SocketAddr>, Failure> {
    let network = load_network(&common.dir)?;
    let relay = network.trust.manifest().relay(network.relay_no);
    Ok(relay.map(|relay| relay.addresses.clone()).unwrap_or_default())
}

/// `up` is idempotent, but it never changes what a network is.
fn refuse_other_network(common: &Common, up: &Up) -> Result<(), Failure> {
    let network = load_network(&common.dir)?;
    let range = network.trust.manifest().v4;
    if let Some(asked) = up.range.filter(|asked| *asked != range) {
        let dir = common.dir.display();
        return Err(Failure::Failed(anyhow::anyhow!(
            "the network in {dir} has the range {range}, not {asked}; leave out --range, or name another --dir"
        )));
    }
    let name = &network.trust.genesis().name;
    if let Some(asked) = up.network_name.as_ref().filter(|asked| *asked != name) {
        let dir = common.dir.display();
        return Err(Failure::Failed(anyhow::anyhow!(
            "the network in {dir} is called {name}, not {asked}; leave out --network-name, or name another --dir"
        )));
    }
    Ok(())
}

/// Prints what the user needs next. The token is a secret and shown only here.
fn announce(common: &Common, sockets: &Sockets, created: Option<&Created>) -> Result<(), Failure> {
    let network = load_network(&common.dir)?;
    let manifest = network.trust.manifest();
    let own = manifest.relay(network.relay_no);
    let addresses: Vec<String> =
        own.into_iter().flat_map(|r| &r.addresses).map(ToString::to_string).collect();
    if common.json {
        let mut value = created.map_or_else(|| json!({}), |created| to_json(&created.token));
        value["schema"] = "skynet.relay.up/1".into();
        value["created"] = created.is_some().into();
        value["name"] = network.trust.genesis().name.clone().into();
        value["network_id"] = network.trust.network_id().to_string().into();
        value["range"] = manifest.v4.to_string().into();
        value["relay_no"] = network.relay_no.into();
        value["listen"] = sockets.addr.to_string().into();
        value["tls_listen"] = sockets.tls_addr().map(|addr| addr.to_string()).into();
        value["public_addresses"] = addresses.into();
        say!("{value}");
        return Ok(());
    }
    let name = &network.trust.genesis().name;
    let which =
        if manifest.relays.len() > 1 { format!("relay {}", network.relay_no) } else { "relay".into() };
    say!("Network {name} ({}), {which} at {}.", manifest.v4, addresses.join(", "));
    match created {
        Some(created) => {
            say!("\nOn every machine:\n\n  skynet-agent up --token {}\n", created.token.text.as_str());
            say!(
                "The root key is on this host, in {}: whoever reads it owns the network.",
                common.dir.join("operator/root.key").display()
            );
        }
        None if network.registrar_key.is_none() => {
            say!("New machines are let in by the network's first relay; this one serves those that are.");
        }
        None => say!("For another join token: skynet-relay token create --dir {}", common.dir.display()),
    }
    Ok(())
}

/// Runs the relay; `ready` is called once everything is open and signals are heard.
fn serve(
    common: &Common,
    sockets: Sockets,
    (config, certificate): (Config, Option<Certificate>),
    clock: Clock,
    ready: impl FnOnce(&Sockets) -> Result<(), Failure>,
) -> Result<(), Failure> {
    user::give_up_root(&common.dir)?;
    let status_socket = StatusSocket::bind(common.status_socket());
    let network = load_network(&common.dir)?;
    let store = Arc::new(RedbStore::open(&network.directory)?);
    let registrar = network.registrar();
    let tls = match sockets.tls_addr() {
        Some(addr) => {
            let certificate = certificate.map_or_else(|| self_signed(&network), Ok)?;
            info!(listen = %addr, "TLS for nodes without UDP");
            Some(certificate.acceptor().map_err(anyhow::Error::new)?)
        }
        None => None,
    };
    // Control is one state machine: with one thread a PING costs one wake-up, not four. Packets, TLS and the directory have
    // threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let (to_relay, news) = mpsc::channel(MAX_NEWS);
    let parts = RelayParts {
        relay_no: network.relay_no,
        key: network.relay_key,
        cluster_key: network.cluster_key,
        directory: LocalDirectory::new(registrar, Arc::clone(&store)).kept_in(common.dir.clone()),
        view: Some(store),
        manifest: Manifest::clone(network.trust.manifest()),
        status_socket,
        config,
        tls,
        news,
    };
    let (drain_now, drain) = watch::channel(false);
    let rng = os_rng()?;
    runtime.block_on(async {
        tokio::spawn(log::tell_left_out());
        let (stop_now, stop) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut drains = signal(SignalKind::user_defined1())?;
        tokio::spawn(read_anew(common.dir.clone(), signal(SignalKind::hangup())?, to_relay));
        tokio::spawn(async move {
            drains.recv().await;
            info!("draining");
            let _ = drain_now.send(true);
            std::future::pending::<()>().await;
        });
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            info!("stopping");
            let _ = stop_now.send(true);
            // Dropped with the process: a closed channel would read as "stop" before anybody said so.
            std::future::pending::<()>().await;
        });
        ready(&sockets)?;
        info!(listen = %sockets.addr, network = %network.trust.network_id(), "relay runs");
        Ok(daemon::run(parts, sockets, rng, clock, daemon::Orders { stop, drain }).await?)
    })
}

/// The operator has replaced documents, and says so by a signal.
async fn read_anew(dir: PathBuf, mut asked: Signal, relay: mpsc::Sender<Vec<u8>>) {
    while asked.recv().await.is_some() {
        match load_documents(&dir) {
            Ok(documents) => {
                for document in documents {
                    let _gone = relay.send(document).await;
                }
            }
            Err(error) => warn!(%error, "the network's documents are not read anew"),
        }
    }
    std::future::pending().await
}

/// For the addresses that nodes know.
fn self_signed(network: &Network) -> Result<Certificate, Failure> {
    let relay = network.trust.manifest().relay(network.relay_no);
    let names = relay.into_iter().flat_map(|relay| &relay.addresses).map(|addr| addr.ip().to_string());
    Ok(Certificate::self_signed(names.collect()).map_err(anyhow::Error::new)?)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(63).collect();
    if name.is_empty() { "skynet".into() } else { name }
}

/// The address of the route to the internet; connecting a UDP socket sends nothing.
fn own_address(sockets: &Sockets) -> Result<SocketAddr, Failure> {
    let port = sockets.addr.port();
    if !sockets.addr.ip().is_unspecified() {
        return Ok(sockets.addr);
    }
    let route = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip())
    };
    let ip = route("0.0.0.0:0", "192.0.2.1:9").or_else(|| route("[::]:0", "[2001:db8::1]:9"));
    let Some(ip) = ip.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()) else {
        return Err(Failure::Failed(anyhow::anyhow!(
            "this host has no route to the internet; say where nodes reach it with --public-address"
        )));
    };
    if matches!(ip, IpAddr::V4(v4) if v4.is_private()) {
        warn!(%ip, port = PORT, "this is a private address; if nodes come from elsewhere, give --public-address");
    }
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_may_leave_out_its_port() {
        let with = |text: &str| text.parse::<PublicAddress>().unwrap().with_port(PORT).to_string();
        assert_eq!(with("192.0.2.1"), "192.0.2.1:3478");
        assert_eq!(with("192.0.2.1:9"), "192.0.2.1:9");
        assert_eq!(with("2001:db8::1"), "[2001:db8::1]:3478");
        assert!("relay.example".parse::<PublicAddress>().is_err());
    }
}
