//! The world itself: order, determinism, budgets, streams, stops.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use skynet_core::time::{Duration, Instant, Now};
use skynet_sim::host::{Queue, StreamEvent, StreamId};
use skynet_sim::invariants::{NoPacketTo, NoSilentTimer, QueuesBounded};
use skynet_sim::link::LinkConfig;
use skynet_sim::network::{Direction, DropCause};
use skynet_sim::topology::{CloudId, NatKind, Topology};
use skynet_sim::toy::{Observer, Puncher, PuncherConfig, Rendezvous, Script};
use skynet_sim::world::Stop;
use skynet_sim::{Host, HostId, RunError, StreamCommand, Transmit};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn script(t: &mut Topology, cloud: CloudId, plan: impl FnOnce(&mut Script)) -> (HostId, IpAddr) {
    let mut ip = None;
    let id = t.add_host(cloud, |site| {
        let mut host = Script::new(site.ip);
        ip = Some(site.ip);
        plan(&mut host);
        Box::new(host)
    });
    (id, ip.unwrap())
}

fn public_script(t: &mut Topology) -> (HostId, IpAddr) {
    let mut ip = None;
    let id = t.add_public_host(10 * MS, |site| {
        ip = Some(site.ip);
        Box::new(Script::new(site.ip).listening())
    });
    (id, ip.unwrap())
}

#[test]
fn datagrams_take_as_long_as_their_links() {
    let mut t = Topology::new(1);
    let (server, server_ip) = public_script(&mut t);
    let cloud = t.add_cloud(NatKind::PortRestricted, 20 * MS);
    script(&mut t, cloud, |h| h.say(5 * MS, 9, SocketAddr::new(server_ip, 7), b"x"));
    t.world.run_for(S).unwrap();
    let received = t.world.host::<Script>(server).received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].after, 5 * MS + 100 * MS / 1_000 + 20 * MS + 10 * MS);
    assert_eq!(received[0].from.to_string(), "20.0.0.1:9");
}

#[test]
fn private_addresses_lead_nowhere_on_the_internet() {
    let mut t = Topology::new(1);
    let cloud = t.add_cloud(NatKind::PortRestricted, MS);
    script(&mut t, cloud, |h| h.say(MS, 9, "10.9.9.9:7".parse().unwrap(), b"x"));
    t.world.run_for(S).unwrap();
    assert_eq!(t.world.stats().drops.get(&DropCause::NoRoute), Some(&1));
}

/// A lossy, jittery world of punchers: everything in it draws randomness.
fn lively(seed: u64) -> Topology {
    let mut t = Topology::new(seed);
    let mut rendezvous = None;
    t.add_public_host(10 * MS, |site| {
        rendezvous = Some(SocketAddr::new(site.ip, 3478));
        Box::new(Rendezvous::default())
    });
    let link = LinkConfig {
        duplicate_ppm: 20_000,
        reorder_ppm: 20_000,
        ..LinkConfig::latency(30 * MS).with_loss(50_000).with_jitter(5 * MS)
    };
    for pair in 0..20u8 {
        for side in 0..2u8 {
            let kind = NatKind::ALL[usize::from(pair + 5 * side) % NatKind::ALL.len()];
            let cloud = t.add_cloud_with(kind, kind.config(), link.clone(), link.clone());
            t.add_host(cloud, |site| {
                Box::new(Puncher::new(PuncherConfig::new(rendezvous.unwrap(), pair, side, site.ip)))
            });
        }
    }
    t.world.add_invariant(QueuesBounded::default());
    t.world.add_invariant(NoSilentTimer);
    t
}

#[test]
fn same_seed_same_trace_and_another_seed_another() {
    let run = |seed| {
        let mut t = lively(seed);
        t.world.run_for(20 * S).unwrap();
        (t.world.trace().hash(), t.world.stats().clone())
    };
    let (hash, stats) = run(1);
    assert!(stats.events > 1_000, "{stats:?}");
    assert_eq!(run(1), (hash, stats));
    assert_ne!(run(2).0, hash);
}

#[test]
fn running_in_slices_is_running_at_once() {
    let mut whole = lively(3);
    whole.world.run_for(5 * S).unwrap();
    let mut sliced = lively(3);
    for _ in 0..500 {
        sliced.world.run_for(10 * MS).unwrap();
    }
    assert_eq!(whole.world.trace().hash(), sliced.world.trace().hash());
}

