//! Somebody on the way with raw sockets, against real agents.

use std::time::Duration;

use skynet_tests::attacker::Attacker;
use skynet_tests::fleet::PathKind;
use skynet_tests::transfer::{self, Amount, Beat, Ends, TcpPlan};
use skynet_tests::wan::Profile;
use skynet_tests::{Lab, NatKind};

use crate::{DIRECT, Story};

/// One-way delay of each cloud's uplink: what the attacker's copies arrive earlier.
const DELAY: Duration = Duration::from_millis(10);
const LOOKS: u32 = 25;

#[test]
fn who_races_every_packet_from_its_own_address_never_becomes_the_path() {
    let lab = Lab::builder("attacked")
        .relay()
        .cloud("a", NatKind::FullCone, 1)
        .cloud("b", NatKind::Public, 1)
        .build()
        .unwrap();
    for cloud in ["a", "b"] {
        lab.insert_wan(cloud, Profile::delay(DELAY), 1).unwrap();
    }
    let public = ["a1", "b1"].map(|host| lab.public_address(host));
    // From before the first probe on.
    let attacker = Attacker::start(&lab, ["a", "b"], public).unwrap();
    let story = Story::begin(lab);
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let ends = [(a, b), (b, a)]
        .map(|(from, to)| Ends::new(from.namespace(), to.namespace(), to.overlay_address().unwrap().into()));
    let beats = ends.map(|ends| Beat::start(ends, Duration::from_millis(10)).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    beats.iter().for_each(Beat::mark);
    for _ in 0..LOOKS {
        for (from, to) in [(a, b), (b, a)] {
            let status = from.status().unwrap();
            let peer = status.peer(to.host()).unwrap();
            let via = peer.via.clone().unwrap_or_default();
            assert!(!via.contains(&attacker.address().to_string()), "{via}\n{}", from.log_end());
            assert_eq!(peer.path, PathKind::Direct, "{via}\n{}", from.log_end());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let gaps = beats.each_ref().map(Beat::longest_gap);
    let reports = beats.map(Beat::stop);
    let tcp = transfer::tcp(ends[0], &TcpPlan::ragged(2, Amount::Bytes(1_000_000))).unwrap();
    println!(
        "{} copies of what passed between the clouds; datagrams {reports:?}, silent for {gaps:.0?} at most; TCP {} bytes as sent",
        attacker.copies(),
        tcp.bytes()
    );
    assert!(attacker.copies() > 1_000, "{}", attacker.copies());
    assert!(reports.iter().all(|r| r.duplicates == 0 && r.arrived * 100 >= r.sent * 98), "{reports:?}");
    drop(attacker);
    story.end();
}
