//! The agent and `wireguard-go`, each taking the other for one of its own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use skynet_tests::fleet::stock::{KeyPair, PeerConfig, StockWireGuard};
use skynet_tests::fleet::traffic::{self, MARKER, Pinger};
use skynet_tests::fleet::{Agent, Binaries};
use skynet_tests::iperf::{self, Options, Transport};
use skynet_tests::{Lab, NatKind, Sniffer, clock, wait_for};

const OURS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const STOCK: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const STOCK_PORT: u16 = 51_820;
/// REKEY_AFTER_TIME, and a lost initiation with its retry.
const REKEY: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_secs(5);

/// Our agent on `a1` and wireguard-go on `b1`, both public, as each other's only peer.
struct Pair {
    agent: Agent,
    stock: StockWireGuard,
    sniffer: Sniffer,
    lab: Lab,
}

impl Pair {
    fn begin(title: &str) -> Self {
        let lab = Lab::builder(title)
            .cloud("a", NatKind::Public, 1)
            .cloud("b", NatKind::Public, 1)
            .build()
            .unwrap();
        let sniffer = Sniffer::start(&lab, MARKER).unwrap();
        let (a, b) = (lab.host("a1"), lab.host("b1"));
        let (ours, theirs) = (KeyPair::generate(a).unwrap(), KeyPair::generate(b).unwrap());
        let config = format!(
            "[interface]\nprivate_key = \"{}\"\naddress = \"{OURS}/24\"\n\n\
             [[peer]]\npublic_key = \"{}\"\nendpoint = \"{}:{STOCK_PORT}\"\nallowed_ips = [\"{STOCK}/32\"]\n",
            ours.private,
            theirs.public,
            b.address()
        );
        let agent = Agent::start_with_config(&lab, "a1", &Binaries::find().unwrap(), &config).unwrap();
        let stock = StockWireGuard::start(b, Path::new("wireguard-go"), &[]).unwrap();
        stock.configure(&theirs.private, STOCK_PORT, (STOCK, 24), 1420).unwrap();
        let endpoint = SocketAddrV4::new(a.address(), agent.port());
        let peer = PeerConfig {
            public_key: ours.public,
            endpoint: Some(endpoint),
            allowed_ips: format!("{OURS}/32"),
        };
        stock.set_peer(&peer).unwrap();
        let pair = Self { agent, stock, sniffer, lab };
        pair.wait_routed();
        pair.wait_answer(STOCK, RETRY * 3);
        pair
    }

    /// Until `a1` has its route to the stock peer: before, the underlay's default route would take the marker out.
    fn wait_routed(&self) {
        let stock = STOCK.to_string();
        let get = ["ip", "route", "get", &stock];
        let result = wait_for(Duration::from_secs(10), "the interface", || {
            let route = self.lab.host("a1").exec(&get)?.stdout;
            anyhow::ensure!(route.contains("dev skynet0"), "{route}");
            anyhow::Ok(())
        });
        result.unwrap();
    }

    /// Until `a1` gets an answer from `target`; returns how long that took.
    fn wait_answer(&self, target: Ipv4Addr, within: Duration) -> Duration {
        let start = clock::now();
        let result = wait_for(within, "an answer", || {
            let echoes = traffic::echo_icmp(self.lab.host("a1"), target, 1, Duration::from_secs(1))?;
            anyhow::ensure!(echoes.received == 1, "none; {}", self.agent.log_end());
            Ok::<_, anyhow::Error>(())
        });
        result.unwrap();
        start.elapsed()
    }

    fn end(self) {
        self.sniffer.assert_clean();
        drop((self.agent, self.stock));
        self.lab.remove().unwrap();
    }
}

#[test]
fn a_session_with_wireguard_go_survives_its_rekey_without_losing_a_packet() {
    let pair = Pair::begin("interop-rekey");
    let first = pair.stock.latest_handshake().unwrap().expect("packets pass, so there was a handshake");
    let pinger = Pinger::start(pair.lab.host("a1"), STOCK, Duration::from_millis(100)).unwrap();
    let start = clock::now();
    let changed = wait_for(REKEY + 2 * RETRY, "a new handshake", || {
        std::thread::sleep(Duration::from_millis(250));
        let latest = pair.stock.latest_handshake()?;
        anyhow::ensure!(latest > Some(first), "still {first}");
        anyhow::Ok(start.elapsed())
    });
    let changed = changed.unwrap();
    // The new keys carry traffic too, and the old ones are gone.
    std::thread::sleep(Duration::from_secs(3));
    let echoes = pinger.stop().unwrap();
    println!("rekey after {changed:.1?}: {echoes:?}");
    assert!(changed >= REKEY - RETRY, "a rekey before its time: {changed:?}");
    assert_eq!(echoes.received, echoes.sent, "{echoes:?}");
    assert!(echoes.sent > 1_000, "{echoes:?}");
    pair.end();
}

#[test]
fn tcp_and_udp_pass_between_the_agent_and_wireguard_go_both_ways() {
    let pair = Pair::begin("interop-traffic");
    let (a, b) = (pair.lab.host("a1"), pair.lab.host("b1"));
    let udp = Transport::Udp { bits_per_second: 10_000_000, payload_bytes: 1200 };
    for (from, to, target) in [(a, b, STOCK), (b, a, OURS)] {
        let echoes = traffic::echo_icmp(from, target, 20, Duration::from_millis(10)).unwrap();
        assert_eq!(echoes.received, 20, "{echoes:?}");
        traffic::transfer_tcp(from, to, target, 10_000_000).unwrap();
        let tcp = Options { seconds: 2, ..Options::default() };
        let tcp = iperf::run(to, from, target.into(), &tcp).unwrap();
        assert!(tcp.bits_per_second > 1e6, "{tcp:?}");
        let udp = iperf::run(
            to,
            from,
            target.into(),
            &Options { transport: udp, seconds: 2, ..Options::default() },
        );
        let udp = udp.unwrap();
        assert!(udp.bits_per_second > 5e6, "{udp:?}");
        println!(
            "{} to {}: TCP {:.0} Mbit/s, UDP {:.1} of 10 Mbit/s, {:.1} % lost",
            from.role(),
            to.role(),
            tcp.bits_per_second / 1e6,
            udp.bits_per_second / 1e6,
            udp.loss * 100.0
        );
    }
    pair.end();
}

#[test]
fn the_agent_follows_a_stock_peer_that_roams() {
    let pair = Pair::begin("interop-roaming");
    let moved = STOCK_PORT + 1;
    pair.stock.set_listen_port(moved).unwrap();
    // The stock peer speaks first, from its new port; only then can we know it.
    let echoes = traffic::echo_icmp(pair.lab.host("b1"), OURS, 5, Duration::from_millis(200)).unwrap();
    assert!(echoes.received >= 4, "{echoes:?}");
    let took = pair.wait_answer(STOCK, Duration::from_secs(3));
    println!("after roaming: {echoes:?}, an answer after {took:.1?}");
    let status = pair.agent.status().unwrap();
    let via = status.peers.iter().find_map(|peer| peer.via.clone()).unwrap_or_default();
    assert!(via.ends_with(&format!(":{moved}")), "{status:?}");
    pair.end();
}
