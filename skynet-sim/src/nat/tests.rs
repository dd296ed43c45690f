use super::*;
use crate::seed;

const WAN: &str = "198.51.100.2";

fn nat(config: NatConfig) -> Nat {
    Nat::new(config, Addresses::Shared(WAN.parse().unwrap()), seed::rng(1, "nat", 0))
}

fn ep(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn at(secs: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(secs)
}

fn out(nat: &mut Nat, from: &str, to: &str, secs: u64) -> SocketAddr {
    match nat.outbound(ep(from), ep(to), at(secs)).unwrap() {
        Outbound::Forward { from } | Outbound::Hairpin { from, .. } => from,
    }
}

const A: &str = "10.1.0.10:5000";
const S1: &str = "203.0.113.10:3478";
const S1_OTHER_PORT: &str = "203.0.113.10:3479";
const S2: &str = "203.0.113.11:3478";

#[test]
fn req_1_mapping_depends_on_what_it_says() {
    for (mapping, other_port_same, other_address_same) in [
        (Mapping::EndpointIndependent, true, true),
        (Mapping::AddressDependent, true, false),
        (Mapping::AddressAndPortDependent, false, false),
    ] {
        let mut n = nat(NatConfig { mapping, allocation: PortAllocation::Random, ..NatConfig::default() });
        let first = out(&mut n, A, S1, 0);
        assert_eq!(first, out(&mut n, A, S1, 0), "{mapping:?} same endpoint");
        assert_eq!(first == out(&mut n, A, S1_OTHER_PORT, 0), other_port_same, "{mapping:?} other port");
        assert_eq!(first == out(&mut n, A, S2, 0), other_address_same, "{mapping:?} other address");
    }
}

#[test]
fn req_8_filter_lets_in_what_it_says() {
    for (filtering, other_port, other_address) in [
        (Filtering::EndpointIndependent, true, true),
        (Filtering::AddressDependent, true, false),
        (Filtering::AddressAndPortDependent, false, false),
    ] {
        let mut n = nat(NatConfig { filtering, ..NatConfig::default() });
        let external = out(&mut n, A, S1, 0);
        assert_eq!(n.inbound(ep(S1), external, at(1)), Ok(ep(A)));
        assert_eq!(n.inbound(ep(S1_OTHER_PORT), external, at(1)).is_ok(), other_port, "{filtering:?}");
        assert_eq!(n.inbound(ep(S2), external, at(1)).is_ok(), other_address, "{filtering:?}");
        assert_eq!(n.inbound(ep(S1), ep("198.51.100.2:6000"), at(1)), Err(NatDrop::NoMapping));
    }
}

#[test]
fn req_3_ports_are_preserved_counted_or_random_and_never_overloaded() {
    let mut preserving = nat(NatConfig::default());
    assert_eq!(out(&mut preserving, A, S1, 0).port(), 5000);
    let second = out(&mut preserving, "10.1.0.11:5000", S1, 0);
    assert_ne!(second.port(), 5000, "two hosts with one source port keep distinct mappings");

    let sequential = NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: PortAllocation::Sequential,
        ports: 20_000..=20_002,
        ..NatConfig::default()
    };
    let mut n = nat(sequential);
    assert_eq!(out(&mut n, A, S1, 0).port(), 20_000);
    assert_eq!(out(&mut n, A, S1_OTHER_PORT, 0).port(), 20_001);
    assert_eq!(out(&mut n, A, S2, 0).port(), 20_002);
    assert_eq!(n.outbound(ep(A), ep("203.0.113.11:1"), at(0)), Err(NatDrop::OutOfPorts));
    assert_eq!(out(&mut n, A, "203.0.113.11:1", 31).port(), 20_000, "expired ports are free again");
}

#[test]
fn req_5_mapping_dies_idle_and_lives_longer_once_answered() {
    let mut n = nat(NatConfig { refresh_inbound: false, ..NatConfig::default() });
    let external = out(&mut n, A, S1, 0);
    assert_eq!(n.inbound(ep(S1), external, at(29)), Ok(ep(A)));
    assert_eq!(n.inbound(ep(S1), external, at(30)), Err(NatDrop::NoMapping), "30 s unanswered");

    let external = out(&mut n, A, S1, 100);
    assert!(n.inbound(ep(S1), external, at(101)).is_ok());
    out(&mut n, A, S1, 102);
    assert!(n.inbound(ep(S1), external, at(221)).is_ok(), "120 s once traffic went both ways");
    assert!(n.inbound(ep(S1), external, at(222)).is_err());
}

