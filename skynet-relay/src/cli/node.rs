//! `node list`, `node show`, `node revoke`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skynet_core::key::Identity;
use skynet_core::member::RevokedNode;
use skynet_core::time::UnixTime;
use skynet_relay::clock::Clock;
use skynet_relay::network::{Revoke, load_documents_of, revoke};

use super::{Common, Failure, directory};

/// A node that the directory does not know is kept on the list for so long: ten years, longer than certificates live.
const UNKNOWN: u64 = 10 * 365 * 86_400;

#[derive(Subcommand, Debug)]
pub(crate) enum NodeVerb {
    /// Every machine of the network.
    List,
    /// One machine, and all that is known of it.
    Show(Who),
    /// Take machines out of the network, for good: within seconds no member talks to them any more.
    Revoke {
        /// Names, overlay addresses or identities.
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Who {
    /// Its name, overlay IPv4 address or identity.
    #[arg(value_name = "NODE")]
    node: String,
}

pub(super) fn execute(common: &Common, verb: &NodeVerb) -> Result<(), Failure> {
    common.require_network()?;
    let all = directory::read(common)?;
    match verb {
        NodeVerb::List => list(common, &all),
        NodeVerb::Show(who) => show(common, find(&all, &who.node)?),
        NodeVerb::Revoke { nodes } => {
            // All of them are found before anything is signed.
            let entries = nodes.iter().map(|who| entry(&all, who)).collect::<Result<Vec<_>, _>>()?;
            take_out(common, &entries)
        }
    }
}

fn nodes(all: &Value) -> impl Iterator<Item = &Value> {
    all["nodes"].as_array().into_iter().flatten()
}

fn list(common: &Common, all: &Value) -> Result<(), Failure> {
    let trust = load_documents_of(&common.dir)?;
    let revoked: Vec<String> = trust
        .revocations()
        .into_iter()
        .flat_map(|list| &list.nodes)
        .map(|node| hex(&node.identity))
        .collect();
    if common.json {
        let nodes: Vec<_> = nodes(all).collect();
        say!("{}", json!({ "schema": "skynet.relay.nodes/1", "nodes": nodes, "revoked": revoked }));
        return Ok(());
    }
    say!("{:<24} {:<16} {:<20} IDENTITY", "NAME", "ADDRESS", "TAGS");
    for node in nodes(all) {
        let tags: Vec<&str> =
            node["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
        let tags = if tags.is_empty() { "-".to_owned() } else { tags.join(",") };
        say!("{:<24} {:<16} {tags:<20} {}", text("name"), text("ipv4"), text("identity"));
    }
    for identity in revoked {
        say!("{:<24} {:<16} {:<20} {identity}", "(revoked)", "-", "-");
    }
    Ok(())
}

fn show(common: &Common, node: &Value) -> Result<(), Failure> {
    if common.json {
        say!("{}", json!({ "schema": "skynet.relay.node/1", "node": node }));
        return Ok(());
    }
    for (key, value) in node.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        say!("{key:<18} {value}");
    }
    Ok(())
}

pub(super) fn find<'a>(all: &'a Value, who: &str) -> Result<&'a Value, Failure> {
    let is = |node: &&Value| ["name", "ipv4", "identity"].iter().any(|key| node[key] == who);
    let missing =
        || anyhow::anyhow!("no machine of the network is called {who}; see `skynet-relay node list`");
    Ok(nodes(all).find(is).ok_or_else(missing)?)
}

fn entry(all: &Value, who: &str) -> Result<RevokedNode, Failure> {
    if let Some(identity) = parse_hex(who)
        && find(all, who).is_err()
    {
        // Not in this directory, and yet somebody holds its key.
        return Ok(RevokedNode { identity, until: Clock::new().now().unix.plus_secs(UNKNOWN) });
    }
    let node = find(all, who)?;
    let identity = node["identity"].as_str().and_then(parse_hex);
    // As long as its documents could be prolonged.
    let until = node["not_after"].as_u64().max(node["renew_until"].as_u64());
    let (Some(identity), Some(until)) = (identity, until) else {
        return Err(Failure::Failed(anyhow::anyhow!("the relay does not say who {who} is")));
    };
    Ok(RevokedNode { identity, until: UnixTime(until) })
}

fn take_out(common: &Common, entries: &[RevokedNode]) -> Result<(), Failure> {
    let mut epoch = 0;
    for entry in entries {
        epoch = revoke(&common.dir, Revoke::Node(*entry), Clock::new().now().unix)?;
    }
    let told = directory::tell_relay(common)?;
    if common.json {
        let nodes: Vec<_> = entries.iter().map(|entry| hex(&entry.identity)).collect();
        say!("{}", json!({ "schema": "skynet.relay.revoked/1", "nodes": nodes, "epoch": epoch }));
    } else {
        let plural = if entries.len() == 1 { "" } else { "s" };
        say!("{} machine{plural} revoked (list {epoch}). {told}", entries.len());
    }
    Ok(())
}

fn hex(identity: &Identity) -> String {
    identity.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<Identity> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok().map(Identity)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_in_three_ways_and_a_stranger_by_its_whole_identity() {
        let identity = "ab".repeat(32);
        let all = json!({ "nodes": [{ "name": "web-1", "ipv4": "10.7.0.9", "identity": identity, "not_after": 77 }] });
        for who in ["web-1", "10.7.0.9", identity.as_str()] {
            let found = entry(&all, who).unwrap();
            assert_eq!((found.identity, found.until), (Identity([0xab; 32]), UnixTime(77)), "{who}");
        }
        assert_eq!(entry(&all, &"cd".repeat(32)).unwrap().identity, Identity([0xcd; 32]));
        for nobody in ["web-2", "10.7.0.1", "abab", ""] {
            assert!(entry(&all, nobody).is_err(), "{nobody:?}");
        }
    }
}
