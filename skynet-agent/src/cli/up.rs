//! `skynet-agent up`: whatever is missing between this machine and an overlay address is done, nothing twice.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use skynet_core::member::{JoinToken, TokenError};
use skynet_core::time::Instant;
use zeroize::Zeroizing;

use super::spawn::{Background, Made};
use super::{AgentArgs, Exit, Failure, format};
use crate::api::{AgentState, Client, ClientError, Request, StatusReport};
use crate::config::{Config, Places, parse_duration};
use crate::{boot, clock, privileges};

/// For a network that is told to end.
const LAST_BREATH: Duration = Duration::from_secs(2);
/// How often the agent is asked whether it is up.
const POLL: Duration = Duration::from_millis(50);

#[derive(Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// How long to wait for the network.
    #[arg(long, env = "SKYNET_TIMEOUT", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON with a "schema" field.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &UpArgs) -> Result<Exit, Failure> {
    let deadline = clock::monotonic() + args.timeout;
    let config = configuration(args)?;
    let token = config.token.as_ref().map(|t| t.resolve()).transpose()?;
    // Checked before anything starts or changes. A member's token may have expired long ago.
    if let Some(token) = &token {
        check_token(token, has_credentials(&config.state_dir))?;
    }
    let progress = progress_line(args.json);
    let first = Config::load(args.agent.overrides().places_only())?.places();
    let (mut client, mut begun) = reach(&config, &first, args, token.is_some(), deadline, &progress)?;
    let result = join(&mut client, &config, token, &mut begun, deadline, &progress);
    progress.finish_and_clear();
    match result {
        Ok(status) => {
            print(&status, args.json);
            Ok(Exit::Ok)
        }
        Err(failure) => {
            // What was started for a join that was refused is not left behind: nothing has changed.
            if failure.exit != Exit::Timeout {
                begun.undo(client, &config, &first);
            }
            Err(failure)
        }
    }
}

