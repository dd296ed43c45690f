//! Floods, silent connections and readers that do not read, against a real relay that others are using.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use skynet_core::wire::binding::Request;
use skynet_core::wire::relay::{Hello, Ticket, bind_key};
use skynet_relay::network::load_network;
use skynet_tests::fleet::{Binaries, Extra, Fleet, Relay};
use skynet_tests::iperf::{self, Options, Transport};
use skynet_tests::mallory::Mallory;
use skynet_tests::raw::Flood;
use skynet_tests::{Lab, NatKind, Netns, clock};

use crate::{DIRECT, JOIN, Story, first_answer};

/// Source addresses of somebody with many.
const SOURCES: u32 = 50;

/// Two clouds that reach each other by the relay alone.
fn relayed(title: &str) -> Story {
    let lab = Lab::builder(title).relay().cloud("a", NatKind::Public, 1).cloud("b", NatKind::Public, 1);
    let lab = lab.build().unwrap();
    lab.block_udp_between("a", "b").unwrap();
    let story = Story::unwatched(lab, |_| &[]);
    story.fleet.wait_joined(JOIN).unwrap();
    first_answer(story.fleet.agent("a1"), story.fleet.agent("b1"), DIRECT).unwrap();
    story
}

/// Payload that arrives of so much offered, by the relay, in bits per second.
fn goodput(story: &Story, bits_per_second: u64, seconds: u32) -> f64 {
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let transport = Transport::Udp { bits_per_second, payload_bytes: 1_200 };
    let options = Options { transport, seconds, ..Options::default() };
    let target = b.overlay_address().unwrap().into();
    iperf::run(b.namespace(), a.namespace(), target, &options).unwrap().bits_per_second
}

/// What a flood is made of: HELLOs that prove nothing, HELLOs with a genuine ticket, and STUN requests.
fn payloads(story: &Story) -> [(&'static str, Vec<Vec<u8>>); 3] {
    let network = load_network(story.fleet.relay().directory()).unwrap();
    let now = skynet_relay::clock::Clock::new().now().unix.0;
    let hello = |node_no: u32, good: bool| {
        let ticket = Ticket {
            kid: 1,
            rate_class: 0,
            node_no,
            network_id: network.trust.network_id().0,
            not_after: now + 86_400,
            issue_nonce: u64::from(node_no),
            identity_hash: [0; 16],
        };
        let mut ticket = ticket.mint(&network.cluster_key);
        let key = bind_key(&network.cluster_key, &ticket);
        ticket[63] ^= u8::from(!good);
        Hello { lane: 0, ticket, ts_ms: now * 1_000 }.encode(&key).to_vec()
    };
    let stun = Request { len: 100, ..Request::default() }.encode([9; 12]);
    [
        ("HELLO without proof", (0..256).map(|n| hello(n, false)).collect()),
        ("HELLO with a genuine ticket", (0..256).map(|n| hello(n, true)).collect()),
        ("STUN", vec![stun]),
    ]
}

fn floods_leave(story: &Story, per_second: u64, offered: u64, seconds: u32) {
    let calm = goodput(story, offered, seconds);
    println!("{:.1} of {:.1} Mbit/s arrive without a flood", calm / 1e6, offered as f64 / 1e6);
    for (what, payloads) in payloads(story) {
        let start = clock::now();
        let flood =
            Flood::start(story.lab.internet(), story.fleet.relay().address(), per_second, payloads).unwrap();
        let got = goodput(story, offered, seconds);
        let rate = flood.sent() as f64 / start.elapsed().as_secs_f64();
        drop(flood);
        println!(
            "{what}, {rate:.0} per second: {:.1} Mbit/s, {:.1} % of the offer",
            got / 1e6,
            got / offered as f64 * 100.0
        );
        assert!(rate >= per_second as f64 * 0.8, "the flood itself is too slow: {rate:.0}");
        assert!(got >= offered as f64 * 0.9, "{what}: {got:.0} of {offered}");
    }
}

#[test]
fn floods_from_forged_sources_leave_what_is_relayed() {
    let story = relayed("flooded");
    floods_leave(&story, 3_000, 5_000_000, 2);
    story.end();
}

#[test]
#[ignore = "for ./x soak: needs two cores and a release build to itself"]
fn floods_of_50_000_a_second_leave_100_megabits() {
    let story = relayed("flooded-hard");
    floods_leave(&story, 50_000, 100_000_000, 5);
    story.end();
}

/// Connections that say nothing, from many sources.
fn half_open(from: &Netns, to: SocketAddrV4, count: u32) -> Vec<TcpStream> {
    for k in 0..SOURCES {
        let address = format!("198.18.0.{}/32", k + 1);
        from.exec(&["ip", "addr", "add", &address, "dev", "lo"]).unwrap().ok().unwrap();
    }
    let connect = |k: u32| -> std::io::Result<TcpStream> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let source = SocketAddr::from(([198, 18, 0, (k % SOURCES) as u8 + 1], 0));
        socket.bind(&source.into())?;
        socket.connect_timeout(&SocketAddr::V4(to).into(), Duration::from_secs(2))?;
        Ok(socket.into())
    };
    from.run(|| (0..count).filter_map(|k| connect(k).ok()).collect()).unwrap()
}

