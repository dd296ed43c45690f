//! Somebody on the way sees every packet of a pair and answers it with copies from an address of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use skynet_core::path::Path;
use skynet_core::time::{Duration, Instant, Now};
use skynet_sim::host::{Host, Transmit};
use skynet_sim::link::LinkConfig;
use skynet_sim::network::Datagram;
use skynet_sim::topology::NatKind;
use skynet_sim::{HostId, Overlay};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// What passed on the internet and was not the attacker's own.
type Wire = Rc<RefCell<VecDeque<Datagram>>>;

/// Copies kept for later.
const KEPT: usize = 20_000;

/// Sends a copy of everything it sees, at once, from its own address; changed copies; and, seconds later, old ones. What
/// comes back to an address that stands for a victim it passes on to that victim, so that it could live in the middle.
struct Attacker {
    ip: IpAddr,
    wire: Wire,
    /// Whom its port 1000 + i stands for.
    victims: Vec<SocketAddr>,
    kept: VecDeque<Datagram>,
    copies: u64,
    out: VecDeque<Transmit>,
    next: Instant,
}

impl Attacker {
    fn send(&mut self, in_place_of: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let port = match self.victims.iter().position(|v| *v == in_place_of) {
            Some(i) => 1_000 + i,
            None => {
                self.victims.push(in_place_of);
                999 + self.victims.len()
            }
        };
        let from = SocketAddr::new(self.ip, u16::try_from(port).unwrap());
        self.copies += 1;
        self.out.push_back(Transmit { from, to, ttl: None, bytes });
    }
}

impl Host for Attacker {
    fn on_start(&mut self, now: Now) {
        self.next = now.mono;
    }

    fn on_datagram(&mut self, local: SocketAddr, from: SocketAddr, bytes: Vec<u8>, _: Now) {
        if let Some(victim) = usize::from(local.port()).checked_sub(1_000).and_then(|i| self.victims.get(i)) {
            let victim = *victim;
            self.send(from, victim, bytes);
        }
    }

    fn on_timer(&mut self, now: Now) {
        self.next = now.mono + MS;
        let seen: Vec<Datagram> = self.wire.borrow_mut().drain(..).collect();
        for d in seen {
            self.send(d.from, d.to, d.bytes.clone());
            let mut changed = d.bytes.clone();
            let at = self.copies as usize % changed.len().max(1);
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 1 << (self.copies % 8);
            }
            self.send(d.from, d.to, changed);
            self.kept.push_back(d);
            if self.kept.len() > KEPT {
                self.kept.pop_front();
            }
        }
        // One old one each time: what was valid once.
        if let Some(old) = self.kept.pop_front() {
            self.send(old.from, old.to, old.bytes.clone());
            self.kept.push_back(old);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next)
    }
}

/// The attacker on the internet, who sees what passes the wire, and its address.
fn add_attacker(o: &mut Overlay, wire: &Wire) -> (HostId, IpAddr) {
    let (wire, victims, kept, out) = (Rc::clone(wire), Vec::new(), VecDeque::new(), VecDeque::new());
    let attacker = o.topology.add_public_host(Duration::ZERO, |site| {
        Box::new(Attacker { ip: site.ip, wire, victims, kept, copies: 0, out, next: Instant::ZERO })
    });
    (attacker, o.world().host::<Attacker>(attacker).ip)
}

/// Two agents with traffic both ways, and an attacker on the internet between them. Packets towards them take 10 to 30 ms
/// from there, so about half of its copies arrive first.
fn attacked(kinds: [NatKind; 2], lanes: u8, from_start: bool) -> (Overlay, [HostId; 2], HostId) {
    let mut o = Overlay::new(51);
    let link = LinkConfig::latency(10 * MS).with_jitter(20 * MS);
    let clouds = kinds.map(|kind| o.topology.add_cloud_with(kind, kind.config(), link.clone(), link.clone()));
    let hosts = clouds.map(|cloud| o.add_agent_with_lanes(cloud, lanes));
    let wire = Wire::default();
    let (attacker, ip) = add_attacker(&mut o, &wire);
    if !from_start {
        assert!(o.join_all(10 * S).unwrap());
        for (from, to) in [(hosts[0], hosts[1]), (hosts[1], hosts[0])] {
            o.flow(from, to, 20 * MS, 500).unwrap();
        }
        o.world_mut().run_for(10 * S).unwrap();
    }
    let internet = o.topology.internet();
    let tap = move |d: &Datagram| {
        if d.from.ip() != ip && d.to.ip() != ip {
            wire.borrow_mut().push_back(d.clone());
        }
        true
    };
    o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(tap)));
    if from_start {
        assert!(o.join_all(20 * S).unwrap());
    }
    (o, hosts, attacker)
}

