//! `network show`.

use clap::Subcommand;
use serde_json::json;
use skynet_relay::network::load_network;

use super::{Common, Failure};

#[derive(Subcommand, Debug)]
pub(crate) enum NetworkVerb {
    /// Name, range, keys and relays.
    Show,
}

pub(super) fn execute(common: &Common, verb: &NetworkVerb) -> Result<(), Failure> {
    let NetworkVerb::Show = verb;
    common.require_network()?;
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
