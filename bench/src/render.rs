//! `skynet-bench render`: report and plot once more from the samples of a former run.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::report::{Files, Report};

/// Arguments of `render`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What `compare --json` has written
    file: PathBuf,
    #[command(flatten)]
    files: Files,
}

/// Prints the tables and writes the files asked for.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let name = || arguments.file.display().to_string();
    let text = std::fs::read_to_string(&arguments.file).with_context(name)?;
    let report = Report::read(&text).with_context(name)?;
    print!("{report}");
    arguments.files.write(&report)
}
