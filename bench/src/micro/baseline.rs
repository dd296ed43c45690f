//! The counts that are in the repository, and how a new count compares.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

const SCHEMA: &str = "skynet-bench-micro/1";

/// Instructions per packet of each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Baseline {
    schema: String,
    /// What ciphers choose their code by: architecture and AVX2, the newest valgrind lets them see.
    machine: String,
    /// The compiler.
    rustc: String,
    instructions: BTreeMap<String, f64>,
}

/// How a count compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Within the tolerance.
    Same,
    /// Fewer: time for a new baseline.
    Fewer,
    /// More.
    More,
    /// The baseline does not have it.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "",
            Self::Fewer => "fewer",
            Self::More => "MORE",
            Self::Unknown => "not in the baseline",
        })
    }
}

/// A count beside the one before; `tolerance` in percent.
pub(super) fn compare(count: f64, before: Option<f64>, tolerance: f64) -> Verdict {
    let Some(before) = before.filter(|before| *before > 0.0) else { return Verdict::Unknown };
    let percent = (count / before - 1.0) * 100.0;
    if percent > tolerance {
        Verdict::More
    } else if percent < -tolerance {
        Verdict::Fewer
    } else {
        Verdict::Same
    }
}

impl Baseline {
    /// Empty, of this machine and its compiler.
    pub(super) fn of_this_machine() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let avx2 = cpuinfo.split_whitespace().any(|word| word == "avx2");
        let machine = format!("{}{}", std::env::consts::ARCH, if avx2 { " avx2" } else { "" });
        let rustc = crate::peers::package::first_line("rustc", &["--version"]);
        Self { schema: SCHEMA.to_owned(), machine, rustc, instructions: BTreeMap::new() }
    }

    /// What the file says; empty if there is none.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let name = || file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).with_context(name),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::of_this_machine()),
            Err(error) => Err(error).with_context(name),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let baseline: Self = serde_json::from_str(text)?;
        ensure!(baseline.schema == SCHEMA, "schema {:?}, expected {SCHEMA:?}", baseline.schema);
        Ok(baseline)
    }

    /// Writes it.
    pub(super) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| file.display().to_string())
    }

    /// The count of a step.
    pub(super) fn get(&self, step: &str) -> Option<f64> {
        self.instructions.get(step).copied()
    }

    /// Sets the count of a step, to a tenth.
    pub(super) fn set(&mut self, step: &str, count: f64) {
        self.instructions.insert(step.to_owned(), (count * 10.0).round() / 10.0);
    }

    /// How the machines differ, if they do in what matters.
    pub(super) fn other_machine(&self, counted: &Self) -> Option<String> {
        (self.machine != counted.machine)
            .then(|| format!("{}, this one is {}", self.machine, counted.machine))
    }

    /// With all counts of `newer`, and those of steps that were not counted this time.
    pub(super) fn updated(self, mut newer: Self) -> Self {
        for (step, count) in self.instructions {
            newer.instructions.entry(step).or_insert(count);
        }
        newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_than_the_tolerance_is_a_regression() {
        assert_eq!(compare(102.9, Some(100.0), 3.0), Verdict::Same);
        assert_eq!(compare(103.1, Some(100.0), 3.0), Verdict::More);
        assert_eq!(compare(96.9, Some(100.0), 3.0), Verdict::Fewer);
        assert_eq!(compare(1.0, None, 3.0), Verdict::Unknown);
    }

    #[test]
    fn an_update_of_one_step_keeps_the_others() {
        let mut old = Baseline::of_this_machine();
        old.set("send", 100.0);
        old.set("open", 50.0);
        let mut new = Baseline::of_this_machine();
        new.set("send", 90.04);
        let updated = old.updated(new);
        assert_eq!((updated.get("send"), updated.get("open")), (Some(90.0), Some(50.0)));
        let text = serde_json::to_string(&updated).unwrap();
        assert_eq!(Baseline::parse(&text).unwrap(), updated);
        assert!(Baseline::parse(&text.replace(SCHEMA, "x")).is_err());
    }
}
