//! One agent, a relay, and a peer of two addresses that answers each after its own delay, or not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::net::*;
use crate::key::StaticSecret;
use crate::path::*;
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::probe::{Body, Pong};

fn addresses() -> [SocketAddr; 2] {
    [([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 1).into()]
}

type Selections = Vec<(u64, Option<Path>, Reason)>;

/// Runs `millis` of steady traffic; `delay(address, t)` in ms. The selections with their times in ms.
fn run(millis: u64, delay: impl Fn(SocketAddr, u64) -> Option<u64>) -> (PathAgent, Selections) {
    run_with(addresses(), millis, delay)
}

fn run_with(
    addresses: [SocketAddr; 2],
    millis: u64,
    delay: impl Fn(SocketAddr, u64) -> Option<u64>,
) -> (PathAgent, Selections) {
    let secrets = [1, 2].map(|i| StaticSecret::from_bytes([i; 32]));
    let keys = |i: usize| {
        PairKeys::new(&[1; 32], &secrets[i], &secrets[1 - i].public(), crate::id::PortNo(0)).unwrap()
    };
    let mut rng = Rng::from_seed([1; 32]);
    let mut nonces = NonceSource::new(1, &mut rng);
    let peer = keys(1);
    let mut agent = PathAgent::new(PathConfig::default(), keys(0), 1, rng, wall(Instant::ZERO));
    let relay = RelayPath { relay_no: 1, node_no: 7, rtt: ms(50), peer_rtt: None };
    agent.set_relay(Some(relay), wall(Instant::ZERO));
    let endpoints = addresses.map(|a| Candidate::new(CandidateKind::Configured, a));
    agent.set_peer_endpoints(&endpoints, &[], wall(Instant::ZERO));
    let mut answers: BTreeMap<(u64, u64), (SocketAddr, Vec<u8>)> = BTreeMap::new();
    let mut selections = Vec::new();
    let mut heard = None;
    for t in 0..millis {
        let now = wall(at(t));
        let counters = PathCounters { tx: t as u32, rx: t as u32, last_rx: heard };
        agent.handle_traffic(
            Traffic { last_tx: Some(at(t)), direct: counters, relayed: counters, ..Traffic::default() },
            now,
        );
        while let Some(entry) = answers.first_entry().filter(|e| e.key().0 <= t) {
            let (from, mut bytes) = entry.remove();
            let probe = agent.open(&mut bytes).unwrap();
            agent.handle_probe(ProbeFrom::Direct(from), probe, now);
            heard = Some(at(t));
        }
        agent.handle_timeout(now);
        while let Some(transmit) = agent.poll_transmit() {
            let ProbeTo::Direct { addr, .. } = transmit.to else { continue };
            let Body::Ping(p) = peer.open(&mut transmit.bytes.clone()).unwrap().1 else { continue };
            let Some(delay) = delay(addr, t) else { continue };
            let (txid, t_us, path_id) = (p.txid, p.t_us, p.path_id);
            let (tx_data, rx_data) = (0, t as u32);
            let pong = Pong { txid, t_us, path_id, received_size: 100, tx_data, rx_data, seen: addr };
            let bytes = peer.seal(0, now.unix, nonces.next_nonce().unwrap(), &Body::Pong(pong), 0);
            answers.insert((t + delay, txid), (addr, bytes));
        }
        while let Some(event) = agent.poll_event() {
            if let PathEvent::Selected { path, reason } = event {
                selections.push((t, path, reason));
            }
        }
    }
    (agent, selections)
}

#[test]
fn keeps_the_selected_pair_until_another_is_clearly_better_three_times() {
    let [x, y] = addresses();
    // x is the faster one for 20 s, then the slower one.
    let (agent, selections) = run(200_000, |addr, t| match t {
        _ if addr == y => Some(60),
        0..20_000 => Some(20),
        _ => Some(120),
    });
    assert_eq!(selections[1].1, Some(Path::Direct { remote: x }));
    assert_eq!(agent.selected(), Some(Path::Direct { remote: y }));
    assert_eq!(selections.len(), 3, "one change only");
    let (t, _, reason) = selections[2];
    println!("better path taken {} s after the first became slow", (t - 20_000) / 1000);
    assert!(reason == Reason::Better && t >= 50_000, "three samples ten seconds apart");
}

#[test]
fn a_slightly_better_pair_is_not_worth_a_change() {
    let [x, y] = addresses();
    let (agent, selections) = run(120_000, |addr, t| match t {
        _ if addr == y => Some(60),
        0..20_000 => Some(20),
        _ => Some(64),
    });
    assert_eq!(agent.selected(), Some(Path::Direct { remote: x }));
    assert_eq!(selections.len(), 2);
}

#[test]
fn when_all_direct_paths_die_together_data_is_on_the_relay_in_time() {
    let mut worst = 0;
    for cut in (20_000..30_000).step_by(370) {
        let (_, selections) = run(cut + 6000, |_, t| (t < cut).then_some(20));
        let left = selections
            .iter()
            .find(|(t, path, _)| *t >= cut && matches!(path, Some(Path::Relayed { .. })))
            .expect("leaves");
        worst = worst.max(left.0 - cut);
    }
    println!("two direct paths cut at once: on the relay after at most {worst} ms");
    assert!(worst <= 3500, "{worst} ms");
}

#[test]
fn when_one_direct_path_dies_the_other_takes_over() {
    let [x, y] = addresses();
    let (agent, selections) = run(40_000, |addr, t| match t {
        _ if addr == y => Some(22),
        0..20_000 => Some(20),
        _ => None,
    });
    assert_eq!(agent.selected(), Some(Path::Direct { remote: y }), "{x} is dead: {selections:?}");
    let t = selections.last().map(|s| s.0).unwrap();
    println!("one of two direct paths cut: the other carries data after {} ms", t - 20_000);
    assert!(t <= 23_600);
}

#[test]
fn a_neighbour_is_reached_by_its_private_address_though_the_public_one_answered_first() {
    let [public, private] = [([198, 51, 100, 2], 1).into(), ([10, 1, 0, 11], 1).into()];
    // The gateway hairpins as fast as the switch; the first checks of the private address are lost.
    let (agent, selections) = run_with([public, private], 60_000, |addr, t| match t {
        0..50 if addr == private => None,
        _ => Some(1),
    });
    assert_eq!(selections[1].1, Some(Path::Direct { remote: public }));
    assert_eq!(agent.selected(), Some(Path::Direct { remote: private }), "{selections:?}");
    println!("private path taken after {} s", selections[2].0 / 1000);
    assert_eq!(selections.len(), 3);
}
