//! Files of a relay host: written whole or not at all, never over an existing one, read only with the right owner
//! and mode.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use skynet_core::crypto::{hash, mac_eq};
use skynet_core::key::Secret;
use zeroize::Zeroizing;

/// A file that is missing, damaged or not safe: which one, what is wrong, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {problem}; {cure}", path = .path.display())]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What the operator can do.
    pub cure: &'static str,
}

impl FileError {
    pub(super) fn new(path: &Path, problem: impl Into<String>, cure: &'static str) -> Self {
        Self { path: path.to_owned(), problem: problem.into(), cure }
    }

    fn io(path: &Path, what: &str, error: &io::Error) -> Self {
        let cure = match error.kind() {
            io::ErrorKind::PermissionDenied => "run this as the user who owns it",
            io::ErrorKind::StorageFull => "make room on the disk",
            _ => "check the path and the file system",
        };
        Self::new(path, format!("{what}: {error}"), cure)
    }
}

pub(super) const RESTORE: &str = "restore it from a backup, it was not changed";

/// Longest file that is read: no file here comes near.
const MAX_FILE: u64 = 65_536;

/// User and group that files are given to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Whether there is anything at `path`, a dangling link included.
pub(super) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A directory only its owner can enter; made if missing, refused if others can or if it is a link.
pub(super) fn private_directory(path: &Path, owner: Option<Owner>) -> Result<(), FileError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(FileError::io(path, "cannot be created", &e));
        }
        _ => check_directory(path)?,
    }
    let Some(owner) = owner else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|e| FileError::io(path, "cannot be given to the relay's user", &e))
}

/// Refuses a directory of another user than this one: what is written there could be moved away.
pub(super) fn check_own_directory(path: &Path) -> Result<(), FileError> {
    check_directory(path)?;
    let metadata = fs::symlink_metadata(path).map_err(|e| FileError::io(path, "cannot be examined", &e))?;
    let user = nix::unistd::geteuid();
    if metadata.uid() == user.as_raw() {
        return Ok(());
    }
    let problem = format!("belongs to user {}, and this is user {user}", metadata.uid());
    Err(FileError::new(path, problem, "run this as the user who owns it"))
}

/// Holds others of our kind off while this one writes; ends with the value.
pub(super) fn lock_directory(path: &Path) -> Result<File, FileError> {
    let directory = File::open(path).map_err(|e| FileError::io(path, "cannot be opened", &e))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(fs::TryLockError::WouldBlock) => {
            Err(FileError::new(path, "is being changed by another command", "wait for it and try again"))
        }
        Err(fs::TryLockError::Error(e)) => Err(FileError::io(path, "cannot be locked", &e)),
    }
}

/// Refuses a directory that others can enter, or that is none.
pub(super) fn check_directory(path: &Path) -> Result<(), FileError> {
    let metadata = fs::symlink_metadata(path).map_err(|e| FileError::io(path, "cannot be examined", &e))?;
    if !metadata.is_dir() {
        return Err(FileError::new(path, "is not a directory", "name another one"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(FileError::new(path, "can be entered by others", "run chmod 700 on it"));
    }
    Ok(())
}

/// The names in a directory, none if it is not there; what a crash has left half written is not among them.
pub(super) fn names(path: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| FileError::io(path, "cannot be read", &e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| FileError::io(path, "cannot be read", &e))?.file_name();
        names.extend(name.into_string().ok().filter(|name| !name.ends_with(".new")));
    }
    Ok(names)
}

/// To whom a file or directory belongs.
pub(super) fn owner(path: &Path) -> Result<Owner, FileError> {
    let metadata = fs::symlink_metadata(path).map_err(|e| FileError::io(path, "cannot be examined", &e))?;
    Ok(Owner { uid: metadata.uid(), gid: metadata.gid() })
}

/// Writes a file that does not exist yet, mode 0600: complete or not at all, and never over another one.
pub(super) fn write_new(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), FileError> {
    let temporary = write_temporary(path, bytes, owner)?;
    // A link, not a rename: it fails if the name is taken.
    let linked = fs::hard_link(&temporary, path);
    let removed = fs::remove_file(&temporary);
    linked.and(removed).map_err(|e| FileError::io(path, "cannot be created", &e))?;
    sync_directory(path)
}

/// Replaces a file that has been read and understood before; its owner stays.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = write_temporary(path, bytes, Some(owner(path)?))?;
    fs::rename(&temporary, path).map_err(|e| FileError::io(path, "cannot be replaced", &e))?;
    sync_directory(path)
}

