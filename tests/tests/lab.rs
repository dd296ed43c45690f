//! The lab itself: its NATs behave as they are named, its links as they are set, and nothing remains of it.

#![expect(clippy::unwrap_used, reason = "a test file; clippy exempts only the functions marked as tests")]

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use skynet_tests::behavior::{Behavior, Filtering, Mapping, Observers, receive, udp_socket};
use skynet_tests::lab::{NAT_KINDS, namespaces_of, remove_lab};
use skynet_tests::wan::{Direction, Profile};
use skynet_tests::{Lab, NatKind, Sniffer, iperf, ping, wait_until};

/// What a NAT of `kind` must be measured as: mapping, filtering, port preservation; `None` if UDP does not pass.
fn expected(kind: NatKind) -> Option<(Mapping, Filtering, bool)> {
    use Filtering as F;
    use Mapping as M;
    match kind {
        NatKind::Public | NatKind::FullCone => Some((M::EndpointIndependent, F::EndpointIndependent, true)),
        NatKind::SecurityGroup | NatKind::PortRestricted | NatKind::PortRestrictedAnswering => {
            Some((M::EndpointIndependent, F::AddressAndPortDependent, true))
        }
        NatKind::AddressRestricted => Some((M::EndpointIndependent, F::AddressDependent, true)),
        NatKind::PortRestrictedNotPreserving => {
            Some((M::EndpointIndependent, F::AddressAndPortDependent, false))
        }
        NatKind::Symmetric | NatKind::SymmetricSequential => {
            Some((M::AddressAndPortDependent, F::AddressAndPortDependent, false))
        }
        NatKind::AddressDependent => Some((M::AddressDependent, F::AddressAndPortDependent, false)),
        NatKind::UdpBlocked => None,
    }
}

fn measured(behavior: Option<Behavior>) -> Option<(Mapping, Filtering, bool)> {
    behavior.map(|b| (b.mapping, b.filtering, b.preserves_port))
}

#[test]
fn every_nat_kind_maps_and_filters_as_it_is_named() {
    let lab = Lab::builder("kinds").relay().cloud("a", NatKind::PortRestricted, 2).build().unwrap();
    let observers = Observers::new(&lab).unwrap();
    for kind in NAT_KINDS {
        lab.set_nat("a", kind).unwrap();
        for host in lab.hosts() {
            let behavior = observers.behavior(host).unwrap();
            assert_eq!(measured(behavior), expected(kind), "{kind:?} at {}: {behavior:?}", host.role());
            assert!(behavior.is_none_or(|b| b.translates), "{kind:?}");
        }
    }
}

#[test]
fn a_sequential_symmetric_nat_takes_the_next_port() {
    let lab = Lab::builder("sequence").relay().cloud("a", NatKind::SymmetricSequential, 1).build().unwrap();
    let behavior = Observers::new(&lab).unwrap().behavior(lab.host("a1")).unwrap().unwrap();
    let [first, second, third] = behavior.ports;
    // The measurement's second socket took the port after the first.
    assert_eq!((second - first, third - second), (2, 1), "{behavior:?}");
}

#[test]
fn three_clouds_of_two_hosts_come_up_and_down_quickly() {
    let lab = three_by_two("3x2");
    let prefix = lab.prefix().to_owned();
    assert_eq!(namespaces_of(&prefix).len(), 11);
    for host in lab.hosts() {
        let log = host.exec(&["ping", "-c1", "-W2", "203.0.113.10"]).unwrap();
        assert!(log.status.success(), "{}: {log:?}", host.role());
    }
    let up = lab.setup_time();
    let down = lab.remove().unwrap();
    println!("3 clouds x 2 hosts: up in {up:.1?}, down in {down:.1?}");
    assert!(up < Duration::from_secs(8), "{up:?}");
    assert_eq!(namespaces_of(&prefix), Vec::<String>::new());
}

