//! `skynet-agent wait`: a barrier. Returns when so many members of a role are there.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{AskArgs, Exit, Failure, format};
use crate::api::{AgentState, Client, ClientError, MemberReport, Request, RosterReport};
use crate::clock;
use crate::config::parse_duration;

/// How often the agent is asked; it is told of changes by the relay.
const POLL: Duration = Duration::from_millis(100);
/// Names in a sentence.
const MAX_NAMES: usize = 16;

#[derive(Args)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    pub(super) ask: AskArgs,
    /// Count members with this role, that is, tag; can be given several times.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How many must be there, this node included.
    #[arg(long, default_value_t = 1, value_name = "N")]
    count: usize,
    /// How long to wait.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    reached: bool,
    count: usize,
    wanted: usize,
    waited_ms: u64,
    members: &'a [MemberReport],
}

pub(super) fn run(args: &WaitArgs) -> Result<Exit, Failure> {
    let begun = clock::monotonic();
    let deadline = begun + args.timeout;
    let mut barrier = Barrier::default();
    loop {
        barrier.look(args)?;
        let now = clock::monotonic();
        let reached = barrier.here.len() >= args.count && barrier.trouble.is_none();
        if !reached && now < deadline {
            std::thread::sleep(POLL);
            continue;
        }
        if !reached && let Some(trouble) = barrier.trouble {
            return Err(trouble);
        }
        if args.ask.json {
            format::print_json(&Report {
                schema: "wait/1",
                reached,
                count: barrier.here.len(),
                wanted: args.count,
                waited_ms: u64::try_from(now.saturating_since(begun).as_millis()).unwrap_or(u64::MAX),
                members: &barrier.here,
            });
        } else if reached {
            format::print_line(&names(&barrier.here));
        } else {
            eprintln!("skynet-agent: {}", sentence(&barrier.here, args));
        }
        return Ok(if reached { Exit::Ok } else { Exit::Timeout });
    }
}

/// What is known so far.
#[derive(Default)]
struct Barrier {
    client: Option<Client>,
    revision: Option<u64>,
    here: Vec<MemberReport>,
    /// Why nothing can be known.
    trouble: Option<Failure>,
}

impl Barrier {
    /// Asks the agent. One that does not run yet, or has not joined, is waited for: scripts start before it at boot.
    fn look(&mut self, args: &WaitArgs) -> Result<(), Failure> {
        let request = Request::Roster { roles: args.roles.clone(), since: self.revision };
        let socket = args.ask.socket();
        let asked = match self.client.take().map_or_else(|| Client::connect(&socket), Ok) {
            Ok(mut client) => client.ask::<RosterReport>(&request).map(|report| (client, report)),
            Err(e) => Err(e),
        };
        match asked {
            Ok((client, report)) => {
                self.client = Some(client);
                self.take(report)
            }
            Err(e @ (ClientError::NotRunning { .. } | ClientError::Io { .. })) => {
                *self = Self { trouble: Some(e.into()), ..Self::default() };
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn take(&mut self, report: RosterReport) -> Result<(), Failure> {
        let message = report.message.unwrap_or_default();
        self.trouble = match report.state {
            AgentState::Failed => return Err(Failure::new(Exit::Failed, message)),
            AgentState::NotJoined => {
                Some(Failure::new(Exit::NotJoined, "this machine belongs to no network yet"))
            }
            AgentState::Joining | AgentState::Up => None,
        };
        self.revision = Some(report.revision);
        if let Some(members) = report.members {
            self.here = members.into_iter().filter(|m| m.online).collect();
        }
        Ok(())
    }
}

fn sentence(here: &[MemberReport], args: &WaitArgs) -> String {
    let of =
        if args.roles.is_empty() { String::new() } else { format!(" with role {}", args.roles.join(" or ")) };
    let missing = args.count.saturating_sub(here.len());
    let who = if here.is_empty() { String::new() } else { format!(" ({})", names(here)) };
    format!(
        "{} of {} members{of} are here{who}; {missing} missing after {:?}",
        here.len(),
        args.count,
        args.timeout
    )
}

fn names(here: &[MemberReport]) -> String {
    let mut names: Vec<&str> = here.iter().take(MAX_NAMES).map(|m| m.name.as_str()).collect();
    let more = here.len().saturating_sub(MAX_NAMES);
    let rest = format!("and {more} more");
    if more > 0 {
        names.push(&rest);
    }
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: WaitArgs,
    }

    #[test]
    fn whoever_waited_in_vain_is_told_who_is_there_and_how_many_are_missing() {
        let args = Line::parse_from(["wait", "--role", "worker", "--count", "8", "--timeout", "60s"]).args;
        let member = |n: usize| MemberReport {
            name: format!("w-{n}"),
            ipv4: "10.7.0.1".to_owned(),
            ipv6: "fd00::1".to_owned(),
            roles: ["worker".to_owned()].into(),
            ephemeral: false,
            online: true,
            own: false,
        };
        let here: Vec<_> = (1..=3).map(member).collect();
        let expected = "3 of 8 members with role worker are here (w-1 w-2 w-3); 5 missing after 60s";
        assert_eq!(sentence(&here, &args), expected);
        let many: Vec<_> = (1..=20).map(member).collect();
        assert!(names(&many).ends_with("w-16 and 4 more"));
    }
}
