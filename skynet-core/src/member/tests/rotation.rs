//! Session keys that are replaced, and certificates that are prolonged.

use crate::key::PublicKey;
use crate::member::chain::ChainError;
use crate::member::credentials::CredentialsError;
use crate::member::document::{Content, Kind};
use crate::member::enrol::BINDING_LIFETIME;
use crate::member::fixture::{DAY, NOW, Network};
use crate::member::rotation::key_lifetime;
use crate::member::*;
use crate::time::UnixTime;

const LIFE: u64 = BINDING_LIFETIME;

fn key(credentials: &Credentials) -> PublicKey {
    credentials.node().static_secret.public()
}

/// What an honest registrar answers to JOIN under the next key.
fn receipt(network: &Network, credentials: &Credentials, now: UnixTime) -> Vec<u8> {
    let bundle = credentials.next_bundle().unwrap();
    let receipt = Receipt { issued: now, not_after: now.plus_secs(14 * DAY), ..network.receipt(&bundle) };
    receipt.sign(&network.registrar).unwrap().bytes().to_vec()
}

/// What a start after a crash would find.
fn restarted(credentials: &Credentials) -> Credentials {
    let bytes = credentials.encode();
    let back = Credentials::decode(&bytes).unwrap();
    assert_eq!(back.encode(), bytes);
    back
}

#[test]
fn every_step_of_a_change_survives_a_restart_and_the_key_before_is_erased_at_its_end() {
    let mut network = Network::new();
    let mut credentials = network.credentials();
    let (first, half) = (key(&credentials), NOW.plus_secs(LIFE / 2));
    assert_eq!(restarted(&credentials).key_since(), NOW);

    credentials.prepare_key(LIFE, half, &mut network.rng).unwrap();
    let mut credentials = restarted(&credentials);
    let next = credentials.next_key().unwrap().public();
    assert_eq!((key(&credentials), credentials.member(half).unwrap().x25519()), (first, first));
    assert_ne!(next, first);
    let bundle = credentials.next_bundle().unwrap();
    assert!(bundle.binding.unverified().sequence > credentials.bundle().binding.unverified().sequence);

    // Asked again, after a refusal: the same key and the same binding, for the directory may have them.
    credentials.prepare_key(LIFE, half.plus_secs(60), &mut network.rng).unwrap();
    assert_eq!(credentials.next_bundle().unwrap().encode(), bundle.encode());
    // Much later: the same key, bound anew.
    let mut late = restarted(&credentials);
    late.prepare_key(LIFE, half.plus_secs(LIFE / 4), &mut network.rng).unwrap();
    let rebound = late.next_bundle().unwrap();
    assert_eq!(rebound.binding.unverified().x25519, next);
    assert!(rebound.binding.unverified().sequence > bundle.binding.unverified().sequence);

    let before = credentials.member(half).unwrap();
    let answer = receipt(&network, &credentials, half);
    credentials.adopt_key(&answer, LIFE / 2, half).unwrap();
    let mut credentials = restarted(&credentials);
    assert_eq!((key(&credentials), credentials.key_since()), (next, half));
    assert!(credentials.next_key().is_none() && credentials.next_bundle().is_none());
    let (secret, until) = credentials.previous_key().unwrap();
    assert_eq!((secret.public(), until), (first, NOW.plus_secs(LIFE)));
    assert!(credentials.member(half).unwrap().supersedes(&before));

    let (secret, end) = (*secret.expose(), until);
    assert!(!credentials.retire_key(UnixTime(end.0 - 1)));
    assert!(credentials.retire_key(end) && !credentials.retire_key(end));
    assert!(credentials.previous_key().is_none());
    assert!(!credentials.encode().windows(32).any(|window| window == secret));
}

#[test]
fn a_receipt_for_another_key_changes_nothing() {
    let mut network = Network::new();
    let mut credentials = network.credentials();
    let old = credentials.bundle().receipt.as_ref().unwrap().bytes().to_vec();
    assert!(credentials.adopt_key(&old, LIFE, NOW).is_err(), "there is no next key");
    credentials.prepare_key(LIFE, NOW, &mut network.rng).unwrap();
    let before = credentials.encode();
    let forged = {
        let bundle = credentials.next_bundle().unwrap();
        network.receipt(&bundle).sign(&network.token_key).unwrap().bytes().to_vec()
    };
    for wrong in [&old[..], &forged, &[]] {
        assert!(credentials.adopt_key(wrong, LIFE, NOW).is_err());
        assert_eq!(credentials.encode(), before);
    }
}

