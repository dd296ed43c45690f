//! What a reader sees, in the first two lines and below.

use super::*;
use crate::api::{ChangeReport, HostReport, TriedReport};

fn end(observed: &str) -> EndReport {
    EndReport {
        network: HostReport {
            udp: "works".to_owned(),
            mapping: "address-and-port-dependent".to_owned(),
            filtering: "address-and-port-dependent".to_owned(),
            translated: Some(true),
            port_preserved: Some(false),
            hairpin: Some(false),
            mtu: Some(1_500),
            ..HostReport::default()
        },
        relay_bound: true,
        observed: Some(observed.to_owned()),
        clock_ahead_s: Some(-2),
        candidates: vec![TriedReport {
            kind: "server-reflexive".to_owned(),
            address: "198.51.100.34:2001".to_owned(),
            step: "sent, no answer".to_owned(),
            sent: 10,
            answered: 0,
        }],
        history: vec![ChangeReport {
            age_s: 12,
            to: "relay 1".to_owned(),
            reason: "the relay session is up".to_owned(),
        }],
    }
}

fn report() -> WhyReport {
    WhyReport {
        schema: "why/1".to_owned(),
        node: "a1".to_owned(),
        peer: "b1".to_owned(),
        address: Some("10.80.1.1".to_owned()),
        path: "relay".to_owned(),
        via: Some("relay 1".to_owned()),
        cause: "both-symmetric".to_owned(),
        degree: "degraded".to_owned(),
        verdict: "a1 and b1 are both behind NATs; the relay carries their data.".to_owned(),
        cure: "Open UDP 41820.".to_owned(),
        notes: vec!["b1 did not say what it sees".to_owned()],
        settled: true,
        echo_sent: 4,
        echo_received: 3,
        here: end("198.51.100.2:1001"),
        there: None,
    }
}

#[test]
fn the_first_two_lines_say_what_is_and_what_would_cure_it() {
    let expected = "\
a1 to b1: relay 1. a1 and b1 are both behind NATs; the relay carries their data.
Cure: Open UDP 41820.
Note: b1 did not say what it sees.

            a1                          b1
 UDP        works                       did not say
 relay      bound                       did not say
 seen as    198.51.100.2:1001           did not say
 NAT        yes, changes ports, no hairpin   did not say
 mapping    address-and-port-dependent  did not say
 filtering  address-and-port-dependent  did not say
 MTU        1500                        did not say
 clock      2 s behind                  did not say
";
    let lines: Vec<String> = render(&report()).lines().map(words).collect();
    for line in expected.lines().map(words) {
        assert!(lines.contains(&line), "{line:?} in {lines:#?}");
    }
    assert!(lines[0].starts_with("a1 to b1: relay 1.") && lines[1].starts_with("Cure: "));
    assert!(
        lines
            .iter()
            .any(|l| l.contains("198.51.100.34:2001 server-reflexive sent, no answer 10 sent, 0 answered"))
    );
    assert!(lines.iter().any(|l| l.contains("12s ago relay 1 the relay session is up")));
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn exit_codes_are_as_documented() {
    let with = |degree: &str, cause: &str| {
        exit(&WhyReport { degree: degree.to_owned(), cause: cause.to_owned(), ..report() })
    };
    assert_eq!(with("fine", "direct"), Exit::Ok);
    assert_eq!(with("degraded", "both-symmetric"), Exit::Degraded);
    assert_eq!(with("undecided", "trying"), Exit::Timeout);
    assert_eq!(with("down", "not-joined"), Exit::NotJoined);
    assert_eq!(with("down", "peer-offline"), Exit::Failed);
}
