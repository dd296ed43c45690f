//! `network show`, and the relays of a network.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use skynet_core::member::Ipv4Prefix;
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::network::{
    CreateOptions, add_relay, create_network, export_root, has_root_key, import_documents, load_documents_of,
    load_network, remove_relay, split,
};

use super::run::PublicAddress;
use super::token::TokenArgs;
use super::{Common, Failure};

#[derive(Subcommand, Debug)]
pub(crate) enum NetworkVerb {
    /// Name, range, keys, relays and documents.
    Show,
    /// Make a network without running its relay.
    Init(Init),
    /// Where the root key is.
    #[command(subcommand)]
    Root(RootVerb),
    /// Take over what was signed in the operator's own directory: manifest, revocations, policy.
    Import {
        /// The operator's directory, or one with those files.
        #[arg(value_name = "DIR")]
        from: PathBuf,
    },
    /// List another relay, and print the invitation with which its host becomes it. A secret: for a file, not for chat.
    AddRelay {
        /// Where nodes will reach it; up to four.
        #[arg(long = "public-address", value_name = "IP[:PORT]", required = true)]
        public_addresses: Vec<PublicAddress>,
    },
    /// Take a relay out of the list.
    RemoveRelay {
        /// Its number, as `network show` prints it.
        #[arg(value_name = "NUMBER")]
        relay_no: u16,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Keep the root key here, on a machine that need not be on any network: what the relay's host needs goes to this
    /// directory, to be copied to its /var/lib/skynet-relay.
    #[arg(long, value_name = "DIR")]
    offline: Option<PathBuf>,
    /// Where nodes will reach the relay; up to four.
    #[arg(long = "public-address", value_name = "IP[:PORT]", required = true)]
    public_addresses: Vec<PublicAddress>,
    /// Name of the network.
    #[arg(long, default_value = "skynet")]
    network_name: String,
    /// IPv4 range of the network; a random 10.x.0.0/16 if not given.
    #[arg(long, value_name = "PREFIX")]
    range: Option<Ipv4Prefix>,
    #[command(flatten)]
    token: TokenArgs,
}

#[derive(Subcommand, Debug)]
pub(crate) enum RootVerb {
    /// Copy the operator's part of the network to a directory of its own: there tokens, policy and revocations are signed.
    Export {
        /// A new directory, on a stick for instance.
        #[arg(value_name = "DIR")]
        to: PathBuf,
        /// Leave no root key on this host.
        #[arg(long)]
        remove: bool,
    },
}

pub(super) fn execute(common: &Common, verb: &NetworkVerb) -> Result<(), Failure> {
    if let NetworkVerb::Init(options) = verb {
        return init(common, options);
    }
    common.require_network()?;
    match verb {
        NetworkVerb::Init(_) => Ok(()),
        NetworkVerb::Root(RootVerb::Export { to, remove }) => export(common, to, *remove),
        NetworkVerb::Import { from } => import(common, from),
        NetworkVerb::Show => show(common),
        NetworkVerb::AddRelay { public_addresses } => add(common, public_addresses),
        NetworkVerb::RemoveRelay { relay_no } => {
            remove_relay(&common.dir, *relay_no, Clock::new().now().unix)?;
            let told = super::directory::tell_relay(common)?;
            if common.json {
                say!("{}", json!({ "schema": "skynet.relay.removed/1", "relay_no": relay_no }));
            } else {
                say!("Relay {relay_no} is not of the network any more; stop it. {told}");
            }
            Ok(())
        }
    }
}

fn init(common: &Common, init: &Init) -> Result<(), Failure> {
    let options = CreateOptions {
        name: init.network_name.clone(),
        v4: init.range,
        relay_addresses: init.public_addresses.iter().map(|a| a.with_port(super::run::PORT)).collect(),
        daemon: if init.offline.is_some() { None } else { super::user::daemon_user(None)? },
        token: init.token.options()?,
    };
    let created = create_network(&common.dir, &options, &mut os_rng()?, Clock::new().now().unix)?;
    if let Some(relay) = &init.offline {
        split(&common.dir, relay, None)?;
    }
    if common.json {
        let mut value = super::token::to_json(&created.token);
        value["schema"] = "skynet.relay.network-init/1".into();
        value["range"] = created.v4.to_string().into();
        say!("{value}");
        return Ok(());
    }
    say!("{}", created.token.text.as_str());
    eprintln!("The token above admits machines once the relay runs.");
    if let Some(relay) = &init.offline {
        eprintln!(
            "Copy {} to /var/lib/skynet-relay of the relay's host, delete it here, and there: skynet-relay run. \
             The root key stays in {}.",
            relay.display(),
            common.dir.join("operator").display()
        );
    }
    Ok(())
}

fn export(common: &Common, to: &Path, remove: bool) -> Result<(), Failure> {
    export_root(&common.dir, to, remove)?;
    if common.json {
        let removed = json!({ "schema": "skynet.relay.root-exported/1", "to": to, "removed_here": remove });
        say!("{removed}");
        return Ok(());
    }
    let here = if remove { "It is not on this host any more" } else { "It is still on this host too" };
    say!(
        "The root key is in {}: whoever reads it owns the network. {here}. Sign with --dir {0}; bring documents back with \
         `skynet-relay network import`.",
        to.display()
    );
    Ok(())
}

fn import(common: &Common, from: &Path) -> Result<(), Failure> {
    let taken: Vec<String> = import_documents(&common.dir, from)?.iter().map(ToString::to_string).collect();
    let told = if taken.is_empty() { "" } else { super::directory::tell_relay(common)? };
    if common.json {
        say!("{}", json!({ "schema": "skynet.relay.imported/1", "taken": taken }));
    } else if taken.is_empty() {
        say!("There is nothing newer in {}.", from.display());
    } else {
        say!("Taken over: {}. {told}", taken.join(", "));
    }
    Ok(())
}

fn add(common: &Common, public_addresses: &[PublicAddress]) -> Result<(), Failure> {
    let addresses: Vec<_> = public_addresses.iter().map(|a| a.with_port(super::run::PORT)).collect();
    let invitation = add_relay(&common.dir, &addresses, &mut os_rng()?, Clock::new().now().unix)?;
    let (text, relay_no) = (invitation.encode(), invitation.relay_no);
    let told = super::directory::tell_relay(common)?;
    if common.json {
        let invited = json!({
            "schema": "skynet.relay.invitation/1", "relay_no": relay_no, "invitation": text.as_str(),
        });
        say!("{invited}");
        return Ok(());
    }
    eprintln!("Relay {relay_no}. On its host:\n");
    say!("skynet-relay up --invitation {}", text.as_str());
    eprintln!("\n{told}");
    Ok(())
}

fn show(common: &Common) -> Result<(), Failure> {
    let trust = load_documents_of(&common.dir)?;
    let (genesis, manifest) = (trust.genesis(), trust.manifest());
    let root_here = has_root_key(&common.dir);
    // None in the operator's own directory.
    let relay_here = exists_relay(common).then(|| load_network(&common.dir)).transpose()?;
    let revocations = trust.revocations().map(|list| (list.epoch, list.nodes.len(), list.tokens.len()));
    let policy = trust.policy().map(|policy| policy.epoch);
    let relays: Vec<_> = manifest
        .relays
        .iter()
        .map(|relay| {
            let addresses: Vec<String> = relay.addresses.iter().map(ToString::to_string).collect();
            json!({ "relay_no": relay.relay_no, "key": relay.key.to_string(), "addresses": addresses })
        })
        .collect();
    if common.json {
        say!(
            "{}",
            json!({
                "schema": "skynet.relay.network/1",
                "name": genesis.name,
                "network_id": trust.network_id().to_string(),
                "root_pin": trust.root_pin().to_string(),
                "range": manifest.v4.to_string(),
                "v6_prefix": trust.root_pin().v6_prefix().to_string(),
                "manifest_epoch": manifest.epoch,
                "manifest_next_update": manifest.next_update.0,
                "relays": relays,
                "revocations_epoch": revocations.map(|(epoch, ..)| epoch),
                "revoked_nodes": revocations.map_or(0, |(_, nodes, _)| nodes),
                "revoked_tokens": revocations.map_or(0, |(_, _, tokens)| tokens),
                "policy_epoch": policy,
                "relay_no": relay_here.as_ref().map(|network| network.relay_no),
                "registrar_on_this_host": relay_here.is_some_and(|network| network.registrar_key.is_some()),
                "root_key_on_this_host": root_here,
            })
        );
        return Ok(());
    }
    say!("network   {} ({})", genesis.name, trust.network_id());
    say!("root pin  {}", trust.root_pin());
    say!("range     {} and {}/48", manifest.v4, trust.root_pin().v6_prefix());
    say!("manifest  epoch {}", manifest.epoch);
    match revocations {
        Some((epoch, nodes, tokens)) => say!("revoked   {nodes} nodes, {tokens} tokens (epoch {epoch})"),
        None => say!("revoked   nothing ever"),
    }
    match policy {
        Some(epoch) => say!("policy    epoch {epoch}"),
        None => say!("policy    none: every machine may talk to every other"),
    }
    for relay in &manifest.relays {
        let addresses: Vec<String> = relay.addresses.iter().map(ToString::to_string).collect();
        say!("relay {}   {} {}", relay.relay_no, addresses.join(", "), relay.key);
    }
    if root_here {
        say!(
            "root key  on this host, in {}: whoever reads it owns the network",
            common.dir.join("operator/root.key").display()
        );
    } else {
        say!("root key  not on this host");
    }
    Ok(())
}

fn exists_relay(common: &Common) -> bool {
    std::fs::symlink_metadata(common.dir.join("relay.key")).is_ok()
}
