//! One suite over every store, then what only the file can get wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

/// Runs `story` over a fresh store of each kind.
fn over_each(story: impl Fn(&dyn Store)) {
    story(&MemoryStore::new());
    let directory = tempfile::tempdir().unwrap();
    story(&RedbStore::open(&directory.path().join("directory.redb")).unwrap());
}

fn put(store: &dyn Store, key: &str, value: &[u8]) -> u64 {
    let mut t = Transaction::default();
    t.put(key, value);
    store.commit(t).unwrap().revision
}

#[test]
fn a_value_carries_the_revision_that_wrote_it() {
    over_each(|store| {
        assert_eq!(store.get("a").unwrap(), None);
        let first = put(store, "a", b"1");
        let second = put(store, "b", b"2");
        assert!(second > first);
        assert_eq!(store.get("a").unwrap(), Some(Versioned { revision: first, value: b"1".to_vec() }));
        let third = put(store, "a", b"3");
        assert_eq!(store.get("a").unwrap().unwrap(), Versioned { revision: third, value: b"3".to_vec() });
    });
}

#[test]
fn a_failed_compare_names_the_key_and_changes_nothing() {
    over_each(|store| {
        let old = put(store, "a", b"1");
        let new = put(store, "a", b"2");
        for (key, expect) in
            [("a", Expect::Absent), ("a", Expect::Revision(old)), ("b", Expect::Revision(new))]
        {
            let mut t = Transaction::default();
            t.compare.push((key.into(), expect));
            t.put("a", "x");
            t.put("c", "x");
            assert_eq!(store.commit(t), Err(StoreError::Conflict { key: key.into() }));
        }
        assert_eq!(store.get("a").unwrap().unwrap().revision, new);
        assert_eq!(store.get("c").unwrap(), None);
        assert_eq!(put(store, "z", b""), new + 1, "a conflict uses no revision");
    });
}

#[test]
fn compares_and_writes_happen_together() {
    over_each(|store| {
        let revision = put(store, "a", b"1");
        let mut t = Transaction::default();
        t.unchanged("a", Some(&Versioned { revision, value: vec![] }));
        t.unchanged("b", None);
        t.delete("a");
        t.put("b", "2");
        t.delete("never there");
        assert_eq!(store.commit(t).unwrap().revision, revision + 1);
        assert_eq!(store.get("a").unwrap(), None);
        assert_eq!(store.get("b").unwrap().unwrap().revision, revision + 1);
        let empty = Transaction::default();
        assert_eq!(store.commit(empty).unwrap().revision, revision + 1, "nothing written, no new revision");
    });
}

#[test]
fn a_range_is_ordered_bounded_and_can_be_continued() {
    over_each(|store| {
        for key in ["v4/02", "v4/01", "v4/03", "v5/00", "v3/99", "v4"] {
            put(store, key, key.as_bytes());
        }
        let keys = |prefix: &str, after: Option<&str>, limit| {
            let found = store.range(prefix, after, limit).unwrap();
            found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys("v4/", None, 10), ["v4/01", "v4/02", "v4/03"]);
        assert_eq!(keys("v4/", None, 2), ["v4/01", "v4/02"]);
        assert_eq!(keys("v4/", Some("v4/02"), 10), ["v4/03"]);
        assert_eq!(keys("v4/", Some("v4/03"), 10), [""; 0]);
        assert_eq!(keys("v4/", Some("a"), 10).len(), 3, "before the prefix is from its start");
        assert_eq!(keys("", None, 100).len(), 6);
    });
}

#[test]
fn what_is_beyond_the_limits_is_refused() {
    over_each(|store| {
        let mut long = Transaction::default();
        long.put("k".repeat(MAX_KEY + 1), "");
        let mut big = Transaction::default();
        big.put("k", vec![0; MAX_VALUE + 1]);
        let mut many = Transaction::default();
        (0..=MAX_OPERATIONS).for_each(|n| many.put(n.to_string(), ""));
        for transaction in [long, big, many] {
            assert_eq!(store.commit(transaction), Err(StoreError::TooLarge));
        }
    });
}

#[test]
fn of_eight_threads_that_swap_one_key_exactly_one_wins_each_time() {
    over_each(|store| {
        for round in 0..50 {
            let key = format!("round/{round}");
            let winners = std::thread::scope(|scope| {
                let contender = |n: u8| {
                    let mut t = Transaction::default();
                    t.unchanged(key.as_str(), None);
                    t.put(key.as_str(), [n]);
                    store.commit(t)
                };
                let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || contender(n))).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
            });
            let won: Vec<_> = winners.iter().enumerate().filter(|(_, result)| result.is_ok()).collect();
            assert_eq!(won.len(), 1);
            assert_eq!(store.get(&key).unwrap().unwrap().value, [won[0].0 as u8]);
        }
    });
}

