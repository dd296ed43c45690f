//! Copies of machines: of their disks, and of their memory.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use skynet_core::session::Engine;
use skynet_core::time::Duration;
use skynet_sim::host::AgentHost;
use skynet_sim::invariants::{Invariant, Step};
use skynet_sim::topology::NatKind;
use skynet_sim::world::{Stop, World};
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn says(o: &Overlay, id: HostId, word: &str) -> Option<Duration> {
    let note = o.agent(id).notes().iter().find(|(_, note)| note.contains(word))?;
    Some(o.world().world_time(id, note.0).saturating_since(skynet_core::time::Instant::ZERO))
}

#[test]
fn copy_of_a_disk_is_fenced_and_the_original_loses_nothing() {
    let mut o = Overlay::new(1);
    let clouds = [0, 1, 2].map(|_| o.cloud(NatKind::PortRestricted));
    let (a, b) = (o.add_agent(clouds[0]), o.add_agent(clouds[1]));
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(25 * S).unwrap();
    o.flow(a, b, 50 * MS, 1_200).unwrap();
    o.flow(b, a, 50 * MS, 1_200).unwrap();
    o.world_mut().run_for(5 * S).unwrap();
    let start = o.elapsed();
    let copy = o.copy_agent(a, clouds[2]);
    o.world_mut().run_for(60 * S).unwrap();
    let told = says(&o, copy, "same identity is running").unwrap_or_else(|| panic!("{}", o.report()));
    println!("the copy was told after {:?}", told - start);
    assert!(told - start < 10 * S);
    assert!(!o.agent(copy).is_joined() && o.agent(a).is_joined(), "{}", o.report());
    for (from, to) in [(a, b), (b, a)] {
        let book = o.received(from, to).unwrap();
        assert!(book.is_complete(1_200), "missing {:?}\n{}", book.missing(1_200), o.report());
    }
    assert!(says(&o, a, "same identity").is_none(), "the original heard nothing of it");
}

/// The later of two is the copy, also if it was there first: the earlier process was away for a moment.
#[test]
fn the_process_that_began_earlier_gets_its_place_back() {
    let mut o = Overlay::with_engine(2, Engine::Null);
    let clouds = [0, 1].map(|_| o.cloud(NatKind::PortRestricted));
    let a = o.add_agent(clouds[0]);
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(5 * S).unwrap();
    o.stop_relay(Stop::Kill);
    let copy = o.copy_agent(a, clouds[1]);
    o.world_mut().run_for(4 * S).unwrap();
    o.start_relay();
    o.world_mut().run_for(60 * S).unwrap();
    assert!(o.agent(a).is_joined() && !o.agent(copy).is_joined(), "{}", o.report());
    assert!(says(&o, copy, "same identity is running").is_some(), "{}", o.report());
}

#[test]
fn a_machine_that_was_lost_and_starts_again_is_no_copy() {
    for how in [Stop::Kill, Stop::PowerOff] {
        let mut o = Overlay::with_engine(3, Engine::Null);
        let cloud = o.cloud(NatKind::PortRestricted);
        let a = o.add_agent(cloud);
        assert!(o.join_all(10 * S).unwrap());
        o.world_mut().run_for(5 * S).unwrap();
        o.restart_agent(a, how);
        let start = o.elapsed();
        while !o.agent(a).is_joined() && o.elapsed() - start < 30 * S {
            o.world_mut().run_for(10 * MS).unwrap();
        }
        let took = o.elapsed() - start;
        println!("{how:?}: joined again after {took:?}");
        assert!(took < 5 * S, "{how:?} {took:?}\n{}", o.report());
        o.world_mut().run_for(20 * S).unwrap();
        assert!(says(&o, a, "same identity").is_none(), "{}", o.report());
    }
}

/// What one host sealed.
#[derive(Clone, Default, PartialEq, Eq)]
struct Sealed {
    /// Receiver indices of transport data: each names a key.
    before: BTreeSet<[u8; 4]>,
    after: BTreeSet<[u8; 4]>,
    /// Ephemeral keys of handshakes that it began or answered afterwards: each makes another session's keys.
    ephemerals: BTreeSet<[u8; 32]>,
    /// Tag and nonce of probes afterwards: under one key for each pair of nodes.
    probes: BTreeSet<[u8; 20]>,
    data: usize,
}

