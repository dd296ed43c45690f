//! `/etc/skynet/agent.toml`, under the flags and the environment that override it.
//!
//! ```toml
//! token = "file:/etc/skynet/token"     # how to join, once
//! name = "worker-7"                    # default: the machine's host name
//! roles = ["worker"]                   # of those the token allows; default: all of them
//!
//! [relay]                              # or relay = "IP:PORT" for the address alone
//! proxy = "http://user:password@proxy:3128"   # or "file:PATH", or "off"; default: HTTPS_PROXY
//! tls = ":443"                         # where its TLS port is: HOST, HOST:PORT or :PORT
//!
//! [interface]
//! name = "skynet0"
//! listen_port = 41820
//!
//! [dataplane]
//! ciphers = "auto"                     # or "chacha20-poly1305"
//! max_lanes = 4
//! min_lanes = 1                        # more: open so many at once, whatever the load
//! mtu = "auto"                         # or bytes
//! worker_threads = 2                   # 1: one thread for both directions of a lane, even if busy
//! nice = -10                           # priority of these threads; 0: that of any program
//!
//! [paths]
//! advertise = ["203.0.113.7:41820"]    # where peers reach this node, if nothing here can know
//! port_mapping = true                  # ask the gateway for one
//! cloud_metadata = true                # ask the cloud for the public address
//! birthday = 128                       # sockets to guess ports with; 0: never
//!
//! [relaying]                           # of a member whose token has the tag "relay"
//! enabled = true
//! sessions = 1024
//! session_mbit = 200                   # what each member may send by this one; 0: no limit
//! uplink_mbit = 1000                   # what all may send together; above it they have equal shares
//!
//! [hooks]
//! directory = "/etc/skynet/hooks.d"    # its programs are run when members come and go
//! roles = ["worker"]                   # only for these; default: for everybody
//! timeout = "30s"                      # for each program
//!
//! [names]
//! dns = "auto"                         # answer DNS at the overlay's addresses: where systemd-resolved runs; "on", "off"
//! dns_port = 53
//! hosts_file = "/etc/hosts"            # keep the members' names in a block of it; default: nowhere
//!
//! [boot]
//! bind_identity = true                 # a copy of this disk in another machine joins as a new node
//! metadata = "auto"                    # ask the cloud for settings that are missing here; "always", "never"
//!
//! [trust]
//! fail_closed = false                  # talk to nobody once no relay has said for a day who is revoked
//! key_lifetime = "24h"                 # replace session keys at half of it; default: seven days
//!
//! # A stock WireGuard peer beside the members of the network:
//! [[peer]]
//! public_key = "…"
//! preshared_key = "file:/etc/skynet/psk"
//! endpoint = "198.51.100.7:51820"
//! allowed_ips = ["172.30.0.0/16"]
//! persistent_keepalive = "25s"
//! ```
//! With `[interface] private_key` and `address` the agent is a plain WireGuard node without any network membership.
//! Unknown keys are refused: a typing error must not become a default.

mod boot;
mod dataplane;
mod file;
mod hooks;
mod mtu;
mod names;
mod network;
mod offload;
mod paths;
mod relay;
mod relaying;
mod trust;
mod units;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use skynet_core::forwarder::RelayLimits;
use skynet_core::key::{PublicKey, Secret, StaticSecret};
use skynet_core::member::{Name, Tags};
use skynet_core::offload::Offloads;
use skynet_core::path::Guessing;

use crate::netcfg::Prefix;
use crate::secret::SecretText;
use crate::udp::UdpOffloads;

pub use boot::{BootMetadata, BootSettings};
pub use dataplane::{
    Ciphers, Nice, Threading, WorkerThreads, check_max_lanes, default_max_lanes, parse_max_lanes, parse_nice,
    parse_worker_threads,
};
pub use hooks::Hooks;
pub use mtu::{Mtu, MtuChoice, parse_mtu};
pub use names::{DNS_PORT, Dns, DnsMode};
pub use network::{MAX_NETWORKS, NetworkName, NetworkNameError, Places};
pub use offload::{DisabledOffloads, Offload};
pub use paths::{MAX_ADVERTISED, check_birthday, parse_advertised, parse_birthday};
pub use relay::{ProxyEnvironment, TlsWays};
pub use units::parse_duration;