/// The attacker is always first: it sees packets before the long part of their way, and has a shorter one.
#[test]
fn who_is_first_with_every_packet_keeps_nobody_from_the_direct_path() {
    let mut o = Overlay::new(52);
    let clouds = [NatKind::Public, NatKind::FullCone].map(|kind| o.cloud(kind));
    let hosts = clouds.map(|cloud| o.add_agent(cloud));
    let wire = Wire::default();
    let (_, ip) = add_attacker(&mut o, &wire);
    let relay = o.world().network().address_of(o.world().attachment(o.relay()));
    assert!(o.join_all(10 * S).unwrap());
    // What it has seen for the first time is held up by what it does with it: the copy goes on first.
    let internet = o.topology.internet();
    let tap = move |d: &Datagram| {
        let own = [d.from.ip(), d.to.ip()].contains(&ip) || [d.from.ip(), d.to.ip()].contains(&relay);
        if !own {
            wire.borrow_mut().push_back(d.clone());
        }
        true
    };
    o.world_mut().network_mut().set_middlebox(internet, Some(Box::new(tap)));
    o.world_mut().network_mut().set_detour(internet, ip, 5 * MS);
    let [a, b] = hosts;
    for (from, to) in [(a, b), (b, a)] {
        o.flow(from, to, 20 * MS, 3_000).unwrap();
    }
    o.world_mut().run_for(61 * S).unwrap();
    assert!(o.is_direct(a, b), "{}", o.report());
    for (from, to) in [(a, b), (b, a)] {
        let book = o.received(from, to).unwrap();
        assert_eq!((book.packets, book.duplicates), (3_000, 0), "{}", o.report());
        let history = o.agent(from).notes().iter().filter(|(_, note)| note.starts_with("path to")).count();
        assert!(history <= 2, "{}", o.report());
    }
}

#[test]
fn who_races_every_packet_from_its_own_address_never_becomes_the_path() {
    use NatKind::*;
    for (kinds, lanes) in [
        ([Public; 2], 1),
        ([FullCone, Public], 4),
        ([PortRestricted; 2], 4),
        ([AddressRestricted, FullCone], 1),
    ] {
        for from_start in [true, false] {
            let (mut o, [a, b], attacker) = attacked(kinds, lanes, from_start);
            for (from, to) in [(a, b), (b, a)] {
                o.flow(from, to, 20 * MS, 1_000).unwrap();
            }
            let ip = o.world().host::<Attacker>(attacker).ip;
            let is_attackers = |path: &Path| matches!(path, Path::Direct { remote } if remote.ip() == ip);
            for _ in 0..250 {
                o.world_mut().run_for(100 * MS).unwrap();
                for (from, to) in [(a, b), (b, a)] {
                    let mut paths = o.lane_paths(from, to).into_iter().filter_map(|(_, path)| path);
                    assert!(!paths.any(|p| is_attackers(&p)), "{kinds:?}\n{}", o.report());
                }
            }
            let copies = o.world().host::<Attacker>(attacker).copies;
            for (from, to) in [(a, b), (b, a)] {
                let status = o.agent(from).status().unwrap();
                let taken = status.peers.iter().flat_map(|p| &p.history).filter_map(|h| h.to);
                assert!(taken.into_iter().all(|path| !is_attackers(&path)), "{kinds:?}\n{}", o.report());
                let book = o.received(from, to).unwrap();
                let sent = if from_start { 1_000 } else { 1_500 };
                assert_eq!(book.duplicates, if from_start { 0 } else { 500 }, "a copy was delivered");
                println!(
                    "{kinds:?}, from the start {from_start}: {copies} copies, {} of {sent} arrived, gap {:?}",
                    book.packets, book.longest_gap
                );
                assert!(book.packets >= sent - 10, "{}\n{}", book.packets, o.report());
                assert!(book.longest_gap <= S || !from_start, "{:?}", book.longest_gap);
            }
            assert!(copies > 5_000 && o.is_direct(a, b), "{kinds:?} {copies}\n{}", o.report());
        }
    }
}
