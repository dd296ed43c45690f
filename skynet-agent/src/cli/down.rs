//! `skynet-agent down`: stop the agent, keep the identity.

use std::time::Duration;

use clap::Args;

use super::{AskArgs, Exit, Failure, format};
use crate::api::{Client, Request};
use crate::clock;

/// Removing a route and a device takes milliseconds; a hanging agent shows by not being gone after this.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct DownArgs {
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

pub(super) fn run(args: &DownArgs) -> Result<Exit, Failure> {
    let socket = args.ask.socket();
    Client::connect(&socket)?.ask::<serde_json::Value>(&Request::Down)?;
    let deadline = clock::monotonic() + PATIENCE;
    // The socket file is the last thing the agent removes.
    while socket.exists() {
        if clock::monotonic() > deadline {
            return Err(Failure::new(
                Exit::Timeout,
                "the agent was told to stop and is still there after 10 s",
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if args.ask.json {
        format::print_json(&serde_json::json!({ "schema": "down/1", "stopped": true }));
    } else {
        format::print_line("stopped; the identity is kept");
    }
    Ok(Exit::Ok)
}