#[test]
fn host_clocks_differ_and_advance_together() {
    let t = lively(4);
    let (a, b) = (t.world.host_now(HostId(0)), t.world.host_now(HostId(1)));
    assert_ne!(a.mono, b.mono, "an instant of one host means nothing to another");
    assert_eq!(a.unix, b.unix);
}

/// A host that misbehaves as told.
struct Broken {
    ip: IpAddr,
    deadline: Rc<Cell<Option<Instant>>>,
    queue: usize,
    chatter: bool,
}

impl Host for Broken {
    fn on_start(&mut self, _: Now) {}
    fn on_datagram(&mut self, _: SocketAddr, _: SocketAddr, _: Vec<u8>, _: Now) {}
    fn on_timer(&mut self, _: Now) {}
    fn poll_transmit(&mut self) -> Option<Transmit> {
        let from = SocketAddr::new(self.ip, 1);
        self.chatter.then(|| Transmit { from, to: "192.0.2.1:1".parse().unwrap(), ttl: None, bytes: vec![] })
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline.get()
    }
    fn timer_name(&self) -> String {
        "stuck".to_owned()
    }
    fn queues(&self) -> Vec<Queue> {
        vec![Queue { name: "inbox", len: self.queue, cap: 8 }]
    }
}

fn with_broken(deadline: Option<Instant>, queue: usize, chatter: bool) -> Topology {
    let mut t = Topology::new(9);
    t.add_public_host(MS, |site| {
        Box::new(Broken { ip: site.ip, deadline: Rc::new(Cell::new(deadline)), queue, chatter })
    });
    t
}

#[test]
fn host_that_never_rests_is_named_instead_of_hanging() {
    let stuck = RunError::Livelock { host: HostId(0), timer: "stuck".to_owned() };
    assert_eq!(with_broken(Some(Instant::ZERO), 0, false).world.run_for(S), Err(stuck));
    let output = RunError::Livelock { host: HostId(0), timer: "output".to_owned() };
    assert_eq!(with_broken(None, 0, true).world.run_for(S), Err(output));
}

