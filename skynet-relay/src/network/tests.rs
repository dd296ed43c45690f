//! A relay host's files: made once, loaded without the operator's, never overwritten.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use skynet_core::member::{Enrolment, Ipv4Prefix, JoinToken, NodeIdentity, Tags};
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;
use tempfile::TempDir;

use super::*;
use crate::store::MemoryStore;

const NOW: UnixTime = UnixTime(1_800_000_000);
const FILES: [&str; 5] = [GENESIS, MANIFEST, REGISTRAR_KEY, RELAY_KEY, CLUSTER_KEY];

fn rng() -> Rng {
    Rng::from_seed([4; 32])
}

fn options() -> CreateOptions {
    CreateOptions {
        name: "test".into(),
        v4: None,
        relay_addresses: vec!["192.0.2.1:3478".parse().unwrap()],
        daemon: None,
        token: TokenOptions::default(),
    }
}

/// A directory to create in: not itself one of the network's.
fn place() -> (TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("relay");
    (outer, dir)
}

fn created() -> (TempDir, PathBuf, Created) {
    let (outer, dir) = place();
    let made = create_network(&dir, &options(), &mut rng(), NOW).unwrap();
    (outer, dir, made)
}

fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = FILES.iter().map(|name| dir.join(name)).collect();
    files.push(root_key_path(dir));
    files.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap_or_default())).collect()
}

#[test]
fn an_impossible_network_name_is_told_before_any_file_is_made() {
    for name in [String::new(), "x".repeat(64), "a\nb".into()] {
        let (_outer, dir) = place();
        let error = create_network(&dir, &CreateOptions { name, ..options() }, &mut rng(), NOW).unwrap_err();
        assert!(error.to_string().contains("1 to 63"), "{error}");
        assert!(!dir.exists());
    }
}

#[test]
fn a_new_network_admits_a_node_with_its_first_token() {
    let (_outer, dir, made) = created();
    let network = load_network(&dir).unwrap();
    assert_eq!((network.relay_no, network.trust.manifest().epoch), (1, 1));
    assert_eq!(network.trust.manifest().v4, made.v4);
    assert_eq!(made.v4.prefix_len(), 16);
    assert_eq!(made.v4.base().octets()[0], 10);

    let token = JoinToken::parse(&made.token.text).unwrap();
    assert_eq!(token.relays()[0].key, network.relay_key.public());
    let node = NodeIdentity::random(None, &mut rng());
    let enrolment = Enrolment::new(token, node, "web".parse().unwrap(), NOW, &mut rng()).unwrap();
    let proven = enrolment.node().static_secret.public();
    let plan =
        network.registrar().join(&enrolment.bundle().encode(), &proven, &MemoryStore::new(), NOW).unwrap();
    let (genesis, manifest) = (network.trust.genesis().bytes(), network.trust.manifest().bytes());
    assert!(enrolment.complete(genesis, manifest, &plan.receipt, NOW).is_ok());
}

#[test]
fn directories_are_0700_and_files_0600() {
    let (_outer, dir, _) = created();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join(OPERATOR))), (0o700, 0o700));
    for (path, _) in content(&dir) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), FILES.len() + 1, "no temporary file is left: {names:?}");
}

#[test]
fn a_second_creation_changes_nothing() {
    let (_outer, dir, _) = created();
    let before = content(&dir);
    let error = create_network(&dir, &options(), &mut rng(), NOW).unwrap_err();
    assert_eq!(error, NetworkError::Exists(dir.clone()));
    assert_eq!(content(&dir), before);
}

#[test]
fn an_interrupted_creation_is_finished_with_the_keys_it_had() {
    let order = [MANIFEST, GENESIS, CLUSTER_KEY, RELAY_KEY, REGISTRAR_KEY];
    for lost in 1..=order.len() {
        let (_outer, dir, _) = created();
        let before = content(&dir);
        order[..lost].iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
        fs::write(dir.join("manifest.new"), "half").unwrap();
        create_network(&dir, &options(), &mut Rng::from_seed([5; 32]), NOW).unwrap();
        assert!(load_network(&dir).is_ok());
        for ((path, old), (_, new)) in before.iter().zip(content(&dir)) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !order[..lost].contains(&name) {
                assert_eq!(*old, new, "{name} stays");
            }
        }
        assert!(!exists_at(&dir, "manifest.new"));
    }
}

fn exists_at(dir: &Path, name: &str) -> bool {
    files::exists(&dir.join(name))
}

