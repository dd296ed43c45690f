//! Which machine this is: changes when an image or a snapshot is started as another machine.

use std::path::Path;

use skynet_core::crypto::hash;

/// What tells machines apart; absent files count as empty.
const SOURCES: [&str; 2] = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"];

/// 16 bytes that are equal over restarts of one machine.
pub fn machine() -> [u8; 16] {
    of(&SOURCES.map(|path| read(path.as_ref())))
}

/// systemd writes `uninitialized` into images that are to get an id at first boot: that is none.
fn read(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if text.trim() == "uninitialized" { String::new() } else { text }
}

fn of(texts: &[String; 2]) -> [u8; 16] {
    // A separator, so that text cannot move from one source to the other.
    let digest = hash(&[b"skynet machine 1", texts[0].trim().as_bytes(), b"\0", texts[1].trim().as_bytes()]);
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_still_to_be_made_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine-id");
        assert_eq!(read(&path), "");
        std::fs::write(&path, "uninitialized\n").unwrap();
        assert_eq!(read(&path), "");
        std::fs::write(&path, "b08dfa6083e7567a1921a715000001fb\n").unwrap();
        assert_eq!(read(&path).trim().len(), 32);
    }

    #[test]
    fn each_source_counts_and_white_space_does_not() {
        let make = |a: &str, b: &str| of(&[a.to_owned(), b.to_owned()]);
        assert_eq!(make("id\n", "uuid"), make("id", " uuid"));
        assert_ne!(make("id", "uuid"), make("idu", "uid"));
        assert_ne!(make("id", "uuid"), make("id2", "uuid"));
        assert_eq!(machine(), machine());
    }
}
