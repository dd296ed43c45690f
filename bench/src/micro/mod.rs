//! `skynet-bench micro`: what each step of a packet's way costs in instructions and in copied bytes, counted by valgrind.
//!
//! Counts hardly depend on what else the machine does, so a regression of a few percent shows, on a laptop too.

mod baseline;
mod valgrind;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::peers::package;
use crate::progress::Progress;
use crate::tables;
use baseline::{Baseline, Verdict};

/// Arguments of `micro`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Count only this step; can be given several times
    #[arg(long = "step", value_name = "NAME")]
    steps: Vec<String>,
    /// Fail if a step needs more instructions than the baseline and the tolerance allow
    #[arg(long, conflicts_with = "copies")]
    check: bool,
    /// Write what was counted into the baseline
    #[arg(long, conflicts_with_all = ["check", "copies"])]
    update: bool,
    /// Count the bytes that memcpy and its kin copy instead, per byte of inner packet
    #[arg(long)]
    copies: bool,
    /// With --copies: fail if a step copies more than this per byte of inner packet
    #[arg(long, value_name = "RATIO", requires = "copies")]
    at_most: Option<f64>,
    /// Deviation from the baseline that is none, in percent
    #[arg(long, default_value_t = 3.0, value_name = "PERCENT")]
    tolerance: f64,
    /// The baseline
    #[arg(long, default_value = "bench/micro-baseline.json", value_name = "FILE")]
    baseline: PathBuf,
    /// Install valgrind, from Debian, if it is missing
    #[arg(long)]
    install: bool,
}

const VALGRIND: [(&str, &str); 1] = [("valgrind", "valgrind")];

/// A step as `skynet-micro` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    name: String,
    payload_bytes: u32,
}

/// Counts, and compares or writes.
///
/// # Errors
/// If something cannot be run, or `--check` or `--at-most` finds too much.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.install {
        package::install(&VALGRIND)?;
    }
    if let Some(cure) = package::need(&VALGRIND) {
        bail!("valgrind is not here; cure: {cure}");
    }
    let program = program()?;
    let steps = choose(&valgrind::list(&program)?, &arguments.steps)?;
    if arguments.copies {
        copies(arguments, &program, &steps)
    } else {
        instructions(arguments, &program, &steps)
    }
}

fn instructions(arguments: &Arguments, program: &Path, steps: &[Step]) -> anyhow::Result<()> {
    let known = Baseline::read(&arguments.baseline)?;
    let mut counted = Baseline::of_this_machine();
    let mut rows = Vec::new();
    let mut too_many = Vec::new();
    let mut progress = Progress::new(steps.len());
    for step in steps {
        progress.turn(&format!("counting {}", step.name));
        let count = valgrind::instructions(program, &step.name)?;
        progress.advance(1);
        let before = known.get(&step.name);
        let verdict = baseline::compare(count, before, arguments.tolerance);
        let (before, change) = match before {
            Some(before) => {
                (format!("{before:.0}"), format!("{:+.1} % {verdict}", (count / before - 1.0) * 100.0))
            }
            None => ("-".to_owned(), verdict.to_string()),
        };
        if matches!(verdict, Verdict::More | Verdict::Unknown) {
            too_many.push(step.name.clone());
        }
        rows.push((step.name.clone(), vec![format!("{count:.0}"), before, change]));
        counted.set(&step.name, count);
    }
    drop(progress);
    let head = ["instructions", "baseline", "change"];
    println!("Instructions per packet, by callgrind:\n{}", tables::text(&head, rows.into_iter()));
    if let Some(difference) = known.other_machine(&counted) {
        println!("The baseline is another machine's ({difference}): ciphers run other code there.");
    }
    if arguments.update {
        known.updated(counted).write(&arguments.baseline)?;
        println!("written to {}", arguments.baseline.display());
    }
    ensure!(
        !arguments.check || too_many.is_empty(),
        "more instructions than the baseline allows, or not in it: {}",
        too_many.join(", ")
    );
    Ok(())
}

fn copies(arguments: &Arguments, program: &Path, steps: &[Step]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut too_many = Vec::new();
    let mut progress = Progress::new(steps.len());
    for step in steps.iter().filter(|step| step.payload_bytes > 0) {
        progress.turn(&format!("counting copies of {}", step.name));
        let copied = valgrind::copied_bytes(program, &step.name)?;
        progress.advance(1);
        let ratio = copied / f64::from(step.payload_bytes);
        if arguments.at_most.is_some_and(|limit| ratio > limit) {
            too_many.push(step.name.clone());
        }
        let (copied, payload) = (format!("{copied:.1}"), step.payload_bytes.to_string());
        rows.push((step.name.clone(), vec![copied, payload, format!("{ratio:.3}")]));
    }
    drop(progress);
    let head = ["copied B", "payload B", "copied / payload"];
    println!(
        "Bytes copied per packet by memcpy, memmove and the like, by DHAT:\n{}",
        tables::text(&head, rows.into_iter())
    );
    ensure!(too_many.is_empty(), "too much is copied in: {}", too_many.join(", "));
    Ok(())
}

/// `skynet-micro` beside this program.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where this program is")?;
    let program = own.with_file_name("skynet-micro");
    ensure!(program.is_file(), "{} is not there; build it: ./x bench builds", program.display());
    Ok(program)
}

/// Those asked for, or all.
fn choose(all: &[Step], names: &[String]) -> anyhow::Result<Vec<Step>> {
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|step| step.name == **name)) {
        let known: Vec<_> = all.iter().map(|step| step.name.as_str()).collect();
        bail!("there is no step {unknown:?}; there are: {}", known.join(", "));
    }
    Ok(all.iter().filter(|step| names.is_empty() || names.contains(&step.name)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_step_is_refused_with_those_there_are() {
        let all = [
            Step { name: "send".to_owned(), payload_bytes: 1 },
            Step { name: "open".to_owned(), payload_bytes: 1 },
        ];
        assert_eq!(choose(&all, &[]).unwrap().len(), 2);
        assert_eq!(choose(&all, &["open".to_owned()]).unwrap(), [all[1].clone()]);
        let error = choose(&all, &["close".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("send, open"), "{error}");
    }
}
