//! The relay beside coturn: the same clients, the same load, the same link, turn by turn.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::Arguments;
use super::contender::{Contender, Running};
use super::load::{self, Shape};
use crate::histogram;
use crate::link::Link;
use crate::peers::package;
use crate::progress::Progress;
use crate::underlay::Underlay;
use crate::{stats, tables, usage};

/// Pairs of clients of each relay.
const PAIRS: u32 = 50;
/// Payload of a full datagram.
const FULL: usize = 1_400;
/// Payload of a small one, and of a probe.
const SMALL: usize = 200;
/// Of the rate that the relay carries in bulk, for latency under load.
const LOAD: f64 = 0.8;

/// What is measured of throughput.
struct Scenario {
    name: &'static str,
    pairs: usize,
    payload: usize,
    /// Clients send trains, as agents do; else each datagram by a system call of its own, pair by pair.
    is_bulk: bool,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "bulk, 1 pair", pairs: 1, payload: FULL, is_bulk: true },
    Scenario { name: "bulk, 50 pairs", pairs: PAIRS as usize, payload: FULL, is_bulk: true },
    Scenario { name: "single 1400 B", pairs: PAIRS as usize, payload: FULL, is_bulk: false },
    Scenario { name: "single 200 B", pairs: PAIRS as usize, payload: SMALL, is_bulk: false },
];
/// Which of them tells how much the relay carries.
const BULK: usize = 1;

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    relay: Contender,
    round: u32,
    scenario: &'static str,
    figure: Figure,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Figure {
    Rate {
        gbps: f64,
        packets_per_s: f64,
        /// Of one processor second of the relay's process.
        gbit_per_cpu_s: f64,
        packets_per_cpu_s: f64,
        cpu_s_per_gb: f64,
    },
    /// One way, above that of the link alone.
    Added { p50_us: f64, p99_us: f64, load_gbps: f64 },
}

impl Shape {
    /// The same window for both: two trains, or eight datagrams.
    fn of(scenario: &Scenario) -> Self {
        let (train, window) = if scenario.is_bulk { (32, 64) } else { (1, 8) };
        Self { payload: scenario.payload, train, window }
    }
}

/// Measures both relays in turn.
///
/// # Errors
/// If a relay is not installed, cannot be started or does not serve.
pub(super) fn measure_all(arguments: &Arguments) -> anyhow::Result<Vec<Sample>> {
    if let Some(cure) = package::need(&[("coturn", "turnserver")]) {
        bail!("the relay is measured beside coturn; cure: {cure}, or leave it out with --only paths");
    }
    let link = Link::new(Underlay::Veth)?;
    let mut samples = Vec::new();
    let mut progress = Progress::new(2 * arguments.rounds as usize);
    for round in 1..=arguments.rounds {
        // Who is first alternates.
        let order = Contender::ALL.into_iter().cycle().skip(round as usize % 2).take(2);
        for contender in order {
            progress.turn(&format!("round {round}/{} {}", arguments.rounds, contender.name()));
            let figures = one_turn(contender, &link, arguments, &progress)
                .with_context(|| format!("{}, round {round}", contender.name()))?;
            let sample = |(scenario, figure)| Sample { relay: contender, round, scenario, figure };
            samples.extend(figures.into_iter().map(sample));
            link.sweep();
            progress.advance(1);
        }
    }
    Ok(samples)
}

fn one_turn(
    contender: Contender,
    link: &Link,
    arguments: &Arguments,
    progress: &Progress,
) -> anyhow::Result<Vec<(&'static str, Figure)>> {
    let length = Duration::from_secs(arguments.seconds.into());
    let relay = Running::start(contender, link, PAIRS, arguments.threads)?;
    let mut figures = Vec::new();
    for scenario in &SCENARIOS {
        progress.step(scenario.name);
        figures.push((scenario.name, rate(&relay, scenario, length)?));
    }
    let Figure::Rate { packets_per_s, gbps, .. } = figures[BULK].1 else {
        bail!("{} has a rate", SCENARIOS[BULK].name)
    };
    let link_alone = stats::sorted(link_times(link, length)?);
    let background = (Shape::of(&SCENARIOS[BULK]), LOAD * packets_per_s);
    for (name, background, load_gbps) in
        [("latency idle", None, 0.0), ("latency at 80 % load", Some(background), LOAD * gbps)]
    {
        progress.step(name);
        let times = load::latency(&relay.pairs, background, SMALL, length)?;
        let times = histogram::microseconds(&times);
        let added = |share| Some(stats::percentile(&times, share)? - stats::percentile(&link_alone, share)?);
        let (p50_us, p99_us) = added(0.5).zip(added(0.99)).context("no probe arrived")?;
        figures.push((name, Figure::Added { p50_us, p99_us, load_gbps }));
    }
    Ok(figures)
}

fn rate(relay: &Running, scenario: &Scenario, length: Duration) -> anyhow::Result<Figure> {
    let processes = [relay.process.id()];
    let shape = Shape::of(scenario);
    let before = usage::process_seconds(&processes);
    let delivered = load::saturate(&relay.pairs[..scenario.pairs], shape, length)?;
    let cpu = usage::process_seconds(&processes) - before;
    let packets = delivered.datagrams as f64;
    let gigabytes = packets * scenario.payload as f64 / 1e9;
    anyhow::ensure!(packets > 0.0 && cpu > 0.0, "nothing arrived; the relay said:\n{}", relay.process.log());
    Ok(Figure::Rate {
        gbps: gigabytes * 8.0 / delivered.seconds,
        packets_per_s: packets / delivered.seconds,
        gbit_per_cpu_s: gigabytes * 8.0 / cpu,
        packets_per_cpu_s: packets / cpu,
        cpu_s_per_gb: cpu / gigabytes,
    })
}