/// Where the configuration is looked for; it need not exist.
pub const DEFAULT_CONFIG: &str = "/etc/skynet/agent.toml";
/// Where the state is kept.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/skynet";
/// The local control socket.
pub const DEFAULT_SOCKET: &str = "/run/skynet/agent.sock";
/// Fixed, so that a cloud's security group can name it; not WireGuard's own, so that both can run.
pub const DEFAULT_PORT: u16 = 41_820;
/// The TUN device's name.
pub const DEFAULT_INTERFACE: &str = "skynet0";
/// Static peers per agent: each costs a session (about 1 KiB) and a row in every forwarding table.
pub const MAX_PEERS: usize = 1_024;

/// What flags and environment say; each `Some` beats the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The further network that is meant, and not the first; `config`, `state_dir` and `socket` are the first one's even so.
    pub network: Option<NetworkName>,
    /// Another configuration file; it must exist.
    pub config: Option<PathBuf>,
    /// Where state is kept.
    pub state_dir: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// The join token.
    pub token: Option<SecretText>,
    /// The name to join under.
    pub name: Option<String>,
    /// The roles to join with.
    pub roles: Option<Vec<String>>,
    /// Whether the cloud is asked for settings.
    pub boot_metadata: Option<BootMetadata>,
    /// The TUN device's name.
    pub interface: Option<String>,
    /// The UDP port; 0: any.
    pub port: Option<u16>,
    /// Where to open the control channel instead of where the token or the manifest says.
    pub relay: Option<SocketAddr>,
    /// Where the relay's TLS port is: `HOST`, `HOST:PORT` or `:PORT`.
    pub relay_tls: Option<String>,
    /// The HTTP proxy for it, or `off`.
    pub proxy: Option<SecretText>,
    /// What the environment says of proxies.
    pub proxy_environment: ProxyEnvironment,
    /// Offloads to be switched off; an empty list switches all on.
    pub disable_offload: Option<Vec<Offload>>,
    /// Ciphers offered to members.
    pub ciphers: Option<Ciphers>,
    /// Lanes per peer at most,
    pub max_lanes: Option<u8>,
    /// and at least.
    pub min_lanes: Option<u8>,
    /// Largest inner packets.
    pub mtu: Option<MtuChoice>,
    /// Sockets opened at once behind a hard NAT.
    pub birthday: Option<u8>,
    /// Threads of each worker.
    pub worker_threads: Option<WorkerThreads>,
    /// Their nice value.
    pub nice: Option<Nice>,
    /// Where peers reach this node.
    pub advertise: Option<Vec<SocketAddr>>,
    /// Ask the gateway for a port mapping.
    pub port_mapping: Option<bool>,
    /// Ask the cloud for the public address.
    pub cloud_metadata: Option<bool>,
    /// Programs to be run when members come and go.
    pub hooks: Option<PathBuf>,
    /// Where the members' names are kept.
    pub hosts_file: Option<PathBuf>,
    /// Whether DNS is answered,
    pub dns: Option<DnsMode>,
    /// and by which port.
    pub dns_port: Option<u16>,
}

