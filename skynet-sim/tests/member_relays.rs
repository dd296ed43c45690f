//! Members that relay: when one is used, when it is left, and who is not believed.
//!
//! ```text
//!   cloud A, symmetric NAT ── a, m ──┐                            ┌── cloud B, symmetric NAT ── b
//!        m has a public address too ─┴──────── internet ──────────┘
//!                                                └── relay, 40 ms from everything
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use skynet_core::drop::DropReason;
use skynet_core::id::RelayNo;
use skynet_core::member::RevokedNode;
use skynet_core::node::RELAY_TAG;
use skynet_core::path::Path;
use skynet_core::session::Engine;
use skynet_core::time::{Duration, UnixTime};
use skynet_sim::host::AgentHost;
use skynet_sim::overlay::Offer;
use skynet_sim::topology::NatKind;
use skynet_sim::world::Stop;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

struct Story {
    o: Overlay,
    a: HostId,
    b: HostId,
    m: HostId,
}

impl Story {
    /// The picture above, with clouds of this kind; whether m's token has the tag.
    fn new(seed: u64, kind: NatKind, tagged: bool) -> Self {
        let mut o = Overlay::with_relays(seed, Engine::Noise, &[40 * MS]);
        o.watch_for_clear_text();
        let [cloud_a, cloud_b] = [kind; 2].map(|kind| o.cloud(kind));
        let a = o.add_agent(cloud_a);
        let b = o.add_agent(cloud_b);
        let public = o.topology.next_public_ip();
        let offer = Offer { role: tagged.then_some(RELAY_TAG), ..Offer::default() };
        let m = o.add_multihomed_agent(cloud_a, offer, vec![public]);
        assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
        o.world_mut().run_for(5 * S).unwrap();
        Self { o, a, b, m }
    }

    /// Packets both ways, one `every` so often.
    fn flow(&mut self, every: Duration, count: u64) {
        for (from, to) in [(self.a, self.b), (self.b, self.a)] {
            self.o.flow(from, to, every, count).unwrap();
        }
    }

    fn run(&mut self, time: Duration) {
        self.o.world_mut().run_for(time).unwrap();
    }

    /// By which relay each end sends.
    fn relays(&self) -> [Option<u16>; 2] {
        [(self.a, self.b), (self.b, self.a)].map(|(from, to)| match self.o.path(from, to) {
            Some(Path::Relayed { relay, .. }) => Some(relay),
            _ => None,
        })
    }

    fn by_m(&self) -> bool {
        let no = RelayNo::of_member(skynet_core::id::NodeNo(self.o.address(self.m).to_bits())).unwrap();
        self.relays() == [Some(no.0); 2]
    }

    fn sessions_at_m(&self) -> u64 {
        self.o.agent(self.m).status().unwrap().relaying.map_or(0, |r| r.sessions)
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        [self.a, self.b]
            .iter()
            .flat_map(|h| self.o.agent(*h).drops())
            .filter(|(r, _)| *r == reason)
            .map(|(_, n)| n)
            .sum()
    }

    /// The longest run of packets that did not arrive, as time.
    fn longest_gap(&self, every: Duration, count: u64) -> Duration {
        let gap = |from, to| {
            let missing = self.o.received(from, to).map(|book| book.missing(count)).unwrap_or_default();
            let (mut longest, mut run, mut last) = (0u32, 0u32, None);
            for n in missing {
                run = if last == Some(n - 1) { run + 1 } else { 1 };
                last = Some(n);
                longest = longest.max(run);
            }
            every * longest
        };
        gap(self.a, self.b).max(gap(self.b, self.a))
    }
}

