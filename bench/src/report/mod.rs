//! What a run says: raw samples, their medians and ratios, as text, JSON, Markdown and a plot.

mod cells;
mod markdown;
mod plot;
mod run;
mod summary;
mod text;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde::Serialize;

pub(crate) use run::{PeerSamples, Run, Settings};

use summary::Row;

/// Where a report goes besides the terminal.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Files {
    /// Write the report as Markdown to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Plot throughput and processor time per GB to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Files {
    /// Writes those that were asked for.
    pub(crate) fn write(&self, report: &Report) -> anyhow::Result<()> {
        let texts = [(&self.markdown, markdown::render(report)), (&self.svg, plot::render(report))];
        for (file, text) in texts {
            if let Some(file) = file {
                std::fs::write(file, text).with_context(|| file.display().to_string())?;
            }
        }
        Ok(())
    }
}

/// A whole comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    run: Run,
    /// Derived from the samples; not read back.
    summary: Vec<Row>,
}

impl Report {
    /// Works out medians and ratios.
    pub(crate) fn new(run: Run) -> Self {
        let summary = summary::rows(&run.peers);
        Self { run, summary }
    }

    /// From what [`Report::json`] has written.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn read(json: &str) -> anyhow::Result<Self> {
        let run: Run = serde_json::from_str(json)?;
        ensure!(run.schema == run::SCHEMA, "schema {:?}, expected {:?}", run.schema, run::SCHEMA);
        Ok(Self::new(run))
    }

    /// Samples, medians and ratios.
    ///
    /// # Errors
    /// None in practice: everything in it can be said in JSON.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What could not be measured, a sentence each.
    pub(crate) fn failures(&self) -> &[String] {
        &self.run.failures
    }

    /// What was measured how often, in one line.
    fn title(&self) -> String {
        let Settings { rounds, seconds, underlay } = self.run.settings;
        let plural = if rounds == 1 { "" } else { "s" };
        format!("Medians of {rounds} interleaved round{plural} of {seconds} s, underlay {}", underlay.name())
    }
}

/// A report with figures that are easy to check, for the tests of its shapes.
#[cfg(test)]
fn example() -> Report {
    use crate::machine::Machine;
    use crate::metric::Metric;
    use crate::underlay::Underlay;
    let peer = |name: &str, is_tunnel, gbps: &[f64]| PeerSamples {
        name: name.to_owned(),
        version: format!("{name} 1.0"),
        is_tunnel,
        samples: gbps
            .iter()
            .map(|&gbps| {
                let mut sample = std::collections::BTreeMap::from([
                    (Metric::TcpOneGbps, gbps),
                    (Metric::IdleRttUs, 100.0),
                    (Metric::MachineCpuPerGb, 4.0 / gbps),
                ]);
                if is_tunnel {
                    sample.insert(Metric::TunnelCpuPerGb, 3.0 / gbps);
                }
                sample
            })
            .collect(),
    };
    let peers = vec![
        peer("direct", false, &[8.0, 7.0, 9.0]),
        peer("skynet", true, &[4.0, 3.0, 5.0]),
        peer("boringtun", true, &[0.5, 0.25, 0.75]),
    ];
    let machine = Machine { cpu: "a <processor>".to_owned(), cores: 2, ..Machine::default() };
    let settings = Settings { rounds: 3, seconds: 1, underlay: Underlay::Veth };
    Report::new(Run::new(machine, settings, peers, vec!["round 1/3 tinc: up".to_owned()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_says_the_same() {
        let report = example();
        let again = Report::read(&report.json().unwrap()).unwrap();
        assert_eq!(report.json().unwrap(), again.json().unwrap());
        assert_eq!(report.to_string(), again.to_string());
    }

    #[test]
    fn refuses_the_file_of_something_else() {
        assert!(Report::read("{}").is_err());
        let other = example().json().unwrap().replace(run::SCHEMA, "other/1");
        assert!(Report::read(&other).unwrap_err().to_string().contains("other/1"));
    }
}
