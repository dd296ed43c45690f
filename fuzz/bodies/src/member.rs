//! Membership: documents, bundles, the chain of trust, tokens and credentials.

use data_encoding::BASE64URL_NOPAD;
use skynet_core::control::message::Lookup;
use skynet_core::crypto::hash;
use skynet_core::key::{Identity, SigningKey};
use skynet_core::member::document::{Content, Kind, kind_of};
use skynet_core::member::token::PREFIX;
use skynet_core::member::{
    Binding, Bundle, Certificate, Credentials, Delegation, Freshness, Genesis, JoinToken, Manifest, Member,
    Policy, Receipt, Record, Revocations, Signed,
};
use skynet_core::node::kept::{MAX_KEPT, Roster};
use skynet_core::time::UnixTime;
use skynet_relay::network::Invitation;

use crate::Input;
use crate::sample::{self, NOW};

/// Each kind of document. A first byte with bit 7: the rest is a body, put into a container of the kind in the low
/// four bits; without: the rest is a document.
pub fn document(bytes: &[u8]) -> bool {
    let Some((&mode, rest)) = bytes.split_first() else { return false };
    let bytes = if mode & 0x80 == 0 { rest.to_vec() } else { container(mode & 15, rest, &[0; 64]) };
    match kind_of(&bytes) {
        Some(Kind::Genesis) => check::<Genesis>(&bytes),
        Some(Kind::Manifest) => check::<Manifest>(&bytes),
        Some(Kind::Delegation) => check::<Delegation>(&bytes),
        Some(Kind::Certificate) => check::<Certificate>(&bytes),
        Some(Kind::Binding) => check::<Binding>(&bytes),
        Some(Kind::Receipt) => check::<Receipt>(&bytes),
        Some(Kind::Record) => check::<Record>(&bytes),
        Some(Kind::Revocations) => check::<Revocations>(&bytes),
        Some(Kind::Policy) => check::<Policy>(&bytes),
        Some(Kind::Freshness) => check::<Freshness>(&bytes),
        None => false,
    }
}

fn container(kind: u8, body: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    // A body too long for its field yields a container whose length is wrong, which is a case too.
    [&[kind, 1], &(body.len() as u16).to_be_bytes()[..], body, signature].concat()
}

/// What parses can be signed again and says the same; what a key of the sample network signed is a sample.
fn check<T: Content + PartialEq>(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::<T>::parse(bytes) else { return false };
    assert_eq!(signed.bytes(), bytes);
    let network = sample::network();
    let again = signed.unverified().sign(&network.root).expect("what parses is within the limits");
    assert!(*again == *signed.unverified(), "{:?} became {:?}", signed.unverified(), *again);
    let signer =
        [&network.root, &network.token_key, &network.registrar, &network.credentials.node().identity]
            [match T::KIND {
                Kind::Genesis | Kind::Manifest | Kind::Delegation | Kind::Revocations | Kind::Policy => 0,
                Kind::Certificate => 1,
                Kind::Receipt | Kind::Freshness => 2,
                Kind::Binding | Kind::Record => 3,
            }];
    if signed.is_signed_by(&signer.identity()) {
        let roots = [network.genesis.bytes(), network.manifest.bytes()];
        let issued = network.issued.iter().map(Vec::as_slice);
        let known: Vec<&[u8]> = roots.into_iter().chain(sample::documents()).chain(issued).collect();
        assert!(known.contains(&bytes), "a forged document");
    }
    true
}

/// Bundles as they come from a relay. Only the sample's documents make a member.
pub fn bundle(bytes: &[u8]) -> bool {
    let Ok(bundle) = Bundle::parse(bytes) else { return false };
    assert_eq!(bundle.encode(), bytes);
    let Ok(member) = sample::network().credentials.trust().verify_member(&bundle, NOW) else { return false };
    let samples = sample::documents();
    let parts = [bundle.delegation.bytes(), bundle.certificate.bytes(), bundle.binding.bytes()];
    assert_eq!(parts, samples[..3], "a forged member");
    assert_eq!(bundle.receipt.map(|d| d.bytes().to_vec()).as_deref(), Some(samples[3]), "a forged receipt");
    assert!(bundle.record.is_none_or(|d| d.bytes() == samples[4]), "a forged record");
    assert_eq!(member.bundle(), bytes);
    true
}

