//! The registrar: who is let in, and what the directory says. Pure decisions over a [`View`]; the only effect is a
//! [`Transaction`], and nothing is answered before it is committed.
//!
//! Keys of the directory, all lower-case hexadecimal:
//!
//! | key | value |
//! |---|---|
//! | `nodes/<identity>` | bundle, the receipt included |
//! | `v4/<address as 8 digits>` | identity: the claim on an IPv4 address, in order of node_no |
//! | `name/<name>` | identity: the claim on a name |
//! | `v6/<address as 32 digits>`, `key/<x25519>` | identity: indexes |
//! | `token/<token id>` | u32: how often the token was used |
//! | `doc/<kind>` | genesis (`1`), manifest (`2`), and the revocations that were gone through last (`8`) |
//! | `revoked/<identity>` | u64 Unix time, u32 node_no: who was in the directory and was revoked lately |
//!
//! A registrar signs receipts and nothing else: without a token's certificate its receipt admits nobody, and peers
//! check both (`skynet_core::member`).

mod follow;
mod join;
mod lookup;
mod oust;

pub use join::{JoinPlan, RECEIPT_LIFETIME};
use join::{is_news, keep_the_newest};
pub use lookup::{GetBy, MAX_LIST, Page, each_node, find, list};
pub use oust::Ousted;

use skynet_core::key::{Identity, PublicKey, SigningKey};
use skynet_core::member::chain::ChainError;
use skynet_core::member::document::DocumentError;
use skynet_core::member::{Bundle, Manifest, NetworkTrust, Record, Signed};
use skynet_core::time::UnixTime;

use crate::store::{Store, StoreError, Transaction, Versioned, View};

/// Lost compare races after which a request is told to come again: each loss is somebody else's success, so this
/// many in a row need a storm.
const MAX_RACES: u32 = 16;

const GENESIS_KEY: &str = "doc/1";
const MANIFEST_KEY: &str = "doc/2";

/// Codes of DENIED (docs/PROTOCOL.md §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum DenyCode {
    /// Not the bytes the protocol asks for.
    Malformed = 1,
    /// Documents of another network.
    ForeignNetwork = 2,
    /// Token or certificate is over.
    Expired = 3,
    /// The token has no uses left.
    UsedUp = 4,
    /// The token was revoked.
    Revoked = 5,
    /// The documents break a rule of the chain.
    BadSignature = 6,
    /// The key proven in the handshake is not the one the documents name.
    NotProven = 7,
    /// The store does not answer, or is too busy.
    TryLater = 8,
    /// Only members may ask this.
    NotJoined = 9,
    /// A document is not valid yet: a clock is wrong.
    Clock = 10,
}

/// A refusal as it goes to the node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// DENIED, with a sentence for the log of the node.
    #[error("{text}")]
    Denied {
        /// The code.
        code: DenyCode,
        /// The sentence.
        text: String,
    },
    /// CONFLICT: the address belongs to somebody else; the node tries another salt.
    #[error("the IPv4 address is taken")]
    AddressTaken,
    /// CONFLICT: the name belongs to somebody else; the node tries another name.
    #[error("the name is taken")]
    NameTaken,
}

impl Refusal {
    /// DENIED with this code and sentence.
    pub fn denied(code: DenyCode, text: impl Into<String>) -> Self {
        Self::Denied { code, text: text.into() }
    }
}

impl From<StoreError> for Refusal {
    /// The node is told to come again; the operator finds the cause in the relay's log.
    fn from(_: StoreError) -> Self {
        Self::denied(DenyCode::TryLater, "the relay's directory does not answer, try again later")
    }
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Self {
        Self::denied(DenyCode::Malformed, error.to_string())
    }
}

impl From<ChainError> for Refusal {
    fn from(error: ChainError) -> Self {
        let code = match error {
            ChainError::ForeignNetwork(_) | ChainError::UnknownIssuer => DenyCode::ForeignNetwork,
            ChainError::TokenExpired | ChainError::Expired(_) => DenyCode::Expired,
            ChainError::NotYetValid(_) => DenyCode::Clock,
            ChainError::Revoked => DenyCode::Revoked,
            _ => DenyCode::BadSignature,
        };
        // The chain's errors speak of "the peer", which from here is the node itself.
        Self::denied(code, error.to_string().replace("the peer", "this node"))
    }
}

