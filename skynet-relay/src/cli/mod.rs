//! The command line: verbs, output for people and for programs, exit codes.

/// A line on standard output. A closed pipe is the reader's choice: no error, and no end of a relay.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod directory;
mod drain;
mod log;
mod network;
mod node;
mod run;
mod status;
mod token;
mod user;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

/// Rendezvous, packet relay and membership directory of a skynet network.
#[derive(Parser, Debug)]
#[command(name = "skynet-relay", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the relay is not running.";

#[derive(Args, Debug)]
struct Common {
    /// Keys, documents and directory of the network.
    #[arg(long, global = true, env = "SKYNET_RELAY_DIR", default_value = "/var/lib/skynet-relay")]
    dir: PathBuf,
    /// Print one JSON object, with a "schema" field, instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// How log lines on standard error look; `SKYNET_LOG` chooses what is logged.
    #[arg(long, global = true, env = "SKYNET_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: log::Format,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make the network if there is none, print a join token, and run the relay in the foreground.
    Up(run::Up),
    /// Run the relay of an existing network (for systemd).
    Run(run::Run),
    /// Make tokens with which machines join, see them, take them back.
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// See the machines of the network, take one out.
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// Show the network of this host.
    #[command(subcommand)]
    Network(network::NetworkVerb),
    /// Ask the running relay how it is: sessions, networks, rates, threads, drops by reason, peers.
    Status(status::StatusVerb),
    /// Let everybody go to other relays, without loss; then it can be stopped.
    Drain(drain::Drain),
}

/// What went wrong, and the exit code that says so.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 3.
    NotRunning(String),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::NotRunning(_) => 3,
        }
    }
}

impl Cli {
    /// Logs go to standard error.
    pub(crate) fn start_logging(&self) {
        log::start(self.common.log_format);
    }

    pub(crate) fn run(&self) -> Result<(), Failure> {
        match &self.verb {
            Verb::Up(up) => run::up(&self.common, up),
            Verb::Run(run) => run::run(&self.common, run),
            Verb::Token(verb) => token::execute(&self.common, verb),
            Verb::Node(verb) => node::execute(&self.common, verb),
            Verb::Network(verb) => network::execute(&self.common, verb),
            Verb::Status(verb) => status::execute(&self.common, verb),
            Verb::Drain(drain) => drain::execute(&self.common, drain),
        }
    }

    /// One sentence: the cause and the cure.
    pub(crate) fn report(&self, failure: &Failure) {
        let text = match failure {
            Failure::Failed(error) => format!("{error:#}"),
            Failure::NotRunning(text) => text.clone(),
        };
        if self.common.json {
            say!(
                "{}",
                json!({ "schema": "skynet.relay.error/1", "error": text, "exit_code": failure.code() })
            );
        } else {
            eprintln!("skynet-relay: {text}");
        }
    }
}

impl Common {
    fn status_socket(&self) -> PathBuf {
        self.dir.join("status.sock")
    }

    fn require_network(&self) -> Result<(), Failure> {
        if skynet_relay::network::network_exists(&self.dir) {
            return Ok(());
        }
        Err(Failure::Failed(anyhow::anyhow!(
            "there is no network in {}; make one with `skynet-relay up`, or name its directory with --dir",
            self.dir.display()
        )))
    }
}

/// `90`, `90s`, `15m`, `12h`, `30d`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("expected a number with s, m, h or d".into()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number with s, m, h or d")?;
    number
        .checked_mul(seconds)
        .filter(|&s| s > 0 && s <= 100 * 365 * 86_400)
        .map(std::time::Duration::from_secs)
        .ok_or_else(|| "expected a time between a second and a hundred years".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_a_unit() {
        assert_eq!(duration("90").unwrap().as_secs(), 90);
        assert_eq!(duration("15m").unwrap().as_secs(), 900);
        assert_eq!(duration("30d").unwrap().as_secs(), 30 * 86_400);
        for bad in ["", "d", "1w", "-1", "0", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