#[test]
fn nothing_remains_after_a_panic() {
    let mut prefix = String::new();
    let mut logs = PathBuf::new();
    let mut process = 0;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let lab = three_by_two("panic");
        (prefix, logs) = (lab.prefix().to_owned(), lab.logs().to_owned());
        let mut command = Command::new("sleep");
        command.arg("600");
        let sleeper = lab.host("a1").spawn(command).unwrap();
        process = sleeper.id();
        std::mem::forget(sleeper);
        assert_eq!(namespaces_of(&prefix).len(), 11);
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert_eq!(namespaces_of(&prefix), Vec::<String>::new());
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "the process in it still runs: {state}");
    // Kept by the panic, for whoever looks into it.
    std::fs::remove_dir_all(logs).unwrap();
}

#[test]
fn clouds_may_use_the_same_private_range() {
    let lab = Lab::builder("overlap")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .lan(9)
        .cloud("b", NatKind::PortRestricted, 1)
        .lan(9)
        .build()
        .unwrap();
    assert_eq!(lab.host("a1").address(), Ipv4Addr::new(10, 9, 0, 10));
    assert_eq!(lab.host("a1").address(), lab.host("b1").address());
    let observers = Observers::new(&lab).unwrap();
    for host in lab.hosts() {
        let socket = udp_socket(host, Ipv4Addr::UNSPECIFIED, 0).unwrap();
        let mapped = observers.mapped(&socket).unwrap().unwrap();
        assert_eq!(*mapped.ip(), lab.public_address(host.role()));
        assert!(observers.reaches(&socket, mapped).unwrap());
    }
}

#[test]
fn two_hosts_behind_one_nat_have_distinct_mappings_for_the_same_port() {
    let lab = Lab::builder("two").relay().cloud("a", NatKind::FullCone, 2).build().unwrap();
    let observers = Observers::new(&lab).unwrap();
    for kind in [NatKind::FullCone, NatKind::AddressRestricted, NatKind::PortRestricted] {
        lab.set_nat("a", kind).unwrap();
        let sockets: Vec<_> =
            lab.hosts().map(|host| udp_socket(host, Ipv4Addr::UNSPECIFIED, 5000).unwrap()).collect();
        let mapped: Vec<_> =
            sockets.iter().map(|socket| observers.mapped(socket).unwrap().unwrap()).collect();
        assert_ne!(mapped[0], mapped[1], "{kind:?}");
        for (socket, mapped) in sockets.iter().zip(mapped) {
            assert!(observers.reaches(socket, mapped).unwrap(), "{kind:?}");
        }
    }
}

#[test]
fn a_command_that_hangs_is_killed_and_a_process_stops_with_its_guard() {
    let lab = Lab::builder("processes").cloud("a", NatKind::Public, 1).build().unwrap();
    let a1 = lab.host("a1");
    let error = a1.exec_within(Duration::from_millis(200), &["sleep", "60"], "").unwrap_err();
    assert!(format!("{error:#}").contains("killed after"), "{error:#}");
    let output = a1.exec_within(Duration::from_secs(5), &["cat"], "text").unwrap();
    assert_eq!(output.ok().unwrap(), "text");
    assert!(a1.exec(&["false"]).unwrap().ok().is_err());

    let mut command = Command::new("sh");
    command.args(["-c", "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.05; done"]);
    let process = a1.spawn(command).unwrap();
    let (id, log) = (process.id(), process.log_path().to_owned());
    wait_until(Duration::from_secs(5), "a greeting", || process.log() == "hello\n").unwrap();
    drop(process);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "hello\nbye\n");
    assert!(!PathBuf::from(format!("/proc/{id}")).exists());
}

#[test]
fn an_impossible_plan_is_refused_with_a_reason() {
    let twice = Lab::builder("t").cloud("a", NatKind::Public, 1).cloud("a", NatKind::Public, 1).build();
    assert!(format!("{:#}", twice.unwrap_err()).contains("two clouds are called \"a\""));
    let lab = Lab::builder("public").cloud("a", NatKind::Public, 1).build().unwrap();
    assert!(lab.set_nat("a", NatKind::Symmetric).unwrap_err().to_string().contains("has public hosts"));
    assert!(lab.set_nat("b", NatKind::Symmetric).unwrap_err().to_string().contains("no cloud b"));
    assert!(lab.change_public_address("a").is_err() && lab.cut("relay").is_err() && lab.cut("inet").is_err());
}

