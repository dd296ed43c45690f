//! Which system calls the threads of a process make, counted by `strace`; and calls that fail on demand.
//!
//! Under `strace` each call costs two stops, so rates mean nothing; which calls there are does. A lock that nobody else
//! wants makes no call: a futex seen is a proof of waiting, none seen is no proof that there is no lock.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

use crate::lab::{Netns, Process};
use crate::wait;

/// Calls of one thread by name.
pub type Calls = BTreeMap<String, u64>;

/// Threads of the process `id` whose name begins with one of `starts`: their ids and names, by name.
///
/// # Errors
/// If there is no such process.
pub fn threads(id: u32, starts: &[&str]) -> anyhow::Result<Vec<(u32, String)>> {
    let directory = format!("/proc/{id}/task");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory).context(directory)? {
        let path = entry?.path();
        // A thread may end between the two.
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        let thread =
            path.file_name().and_then(|name| name.to_str()?.parse().ok()).context("a thread's id")?;
        let name = name.trim_end().to_owned();
        if starts.iter().any(|start| name.starts_with(start)) {
            found.push((thread, name));
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

/// Counts the system calls of these threads for a time, one `strace` each; by the threads' names.
///
/// # Errors
/// If `strace` is missing, may not attach, or cannot be understood.
pub fn count(
    namespace: &Netns,
    threads: &[(u32, String)],
    time: Duration,
) -> anyhow::Result<BTreeMap<String, Calls>> {
    let mut tracers = Vec::new();
    for (id, name) in threads {
        let mut command = Command::new("strace");
        command.args(["-c", "-p", &id.to_string()]);
        tracers.push((name.clone(), namespace.spawn(command)?));
    }
    for (name, tracer) in &mut tracers {
        wait::wait_until(Duration::from_secs(5), &format!("strace to attach to {name}"), || {
            !tracer.is_running() || tracer.log().contains("attached")
        })?;
    }
    std::thread::sleep(time);
    tracers.into_iter().map(|(name, tracer)| Ok((name, finish(tracer)?))).collect()
}

/// Lets system calls of one thread fail with `error` (`EIO`) instead of being made, until the returned tracer is
/// dropped: the call number `first`, and each `step` calls later, or that one alone if `step` is 0.
///
/// # Errors
/// If `strace` is missing or may not attach.
pub fn fail(
    namespace: &Netns,
    thread: u32,
    call: &str,
    error: &str,
    (first, step): (u32, u32),
) -> anyhow::Result<Process> {
    let when = if step == 0 { first.to_string() } else { format!("{first}+{step}") };
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/null", "-p", &thread.to_string(), "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:error={error}:when={when}")]);
    let mut tracer = namespace.spawn(command)?;
    wait::wait_until(Duration::from_secs(5), &format!("strace to attach to {thread}"), || {
        !tracer.is_running() || tracer.log().contains("attached")
    })?;
    ensure!(tracer.is_running(), "strace has ended: {}", tracer.log());
    Ok(tracer)
}

fn finish(mut tracer: Process) -> anyhow::Result<Calls> {
    ensure!(tracer.is_running(), "strace has ended: {}", tracer.log());
    tracer.signal(Signal::SIGINT)?;
    tracer.wait_within(Duration::from_secs(5))?;
    let log = tracer.log();
    parse(&log).with_context(|| format!("output of strace:\n{log}"))
}

/// The table of `strace -c`: share, seconds, microseconds per call, calls, perhaps errors, name.
fn parse(log: &str) -> anyhow::Result<Calls> {
    let mut calls = Calls::new();
    let mut lines = log.lines().skip_while(|line| !line.starts_with("------")).skip(1);
    for line in lines.by_ref().take_while(|line| !line.starts_with("------")) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let count = fields.get(3).and_then(|count| count.parse().ok()).context("no count of calls")?;
        calls.insert((*fields.last().context("no name")?).to_owned(), count);
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_table_of_strace() {
        let log = "strace: Process 7 attached\n\
            strace: Process 7 detached\n\
            % time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            \x20 93.01    0.006390           6      1060         8 recvmmsg\n\
            \x20  6.99    0.000480           4       120           write\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.006870           5      1180         8 total\n";
        let calls = parse(log).unwrap();
        assert_eq!(calls, Calls::from([("recvmmsg".to_owned(), 1060), ("write".to_owned(), 120)]));
        assert_eq!(parse("strace: Process 7 attached\n").unwrap(), Calls::new());
    }

    #[test]
    fn finds_threads_by_the_start_of_their_names() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread =
            std::thread::Builder::new().name("sought-7".to_owned()).spawn(move || stopped.recv().is_err());
        let found = wait::wait_for(Duration::from_secs(5), "the thread's name", || {
            let found = threads(std::process::id(), &["sought-"])?;
            ensure!(found.len() == 1, "{found:?}");
            anyhow::Ok(found)
        });
        assert_eq!(found.unwrap()[0].1, "sought-7");
        drop(stop);
        thread.unwrap().join().unwrap();
    }
}
