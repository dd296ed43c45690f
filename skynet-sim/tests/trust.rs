//! What the operator takes back ends everywhere at once, and nothing brings it back.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::member::{Extent, Revocations, RevokedNode, RevokedToken};
use skynet_core::time::{Duration, UnixTime};
use skynet_sim::host::AgentConfig;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const LATE: UnixTime = UnixTime(u64::MAX / 2);
/// How long a revoked node may go on at members that are online.
const BAR: Duration = Duration::from_secs(5);

struct World {
    o: Overlay,
    agents: Vec<HostId>,
}

impl World {
    /// Agents behind NATs of these kinds, all joined and known to each other.
    fn new(seed: u64, kinds: &[NatKind]) -> Self {
        let mut o = Overlay::new(seed);
        for kind in kinds {
            let cloud = o.cloud(*kind);
            o.add_agent(cloud);
        }
        let agents = o.agents().to_vec();
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        let mut world = Self { o, agents };
        world.run(25 * S);
        world
    }

    fn run(&mut self, time: Duration) {
        self.o.world_mut().run_for(time).unwrap();
    }

    /// All talk to all, ten packets a second each way, without end.
    fn talk(&mut self) {
        for from in self.agents.clone() {
            for to in self.agents.clone() {
                if from != to {
                    self.o.flow(from, to, 100 * MS, u64::MAX).unwrap();
                }
            }
        }
        self.run(15 * S);
    }

    fn revoke(&mut self, change: impl FnOnce(&mut Revocations)) -> Vec<u8> {
        self.o.revoke(change).unwrap()
    }

    fn revoke_node(&mut self, id: HostId) -> Vec<u8> {
        let identity = self.o.identity(id).unwrap();
        self.revoke(|list| list.nodes.push(RevokedNode { identity, until: LATE }))
    }

    fn revoke_token(&mut self, extent: Extent) {
        let (token_id, relay) = (self.o.network().token_id(), self.o.relay());
        let since = self.o.world().host_now(relay).unix;
        self.revoke(|list| list.tokens = vec![RevokedToken { token_id, extent, since, until: LATE }]);
    }

    /// Whether `id` has anything to do with the node of this name: knows it, or has a session with it.
    fn knows(&self, id: HostId, name: &str) -> bool {
        self.o.agent(id).status().unwrap().peers.iter().any(|peer| peer.name == name)
    }

    fn name(&self, id: HostId) -> String {
        self.o.agent(id).addresses().unwrap().name.clone()
    }

    fn heard(&self, from: HostId, to: HostId) -> u64 {
        self.o.received(from, to).map_or(0, |book| book.packets)
    }

    /// How long until nobody of `these` knows `name`.
    fn time_until_forgotten(&mut self, these: &[HostId], name: &str) -> Duration {
        let begun = self.o.elapsed();
        while these.iter().any(|id| self.knows(*id, name)) {
            assert!(self.o.elapsed() - begun <= BAR, "{name} is still known\n{}", self.o.report());
            self.run(MS);
        }
        self.o.elapsed() - begun
    }

    fn restart(&mut self, id: HostId, change: impl FnOnce(&mut AgentConfig)) {
        let mut config = AgentConfig {
            persisted: self.o.agent(id).persisted().clone(),
            ..self.o.agent(id).config().clone()
        };
        change(&mut config);
        let host = self.o.agent(id).successor(config);
        self.o.world_mut().start_host(id, Box::new(host));
    }
}

/// Direct with the first, relayed with the second, whom no punching reaches.
const KINDS: [NatKind; 3] = [NatKind::PortRestricted, NatKind::FullCone, NatKind::Symmetric];

#[test]
fn a_revoked_node_is_cut_off_at_all_online_peers_whether_direct_or_relayed() {
    let mut w = World::new(1, &KINDS);
    w.talk();
    let [gone, direct, relayed] = w.agents[..] else { panic!() };
    assert!(w.o.is_direct(gone, direct) && !w.o.is_direct(gone, relayed), "{}", w.o.report());
    let name = w.name(gone);
    w.revoke_node(gone);
    let took = w.time_until_forgotten(&[direct, relayed], &name);
    println!("cut off after {took:?}");
    assert!(took <= BAR);
    // Packets under way arrive; from then on there is nothing, in either direction.
    w.run(S);
    let before: Vec<u64> = [(gone, direct), (direct, gone), (gone, relayed), (relayed, gone)]
        .iter()
        .map(|(from, to)| w.heard(*from, *to))
        .collect();
    let others = w.heard(direct, relayed);
    w.run(400 * S);
    for ((from, to), before) in
        [(gone, direct), (direct, gone), (gone, relayed), (relayed, gone)].into_iter().zip(before)
    {
        assert_eq!(w.heard(from, to), before, "{}", w.o.report());
    }
    assert!(w.heard(direct, relayed) > others + 3_900, "the others lose nothing");
    let relay = w.o.world().host::<skynet_sim::host::RelayHost>(w.o.relay());
    let number = u32::from(w.o.address(gone));
    let sessions =
        relay.server().unwrap().forwarder.list_sessions(100, w.o.world().host_now(w.o.relay()).mono);
    assert!(sessions.iter().all(|session| session.node_no != number), "{sessions:?}");
    assert!(w.o.agent(gone).notes().iter().any(|(_, note)| note.contains("revoked")), "it says why");
}

