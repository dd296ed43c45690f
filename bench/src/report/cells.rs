//! The tables, as cells: what terminal and Markdown have in common.

use std::collections::BTreeMap;

use super::Report;
use super::summary::{REFERENCE, Row};
use crate::metric::{GROUPS, Metric};

/// One table.
pub(super) struct Cells {
    /// What it shows, a sentence.
    pub(super) title: String,
    /// Name and unit of each column but the first.
    pub(super) head: Vec<(&'static str, &'static str)>,
    /// Name of a peer, and its cells.
    pub(super) rows: Vec<(String, Vec<String>)>,
}

/// All tables of a report, in order.
pub(super) fn all(report: &Report) -> Vec<Cells> {
    let rows = &report.summary;
    let mut tables: Vec<_> =
        GROUPS.iter().map(|(title, metrics)| cells((*title).to_owned(), rows, metrics, value)).collect();
    let legend = format!("to the plain link / to the best other tunnel / to {REFERENCE}");
    for (title, metrics) in GROUPS {
        let metrics: Vec<_> = metrics.iter().copied().filter(|metric| metric.has_ratio()).collect();
        tables.push(cells(format!("{title}, ratios: {legend}"), rows, &metrics, ratios));
    }
    let metrics = [
        Metric::TcpOneGbps,
        Metric::TcpEightGbps,
        Metric::Udp64Kpps,
        Metric::IdleRttUs,
        Metric::LoadedRttUs,
        Metric::MachineCpuPerGb,
    ];
    let title = "Lowest and highest round; a difference within this noise says nothing";
    tables.push(cells(title.to_owned(), rows, &metrics, spread));
    tables
}

fn cells(title: String, rows: &[Row], metrics: &[Metric], cell: fn(&Row, Metric) -> String) -> Cells {
    Cells {
        title,
        head: metrics.iter().map(|metric| metric.title()).collect(),
        rows: rows
            .iter()
            .map(|row| (row.name.clone(), metrics.iter().map(|&metric| cell(row, metric)).collect()))
            .collect(),
    }
}

fn value(row: &Row, metric: Metric) -> String {
    row.medians.get(&metric).map_or("-".to_owned(), |value| format!("{value:.*}", metric.decimals()))
}

fn ratios(row: &Row, metric: Metric) -> String {
    let ratio = |of: &BTreeMap<Metric, f64>| of.get(&metric).map_or("-".into(), |ratio| significant(*ratio));
    format!("{} / {} / {}", ratio(&row.to_direct), ratio(&row.to_best_other), ratio(&row.to_boringtun))
}

/// Two digits that mean something.
fn significant(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

fn spread(row: &Row, metric: Metric) -> String {
    let digits = metric.decimals();
    let range = row.spread.get(&metric);
    range.map_or("-".to_owned(), |(low, high)| format!("{low:.digits$} - {high:.digits$}"))
}
