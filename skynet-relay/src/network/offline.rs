//! The operator's part of a network in a directory of its own, on a machine that need not be on any network: the root key,
//! and what it signs. What is signed there is carried to the relay as files, and checked like anything else.
//!
//! ```text
//! <operator's dir>/  genesis  manifest  revocations  policy  cluster.key     as on the relay's host
//!   operator/        root.key  tokens/
//! ```

use std::path::Path;

use super::files::{
    FileError, Owner, exists, lock_directory, names, private_directory, read_private, remove, replace,
    write_new,
};
use super::{
    CLUSTER_KEY, GENESIS, MANIFEST, NetworkError, OPERATOR, REGISTRAR_KEY, RELAY_KEY, ROOT_KEY, documents,
    keep_document, load_root_key, load_trust, root_key_path,
};
use skynet_core::member::document::Kind;

/// What the daemon needs.
const DAEMON: [&str; 5] = [GENESIS, MANIFEST, REGISTRAR_KEY, RELAY_KEY, CLUSTER_KEY];
/// What the operator signs, or signs by.
const SIGNED: [&str; 5] = [GENESIS, MANIFEST, documents::REVOCATIONS, documents::POLICY, CLUSTER_KEY];

/// Copies the operator's part of the network in `dir` to `to`, which must not have a root key yet; with `remove` the root
/// key is here no more afterwards.
///
/// # Errors
/// No root key here, or a file. The key is removed last, when its copy is durable.
pub fn export_root(dir: &Path, to: &Path, remove_here: bool) -> Result<(), NetworkError> {
    let _lock = lock_directory(dir)?;
    load_root_key(dir)?;
    let key = read_private(&root_key_path(dir), true)?;
    private_directory(to, None)?;
    private_directory(&to.join(OPERATOR), None)?;
    if exists(&root_key_path(to)) {
        return Err(NetworkError::Exists(to.to_owned()));
    }
    copy(dir, to, &SIGNED, None)?;
    let tokens = dir.join(OPERATOR).join("tokens");
    let of_tokens: Vec<String> = names(&tokens)?;
    let to_tokens = to.join(OPERATOR).join("tokens");
    private_directory(&to_tokens, None)?;
    copy(&tokens, &to_tokens, &of_tokens.iter().map(String::as_str).collect::<Vec<_>>(), None)?;
    write_new(&root_key_path(to), &key, None)?;
    // It must be usable there before it goes here.
    load_root_key(to)?;
    if remove_here {
        remove(&root_key_path(dir))?;
    }
    Ok(())
}

/// Splits a network that was just made in `dir`: the daemon's part goes to `relay_dir`, for the relay's host; the operator's
/// stays.
///
/// # Errors
/// A file.
pub fn split(dir: &Path, relay_dir: &Path, daemon: Option<Owner>) -> Result<(), NetworkError> {
    private_directory(relay_dir, daemon)?;
    let _lock = lock_directory(dir)?;
    if exists(&relay_dir.join(MANIFEST)) {
        return Err(NetworkError::Exists(relay_dir.to_owned()));
    }
    // The manifest last: with it the network exists there.
    copy(dir, relay_dir, &[GENESIS, REGISTRAR_KEY, RELAY_KEY, CLUSTER_KEY, MANIFEST], daemon)?;
    for name in DAEMON.iter().filter(|name| !SIGNED.contains(name)) {
        remove(&dir.join(name))?;
    }
    Ok(())
}

/// Takes what was signed elsewhere from the operator's directory `from`: newer documents replace ours, older and foreign ones
/// are refused before anything changes. Which were taken.
///
/// # Errors
/// A document that does not hold, or a file.
pub fn import_documents(dir: &Path, from: &Path) -> Result<Vec<Kind>, NetworkError> {
    let _lock = lock_directory(dir)?;
    let mut trust = load_trust(dir)?;
    let mut taken = Vec::new();
    for document in documents::load_documents(from)? {
        let refused = |e| NetworkError::Options(format!("{}: {e}", from.display()));
        if let Some(kind) = trust.take(&document).map_err(refused)? {
            taken.push((kind, document));
        }
    }
    for (kind, document) in &taken {
        keep_document(dir, *kind, document)?;
    }
    Ok(taken.into_iter().map(|(kind, _)| kind).collect())
}

