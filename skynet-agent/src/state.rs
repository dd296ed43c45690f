//! `/var/lib/skynet/`: what must survive a restart.
//!
//! ```text
//! credentials   0600  identity, keys and documents, opaque to the agent
//! floor         0600  handshake timestamp and probe start that were used already
//! peers         0600  numbers of the peers talked to last, a hint
//! instance      0600  which of the cloud's machines the identity was made on, if that is known
//! roster        0600  signed documents of other members, for a start without any relay
//! lock          0600  held while an agent runs on this directory
//! ```
//! Each file is an envelope: magic, kind, BLAKE2s-256 of the content, content. A file that is damaged, readable by
//! others or not a plain file stops the agent with its name and the cure; it is never overwritten. Writes go to a
//! temporary file, are synced and renamed, so a crash leaves the old content or the new.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use skynet_core::crypto;
use skynet_core::id::NodeNo;

/// Largest content of one file: far above any bundle of credentials (documents are at most 16 KiB each).
const MAX_CONTENT: u64 = 1 << 20;
const MAGIC: &[u8; 14] = b"skynet state 1";
const HEADER: usize = MAGIC.len() + 1 + 32;

/// A state directory that cannot be used, with the cure.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error(
        "{path}: mode {mode:04o} lets others in; the cure: chown root {path} && chmod {wanted:04o} {path}"
    )]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// Not what an agent wrote.
    #[error(
        "{path}: damaged ({what}); nothing was changed. The cure: restore it from a backup, or move it away \
         and join again with a token"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another agent runs on this directory.
    #[error("{path}: another agent is using this state directory; stop it, or choose another --state-dir")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

/// What an earlier run has used up and must not be used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Floor {
    /// TAI64N of the newest handshake initiation sent (WireGuard paper §5.4.2: strictly rising).
    pub handshake_timestamp: [u8; 12],
    /// Unix second of the newest probe start (strictly rising over starts).
    pub probe_start: u32,
}

/// The state directory, locked for this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Opens `path`, creating it with mode 0700 if it is not there, and locks it.
    ///
    /// # Errors
    /// Not ours alone, or in use by another agent.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        if !path.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| io_error(path, e))?;
        }
        let meta = fs::symlink_metadata(path).map_err(|e| io_error(path, e))?;
        if !meta.is_dir() {
            return Err(io_error(path, io::Error::from(io::ErrorKind::NotADirectory)));
        }
        check_mode(path, &meta, 0o700)?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&lock_path)
            .map_err(|e| io_error(&lock_path, e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
            nix::Error::EWOULDBLOCK => StateError::Locked { path: lock_path.clone() },
            e => io_error(&lock_path, e.into()),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The credentials, if this machine has joined.
    ///
    /// # Errors
    /// The file is damaged or open to others.
    pub fn load_credentials(&self) -> Result<Option<Vec<u8>>, StateError> {
        read(&self.path.join("credentials"), Kind::Credentials)
    }

    /// Replaces the credentials; on the disk when this returns.
    ///
    /// # Errors
    /// The operating system's; the old content is then still there.
    pub fn save_credentials(&self, blob: &[u8]) -> Result<(), StateError> {
        write(&self.path, "credentials", Kind::Credentials, blob)
    }

    /// The floor; all zero if this is the first start.
    ///
    /// # Errors
    /// The file is damaged or open to others.
    pub fn load_floor(&self) -> Result<Floor, StateError> {
        let path = self.path.join("floor");
        let Some(content) = read(&path, Kind::Floor)? else { return Ok(Floor::default()) };
        let content: [u8; 16] =
            content.try_into().map_err(|_| StateError::Corrupt { path, what: "wrong length" })?;
        let mut floor = Floor::default();
        floor.handshake_timestamp.copy_from_slice(&content[..12]);
        floor.probe_start = u32::from_be_bytes([content[12], content[13], content[14], content[15]]);
        Ok(floor)
    }

    /// Replaces the floor; on the disk when this returns.
    ///
    /// # Errors
    /// The operating system's; the old content is then still there.
    pub fn save_floor(&self, floor: Floor) -> Result<(), StateError> {
        let mut content = floor.handshake_timestamp.to_vec();
        content.extend_from_slice(&floor.probe_start.to_be_bytes());
        write(&self.path, "floor", Kind::Floor, &content)
    }

    /// Peers talked to last. A hint: a file that cannot be used is as good as none.
    pub fn load_peers(&self) -> Vec<NodeNo> {
        let content = read(&self.path.join("peers"), Kind::Peers).unwrap_or_else(|e| {
            tracing::debug!(%e, "whom this node talked to last is not known");
            None
        });
        let content = content.unwrap_or_default();
        let (numbers, _) = content.as_chunks::<4>();
        numbers.iter().map(|number| NodeNo(u32::from_be_bytes(*number))).collect()
    }

    /// Replaces the peers talked to last.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save_peers(&self, peers: &[NodeNo]) -> Result<(), StateError> {
        let content: Vec<u8> = peers.iter().flat_map(|peer| peer.0.to_be_bytes()).collect();
        write(&self.path, "peers", Kind::Peers, &content)
    }

    /// What the cloud called the machine that `identity` was first seen on; none of another identity, or if it was not known.
    pub fn load_instance(&self, identity: &[u8; 32]) -> Option<[u8; 16]> {
        let content = read(&self.path.join("instance"), Kind::Instance).unwrap_or_else(|e| {
            tracing::debug!(%e, "what the cloud called this machine is not known");
            None
        });
        let (of, instance) = content.as_deref()?.split_first_chunk::<32>()?;
        (of == identity).then(|| instance.try_into().ok()).flatten()
    }

    /// Replaces it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save_instance(&self, identity: &[u8; 32], instance: &[u8; 16]) -> Result<(), StateError> {
        write(&self.path, "instance", Kind::Instance, &[&identity[..], instance].concat())
    }

    /// Documents of other members. The core checks them; a file that cannot be used is as good as none.
    pub fn load_roster(&self) -> Vec<u8> {
        let content = read(&self.path.join("roster"), Kind::Roster).unwrap_or_else(|e| {
            tracing::debug!(%e, "the members of the run before are not known");
            None
        });
        content.unwrap_or_default()
    }

    /// Replaces the documents of other members.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save_roster(&self, roster: &[u8]) -> Result<(), StateError> {
        write(&self.path, "roster", Kind::Roster, roster)
    }
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Credentials = 1,
    Floor = 2,
    Peers = 3,
    Roster = 4,
    Instance = 5,
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.to_owned(), source }
}

