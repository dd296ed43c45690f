//! Documents of the whole network as files: what the operator signs, and what a further relay was told by the first.

use std::path::Path;

use skynet_core::key::SigningKey;
use skynet_core::member::NetworkTrust;
use skynet_core::member::document::Kind;

use super::files::{FileError, RESTORE, exists, owner, read_private, replace, write_new};
use super::{MANIFEST, NetworkError, load_root_key, load_trust};

const REVOCATIONS: &str = "revocations";

/// The file that a kind of document is kept in; what a registrar says anew every hour is kept in none.
const fn file_of(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Manifest => Some(MANIFEST),
        Kind::Revocations => Some(REVOCATIONS),
        _ => None,
    }
}

/// Keeps a document of the network that was verified.
///
/// # Errors
/// A file.
pub fn keep_document(dir: &Path, kind: Kind, document: &[u8]) -> Result<(), FileError> {
    let Some(name) = file_of(kind) else { return Ok(()) };
    let path = dir.join(name);
    if !exists(&path) {
        // A new file is the daemon's, as its directory is.
        return write_new(&path, document, Some(owner(dir)?));
    }
    if read_private(&path, false)?.as_slice() == document {
        return Ok(());
    }
    replace(&path, document)
}

/// Everything of the network that is kept, the manifest first, for a relay that runs already.
///
/// # Errors
/// A file.
pub fn load_documents(dir: &Path) -> Result<Vec<Vec<u8>>, FileError> {
    let files = [MANIFEST, REVOCATIONS].map(|name| dir.join(name));
    let there = files.iter().filter(|path| exists(path));
    there.map(|path| read_private(path, false).map(|bytes| bytes.to_vec())).collect()
}

/// Puts what is kept beside the manifest into `trust`.
pub(super) fn restore(dir: &Path, trust: &mut NetworkTrust) -> Result<(), FileError> {
    let path = dir.join(REVOCATIONS);
    if exists(&path) {
        let document = read_private(&path, false)?;
        trust.take(&document).map_err(|e| {
            FileError::new(&path, format!("is damaged or not of this network ({e})"), RESTORE)
        })?;
    }
    Ok(())
}

/// Genesis, manifest and documents, and the root key that must belong to them.
pub(super) fn load_operator(dir: &Path) -> Result<(SigningKey, NetworkTrust), NetworkError> {
    let root = load_root_key(dir)?;
    let trust = load_trust(dir)?;
    if trust.genesis().root == root.identity() {
        return Ok((root, trust));
    }
    let path = super::root_key_path(dir);
    Err(FileError::new(&path, "is not the root key of this network", RESTORE).into())
}
