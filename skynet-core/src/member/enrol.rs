//! A node's side of joining: from a token to documents a registrar can admit, and on to credentials.

use super::bundle::Bundle;
use super::certificate::Certificate;
use super::chain::ChainError;
use super::credentials::Credentials;
use super::document::{Content, DocumentError, Signed};
use super::name::{Name, Tags};
use super::record::{Receipt, Record};
use super::rotation::{key_lifetime, sign_binding};
use super::token::{JoinToken, TokenError};
use super::trust::{NetworkTrust, TrustError};
use crate::key::{Identity, SigningKey, StaticSecret};
use crate::rng::Rng;
use crate::time::UnixTime;

/// Life of a key binding in seconds: seven days, so a stolen session key dies within a week.
pub const BINDING_LIFETIME: u64 = 7 * 86_400;
/// Life of an ephemeral node's key binding in seconds.
pub const EPHEMERAL_BINDING_LIFETIME: u64 = 86_400;
/// Life of a node record in seconds; it is replaced whenever an address changes.
pub const RECORD_LIFETIME: u64 = 86_400;
/// Conflicts after which a node gives up: with a pool half full each try succeeds with a half, so 64 in a row mean
/// a full pool.
pub const MAX_CONFLICTS: u32 = 64;

/// The keys that make a node itself. Made at first boot, never part of an image.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// Signs everything the node says about itself.
    pub identity: SigningKey,
    /// The static key of sessions and control channels.
    pub static_secret: StaticSecret,
    /// Hash of the machine the keys were made on; tells a clone at its start.
    pub fingerprint: Option<[u8; 16]>,
}

impl NodeIdentity {
    /// Fresh keys.
    pub fn random(fingerprint: Option<[u8; 16]>, rng: &mut Rng) -> Self {
        Self { identity: SigningKey::random(rng), static_secret: StaticSecret::random(rng), fingerprint }
    }

    /// The public name of these keys.
    pub fn identity(&self) -> Identity {
        self.identity.identity()
    }
}

/// Why a node cannot join with this token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token itself.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token gives other names.
    #[error("the join token allows only names like {pattern}, and this node wants to be called {name}")]
    Name {
        /// What was asked for.
        name: Name,
        /// What the token allows.
        pattern: String,
    },
    /// A role that the token does not have.
    #[error("the join token does not allow the role {role}; it allows {allowed}")]
    Role {
        /// What was asked for.
        role: String,
        /// What the token allows.
        allowed: String,
    },
    /// Too many conflicts.
    #[error("no free address or name after {MAX_CONFLICTS} attempts: the token's pool is full")]
    NoneFree,
    /// What the relay calls our network is not.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The relay admitted us with documents that peers would refuse.
    #[error("the relay's admission would not be accepted by peers: {0}")]
    Chain(ChainError),
    /// A document of the relay is malformed, or ours breaks a limit.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// An attempt to join: the documents to send, changed after each CONFLICT, and what to do with the WELCOME.
///
/// Commands: [`retry_with_salt`](Self::retry_with_salt), [`retry_with_suffix`](Self::retry_with_suffix),
/// [`with_name`](Self::with_name), then [`bundle`](Self::bundle) again; [`complete`](Self::complete) ends it and the
/// token's seed is forgotten.
#[derive(Debug)]
pub struct Enrolment {
    token: JoinToken,
    node: NodeIdentity,
    tags: Tags,
    wanted: Name,
    name: Name,
    salt: u32,
    conflicts: u32,
    serial: [u8; 8],
    now: UnixTime,
    bundle: Bundle,
}

impl Enrolment {
    /// Checks the token and signs the first set of documents, with all of its tags. `name` must be one the token allows.
    pub fn new(
        token: JoinToken,
        node: NodeIdentity,
        name: Name,
        now: UnixTime,
        rng: &mut Rng,
    ) -> Result<Self, EnrolError> {
        token.check_expiry(now)?;
        check_name(&token, &name)?;
        let tags = token.delegation().unverified().tags.clone();
        let serial = rng.array();
        let bundle = sign(&token, &node, &name, &tags, 0, serial, now)?;
        Ok(Self { token, node, tags, wanted: name.clone(), name, salt: 0, conflicts: 0, serial, now, bundle })
    }