/// One-way times of the link without a relay, in µs.
fn link_times(link: &Link, length: Duration) -> anyhow::Result<Vec<f64>> {
    let (left, right) = (link.left(), link.right());
    let sender = left.namespace.run(|| super::pair::socket(left.underlay))??;
    let receiver = right.namespace.run(|| super::pair::socket(right.underlay))??;
    sender.connect(receiver.local_addr()?)?;
    let pair = super::pair::Pair { sender, head: Vec::new(), length_at: None, receiver, head_at_receiver: 0 };
    Ok(histogram::microseconds(&load::latency(&[pair], None, SMALL, length)?))
}

/// Medians, and the ratio of both relays round by round.
pub(super) fn text(samples: &[Sample]) -> String {
    type Of = fn(&Figure) -> Option<f64>;
    let rates: [(&str, Of, usize); 4] = [
        ("Gbit/s", |f| if let Figure::Rate { gbps, .. } = f { Some(*gbps) } else { None }, 2),
        (
            "kpps",
            |f| if let Figure::Rate { packets_per_s, .. } = f { Some(packets_per_s / 1e3) } else { None },
            0,
        ),
        (
            "Gbit/CPU s",
            |f| if let Figure::Rate { gbit_per_cpu_s, .. } = f { Some(*gbit_per_cpu_s) } else { None },
            2,
        ),
        (
            "CPU s/GB",
            |f| if let Figure::Rate { cpu_s_per_gb, .. } = f { Some(*cpu_s_per_gb) } else { None },
            3,
        ),
    ];
    let times: [(&str, Of, usize); 3] = [
        ("p50 us", |f| if let Figure::Added { p50_us, .. } = f { Some(*p50_us) } else { None }, 0),
        ("p99 us", |f| if let Figure::Added { p99_us, .. } = f { Some(*p99_us) } else { None }, 0),
        ("load Gbit/s", |f| if let Figure::Added { load_gbps, .. } = f { Some(*load_gbps) } else { None }, 2),
    ];
    let median = |relay, scenario: &str, value: Of| {
        let of = samples.iter().filter(|s| s.relay == relay && s.scenario == scenario);
        stats::median(&stats::sorted(of.filter_map(|s| value(&s.figure))))
    };
    let rows = |names: &[&'static str], columns: &[(&str, Of, usize)]| {
        let row = |relay: Contender, name: &str| {
            let cell = |&(_, value, digits): &(&str, Of, usize)| {
                median(relay, name, value).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
            };
            (format!("{name}, {}", relay.name()), columns.iter().map(cell).collect::<Vec<_>>())
        };
        let all = names.iter().flat_map(|name| Contender::ALL.map(|relay| row(relay, name)));
        let head: Vec<_> = columns.iter().map(|(title, ..)| *title).collect();
        tables::text(&head, all)
    };
    let names = SCENARIOS.map(|scenario| scenario.name);
    let ratio = |name: &str| {
        let per_round = rounds(samples).filter_map(|round| {
            let of = |relay| {
                let figure =
                    samples.iter().find(|s| s.relay == relay && s.scenario == name && s.round == round)?;
                rates[2].1(&figure.figure)
            };
            stats::ratio(of(Contender::Skynet)?, of(Contender::Coturn)?)
        });
        let ratios = stats::sorted(per_round);
        let middle = stats::median(&ratios)?;
        Some(format!("  {name}: {middle:.2} ({:.2} to {:.2})", ratios.first()?, ratios.last()?))
    };
    let ratios: Vec<_> = names.iter().filter_map(|name| ratio(name)).collect();
    format!(
        "\nThe relay beside coturn, medians:\n{}\n\nLatency added one way by relay and second hop:\n{}\n\n\
         What skynet-relay forwards per processor second, coturn = 1, median of the rounds (least to most):\n{}",
        rows(&names, &rates),
        rows(&["latency idle", "latency at 80 % load"], &times),
        ratios.join("\n")
    )
}

fn rounds(samples: &[Sample]) -> impl Iterator<Item = u32> {
    1..=samples.iter().map(|sample| sample.round).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let sample = |relay, round, gbit_per_cpu_s| {
            let figure = Figure::Rate {
                gbps: 1.0,
                packets_per_s: 1.0,
                gbit_per_cpu_s,
                packets_per_cpu_s: 1.0,
                cpu_s_per_gb: 1.0,
            };
            Sample { relay, round, scenario: "single 200 B", figure }
        };
        let samples = [
            sample(Contender::Skynet, 1, 30.0),
            sample(Contender::Coturn, 1, 10.0),
            sample(Contender::Coturn, 2, 2.0),
            sample(Contender::Skynet, 2, 10.0),
        ];
        let text = text(&samples);
        assert!(text.contains("single 200 B: 4.00 (3.00 to 5.00)"), "{text}");
        assert!(text.contains("bulk, 1 pair, coturn"), "{text}");
    }
}