#[test]
fn a_nat_forgets_by_reboot_timeout_and_change_of_address() {
    let lab = Lab::builder("forget").relay().cloud("a", NatKind::Symmetric, 1).build().unwrap();
    let observers = Observers::new(&lab).unwrap();
    let socket = udp_socket(lab.host("a1"), Ipv4Addr::UNSPECIFIED, 0).unwrap();
    let mapped = || observers.mapped(&socket).unwrap().unwrap();

    let before = mapped();
    assert_eq!(mapped(), before, "a mapping in use stays");
    lab.reboot_nat("a").unwrap();
    assert!(!observers.reaches(&socket, before).unwrap());
    let after = mapped();
    assert_ne!(after.port(), before.port());

    let address = lab.change_public_address("a").unwrap();
    assert_ne!(address, *after.ip());
    assert_eq!((*mapped().ip(), lab.public_address("a1")), (address, address));

    lab.set_mapping_timeouts("a", Duration::from_secs(1), Duration::from_secs(1)).unwrap();
    let short = mapped();
    wait_until(Duration::from_secs(6), "a mapping of 1 s to expire", || {
        std::thread::sleep(Duration::from_millis(1_500));
        !observers.reaches(&socket, short).unwrap()
    })
    .unwrap();
}

#[test]
fn faults_hit_what_they_name_and_nothing_else() {
    let lab = Lab::builder("faults")
        .relay()
        .cloud("a", NatKind::Public, 2)
        .cloud("b", NatKind::Public, 1)
        .build()
        .unwrap();
    let passes = |from: &str, to: &str| {
        let (from, to) = (lab.host(from), lab.host(to));
        from.exec(&["ping", "-c1", "-W1", &to.address().to_string()]).unwrap().status.success()
    };
    let (a1, b1) = (lab.host("a1"), lab.host("b1"));
    let sender = udp_socket(a1, a1.address(), 4000).unwrap();
    let receiver = udp_socket(b1, b1.address(), 4000).unwrap();
    let udp_passes = || send_and_receive(&sender, &receiver);
    assert!(passes("a1", "a2") && passes("a1", "b1") && udp_passes());

    lab.cut("a").unwrap();
    assert!(!passes("a1", "b1") && passes("a1", "a2") && passes("b1", "relay"));
    lab.restore("a").unwrap();

    lab.cut("a1").unwrap();
    assert!(!passes("a2", "a1") && !passes("b1", "a1") && passes("a2", "b1"));
    lab.restore("a1").unwrap();
    assert!(passes("a1", "b1"));

    lab.block_udp_between("a", "b").unwrap();
    assert!(!udp_passes() && passes("a1", "b1"));
    lab.unblock_udp_between("a", "b").unwrap();
    assert!(udp_passes());

    lab.block_packets(b1.address(), a1.address()).unwrap();
    assert!(!passes("a1", "b1") && udp_passes() && passes("a2", "b1"));
    lab.unblock_packets(b1.address(), a1.address()).unwrap();

    // WireGuard's transport data by its first four bytes, and nothing else.
    lab.add_rule("meta l4proto udp @th,64,32 0x04000000 drop").unwrap();
    let transport_data_passes = || {
        sender.send_to(&[4, 0, 0, 0, 1, 2, 3, 4], receiver.local_addr().unwrap()).unwrap();
        receive(&receiver, &mut [0; 16]).is_ok()
    };
    assert!(!transport_data_passes() && udp_passes());
    lab.clear_rules().unwrap();
    assert!(transport_data_passes());
}

