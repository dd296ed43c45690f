use super::*;
use crate::key::Secret;
use crate::wire::relay::TICKET_LEN;

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn candidate(n: u32) -> Candidate {
    let no = RelayNo::of_member(NodeNo(n)).unwrap();
    Candidate { is_untold: true, node: NodeNo(n), no, key: PublicKey([n.to_be_bytes()[3]; 32]) }
}

fn grant(id: u32) -> Grant {
    Grant { id, ticket: [1; TICKET_LEN], bind_key: Secret::from_bytes([2; 32]), relay_unix_ms: 3 }
}

/// Data has gone by a relay for long enough, and goes on.
fn looking() -> MemberRelays {
    let mut machine = MemberRelays::default();
    machine.note_relayed(at(1_000_000), at(0));
    assert!(matches!(machine.poll_step(at(3_000)), Some(Step::Look)));
    machine.look_at = None;
    machine
}

fn open(machine: &mut MemberRelays, n: u32, now: Instant) {
    machine.seek(vec![candidate(n)], now);
    let Some(Step::Apply(key, id)) = machine.poll_step(now) else { panic!("nobody is asked") };
    assert!(machine.handle_ticket(&key, grant(id), now));
    let Some(Step::Bind(no, ..)) = machine.poll_step(now) else { panic!("the ticket is not used") };
    machine.opened(no);
}

#[test]
fn nobody_is_asked_before_data_has_gone_by_a_relay_for_a_while() {
    let mut machine = MemberRelays::default();
    assert_eq!(machine.poll_timeout(), None);
    machine.note_relayed(at(10_000), at(0));
    assert!(machine.poll_step(at(2_999)).is_none());
    assert!(matches!(machine.poll_step(at(3_000)), Some(Step::Look)));
    assert!(machine.poll_step(at(3_000)).is_none(), "once");
    assert!(matches!(machine.poll_step(at(5_000)), Some(Step::Look)), "and again");
    assert!(machine.poll_step(at(13_000)).is_none(), "but not when data has ended");
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn the_first_four_of_those_a_peer_has_told_and_then_by_number() {
    let mut machine = looking();
    let told = Candidate { is_untold: false, ..candidate(9) };
    let mut all: Vec<Candidate> = (1..8).map(candidate).collect();
    all.push(told);
    machine.seek(all, at(3_000));
    let asked: Vec<u8> = core::iter::from_fn(|| machine.poll_step(at(3_000)))
        .map(|step| match step {
            Step::Apply(key, _) => key.0[0],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [9, 1, 2, 3]);
}

#[test]
fn of_two_with_one_number_everybody_takes_the_lower_node() {
    let mut machine = looking();
    let twin = Candidate { is_untold: false, ..candidate(0x8001) };
    assert_eq!(twin.no, candidate(1).no);
    machine.seek(vec![twin, candidate(1)], at(3_000));
    let Some(Step::Apply(key, _)) = machine.poll_step(at(3_000)) else { panic!("nobody is asked") };
    assert_eq!(key, candidate(1).key);
    assert!(machine.poll_step(at(3_000)).is_none());
}

#[test]
fn who_does_not_answer_or_cannot_be_reached_directly_is_left_alone_for_ten_minutes() {
    let mut machine = looking();
    machine.seek(vec![candidate(1)], at(3_000));
    let asked = (3..30).filter(|s| matches!(machine.poll_step(at(s * 1_000)), Some(Step::Apply(..)))).count();
    assert_eq!(asked, usize::from(ASKS));
    machine.seek(vec![candidate(1)], at(600_000));
    assert!(!machine.is_sought(&candidate(1).key));
    machine.seek(vec![candidate(1)], at(620_000));
    let Some(Step::Apply(key, id)) = machine.poll_step(at(620_000)) else { panic!("nobody is asked") };
    assert!(!machine.handle_ticket(&key, grant(id + 1), at(620_000)), "not asked for");
    assert!(machine.handle_ticket(&key, grant(id), at(620_000)));
    assert!(matches!(machine.poll_step(at(629_900)), Some(Step::Bind(..))));
    assert!(machine.poll_step(at(630_000)).is_none());
    assert!(!machine.is_sought(&key));
}

#[test]
fn an_open_session_stays_while_data_goes_by_relays_and_five_minutes_more() {
    let mut machine = looking();
    open(&mut machine, 1, at(3_000));
    machine.seek(vec![candidate(1)], at(200_000));
    machine.relayed = None;
    assert!(machine.poll_step(at(499_999)).is_none());
    assert!(matches!(machine.poll_step(at(500_000)), Some(Step::Close(no)) if no == candidate(1).no));
}

#[test]
fn one_that_was_lost_is_asked_again_after_half_a_minute() {
    let mut machine = looking();
    open(&mut machine, 1, at(3_000));
    machine.lost(candidate(1).no, at(10_000));
    machine.seek(vec![candidate(1)], at(39_999));
    assert!(!machine.is_sought(&candidate(1).key));
    machine.seek(vec![candidate(1)], at(40_000));
    assert!(machine.is_sought(&candidate(1).key));
}
