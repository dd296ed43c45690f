//! Making a network, and telling it where its relay is.

use std::net::SocketAddr;
use std::path::Path;

use skynet_core::key::{Secret, SigningKey, StaticSecret};
use skynet_core::member::document::Content as _;
use skynet_core::member::manifest::{MAX_NETWORK_NAME, MAX_RELAY_ADDRESSES};
use skynet_core::member::{Genesis, Ipv4Prefix, Manifest, RelayEntry, Signed, Verified};
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;

use super::files::{
    FileError, Owner, RESTORE, check_own_directory, encode_key, exists, lock_directory, private_directory,
    read_key, read_private, replace, write_new,
};
use super::{
    CLUSTER_KEY, DIRECTORY, GENESIS, MANIFEST, NetworkError, OPERATOR, REGISTRAR_KEY, RELAY_KEY,
    load_root_key, load_trust, root_key_path,
};
use super::{NewToken, TokenOptions, create_token};

/// How long a manifest is fresh, in seconds: a year, because the root may be offline; stale is a warning.
pub(super) const MANIFEST_LIFETIME: u64 = 365 * 86_400;

/// Second bytes of 10/8 that well-known software takes by default: cloud VPCs (0, 1, 10, 128), container and
/// cluster networks (42, 43, 88, 96, 100, 152, 217, 233, 244).
const CROWDED: [u8; 13] = [0, 1, 10, 42, 43, 88, 96, 100, 128, 152, 217, 233, 244];

/// What a new network is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateOptions {
    /// Its name, at most 63 bytes.
    pub name: String,
    /// Its IPv4 range; a random 10.x.0.0/16 if `None`.
    pub v4: Option<Ipv4Prefix>,
    /// Where nodes reach this relay, at most four.
    pub relay_addresses: Vec<SocketAddr>,
    /// The daemon's user, to whom everything but `operator/` is given; `None` leaves it with this user.
    pub daemon: Option<Owner>,
    /// The first token.
    pub token: TokenOptions,
}

/// A network that was just made.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its IPv4 range.
    pub v4: Ipv4Prefix,
    /// Its first token, shown once and stored nowhere.
    pub token: NewToken,
}

/// Makes a network with this relay and registrar in `dir`, or finishes one that was interrupted. Where there is one
/// already, it is [`NetworkError::Exists`] and nothing changes.
pub fn create_network(
    dir: &Path,
    options: &CreateOptions,
    rng: &mut Rng,
    now: UnixTime,
) -> Result<Created, NetworkError> {
    check_addresses(&options.relay_addresses)?;
    check_name(&options.name)?;
    if let Some(v4) = options.v4.filter(|v4| !v4.is_network_range()) {
        return Err(NetworkError::Options(format!("{v4} cannot be a network's range: use a /8 to /30")));
    }
    if exists(&dir.join(MANIFEST)) {
        return Err(NetworkError::Exists(dir.to_owned()));
    }
    refuse_remains(dir)?;
    let v4 = options.v4.unwrap_or_else(|| random_range(rng));
    options.token.check(&v4)?;
    private_directory(dir, options.daemon)?;
    let _lock = lock_directory(dir)?;
    if exists(&dir.join(MANIFEST)) {
        return Err(NetworkError::Exists(dir.to_owned()));
    }
    private_directory(&dir.join(OPERATOR), None)?;
    check_own_directory(&dir.join(OPERATOR))?;

    let root = own_key(&root_key_path(dir), "root", None, rng)?;
    let root = SigningKey::from_seed(root.expose());
    let registrar = own_key(&dir.join(REGISTRAR_KEY), "registrar", options.daemon, rng)?;
    let relay = own_key(&dir.join(RELAY_KEY), "relay", options.daemon, rng)?;
    own_key(&dir.join(CLUSTER_KEY), "cluster", options.daemon, rng)?;
    let genesis = own_genesis(dir, &root, options, rng, now)?;

    let manifest = Manifest {
        network_id: genesis.root_pin().network_id(),
        epoch: 1,
        issued: now,
        next_update: now.plus_secs(MANIFEST_LIFETIME),
        v4,
        registrars: vec![SigningKey::from_seed(registrar.expose()).identity()],
        issuers: vec![],
        relays: vec![RelayEntry {
            relay_no: 1,
            key: StaticSecret::from_bytes(*relay.expose()).public(),
            addresses: options.relay_addresses.clone(),
        }],
    };
    let manifest = manifest.sign(&root)?;
    write_new(&dir.join(MANIFEST), manifest.bytes(), options.daemon)?;
    Ok(Created { v4, token: create_token(dir, &options.token, rng, now)? })
}

