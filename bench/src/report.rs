//! Medians over rounds and their ratios, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::measure::Sample;
use crate::metric::{METRICS, Metric};
use crate::peer::Peer;

/// The whole comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    rounds: u32,
    seconds: u32,
    rows: Vec<Row>,
    /// What could not be measured, a sentence each.
    pub(crate) failures: Vec<String>,
}

/// What all rounds say about one peer.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    version: String,
    is_tunnel: bool,
    medians: BTreeMap<Metric, f64>,
    /// Lowest and highest of all rounds: the noise.
    spread: BTreeMap<Metric, (f64, f64)>,
    /// Median over the median of the plain link.
    to_direct: BTreeMap<Metric, f64>,
    /// Median over that of the best other tunnel.
    to_best_other: BTreeMap<Metric, f64>,
    samples: Vec<Sample>,
}

impl Row {
    /// Medians of `samples`; ratios follow in [`Report::new`].
    pub(crate) fn new(peer: &dyn Peer, samples: Vec<Sample>) -> Self {
        Self::of(peer.name(), peer.describe(), peer.is_tunnel(), samples)
    }

    fn of(name: &'static str, version: String, is_tunnel: bool, samples: Vec<Sample>) -> Self {
        let mut medians = BTreeMap::new();
        let mut spread = BTreeMap::new();
        for metric in METRICS {
            let mut values: Vec<f64> =
                samples.iter().filter_map(|sample| sample.get(&metric).copied()).collect();
            values.sort_by(f64::total_cmp);
            if let (Some(median), Some(&low), Some(&high)) = (median(&values), values.first(), values.last())
            {
                medians.insert(metric, median);
                spread.insert(metric, (low, high));
            }
        }
        let (to_direct, to_best_other) = Default::default();
        Self { name, version, is_tunnel, medians, spread, to_direct, to_best_other, samples }
    }
}

impl Report {
    /// Puts rows beside each other.
    pub(crate) fn new(rounds: u32, seconds: u32, mut rows: Vec<Row>, failures: Vec<String>) -> Self {
        let medians: Vec<_> = rows.iter().map(|row| (row.is_tunnel, row.medians.clone())).collect();
        for (index, row) in rows.iter_mut().enumerate() {
            for metric in METRICS.into_iter().filter(|metric| metric.has_ratio()) {
                let Some(own) = row.medians.get(&metric).copied() else { continue };
                let of = |wanted: &dyn Fn(usize, bool) -> bool| {
                    let candidates =
                        medians.iter().enumerate().filter(|(i, (tunnel, _))| wanted(*i, *tunnel));
                    let values = candidates.filter_map(|(_, (_, medians))| medians.get(&metric).copied());
                    let best = if metric.more_is_better() { f64::max } else { f64::min };
                    values.reduce(best).filter(|value| *value > 0.0)
                };
                if let Some(direct) = of(&|_, tunnel| !tunnel) {
                    row.to_direct.insert(metric, own / direct);
                }
                if let Some(other) = of(&|i, tunnel| tunnel && i != index).filter(|_| row.is_tunnel) {
                    row.to_best_other.insert(metric, own / other);
                }
            }
        }
        Self { schema: "skynet-bench-compare/1", rounds, seconds, rows, failures }
    }

    fn values(&self) -> Table {
        let mut table = table(METRICS.iter().map(|metric| metric.title()));
        for row in &self.rows {
            table.add_row(std::iter::once(row.name.to_owned()).chain(METRICS.iter().map(|metric| {
                let value = row.medians.get(metric);
                value.map_or("-".to_owned(), |value| format!("{value:.*}", metric.decimals()))
            })));
        }
        aligned(table)
    }