#[test]
fn req_6_refresh_follows_its_direction() {
    let refresh = |refresh_outbound, refresh_inbound| {
        nat(NatConfig {
            refresh_outbound,
            refresh_inbound,
            assured_timeout: Duration::from_secs(30),
            ..NatConfig::default()
        })
    };
    let mut outbound = refresh(true, false);
    let external = out(&mut outbound, A, S1, 0);
    for s in [20, 40, 60] {
        assert_eq!(out(&mut outbound, A, S1, s), external);
    }
    assert!(outbound.inbound(ep(S1), external, at(80)).is_ok());
    assert!(outbound.inbound(ep(S1), external, at(91)).is_err(), "inbound packets did not refresh");

    let mut inbound = refresh(true, true);
    let external = out(&mut inbound, A, S1, 0);
    for s in [20, 40, 60] {
        assert!(inbound.inbound(ep(S1), external, at(s)).is_ok());
    }
    assert!(inbound.inbound(ep(S1), external, at(91)).is_err());

    let mut never = refresh(false, false);
    let external = out(&mut never, A, S1, 0);
    out(&mut never, A, S1, 20);
    assert!(never.inbound(ep(S1), external, at(31)).is_err());
}

#[test]
fn one_dead_session_does_not_kill_a_shared_mapping() {
    let mut n = nat(NatConfig::default());
    let external = out(&mut n, A, S1, 0);
    out(&mut n, A, S2, 20);
    assert_eq!(n.inbound(ep(S1), external, at(35)), Err(NatDrop::Filtered));
    assert_eq!(n.inbound(ep(S2), external, at(35)), Ok(ep(A)));
}

#[test]
fn req_9_hairpin_shows_the_external_source() {
    let full_cone = |hairpinning| {
        nat(NatConfig { filtering: Filtering::EndpointIndependent, hairpinning, ..NatConfig::default() })
    };
    let b = "10.1.0.11:6000";
    let mut without = full_cone(false);
    let external_b = out(&mut without, b, S1, 0);
    assert_eq!(without.outbound(ep(A), external_b, at(0)), Err(NatDrop::NoHairpin));

    let mut with = full_cone(true);
    let external_b = out(&mut with, b, S1, 0);
    let verdict = with.outbound(ep(A), external_b, at(0)).unwrap();
    assert_eq!(verdict, Outbound::Hairpin { from: ep("198.51.100.2:5000"), to: ep(b) });
}

#[test]
fn hairpinned_packets_meet_the_filter_too() {
    let mut n = nat(NatConfig { hairpinning: true, ..NatConfig::default() });
    let b = "10.1.0.11:6000";
    let external_b = out(&mut n, b, S1, 0);
    assert_eq!(n.outbound(ep(A), external_b, at(0)), Err(NatDrop::Filtered));
    n.outbound(ep(b), ep("198.51.100.2:5000"), at(0)).unwrap();
    assert!(n.outbound(ep(A), external_b, at(0)).is_ok(), "both have sent");
}

/// The trace of the early-packet trap seen in conntrack: `b` sends first, then `a`; a's port changes.
#[test]
fn early_packet_displaces_the_port_if_the_router_answers_it() {
    let b = "192.0.2.2:7002";
    let early = ep("198.51.100.2:7001");
    let a = "10.1.0.10:7001";
    let mut silent = nat(NatConfig::default());
    assert!(silent.inbound(ep(b), early, at(0)).is_err());
    assert_eq!(out(&mut silent, a, b, 1), early, "INPUT drop leaves no entry");

    let mut answering = nat(NatConfig { answers_unsolicited: true, ..NatConfig::default() });
    assert!(answering.inbound(ep(b), early, at(0)).is_err());
    let displaced = out(&mut answering, a, b, 1);
    assert_ne!(displaced, early);
    assert_eq!(out(&mut answering, a, S1, 1), early, "only the clashing tuple is displaced");
    assert_eq!(
        answering.inbound(ep(b), early, at(2)),
        Err(NatDrop::Filtered),
        "b still aims at the old port"
    );
    assert_eq!(answering.inbound(ep(b), displaced, at(2)), Ok(ep(a)));
    assert_eq!(out(&mut answering, a, b, 2), displaced);
}

