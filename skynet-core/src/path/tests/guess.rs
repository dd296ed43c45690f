//! What a member can make this node guess, and what not.

use super::hostile::{agent_and_member_with, cannon_call};
use super::net::*;
use crate::path::*;
use crate::time::Instant;
use crate::wire::probe::{CALL_GUESS_ALLOWED, CALL_GUESS_NOW};

/// A member behind a NAT it calls symmetric asks for a volley once a second, for twenty minutes: how many datagrams go out
/// in the ten minutes in which most do, to the one address it names.
fn most_in_ten_minutes(guessing: Guessing, port_delta: i16, carried: u32) -> usize {
    let (mut agent, mut member) = agent_and_member_with(PathConfig { guessing, ..PathConfig::default() });
    let relay = RelayPath { relay_no: 1, node_no: 7, rtt: ms(50), peer_rtt: None };
    agent.set_relay(Some(relay), wall(Instant::ZERO));
    agent.set_nat(NatSeen { mapping: Mapping::EndpointIndependent, port_delta: 0 });
    agent.set_may_guess(true);
    let relayed = PathCounters { tx: carried, ..PathCounters::default() };
    agent.handle_traffic(Traffic { relayed, ..Traffic::default() }, wall(Instant::ZERO));
    let mut sent = Vec::new();
    for t in (0..1_200_000).step_by(20) {
        let (now, before) = (wall(at(t)), agent.counters().guesses_sent);
        if t % 1000 == 0 {
            let call = cannon_call(t, CALL_GUESS_ALLOWED | CALL_GUESS_NOW, port_delta);
            let mut bytes = member.probe(&call);
            let probe = agent.open(&mut bytes).unwrap();
            agent.handle_probe(ProbeFrom::Relayed { relay: 1, node_no: 7 }, probe, now);
        }
        agent.handle_timeout(now);
        while agent.poll_transmit().is_some() {}
        let now_sent = agent.counters().guesses_sent - before;
        assert!(now_sent <= 20, "{now_sent} at once");
        sent.push((t, now_sent as usize));
    }
    // Both ends count from their own begin, so the receiver allows ten seconds less.
    let window = (ATTEMPT_EVERY - ms(10_000)).as_millis() as u64;
    let in_window =
        |from: u64| sent.iter().filter(|(t, _)| (from..from + window).contains(t)).map(|(_, n)| n).sum();
    (0..600_000).step_by(10_000).map(in_window).max().unwrap()
}

#[test]
fn a_member_gets_one_volley_in_ten_minutes_from_who_allows_it() {
    let allowed = Guessing { sockets: 128, bulk_only: false };
    let most = most_in_ten_minutes(allowed, 0, 0);
    assert!((1..=GUESSES as usize).contains(&most), "{most}");
}

#[test]
fn a_member_gets_none_before_it_has_carried_bulk_and_never_from_who_forbids_it() {
    assert_eq!(most_in_ten_minutes(Guessing::default(), 0, 0), 0);
    assert!(most_in_ten_minutes(Guessing::default(), 0, 5000) > 0);
    assert_eq!(most_in_ten_minutes(Guessing { sockets: 0, bulk_only: false }, 0, 5000), 0);
}

#[test]
fn a_sequence_costs_sixteen_datagrams_whatever_is_allowed() {
    assert_eq!(most_in_ten_minutes(Guessing { sockets: 0, bulk_only: false }, 1, 0), 16);
}
