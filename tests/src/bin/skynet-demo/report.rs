//! What the demo has seen.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// Everything, also as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    /// Time to make the namespaces.
    pub(crate) lab_ms: u64,
    /// From the start of the relay until the last of six agents had joined.
    pub(crate) join_ms: u64,
    /// Until every pair was on the path it must find.
    pub(crate) paths_ms: u64,
    /// All of it.
    pub(crate) total_ms: u64,
    /// Every host to every other.
    pub(crate) pairs: Vec<Pair>,
    /// iperf3.
    pub(crate) throughput: Vec<Throughput>,
    /// Promises that were not kept, a sentence each.
    pub(crate) failures: Vec<String>,
}

/// One ordered pair of hosts.
#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) path: &'static str,
    /// Median round trip.
    pub(crate) rtt_us: u64,
    /// Pings answered.
    pub(crate) answered: u32,
}

/// TCP, one stream.
#[derive(Debug, Serialize)]
pub(crate) struct Throughput {
    pub(crate) way: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) mbps: f64,
    pub(crate) reverse_mbps: f64,
    pub(crate) retransmits: u64,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            schema: "skynet-demo/1",
            lab_ms: 0,
            join_ms: 0,
            paths_ms: 0,
            total_ms: 0,
            pairs: Vec::new(),
            throughput: Vec::new(),
            failures: Vec::new(),
        }
    }
}

impl Report {
    /// For people; `status` is what one of the agents says about itself.
    pub(crate) fn print(&self, status: &str) {
        println!(
            "\nparis: port-restricted NAT, tokyo: symmetric NAT, austin: public addresses; two hosts each."
        );
        println!("\nskynet-agent status, on paris1:\n\n{}\n", status.trim_end());
        println!("ping, row to column, path and median round trip:\n\n{}\n", self.matrix());
        println!("iperf3, TCP, one stream, all hosts on the cores of this machine:\n\n{}\n", self.table());
        let seconds = |milliseconds: u64| milliseconds as f64 / 1e3;
        println!(
            "lab up in {:.1} s, six agents joined in {:.1} s, all paths found in {:.1} s, all of it {:.0} s",
            seconds(self.lab_ms),
            seconds(self.join_ms),
            seconds(self.paths_ms),
            seconds(self.total_ms)
        );
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
    }

    fn matrix(&self) -> Table {
        let mut hosts: Vec<_> = self.pairs.iter().map(|pair| pair.from.as_str()).collect();
        hosts.dedup();
        let cells: BTreeMap<_, _> =
            self.pairs.iter().map(|pair| ((pair.from.as_str(), pair.to.as_str()), pair.cell())).collect();
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header([""].iter().chain(&hosts));
        for from in &hosts {
            let row = hosts.iter().map(|to| cells.get(&(from, to)).cloned().unwrap_or_default());
            table.add_row(std::iter::once((*from).to_owned()).chain(row));
        }
        aligned(table, 1)
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["", "", "Mbit/s", "reverse", "of underlay", "retransmits"]);
        let underlay = self.throughput.iter().find(|one| one.way == "underlay").map(|one| one.mbps);
        for one in &self.throughput {
            let share = underlay.filter(|mbps| *mbps > 0.0).map(|mbps| one.mbps / mbps * 100.0);
            table.add_row([
                one.way.to_owned(),
                format!("{} - {}", one.from, one.to),
                format!("{:.0}", one.mbps),
                format!("{:.0}", one.reverse_mbps),
                share.map_or_else(|| "-".to_owned(), |share| format!("{share:.0} %")),
                one.retransmits.to_string(),
            ]);
        }
        aligned(table, 2)
    }
}

impl Pair {
    fn cell(&self) -> String {
        match self.answered {
            0 => "no answer".to_owned(),
            _ => format!("{} {:.2} ms", self.path, self.rtt_us as f64 / 1e3),
        }
    }
}

/// Columns from `first` on to the right.
fn aligned(mut table: Table, first: usize) -> Table {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_a_row_and_a_column_per_host() {
        let pair = |from: &str, to: &str, path, answered| Pair {
            from: from.to_owned(),
            to: to.to_owned(),
            path,
            rtt_us: 1_250,
            answered,
        };
        let report = Report {
            pairs: vec![pair("a", "b", "direct", 5), pair("b", "a", "relay", 0)],
            ..Report::default()
        };
        let text = report.matrix().to_string();
        assert!(text.contains("direct 1.25 ms") && text.contains("no answer"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
