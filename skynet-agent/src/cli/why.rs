//! `skynet-agent why`: why a peer is reached as it is, and the one change that would set it right.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use skynet_core::time::Instant;

use super::{AskArgs, Exit, Failure, format};
use crate::api::{Client, EndReport, Request, StatusReport, WhyReport};
use crate::clock;
use crate::config::parse_duration;
use crate::icmp::Pinger;

const EXIT_CODES: &str = "Exit codes:
  0  direct
  6  works, but not directly, or not as well as it could
  1  does not work, or there is no such peer
  5  still being tried when the time was over
  3  no agent running        4  not joined

The causes and their cures: docs/TROUBLESHOOTING.md.";

/// Between two looks, and how long one echo is waited for.
const POLL: Duration = Duration::from_millis(400);
/// Echo requests without an answer before that is believed,
const ENOUGH_ECHOES: u32 = 3;
/// and before it is believed that none will ever come: enough data for the path to notice that it is lost.
const MANY_ECHOES: u32 = 60;
/// How long one echo is waited for when none came so far.
const HASTY_POLL: Duration = Duration::from_millis(100);
/// A name that is not known is looked up at the relay for so long.
const LOOK_UP: Duration = Duration::from_millis(1_500);

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct WhyArgs {
    /// Name, overlay address or public key of the peer.
    peer: String,
    #[command(flatten)]
    pub(super) ask: AskArgs,
    /// How long paths may be tried before the answer; a round of probes takes 6 s.
    #[arg(short, long, default_value = "12s", value_parser = parse_duration)]
    wait: Duration,
}

pub(super) fn run(args: &WhyArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(&args.ask.socket())?;
    let status: StatusReport = client.ask(&Request::Status)?;
    let this = &status.this;
    if [&this.name, &this.ipv4, &this.ipv6].into_iter().flatten().any(|own| *own == args.peer) {
        let message = format!("{} is this node; name another one: skynet-agent status lists them", args.peer);
        return Err(Failure::new(Exit::Failed, message));
    }
    let report = investigate(&mut client, args, &this.interface)?;
    if args.ask.json {
        format::print_json(&report);
    } else {
        format::print_line(render(&report).trim_end());
    }
    Ok(exit(&report))
}

fn exit(report: &WhyReport) -> Exit {
    match (report.degree.as_str(), report.cause.as_str()) {
        ("fine", _) => Exit::Ok,
        ("degraded", _) => Exit::Degraded,
        ("undecided", _) => Exit::Timeout,
        (_, "not-joined") => Exit::NotJoined,
        _ => Exit::Failed,
    }
}

/// Sends echo requests, which is traffic to find a path for and shows whether data passes, and asks until the answer
/// stands.
fn investigate(client: &mut Client, args: &WhyArgs, interface: &str) -> Result<WhyReport, Failure> {
    let start = clock::monotonic();
    let (mut sent, mut received, mut pinger) = (0u32, 0u32, None);
    loop {
        let request = Request::Why { peer: args.peer.clone(), echo_sent: sent, echo_received: received };
        let report: WhyReport = client.ask(&request)?;
        if stands(&report, start) || clock::monotonic() - start >= args.wait {
            return Ok(report);
        }
        if pinger.is_none() {
            let address = report.address.as_ref().and_then(|a| a.parse::<IpAddr>().ok());
            // Without it only what the agent knows counts.
            pinger = address.and_then(|address| Pinger::new(address, interface).ok());
        }
        let begun = clock::monotonic();
        let poll = if received == 0 && sent >= ENOUGH_ECHOES { HASTY_POLL } else { POLL };
        if let Some(pinger) = &mut pinger {
            // All have one number: an answer that comes late is one all the same.
            match pinger.ping(1, poll) {
                Ok(answer) => (sent, received) = (sent + 1, received + u32::from(answer.is_some())),
                // No key yet, or no path: the kernel or the agent says so, and the next one may pass.
                Err(_) => sent += 1,
            }
        }
        std::thread::sleep(poll.saturating_sub(clock::monotonic() - begun));
    }
}

