//! End to end: the real programs over real kernels, in namespaces behind NATs.
//!
//! One binary, so that the story that has to wait two minutes for a rekey runs beside the others. Each story has a lab
//! of its own, with a sniffer that fails it if anything the overlay carries crosses the underlay in clear. Deadlines of
//! the protocol are asserted at three times their value, because two stories share two cores; what was measured is
//! printed (`--nocapture`).

#![expect(clippy::unwrap_used, reason = "a story ends at the first thing that goes wrong")]

mod abuse;
mod attack;
mod boot;
mod bulk;
mod candidates;
mod changes;
mod clones;
mod ecn;
mod elastic;
mod evil;
mod hog;
mod idle;
mod interop;
mod lanes;
mod matrix;
mod member_relays;
mod mtu;
mod names;
mod networks;
mod offload;
mod pairs;
mod paths;
mod policy;
mod refusal;
mod relay;
mod relays;
mod resolved;
mod restart;
mod revoke;
mod roster;
mod rotation;
mod sinks;
mod tls;
mod tokens;
mod trains;
mod why;

use std::time::Duration;

use skynet_tests::fleet::traffic::MARKER;
use skynet_tests::fleet::{Agent, Extra, Fleet, traffic};
use skynet_tests::{Lab, Sniffer};

/// Control channel, enrolment and the relay's bind take a few round trips; three retransmissions of a second each are
/// allowed before that, and the whole of it three times.
const JOIN: Duration = Duration::from_secs(12);
/// The probes of the first round end after 5 s; three times that.
const DIRECT: Duration = Duration::from_secs(15);

/// A lab with its fleet, and with its sniffer unless it is about speed or lets packets out of the overlay.
struct Story {
    fleet: Fleet,
    sniffer: Option<Sniffer>,
    lab: Lab,
}

impl Story {
    fn begin(lab: Lab) -> Self {
        let sniffer = Sniffer::start(&lab, MARKER).unwrap();
        let fleet = Fleet::joined(&lab, JOIN).unwrap();
        Self { fleet, sniffer: Some(sniffer), lab }
    }

    /// Without a sniffer, and with further arguments for each host's agent; nobody has joined yet.
    fn unwatched<'a>(lab: Lab, arguments: impl Fn(&str) -> &'a [&'a str]) -> Self {
        let extra = |host: &str| Extra {
            arguments: arguments(host).iter().map(|&argument| argument.to_owned()).collect(),
            ..Extra::default()
        };
        let fleet = Fleet::start_with(&lab, extra).unwrap();
        Self { fleet, sniffer: None, lab }
    }

    fn sniffer(&self) -> &Sniffer {
        self.sniffer.as_ref().expect("the story began with one")
    }

    /// The proof at the end of every story.
    fn end(self) {
        if let Some(sniffer) = &self.sniffer {
            sniffer.assert_clean();
        }
        let places = self.fleet.scan_for_secrets(&self.lab).unwrap();
        println!("no secret in {places} places");
        drop(self.fleet);
        self.lab.remove().unwrap();
    }
}

/// Pings `to` from `from` until an answer comes; returns how long that took.
fn first_answer(from: &Agent, to: &Agent, within: Duration) -> anyhow::Result<Duration> {
    let target = to.overlay_address()?;
    let start = skynet_tests::clock::now();
    skynet_tests::wait_for(within, &format!("an answer from {} to {}", to.host(), from.host()), || {
        let echoes = traffic::echo_icmp(from.namespace(), target, 1, Duration::from_secs(1))?;
        anyhow::ensure!(echoes.received == 1, "none; {}{}", from.log_end(), to.log_end());
        Ok(start.elapsed())
    })
}
