//! Every cause has evidence that leads to it, and what makes other evidence worthless goes first.

use std::collections::BTreeSet;

use super::*;
use crate::path::{CandidateKind, Reason, Step};
use crate::time::Duration;

fn addr(text: &str) -> core::net::SocketAddr {
    text.parse().unwrap()
}

fn pair(step: Step) -> PairView {
    PairView {
        kind: CandidateKind::ServerReflexive,
        addr: addr("198.51.100.34:41820"),
        step,
        sent: 10,
        answered: 0,
    }
}

fn end(observed: &str, mapping: Mapping, filtering: Filtering, step: Step) -> End {
    End {
        host: HostView {
            udp: Udp::Works,
            mapping,
            filtering,
            translated: Some(true),
            mtu: Some(1500),
            ..HostView::default()
        },
        relay_up: true,
        observed: Some(addr(observed)),
        clock_ahead_s: Some(0),
        pairs: vec![pair(step)],
        changes: Vec::new(),
    }
}

/// Two members behind port-restricted NATs, relayed, settled, with data passing: nothing got through directly.
fn relayed() -> Evidence {
    let (eim, apdf) = (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
    Evidence {
        me: "a1".into(),
        peer: "b1".into(),
        joined: true,
        relay: Some(addr("203.0.113.10:3478")),
        port: 41_820,
        online: Some(true),
        peer_relay: true,
        candidates: vec![addr("10.2.0.10:41820"), addr("198.51.100.34:41820")],
        own: vec![addr("10.1.0.10:41820"), addr("198.51.100.2:41820")],
        path: Some(Way::Relay(1)),
        established: true,
        settled: true,
        tried: true,
        here: end("198.51.100.2:41820", eim, apdf, Step::Unanswered),
        there: Some(end("198.51.100.34:41820", eim, apdf, Step::Unanswered)),
        peer_answers: Some(true),
        echo: Some(Echo { sent: 4, received: 4 }),
        ..Evidence::default()
    }
}

fn with(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut evidence = relayed();
    change(&mut evidence);
    evidence
}

/// As [`with`], and nothing comes through the overlay.
fn dead(change: impl FnOnce(&mut Evidence)) -> Evidence {
    with(|e| {
        e.echo = Some(Echo { sent: 4, received: 0 });
        change(e);
    })
}

fn other(e: &mut Evidence) -> &mut End {
    e.there.as_mut().unwrap()
}

/// The faults, what is to be found, and words that the verdict and the cure must have.
fn table() -> Vec<(&'static str, Evidence, Cause, [&'static str; 2])> {
    let direct = Some(Way::Direct(addr("198.51.100.34:41820")));
    let hard = Mapping::AddressAndPortDependent;
    let silent = |e: &mut Evidence| (e.established, e.path, e.there) = (false, None, None);
    vec![
        ("direct", with(|e| e.path = direct), Cause::Direct, ["directly", "Nothing"]),
        ("idle", with(|e| (e.tried, e.echo) = (false, None)), Cause::Idle, ["lately", "ping b1"]),
        ("a round runs", with(|e| e.settled = false), Cause::Trying, ["still trying", "again"]),
        ("never joined", dead(|e| e.joined = false), Cause::NotJoined, ["no network", "up --token"]),
        (
            "let in by nobody",
            dead(|e| (e.joined, e.control) = (false, Control::Denied)),
            Cause::Denied,
            ["not let", "message"],
        ),
        (
            "own clock",
            dead(|e| (e.here.clock_ahead_s, e.control) = (Some(3_600), Control::Denied)),
            Cause::ClockWrong,
            ["a1's clock is 3600 s ahead", "Set the clock of a1"],
        ),
        (
            "own clock, by the relay's word",
            dead(|e| (e.joined, e.control) = (false, Control::ClockDenied)),
            Cause::ClockWrong,
            ["from the future", "Set the clock of a1"],
        ),
        (
            "its clock",
            dead(|e| other(e).clock_ahead_s = Some(-400)),
            Cause::ClockWrong,
            ["b1's clock is 400 s behind", "of b1"],
        ),
        (
            "peer is off",
            dead(|e| (e.online, e.there) = (Some(false), None)),
            Cause::PeerOffline,
            ["no connection to the relay", "Start b1"],
        ),
        (
            "relay is down",
            dead(|e| e.control = Control::Refused),
            Cause::RelayRefused,
            ["203.0.113.10:3478 does not listen", "Start the relay"],
        ),
        (
            "relay's address is wrong",
            dead(|e| e.control = Control::Silent),
            Cause::RelayUnreachable,
            ["Nothing answers at the relay 203.0.113.10:3478", "address"],
        ),
        (
            "relay lost, nobody looked",
            dead(|e| e.control = Control::Down),
            Cause::RelayUnreachable,
            ["Nothing answers", "relay"],
        ),
        (
            "output chain drops",
            dead(|e| e.here.host.udp = Udp::Refused),
            Cause::LocalFirewall,
            ["this machine refuses", "outgoing UDP"],
        ),
        (
            "no UDP here",
            dead(|e| (e.here.relay_up, e.here.host.udp) = (false, Udp::Blocked)),
            Cause::UdpBlockedHere,
            ["between a1 and", "of a1"],
        ),
        (
            "no UDP there",
            dead(|e| {
                silent(e);
                e.peer_relay = false;
            }),
            Cause::UdpBlockedThere,
            ["between b1 and", "of b1"],
        ),
        (
            "wrong static endpoint",
            dead(|e| {
                silent(e);
                e.kind = PeerKind::Stock;
            }),
            Cause::EndpointSilent,
            ["Nobody answers at 10.2.0.10:41820", "`endpoint`"],
        ),
        (
            "no static endpoint",
            dead(|e| {
                silent(e);
                e.kind = PeerKind::StockSilent;
            }),
            Cause::EndpointUnknown,
            ["no endpoint", "`endpoint`"],
        ),
        (
            "handshakes fail",
            dead(|e| {
                silent(e);
                e.handshakes_unanswered = true;
            }),
            Cause::NoHandshake,
            ["no handshake", "netcheck on b1"],
        ),
        (
            "peer's firewall eats ICMP",
            dead(|e| e.path = direct),
            Cause::DataBlocked,
            ["nothing sent through it", "b1's own firewall"],
        ),
        (
            "a scrubber",
            with(|e| e.here.pairs = vec![pair(Step::DataLost)]),
            Cause::DataDropped,
            ["data is eaten", "scrubber"],
        ),
        (
            "a hole of 1,300",
            with(|e| {
                e.path = direct;
                e.here.host.mtu = Some(1_300);
            }),
            Cause::MtuHole,
            ["a1's uplink lets packets of 1300", "MTU of a1"],
        ),
        (
            "its hole",
            with(|e| {
                e.path = direct;
                other(e).host.mtu = Some(1_300);
            }),
            Cause::MtuHole,
            ["b1's uplink", "MTU of b1"],
        ),
        (
            "ours do not arrive",
            with(|e| e.here.pairs = vec![pair(Step::Heard)]),
            Cause::OneWay,
            ["Packets from a1 do not reach b1", "from 198.51.100.2 into b1's"],
        ),
        (
            "theirs do not arrive",
            with(|e| other(e).pairs = vec![pair(Step::Heard)]),
            Cause::OneWay,
            ["Packets from b1 do not reach a1", "from 198.51.100.34 into a1's"],
        ),
        (
            "one NAT",
            with(|e| other(e).observed = Some(addr("198.51.100.2:50000"))),
            Cause::HairpinMissing,
            ["behind one NAT (198.51.100.2)", "each other inside"],
        ),
        (
            "symmetric twice",
            with(|e| {
                e.here.host.mapping = hard;
                other(e).host.mapping = Mapping::AddressDependent;
            }),
            Cause::BothSymmetric,
            ["both behind NATs", "Open UDP 41820"],
        ),
        (
            "symmetric here",
            with(|e| e.here.host.mapping = hard),
            Cause::SymmetricAndFiltered,
            ["a1's NAT uses", "on b1"],
        ),
        (
            "symmetric there",
            with(|e| other(e).host.mapping = hard),
            Cause::SymmetricAndFiltered,
            ["b1's NAT uses", "on a1"],
        ),
        (
            "four and six",
            with(|e| (e.own, e.candidates) = (vec![addr("10.1.0.10:1")], vec![addr("[2001:db8::1]:1")])),
            Cause::NoCommonFamily,
            ["only IPv4", "other family"],
        ),
        (
            "no address",
            with(|e| e.candidates.clear()),
            Cause::NoCandidates,
            ["no address that can be tried", "containers"],
        ),
        (
            "a firewall between",
            relayed(),
            Cause::BlockedBetween,
            ["nothing passes between", "198.51.100.2 and 198.51.100.34"],
        ),
        (
            "comes and goes",
            with(|e| {
                let change = |reason| Change { age: Duration::from_secs(9), to: None, reason };
                e.here.changes =
                    vec![change(Reason::ProbesLost), change(Reason::Silent), change(Reason::ProbesLost)];
            }),
            Cause::Unstable,
            ["again and again", "--timeout"],
        ),
        (
            "UDP blocked here, the relay reached by TLS",
            with(|e| (e.here.host.udp, e.here.observed) = (Udp::Blocked, None)),
            Cause::UdpByTls,
            ["a1 reaches it by TLS", "security group of a1"],
        ),
        (
            "UDP blocked there, the relay reached by TLS",
            with(|e| {
                let there = e.there.as_mut().unwrap();
                (there.host.udp, there.observed) = (Udp::Blocked, None);
            }),
            Cause::UdpByTls,
            ["b1 reaches it by TLS", "security group of b1"],
        ),
        (
            "an old peer",
            with(|e| (e.there, e.peer_answers) = (None, Some(false))),
            Cause::MappingUnknown,
            ["not known how", "Upgrade"],
        ),
    ]
}

