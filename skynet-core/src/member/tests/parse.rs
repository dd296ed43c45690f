//! Bytes against parsers: every flip, truncation and extension, and round trips.

use proptest::prelude::*;

use crate::key::{Identity, PublicKey};
use crate::member::document::{Content, Kind, MAX_DOCUMENT};
use crate::member::fixture::{NOW, Network};
use crate::member::token::{MAX_TOKEN, PREFIX};
use crate::member::*;
use crate::time::UnixTime;

/// A kind, one signed sample of it, and a parser that also verifies.
type Sample = (Kind, Vec<u8>, Box<dyn Fn(&[u8]) -> bool>);

fn samples() -> Vec<Sample> {
    fn checked<T: Content + 'static>(document: &Signed<T>, key: Identity) -> Sample {
        let accepts = move |bytes: &[u8]| Signed::<T>::parse(bytes).and_then(|d| d.verify(&key)).is_ok();
        (T::KIND, document.bytes().to_vec(), Box::new(accepts))
    }
    let mut network = Network::new();
    let mut credentials = network.credentials();
    let endpoint = Endpoint { kind: 1, address: "198.51.100.4:4000".parse().unwrap() };
    credentials.sign_record(vec![endpoint], vec![RelayRtt { relay_no: 1, rtt_ms: 20 }], NOW).unwrap();
    let bundle = credentials.bundle();
    let own = credentials.node().identity();
    let freshness = network.trust().freshness_of(network.registrar.identity(), NOW);
    vec![
        checked(&network.genesis.clone().into_signed(), network.root.identity()),
        checked(&network.manifest.sign(&network.root).unwrap().into_signed(), network.root.identity()),
        checked(&bundle.delegation, network.root.identity()),
        checked(&bundle.certificate, network.token_key.identity()),
        checked(&bundle.binding, own),
        checked(bundle.receipt.as_ref().unwrap(), network.registrar.identity()),
        checked(bundle.record.as_ref().unwrap(), own),
        checked(&network.revocations().sign(&network.root).unwrap().into_signed(), network.root.identity()),
        checked(&network.policy().sign(&network.root).unwrap().into_signed(), network.root.identity()),
        checked(&freshness.sign(&network.registrar).unwrap().into_signed(), network.registrar.identity()),
    ]
}

/// Calls `refused` with every single-bit flip, every truncation and every extension by one byte.
fn for_each_damage(bytes: &[u8], mut check: impl FnMut(&[u8], &str)) {
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        check(&damaged, "flip");
    }
    for length in 0..bytes.len() {
        check(&bytes[..length], "truncation");
    }
    for byte in 0..=255 {
        check(&[bytes, &[byte]].concat(), "extension");
    }
}

#[test]
fn no_damaged_document_is_accepted() {
    for (kind, bytes, accepts) in samples() {
        assert!(accepts(&bytes), "{kind}");
        for_each_damage(&bytes, |damaged, how| assert!(!accepts(damaged), "{kind}: {how}"));
    }
}

#[test]
fn no_damaged_bundle_makes_a_member() {
    let mut network = Network::new();
    let credentials = network.credentials();
    let trust = network.trust();
    let bytes = credentials.bundle().encode();
    let accepted = |bytes: &[u8]| Bundle::parse(bytes).ok().and_then(|b| trust.verify_member(&b, NOW).ok());
    assert!(accepted(&bytes).is_some());
    assert_eq!(bytes.len(), 998, "size of a bundle with two tags and no endpoints");
    for_each_damage(&bytes, |damaged, how| assert!(accepted(damaged).is_none(), "{how}"));
}

#[test]
fn a_bundle_has_its_documents_in_order_and_once() {
    let bundle = Network::new().credentials().bundle().clone();
    let documents = [
        bundle.delegation.bytes(),
        bundle.certificate.bytes(),
        bundle.binding.bytes(),
        bundle.receipt.as_ref().unwrap().bytes(),
        bundle.record.as_ref().unwrap().bytes(),
    ];
    let parse = |order: &[usize]| {
        let mut bytes = vec![order.len() as u8];
        for &index in order {
            bytes.extend_from_slice(&(documents[index].len() as u16).to_be_bytes());
            bytes.extend_from_slice(documents[index]);
        }
        Bundle::parse(&bytes).is_ok()
    };
    for good in [&[0, 1, 2][..], &[0, 1, 2, 3], &[0, 1, 2, 4], &[0, 1, 2, 3, 4]] {
        assert!(parse(good), "{good:?}");
    }
    for bad in [&[][..], &[0], &[0, 1], &[1, 0, 2], &[0, 1, 2, 4, 3], &[0, 1, 2, 3, 3], &[0, 1, 2, 3, 4, 4]] {
        assert!(!parse(bad), "{bad:?}");
    }
}