/// Whether the root key is on this host.
pub fn has_root_key(dir: &Path) -> bool {
    exists(&dir.join(OPERATOR).join(ROOT_KEY))
}

fn copy(from: &Path, to: &Path, names: &[&str], owner: Option<Owner>) -> Result<(), FileError> {
    for name in names.iter().filter(|name| exists(&from.join(name))) {
        let bytes = read_private(&from.join(name), false)?;
        let path = to.join(name);
        if exists(&path) {
            replace(&path, &bytes)?;
        } else {
            write_new(&path, &bytes, owner)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{
        CreateOptions, PolicyFile, TokenOptions, create_network, create_token, load_network, set_policy,
    };
    use skynet_core::rng::Rng;
    use skynet_core::time::UnixTime;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn made(dir: &Path) -> Rng {
        let mut rng = Rng::from_seed([8; 32]);
        let options = CreateOptions {
            name: "offline".into(),
            v4: None,
            relay_addresses: vec!["192.0.2.1:3478".parse().unwrap()],
            daemon: None,
            token: TokenOptions::default(),
        };
        create_network(dir, &options, &mut rng, NOW).unwrap();
        rng
    }

    #[test]
    fn a_root_that_was_exported_signs_elsewhere_and_only_there() {
        let temporary = tempfile::tempdir().unwrap();
        let (here, elsewhere) = (temporary.path().join("relay"), temporary.path().join("usb"));
        let mut rng = made(&here);
        export_root(&here, &elsewhere, true).unwrap();
        assert!(!has_root_key(&here) && has_root_key(&elsewhere));
        assert!(load_network(&here).is_ok(), "the daemon does not miss it");
        assert!(create_token(&here, &TokenOptions::default(), &mut rng, NOW).is_err());
        create_token(&elsewhere, &TokenOptions::default(), &mut rng, NOW).unwrap();
        assert!(matches!(export_root(&here, &elsewhere, false), Err(NetworkError::File(_))), "it is gone");

        let file = PolicyFile::parse("default = \"deny\"").unwrap();
        set_policy(&elsewhere, &file, NOW).unwrap();
        assert_eq!(import_documents(&here, &elsewhere).unwrap(), [Kind::Policy]);
        assert_eq!(import_documents(&here, &elsewhere).unwrap(), [], "the same again");
        assert_eq!(load_network(&here).unwrap().trust.policy().unwrap().epoch, 1);
        // An old copy brings nothing back.
        let old = temporary.path().join("old");
        std::fs::create_dir(&old).unwrap();
        std::fs::copy(elsewhere.join("policy"), old.join("policy")).unwrap();
        set_policy(&elsewhere, &file, NOW).unwrap();
        import_documents(&here, &elsewhere).unwrap();
        let refused = import_documents(&here, &old).unwrap_err().to_string();
        assert!(refused.contains("epoch 1, and epoch 2 is known"), "{refused}");
    }

    #[test]
    fn a_network_made_offline_leaves_the_relay_without_a_root() {
        let temporary = tempfile::tempdir().unwrap();
        let (operator, host) = (temporary.path().join("operator"), temporary.path().join("host"));
        let mut rng = made(&operator);
        split(&operator, &host, None).unwrap();
        assert!(load_network(&host).unwrap().registrar_key.is_some());
        assert!(!host.join(OPERATOR).exists());
        assert!(load_network(&operator).is_err(), "the relay's keys are the relay's");
        create_token(&operator, &TokenOptions::default(), &mut rng, NOW).unwrap();
        assert!(matches!(split(&operator, &host, None), Err(NetworkError::Exists(_))));
    }

    #[test]
    fn documents_of_another_network_are_not_imported() {
        let temporary = tempfile::tempdir().unwrap();
        let (ours, theirs) = (temporary.path().join("ours"), temporary.path().join("theirs"));
        made(&ours);
        let mut rng = Rng::from_seed([9; 32]);
        let options = CreateOptions {
            name: "other".into(),
            v4: None,
            relay_addresses: vec!["192.0.2.1:3478".parse().unwrap()],
            daemon: None,
            token: TokenOptions::default(),
        };
        create_network(&theirs, &options, &mut rng, NOW).unwrap();
        set_policy(&theirs, &PolicyFile::parse("default = \"deny\"").unwrap(), NOW).unwrap();
        assert!(import_documents(&ours, &theirs).is_err());
        assert!(load_network(&ours).unwrap().trust.policy().is_none());
    }
}
