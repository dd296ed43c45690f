//! Networks without UDP: the same overlay by TLS on port 443, directly or through a proxy, and back to UDP.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skynet_tests::fleet::traffic::MARKER;
use skynet_tests::fleet::{Extra, Fleet, PathKind};
use skynet_tests::proxy::ConnectProxy;
use skynet_tests::transfer::{self, Amount, Ends, TcpPlan};
use skynet_tests::{Lab, NatKind, Sniffer, clock};

use crate::{Story, first_answer};

/// From start to traffic where nothing but TLS on port 443 gets out; three times that is allowed.
const JOINED: Duration = Duration::from_secs(5);
/// From the first packet to its answer by the relay.
const CARRIED: Duration = Duration::from_secs(1);
/// The router of cloud `a`, where its proxy listens.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// Drops what hosts send through their router; what it sends itself goes out.
const PROXY_ONLY: &str = "table inet proxy_only {
 chain forward {
 type filter hook forward priority -10; policy drop;
 }
}
";

fn transport(story: &Story, host: &str) -> String {
    let status = story.fleet.agent(host).status().unwrap();
    status.relays.first().map(|relay| relay.transport.clone()).unwrap_or_default()
}

#[test]
fn hosts_without_udp_join_and_reach_each_other_and_those_with_udp() {
    let lab = Lab::builder("tls")
        .relay()
        .cloud("a", NatKind::UdpBlocked, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .cloud("c", NatKind::UdpBlocked, 1)
        .build()
        .unwrap();
    let begun = clock::now();
    let story = Story::begin(lab);
    let joined = begun.elapsed();
    let agent = |host| story.fleet.agent(host);
    for (from, to) in [("a1", "b1"), ("c1", "a1"), ("b1", "c1")] {
        let took = first_answer(agent(from), agent(to), CARRIED * 3).unwrap();
        println!("{from} to {to}: first answer after {took:.2?} (deadline {CARRIED:?})");
        assert_eq!(agent(from).path_to(agent(to)).unwrap(), PathKind::Relay);
    }
    println!("all joined {joined:.1?} and talked {:.1?} after the relay's start", begun.elapsed());
    assert!(begun.elapsed() < JOINED * 3);
    assert_eq!(["a1", "b1", "c1"].map(|host| transport(&story, host)), ["tls", "udp", "tls"]);
    // Nothing of the stream is told as an address of this node.
    let candidates = agent("a1").status().unwrap().candidates;
    assert!(candidates.iter().all(|c| !c.address.starts_with("127.")), "{candidates:?}");

    for (from, to) in [("a1", "b1"), ("b1", "c1"), ("c1", "a1")] {
        let target = agent(to).overlay_address().unwrap().into();
        let ends = Ends::new(agent(from).namespace(), agent(to).namespace(), target);
        let report = transfer::tcp(ends, &TcpPlan::ragged(2, Amount::Bytes(8_000_000))).unwrap();
        println!(
            "{from} to {to}: {} bytes as sent, longest stall {:.2?}",
            report.bytes(),
            report.longest_stall()
        );
    }
    let why = agent("a1").command(&["why", "b1", "--json"]).unwrap();
    assert!(why.stdout.contains("\"udp-by-tls\"") && why.code == Some(6), "{why:?}");
    let netcheck = agent("a1").command(&["netcheck"]).unwrap();
    assert!(netcheck.stdout.contains("reached by TLS on port 443"), "{netcheck:?}");
    let status = agent("a1").command(&["status"]).unwrap().stdout;
    assert!(status.contains("by tls: no UDP comes back from it"), "{status}");
    story.end();
}

#[test]
fn a_host_that_reaches_nothing_but_a_proxy_joins_and_gets_traffic() {
    let lab = Lab::builder("proxy")
        .relay()
        .cloud("a", NatKind::PortRestricted, 2)
        .cloud("b", NatKind::PortRestricted, 1)
        .build()
        .unwrap();
    lab.router("a").nft(PROXY_ONLY).unwrap();
    let proxy = ConnectProxy::start(lab.router("a"), ROUTER).unwrap();
    let sniffer = Sniffer::start(&lab, MARKER).unwrap();
    let begun = clock::now();
    let fleet = Fleet::start_with(&lab, |host| {
        let url = if host == "a2" { proxy.wrong_url() } else { proxy.url() };
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = if host == "b1" {
            Vec::new()
        } else {
            vec![variable("HTTPS_PROXY", &url), variable("NO_PROXY", "localhost,10.0.0.0/8")]
        };
        Extra { environment, ..Extra::default() }
    })
    .unwrap();
    let story = Story { fleet, sniffer: Some(sniffer), lab };
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    b.wait_joined(JOINED * 3).unwrap();
    let joined = a.wait_joined(JOINED * 3).unwrap();
    first_answer(a, b, CARRIED * 3).unwrap();
    let took = begun.elapsed();
    println!(
        "by a proxy alone: joined, bound and answered {took:.1?} after the relay's start (deadline {JOINED:?}); {joined:.1?}"
    );
    assert!(took < JOINED * 3);
    assert_eq!(transport(&story, "a1"), format!("tls by proxy {ROUTER}:3128"));
    let (tunnels, unauthorised, forbidden) = proxy.counts();
    println!("proxy: {tunnels} tunnels, {unauthorised} without the right password, {forbidden} elsewhere");
    assert!(tunnels >= 2 && unauthorised >= 1 && forbidden == 0);
    let target = b.overlay_address().unwrap().into();
    let ends = Ends::new(a.namespace(), b.namespace(), target);
    transfer::tcp(ends, &TcpPlan::ragged(1, Amount::Bytes(2_000_000))).unwrap();
    let wrong = story.fleet.agent("a2").status().unwrap();
    assert!(wrong.overlay_address().is_none(), "joined with a wrong password");
    story.end();
    drop(proxy);
}

#[test]
fn udp_that_comes_back_takes_a_running_transfer_over_unharmed() {
    let lab = Lab::builder("tls-back")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .cloud("b", NatKind::PortRestricted, 1)
        .build()
        .unwrap();
    lab.block_udp_between("a", "b").unwrap();
    for way in ["iifname", "oifname"] {
        lab.add_rule(&format!("{way} \"to-a\" meta l4proto udp drop")).unwrap();
    }
    let story = Story::begin(lab);
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    assert_eq!(transport(&story, "a1"), "tls");
    let ends = Ends::new(a.namespace(), b.namespace(), b.overlay_address().unwrap().into());
    let plan = TcpPlan::bulk(2, Amount::For(Duration::from_secs(40)));
    std::thread::scope(|scope| {
        let running = Arc::clone(&plan.is_over);
        let transfer = scope.spawn(|| transfer::tcp(ends, &plan));
        std::thread::sleep(Duration::from_secs(3));
        story.lab.clear_rules().unwrap();
        // A change of the network is a reason to try UDP before its minute is over.
        a.namespace().exec(&["ip", "addr", "add", "10.1.0.77/24", "dev", "eth0"]).unwrap().ok().unwrap();
        let begun = clock::now();
        let back = a.wait_status(Duration::from_secs(20), "to use UDP again", |status| {
            status.relays.iter().any(|relay| relay.bound && relay.transport == "udp")
        });
        let took = begun.elapsed();
        std::thread::sleep(Duration::from_secs(4));
        running.store(true, Ordering::Release);
        let report = transfer.join().unwrap().unwrap();
        back.unwrap();
        println!(
            "UDP taken back {took:.1?} after it was free; {} bytes as sent, longest stall {:.2?}",
            report.bytes(),
            report.longest_stall()
        );
        assert!(report.longest_stall() < Duration::from_secs(2), "{:?}", report.longest_stall());
    });
    assert_eq!(a.path_to(b).unwrap(), PathKind::Relay);
    story.end();
}
