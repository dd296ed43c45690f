//! Roles: who is there, the barrier that waits for them, and the programs that are told.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use skynet_tests::fleet::{Agent, Binaries, Extra, Relay};
use skynet_tests::{Lab, NatKind, clock, wait_until};

use crate::JOIN;

/// The barrier returns within five seconds of the last join; three times that.
const BARRIER: Duration = Duration::from_secs(15);

/// A directory with one program, which writes down what it is told.
fn hooks(lab: &Lab) -> (std::path::PathBuf, std::path::PathBuf) {
    let directory = lab.logs().join("hooks.d");
    std::fs::create_dir_all(&directory).unwrap();
    let (program, told) = (directory.join("10-note"), lab.logs().join("told"));
    let line = r#"echo "joined=[$SKYNET_JOINED] left=[$SKYNET_LEFT] count=$SKYNET_COUNT node=$SKYNET_NODE token=[$SKYNET_TOKEN]""#;
    std::fs::write(&program, format!("#!/bin/sh\n{line} >> {}\n", told.display())).unwrap();
    for path in [&directory, &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    (directory, told)
}

fn hosts(agent: &Agent, arguments: &[&str]) -> String {
    let finished = agent.command(&[&["hosts"], arguments].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{finished:?}{}", agent.log_end());
    finished.stdout
}

#[test]
fn a_barrier_opens_with_the_last_worker_and_everybody_has_the_same_roster() {
    let lab = Lab::builder("roster")
        .relay()
        .cloud("a", NatKind::PortRestricted, 2)
        .cloud("b", NatKind::Symmetric, 1)
        .build()
        .unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let worker = relay.create_token(&["--token-tag", "worker"]).unwrap();
    let (directory, told) = hooks(&lab);
    let file = lab.logs().join("hosts");
    std::fs::write(&file, "127.0.0.1 localhost\n").unwrap();
    let arguments =
        ["--hooks", &directory.display().to_string(), "--hosts-file", &file.display().to_string()]
            .map(str::to_owned);
    let extra = Extra { arguments: arguments.to_vec(), ..Extra::default() };
    let mut head = Agent::start_with(&lab, "a1", &binaries, relay.token(), &extra).unwrap();
    head.wait_joined(JOIN).unwrap();

    let note = || std::fs::read_to_string(&told).unwrap_or_default();
    wait_until(BARRIER, "the hook's first run", || {
        note().contains("joined=[a1] left=[] count=1 node=a1 token=[]")
    })
    .unwrap();
    let early = head.command(&["wait", "--role", "worker", "--count", "2", "--timeout", "1s"]).unwrap();
    assert_eq!(early.code, Some(5), "{early:?}");
    assert!(early.stderr.contains("0 of 2 members with role worker are here; 2 missing"), "{early:?}");

    let first = Agent::start(&lab, "a2", &binaries, &worker).unwrap();
    let mut second = Agent::start(&lab, "b1", &binaries, &worker).unwrap();
    first.wait_joined(JOIN).unwrap();
    second.wait_joined(JOIN).unwrap();
    let joined = clock::now();
    let barrier = head.command(&["wait", "--role", "worker", "--count", "2", "--timeout", "20s"]).unwrap();
    println!("the barrier opened {:.1?} after the last join", joined.elapsed());
    assert_eq!((barrier.code, barrier.stdout.trim()), (Some(0), "a2 b1"), "{barrier:?}");
    assert!(joined.elapsed() < BARRIER);

    let address = |agent: &Agent| agent.overlay_address().unwrap();
    assert_eq!(
        hosts(&head, &["--role", "worker", "--format", "mpi", "--slots", "4"]),
        format!("{} slots=4\n{} slots=4\n", address(&first), address(&second))
    );
    let inventory = hosts(&head, &["--format", "ansible"]);
    assert!(inventory.ends_with("\n[worker]\na2\nb1\n"), "{inventory}");
    let etc_hosts = hosts(&first, &["--format", "hosts"]);
    assert_eq!(etc_hosts.lines().count(), 6, "{etc_hosts}");
    assert_eq!(etc_hosts, hosts(&second, &["--format", "hosts"]), "equal on all");
    let table = hosts(&head, &[]);
    assert!(table.contains("this node") && table.contains("worker"), "{table}");

    let named = || std::fs::read_to_string(&file).unwrap();
    assert_eq!(named().lines().filter(|l| l.contains(".internal ")).count(), 6, "{}", named());
    // Whoever comes and goes within a second is told to nobody.
    wait_until(BARRIER, "the hook to be told of both", || {
        ["a2", "b1"].iter().all(|name| note().lines().any(|l| l.split("left").next().unwrap().contains(name)))
    })
    .unwrap();
    // One stops, one is killed.
    let stopped = clock::now();
    assert_eq!(first.command(&["down"]).unwrap().code, Some(0));
    let present = || hosts(&head, &["--role", "worker", "--format", "mpi"]).lines().count();
    wait_until(BARRIER, "the roster without the one that stopped", || present() == 1).unwrap();
    println!("stopped: gone from the roster after {:.1?}", stopped.elapsed());
    let killed = clock::now();
    second.kill().unwrap();
    wait_until(3 * BARRIER, "the roster without the one that was killed", || present() == 0).unwrap();
    println!("killed: gone from the roster after {:.1?}", killed.elapsed());

    wait_until(BARRIER, "the hook to be told", || note().contains("left=[b1]")).unwrap();
    let note = note();
    println!("{note}");
    for name in ["a2", "b1"] {
        assert_eq!(
            note.lines().filter(|l| l.split("left").next().unwrap().contains(name)).count(),
            1,
            "{note}"
        );
    }
    assert!(!note.contains("skj1."), "{note}");
    // Killed, it leaves its block; the next start removes it before anything else, and its clean end does too.
    head.kill().unwrap();
    assert!(named().contains("# BEGIN skynet skynet0"));
    head.restart().unwrap();
    head.wait_joined(JOIN).unwrap();
    assert_eq!(head.command(&["down"]).unwrap().code, Some(0));
    assert_eq!(named(), "127.0.0.1 localhost\n");
    drop((first, second, head, relay));
    lab.remove().unwrap();
}
