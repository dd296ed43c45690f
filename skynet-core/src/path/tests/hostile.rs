//! What an attacker on the way, beside the way, or inside the network can make an agent do.

use proptest::prelude::*;

use super::net::*;
use crate::path::*;
use crate::time::Instant;
use crate::wire::probe::{self, Body, Call, CallCandidate, Nonce, Ping, ProbeError, ProbeKey};

fn is_attackers(path: Option<Path>) -> bool {
    matches!(path, Some(Path::Direct { remote }) if remote.ip() == std::net::IpAddr::V4(ATTACKER))
}

#[test]
fn a_racing_attacker_never_becomes_the_path() {
    for attacker in [Attacker::Race, Attacker::RaceAndForward] {
        for from_start in [true, false] {
            let mut net = Net::new([Nat::Open, Nat::Open], 1).with_relay();
            net.attacker = if from_start { attacker } else { Attacker::None };
            net.send_every(0, ms(10));
            net.send_every(1, ms(10));
            net.run(at(10_000));
            net.attacker = attacker;
            net.run(at(300_000));
            for s in &net.sides {
                assert!(s.selections.iter().all(|(_, path, _)| !is_attackers(*path)));
                assert!(s.longest_gap <= ms(3600), "data goes on: {:?}", s.longest_gap);
            }
        }
    }
}

/// Everything but the counters, which are allowed to count.
fn state(agent: &PathAgent) -> String {
    let text = format!("{agent:?}");
    let (head, tail) = text.split_once("counters: Counters {").expect("the counters are printed");
    format!("{head}{}", tail.split_once('}').expect("they end").1)
}

#[test]
fn no_replayed_or_forged_packet_changes_anything() {
    let mut net = Net::new([Nat::Open, Nat::Open], 2).with_relay();
    net.send_every(0, ms(10));
    net.run(at(30_000));
    let captured = net.captured.clone();
    assert!(captured.len() > 20);
    for (side, bytes) in captured {
        let agent = &mut net.sides[side].agent;
        let before = state(agent);
        assert!(matches!(agent.open(&mut bytes.clone()), Err(ProbeError::Replayed)));
        for bit in (0..bytes.len() * 8).step_by(13) {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(agent.open(&mut forged).is_err());
        }
        assert_eq!(before, state(agent));
        assert_eq!(agent.poll_transmit(), None);
    }
}

/// A pair that has done everything once: called, punched, gone direct, been cut, and come back; its probes of every kind
/// and way.
fn eventful() -> Net {
    let mut net = Net::new([Nat::Port, Nat::Port], 3).with_relay();
    net.send_every(0, ms(50));
    net.send_every(1, ms(50));
    net.run(at(8_000));
    net.ways.iter_mut().for_each(|w| w.cut = true);
    net.run(at(20_000));
    net.ways.iter_mut().for_each(|w| w.cut = false);
    net.run(at(30_000));
    assert!(net.is_direct(0) && net.is_direct(1));
    let kinds: std::collections::BTreeSet<u8> = net.captured.iter().map(|(_, bytes)| bytes[1]).collect();
    assert_eq!(kinds.len(), 3, "PING, PONG and CALL");
    net
}

/// What is done to a captured probe.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    Reflect,
    Flip(usize),
    Cut(usize),
    Extend(Vec<u8>),
    /// The tail of another one.
    Splice(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Nothing),
        Just(Change::Reflect),
        any::<usize>().prop_map(Change::Flip),
        any::<usize>().prop_map(Change::Cut),
        proptest::collection::vec(any::<u8>(), 1..40).prop_map(Change::Extend),
        any::<(usize, usize)>().prop_map(|(other, at)| Change::Splice(other, at)),
    ]
}

