//! `token create`, `token list`, `token revoke`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skynet_core::member::{Delegation, Extent, Ipv4Prefix, NamePattern, RevokedToken, Tags};
use skynet_core::time::UnixTime;
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::network::{
    Issued, NewToken, Revoke, TokenOptions, create_token, list_tokens, load_documents_of, revoke, token_entry,
};

use super::{Common, Failure, directory, duration};

#[derive(Subcommand, Debug)]
pub(crate) enum TokenVerb {
    /// Make a token. It is printed once and stored nowhere.
    Create(Create),
    /// What was made: ids, what they allow, how often they were used. Never the tokens themselves.
    List,
    /// Take tokens back: nobody joins with them any more.
    Revoke {
        /// Ids, as `token list` prints them.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// The machines that have joined with them go too.
        #[arg(long)]
        all: bool,
    },
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
    /// How long the registrar goes on prolonging the membership of machines that joined with it, unless they are revoked
    /// (s, m, h, d); `never`: it ends with their certificates, after a year.
    #[arg(long, value_parser = renewal, default_value = "3650d", value_name = "TIME")]
    token_renew: Duration,
    /// A tag of the machines that join with it: `relay` for such as relay for the others, one that names a rate class …;
    /// can be given several times.
    #[arg(long = "token-tag", visible_alias = "tag", value_name = "TAG")]
    token_tags: Vec<String>,
}

/// How long certificates are prolonged; zero: never.
fn renewal(text: &str) -> Result<Duration, String> {
    if text == "never" { Ok(Duration::ZERO) } else { duration(text) }
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
            renew_for: self.token_renew,
            ..TokenOptions::default()
        })
    }
}

pub(super) fn execute(common: &Common, verb: &TokenVerb) -> Result<(), Failure> {
    common.require_network()?;
    match verb {
        TokenVerb::Create(create) => make(common, create),
        TokenVerb::List => list(common),
        TokenVerb::Revoke { ids, all } => {
            take_back(common, ids, if *all { Extent::All } else { Extent::New })
        }
    }
}

fn make(common: &Common, create: &Create) -> Result<(), Failure> {
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

fn list(common: &Common) -> Result<(), Failure> {
    let trust = load_documents_of(&common.dir)?;
    let uses = directory::read(common)?;
    let now = Clock::new().now().unix;
    let describe = |token: &Issued| {
        let allowed = &token.delegation;
        let id = allowed.token_id.to_string();
        let used = uses["token_uses"][id.as_str()].as_u64().unwrap_or(0);
        let entry = trust.revocations().and_then(|list| list.token(&allowed.token_id));
        json!({
            "token_id": id,
            "state": state(allowed, entry, used, now),
            "used": used,
            "max_uses": allowed.max_uses,
            "not_after": allowed.not_after.0,
            "renew_until": allowed.renew_until.map(|until| until.0),
            "tags": allowed.tags.iter().collect::<Vec<_>>(),
            "ephemeral": allowed.ephemeral,
            "pool": allowed.pool.to_string(),
        })
    };
    let tokens: Vec<Value> = list_tokens(&common.dir)?.iter().map(describe).collect();
    if common.json {
        say!("{}", json!({ "schema": "skynet.relay.tokens/1", "tokens": tokens }));
        return Ok(());
    }
    say!("{:<18} {:<12} {:<10} {:<12} TAGS", "ID", "STATE", "USED", "EXPIRES IN");
    for token in &tokens {
        let most = token["max_uses"].as_u64().filter(|most| *most > 0);
        let used = most.map_or_else(|| token["used"].to_string(), |most| format!("{}/{most}", token["used"]));
        let left = token["not_after"].as_u64().unwrap_or(0).saturating_sub(now.0);
        let tags: Vec<&str> =
            token["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (id, state) =
            (token["token_id"].as_str().unwrap_or_default(), token["state"].as_str().unwrap_or_default());
        let tags = if tags.is_empty() { "-".to_owned() } else { tags.join(",") };
        say!("{id:<18} {state:<12} {used:<10} {:<12} {tags}", span(left));
    }
    Ok(())
}

/// In one word what can be done with it.
fn state(allowed: &Delegation, entry: Option<&RevokedToken>, used: u64, now: UnixTime) -> &'static str {
    match entry.map(|entry| entry.extent) {
        Some(Extent::All) => "revoked-all",
        Some(Extent::New) => "revoked",
        None if now > allowed.not_after => "expired",
        None if allowed.max_uses > 0 && used >= allowed.max_uses.into() => "used-up",
        None => "good",
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0 => "-".to_owned(),
        1..3_600 => format!("{}m", seconds.div_ceil(60)),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn take_back(common: &Common, ids: &[String], extent: Extent) -> Result<(), Failure> {
    let known = list_tokens(&common.dir)?;
    let now = Clock::new().now().unix;
    // All of them are found before anything is signed.
    let find = |id: &String| {
        let token = known.iter().find(|token| token.delegation.token_id.to_string() == *id);
        token
            .map(|token| token_entry(token, extent, now))
            .ok_or_else(|| anyhow::anyhow!("no token {id} was made here; see `skynet-relay token list`"))
    };
    let entries = ids.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let mut epoch = 0;
    for entry in entries {
        epoch = revoke(&common.dir, Revoke::Token(entry), now)?;
    }
    let told = directory::tell_relay(common)?;
    if common.json {
        let all = extent == Extent::All;
        say!("{}", json!({ "schema": "skynet.relay.revoked/1", "tokens": ids, "all": all, "epoch": epoch }));
    } else {
        let what = match extent {
            Extent::New => "nobody joins with them any more",
            Extent::All => "the machines that joined with them are out",
        };
        say!("{} revoked (list {epoch}): {what}. {told}", ids.join(", "));
    }
    Ok(())
}

pub(super) fn to_json(token: &NewToken) -> Value {
    json!({ "token": token.text.as_str(), "token_id": token.id.to_string(), "token_not_after": token.not_after.0 })
}
