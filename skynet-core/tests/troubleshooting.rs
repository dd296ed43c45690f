//! docs/TROUBLESHOOTING.md says of every cause what the programs say.
//!
//! `UPDATE_DOCS=1 cargo test --workspace --test troubleshooting` writes the table anew.

use std::fs;
use std::path::Path;

use skynet_core::diagnosis::{Cause, table};

const BEGIN: &str = "<!-- the table of causes: written by a test -->\n";
const END: &str = "<!-- end of the table -->\n";

#[test]
fn the_documented_table_is_the_one_the_programs_speak_from() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/TROUBLESHOOTING.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the table begins");
    let (documented, after) = rest.split_once(END).expect("the table ends");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert_eq!(documented, table(), "write it anew: see the head of this file");
}

#[test]
fn every_cause_that_the_text_names_exists() {
    let text = include_str!("../../docs/TROUBLESHOOTING.md");
    let (_, rest) = text.split_once("## In which order").expect("the section on the order");
    let section = rest.split("\n## ").next().unwrap_or(rest);
    let named = section.split('`').skip(1).step_by(2);
    let ids: Vec<&str> = Cause::ALL.iter().map(|c| c.id()).collect();
    for name in named.filter(|n| n.contains('-') && !n.contains(' ') && !n.starts_with('-')) {
        assert!(ids.contains(&name) || name.starts_with("skynet-"), "{name}");
    }
}
