//! From answers of STUN servers to the words of RFC 4787, and to causes.

use super::*;
use crate::carrier::Way as StreamWay;
use crate::time::Duration;
use core::net::SocketAddr;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One socket asks these servers in turn and is seen so.
fn seen(answers: &[(&str, &str)]) -> NetworkEvidence {
    let one = |(to, mapped): &(&str, &str)| Observation {
        socket: 0,
        local_port: 5_000,
        to: addr(to),
        mapped: (!mapped.is_empty()).then(|| addr(mapped)),
    };
    NetworkEvidence {
        observations: answers.iter().map(one).collect(),
        relays: vec![RelayProbe {
            address: addr("203.0.113.10:3478"),
            tcp: TcpProbe::Open(Duration::from_millis(20)),
            udp: Some(Duration::from_millis(20)),
        }],
        local: vec!["10.1.0.10".parse().unwrap()],
        port: 41_820,
        ..NetworkEvidence::default()
    }
}

const A: &str = "203.0.113.10:3478";
const B: &str = "203.0.113.10:3479";
const C: &str = "203.0.113.11:3478";

#[test]
fn mappings_are_named_as_rfc_5780_does() {
    let same = "198.51.100.2:5000";
    for (answers, mapping, delta) in [
        (vec![(A, same), (B, same)], Mapping::EndpointIndependent, 0),
        (vec![(A, same), (B, same), (C, same)], Mapping::EndpointIndependent, 0),
        (vec![(A, same), (B, same), (C, "198.51.100.2:7777")], Mapping::AddressDependent, 0),
        (
            vec![(A, "198.51.100.2:4001"), (B, "198.51.100.2:4002"), (C, "198.51.100.2:4003")],
            Mapping::AddressAndPortDependent,
            1,
        ),
        (vec![(A, "198.51.100.2:4001"), (B, "198.51.100.2:9002")], Mapping::AddressAndPortDependent, 0),
        (vec![(A, same), (B, "")], Mapping::Unknown, 0),
        (vec![(A, "10.1.0.10:5000"), (B, "")], Mapping::EndpointIndependent, 0),
        (vec![(A, ""), (B, "")], Mapping::Unknown, 0),
    ] {
        let view = host_view(&seen(&answers));
        assert_eq!((view.mapping, view.port_delta), (mapping, delta), "{answers:?}");
    }
}

#[test]
fn translation_port_and_filtering_are_told() {
    let mut evidence = seen(&[(A, "198.51.100.2:5000"), (B, "198.51.100.2:5000")]);
    evidence.stranger_heard = Some(false);
    let view = host_view(&evidence);
    assert_eq!((view.translated, view.preserves_port), (Some(true), Some(true)));
    assert_eq!((view.udp, view.filtering), (Udp::Works, Filtering::AddressAndPortDependent));
    evidence.stranger_heard = Some(true);
    assert_eq!(host_view(&evidence).filtering, Filtering::AddressDependent);
    let open = host_view(&seen(&[(A, "10.1.0.10:5000")]));
    assert_eq!((open.translated, open.preserves_port), (Some(false), Some(true)));
}

fn dark() -> NetworkEvidence {
    let mut evidence = seen(&[(A, ""), (B, "")]);
    evidence.relays[0].udp = None;
    evidence
}

fn hard(cloud: Cloud) -> NetworkEvidence {
    NetworkEvidence { cloud, ..seen(&[(A, "198.51.100.2:4001"), (B, "198.51.100.2:9002")]) }
}

fn budget() -> NetworkEvidence {
    let mut evidence = seen(&[]);
    evidence.observations = (0..8u16)
        .map(|i| Observation {
            socket: i,
            local_port: 40_000 + i,
            to: addr(A),
            mapped: Some(SocketAddr::new("198.51.100.2".parse().unwrap(), 20_032 + 7 * i)),
        })
        .collect();
    evidence
}

fn stream(way: StreamWay) -> StreamProbe {
    StreamProbe { way, outcome: Ok(Duration::from_millis(40)) }
}

#[test]
fn networks_are_called_by_their_names() {
    let with = |mut e: NetworkEvidence, f: fn(&mut NetworkEvidence)| {
        f(&mut e);
        e
    };
    let good = || seen(&[(A, "198.51.100.2:5000"), (B, "198.51.100.2:5000")]);
    for (evidence, cause) in [
        (good(), Cause::NetworkFine),
        (hard(Cloud::Unknown), Cause::SymmetricNat),
        (hard(Cloud::Aws), Cause::AwsNatGateway),
        (hard(Cloud::Azure), Cause::AzureNatGateway),
        (hard(Cloud::Google), Cause::GoogleCloudNat),
        (budget(), Cause::PortBudget),
        (dark(), Cause::UdpBlockedHere),
        (with(dark(), |e| e.refused = true), Cause::LocalFirewall),
        (with(dark(), |e| e.relays[0].tcp = TcpProbe::Refused), Cause::RelayRefused),
        (with(dark(), |e| e.relays[0].tcp = TcpProbe::Silent), Cause::RelayUnreachable),
        (with(dark(), |e| (e.relays[0].tcp, e.has_proxy) = (TcpProbe::Silent, true)), Cause::ProxyOnly),
        (with(dark(), |e| e.streams = vec![stream(StreamWay::Tls)]), Cause::UdpByTls),
        (
            with(dark(), |e| {
                (e.relays[0].tcp, e.has_proxy) = (TcpProbe::Silent, true);
                e.streams = vec![stream(StreamWay::Proxy)];
            }),
            Cause::UdpByTls,
        ),
        (with(good(), |e| e.mtu = Some(1_280)), Cause::MtuHole),
        (with(good(), |e| e.port_taken = Some("ncat (process 7)".into())), Cause::PortTaken),
        (with(good(), |e| e.timeout_s = Some((20, Some(30)))), Cause::ShortTimeout),
        (with(good(), |e| e.timeout_s = Some((60, None))), Cause::NetworkFine),
        (with(good(), |e| e.clock_ahead_s = Some(-3_600)), Cause::ClockWrong),
    ] {
        let found = examine(&evidence);
        assert_eq!(found[0].cause, cause, "{found:?}");
        assert!(found[0].verdict.ends_with('.') && !found[0].cure.is_empty());
    }
}

#[test]
fn ports_far_apart_or_kept_are_no_block() {
    assert!(host_view(&budget()).port_block);
    let mut wide = budget();
    wide.observations[7].mapped = Some(addr("198.51.100.2:20200"));
    assert!(!host_view(&wide).port_block);
    let mut few = budget();
    few.observations.truncate(4);
    assert!(!host_view(&few).port_block);
}

#[test]
fn nothing_measured_is_nothing_known() {
    let view = host_view(&NetworkEvidence::default());
    assert_eq!(view, HostView::default());
    assert_eq!(examine(&NetworkEvidence::default())[0].cause, Cause::NetworkFine);
}
