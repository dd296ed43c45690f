//! `up` and `run`.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use skynet_core::member::Ipv4Prefix;
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::io::daemon::{self, RelayParts, Sockets};
use skynet_relay::io::directory::LocalDirectory;
use skynet_relay::network::{
    CreateOptions, Created, Network, create_network, load_network, network_exists, set_relay_addresses,
};
use skynet_relay::store::RedbStore;
use skynet_tls::Certificate;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::token::{TokenArgs, to_json};
use super::{Common, Failure, user};

/// The relay's port, that of STUN (RFC 8489).
const PORT: u16 = 3478;
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
        let mut sockets = Sockets::bind(self.listen)?;
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
enum PublicAddress {
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
    fn with_port(self, port: u16) -> SocketAddr {
        match self {
            Self::Ip(ip) => SocketAddr::new(ip, port),
            Self::Socket(addr) => addr,
        }
    }
}

pub(super) fn up(common: &Common, up: &Up) -> Result<(), Failure> {
    // The port first: if it is taken, nothing is changed.
    let sockets = up.run.bind()?;
    let clock = Clock::new();
    let given: Vec<SocketAddr> =
        up.public_addresses.iter().map(|a| a.with_port(sockets.addr.port())).collect();
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
            token: up.token.options(),
        };
        if let Some(parent) = common.dir.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("{} cannot be created", parent.display()))?;
        }
        Some(create_network(&common.dir, &options, &mut os_rng()?, clock.now().unix)?)
    };
    let announce = |sockets: &Sockets| announce(common, sockets, created.as_ref());
    serve(common, sockets, up.run.tls.certificate()?, clock, announce)
}

pub(super) fn run(common: &Common, run: &Run) -> Result<(), Failure> {
    common.require_network()?;
    serve(common, run.bind()?, run.tls.certificate()?, Clock::new(), |_| Ok(()))
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
    let addresses: Vec<String> =
        manifest.relays.iter().flat_map(|r| &r.addresses).map(ToString::to_string).collect();
    if common.json {
        let mut value = created.map_or_else(|| json!({}), |created| to_json(&created.token));
        value["schema"] = "skynet.relay.up/1".into();
        value["created"] = created.is_some().into();
        value["name"] = network.trust.genesis().name.clone().into();
        value["network_id"] = network.trust.network_id().to_string().into();
        value["range"] = manifest.v4.to_string().into();
        value["listen"] = sockets.addr.to_string().into();
        value["tls_listen"] = sockets.tls_addr().map(|addr| addr.to_string()).into();
        value["public_addresses"] = addresses.into();
        say!("{value}");
        return Ok(());
    }
    let name = &network.trust.genesis().name;
    say!("Network {name} ({}), relay at {}.", manifest.v4, addresses.join(", "));
    match created {
        Some(created) => {
            say!("\nOn every machine:\n\n  skynet-agent up --token {}\n", created.token.text.as_str());
            say!(
                "The root key is on this host, in {}: whoever reads it owns the network.",
                common.dir.join("operator/root.key").display()
            );
        }
        None => say!("For another join token: skynet-relay token create --dir {}", common.dir.display()),
    }
    Ok(())
}

/// Runs the relay; `ready` is called once everything is open and signals are heard.
fn serve(
    common: &Common,
    sockets: Sockets,
    certificate: Option<Certificate>,
    clock: Clock,
    ready: impl FnOnce(&Sockets) -> Result<(), Failure>,
) -> Result<(), Failure> {
    user::give_up_root(&common.dir)?;
    let network = load_network(&common.dir)?;
    let store = RedbStore::open(&network.directory)?;
    let registrar = network.registrar();
    let tls = match sockets.tls_addr() {
        Some(addr) => {
            let certificate = certificate.map_or_else(|| self_signed(&network), Ok)?;
            info!(listen = %addr, "TLS for nodes without UDP");
            Some(certificate.acceptor().map_err(anyhow::Error::new)?)
        }
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let parts = RelayParts {
        relay_no: network.relay_no,
        key: network.relay_key,
        cluster_key: network.cluster_key,
        directory: LocalDirectory::new(registrar, store),
        status_socket: Some(common.status_socket()),
        tls,
    };
    let rng = os_rng()?;
    runtime.block_on(async {
        let (stop_now, stop) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
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
        Ok(daemon::run(parts, sockets, rng, clock, stop).await?)
    })
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