#[test]
fn every_fault_is_called_by_its_name_with_the_cure_that_fits() {
    for (fault, evidence, cause, [verdict_says, cure_says]) in table() {
        let found = diagnose(&evidence);
        assert_eq!(found.cause, cause, "{fault}: {found:?}");
        assert!(found.verdict.contains(verdict_says), "{fault}: {}", found.verdict);
        assert!(found.cure.contains(cure_says), "{fault}: {}", found.cure);
        assert!(found.verdict.ends_with('.') && found.cure.ends_with('.'), "{found:?}");
    }
}

#[test]
fn every_cause_of_a_pair_is_reached_by_some_evidence() {
    let reached: BTreeSet<Cause> = table().iter().map(|(_, e, ..)| diagnose(e).cause).collect();
    // Found by the shell, which knows the names, or by `examine`.
    let elsewhere = [
        Cause::NetworkFine,
        Cause::UnknownPeer,
        Cause::PortTaken,
        Cause::SymmetricNat,
        Cause::AwsNatGateway,
        Cause::AzureNatGateway,
        Cause::GoogleCloudNat,
        Cause::PortBudget,
        Cause::ShortTimeout,
        Cause::ProxyOnly,
    ];
    let missing: Vec<_> =
        Cause::ALL.iter().filter(|c| !reached.contains(c) && !elsewhere.contains(c)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn names_are_unique_and_a_working_pair_is_never_called_down() {
    let ids: BTreeSet<&str> = Cause::ALL.iter().map(|c| c.id()).collect();
    assert_eq!(ids.len(), Cause::ALL.len());
    for (fault, mut evidence, ..) in table() {
        evidence.echo = Some(Echo { sent: 4, received: 4 });
        let found = diagnose(&evidence);
        // Without membership nothing can come through.
        if evidence.joined {
            assert_ne!(found.cause.degree(), Degree::Down, "{fault}: {found:?}");
        }
    }
}

#[test]
fn a_silent_relay_does_not_spoil_a_direct_pair() {
    let found = diagnose(&with(|e| {
        e.path = Some(Way::Direct(addr("198.51.100.34:41820")));
        e.control = Control::Refused;
    }));
    assert_eq!(found.cause, Cause::Direct);
    assert_eq!(found.notes, ["the relay's control channel is down"]);
}

#[test]
fn ends_that_find_the_size_of_their_path_do_not_suffer_from_a_small_one() {
    let found = diagnose(&with(|e| {
        e.path = Some(Way::Direct(addr("198.51.100.34:41820")));
        e.here.host.mtu = Some(1_300);
        e.path_mtu = Some(1_300);
    }));
    assert_eq!(found.cause, Cause::Direct);
    assert!(found.notes[0].contains("1300 bytes pass"), "{:?}", found.notes);
}

#[test]
fn what_is_beside_the_point_is_a_note() {
    let found = diagnose(&with(|e| {
        e.there = None;
        e.peer_answers = Some(false);
        e.here.pairs.push(PairView { addr: addr("172.17.0.1:41820"), ..pair(Step::Own) });
        e.here.clock_ahead_s = Some(600);
    }));
    let all = found.notes.join("; ");
    for part in ["too old", "172.17.0.1", "off by 600 s"] {
        assert!(all.contains(part), "{part}: {all}");
    }
}
