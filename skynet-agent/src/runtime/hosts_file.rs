//! Names of members in a block of the hosts file: `ping w-1` works, and nothing else of name resolution is touched.
//!
//! ```text
//! # BEGIN skynet skynet0: names of the overlay's members, kept by skynet-agent
//! 10.44.1.2 w-1.NETWORK.internal w-1
//! # END skynet skynet0
//! ```
//! What is outside the block stays as it is, to the byte. The block goes when the agent stops, and at the next start after it
//! was killed. Names are LDH labels, so none of them can be a line of its own.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use skynet_core::node::RosterView;

use crate::dns::domain;

/// A hosts file above this is left alone.
const MAX_FILE: u64 = 4 << 20;

/// The block.
pub(super) struct HostsFile {
    file: Option<PathBuf>,
    interface: String,
    /// What is there of ours.
    written: String,
}

impl HostsFile {
    /// Removes what a killed agent with this interface left.
    pub(super) fn new(file: Option<PathBuf>, interface: &str) -> Self {
        let mut names = Self { file, interface: interface.to_owned(), written: String::new() };
        names.put("");
        names
    }

    /// Everybody of the roster.
    pub(super) fn show(&mut self, view: &RosterView, network: &str) {
        let Some(file) = &self.file else { return };
        let others = names_in(&outside(&read(file).unwrap_or_default(), &self.interface));
        let lines = lines(view, network, &others);
        if lines != self.written {
            self.put(&lines);
        }
    }

    /// Where it is, if anywhere.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Nobody.
    pub(super) fn clear(&mut self) {
        self.put("");
    }

    fn put(&mut self, lines: &str) {
        let Some(file) = &self.file else { return };
        match replace(file, &self.interface, lines) {
            Ok(()) => lines.clone_into(&mut self.written),
            Err(e) => tracing::warn!(file = %file.display(), %e, "names are not in the hosts file"),
        }
    }
}

/// A line for each address. A short name that somebody else has given already, this machine to itself for one, is left to
/// them.
fn lines(view: &RosterView, network: &str, others: &BTreeSet<String>) -> String {
    let domain = domain(network);
    let mut out = String::new();
    for member in &view.members {
        let name = member.name.as_str();
        let short = if others.contains(name) || name == "localhost" { "" } else { name };
        for address in [IpAddr::V4(member.v4), IpAddr::V6(member.v6)] {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}", format!("{address} {name}.{domain} {short}").trim_end());
        }
    }
    out
}

fn begin(interface: &str) -> String {
    format!("# BEGIN skynet {interface}: ")
}

fn end(interface: &str) -> String {
    format!("# END skynet {interface}\n")
}

/// The text without the block; a block without an end is only its first line, for the rest may be somebody else's.
fn outside(text: &str, interface: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (begin, end) = (begin(interface), end(interface));
    let mut rest = text;
    while let Some(line) = rest.split_inclusive('\n').next() {
        let after = &rest[line.len()..];
        rest = match line.starts_with(&begin) {
            false => {
                out.push_str(line);
                after
            }
            true => match after
                .starts_with(&end)
                .then_some(0)
                .or_else(|| Some(after.find(&format!("\n{end}"))? + 1))
            {
                Some(at) => &after[at + end.len()..],
                None => after,
            },
        };
    }
    out
}

/// Every name of a hosts file.
fn names_in(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.flat_map(|line| line.split_whitespace().skip(1)).map(str::to_ascii_lowercase).collect()
}

fn read(file: &Path) -> io::Result<String> {
    match std::fs::metadata(file) {
        Ok(meta) if meta.len() > MAX_FILE => Err(io::Error::other("it is too long to be a hosts file")),
        Ok(_) => std::fs::read_to_string(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e),
    }
}

/// Puts these lines into the block, or takes it away if there are none.
fn replace(file: &Path, interface: &str, lines: &str) -> io::Result<()> {
    let before = read(file)?;
    let mut text = outside(&before, interface);
    if !lines.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let what = "names of the overlay's members, kept by skynet-agent";
        text += &format!("{}{what}\n{lines}{}", begin(interface), end(interface));
    }
    if text == before {
        return Ok(());
    }
    // Whoever reads meanwhile sees the old file or the new one, unless it is mounted by itself, as in a container and under
    // the unit of systemd.
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    write_beside(&file, &text).or_else(|_| write_within(&file, &before, &text))
}

/// What comes before the first change is there at every moment.
fn write_within(file: &Path, before: &str, text: &str) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let same = before.bytes().zip(text.bytes()).take_while(|(old, new)| old == new).count();
    let open = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(file)?;
    open.write_all_at(&text.as_bytes()[same..], same as u64)?;
    open.set_len(text.len() as u64)?;
    open.sync_all()
}

