//! The instruments of the end-to-end tests measure what they say, without the overlay: each finds what is there, and
//! says so when something is wrong.

#![expect(clippy::unwrap_used, reason = "a test file; clippy exempts only the functions marked as tests")]

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use skynet_tests::checksum::{Tcpdump, Watch};
use skynet_tests::iperf::{self, Options, Transport};
use skynet_tests::transfer::{self, Amount, Ends, TcpPlan, UdpPlan};
use skynet_tests::{Lab, NatKind, syscalls};

const MBIT: u64 = 1_000_000;

fn two_public(title: &str) -> Lab {
    Lab::builder(title).cloud("a", NatKind::Public, 1).cloud("b", NatKind::Public, 1).build().unwrap()
}

#[test]
fn the_policer_gives_each_udp_five_tuple_its_rate_and_four_of_them_four_times_that() {
    let lab = two_public("policer");
    lab.police_udp(50).unwrap();
    let target = lab.host("b1").address().into();
    let run = |streams: u32| {
        let transport =
            Transport::Udp { bits_per_second: 100 * MBIT * u64::from(streams), payload_bytes: 1400 };
        let options = Options { transport, seconds: 2, streams, ..Options::default() };
        let report = iperf::run(lab.host("b1"), lab.host("a1"), target, &options).unwrap();
        report.bits_per_second / 1e6
    };
    let (one, four) = (run(1), run(4));
    println!("policed to 50 Mbit/s: one 5-tuple {one:.1}, four {four:.1} Mbit/s");
    // 1,400 of 1,428 bytes are payload; at first a twentieth more passes, see `police.rs`.
    assert!((45.0..56.0).contains(&one), "{one}");
    assert!((180.0..224.0).contains(&four), "{four}");
    lab.stop_policing().unwrap();
    let free = run(1);
    assert!(free > 90.0, "{free}: still policed");
    lab.remove().unwrap();
}

#[test]
fn transfers_arrive_whole_and_their_checksums_are_right_behind_a_forwarding_host() {
    let lab = two_public("instruments");
    let behind = lab.attach_behind("b1", "eth0", 9_000..=9_099).unwrap();
    let watch = Watch::start(&behind.namespace, "eth0").unwrap();
    let sending = Watch::start(lab.host("a1"), "eth0").unwrap();
    let tcpdump = Tcpdump::start(&behind.namespace, "eth0", "tcp or udp").unwrap();
    let target = IpAddr::from(lab.host("b1").address());
    let ends =
        Ends { bind: behind.ipv4, port: 9_000, ..Ends::new(lab.host("a1"), &behind.namespace, target) };
    let plan = TcpPlan::ragged(2, Amount::Bytes(3_000_001));
    let tcp = transfer::tcp(ends, &plan).unwrap();
    assert_eq!(tcp.bytes(), 6_000_003);
    let singles = transfer::udp(Ends { port: 9_001, ..ends }, &UdpPlan::every_size(1_472)).unwrap();
    for offload in [false, true] {
        let trains = transfer::udp(Ends { port: 9_001, ..ends }, &UdpPlan::trains(1_472, offload)).unwrap();
        assert!(trains.datagrams > 1_000, "{trains:?}");
    }
    let (verdicts, sending, decoded) = (watch.stop(), sending.stop(), tcpdump.stop().unwrap());
    println!("{tcp:?}\n{singles:?}\nbehind {verdicts:?}\nsender {sending:?}\ntcpdump {decoded:?}");
    assert_eq!((verdicts.wrong, verdicts.partial), (0, 0), "{verdicts:?}");
    assert!(verdicts.right > 5_000 && verdicts.longest == 1_500, "{verdicts:?}");
    assert!(sending.wrong == 0 && sending.partial > 0 && sending.longest > 10_000, "{sending:?}");
    assert!(decoded.bad.is_empty() && decoded.captured > 5_000, "{decoded:?}");
    lab.remove().unwrap();
}

#[test]
fn a_bit_changed_on_the_way_is_found_by_the_checksum_and_without_it_by_the_transfer() {
    let lab = two_public("corrupt");
    let (a, b) = (lab.host("a1"), lab.host("b1"));
    a.set_offloads("eth0", false).unwrap();
    // The last byte of a payload of 100: 20 + 8 + 99 bytes from the start.
    lab.add_rule("meta l4proto udp meta length 128 @nh,1016,8 set 0x55").unwrap();
    let ends = Ends::new(a, b, b.address().into());
    let watch = Watch::start(b, "eth0").unwrap();
    let error = transfer::udp(ends, &UdpPlan::every_size(101)).unwrap_err();
    let verdicts = watch.stop();
    println!("{error:#}\n{verdicts:?}");
    assert!(format!("{error:#}").contains("(100 B"), "{error:#}");
    assert!(verdicts.wrong == 1 && verdicts.faults[0].starts_with("wrong checksum in 128 B"), "{verdicts:?}");
    // No checksum: it is delivered, and found by comparison.
    lab.add_rule("meta l4proto udp meta length 128 udp checksum set 0").unwrap();
    let error = transfer::udp(ends, &UdpPlan::every_size(101)).unwrap_err();
    assert!(format!("{error:#}").contains("first difference at Some(99)"), "{error:#}");
    lab.remove().unwrap();
}

#[test]
fn the_tracer_counts_the_calls_of_the_threads_it_is_given() {
    let lab = two_public("syscalls");
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do sleep 0.02; done"]);
    let process = lab.host("a1").spawn(command).unwrap();
    let threads = syscalls::threads(process.id(), &["sh"]).unwrap();
    assert_eq!(threads.len(), 1, "{threads:?}");
    let calls = syscalls::count(lab.host("a1"), &threads, Duration::from_millis(500)).unwrap();
    println!("{calls:?}");
    assert!(calls["sh"].contains_key("wait4"), "{calls:?}");
    assert!(!calls["sh"].contains_key("futex"), "{calls:?}");
    lab.remove().unwrap();
}