/// What a store transaction is for, and what is answered once it is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpdatePlan {
    /// What to commit; empty if the record is not newer than the one the directory has.
    pub transaction: Transaction,
    /// The version the directory then holds, for ACK.
    pub version: u64,
}

/// The registrar of one network; without a key, the directory of a relay that admits nobody by itself.
#[derive(Clone, Debug)]
pub struct Registrar {
    key: Option<SigningKey>,
    trust: NetworkTrust,
}

impl Registrar {
    /// A registrar with this signing key, which the network's manifest lists.
    pub fn new(key: SigningKey, trust: NetworkTrust) -> Self {
        Self { key: Some(key), trust }
    }
    /// The directory of a relay without a registrar.
    pub fn follower(trust: NetworkTrust) -> Self {
        Self { key: None, trust }
    }
    /// Whether receipts are signed here.
    pub fn admits(&self) -> bool {
        self.key.is_some()
    }

    /// The network as this registrar sees it.
    pub fn trust(&self) -> &NetworkTrust {
        &self.trust
    }

    /// The network, for a newer manifest.
    pub fn trust_mut(&mut self) -> &mut NetworkTrust {
        &mut self.trust
    }

    /// Puts genesis and manifest into the directory, for relays that share it. A manifest of the same or a higher
    /// epoch stays.
    pub fn publish(&self, store: &dyn Store) -> Result<(), Refusal> {
        retry(store, || {
            let mut transaction = Transaction::default();
            let stored = store.get(MANIFEST_KEY)?;
            let known = stored.as_ref().and_then(|s| Signed::<Manifest>::parse(&s.value).ok());
            if known.is_none_or(|known| known.unverified().epoch < self.trust.manifest().epoch) {
                transaction.unchanged(MANIFEST_KEY, stored.as_ref());
                transaction.put(GENESIS_KEY, self.trust.genesis().bytes());
                transaction.put(MANIFEST_KEY, self.trust.manifest().bytes());
            }
            Ok((transaction, ()))
        })
    }

    /// JOIN: decides, commits, and decides again when somebody else was faster.
    pub fn join(
        &self,
        bundle: &[u8],
        proven: &PublicKey,
        store: &dyn Store,
        now: UnixTime,
    ) -> Result<JoinPlan, Refusal> {
        retry(store, || {
            let plan = match &self.key {
                Some(key) => self.prepare_join(key, bundle, proven, store, now),
                None => self.prepare_known(bundle, Some(proven), store, now),
            };
            plan.map(|plan| (plan.transaction.clone(), plan))
        })
    }

    /// UPDATE: the version the directory holds afterwards.
    pub fn update(&self, record: &[u8], proven: &PublicKey, store: &dyn Store) -> Result<u64, Refusal> {
        retry(store, || {
            self.prepare_update(record, proven, store).map(|plan| (plan.transaction, plan.version))
        })
    }

    /// LEAVE: forgets the node that proved this key, with its claims.
    pub fn leave(&self, proven: &PublicKey, store: &dyn Store) -> Result<(), Refusal> {
        if !self.admits() {
            return Err(follow::needs_registrar("leaving"));
        }
        retry(store, || self.prepare_leave(proven, store).map(|transaction| (transaction, ())))
    }

    /// Decides about a new record: signed by a node of the directory whose binding names the proven key, and of a
    /// higher version. A lower one changes nothing and is answered with the version there is.
    pub fn prepare_update(
        &self,
        record: &[u8],
        proven: &PublicKey,
        view: &dyn View,
    ) -> Result<UpdatePlan, Refusal> {
        let record = Signed::<Record>::parse(record)?;
        let identity = record.unverified().identity;
        let Some((stored, mut bundle)) = stored_node(view, &identity)? else {
            return Err(not_joined());
        };
        check_proven(&bundle, proven)?;
        let offered = self.trust.verify_record(&record, identity)?;
        let held = bundle.record.as_ref().map_or(0, |r| r.unverified().version);
        let mut transaction = Transaction::default();
        if offered.version <= held {
            return Ok(UpdatePlan { transaction, version: held });
        }
        bundle.record = Some(record);
        let key = node_key(&identity);
        transaction.unchanged(&key, Some(&stored));
        transaction.put(key, bundle.encode());
        Ok(UpdatePlan { transaction, version: offered.version })
    }

