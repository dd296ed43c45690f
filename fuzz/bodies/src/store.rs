//! Opening the relay's directory store after something happened to the file.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use skynet_relay::store::{RedbStore, Store, StoreError, Transaction, View as _};

use crate::Input;

/// A sound file with a few entries in two commits.
fn sound() -> &'static [u8] {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory for the sound file");
        let path = dir.path().join("store");
        let store = RedbStore::open(&path).expect("an empty store is made");
        for round in 0..2u8 {
            let mut transaction = Transaction::default();
            for i in 0..4u8 {
                transaction.put(format!("member/{i}"), vec![round; 40]);
            }
            store.commit(transaction).expect("an honest transaction");
        }
        drop(store);
        fs::read(path).expect("the file is there")
    })
}

/// First two bytes: how much of the file is cut off its end, in 1/65,536. Then edits: where, in 32 bits, and what.
///
/// Promises: no panic; what is refused stays as it was; what opens can be read, and holds nothing that was never
/// written.
pub fn store(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let mut file = sound().to_vec();
    let keep = file.len() - file.len() * usize::from(input.short()) / 65_536;
    file.truncate(keep);
    while !input.is_empty() {
        let at = usize::from(input.short()) << 16 | usize::from(input.short());
        let n = usize::from(input.byte());
        let value = input.take(n);
        let at = at % file.len().max(1);
        if let Some(place) = file.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
    let mut temporary = tempfile::NamedTempFile::new().expect("a place for the file");
    temporary.write_all(&file).expect("room for the file");
    open(temporary.path(), &file)
}

fn open(path: &Path, before: &[u8]) -> bool {
    let store = match RedbStore::open(path) {
        Ok(store) => store,
        Err(error) => {
            assert!(matches!(error, StoreError::Refused { .. }), "{error}");
            assert!(fs::read(path).expect("the file is there") == before, "a refused file was changed");
            return false;
        }
    };
    let Ok(entries) = store.range("", None, 100) else { return false };
    for (key, versioned) in entries {
        assert!(key.starts_with("member/") && versioned.value.len() == 40, "{key} was never written");
        assert!(versioned.value.iter().all(|b| *b == versioned.value[0] && *b < 2));
    }
    true
}