#[test]
fn a_wan_link_delays_cuts_and_loses_as_set() {
    let lab = Lab::builder("wan").relay().cloud("a", NatKind::PortRestricted, 1).build().unwrap();
    let a1 = lab.host("a1");
    let relay = IpAddr::V4(lab.relay().address());
    let ms = Duration::from_millis;
    let echo = |count, interval| ping::run(a1, relay, count, ms(interval)).unwrap();

    let near = echo(5, 20);
    assert!(near.p50() < ms(20), "{near:?}");
    let profile = Profile { jitter: ms(2), ..Profile::delay(ms(25)) };
    let wan = lab.insert_wan("a", profile.clone(), 1).unwrap();
    let far = echo(20, 20);
    println!("25 ms each way: rtt {:.1?} / {:.1?} / {:.1?}", far.min(), far.p50(), far.max());
    assert_eq!(far.received, 20, "{far:?}");
    assert!(far.min() >= ms(50) && far.p50() < ms(80), "{far:?}");

    wan.set(&Profile { loss: 0.2, ..Profile::default() });
    let lossy = echo(300, 4);
    println!("20 % loss each way: {:.1} % of echoes lost", lossy.loss() * 100.0);
    assert!((0.25..0.47).contains(&lossy.loss()), "expected 36 %: {:.2}", lossy.loss());

    wan.cut();
    assert_eq!(echo(3, 20).received, 0);
    wan.restore();
    wan.set(&Profile::default());
    assert_eq!(echo(3, 20).received, 3);
    let stats = wan.stats(Direction::Up);
    assert!(stats.lost > 0 && stats.cut > 0 && stats.delivered > 0, "{stats:?}");

    lab.remove_wan("a").unwrap();
    assert_eq!(echo(3, 20).received, 3);
}

#[test]
fn a_wan_link_corrupts_so_that_the_application_sees_it() {
    let lab = Lab::builder("corrupt").relay().cloud("a", NatKind::Public, 1).build().unwrap();
    let wan = lab.insert_wan("a", Profile { corrupt: 1.0, ..Profile::default() }, 1).unwrap();
    let a1 = lab.host("a1");
    let sender = udp_socket(a1, a1.address(), 0).unwrap();
    let receiver = udp_socket(lab.relay(), lab.relay().address(), 0).unwrap();
    sender.send_to(&[0x55; 100], receiver.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 200];
    let (length, _) = receive(&receiver, &mut buffer).unwrap();
    assert_eq!(length, 100);
    let flipped: u32 = buffer[..100].iter().map(|byte| (byte ^ 0x55).count_ones()).sum();
    assert_eq!(flipped, 1);
    assert!(wan.stats(Direction::Up).corrupted >= 1);
}

#[test]
fn iperf_reports_what_a_bottleneck_leaves() {
    let lab = Lab::builder("iperf").relay().cloud("a", NatKind::Public, 1).build().unwrap();
    let (a1, relay) = (lab.host("a1"), lab.relay());
    let target = IpAddr::V4(relay.address());
    let options = iperf::Options { seconds: 2, ..iperf::Options::default() };
    let free = iperf::run(relay, a1, target, &options).unwrap();
    let profile = Profile {
        rate_bits_per_second: Some(20_000_000),
        queue_bytes: 50_000,
        ..Profile::delay(Duration::from_millis(5))
    };
    lab.insert_wan("a", profile, 1).unwrap();
    let narrow = iperf::run(relay, a1, target, &options).unwrap();
    println!("TCP: {:.0} Mbit/s free, {:.1} Mbit/s through 20", mbit(&free), mbit(&narrow));
    assert!(mbit(&free) > 100.0 && (10.0..20.0).contains(&mbit(&narrow)));

    let transport = iperf::Transport::Udp { bits_per_second: 40_000_000, payload_bytes: 1_200 };
    let udp = iperf::run(relay, a1, target, &iperf::Options { transport, ..options }).unwrap();
    println!("UDP: 40 Mbit/s offered, {:.1} Mbit/s arrived, {:.0} % lost", mbit(&udp), udp.loss * 100.0);
    assert!((12.0..21.0).contains(&mbit(&udp)) && udp.loss > 0.3);
}

