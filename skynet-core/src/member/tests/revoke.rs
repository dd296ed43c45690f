//! What is taken back, who may say so, and what is known of its age.

use crate::key::{Identity, SigningKey};
use crate::member::chain::ChainError;
use crate::member::document::{Content, Kind};
use crate::member::fixture::{DAY, NOW, Network};
use crate::member::freshness::FRESHNESS_LIFETIME;
use crate::member::revocation::{MAX_REVOKED_NODES, MAX_REVOKED_TOKENS};
use crate::member::trust::TrustError;
use crate::member::*;
use crate::time::UnixTime;

fn list(network: &Network, epoch: u64) -> Revocations {
    Revocations {
        network_id: network.manifest.network_id,
        epoch,
        issued: NOW,
        signer: network.root.identity(),
        nodes: vec![],
        tokens: vec![],
    }
}

fn token(network: &Network, extent: Extent, since: UnixTime) -> RevokedToken {
    RevokedToken { token_id: network.delegation.token_id, extent, since, until: NOW.plus_secs(400 * DAY) }
}

fn take<T: Content>(
    trust: &mut NetworkTrust,
    content: &T,
    key: &SigningKey,
) -> Result<Option<Kind>, TrustError> {
    trust.take(content.sign(key).unwrap().bytes())
}

#[test]
fn a_revoked_node_is_no_member_and_its_neighbour_is() {
    let mut network = Network::new();
    let [gone, stays] = [network.credentials(), network.credentials()];
    let mut trust = network.trust();
    let node = RevokedNode { identity: gone.node().identity(), until: NOW.plus_secs(90 * DAY) };
    let list = Revocations { nodes: vec![node], ..list(&network, 1) };
    assert_eq!(take(&mut trust, &list, &network.root), Ok(Some(Kind::Revocations)));
    assert_eq!(trust.verify_member(gone.bundle(), NOW).unwrap_err(), ChainError::Revoked);
    assert!(trust.verify_member(stays.bundle(), NOW).is_ok());
}

#[test]
fn a_token_revoked_for_new_ones_keeps_those_who_came_before() {
    let mut network = Network::new();
    let credentials = network.credentials();
    for (since, counts) in [(NOW, true), (UnixTime(NOW.0 - 300), true), (UnixTime(NOW.0 - 301), false)] {
        let mut trust = network.trust();
        let list = Revocations { tokens: vec![token(&network, Extent::New, since)], ..list(&network, 1) };
        take(&mut trust, &list, &network.root).unwrap();
        assert_eq!(trust.verify_member(credentials.bundle(), NOW).is_ok(), counts, "{since:?}");
        assert!(trust.is_token_revoked(&network.delegation.token_id));
    }
    let mut trust = network.trust();
    let since = NOW.plus_secs(1_000);
    let list = Revocations { tokens: vec![token(&network, Extent::All, since)], ..list(&network, 1) };
    take(&mut trust, &list, &network.root).unwrap();
    assert_eq!(trust.verify_member(credentials.bundle(), NOW).unwrap_err(), ChainError::Revoked);
}

#[test]
fn only_root_and_issuers_take_back_and_epochs_never_go_back() {
    let mut network = Network::new();
    let issuer = SigningKey::from_seed(&[0x55; 32]);
    network.manifest.issuers.push(issuer.identity());
    let mut trust = network.trust();
    let by = |signer: Identity, epoch| Revocations { signer, ..list(&network, epoch) };
    assert_eq!(take(&mut trust, &by(issuer.identity(), 3), &issuer), Ok(Some(Kind::Revocations)));
    assert_eq!(take(&mut trust, &by(issuer.identity(), 3), &issuer), Ok(None), "the same again");
    let kind = Kind::Revocations;
    assert_eq!(
        take(&mut trust, &by(network.root.identity(), 2), &network.root),
        Err(TrustError::OlderDocument { kind, have: 3, got: 2 })
    );
    let forked = take(&mut trust, &by(network.root.identity(), 3), &network.root).unwrap_err();
    assert_eq!(forked, TrustError::ForkedDocument(kind, 3));
    assert!(forked.is_alarm());
    for stranger in [&network.registrar, &network.token_key] {
        assert_eq!(
            take(&mut trust, &by(stranger.identity(), 9), stranger),
            Err(TrustError::NotEntitled(kind)),
            "a registrar, or a token, takes nobody out"
        );
        let forged = take(&mut trust, &by(network.root.identity(), 9), stranger).unwrap_err();
        assert_eq!(forged, TrustError::Document(DocumentError::Signature(kind)));
    }
    let foreign = Revocations { network_id: NetworkId([7; 8]), ..list(&network, 9) };
    assert_eq!(
        take(&mut trust, &foreign, &network.root),
        Err(TrustError::ForeignDocument(kind, NetworkId([7; 8])))
    );
    assert_eq!(trust.revocations().unwrap().epoch, 3);
    let binding = network.credentials().bundle().binding.bytes().to_vec();
    assert_eq!(trust.take(&binding), Err(TrustError::NoSuchDocument));
}