/// The rules behind the signatures: fields of the sample's documents are changed and signed again, by the right key
/// unless told otherwise. An edit is document, tag, operation, and a value behind its length.
pub fn chain(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let now = NOW.plus_secs(u64::from(input.short()) * 3600);
    let network = sample::network();
    let node = &network.credentials.node().identity;
    let right = [&network.root, &network.token_key, node, &network.registrar, node];
    let mut bodies = sample::documents().map(|d| Fields::read(&d[4..d.len() - 64]));
    let mut signers = [0, 1, 2, 3, 2];
    while !input.is_empty() {
        let (document, tag, operation) = (usize::from(input.byte()) % 5, input.byte(), input.byte());
        let value = input.slice();
        match operation % 4 {
            0 => bodies[document].set(tag, value),
            1 => bodies[document].remove(tag),
            2 => bodies[document].patch(tag, value),
            _ => signers[document] = usize::from(tag) % right.len(),
        }
    }
    let mut parts = Vec::new();
    for (i, fields) in bodies.iter().enumerate() {
        let kind = sample::documents()[i][0];
        parts.push(sign(kind, &fields.write(), right[signers[i]]));
    }
    let mut bundle = vec![5];
    bundle.extend(crate::slices(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let Ok(bundle) = Bundle::parse(&bundle) else { return false };
    let Ok(member) = network.credentials.trust().verify_member(&bundle, now) else { return false };
    let wrong = |i: usize| right[signers[i]].identity() != right[i].identity();
    assert!(!(0..5).any(wrong), "signed by the wrong key");
    holds(&member, &bundle, now);
    true
}

/// The rules of docs/PROTOCOL.md §3.2, said once more and otherwise.
fn holds(member: &Member, bundle: &Bundle, now: UnixTime) {
    let (d, c) = (bundle.delegation.unverified(), bundle.certificate.unverified());
    let (b, r) = (bundle.binding.unverified(), member.receipt());
    let network = sample::network();
    let ours = |id: &Identity| *id == network.credentials.node().identity();
    assert!(ours(&member.identity()) && ours(&b.identity) && ours(&r.identity));
    assert!(bundle.record.iter().all(|record| ours(&record.unverified().identity)));
    let id = network.credentials.trust().network_id();
    assert!([d.network_id, c.network_id, b.network_id, r.network_id].iter().all(|n| *n == id));
    assert_eq!(d.signer, network.root.identity());
    assert_eq!(r.registrar, network.registrar.identity());
    assert!(c.token_id == d.token_id && r.token_id == d.token_id);
    assert!(c.tags.is_subset(&d.tags) && c.ephemeral == d.ephemeral);
    assert!(d.names.as_ref().is_none_or(|pattern| pattern.matches(&c.name)));
    assert!(network.manifest.v4.covers(&d.pool) && d.pool.derive(&c.identity, c.salt) == Some(c.v4));
    assert_eq!((&r.name, r.v4, r.x25519), (&c.name, c.v4, b.x25519));
    assert!(c.not_before <= d.not_after);
    assert!(
        c.not_after.0.saturating_sub(c.not_before.0) <= u64::from(d.max_node_lifetime)
            || c.not_after < c.not_before
    );
    // Prolonged at most as far as receipt and token both say.
    let prolonged = r.certificate_until.unwrap_or_default().min(d.renew_until.unwrap_or_default());
    let certificate_end = c.not_after.max(prolonged);
    for (start, end) in
        [(c.not_before, certificate_end), (b.not_before, b.not_after), (r.issued, r.not_after)]
    {
        assert!(start.0 <= now.0.saturating_add(300) && now.0 <= end.0.saturating_add(300));
    }
}

fn sign(kind: u8, body: &[u8], key: &SigningKey) -> Vec<u8> {
    let unsigned = container(kind, body, &[0; 64]);
    let text = &unsigned[..unsigned.len() - 64];
    container(kind, body, &key.sign(&[b"skynet document 1", text].concat()))
}

/// The fields of a body, in order; what is written may well be out of it.
struct Fields(Vec<(u8, Vec<u8>)>);

impl Fields {
    fn read(body: &[u8]) -> Self {
        let mut rest = Input(body);
        let mut fields = Vec::new();
        while !rest.is_empty() {
            fields.push((rest.byte(), rest.slice().to_vec()));
        }
        Self(fields)
    }
    fn set(&mut self, tag: u8, value: &[u8]) {
        match self.0.iter_mut().find(|(t, _)| *t == tag) {
            Some((_, old)) => *old = value.to_vec(),
            None => {
                let at = self.0.partition_point(|(t, _)| t & 0x7f < tag & 0x7f);
                self.0.insert(at, (tag, value.to_vec()));
            }
        }
    }
    fn remove(&mut self, tag: u8) {
        self.0.retain(|(t, _)| *t != tag);
    }
    /// Writes over the end of a value: the low bytes of a number.
    fn patch(&mut self, tag: u8, value: &[u8]) {
        if let Some((_, old)) = self.0.iter_mut().find(|(t, _)| *t == tag) {
            let n = value.len().min(old.len());
            let at = old.len() - n;
            old[at..].copy_from_slice(&value[..n]);
        }
    }
    fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in &self.0 {
            out.push(*tag);
            out.extend(crate::slices(&[value]));
        }
        out
    }
}

/// Join tokens. First byte 0: text; else bytes, given a right check value and turned into text.
pub fn token(bytes: &[u8]) -> bool {
    let Some((&mode, rest)) = bytes.split_first() else { return false };
    let text = if mode == 0 {
        String::from_utf8_lossy(rest).into_owned()
    } else {
        let check = &hash(&[b"skynet token 1", rest])[..8];
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&[rest, check].concat()))
    };
    let Ok(token) = JoinToken::parse(&text) else { return false };
    assert_eq!(*token.encode(), text.trim(), "two texts for one token");
    assert!(token.relays().len() <= skynet_core::member::token::MAX_TOKEN_RELAYS);
    let _ = (token.check_expiry(NOW), token.check_network(&sample::network().token.root_pin()));
    true
}