/// Whether asking again would bring nothing new.
fn stands(report: &WhyReport, start: Instant) -> bool {
    let echoed = report.echo_received > 0 || report.echo_sent >= ENOUGH_ECHOES || report.address.is_none();
    match report.cause.as_str() {
        "unknown-peer" => clock::monotonic() - start >= LOOK_UP,
        "peer-offline" => echoed,
        "data-blocked" => report.echo_sent >= MANY_ECHOES,
        _ => report.settled && echoed,
    }
}

fn render(report: &WhyReport) -> String {
    let mut out = String::new();
    let how = match (&report.via, report.path.as_str()) {
        (Some(via), "direct") => format!("direct {via}"),
        (Some(via), _) => via.clone(),
        (None, _) => "no path".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} to {}: {how}. {}", report.node, report.peer, report.verdict);
    let _ = writeln!(out, "Cure: {}", report.cure);
    for note in &report.notes {
        let _ = writeln!(out, "Note: {note}.");
    }
    if report.address.is_none() {
        return out;
    }
    let _ = writeln!(out, "\n{}", both_ends(report));
    let _ = write!(out, "{}", candidates(&report.peer, &report.node, &report.here));
    if let Some(there) = &report.there {
        let _ = write!(out, "{}", candidates(&report.node, &report.peer, there));
    }
    let _ = write!(out, "{}", history(&report.node, &report.peer, &report.here));
    if let Some(there) = &report.there {
        let _ = write!(out, "{}", history(&report.peer, &report.node, there));
    }
    let _ = writeln!(
        out,
        "\ncause {}; {} of {} echo requests answered",
        report.cause, report.echo_received, report.echo_sent
    );
    out
}

/// What each end sees, beside each other.
fn both_ends(report: &WhyReport) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["", &report.node, &report.peer]);
    let there = report.there.as_ref();
    type Column = fn(&EndReport) -> String;
    let rows: [(&str, Column); 8] = [
        ("UDP", |e| e.network.udp.clone()),
        ("relay", |e| if e.relay_bound { "bound" } else { "not bound" }.to_owned()),
        ("seen as", |e| e.observed.clone().unwrap_or_else(|| "-".to_owned())),
        ("NAT", nat),
        ("mapping", |e| e.network.mapping.clone()),
        ("filtering", |e| e.network.filtering.clone()),
        ("MTU", |e| e.network.mtu.map_or_else(|| "unknown".to_owned(), |m| m.to_string())),
        ("clock", |e| e.clock_ahead_s.map_or_else(|| "unknown".to_owned(), format::clock)),
    ];
    for (name, column) in rows {
        table.add_row([
            name.to_owned(),
            column(&report.here),
            there.map_or_else(|| "did not say".to_owned(), column),
        ]);
    }
    table.lines().map(|l| format!("{}\n", l.trim_end())).collect()
}

fn nat(end: &EndReport) -> String {
    let host = &end.network;
    let hairpin = match host.hairpin {
        Some(true) => ", hairpin",
        Some(false) => ", no hairpin",
        None => "",
    };
    match (host.translated, host.port_preserved) {
        (None, _) => "unknown".to_owned(),
        (Some(false), _) => "none".to_owned(),
        (Some(true), Some(true)) => format!("yes, keeps ports{hairpin}"),
        (Some(true), _) => format!("yes, changes ports{hairpin}"),
    }
}

fn candidates(of: &str, by: &str, end: &EndReport) -> String {
    if end.candidates.is_empty() {
        return format!("{by} knows no address of {of}\n");
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for c in &end.candidates {
        let count =
            if c.sent == 0 { String::new() } else { format!("{} sent, {} answered", c.sent, c.answered) };
        table.add_row([c.address.clone(), c.kind.clone(), c.step.clone(), count]);
    }
    let lines: String = table.lines().map(|l| format!(" {}\n", l.trim_end())).collect();
    format!("addresses of {of}, tried by {by}\n{lines}")
}

fn history(of: &str, to: &str, end: &EndReport) -> String {
    if end.history.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for change in &end.history {
        table.add_row([
            format!("{} ago", format::age(change.age_s)),
            change.to.clone(),
            change.reason.clone(),
        ]);
    }
    let lines: String = table.lines().map(|l| format!(" {}\n", l.trim_end())).collect();
    format!("path from {of} to {to}\n{lines}")
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