fn write_beside(file: &Path, text: &str) -> io::Result<()> {
    let beside = file.with_extension("skynet.new");
    let _ = std::fs::remove_file(&beside);
    let meta = std::fs::metadata(file).ok();
    let mode = meta.as_ref().map_or(0o644, |m| m.mode() & 0o7777);
    let written = (|| {
        let mut new = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        new.write_all(text.as_bytes())?;
        // The mask of this process must not narrow what others may read.
        std::fs::set_permissions(&beside, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        if let Some(meta) = &meta {
            std::os::unix::fs::chown(&beside, Some(meta.uid()), Some(meta.gid()))?;
        }
        new.sync_all()?;
        std::fs::rename(&beside, file)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use skynet_core::member::Tags;
    use skynet_core::node::RosterMember;

    const HOSTS: &str = "127.0.0.1 localhost\n192.0.2.7 nas NAS2 # w-1\n\n# last line without an end";

    fn view(names: &[&str]) -> RosterView {
        let member = |name: &&str| RosterMember {
            name: name.parse().unwrap(),
            v4: "10.44.1.2".parse().unwrap(),
            v6: "fd00::2".parse().unwrap(),
            tags: Tags::default(),
            ephemeral: false,
            online: true,
            own: false,
        };
        RosterView { revision: 1, complete: true, members: names.iter().map(member).collect() }
    }

    #[test]
    fn the_block_comes_changes_and_goes_and_the_rest_stays_to_the_byte() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        std::fs::write(&file, format!("{HOSTS}\n")).unwrap();
        let text = || std::fs::read_to_string(&file).unwrap();
        let mut names = HostsFile::new(Some(file.clone()), "skynet0");
        assert_eq!(text(), format!("{HOSTS}\n"));
        names.show(&view(&["w-1"]), "Lab 7");
        let block = "# BEGIN skynet skynet0: names of the overlay's members, kept by skynet-agent\n\
                     10.44.1.2 w-1.lab-7.internal w-1\nfd00::2 w-1.lab-7.internal w-1\n# END skynet skynet0\n";
        assert_eq!(text(), format!("{HOSTS}\n{block}"));
        names.show(&view(&["w-1", "w-2"]), "Lab 7");
        assert_eq!(text().lines().filter(|l| l.contains(".internal")).count(), 4);
        // Another network's agent has a block of its own; this one was killed, and its next start removes what it left.
        let mut other = HostsFile::new(Some(file.clone()), "skynet1");
        other.show(&view(&["x"]), "b");
        drop(names);
        drop(HostsFile::new(Some(file.clone()), "skynet0"));
        assert!(!text().contains("w-2") && text().contains("x.b.internal"), "{}", text());
        other.clear();
        assert_eq!(text(), format!("{HOSTS}\n"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn names_that_others_have_given_are_left_to_them() {
        let others = names_in(HOSTS);
        let text = lines(&view(&["localhost", "nas", "nas2", "w-1"]), "n", &others);
        let short: Vec<_> = text.lines().filter(|l| l.split(' ').count() == 3).collect();
        assert_eq!(short, ["10.44.1.2 w-1.n.internal w-1", "fd00::2 w-1.n.internal w-1"]);
        assert!(text.contains("10.44.1.2 localhost.n.internal\n"));
    }

    #[test]
    fn a_block_that_lost_its_end_takes_nothing_with_it() {
        let text = format!("a\n{}x\n10.0.0.1 w-1\nb\n", begin("skynet0"));
        assert_eq!(outside(&text, "skynet0"), "a\n10.0.0.1 w-1\nb\n");
        for cut in 0..text.len() {
            let _ = outside(&text[..cut], "skynet0");
        }
        let empty = format!("a\n{}x\n{}b\n", begin("skynet0"), end("skynet0"));
        assert_eq!(outside(&empty, "skynet0"), "a\nb\n");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_written_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        std::fs::write(&file, "127.0.0.1 localhost\n").unwrap();
        // Something is in the way of the new file, as a mount is in the way of a rename.
        std::fs::create_dir_all(directory.path().join("hosts.skynet.new/x")).unwrap();
        let mut names = HostsFile::new(Some(file.clone()), "skynet0");
        names.show(&view(&["w-1"]), "n");
        assert!(std::fs::read_to_string(&file).unwrap().contains("w-1.n.internal"));
        names.clear();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "127.0.0.1 localhost\n");
    }
}