/// The changed probe and whom it is given to.
fn changed(net: &Net, index: usize, change: &Change) -> (usize, Vec<u8>) {
    let (mut side, mut bytes) = net.captured[index % net.captured.len()].clone();
    match change {
        Change::Nothing => {}
        Change::Reflect => side = 1 - side,
        Change::Flip(bit) => {
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Change::Cut(at) => bytes.truncate(at % bytes.len()),
        Change::Extend(more) => bytes.extend(more),
        Change::Splice(other, at) => {
            let other = &net.captured[other % net.captured.len()].1;
            let at = at % bytes.len().min(other.len());
            bytes.truncate(at);
            bytes.extend(&other[at..]);
        }
    }
    (side, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8) })]

    #[test]
    fn whatever_is_done_to_captured_probes_no_path_changes(
        changes in proptest::collection::vec((any::<usize>(), change()), 200..400)
    ) {
        let mut net = eventful();
        let before = net.sides.each_ref().map(|s| state(&s.agent));
        for (index, change) in &changes {
            let (side, mut bytes) = changed(&net, *index, change);
            let agent = &mut net.sides[side].agent;
            prop_assert!(agent.open(&mut bytes).is_err(), "{change:?} of {index} was accepted");
            prop_assert_eq!(agent.poll_transmit(), None);
        }
        let after = net.sides.each_ref().map(|s| state(&s.agent));
        prop_assert_eq!(before, after);
    }
}

#[test]
fn a_ping_repeated_to_another_of_our_addresses_moves_no_path_that_answers() {
    let (mut agent, mut member) = agent_and_member();
    let now = wall(at(1));
    let addresses =
        [[192, 0, 2, 9], [192, 0, 2, 10]].map(|ip| Candidate::new(CandidateKind::Host, (ip, 7).into()));
    agent.set_local_candidates(&addresses, now);
    let remote = ([198, 51, 100, 7], 7001).into();
    let (first, second) = (addresses[0].addr.ip(), addresses[1].addr.ip());
    let body = Body::Ping(Ping { txid: 1, t_us: 0, path_id: 0, wire_size: 0, tx_data: 0, rx_data: 0 });
    let mut arrives = |agent: &mut PathAgent, local, body: &Body| {
        let probe = agent.open(&mut member.probe(body)).unwrap().at(Some(local));
        agent.handle_probe(ProbeFrom::Direct(remote), probe, now);
        core::iter::from_fn(|| agent.poll_transmit()).map(|t| t.to).collect::<Vec<_>>()
    };
    // Whatever address was asked answers, and is asked back from while nothing has answered.
    for local in [first, second] {
        let sent = arrives(&mut agent, local, &body);
        let from = |to: &ProbeTo| matches!(to, ProbeTo::Direct { local: l, .. } if *l == Some(local));
        assert!(!sent.is_empty() && sent.iter().all(from), "{sent:?}");
    }
    assert_eq!(agent.local_towards(remote), Some(second));
    agent.set_peer_endpoints(&[Candidate::new(CandidateKind::Host, remote)], &[], now);
    let txid = agent.last_txid_to(remote).unwrap();
    let pong = probe::Pong {
        txid,
        t_us: 0,
        path_id: 0,
        received_size: 100,
        tx_data: 0,
        rx_data: 0,
        seen: addresses[1].addr,
    };
    arrives(&mut agent, second, &Body::Pong(pong));
    arrives(&mut agent, first, &body);
    assert_eq!(agent.local_towards(remote), Some(second), "it answers there");
}

/// Probes of a peer who is a member but means ill: sealed with the true key.
pub(super) struct Member {
    key: ProbeKey,
    tag: probe::Tag,
    counter: u32,
}

impl Member {
    pub(super) fn probe(&mut self, body: &Body) -> Vec<u8> {
        self.counter += 1;
        let nonce = Nonce { start: 9, random: 1, counter: self.counter };
        probe::seal(&self.key, 0, self.tag, nonce, body, 0)
    }
}

fn agent_and_member() -> (PathAgent, Member) {
    agent_and_member_with(PathConfig::default())
}

pub(super) fn agent_and_member_with(config: PathConfig) -> (PathAgent, Member) {
    use crate::key::StaticSecret;
    let (a, b) = (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]));
    let keys = PairKeys::new(&[1; 32], &a, &b.public(), crate::id::PortNo(0)).unwrap();
    let member = Member {
        key: ProbeKey::new(keys.receive_secret()),
        tag: keys.receive_tags(wall(Instant::ZERO).unix)[1],
        counter: 0,
    };
    let rng = crate::rng::Rng::from_seed([4; 32]);
    (PathAgent::new(config, keys, 1, rng, wall(Instant::ZERO)), member)
}

