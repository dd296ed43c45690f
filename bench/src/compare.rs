//! `skynet-bench compare`: all peers, interleaved.
//!
//! A round measures every peer once; rounds repeat, each beginning with another peer. So a machine that gets slower or
//! busier for a while does so to all of them, and a median over rounds compares like with like.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use skynet_tests::fleet;

use crate::link::Link;
use crate::measure::{self, Sample};
use crate::peer::Peer;
use crate::peers;
use crate::report::{Report, Row};

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often every peer is measured; medians are over rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each iperf3 run, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Measure only this peer, and the plain link; can be given several times
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<String>,
    /// Install peers that are missing, by name, with cargo
    #[arg(long)]
    install: bool,
    /// Write medians, ratios and every single sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// If the link cannot be made, a peer that was asked for by name is missing, or any measurement failed; the report is
/// printed all the same.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    fleet::remove_labs_on_signals_and_panics()?;
    let peers = choose(arguments)?;
    let link = Link::new()?;
    let bar = progress_bar(u64::from(arguments.rounds) * (peers.len() * measure::STEPS.len()) as u64);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); peers.len()];
    let mut failures = Vec::new();
    for round in 0..arguments.rounds {
        for turn in 0..peers.len() {
            let index = (turn + round as usize) % peers.len();
            let label = format!("round {}/{} {}", round + 1, arguments.rounds, peers[index].name());
            if !std::io::stderr().is_terminal() {
                eprintln!("{label}");
            }
            match one_turn(&*peers[index], &link, arguments.seconds, &bar, &label) {
                Ok((sample, errors)) => {
                    samples[index].push(sample);
                    failures.extend(errors.iter().map(|error| format!("{label}: {error:#}")));
                }
                Err(error) => failures.push(format!("{label}: {error:#}")),
            }
        }
    }
    bar.finish_and_clear();
    let rows = peers.iter().zip(samples).map(|(peer, samples)| Row::new(&**peer, samples)).collect();
    let report = Report::new(arguments.rounds, arguments.seconds, rows, failures);
    print!("{report}");
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
    }
    ensure!(report.failures.is_empty(), "{} measurements failed, see above", report.failures.len());
    Ok(())
}

fn one_turn(
    peer: &dyn Peer,
    link: &Link,
    seconds: u32,
    bar: &ProgressBar,
    label: &str,
) -> anyhow::Result<(Sample, Vec<anyhow::Error>)> {
    let running = peer.up(link).context("up")?;
    let before = bar.position();
    let result = measure::wait_until_it_answers(link, &running).map(|()| {
        measure::measure(link, &running, seconds, |step| {
            bar.set_message(format!("{label}: {step}"));
            bar.inc(1);
        })
    });
    bar.set_position(before + measure::STEPS.len() as u64);
    running.down();
    result
}

/// The peers to measure: the plain link, and those asked for that can be had.
fn choose(arguments: &Arguments) -> anyhow::Result<Vec<Box<dyn Peer>>> {
    let all = peers::all();
    let names: Vec<_> = all.iter().map(|peer| peer.name()).collect();
    if let Some(unknown) = arguments.peers.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no peer {unknown:?}; there are: {}", names.join(", "));
    }
    let mut chosen = Vec::new();
    for peer in all {
        let is_asked_for = arguments.peers.iter().any(|name| name == peer.name());
        if peer.is_tunnel() && !arguments.peers.is_empty() && !is_asked_for {
            continue;
        }
        if arguments.install && peer.missing().is_some() {
            peer.install().with_context(|| format!("installing {}", peer.name()))?;
        }
        match peer.missing() {
            None => chosen.push(peer),
            Some(cure) if is_asked_for => bail!("{} is not here; cure: {cure}", peer.name()),
            Some(cure) => eprintln!("{} is not here and is left out; cure: {cure}", peer.name()),
        }
    }
    Ok(chosen)
}

fn progress_bar(steps: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(steps), target);
    let style = ProgressStyle::with_template("[{elapsed}] {bar:30} {pos}/{len} {msg} (about {eta} left)")
        .expect("the template is well formed");
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
