//! Every input that was ever worth keeping, on every test run, without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use skynet_fuzz_bodies::TARGETS;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|e| e.expect("a readable directory").path()).collect();
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_stem().expect("a file has a name").to_string_lossy().into_owned()
}

#[test]
fn the_whole_corpus_breaks_no_promise_and_its_seeds_are_accepted() {
    for target in TARGETS {
        let inputs = files(&fuzz_dir().join("corpus").join(target.name));
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for path in inputs {
            let accepted = (target.run)(&fs::read(&path).unwrap());
            assert!(accepted || !name(&path).starts_with("seed"), "{} went stale", path.display());
        }
    }
}

#[test]
fn seeds_are_accepted_cut_and_flipped_ones_do_no_harm() {
    for target in TARGETS {
        for (name, seed) in (target.seeds)() {
            assert!((target.run)(&seed), "{} {name}", target.name);
            // A stride keeps the dear targets short; the parsers' own tests flip every bit.
            let stride = seed.len() / 16 + 1;
            for at in (0..seed.len()).step_by(stride) {
                let mut flipped = seed.clone();
                flipped[at] ^= 1 << (at % 8);
                (target.run)(&flipped);
                (target.run)(&seed[..at]);
            }
        }
    }
}

#[test]
fn every_target_has_its_file_its_corpus_and_its_seeds() {
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    let of =
        |dir: &str| -> BTreeSet<String> { files(&fuzz_dir().join(dir)).iter().map(|p| name(p)).collect() };
    assert_eq!(of("fuzz_targets"), names);
    assert_eq!(of("corpus"), names);
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        assert!(!(target.seeds)().is_empty());
    }
}

#[test]
fn the_corpus_stays_small() {
    let size = |p: &PathBuf| fs::metadata(p).unwrap().len();
    let total: u64 =
        files(&fuzz_dir().join("corpus")).iter().flat_map(|dir| files(dir)).map(|p| size(&p)).sum();
    assert!(total <= 300 * 1024, "{total} bytes");
}