/// A CALL that names one reflexive address, behind a NAT with another port for every destination.
pub(super) fn cannon_call(txid: u64, flags: u16, port_delta: i16) -> Body {
    let candidates = vec![CallCandidate { kind: 1, prio: 120, addr: ([198, 18, 0, 1], 9000).into() }];
    let mapping = Mapping::AddressAndPortDependent as u8;
    Body::Call(Call { txid, round: 1, flags, mapping, filtering: 0, port_delta, candidates, relays: vec![] })
}

fn call(txid: u64, last: u8) -> Body {
    let candidates = (0..16)
        .map(|i| CallCandidate { kind: 0, prio: i, addr: ([198, 18, i, last], 9).into() })
        .chain([CallCandidate { kind: 0, prio: 255, addr: ([169, 254, 169, 254], 80).into() }])
        .take(16)
        .collect();
    let (mapping, filtering, port_delta) = (0, 0, 0);
    Body::Call(Call {
        txid,
        round: 1,
        flags: probe::CALL_ANSWER_WANTED,
        mapping,
        filtering,
        port_delta,
        candidates,
        relays: vec![],
    })
}

#[test]
fn a_member_cannot_turn_the_agent_into_a_cannon() {
    let (mut agent, mut member) = agent_and_member();
    let relay = RelayPath { relay_no: 1, node_no: 7, rtt: ms(50), peer_rtt: None };
    agent.set_relay(Some(relay), wall(Instant::ZERO));
    let (mut pings, mut calls) = (Vec::new(), Vec::new());
    for t in (0..180_000).step_by(20) {
        let now = wall(at(t));
        let mut bytes = member.probe(&call(t, (t / 20 % 250) as u8));
        let probe = agent.open(&mut bytes).unwrap();
        agent.handle_probe(ProbeFrom::Relayed { relay: 1, node_no: 7 }, probe, now);
        agent.handle_timeout(now);
        while let Some(transmit) = agent.poll_transmit() {
            match transmit.to {
                ProbeTo::Direct { .. } => pings.push(t),
                ProbeTo::Relayed { .. } => calls.push(t),
            }
        }
        assert!(agent.candidates().count() <= MAX_CANDIDATES);
    }
    for (i, t) in pings.iter().enumerate() {
        assert!(pings[i..].iter().take_while(|u| **u < t + 60_000).count() <= 200);
    }
    assert!(calls.windows(2).all(|w| w[1] - w[0] >= 1000), "one CALL a second");
}

#[test]
fn many_sources_do_not_push_out_what_answers() {
    let (mut agent, mut member) = agent_and_member();
    let good = Candidate::new(CandidateKind::Configured, ([192, 0, 2, 1], 7001).into());
    agent.set_peer_endpoints(&[good], &[], wall(Instant::ZERO));
    for i in 0..2000u16 {
        let ping = Ping { txid: 1, t_us: 0, path_id: 0, wire_size: 0, tx_data: 0, rx_data: 0 };
        let mut bytes = member.probe(&Body::Ping(ping));
        let probe = agent.open(&mut bytes).unwrap();
        agent.handle_probe(ProbeFrom::Direct(([203, 0, 113, 9], 1000 + i).into()), probe, wall(at(i.into())));
        while let Some(t) = agent.poll_transmit() {
            assert!(t.bytes.len() <= 100);
        }
    }
    assert!(agent.candidates().any(|(c, _)| *c == good));
    assert_eq!(agent.candidates().count(), MAX_CANDIDATES);
    assert!(agent.counters().pings_sent <= 200);
}

#[test]
fn a_call_from_nowhere_and_a_probe_from_a_bad_address_are_refused() {
    let (mut agent, mut member) = agent_and_member();
    let mut bytes = member.probe(&call(1, 1));
    let probe = agent.open(&mut bytes).unwrap();
    agent.handle_probe(ProbeFrom::Direct(([203, 0, 113, 9], 1).into()), probe, wall(at(1)));
    let ping = Ping { txid: 1, t_us: 0, path_id: 0, wire_size: 0, tx_data: 0, rx_data: 0 };
    let mut bytes = member.probe(&Body::Ping(ping));
    let probe = agent.open(&mut bytes).unwrap();
    agent.handle_probe(ProbeFrom::Direct(([169, 254, 169, 254], 80).into()), probe, wall(at(1)));
    assert_eq!(agent.poll_transmit(), None);
    assert_eq!(agent.candidates().count(), 0);
    assert_eq!(agent.counters().refused_sources, 2);
}
