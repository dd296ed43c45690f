//! `token create`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use skynet_core::member::{Ipv4Prefix, NamePattern, Tags};
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::network::{NewToken, TokenOptions, create_token};

use super::{Common, Failure, duration};

#[derive(Subcommand, Debug)]
pub(crate) enum TokenVerb {
    /// Make a token. It is printed once and stored nowhere.
    Create(Create),
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    #[command(flatten)]
    options: TokenArgs,
}

/// What a token allows; also the first token of `up`.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// How long machines can join with the token (s, m, h, d).
    #[arg(long, value_parser = duration, default_value = "1d", value_name = "TIME")]
    token_ttl: Duration,
    /// How many machines can join with it; 0 is any number.
    #[arg(long, default_value_t = 0, value_name = "N")]
    token_uses: u32,
    /// Machines that join are forgotten when they leave.
    #[arg(long)]
    token_ephemeral: bool,
    /// Addresses for machines that join with it, inside the network's range.
    #[arg(long, value_name = "PREFIX")]
    token_pool: Option<Ipv4Prefix>,
    /// Names for machines that join with it: a name, or a beginning followed by *. A single name, or a pool of one address
    /// (/32), is a place: whoever joins with the token later takes it over.
    #[arg(long, value_name = "PATTERN")]
    token_name: Option<NamePattern>,
    /// A tag of the machines that join with it, such as one that names a rate class; can be given several times.
    #[arg(long = "token-tag", value_name = "TAG")]
    token_tags: Vec<String>,
}

impl TokenArgs {
    pub(super) fn options(&self) -> Result<TokenOptions, Failure> {
        Ok(TokenOptions {
            ttl: self.token_ttl,
            max_uses: self.token_uses,
            ephemeral: self.token_ephemeral,
            pool: self.token_pool,
            tags: Tags::new(&self.token_tags)?,
            names: self.token_name.clone(),
            ..TokenOptions::default()
        })
    }
}

pub(super) fn execute(common: &Common, verb: &TokenVerb) -> Result<(), Failure> {
    let TokenVerb::Create(create) = verb;
    common.require_network()?;
    let token =
        create_token(&common.dir, &create.options.options()?, &mut os_rng()?, Clock::new().now().unix)?;
    if common.json {
        let mut value = to_json(&token);
        value["schema"] = "skynet.relay.token/1".into();
        say!("{value}");
    } else {
        say!("{}", token.text.as_str());
        eprintln!("On every machine: skynet-agent up --token <the token above>");
    }
    Ok(())
}

pub(super) fn to_json(token: &NewToken) -> serde_json::Value {
    json!({ "token": token.text.as_str(), "token_id": token.id.to_string(), "token_not_after": token.not_after.0 })
}