#[test]
fn a_token_survives_its_text_and_no_damage_goes_unseen() {
    let token = Network::new().token();
    let text = token.encode();
    println!("a token with one relay has {} characters", text.len());
    let back = JoinToken::parse(&format!("  {}\n", *text)).unwrap();
    assert_eq!(*back.encode(), *text);
    assert_eq!(back.relays(), token.relays());
    for_each_damage(text.as_bytes(), |damaged, how| {
        if let Ok(damaged) = std::str::from_utf8(damaged)
            && damaged.trim() != text.as_str()
        {
            assert!(JoinToken::parse(damaged).is_err(), "{how}: {damaged:?}");
        }
    });
}

#[test]
fn every_mistake_with_a_token_has_its_sentence() {
    let network = Network::new();
    let token = network.token();
    let text = token.encode().to_string();
    let error = |text: &str| JoinToken::parse(text).unwrap_err();
    assert_eq!(error("hello"), TokenError::WrongPrefix);
    assert_eq!(error(""), TokenError::WrongPrefix);
    for length in PREFIX.len()..text.len() {
        assert_eq!(error(&text[..length]), TokenError::Truncated, "{length}");
    }
    let mut swapped = text.clone().into_bytes();
    swapped.swap(20, 21);
    assert_eq!(error(std::str::from_utf8(&swapped).unwrap()), TokenError::Damaged);
    assert_eq!(error(&format!("{text}AAAA")), TokenError::Damaged);
    assert_eq!(error(&text.replacen(&text[9..10], "!", 1)), TokenError::Damaged);
    assert_eq!(error(&format!("{PREFIX}{}", "A".repeat(MAX_TOKEN))), TokenError::TooLong(MAX_TOKEN + 5));
    assert!(token.check_expiry(network.delegation.not_after).is_ok());
    assert!(matches!(token.check_expiry(UnixTime(u64::MAX)), Err(TokenError::Expired(_))));
    assert!(token.check_network(&network.genesis.root_pin()).is_ok());
    let foreign = token.check_network(&RootPin([1; 32])).unwrap_err();
    assert!(foreign.to_string().contains("this node belongs to network 0101010101010101"));
}

#[test]
fn a_token_does_not_show_its_seed() {
    let network = Network::new();
    let seed = network.token_key.seed();
    let shown = format!("{:?}", network.token());
    assert!(shown.contains("***"));
    assert!(!shown.contains(&format!("{:?}", seed.expose())[..20]));
}

#[test]
fn the_largest_legal_documents_fit_their_maxima() {
    let mut network = Network::new();
    let name: Name = "a".repeat(63).parse().unwrap();
    network.delegation.tags = Tags::new((0..16).map(|n| format!("{n:02}{}", "t".repeat(30)))).unwrap();
    network.delegation.names = Some(NamePattern::Exact(name.clone()));
    let node = NodeIdentity::random(Some([1; 16]), &mut network.rng);
    let enrolment = Enrolment::new(network.token(), node, name, NOW, &mut network.rng).unwrap();
    let receipt = network.receipt(enrolment.bundle()).sign(&network.registrar).unwrap();
    network.manifest.issuers = vec![Identity([2; 32]); 16];
    network.manifest.registrars = vec![Identity([3; 32]); 15];
    network.manifest.registrars.push(network.registrar.identity());
    network.manifest.relays = (0..64)
        .map(|relay_no| RelayEntry {
            relay_no,
            key: PublicKey([1; 32]),
            addresses: vec!["[2001:db8::1]:3478".parse().unwrap(); 4],
        })
        .collect();
    let manifest = network.manifest.sign(&network.root).unwrap();
    let mut credentials =
        enrolment.complete(network.genesis.bytes(), manifest.bytes(), receipt.bytes(), NOW).unwrap();
    let endpoint = Endpoint { kind: 1, address: "198.51.100.4:4000".parse().unwrap() };
    credentials.sign_record(vec![endpoint; 16], vec![RelayRtt { relay_no: 1, rtt_ms: 20 }; 8], NOW).unwrap();
    let bundle = credentials.bundle().encode();
    println!("largest bundle {}, largest manifest {} bytes", bundle.len(), manifest.bytes().len());
    assert!(bundle.len() <= bundle::MAX_BUNDLE, "{}", bundle.len());
    assert!(credentials.bundle().certificate.bytes().len() <= MAX_DOCUMENT);
    assert!(Bundle::parse(&bundle).is_ok());
    assert!(credentials.encode().len() <= credentials::MAX_CREDENTIALS);
    assert!(Credentials::decode(&credentials.encode()).is_ok());
    assert!(JoinToken::parse(&network.token().encode()).is_ok());
}

