//! Three clouds of two hosts: everybody reaches everybody.

use std::time::Duration;

use skynet_tests::fleet::traffic;
use skynet_tests::iperf::{self, Options};
use skynet_tests::{Lab, NatKind};

use crate::{DIRECT, Story, first_answer};

const TEN_MEGABYTES: usize = 10_000_000;

fn three_clouds() -> Lab {
    Lab::builder("pairs")
        .relay()
        .cloud("port", NatKind::PortRestricted, 2)
        .cloud("sym", NatKind::Symmetric, 2)
        .cloud("pub", NatKind::Public, 2)
        .build()
        .unwrap()
}

#[test]
fn all_ordered_pairs_of_six_hosts_in_three_clouds_exchange_icmp_udp_and_tcp() {
    let story = Story::begin(three_clouds());
    let pairs = story.fleet.ordered_pairs();
    assert_eq!(pairs.len(), 30);
    let mut slowest_first = Duration::ZERO;
    for (from, to) in &pairs {
        slowest_first = slowest_first.max(first_answer(from, to, DIRECT).unwrap());
        let target = to.overlay_address().unwrap();
        let pair = format!("{} to {}", from.host(), to.host());
        let echoes = traffic::echo_icmp(from.namespace(), target, 10, Duration::from_millis(10)).unwrap();
        assert_eq!(echoes.received, 10, "{pair}: {echoes:?}");
        assert_eq!(traffic::echo_udp(from.namespace(), to.namespace(), target, 30).unwrap(), 30, "{pair}");
    }
    println!("slowest first answer of 30 pairs: {slowest_first:.1?}");

    let mut slowest = Duration::ZERO;
    for (from, to) in &pairs {
        let target = to.overlay_address().unwrap();
        let took = traffic::transfer_tcp(from.namespace(), to.namespace(), target, TEN_MEGABYTES).unwrap();
        slowest = slowest.max(took);
        let options = Options { seconds: 1, ..Options::default() };
        let report = iperf::run(to.namespace(), from.namespace(), target.into(), &options).unwrap();
        assert!(report.bits_per_second > 1e6, "{} to {}: {report:?}", from.host(), to.host());
        let path = from.path_to(to).unwrap();
        let mbps = report.bits_per_second / 1e6;
        println!(
            "{:5} to {:5} {path:?}: 10 MB in {took:.1?}, iperf3 {mbps:.0} Mbit/s",
            from.host(),
            to.host()
        );
    }
    println!("slowest 10 MB: {slowest:.1?}");
    story.end();
}