#[test]
fn silent_connections_and_slow_readers_keep_nobody_out() {
    let lab = Lab::builder("silent").relay().cloud("a", NatKind::Public, 2).build().unwrap();
    let mut story = Story::begin(lab);
    story.fleet.agent_mut("a2").kill().unwrap();
    let mut mallory = Mallory::join(story.lab.host("a2"), story.fleet.relay().token(), "mallory").unwrap();
    mallory.ask_without_reading(250).unwrap();
    let start = clock::now();
    let held = half_open(story.lab.internet(), story.fleet.relay().address(), 5_000);
    let took = start.elapsed();
    story.fleet.agent_mut("a2").restart().unwrap();
    let joined = story.fleet.agent("a2").wait_joined(JOIN).unwrap();
    let status = story.fleet.agent("a1").status().unwrap();
    assert!(status.relays.iter().all(|r| r.control && r.bound), "{status:?}");
    let memory =
        std::fs::read_to_string(format!("/proc/{}/status", story.fleet.relay().id().unwrap())).unwrap();
    let rss: u64 = memory
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap();
    println!(
        "{} silent connections within {took:.1?}: an agent joins after {joined:.1?}; the relay takes {rss} kB",
        held.len()
    );
    assert!(held.len() >= 4_900, "{}", held.len());
    assert!(rss < 128 * 1024, "{rss} kB");
    story.end();
}

#[test]
fn a_relay_with_64_descriptors_goes_on_accepting() {
    let lab = Lab::builder("descriptors").relay().cloud("a", NatKind::Public, 2).build().unwrap();
    let mut binaries = Binaries::find().unwrap();
    let script = lab.logs().join("few-descriptors");
    std::fs::create_dir_all(lab.logs()).unwrap();
    std::fs::write(&script, format!("#!/bin/sh\nulimit -n 64\nexec {} \"$@\"\n", binaries.relay.display()))
        .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    binaries.relay = script;
    let relay = Relay::start(&lab, &binaries).unwrap();
    let address = relay.address();
    let fleet = Fleet::joined_to(&lab, relay, &["a1"], &Extra::default(), JOIN).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", fleet.relay().id().unwrap())).unwrap();
    assert!(
        limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 64 ")),
        "{limits}"
    );
    let held = half_open(lab.internet(), address, 500);
    let agent =
        skynet_tests::fleet::Agent::start(&lab, "a2", &Binaries::find().unwrap(), fleet.relay().token());
    let joined = agent.unwrap().wait_joined(JOIN).unwrap();
    println!("64 descriptors, {} silent connections: an agent joins after {joined:.1?}", held.len());
    let status = fleet.agent("a1").status().unwrap();
    assert!(status.relays.iter().all(|r| r.control && r.bound), "{status:?}");
    let log = fleet.relay().log();
    assert!(log.lines().count() < 200, "the log fills: {} lines", log.lines().count());
    drop((held, fleet));
    lab.remove().unwrap();
}
