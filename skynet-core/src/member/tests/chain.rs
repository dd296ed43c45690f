//! Every rule of "a peer is accepted", broken alone.

use crate::key::{PublicKey, SigningKey, StaticSecret};
use crate::member::chain::ChainError as E;
use crate::member::document::{Content, Kind};
use crate::member::fixture::{DAY, NOW, Network};
use crate::member::trust::TrustError;
use crate::member::*;
use crate::time::UnixTime;

/// The five documents before signing, and who signs them.
struct Parts {
    network: Network,
    delegation: Delegation,
    certificate: Certificate,
    binding: Binding,
    receipt: Option<Receipt>,
    record: Option<Record>,
    delegation_key: SigningKey,
    token_key: SigningKey,
    identity_key: SigningKey,
    registrar_key: SigningKey,
}

impl Parts {
    fn new() -> Self {
        let mut network = Network::new();
        let enrolment = network.enrolment();
        let bundle = enrolment.bundle();
        Self {
            delegation: bundle.delegation.unverified().clone(),
            certificate: bundle.certificate.unverified().clone(),
            binding: bundle.binding.unverified().clone(),
            record: bundle.record.as_ref().map(|r| r.unverified().clone()),
            receipt: Some(network.receipt(bundle)),
            delegation_key: network.root.clone(),
            token_key: network.token_key.clone(),
            identity_key: enrolment.node().identity.clone(),
            registrar_key: network.registrar.clone(),
            network,
        }
    }

    fn bundle(&self) -> Bundle {
        let receipt = self.receipt.as_ref().map(|r| r.sign(&self.registrar_key).unwrap().into_signed());
        let record = self.record.as_ref().map(|r| r.sign(&self.identity_key).unwrap().into_signed());
        Bundle {
            delegation: self.delegation.sign(&self.delegation_key).unwrap().into_signed(),
            certificate: self.certificate.sign(&self.token_key).unwrap().into_signed(),
            binding: self.binding.sign(&self.identity_key).unwrap().into_signed(),
            receipt,
            record,
        }
    }

    fn check_at(&self, now: UnixTime) -> Result<Member, E> {
        self.network.trust().verify_member(&self.bundle(), now)
    }
}

/// Breaks one thing and expects exactly one error.
fn broken(expected: E, change: impl FnOnce(&mut Parts)) {
    let mut parts = Parts::new();
    change(&mut parts);
    match parts.check_at(NOW) {
        Err(error) => assert_eq!(error, expected),
        Ok(member) => panic!("accepted {member:?} instead of {expected:?}"),
    }
}

fn stranger() -> SigningKey {
    SigningKey::from_seed(&[0x55; 32])
}

#[test]
fn an_honest_peer_is_accepted_and_says_who_it_is() {
    let parts = Parts::new();
    let member = parts.check_at(NOW).unwrap();
    assert_eq!(member.identity(), parts.identity_key.identity());
    assert_eq!(member.x25519(), parts.binding.x25519);
    assert_eq!(member.name().as_str(), "web-1");
    assert!(parts.delegation.pool.contains(member.v4()));
    assert_eq!(member.node_no(), u32::from(member.v4()));
    assert_eq!(member.v6(), parts.network.genesis.root_pin().v6(&member.identity()));
    assert_eq!(member.tags().iter().collect::<Vec<_>>(), ["gpu", "web"]);
    assert_eq!(member.not_after(), NOW.plus_secs(7 * DAY), "the binding ends first");
    assert_eq!(Bundle::parse(member.bundle()).unwrap().encode(), member.bundle());
}

#[test]
fn a_peer_without_a_record_is_accepted() {
    let mut parts = Parts::new();
    parts.record = None;
    let member = parts.check_at(NOW).unwrap();
    assert_eq!((member.record_version(), member.endpoints()), (0, &[][..]));
}

