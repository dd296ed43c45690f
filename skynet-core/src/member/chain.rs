//! "A peer is accepted": the rules of docs/PROTOCOL.md §3.2, one error each, and the proof that they hold.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::bundle::Bundle;
use super::certificate::{Certificate, Delegation};
use super::document::{Content, Kind, Signed};
use super::name::{Name, Tags};
use super::record::{Binding, Endpoint, Receipt, Record, RelayRtt};
use super::trust::NetworkTrust;
use crate::key::{Identity, PublicKey};
use crate::time::UnixTime;

/// How far two wall clocks may be apart, in seconds.
pub const CLOCK_TOLERANCE: u64 = 300;

/// The rule a peer's documents break, and whose fault that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// A document of another network.
    #[error("the peer's {0} is of another network")]
    ForeignNetwork(Kind),
    /// The delegation's signer is neither root nor issuer.
    #[error("the peer's token was signed by a key that is no issuer of this network")]
    UnknownIssuer,
    /// The delegation's signature is wrong.
    #[error("the peer's token was not signed by the issuer it names: it is forged")]
    DelegationSignature,
    /// The pool is not in the network's range.
    #[error("the peer's token has an address pool outside the network's range: the issuer's mistake")]
    PoolOutsideNetwork,
    /// The certificate starts after the delegation ended.
    #[error("the peer's certificate was made after its token had expired")]
    TokenExpired,
    /// The certificate's signature is wrong.
    #[error("the peer's certificate was not signed with its token: it is forged")]
    CertificateSignature,
    /// The certificate names another token.
    #[error("the peer's certificate names another token than the one it is signed with")]
    OtherToken,
    /// A tag the token does not give.
    #[error("the peer's certificate claims a tag that its token does not allow")]
    Tags,
    /// Ephemeral differs.
    #[error("the peer's certificate says otherwise than its token whether it is ephemeral")]
    Ephemeral,
    /// A name the token does not give.
    #[error("the peer's certificate claims a name that its token does not allow")]
    Name,
    /// Lives longer than the token allows.
    #[error("the peer's certificate lives longer than its token allows")]
    Lifetime,
    /// The address is not the derived one.
    #[error("the peer's IPv4 address is not the one derived from its key in the token's pool")]
    AddressNotDerived,
    /// Another identity than the certificate's.
    #[error("the peer's {0} is of another identity than its certificate")]
    OtherIdentity(Kind),
    /// Not signed by the identity, or not by the named registrar.
    #[error("the peer's {0} has a wrong signature: it is forged or was altered")]
    Signature(Kind),
    /// Starts in the future.
    #[error("the peer's {0} is not valid yet: the peer's clock or ours is wrong")]
    NotYetValid(Kind),
    /// Over.
    #[error("the peer's {0} has expired: the peer did not renew it, or our clock is wrong")]
    Expired(Kind),
    /// The operator has taken the node, or its token, back.
    #[error("the peer was revoked")]
    Revoked,
    /// No receipt.
    #[error("the peer was never admitted by a registrar: its receipt is missing")]
    NoReceipt,
    /// The receipt's signer is not listed.
    #[error("the peer's receipt was signed by a key that is no registrar of this network")]
    UnknownRegistrar,
    /// The receipt says something else than the other documents.
    #[error("the peer's receipt was given for another {0}")]
    ReceiptMismatch(&'static str),
}

/// Documents that satisfy every rule but the receipt's: what a registrar decides about.
#[derive(Clone, Debug)]
pub struct Candidate {
    delegation: Delegation,
    certificate: Certificate,
    binding: Binding,
    record: Option<Record>,
    v6: Ipv6Addr,
}

impl Candidate {
    /// What the node's token allows.
    pub fn delegation(&self) -> &Delegation {
        &self.delegation
    }
    /// Who the node is.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
    /// Its session key.
    pub fn binding(&self) -> &Binding {
        &self.binding
    }
    /// The end of its certificate with this receipt, which may prolong it within what the token lets it.
    pub fn certificate_end(&self, receipt: &Receipt) -> UnixTime {
        let prolonged = receipt.certificate_until.unwrap_or_default();
        self.certificate.not_after.max(prolonged.min(self.delegation.renew_until.unwrap_or_default()))
    }
    /// Where it can be reached, if it says so.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }
    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }
}

/// A member of the network: the proof that every rule holds. Only [`NetworkTrust::verify_member`] makes one.
#[derive(Clone, Debug)]
pub struct Member {
    candidate: Candidate,
    receipt: Receipt,
    bundle: Box<[u8]>,
}

