//! `skynet-relay`: makes a network, runs its relay, makes join tokens.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli.start_logging();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            cli.report(&failure);
            ExitCode::from(failure.code())
        }
    }
}
