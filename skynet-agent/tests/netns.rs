//! The TUN device and the network configuration against the real kernel, each test in a network namespace of its
//! own that vanishes with its thread. Needs root (or CAP_SYS_ADMIN); without it the tests say so and pass.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::Future;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use skynet_agent::netcfg::{NetConfig, Netlink, Prefix, candidates, gateway, overlap, watch_changes};
use skynet_agent::tun::{PacketBatch, TunDevice, TunError, TunRead, TunWrite, Written};
use skynet_agent::wake::Waker;
use skynet_core::offload::VnetHeader;

/// Runs `test` on a tokio runtime in a fresh network namespace with loopback up.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(e) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no new network namespace ({e})");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            ip(&["link", "set", "lo", "up"]);
            test().await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` in the namespace of this thread.
fn ip(args: &[&str]) -> String {
    let output = std::process::Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An interface that is up, and its other end, which is too.
fn veth(name: &str) {
    let other = format!("veth-{name}");
    ip(&["link", "add", name, "type", "veth", "peer", "name", &other]);
    ip(&["link", "set", name, "up"]);
    ip(&["link", "set", &other, "up"]);
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn addresses() -> [(IpAddr, u8); 2] {
    [("10.77.3.4".parse().unwrap(), 16), ("fd77:1:2:3::4".parse().unwrap(), 48)]
}

#[test]
fn the_device_has_the_real_prefix_on_link_and_carries_packets_both_ways() {
    in_namespace(|| async {
        let net = Netlink::open().unwrap();
        let mut tun = TunDevice::create("skt0", 1360, false, false).unwrap();
        net.bring_up(tun.index().unwrap(), &addresses()).await.unwrap();
        let shown = ip(&["addr", "show", "dev", "skt0"]);
        assert!(shown.contains("mtu 1360") && shown.contains("10.77.3.4/16"), "{shown}");
        let v6 = shown.lines().find(|l| l.contains("fd77:1:2:3::4/48")).unwrap();
        assert!(!v6.contains("tentative"), "{shown}");
        assert!(ip(&["route"]).contains("10.77.0.0/16 dev skt0"));

        // Out: what the machine sends into the prefix is read as a batch.
        let socket = UdpSocket::bind("10.77.3.4:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for i in 0..3u8 {
            socket.send_to(&[i; 20], "10.77.9.9:7").unwrap();
        }
        let mut batch = PacketBatch::new();
        let packets = loop {
            Waker::new().unwrap().wait_readable(&[tun.as_fd()]).unwrap();
            tun.read_batch(&mut batch).unwrap();
            let udp: Vec<Vec<u8>> = batch
                .packets()
                .map(|p| &p[10..])
                .filter(|p| p[0] >> 4 == 4 && p[9] == 17)
                .map(<[u8]>::to_vec)
                .collect();
            if udp.len() == 3 {
                break udp;
            }
        };
        // Back: the same packet with its ends exchanged reaches the socket.
        let mut reply = packets[1].clone();
        for i in 0..4 {
            reply.swap(12 + i, 16 + i);
        }
        reply.swap(20, 22);
        reply.swap(21, 23);
        assert_eq!(tun.write(VnetHeader::NONE, &reply).unwrap(), Written::Yes);
        let mut buffer = [0; 64];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.to_string().as_str()), (&[1u8; 20][..], "10.77.9.9:7"));
        assert_eq!(tun.write(VnetHeader::NONE, &[0; 40]).unwrap(), Written::Refused);

        drop(tun);
        assert!(!ip(&["-o", "link"]).contains("skt0"), "the device vanishes with its last handle");
    });
}

#[test]
fn a_machine_with_ipv6_switched_off_gets_its_ipv4_address() {
    in_namespace(|| async {
        let off = ["-qw", "net.ipv6.conf.all.disable_ipv6=1"];
        assert!(std::process::Command::new("sysctl").args(off).status().unwrap().success());
        let net = Netlink::open().unwrap();
        let tun = TunDevice::create("skt4", 1360, true, false).unwrap();
        net.bring_up(tun.index().unwrap(), &addresses()).await.unwrap();
        let shown = ip(&["addr", "show", "dev", "skt4"]);
        assert!(shown.contains("10.77.3.4/16") && !shown.contains("fd77:"), "{shown}");
    });
}

#[test]
fn a_name_that_is_taken_or_impossible_is_told() {
    in_namespace(|| async {
        veth("mine");
        assert!(matches!(TunDevice::create("mine", 1360, true, false), Err(TunError::NameTaken { .. })));
        let _first = TunDevice::create("skt1", 1360, true, false).unwrap();
        assert!(matches!(TunDevice::create("skt1", 1360, true, false), Err(TunError::NameTaken { .. })));
        for name in ["", "a name", "sixteen-letters-", "../x", "."] {
            assert!(
                matches!(TunDevice::create(name, 1360, true, false), Err(TunError::BadName { .. })),
                "{name}"
            );
        }
    });
}

#[test]
fn after_a_kill_the_prefix_stays_unreachable_and_the_next_start_is_not_confused() {
    in_namespace(|| async {
        veth("eth0");
        ip(&["addr", "add", "192.168.5.2/24", "dev", "eth0"]);
        ip(&["route", "add", "default", "via", "192.168.5.1"]);
        let net = Netlink::open().unwrap();
        let overlays = [prefix("10.77.0.0/16"), prefix("fd77:1:2::/48")];
        let tun = TunDevice::create("skt2", 1360, true, false).unwrap();
        net.bring_up(tun.index().unwrap(), &addresses()).await.unwrap();
        for overlay in overlays {
            net.add_unreachable(overlay).await.unwrap();
            net.add_unreachable(overlay).await.unwrap();
        }
        assert!(ip(&["route", "get", "10.77.1.1"]).contains("dev skt2"), "on-link beats unreachable");

        assert_eq!(net.remove_unreachable().await.unwrap(), 0, "of a network that is up, whose ever it is");
        let inside =
            overlap::check(&[prefix("10.77.9.0/24")], &net.snapshot().await.unwrap(), None).unwrap_err();
        assert!(inside.to_string().starts_with("the overlay 10.77.0.0/16 of skt2 overlaps"), "{inside}");

        drop(tun); // what SIGKILL leaves behind
        // A process that another test is starting may hold the device for a moment.
        for _ in 0..200 {
            if !ip(&["-o", "link"]).contains("skt2") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert!(probe.connect("10.77.1.1:9").is_err(), "overlay traffic must not leave by the default route");
        let snapshot = net.snapshot().await.unwrap();
        assert_eq!(
            overlap::check(&overlays, &snapshot, None),
            Ok(vec![]),
            "our own left-over is no collision"
        );

        assert_eq!(net.remove_unreachable().await.unwrap(), 2);
        assert_eq!(net.remove_unreachable().await.unwrap(), 0);
        assert!(!ip(&["route"]).contains("unreachable"));
    });
}

#[test]
fn collisions_are_found_in_what_the_kernel_reports() {
    in_namespace(|| async {
        veth("eth0");
        ip(&["addr", "add", "10.0.0.2/8", "dev", "eth0"]);
        let net = Netlink::open().unwrap();
        let overlay = [prefix("10.77.0.0/16")];
        let covered = overlap::check(&overlay, &net.snapshot().await.unwrap(), None).unwrap();
        assert_eq!(covered[0].what, "the route 10.0.0.0/8 (eth0)");
        ip(&["route", "add", "10.77.8.0/24", "dev", "eth0", "table", "200"]);
        let error = overlap::check(&overlay, &net.snapshot().await.unwrap(), None).unwrap_err();
        assert!(error.to_string().contains("10.77.8.0/24 (eth0)"), "{error}");
    });
}

#[test]
fn the_kernels_own_words_tell_the_underlay_and_its_gateway() {
    in_namespace(|| async {
        let net = Netlink::open().unwrap();
        let seen = async || {
            let snapshot = net.snapshot().await.unwrap();
            let candidates = candidates::host_candidates(&snapshot, None, 99, true);
            let addresses: Vec<String> = candidates.iter().map(|c| c.ip().to_string()).collect();
            (
                addresses,
                gateway::default_gateway(&snapshot, None).map(|g| (g.address.to_string(), g.own.to_string())),
            )
        };
        veth("eth0");
        ip(&["addr", "add", "10.0.0.2/8", "dev", "eth0"]);
        assert_eq!(seen().await, (vec!["10.0.0.2".to_owned()], None));
        ip(&["addr", "add", "10.88.0.1/32", "dev", "veth-eth0"]);
        ip(&["route", "add", "default", "via", "10.0.0.1", "metric", "100"]);
        let gateway = Some(("10.0.0.1".to_owned(), "10.0.0.2".to_owned()));
        let expected = (vec!["10.0.0.2".to_owned()], gateway.clone());
        assert_eq!(seen().await, expected, "not what leads into a container");
        // IPv6: deprecated ones are not told.
        for (address, life) in [("2001:db8::5/64", "forever"), ("2001:db8::6/64", "0")] {
            ip(&[
                "addr",
                "add",
                address,
                "dev",
                "eth0",
                "nodad",
                "preferred_lft",
                life,
                "valid_lft",
                "forever",
            ]);
        }
        let expected = (["10.0.0.2", "2001:db8::5"].map(str::to_owned).to_vec(), gateway);
        assert_eq!(seen().await, expected);
        // A container engine's bridge, and another tunnel.
        ip(&["link", "add", "mybridge", "type", "bridge"]);
        ip(&["addr", "add", "172.18.0.1/16", "dev", "mybridge"]);
        veth("c1");
        ip(&["link", "set", "c1", "master", "mybridge"]);
        ip(&["link", "set", "mybridge", "up"]);
        let tun = TunDevice::create("othervpn", 1360, false, false).unwrap();
        net.bring_up(tun.index().unwrap(), &addresses()).await.unwrap();
        assert_eq!(seen().await, expected);
        drop(tun);
    });
}

#[test]
fn a_burst_of_changes_is_reported_once() {
    in_namespace(|| async {
        let mut changes = watch_changes().unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await; // the subscription is a task of its own
        for i in 0..5 {
            veth(&format!("d{i}"));
        }
        let first = tokio::time::timeout(Duration::from_secs(3), changes.recv()).await;
        assert_eq!(first, Ok(Some(())));
        let second = tokio::time::timeout(Duration::from_millis(600), changes.recv()).await;
        assert!(second.is_err(), "one burst, one report");
    });
}

#[test]
fn routes_for_allowed_ips_lead_to_the_device() {
    in_namespace(|| async {
        let net = Netlink::open().unwrap();
        let tun = TunDevice::create("skt3", 1360, true, false).unwrap();
        let index = tun.index().unwrap();
        net.bring_up(index, &addresses()).await.unwrap();
        net.add_route(prefix("172.30.0.0/16"), index).await.unwrap();
        net.add_route(prefix("fd99::/64"), index).await.unwrap();
        assert!(ip(&["route", "get", "172.30.1.1"]).contains("dev skt3"));
        assert!(ip(&["-6", "route", "get", "fd99::1"]).contains("dev skt3"));
    });
}
