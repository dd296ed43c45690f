//! Home × home with production nodes and real cryptography: which pairs go direct, how soon, by which means, and that every
//! other pair has the relay. `tests/snapshots/nat_matrix.txt` is what came out when it was last reviewed;
//! `SKYNET_UPDATE_SNAPSHOTS=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::path::Guessing;
use skynet_core::time::Duration;
use skynet_sim::home::{HOMES, Home, direct};
use skynet_sim::link::LinkConfig;
use skynet_sim::nat::NatConfig;
use skynet_sim::oracle::{self, Direct};
use skynet_sim::topology::NatKind;
use skynet_sim::{HostId, Offer, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// A pair that needs no guess is direct within this time of its first packet.
const PLAIN: Duration = S;
/// Half of them within two round trips to the relay (2 × 25 ms each) and a direct one (2 × 40 ms), and the hops in between.
const PLAIN_P50: Duration = Duration::from_millis(2 * 50 + 80 + 2);
/// Three plain rounds, at 0, 5 and 20 s; the decision to guess falls when the third is over.
const DECISION: Duration = Duration::from_secs(26);
/// From the decision.
const GUESSED: Duration = Duration::from_secs(6);
/// A pair that cannot go direct has data by the relay so soon.
const RELAYED: Duration = S;

/// Packets of the flow, ten a second: longer than a guess may take.
const COUNT: u64 = 340;

/// What became of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Plain(Duration),
    Guessed(Duration),
    Relayed,
    Nothing,
}

impl Outcome {
    fn letter(self) -> char {
        match self {
            Self::Plain(_) => 'D',
            Self::Guessed(_) => 'G',
            Self::Relayed => 'r',
            Self::Nothing => '-',
        }
    }
}

fn offer() -> Offer {
    Offer { guessing: Guessing { sockets: 128, bulk_only: false }, ..Offer::default() }
}

/// Runs a flow between two agents that have joined; checks that nothing but what has no way at all is lost.
fn run(o: &mut Overlay, [a, b]: [HostId; 2], what: &str) -> Outcome {
    assert!(o.join_all(20 * S).unwrap(), "{what} {}", o.report());
    // Long enough that both have listed each other with all their endpoints.
    o.world_mut().run_for(30 * S).unwrap();
    let start = o.world().now();
    o.flow(a, b, 100 * MS, COUNT).unwrap();
    o.world_mut().run_for(RELAYED).unwrap();
    let soon = o.received(a, b).is_some();
    let mut took = o.is_direct(a, b).then(|| since_direct(o, [a, b], start));
    while took.is_none() && o.world().now() < start + DECISION + GUESSED {
        o.world_mut().run_for(20 * MS).unwrap();
        took = o.is_direct(a, b).then(|| since_direct(o, [a, b], start));
    }
    let rest = MS * 100 * (COUNT as u32 + 10);
    let rest = (start + rest).saturating_since(o.world().now());
    o.world_mut().run_for(rest).unwrap();
    let arrived = o.received(a, b).map_or(0, |book| book.distinct() as u64);
    if arrived == 0 {
        assert!(!o.claims_direct(a, b), "{what} {}", o.report());
        return Outcome::Nothing;
    }
    assert!(soon, "{what}: nothing within {RELAYED:?}\n{}", o.report());
    assert_eq!(arrived, COUNT, "{what} {}", o.report());
    match took {
        Some(took) if took <= PLAIN => Outcome::Plain(took),
        Some(took) => Outcome::Guessed(took.saturating_sub(DECISION)),
        None => {
            assert!(!o.claims_direct(a, b), "{what} {}", o.report());
            Outcome::Relayed
        }
    }
}

/// From `start` until the later of the two ends took the direct path it has now.
fn since_direct(o: &Overlay, [a, b]: [HostId; 2], start: skynet_core::time::Instant) -> Duration {
    let when = |from: HostId, to: HostId| {
        let address = std::net::IpAddr::V4(o.address(to));
        let status = o.agent(from).status().unwrap();
        let peer = status.peers.iter().find(|p| p.addresses.contains(&address)).unwrap();
        let changed = peer.history.last().unwrap().when;
        o.world().world_time(from, changed)
    };
    when(a, b).max(when(b, a)).saturating_since(start)
}

fn homes(a: &Home, b: &Home) -> Outcome {
    let mut o = Overlay::new(11);
    let pair = [a, b].map(|home| o.add_agent_at(home, offer()));
    run(&mut o, pair, &format!("{} x {}", a.name, b.name))
}

