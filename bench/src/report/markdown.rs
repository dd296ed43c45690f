//! The report as Markdown.

use std::fmt::Write as _;

use super::cells::{self, Cells};
use super::{Report, plot};

/// The whole document; figures only, no advice.
pub(super) fn render(report: &Report) -> String {
    let machine = &report.run.machine;
    let mut text = format!("# skynet-bench\n\n{}.\n\n{}.\n", report.title(), escaped(&machine.summary()));
    if let Some(warning) = machine.warning() {
        write!(text, "\n**{warning}**\n").expect("writing to a string");
    }
    for cells in cells::all(report) {
        text += &table(&cells);
    }
    text += "\n## Peers\n\n| peer | version and cipher |\n|---|---|\n";
    for peer in &report.run.peers {
        writeln!(text, "| {} | {} |", escaped(&peer.name), escaped(&peer.version))
            .expect("writing to a string");
    }
    if !report.run.failures.is_empty() {
        text += "\n## Failed\n\n";
        for failure in &report.run.failures {
            writeln!(text, "- {}", escaped(failure)).expect("writing to a string");
        }
    }
    text
}

/// One section with one table.
fn table(cells: &Cells) -> String {
    let mut text = format!("\n## {}\n\n| peer |", cells.title);
    for (name, unit) in &cells.head {
        write!(text, " {name} {unit} |").expect("writing to a string");
    }
    text += "\n|---|";
    text += &"---:|".repeat(cells.head.len());
    text.push('\n');
    for (name, row) in &cells.rows {
        let row: Vec<_> = row.iter().map(|cell| escaped(cell)).collect();
        writeln!(text, "| {} | {} |", escaped(name), row.join(" | ")).expect("writing to a string");
    }
    text
}

/// What would end a cell or begin HTML, does not.
fn escaped(text: &str) -> String {
    plot::escaped(text).replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use crate::report::example;

    #[test]
    fn is_what_it_was() {
        let text = super::render(&example());
        let expected = "\n## Throughput\n\n\
            | peer | TCP 1 Gbit/s | TCP 8 Gbit/s | TCP rev Gbit/s | TCP 1 resent segments | UDP 1200 B kpps | lost % | UDP 64 B kpps | lost % |\n\
            |---|---:|---:|---:|---:|---:|---:|---:|---:|\n\
            | direct | 8.00 | - | - | - | - | - | - | - |\n\
            | skynet | 4.00 | - | - | - | - | - | - | - |\n\
            | boringtun | 0.50 | - | - | - | - | - | - | - |\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("a &lt;processor&gt;"), "{text}");
        assert!(text.contains("| skynet | skynet 1.0 |\n"), "{text}");
        assert!(text.ends_with("## Failed\n\n- round 1/3 tinc: up\n"), "{text}");
    }
}