#[test]
fn opener_sent_first_avoids_the_trap() {
    let (a, b) = ("10.1.0.10:7001", "192.0.2.2:7002");
    let mut n = nat(NatConfig { answers_unsolicited: true, ..NatConfig::default() });
    let external = out(&mut n, a, b, 0);
    assert_eq!(external.port(), 7001);
    assert_eq!(n.inbound(ep(b), external, at(1)), Ok(ep(a)));
    assert_eq!(out(&mut n, a, b, 2), external);
}

#[test]
fn trap_opens_again_when_the_early_sender_falls_silent() {
    let (a, b) = ("10.1.0.10:7001", "192.0.2.2:7002");
    let early = ep("198.51.100.2:7001");
    let mut n = nat(NatConfig { answers_unsolicited: true, ..NatConfig::default() });
    for s in [0, 20, 40] {
        assert!(n.inbound(ep(b), early, at(s)).is_err());
    }
    assert_ne!(out(&mut n, a, b, 60), early, "each packet refreshed the router's entry");
    assert_eq!(out(&mut n, a, b, 200), early);
}

#[test]
fn one_to_one_keeps_addresses_apart_and_ports_as_they_are() {
    let map = BTreeMap::from([
        ("10.1.0.10".parse().unwrap(), "192.0.2.10".parse().unwrap()),
        ("10.1.0.11".parse().unwrap(), "192.0.2.11".parse().unwrap()),
    ]);
    let open = NatConfig { filtering: Filtering::EndpointIndependent, ..NatConfig::default() };
    let mut n = Nat::new(open, Addresses::OneToOne(map.clone()), seed::rng(1, "nat", 1));
    assert_eq!(out(&mut n, A, S1, 0), ep("192.0.2.10:5000"));
    assert_eq!(n.inbound(ep(S2), ep("192.0.2.11:9"), at(0)), Ok(ep("10.1.0.11:9")));
    assert_eq!(n.entries(), 0, "an open address keeps no state");
    assert_eq!(n.outbound(ep("10.1.0.99:1"), ep(S1), at(0)), Err(NatDrop::NoAddress));

    let mut security_group = Nat::new(NatConfig::default(), Addresses::OneToOne(map), seed::rng(1, "nat", 2));
    assert_eq!(security_group.inbound(ep(S1), ep("192.0.2.10:5000"), at(0)), Err(NatDrop::Filtered));
    out(&mut security_group, A, S1, 0);
    assert_eq!(security_group.inbound(ep(S1), ep("192.0.2.10:5000"), at(1)), Ok(ep(A)));
}

#[test]
fn reboot_forgets_and_shows_only_where_ports_are_not_preserved() {
    let mut preserving = nat(NatConfig::default());
    let before = out(&mut preserving, A, S1, 0);
    preserving.reboot();
    assert!(preserving.inbound(ep(S1), before, at(1)).is_err());
    assert_eq!(out(&mut preserving, A, S1, 1), before, "nothing to detect");

    let random = NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: PortAllocation::Random,
        ..NatConfig::default()
    };
    let mut symmetric = nat(random);
    let before = out(&mut symmetric, A, S1, 0);
    symmetric.reboot();
    assert_ne!(out(&mut symmetric, A, S1, 1), before);

    preserving.readdress(Addresses::Shared("198.51.100.77".parse().unwrap()));
    assert_eq!(out(&mut preserving, A, S1, 2), ep("198.51.100.77:5000"));
}

#[test]
fn tables_stay_within_their_cap_and_recover() {
    let mut n = nat(NatConfig { max_entries: 100, answers_unsolicited: true, ..NatConfig::default() });
    for port in 1..=1_000u16 {
        let _ = n.outbound(SocketAddr::new("10.1.0.10".parse().unwrap(), port), ep(S1), at(0));
        let _ = n.inbound(SocketAddr::new("192.0.2.2".parse().unwrap(), port), ep("198.51.100.2:1"), at(0));
    }
    assert_eq!(n.entries(), 100);
    assert_eq!(n.outbound(ep("10.1.0.10:2000"), ep(S1), at(29)), Err(NatDrop::TableFull));
    assert!(n.outbound(ep("10.1.0.10:2000"), ep(S1), at(30)).is_ok());
}

#[test]
fn blocked_udp_is_blocked_both_ways() {
    let mut n = nat(NatConfig { blocks_udp: true, ..NatConfig::default() });
    assert_eq!(n.outbound(ep(A), ep(S1), at(0)), Err(NatDrop::UdpBlocked));
    assert_eq!(n.inbound(ep(S1), ep("198.51.100.2:5000"), at(0)), Err(NatDrop::UdpBlocked));
}
