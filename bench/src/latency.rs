//! `skynet-bench latency`: round trips in detail, with nothing else going on and beside a transfer.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use skynet_tests::fleet;
use skynet_tests::iperf::Options;

use crate::compare::sweep;
use crate::histogram::{self, Percentiles};
use crate::link::Link;
use crate::machine::Machine;
use crate::measure;
use crate::peer::{Peer, Running};
use crate::progress::Progress;
use crate::selection::{self, Selection};
use crate::underlay::Underlay;
use crate::{echo, tables};

/// Arguments of `latency`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Length of each of the four parts, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=600))]
    seconds: u32,
    /// How often every peer is measured; all round trips of a peer count as one series
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    selection: Selection,
    /// Leave the histograms out
    #[arg(long)]
    brief: bool,
    /// Write every round trip and the percentiles to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The parts: what is sent, and whether a transfer runs beside.
const PARTS: [(&str, bool); 4] =
    [("ping idle", false), ("ping loaded", true), ("UDP 64 B idle", false), ("UDP 64 B loaded", true)];
const PINGS_PER_SECOND: u32 = 100;

/// One part of one peer, all rounds together.
#[derive(Debug, Serialize)]
struct Series {
    peer: String,
    part: &'static str,
    sent: u32,
    percentiles_us: Option<Percentiles>,
    /// Ascending.
    round_trips_us: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: &'static str,
    machine: &'a Machine,
    underlay: Underlay,
    series: &'a [Series],
    failures: &'a [String],
}

/// Measures, prints, writes.
///
/// # Errors
/// As `compare`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    fleet::remove_labs_on_signals_and_panics()?;
    let peers = arguments.selection.peers()?;
    let underlay = arguments.selection.underlay()?;
    let machine = selection::look_at_machine();
    let link = Link::new(underlay)?;
    let (mut series, mut failures) = (Vec::new(), Vec::new());
    {
        let mut progress = Progress::new(arguments.rounds as usize * peers.len() * PARTS.len());
        for round in 0..arguments.rounds as usize {
            for turn in 0..peers.len() {
                let peer = &*peers[(turn + round) % peers.len()];
                let label = format!("round {}/{} {}", round + 1, arguments.rounds, peer.name());
                progress.turn(&label);
                let result = one_turn(peer, &link, arguments.seconds, &mut series, &progress);
                failures.extend(result.err().map(|error| format!("{label}: {error:#}")));
                sweep(&link, &label, &progress);
            }
        }
    }
    finish(&mut series, &peers);
    println!("{}\n", machine.summary());
    print!("{}", text(&series, arguments.brief));
    failures.iter().for_each(|failure| println!("FAILED {failure}"));
    if let Some(file) = &arguments.json {
        let document = Document {
            schema: "skynet-bench-latency/1",
            machine: &machine,
            underlay,
            series: &series,
            failures: &failures,
        };
        std::fs::write(file, serde_json::to_string(&document)? + "\n")
            .with_context(|| file.display().to_string())?;
    }
    ensure!(failures.is_empty(), "{} measurements failed, see above", failures.len());
    Ok(())
}

fn one_turn(
    peer: &dyn Peer,
    link: &Link,
    seconds: u32,
    series: &mut Vec<Series>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let running = peer.up(link).context("up")?;
    let result = measure::wait_until_it_answers(link, &running).and_then(|()| {
        for (part, is_loaded) in PARTS {
            progress.step(part);
            let (sent, round_trips) =
                one_part(link, &running, seconds, part, is_loaded).with_context(|| part)?;
            progress.advance(1);
            let us = histogram::microseconds(&round_trips);
            match series.iter_mut().find(|s| s.peer == peer.name() && s.part == part) {
                Some(known) => {
                    known.sent += sent;
                    known.round_trips_us.extend(us);
                }
                None => series.push(Series {
                    peer: peer.name().to_owned(),
                    part,
                    sent,
                    percentiles_us: None,
                    round_trips_us: us,
                }),
            }
        }
        Ok(())
    });
    running.down();
    result
}

/// Requests sent, and the round trips of those answered.
fn one_part(
    link: &Link,
    running: &Running,
    seconds: u32,
    part: &str,
    is_loaded: bool,
) -> anyhow::Result<(u32, Vec<Duration>)> {
    let ask = || {
        if part.starts_with("ping") {
            let report = measure::round_trips(link, running, seconds * PINGS_PER_SECOND)?;
            Ok((report.sent, report.round_trips))
        } else {
            echo::round_trips(link, running.target, Duration::from_secs(seconds.into()))
        }
    };
    if is_loaded {
        // Long enough for slow start before and for stragglers after.
        let options = Options { seconds: seconds + 2, ..Options::default() };
        measure::beside(link, running, &options, ask)
    } else {
        ask()
    }
}

/// Percentiles, and peers in their usual order.
fn finish(series: &mut [Series], peers: &[Box<dyn Peer>]) {
    for one in series.iter_mut() {
        one.round_trips_us.sort_by(f64::total_cmp);
        one.percentiles_us = Percentiles::of(one.sent, &one.round_trips_us);
    }
    let place = |name: &str| peers.iter().position(|peer| peer.name() == name);
    series.sort_by_key(|one| (PARTS.iter().position(|(part, _)| *part == one.part), place(&one.peer)));
}

fn text(series: &[Series], is_brief: bool) -> String {
    let mut text = String::new();
    for (part, _) in PARTS {
        let head = ["min", "p50", "p90", "p99", "p99.9", "max", "lost %"];
        let of_part: Vec<_> = series.iter().filter(|one| one.part == part).collect();
        let rows = of_part.iter().map(|one| (one.peer.clone(), cells(one)));
        text += &format!("{part}, round trip in us\n{}\n", tables::text(&head, rows));
        for one in of_part.iter().filter(|_| !is_brief) {
            text += &format!("  {}\n{}", one.peer, histogram::text(&one.round_trips_us));
        }
        text.push('\n');
    }
    text
}

fn cells(series: &Series) -> Vec<String> {
    let Some(p) = &series.percentiles_us else { return vec!["-".to_owned(); 7] };
    let lost = (1.0 - p.answered as f64 / f64::from(p.sent.max(1))).max(0.0) * 100.0;
    let values = [p.min, p.p50, p.p90, p.p99, p.p999, p.max].into_iter().map(|us| format!("{us:.0}"));
    values.chain([format!("{lost:.1}")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_percentiles_loss_and_a_histogram() {
        let round_trips_us: Vec<f64> = (1..=90).map(f64::from).collect();
        let percentiles_us = Percentiles::of(100, &round_trips_us);
        let series =
            [Series { peer: "skynet".into(), part: "ping idle", sent: 100, percentiles_us, round_trips_us }];
        let full = text(&series, false);
        let row = full.lines().find(|line| line.contains("skynet")).unwrap();
        let cells: Vec<_> = row.split_whitespace().collect();
        assert_eq!(cells, ["skynet", "1", "45", "81", "90", "90", "90", "10.0"], "{full}");
        assert!(full.contains('#') && !text(&series, true).contains('#'));
    }
}