/// With what the cloud says of this machine, if it is no member and nobody else says how to become one.
fn configuration(args: &UpArgs) -> Result<Config, Failure> {
    let config = args.agent.load()?;
    if config.token.is_some() || config.wireguard.is_some() || has_credentials(&config.state_dir) {
        return Ok(config);
    }
    let failed = |e: std::io::Error| Failure::new(Exit::Failed, e.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let settings = runtime.block_on(boot::Places::default().look(config.boot_metadata));
    args.agent.load_over(&settings)
}

fn check_token(token: &str, is_member: bool) -> Result<(), Failure> {
    let failed = |e: TokenError| Failure::new(Exit::Failed, e.to_string());
    let parsed = JoinToken::parse(token).map_err(failed)?;
    if is_member { Ok(()) } else { parsed.check_expiry(clock::now().unix).map_err(failed) }
}

/// What this command has started.
enum Begun {
    Nothing,
    /// A further network in the agent that runs.
    Network(Made),
    /// The agent.
    Agent(Background),
}

impl Begun {
    fn agent(&mut self) -> Option<&mut Background> {
        if let Self::Agent(background) = self { Some(background) } else { None }
    }

    fn undo(self, mut client: Client, config: &Config, first: &Places) {
        let down = |client: &mut Client| drop(client.ask::<serde_json::Value>(&Request::Down));
        match self {
            Self::Nothing => {}
            Self::Network(made) => {
                down(&mut client);
                let deadline = clock::monotonic() + LAST_BREATH;
                while config.socket.exists() && clock::monotonic() < deadline {
                    std::thread::sleep(POLL);
                }
                if !has_credentials(&config.state_dir) {
                    made.remove();
                }
            }
            Self::Agent(background) => {
                let _ = Client::connect(&first.socket).map(|mut client| down(&mut client));
                background.finish(has_credentials(&config.state_dir));
            }
        }
    }
}

/// The network in the running agent, in one started now, or among the others of the one that runs.
fn reach(
    config: &Config,
    first: &Places,
    args: &UpArgs,
    has_token: bool,
    deadline: Instant,
    progress: &ProgressBar,
) -> Result<(Client, Begun), Failure> {
    match Client::connect(&config.socket) {
        Ok(client) => return Ok((client, Begun::Nothing)),
        Err(ClientError::NotRunning { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    if let Some(network) = &config.network
        && let Ok(mut agent) = Client::connect(&first.socket)
    {
        let made = Made::below(&config.state_dir);
        let flags = args.agent.to_flags().into_iter().filter_map(|flag| flag.into_string().ok()).collect();
        let (network, proxy) = (network.to_string(), args.agent.proxy.clone());
        agent.ask::<serde_json::Value>(&Request::Network { network, flags, proxy })?;
        return Ok((Client::connect(&config.socket)?, Begun::Network(made)));
    }
    let missing = privileges::missing();
    if !missing.is_empty() {
        return Err(Failure::new(Exit::Failed, missing.join("\n")));
    }
    if !has_token && config.wireguard.is_none() && !has_credentials(&config.state_dir) {
        return Err(not_joined());
    }
    progress.set_message("starting the agent");
    let mut background = Background::start(config, first, &args.agent)?;
    loop {
        match Client::connect(&config.socket) {
            Ok(client) => return Ok((client, Begun::Agent(background))),
            Err(ClientError::NotRunning { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        if let Some(sentence) = background.ended() {
            background.finish(has_credentials(&config.state_dir));
            return Err(Failure::new(Exit::Failed, sentence));
        }
        wait(deadline, "the agent did not start in time")?;
    }
}

fn has_credentials(state_dir: &Path) -> bool {
    state_dir.join("credentials").exists()
}

fn not_joined() -> Failure {
    Failure::new(
        Exit::NotJoined,
        "this machine belongs to no network yet; the cure: up --token skj1.… (or file:PATH)",
    )
}

/// Sends the token, which changes nothing on a member, then waits until the agent has its address.
fn join(
    client: &mut Client,
    config: &Config,
    token: Option<Zeroizing<String>>,
    begun: &mut Begun,
    deadline: Instant,
    progress: &ProgressBar,
) -> Result<StatusReport, Failure> {
    let mut ask = |client: &mut Client, request: &Request| {
        let answer: Result<serde_json::Value, ClientError> = client.ask(request);
        answer.map_err(|e| {
            let is_gone = matches!(e, ClientError::Io { .. } | ClientError::NotRunning { .. });
            let said = begun.agent().filter(|_| is_gone).and_then(Background::ends);
            said.map_or_else(|| e.into(), |sentence| Failure::new(Exit::Failed, sentence))
        })
    };
    if let Some(token) = token {
        let name = Some(config.name.to_string());
        ask(client, &Request::Join { token: token.to_string(), name })?;
    }
    loop {
        let answer = ask(client, &Request::Status)?;
        let status: StatusReport =
            serde_json::from_value(answer).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
        progress.set_message(status.message.clone().unwrap_or_else(|| "joining".to_owned()));
        let waiting = match status.state {
            AgentState::Up => return Ok(status),
            AgentState::NotJoined => {
                return Err(status.message.map_or_else(not_joined, |m| Failure::new(Exit::NotJoined, m)));
            }
            AgentState::Failed => {
                let refused = || "the network refused this machine".to_owned();
                return Err(Failure::new(Exit::Failed, status.message.unwrap_or_else(refused)));
            }
            AgentState::Joining => status.message.unwrap_or_else(|| "no answer from a relay".to_owned()),
        };
        wait(deadline, &format!("not joined in time; the agent goes on trying ({waiting})"))?;
    }
}

fn wait(deadline: Instant, too_late: &str) -> Result<(), Failure> {
    if clock::monotonic() >= deadline {
        return Err(Failure::new(Exit::Timeout, too_late));
    }
    std::thread::sleep(POLL);
    Ok(())
}

fn progress_line(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let line = ProgressBar::new_spinner();
    line.set_style(
        ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is constant"),
    );
    line.enable_steady_tick(Duration::from_millis(100));
    line
}

fn print(status: &StatusReport, json: bool) {
    if json {
        format::print_json(&serde_json::json!({
            "schema": "up/1",
            "name": status.this.name,
            "ipv4": status.this.ipv4,
            "ipv6": status.this.ipv6,
            "interface": status.this.interface,
        }));
        return;
    }
    let address = status.this.ipv4.as_deref().or(status.this.ipv6.as_deref()).unwrap_or("no address");
    let name = status.this.name.as_deref().unwrap_or("this node");
    format::print_line(&format!("{name} is up at {address} ({})", status.this.interface));
}
