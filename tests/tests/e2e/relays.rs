//! Two relays of one network: one is killed, drained or restarted, or both are away.

use std::time::Duration;

use skynet_tests::fleet::traffic::Pinger;
use skynet_tests::fleet::{Agent, Binaries, Extra, Fleet, PathKind, Relay};
use skynet_tests::lab::RELAY_ADDRESSES;
use skynet_tests::transfer::{Amount, Beat, Ends, TcpPlan, tcp};
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::{DIRECT, JOIN, first_answer};

/// What a relay's death may cost relayed pairs is 3 s; three times that.
const FAIL_OVER: Duration = Duration::from_secs(9);
/// Control goes to the other relay within a second or two, and returns 5 to 25 s after the first is back.
const CONTROL: Duration = Duration::from_secs(15);
const RETURN: Duration = Duration::from_secs(60);
/// Another list of relays is with everybody within 5 s; three times that.
const HEARD: Duration = Duration::from_secs(15);
const BEAT: Duration = Duration::from_millis(20);

/// A network with two relays, and an agent on each host.
fn two_relays(title: &str, clouds: &[(&str, NatKind)]) -> (Lab, Fleet, Relay) {
    let (lab, mut first, hosts) = one_relay(title, clouds);
    let second = first.add(&lab, RELAY_ADDRESSES[1]).unwrap();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let fleet = Fleet::joined_to(&lab, first, &hosts, &Extra::default(), JOIN).unwrap();
    for agent in fleet.agents() {
        wait_relays(agent, &[1, 2], JOIN);
    }
    (lab, fleet, second)
}

/// The same, whose second relay is listed when all have joined: it is bound at without a restart of anything.
fn second_relay_later(title: &str, clouds: &[(&str, NatKind)]) -> (Lab, Fleet, Relay) {
    let (lab, first, hosts) = one_relay(title, clouds);
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut fleet = Fleet::joined_to(&lab, first, &hosts, &Extra::default(), JOIN).unwrap();
    let second = fleet.relay_mut().add(&lab, RELAY_ADDRESSES[1]).unwrap();
    let waited = fleet.agents().map(|agent| wait_relays(agent, &[1, 2], HEARD)).max();
    println!("bound at a relay that was listed meanwhile {:.3?} after it was there", waited.unwrap());
    (lab, fleet, second)
}

fn one_relay(title: &str, clouds: &[(&str, NatKind)]) -> (Lab, Relay, Vec<String>) {
    let builder =
        clouds.iter().fold(Lab::builder(title).relay(), |lab, (name, kind)| lab.cloud(name, *kind, 1));
    let lab = builder.build().unwrap();
    let first = Relay::start(&lab, &Binaries::find().unwrap()).unwrap();
    (lab, first, clouds.iter().map(|(name, _)| format!("{name}1")).collect())
}

/// Waits until an agent's sessions are at exactly these relays.
fn wait_relays(agent: &Agent, bound: &[u16], within: Duration) -> Duration {
    let start = clock::now();
    let what = format!("{} bound at relays {bound:?}", agent.host());
    let waited = wait_for(within, &what, || {
        let relays = agent.status()?.relays;
        let mut up: Vec<u16> = relays.iter().filter(|r| r.bound).map(|r| r.relay).collect();
        up.sort_unstable();
        anyhow::ensure!(up == bound, "{relays:?}");
        Ok(())
    });
    waited.unwrap_or_else(|e| panic!("{e:#}{}", agent.log_end()));
    start.elapsed()
}