/// What the agent runs with.
#[derive(Debug)]
pub struct Config {
    /// What the network is called on this machine, unless it is the first.
    pub network: Option<NetworkName>,
    /// The configuration file, which need not exist.
    pub file: PathBuf,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The join token, if one was given.
    pub token: Option<SecretText>,
    /// The name to join under; the host name unless one is given.
    pub name: Name,
    /// The roles to join with; all that the token allows unless some are given.
    pub roles: Option<Tags>,
    /// Whether the cloud is asked for settings.
    pub boot_metadata: BootMetadata,
    /// Whether an identity is good only on the machine it was made on.
    pub bind_identity: bool,
    /// The TUN device's name.
    pub interface: String,
    /// The UDP port; 0: any.
    pub port: u16,
    /// Where to open the control channel instead of where the token or the manifest says.
    pub relay: Option<SocketAddr>,
    /// How relays are reached where UDP is dead.
    pub tls: TlsWays,
    /// Offloads that are switched off.
    pub disabled_offloads: DisabledOffloads,
    /// Ciphers offered to members.
    pub ciphers: Ciphers,
    /// Lanes for bulk per member at most, 1 to 8,
    pub max_lanes: u8,
    /// and at least, as far as the member agrees: open as soon as there is a session.
    pub min_lanes: u8,
    /// How large inner packets may be.
    pub mtu: Mtu,
    /// How far ports are guessed where plain punching fails.
    pub guessing: Guessing,
    /// How much is relayed for members, if this one is entitled to.
    pub relaying: Option<RelayLimits>,
    /// How the workers' threads are run.
    pub threading: Threading,
    /// Where peers reach this node, says the operator; at most [`MAX_ADVERTISED`].
    pub advertise: Vec<SocketAddr>,
    /// Whether a gateway is asked for a port mapping where a NAT is seen.
    pub port_mapping: bool,
    /// Whether the cloud is asked for the public address.
    pub cloud_metadata: bool,
    /// Programs to be run when members come and go.
    pub hooks: Option<Hooks>,
    /// The hosts file that has the members' names in a block, if one is to have them.
    pub hosts_file: Option<PathBuf>,
    /// The agent's own resolver.
    pub dns: Dns,
    /// Whether this node talks to nobody once what it knows of revocations is a day old.
    pub fail_closed: bool,
    /// How long its session keys live, if shorter than usual.
    pub key_lifetime: Option<Duration>,
    /// Identity and addresses of a plain WireGuard node, if it is to be one.
    pub wireguard: Option<WireGuardNode>,
    /// Stock WireGuard peers.
    pub peers: Vec<StaticPeer>,
}

/// A node without membership: its key and addresses come from the configuration.
#[derive(Debug)]
pub struct WireGuardNode {
    /// The X25519 private key.
    pub private_key: StaticSecret,
    /// Addresses of the TUN device, each with its on-link prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A stock WireGuard peer (whitepaper §2): cryptokey routing from the configuration.
#[derive(Clone, Debug)]
pub struct StaticPeer {
    /// Its X25519 public key.
    pub public_key: PublicKey,
    /// The pre-shared key, if both ends have one.
    pub preshared_key: Option<Secret>,
    /// Where it is first tried; it may roam.
    pub endpoint: Option<SocketAddr>,
    /// What is routed to it and accepted from it.
    pub allowed_ips: Vec<Prefix>,
    /// Send something at least this often.
    pub persistent_keepalive: Option<Duration>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not what it should be; the text has line and column.
    #[error("{path}: {what}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        what: String,
    },
    /// The name given as flag or in the environment is wrong.
    #[error("--name or SKYNET_NAME: {0}")]
    Name(String),
    /// An address given as flag or in the environment is wrong.
    #[error("--advertise or SKYNET_ADVERTISE: {0}")]
    Advertise(String),
    /// One value is wrong.
    #[error("{path}: {key}: {what}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key in it.
        key: String,
        /// What is wrong.
        what: String,
    },
}

impl Config {
    /// Reads the file and lays `overrides` over it.
    ///
    /// # Errors
    /// The file's name, the key and what is wrong with it.
    pub fn load(overrides: Overrides) -> Result<Self, ConfigError> {
        Self::load_over(overrides, &[])
    }