/// In a network so large that the list comes a page every ten to twenty minutes.
#[test]
fn one_that_begins_to_relay_is_known_at_once_by_all_who_are_online_and_used() {
    let mut o = Overlay::with_relays(9, Engine::Noise, &[40 * MS]);
    let clouds = [NatKind::Symmetric; 2].map(|kind| o.cloud(kind));
    // More than they learn in the background: to them the network is large.
    let few = Offer { known_members: 2, ..Offer::default() };
    let others: Vec<_> = clouds.iter().map(|cloud| o.add_agent_with(*cloud, few)).collect();
    let [a, b] = clouds.map(|cloud| o.add_agent_with(cloud, few));
    assert!(o.join_all(10 * S).unwrap(), "{}", o.report());
    for (from, to) in [(a, b), (b, a)] {
        o.flow(from, to, 50 * MS, 2_000).unwrap();
    }
    o.world_mut().run_for(60 * S).unwrap();
    let public = o.topology.next_public_ip();
    let offer = Offer { role: Some(RELAY_TAG), ..Offer::default() };
    let m = o.add_multihomed_agent(clouds[0], offer, vec![public]);
    while !o.agent(m).is_joined() {
        o.world_mut().run_for(50 * MS).unwrap();
    }
    let address = o.address(m);
    let knows =
        |o: &Overlay, host| o.agent(host).roster().unwrap().members.iter().any(|one| one.v4 == address);
    let mut waited = Duration::ZERO;
    while !others.iter().chain([&a, &b]).all(|host| knows(&o, *host)) {
        o.world_mut().run_for(50 * MS).unwrap();
        waited += 50 * MS;
        assert!(waited <= 5 * S, "{}", o.report());
    }
    println!("known by all {waited:?} after it joined");
    let mut s = Story { o, a, b, m };
    while !s.by_m() {
        s.run(100 * MS);
        waited += 100 * MS;
        assert!(waited <= 15 * S, "{:?}\n{}", s.relays(), s.o.report());
    }
    println!("used {waited:?} after it joined");
    // It comes again: nobody is told anything.
    let learned = s.o.agent(s.b).roster().unwrap().revision;
    s.o.restart_agent(s.m, Stop::Kill);
    s.run(10 * S);
    assert_eq!(s.o.agent(s.b).roster().unwrap().revision, learned, "{}", s.o.report());
}

#[test]
fn a_pair_that_cannot_be_punched_takes_the_member_with_the_lesser_sum() {
    let mut s = Story::new(1, NatKind::Symmetric, true);
    s.flow(50 * MS, 600);
    s.run(2 * S);
    assert_eq!(s.relays(), [Some(1); 2], "{}", s.o.report());
    s.run(13 * S);
    assert!(s.by_m(), "{:?}\n{}", s.relays(), s.o.report());
    assert_eq!(s.sessions_at_m(), 2);
    let forwarded = || s.o.agent(s.m).status().unwrap().relaying.unwrap().forwarded;
    let before = forwarded();
    let name = s.o.agent(s.m).addresses().unwrap().name.clone();
    let status = s.o.agent(s.a).status().unwrap();
    let by: Vec<_> = status.relays.iter().filter_map(|r| Some((r.member.clone()?, r.up))).collect();
    assert_eq!(by, [(name.clone(), true)]);
    assert!(status.peers.iter().any(|p| p.relayed_by.as_ref() == Some(&name)));
    s.run(18 * S);
    let forwarded = s.o.agent(s.m).status().unwrap().relaying.unwrap().forwarded - before;
    // Twenty a second from each end, for the fifteen seconds the flows go on.
    assert!(forwarded >= 580, "{forwarded}");
    for (from, to) in [(s.a, s.b), (s.b, s.a)] {
        let book = s.o.received(from, to).unwrap();
        assert!(book.is_complete(600), "missing {:?}\n{}", book.missing(600), s.o.report());
    }
}

#[test]
fn it_is_left_within_three_seconds_when_it_dies_and_used_again_when_it_is_back() {
    let every = 20 * MS;
    let mut worst = Duration::ZERO;
    for (seed, how) in (10..14).zip([Stop::Kill, Stop::PowerOff].into_iter().cycle()) {
        let mut s = Story::new(seed, NatKind::Symmetric, true);
        s.flow(every, 10_000);
        s.run(20 * S + (seed as u32) * 130 * MS);
        assert!(s.by_m(), "{:?}\n{}", s.relays(), s.o.report());
        s.o.world_mut().stop_host(s.m, how);
        s.run(5 * S);
        assert_eq!(s.relays(), [Some(1); 2], "{how:?}\n{}", s.o.report());
        s.run(5 * S);
        s.o.restart_agent(s.m, how);
        s.run(120 * S);
        assert!(s.by_m(), "{:?}\n{}", s.relays(), s.o.report());
        s.run(60 * S);
        let gap = s.longest_gap(every, 10_000);
        worst = worst.max(gap);
        assert!(gap <= 3 * S, "{how:?} {gap:?}\n{}", s.o.report());
    }
    println!("the member in use died: longest gap {worst:?}");
}

#[test]
fn a_member_without_the_tag_that_offers_is_ignored_and_counted() {
    let mut s = Story::new(2, NatKind::Symmetric, false);
    let m = s.m;
    s.o.world_mut().with_host(m, |agent: &mut AgentHost, now| agent.offer_to_relay(now)).unwrap();
    // Both talk to it, so both hear its offer.
    for end in [s.a, s.b] {
        s.o.flow(end, m, 100 * MS, 20).unwrap();
    }
    s.flow(50 * MS, 600);
    s.run(32 * S);
    assert_eq!((s.relays(), s.sessions_at_m()), ([Some(1); 2], 0), "{}", s.o.report());
    let counted = s.dropped(DropReason::FalseRelay);
    assert!((1..=20).contains(&counted), "{counted}");
}

