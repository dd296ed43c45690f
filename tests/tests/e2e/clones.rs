//! The disk of a machine that has joined is started elsewhere: as another machine, and as one that cannot tell.

use std::time::Duration;

use skynet_tests::fleet::traffic::Pinger;
use skynet_tests::fleet::{Agent, AgentState, Binaries, Extra, Relay};
use skynet_tests::{Lab, NatKind, clock};

use crate::JOIN;

/// A challenge of the one that is there; three times ten seconds.
const FENCED: Duration = Duration::from_secs(30);

#[test]
fn a_copied_disk_becomes_a_node_of_its_own_or_is_told_and_the_original_loses_nothing() {
    let lab = Lab::builder("copied-disk")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .cloud("c", NatKind::PortRestricted, 3)
        .build()
        .unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let token = lab.logs().join("token");
    std::fs::write(&token, relay.token()).unwrap();
    let with_token = format!("file:{}", token.display());
    let original = Agent::start(&lab, "a1", &binaries, relay.token()).unwrap();
    let peer = Agent::start(&lab, "b1", &binaries, relay.token()).unwrap();
    for agent in [&original, &peer] {
        agent.wait_joined(JOIN).unwrap();
    }
    let (address, target) = (original.overlay_address().unwrap(), peer.overlay_address().unwrap());
    let pinger = Pinger::start(original.namespace(), target, Duration::from_millis(50)).unwrap();

    // Another machine, which knows a token: a node of its own, at once.
    let start = clock::now();
    let copy = original
        .start_copy(
            &lab,
            "c1",
            "0123456789abcdef0123456789abcde1\n",
            &["--token", &with_token, "--name", "a1"],
        )
        .unwrap();
    copy.wait_joined(JOIN).unwrap();
    println!("a copied disk in another machine: a node of its own after {:.1?}", start.elapsed());
    assert_ne!(copy.overlay_address().unwrap(), address);
    assert!(copy.log().contains("this disk is a copy of another machine's"), "{}", copy.log());
    // Another machine without one: it waits, and says for what.
    let waits = original
        .start_copy(&lab, "c2", "0123456789abcdef0123456789abcde2\n", &["--boot-metadata", "never"])
        .unwrap();
    waits.wait_status(JOIN, "not to use it", |s| s.state == AgentState::NotJoined).unwrap();
    let printed = waits.command(&["status"]).unwrap();
    assert!(printed.stdout.contains("the identity on this disk was made on another machine"), "{printed:?}");
    // A copy that cannot tell, as in a container: fenced, and told.
    let own = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let start = clock::now();
    let twin = original.start_copy(&lab, "c3", &own, &[]).unwrap();
    let told = |s: &skynet_tests::fleet::Status| {
        s.message.as_deref().is_some_and(|m| m.contains("another machine with the same identity"))
    };
    twin.wait_status(FENCED, "to be told that it is a copy", told).unwrap();
    println!("a copy that cannot tell: fenced after {:.1?}", start.elapsed());

    std::thread::sleep(Duration::from_secs(3));
    let echoes = pinger.stop().unwrap();
    println!("the original meanwhile: {echoes:?}");
    assert!(echoes.sent - echoes.received <= 1, "{echoes:?}{}", original.log_end());
    assert_eq!(original.status().unwrap().state, AgentState::Up);
    assert!(original.status().unwrap().relays.iter().any(|r| r.control && r.bound));
    assert_eq!(original.overlay_address().unwrap(), address);
    drop((copy, waits, twin, original, peer, relay));
    lab.remove().unwrap();
}

#[test]
fn a_disk_in_another_instance_of_the_cloud_is_a_copy_though_nobody_changed_its_machine_id() {
    let lab = Lab::builder("instance-id").relay().cloud("a", NatKind::PortRestricted, 3).build().unwrap();
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start(&lab, &binaries).unwrap();
    let extra = Extra { instance: Some("i-0001\n".to_owned()), ..Extra::default() };
    let mut original = Agent::start_with(&lab, "a1", &binaries, relay.token(), &extra).unwrap();
    original.wait_joined(JOIN).unwrap();
    let address = original.overlay_address().unwrap();
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let token = lab.logs().join("token");
    std::fs::write(&token, relay.token()).unwrap();
    let with_token = format!("file:{}", token.display());

    let arguments = ["--token", &with_token, "--name", "a1"];
    let copy = original.start_copy_as(&lab, "a2", &id, Some("i-0002"), &arguments).unwrap();
    copy.wait_joined(JOIN).unwrap();
    assert_ne!(copy.overlay_address().unwrap(), address);
    assert!(copy.log().contains("this disk is a copy of another machine's"), "{}", copy.log());
    // The same machine after a restart, and the same where the cloud's word cannot be had.
    original.kill().unwrap();
    original.restart().unwrap();
    original.wait_joined(JOIN).unwrap();
    assert_eq!(original.overlay_address().unwrap(), address);
    original.kill().unwrap();
    let moved = original.start_copy_as(&lab, "a3", &id, None, &[]).unwrap();
    moved.wait_joined(JOIN).unwrap();
    assert_eq!(moved.overlay_address().unwrap(), address, "what is not known tells nothing");
    drop((copy, moved, original, relay));
    lab.remove().unwrap();
}
