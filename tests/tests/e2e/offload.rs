//! Offloads change how fast bytes arrive, never which: every transfer is compared byte by byte, with all of them and
//! without each, and checksums are verified where no offload can repair them.

use std::net::IpAddr;
use std::time::Duration;

use skynet_tests::checksum::{Tcpdump, Watch};
use skynet_tests::fleet::{Agent, PathKind};
use skynet_tests::transfer::{self, Amount, Ends, TcpPlan, UdpPlan};
use skynet_tests::wan::{Direction, Profile};
use skynet_tests::{Lab, NatKind};

use crate::{DIRECT, JOIN, Story};

/// Of the agent's TUN device on links of 1,500 bytes.
const MTU: u16 = 1_440;
/// The largest payload of UDP over IPv6 in one inner packet.
pub(crate) const LARGEST: u16 = MTU - 40 - 8;
const PORTS: std::ops::RangeInclusive<u16> = 9_000..=9_099;

fn overlay_addresses(agent: &Agent) -> [IpAddr; 2] {
    let status = agent.status().unwrap();
    [status.overlay_address().unwrap().into(), status.overlay_ipv6().unwrap().into()]
}

/// TCP in one and in eight streams and UDP of every size, alone and in trains, over both families.
pub(crate) fn everything_arrives_as_sent(from: &Agent, to: &Agent, scale: u64) {
    // By the relay it is less, and the kernel refuses trains of more once it was told.
    let largest = crate::mtu::known(from, to).min(MTU) - 40 - 8;
    for target in overlay_addresses(to) {
        let ends = Ends::new(from.namespace(), to.namespace(), target);
        let one = transfer::tcp(ends, &TcpPlan::ragged(1, Amount::Bytes(3_000_001 * scale))).unwrap();
        let eight = transfer::tcp(ends, &TcpPlan::bulk(8, Amount::Bytes(700_001 * scale))).unwrap();
        let plans =
            [UdpPlan::every_size(largest), UdpPlan::trains(largest, false), UdpPlan::trains(largest, true)];
        let reports = plans.map(|plan| transfer::udp(ends, &plan).unwrap());
        let datagrams: usize = reports.iter().map(|r| r.datagrams).sum();
        let early: usize = reports.iter().map(|r| r.early).sum();
        // A lane that opens moves a flow once, and what is under way on the old one is then overtaken.
        assert!(early * 10 < datagrams, "{early} of {datagrams} datagrams came before one sent earlier");
        println!(
            "{} to {} {}: TCP 1 stream {:.0}, 8 streams {:.0} Mbit/s, {datagrams} datagrams",
            from.host(),
            to.host(),
            if target.is_ipv4() { "IPv4" } else { "IPv6" },
            one.bits_per_second() / 1e6,
            eight.bits_per_second() / 1e6,
        );
    }
}

#[test]
fn transfers_are_byte_identical_both_ways() {
    let lab = Lab::builder("identical").relay().cloud("a", NatKind::Public, 1).cloud(
        "b",
        NatKind::PortRestricted,
        1,
    );
    let story = Story::begin(lab.build().unwrap());
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    everything_arrives_as_sent(a, b, 2);
    everything_arrives_as_sent(b, a, 2);
    story.end();
}

#[test]
fn transfers_are_byte_identical_through_the_relay() {
    let lab = Lab::builder("identical-relayed").relay().cloud("a", NatKind::Symmetric, 1);
    let story = Story::begin(lab.cloud("b", NatKind::Symmetric, 1).build().unwrap());
    story.fleet.wait_path("a1", "b1", PathKind::Relay, DIRECT).unwrap();
    everything_arrives_as_sent(story.fleet.agent("a1"), story.fleet.agent("b1"), 1);
    story.end();
}

#[test]
fn streams_are_byte_identical_over_a_path_that_loses_reorders_repeats_and_changes_packets() {
    let lab = Lab::builder("identical-lossy").relay().cloud("a", NatKind::Public, 1);
    let story = Story::begin(lab.cloud("b", NatKind::PortRestricted, 1).build().unwrap());
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let profile = Profile {
        delay: Duration::from_millis(2),
        loss: 0.005,
        reorder: 0.02,
        reorder_by: Duration::from_millis(1),
        duplicate: 0.01,
        corrupt: 0.005,
        ..Profile::default()
    };
    let wan = story.lab.insert_wan("b", profile, 7).unwrap();
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let watches = [a, b].map(|agent| Watch::start(agent.namespace(), agent.interface()).unwrap());
    for (from, to) in [(a, b), (b, a)] {
        for target in overlay_addresses(to) {
            let ends = Ends::new(from.namespace(), to.namespace(), target);
            let report = transfer::tcp(ends, &TcpPlan::ragged(4, Amount::Bytes(1_000_001))).unwrap();
            println!(
                "{} to {} {target}: {:.0} Mbit/s, longest stall {:.0?}",
                from.host(),
                to.host(),
                report.bits_per_second() / 1e6,
                report.longest_stall()
            );
        }
    }
    // Whatever was changed on the way was found out before the TUN device.
    for verdicts in watches.map(Watch::stop) {
        assert_eq!(verdicts.wrong, 0, "{verdicts:?}");
    }
    for direction in [Direction::Up, Direction::Down] {
        let stats = wan.stats(direction);
        assert!(stats.lost.min(stats.reordered).min(stats.duplicated).min(stats.corrupted) > 0, "{stats:?}");
    }
    story.end();
}

/// The offloads by the names they are switched off with; a host has the one of its number.
const OFFLOADS: [&str; 6] = ["tun", "udp-gso", "udp-gro", "coalesce-tcp", "coalesce-udp", "chunks"];