#[test]
fn a_counter_swapped_by_eight_threads_loses_no_step() {
    over_each(|store| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut done = 0;
                    while done < 10 {
                        let read = store.get("n").unwrap();
                        let count = read.as_ref().map_or(0, |v| v.value[0]);
                        let mut t = Transaction::default();
                        t.unchanged("n", read.as_ref());
                        t.put("n", [count + 1]);
                        done += u8::from(store.commit(t).is_ok());
                    }
                });
            }
        });
        assert_eq!(store.get("n").unwrap().unwrap().value, [80]);
    });
}

/// What the disk holds at the moment of the acknowledgement is copied and opened, as after a power cut.
#[test]
fn what_was_acknowledged_survives_thirty_crashes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("directory.redb");
    let crashed = directory.path().join("crashed.redb");
    let store = RedbStore::open(&path).unwrap();
    for round in 0..30u8 {
        let revision = put(&store, &format!("k/{round}"), &[round; 100]);
        std::fs::copy(&path, &crashed).unwrap();
        let after = RedbStore::open(&crashed).unwrap();
        for old in 0..=round {
            assert_eq!(after.get(&format!("k/{old}")).unwrap().unwrap().value, [old; 100]);
        }
        assert_eq!(put(&after, "next", b""), revision + 1, "the revision goes on");
        drop(after);
        std::fs::remove_file(&crashed).unwrap();
    }
    drop(store);
    assert_eq!(RedbStore::open(&path).unwrap().range("k/", None, 100).unwrap().len(), 30);
}

fn refusal(path: &Path) -> String {
    let before = std::fs::read(path).unwrap();
    let error = RedbStore::open(path).expect_err("must be refused").to_string();
    assert_eq!(std::fs::read(path).unwrap(), before, "the file stays as it is");
    assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
    error
}

#[test]
fn a_foreign_or_damaged_file_is_refused_by_name_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("directory.redb");
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write(b"");
    assert!(refusal(&path).contains("is empty"));
    write(b"hello, this is a text");
    assert!(refusal(&path).contains("is not a directory store"));
    write(&[0; 100_000]);
    assert!(refusal(&path).contains("restore it from a backup"));

    std::fs::remove_file(&path).unwrap();
    let store = RedbStore::open(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    put(&store, "a", b"1");
    let busy = RedbStore::open(&path).unwrap_err().to_string();
    assert!(busy.contains("in use by another skynet-relay"), "{busy}");
    drop(store);

    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(refusal(&path).contains("run chmod 600"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let link = directory.path().join("link.redb");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(RedbStore::open(&link).is_err(), "no symbolic links");
    assert!(RedbStore::open(&path).is_ok());
}

#[test]
fn a_database_of_another_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("directory.redb");
    drop(redb::Database::create(&path).unwrap());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let error = RedbStore::open(&path).unwrap_err().to_string();
    assert!(error.contains("is a database of another program"), "{error}");
}

#[test]
fn a_flipped_byte_is_seen_or_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("directory.redb");
    let store = RedbStore::open(&path).unwrap();
    for n in 0..50 {
        put(&store, &format!("nodes/{n}"), &[n; 300]);
    }
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    let damaged = directory.path().join("damaged.redb");
    let mut refused = 0;
    // The header, and a sample of the rest.
    let places = (0..512).step_by(7).chain((512..bytes.len()).step_by(4_099));
    let total = places.clone().count();
    for place in places {
        let mut copy = bytes.clone();
        copy[place] ^= 0x10;
        std::fs::write(&damaged, &copy).unwrap();
        std::fs::set_permissions(&damaged, PermissionsExt::from_mode(0o600)).unwrap();
        match RedbStore::open(&damaged) {
            Err(StoreError::Refused { .. }) => refused += 1,
            Err(other) => panic!("{place}: {other}"),
            Ok(store) => {
                for n in 0..50u8 {
                    let value = store.get(&format!("nodes/{n}")).unwrap().unwrap().value;
                    assert_eq!(value, [n; 300], "byte {place}");
                }
            }
        }
    }
    println!("{refused} of {total} damaged files refused, the others held everything");
    assert!(refused > 0);
}

#[test]
fn commits_of_a_group_see_each_other_and_are_durable_together_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let put = |key: &str, read: Option<&Versioned>| {
        let mut transaction = Transaction::default();
        transaction.unchanged(key, read);
        transaction.put(key, key.as_bytes());
        transaction
    };
    let store = RedbStore::open(&path).unwrap();
    let group = store.group().unwrap().unwrap();
    let first = group.commit(put("a", None)).unwrap();
    assert_eq!(group.get("a").unwrap().unwrap().revision, first.revision);
    assert!(matches!(group.commit(put("a", None)), Err(StoreError::Conflict { .. })));
    assert_eq!(group.commit(put("b", None)).unwrap().revision, first.revision + 1);
    assert_eq!(group.range("", None, 9).unwrap().len(), 2);
    assert_eq!(store.get("a").unwrap(), None, "nobody else sees it yet");
    group.finish().unwrap();
    // Left without an end, as in a crash.
    let group = store.group().unwrap().unwrap();
    group.commit(put("c", None)).unwrap();
    drop(group);
    drop(store);
    let store = RedbStore::open(&path).unwrap();
    let kept: Vec<String> = store.range("", None, 9).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(kept, ["a", "b"]);
}
