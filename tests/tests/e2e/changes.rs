//! Paths break, heal and move under traffic, and its users notice seconds at most: TCP connections survive with every
//! byte, and datagrams tell how long nothing came.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skynet_tests::fleet::PathKind;
use skynet_tests::transfer::{self, Beat, Ends, TcpPlan};
use skynet_tests::{Lab, NatKind, clock, wait_for};

use crate::{DIRECT, Story};

/// Deadlines of the protocol; three times as much is allowed here.
const CUT: Duration = Duration::from_millis(3_500);
const RESTORED: Duration = Duration::from_secs(5);
const DATA_LOST: Duration = Duration::from_secs(6);
const MOVED: Duration = Duration::from_secs(5);

/// Datagrams this often each way.
const BEAT: Duration = Duration::from_millis(20);
/// Longer than any story.
const LONGEST: Duration = Duration::from_secs(120);
/// Writes of the TCP connections.
const TRICKLE: (usize, Duration) = (1_000, Duration::from_millis(10));

/// Two agents that talk directly, and traffic between them in both directions.
struct Talk<'a> {
    story: &'a Story,
    beats: [Beat; 2],
}

impl Talk<'_> {
    /// Lets `act` happen and waits for `settle`, then until both directions are heard: the longest silence of either.
    fn gap(&self, what: &str, settle: Duration, deadline: Duration, act: impl FnOnce(&Lab)) -> Duration {
        self.beats.iter().for_each(Beat::mark);
        act(&self.story.lab);
        std::thread::sleep(settle);
        let heard = wait_for(deadline * 3, what, || {
            let silences = self.beats.each_ref().map(Beat::silence);
            anyhow::ensure!(silences.iter().all(|s| *s < BEAT * 10), "{silences:?}");
            anyhow::Ok(())
        });
        heard.unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()));
        let [there, back] = self.beats.each_ref().map(Beat::longest_gap);
        println!("{what}: silent for {there:.2?} and {back:.2?} (deadline {deadline:?})");
        let gap = there.max(back);
        assert!(gap <= deadline * 3, "{what}: {gap:?}\n{}", self.logs());
        gap
    }

    fn wait_direct(&self, what: &str, deadline: Duration) {
        let took = self.story.fleet.wait_path("a1", "b1", PathKind::Direct, deadline * 3).unwrap();
        println!("{what}: direct after {took:.2?} (deadline {deadline:?})");
    }

    fn logs(&self) -> String {
        self.story.fleet.agents().map(skynet_tests::fleet::Agent::log_end).collect()
    }
}

