//! `network show`, and the relays of a network.

use clap::Subcommand;
use serde_json::json;
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::network::{add_relay, load_network, remove_relay};

use super::run::PublicAddress;
use super::{Common, Failure};

#[derive(Subcommand, Debug)]
pub(crate) enum NetworkVerb {
    /// Name, range, keys and relays.
    Show,
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

/// What members and the other relays have to hear of.
const TELL: &str = "Restart the relay on this host (drain it first, if there is another): nodes hear of it as they come back.";

pub(super) fn execute(common: &Common, verb: &NetworkVerb) -> Result<(), Failure> {
    common.require_network()?;
    match verb {
        NetworkVerb::Show => show(common),
        NetworkVerb::AddRelay { public_addresses } => add(common, public_addresses),
        NetworkVerb::RemoveRelay { relay_no } => {
            remove_relay(&common.dir, *relay_no, Clock::new().now().unix)?;
            if common.json {
                say!("{}", json!({ "schema": "skynet.relay.removed/1", "relay_no": relay_no }));
            } else {
                say!("Relay {relay_no} is not of the network any more; stop it. {TELL}");
            }
            Ok(())
        }
    }
}

fn add(common: &Common, public_addresses: &[PublicAddress]) -> Result<(), Failure> {
    let addresses: Vec<_> = public_addresses.iter().map(|a| a.with_port(super::run::PORT)).collect();
    let invitation = add_relay(&common.dir, &addresses, &mut os_rng()?, Clock::new().now().unix)?;
    let (text, relay_no) = (invitation.encode(), invitation.relay_no);
    if common.json {
        let invited = json!({
            "schema": "skynet.relay.invitation/1", "relay_no": relay_no, "invitation": text.as_str(),
        });
        say!("{invited}");
        return Ok(());
    }
    eprintln!("Relay {relay_no}. On its host:\n");
    say!("skynet-relay up --invitation {}", text.as_str());
    eprintln!("\n{TELL}");
    Ok(())
}

fn show(common: &Common) -> Result<(), Failure> {
    let network = load_network(&common.dir)?;
    let (genesis, manifest) = (network.trust.genesis(), network.trust.manifest());
    let root_here = std::fs::symlink_metadata(common.dir.join("operator/root.key")).is_ok();
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
                "network_id": network.trust.network_id().to_string(),
                "root_pin": network.trust.root_pin().to_string(),
                "range": manifest.v4.to_string(),
                "v6_prefix": network.trust.root_pin().v6_prefix().to_string(),
                "manifest_epoch": manifest.epoch,
                "manifest_next_update": manifest.next_update.0,
                "relays": relays,
                "relay_no": network.relay_no,
                "registrar_on_this_host": network.registrar_key.is_some(),
                "root_key_on_this_host": root_here,
            })
        );
        return Ok(());
    }
    say!("network   {} ({})", genesis.name, network.trust.network_id());
    say!("root pin  {}", network.trust.root_pin());
    say!("range     {} and {}/48", manifest.v4, network.trust.root_pin().v6_prefix());
    say!("manifest  epoch {}", manifest.epoch);
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
