//! Documents of which one at a time holds in a network, each replacing the one before: what of them is taken, and what
//! follows from it.
//!
//! ```text
//! revocations, policy   by the root or an issuer of the manifest       epochs rise, one content per epoch
//! freshness             by a registrar, daily at least                 which epochs are in force, and since when
//! ```

use super::address::{NetworkId, TokenId};
use super::certificate::Certificate;
use super::document::{Content, Kind, Signed, Verified, kind_of};
use super::freshness::Freshness;
use super::revocation::Revocations;
use super::trust::{NetworkTrust, TrustError};
use crate::key::Identity;

/// What every such document says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The network's label.
    pub network_id: NetworkId,
    /// Rises with every document of its kind.
    pub epoch: u64,
    /// Who signed.
    pub signer: Identity,
}

/// A document of which one at a time holds.
pub trait Issued: Content {
    /// What it says of itself.
    fn head(&self) -> Head;
}

/// Those that a node or relay holds.
#[derive(Clone, Default, Debug)]
pub(super) struct Held {
    pub(super) revocations: Option<Verified<Revocations>>,
    pub(super) freshness: Option<Verified<Freshness>>,
}

impl NetworkTrust {
    /// Takes a newer document of whatever kind there is one of: its kind if it replaced ours, `None` if it is ours.
    pub fn take(&mut self, document: &[u8]) -> Result<Option<Kind>, TrustError> {
        let kind = kind_of(document);
        let is_newer = match kind {
            Some(Kind::Manifest) => self.update_manifest(document)?,
            Some(Kind::Revocations) => {
                let newer = self.judge(self.held.revocations.as_ref(), document)?;
                replace(&mut self.held.revocations, newer)
            }
            Some(Kind::Freshness) => {
                let newer = self.judge(self.held.freshness.as_ref(), document)?;
                replace(&mut self.held.freshness, newer)
            }
            _ => return Err(TrustError::NoSuchDocument),
        };
        Ok(kind.filter(|_| is_newer))
    }

    /// The document, if it may replace the one that is held; `None` if it is that one.
    fn judge<T: Issued>(
        &self,
        held: Option<&Verified<T>>,
        document: &[u8],
    ) -> Result<Option<Verified<T>>, TrustError> {
        let kind = T::KIND;
        if held.is_some_and(|held| held.bytes() == document) {
            return Ok(None);
        }
        let signed = Signed::<T>::parse(document).map_err(TrustError::Document)?;
        let Head { network_id, epoch, signer } = signed.unverified().head();
        if network_id != self.network_id() {
            return Err(TrustError::ForeignDocument(kind, network_id));
        }
        if !self.may_sign(kind, &signer) {
            return Err(TrustError::NotEntitled(kind));
        }
        let offered = signed.verify(&signer).map_err(TrustError::Document)?;
        match held.map(|held| held.head().epoch) {
            Some(have) if epoch < have => Err(TrustError::OlderDocument { kind, have, got: epoch }),
            Some(have) if epoch == have => Err(TrustError::ForkedDocument(kind, epoch)),
            _ => Ok(Some(offered)),
        }
    }

    fn may_sign(&self, kind: Kind, signer: &Identity) -> bool {
        match kind {
            Kind::Freshness => self.manifest().registrars.contains(signer),
            _ => *signer == self.genesis().root || self.manifest().issuers.contains(signer),
        }
    }

    /// Puts back a document that was taken before and kept. It must still be whole; whether its signer is still
    /// entitled does not matter: what was taken back stays so.
    pub(super) fn restore(&mut self, document: &[u8]) -> Result<(), TrustError> {
        fn whole<T: Issued>(document: &[u8]) -> Result<Option<Verified<T>>, TrustError> {
            let signed = Signed::<T>::parse(document).map_err(TrustError::Document)?;
            let signer = signed.unverified().head().signer;
            signed.verify(&signer).map(Some).map_err(TrustError::Document)
        }
        match kind_of(document) {
            Some(Kind::Revocations) => self.held.revocations = whole(document)?,
            Some(Kind::Freshness) => self.held.freshness = whole(document)?,
            _ => return Err(TrustError::NoSuchDocument),
        }
        Ok(())
    }

    /// The documents that are held, for passing on and for keeping, in the order in which they must be taken.
    pub fn documents(&self) -> impl Iterator<Item = &[u8]> {
        let revocations = self.held.revocations.as_ref().map(Verified::bytes);
        let freshness = self.held.freshness.as_ref().map(Verified::bytes);
        [revocations, freshness].into_iter().flatten()
    }

    /// What is taken back, if anything ever was.
    pub fn revocations(&self) -> Option<&Verified<Revocations>> {
        self.held.revocations.as_ref()
    }

    /// A registrar's last word on what is in force.
    pub fn freshness(&self) -> Option<&Verified<Freshness>> {
        self.held.freshness.as_ref()
    }

    /// Whether whoever has this certificate is a member no more.
    pub fn is_revoked(&self, certificate: &Certificate) -> bool {
        self.revocations().is_some_and(|revocations| revocations.covers(certificate))
    }

    /// Whether nobody new is let in with this token.
    pub fn is_token_revoked(&self, token_id: &TokenId) -> bool {
        self.revocations().is_some_and(|revocations| revocations.token(token_id).is_some())
    }
}

fn replace<T>(held: &mut Option<Verified<T>>, newer: Option<Verified<T>>) -> bool {
    let is_newer = newer.is_some();
    if is_newer {
        *held = newer;
    }
    is_newer
}
