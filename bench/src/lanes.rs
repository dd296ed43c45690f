//! `skynet-bench lanes`: what more lanes bring, on a free link and where a router polices each UDP 5-tuple.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use skynet_tests::fleet;
use skynet_tests::iperf::Options;

use crate::compare::sweep;
use crate::link::Link;
use crate::machine::Machine;
use crate::measure;
use crate::peer::{Peer as _, Running};
use crate::peers::skynet_mesh::{MAX_LANES, SkynetMesh, agent_knows};
use crate::progress::Progress;
use crate::selection;
use crate::underlay::Underlay;
use crate::{stats, tables, usage};

/// Arguments of `lanes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Numbers of lanes to compare
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,…")]
    lanes: Vec<u32>,
    /// What the router grants each UDP 5-tuple, in Mbit/s
    #[arg(long, default_value_t = 200, value_name = "MBIT/S", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    police: u32,
    /// TCP streams
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=128))]
    streams: u32,
    /// How often each combination is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each iperf3 run, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One combination in one round.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    lanes: u32,
    /// Rate per 5-tuple; nothing without a policer.
    police_mbps: Option<u32>,
    gbps: f64,
    resent: u64,
    machine_cpu_per_gb: f64,
    tunnel_cpu_per_gb: f64,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: &'static str,
    machine: &'a Machine,
    streams: u32,
    samples: &'a [Sample],
    failures: &'a [String],
}

/// Measures, prints, writes.
///
/// # Errors
/// If the agent has no lanes to limit, the link cannot be made, or any measurement failed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        agent_knows(MAX_LANES)?,
        "this skynet-agent does not know {MAX_LANES} (see skynet-agent run --help): it has one lane, nothing to compare"
    );
    fleet::remove_labs_on_signals_and_panics()?;
    // What polices datagrams must see datagrams, and not trains of them.
    let underlay = Underlay::Wire;
    if let Some(cure) = underlay.missing() {
        anyhow::bail!("the ends must cut trains, which needs ethtool; cure: {cure}");
    }
    let machine = selection::look_at_machine();
    let link = Link::routed(underlay)?;
    let mut combinations: Vec<_> = arguments.lanes.iter().map(|&lanes| (lanes, None)).collect();
    combinations.extend(arguments.lanes.iter().map(|&lanes| (lanes, Some(arguments.police))));
    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    {
        let mut progress = Progress::new(arguments.rounds as usize * combinations.len());
        for round in 0..arguments.rounds as usize {
            for turn in 0..combinations.len() {
                let (lanes, police) = combinations[(turn + round) % combinations.len()];
                let label = format!("round {}/{} {}", round + 1, arguments.rounds, name(lanes, police));
                progress.turn(&label);
                match one_turn(&link, lanes, police, arguments) {
                    Ok(sample) => samples.push(sample),
                    Err(error) => failures.push(format!("{label}: {error:#}")),
                }
                sweep(&link, &label, &progress);
                progress.advance(1);
            }
        }
    }
    println!("{}\n\n{} TCP streams through a router:", machine.summary(), arguments.streams);
    println!("{}", text(&samples, &combinations));
    failures.iter().for_each(|failure| println!("FAILED {failure}"));
    if let Some(file) = &arguments.json {
        let (schema, streams) = ("skynet-bench-lanes/1", arguments.streams);
        let document =
            Document { schema, machine: &machine, streams, samples: &samples, failures: &failures };
        std::fs::write(file, serde_json::to_string_pretty(&document)? + "\n")
            .with_context(|| file.display().to_string())?;
    }
    ensure!(failures.is_empty(), "{} measurements failed, see above", failures.len());
    Ok(())
}

fn one_turn(link: &Link, lanes: u32, police: Option<u32>, arguments: &Arguments) -> anyhow::Result<Sample> {
    match police {
        Some(rate) => link.router().police_udp_flows(rate)?,
        None => link.router().unpolice()?,
    }
    let running = SkynetMesh::with_lanes(lanes).up(link).context("up")?;
    let result = measured(link, &running, arguments);
    running.down();
    let (gbps, resent, cost) = result?;
    Ok(Sample {
        lanes,
        police_mbps: police,
        gbps,
        resent,
        machine_cpu_per_gb: cost.machine,
        tunnel_cpu_per_gb: cost.processes,
    })
}

fn measured(
    link: &Link,
    running: &Running,
    arguments: &Arguments,
) -> anyhow::Result<(f64, u64, usage::Cost)> {
    measure::wait_until_it_answers(link, running)?;
    let tunnel = link.processes();
    let meter = usage::Meter::start(&tunnel);
    let options = Options { seconds: arguments.seconds, streams: arguments.streams, ..Options::default() };
    let report = measure::iperf(link, running, &options)?;
    let cost = meter.per_gigabyte(report.bits_per_second * f64::from(arguments.seconds) / 8e9)?;
    Ok((report.bits_per_second / 1e9, report.retransmits, cost))
}

fn name(lanes: u32, police: Option<u32>) -> String {
    let policed = police.map_or("no policer".to_owned(), |rate| format!("{rate} Mbit/s per 5-tuple"));
    format!("{lanes} lane{}, {policed}", if lanes == 1 { "" } else { "s" })
}

/// Medians over rounds.
fn text(samples: &[Sample], combinations: &[(u32, Option<u32>)]) -> String {
    let head = ["Gbit/s", "lowest - highest", "resent", "CPU tunnel s/GB", "machine s/GB"];
    let rows = combinations.iter().map(|&(lanes, police)| {
        let of: Vec<_> = samples.iter().filter(|s| (s.lanes, s.police_mbps) == (lanes, police)).collect();
        let median = |value: fn(&Sample) -> f64, digits: usize| {
            let values = stats::sorted(of.iter().map(|sample| value(sample)));
            stats::median(&values).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let rates = stats::sorted(of.iter().map(|sample| sample.gbps));
        let spread = match (rates.first(), rates.last()) {
            (Some(low), Some(high)) => format!("{low:.2} - {high:.2}"),
            _ => "-".to_owned(),
        };
        let cells = vec![
            median(|s| s.gbps, 2),
            spread,
            median(|s| s.resent as f64, 0),
            median(|s| s.tunnel_cpu_per_gb, 2),
            median(|s| s.machine_cpu_per_gb, 2),
        ];
        (name(lanes, police), cells)
    });
    tables::text(&head, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policed_and_free_samples_are_not_mixed() {
        let sample = |lanes, police_mbps, gbps| Sample {
            lanes,
            police_mbps,
            gbps,
            resent: 7,
            machine_cpu_per_gb: 4.0,
            tunnel_cpu_per_gb: 3.0,
        };
        let samples = [
            sample(1, None, 3.0),
            sample(1, None, 4.0),
            sample(1, Some(200), 0.19),
            sample(4, Some(200), 0.75),
        ];
        let text = text(&samples, &[(1, None), (1, Some(200)), (4, Some(200)), (2, None)]);
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        let free = line("1 lane, no policer");
        assert!(free.contains(" 3.50 ") && free.contains(" 3.00 - 4.00 "), "{text}");
        assert!(line("1 lane, 200 Mbit/s").contains("0.19"), "{text}");
        assert!(line("4 lanes, 200 Mbit/s").contains("0.75"), "{text}");
        assert!(line("2 lanes, no policer").contains('-'), "{text}");
    }
}