/// A direct pair with datagrams and a TCP connection each way through everything that `happens`.
fn talking(title: &str, happens: impl FnOnce(&Talk<'_>)) {
    let kinds = [("a", NatKind::PortRestricted), ("b", NatKind::PortRestricted)];
    let lab =
        kinds.into_iter().fold(Lab::builder(title).relay(), |lab, (name, kind)| lab.cloud(name, kind, 1));
    let story = Story::begin(lab.build().unwrap());
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let ends = [(a, b), (b, a)]
        .map(|(from, to)| Ends::new(from.namespace(), to.namespace(), to.overlay_address().unwrap().into()));
    let plan = TcpPlan::trickle(TRICKLE.0, TRICKLE.1, LONGEST);
    let begin = clock::now();
    std::thread::scope(|scope| {
        let transfers = ends.map(|ends| {
            let plan = &plan;
            scope.spawn(move || transfer::tcp(ends, plan))
        });
        let talk = Talk { story: &story, beats: ends.map(|ends| Beat::start(ends, BEAT).unwrap()) };
        std::thread::sleep(Duration::from_millis(500));
        // A story that fails must not wait for the end of its transfers.
        let _over = SetOnDrop(Arc::clone(&plan.is_over));
        happens(&talk);
        assert!(begin.elapsed() < LONGEST, "the TCP connections ended before all had happened");
        plan.is_over.store(true, Ordering::Release);
        let (took, [there, back]) = (begin.elapsed(), talk.beats.map(Beat::stop));
        println!("{title}: {took:.0?}; datagrams {there:?} and {back:?}");
        assert_eq!((there.duplicates, back.duplicates), (0, 0), "something came twice");
        for transfer in transfers {
            let report = transfer.join().unwrap().unwrap();
            println!("TCP: {} bytes as sent, longest stall {:.2?}", report.bytes(), report.longest_stall());
        }
    });
    story.end();
}

/// Set when it goes, also by a panic.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The rule of the internet that drops WireGuard's transport data between the two clouds, and passes probes.
const DATA_ONLY: &str = "iifname { \"to-a\", \"to-b\" } oifname { \"to-a\", \"to-b\" } meta l4proto udp @th,64,32 0x04000000 drop";

#[test]
fn tcp_survives_cuts_of_the_direct_path() {
    talking("cuts", |talk| {
        let between = |lab: &Lab| lab.block_udp_between("a", "b").unwrap();
        talk.gap("direct path cut", Duration::from_secs(4), CUT, between);
        let healed = |lab: &Lab| lab.unblock_udp_between("a", "b").unwrap();
        talk.gap("path restored", Duration::ZERO, CUT, healed);
        talk.wait_direct("path restored", RESTORED);
        let ends = ["a1", "b1"].map(|host| talk.story.lab.public_address(host));
        let one_way = |lab: &Lab| lab.block_packets(ends[0], ends[1]).unwrap();
        talk.gap("one direction dies", Duration::from_secs(4), CUT, one_way);
    });
}

#[test]
fn tcp_survives_a_path_that_drops_data_and_passes_probes() {
    talking("data-dropped", |talk| {
        talk.gap("only data dropped", Duration::from_secs(5), DATA_LOST, |lab| {
            lab.add_rule(DATA_ONLY).unwrap()
        });
    });
}

#[test]
fn tcp_survives_new_ports_new_addresses_and_a_new_interface() {
    talking("moves", |talk| {
        let settle = Duration::from_secs(3);
        talk.gap("NAT rebooted", settle, MOVED, |lab| lab.reboot_nat("b").unwrap());
        talk.wait_direct("NAT rebooted", RESTORED);
        // Another port than before, as a NAT chooses that does not preserve it.
        let other_port = |lab: &Lab| lab.set_nat("b", NatKind::PortRestrictedNotPreserving).unwrap();
        talk.gap("NAT rebooted, new port", settle, MOVED, other_port);
        talk.wait_direct("NAT rebooted, new port", RESTORED);
        let other_address = |lab: &Lab| {
            lab.change_public_address("a").unwrap();
        };
        talk.gap("new public address", settle, MOVED, other_address);
        talk.wait_direct("new public address", RESTORED);
        let other_interface = |lab: &Lab| {
            lab.swap_interface("a1").unwrap();
        };
        talk.gap("interface swapped", settle, MOVED, other_interface);
        talk.wait_direct("interface swapped", RESTORED);
    });
}

#[test]
#[ignore = "for ./x soak: half a minute of waiting"]
fn tcp_survives_nats_that_forget_after_five_seconds() {
    talking("forgetful", |talk| {
        let forgets = |lab: &Lab| {
            for cloud in ["a", "b"] {
                lab.set_mapping_timeouts(cloud, MOVED, MOVED).unwrap();
            }
        };
        talk.gap("mappings of five seconds", Duration::from_secs(25), MOVED, forgets);
        talk.wait_direct("mappings of five seconds", RESTORED);
    });
}

/// Packets of a session with the relay: HELLO and BIND, from any agent.
const BINDS: &str = "oifname \"to-relay\" udp dport 3478 @th,64,8 { 0xa8, 0xaa } counter";

#[test]
fn containers_that_come_and_go_and_a_default_route_that_flaps_cause_no_rebind() {
    talking("containers", |talk| {
        talk.story.lab.add_rule(BINDS).unwrap();
        let containers = |lab: &Lab| {
            for number in 0..5 {
                lab.run_container("a1", number, Duration::from_millis(400)).unwrap();
            }
        };
        let gap = talk.gap("five containers", Duration::from_millis(500), CUT, containers);
        assert!(gap < Duration::from_millis(600), "nothing happened, and yet: {gap:?}");
        assert_eq!(talk.story.lab.rule_packets().unwrap(), [0], "bound anew for nothing");
        let flaps = |lab: &Lab| lab.flap_default_route("a1", 3, Duration::from_millis(500)).unwrap();
        let gap = talk.gap("default route flaps", Duration::from_millis(500), CUT, flaps);
        assert!(gap < Duration::from_millis(1_500), "half a second without a route, and yet: {gap:?}");
        assert_eq!(talk.story.lab.rule_packets().unwrap(), [0], "bound anew for nothing");
        talk.wait_direct("default route flapped", RESTORED);
    });
}

/// A host with two public addresses, of which its peer can reach only the second; the kernel would answer from the first.
#[test]
fn a_host_with_two_addresses_is_reached_by_the_one_its_kernel_would_not_choose() {
    let lab = Lab::builder("two-addresses")
        .relay()
        .cloud("a", NatKind::PortRestricted, 1)
        .cloud("b", NatKind::Public, 1)
        .build()
        .unwrap();
    let (first, nat) = (lab.public_address("b1"), lab.public_address("a1"));
    lab.add_address("b1").unwrap();
    for (from, to) in [(first, nat), (nat, first)] {
        lab.block_packets(from, to).unwrap();
    }
    let story = Story::begin(lab);
    let took = story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    println!("reached by its second address: direct after {took:.1?}");
    let (from, to) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    let ends = Ends::new(from.namespace(), to.namespace(), to.overlay_address().unwrap().into());
    let plan = TcpPlan::ragged(2, transfer::Amount::Bytes(2_000_000));
    transfer::tcp(ends, &plan).unwrap();
    story.end();
}
