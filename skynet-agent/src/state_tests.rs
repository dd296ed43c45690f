use super::*;
use std::os::unix::fs::PermissionsExt;

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("skynet");
    (dir, path)
}

#[test]
fn what_the_cloud_called_the_machine_is_kept_for_one_identity() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    assert_eq!(state.load_instance(&[1; 32]), None);
    state.save_instance(&[1; 32], &[7; 16]).unwrap();
    assert_eq!(state.load_instance(&[1; 32]), Some([7; 16]));
    assert_eq!(state.load_instance(&[2; 32]), None, "another identity's");
    fs::write(dir.path().join("state/instance"), b"damaged").unwrap();
    assert_eq!(state.load_instance(&[1; 32]), None, "as good as none");
}

#[test]
fn what_was_saved_is_loaded_and_the_modes_are_tight() {
    let (_guard, path) = fresh();
    let state = StateDir::open(&path).unwrap();
    assert_eq!(state.load_credentials().unwrap(), None);
    assert_eq!(state.load_floor().unwrap(), Floor::default());
    state.save_credentials(b"blob").unwrap();
    state.save_credentials(b"newer blob").unwrap();
    let floor = Floor { handshake_timestamp: [9; 12], probe_start: 77 };
    state.save_floor(floor).unwrap();
    assert_eq!(state.load_credentials().unwrap().unwrap(), b"newer blob");
    assert_eq!(state.load_floor().unwrap(), floor);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(path.join("credentials")).unwrap().mode() & 0o7777, 0o600);
    let names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "no temporary file is left: {names:?}");
}

#[test]
fn every_damage_of_a_file_is_told_and_not_repaired() {
    let (_guard, path) = fresh();
    let state = StateDir::open(&path).unwrap();
    state.save_credentials(b"some credentials").unwrap();
    let file = path.join("credentials");
    let sample = fs::read(&file).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..sample.len()).map(|n| sample[..n].to_vec()).collect();
    for bit in 0..sample.len() * 8 {
        let mut flipped = sample.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        damaged.push(flipped);
    }
    damaged.push([&sample[..], &[0]].concat());
    for bytes in damaged {
        assert!(parse_envelope(&bytes, Kind::Credentials as u8).is_err());
    }
    assert!(parse_envelope(&sample, Kind::Floor as u8).is_err());

    fs::write(&file, b"rubbish").unwrap();
    let message = state.load_credentials().unwrap_err().to_string();
    assert!(message.contains("credentials") && message.contains("cure"), "{message}");
    assert_eq!(fs::read(&file).unwrap(), b"rubbish");
}

#[test]
fn open_permissions_are_refused_with_the_cure() {
    let (_guard, path) = fresh();
    StateDir::open(&path).unwrap().save_credentials(b"x").unwrap();
    fs::set_permissions(path.join("credentials"), fs::Permissions::from_mode(0o644)).unwrap();
    let state = StateDir::open(&path).unwrap();
    let message = state.load_credentials().unwrap_err().to_string();
    assert!(message.contains("0644") && message.contains("chmod 0600"), "{message}");
    drop(state);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(StateDir::open(&path), Err(StateError::Permissions { mode: 0o755, .. })));
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let (guard, path) = fresh();
    let state = StateDir::open(&path).unwrap();
    fs::write(guard.path().join("elsewhere"), b"x").unwrap();
    std::os::unix::fs::symlink(guard.path().join("elsewhere"), path.join("credentials")).unwrap();
    assert!(state.load_credentials().is_err());
    state.save_credentials(b"y").unwrap();
    assert_eq!(fs::read(guard.path().join("elsewhere")).unwrap(), b"x");
}

#[test]
fn a_second_agent_on_the_same_directory_is_refused() {
    let (_guard, path) = fresh();
    let first = StateDir::open(&path).unwrap();
    assert!(matches!(StateDir::open(&path), Err(StateError::Locked { .. })));
    drop(first);
    StateDir::open(&path).unwrap();
}