/// Nobody but the owner may read or write, and the owner is this user.
fn check_mode(path: &Path, meta: &fs::Metadata, wanted: u32) -> Result<(), StateError> {
    let ours = meta.uid() == nix::unistd::geteuid().as_raw();
    if meta.mode() & 0o077 != 0 || !ours {
        return Err(StateError::Permissions { path: path.to_owned(), mode: meta.mode() & 0o7777, wanted });
    }
    Ok(())
}

fn read(path: &Path, kind: Kind) -> Result<Option<Vec<u8>>, StateError> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, e)),
    };
    let meta = file.metadata().map_err(|e| io_error(path, e))?;
    let corrupt = |what| StateError::Corrupt { path: path.to_owned(), what };
    if !meta.is_file() {
        return Err(corrupt("not a plain file"));
    }
    check_mode(path, &meta, 0o600)?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(MAX_CONTENT + HEADER as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| io_error(path, e))?;
    parse_envelope(&bytes, kind as u8).map(|content| Some(content.to_vec())).map_err(corrupt)
}

/// The content of an envelope of `kind`, or what is wrong with it. Never panics; an entry for fuzzing.
pub fn parse_envelope(bytes: &[u8], kind: u8) -> Result<&[u8], &'static str> {
    let (header, content) = bytes.split_at_checked(HEADER).ok_or("too short")?;
    if content.len() as u64 > MAX_CONTENT {
        return Err("too long");
    }
    if &header[..MAGIC.len()] != MAGIC {
        return Err("not a skynet state file, or of a later version");
    }
    if header[MAGIC.len()] != kind {
        return Err("another file's content");
    }
    if header[MAGIC.len() + 1..] != crypto::hash(&[&[kind], content]) {
        return Err("checksum does not match");
    }
    Ok(content)
}

fn write(dir: &Path, name: &str, kind: Kind, content: &[u8]) -> Result<(), StateError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.new"));
    let result = write_and_rename(dir, &temporary, &path, kind, content);
    result.map_err(|e| io_error(&path, e))
}

fn write_and_rename(dir: &Path, temporary: &Path, path: &Path, kind: Kind, content: &[u8]) -> io::Result<()> {
    // A left-over of a crash; O_EXCL below then refuses whatever somebody else may have put there meanwhile.
    match fs::remove_file(temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&[kind as u8])?;
    file.write_all(&crypto::hash(&[&[kind as u8], content]))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    // The rename itself is durable only when the directory is.
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