/// `off1` has the first offload off and so on, `off7` all of them; `off8` does without AES. `on1` has all.
fn switched_off(host: &str) -> &'static [&'static str] {
    match host {
        "off1" => &["--disable-offload", OFFLOADS[0]],
        "off2" => &["--disable-offload", OFFLOADS[1]],
        "off3" => &["--disable-offload", OFFLOADS[2]],
        "off4" => &["--disable-offload", OFFLOADS[3]],
        "off5" => &["--disable-offload", OFFLOADS[4]],
        "off6" => &["--disable-offload", OFFLOADS[5]],
        "off7" => &["--disable-offload", "tun,udp-gso,udp-gro,coalesce-tcp,coalesce-udp,chunks"],
        "off8" => &["--cipher", "chacha20-poly1305"],
        _ => &[],
    }
}

/// What two members on this machine agree on.
fn bulk_cipher() -> &'static str {
    let has_aes =
        std::fs::read_to_string("/proc/cpuinfo").unwrap().split_whitespace().any(|flag| flag == "aes");
    if has_aes { "AES-256-GCM" } else { "ChaCha20-Poly1305" }
}

/// What `from` says bulk to `to` is sealed with.
fn cipher(from: &Agent, to: &Agent) -> String {
    let status = from.status().unwrap();
    status.peer(to.host()).and_then(|peer| peer.cipher.clone()).unwrap_or_default()
}

/// Every offload is off in turn at the sender and at the receiver, the other end having all.
fn with_each_offload_off(title: &str, scale: u64) {
    let lab = Lab::builder(title).relay().cloud("on", NatKind::Public, 1).cloud("off", NatKind::Public, 8);
    let story = Story::unwatched(lab.build().unwrap(), switched_off);
    story.fleet.wait_joined(JOIN).unwrap();
    let all_on = story.fleet.agent("on1");
    for k in 1..=8 {
        let host = format!("off{k}");
        story.fleet.wait_path("on1", &host, PathKind::Direct, DIRECT).unwrap();
        let other = story.fleet.agent(&host);
        println!("{host}: {}; {}", switched_off(&host)[1], cipher(all_on, other));
        let watch = Watch::start(other.namespace(), other.interface()).unwrap();
        everything_arrives_as_sent(all_on, other, scale);
        everything_arrives_as_sent(other, all_on, scale);
        let expected = if host == "off8" { "ChaCha20-Poly1305" } else { bulk_cipher() };
        assert_eq!(cipher(all_on, other), expected);
        let tun = watch.stop();
        assert_eq!(tun.wrong, 0, "{tun:?}");
        // It is off, and the others are on.
        let has_trains = !["off1", "off7"].contains(&host.as_str());
        assert_eq!(tun.longest > usize::from(MTU), has_trains, "{tun:?}");
    }
    story.end();
}

#[test]
fn transfers_are_byte_identical_with_each_offload_switched_off() {
    with_each_offload_off("each-off", 1);
}

#[test]
#[ignore = "for ./x soak: two gigabytes"]
fn long_transfers_are_byte_identical_with_each_offload_switched_off() {
    with_each_offload_off("each-off-long", 20);
}

#[test]
fn whoever_the_receiver_forwards_to_sees_only_right_checksums() {
    let lab = Lab::builder("checksums").relay().cloud("a", NatKind::Public, 1).cloud("b", NatKind::Public, 1);
    let story = Story::unwatched(lab.build().unwrap(), |_| &[]);
    story.fleet.wait_joined(JOIN).unwrap();
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let behind = story.lab.attach_behind("b1", b.interface(), PORTS).unwrap();
    // Nobody on the way completes the tunnel's own checksums either.
    story.lab.set_endpoint_offloads(false).unwrap();
    let outer = Watch::start(story.lab.internet(), "to-b").unwrap();
    let tun = Watch::start(b.namespace(), b.interface()).unwrap();
    let wire = Watch::start(&behind.namespace, "eth0").unwrap();
    let tcpdump = Tcpdump::start(&behind.namespace, "eth0", "tcp or udp").unwrap();
    for (target, bind) in overlay_addresses(b).into_iter().zip([behind.ipv4, behind.ipv6]) {
        let ends = Ends { bind, port: 9_000, ..Ends::new(a.namespace(), &behind.namespace, target) };
        transfer::tcp(ends, &TcpPlan::ragged(2, Amount::Bytes(2_000_001))).unwrap();
        let ends = Ends { port: 9_001, ..ends };
        transfer::udp(ends, &UdpPlan::every_size(LARGEST)).unwrap();
        transfer::udp(ends, &UdpPlan::trains(LARGEST, true)).unwrap();
    }
    let (tun, wire, decoded) = (tun.stop(), wire.stop(), tcpdump.stop().unwrap());
    let outer = outer.stop();
    println!("TUN {tun:?}\nbehind {wire:?}\ntcpdump {decoded:?}\nunderlay {outer:?}");
    assert!(outer.right > 5_000, "{outer:?}");
    assert_eq!((outer.wrong, outer.partial), (0, 0), "{outer:?}");
    assert_eq!(tun.wrong, 0, "{tun:?}");
    assert!(tun.partial > 0 && tun.longest > usize::from(MTU), "nothing was joined: {tun:?}");
    assert!(wire.right > 5_000, "{wire:?}");
    assert_eq!((wire.wrong, wire.partial), (0, 0), "{wire:?}");
    assert!(decoded.bad.is_empty() && decoded.captured > 5_000, "{decoded:?}");
    story.end();
}
