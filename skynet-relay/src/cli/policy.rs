//! `policy set`, `policy check`, `policy explain`, `policy show`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skynet_core::member::{Policy, Service, Tags};
use skynet_relay::clock::Clock;
use skynet_relay::network::{PolicyFile, explain, load_documents_of, render, set_policy};

use super::{Common, Failure, directory};

#[derive(Subcommand, Debug)]
pub(crate) enum PolicyVerb {
    /// Sign a file as the network's policy, if it passes its own tests; it holds at once on all machines that are online.
    Set {
        /// The file; docs/RELAY.md and examples/policy.toml say how it looks.
        file: PathBuf,
    },
    /// Run a file's own tests.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Say whether one machine may talk to another, and which rule says so.
    Explain(Explain),
    /// The rules in force.
    Show,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// Who begins: a machine by name or address, or `tag:web` (`tag:web,linux` for one with both).
    from: String,
    /// With whom.
    to: String,
    /// About what: `tcp/22`, `udp/1000-2000`, `icmp`, or the number of a protocol.
    service: Service,
    /// Ask a file instead of the policy in force.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) fn execute(common: &Common, verb: &PolicyVerb) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Check { file } => check(common, file).map(drop),
        PolicyVerb::Set { file } => set(common, file),
        PolicyVerb::Explain(question) => answer(common, question),
        PolicyVerb::Show => show(common),
    }
}

fn read(path: &Path) -> Result<PolicyFile, Failure> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(PolicyFile::parse(&text).with_context(|| path.display().to_string())?)
}

/// The file, if it is as its tests say.
fn check(common: &Common, path: &Path) -> Result<PolicyFile, Failure> {
    let file = read(path)?;
    let failed = file.check();
    if !failed.is_empty() {
        return Err(Failure::Failed(anyhow::anyhow!("{}: {}", path.display(), failed.join("\n"))));
    }
    let passed = file.expectations();
    if common.json {
        say!("{}", json!({ "schema": "skynet.relay.policy-check/1", "expectations": passed }));
    } else {
        say!("{}: {passed} expectations are met.", path.display());
    }
    Ok(file)
}

fn set(common: &Common, path: &Path) -> Result<(), Failure> {
    common.require_network()?;
    let file = read(path)?;
    let failed = file.check();
    if !failed.is_empty() {
        let what = failed.join("\n");
        return Err(Failure::Failed(anyhow::anyhow!("{}: nothing was changed: {what}", path.display())));
    }
    let epoch = set_policy(&common.dir, &file, Clock::new().now().unix)?;
    let told = directory::tell_relay(common)?;
    if common.json {
        say!("{}", json!({ "schema": "skynet.relay.policy-set/1", "epoch": epoch }));
    } else {
        say!("Policy {epoch} is signed. {told}");
    }
    Ok(())
}

fn answer(common: &Common, question: &Explain) -> Result<(), Failure> {
    let policy = match &question.file {
        Some(file) => Some(read(file)?.to_policy()),
        None => in_force(common)?,
    };
    let (from, to) = (tags_of(common, &question.from)?, tags_of(common, &question.to)?);
    let (allowed, why) = match &policy {
        Some(policy) => {
            let explained = explain(policy, &from, &to, &question.service);
            (explained.allowed, explained.why)
        }
        None => (true, "there is no policy: every machine may talk to every other".to_owned()),
    };
    if common.json {
        say!("{}", json!({ "schema": "skynet.relay.policy-explain/1", "allowed": allowed, "why": why }));
    } else {
        say!("{}: {why}", if allowed { "allowed" } else { "denied" });
    }
    Ok(())
}

fn in_force(common: &Common) -> Result<Option<Policy>, Failure> {
    common.require_network()?;
    Ok(load_documents_of(&common.dir)?.policy().map(|policy| Policy::clone(policy)))
}

/// Of a machine in the directory, or as given.
fn tags_of(common: &Common, who: &str) -> Result<Tags, Failure> {
    if let Some(tags) = who.strip_prefix("tag:") {
        return Ok(Tags::new(tags.split(',').filter(|tag| !tag.is_empty()))?);
    }
    common.require_network()?;
    let all = directory::read(common)?;
    let node = super::node::find(&all, who)?;
    Ok(Tags::new(node["tags"].as_array().into_iter().flatten().filter_map(Value::as_str))?)
}

fn show(common: &Common) -> Result<(), Failure> {
    let policy = in_force(common)?;
    let rules: Vec<String> = policy.iter().flat_map(|policy| &policy.rules).map(render).collect();
    if common.json {
        say!(
            "{}",
            json!({
                "schema": "skynet.relay.policy/1",
                "epoch": policy.as_ref().map(|policy| policy.epoch),
                "default": policy.as_ref().is_none_or(|policy| policy.allow_by_default),
                "rules": rules,
            })
        );
        return Ok(());
    }
    let Some(policy) = policy else {
        say!("No policy: every machine may talk to every other.");
        return Ok(());
    };
    say!("policy {}", policy.epoch);
    for (index, rule) in rules.iter().enumerate() {
        say!("rule {:<3} {rule}", index + 1);
    }
    say!("default  {}", if policy.allow_by_default { "allow" } else { "deny" });
    Ok(())
}
