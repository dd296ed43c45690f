//! Further relays of a network: the operator lists them in the manifest, and their hosts are set up by invitation.

use std::net::SocketAddr;
use std::path::Path;

use skynet_core::key::{Secret, StaticSecret};
use skynet_core::member::document::Content as _;
use skynet_core::member::manifest::MAX_RELAYS;
use skynet_core::member::{Manifest, NetworkTrust, RelayEntry};
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;

use super::create::{MANIFEST_LIFETIME, check_addresses};
use super::files::{
    FileError, Owner, RESTORE, encode_key, exists, lock_directory, private_directory, read_key, read_private,
    replace, write_new,
};
use super::{
    CLUSTER_KEY, DIRECTORY, GENESIS, Invitation, MANIFEST, NetworkError, RELAY_KEY, load_root_key, load_trust,
};

/// Lists another relay in a manifest of the next epoch, and returns what its host needs. Nothing of the relay's key stays
/// here.
///
/// # Errors
/// No root key here, too many relays, or a file.
pub fn add_relay(
    dir: &Path,
    addresses: &[SocketAddr],
    rng: &mut Rng,
    now: UnixTime,
) -> Result<Invitation, NetworkError> {
    check_addresses(addresses)?;
    let relay_key = StaticSecret::random(rng);
    let mut added = 0;
    let trust = sign_next(dir, now, |manifest| {
        if manifest.relays.len() >= MAX_RELAYS {
            return Err(NetworkError::Options(format!("a network has at most {MAX_RELAYS} relays")));
        }
        if let Some(other) =
            manifest.relays.iter().find(|r| r.addresses.iter().any(|a| addresses.contains(a)))
        {
            let text = format!("relay {} is at that address already", other.relay_no);
            return Err(NetworkError::Options(text));
        }
        // Nodes know relays by their numbers.
        let highest = manifest.relays.iter().map(|r| r.relay_no).max().unwrap_or(0);
        let next = highest.checked_add(1).filter(|no| *no < u16::MAX);
        added = next.ok_or_else(|| NetworkError::Options("no relay numbers are left".into()))?;
        manifest.relays.push(RelayEntry {
            relay_no: added,
            key: relay_key.public(),
            addresses: addresses.to_vec(),
        });
        Ok(())
    })?;
    let cluster_key = read_key(&dir.join(CLUSTER_KEY), "cluster", false)?;
    Ok(Invitation { relay_key, cluster_key, trust, relay_no: added })
}

/// Takes a relay out of the manifest. Nodes that hear of it use it no more; its tickets hold until they end.
///
/// # Errors
/// There is no such relay, or it is this host's own, or a file.
pub fn remove_relay(dir: &Path, relay_no: u16, now: UnixTime) -> Result<(), NetworkError> {
    let own = StaticSecret::from_bytes(*read_key(&dir.join(RELAY_KEY), "relay", false)?.expose()).public();
    sign_next(dir, now, |manifest| {
        let Some(at) = manifest.relays.iter().position(|r| r.relay_no == relay_no) else {
            return Err(NetworkError::Options(format!("there is no relay {relay_no}; see `network show`")));
        };
        if manifest.relays[at].key == own {
            let text = "that is this host's relay, which keeps the directory: it cannot be taken out";
            return Err(NetworkError::Options(text.into()));
        }
        manifest.relays.remove(at);
        Ok(())
    })
    .map(drop)
}

fn sign_next(
    dir: &Path,
    now: UnixTime,
    change: impl FnOnce(&mut Manifest) -> Result<(), NetworkError>,
) -> Result<NetworkTrust, NetworkError> {
    let _lock = lock_directory(dir)?;
    let root = load_root_key(dir)?;
    let mut manifest = Manifest::clone(load_trust(dir)?.manifest());
    change(&mut manifest)?;
    manifest.epoch += 1;
    manifest.issued = now;
    manifest.next_update = now.plus_secs(MANIFEST_LIFETIME);
    replace(&dir.join(MANIFEST), manifest.sign(&root)?.bytes())?;
    Ok(load_trust(dir)?)
}

/// Makes `dir` the directory of the invited relay; nothing happens if it is that already. A later invitation of the same
/// relay brings a newer manifest.
///
/// # Errors
/// There is another network, or another relay, in `dir`; or a file.
pub fn accept_invitation(
    dir: &Path,
    invitation: &Invitation,
    daemon: Option<Owner>,
) -> Result<(), NetworkError> {
    private_directory(dir, daemon)?;
    let _lock = lock_directory(dir)?;
    let key_path = dir.join(RELAY_KEY);
    if exists(&dir.join(MANIFEST)) {
        let key = StaticSecret::from_bytes(*read_key(&key_path, "relay", false)?.expose()).public();
        let trust = load_trust(dir)?;
        if key != invitation.relay_key.public() || trust.root_pin() != invitation.trust.root_pin() {
            return Err(NetworkError::Exists(dir.to_owned()));
        }
        if trust.manifest().epoch < invitation.trust.manifest().epoch {
            replace(&dir.join(MANIFEST), invitation.trust.manifest().bytes())?;
        }
        return Ok(());
    }
    if exists(&dir.join(DIRECTORY)) {
        let problem = "is missing, and other files of a network are there";
        return Err(FileError::new(&dir.join(MANIFEST), problem, RESTORE).into());
    }
    let relay_key = Secret::from_bytes(*invitation.relay_key.expose());
    write_once(&key_path, encode_key("relay", &relay_key).as_bytes(), daemon)?;
    let cluster = encode_key("cluster", &invitation.cluster_key);
    write_once(&dir.join(CLUSTER_KEY), cluster.as_bytes(), daemon)?;
    write_once(&dir.join(GENESIS), invitation.trust.genesis().bytes(), daemon)?;
    // Last: with it the network exists here.
    write_once(&dir.join(MANIFEST), invitation.trust.manifest().bytes(), daemon)?;
    Ok(())
}

/// Writes a file, unless an interrupted run of the same has.
fn write_once(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), FileError> {
    if !exists(path) {
        return write_new(path, bytes, owner);
    }
    if read_private(path, false)?.as_slice() == bytes {
        return Ok(());
    }
    Err(FileError::new(path, "is another relay's", "name another directory with --dir"))
}