    /// With these of the token's tags only.
    pub fn with_tags(mut self, tags: Tags) -> Result<Self, EnrolError> {
        let allowed = &self.token.delegation().unverified().tags;
        if let Some(role) = tags.iter().find(|tag| !allowed.contains(tag)) {
            let all: Vec<&str> = allowed.iter().collect();
            let allowed = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            return Err(EnrolError::Role { role: role.to_owned(), allowed });
        }
        self.tags = tags;
        self.sign_again()?;
        Ok(self)
    }

    /// What to send in JOIN.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The name of the current attempt.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The token, for its relays and its network.
    pub fn token(&self) -> &JoinToken {
        &self.token
    }

    /// The keys, for the handshake with the relay.
    pub fn node(&self) -> &NodeIdentity {
        &self.node
    }

    /// After CONFLICT 1: another address.
    pub fn retry_with_salt(&mut self) -> Result<(), EnrolError> {
        self.count_conflict()?;
        self.salt += 1;
        self.sign_again()
    }

    /// After CONFLICT 2: the wanted name with `-2`, `-3`, ….
    pub fn retry_with_suffix(&mut self) -> Result<(), EnrolError> {
        self.count_conflict()?;
        let taken = self.name.as_str().rsplit_once('-').and_then(|(_, n)| n.parse::<u32>().ok());
        let next = if self.name == self.wanted { 2 } else { taken.unwrap_or(1) + 1 };
        self.with_name(self.wanted.with_suffix(next))
    }

    /// Another name altogether.
    pub fn with_name(&mut self, name: Name) -> Result<(), EnrolError> {
        check_name(&self.token, &name)?;
        self.name = name;
        self.sign_again()
    }

    /// With the documents of the WELCOME: checks all of them as a peer would, and yields what the node keeps.
    pub fn complete(
        self,
        genesis: &[u8],
        manifest: &[u8],
        receipt: &[u8],
        now: UnixTime,
    ) -> Result<Credentials, EnrolError> {
        let trust = NetworkTrust::new(self.token.root_pin(), genesis, manifest)?;
        let mut bundle = self.bundle;
        bundle.receipt = Some(Signed::<Receipt>::parse(receipt)?);
        trust.verify_member(&bundle, now).map_err(EnrolError::Chain)?;
        Ok(Credentials::new(self.node, trust, bundle, self.token.relays().to_vec()))
    }

    fn count_conflict(&mut self) -> Result<(), EnrolError> {
        self.conflicts += 1;
        if self.conflicts > MAX_CONFLICTS { Err(EnrolError::NoneFree) } else { Ok(()) }
    }

    fn sign_again(&mut self) -> Result<(), EnrolError> {
        self.bundle =
            sign(&self.token, &self.node, &self.name, &self.tags, self.salt, self.serial, self.now)?;
        Ok(())
    }
}

fn check_name(token: &JoinToken, name: &Name) -> Result<(), EnrolError> {
    match &token.delegation().unverified().names {
        Some(pattern) if !pattern.matches(name) => {
            Err(EnrolError::Name { name: name.clone(), pattern: pattern.to_string() })
        }
        _ => Ok(()),
    }
}

fn sign(
    token: &JoinToken,
    node: &NodeIdentity,
    name: &Name,
    tags: &Tags,
    salt: u32,
    serial: [u8; 8],
    now: UnixTime,
) -> Result<Bundle, DocumentError> {
    let delegation = token.delegation().unverified();
    let (network_id, identity) = (delegation.network_id, node.identity());
    let certificate = Certificate {
        network_id,
        serial,
        identity,
        token_id: delegation.token_id,
        name: name.clone(),
        v4: delegation.pool.derive(&identity, salt).expect("a parsed delegation's pool gives addresses"),
        salt,
        not_before: now,
        not_after: now.plus_secs(u64::from(delegation.max_node_lifetime)),
        ephemeral: delegation.ephemeral,
        tags: tags.clone(),
        fingerprint: node.fingerprint,
    };
    // Sequence and version start at the clock, so that a node restored from an old disk is not below itself.
    let life = (now, key_lifetime(&certificate, None));
    let key = node.static_secret.public();
    let binding = sign_binding(&node.identity, &key, &certificate, now.0, life)?;
    let record = Record {
        network_id,
        identity,
        version: now.0,
        not_after: now.plus_secs(RECORD_LIFETIME),
        endpoints: Vec::new(),
        relays: Vec::new(),
    };
    Ok(Bundle {
        delegation: token.delegation().clone(),
        certificate: certificate.sign(&token.signing_key())?.into_signed(),
        binding,
        receipt: None,
        record: Some(record.sign(&node.identity)?.into_signed()),
    })
}