#[test]
fn documents_of_another_network_are_refused() {
    let other = NetworkId([0xee; 8]);
    broken(E::ForeignNetwork(Kind::Delegation), |p| p.delegation.network_id = other);
    broken(E::ForeignNetwork(Kind::Certificate), |p| p.certificate.network_id = other);
    broken(E::ForeignNetwork(Kind::Binding), |p| p.binding.network_id = other);
    broken(E::ForeignNetwork(Kind::Receipt), |p| p.receipt.as_mut().unwrap().network_id = other);
    broken(E::ForeignNetwork(Kind::Record), |p| p.record.as_mut().unwrap().network_id = other);
}

#[test]
fn a_delegation_needs_the_root_or_a_listed_issuer() {
    broken(E::UnknownIssuer, |p| {
        p.delegation_key = stranger();
        p.delegation.signer = stranger().identity();
    });
    broken(E::DelegationSignature, |p| p.delegation_key = stranger());
    let mut parts = Parts::new();
    parts.delegation_key = stranger();
    parts.delegation.signer = stranger().identity();
    parts.network.manifest.issuers.push(stranger().identity());
    assert!(parts.check_at(NOW).is_ok(), "a listed issuer may sign");
}

#[test]
fn a_pool_outside_the_networks_range_is_refused() {
    broken(E::PoolOutsideNetwork, |p| p.delegation.pool = "10.8.0.0/24".parse().unwrap());
    broken(E::PoolOutsideNetwork, |p| p.delegation.pool = "10.0.0.0/8".parse().unwrap());
}

#[test]
fn a_certificate_obeys_its_token() {
    broken(E::CertificateSignature, |p| p.token_key = stranger());
    broken(E::CertificateSignature, |p| p.token_key = p.identity_key.clone());
    broken(E::OtherToken, |p| p.certificate.token_id = TokenId([4; 8]));
    broken(E::TokenExpired, |p| p.delegation.not_after = UnixTime(NOW.0 - 1));
    broken(E::Tags, |p| p.certificate.tags = Tags::new(["web", "relay"]).unwrap());
    broken(E::Ephemeral, |p| p.certificate.ephemeral = true);
    broken(E::Ephemeral, |p| p.delegation.ephemeral = true);
    broken(E::Name, |p| p.certificate.name = "db-1".parse().unwrap());
    broken(E::Lifetime, |p| p.certificate.not_after.0 += 1);
}

#[test]
fn fewer_tags_than_the_token_allows_are_fine() {
    let mut parts = Parts::new();
    parts.certificate.tags = Tags::default();
    assert!(parts.check_at(NOW).is_ok());
}

#[test]
fn the_ipv4_address_must_be_the_derived_one() {
    broken(E::AddressNotDerived, |p| p.certificate.salt += 1);
    broken(E::AddressNotDerived, |p| {
        p.certificate.v4 = std::net::Ipv4Addr::from_bits(p.certificate.v4.to_bits() ^ 1);
    });
    broken(E::AddressNotDerived, |p| p.delegation.pool = "10.7.8.0/24".parse().unwrap());
}

#[test]
fn what_a_node_says_about_itself_is_signed_by_its_identity() {
    let other = stranger().identity();
    broken(E::OtherIdentity(Kind::Binding), |p| p.binding.identity = other);
    broken(E::OtherIdentity(Kind::Record), |p| p.record.as_mut().unwrap().identity = other);
    broken(E::Signature(Kind::Binding), |p| p.identity_key = stranger());
    let mut parts = Parts::new();
    let mut bundle = parts.bundle();
    parts.identity_key = stranger();
    bundle.record = parts.bundle().record;
    let result = parts.network.trust().verify_member(&bundle, NOW);
    assert_eq!(result.unwrap_err(), E::Signature(Kind::Record));
}

#[test]
fn a_receipt_of_a_listed_registrar_is_required() {
    broken(E::NoReceipt, |p| p.receipt = None);
    broken(E::Signature(Kind::Receipt), |p| p.registrar_key = stranger());
    broken(E::UnknownRegistrar, |p| {
        p.registrar_key = stranger();
        p.receipt.as_mut().unwrap().registrar = stranger().identity();
    });
}

