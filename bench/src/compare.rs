//! `skynet-bench compare`: all peers, interleaved.
//!
//! A round measures every peer once; rounds repeat, each beginning with another peer. So a machine that gets slower or
//! busier for a while does so to all of them, and a median over rounds compares like with like.

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use skynet_tests::fleet;

use crate::link::Link;
use crate::measure::{self, Sample, Step};
use crate::peer::Peer;
use crate::progress::Progress;
use crate::report::{Files, PeerSamples, Report, Run, Settings};
use crate::selection::{self, Selection};

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often every peer is measured; medians are over rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each iperf3 run, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    #[command(flatten)]
    selection: Selection,
    /// Measure only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…")]
    only: Vec<Step>,
    /// Write every single sample, medians and ratios to this file; `render` reads it
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    #[command(flatten)]
    files: Files,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// If the link cannot be made, a peer that was asked for by name is missing, or any measurement failed; the report is
/// printed all the same.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    fleet::remove_labs_on_signals_and_panics()?;
    let peers = arguments.selection.peers()?;
    let underlay = arguments.selection.underlay()?;
    let machine = selection::look_at_machine();
    let link = Link::new(underlay)?;
    let steps = if arguments.only.is_empty() { Step::value_variants() } else { &arguments.only };
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); peers.len()];
    let mut failures = Vec::new();
    {
        let mut progress = Progress::new(arguments.rounds as usize * peers.len() * steps.len());
        for round in 0..arguments.rounds {
            for turn in 0..peers.len() {
                let index = (turn + round as usize) % peers.len();
                let label = format!("round {}/{} {}", round + 1, arguments.rounds, peers[index].name());
                progress.turn(&label);
                match one_turn(&*peers[index], &link, arguments.seconds, steps, &progress) {
                    Ok((sample, errors)) => {
                        samples[index].push(sample);
                        failures.extend(errors.iter().map(|error| format!("{label}: {error:#}")));
                    }
                    Err(error) => failures.push(format!("{label}: {error:#}")),
                }
                sweep(&link, &label, &progress);
            }
        }
    }
    let peers = peers.iter().zip(samples).map(|(peer, samples)| PeerSamples::new(&**peer, samples)).collect();
    let settings = Settings { rounds: arguments.rounds, seconds: arguments.seconds, underlay };
    let report = Report::new(Run::new(machine, settings, peers, failures));
    print!("{report}");
    if let Some(file) = &arguments.json {
        std::fs::write(file, report.json()?).with_context(|| file.display().to_string())?;
    }
    arguments.files.write(&report)?;
    ensure!(report.failures().is_empty(), "{} measurements failed, see above", report.failures().len());
    Ok(())
}

/// One peer up, measured, down.
fn one_turn(
    peer: &dyn Peer,
    link: &Link,
    seconds: u32,
    steps: &[Step],
    progress: &Progress,
) -> anyhow::Result<(Sample, Vec<anyhow::Error>)> {
    progress.step("up");
    let mut done = 0;
    let result = peer.up(link).context("up").and_then(|running| {
        let measured = measure::wait_until_it_answers(link, &running).map(|()| {
            measure::measure(link, &running, seconds, steps, |step| {
                progress.step(step);
                // The steps before this one are over.
                progress.advance(usize::from(done > 0));
                done += 1;
            })
        });
        running.down();
        measured
    });
    progress.advance(steps.len() + 1 - done.max(1));
    result
}

/// The next peer finds the ends as the first one did.
pub(crate) fn sweep(link: &Link, label: &str, progress: &Progress) {
    let left_over = link.sweep();
    if left_over > 0 {
        progress.say(&format!("{label}: ended {left_over} processes it had left behind"));
    }
}
