//! The binary as a user runs it, as plain WireGuard nodes in network namespaces of their own. Needs root and
//! iproute2; without root the tests say so and pass.
//!
//! ```text
//!   namespace a                         namespace b
//!   skynet0 10.99.0.1                   skynet0 10.99.0.2
//!   eth0 192.168.50.1 ───── veth ───── eth0 192.168.50.2
//! ```
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::Value;
use skynet_agent::entropy;
use skynet_core::key::StaticSecret;

/// Two namespaces and a wire; everything in them ends and goes with the value.
struct Pair {
    names: [String; 2],
    dir: tempfile::TempDir,
    keys: [StaticSecret; 2],
}

const A: usize = 0;
const B: usize = 1;

fn address(side: usize) -> String {
    format!("10.99.0.{}", side + 1)
}

impl Pair {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("skagent-{}-{number}-{side}", std::process::id());
        let key = || StaticSecret::from_bytes(entropy::seed().unwrap());
        let pair =
            Self { names: [name("a"), name("b")], dir: tempfile::tempdir().unwrap(), keys: [key(), key()] };
        for name in &pair.names {
            must(Command::new("ip").args(["netns", "add", name]));
        }
        let [a, b] = &pair.names;
        let veth = ["link", "add", "eth0", "netns", a, "type", "veth", "peer", "name", "eth0", "netns", b];
        must(Command::new("ip").args(veth));
        for side in [A, B] {
            pair.ip(side, &["link", "set", "lo", "up"]);
            pair.ip(side, &["link", "set", "eth0", "up"]);
            pair.ip(side, &["addr", "add", &format!("192.168.50.{}/24", side + 1), "dev", "eth0"]);
        }
        Some(pair)
    }

    fn path(&self, side: usize, what: &str) -> PathBuf {
        self.dir.path().join(format!("{side}.{what}"))
    }

    /// Writes the configuration of a node with the other one as its stock peer.
    fn configure(&self, side: usize) {
        let other = 1 - side;
        let text = format!(
            "state_dir = {:?}\nsocket = {:?}\n[interface]\nlisten_port = 51820\naddress = \"{}/24\"\n\
             private_key = \"{}\"\n[[peer]]\npublic_key = \"{}\"\nendpoint = \"192.168.50.{}:51820\"\n\
             allowed_ips = [\"{}/32\"]\n",
            self.path(side, "state"),
            self.path(side, "sock"),
            address(side),
            BASE64.encode(self.keys[side].expose()),
            self.keys[other].public(),
            other + 1,
            address(other),
        );
        std::fs::write(self.path(side, "toml"), text).unwrap();
    }

    fn ip(&self, side: usize, args: &[&str]) -> String {
        must(Command::new("ip").args(["-n", &self.names[side]]).args(args))
    }

    /// A command in a namespace.
    fn exec(&self, side: usize, args: &[&str]) -> Output {
        Command::new("ip").args(["netns", "exec", &self.names[side]]).args(args).output().unwrap()
    }

    /// A verb of the agent: exit code, standard output and error.
    fn agent(&self, side: usize, args: &[&str]) -> (i32, String, String) {
        let binary = env!("CARGO_BIN_EXE_skynet-agent");
        let output = self.exec(side, &[&[binary], args].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn up(&self, side: usize) -> (i32, String, String) {
        self.agent(side, &["up", "--config", self.path(side, "toml").to_str().unwrap(), "--json"])
    }

    fn ask(&self, side: usize, args: &[&str]) -> (i32, String, String) {
        let socket = self.path(side, "sock");
        self.agent(side, &[args, &["--socket", socket.to_str().unwrap(), "--json"]].concat())
    }

    fn pings(&self, side: usize) -> bool {
        let to = address(1 - side);
        let got = |n: &str| self.exec(side, &["ping", "-c", n, "-i", "0.2", "-W", "1", &to]);
        // The first may be lost while a restarted peer's keys change.
        let _ = got("1");
        got("3").status.success()
    }

    /// Processes in the namespace whose command line has `word`.
    fn pids(&self, side: usize, word: &str) -> Vec<i32> {
        let listed = must(Command::new("ip").args(["netns", "pids", &self.names[side]]));
        let has = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        };
        listed.lines().filter_map(|l| l.trim().parse().ok()).filter(has).collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in [A, B] {
            for pid in self.pids(side, "") {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            let _ = Command::new("ip").args(["netns", "del", &self.names[side]]).output();
        }
    }
}

fn must(command: &mut Command) -> String {
    let output = command.output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Both ends run an agent.
fn two_agents() -> Option<Pair> {
    let pair = Pair::new()?;
    for side in [A, B] {
        pair.configure(side);
        let (code, out, err) = pair.up(side);
        assert_eq!(code, 0, "{err}");
        assert_eq!(json(&out)["ipv4"], address(side));
    }
    Some(pair)
}

#[test]
fn two_plain_wireguard_nodes_reach_each_other_and_stop_without_a_trace() {
    let Some(pair) = two_agents() else { return };
    assert!(pair.pings(A) && pair.pings(B));

    let (code, out, err) = pair.ask(A, &["ping", &address(B), "-c", "2", "-i", "100ms", "--until-direct"]);
    let report = json(&out);
    assert_eq!(code, 0, "{err}");
    assert_eq!((&report["schema"], &report["received"]), (&Value::from("ping/1"), &Value::from(1)));
    assert_eq!(report["replies"][0]["via"], "192.168.50.2:51820");

    let (code, out, _) = pair.ask(B, &["status"]);
    let status = json(&out);
    assert_eq!((code, &status["state"]), (0, &Value::from("up")));
    assert!(status["peers"][0]["rx_bytes"].as_u64().unwrap() > 0);
    assert_eq!(status["self"]["local_addresses"][0], "192.168.50.2:51820");

    let (code, out, _) = pair.up(A);
    assert_eq!((code, &json(&out)["ipv4"]), (0, &Value::from("10.99.0.1")), "up is idempotent");

    assert_eq!(pair.ask(A, &["down"]).0, 0);
    assert!(!pair.ip(A, &["-o", "link"]).contains("skynet0"));
    assert!(!pair.ip(A, &["route"]).contains("10.99"));
    assert!(!pair.path(A, "sock").exists());
    assert_eq!(pair.ask(A, &["down"]).0, 3, "no agent running");
    assert_eq!(pair.ask(A, &["status"]).0, 3);
    assert_eq!(pair.ask(B, &["ping", &address(A), "-c", "1", "-W", "300ms"]).0, 1, "no pong");
}

#[test]
fn after_a_kill_the_prefix_is_refused_and_the_next_start_finds_no_obstacle() {
    let Some(pair) = two_agents() else { return };
    assert!(pair.pings(A));
    let [pid] = pair.pids(A, "skynet-agent")[..] else { panic!("one agent") };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    std::thread::sleep(Duration::from_millis(100)); // the kernel removes the device after the process
    assert!(pair.ip(A, &["route"]).contains("unreachable 10.99.0.0/24"));
    assert!(pair.path(A, "sock").exists(), "a stale socket is what a kill leaves");
    assert_eq!(pair.ask(A, &["status"]).0, 3);

    assert_eq!(pair.up(A).0, 0);
    assert!(pair.pings(A) && pair.pings(B));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pair.pids(A, "skynet-agent")[0]),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    for _ in 0..100 {
        if !pair.path(A, "sock").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!pair.path(A, "sock").exists() && !pair.ip(A, &["route"]).contains("10.99"), "SIGTERM cleans up");
}

#[test]
fn an_agent_whose_device_is_deleted_ends_and_says_why() {
    let Some(pair) = two_agents() else { return };
    pair.ip(A, &["link", "del", "skynet0"]);
    assert!((0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !pair.path(A, "sock").exists()
    }));
    let log = std::fs::read_to_string(pair.path(A, "state").join("agent.log")).unwrap();
    assert!(log.contains("the TUN device is gone"), "{log}");
    assert!(!pair.ip(A, &["route"]).contains("10.99"));
    assert_eq!(pair.up(A).0, 0);
}

