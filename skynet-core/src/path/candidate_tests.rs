use super::*;

fn overlay() -> Vec<Prefix> {
    vec!["10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()]
}

#[test]
fn the_table_of_targets() {
    let table: &[(&str, bool)] = &[
        ("8.8.8.8:7001", true),
        ("8.8.8.8:0", false),
        ("198.51.100.2:7001", true),
        ("203.0.113.10:3478", true),
        ("10.1.0.10:7001", true),
        ("10.76.255.255:7001", true),
        ("10.78.0.0:7001", true),
        ("10.77.0.0:7001", false),
        ("10.77.3.4:7001", false),
        ("10.77.255.255:7001", false),
        ("172.16.0.1:7001", true),
        ("192.168.1.1:7001", true),
        ("192.0.2.2:7001", true),
        ("192.0.0.192:7001", false),
        ("192.0.1.1:7001", true),
        ("100.64.0.1:7001", true),
        ("100.100.100.200:80", false),
        ("100.100.100.201:80", true),
        ("168.63.129.16:80", false),
        ("168.63.129.17:80", true),
        ("169.254.169.254:80", false),
        ("169.254.170.2:80", false),
        ("169.253.255.255:80", true),
        ("127.0.0.1:7001", false),
        ("127.255.255.254:7001", false),
        ("126.255.255.255:7001", true),
        ("128.0.0.1:7001", true),
        ("0.0.0.0:7001", false),
        ("0.1.2.3:7001", false),
        ("224.0.0.1:7001", false),
        ("239.255.255.250:1900", false),
        ("223.255.255.255:7001", true),
        ("240.0.0.1:7001", false),
        ("255.255.255.255:7001", false),
        ("[2001:db8:f0::10]:7001", true),
        ("[2001:db8:f0::10]:0", false),
        ("[2a01:4f8::1]:7001", true),
        ("[fd99::1]:7001", true),
        ("[fd12:3456:789a::1]:7001", false),
        ("[fd12:3456:789b::1]:7001", true),
        ("[::]:7001", false),
        ("[::1]:7001", false),
        ("[::8.8.8.8]:7001", false),
        ("[fe80::1]:7001", false),
        ("[febf::1]:7001", false),
        ("[fec0::1]:7001", false),
        ("[ff02::1]:7001", false),
        ("[fd00:ec2::254]:80", false),
        ("[fd00:ec2::253]:53", false),
        ("[fd00:ec3::254]:80", true),
        ("[fd20:ce::254]:80", false),
        ("[fd00:c1::a9fe:a9fe]:80", false),
        ("[::ffff:8.8.8.8]:7001", true),
        ("[::ffff:127.0.0.1]:7001", false),
        ("[::ffff:169.254.169.254]:80", false),
        ("[::ffff:10.77.3.4]:7001", false),
        ("[::ffff:255.255.255.255]:7001", false),
        ("[64:ff9b::8.8.8.8]:7001", true),
        ("[64:ff9b::169.254.169.254]:80", false),
        ("[64:ff9b::168.63.129.16]:80", false),
        ("[64:ff9b::10.77.3.4]:80", false),
        ("[64:ff9b:1::8.8.8.8]:80", false),
        ("[fc00::1]:80", true),
        ("[3fff::1]:80", true),
        ("[2001:200::1]:80", true),
        ("[2002:0808:0808::1]:7001", true),
        ("[2002:7f00:0001::1]:7001", false),
        ("[2002:a9fe:a9fe::1]:80", false),
        ("[2002:0a4d:0304::1]:80", false),
        ("[2001:0:1234::1]:7001", false),
        ("[2001:db8::5efe:169.254.169.254]:80", false),
        ("[2001:db8::200:5efe:8.8.8.8]:80", true),
        ("[100::1]:7001", false),
    ];
    assert!(table.len() >= 50);
    for (addr, expected) in table {
        assert_eq!(is_probe_target(&addr.parse().unwrap(), &overlay()), *expected, "{addr}");
    }
}

/// Also read by the story in namespaces, where a member tells all of them.
const HOSTILE: &str = include_str!("hostile_addresses.txt");

fn hostile() -> impl Iterator<Item = SocketAddr> {
    let lines = HOSTILE.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn no_spelling_of_a_forbidden_address_is_a_target() {
    assert!(hostile().count() >= 200);
    for addr in hostile() {
        assert!(!is_probe_target(&addr, &[]), "{addr}");
        // What a record or CALL has room for: zone and flow label do not cross the wire.
        let told = crate::wire::address::decode(&crate::wire::address::encode(addr));
        assert!(!is_probe_target(&told, &[]), "{addr} as {told}");
        let candidate = Candidate::new(CandidateKind::Configured, addr);
        assert!(select_candidates(&[candidate], &[]).is_empty(), "{addr}");
    }
}

#[test]
fn the_overlay_is_no_target_in_any_spelling() {
    for addr in [
        "10.77.3.4",
        "[::ffff:10.77.3.4]",
        "[64:ff9b::10.77.3.4]",
        "[2002:a4d:304::1]",
        "[2001:db8::5efe:10.77.3.4]",
        "[2001:db8::200:5efe:10.77.3.4]",
        "[fd12:3456:789a::1]",
        "[fd12:3456:789a:ffff:ffff:ffff:ffff:ffff]",
    ] {
        let addr: SocketAddr = format!("{addr}:7001").parse().unwrap();
        assert!(is_probe_target(&addr, &[]) && !is_probe_target(&addr, &overlay()), "{addr}");
    }
}

#[test]
fn a_zero_length_prefix_refuses_its_family_only() {
    let all4: [Prefix; 1] = ["0.0.0.0/0".parse().unwrap()];
    assert!(!is_probe_target(&"8.8.8.8:1".parse().unwrap(), &all4));
    assert!(is_probe_target(&"[2a01::1]:1".parse().unwrap(), &all4));
}

#[test]
fn at_most_sixteen_the_best_one_per_address() {
    let mut offered: Vec<_> = (1..=40u8)
        .map(|i| Candidate::new(CandidateKind::ServerReflexive, SocketAddr::from(([198, 51, 100, i], 7001))))
        .collect();
    offered.push(Candidate::new(CandidateKind::Host, SocketAddr::from(([198, 51, 100, 1], 7001))));
    offered.push(Candidate::new(CandidateKind::Host, "127.0.0.1:7001".parse().unwrap()));
    let kept = select_candidates(&offered, &[]);
    assert_eq!(kept.len(), MAX_CANDIDATES);
    assert_eq!(kept[0], Candidate::new(CandidateKind::Host, SocketAddr::from(([198, 51, 100, 1], 7001))));
    assert_eq!(kept.iter().filter(|c| c.addr == kept[0].addr).count(), 1);
}

#[test]
fn kinds_survive_the_wire_and_unknown_ones_are_none() {
    for value in 0..=255u8 {
        assert_eq!(CandidateKind::from_wire(value).map(|k| k as u8), (value < 6).then_some(value));
    }
}

#[test]
fn what_every_site_numbers_for_itself_means_nothing_beyond_it() {
    for (ip, beyond) in [
        ("10.255.0.1", false),
        ("172.15.0.1", true),
        ("172.16.0.1", false),
        ("172.31.255.255", false),
        ("192.168.0.1", false),
        ("100.63.255.255", true),
        ("100.64.0.0", false),
        ("100.127.255.255", false),
        ("100.128.0.0", true),
        ("::ffff:192.168.0.1", false),
        ("198.51.100.2", true),
        ("fd00::1", false),
        ("2001:db8::1", true),
    ] {
        assert_eq!(is_beyond_site(ip.parse().unwrap()), beyond, "{ip}");
    }
}

#[test]
fn a_clouds_address_is_told_as_configured_and_tried_after_the_neighbours() {
    let cloud = Candidate::cloud("198.51.100.2:7001".parse().unwrap());
    assert!(cloud.kind == CandidateKind::Configured && cloud.kind.is_open());
    let order = [CandidateKind::Configured, CandidateKind::Host, CandidateKind::GlobalV6];
    assert!(order.iter().all(|k| k.priority() > cloud.priority));
    assert!(CandidateKind::PortMapping.priority() < cloud.priority);
}

#[test]
fn a_clouds_word_is_believed_as_far_as_the_relay_sees_the_same() {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let local = [ip("10.1.0.10"), ip("2001:db8::1")];
    for (public, observed, believed) in [
        ("198.51.100.2", Some("198.51.100.2:41820"), true),
        ("198.51.100.2", Some("198.51.100.2:5000"), true),
        ("198.51.100.2", Some("10.1.0.10:41820"), true),
        ("198.51.100.2", Some("[2001:db8::1]:41820"), true),
        ("198.51.100.2", Some("198.51.100.3:41820"), false),
        ("198.51.100.2", None, false),
        ("10.9.9.9", Some("10.9.9.9:41820"), false),
        ("127.0.0.1", Some("10.1.0.10:41820"), false),
        ("169.254.169.254", Some("10.1.0.10:41820"), false),
        ("10.1.0.10", Some("10.1.0.10:41820"), false),
    ] {
        let observed = observed.map(|o| o.parse().unwrap());
        assert_eq!(is_one_to_one(ip(public), observed, &local), believed, "{public} {observed:?}");
    }
    let public_host = [ip("198.51.100.2")];
    assert!(!is_one_to_one(ip("198.51.100.2"), Some("198.51.100.2:1".parse().unwrap()), &public_host));
}
