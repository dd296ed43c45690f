//! The directory, for operators: who is a member, and how often each token was used.

use serde_json::{Map, Value, json};
use skynet_core::member::Bundle;

use crate::store::{StoreError, View};

/// Entries read at once.
const PAGE: usize = 512;

/// Everything in it, as JSON. What cannot be read is counted as damaged, never left out in silence.
///
/// # Errors
/// The store does not answer.
pub fn directory(view: &dyn View) -> Result<Value, StoreError> {
    let (mut nodes, mut tokens, mut damaged) = (Vec::new(), Map::new(), 0);
    each(view, "nodes/", |_, value| match node(value) {
        Some(node) => nodes.push(node),
        None => damaged += 1,
    })?;
    each(view, "token/", |key, value| match value.try_into().map(u32::from_be_bytes) {
        Ok(uses) => drop(tokens.insert(key.trim_start_matches("token/").to_owned(), uses.into())),
        Err(_) => damaged += 1,
    })?;
    Ok(
        json!({ "schema": "skynet.relay.directory/1", "nodes": nodes, "token_uses": tokens, "damaged": damaged }),
    )
}

fn each(view: &dyn View, prefix: &str, mut one: impl FnMut(&str, &[u8])) -> Result<(), StoreError> {
    let mut after: Option<String> = None;
    loop {
        let page = view.range(prefix, after.as_deref(), PAGE)?;
        page.iter().for_each(|(key, stored)| one(key, &stored.value));
        match page.last() {
            Some((last, _)) => after = Some(last.clone()),
            None => return Ok(()),
        }
    }
}

fn node(bundle: &[u8]) -> Option<Value> {
    let bundle = Bundle::parse(bundle).ok()?;
    let (certificate, binding) = (bundle.certificate.unverified(), bundle.binding.unverified());
    let receipt = bundle.receipt.as_ref().map(|receipt| receipt.unverified());
    Some(json!({
        "name": certificate.name.as_str(),
        "ipv4": certificate.v4.to_string(),
        "identity": hex(certificate.identity.as_bytes()),
        "public_key": binding.x25519.to_string(),
        "tags": certificate.tags.iter().collect::<Vec<_>>(),
        "ephemeral": certificate.ephemeral,
        "token_id": certificate.token_id.to_string(),
        "token_use": receipt.map(|receipt| receipt.use_number),
        "joined": certificate.not_before.0,
        "not_after": certificate.not_after.0,
        "prolonged_until": receipt.and_then(|receipt| receipt.certificate_until).map(|until| until.0),
        "renew_until": bundle.delegation.unverified().renew_until.map(|until| until.0),
        "key_not_after": binding.not_after.0,
        "receipt_not_after": receipt.map(|receipt| receipt.not_after.0),
    }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