#[test]
fn every_refusal_names_what_stands_in_the_way() {
    let Some(pair) = Pair::new() else { return };
    pair.configure(A);
    let refused = |words: &[&str]| {
        let (code, out, _) = pair.up(A);
        let error = json(&out)["error"].clone();
        assert_eq!((code, error["code"].as_i64()), (1, Some(1)), "{out}");
        for word in words {
            assert!(error["message"].as_str().unwrap().contains(word), "{word} not in {error}");
        }
        assert!(
            !pair.path(A, "sock").exists() && pair.pids(A, "skynet-agent").is_empty(),
            "nothing is left running"
        );
    };
    pair.ip(A, &["route", "add", "10.99.0.128/25", "dev", "eth0"]);
    refused(&["10.99.0.128/25 (eth0)", "10.99.0.0/24"]);
    pair.ip(A, &["route", "del", "10.99.0.128/25", "dev", "eth0"]);

    pair.ip(A, &["link", "add", "skynet0", "type", "veth", "peer", "name", "other"]);
    refused(&["skynet0", "--interface"]);
    pair.ip(A, &["link", "del", "skynet0"]);

    std::fs::create_dir_all(pair.path(A, "state")).unwrap();
    std::fs::write(pair.path(A, "state").join("floor"), b"rubbish").unwrap();
    refused(&["state"]);
    std::fs::remove_dir_all(pair.path(A, "state")).unwrap();

    assert_eq!(pair.up(A).0, 0);
    let (code, _, err) = pair.agent(A, &["run", "--config", pair.path(A, "toml").to_str().unwrap()]);
    assert!(code == 1 && err.contains("another agent is running"), "{err}");
    let other = pair.path(A, "other");
    let socket = pair.path(A, "other.sock");
    let other = ["--state-dir", other.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
    let config = pair.path(A, "toml");
    let (code, _, err) =
        pair.agent(A, &[&["run", "--config", config.to_str().unwrap()], &other[..]].concat());
    assert!(code == 1 && err.contains("UDP port 51820") && err.contains("--port"), "{err}");
}

#[test]
fn a_machine_without_a_network_says_so_and_a_bad_token_changes_nothing() {
    let Some(pair) = Pair::new() else { return };
    let state = pair.path(A, "fresh");
    let common = ["--state-dir", state.to_str().unwrap(), "--socket", state.to_str().unwrap()];
    let (code, _, err) = pair.agent(A, &[&["up"], &common[..]].concat());
    assert!(code == 4 && err.contains("--token"), "{err}");
    let (code, _, err) = pair.agent(A, &[&["up", "--token", "skj1.AAAA"], &common[..]].concat());
    assert_eq!((code, err.lines().count()), (1, 1), "one clear sentence: {err}");
    let (code, _, err) = pair.agent(A, &[&["up", "--token", "file:/nonexistent"], &common[..]].concat());
    assert!(code == 2 && err.contains("/nonexistent"), "{err}");
    assert_eq!(pair.agent(A, &["up", "--prot", "1"]).0, 2);
    assert!(!state.exists());
}

#[test]
fn wireguard_go_is_a_peer_both_ways() {
    if Command::new("wireguard-go").arg("--version").output().is_err() {
        eprintln!("skipped: wireguard-go is not installed");
        return;
    }
    let Some(pair) = Pair::new() else { return };
    pair.configure(A);
    assert_eq!(pair.up(A).0, 0);
    // Its control socket lies in a directory all namespaces share.
    let device = format!("wg{}", std::process::id());
    assert!(pair.exec(B, &["wireguard-go", &device]).status.success());
    std::fs::write(pair.path(B, "key"), BASE64.encode(pair.keys[B].expose())).unwrap();
    let (key, public) = (pair.path(B, "key"), pair.keys[A].public().to_string());
    let set = [
        "wg",
        "set",
        &device,
        "listen-port",
        "51820",
        "private-key",
        key.to_str().unwrap(),
        "peer",
        &public,
        "endpoint",
        "192.168.50.1:51820",
        "allowed-ips",
        "10.99.0.1/32",
    ];
    assert!(pair.exec(B, &set).status.success());
    pair.ip(B, &["addr", "add", "10.99.0.2/24", "dev", &device]);
    pair.ip(B, &["link", "set", &device, "mtu", "1360", "up"]);
    assert!(pair.pings(A) && pair.pings(B));

    // It roams: the agent follows what authenticates.
    pair.ip(B, &["addr", "flush", "dev", "eth0"]);
    pair.ip(B, &["addr", "add", "192.168.50.77/24", "dev", "eth0"]);
    // wireguard-go itself needs seconds until it sends from the new address.
    assert!((0..10).any(|_| pair.pings(B)) && pair.pings(A));
    let status = json(&pair.ask(A, &["status"]).1);
    assert_eq!(status["peers"][0]["via"], "192.168.50.77:51820");
}