/// Signs a manifest of the next epoch that gives this relay other addresses. Nothing happens if they are the same.
pub fn set_relay_addresses(
    dir: &Path,
    addresses: &[SocketAddr],
    now: UnixTime,
) -> Result<bool, NetworkError> {
    check_addresses(addresses)?;
    let _lock = lock_directory(dir)?;
    let root = load_root_key(dir)?;
    let trust = load_trust(dir)?;
    let key = StaticSecret::from_bytes(*read_key(&dir.join(RELAY_KEY), "relay", false)?.expose()).public();
    let mut manifest = Manifest::clone(trust.manifest());
    let Some(entry) = manifest.relays.iter_mut().find(|relay| relay.key == key) else {
        let problem = "is not the key of a relay of this network's manifest";
        return Err(FileError::new(&dir.join(RELAY_KEY), problem, RESTORE).into());
    };
    if entry.addresses == addresses {
        return Ok(false);
    }
    entry.addresses = addresses.to_vec();
    manifest.epoch += 1;
    manifest.issued = now;
    manifest.next_update = now.plus_secs(MANIFEST_LIFETIME);
    replace(&dir.join(MANIFEST), manifest.sign(&root)?.bytes())?;
    Ok(true)
}

/// As the genesis wants it, told before any file is made.
fn check_name(name: &str) -> Result<(), NetworkError> {
    if name.is_empty() || name.len() > MAX_NETWORK_NAME || name.chars().any(char::is_control) {
        let rule = "use 1 to 63 bytes without control characters";
        return Err(NetworkError::Options(format!("{name:?} cannot be a network's name: {rule}")));
    }
    Ok(())
}

pub(super) fn check_addresses(addresses: &[SocketAddr]) -> Result<(), NetworkError> {
    if addresses.is_empty() || addresses.len() > MAX_RELAY_ADDRESSES {
        return Err(NetworkError::Options(
            "a relay needs one to four addresses at which nodes reach it".into(),
        ));
    }
    match addresses.iter().find(|a| a.ip().is_unspecified() || a.ip().is_multicast() || a.port() == 0) {
        Some(bad) => Err(NetworkError::Options(format!("nodes cannot reach a relay at {bad}"))),
        None => Ok(()),
    }
}

/// Without a manifest there may be keys of an interrupted creation, but neither a directory nor a genesis whose
/// root key is gone: those are the remains of a network, and a new one must not be built over them.
fn refuse_remains(dir: &Path) -> Result<(), NetworkError> {
    let manifest = dir.join(MANIFEST);
    let lost = exists(&dir.join(DIRECTORY)) || (exists(&dir.join(GENESIS)) && !exists(&root_key_path(dir)));
    if lost {
        let cure = "restore it from a backup, or name another directory for a new network";
        return Err(
            FileError::new(&manifest, "is missing, and other files of a network are there", cure).into()
        );
    }
    Ok(())
}

/// The key that is there, or a fresh one.
fn own_key(path: &Path, role: &str, owner: Option<Owner>, rng: &mut Rng) -> Result<Secret, FileError> {
    if !exists(path) {
        let key = Secret::random(rng);
        write_new(path, encode_key(role, &key).as_bytes(), owner)?;
        return Ok(key);
    }
    read_key(path, role, false)
}

fn own_genesis(
    dir: &Path,
    root: &SigningKey,
    options: &CreateOptions,
    rng: &mut Rng,
    now: UnixTime,
) -> Result<Verified<Genesis>, NetworkError> {
    let path = dir.join(GENESIS);
    if exists(&path) {
        let bytes = read_private(&path, false)?;
        return Signed::<Genesis>::parse(&bytes)
            .and_then(|genesis| genesis.verify(&root.identity()))
            .map_err(|e| {
                FileError::new(&path, format!("is damaged or of another root ({e})"), RESTORE).into()
            });
    }
    let genesis =
        Genesis { root: root.identity(), nonce: rng.array(), created: now, name: options.name.clone() };
    let genesis = genesis.sign(root)?;
    write_new(&path, genesis.bytes(), options.daemon)?;
    Ok(genesis)
}

fn random_range(rng: &mut Rng) -> Ipv4Prefix {
    loop {
        let second = u8::try_from(rng.below(256)).expect("below 256");
        if !CROWDED.contains(&second) {
            return Ipv4Prefix::new([10, second, 0, 0].into(), 16).expect("a /16 without host bits");
        }
    }
}
