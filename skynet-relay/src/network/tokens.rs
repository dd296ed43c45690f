//! Making join tokens: the operator's, with the root key.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use skynet_core::key::{Secret, SigningKey};
use skynet_core::member::document::Content as _;
use skynet_core::member::token::MAX_TOKEN_RELAYS;
use skynet_core::member::{
    Delegation, Ipv4Prefix, JoinToken, Manifest, NamePattern, RelayEntry, Signed, Tags, TokenId, TokenRelay,
};
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;
use zeroize::Zeroizing;

use super::documents::load_operator;
use super::files::{FileError, check_own_directory, names, private_directory, read_private, write_new};
use super::{NetworkError, OPERATOR};

/// Tokens that are kept a record of.
const MAX_RECORDS: usize = 10_000;
const RECORDS: &str = "tokens";

/// Longer than machines live, shorter than for ever.
const RENEW_FOR: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a token is to allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenOptions {
    /// How long new nodes can join with it.
    pub ttl: Duration,
    /// How many nodes can join with it; 0 is unlimited.
    pub max_uses: u32,
    /// The tags its nodes carry.
    pub tags: Tags,
    /// Whether its nodes are ephemeral.
    pub ephemeral: bool,
    /// Where its nodes' addresses come from; `None` is the network's whole range.
    pub pool: Option<Ipv4Prefix>,
    /// Which names its nodes may have; `None` is any.
    pub names: Option<NamePattern>,
    /// How long a node's certificate lives at most.
    pub node_lifetime: Duration,
    /// How long after the token's end the registrar may prolong certificates; zero: never. Not those of ephemeral nodes.
    pub renew_for: Duration,
    /// The relays it names; `None` is the first address of each relay of the manifest and its first of the
    /// other family, four in all at most.
    pub relays: Option<Vec<TokenRelay>>,
}

impl Default for TokenOptions {
    /// Good for a day and any number of nodes, whose certificates live a year and are prolonged for ten.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(86_400),
            max_uses: 0,
            tags: Tags::default(),
            ephemeral: false,
            pool: None,
            names: None,
            node_lifetime: Duration::from_secs(365 * 86_400),
            renew_for: RENEW_FOR,
            relays: None,
        }
    }
}

impl TokenOptions {
    /// Refuses what no network with this range can give.
    pub(super) fn check(&self, range: &Ipv4Prefix) -> Result<(), NetworkError> {
        let wrong = |text: String| Err(NetworkError::Options(text));
        if let Some(pool) = self.pool.filter(|pool| !range.covers(pool) || !pool.is_pool()) {
            return wrong(format!(
                "the pool {pool} must lie inside the network's range {range}, and not be a /31"
            ));
        }
        if self.ttl.is_zero() || self.node_lifetime.is_zero() {
            return wrong("a token and its nodes need a life of at least one second".into());
        }
        if self.relays.as_ref().is_some_and(|relays| relays.is_empty() || relays.len() > MAX_TOKEN_RELAYS) {
            return wrong("a token names one to four relays".into());
        }
        Ok(())
    }
}

/// A token that was just made: shown once, stored nowhere.
#[derive(Clone)]
pub struct NewToken {
    /// The token, `skj1.…`: a secret.
    pub text: Zeroizing<String>,
    /// Its public name, for listing and revoking.
    pub id: TokenId,
    /// Until when new nodes can join with it.
    pub not_after: UnixTime,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Makes a token of the network in `dir`. Needs the root key, so only the operator's user can.
pub fn create_token(
    dir: &Path,
    options: &TokenOptions,
    rng: &mut Rng,
    now: UnixTime,
) -> Result<NewToken, NetworkError> {
    let (root, trust) = load_operator(dir)?;
    let manifest = trust.manifest();
    options.check(&manifest.v4)?;
    let seed = Secret::random(rng);
    let id = TokenId(rng.array());
    let not_after = now.plus_secs(options.ttl.as_secs());
    let delegation = Delegation {
        network_id: trust.network_id(),
        token_id: id,
        token_key: SigningKey::from_seed(seed.expose()).identity(),
        signer: root.identity(),
        not_after,
        max_node_lifetime: u32::try_from(options.node_lifetime.as_secs()).unwrap_or(u32::MAX),
        max_uses: options.max_uses,
        ephemeral: options.ephemeral,
        tags: options.tags.clone(),
        pool: options.pool.unwrap_or(manifest.v4),
        names: options.names.clone(),
        renew_until: (!options.ephemeral && !options.renew_for.is_zero())
            .then(|| not_after.plus_secs(options.renew_for.as_secs())),
    };
    let delegation = delegation.sign(&root)?.into_signed();
    record(dir, &delegation)?;
    let relays = options.relays.clone().unwrap_or_else(|| manifest_relays(manifest));
    let token = JoinToken::new(trust.root_pin(), seed, relays, delegation);
    Ok(NewToken { text: token.encode(), id, not_after })
}

/// A token that was made here: what it allows. Its seed is nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issued {
    /// What was signed.
    pub delegation: Delegation,
}

fn record(dir: &Path, delegation: &Signed<Delegation>) -> Result<(), FileError> {
    let records = dir.join(OPERATOR).join(RECORDS);
    private_directory(&records, None)?;
    if names(&records)?.len() >= MAX_RECORDS {
        let problem = format!("holds the records of {MAX_RECORDS} tokens");
        return Err(FileError::new(&records, problem, "move those of tokens that have expired away"));
    }
    write_new(&records.join(delegation.unverified().token_id.to_string()), delegation.bytes(), None)
}

/// The tokens that were made here, in the order of their ends. A file that is none of ours is an error.
///
/// # Errors
/// A file.
pub fn list_tokens(dir: &Path) -> Result<Vec<Issued>, FileError> {
    check_own_directory(&dir.join(OPERATOR))?;
    let records = dir.join(OPERATOR).join(RECORDS);
    let mut tokens = Vec::new();
    for name in names(&records)? {
        let path = records.join(name);
        let parsed = Signed::<Delegation>::parse(&read_private(&path, true)?);
        let signed =
            parsed.map_err(|e| FileError::new(&path, format!("is damaged ({e})"), super::RESTORE))?;
        tokens.push(Issued { delegation: signed.unverified().clone() });
    }
    tokens.sort_by_key(|token| (token.delegation.not_after, token.delegation.token_id));
    Ok(tokens)
}

fn manifest_relays(manifest: &Manifest) -> Vec<TokenRelay> {
    let named = |relay: &RelayEntry, address: SocketAddr| TokenRelay {
        relay_no: relay.relay_no,
        key: relay.key,
        address,
    };
    let first = |relay: &RelayEntry| relay.addresses.first().map(|a| named(relay, *a));
    // A host that has only the other family has no other way to its network.
    let other = |relay: &RelayEntry| {
        let first = relay.addresses.first()?;
        let other = relay.addresses.iter().find(|a| a.is_ipv4() != first.is_ipv4())?;
        Some(named(relay, *other))
    };
    let relays = manifest.relays.iter();
    relays.clone().filter_map(first).chain(relays.filter_map(other)).take(MAX_TOKEN_RELAYS).collect()
}