fn write_temporary(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<PathBuf, FileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let fail = |e: io::Error| FileError::io(path, "cannot be written", &e);
    // Left by a crash; it was never anybody's file.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&temporary)
        .map_err(fail)?;
    if let Some(owner) = owner {
        std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid)).map_err(fail)?;
    }
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    Ok(temporary)
}

fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| FileError::io(directory, "cannot be written", &e))
}

/// Reads a file only its owner can read. The owner is this process's user; root reads anybody's, except where
/// `own` demands that it be root's own.
pub(super) fn read_private(path: &Path, own: bool) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => FileError::new(path, "is missing", "restore it from a backup"),
            _ => FileError::io(path, "cannot be opened", &e),
        })?;
    let metadata = file.metadata().map_err(|e| FileError::io(path, "cannot be examined", &e))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(FileError::new(path, "is not a file of skynet", RESTORE));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(FileError::new(path, "can be read by others", "run chmod 600 on it"));
    }
    let user = nix::unistd::geteuid();
    if metadata.uid() != user.as_raw() && (own || !user.is_root()) {
        let problem = format!("belongs to user {}, and this is user {user}", metadata.uid());
        return Err(FileError::new(path, problem, "run this as the user who owns it"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.read_to_end(&mut bytes).map_err(|e| FileError::io(path, "cannot be read", &e))?;
    Ok(bytes)
}

/// A key file is one line: `skynet <role> key 1 <64 hex digits> <16 hex digits of check>`.
pub(super) fn encode_key(role: &str, secret: &Secret) -> Zeroizing<String> {
    let check = key_check(role, secret.expose());
    let mut line = Zeroizing::new(String::with_capacity(128));
    line.push_str("skynet ");
    line.push_str(role);
    line.push_str(" key 1 ");
    push_hex(&mut line, secret.expose());
    line.push(' ');
    push_hex(&mut line, &check);
    line.push('\n');
    line
}

/// Reads a key file; `own` as in [`read_private`].
pub(super) fn read_key(path: &Path, role: &str, own: bool) -> Result<Secret, FileError> {
    let bytes = read_private(path, own)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let Some(rest) = text.strip_prefix(&format!("skynet {role} key 1 ")) else {
        return Err(FileError::new(path, format!("is not a {role} key"), RESTORE));
    };
    let damaged = || FileError::new(path, "is damaged", RESTORE);
    let (key, check) = rest.strip_suffix('\n').and_then(|r| r.split_once(' ')).ok_or_else(damaged)?;
    let key = Zeroizing::new(parse_hex::<32>(key).ok_or_else(damaged)?);
    let check = parse_hex::<8>(check).ok_or_else(damaged)?;
    if !mac_eq(&check, &key_check(role, &key)) {
        return Err(damaged());
    }
    Ok(Secret::from_bytes(*key))
}

fn key_check(role: &str, key: &[u8; 32]) -> [u8; 8] {
    let digest = hash(&[b"skynet key file 1", role.as_bytes(), key]);
    digest[..8].try_into().expect("8 of 32 bytes")
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("four bits are one digit"));
        }
    }
}

/// Lower-case hexadecimal of exactly `N` bytes: one encoding per key.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N || text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(out)
}