#[test]
fn invariants_end_the_run_where_they_break() {
    let name = |result: Result<(), RunError>| match result {
        Err(RunError::Invariant { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    let mut t = with_broken(None, 9, false);
    t.world.add_invariant(QueuesBounded::default());
    assert_eq!(name(t.world.run_for(S)), "queues bounded");

    // Start at 1 s, so that the deadline at the host's own zero is in the past.
    let mut t = Topology::new(9);
    t.world.run_for(S).unwrap();
    t.add_public_host(MS, |site| {
        let deadline = Rc::new(Cell::new(Some(Instant::ZERO)));
        Box::new(Broken { ip: site.ip, deadline, queue: 0, chatter: false })
    });
    let clock =
        skynet_sim::host::HostClock { mono_start: Duration::ZERO, unix_start: skynet_sim::host::UNIX_START };
    t.world.set_clock(HostId(0), clock);
    t.world.add_invariant(NoSilentTimer);
    assert_eq!(name(t.world.run_for(S)), "no silent timer");

    let mut t = Topology::new(9);
    let cloud = t.add_cloud(NatKind::Public, MS);
    script(&mut t, cloud, |h| h.say(MS, 1, "192.0.2.66:1".parse().unwrap(), b"x"));
    t.world.add_invariant(NoPacketTo::new(|_, to| to.ip().to_string() == "192.0.2.66"));
    assert_eq!(name(t.world.run_for(S)), "no packet to a forbidden sink");
}

#[test]
fn event_budget_ends_every_world() {
    let mut t = lively(5);
    t.world.set_event_budget(100);
    assert_eq!(t.world.run_for(20 * S), Err(RunError::Budget));
    assert_eq!(t.world.stats().events, 100);
}

#[test]
fn powered_off_host_hears_nothing_and_its_successor_does() {
    let mut t = Topology::new(6);
    let (server, server_ip) = public_script(&mut t);
    let cloud = t.add_cloud(NatKind::PortRestricted, MS);
    script(&mut t, cloud, |h| {
        for s in 0..6 {
            h.say(s * S, 9, SocketAddr::new(server_ip, 7), &[s as u8]);
        }
    });
    t.world.run_for(1_500 * MS).unwrap();
    t.world.stop_host(server, Stop::PowerOff);
    t.world.run_for(2 * S).unwrap();
    assert_eq!(t.world.stats().drops.get(&DropCause::HostDown), Some(&2));
    t.world.start_host(server, Box::new(Script::new(server_ip)));
    t.world.run_for(10 * S).unwrap();
    let heard: Vec<u8> = t.world.host::<Script>(server).received().iter().map(|r| r.bytes[0]).collect();
    assert_eq!(heard, [4, 5]);
}

const STREAM: StreamId = StreamId(1);

/// A client behind a NAT, connected to a public server.
fn connected(seed: u64, loss_ppm: u32) -> (Topology, HostId, HostId, CloudId) {
    let mut t = Topology::new(seed);
    let (server, server_ip) = public_script(&mut t);
    let link = LinkConfig::latency(40 * MS).with_loss(loss_ppm);
    let kind = NatKind::UdpBlocked;
    let cloud = t.add_cloud_with(kind, kind.config(), link.clone(), link);
    let (client, _) = script(&mut t, cloud, |_| {});
    let local = SocketAddr::new("10.0.0.10".parse().unwrap(), 0);
    let to = SocketAddr::new(server_ip, 3478);
    t.world
        .with_host(client, |h: &mut Script, _| h.stream(STREAM, StreamCommand::Connect(local, to)))
        .unwrap();
    (t, client, server, cloud)
}

fn closed_at(t: &Topology, host: HostId) -> Option<Duration> {
    let events = t.world.host::<Script>(host).events().iter();
    events.filter(|(_, _, e)| *e == StreamEvent::Closed).map(|(at, ..)| *at).next()
}

#[test]
fn stream_opens_in_one_round_trip_and_shows_the_nats_address() {
    let (mut t, client, server, _) = connected(1, 0);
    t.world.run_for(S).unwrap();
    let events = t.world.host::<Script>(client).events();
    assert_eq!(events, [(2 * (50 * MS + MS / 10), STREAM, StreamEvent::Connected)]);
    let (_, _, accepted) = &t.world.host::<Script>(server).events()[0];
    assert!(matches!(accepted, StreamEvent::Accepted { from, .. } if from.ip().to_string() == "20.0.0.1"));
}

#[test]
fn stream_bytes_arrive_whole_and_in_order_over_a_lossy_link() {
    let (mut t, client, server, _) = connected(2, 100_000);
    t.world.run_for(5 * S).unwrap();
    let sent: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    for chunk in sent.chunks(97) {
        let command = StreamCommand::Send(chunk.to_vec());
        t.world.with_host(client, |h: &mut Script, _| h.stream(STREAM, command)).unwrap();
        t.world.run_for(MS).unwrap();
    }
    t.world.with_host(client, |h: &mut Script, _| h.stream(STREAM, StreamCommand::Close)).unwrap();
    t.world.run_for(60 * S).unwrap();
    let accepted = t.world.host::<Script>(server).events()[0].1;
    assert!(t.world.host::<Script>(server).stream_bytes(accepted) == sent);
    let pieces = t.world.host::<Script>(server).events().len();
    assert!(pieces > sent.len() / 97 + 20, "boundaries are not kept: {pieces} pieces");
    assert!(closed_at(&t, server).is_some(), "closing follows the last byte");
    assert_eq!(t.world.open_streams(), 0);
}

#[test]
fn killed_server_resets_and_refuses_until_it_is_back() {
    let (mut t, client, server, _) = connected(3, 0);
    t.world.run_for(S).unwrap();
    t.world.stop_host(server, Stop::Kill);
    t.world.run_for(S).unwrap();
    assert_eq!(closed_at(&t, client), Some(S + 50 * MS + MS / 10));

    let to = "203.0.113.1:3478".parse().unwrap();
    let local = "10.0.0.10:0".parse().unwrap();
    let connect =
        |id| move |h: &mut Script, _: Now| h.stream(StreamId(id), StreamCommand::Connect(local, to));
    t.world.with_host(client, connect(2)).unwrap();
    t.world.run_for(S).unwrap();
    assert!(t.world.host::<Script>(client).events().iter().any(|(_, id, _)| *id == StreamId(2)), "refused");
    t.world.start_host(server, Box::new(Script::new("203.0.113.1".parse().unwrap()).listening()));
    t.world.with_host(client, connect(3)).unwrap();
    t.world.run_for(S).unwrap();
    let last = t.world.host::<Script>(client).events().last().unwrap();
    assert_eq!((last.1, &last.2), (StreamId(3), &StreamEvent::Connected));
}

#[test]
fn breaks_are_noticed_as_tcp_notices_them() {
    // The machine is gone, or the cable cut: 15 s after the next send.
    for cut in [false, true] {
        let (mut t, client, server, cloud) = connected(4, 0);
        t.world.run_for(S).unwrap();
        let access = t.world.network().access(t.gateway(cloud));
        match cut {
            false => t.world.stop_host(server, Stop::PowerOff),
            true => t.world.set_link_up(access, false),
        }
        t.world.run_for(S).unwrap();
        assert_eq!(closed_at(&t, client), None, "nobody tells");
        t.world
            .with_host(client, |h: &mut Script, _| h.stream(STREAM, StreamCommand::Send(vec![1])))
            .unwrap();
        t.world.run_for(20 * S).unwrap();
        assert_eq!(closed_at(&t, client), Some(17 * S));
    }
    // The NAT forgot: a reset one round trip after the client's next send.
    let (mut t, client, _, cloud) = connected(5, 0);
    t.world.run_for(S).unwrap();
    let gateway = t.gateway(cloud);
    t.world.reboot_nat(gateway);
    t.world.with_host(client, |h: &mut Script, _| h.stream(STREAM, StreamCommand::Send(vec![1]))).unwrap();
    t.world.run_for(20 * S).unwrap();
    assert_eq!(closed_at(&t, client), Some(S + 2 * (50 * MS + MS / 10)));
}

#[test]
fn sender_that_floods_a_stream_loses_it() {
    let (mut t, client, _, _) = connected(6, 0);
    t.world.run_for(S).unwrap();
    for _ in 0..17 {
        let command = StreamCommand::Send(vec![0; 64 << 10]);
        t.world.with_host(client, |h: &mut Script, _| h.stream(STREAM, command)).unwrap();
    }
    t.world.run_for(S).unwrap();
    assert_eq!(closed_at(&t, client), Some(S));
}

#[test]
fn readdressed_nat_shows_its_new_address() {
    let mut t = Topology::new(7);
    let ips = [t.next_public_ip(), t.next_public_ip()];
    let internet = t.internet();
    t.world.add_host(
        internet,
        ips[0],
        LinkConfig::default(),
        LinkConfig::default(),
        Box::new(Observer::new(ips)),
    );
    let cloud = t.add_cloud(NatKind::PortRestricted, MS);
    let server = SocketAddr::new(ips[0], 3478);
    let (host, _) = script(&mut t, cloud, |h| {
        h.say(MS, 5_000, server, &Observer::request(false, false, 1));
        h.say(2 * S, 5_000, server, &Observer::request(false, false, 2));
    });
    t.world.run_for(S).unwrap();
    let gateway = t.gateway(cloud);
    t.world.readdress_nat(gateway, "20.0.0.77".parse().unwrap());
    t.world.run_for(2 * S).unwrap();
    let seen: Vec<String> = t
        .world
        .host::<Script>(host)
        .received()
        .iter()
        .map(|r| Observer::parse(&r.bytes).unwrap().1.to_string())
        .collect();
    assert_eq!(seen, ["20.0.0.1:5000", "20.0.0.77:5000"]);
}

#[test]
fn cut_link_drops_and_heals() {
    let mut t = Topology::new(8);
    let (server, server_ip) = public_script(&mut t);
    let cloud = t.add_cloud(NatKind::PortRestricted, MS);
    script(&mut t, cloud, |h| (0..3).for_each(|s| h.say(s * S, 9, SocketAddr::new(server_ip, 7), b"x")));
    let access = t.world.network().access(t.gateway(cloud));
    t.world.run_for(500 * MS).unwrap();
    t.world.set_link_up(access, false);
    t.world.run_for(S).unwrap();
    t.world.set_link_up(access, true);
    t.world.run_for(S).unwrap();
    assert_eq!(t.world.host::<Script>(server).received().len(), 2);
    assert_eq!(t.world.network_mut().link_mut(access, Direction::Up).counters(), (3, 1));
}
