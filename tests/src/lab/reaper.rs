//! Names of labs, and the removal of labs whose owner is gone.
//!
//! A namespace is called `sk<owner's pid in hex>n<serial>-<role>`. A lab is stale once no process has its owner's pid;
//! only then may somebody else remove it. A kept lab has a marker file and is spared until asked for by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::{NETNS_DIRECTORY, run_to_end};
use crate::clock;

/// Where kept labs have their marker.
const MARKER_DIRECTORY: &str = "/run/skynet-lab";
/// How long processes inside a namespace may take to stop politely.
const GRACE: Duration = Duration::from_secs(1);
const IP_TIMEOUT: Duration = Duration::from_secs(30);

/// A prefix no lab uses: this process's pid and the next serial, past those a former process of the same pid left.
pub(crate) fn new_prefix() -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let existing: BTreeSet<_> = existing().into_keys().collect();
    loop {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("sk{:x}n{serial}", std::process::id());
        if !existing.contains(&prefix) {
            return prefix;
        }
    }
}

/// Owner's pid and prefix of a namespace name, if a lab made it.
fn parse(namespace: &str) -> Option<(u32, &str)> {
    let (prefix, _role) = namespace.split_once('-')?;
    let (pid, serial) = prefix.strip_prefix("sk")?.split_once('n')?;
    serial.parse::<u32>().ok()?;
    Some((u32::from_str_radix(pid, 16).ok()?, prefix))
}

/// All namespaces of labs on this machine, by lab prefix.
fn existing() -> BTreeMap<String, Vec<String>> {
    let mut labs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in fs::read_dir(NETNS_DIRECTORY).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if let Some((_, prefix)) = parse(&name) {
            labs.entry(prefix.to_owned()).or_default().push(name);
        }
    }
    labs
}

/// The names of the namespaces that belong to the lab `prefix`, as the machine sees them.
pub fn namespaces_of(prefix: &str) -> Vec<String> {
    existing().remove(prefix).unwrap_or_default()
}

/// Removes the labs of processes that no longer run, with all processes inside; kept labs stay. Called by every lab at
/// its start. Never fails: what cannot be removed now will be next time.
pub(crate) fn reap() {
    remove_stale(false);
}

/// As the reaper at the start of every lab, and kept labs of dead owners too. Returns the prefixes removed.
pub fn cleanup_all_stale() -> Vec<String> {
    remove_stale(true)
}

fn remove_stale(kept_too: bool) -> Vec<String> {
    let mut removed = Vec::new();
    for (prefix, namespaces) in existing() {
        let Some((pid, _)) = parse(&namespaces[0]) else { continue };
        if is_alive(pid) || (!kept_too && marker(&prefix).exists()) {
            continue;
        }
        if remove(&prefix, &namespaces).is_ok() {
            removed.push(prefix);
        }
    }
    removed
}

/// Removes one lab, kept or not, of this process or of one that no longer runs.
///
/// # Errors
/// If there is no such lab, its owner still runs, or `ip netns` cannot be run.
pub fn remove_lab(prefix: &str) -> anyhow::Result<()> {
    let namespaces = namespaces_of(prefix);
    let first = namespaces.first().with_context(|| format!("there is no lab {prefix}"))?;
    let (pid, _) = parse(first).expect("only such names are listed");
    ensure!(
        pid == std::process::id() || !is_alive(pid),
        "lab {prefix} belongs to process {pid}, which still runs"
    );
    remove(prefix, &namespaces)
}

/// Removes every lab of this process with its logs, for a signal handler's thread: nobody will look at them.
pub fn cleanup_own() {
    let own = std::process::id();
    for (prefix, namespaces) in existing() {
        if parse(&namespaces[0]).is_some_and(|(pid, _)| pid == own) {
            let _ = remove(&prefix, &namespaces);
            let _ = fs::remove_dir_all(logs(&prefix));
        }
    }
}

/// The directory for the logs of a lab's processes.
pub(crate) fn logs(prefix: &str) -> PathBuf {
    std::env::temp_dir().join("skynet-lab").join(prefix)
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Marks a lab as kept.
pub(crate) fn keep(prefix: &str) -> anyhow::Result<()> {
    fs::create_dir_all(MARKER_DIRECTORY)?;
    fs::write(marker(prefix), "").with_context(|| format!("marking lab {prefix} as kept"))
}

fn marker(prefix: &str) -> PathBuf {
    Path::new(MARKER_DIRECTORY).join(prefix)
}

/// Ends the processes in the namespaces of a lab and deletes the namespaces.
pub(crate) fn remove(prefix: &str, namespaces: &[String]) -> anyhow::Result<()> {
    end_processes_in(namespaces);
    // `-force`: another reaper may have been faster with some of them.
    let mut command = Command::new("ip");
    command.args(["-force", "-batch", "-"]);
    let lines: String = namespaces.iter().map(|name| format!("netns del {name}\n")).collect();
    run_to_end(command, IP_TIMEOUT, &lines)?;
    let _ = fs::remove_file(marker(prefix));
    Ok(())
}

/// SIGTERM, a second of grace, SIGKILL, to whatever runs inside the namespaces.
pub(super) fn end_processes_in(namespaces: &[String]) {
    let inodes: BTreeSet<u64> = namespaces
        .iter()
        .filter_map(|name| fs::metadata(Path::new(NETNS_DIRECTORY).join(name)).ok())
        .map(|metadata| metadata.ino())
        .collect();
    let send = |signal| {
        let processes = processes_in(&inodes);
        for pid in &processes {
            let _ = kill(*pid, signal);
        }
        !processes.is_empty()
    };
    if !send(Signal::SIGTERM) {
        return;
    }
    let start = clock::now();
    while start.elapsed() < GRACE {
        if processes_in(&inodes).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    send(Signal::SIGKILL);
}

/// The processes in one namespace; none if it does not exist.
pub(super) fn processes_of(namespace: &str) -> Vec<Pid> {
    let inode = fs::metadata(Path::new(NETNS_DIRECTORY).join(namespace)).map(|metadata| metadata.ino());
    processes_in(&inode.into_iter().collect())
}

/// Processes whose main thread is in one of the namespaces (by inode of its handle), never ourselves.
fn processes_in(inodes: &BTreeSet<u64>) -> Vec<Pid> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != own)
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|metadata| inodes.contains(&metadata.ino()))
        })
        .map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_only_names_a_lab_makes() {
        assert_eq!(parse("sk1a2bn0-a1"), Some((0x1a2b, "sk1a2bn0")));
        assert_eq!(parse("sk1a2bn12-nat-a"), Some((0x1a2b, "sk1a2bn12")));
        for other in
            ["", "sky-a1", "sk1a2b-a1", "skn0-a1", "skxyzn0-a1", "sk1a2bnx-a1", "nl_inet", "sk1a2bn0"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
