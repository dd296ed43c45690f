//! Who is refused: exit code 1, one sentence, and nothing has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use skynet_tests::fleet::{Agent, Binaries, Finished, Relay};
use skynet_tests::lab::RELAY_ADDRESSES;
use skynet_tests::{Lab, NatKind};

use crate::JOIN;

fn lab(title: &str) -> Lab {
    Lab::builder(title).relay().cloud("a", NatKind::PortRestricted, 1).build().unwrap()
}

/// What any start leaves, joined or not: its log, its lock, and how far time has been used for handshakes and probes.
/// No key and no credential.
const HOUSEKEEPING: [&str; 3] = ["agent.log", "lock", "floor"];

/// Every file below a directory with its content, without [`HOUSEKEEPING`]; empty if there is none.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if HOUSEKEEPING.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// The token `of` one network, but naming the relay in `at`: what somebody makes who mixes two installations up.
fn at_relay_of(of: &str, at: &str) -> String {
    let bytes =
        |token: &str| BASE64URL_NOPAD.decode(token.strip_prefix("skj1.").unwrap().as_bytes()).unwrap();
    let (mut of, at) = (bytes(of), bytes(at));
    // PROTOCOL §3.4: 32 root pin, 32 seed, count, then the only relay: 2 number, 32 key, 18 address.
    let relay = 65..65 + 52;
    assert_eq!((of[64], at[64]), (1, 1));
    of[relay.clone()].copy_from_slice(&at[relay]);
    let covered = of.len() - 8;
    let check = skynet_core::crypto::hash(&[b"skynet token 1", &of[..covered]]);
    of[covered..].copy_from_slice(&check[..8]);
    format!("skj1.{}", BASE64URL_NOPAD.encode(&of))
}

/// A new agent is given this token and refused: code 1, one sentence, no file, no device, no process.
fn is_refused(agent: &Agent, token: &str) -> Finished {
    let before = contents(&agent.state_directory());
    let finished = agent.up(token).unwrap();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let sentences: Vec<_> = finished.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(sentences.len(), 1, "not one sentence: {finished:?}");
    assert_eq!(contents(&agent.state_directory()), before);
    let links = agent.namespace().exec(&["ip", "-o", "link"]).unwrap().ok().unwrap();
    assert!(!links.contains(agent.interface()), "{links}");
    assert_eq!(agent.command(&["status"]).unwrap().code, Some(3), "an agent was left behind");
    println!("{}", sentences[0]);
    finished
}

#[test]
fn a_truncated_or_damaged_token_is_refused() {
    let lab = lab("token-truncated");
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let agent = Agent::new(&lab, "a1", &binaries).unwrap();
    let token = relay.token();
    for length in [0, 1, 5, token.len() / 2, token.len() - 1] {
        is_refused(&agent, &token[..length]);
    }
    let middle = token.len() / 2;
    let other = if &token[middle..=middle] == "A" { "B" } else { "A" };
    is_refused(&agent, &format!("{}{other}{}", &token[..middle], &token[middle + 1..]));
    is_refused(&agent, &format!("{token}A"));
    lab.remove().unwrap();
}

#[test]
fn an_expired_token_is_refused() {
    let lab = lab("token-expired");
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let token = relay.create_token(&["--token-ttl", "1s"]).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let agent = Agent::new(&lab, "a1", &binaries).unwrap();
    is_refused(&agent, &token);
    lab.remove().unwrap();
}

#[test]
fn a_machine_that_cannot_have_the_interface_does_not_use_its_token_up() {
    let lab = lab("token-unspent");
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let token = relay.create_token(&["--token-uses", "1"]).unwrap();
    let agent = Agent::new(&lab, "a1", &binaries).unwrap();
    let ip = |words: &[&str]| {
        let line = [&["ip", "link"], words].concat();
        agent.namespace().exec(&line).unwrap().ok().unwrap();
    };
    ip(&["add", agent.interface(), "type", "veth", "peer", "name", "other"]);
    let refused = agent.up(&token).unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("--interface"), "{refused:?}");
    assert!(contents(&agent.state_directory()).is_empty());
    ip(&["del", agent.interface()]);
    let joined = agent.up(&token).unwrap();
    assert_eq!(joined.code, Some(0), "{joined:?}");
    agent.command(&["down"]).unwrap();
    lab.remove().unwrap();
}

#[test]
fn a_token_of_another_network_is_refused_by_a_relay_and_by_a_member() {
    let lab = lab("token-foreign");
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let other = Relay::start_at(&lab, &binaries, RELAY_ADDRESSES[1]).unwrap();
    assert_ne!(relay.token(), other.token());

    // At a relay of the wrong network.
    let stranger = Agent::new(&lab, "a1", &binaries).unwrap();
    let refused = is_refused(&stranger, &at_relay_of(other.token(), relay.token()));
    assert!(refused.stderr.contains("network"), "{refused:?}");
    drop(stranger);

    // At a node that is a member already: it stays one, with its address.
    let member = Agent::start(&lab, "a1", &binaries, relay.token()).unwrap();
    member.wait_joined(JOIN).unwrap();
    let (address, before) = (member.overlay_address().unwrap(), contents(&member.state_directory()));
    let finished = member.up(other.token()).unwrap();
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("skynet-agent down"), "no cure: {finished:?}");
    assert_eq!(member.overlay_address().unwrap(), address);
    assert_eq!(contents(&member.state_directory()), before);
    lab.remove().unwrap();
}