    /// The same with what the machine's metadata says below the file, the first before the others. Settings that make no
    /// sense, or are not for metadata to give, are left out with a line in the log.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_over(overrides: Overrides, below: &[BootSettings]) -> Result<Self, ConfigError> {
        let path = overrides.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
        let text = read(&path, overrides.config.is_none())?;
        let Some(network) = overrides.network.clone() else {
            return Self::parse_over(&text, &path, overrides, below);
        };
        let first = Self::parse_over(&text, &path, overrides.places_only(), &[])?;
        let places = first.places().of(&network);
        let text = read(&places.config, true)?;
        let overrides = Overrides {
            state_dir: Some(places.state_dir),
            socket: Some(places.socket),
            // What the cloud says is for one network.
            boot_metadata: Some(BootMetadata::Never),
            ..overrides
        };
        Self::parse_over(&text, &places.config, overrides, &[])
    }

    /// Where its things are.
    pub fn places(&self) -> Places {
        Places { config: self.file.clone(), state_dir: self.state_dir.clone(), socket: self.socket.clone() }
    }

    /// Like [`Config::load`], of a text already read. Never panics; an entry for fuzzing.
    ///
    /// # Errors
    /// The file's name, the key and what is wrong with it.
    pub fn parse(text: &str, path: &Path, overrides: Overrides) -> Result<Self, ConfigError> {
        Self::parse_over(text, path, overrides, &[])
    }

    fn parse_over(
        text: &str,
        path: &Path,
        overrides: Overrides,
        below: &[BootSettings],
    ) -> Result<Self, ConfigError> {
        let file = boot::parse(text)
            .map_err(|what| ConfigError::Parse { path: path.to_owned(), what })
            .map(|file| boot::lay_over(file, below))?;
        let at =
            |key: &str, what: String| ConfigError::Value { path: path.to_owned(), key: key.to_owned(), what };
        if overrides.network.is_some() && (file.state_dir.is_some() || file.socket.is_some()) {
            let what = "is for agent.toml to say: what belongs to further networks is beside the first one's";
            return Err(at("state_dir, socket", what.to_owned()));
        }
        let (relay, relay_tls, proxy) = relay::RelaySection::split(file.relay);
        let proxy = overrides.proxy.or(proxy);
        let tls = TlsWays::new(overrides.relay_tls.or(relay_tls), proxy, &overrides.proxy_environment)
            .map_err(|(key, what)| at(key, what))?;
        let wireguard = file.interface.wireguard().map_err(|(key, what)| at(key, what))?;
        let peers = file::peers(file.peer).map_err(|(key, what)| at(&key, what))?;
        let lanes = |key: &str, lanes: Option<u8>| {
            lanes.map(check_max_lanes).transpose().map_err(|what| at(&format!("dataplane.{key}"), what))
        };
        let in_file = lanes("max_lanes", file.dataplane.max_lanes)?;
        let max_lanes = overrides.max_lanes.or(in_file).unwrap_or_else(default_max_lanes);
        let in_file = lanes("min_lanes", file.dataplane.min_lanes)?;
        let min_lanes = overrides.min_lanes.or(in_file).unwrap_or(1).min(max_lanes);
        let choice = overrides.mtu.or(file.dataplane.mtu).unwrap_or_default();
        let mtu = Mtu::new(choice, file.dataplane.mtu_min, file.dataplane.mtu_max)
            .map_err(|(key, what)| at(&format!("dataplane.{key}"), what))?;
        let in_file = file.paths.advertise.unwrap_or_default();
        paths::check_advertised(&in_file).map_err(|what| at("paths.advertise", what))?;
        let advertise = overrides.advertise.unwrap_or(in_file);
        paths::check_advertised(&advertise).map_err(ConfigError::Advertise)?;
        let in_file = file.paths.birthday.map(check_birthday).transpose();
        let birthday = overrides.birthday.or(in_file.map_err(|what| at("paths.birthday", what))?);
        let relaying = file.relaying.limits().map_err(|(key, what)| at(key, what))?;
        let hooks = file.hooks.check(overrides.hooks).map_err(|(key, what)| at(key, what))?;
        let key_lifetime = file.trust.key_lifetime().map_err(|(key, what)| at(key, what))?;
        let dns = file.names.dns(overrides.dns, overrides.dns_port).map_err(|(key, what)| at(key, what))?;
        let name = match (overrides.name, file.name) {
            (Some(name), _) => name.parse::<Name>().map_err(|e| ConfigError::Name(e.to_string()))?,
            (None, Some(name)) => name.parse::<Name>().map_err(|e| at("name", e.to_string()))?,
            (None, None) => Name::from_hostname(&host_name()),
        };
        let roles = overrides.roles.or_else(|| file.roles.map(file::OneOrMany::into_vec));
        let roles = roles.map(Tags::new).transpose().map_err(|e| at("roles", e.to_string()))?;
        Ok(Self {
            roles,
            bind_identity: file.boot.bind_identity.unwrap_or(true),
            boot_metadata: overrides.boot_metadata.or(file.boot.metadata).unwrap_or_default(),
            state_dir: overrides.state_dir.or(file.state_dir).unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
            socket: overrides.socket.or(file.socket).unwrap_or_else(|| DEFAULT_SOCKET.into()),
            token: overrides.token.or(file.token),
            name,
            interface: overrides.interface.or(file.interface.name).unwrap_or_else(|| {
                let network = overrides.network.as_ref().map(NetworkName::interface);
                network.unwrap_or_else(|| DEFAULT_INTERFACE.to_owned())
            }),
            port: overrides.port.or(file.interface.listen_port).unwrap_or(if overrides.network.is_none() {
                DEFAULT_PORT
            } else {
                0
            }),
            network: overrides.network,
            file: path.to_owned(),
            relay: overrides.relay.or(relay),
            tls,
            disabled_offloads: overrides
                .disable_offload
                .or(file.dataplane.disable_offload)
                .unwrap_or_default()
                .into_iter()
                .collect(),
            ciphers: overrides.ciphers.or(file.dataplane.ciphers).unwrap_or_default(),
            max_lanes,
            min_lanes,
            mtu,
            guessing: paths::guessing(birthday),
            relaying,
            threading: Threading {
                per_worker: overrides.worker_threads.or(file.dataplane.worker_threads).unwrap_or_default(),
                nice: overrides.nice.or(file.dataplane.nice).unwrap_or_default(),
            },
            advertise,
            port_mapping: overrides.port_mapping.or(file.paths.port_mapping).unwrap_or(true),
            cloud_metadata: overrides.cloud_metadata.or(file.paths.cloud_metadata).unwrap_or(true),
            hooks,
            dns,
            hosts_file: overrides.hosts_file.or(file.names.hosts_file),
            fail_closed: file.trust.fail_closed,
            key_lifetime,
            wireguard,
            peers,
        })
    }
}

impl Config {
    /// What the UDP sockets may use.
    pub fn udp_offloads(&self) -> UdpOffloads {
        let allows = |offload| self.disabled_offloads.allows(offload);
        UdpOffloads { gso: allows(Offload::UdpGso), gro: allows(Offload::UdpGro) }
    }

    /// What may be joined on its way to the TUN device.
    pub fn coalescing(&self) -> Offloads {
        let allows = |offload| self.disabled_offloads.allows(offload);
        let (tcp, udp) = (allows(Offload::CoalesceTcp), allows(Offload::CoalesceUdp));
        Offloads { tcp4: tcp, tcp6: tcp, udp4: udp, udp6: udp }
    }
}

impl Overrides {
    /// What they say of where things are, and of this machine.
    #[must_use]
    pub fn places_only(&self) -> Self {
        Self {
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            socket: self.socket.clone(),
            proxy_environment: self.proxy_environment.clone(),
            ..Self::default()
        }
    }
}

fn read(path: &Path, may_be_missing: bool) -> Result<String, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound && may_be_missing => Ok(String::new()),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests;
