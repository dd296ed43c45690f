//! The file as it is written; checked and resolved into what the agent runs with. A machine's metadata may say the same
//! below it, as far as that is not left to the machine itself.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use serde::Deserialize;
use skynet_core::key::PublicKey;

use super::hooks::HooksSection;
use super::names::NamesSection;
use super::paths::Paths;
use super::relay::RelaySection;
use super::relaying::Relaying;
use super::trust::Trust;
use super::{
    BootMetadata, Ciphers, MAX_PEERS, MtuChoice, Nice, Offload, StaticPeer, WireGuardNode, WorkerThreads,
    parse_duration,
};
use crate::netcfg::Prefix;
use crate::secret::SecretText;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) token: Option<SecretText>,
    pub(super) name: Option<String>,
    pub(super) roles: Option<OneOrMany>,
    pub(super) relay: Option<RelaySection>,
    pub(super) interface: Interface,
    pub(super) dataplane: DataPlane,
    pub(super) paths: Paths,
    pub(super) relaying: Relaying,
    pub(super) hooks: HooksSection,
    pub(super) boot: Boot,
    pub(super) names: NamesSection,
    pub(super) trust: Trust,
    pub(super) peer: Vec<Peer>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Interface {
    pub(super) name: Option<String>,
    pub(super) listen_port: Option<u16>,
    address: Option<OneOrMany>,
    private_key: Option<SecretText>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DataPlane {
    pub(super) disable_offload: Option<Vec<Offload>>,
    pub(super) ciphers: Option<Ciphers>,
    pub(super) max_lanes: Option<u8>,
    pub(super) min_lanes: Option<u8>,
    pub(super) mtu: Option<MtuChoice>,
    pub(super) mtu_min: Option<u16>,
    pub(super) mtu_max: Option<u16>,
    pub(super) worker_threads: Option<WorkerThreads>,
    pub(super) nice: Option<Nice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    public_key: String,
    preshared_key: Option<SecretText>,
    endpoint: Option<String>,
    #[serde(default)]
    allowed_ips: Vec<String>,
    persistent_keepalive: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Boot {
    pub(super) metadata: Option<BootMetadata>,
    pub(super) bind_identity: Option<bool>,
}

/// Fields of `self`, or else of `below`.
macro_rules! or {
    ($self:ident, $below:ident: $($field:ident),*) => { Self { $($field: $self.$field.or($below.$field),)* } };
}

impl File {
    /// The file, and below it what the machine's metadata says.
    ///
    /// # Errors
    /// The key that is not for metadata: whoever answers there is not this machine's administrator.
    pub(super) fn over(self, below: Self) -> Result<Self, &'static str> {
        let foreign = [
            ("state_dir", below.state_dir.is_some()),
            ("socket", below.socket.is_some()),
            ("interface.private_key", below.interface.private_key.is_some()),
            ("interface.address", below.interface.address.is_some()),
            ("hooks", below.hooks.is_given()),
            ("boot", below.boot.metadata.is_some() || below.boot.bind_identity.is_some()),
            ("names", below.names.is_given()),
            ("peer", !below.peer.is_empty()),
            ("token: a file", below.token.as_ref().is_some_and(SecretText::is_file)),
            ("relay.proxy: a file", below.relay.as_ref().is_some_and(RelaySection::names_a_file)),
        ];
        if let Some((key, _)) = foreign.iter().find(|(_, is_there)| *is_there) {
            return Err(key);
        }
        Ok(Self {
            token: self.token.or(below.token),
            name: self.name.or(below.name),
            roles: self.roles.or(below.roles),
            relay: self.relay.or(below.relay),
            interface: self.interface.or(below.interface),
            dataplane: self.dataplane.or(below.dataplane),
            paths: self.paths.or(below.paths),
            ..self
        })
    }
}

impl DataPlane {
    fn or(self, below: Self) -> Self {
        or!(self, below: disable_offload, ciphers, max_lanes, min_lanes, mtu, mtu_min, mtu_max, worker_threads, nice)
    }
}

impl Interface {
    fn or(self, below: Self) -> Self {
        or!(self, below: name, listen_port, address, private_key)
    }

    /// Key and addresses of a plain WireGuard node; both or neither must be there.
    pub(super) fn wireguard(&self) -> Result<Option<WireGuardNode>, (&'static str, String)> {
        let texts = match &self.address {
            None => Vec::new(),
            Some(OneOrMany::One(one)) => vec![one.clone()],
            Some(OneOrMany::Many(many)) => many.clone(),
        };
        let Some(key) = &self.private_key else {
            return match texts.is_empty() {
                true => Ok(None),
                false => Err(("interface.private_key", "missing, but interface.address is given".to_owned())),
            };
        };
        if texts.is_empty() {
            return Err(("interface.address", "missing, but interface.private_key is given".to_owned()));
        }
        let private_key = key.resolve_static().map_err(|e| ("interface.private_key", e.to_string()))?;
        let addresses: Result<Vec<_>, _> = texts.iter().map(|t| interface_address(t)).collect();
        let addresses = addresses.map_err(|e| ("interface.address", e))?;
        Ok(Some(WireGuardNode { private_key, addresses }))
    }
}

/// An address with its on-link prefix length; a bare address is on a link of its own.
fn interface_address(text: &str) -> Result<(IpAddr, u8), String> {
    let prefix: Prefix = text.parse().map_err(|e: crate::netcfg::PrefixError| e.to_string())?;
    let address = text.split('/').next().unwrap_or(text).trim();
    let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is no address"))?;
    Ok((address, prefix.prefix_len()))
}

pub(super) fn peers(file: Vec<Peer>) -> Result<Vec<StaticPeer>, (String, String)> {
    if file.len() > MAX_PEERS {
        return Err(("peer".to_owned(), format!("{} peers; at most {MAX_PEERS}", file.len())));
    }
    let mut peers: Vec<StaticPeer> = Vec::with_capacity(file.len());
    for (number, raw) in file.into_iter().enumerate() {
        let key = |field: &str| format!("peer {}: {field}", number + 1);
        let peer = peer(raw).map_err(|(field, what)| (key(field), what))?;
        if peers.iter().any(|p| p.public_key == peer.public_key) {
            return Err((key("public_key"), format!("{} is given twice", peer.public_key)));
        }
        if let Some(twice) =
            peer.allowed_ips.iter().find(|ip| peers.iter().any(|p| p.allowed_ips.contains(ip)))
        {
            return Err((key("allowed_ips"), format!("{twice} belongs to an earlier peer already")));
        }
        peers.push(peer);
    }
    Ok(peers)
}

fn peer(raw: Peer) -> Result<StaticPeer, (&'static str, String)> {
    let public_key: PublicKey =
        raw.public_key.parse().map_err(|e: skynet_core::key::KeyParseError| ("public_key", e.to_string()))?;
    let preshared_key = raw.preshared_key.map(|k| k.resolve_key()).transpose();
    let allowed: Result<Vec<Prefix>, _> = raw.allowed_ips.iter().map(|t| t.parse()).collect();
    let keepalive = match raw.persistent_keepalive.as_deref() {
        None | Some("off") => None,
        Some(text) => Some(parse_duration(text).map_err(|e| ("persistent_keepalive", e))?),
    };
    if keepalive.is_some_and(|k| k.is_zero()) {
        return Err(("persistent_keepalive", "must be longer than nothing, or \"off\"".to_owned()));
    }
    Ok(StaticPeer {
        public_key,
        preshared_key: preshared_key.map_err(|e| ("preshared_key", e.to_string()))?,
        endpoint: raw.endpoint.as_deref().map(endpoint).transpose().map_err(|e| ("endpoint", e))?,
        allowed_ips: allowed.map_err(|e| ("allowed_ips", e.to_string()))?,
        persistent_keepalive: keepalive,
    })
}

/// `host:port`; a name is resolved once, when the configuration is read.
fn endpoint(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let mut found =
        text.to_socket_addrs().map_err(|e| format!("{text:?} is no host:port that resolves: {e}"))?;
    found.next().ok_or_else(|| format!("{text:?} has no address"))
}
