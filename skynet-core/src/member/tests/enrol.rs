//! Joining from the node's side.

use crate::key::Secret;
use crate::member::credentials::CredentialsError;
use crate::member::document::Content;
use crate::member::enrol::{EnrolError, MAX_CONFLICTS};
use crate::member::fixture::{DAY, NOW, Network};
use crate::member::trust::TrustError;
use crate::member::*;

fn v4(enrolment: &Enrolment) -> std::net::Ipv4Addr {
    enrolment.bundle().certificate.unverified().v4
}

#[test]
fn a_conflicting_address_is_answered_with_another_salt() {
    let mut network = Network::new();
    let mut enrolment = network.enrolment();
    let first = v4(&enrolment);
    enrolment.retry_with_salt().unwrap();
    assert_ne!(v4(&enrolment), first);
    assert!(network.trust().verify_candidate(enrolment.bundle(), NOW).is_ok());
}

#[test]
fn a_conflicting_name_counts_up() {
    let mut network = Network::new();
    let mut enrolment = network.enrolment();
    let mut names = Vec::new();
    for _ in 0..3 {
        enrolment.retry_with_suffix().unwrap();
        names.push(enrolment.name().to_string());
    }
    assert_eq!(names, ["web-1-2", "web-1-3", "web-1-4"]);
    enrolment.with_name("web-x".parse().unwrap()).unwrap();
    assert_eq!(enrolment.bundle().certificate.unverified().name.as_str(), "web-x");
    assert!(matches!(enrolment.with_name("db".parse().unwrap()), Err(EnrolError::Name { .. })));
}

#[test]
fn a_full_pool_ends_the_attempts() {
    let mut network = Network::new();
    let mut enrolment = network.enrolment();
    for _ in 0..MAX_CONFLICTS {
        enrolment.retry_with_salt().unwrap();
    }
    assert_eq!(enrolment.retry_with_salt(), Err(EnrolError::NoneFree));
}

#[test]
fn an_expired_token_enrols_nobody() {
    let mut network = Network::new();
    let node = NodeIdentity::random(None, &mut network.rng);
    let late = NOW.plus_secs(DAY + 1);
    let error = Enrolment::new(network.token(), node, "web-1".parse().unwrap(), late, &mut network.rng);
    assert_eq!(
        error.unwrap_err().to_string(),
        "the join token has expired: it was valid until 2027-01-16 08:00 UTC, ask the operator for a new one"
    );
}

#[test]
fn a_relay_of_another_network_is_told_by_its_genesis() {
    let mut network = Network::new();
    let enrolment = network.enrolment();
    let receipt = network.receipt(enrolment.bundle()).sign(&network.registrar).unwrap();
    let manifest = network.manifest.sign(&network.root).unwrap();
    let other = Genesis { nonce: [0; 16], ..(*network.genesis).clone() }.sign(&network.root).unwrap();
    let error = enrolment.complete(other.bytes(), manifest.bytes(), receipt.bytes(), NOW).unwrap_err();
    assert!(matches!(error, EnrolError::Trust(TrustError::NotPinned { .. })));
}

#[test]
fn an_admission_peers_would_refuse_is_not_kept() {
    let mut network = Network::new();
    let enrolment = network.enrolment();
    let receipt = network.receipt(enrolment.bundle()).sign(&network.token_key).unwrap();
    let manifest = network.manifest.sign(&network.root).unwrap();
    let error = enrolment.complete(network.genesis.bytes(), manifest.bytes(), receipt.bytes(), NOW);
    assert!(matches!(error, Err(EnrolError::Chain(_))));
}

#[test]
fn credentials_survive_their_encoding_and_hold_no_token_seed() {
    let mut network = Network::new();
    let credentials = network.credentials();
    let bytes = credentials.encode();
    let back = Credentials::decode(&bytes).unwrap();
    assert_eq!(back.encode(), bytes);
    assert_eq!(back.member(NOW).unwrap().identity(), credentials.node().identity());
    assert_eq!(back.node().fingerprint, Some([1; 16]));
    let seed: Secret = network.token_key.seed();
    assert!(!bytes.windows(32).any(|window| window == seed.expose()));
}

#[test]
fn any_damage_to_credentials_is_seen() {
    let bytes = Network::new().credentials().encode().to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Credentials::decode(&damaged).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Credentials::decode(&bytes[..length]).is_err());
    }
    assert_eq!(Credentials::decode(&[&bytes[..], &[0]].concat()).unwrap_err(), CredentialsError::Damaged);
}

#[test]
fn a_node_renews_its_record_and_binding_upwards() {
    let mut credentials = Network::new().credentials();
    let before = credentials.member(NOW).unwrap();
    let endpoint = Endpoint { kind: 0, address: "192.0.2.7:51820".parse().unwrap() };
    credentials.sign_record(vec![endpoint], vec![], NOW).unwrap();
    credentials.renew_binding(None, NOW).unwrap();
    let after = credentials.member(NOW).unwrap();
    assert!(after.supersedes(&before));
    assert_eq!(after.endpoints(), [endpoint]);
    assert!(credentials.sign_record(vec![endpoint; 17], vec![], NOW).is_err(), "17 endpoints");
}