fn check(outcome: Outcome, expected: Direct, has_udp: bool, what: &str) {
    let fine = match (expected, outcome) {
        (Direct::Must | Direct::Timing, Outcome::Plain(_)) => true,
        (Direct::Guess, Outcome::Guessed(took)) => took <= GUESSED,
        (Direct::MustNot, Outcome::Relayed) => has_udp,
        (Direct::MustNot, Outcome::Nothing) => !has_udp,
        _ => false,
    };
    assert!(fine, "{what}: {outcome:?}, expected {expected:?}");
}

const LEGEND: &str = "\
# D  direct within 1 s of the first packet
# G  direct by prediction or birthday (128 sockets), within 6 s of the decision to guess
# r  by the relay, within 1 s of the first packet
# -  nothing here: without UDP the relay is reached by TLS, which the simulator does not have
";

fn table(rows: &[Home]) -> (String, Vec<Duration>) {
    let mut text = format!("{LEGEND}\n{:>10}", "");
    rows.iter().for_each(|h| text += &format!(" {:>9}", h.name));
    let mut plain = Vec::new();
    for (i, a) in rows.iter().enumerate() {
        text += &format!("\n{:>10}", a.name);
        text += &" ".repeat(10 * i);
        for b in &rows[i..] {
            let outcome = homes(a, b);
            let what = format!("{} x {}", a.name, b.name);
            check(outcome, direct(a, b), ![a, b].iter().any(|h| h.name == "udpblock"), &what);
            println!("{what}: {outcome:?}");
            if let Outcome::Plain(took) = outcome {
                plain.push(took);
            }
            text += &format!(" {:>9}", outcome.letter());
        }
    }
    plain.sort();
    (text + "\n", plain)
}

/// Two hosts of one network, and two networks behind one carrier's NAT.
fn neighbours() -> String {
    let mut text = "\nTwo hosts behind one NAT, on one network:\n".to_owned();
    for kind in
        [NatKind::PortRestricted, NatKind::SymmetricSequential, NatKind::Symmetric, NatKind::UdpBlocked]
    {
        let mut o = Overlay::new(12);
        let cloud = o.cloud(kind);
        let pair = [0, 1].map(|_| o.add_agent_with(cloud, offer()));
        let outcome = run(&mut o, pair, kind.name());
        // The relay is not needed: their records name addresses of one network.
        check(outcome, Direct::Must, true, kind.name());
        text += &format!("{:>10} {:>9}\n", kind.name(), outcome.letter());
    }
    text += "\nTwo networks, each behind a NAT of its own, behind one carrier's:\n";
    for (kind, carrier) in [
        (NatKind::PortRestricted, NatKind::PortRestricted),
        (NatKind::FullCone, NatKind::FullCone),
        (NatKind::PortRestricted, NatKind::Symmetric),
    ] {
        for hairpinning in [false, true] {
            let nat = NatConfig { hairpinning, ..carrier.config() };
            let mut o = Overlay::new(13);
            let link = LinkConfig::latency(20 * MS);
            let outer = o.topology.add_cloud_with(carrier, nat.clone(), link.clone(), link);
            let pair = [0, 1].map(|_| {
                let cloud = o.topology.add_cloud_in(outer, kind, MS);
                o.add_agent_with(cloud, offer())
            });
            let name = format!(
                "{} in {}, hairpin {}",
                kind.name(),
                carrier.name(),
                if hairpinning { "on" } else { "off" }
            );
            let outcome = run(&mut o, pair, &name);
            let each = oracle::Behaviour::from(&kind.config()).behind((&nat).into());
            check(outcome, oracle::direct_behind_one(&nat, each, each), true, &name);
            text += &format!("{name:>34} {}\n", outcome.letter());
        }
    }
    text
}

#[test]
fn every_pair_of_homes_goes_direct_or_stays_relayed_as_the_oracle_demands_and_as_reviewed() {
    let (mut text, plain) = table(&HOMES);
    let p50 = plain[plain.len() / 2];
    println!("{} plain pairs: p50 {p50:?}, worst {:?}", plain.len(), plain.last().unwrap());
    assert!(p50 <= PLAIN_P50, "{p50:?}");
    text += &neighbours();
    println!("{text}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/nat_matrix.txt");
    if std::env::var_os("SKYNET_UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots")).unwrap();
        std::fs::write(path, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert!(text == reviewed, "not as reviewed; SKYNET_UPDATE_SNAPSHOTS=1 writes it anew\n{reviewed}");
}
