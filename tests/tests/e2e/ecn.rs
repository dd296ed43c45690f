//! Congestion marks cross the tunnel as RFC 6040 says (normal mode, §4.1; decapsulation, figure 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use skynet_tests::fleet::{Agent, PathKind};
use skynet_tests::transfer::receive_datagram;
use skynet_tests::{Lab, NatKind, Netns};

use crate::{DIRECT, JOIN, Story};

/// The field's four values (RFC 3168 §5), with nftables' names.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;
const NAMES: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];
/// Expedited forwarding: the six bits above, which shall arrive as they were.
const DSCP: u8 = 46;
const DATAGRAMS: usize = 40;
const ARRIVAL: Duration = Duration::from_secs(2);
const ABSENCE: Duration = Duration::from_millis(300);
/// Port of what is sent inside the tunnel.
const PORT: u16 = 9_009;

/// Counts what comes out of the tunnel by its ECN field, if its DSCP is [`DSCP`].
fn count_inner(host: &Netns, interface: &str) {
    let counters: String = NAMES.iter().map(|name| format!("    counter seen-{name} {{ }}\n")).collect();
    let rules: String = ["ip", "ip6"]
        .iter()
        .flat_map(|ip| {
            NAMES.map(|name| {
                format!("        {ip} dscp {DSCP} {ip} ecn {name} counter name \"seen-{name}\"\n")
            })
        })
        .collect();
    let ruleset = format!(
        "table inet marks {{\n{counters}    chain seen {{\n        type filter hook prerouting priority raw;\n        \
         iifname != \"{interface}\" return\n        udp dport != {PORT} return\n{rules}    }}\n}}\n"
    );
    host.nft(&ruleset).unwrap();
}

/// Counts the tunnel's transport data on the way by its ECN field, before it is marked there.
fn count_outer(internet: &Netns) {
    let counters: String = NAMES.iter().map(|name| format!("    counter seen-{name} {{ }}\n")).collect();
    let rules: String =
        NAMES.iter().map(|name| format!("        ip ecn {name} counter name \"seen-{name}\"\n")).collect();
    let ruleset = format!(
        "table inet marks {{\n{counters}    chain seen {{\n        type filter hook forward priority filter - 5;\n        \
         meta l4proto != udp return\n        @th,64,32 != 0x04000000 return\n{rules}    }}\n}}\n"
    );
    internet.nft(&ruleset).unwrap();
}

/// What was counted since the last call, in the order of [`NAMES`].
fn take_counts(namespace: &Netns) -> [u64; 4] {
    let json =
        namespace.exec(&["nft", "-j", "reset", "counters", "table", "inet", "marks"]).unwrap().ok().unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let items = json["nftables"].as_array().unwrap();
    NAMES.map(|name| {
        let counter = items
            .iter()
            .map(|item| &item["counter"])
            .find(|counter| counter["name"] == format!("seen-{name}"))
            .unwrap();
        counter["packets"].as_u64().unwrap()
    })
}

/// Sends datagrams with this ECN field and [`DSCP`].
fn send(from: &Agent, target: IpAddr, ecn: u8) {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.namespace().run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    let field = i32::from(DSCP << 2 | ecn);
    if target.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4Tos, &field).unwrap();
    } else {
        setsockopt(&socket, sockopt::Ipv6TClass, &field).unwrap();
    }
    for k in 0..DATAGRAMS as u64 {
        socket.send_to(&k.to_be_bytes(), (target, PORT)).unwrap();
    }
}

/// How many datagrams arrive before there is a pause.
fn receive(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 64];
    std::iter::from_fn(|| receive_datagram(socket, &mut buffer).ok()).take(DATAGRAMS).count()
}

/// Sends with each field in turn and demands what comes out: `None` if it must be dropped.
fn expect(story: &Story, what: &str, expected: [Option<u8>; 4]) {
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let status = b.status().unwrap();
    let targets: [IpAddr; 2] =
        [status.overlay_address().unwrap().into(), status.overlay_ipv6().unwrap().into()];
    for target in targets {
        let socket = b.namespace().run(|| UdpSocket::bind((target, PORT))).unwrap().unwrap();
        for (ecn, expected) in [NOT_ECT, ECT_1, ECT_0, CE].into_iter().zip(expected) {
            // Whoever waits for nothing waits for as long as something took.
            socket.set_read_timeout(Some(if expected.is_some() { ARRIVAL } else { ABSENCE })).unwrap();
            take_counts(b.namespace());
            send(a, target, ecn);
            let arrived = receive(&socket);
            let seen = take_counts(b.namespace());
            let name = NAMES[usize::from(ecn)];
            // Trains are counted once, so how many there are is for the socket to say.
            let fields: Vec<_> = (0u8..4).filter(|&ecn| seen[usize::from(ecn)] > 0).collect();
            let wanted: Vec<_> = expected.into_iter().collect();
            assert_eq!(fields, wanted, "{what}, {target}, inner {name}: {arrived} arrived, seen {seen:?}");
            let count = if expected.is_some() { DATAGRAMS } else { 0 };
            assert_eq!(arrived, count, "{what}, {target}, inner {name}: seen {seen:?}");
        }
    }
}

#[test]
fn congestion_marks_cross_the_tunnel_as_rfc_6040_says() {
    let lab = Lab::builder("ecn").relay().cloud("a", NatKind::Public, 1).cloud("b", NatKind::Public, 1);
    let story = Story::unwatched(lab.build().unwrap(), |_| &[]);
    story.fleet.wait_joined(JOIN).unwrap();
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    count_inner(story.fleet.agent("b1").namespace(), story.fleet.agent("b1").interface());
    count_outer(story.lab.internet());

    // Encapsulation copies the field; one train is one packet where it is counted.
    let b = story.fleet.agent("b1");
    let target = b.overlay_address().unwrap().into();
    let socket = b.namespace().run(|| UdpSocket::bind((target, PORT))).unwrap().unwrap();
    socket.set_read_timeout(Some(ARRIVAL)).unwrap();
    for ecn in [NOT_ECT, ECT_1, ECT_0, CE] {
        take_counts(story.lab.internet());
        send(story.fleet.agent("a1"), target, ecn);
        assert_eq!(receive(&socket), DATAGRAMS);
        let outer = take_counts(story.lab.internet());
        let name = NAMES[usize::from(ecn)];
        assert!(outer[usize::from(ecn)] > 0, "inner {name}: on the wire {outer:?}");
        // Keepalives, which are not capable, may be among them.
        let others = (1..4).filter(|&other| other != usize::from(ecn)).map(|other| outer[other]);
        assert_eq!(others.sum::<u64>(), 0, "inner {name}: on the wire {outer:?}");
    }
    drop(socket);
    expect(&story, "an unmarked path", [Some(NOT_ECT), Some(ECT_1), Some(ECT_0), Some(CE)]);
    // A router that marks instead of dropping, as it should: what is capable only.
    story.lab.add_rule("meta l4proto udp ip ecn { ect0, ect1 } ip ecn set ce").unwrap();
    expect(&story, "a congested path", [Some(NOT_ECT), Some(CE), Some(CE), Some(CE)]);
    // One that marks everything: where the inside is not capable, the mark can only be told by a loss.
    story.lab.add_rule("meta l4proto udp ip ecn set ce").unwrap();
    expect(&story, "a path that marks everything", [None, Some(CE), Some(CE), Some(CE)]);
    story.end();
}
