//! The store of a single relay: one redb file, mode 0600, checked in full when it is opened.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable, StorageError, TableDefinition, TableError,
    WriteTransaction,
};

use skynet_core::time::{Duration, Instant};

use super::{Committed, Expect, Group, Store, StoreError, Transaction, Versioned, View, Write, above};
use crate::clock::Clock;

/// Key → (revision, value).
const DIRECTORY: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("skynet directory");
/// `format` and `revision`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("skynet meta");
const FORMAT: u64 = 1;
/// Pages kept in memory; a directory of 10,000 nodes has some 30 MB. The library would take up to a gigabyte.
const CACHE_BYTES: usize = 32 << 20;

const RESTORE: &str = "restore it from a backup, or move it away to start with an empty directory (nodes join again by themselves)";

/// After a failure of the disk the file is opened anew, at most so often.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// A directory in one file. It is opened exclusively; a damaged or foreign file is refused and stays as it is.
///
/// After an error of the disk (it is full, say) redb does nothing more until the file is opened again, which takes back
/// whatever was not acknowledged; so that is done here, and again until it succeeds.
pub struct RedbStore {
    path: PathBuf,
    clock: Clock,
    state: Mutex<State>,
}

/// Whoever is at work has a share of the database; the last one closes it.
enum State {
    Open(Arc<Database>),
    /// The disk has failed: since when, or since the last try, and why.
    Failed(Instant, StoreError),
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbStore")
    }
}

impl RedbStore {
    /// Opens the file, or creates it if there is none. Every page is verified first (some 10 ms per 10 MB).
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = match open_no_follow(path) {
            Ok(file) => Self::open_existing(path, file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(e) => {
                Err(refused(path, format!("cannot be opened: {e}"), "check the path and its permissions"))
            }
        }?;
        let state = Mutex::new(State::Open(Arc::new(database)));
        Ok(Self { path: path.to_owned(), clock: Clock::new(), state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database, opened again if the disk has failed.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut state = self.state();
        if let State::Failed(since, why) = &*state {
            if self.clock.now().mono < *since + REOPEN_AFTER {
                return Err(why.clone());
            }
            // Never a new file: what was acknowledged is in the old one.
            let opened = open_no_follow(&self.path)
                .map_err(unavailable)
                .and_then(|file| Self::open_existing(&self.path, file));
            *state = match opened {
                Ok(database) => State::Open(Arc::new(database)),
                Err(why) => State::Failed(self.clock.now().mono, why),
            };
        }
        match &*state {
            State::Open(database) => Ok(Arc::clone(database)),
            State::Failed(_, why) => Err(why.clone()),
        }
    }

    /// One piece of work. If the disk fails, the next piece opens the file again.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = work(&*self.database()?);
        if let Err(why @ StoreError::Unavailable(_)) = &result {
            self.close(why);
        }
        result
    }

    fn close(&self, why: &StoreError) {
        *self.state() = State::Failed(self.clock.now().mono, why.clone());
    }

    /// Made under another name and renamed when it is complete, so a crash leaves no half-made file behind.
    fn create(path: &Path) -> Result<Database, StoreError> {
        let fail = |e: io::Error| refused(path, format!("cannot be created: {e}"), "check the directory");
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&temporary)
            .map_err(fail)?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(FileBackend::new(file).map_err(unavailable)?)
            .map_err(unavailable)?;
        let transaction = database.begin_write().map_err(unavailable)?;
        transaction.open_table(DIRECTORY).map_err(unavailable)?;
        {
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            meta.insert("format", FORMAT).map_err(unavailable)?;
            meta.insert("revision", 0).map_err(unavailable)?;
        }
        transaction.commit().map_err(unavailable)?;
        // A link, not a rename: it never replaces a file that appeared meanwhile.
        fs::hard_link(&temporary, path).map_err(fail)?;
        fs::remove_file(&temporary).map_err(fail)?;
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|d| d.sync_all()).map_err(fail)?;
        Ok(database)
    }

    fn open_existing(path: &Path, file: File) -> Result<Database, StoreError> {
        let metadata = file.metadata().map_err(unavailable)?;
        if !metadata.is_file() {
            return Err(refused(path, "is not a regular file", "name another file"));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(refused(path, "can be read by others", "run chmod 600 on it"));
        }
        if metadata.len() == 0 {
            return Err(refused(path, "is empty", RESTORE));
        }
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(FileBackend::new(file).map_err(unavailable)?)
            .map_err(|e| match e {
                DatabaseError::DatabaseAlreadyOpen => {
                    refused(path, "is in use by another skynet-relay", "stop that one first")
                }
                DatabaseError::Storage(StorageError::Corrupted(why)) => {
                    refused(path, format!("is damaged ({why})"), RESTORE)
                }
                other => refused(path, format!("is not a directory store ({other})"), RESTORE),
            })?;
        match format(&database) {
            Ok(Some(FORMAT)) => Ok(database),
            Ok(Some(other)) => Err(refused(
                path,
                format!("has format {other}, this program knows {FORMAT}"),
                "upgrade skynet",
            )),
            Ok(None) => Err(refused(path, "is a database of another program", "name another file")),
            Err(e) => Err(refused(path, format!("is damaged ({e})"), RESTORE)),
        }
    }
}