struct Watcher {
    host: IpAddr,
    copied: Duration,
    seen: Rc<RefCell<Sealed>>,
}

impl Invariant for Watcher {
    fn name(&self) -> &'static str {
        "sealed"
    }

    fn check(&mut self, world: &World, step: Step<'_>) -> Result<(), String> {
        let is_after = world.now().saturating_since(skynet_core::time::Instant::ZERO) >= self.copied;
        let mut seen = self.seen.borrow_mut();
        for datagram in step.sent.iter().filter(|d| d.from.ip() == self.host) {
            // By a relay: its header is before.
            let by_relay = datagram.bytes.first() == Some(&0xa1);
            let bytes = if by_relay { &datagram.bytes[8..] } else { &datagram.bytes[..] };
            match bytes.first() {
                Some(4) => {
                    let index = *bytes[4..].first_chunk().ok_or("short")?;
                    let set = if is_after { &mut seen.after } else { &mut seen.before };
                    set.insert(index);
                    seen.data += usize::from(is_after);
                }
                // PROTOCOL §2, the paper's §5.4: type 4, sender 4, in a response receiver 4, then the ephemeral key.
                Some(kind @ (1 | 2)) if is_after => {
                    let at = if *kind == 1 { 8 } else { 12 };
                    seen.ephemerals.insert(*bytes[at..].first_chunk().ok_or("short")?);
                }
                Some(0xa0) if is_after => {
                    let nonce = *bytes[4..].first_chunk().ok_or("short")?;
                    if !seen.probes.insert(nonce) {
                        return Err("a probe's nonce was used twice".to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A world up to the moment at which its first machine's memory is copied; what that machine seals from then on, if its
/// hypervisor tells it so with this seed, or not at all.
fn after_the_copy(told: Option<u8>) -> Sealed {
    let mut o = Overlay::new(7);
    let clouds = [0, 1].map(|_| o.cloud(NatKind::PortRestricted));
    let (a, b) = (o.add_agent(clouds[0]), o.add_agent(clouds[1]));
    let seen = Rc::new(RefCell::new(Sealed::default()));
    let copied = 40 * S;
    let host = o.agent(a).config().local.ip();
    o.world_mut().add_invariant(Watcher { host, copied, seen: Rc::clone(&seen) });
    assert!(o.join_all(10 * S).unwrap());
    o.world_mut().run_for(20 * S).unwrap();
    o.flow(a, b, 20 * MS, 2_000).unwrap();
    o.flow(b, a, 20 * MS, 2_000).unwrap();
    let left = copied.saturating_sub(o.elapsed());
    o.world_mut().run_for(left).unwrap();
    if let Some(seed) = told {
        o.world_mut()
            .with_host(a, |agent: &mut AgentHost, now| agent.reset_sessions([seed; 32], now))
            .unwrap();
    }
    o.world_mut().run_for(60 * S).unwrap();
    for (from, to) in [(a, b), (b, a)] {
        let missing = o.received(from, to).unwrap().missing(2_000);
        assert!(missing.len() < 250, "traffic goes on: {} missing\n{}", missing.len(), o.report());
    }
    assert!(o.agent(a).is_joined());
    seen.borrow().clone()
}

/// Two copies of one machine are two runs of one world: the same to the last bit until they are told.
#[test]
fn two_copies_of_a_memory_that_are_told_never_use_a_key_and_counter_both() {
    let untold = after_the_copy(None);
    assert!(untold == after_the_copy(None), "without a word both seal the same");
    assert!(!untold.before.is_disjoint(&untold.after), "under the keys that both have");
    let (one, other) = (after_the_copy(Some(1)), after_the_copy(Some(2)));
    for copy in [&one, &other] {
        assert!(copy.data > 500 && !copy.ephemerals.is_empty() && !copy.probes.is_empty());
        assert!(copy.before.is_disjoint(&copy.after), "data under a key that the other copy has");
    }
    for (x, y) in [(&one, &other), (&one, &untold), (&other, &untold)] {
        assert!(x.ephemerals.is_disjoint(&y.ephemerals), "a handshake that makes the same keys");
        assert!(x.probes.is_disjoint(&y.probes), "a probe's nonce used by both");
    }
}
