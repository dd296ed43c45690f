//! `skynet-bench`: what a tunnel costs, measured beside other tunnels in one interleaved run on one machine.

mod clean;
mod compare;
mod echo;
mod histogram;
mod lanes;
mod latency;
mod link;
mod machine;
mod measure;
mod metric;
mod micro;
mod peer;
mod peers;
mod progress;
mod relay;
mod render;
mod report;
mod selection;
mod stats;
mod tables;
mod underlay;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about = "Measures skynet beside the plain link and other tunnels")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// iperf3, ping, processor time and memory of every peer, in two namespaces joined by a veth
    Compare(compare::Arguments),
    /// Round trips in detail, idle and beside a transfer: percentiles and histograms of ping and of UDP
    Latency(latency::Arguments),
    /// skynet with 1, 2 and 4 lanes, on a free link and where a router polices each UDP 5-tuple
    Lanes(lanes::Arguments),
    /// The relayed path beside the direct one, and the relay itself beside coturn: rates, latency, processor time
    Relay(relay::Arguments),
    /// Instructions and copied bytes per step of a packet's way, counted by valgrind
    Micro(micro::Arguments),
    /// Make tables, Markdown and plot again from what `compare --json` has written
    Render(render::Arguments),
    /// Remove the namespaces a killed run has left behind
    Clean,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Latency(arguments) => latency::run(&arguments),
        Command::Lanes(arguments) => lanes::run(&arguments),
        Command::Relay(arguments) => relay::run(&arguments),
        Command::Micro(arguments) => micro::run(&arguments),
        Command::Render(arguments) => render::run(&arguments),
        Command::Clean => clean::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            skynet_tests::lab::yield_to_signals();
            eprintln!("skynet-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