impl Member {
    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.candidate.certificate.identity
    }
    /// The X25519 key of its sessions.
    pub fn x25519(&self) -> PublicKey {
        self.candidate.binding.x25519
    }
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.candidate.certificate.name
    }
    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.candidate.certificate.v4
    }
    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.candidate.v6
    }
    /// Its number at the relay: the IPv4 address as a `u32`.
    pub fn node_no(&self) -> u32 {
        self.v4().to_bits()
    }
    /// Its tags.
    pub fn tags(&self) -> &Tags {
        &self.candidate.certificate.tags
    }
    /// Where it says it can be reached.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.candidate.record.as_ref().map_or(&[], |r| &r.endpoints)
    }
    /// The relays it says it is bound to.
    pub fn relays(&self) -> &[RelayRtt] {
        self.candidate.record.as_ref().map_or(&[], |r| &r.relays)
    }
    /// Sequence of its key binding.
    pub fn binding_sequence(&self) -> u64 {
        self.candidate.binding.sequence
    }
    /// Version of its record; 0 without one.
    pub fn record_version(&self) -> u64 {
        self.candidate.record.as_ref().map_or(0, |r| r.version)
    }
    /// Its admission.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }
    /// Its token, certificate and key, without the admission.
    pub fn candidate(&self) -> &Candidate {
        &self.candidate
    }
    /// The last second of its membership: the earliest end of certificate, binding and receipt.
    pub fn not_after(&self) -> UnixTime {
        let certificate = self.candidate.certificate_end(&self.receipt);
        certificate.min(self.candidate.binding.not_after).min(self.receipt.not_after)
    }
    /// The documents, for passing on.
    pub fn bundle(&self) -> &[u8] {
        &self.bundle
    }

    /// How these documents stand against others of the same identity. Whoever passes them on may mix old parts with new
    /// ones: one part that is older makes all of it older.
    pub fn age_against(&self, other: &Self) -> Age {
        use core::cmp::Ordering::{Equal, Less};
        let binding = self.binding_sequence().cmp(&other.binding_sequence());
        let record = self.record_version().cmp(&other.record_version());
        let receipt = self.receipt.issued.cmp(&other.receipt.issued);
        let parts = [binding, record, receipt];
        let forked = (binding == Equal && self.candidate.binding != other.candidate.binding)
            || (record == Equal && self.candidate.record != other.candidate.record);
        if parts.contains(&Less) {
            Age::Older
        } else if forked {
            Age::Forked
        } else if parts.iter().any(|part| *part != Equal) {
            Age::Newer
        } else {
            Age::Same
        }
    }

    /// Whether these documents replace `old` ones of the same identity: no part is older, and some part is newer.
    /// One sequence or version with two contents is refused like an older one.
    pub fn supersedes(&self, old: &Self) -> bool {
        self.identity() == old.identity() && self.age_against(old) == Age::Newer
    }
}

/// Two sets of documents of one member, the one against the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    /// No part is older, some part is newer.
    Newer,
    /// No part is older or newer.
    Same,
    /// Some part is older.
    Older,
    /// A part of one sequence or version has two contents.
    Forked,
}

impl NetworkTrust {
    /// Checks every rule. The order is from the root down, so the error names the first broken link.
    pub fn verify_member(&self, bundle: &Bundle, now: UnixTime) -> Result<Member, ChainError> {
        let candidate = self.verify_candidate(bundle, now)?;
        let receipt = bundle.receipt.as_ref().ok_or(ChainError::NoReceipt)?;
        let receipt = self.verify_receipt(&candidate, receipt, now)?;
        let begin = candidate.certificate.not_before;
        check_time(Kind::Certificate, begin, candidate.certificate_end(&receipt), now)?;
        Ok(Member { candidate, receipt, bundle: bundle.encode().into() })
    }

    /// The same of a node's own documents whose receipt has ended: it was off for long, and has to be admitted again.
    pub(super) fn verify_lapsed(&self, bundle: &Bundle, now: UnixTime) -> Result<Member, ChainError> {
        let candidate = self.verify_candidate(bundle, now)?;
        let receipt = bundle.receipt.as_ref().ok_or(ChainError::NoReceipt)?;
        let then = now.min(receipt.unverified().not_after);
        let receipt = self.verify_receipt(&candidate, receipt, then)?;
        Ok(Member { candidate, receipt, bundle: bundle.encode().into() })
    }

    /// Checks every rule but the receipt's. A certificate that has ended passes as long as a receipt may prolong it.
    pub fn verify_candidate(&self, bundle: &Bundle, now: UnixTime) -> Result<Candidate, ChainError> {
        let delegation = self.verify_delegation(&bundle.delegation)?;
        let certificate = self.verify_certificate(&delegation, &bundle.certificate, now)?;
        let identity = certificate.identity;
        let binding = self.verify_own(&bundle.binding, identity, |b| (b.network_id.0, b.identity))?;
        check_time(Kind::Binding, binding.not_before, binding.not_after, now)?;
        let record = match &bundle.record {
            Some(record) => Some(self.verify_record(record, identity)?),
            None => None,
        };
        Ok(Candidate { delegation, certificate, binding, record, v6: self.root_pin().v6(&identity) })
    }