#[test]
fn contents_above_a_limit_are_not_signed() {
    let network = Network::new();
    let fails = |change: fn(&mut Manifest)| {
        let mut manifest = network.manifest.clone();
        change(&mut manifest);
        manifest.sign(&network.root).is_err()
    };
    assert!(!fails(|_| ()));
    assert!(fails(|m| m.registrars = vec![Identity([1; 32]); 17]));
    assert!(fails(|m| m.issuers = vec![Identity([1; 32]); 17]));
    assert!(fails(|m| m.relays.push(m.relays[0].clone())), "one number twice");
    assert!(fails(|m| m.relays[0].addresses = vec!["192.0.2.1:1".parse().unwrap(); 5]));
    assert!(fails(|m| m.v4 = "10.0.0.0/31".parse().unwrap()));
    let long = Genesis { name: "n".repeat(64), ..(*network.genesis).clone() };
    assert!(long.sign(&network.root).is_err());
    let control = Genesis { name: "a\nb".into(), ..(*network.genesis).clone() };
    assert!(control.sign(&network.root).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn a_record_survives_the_wire(
        version: u64, not_after: u64,
        endpoints in proptest::collection::vec((any::<u8>(), any::<std::net::SocketAddr>()), 0..=16),
        relays in proptest::collection::vec(any::<(u16, u16)>(), 0..=8),
    ) {
        let network = Network::new();
        let endpoints = endpoints.into_iter().map(|(kind, address)| Endpoint {
            kind,
            address: crate::wire::address::canonical(address),
        });
        let record = Record {
            network_id: network.manifest.network_id, identity: network.root.identity(),
            version, not_after: UnixTime(not_after), endpoints: endpoints.collect(),
            relays: relays.into_iter().map(|(relay_no, rtt_ms)| RelayRtt { relay_no, rtt_ms }).collect(),
        };
        let signed = record.sign(&network.root).unwrap();
        let back = Signed::<Record>::parse(signed.bytes()).unwrap();
        prop_assert_eq!(back.unverified(), &record);
    }

    #[test]
    fn a_delegation_survives_the_wire(
        token_id: [u8; 8], not_after: u64, max_node_lifetime: u32, max_uses: u32, ephemeral: bool,
        tags in proptest::collection::vec("[a-z0-9-]{1,32}", 0..=16),
        base: u32, length in prop_oneof![0u8..=30, Just(32u8)],
        names in proptest::option::of("[a-z0-9]{1,20}\\*?"),
        renew_until: Option<u64>,
    ) {
        let network = Network::new();
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let delegation = Delegation {
            token_id: TokenId(token_id), not_after: UnixTime(not_after), max_node_lifetime, max_uses, ephemeral,
            tags: Tags::new(tags).unwrap(),
            pool: Ipv4Prefix::new((base & mask).into(), length).unwrap(),
            names: names.map(|n| n.parse().unwrap()),
            renew_until: renew_until.map(UnixTime),
            ..network.delegation.clone()
        };
        let signed = delegation.sign(&network.root).unwrap();
        let back = Signed::<Delegation>::parse(signed.bytes()).unwrap();
        prop_assert_eq!(back.unverified(), &delegation);
    }

    #[test]
    fn parsers_survive_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Bundle::parse(&bytes);
        let _ = Signed::<Manifest>::parse(&bytes);
        let _ = Credentials::decode(&bytes);
        let _ = JoinToken::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn bodies_of_any_bytes_never_panic(kind in 1u8..=7, body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = vec![kind, 1];
        bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&[0; 64]);
        let _ = Signed::<Genesis>::parse(&bytes);
        let _ = Signed::<Manifest>::parse(&bytes);
        let _ = Signed::<Delegation>::parse(&bytes);
        let _ = Signed::<Certificate>::parse(&bytes);
        let _ = Signed::<Binding>::parse(&bytes);
        let _ = Signed::<Receipt>::parse(&bytes);
        let _ = Signed::<Record>::parse(&bytes);
    }
}
