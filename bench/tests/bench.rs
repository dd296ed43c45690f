//! The whole tool once, as small as it can be: that it runs, writes what it says and leaves nothing behind. What the
//! figures are is nobody's business here.

#![expect(clippy::unwrap_used, reason = "a test file; clippy exempts only the functions marked as tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skynet_tests::lab::namespaces_of;
use skynet_tests::wait_until;

/// A tunnel of somebody's own: the veth once more under the overlay's addresses, and a daemon that outlives UP.
const UP: &str = r#"#!/bin/sh
set -e
ip -n "$SKYNET_BENCH_LEFT_NETNS" addr add "$SKYNET_BENCH_LEFT_OVERLAY/24" dev "$SKYNET_BENCH_DEVICE"
ip -n "$SKYNET_BENCH_RIGHT_NETNS" addr add "$SKYNET_BENCH_RIGHT_OVERLAY/24" dev "$SKYNET_BENCH_DEVICE"
ip netns exec "$SKYNET_BENCH_LEFT_NETNS" sleep 1000 &
"#;
const DOWN: &str = r#"#!/bin/sh
ip -n "$SKYNET_BENCH_LEFT_NETNS" addr del "$SKYNET_BENCH_LEFT_OVERLAY/24" dev "$SKYNET_BENCH_DEVICE"
ip -n "$SKYNET_BENCH_RIGHT_NETNS" addr del "$SKYNET_BENCH_RIGHT_OVERLAY/24" dev "$SKYNET_BENCH_DEVICE"
touch "$0.ran"
"#;

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skynet-bench"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn script(directory: &Path, name: &str, text: &str) -> String {
    let file = directory.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file.display().to_string()
}

/// The namespaces of the labs a process owns.
fn namespaces(owner: u32) -> Vec<String> {
    namespaces_of(&format!("sk{owner:x}n0"))
}

#[test]
fn measures_a_tunnel_of_the_users_own_and_renders_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (up, down) = (script(directory.path(), "up", UP), script(directory.path(), "down", DOWN));
    let (json, own) = (file("run.json"), format!("own={up},{down}"));
    let child = bench(&["compare", "--peer", "direct", "--script", &own, "--json", &json])
        .args(["--rounds", "1", "--seconds", "1", "--only", "rtt-idle,tcp"])
        .spawn()
        .unwrap();
    let owner = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("RTT idle"), "{}", text(&output));
    assert!(text(&output).contains("ended 1 processes it had left behind"), "{}", text(&output));
    assert!(directory.path().join("down.ran").exists() && namespaces(owner).is_empty());

    let output =
        bench(&["render", &json, "--markdown", &file("run.md"), "--svg", &file("run.svg")]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let markdown = std::fs::read_to_string(file("run.md")).unwrap();
    assert!(markdown.contains("| own |"), "{markdown}");
    assert!(std::fs::read_to_string(file("run.svg")).unwrap().contains(">own</text>"));
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let mut child: Child = bench(&["compare", "--peer", "direct", "--seconds", "30"]).spawn().unwrap();
    let owner = child.id();
    wait_until(Duration::from_secs(20), "its namespaces", || namespaces(owner).len() >= 4).unwrap();
    // The link is there when the first measurement runs.
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(owner.cast_signed()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(namespaces(owner).is_empty());
}

#[test]
fn refuses_what_it_does_not_know_and_says_what_there_is() {
    let output = bench(&["compare", "--peer", "nobody"]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("direct-plain"), "{}", text(&output));
    let output = bench(&["compare", "--script", "x=/no/such/up,/no/such/down"]).output().unwrap();
    assert!(text(&output).contains("/no/such/up does not exist"), "{}", text(&output));
}
