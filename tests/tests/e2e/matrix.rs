//! The NAT matrix with the real programs. What must come out is what the simulator's matrix, once reviewed, says:
//! `skynet-sim/tests/snapshots/nat_matrix.txt`. The whole of it takes a quarter of an hour and is for the soak; the pairs
//! that say most are here one by one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use skynet_tests::fleet::{Agent, Binaries, Extra, Fleet, PathKind, Relay, traffic};
use skynet_tests::lab::LabBuilder;
use skynet_tests::{Lab, NatKind, clock};

use crate::JOIN;

const REVIEWED: &str = include_str!("../../../skynet-sim/tests/snapshots/nat_matrix.txt");

/// Direct without a guess within one second; three times that here.
const PLAIN: Duration = Duration::from_secs(3);
/// Three plain rounds, at 0, 5 and 20 s; the decision to guess falls when the third is over.
const DECISION: Duration = Duration::from_secs(26);
/// A guess has 6 s from there; three times that.
const GUESSED: Duration = Duration::from_secs(18);
/// Both are bound at the relay, as any pair that has been up for longer than a moment is.
const SETTLED: Duration = Duration::from_secs(1);
/// Whatever becomes of a pair, it carries data by the relay within a second of the first packet; three times that, and
/// never a gap as long.
const CARRIED: Duration = Duration::from_secs(3);
/// A pair that cannot go direct is watched for two rounds of probes.
const WATCHED: Duration = Duration::from_secs(8);

/// A host's access to the internet, by the name it has in the reviewed matrix.
#[derive(Clone, Copy)]
struct Home {
    name: &'static str,
    own: NatKind,
    carrier: Option<NatKind>,
    families: Families,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    Both,
    V6,
}

const fn behind(name: &'static str, own: NatKind) -> Home {
    Home { name, own, carrier: None, families: Families::V4 }
}

const HOMES: [Home; 16] = [
    behind("public", NatKind::Public),
    behind("sg", NatKind::SecurityGroup),
    behind("fullcone", NatKind::FullCone),
    behind("addr", NatKind::AddressRestricted),
    behind("port", NatKind::PortRestricted),
    behind("port-np", NatKind::PortRestrictedNotPreserving),
    behind("port-in", NatKind::PortRestrictedAnswering),
    Home { carrier: Some(NatKind::PortRestricted), ..behind("port/port", NatKind::PortRestricted) },
    behind("adm", NatKind::AddressDependent),
    behind("sym-seq", NatKind::SymmetricSequential),
    behind("sym", NatKind::Symmetric),
    Home { carrier: Some(NatKind::Symmetric), ..behind("port/sym", NatKind::PortRestricted) },
    Home { families: Families::Both, ..behind("v6+sym", NatKind::Symmetric) },
    Home { families: Families::Both, ..behind("v6+port", NatKind::PortRestricted) },
    Home { families: Families::V6, ..behind("v6", NatKind::PortRestricted) },
    behind("udpblock", NatKind::UdpBlocked),
];

fn home(name: &str) -> Home {
    HOMES.into_iter().find(|h| h.name == name).unwrap()
}

impl Home {
    fn build(self, lab: LabBuilder, cloud: &str) -> LabBuilder {
        let lab = match self.carrier {
            Some(carrier) => {
                let outer = format!("{cloud}outer");
                lab.cloud(&outer, carrier, 1).cloud(cloud, self.own, 1).behind(&outer)
            }
            None => lab.cloud(cloud, self.own, 1),
        };
        match self.families {
            Families::V4 => lab,
            Families::Both => lab.ipv6(),
            Families::V6 => lab.ipv6_only(),
        }
    }
}

/// The reviewed letter of a pair: the columns of a row begin at its own.
fn reviewed(a: &str, b: &str) -> char {
    let mut lines = REVIEWED.lines().skip_while(|line| line.starts_with('#') || line.is_empty());
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let place = |name: &str| columns.iter().position(|c| *c == name).unwrap();
    let (row, column) = (place(a).min(place(b)), place(a).max(place(b)));
    let line = lines.find(|line| line.split_whitespace().next() == Some(columns[row])).unwrap();
    match line.split_whitespace().nth(1 + column - row).unwrap().chars().next().unwrap() {
        // The simulator has no TLS, which is what carries these.
        '-' => 'r',
        letter => letter,
    }
}

fn are_direct(one: &Agent, other: &Agent) -> bool {
    [(one, other), (other, one)].iter().all(|(a, b)| a.path_to(b).is_ok_and(|p| p == PathKind::Direct))
}