/// The format of a directory; `None` if it is none.
fn format(database: &Database) -> Result<Option<u64>, StoreError> {
    let transaction = database.begin_read().map_err(unavailable)?;
    let missing =
        |e: &TableError| matches!(e, TableError::TableDoesNotExist(_) | TableError::TableTypeMismatch { .. });
    match (transaction.open_table(META), transaction.open_table(DIRECTORY)) {
        (Ok(meta), Ok(_)) => Ok(meta.get("format").map_err(unavailable)?.map(|format| format.value())),
        (Err(e), _) | (_, Err(e)) if missing(&e) => Ok(None),
        (Err(e), _) | (_, Err(e)) => Err(unavailable(e)),
    }
}

impl View for RedbStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(unavailable)?;
            read(&transaction.open_table(DIRECTORY).map_err(unavailable)?, key)
        })
    }

    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read().map_err(unavailable)?;
            read_range(&transaction.open_table(DIRECTORY).map_err(unavailable)?, prefix, after, limit)
        })
    }
}

impl Store for RedbStore {
    /// One write transaction at a time; redb syncs the file before it returns (`Durability::Immediate`).
    fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        transaction.check_limits()?;
        self.with(|database| {
            // Dropped on every early return, which aborts it.
            let writing = database.begin_write().map_err(unavailable)?;
            let committed = apply(&writing, &transaction)?;
            if !transaction.is_empty() {
                writing.commit().map_err(unavailable)?;
            }
            Ok(committed)
        })
    }

    fn group(&self) -> Result<Option<Box<dyn Group + '_>>, StoreError> {
        let writing = self.with(|database| database.begin_write().map_err(unavailable))?;
        let writing = Mutex::new(Writing { transaction: writing, failed: None });
        Ok(Some(Box::new(RedbGroup { writing, store: self })))
    }
}

/// A write transaction that several commits share, and with it one sync of the disk.
struct RedbGroup<'a> {
    writing: Mutex<Writing>,
    store: &'a RedbStore,
}

struct Writing {
    transaction: WriteTransaction,
    /// A commit may have been left half done: nothing of the group may become durable.
    failed: Option<StoreError>,
}

impl RedbGroup<'_> {
    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View for RedbGroup<'_> {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        read(&self.lock().transaction.open_table(DIRECTORY).map_err(unavailable)?, key)
    }

    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, StoreError> {
        read_range(&self.lock().transaction.open_table(DIRECTORY).map_err(unavailable)?, prefix, after, limit)
    }
}

impl Store for RedbGroup<'_> {
    fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        transaction.check_limits()?;
        let mut writing = self.lock();
        let result = apply(&writing.transaction, &transaction);
        if let Err(error) = &result
            && !matches!(error, StoreError::Conflict { .. })
        {
            writing.failed = Some(error.clone());
        }
        result
    }
}

impl Group for RedbGroup<'_> {
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let writing = self.writing.into_inner().unwrap_or_else(PoisonError::into_inner);
        let result = match writing.failed {
            Some(error) => Err(error),
            None => writing.transaction.commit().map_err(unavailable),
        };
        if let Err(why @ StoreError::Unavailable(_)) = &result {
            self.store.close(why);
        }
        result
    }
}

/// Compares and writes; a conflict is found before anything is written.
fn apply(writing: &WriteTransaction, transaction: &Transaction) -> Result<Committed, StoreError> {
    let mut table = writing.open_table(DIRECTORY).map_err(unavailable)?;
    let mut meta = writing.open_table(META).map_err(unavailable)?;
    for (key, expect) in &transaction.compare {
        let found = read(&table, key)?.map_or(Expect::Absent, |v| Expect::Revision(v.revision));
        if found != *expect {
            return Err(StoreError::Conflict { key: key.clone() });
        }
    }
    let last = meta.get("revision").map_err(unavailable)?.map_or(0, |revision| revision.value());
    if transaction.is_empty() {
        return Ok(Committed { revision: last });
    }
    meta.insert("revision", last + 1).map_err(unavailable)?;
    for write in &transaction.writes {
        match write {
            Write::Put(key, value) => {
                table.insert(key.as_str(), (last + 1, value.as_slice())).map_err(unavailable)?;
            }
            Write::Delete(key) => drop(table.remove(key.as_str()).map_err(unavailable)?),
        }
    }
    Ok(Committed { revision: last + 1 })
}

fn read_range(
    table: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Versioned)>, StoreError> {
    let mut found = Vec::new();
    for entry in table.range::<&str>(above(prefix, after)).map_err(unavailable)?.take(limit) {
        let (key, value) = entry.map_err(unavailable)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let (revision, value) = value.value();
        found.push((key.value().to_owned(), Versioned { revision, value: value.to_vec() }));
    }
    Ok(found)
}

fn read(
    table: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    key: &str,
) -> Result<Option<Versioned>, StoreError> {
    let found = table.get(key).map_err(unavailable)?;
    Ok(found.map(|entry| {
        let (revision, value) = entry.value();
        Versioned { revision, value: value.to_vec() }
    }))
}

fn open_no_follow(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

fn unavailable(e: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(e.to_string())
}

fn refused(path: &Path, problem: impl Into<String>, cure: &'static str) -> StoreError {
    StoreError::Refused { path: path.to_owned(), problem: problem.into(), cure }
}