#[test]
fn a_receipt_repeats_what_it_admits() {
    broken(E::ReceiptMismatch("identity"), |p| p.receipt.as_mut().unwrap().identity = stranger().identity());
    broken(E::ReceiptMismatch("session key"), |p| p.receipt.as_mut().unwrap().x25519 = PublicKey([1; 32]));
    broken(E::ReceiptMismatch("name"), |p| p.receipt.as_mut().unwrap().name = "web-2".parse().unwrap());
    broken(E::ReceiptMismatch("IPv4 address"), |p| {
        p.receipt.as_mut().unwrap().v4 = "10.7.4.9".parse().unwrap();
    });
    broken(E::ReceiptMismatch("token"), |p| p.receipt.as_mut().unwrap().token_id = TokenId([4; 8]));
}

#[test]
fn validity_has_five_minutes_of_tolerance_and_no_more() {
    let parts = Parts::new();
    let early = |s| parts.check_at(UnixTime(NOW.0 - s)).map(|_| ()).unwrap_err();
    assert!(parts.check_at(UnixTime(NOW.0 - 300)).is_ok());
    assert_eq!(early(301), E::NotYetValid(Kind::Certificate));

    let cases = [
        (Kind::Certificate, 90 * DAY, 0, 0),
        (Kind::Binding, 7 * DAY, 365 * DAY, 0),
        (Kind::Receipt, 14 * DAY, 365 * DAY, 365 * DAY),
    ];
    for (kind, end, binding, certificate) in cases {
        let mut parts = Parts::new();
        parts.receipt.as_mut().unwrap().not_after = NOW.plus_secs(14 * DAY);
        if kind == Kind::Certificate {
            parts.binding.not_after = NOW.plus_secs(365 * DAY);
            parts.receipt.as_mut().unwrap().not_after = NOW.plus_secs(365 * DAY);
        }
        if binding > 0 && kind == Kind::Receipt {
            parts.binding.not_after = NOW.plus_secs(certificate);
        }
        assert!(parts.check_at(NOW.plus_secs(end + 300)).is_ok(), "{kind}");
        assert_eq!(parts.check_at(NOW.plus_secs(end + 301)).unwrap_err(), E::Expired(kind));
    }
    broken(E::NotYetValid(Kind::Binding), |p| p.binding.not_before = NOW.plus_secs(301));
    broken(E::NotYetValid(Kind::Receipt), |p| p.receipt.as_mut().unwrap().issued = NOW.plus_secs(301));
}

#[test]
fn a_thief_with_the_token_and_no_registrar_is_no_member() {
    let mut network = Network::new();
    let stolen = network.enrolment();
    let trust = network.trust();
    assert!(trust.verify_candidate(stolen.bundle(), NOW).is_ok(), "the token alone makes a candidate");
    // He may sign a receipt with any key he has: the token's, his own.
    for key in [network.token_key.clone(), stolen.node().identity.clone()] {
        for registrar in [network.registrar.identity(), key.identity()] {
            let mut bundle = stolen.bundle().clone();
            let receipt = Receipt { registrar, ..network.receipt(&bundle) };
            bundle.receipt = Some(receipt.sign(&key).unwrap().into_signed());
            assert!(trust.verify_member(&bundle, NOW).is_err());
        }
    }
}

#[test]
fn a_registrar_without_a_token_mints_nobody() {
    for delegation_key in ["registrar", "own"] {
        broken(if delegation_key == "own" { E::UnknownIssuer } else { E::CertificateSignature }, |p| {
            // All he has is his own key: he signs whatever he likes with it.
            p.token_key = p.registrar_key.clone();
            if delegation_key == "own" {
                p.delegation_key = p.registrar_key.clone();
                p.delegation.signer = p.registrar_key.identity();
                p.delegation.token_key = p.registrar_key.identity();
            }
        });
    }
}

