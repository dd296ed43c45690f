//! The directory's store: keys and values with revisions, changed by compare-and-swap transactions.
//!
//! One interface for the embedded file of a single relay and for a cluster shared by several. The contract, held to
//! by one conformance suite over all implementations:
//!
//! - **Ack point**: when [`Store::commit`] returns `Ok`, the transaction is durable. A receipt or an answer goes out
//!   after that, never before. On any error nothing was changed, except after [`StoreError::Unavailable`], where
//!   the caller reads again before it decides.
//! - **Compare-and-swap**: all compares hold at the moment of the commit, or nothing is written and
//!   [`StoreError::Conflict`] names the first key that differs.
//! - **Revision**: rises with every commit that writes; a value carries the revision that wrote it.
//!
//! A watch on a prefix will come with the shared store; it is a hint, and reconciling by revision is the truth.

mod file;
mod memory;

pub use file::RedbStore;
pub use memory::MemoryStore;

use std::path::PathBuf;

/// Longest key in bytes.
pub const MAX_KEY: usize = 256;
/// Longest value in bytes.
pub const MAX_VALUE: usize = 65_536;
/// Most compares and writes together in one transaction: etcd's default limit.
pub const MAX_OPERATIONS: usize = 128;

/// A value and the revision of the commit that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned {
    /// The revision.
    pub revision: u64,
    /// The bytes.
    pub value: Vec<u8>,
}

/// What a key must be for a transaction to commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Not there.
    Absent,
    /// Last written by this revision.
    Revision(u64),
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Creates or replaces.
    Put(String, Vec<u8>),
    /// Removes; no error if it is not there.
    Delete(String),
}

/// Compares and writes that happen together or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    /// What must hold.
    pub compare: Vec<(String, Expect)>,
    /// What changes, in order.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// Demands that `key` is as it was read: absent, or of that revision.
    pub fn unchanged(&mut self, key: impl Into<String>, read: Option<&Versioned>) {
        let expect = read.map_or(Expect::Absent, |v| Expect::Revision(v.revision));
        self.compare.push((key.into(), expect));
    }

    /// Creates or replaces `key`.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.writes.push(Write::Put(key.into(), value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<String>) {
        self.writes.push(Write::Delete(key.into()));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn check_limits(&self) -> Result<(), StoreError> {
        let fits = self.compare.len() + self.writes.len() <= MAX_OPERATIONS
            && self.compare.iter().all(|(key, _)| key.len() <= MAX_KEY)
            && self.writes.iter().all(|write| match write {
                Write::Put(key, value) => key.len() <= MAX_KEY && value.len() <= MAX_VALUE,
                Write::Delete(key) => key.len() <= MAX_KEY,
            });
        if fits { Ok(()) } else { Err(StoreError::TooLarge) }
    }
}

/// A durable commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The revision after it.
    pub revision: u64,
}

/// Why the store did not do it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else was faster: read again and decide again.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// The first key whose compare failed.
        key: String,
    },
    /// Beyond [`MAX_KEY`], [`MAX_VALUE`] or [`MAX_OPERATIONS`]: a mistake of the caller.
    #[error("the transaction is beyond the store's limits")]
    TooLarge,
    /// Disk full, input/output error, cluster unreachable.
    #[error("the directory store does not answer: {0}")]
    Unavailable(String),
    /// The file is not ours to use; it was not changed.
    #[error("{path}: {problem}; {cure}", path = .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What the operator can do.
        cure: &'static str,
    },
}

/// Reading, for decisions that only look.
pub trait View {
    /// The value of `key`.
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// Keys that start with `prefix`, in byte order, above `after` if given, at most `limit`.
    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, StoreError>;
}

/// A directory store; see the module for the contract.
pub trait Store: View + Send + Sync {
    /// Compares and writes; durable when it returns `Ok`. Without writes it only compares.
    fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError>;

    /// Begins a group of commits that become durable together, if this store can. Nobody else commits meanwhile.
    fn group(&self) -> Result<Option<Box<dyn Group + '_>>, StoreError> {
        Ok(None)
    }
}

/// Commits of a group see each other; none is durable before [`Group::finish`], so nothing may be answered before.
pub trait Group: Store {
    /// Makes all of them durable, or none.
    fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests;
