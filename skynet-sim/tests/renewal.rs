//! What has an end is renewed before it, or when the machine is back.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::member::{Credentials, RevokedNode};
use skynet_core::time::{Duration, UnixTime};
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

fn world(seed: u64) -> (Overlay, [HostId; 2]) {
    let mut o = Overlay::new(seed);
    let agents = [NatKind::PortRestricted, NatKind::FullCone].map(|kind| {
        let cloud = o.cloud(kind);
        o.add_agent(cloud)
    });
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    o.world_mut().run_for(25 * S).unwrap();
    (o, agents)
}

/// Ends of key binding and receipt, seconds of Unix time.
fn ends(o: &Overlay, id: HostId) -> [u64; 2] {
    let credentials = Credentials::decode(o.agent(id).persisted().credentials.as_ref().unwrap()).unwrap();
    let bundle = credentials.bundle();
    [bundle.binding.unverified().not_after.0, bundle.receipt.as_ref().unwrap().unverified().not_after.0]
}

/// How many of 50 packets arrive.
fn arrive(o: &mut Overlay, from: HostId, to: HostId) -> u64 {
    let heard = |o: &Overlay| o.received(from, to).map_or(0, |book| book.packets);
    let before = heard(o);
    o.flow(from, to, 100 * MS, 50).unwrap();
    o.world_mut().run_for(10 * S).unwrap();
    heard(o) - before
}

/// Everything is off: nobody talks for them, and nobody renews anything.
fn sleep(o: &mut Overlay, agents: &[HostId], time: Duration) {
    agents.iter().for_each(|id| o.world_mut().stop_host(*id, Stop::Kill));
    o.stop_relay(Stop::Kill);
    o.world_mut().run_for(time).unwrap();
    o.start_relay();
}

#[test]
fn machines_that_were_off_for_a_month_come_back_by_themselves_unless_they_were_revoked() {
    let (mut o, agents) = world(1);
    let [a, b] = agents;
    let before = ends(&o, a);
    sleep(&mut o, &agents, 31 * DAY);
    let now = o.world().host_now(a).unix.0;
    assert!(before.iter().all(|end| *end < now), "key binding and receipt have ended");
    agents.iter().for_each(|id| o.restart_agent(*id, Stop::Kill));
    o.world_mut().run_for(30 * S).unwrap();
    assert!(arrive(&mut o, a, b) >= 49 && arrive(&mut o, b, a) >= 49, "{}", o.report());
    assert!(ends(&o, a).iter().all(|end| *end > now + 6 * 86_400), "renewed");

    let identity = o.identity(a).unwrap();
    sleep(&mut o, &agents, 31 * DAY);
    o.world_mut().run_for(S).unwrap();
    o.revoke(|list| list.nodes.push(RevokedNode { identity, until: UnixTime(u64::MAX / 2) })).unwrap();
    agents.iter().for_each(|id| o.restart_agent(*id, Stop::Kill));
    o.world_mut().run_for(30 * S).unwrap();
    assert!(o.agent(a).notes().iter().any(|(_, note)| note.contains("revoked")), "{}", o.report());
    assert!(o.agent(b).status().unwrap().peers.is_empty(), "{}", o.report());
}

#[test]
#[ignore = "for ./x soak: sixteen days packet by packet take minutes"]
fn a_running_agent_renews_at_half_life_and_no_flow_notices() {
    let (mut o, [a, b]) = world(2);
    let first = ends(&o, a);
    o.flow(a, b, 300 * S, u64::MAX).unwrap();
    o.world_mut().run_for(16 * DAY).unwrap();
    let now = o.world().host_now(a).unix.0;
    let renewed = ends(&o, a);
    println!(
        "16 days: binding and receipt end {:?} s later than the first",
        [0, 1].map(|i| renewed[i] - first[i])
    );
    // Never less than half of a life is left.
    assert!(
        renewed[0] >= now + 7 * 43_200 && renewed[1] >= now + 14 * 43_200 - 7 * 43_200,
        "{renewed:?} at {now}"
    );
    let book = o.received(a, b).unwrap();
    assert!(book.packets >= 16 * 288 - 2, "{} of {}\n{}", book.packets, 16 * 288, o.report());
    assert!(book.longest_gap < 301 * S, "{:?}", book.longest_gap);
}