#[test]
fn the_sniffer_sees_a_marker_in_clear_and_only_that() {
    const MARKER: &[u8] = b"skynet lab marker, 32 bytes long";
    let lab = three_by_two("sniffer");
    let sniffer = Sniffer::start(&lab, MARKER).unwrap();
    let (a1, relay) = (lab.host("a1"), lab.relay());
    let sender = udp_socket(a1, Ipv4Addr::UNSPECIFIED, 0).unwrap();
    let receiver = udp_socket(relay, relay.address(), 0).unwrap();
    let send = |payload: &[u8]| {
        sender.send_to(payload, receiver.local_addr().unwrap()).unwrap();
        receive(&receiver, &mut [0; 100]).unwrap();
    };

    let masked: Vec<u8> = MARKER.iter().map(|byte| !byte).collect();
    send(&masked);
    // What never leaves a host is nobody's secret.
    let inside = udp_socket(a1, Ipv4Addr::LOCALHOST, 0).unwrap();
    sender.send_to(MARKER, inside.local_addr().unwrap()).unwrap();
    receive(&inside, &mut [0; 100]).unwrap();
    sniffer.assert_clean();
    let seen = sniffer.traffic("relay", lab.public_address("a1"), relay.address());
    assert_eq!((seen.packets, seen.bytes), (1, 32 + 28));

    send(MARKER);
    let failure = catch_unwind(AssertUnwindSafe(|| sniffer.assert_clean())).unwrap_err();
    let failure = failure.downcast_ref::<String>().unwrap();
    assert!(failure.contains(" at byte 42 of"), "{failure}");
    // Every place the packet has been, in any order: host, bridge port, bridge, uplink, internet, relay.
    let places: Vec<_> =
        sniffer.sightings().into_iter().map(|s| format!("{}/{}", s.namespace, s.interface)).collect();
    for place in
        ["a1/eth0", "nat-a/port1", "nat-a/lan", "nat-a/wan", "inet/to-a", "inet/to-relay", "relay/eth0"]
    {
        assert!(places.iter().any(|other| other == place), "{place} is not in {places:?}");
    }
    assert_eq!(sniffer.missed(), 0);
}

/// A lab of another process: the command, what it printed up to "up in", and the lab's prefix.
fn foreign_lab(arguments: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_skynet-lab"))
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(lines.any(|line| line.starts_with("up in")));
    let prefix = first.split_once('-').unwrap().0.to_owned();
    // The rest is read, so that the child is not ended by a broken pipe.
    std::thread::spawn(move || lines.count());
    (child, prefix)
}

#[test]
fn an_interrupted_owner_removes_its_lab() {
    let (mut child, prefix) = foreign_lab(&["up"]);
    assert_eq!(namespaces_of(&prefix).len(), 11);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(namespaces_of(&prefix), Vec::<String>::new());
}

#[test]
fn the_next_lab_removes_that_of_a_killed_owner_but_no_living_or_kept_one() {
    let (mut killed, of_the_killed) = foreign_lab(&["up"]);
    let (mut living, of_the_living) = foreign_lab(&["up"]);
    let (mut keeper, kept) = foreign_lab(&["up", "--keep"]);
    assert!(keeper.wait().unwrap().success());
    assert!(remove_lab(&of_the_living).is_err());
    killed.kill().unwrap();
    killed.wait().unwrap();

    let next = Lab::builder("next").build().unwrap();
    assert_eq!(namespaces_of(&of_the_killed), Vec::<String>::new());
    assert_eq!(namespaces_of(&of_the_living).len(), 11);
    assert_eq!(namespaces_of(&kept).len(), 11);
    assert_eq!(namespaces_of(next.prefix()).len(), 1);

    remove_lab(&kept).unwrap();
    assert_eq!(namespaces_of(&kept), Vec::<String>::new());
    kill(Pid::from_raw(living.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(living.wait().unwrap().code(), Some(143));
}

fn mbit(report: &iperf::Report) -> f64 {
    report.bits_per_second / 1e6
}

/// Whether a datagram arrives; both sockets stay empty.
fn send_and_receive(sender: &UdpSocket, receiver: &UdpSocket) -> bool {
    sender.send_to(b"datagram", receiver.local_addr().unwrap()).unwrap();
    receive(receiver, &mut [0; 16]).is_ok()
}

fn three_by_two(title: &str) -> Lab {
    Lab::builder(title)
        .relay()
        .cloud("a", NatKind::PortRestricted, 2)
        .cloud("b", NatKind::Symmetric, 2)
        .cloud("c", NatKind::Public, 2)
        .build()
        .unwrap()
}