#[test]
fn no_network_is_built_over_the_remains_of_another() {
    let (_outer, dir, _) = created();
    fs::remove_file(dir.join(MANIFEST)).unwrap();
    fs::remove_file(root_key_path(&dir)).unwrap();
    let before = content(&dir);
    let error = create_network(&dir, &options(), &mut rng(), NOW).unwrap_err().to_string();
    assert!(error.contains("manifest: is missing, and other files of a network are there"), "{error}");
    assert_eq!(content(&dir), before);

    let (_outer, dir) = place();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(dir.join(DIRECTORY), "x").unwrap();
    assert!(create_network(&dir, &options(), &mut rng(), NOW).is_err());
}

#[test]
fn a_missing_damaged_or_open_file_is_named_with_its_cure() {
    for name in FILES {
        let (_outer, dir, _) = created();
        let path = dir.join(name);
        let original = fs::read(&path).unwrap();
        let error = || load_network(&dir).unwrap_err().to_string();
        let named = |error: &str| error.starts_with(&format!("{}: ", path.display()));

        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(named(&error()) && error().contains("run chmod 600 on it"), "{}", error());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();

        // Every bit of a key file is tried below, every bit of a document in the core.
        for bit in (0..original.len() * 8).step_by(23) {
            let mut damaged = original.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            let error = error();
            // Another genesis is another network: the manifest is then the one that does not fit.
            assert!(error.contains("restore it from a backup"), "{name} bit {bit}: {error}");
            assert!(named(&error) || name == GENESIS, "{error}");
            assert_eq!(fs::read(&path).unwrap(), damaged, "never overwritten");
        }
        fs::write(&path, &original[..original.len() - 1]).unwrap();
        assert!(load_network(&dir).is_err());
        fs::remove_file(&path).unwrap();
        assert!(named(&error()) && error().contains("is missing"), "{}", error());
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(named(&error()), "no symbolic links: {}", error());
    }
}

#[test]
fn no_damage_to_a_key_file_goes_unseen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("k");
    let key = Secret::from_bytes([0x5a; 32]);
    let original = files::encode_key("relay", &key).as_bytes().to_vec();
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        read_key(&path, "relay", true)
    };
    assert!(read(&original).unwrap().ct_eq(&key));
    for bit in 0..original.len() * 8 {
        let mut damaged = original.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged).is_err(), "bit {bit}");
    }
    for length in 0..original.len() {
        assert!(read(&original[..length]).is_err());
    }
    for byte in 0..=255 {
        assert!(read(&[&original[..], &[byte]].concat()).is_err());
    }
}

