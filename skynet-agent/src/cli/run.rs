//! `skynet-agent run`: the agent itself, in the foreground.

use std::io::IsTerminal;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{AgentArgs, Exit, Failure, parse_flags};
use crate::config::{BootSettings, Config, NetworkName, Overrides};
use crate::runtime::Wishes;
use crate::{privileges, runtime};

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Log as JSON lines.
    #[arg(long)]
    pub(super) json: bool,
    /// What to log: error, warn, info, debug, trace, or a filter such as skynet_core=debug.
    #[arg(long, env = "SKYNET_LOG", default_value = "info", value_name = "LEVEL")]
    log: String,
    /// Leave the terminal's session; given by `up`.
    #[arg(long, hide = true)]
    background: bool,
}

pub(super) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    if args.background {
        // Fails only for a process group leader, which is then on its own already.
        let _ = nix::unistd::setsid();
    }
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|e| Failure::new(Exit::Usage, format!("--log {}: {e}", args.log)))?;
    start_log(filter, args.json);
    end_with_any_panic();
    // What is wrong with it is the command line's fault, and not the agent's.
    args.agent.load()?;
    let own = args.agent.overrides();
    let first = if own.network.is_some() { own.places_only() } else { own.clone() };
    let missing = privileges::missing();
    if !missing.is_empty() {
        return Err(Failure::new(Exit::Failed, missing.join("\n")));
    }
    let load = |settings: &[BootSettings]| Ok(Config::load_over(first.clone(), settings)?);
    let load_network = |network: &NetworkName, wishes: Option<Wishes>| {
        let overrides = match wishes {
            Some(wishes) => Overrides { proxy: wishes.proxy, ..parse_flags(&wishes.flags)?.overrides() },
            None if own.network.as_ref() == Some(network) => own.clone(),
            None => Overrides::default(),
        };
        let Overrides { config, state_dir, socket, proxy_environment, .. } = own.places_only();
        let network = Some(network.clone());
        let overrides = Overrides { network, config, state_dir, socket, proxy_environment, ..overrides };
        Ok(Config::load(overrides)?)
    };
    runtime::run(load, own.network.clone(), &load_network)
        .map_err(|e| Failure::new(Exit::Failed, format!("{e:#}")))?;
    Ok(Exit::Ok)
}

fn start_log(filter: EnvFilter, json: bool) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(colour).with_target(false).init();
    }
}

/// A thread that panics must not leave an agent that is half alive, in no build profile.
fn end_with_any_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}