/// Runs pings between two hosts, both of which may guess, and says what came of it, in the letters of the matrix.
fn outcome(lab: Lab, hosts: [&str; 2], v6: bool, wanted: char) -> (char, Duration) {
    let binaries = Binaries::find().unwrap();
    let relay = Relay::start_everywhere(&lab, &binaries, v6).unwrap();
    let extra = Extra { arguments: vec!["--birthday".into(), "128".into()], ..Extra::default() };
    let fleet = Fleet::joined_to(&lab, relay, &hosts, &extra, JOIN).unwrap();
    let [one, other] = hosts.map(|host| fleet.agent(host));
    // Joined is not bound yet: a pair whose relay is not up fires at once, and may fall into the trap of an early packet.
    std::thread::sleep(SETTLED);
    let (start, target) = (clock::now(), other.overlay_address().unwrap());
    let pings = traffic::Pinger::start(one.namespace(), target, Duration::from_millis(100)).unwrap();
    let limit = match wanted {
        'D' => PLAIN,
        'G' => DECISION + GUESSED,
        _ => WATCHED,
    };
    let mut direct = None;
    while direct.is_none() && start.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
        direct = are_direct(one, other).then(|| start.elapsed());
    }
    // Long enough that a path which only looks as if it worked would lose something.
    std::thread::sleep(Duration::from_millis(1500));
    let echoes = pings.stop().unwrap();
    let lasts = are_direct(one, other);
    let letter = match direct {
        Some(took) if lasts => {
            if took <= PLAIN {
                'D'
            } else {
                'G'
            }
        }
        Some(_) => '?',
        None if echoes.received == 0 => '-',
        None => 'r',
    };
    if letter != wanted {
        println!("{}{}{echoes:?}", one.log_end(), other.log_end());
    }
    assert!(echoes.longest_gap <= CARRIED, "{echoes:?}");
    println!("longest time without an answer: {:.1?}", echoes.longest_gap);
    drop(fleet);
    lab.remove().unwrap();
    let took = direct.unwrap_or(limit);
    (letter, if letter == 'G' { took.saturating_sub(DECISION) } else { took })
}

fn pair(a: &str, b: &str) -> String {
    let wanted = reviewed(a, b);
    let (one, other) = (home(a), home(b));
    let lab = Lab::builder(&format!("{a} and {b}")).relay();
    let lab = other.build(one.build(lab, "a"), "b").build().unwrap();
    let v6 = one.families != Families::V4 || other.families != Families::V4;
    let (letter, took) = outcome(lab, ["a1", "b1"], v6, wanted);
    let line = format!("{a:>10} {b:<10} {letter} {took:.2?}");
    println!("{line}");
    assert_eq!(letter, wanted, "{line}");
    line
}

#[test]
fn two_nats_that_answer_unsolicited_packets_go_direct() {
    pair("port-in", "port-in");
}

#[test]
fn a_birthday_joins_a_symmetric_nat_and_a_security_group() {
    pair("sym", "sg");
}

#[test]
fn the_next_port_of_a_sequence_is_predicted() {
    pair("port", "sym-seq");
}

#[test]
fn two_symmetric_clouds_with_ipv6_go_direct() {
    pair("v6+sym", "v6+sym");
}

#[test]
fn ipv4_alone_and_ipv6_alone_meet_at_the_relay() {
    pair("port", "v6");
}

#[test]
fn homes_behind_one_carrier_go_direct_if_it_hairpins_and_else_by_the_relay() {
    for (hairpins, wanted) in [(true, 'D'), (false, 'r')] {
        let lab = Lab::builder("carrier").relay().cloud("outer", NatKind::PortRestricted, 1);
        let lab = if hairpins { lab.hairpin() } else { lab };
        let lab = lab.cloud("a", NatKind::PortRestricted, 1).behind("outer");
        let lab = lab.cloud("b", NatKind::PortRestricted, 1).behind("outer").build().unwrap();
        let (letter, took) = outcome(lab, ["a1", "b1"], false, wanted);
        println!("two homes, hairpin {hairpins}: {letter} {took:.2?}");
        assert_eq!(letter, wanted);
    }
}

/// `SKYNET_HOME=udpblock` runs the pairs of that home alone.
#[test]
#[ignore = "for ./x soak: a quarter of an hour"]
fn every_pair_of_homes_comes_out_as_in_the_simulator() {
    let only = std::env::var("SKYNET_HOME").ok().map(|name| home(&name).name);
    let pairs: Vec<(&str, &str)> = HOMES
        .iter()
        .enumerate()
        .flat_map(|(i, a)| HOMES[i..].iter().map(|b| (a.name, b.name)))
        .filter(|(a, b)| only.is_none_or(|only| [*a, *b].contains(&only)))
        .collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Most of the time of a pair is waiting.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((a, b)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if std::panic::catch_unwind(|| pair(a, b)).is_err() {
                        failed.lock().unwrap().push(format!("{a} x {b}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} pairs: {failed:?}", failed.len(), pairs.len());
}
