//! A relay that shows one thing to one and another to the other is found out by the two, and whoever is behind is told.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::key::Identity;
use skynet_core::member::RevokedNode;
use skynet_core::member::document::Kind;
use skynet_core::node::Refusal;
use skynet_core::time::{Duration, UnixTime};
use skynet_sim::host::RelayHost;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};
use skynet_tests::evil::{EvilDirectory, Loot, Orders, Trick};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn revocations(o: &Overlay, id: HostId) -> Option<u64> {
    o.agent(id).status().unwrap().documents.unwrap().revocations_epoch
}

fn withheld(o: &Overlay, id: HostId) -> u64 {
    let lines = o.agent(id).status().unwrap().refused;
    lines.iter().filter(|line| line.reason == Refusal::Withheld).map(|line| line.count).sum()
}

fn add(o: &mut Overlay) -> HostId {
    let cloud = o.cloud(NatKind::Public);
    let id = o.add_agent(cloud);
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    id
}

fn run(o: &mut Overlay, time: Duration) {
    o.world_mut().run_for(time).unwrap();
}

/// The relay is bought, and shows a list of revocations that was replaced. Who has the newer one refuses it; who comes new
/// has nothing to tell it by, until it talks to somebody.
#[test]
fn whoever_is_shown_an_old_list_is_told_by_the_first_member_it_talks_to() {
    let mut o = Overlay::new(1);
    let old_document = Some(o.revoke(|_| ()).unwrap());
    o.revoke(|_| ()).unwrap();
    let (orders, loot) = (Orders::default(), Loot { old_document, ..Loot::default() });
    o.stop_relay(Stop::Kill);
    let bought = orders.clone();
    o.start_relay_as(|relay| {
        relay.with_directory(|honest| Box::new(EvilDirectory::new(honest, loot, bought, [3; 32])))
    });
    let member = add(&mut o);
    run(&mut o, 20 * S);
    assert_eq!(revocations(&o, member), Some(2));
    orders.set([Trick::OldDocument]);
    run(&mut o, 700 * S);
    let newcomer = add(&mut o);
    run(&mut o, 20 * S);
    assert_eq!(revocations(&o, newcomer), Some(1), "it cannot know better");
    let begin = o.elapsed();
    o.flow(newcomer, member, 100 * MS, 600).unwrap();
    while revocations(&o, newcomer) != Some(2) {
        assert!(o.elapsed() - begin < 30 * S, "{}", o.report());
        run(&mut o, 100 * MS);
    }
    println!("told by a member {:?} after the first packet to it", o.elapsed() - begin);
    assert_eq!((withheld(&o, newcomer), withheld(&o, member)), (1, 0), "{}", o.report());
    let notes = o.agent(newcomer).notes();
    assert!(notes.iter().any(|(_, note)| note.contains("has passed on a newer")), "{notes:?}");
}

/// An honest relay is a moment late, and nobody blames it.
#[test]
fn news_that_one_hears_sooner_than_another_blame_nobody() {
    let mut o = Overlay::new(2);
    let (a, b) = (add(&mut o), add(&mut o));
    o.flow(a, b, 20 * MS, u64::MAX).unwrap();
    run(&mut o, 25 * S);
    for epoch in 1..=4 {
        o.revoke(|_| ()).unwrap();
        run(&mut o, 125 * S);
        assert_eq!([a, b].map(|id| revocations(&o, id)), [Some(epoch); 2]);
    }
    for id in [a, b] {
        let status = o.agent(id).status().unwrap();
        assert!(status.refused.is_empty() && status.splits.is_empty(), "{}", o.report());
    }
}

/// Without any relay the members themselves carry a list on.
#[test]
fn a_member_that_was_away_hears_of_a_list_though_every_relay_is_dead() {
    let mut o = Overlay::new(3);
    let (a, b) = (add(&mut o), add(&mut o));
    o.flow(a, b, 100 * MS, 50).unwrap();
    run(&mut o, 30 * S);
    o.world_mut().stop_host(b, Stop::Kill);
    o.revoke(|_| ()).unwrap();
    run(&mut o, 5 * S);
    o.stop_relay(Stop::Kill);
    o.restart_agent(b, Stop::Kill);
    run(&mut o, 10 * S);
    assert_eq!([a, b].map(|id| revocations(&o, id)), [Some(1), None]);
    o.flow(b, a, 100 * MS, 600).unwrap();
    run(&mut o, 40 * S);
    assert_eq!(revocations(&o, b), Some(1), "{}", o.report());
    assert_eq!(withheld(&o, b), 0, "no relay was there to be blamed");
}

/// Somebody has signed twice, and the relay shows each of two members one.
#[test]
fn two_lists_of_one_epoch_are_an_alarm_at_both_ends_with_the_proof() {
    let mut o = Overlay::new(4);
    let (a, b) = (add(&mut o), add(&mut o));
    let show = |o: &mut Overlay, documents: Vec<Vec<u8>>| {
        let relay = o.relay();
        o.world_mut().with_host(relay, |relay: &mut RelayHost, now| relay.show(documents, now)).unwrap();
    };
    o.world_mut().stop_host(b, Stop::Kill);
    o.revoke(|list| list.epoch = 1).unwrap();
    run(&mut o, 5 * S);
    assert_eq!(revocations(&o, a), Some(1));
    o.world_mut().stop_host(a, Stop::Kill);
    let other = RevokedNode { identity: Identity([9; 32]), until: UnixTime(u64::MAX / 2) };
    let second = o
        .revoke(|list| {
            list.epoch = 1;
            list.nodes.push(other);
        })
        .unwrap();
    show(&mut o, vec![second]);
    o.restart_agent(b, Stop::Kill);
    run(&mut o, 5 * S);
    assert_eq!(revocations(&o, b), Some(1));
    show(&mut o, vec![]);
    o.restart_agent(a, Stop::Kill);
    run(&mut o, 5 * S);
    o.flow(a, b, 100 * MS, 200).unwrap();
    run(&mut o, 20 * S);
    for id in [a, b] {
        let status = o.agent(id).status().unwrap();
        let [split] = &status.splits[..] else { panic!("{:?}\n{}", status.splits, o.report()) };
        assert_eq!((split.kind, split.epoch, split.is_proven), (Kind::Revocations, 1, true));
        assert!(o.agent(id).notes().iter().any(|(_, note)| note.contains("signed twice")), "{}", o.report());
    }
    assert!(o.received(a, b).unwrap().packets >= 190, "traffic goes on\n{}", o.report());
}
