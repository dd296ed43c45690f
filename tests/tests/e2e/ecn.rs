//! Congestion marks cross the tunnel as RFC 6040 says (normal mode, §4.1; decapsulation, figure 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use skynet_tests::fleet::{Agent, PathKind};
use skynet_tests::{Lab, NatKind, Netns, wait_for};

use crate::{DIRECT, JOIN, Story};

/// The field's four values (RFC 3168 §5), with nftables' names.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;
const NAMES: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];
/// Expedited forwarding: the six bits above, which shall arrive as they were.
const DSCP: u8 = 46;
const DATAGRAMS: u64 = 40;
const ARRIVAL: Duration = Duration::from_secs(2);
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
    for k in 0..DATAGRAMS {
        // Nobody listens; a complaint of an earlier one is not about this.
        let _ = socket.send_to(&k.to_be_bytes(), (target, PORT));
    }
}

/// Sends with each field in turn and demands what comes out: `None` if it must be dropped.
fn expect(story: &Story, what: &str, expected: [Option<u8>; 4]) {
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let status = b.status().unwrap();
    let targets = [status.overlay_address().unwrap().into(), status.overlay_ipv6().unwrap().into()];
    for target in targets {
        for (ecn, expected) in [NOT_ECT, ECT_1, ECT_0, CE].into_iter().zip(expected) {
            let mut wanted = [0; 4];
            if let Some(expected) = expected {
                wanted[usize::from(expected)] = DATAGRAMS;
            }
            take_counts(story.lab.internet());
            take_counts(b.namespace());
            send(a, target, ecn);
            let mut seen = [0; 4];
            let arrived = wait_for(ARRIVAL, "the datagrams", || {
                let more = take_counts(b.namespace());
                seen.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
                // What must not come is waited for, too: all were on the wire by then.
                let on_the_wire: u64 = take_counts(story.lab.internet()).iter().sum();
                if seen == wanted && (expected.is_some() || on_the_wire == 0) {
                    Ok(())
                } else {
                    Err("not yet")
                }
            });
            let name = NAMES[usize::from(ecn)];
            assert!(arrived.is_ok(), "{what}, {target}, inner {name}: out came {seen:?}, not {wanted:?}");
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

    // Encapsulation copies the field.
    let target = story.fleet.agent("b1").overlay_address().unwrap().into();
    for ecn in [NOT_ECT, ECT_1, ECT_0, CE] {
        take_counts(story.lab.internet());
        send(story.fleet.agent("a1"), target, ecn);
        let mut outer = [0; 4];
        let copied = wait_for(ARRIVAL, "the outer field", || {
            let more = take_counts(story.lab.internet());
            outer.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            if outer[usize::from(ecn)] >= DATAGRAMS { Ok(()) } else { Err("not yet") }
        });
        assert!(copied.is_ok(), "inner {}: on the wire {outer:?}", NAMES[usize::from(ecn)]);
    }
    expect(&story, "an unmarked path", [Some(NOT_ECT), Some(ECT_1), Some(ECT_0), Some(CE)]);
    // A router that marks instead of dropping, as it should: what is capable only.
    story.lab.add_rule("meta l4proto udp ip ecn { ect0, ect1 } ip ecn set ce").unwrap();
    expect(&story, "a congested path", [Some(NOT_ECT), Some(CE), Some(CE), Some(CE)]);
    // One that marks everything: where the inside is not capable, the mark can only be told by a loss.
    story.lab.add_rule("meta l4proto udp ip ecn set ce").unwrap();
    expect(&story, "a path that marks everything", [None, Some(CE), Some(CE), Some(CE)]);
    story.end();
}