    /// Decides about leaving: everything the node that proved this key has in the directory goes.
    pub fn prepare_leave(&self, proven: &PublicKey, view: &dyn View) -> Result<Transaction, Refusal> {
        let identity = identity_at(view, &session_key(proven))?.ok_or_else(not_joined)?;
        let (stored, bundle) = stored_node(view, &identity)?.ok_or_else(not_joined)?;
        check_proven(&bundle, proven)?;
        let mut transaction = Transaction::default();
        transaction.unchanged(node_key(&identity), Some(&stored));
        transaction.delete(node_key(&identity));
        for key in claims(&self.trust, &bundle) {
            transaction.delete(key);
        }
        Ok(transaction)
    }
}

/// Prepares and commits until no compare race is lost, at most [`MAX_RACES`] times.
fn retry<T>(
    store: &dyn Store,
    mut prepare: impl FnMut() -> Result<(Transaction, T), Refusal>,
) -> Result<T, Refusal> {
    for _ in 0..MAX_RACES {
        let (transaction, answer) = prepare()?;
        if transaction.is_empty() {
            return Ok(answer);
        }
        match store.commit(transaction) {
            Ok(_) => return Ok(answer),
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(Refusal::denied(DenyCode::TryLater, "the relay's directory is too busy, try again later"))
}

fn check_proven(bundle: &Bundle, proven: &PublicKey) -> Result<(), Refusal> {
    if bundle.binding.unverified().x25519 == *proven {
        return Ok(());
    }
    Err(Refusal::denied(DenyCode::NotProven, "the handshake proved another key than the documents name"))
}

fn not_joined() -> Refusal {
    Refusal::denied(DenyCode::NotJoined, "this node is not in the directory: join first")
}

/// The stored documents of a node. Unreadable ones count as the store's failure, never as "not there".
fn stored_node(view: &dyn View, identity: &Identity) -> Result<Option<(Versioned, Bundle)>, StoreError> {
    let Some(stored) = view.get(&node_key(identity))? else { return Ok(None) };
    let bundle = Bundle::parse(&stored.value)
        .map_err(|e| StoreError::Unavailable(format!("{}: {e}", node_key(identity))))?;
    Ok(Some((stored, bundle)))
}

/// The identity a claim or index names.
fn identity_at(view: &dyn View, key: &str) -> Result<Option<Identity>, StoreError> {
    let Some(stored) = view.get(key)? else { return Ok(None) };
    let bytes =
        stored.value.try_into().map_err(|_| StoreError::Unavailable(format!("{key}: not an identity")))?;
    Ok(Some(Identity(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
        text
    })
}

fn node_key(identity: &Identity) -> String {
    format!("nodes/{}", hex(identity.as_bytes()))
}

fn v4_key(node_no: u32) -> String {
    format!("v4/{node_no:08x}")
}

fn name_key(name: &str) -> String {
    format!("name/{name}")
}

fn v6_key(address: &std::net::Ipv6Addr) -> String {
    format!("v6/{}", hex(&address.octets()))
}

fn session_key(key: &PublicKey) -> String {
    format!("key/{}", hex(key.as_bytes()))
}

/// Every key but `nodes/` that belongs to a node with these documents.
fn claims(trust: &NetworkTrust, bundle: &Bundle) -> [String; 4] {
    let certificate = bundle.certificate.unverified();
    [
        v4_key(certificate.v4.to_bits()),
        name_key(certificate.name.as_str()),
        v6_key(&trust.root_pin().v6(&certificate.identity)),
        session_key(&bundle.binding.unverified().x25519),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