    fn ratios(&self) -> Table {
        let metrics: Vec<_> = METRICS.into_iter().filter(|metric| metric.has_ratio()).collect();
        let mut table = table(metrics.iter().map(|metric| {
            let title = metric.title();
            title.split_once('\n').map_or(title, |(title, _unit)| title)
        }));
        for row in &self.rows {
            table.add_row(std::iter::once(row.name.to_owned()).chain(metrics.iter().map(|metric| {
                let ratio =
                    |of: &BTreeMap<Metric, f64>| of.get(metric).map_or("-".into(), |r| format!("{r:.2}"));
                format!("{} / {}", ratio(&row.to_direct), ratio(&row.to_best_other))
            })));
        }
        aligned(table)
    }

    fn noise(&self) -> Table {
        let metrics = [Metric::TcpOneGbps, Metric::Udp64Kpps, Metric::IdleRttUs];
        let mut table = table(metrics.iter().map(|metric| metric.title()));
        for row in &self.rows {
            table.add_row(std::iter::once(row.name.to_owned()).chain(metrics.iter().map(|metric| {
                let digits = metric.decimals();
                row.spread
                    .get(metric)
                    .map_or("-".to_owned(), |(low, high)| format!("{low:.digits$} - {high:.digits$}"))
            })));
        }
        aligned(table)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Medians of {} rounds of {} s, two namespaces joined by a veth:",
            self.rounds, self.seconds
        )?;
        writeln!(f, "{}\n", self.values())?;
        writeln!(f, "Ratios: to the plain link / to the best other tunnel:")?;
        writeln!(f, "{}\n", self.ratios())?;
        writeln!(f, "Lowest and highest round; a ratio within this noise says nothing:")?;
        writeln!(f, "{}\n", self.noise())?;
        for row in &self.rows {
            writeln!(f, "{:13} {}", row.name, row.version)?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED {failure}")?;
        }
        Ok(())
    }
}

/// The middle value of sorted ones; the mean of both if there are two.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

fn table<'a>(titles: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(std::iter::once("").chain(titles));
    table
}

/// Names to the left, figures to the right.
fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, is_tunnel: bool, gbps: &[f64], rtt_us: f64) -> Row {
        let samples = gbps
            .iter()
            .map(|&gbps| Sample::from([(Metric::TcpOneGbps, gbps), (Metric::IdleRttUs, rtt_us)]))
            .collect();
        Row::of(name, String::new(), is_tunnel, samples)
    }

    #[test]
    fn compares_with_the_link_and_with_the_best_other_tunnel() {
        let rows = vec![
            row("direct", false, &[8.0, 10.0, 9.0], 50.0),
            row("one", true, &[3.0, 2.0, 4.0], 200.0),
            row("two", true, &[1.0, 2.0], 100.0),
            row("three", true, &[0.5], 400.0),
        ];
        let report = Report::new(3, 1, rows, Vec::new());
        assert_eq!(report.rows[1].medians[&Metric::TcpOneGbps], 3.0);
        assert_eq!(report.rows[1].spread[&Metric::TcpOneGbps], (2.0, 4.0));
        assert_eq!(report.rows[1].to_direct[&Metric::TcpOneGbps], 3.0 / 9.0);
        assert_eq!(report.rows[1].to_best_other[&Metric::TcpOneGbps], 2.0);
        assert_eq!(report.rows[2].to_best_other[&Metric::TcpOneGbps], 0.5);
        // Less is better: the best other tunnel is the quicker one.
        assert_eq!(report.rows[1].to_best_other[&Metric::IdleRttUs], 2.0);
        assert_eq!(report.rows[3].to_best_other[&Metric::IdleRttUs], 4.0);
        assert!(report.rows[0].to_best_other.is_empty());
    }

    #[test]
    fn a_measurement_that_failed_is_a_gap_and_not_a_zero() {
        let report = Report::new(1, 1, vec![row("direct", false, &[], 0.0)], vec!["why".to_owned()]);
        assert!(report.rows[0].medians.is_empty());
        let text = report.to_string();
        assert!(text.contains("FAILED why") && text.contains('-') && !text.contains("0.00"), "{text}");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 8.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