#[test]
fn the_longest_list_fits_its_message_and_one_more_is_refused() {
    let network = Network::new();
    let nodes = |n: usize| {
        let node = |i: usize| RevokedNode { identity: Identity([i as u8; 32]), until: NOW };
        (0..n).map(node).collect::<Vec<_>>()
    };
    let tokens = |n: usize| {
        let one =
            |i: usize| RevokedToken { token_id: TokenId([i as u8; 8]), ..token(&network, Extent::All, NOW) };
        (0..n).map(one).collect::<Vec<_>>()
    };
    let most = Revocations {
        nodes: nodes(MAX_REVOKED_NODES),
        tokens: tokens(MAX_REVOKED_TOKENS),
        ..list(&network, 1)
    };
    let len = most.sign(&network.root).unwrap().bytes().len();
    println!("the longest list has {len} bytes");
    assert!(crate::control::Message::Document(vec![0; len]).encode(0).is_ok());
    let more = Revocations { nodes: nodes(MAX_REVOKED_NODES + 1), ..list(&network, 1) };
    assert!(more.sign(&network.root).is_err());
    let more = Revocations { tokens: tokens(MAX_REVOKED_TOKENS + 1), ..list(&network, 1) };
    assert!(more.sign(&network.root).is_err());
    let twice = Revocations { nodes: [nodes(1), nodes(1)].concat(), ..list(&network, 1) };
    assert!(twice.sign(&network.root).is_err(), "each once, in order");
}

#[test]
fn what_was_taken_back_stays_so_over_a_restart_even_if_its_issuer_is_gone() {
    let mut network = Network::new();
    let issuer = SigningKey::from_seed(&[0x55; 32]);
    let mut credentials = network.credentials();
    network.manifest.issuers.push(issuer.identity());
    network.manifest.epoch = 2;
    let manifest = |network: &Network| network.manifest.sign(&network.root).unwrap();
    credentials.trust_mut().update_manifest(manifest(&network).bytes()).unwrap();
    let node = RevokedNode { identity: Identity([1; 32]), until: NOW };
    let list = Revocations { signer: issuer.identity(), nodes: vec![node], ..list(&network, 4) };
    take(credentials.trust_mut(), &list, &issuer).unwrap();
    network.manifest.issuers.clear();
    network.manifest.epoch = 3;
    credentials.trust_mut().update_manifest(manifest(&network).bytes()).unwrap();
    let back = Credentials::decode(&credentials.encode()).unwrap();
    assert_eq!(**back.trust().revocations().unwrap(), list);
    assert_eq!(*back.encode(), *credentials.encode());
}

#[test]
fn a_word_on_what_is_in_force_is_good_for_a_day_and_for_no_older_list() {
    let network = Network::new();
    let mut trust = network.trust();
    assert_eq!(trust.stale_since(), None, "nobody has said anything yet");
    let word = trust.freshness_of(network.registrar.identity(), NOW);
    assert_eq!(take(&mut trust, &word, &network.registrar), Ok(Some(Kind::Freshness)));
    assert_eq!(trust.stale_since(), Some(NOW.plus_secs(FRESHNESS_LIFETIME)));
    let by_root = Freshness { registrar: network.root.identity(), issued: NOW.plus_secs(1), ..word.clone() };
    assert_eq!(take(&mut trust, &by_root, &network.root), Err(TrustError::NotEntitled(Kind::Freshness)));
    let old = Freshness { issued: UnixTime(NOW.0 - 1), ..word.clone() };
    assert!(matches!(take(&mut trust, &old, &network.registrar), Err(TrustError::OlderDocument { .. })));
    // There is a list that was not shown to us.
    let later = Freshness { issued: NOW.plus_secs(60), revocations: 1, ..word };
    take(&mut trust, &later, &network.registrar).unwrap();
    assert_eq!(trust.stale_since(), Some(NOW.plus_secs(60)));
    take(&mut trust, &list(&network, 1), &network.root).unwrap();
    assert_eq!(trust.stale_since(), Some(NOW.plus_secs(60 + FRESHNESS_LIFETIME)));
}
