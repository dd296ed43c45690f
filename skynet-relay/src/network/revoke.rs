//! Taking nodes and tokens back: the operator's, with the root key.

use std::path::Path;

use skynet_core::member::document::{Content as _, Kind};
use skynet_core::member::revocation::{MAX_REVOKED_NODES, MAX_REVOKED_TOKENS};
use skynet_core::member::{Extent, Revocations, RevokedNode, RevokedToken};
use skynet_core::time::UnixTime;

use super::documents::{keep_document, load_operator};
use super::files::lock_directory;
use super::{NetworkError, tokens};

/// What is taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revoke {
    /// A node.
    Node(RevokedNode),
    /// A token. Nothing but `All` changes what `All` was said of before.
    Token(RevokedToken),
}

/// Signs a list of the next epoch with this in it, and without what says nothing any more. Its epoch.
///
/// # Errors
/// No root key here, too long a list, or a file.
pub fn revoke(dir: &Path, what: Revoke, now: UnixTime) -> Result<u64, NetworkError> {
    let _lock = lock_directory(dir)?;
    let (root, trust) = load_operator(dir)?;
    let mut list = trust.revocations().map_or_else(
        || Revocations {
            network_id: trust.network_id(),
            epoch: 0,
            issued: now,
            signer: root.identity(),
            nodes: Vec::new(),
            tokens: Vec::new(),
        },
        |held| Revocations::clone(held),
    );
    (list.epoch, list.issued, list.signer) = (list.epoch + 1, now, root.identity());
    list.nodes.retain(|node| node.until > now);
    list.tokens.retain(|token| token.until > now);
    match what {
        Revoke::Node(node) => {
            list.nodes.retain(|held| held.identity != node.identity);
            list.nodes.push(node);
        }
        Revoke::Token(token) => {
            let held = list.token(&token.token_id).copied();
            list.tokens.retain(|held| held.token_id != token.token_id);
            list.tokens.push(match held {
                Some(held) => RevokedToken { extent: held.extent.max(token.extent), ..held },
                None => token,
            });
        }
    }
    list.nodes.sort_unstable();
    list.tokens.sort_unstable();
    if list.nodes.len() > MAX_REVOKED_NODES || list.tokens.len() > MAX_REVOKED_TOKENS {
        return Err(NetworkError::Options(format!(
            "a network can have {MAX_REVOKED_NODES} revoked nodes and {MAX_REVOKED_TOKENS} revoked tokens at once; \
             revoke the tokens of many nodes with --all"
        )));
    }
    keep_document(dir, Kind::Revocations, list.sign(&root)?.bytes())?;
    Ok(list.epoch)
}

/// A token as `token revoke` takes it back, by what is known of it.
pub fn token_entry(token: &tokens::Issued, extent: Extent, now: UnixTime) -> RevokedToken {
    let lifetime = u64::from(token.delegation.max_node_lifetime);
    RevokedToken {
        token_id: token.delegation.token_id,
        extent,
        since: now,
        until: token
            .delegation
            .not_after
            .plus_secs(lifetime)
            .max(token.delegation.renew_until.unwrap_or_default()),
    }
}