#[test]
fn pairs_that_go_direct_ask_nobody() {
    let mut s = Story::new(3, NatKind::PortRestricted, true);
    s.flow(50 * MS, 600);
    s.run(32 * S);
    assert!(s.o.is_direct(s.a, s.b), "{}", s.o.report());
    assert_eq!(s.sessions_at_m(), 0);
    assert!(s.o.received(s.a, s.b).unwrap().is_complete(600), "{}", s.o.report());
}

/// Three members that relay, in clouds that cannot be punched, which talk to each other and to a and b.
#[test]
fn members_that_relay_are_no_clients_of_each_other_and_nothing_goes_round() {
    let mut s = Story::new(4, NatKind::Symmetric, true);
    let more = [NatKind::Symmetric; 2].map(|kind| {
        let cloud = s.o.cloud(kind);
        s.o.add_agent_with(cloud, Offer { role: Some(RELAY_TAG), ..Offer::default() })
    });
    assert!(s.o.join_all(10 * S).unwrap(), "{}", s.o.report());
    s.run(5 * S);
    for (from, to) in [(more[0], more[1]), (more[1], s.a), (s.b, more[0])] {
        s.o.flow(from, to, 100 * MS, 300).unwrap();
        s.o.flow(to, from, 100 * MS, 300).unwrap();
    }
    s.flow(100 * MS, 300);
    s.run(33 * S);
    for relay in [s.m, more[0], more[1]] {
        let status = s.o.agent(relay).status().unwrap();
        assert!(status.relays.iter().all(|r| r.member.is_none()), "{status:#?}");
    }
    assert!(s.by_m(), "{:?}\n{}", s.relays(), s.o.report());
    for (from, to) in [(more[0], more[1]), (more[1], s.a), (s.b, more[0]), (s.a, s.b)] {
        assert!(s.o.received(from, to).unwrap().is_complete(300), "{}", s.o.report());
    }
}

/// A session that nobody needs any more ends after five minutes, at both ends.
#[test]
fn sessions_end_when_no_data_goes_by_relays() {
    let mut s = Story::new(5, NatKind::Symmetric, true);
    s.flow(100 * MS, 200);
    s.run(20 * S);
    assert_eq!(s.sessions_at_m(), 2, "{}", s.o.report());
    s.run(480 * S);
    assert_eq!(s.sessions_at_m(), 0, "{}", s.o.report());
    for end in [s.a, s.b] {
        let status = s.o.agent(end).status().unwrap();
        assert!(status.relays.iter().all(|r| r.member.is_none()), "{status:#?}");
    }
}

#[test]
fn who_is_revoked_is_neither_relayed_for_nor_relays() {
    let mut s = Story::new(6, NatKind::Symmetric, true);
    let cloud = s.o.cloud(NatKind::Symmetric);
    let c = s.o.add_agent(cloud);
    assert!(s.o.join_all(10 * S).unwrap(), "{}", s.o.report());
    s.run(5 * S);
    for (from, to) in [(s.a, c), (c, s.a)] {
        s.o.flow(from, to, 50 * MS, 2_000).unwrap();
    }
    s.flow(50 * MS, 2_000);
    s.run(20 * S);
    assert!(s.by_m() && s.sessions_at_m() == 3, "{:?}\n{}", s.relays(), s.o.report());
    let revoke = |s: &mut Story, id: HostId| {
        let identity = s.o.identity(id).unwrap();
        let until = UnixTime(u64::MAX / 2);
        s.o.revoke(|list| list.nodes.push(RevokedNode { identity, until })).unwrap();
        s.run(5 * S);
    };
    revoke(&mut s, c);
    assert_eq!(s.sessions_at_m(), 2, "{}", s.o.report());
    assert!(s.by_m(), "others are relayed as before");
    let m = s.m;
    revoke(&mut s, m);
    assert_eq!(s.relays(), [Some(1); 2], "{}", s.o.report());
    for end in [s.a, s.b] {
        let status = s.o.agent(end).status().unwrap();
        assert!(status.relays.iter().all(|r| r.member.is_none()), "{status:#?}");
    }
    assert!(s.o.agent(m).status().unwrap().relaying.is_none(), "and it knows");
}
