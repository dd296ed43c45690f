//! The report for a terminal.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};

use super::Report;
use super::tables::{self, Cells};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title())?;
        writeln!(f, "{}\n", self.run.machine.summary())?;
        for cells in tables::all(self) {
            writeln!(f, "{}\n{}\n", cells.title, table(&cells))?;
        }
        let width = self.run.peers.iter().map(|peer| peer.name.len()).max().unwrap_or(0);
        for peer in &self.run.peers {
            writeln!(f, "{:width$}  {}", peer.name, peer.version)?;
        }
        for failure in &self.run.failures {
            writeln!(f, "FAILED {failure}")?;
        }
        if let Some(warning) = self.run.machine.warning() {
            writeln!(f, "{warning}")?;
        }
        Ok(())
    }
}

/// Names to the left, figures to the right.
fn table(cells: &Cells) -> Table {
    let mut table = Table::new();
    let head = cells.head.iter().map(|(name, unit)| format!("{name}\n{unit}"));
    table.load_preset(presets::NOTHING).set_header(std::iter::once(String::new()).chain(head));
    for (name, row) in &cells.rows {
        table.add_row(std::iter::once(name).chain(row));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use crate::report::example;

    #[test]
    fn has_medians_ratios_noise_and_failures() {
        let text = example().to_string();
        let skynet: Vec<_> = text.lines().filter(|line| line.trim_start().starts_with("skynet ")).collect();
        assert!(skynet[0].contains("4.00"), "{text}");
        assert!(text.contains("0.50 / 8.00 / 8.00"), "{text}");
        assert!(text.contains("3.00 - 5.00"), "{text}");
        assert!(text.contains("FAILED round 1/3 tinc: up"), "{text}");
        assert!(text.contains("Medians of 3 interleaved rounds of 1 s, underlay veth"), "{text}");
    }
}
