//! The relay is bought: another program takes its place, with its keys and its store, and lies.

use std::process::Command;
use std::time::Duration;

use skynet_tests::evil::Trick;
use skynet_tests::fleet::PathKind;
use skynet_tests::transfer::{Beat, Ends};
use skynet_tests::{Lab, NatKind, wait_for};

use crate::{DIRECT, JOIN, Story, first_answer};

/// A reconnect waits 5 s at most; the list of members comes with it and 20 s later. Three times that.
const TOLD: Duration = Duration::from_secs(75);

#[test]
fn an_evil_relay_is_refused_and_named_in_status_and_direct_flows_go_on() {
    let lab = Lab::builder("evil")
        .relay()
        .cloud("a", NatKind::FullCone, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .cloud("c", NatKind::Public, 2)
        .build()
        .unwrap();
    let mut story = Story::begin(lab);
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let truth =
        ["a1", "b1", "c1", "c2"].map(|host| (host, story.fleet.agent(host).overlay_address().unwrap()));
    // A store from before, with documents that are replaced afterwards: agents that start anew tell another record.
    let store = story.fleet.relay().directory().join("directory.redb");
    story.fleet.relay_mut().kill().unwrap();
    let old = store.with_extension("old");
    std::fs::copy(&store, &old).unwrap();
    story.fleet.relay_mut().restart().unwrap();
    // The second one sees what the first one tells anew.
    for host in ["c1", "c2"] {
        story.fleet.agent_mut(host).kill().unwrap();
        story.fleet.agent_mut(host).restart().unwrap();
        story.fleet.wait_joined(JOIN).unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();

    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let ends = [(a, b), (b, a)]
        .map(|(from, to)| Ends::new(from.namespace(), to.namespace(), to.overlay_address().unwrap().into()));
    let beats = ends.map(|ends| Beat::start(ends, Duration::from_millis(20)).unwrap());
    std::thread::sleep(Duration::from_millis(500));
    beats.iter().for_each(Beat::mark);

    let (directory, address) = (story.fleet.relay().directory().to_owned(), story.fleet.relay().address());
    story.fleet.relay_mut().kill().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skynet-evil-relay"));
    command
        .arg("--dir")
        .arg(&directory)
        .args(["--listen", &address.to_string()])
        .arg("--old-store")
        .arg(&old);
    let evil = story.lab.relay().spawn(command).unwrap();

    // A roll-back needs somebody who knows the newer record, which here is a matter of when who lists: demanded in the
    // simulator.
    let left_out = |t: &&Trick| {
        matches!(
            t,
            Trick::TakeName | Trick::OldManifest | Trick::OldDocument | Trick::SwapMember | Trick::RollBack
        )
    };
    let labels: Vec<&str> = Trick::ALL.iter().filter(|t| !left_out(t)).map(|t| t.refusal()).collect();
    let told = wait_for(TOLD, "every lie to be told", || {
        let all: Vec<_> =
            story.fleet.agents().flat_map(|a| a.status().map(|s| s.refused).unwrap_or_default()).collect();
        let missing: Vec<_> = labels.iter().filter(|l| all.iter().all(|r| r.reason != **l)).collect();
        anyhow::ensure!(missing.is_empty(), "{missing:?} are missing in {all:?}\n{}", evil.log());
        Ok(all)
    })
    .unwrap();
    assert!(told.iter().all(|line| line.relay == address.to_string() && line.count > 0), "{told:?}");
    // Whom a1 was lied to about depends on when it asked.
    let said = wait_for(TOLD, "a line in a1's status", || {
        let said = story.fleet.agent("a1").command(&["status"])?.stdout;
        anyhow::ensure!(said.contains(&format!("refused: relay {address} showed ")), "{said}");
        Ok(said)
    })
    .unwrap();
    println!("{said}");

    for (host, _) in truth {
        let status = story.fleet.agent(host).status().unwrap();
        assert_eq!(status.overlay_address(), truth.iter().find(|(h, _)| *h == host).map(|(_, a)| *a));
        for peer in &status.peers {
            let true_address = truth.iter().find(|(h, _)| *h == peer.name).map(|(_, a)| *a);
            assert!(true_address.is_some() && peer.ipv4 == true_address, "{host} believes in {peer:?}");
        }
    }
    let reports = beats.map(Beat::stop);
    println!("direct flows meanwhile: {reports:?}");
    assert!(reports.iter().all(|r| r.duplicates == 0 && r.arrived == r.sent), "{reports:?}");
    // Honest again: everybody is found.
    drop(evil);
    story.fleet.relay_mut().restart().unwrap();
    story.fleet.wait_joined(JOIN).unwrap();
    first_answer(story.fleet.agent("c1"), story.fleet.agent("a1"), DIRECT).unwrap();
    story.end();
}