#[test]
fn a_next_key_whose_binding_is_not_its_own_is_refused() {
    let mut network = Network::new();
    let mut credentials = network.credentials();
    credentials.prepare_key(LIFE, NOW, &mut network.rng).unwrap();
    let secret = credentials.next_key().unwrap().expose().to_vec();
    let mut bytes = credentials.encode().to_vec();
    let at = bytes.windows(32).position(|window| window == secret).unwrap();
    bytes[at] ^= 8;
    let covered = bytes.len() - 32;
    let check = crate::crypto::hash(&[b"skynet credentials 1", &bytes[..covered]]);
    bytes[covered..].copy_from_slice(&check);
    assert!(matches!(Credentials::decode(&bytes), Err(CredentialsError::Inconsistent(_))));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = credentials.encode().to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Credentials::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn an_ephemeral_nodes_key_lives_a_day_and_nobodys_longer_than_its_kind() {
    let mut network = Network::new();
    network.delegation.ephemeral = true;
    let ephemeral = network.credentials();
    network.delegation.ephemeral = false;
    let lasting = network.credentials();
    for (credentials, life) in [(&ephemeral, DAY), (&lasting, 7 * DAY)] {
        let certificate = credentials.bundle().certificate.unverified();
        assert_eq!(key_lifetime(certificate, None), life);
        assert_eq!(key_lifetime(certificate, Some(60)), 60);
        assert_eq!(key_lifetime(certificate, Some(100 * DAY)), life);
    }
}

/// A member of a token that lets certificates be prolonged until `renew_until`, with a receipt that does so until `until`.
fn prolonged(renew_until: Option<u64>, until: Option<u64>, now: UnixTime) -> Result<Member, ChainError> {
    let mut network = Network::new();
    network.delegation.renew_until = renew_until.map(|days| NOW.plus_secs(days * DAY));
    let mut credentials = network.credentials();
    credentials.renew_binding(None, now).unwrap();
    let mut bundle = credentials.bundle().clone();
    let certificate_until = until.map(|days| NOW.plus_secs(days * DAY));
    let receipt = Receipt {
        issued: now,
        not_after: now.plus_secs(14 * DAY),
        certificate_until,
        ..network.receipt(&bundle)
    };
    bundle.receipt = Some(receipt.sign(&network.registrar).unwrap().into_signed());
    network.trust().verify_member(&bundle, now)
}

#[test]
fn a_certificate_lives_as_long_as_token_and_receipt_both_let_it() {
    // By itself for 90 days.
    let late = NOW.plus_secs(100 * DAY);
    let expired = Err(ChainError::Expired(Kind::Certificate));
    let ends =
        |member: Result<Member, ChainError>| member.map(|m| m.candidate().certificate_end(m.receipt()));
    assert_eq!(ends(prolonged(Some(400), Some(200), late)), Ok(NOW.plus_secs(200 * DAY)));
    assert_eq!(
        ends(prolonged(Some(150), Some(200), late)),
        Ok(NOW.plus_secs(150 * DAY)),
        "not beyond the token"
    );
    assert_eq!(ends(prolonged(None, Some(200), late)), expired, "a registrar alone prolongs nothing");
    assert_eq!(ends(prolonged(Some(400), None, late)), expired, "a token alone neither");
    assert_eq!(ends(prolonged(Some(99), Some(200), late)), expired);
    assert_eq!(ends(prolonged(Some(400), Some(99), late)), expired);
    let (soon, first) = (NOW.plus_secs(50 * DAY), NOW.plus_secs(90 * DAY));
    assert_eq!(ends(prolonged(Some(400), Some(60), soon)), Ok(first), "nothing makes it shorter");
}

#[test]
fn whoever_was_off_beyond_the_end_of_a_certificate_may_still_ask_the_registrar() {
    let mut network = Network::new();
    let late = NOW.plus_secs(100 * DAY);
    for (renew_until, may) in [(None, false), (Some(NOW.plus_secs(400 * DAY)), true)] {
        network.delegation.renew_until = renew_until;
        let mut credentials = network.credentials();
        credentials.renew_binding(None, late).unwrap();
        assert_eq!(network.trust().verify_candidate(credentials.bundle(), late).is_ok(), may);
        assert_eq!(credentials.lapsed_member(late).is_ok(), may);
        assert!(credentials.member(late).is_err(), "and until then no peer takes it");
    }
}
