//! The store of simulations and tests: the contract without the disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Committed, Expect, Store, StoreError, Transaction, Versioned, View, Write, above};

/// Keys and values in memory; "durable" as long as it lives.
#[derive(Default, Debug)]
pub struct MemoryStore(Mutex<Content>);

#[derive(Default, Debug)]
struct Content {
    revision: u64,
    keys: BTreeMap<String, Versioned>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // Content is changed only after every check, so a panic elsewhere cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        Ok(self.lock().keys.get(key).cloned())
    }

    fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Versioned)>, StoreError> {
        let content = self.lock();
        let keys = content.keys.range::<str, _>(above(prefix, after));
        let matching = keys.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(matching.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl Store for MemoryStore {
    fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        transaction.check_limits()?;
        let mut content = self.lock();
        for (key, expect) in &transaction.compare {
            let found = content.keys.get(key).map_or(Expect::Absent, |v| Expect::Revision(v.revision));
            if found != *expect {
                return Err(StoreError::Conflict { key: key.clone() });
            }
        }
        if !transaction.is_empty() {
            content.revision += 1;
        }
        let revision = content.revision;
        for write in transaction.writes {
            match write {
                Write::Put(key, value) => drop(content.keys.insert(key, Versioned { revision, value })),
                Write::Delete(key) => drop(content.keys.remove(&key)),
            }
        }
        Ok(Committed { revision })
    }
}
