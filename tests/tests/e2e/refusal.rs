//! A kernel that refuses an offload at run time: it is given up with one warning, and nothing is lost.

use skynet_tests::fleet::PathKind;
use skynet_tests::syscalls;
use skynet_tests::transfer::{self, Amount, Ends, TcpPlan, Train, UdpPlan};
use skynet_tests::{Lab, NatKind};

use crate::offload::{LARGEST, everything_arrives_as_sent};
use crate::{DIRECT, Story};

/// What the kernel refuses, once, and what the agent makes of it.
struct Refusal {
    /// At the receiver or at the sender.
    at: &'static str,
    /// The thread that receives or sends: its name if it has a half of its own, or both.
    thread: [&'static str; 2],
    call: &'static str,
    error: &'static str,
    /// What is not used any more.
    off: &'static str,
}

const RECEIVES: [&str; 2] = ["skynet-in-0", "skynet-io-0"];
const SENDS: [&str; 2] = ["skynet-out-0", "skynet-io-0"];

const REFUSALS: [Refusal; 2] = [
    Refusal { at: "b1", thread: RECEIVES, call: "writev", error: "EINVAL", off: "coalesce-udp" },
    Refusal { at: "a1", thread: SENDS, call: "sendmsg", error: "EIO", off: "udp-gso" },
];

#[test]
fn an_offload_the_kernel_refuses_at_run_time_is_given_up_and_its_batch_is_not_lost() {
    let lab = Lab::builder("refused").relay().cloud("a", NatKind::Public, 1).cloud("b", NatKind::Public, 1);
    let story = Story::begin(lab.build().unwrap());
    story.fleet.wait_path("a1", "b1", PathKind::Direct, DIRECT).unwrap();
    let (a, b) = (story.fleet.agent("a1"), story.fleet.agent("b1"));
    // Nothing but trains, so that what is refused is one.
    let trains = vec![Train { segment: 1_200, total: 40 * 1_200 }; 40];
    let plan = UdpPlan { trains, ..UdpPlan::trains(LARGEST, true) };
    let ends = Ends::new(a.namespace(), b.namespace(), b.overlay_address().unwrap().into());
    for Refusal { at, thread, call, error, off } in REFUSALS {
        let agent = story.fleet.agent(at);
        assert!(!agent.status().unwrap().offloads_off.contains_key(off));
        let threads = syscalls::threads(agent.id().unwrap(), &thread).unwrap();
        let tracer = syscalls::fail(agent.namespace(), threads[0].0, call, error, (10, 0)).unwrap();
        let report = transfer::udp(ends, &plan).unwrap();
        drop(tracer);
        assert_eq!(report.datagrams, 40 * 40);
        let status = agent.status().unwrap();
        println!("{at}: {error} from {call}, off: {:?}", status.offloads_off);
        assert!(status.offloads_off.contains_key(off), "{:?}; {}", status.offloads_off, agent.log_end());
        let warnings = agent.log_end().lines().filter(|line| line.contains("WARN")).count();
        assert_eq!(warnings, 1, "{}", agent.log_end());
    }
    // By TCP, where also acknowledgements are written: what they lose is sent again.
    let threads = syscalls::threads(b.id().unwrap(), &RECEIVES).unwrap();
    let tracer = syscalls::fail(b.namespace(), threads[0].0, "writev", "EINVAL", (20, 7)).unwrap();
    transfer::tcp(ends, &TcpPlan::bulk(2, Amount::Bytes(5_000_001))).unwrap();
    drop(tracer);
    let off = b.status().unwrap().offloads_off;
    assert!(off.contains_key("coalesce-tcp"), "{off:?}");
    everything_arrives_as_sent(a, b, 1);
    story.end();
}
