//! `skynet-bench relay`: the relayed path beside the direct one ([`paths`]), and the relay itself beside a TURN server
//! ([`forwarders`]).

mod contender;
mod forwarders;
mod load;
mod pair;
mod paths;
mod turn;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use skynet_tests::fleet;

use crate::machine::Machine;
use crate::selection;

/// Arguments of `relay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each measurement, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10))]
    seconds: u32,
    /// Measure only one part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Forwarding threads of either relay
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The overlay by way of the relay beside the overlay on the direct path
    Paths,
    /// The relay beside coturn as a TURN relay
    Forwarders,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: &'static str,
    machine: &'a Machine,
    samples: &'a [paths::Sample],
    forwarders: &'a [forwarders::Sample],
}

/// Measures, prints, writes.
///
/// # Errors
/// If a lab, the overlay or a relay cannot be made, or a path does not come to be.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    fleet::remove_labs_on_signals_and_panics()?;
    let machine = selection::look_at_machine();
    println!("{}", machine.summary());
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let (mut samples, mut forwarders) = (Vec::new(), Vec::new());
    if wanted(Part::Paths) {
        samples = paths::measure_all(arguments)?;
        println!("\nOne TCP stream between two clouds, medians:\n{}", paths::text(&samples));
    }
    if wanted(Part::Forwarders) {
        forwarders = forwarders::measure_all(arguments)?;
        println!("{}", forwarders::text(&forwarders));
    }
    if let Some(file) = &arguments.json {
        let document = Document {
            schema: "skynet-bench-relay/2",
            machine: &machine,
            samples: &samples,
            forwarders: &forwarders,
        };
        std::fs::write(file, serde_json::to_string_pretty(&document)? + "\n")
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}