    /// Checks a record alone: signed by `identity`, for this network.
    pub fn verify_record(&self, record: &Signed<Record>, identity: Identity) -> Result<Record, ChainError> {
        self.verify_own(record, identity, |r| (r.network_id.0, r.identity))
    }

    /// Checks a delegation alone: signed by the root or a listed issuer, with a pool inside the network's range.
    pub fn verify_delegation(&self, signed: &Signed<Delegation>) -> Result<Delegation, ChainError> {
        let d = signed.unverified();
        self.check_network(Kind::Delegation, d.network_id.0)?;
        if d.signer != self.genesis().root && !self.manifest().issuers.contains(&d.signer) {
            return Err(ChainError::UnknownIssuer);
        }
        if !signed.is_signed_by(&d.signer) {
            return Err(ChainError::DelegationSignature);
        }
        if !self.manifest().v4.covers(&d.pool) {
            return Err(ChainError::PoolOutsideNetwork);
        }
        Ok(d.clone())
    }

    fn verify_certificate(
        &self,
        delegation: &Delegation,
        signed: &Signed<Certificate>,
        now: UnixTime,
    ) -> Result<Certificate, ChainError> {
        let c = signed.unverified();
        self.check_network(Kind::Certificate, c.network_id.0)?;
        if !signed.is_signed_by(&delegation.token_key) {
            return Err(ChainError::CertificateSignature);
        }
        if c.token_id != delegation.token_id {
            return Err(ChainError::OtherToken);
        }
        if c.not_before > delegation.not_after {
            return Err(ChainError::TokenExpired);
        }
        if !c.tags.is_subset(&delegation.tags) {
            return Err(ChainError::Tags);
        }
        if c.ephemeral != delegation.ephemeral {
            return Err(ChainError::Ephemeral);
        }
        if delegation.names.as_ref().is_some_and(|pattern| !pattern.matches(&c.name)) {
            return Err(ChainError::Name);
        }
        if c.not_after > c.not_before.plus_secs(u64::from(delegation.max_node_lifetime)) {
            return Err(ChainError::Lifetime);
        }
        if delegation.pool.derive(&c.identity, c.salt) != Some(c.v4) {
            return Err(ChainError::AddressNotDerived);
        }
        check_time(Kind::Certificate, c.not_before, delegation.last_end(c), now)?;
        if self.is_revoked(c) {
            return Err(ChainError::Revoked);
        }
        Ok(c.clone())
    }

    fn verify_receipt(
        &self,
        candidate: &Candidate,
        signed: &Signed<Receipt>,
        now: UnixTime,
    ) -> Result<Receipt, ChainError> {
        let r = signed.unverified();
        self.check_network(Kind::Receipt, r.network_id.0)?;
        if !self.manifest().registrars.contains(&r.registrar) {
            return Err(ChainError::UnknownRegistrar);
        }
        if !signed.is_signed_by(&r.registrar) {
            return Err(ChainError::Signature(Kind::Receipt));
        }
        let c = &candidate.certificate;
        let repeated = [
            ("identity", r.identity == c.identity),
            ("session key", r.x25519 == candidate.binding.x25519),
            ("name", r.name == c.name),
            ("IPv4 address", r.v4 == c.v4),
            ("token", r.token_id == c.token_id),
        ];
        if let Some((what, _)) = repeated.into_iter().find(|(_, same)| !same) {
            return Err(ChainError::ReceiptMismatch(what));
        }
        check_time(Kind::Receipt, r.issued, r.not_after, now)?;
        Ok(r.clone())
    }

    /// A document a node signs about itself.
    fn verify_own<T: Content>(
        &self,
        signed: &Signed<T>,
        identity: Identity,
        claims: impl Fn(&T) -> ([u8; 8], Identity),
    ) -> Result<T, ChainError> {
        let (network_id, claimed) = claims(signed.unverified());
        self.check_network(T::KIND, network_id)?;
        if claimed != identity {
            return Err(ChainError::OtherIdentity(T::KIND));
        }
        if !signed.is_signed_by(&identity) {
            return Err(ChainError::Signature(T::KIND));
        }
        Ok(signed.unverified().clone())
    }

    fn check_network(&self, kind: Kind, network_id: [u8; 8]) -> Result<(), ChainError> {
        if network_id == self.network_id().0 { Ok(()) } else { Err(ChainError::ForeignNetwork(kind)) }
    }
}

fn check_time(kind: Kind, start: UnixTime, end: UnixTime, now: UnixTime) -> Result<(), ChainError> {
    if start > now.plus_secs(CLOCK_TOLERANCE) {
        return Err(ChainError::NotYetValid(kind));
    }
    if now > end.plus_secs(CLOCK_TOLERANCE) {
        return Err(ChainError::Expired(kind));
    }
    Ok(())
}
