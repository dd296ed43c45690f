//! `skynet-agent hosts`: the members by role, as people and other programs want them.

use std::time::Duration;

use clap::Args;

use super::roster_formats::{self as formats, Format};
use super::{AskArgs, Exit, Failure, format};
use crate::api::{AgentState, Client, Request, RosterReport};
use crate::clock;

/// How often it is looked whether everybody is known,
const POLL: Duration = Duration::from_millis(50);
/// and for how long: a question to the relay, and one for each member that was not known.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct HostsArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Only members with this role, that is, tag; can be given several times.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How to print them.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Slots of each member in an MPI hostfile [default: not told].
    #[arg(long, value_name = "N")]
    slots: Option<u16>,
    /// Members that are not there now too.
    #[arg(long)]
    all: bool,
}

impl HostsArgs {
    pub(super) fn is_json(&self) -> bool {
        self.ask.json || self.format == Format::Json
    }
}

pub(super) fn run(args: &HostsArgs) -> Result<Exit, Failure> {
    let mut client = Client::connect(&args.ask.socket())?;
    let deadline = clock::monotonic() + PATIENCE;
    let mut report: RosterReport = loop {
        let report: RosterReport = client.ask(&Request::Roster { roles: args.roles.clone(), since: None })?;
        if matches!(report.state, AgentState::NotJoined) {
            return Err(Failure::new(Exit::NotJoined, "this machine belongs to no network yet"));
        }
        if report.complete || clock::monotonic() >= deadline {
            break report;
        }
        std::thread::sleep(POLL);
    };
    if let Some(members) = &mut report.members {
        members.retain(|m| args.all || m.online);
    }
    let members = report.members.as_deref().unwrap_or_default();
    let network = report.network.as_deref().unwrap_or_default();
    let text = match args.format {
        _ if args.is_json() => serde_json::to_string(&report).expect("reports are plain data"),
        Format::Table | Format::Json => formats::table(members),
        Format::Hosts => formats::hosts(members, network),
        Format::Mpi => formats::mpi(members, args.slots),
        Format::Ansible => formats::ansible(members),
    };
    let text = text.trim_end();
    if !text.is_empty() {
        format::print_line(text);
    }
    if report.complete {
        return Ok(Exit::Ok);
    }
    let why = report.message.as_deref().unwrap_or("the relay does not tell who is there");
    eprintln!("skynet-agent: somebody may be missing: {why}");
    Ok(Exit::Degraded)
}