#[test]
fn two_creations_at_once_do_not_mix() {
    let (_outer, dir) = place();
    let results = std::thread::scope(|scope| {
        let create = |seed| create_network(&dir, &options(), &mut Rng::from_seed([seed; 32]), NOW);
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || create(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(load_network(&dir).is_ok());
}

#[test]
fn keys_in_the_wrong_place_are_noticed() {
    let (_outer, dir, _) = created();
    fs::copy(dir.join(REGISTRAR_KEY), dir.join(RELAY_KEY)).unwrap();
    let error = load_network(&dir).unwrap_err().to_string();
    assert!(error.contains("relay.key: is not a relay key"), "{error}");

    let (_outer, other, _) = {
        let (outer, dir) = place();
        let made = create_network(&dir, &options(), &mut Rng::from_seed([9; 32]), NOW).unwrap();
        (outer, dir, made)
    };
    let (_outer2, dir, _) = created();
    fs::copy(other.join(REGISTRAR_KEY), dir.join(REGISTRAR_KEY)).unwrap();
    let error = load_network(&dir).unwrap_err().to_string();
    assert!(error.contains("registrar.key: is not a registrar of this network's manifest"), "{error}");
    fs::copy(root_key_path(&other), root_key_path(&dir)).unwrap();
    let error = create_token(&dir, &TokenOptions::default(), &mut rng(), NOW).unwrap_err().to_string();
    assert!(error.contains("root.key: is not the root key of this network"), "{error}");
}

#[test]
fn a_token_carries_what_was_asked_for_and_impossible_wishes_are_refused() {
    let (_outer, dir, made) = created();
    let mut o = TokenOptions {
        max_uses: 3,
        ephemeral: true,
        tags: Tags::new(["web"]).unwrap(),
        names: Some("web-*".parse().unwrap()),
        pool: Some(Ipv4Prefix::new(made.v4.base(), 24).unwrap()),
        ..TokenOptions::default()
    };
    let token = create_token(&dir, &o, &mut rng(), NOW).unwrap();
    assert!(!format!("{token:?}").contains(&token.text[5..20]), "not shown by accident");
    let parsed = JoinToken::parse(&token.text).unwrap();
    let d = parsed.delegation().unverified();
    assert_eq!((d.max_uses, d.ephemeral, d.pool.prefix_len()), (3, true, 24));
    assert!(d.tags.contains("web"));
    assert_eq!(d.names, o.names);
    assert_eq!(d.not_after, NOW.plus_secs(86_400));
    assert_eq!(d.renew_until, None, "an ephemeral node's certificate is not prolonged");
    for (renew_for, until) in [(0, None), (60, Some(d.not_after.plus_secs(60)))] {
        let renew_for = std::time::Duration::from_secs(renew_for);
        let lasting = TokenOptions { renew_for, ephemeral: false, ..o.clone() };
        let mut rng = Rng::from_seed([90 + u8::from(until.is_some()); 32]);
        let token = create_token(&dir, &lasting, &mut rng, NOW).unwrap();
        assert_eq!(JoinToken::parse(&token.text).unwrap().delegation().unverified().renew_until, until);
    }
    assert!(load_network(&dir).unwrap().trust.verify_delegation(parsed.delegation()).is_ok());

    o.pool = Some("192.168.0.0/24".parse().unwrap());
    let error = create_token(&dir, &o, &mut rng(), NOW).unwrap_err().to_string();
    assert!(error.contains("must lie inside the network's range"), "{error}");
    o.pool = None;
    o.relays = Some(vec![]);
    assert!(matches!(create_token(&dir, &o, &mut rng(), NOW), Err(NetworkError::Options(_))));
}

#[test]
fn impossible_networks_are_refused_before_anything_is_written() {
    let (_outer, dir) = place();
    let fails = |change: fn(&mut CreateOptions)| {
        let mut o = options();
        change(&mut o);
        matches!(create_network(&dir, &o, &mut rng(), NOW), Err(NetworkError::Options(_)))
    };
    assert!(fails(|o| o.relay_addresses.clear()));
    assert!(fails(|o| o.relay_addresses = vec!["0.0.0.0:3478".parse().unwrap()]));
    assert!(fails(|o| o.relay_addresses = vec!["192.0.2.1:0".parse().unwrap()]));
    assert!(fails(|o| o.v4 = Some("10.0.0.0/31".parse().unwrap())));
    assert!(fails(|o| o.token.pool = Some("192.168.0.0/24".parse().unwrap())));
    assert!(!dir.exists());
}

#[test]
fn other_addresses_are_a_manifest_of_the_next_epoch() {
    let (_outer, dir, _) = created();
    let mut trust = load_network(&dir).unwrap().trust;
    let new = ["198.51.100.9:3478".parse().unwrap()];
    assert_eq!(set_relay_addresses(&dir, &new, NOW), Ok(true));
    assert_eq!(set_relay_addresses(&dir, &new, NOW), Ok(false));
    let network = load_network(&dir).unwrap();
    assert_eq!(network.trust.manifest().relays[0].addresses, new);
    assert_eq!(trust.update_manifest(network.trust.manifest().bytes()), Ok(true));
    assert_eq!(trust.manifest().epoch, 2);
}

const CHILD: &str = "SKYNET_TEST_RELAY_DIR";
const NOBODY: u32 = 65_534;

/// The other half of the test below, run as another user.
#[test]
#[ignore = "run by the_daemon_works_without_the_operators_directory"]
fn as_the_daemon() {
    let dir = PathBuf::from(std::env::var_os(CHILD).expect("set by the parent"));
    assert_eq!(nix::unistd::geteuid().as_raw(), NOBODY);
    let network = load_network(&dir).unwrap();
    assert!(crate::store::RedbStore::open(&network.directory).is_ok());
    assert!(fs::read_dir(dir.join(OPERATOR)).is_err());
    assert!(fs::read(root_key_path(&dir)).is_err());
    let error = create_token(&dir, &TokenOptions::default(), &mut rng(), NOW).unwrap_err().to_string();
    assert!(error.contains("operator"), "{error}");
}

#[test]
fn the_daemon_works_without_the_operators_directory() {
    if !nix::unistd::geteuid().is_root() {
        // Without root there is no other user; what is left to show is that the directory is not needed.
        let (_outer, dir, _) = created();
        fs::set_permissions(dir.join(OPERATOR), PermissionsExt::from_mode(0o000)).unwrap();
        assert!(load_network(&dir).is_ok());
        assert!(create_token(&dir, &TokenOptions::default(), &mut rng(), NOW).is_err());
        fs::set_permissions(dir.join(OPERATOR), PermissionsExt::from_mode(0o700)).unwrap();
        return;
    }
    let (outer, dir) = place();
    fs::set_permissions(outer.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = Some(Owner { uid: NOBODY, gid: NOBODY });
    create_network(&dir, &CreateOptions { daemon, ..options() }, &mut rng(), NOW).unwrap();
    assert_eq!(fs::metadata(root_key_path(&dir)).unwrap().uid(), 0);
    assert!(load_network(&dir).is_ok(), "root may look at the daemon's files");
    // A copy, since the test binary's own path may be closed to others.
    let program = outer.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let output = std::process::Command::new(&program)
        .args(["--exact", "network::tests::as_the_daemon", "--ignored"])
        .env(CHILD, &dir)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");

    // A key planted by the daemon's user is not taken for the operator's.
    std::os::unix::fs::chown(root_key_path(&dir), Some(NOBODY), None).unwrap();
    let error = create_token(&dir, &TokenOptions::default(), &mut rng(), NOW).unwrap_err().to_string();
    assert!(error.contains("root.key: belongs to user 65534"), "{error}");
}

#[test]
fn another_relay_is_listed_and_set_up_by_its_invitation() {
    let (_outer, dir, _) = created();
    let address = "198.51.100.7:3478".parse().unwrap();
    let invitation = add_relay(&dir, &[address], &mut rng(), NOW).unwrap();
    assert_eq!(invitation.relay_no, 2);
    let first = load_network(&dir).unwrap();
    assert_eq!((first.relay_no, first.trust.manifest().epoch), (1, 2));
    assert_eq!(first.trust.manifest().relay(2).unwrap().addresses, [address]);

    let (_other, there) = place();
    let read = Invitation::parse(&format!(" {}\n", invitation.encode().as_str())).unwrap();
    for _ in 0..2 {
        accept_invitation(&there, &read, None).unwrap();
    }
    let second = load_network(&there).unwrap();
    assert_eq!(second.relay_no, 2);
    assert!(second.registrar_key.is_none() && !second.registrar().admits());
    assert_eq!(second.cluster_key.expose(), first.cluster_key.expose());
    assert!(!there.join(OPERATOR).exists(), "no root key travels");

    // Another relay's invitation, and another network's, change nothing there.
    let other = &mut Rng::from_seed([5; 32]);
    let third = add_relay(&dir, &["198.51.100.8:3478".parse().unwrap()], other, NOW).unwrap();
    assert!(matches!(accept_invitation(&there, &third, None), Err(NetworkError::Exists(_))));
    assert_eq!(load_network(&there).unwrap().relay_no, 2);
    // A token names all of them.
    let token = create_token(&dir, &TokenOptions::default(), &mut rng(), NOW).unwrap();
    assert_eq!(JoinToken::parse(&token.text).unwrap().relays().len(), 3);
}

#[test]
fn a_relay_is_taken_out_of_the_list_but_never_the_one_with_the_directory() {
    let (_outer, dir, _) = created();
    let address = ["198.51.100.7:3478".parse().unwrap()];
    add_relay(&dir, &address, &mut rng(), NOW).unwrap();
    assert!(add_relay(&dir, &address, &mut rng(), NOW).is_err(), "the same address twice");
    assert!(remove_relay(&dir, 1, NOW).is_err());
    assert!(remove_relay(&dir, 9, NOW).is_err());
    remove_relay(&dir, 2, NOW).unwrap();
    let network = load_network(&dir).unwrap();
    assert_eq!((network.trust.manifest().relays.len(), network.trust.manifest().epoch), (1, 3));
}

#[test]
fn a_damaged_invitation_is_refused_whatever_is_wrong_with_it() {
    let (_outer, dir, _) = created();
    let invitation = add_relay(&dir, &["198.51.100.7:3478".parse().unwrap()], &mut rng(), NOW).unwrap();
    let text = invitation.encode();
    for end in 0..text.len() {
        assert!(Invitation::parse(&text[..end]).is_err(), "{end}");
    }
    let bytes = data_encoding::BASE64URL_NOPAD.decode(&text.as_bytes()[5..]).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let text = format!("ski1.{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
        assert!(Invitation::parse(&text).is_err(), "bit {bit}");
    }
    assert_eq!(Invitation::parse("skj1.AAAA").unwrap_err(), InvitationError::Prefix);
}