/// The invitation of a relay. First byte 0: text; else the inside of one, given its check value.
pub fn invitation(bytes: &[u8]) -> bool {
    let Some((&mode, rest)) = bytes.split_first() else { return false };
    let text = if mode == 0 {
        String::from_utf8_lossy(rest).into_owned()
    } else {
        let check = &hash(&[b"skynet invitation 1", rest])[..8];
        format!("ski1.{}", BASE64URL_NOPAD.encode(&[rest, check].concat()))
    };
    let Ok(invitation) = Invitation::parse(&text) else { return false };
    assert_eq!(*invitation.encode(), text.trim(), "two texts for one invitation");
    let listed = invitation.trust.manifest().relay(invitation.relay_no);
    assert!(listed.is_some_and(|relay| relay.key == invitation.relay_key.public()));
    true
}

/// Members that a node kept for times without relays.
pub fn kept_members(bytes: &[u8]) -> bool {
    let pin = sample::network().credentials.trust().root_pin();
    let roster = Roster::decode(bytes, &pin);
    assert!(roster.len() <= MAX_KEPT);
    for document in [&sample::network().other, sample::network().credentials.bundle()] {
        let identity = document.certificate.unverified().identity;
        let found = roster.find(&Lookup::Identity(identity));
        assert!(found.is_none_or(|bundle| Bundle::parse(bundle).is_ok()));
    }
    !roster.is_empty()
}

/// What a node keeps. First byte 0: a file; else the inside of one, given magic, version and check value.
pub fn credentials(bytes: &[u8]) -> bool {
    let Some((&mode, rest)) = bytes.split_first() else { return false };
    let mut file = rest.to_vec();
    if mode != 0 {
        file = [b"skynet credentials", &[1][..], rest].concat();
        file.extend(hash(&[b"skynet credentials 1", &file]));
    }
    let Ok(credentials) = Credentials::decode(&file) else { return false };
    let again = credentials.encode();
    let decoded = Credentials::decode(&again).expect("what is encoded decodes");
    assert_eq!(*decoded.encode(), *again);
    let _ = credentials.member(NOW);
    true
}
