//! A network on its relay host: the files that make it, who may read them, and making tokens.
//!
//! ```text
//! <dir>/            0700, the daemon's user          every file 0600
//!   genesis         root's first word; its hash is the network
//!   manifest        epoch, registrars, relays, IPv4 range; written last: with it the network exists
//!   revocations     nodes and tokens that were taken back, if any ever was
//!   registrar.key   signs admission receipts; not on further relays
//!   relay.key       Noise static key of the control channel
//!   cluster.key     tickets and bind keys             directory.redb   the directory (crate::store)
//!   operator/       0700, the user who ran `up`
//!     root.key      signs manifests and tokens; no code path of the daemon opens this directory
//!     tokens/       what each token allows, by its id, and never its seed
//! ```
//!
//! Nothing here ever overwrites a file it did not understand. A creation that was interrupted is finished by the
//! next one, with the keys that are already there.

mod create;
mod documents;
mod files;
mod invitation;
mod relays;
mod revoke;
mod tokens;

pub use create::{CreateOptions, Created, create_network, set_relay_addresses};
pub use documents::{keep_document, load_documents};
pub use files::{FileError, Owner};
pub use invitation::{Invitation, InvitationError, MAX_INVITATION};
pub use relays::{accept_invitation, add_relay, remove_relay};
pub use revoke::{Revoke, revoke, token_entry};
pub use tokens::{Issued, NewToken, TokenOptions, create_token, list_tokens};

use std::path::{Path, PathBuf};

use skynet_core::key::{Secret, SigningKey, StaticSecret};
use skynet_core::member::trust::TrustError;
use skynet_core::member::{DocumentError, Genesis, NetworkTrust, RootPin, Signed};

use crate::registrar::Registrar;
use files::{RESTORE, check_directory, check_own_directory, read_key, read_private};

/// Why there is no network, or no token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetworkError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is one already; it was not touched.
    #[error("{0}: there is a network already; it was not changed")]
    Exists(PathBuf),
    /// What was asked for cannot be.
    #[error("{0}")]
    Options(String),
    /// A document that cannot be signed as asked.
    #[error("the network's documents cannot be made: {0}")]
    Document(#[from] DocumentError),
}

const GENESIS: &str = "genesis";
const MANIFEST: &str = "manifest";
const REGISTRAR_KEY: &str = "registrar.key";
const RELAY_KEY: &str = "relay.key";
const CLUSTER_KEY: &str = "cluster.key";
const DIRECTORY: &str = "directory.redb";
const OPERATOR: &str = "operator";
const ROOT_KEY: &str = "root.key";

fn root_key_path(dir: &Path) -> PathBuf {
    dir.join(OPERATOR).join(ROOT_KEY)
}

/// Everything the relay's daemon needs, and nothing of the operator's.
#[derive(Clone, Debug)]
pub struct Network {
    /// Genesis and manifest, verified.
    pub trust: NetworkTrust,
    /// Signs receipts; a further relay has none.
    pub registrar_key: Option<SigningKey>,
    /// The relay's Noise static key.
    pub relay_key: StaticSecret,
    /// Of tickets and bind keys.
    pub cluster_key: Secret,
    /// This relay's number in the manifest.
    pub relay_no: u16,
    /// Where the directory's store is.
    pub directory: PathBuf,
}

impl Network {
    /// The registrar of this host.
    pub fn registrar(&self) -> Registrar {
        match &self.registrar_key {
            Some(key) => Registrar::new(key.clone(), self.trust.clone()),
            None => Registrar::follower(self.trust.clone()),
        }
    }
}

/// Whether `dir` holds a complete network.
pub fn network_exists(dir: &Path) -> bool {
    files::exists(&dir.join(MANIFEST))
}

/// Loads what the daemon needs. `operator/` is not opened and need not be readable.
pub fn load_network(dir: &Path) -> Result<Network, NetworkError> {
    check_directory(dir)?;
    let trust = load_trust(dir)?;
    let relay_key = StaticSecret::from_bytes(*read_key(&dir.join(RELAY_KEY), "relay", false)?.expose());
    let cluster_key = read_key(&dir.join(CLUSTER_KEY), "cluster", false)?;
    let manifest = trust.manifest();
    let own = relay_key.public();
    let Some(relay_no) = manifest.relays.iter().find(|relay| relay.key == own).map(|relay| relay.relay_no)
    else {
        let problem = "is not the key of a relay of this network's manifest";
        return Err(FileError::new(&dir.join(RELAY_KEY), problem, RESTORE).into());
    };
    // The first relay must have it: one whose file is lost is not a further relay.
    let registrar_path = dir.join(REGISTRAR_KEY);
    let is_first = manifest.relays.first().is_some_and(|relay| relay.relay_no == relay_no);
    let registrar_key = if is_first || files::exists(&registrar_path) {
        let key = signing_key(&registrar_path, "registrar", false)?;
        if !manifest.registrars.contains(&key.identity()) {
            let problem = "is not a registrar of this network's manifest";
            return Err(FileError::new(&registrar_path, problem, RESTORE).into());
        }
        Some(key)
    } else {
        None
    };
    Ok(Network { trust, registrar_key, relay_key, cluster_key, relay_no, directory: dir.join(DIRECTORY) })
}

/// Genesis and manifest. The pin is the hash of the genesis file: this is where the network has its root.
fn load_trust(dir: &Path) -> Result<NetworkTrust, FileError> {
    let genesis_path = dir.join(GENESIS);
    let manifest_path = dir.join(MANIFEST);
    let genesis = read_private(&genesis_path, false)?;
    let manifest = read_private(&manifest_path, false)?;
    let parsed = Signed::<Genesis>::parse(&genesis)
        .map_err(|e| FileError::new(&genesis_path, format!("is damaged ({e})"), RESTORE))?;
    let pin = RootPin(parsed.hash());
    let mut trust = NetworkTrust::new(pin, &genesis, &manifest).map_err(|e| {
        let path = if matches!(e, TrustError::Genesis(_)) { &genesis_path } else { &manifest_path };
        FileError::new(path, format!("is damaged or not of this network ({e})"), RESTORE)
    })?;
    documents::restore(dir, &mut trust)?;
    Ok(trust)
}

/// The root key, for the operator's commands only. Refuses a file that is not this user's own.
fn load_root_key(dir: &Path) -> Result<SigningKey, FileError> {
    check_own_directory(&dir.join(OPERATOR))?;
    signing_key(&root_key_path(dir), "root", true)
}

fn signing_key(path: &Path, role: &str, own: bool) -> Result<SigningKey, FileError> {
    Ok(SigningKey::from_seed(read_key(path, role, own)?.expose()))
}

#[cfg(test)]
mod tests;
