//! `skynet-demo`: three clouds, a relay and six agents on this machine, and what they achieve.
//!
//! ```text
//!   paris1 paris2      tokyo1 tokyo2      austin1 austin2
//!     └──┬──┘            └──┬──┘             └──┬──┘
//!   port-restricted NAT   symmetric NAT     public addresses
//!        └──────────────── internet ────────────┘
//!                             │
//!                           relay
//! ```
//!
//! It promises that every host reaches every other, directly wherever the NATs allow it, and fails if one does not.
//! Nothing leaves the namespaces, and nothing of it remains, unless asked to stay by `--keep`.

mod matrix;
mod progress;
mod report;
mod throughput;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use skynet_tests::fleet::{self, Fleet};
use skynet_tests::{Lab, NatKind, clock, lab};

use progress::Progress;
use report::Report;

/// One who joins must see its first packet go through within seconds; a busy machine gets three times as long.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Parser)]
#[command(version, about = "Three clouds behind NATs on this machine, joined by skynet")]
struct Arguments {
    /// Leave everything running, and say how to look around
    #[arg(long, conflicts_with = "clean")]
    keep: bool,
    /// Remove what --keep, or a demo or test that was killed, has left behind
    #[arg(long)]
    clean: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Length of each iperf3 run, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.clean { clean() } else { demo(&arguments) };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            lab::yield_to_signals();
            eprintln!("skynet-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> anyhow::Result<bool> {
    let removed = fleet::remove_all_stale()?;
    match removed.len() {
        0 => println!("nothing to clean"),
        count => println!("removed {count}: {}", removed.join(" ")),
    }
    Ok(true)
}

fn demo(arguments: &Arguments) -> anyhow::Result<bool> {
    fleet::remove_labs_on_signals_and_panics()?;
    let start = clock::now();
    let progress = Progress::new();
    let mut report = Report::default();

    progress.step("three clouds of two hosts, and an internet");
    let lab = Lab::builder("demo")
        .relay()
        .cloud("paris", NatKind::PortRestricted, 2)
        .cloud("tokyo", NatKind::Symmetric, 2)
        .cloud("austin", NatKind::Public, 2)
        .build()?;
    report.lab_ms = milliseconds(lab.setup_time());

    progress.step("one relay and six agents");
    let joining = clock::now();
    let fleet = Fleet::start(&lab)?;
    for agent in fleet.agents() {
        progress.detail(&format!("waiting for {} to join", agent.host()));
        agent.wait_joined(JOIN_TIMEOUT.saturating_sub(joining.elapsed()))?;
    }
    report.join_ms = milliseconds(joining.elapsed());

    matrix::find_paths(&fleet, &progress, &mut report)?;
    matrix::ping_all(&fleet, &progress, &mut report)?;
    throughput::measure(&lab, &fleet, arguments.seconds, &progress, &mut report)?;
    let watched = fleet.agent("paris1");
    let status = watched.command(&["status"])?.stdout;
    progress.finish();
    report.total_ms = milliseconds(start.elapsed());

    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print(&status);
    }
    let is_well = report.failures.is_empty();
    if arguments.keep {
        keep(lab, fleet, arguments.json)?;
    }
    Ok(is_well)
}

/// Leaves everything running and says how to look around; on standard error beside JSON.
fn keep(lab: Lab, fleet: Fleet, json: bool) -> anyhow::Result<()> {
    let agent = fleet.agent("paris1");
    let enter = format!("ip netns exec {}", agent.namespace().name());
    let (program, socket) = (agent.program().display(), agent.socket());
    let other = fleet.agent("tokyo1").overlay_address()?;
    let text = format!(
        "The lab is left running. Look around:\n  \
         {enter} {program} status --socket {socket}\n  \
         {enter} {program} ping tokyo1 --socket {socket}\n  \
         {enter} ping {other}\n  \
         ip netns list | grep {prefix}          every host, router and the relay\n\
         Remove it:\n  \
         ./x clean",
        socket = socket.display(),
        prefix = lab.prefix(),
    );
    fleet.leave_running();
    lab.leak().context("keeping the lab")?;
    if json {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