#[test]
fn a_member_that_was_away_hears_of_it_before_it_talks() {
    let mut w = World::new(2, &KINDS);
    let [gone, away, _] = w.agents[..] else { panic!() };
    w.o.world_mut().stop_host(away, Stop::Kill);
    let name = w.name(gone);
    w.revoke_node(gone);
    w.run(10 * S);
    w.restart(away, |_| ());
    w.run(MS);
    // It tries the peer it last knew, and the revoked node tries it.
    w.o.flow(away, gone, 100 * MS, 200).unwrap();
    w.o.flow(gone, away, 100 * MS, 200).unwrap();
    w.run(30 * S);
    assert!(!w.knows(away, &name), "{}", w.o.report());
    assert_eq!((w.heard(gone, away), w.heard(away, gone)), (0, 0), "{}", w.o.report());
    let documents = w.o.agent(away).status().unwrap().documents.unwrap();
    assert_eq!((documents.revocations_epoch, documents.is_stale), (Some(1), false));
}

#[test]
fn a_token_revoked_for_new_nodes_admits_nobody_and_parts_nobody() {
    let mut w = World::new(3, &KINDS);
    w.talk();
    w.revoke_token(Extent::New);
    let cloud = w.o.cloud(NatKind::Public);
    let late = w.o.add_agent(cloud);
    w.run(20 * S);
    assert!(w.o.agent(late).addresses().is_none());
    assert!(
        w.o.agent(late).notes().iter().any(|(_, note)| note.contains("token was revoked")),
        "{}",
        w.o.report()
    );
    let [a, b, _] = w.agents[..] else { panic!() };
    let before = w.heard(a, b);
    w.run(10 * S);
    assert!(w.heard(a, b) >= before + 99, "{}", w.o.report());
}

#[test]
fn a_token_revoked_with_all_ends_every_node_it_let_in() {
    let mut w = World::new(4, &KINDS);
    w.talk();
    w.revoke_token(Extent::All);
    let begun = w.o.elapsed();
    while w.agents.iter().any(|id| !w.o.agent(*id).status().unwrap().peers.is_empty()) {
        assert!(w.o.elapsed() - begun <= BAR, "{}", w.o.report());
        w.run(MS);
    }
    println!("all three ended after {:?}", w.o.elapsed() - begun);
}

#[test]
fn a_list_that_was_replaced_is_refused_and_told_and_a_restart_forgets_nothing() {
    let mut w = World::new(5, &KINDS);
    let [first, second, witness] = w.agents[..] else { panic!() };
    let old = w.revoke_node(first);
    let newer = w.revoke_node(second);
    w.run(5 * S);
    w.o.world_mut().stop_host(witness, Stop::Kill);
    w.restart(witness, |_| ());
    w.run(5 * S);
    let refused = |w: &World, label: &str| {
        let lines = w.o.agent(witness).status().unwrap().refused;
        lines.iter().filter(|line| line.reason.as_str() == label).map(|line| line.count).sum::<u64>()
    };
    let forged = {
        let mut forged = newer.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        forged
    };
    for (document, label) in [(old, "older_document"), (forged, "false_document")] {
        assert_eq!(refused(&w, label), 0);
        // The relay has been bought: it shows what it likes.
        let relay = w.o.relay();
        let show = move |relay: &mut skynet_sim::host::RelayHost, now| relay.show(vec![document], now);
        w.o.world_mut().with_host(relay, show).unwrap();
        w.run(S);
        assert_eq!(refused(&w, label), 1, "{label}\n{}", w.o.report());
        let documents = w.o.agent(witness).status().unwrap().documents.unwrap();
        assert_eq!(documents.revocations_epoch, Some(2));
        assert!(!w.knows(witness, &w.name(first)) && !w.knows(witness, &w.name(second)));
    }
}

/// The relay is gone for a day and an hour.
#[test]
fn after_a_day_without_a_word_a_node_warns_and_goes_on_or_fails_closed_as_it_was_told() {
    let mut w = World::new(6, &[NatKind::Public, NatKind::Public, NatKind::Public]);
    let [a, b, closed] = w.agents[..] else { panic!() };
    w.o.world_mut().stop_host(closed, Stop::Kill);
    w.restart(closed, |config| config.fail_closed = true);
    w.run(30 * S);
    assert!(w.knows(closed, &w.name(a)));
    w.o.stop_relay(Stop::Kill);
    w.run(23 * 3_600 * S);
    assert!(w.knows(closed, &w.name(a)), "not yet a day\n{}", w.o.report());
    w.run(2 * 3_600 * S);
    for (id, stays) in [(a, true), (closed, false)] {
        assert!(w.o.agent(id).status().unwrap().documents.unwrap().is_stale);
        assert_eq!(w.knows(id, &w.name(b)), stays, "{}", w.o.report());
        let warned = w.o.agent(id).notes().iter().filter(|(_, note)| note.contains("for a day")).count();
        assert_eq!(warned, 1, "{}", w.o.report());
    }
    w.o.flow(a, b, 100 * MS, 50).unwrap();
    w.o.flow(a, closed, 100 * MS, 50).unwrap();
    w.run(10 * S);
    assert!(w.heard(a, b) >= 49 && w.heard(a, closed) == 0, "{}", w.o.report());
    // The relay is back, and says what is in force.
    w.o.start_relay();
    w.run(60 * S);
    w.o.flow(closed, b, 100 * MS, 50).unwrap();
    w.run(10 * S);
    assert!(w.heard(closed, b) >= 49, "{}", w.o.report());
    assert!(!w.o.agent(closed).status().unwrap().documents.unwrap().is_stale);
}
