//! Runs of `skynet-micro` under valgrind, and what they print.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::Step;
use crate::peers::package;

/// Two counts: what does not depend on the count cancels out, and the first calls, which fill tables, are in both. Both
/// are whole batches (of 32 packets) and whole trains (of 40).
const COUNTS: [u32; 2] = [640, 1920];

/// What `skynet-micro` can do.
///
/// # Errors
/// If it was built without optimisation: such counts say nothing.
pub(super) fn list(program: &Path) -> anyhow::Result<Vec<Step>> {
    let output = Command::new(program).arg("list").output().with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_list(&text)
}

/// Instructions per call of a step.
pub(super) fn instructions(program: &Path, step: &str) -> anyhow::Result<f64> {
    let arguments = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    difference(program, step, &arguments, |text| number_after(text, "Collected :"))
}

/// Bytes that memcpy, memmove and their kin copy per call of a step. What the compiler copies by itself, a few
/// registers, is not in it.
pub(super) fn copied_bytes(program: &Path, step: &str) -> anyhow::Result<f64> {
    let arguments = ["--tool=dhat", "--mode=copy", "--dhat-out-file=/dev/null"];
    difference(program, step, &arguments, |text| number_after(text, "Total:"))
}

fn difference(
    program: &Path,
    step: &str,
    arguments: &[&str],
    parse: fn(&str) -> Option<u64>,
) -> anyhow::Result<f64> {
    let count = |times: u32| -> anyhow::Result<u64> {
        let mut command = Command::new(package::path("valgrind")?);
        command.args(arguments).arg(program).args([step, &times.to_string()]);
        let output = command.output().context("valgrind")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{command:?}: {}\n{text}", output.status);
        parse(&text).with_context(|| format!("no count in what valgrind says:\n{text}"))
    };
    let (few, many) = (count(COUNTS[0])?, count(COUNTS[1])?);
    Ok((many as f64 - few as f64) / f64::from(COUNTS[1] - COUNTS[0]))
}

fn parse_list(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut lines = text.lines();
    match lines.next() {
        Some("release") => {}
        Some("debug") => bail!("skynet-micro was built without optimisation; ./x bench micro builds it with"),
        other => bail!("skynet-micro says {other:?}"),
    }
    lines
        .map(|line| {
            let (name, bytes) = line.split_once(' ').with_context(|| line.to_owned())?;
            Ok(Step { name: name.to_owned(), payload_bytes: bytes.parse()? })
        })
        .collect()
}

/// The number behind `key`, which may have commas.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.split_once(key))?.1;
    let number: String = rest.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
    number.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_tools() {
        let callgrind =
            "==7== Events    : Ir\n==7== Collected : 305874\n==7==\n==7== I   refs:      305,874\n";
        assert_eq!(number_after(callgrind, "Collected :"), Some(305_874));
        let dhat = "==7== Command: x\n==7== \n==7== Total:     1,360,285 bytes in 1,023 blocks\n";
        assert_eq!(number_after(dhat, "Total:"), Some(1_360_285));
        assert_eq!(number_after("==7== Total: ?\n", "Total:"), None);
        assert_eq!(number_after("", "Total:"), None);
    }

    #[test]
    fn counts_of_a_debug_build_are_refused() {
        let step = Step { name: "send".to_owned(), payload_bytes: 1360 };
        assert_eq!(parse_list("release\nsend 1360\n").unwrap(), [step]);
        assert!(parse_list("debug\nsend 1360\n").unwrap_err().to_string().contains("without optimisation"));
        assert!(parse_list("release\nsend\n").is_err() && parse_list("").is_err());
    }
}
