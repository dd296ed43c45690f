//! One member asks for ten times its share of a relay whose uplink is full.

use std::os::unix::fs::PermissionsExt as _;

use skynet_tests::fleet::{Binaries, Extra, Fleet, Relay};
use skynet_tests::iperf::{self, Options, Transport};
use skynet_tests::{Lab, NatKind};

use crate::{DIRECT, JOIN, first_answer};

/// What the relay may send, Mbit/s, and what three senders have of it each.
const UPLINK: u64 = 12;
const SHARE: u64 = UPLINK / 3;
/// What the two others offer: a little less than their share, as headers come to it.
const MODEST: f64 = 0.85;
const SECONDS: u32 = 6;

/// The real relay, which reads this configuration when it serves.
fn configured(lab: &Lab, config: &str) -> Binaries {
    let mut binaries = Binaries::find().unwrap();
    let (file, script) = (lab.logs().join("relay.toml"), lab.logs().join("configured"));
    std::fs::create_dir_all(lab.logs()).unwrap();
    std::fs::write(&file, config).unwrap();
    let (program, file) = (binaries.relay.display(), file.display());
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" up \"*) exec {program} \"$@\" --config {file} ;;\n*) exec {program} \"$@\" ;;\nesac\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    binaries.relay = script;
    binaries
}

#[test]
fn a_hog_at_ten_times_its_share_leaves_the_others_theirs() {
    let lab = Lab::builder("hog").relay().cloud("a", NatKind::Public, 3).cloud("b", NatKind::Public, 3);
    let lab = lab.build().unwrap();
    lab.block_udp_between("a", "b").unwrap();
    let binaries = configured(&lab, &format!("uplink_mbit = {UPLINK}\n"));
    let relay = Relay::start(&lab, &binaries).unwrap();
    let hosts = ["a1", "a2", "a3", "b1", "b2", "b3"];
    let fleet = Fleet::joined_to(&lab, relay, &hosts, &Extra::default(), JOIN).unwrap();
    let pairs = [("a1", "b1"), ("a2", "b2"), ("a3", "b3")].map(|(a, b)| (fleet.agent(a), fleet.agent(b)));
    for (a, b) in pairs {
        first_answer(a, b, DIRECT).unwrap();
    }
    let modest = (SHARE as f64 * MODEST * 1e6) as u64;
    let offers = [10 * SHARE * 1_000_000, modest, modest];
    let got: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .into_iter()
            .zip(offers)
            .map(|((a, b), bits_per_second)| {
                scope.spawn(move || {
                    let transport = Transport::Udp { bits_per_second, payload_bytes: 1_200 };
                    let options = Options { transport, seconds: SECONDS, ..Options::default() };
                    let target = b.overlay_address().unwrap().into();
                    iperf::run(b.namespace(), a.namespace(), target, &options).unwrap().bits_per_second
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mbit: Vec<f64> = got.iter().map(|bits| bits / 1e6).collect();
    println!(
        "uplink of {UPLINK} Mbit/s; offered {:?}, arrived {mbit:.2?} Mbit/s",
        offers.map(|bits| bits as f64 / 1e6)
    );
    for (got, offered) in got.iter().zip(offers).skip(1) {
        assert!(*got >= 0.9 * offered as f64, "{got} of {offered}");
    }
    let status = fleet.relay().command(&["status", "--json"]).unwrap();
    assert!(status.contains("uplink_full"), "the hog was cut for another reason: {status}");
    drop(fleet);
    lab.remove().unwrap();
}