#[test]
fn a_higher_sequence_or_version_wins_and_a_lower_one_never_does() {
    let mut parts = Parts::new();
    let old = parts.check_at(NOW).unwrap();
    assert!(!old.supersedes(&old), "the same is not newer");

    parts.record.as_mut().unwrap().version += 1;
    let record = parts.check_at(NOW).unwrap();
    assert!(record.supersedes(&old) && !old.supersedes(&record));

    parts.binding.sequence += 1;
    parts.binding.x25519 = StaticSecret::from_bytes([3; 32]).public();
    parts.receipt.as_mut().unwrap().x25519 = parts.binding.x25519;
    let rebound = parts.check_at(NOW).unwrap();
    assert!(rebound.supersedes(&record) && rebound.supersedes(&old) && !record.supersedes(&rebound));

    parts.record.as_mut().unwrap().version -= 1;
    assert!(!parts.check_at(NOW).unwrap().supersedes(&record), "one part newer, one older");

    let mut forked = Parts::new();
    forked.binding.x25519 = StaticSecret::from_bytes([4; 32]).public();
    forked.receipt.as_mut().unwrap().x25519 = forked.binding.x25519;
    forked.receipt.as_mut().unwrap().issued.0 += 1;
    assert!(!forked.check_at(NOW).unwrap().supersedes(&old), "one sequence, two keys");

    let mut renewed = Parts::new();
    renewed.receipt.as_mut().unwrap().issued.0 += 1;
    assert!(renewed.check_at(NOW).unwrap().supersedes(&old), "a renewed receipt");
}

#[test]
fn a_relay_that_withholds_the_record_replaces_nothing() {
    let mut parts = Parts::new();
    let old = parts.check_at(NOW).unwrap();
    parts.record = None;
    parts.receipt.as_mut().unwrap().issued.0 += 1;
    assert!(!parts.check_at(NOW).unwrap().supersedes(&old));
}

#[test]
fn a_manifest_epoch_never_goes_back_and_never_forks() {
    let mut network = Network::new();
    network.manifest.epoch = 5;
    let mut trust = network.trust();
    let sign = |network: &Network| network.manifest.sign(&network.root).unwrap();
    assert_eq!(trust.update_manifest(sign(&network).bytes()), Ok(false), "the same again");

    network.manifest.epoch = 4;
    let older = sign(&network);
    assert_eq!(trust.update_manifest(older.bytes()), Err(TrustError::OlderManifest { have: 5, got: 4 }));

    network.manifest.epoch = 5;
    network.manifest.registrars.push(stranger().identity());
    let fork = trust.update_manifest(sign(&network).bytes()).unwrap_err();
    assert_eq!(fork, TrustError::ForkedManifest(5));
    assert!(fork.is_alarm());

    network.manifest.epoch = 6;
    assert_eq!(trust.update_manifest(sign(&network).bytes()), Ok(true));
    assert_eq!(trust.manifest().epoch, 6);
    assert!(!trust.is_stale(NOW) && trust.is_stale(NOW.plus_secs(31 * DAY)));
}

#[test]
fn genesis_and_manifest_must_be_the_pinned_roots() {
    let network = Network::new();
    let manifest = network.manifest.sign(&network.root).unwrap();
    let pin = network.genesis.root_pin();
    let wrong = RootPin([1; 32]);
    assert!(matches!(
        NetworkTrust::new(wrong, network.genesis.bytes(), manifest.bytes()),
        Err(TrustError::NotPinned { .. })
    ));
    let forged = network.manifest.sign(&network.registrar).unwrap();
    assert!(matches!(
        NetworkTrust::new(pin, network.genesis.bytes(), forged.bytes()),
        Err(TrustError::Manifest(DocumentError::Signature(Kind::Manifest)))
    ));
    let foreign = Manifest { network_id: NetworkId([1; 8]), ..network.manifest.clone() };
    let foreign = foreign.sign(&network.root).unwrap();
    assert_eq!(
        NetworkTrust::new(pin, network.genesis.bytes(), foreign.bytes()).unwrap_err(),
        TrustError::ForeignManifest(NetworkId([1; 8]))
    );
    // A genesis signed by another key than its root has its own hash, and is still refused.
    let odd = (*network.genesis).sign(&stranger()).unwrap();
    assert!(matches!(
        NetworkTrust::new(odd.root_pin(), odd.bytes(), manifest.bytes()),
        Err(TrustError::Genesis(DocumentError::Signature(Kind::Genesis)))
    ));
}
