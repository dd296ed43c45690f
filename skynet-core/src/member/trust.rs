//! What a node pins about its network, and how that may change.

use super::address::{NetworkId, RootPin};
use super::document::{DocumentError, Kind, Signed, Verified};
use super::issued::Held;
use super::manifest::{Genesis, Manifest};
use crate::time::UnixTime;

/// Why a genesis or manifest is refused. The relay that delivered it, or whoever is behind it, is at fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrustError {
    /// Not a genesis.
    #[error("what the relay sent is not the network's genesis: {0}")]
    Genesis(DocumentError),
    /// Another network's genesis.
    #[error("the relay belongs to network {got}, and this token or node to network {pinned}")]
    NotPinned {
        /// The network we pinned.
        pinned: NetworkId,
        /// The network of the genesis that was offered.
        got: NetworkId,
    },
    /// Not a manifest of this network's root.
    #[error("what the relay sent is not a manifest of this network: {0}")]
    Manifest(DocumentError),
    /// Signed by our root for another network.
    #[error("the manifest is of another network of the same operator, {0}")]
    ForeignManifest(NetworkId),
    /// A roll-back.
    #[error("the manifest has epoch {got}, and epoch {have} is known: the relay sent an old one")]
    OlderManifest {
        /// The epoch we have.
        have: u64,
        /// The epoch that was offered.
        got: u64,
    },
    /// Two manifests of one epoch: the root key is used twice or stolen.
    #[error(
        "ALARM: two different manifests carry epoch {0}: the operator signed twice or the root key is stolen"
    )]
    ForkedManifest(u64),
    /// Not a document of which one at a time holds.
    #[error("what the relay sent is no document that holds for a whole network")]
    NoSuchDocument,
    /// A document that is malformed or has a wrong signature.
    #[error("what the relay sent does not hold: {0}")]
    Document(DocumentError),
    /// Of another network.
    #[error("the {0} is of network {1}")]
    ForeignDocument(Kind, NetworkId),
    /// Signed by whoever may not.
    #[error("the {0} was signed by a key that may not sign it")]
    NotEntitled(Kind),
    /// A roll-back.
    #[error("the {kind} has epoch {got}, and epoch {have} is known: the relay sent an old one")]
    OlderDocument {
        /// Which.
        kind: Kind,
        /// The epoch we have.
        have: u64,
        /// The epoch that was offered.
        got: u64,
    },
    /// Two of one epoch.
    #[error("ALARM: two contents of the {0} carry epoch {1}: it was signed twice or a key is stolen")]
    ForkedDocument(Kind, u64),
}

impl TrustError {
    /// Whether an operator must look at it at once.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::ForkedManifest(_) | Self::ForkedDocument(..))
    }
}

/// The pinned root, its genesis and the newest manifest and other documents seen (`issued`).
#[derive(Clone, Debug)]
pub struct NetworkTrust {
    root_pin: RootPin,
    genesis: Verified<Genesis>,
    manifest: Verified<Manifest>,
    pub(super) held: Held,
}

impl NetworkTrust {
    /// Checks both documents against the pin.
    pub fn new(root_pin: RootPin, genesis: &[u8], manifest: &[u8]) -> Result<Self, TrustError> {
        let genesis = Signed::<Genesis>::parse(genesis).map_err(TrustError::Genesis)?;
        let got = RootPin(genesis.hash());
        if got != root_pin {
            return Err(TrustError::NotPinned { pinned: root_pin.network_id(), got: got.network_id() });
        }
        let root = genesis.unverified().root;
        let genesis = genesis.verify(&root).map_err(TrustError::Genesis)?;
        let manifest = verify_manifest(&root_pin, &genesis, manifest)?;
        Ok(Self { root_pin, genesis, manifest, held: Held::default() })
    }

    /// Takes a newer manifest: `true` if it replaced ours, `false` if it is ours. A lower epoch is never accepted.
    pub fn update_manifest(&mut self, manifest: &[u8]) -> Result<bool, TrustError> {
        let offered = verify_manifest(&self.root_pin, &self.genesis, manifest)?;
        let (have, got) = (self.manifest.epoch, offered.epoch);
        if got < have {
            return Err(TrustError::OlderManifest { have, got });
        }
        if got == have {
            let same = offered.bytes() == self.manifest.bytes();
            return if same { Ok(false) } else { Err(TrustError::ForkedManifest(got)) };
        }
        self.manifest = offered;
        Ok(true)
    }

    /// Whether the manifest's next update is overdue: to be warned of.
    pub fn is_stale(&self, now: UnixTime) -> bool {
        now > self.manifest.next_update
    }

    /// The pin.
    pub fn root_pin(&self) -> RootPin {
        self.root_pin
    }

    /// The network's label.
    pub fn network_id(&self) -> NetworkId {
        self.root_pin.network_id()
    }

    /// The genesis.
    pub fn genesis(&self) -> &Verified<Genesis> {
        &self.genesis
    }

    /// The newest manifest seen.
    pub fn manifest(&self) -> &Verified<Manifest> {
        &self.manifest
    }
}

fn verify_manifest(
    pin: &RootPin,
    genesis: &Verified<Genesis>,
    manifest: &[u8],
) -> Result<Verified<Manifest>, TrustError> {
    let manifest = Signed::<Manifest>::parse(manifest).map_err(TrustError::Manifest)?;
    let manifest = manifest.verify(&genesis.root).map_err(TrustError::Manifest)?;
    if manifest.network_id != pin.network_id() {
        return Err(TrustError::ForeignManifest(manifest.network_id));
    }
    Ok(manifest)
}
