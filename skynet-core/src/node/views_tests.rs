//! ASK and VIEW of peers that keep no rules. What two honest ends tell each other is in `skynet-sim/tests/why.rs`.

use std::sync::Arc;

use super::*;
use crate::diagnosis::sample_end;
use crate::member::fixture::{NOW, Network};
use crate::node::member_tests::{member_node, now_at};

fn ask(id: u32) -> Vec<u8> {
    Record::Ask(id).encode()
}

fn view(id: u32) -> Vec<u8> {
    Record::View(Box::new(View { id, end: sample_end() })).encode()
}

fn with_peer() -> (Node, PeerSlot, PublicKey) {
    let mut network = Network::new();
    let mut node = member_node(&mut network);
    let member = Arc::new(network.credentials().member(NOW).unwrap());
    let slot = node.add_member(&member, now_at(Instant::ZERO)).unwrap();
    (node, slot, member.x25519())
}

#[test]
fn questions_in_quick_succession_are_dropped_and_cause_one_look_in_a_minute() {
    let (mut node, slot, _) = with_peer();
    let at = |ms: u64| now_at(Instant::ZERO + Duration::from_millis(ms));
    assert_eq!(node.on_view_record(slot, &ask(1), at(0)), Ok(()));
    for ms in [0, 10, 999] {
        assert_eq!(node.on_view_record(slot, &ask(2), at(ms)), Err(DropReason::RateLimited));
    }
    for ms in (1_000..60_000).step_by(1_000) {
        assert_eq!(node.on_view_record(slot, &ask(3), at(ms)), Ok(()));
        if ms == 2_000 {
            // Somebody else than the control channel is asked then, so that it is fresh without one.
            node.set_host_view(HostView::default(), Control::Silent, at(ms));
        }
    }
    let looks =
        core::iter::from_fn(|| node.poll_event()).filter(|e| matches!(e, NodeEvent::LookAround)).count();
    assert_eq!(looks, 1);
}

#[test]
fn an_answer_to_no_question_or_to_another_is_dropped() {
    let (mut node, slot, key) = with_peer();
    let now = now_at(Instant::ZERO);
    assert_eq!(node.on_view_record(slot, &view(7), now), Err(DropReason::UnexpectedRecord));
    node.peers.get_mut(slot).unwrap().views.asked = Some((8, now.mono));
    assert_eq!(node.on_view_record(slot, &view(7), now), Err(DropReason::UnexpectedRecord));
    assert_eq!(node.evidence(&key, now).unwrap().there, None);
    assert_eq!(node.on_view_record(slot, &view(8), now), Ok(()));
    assert_eq!(node.evidence(&key, now).unwrap().there, Some(sample_end()));
}

#[test]
fn what_is_no_view_and_whose_peer_is_gone_changes_nothing() {
    let (mut node, slot, _) = with_peer();
    let now = now_at(Instant::ZERO);
    let cut = &view(1)[..20];
    assert_eq!(node.on_view_record(slot, cut, now), Err(DropReason::UnknownType));
    assert_eq!(node.on_view_record(PeerSlot(9), &ask(1), now), Err(DropReason::NoPeer));
    node.remove_peer(slot, now);
    assert_eq!(node.on_view_record(slot, &ask(1), now), Err(DropReason::NoPeer));
}

#[test]
fn nobody_is_asked_who_has_not_said_that_it_answers() {
    let (mut node, slot, key) = with_peer();
    let now = now_at(Instant::ZERO);
    node.inquire(Some(&key), now);
    assert!(node.peers.get(slot).unwrap().views.asked.is_none());
    let evidence = node.evidence(&key, now).unwrap();
    assert_eq!((evidence.peer_answers, evidence.settled, evidence.tried), (None, false, false));
}