fn wait_control(agent: &Agent, relay: u16, within: Duration) -> Duration {
    let start = clock::now();
    wait_for(within, &format!("{} joined at relay {relay}", agent.host()), || {
        let relays = agent.status()?.relays;
        anyhow::ensure!(relays.iter().any(|r| r.relay == relay && r.control), "{relays:?}");
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{e:#}{}", agent.log_end()));
    start.elapsed()
}

/// By which relay one agent sends to another.
fn via(from: &Agent, to: &Agent) -> Option<String> {
    let address = to.overlay_address().unwrap();
    let peers = from.status().unwrap().peers;
    peers.into_iter().find(|p| p.ipv4 == Some(address)).and_then(|p| p.via)
}

/// The relay that both ends of a pair send by: of two that are equally near, noise at the start may have chosen either.
fn in_use(one: &Agent, other: &Agent) -> u16 {
    wait_for(DIRECT, "one relay for both ends", || {
        let (there, back) = (via(one, other), via(other, one));
        let number = there.as_deref().and_then(|v| v.strip_prefix("relay ")).and_then(|n| n.parse().ok());
        number.filter(|_| there == back).ok_or_else(|| format!("{there:?} there, {back:?} back"))
    })
    .unwrap()
}

fn beat(from: &Agent, to: &Agent) -> Beat {
    let target = to.overlay_address().unwrap();
    Beat::start(Ends::new(from.namespace(), to.namespace(), target.into()), BEAT).unwrap()
}

#[test]
fn a_killed_relay_breaks_no_connection_and_costs_direct_pairs_nothing() {
    use NatKind::{PortRestricted, Symmetric};
    let clouds = [("a", Symmetric), ("b", Symmetric), ("c", PortRestricted), ("d", PortRestricted)];
    let (lab, mut fleet, mut second) = two_relays("relays-killed", &clouds);
    first_answer(fleet.agent("a1"), fleet.agent("b1"), DIRECT).unwrap();
    fleet.wait_path("c1", "d1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (fleet.agent("a1"), fleet.agent("b1"));
    let used = in_use(a, b);
    let (from, to) = (a.namespace().clone(), b.namespace().clone());
    let target = b.overlay_address().unwrap();
    let beats = [beat(a, b), beat(b, a)];
    let direct = fleet.agent("d1").overlay_address().unwrap();
    let pinger = Pinger::start(fleet.agent("c1").namespace(), direct, BEAT).unwrap();
    let plan =
        TcpPlan { streams: 100, ..TcpPlan::trickle(40, Duration::from_millis(200), Duration::from_secs(12)) };
    assert!(matches!(plan.amount, Amount::For(_)));
    let reports = std::thread::scope(|scope| {
        let streams = scope.spawn(|| tcp(Ends::new(&from, &to, target.into()), &plan));
        std::thread::sleep(Duration::from_secs(4));
        beats.iter().for_each(Beat::mark);
        if used == 1 { fleet.relay_mut() } else { &mut second }.kill().unwrap();
        streams.join().unwrap()
    });
    let reports = reports.unwrap();
    assert_eq!(reports.streams.len(), 100, "every connection came to its end with every byte in order");
    let gaps: Vec<Duration> = beats.iter().map(Beat::longest_gap).collect();
    let echoes = pinger.stop().unwrap();
    println!(
        "relay killed: relayed pairs silent for {gaps:.2?}, 100 TCP connections live, direct {echoes:?}"
    );
    assert!(gaps.iter().all(|gap| *gap <= FAIL_OVER), "{gaps:?}");
    assert_eq!(echoes.received, echoes.sent, "a direct pair lost something");
    let (a, b) = (fleet.agent("a1"), fleet.agent("b1"));
    assert_eq!(in_use(a, b), 3 - used);
    for beat in beats {
        assert_eq!(beat.stop().duplicates, 0);
    }
    drop((fleet, second));
    lab.remove().unwrap();
}

#[test]
fn a_drained_relay_loses_no_packet() {
    let (lab, fleet, second) =
        two_relays("relays-drained", &[("a", NatKind::Symmetric), ("b", NatKind::Symmetric)]);
    first_answer(fleet.agent("a1"), fleet.agent("b1"), DIRECT).unwrap();
    let (a, b) = (fleet.agent("a1"), fleet.agent("b1"));
    let beats = [beat(a, b), beat(b, a)];
    std::thread::sleep(Duration::from_secs(1));
    let used = in_use(a, b);
    let drained = if used == 1 { fleet.relay() } else { &second };
    let start = clock::now();
    let said = drained.command(&["drain", "--json", "--stop"]).unwrap();
    println!("drained after {:.1?}: {}", start.elapsed(), said.trim());
    assert!(said.contains(r#""quiet":true"#), "{said}");
    assert_eq!(in_use(a, b), 3 - used);
    wait_control(a, 3 - used, CONTROL);
    std::thread::sleep(Duration::from_secs(1));
    for beat in beats {
        let report = beat.stop();
        println!("drained: {report:?}");
        assert_eq!((report.arrived, report.duplicates), (report.sent, 0));
    }
    drop((fleet, second));
    lab.remove().unwrap();
}

/// The relay with the registrar goes and comes; then both are away.
#[test]
fn control_goes_on_by_another_relay_and_addresses_that_answer_need_none() {
    let clouds = [("a", NatKind::PortRestricted), ("b", NatKind::Public)];
    let (lab, mut fleet, mut second) = second_relay_later("relays-control", &clouds);
    fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    fleet.relay_mut().kill().unwrap();
    let moved = wait_control(fleet.agent("a1"), 2, CONTROL);
    // What it kept of its peers is written two seconds after it is new.
    std::thread::sleep(Duration::from_secs(3));
    fleet.agent_mut("a1").kill().unwrap();
    fleet.agent_mut("a1").restart().unwrap();
    let joined = fleet.agent("a1").wait_joined(JOIN).unwrap();
    first_answer(fleet.agent("a1"), fleet.agent("b1"), DIRECT).unwrap();
    fleet.relay_mut().restart().unwrap();
    let bound = wait_relays(fleet.agent("b1"), &[1, 2], JOIN);
    let back = wait_control(fleet.agent("b1"), 1, RETURN);
    println!(
        "control at the other relay after {moved:.1?}, joined there {joined:.1?}; bound at the restarted one after {bound:.1?}, control back after {back:.1?}"
    );

    fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (fleet.agent("a1"), fleet.agent("b1"));
    let target = b.overlay_address().unwrap();
    let pinger = Pinger::start(a.namespace(), target, Duration::from_millis(100)).unwrap();
    fleet.relay_mut().kill().unwrap();
    second.kill().unwrap();
    std::thread::sleep(Duration::from_secs(8));
    let echoes = pinger.stop().unwrap();
    assert_eq!(echoes.received, echoes.sent, "{echoes:?}");
    fleet.agent_mut("a1").kill().unwrap();
    fleet.agent_mut("a1").restart().unwrap();
    let alone = first_answer(fleet.agent("a1"), fleet.agent("b1"), 3 * DIRECT).unwrap();
    println!(
        "without relays: a direct pair {echoes:?}, a rebooted agent has its first answer after {alone:.1?}"
    );
    drop((fleet, second));
    lab.remove().unwrap();
}
