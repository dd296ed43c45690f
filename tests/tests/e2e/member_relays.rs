//! A member that relays: two clouds behind NATs that cannot be punched, and a machine with a public address in one of them.
//!
//! ```text
//!   a1, a2 ── nat-a (symmetric; a2 has a public address) ──┐            ┌── nat-b (symmetric) ── b1
//!                                                          ├─ internet ─┤  50 Mbit/s here, by a token bucket
//!                                    r1: the relay ─ 25 ms ┘            ┘
//! ```

use std::time::Duration;

use skynet_tests::fleet::{Agent, Binaries, Extra, Fleet, Relay};
use skynet_tests::iperf::{self, Options};
use skynet_tests::transfer::{Beat, Ends};
use skynet_tests::wan::Profile;
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::{DIRECT, JOIN, first_answer};

/// Data has gone by a relay for 3 s, a session and a direct path take a second, a pair's first relay is kept for 5 s and
/// looked at every 2 s; three times that.
const CHOSEN: Duration = Duration::from_secs(30);
/// What a relay's death may cost relayed pairs is 3 s; three times that.
const FAIL_OVER: Duration = Duration::from_secs(9);
const BEAT: Duration = Duration::from_millis(20);
/// What the link of cloud b carries, bits a second of IP packets: far below what a debug build can seal.
const LINK: f64 = 50e6;
/// Of what the link gives a plain TCP connection.
const SHARE: f64 = 0.80;

/// By which relay `from` sends to `to`.
fn via(from: &Agent, to: &Agent) -> Option<String> {
    from.status().unwrap().peer(to.host()).and_then(|peer| peer.via.clone())
}

fn wait_via(one: &Agent, other: &Agent, relay: &str, within: Duration) -> Duration {
    let start = clock::now();
    wait_for(within, &format!("{} and {} by {relay}", one.host(), other.host()), || {
        let both = [via(one, other), via(other, one)];
        anyhow::ensure!(both.iter().all(|v| v.as_deref() == Some(relay)), "{both:?}");
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{e:#}{}{}", one.log_end(), other.log_end()));
    start.elapsed()
}

/// Cloud b's link carries so much, either way.
fn limit_link(lab: &Lab) {
    let rate = format!("{}bit", LINK as u64);
    for (namespace, device) in [(lab.router("b"), "wan"), (lab.internet(), "to-b")] {
        let shape = ["tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", &rate];
        let room = ["burst", "65536", "latency", "50ms"];
        namespace.exec(&[&shape[..], &room].concat()).unwrap().ok().unwrap();
    }
}

fn rate(
    server: &skynet_tests::lab::Netns,
    client: &skynet_tests::lab::Netns,
    to: std::net::Ipv4Addr,
    reverse: bool,
) -> f64 {
    let options = Options { seconds: 4, reverse, ..Options::default() };
    iperf::run(server, client, to.into(), &options).unwrap().bits_per_second / 1e6
}

#[test]
fn two_clouds_that_cannot_be_punched_have_their_link_by_a_member_until_it_dies() {
    let lab = Lab::builder("member-relay")
        .cloud("a", NatKind::Symmetric, 2)
        .elastic()
        .cloud("b", NatKind::Symmetric, 1)
        .cloud("r", NatKind::Public, 1)
        .build()
        .unwrap();
    lab.insert_wan("r", Profile::delay(Duration::from_millis(25)), 1).unwrap();
    limit_link(&lab);
    // What the link gives without any overlay: b1 asks, the bytes come from a2, then the other way.
    let (a2, b1) = (lab.host("a2"), lab.host("b1"));
    let plain = [true, false].map(|reverse| rate(a2, b1, lab.public_address("a2"), reverse));

    let binaries = Binaries::find().unwrap();
    let relay = Relay::start_on(&lab, &binaries, lab.host("r1"), lab.host("r1").address()).unwrap();
    let token = relay.create_token(&["--tag", "relay"]).unwrap();
    let mut member = Agent::start_with(&lab, "a2", &binaries, &token, &Extra::default()).unwrap();
    // The others hear of it when they join; of one that joins later within twenty minutes.
    member.wait_joined(JOIN).unwrap();
    let fleet = Fleet::joined_to(&lab, relay, &["a1", "b1"], &Extra::default(), JOIN).unwrap();
    let (a, b) = (fleet.agent("a1"), fleet.agent("b1"));
    first_answer(a, b, DIRECT).unwrap();
    let target = b.overlay_address().unwrap();
    let beat = Beat::start(Ends::new(a.namespace(), b.namespace(), target.into()), BEAT).unwrap();
    let chosen = wait_via(a, b, "relay a2", CHOSEN);
    let status = a.command(&["status"]).unwrap().stdout;
    assert!(status.lines().any(|l| l.starts_with("relay a2") && l.contains("member, bound")), "{status}");
    let why = a.command(&["why", "b1"]).unwrap().stdout;
    assert!(why.contains("a2 relays, a member with the tag relay"), "{why}");
    let served = member.command(&["status"]).unwrap().stdout;
    assert!(served.contains("relays for 2 members"), "{served}");

    let relayed = [false, true].map(|reverse| rate(b.namespace(), a.namespace(), target, reverse));
    assert_eq!(via(a, b).as_deref(), Some("relay a2"), "it was by the member all the time");
    println!(
        "by the member after {chosen:.2?}; Mbit/s a → b and b → a: plain TCP on the link {plain:.1?}, overlay by the member {relayed:.1?}"
    );
    for (relayed, plain) in relayed.iter().zip(plain) {
        assert!(*relayed >= SHARE * plain, "{relayed} of {plain}");
    }

    beat.mark();
    member.kill().unwrap();
    wait_via(a, b, "relay 1", FAIL_OVER);
    std::thread::sleep(Duration::from_secs(1));
    let gap = beat.longest_gap();
    println!("the member was killed: silent for {gap:.2?}");
    assert!(gap <= FAIL_OVER, "{gap:?}");
    beat.stop();
    drop(fleet);
    lab.remove().unwrap();
}
