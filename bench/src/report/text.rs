//! The report for a terminal.

use std::fmt;

use super::Report;
use super::cells;
use crate::tables;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title())?;
        writeln!(f, "{}\n", self.run.machine.summary())?;
        for cells in cells::all(self) {
            let head: Vec<_> = cells.head.iter().map(|(name, unit)| format!("{name}\n{unit}")).collect();
            writeln!(f, "{}\n{}\n", cells.title, tables::text(&head, cells.rows.into_iter()))?;
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
