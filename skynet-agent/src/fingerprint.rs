//! Which machine this is: changes when an image or a snapshot is started as another machine.

use std::path::Path;

use skynet_core::crypto::hash;

use crate::cloud::{Cloud, DMI, cloud};

/// What tells machines apart; absent files count as empty.
const SOURCES: [&str; 2] = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"];
/// Of this boot, written before the agent starts.
const CLOUD_INIT: &str = "/var/lib/cloud/data/instance-id";

/// 16 bytes that are equal over restarts of one machine.
pub fn machine() -> [u8; 16] {
    of(&SOURCES.map(|path| read(path.as_ref())))
}

/// 16 bytes of what the cloud calls this machine, if it is known without a network. It tells copies apart whose machine-id
/// nobody has changed; where it is not known, nothing follows.
pub fn instance() -> Option<[u8; 16]> {
    let id = instance_id(DMI.as_ref(), CLOUD_INIT.as_ref())?;
    Some(shorten(hash(&[b"skynet instance 1", id.as_bytes()])))
}

/// EC2 and GCE write it into the firmware, others the UUID, which [`machine`] has already. cloud-init's is asked where the
/// firmware has no UUID: elsewhere it is another after every change of its configuration.
fn instance_id(dmi: &Path, cloud_init: &Path) -> Option<String> {
    let tag = match cloud(dmi) {
        Some(Cloud::Ec2) => read(&dmi.join("board_asset_tag")),
        Some(Cloud::Gce) => read(&dmi.join("product_serial")),
        _ => String::new(),
    };
    let is_instance = |tag: &str| tag.starts_with("i-") || tag.starts_with("GoogleCloud-");
    let tag = Some(tag.trim().to_owned()).filter(|tag| is_instance(tag));
    let has_uuid = !read(&dmi.join("product_uuid")).trim().is_empty();
    let told = || Some(read(cloud_init).trim().to_owned()).filter(|id| !id.is_empty() && !has_uuid);
    tag.or_else(told)
}

/// systemd writes `uninitialized` into images that are to get an id at first boot: that is none.
fn read(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if text.trim() == "uninitialized" { String::new() } else { text }
}

fn of(texts: &[String; 2]) -> [u8; 16] {
    // A separator, so that text cannot move from one source to the other.
    shorten(hash(&[b"skynet machine 1", texts[0].trim().as_bytes(), b"\0", texts[1].trim().as_bytes()]))
}

fn shorten(digest: [u8; 32]) -> [u8; 16] {
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

    #[test]
    fn the_clouds_own_word_counts_and_cloud_inits_where_the_firmware_says_nothing() {
        let ec2 = ("sys_vendor", "Amazon EC2\n");
        let gce = ("product_name", "Google Compute Engine\n");
        let uuid = ("product_uuid", "ec2a0001-0000-4000-8000-000000000001\n");
        for (firmware, cloud_init, expected) in [
            (&[ec2, uuid, ("board_asset_tag", "i-0abc\n")][..], "", Some("i-0abc")),
            (&[ec2, uuid], "i-0abc", None),
            (&[ec2, uuid, ("board_asset_tag", "Amazon EC2")], "", None),
            (&[gce, uuid, ("product_serial", "GoogleCloud-1F2E\n")], "", Some("GoogleCloud-1F2E")),
            (&[uuid, ("board_asset_tag", "i-0abc")], "iid-local", None),
            (&[], "iid-local\n", Some("iid-local")),
            (&[], " \n", None),
            (&[], "", None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let told = directory.path().join("instance-id");
            std::fs::write(&told, cloud_init).unwrap();
            for (name, text) in firmware {
                std::fs::write(directory.path().join(name), text).unwrap();
            }
            assert_eq!(instance_id(directory.path(), &told).as_deref(), expected, "{firmware:?}");
        }
    }
}
