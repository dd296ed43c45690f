//! The registrar over both stores: admission, races, authorisation.

use std::time::{Duration, Instant};

use skynet_core::key::{PublicKey, SigningKey};
use skynet_core::member::document::Content as _;
use skynet_core::member::*;
use skynet_core::rng::Rng;
use skynet_core::time::UnixTime;

use super::*;
use crate::store::{MemoryStore, RedbStore};

#[path = "revoke_tests.rs"]
mod revoke;

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);
const DAY: u64 = 86_400;

pub(crate) struct World {
    pub(crate) root: SigningKey,
    pub(crate) genesis: Verified<Genesis>,
    pub(crate) manifest: Verified<Manifest>,
    pub(crate) registrar: Registrar,
    pub(crate) store: MemoryStore,
    pub(crate) rng: Rng,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut rng = Rng::from_seed([1; 32]);
        let root = SigningKey::random(&mut rng);
        let key = SigningKey::random(&mut rng);
        let genesis = Genesis { root: root.identity(), nonce: [1; 16], created: NOW, name: "t".into() };
        let genesis = genesis.sign(&root).unwrap();
        let manifest = Manifest {
            network_id: genesis.root_pin().network_id(),
            epoch: 1,
            issued: NOW,
            next_update: NOW.plus_secs(DAY),
            v4: "10.7.0.0/16".parse().unwrap(),
            registrars: vec![key.identity()],
            issuers: vec![],
            relays: vec![],
        };
        let manifest = manifest.sign(&root).unwrap();
        let trust = NetworkTrust::new(genesis.root_pin(), genesis.bytes(), manifest.bytes()).unwrap();
        Self {
            root,
            genesis,
            manifest,
            registrar: Registrar::new(key, trust),
            store: MemoryStore::new(),
            rng,
        }
    }

    pub(crate) fn token(&mut self, change: impl FnOnce(&mut Delegation)) -> JoinToken {
        let key = SigningKey::random(&mut self.rng);
        let mut delegation = Delegation {
            network_id: self.genesis.root_pin().network_id(),
            token_id: TokenId(self.rng.array()),
            token_key: key.identity(),
            signer: self.root.identity(),
            not_after: NOW.plus_secs(DAY),
            renew_until: None,
            max_node_lifetime: 365 * DAY as u32,
            max_uses: 0,
            ephemeral: false,
            tags: Tags::default(),
            pool: self.manifest.v4,
            names: None,
        };
        change(&mut delegation);
        let delegation = delegation.sign(&self.root).unwrap().into_signed();
        JoinToken::new(self.genesis.root_pin(), key.seed(), vec![], delegation)
    }

    pub(crate) fn enrolment(&mut self, token: &JoinToken, name: &str) -> Enrolment {
        let node = NodeIdentity::random(None, &mut self.rng);
        Enrolment::new(token.clone(), node, name.parse().unwrap(), NOW, &mut self.rng).unwrap()
    }

    fn join(&self, bundle: &Bundle, now: UnixTime) -> Result<JoinPlan, Refusal> {
        let proven = bundle.binding.unverified().x25519;
        self.registrar.join(&bundle.encode(), &proven, &self.store, now)
    }

    /// Joins a new node and yields what it keeps.
    pub(crate) fn joined(&mut self, token: &JoinToken, name: &str) -> Credentials {
        let enrolment = self.enrolment(token, name);
        let plan = self.join(enrolment.bundle(), NOW).unwrap();
        enrolment.complete(self.genesis.bytes(), self.manifest.bytes(), &plan.receipt, NOW).unwrap()
    }
}

fn code<T>(result: Result<T, Refusal>) -> DenyCode {
    match result {
        Err(Refusal::Denied { code, .. }) => code,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

fn session_key_of(credentials: &Credentials) -> PublicKey {
    credentials.node().static_secret.public()
}

#[test]
fn a_node_joins_is_found_updates_and_leaves() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let mut node = world.joined(&token, "web");
    let member = node.member(NOW).unwrap();
    let proven = session_key_of(&node);
    let by_all = [
        GetBy::Key(member.x25519()),
        GetBy::Identity(member.identity()),
        GetBy::Name(member.name().clone()),
        GetBy::V4(member.v4()),
        GetBy::V6(member.v6()),
    ];
    for by in &by_all {
        assert_eq!(find(&world.store, by).unwrap().as_deref(), Some(member.bundle()), "{by:?}");
    }

    let endpoint = Endpoint { kind: 0, address: "192.0.2.5:1".parse().unwrap() };
    let record = node.sign_record(vec![endpoint], vec![], NOW).unwrap().clone();
    let version = world.registrar.update(record.bytes(), &proven, &world.store).unwrap();
    assert_eq!(version, record.unverified().version);
    let found = find(&world.store, &by_all[0]).unwrap().unwrap();
    let seen = world.registrar.trust().verify_member(&Bundle::parse(&found).unwrap(), NOW).unwrap();
    assert_eq!(seen.endpoints(), [endpoint]);

    world.registrar.leave(&proven, &world.store).unwrap();
    for by in &by_all {
        assert_eq!(find(&world.store, by).unwrap(), None);
    }
    assert_eq!(world.store.range("", None, 10).unwrap().len(), 1, "only the token's count is left");
    assert_eq!(code(world.registrar.leave(&proven, &world.store)), DenyCode::NotJoined);
}

#[test]
fn a_lower_record_changes_nothing_and_is_answered_with_the_version_there_is() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let mut node = world.joined(&token, "web");
    let proven = session_key_of(&node);
    let old = node.sign_record(vec![], vec![], NOW).unwrap().clone();
    let new = node.sign_record(vec![], vec![], NOW).unwrap().clone();
    let update = |record: &Signed<Record>| world.registrar.update(record.bytes(), &proven, &world.store);
    let version = new.unverified().version;
    assert_eq!(update(&new), Ok(version));
    let before = world.store.range("", None, 100).unwrap();
    assert_eq!(update(&old), Ok(version));
    assert_eq!(update(&new), Ok(version));
    assert_eq!(world.store.range("", None, 100).unwrap(), before);
}

#[test]
fn a_second_join_keeps_address_receipt_and_use_count() {
    let mut world = World::new();
    let token = world.token(|d| d.max_uses = 1);
    let mut node = world.joined(&token, "web");
    let first = node.member(NOW).unwrap();
    let again = world.join(node.bundle(), NOW.plus_secs(DAY)).unwrap();
    assert!(!again.new && again.transaction.is_empty());
    assert_eq!(again.receipt, node.bundle().receipt.as_ref().unwrap().bytes());

    // After the token's end, with a renewed binding and past half of the receipt's life.
    let later = NOW.plus_secs(8 * DAY);
    node.renew_binding(None, later).unwrap();
    let renewed = world.join(node.bundle(), later).unwrap();
    assert!(!renewed.new);
    node.accept_receipt(&renewed.receipt, later).unwrap();
    let second = node.member(later).unwrap();
    assert_eq!((second.v4(), second.name()), (first.v4(), first.name()));
    assert_eq!((second.receipt().use_number, second.receipt().issued), (1, later));

    // A month off: the receipt is over, the directory still knows the node.
    let month = NOW.plus_secs(40 * DAY);
    node.renew_binding(None, month).unwrap();
    assert!(world.join(node.bundle(), month).is_ok());
}

#[test]
fn a_certificate_is_prolonged_from_half_of_its_life_on_as_far_as_its_token_lets_it() {
    const YEAR: u64 = 365 * DAY;
    let mut world = World::new();
    let token = world.token(|d| d.renew_until = Some(NOW.plus_secs(3 * YEAR)));
    let mut node = world.joined(&token, "web");
    let mut at = |world: &World, years_tenths: u64| {
        let now = NOW.plus_secs(YEAR / 10 * years_tenths);
        node.renew_binding(None, now).unwrap();
        let plan = world.join(node.bundle(), now)?;
        assert!(!plan.new);
        node.accept_receipt(&plan.receipt, now).unwrap();
        let member = node.member(now).unwrap();
        Ok::<_, Refusal>((member.candidate().certificate_end(member.receipt()).0 - NOW.0) * 10 / YEAR)
    };
    assert_eq!(at(&world, 4), Ok(10), "not yet");
    assert_eq!(at(&world, 6), Ok(16));
    assert_eq!(at(&world, 14), Ok(24));
    // Off for two of its lives, and in the directory: it gets back in, for as long as the issuer said.
    assert_eq!(at(&world, 29), Ok(30));
    let late = at(&world, 31).unwrap_err();
    assert!(matches!(late, Refusal::Denied { code: DenyCode::Expired, .. }), "{late}");

    // Whom the directory has forgotten needs a receipt that is valid, or a token that is.
    let mut other = world.joined(&token, "other");
    world.store = MemoryStore::new();
    let now = NOW.plus_secs(YEAR / 10 * 15);
    other.renew_binding(None, now).unwrap();
    assert_eq!(code(world.join(other.bundle(), now)), DenyCode::Expired);
}

#[test]
fn a_follower_lets_a_node_in_that_missed_the_answer_about_its_new_key() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let mut node = world.joined(&token, "web");
    let (follower, store) = (follower(&world), MemoryStore::new());
    let later = NOW.plus_secs(4 * DAY);
    node.prepare_key(7 * DAY, later, &mut world.rng).unwrap();
    let (next, key) = (node.next_bundle().unwrap(), node.next_key().unwrap().public());
    assert_eq!(code(follower.join(&next.encode(), &key, &store, later)), DenyCode::TryLater, "not yet");
    let plan = world.join(&next, later).unwrap();
    follower.learn(&plan.bundle, &store, later).unwrap();
    let old = node.bundle().encode();
    assert_eq!(code(follower.join(&old, &session_key_of(&node), &store, later)), DenyCode::NotProven);
    let let_in = follower.join(&next.encode(), &key, &store, later).unwrap();
    node.adopt_key(&let_in.receipt, 3 * DAY, later).unwrap();
    assert_eq!(session_key_of(&node), key);
}

#[test]
fn a_node_comes_back_with_its_receipt_when_the_directory_forgot_it() {
    let mut world = World::new();
    let token = world.token(|d| d.max_uses = 1);
    let node = world.joined(&token, "web");
    world.store = MemoryStore::new();
    let plan = world.join(node.bundle(), NOW.plus_secs(2 * DAY)).unwrap();
    assert!(!plan.new, "the token has expired and was good for one node, and this is that node");
    let other = world.enrolment(&token, "other");
    assert_eq!(code(world.join(other.bundle(), NOW)), DenyCode::UsedUp, "its use is counted again");
}

#[test]
fn an_expired_token_admits_no_new_node() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let late = world.enrolment(&token, "late");
    assert_eq!(code(world.join(late.bundle(), NOW.plus_secs(DAY + 1))), DenyCode::Expired);
    assert!(world.store.range("", None, 10).unwrap().is_empty(), "nothing was written");
}

#[test]
fn two_nodes_of_one_address_or_name_conflict_and_the_second_finds_another() {
    let mut world = World::new();
    let token = world.token(|d| d.pool = "10.7.9.0/30".parse().unwrap());
    world.joined(&token, "web");
    // Two addresses in the pool: try nodes until one derives the taken one.
    let mut second = loop {
        let candidate = world.enrolment(&token, "web");
        if world.join(candidate.bundle(), NOW).unwrap_err() == Refusal::AddressTaken {
            break candidate;
        }
    };
    let mut refusals = Vec::new();
    while let Err(refusal) = world.join(second.bundle(), NOW) {
        match refusal {
            Refusal::AddressTaken => second.retry_with_salt().unwrap(),
            Refusal::NameTaken => second.retry_with_suffix().unwrap(),
            other => panic!("{other}"),
        }
        refusals.push(refusal);
    }
    assert!(refusals.contains(&Refusal::NameTaken));
    assert_eq!(second.name().as_str(), "web-2");
    let (members, more) = list(&world.store, 0, 10, 16_384).unwrap();
    assert_eq!(members.iter().map(|m| m.0 & 3).collect::<Vec<_>>(), [1, 2]);
    assert!(!more);
}

#[test]
fn a_node_that_takes_another_name_gives_up_the_old_one() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let mut enrolment = world.enrolment(&token, "old");
    world.join(enrolment.bundle(), NOW).unwrap();
    enrolment.with_name("new".parse().unwrap()).unwrap();
    let plan = world.join(enrolment.bundle(), NOW).unwrap();
    assert!(!plan.new);
    assert!(enrolment.complete(world.genesis.bytes(), world.manifest.bytes(), &plan.receipt, NOW).is_ok());
    let names = world.store.range("name/", None, 10).unwrap();
    assert_eq!(names.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["name/new"]);
}

#[test]
fn an_older_key_binding_is_refused() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let mut node = world.joined(&token, "web");
    let old = node.bundle().clone();
    node.renew_binding(None, NOW.plus_secs(10)).unwrap();
    world.join(node.bundle(), NOW.plus_secs(10)).unwrap();
    assert_eq!(code(world.join(&old, NOW.plus_secs(10))), DenyCode::NotProven);
}

#[test]
fn what_a_request_touches_belongs_to_the_proven_key() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let mut node = world.joined(&token, "web");
    let other = session_key_of(&world.joined(&token, "other"));
    let own = session_key_of(&node);
    let stranger = PublicKey([0x77; 32]);
    let record = node.sign_record(vec![], vec![], NOW).unwrap().bytes().to_vec();
    let bundle = node.bundle().encode();
    for (key, update, join) in [(&stranger, false, false), (&other, false, false), (&own, true, true)] {
        assert_eq!(world.registrar.update(&record, key, &world.store).is_ok(), update);
        assert_eq!(world.registrar.join(&bundle, key, &world.store, NOW).is_ok(), join);
    }
    assert_eq!(code(world.registrar.leave(&stranger, &world.store)), DenyCode::NotJoined);
    world.registrar.leave(&other, &world.store).unwrap();
    assert!(find(&world.store, &GetBy::Key(own)).unwrap().is_some(), "leaving took only the one who left");
    assert_eq!(find(&world.store, &GetBy::Key(other)).unwrap(), None);
}

#[test]
fn a_session_key_of_another_node_cannot_be_claimed() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let victim = world.joined(&token, "victim");
    let mut node = NodeIdentity::random(None, &mut world.rng);
    node.static_secret = victim.node().static_secret.clone();
    let thief = Enrolment::new(token, node, "thief".parse().unwrap(), NOW, &mut world.rng).unwrap();
    assert_eq!(code(world.join(thief.bundle(), NOW)), DenyCode::NotProven);
}

#[test]
fn malformed_foreign_and_forged_bundles_have_their_codes() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let enrolment = world.enrolment(&token, "web");
    let bytes = enrolment.bundle().encode();
    let proven = enrolment.node().static_secret.public();
    let join = |bytes: &[u8]| world.registrar.join(bytes, &proven, &world.store, NOW);
    assert_eq!(code(join(&bytes[..bytes.len() - 1])), DenyCode::Malformed);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(join(&damaged).is_err());
    }
    let mut foreign = World::new();
    foreign.root = SigningKey::from_seed(&[8; 32]);
    let token = foreign.token(|_| ());
    let stranger = foreign.enrolment(&token, "web");
    assert_eq!(code(world.join(stranger.bundle(), NOW)), DenyCode::ForeignNetwork);
    assert!(world.store.range("", None, 10).unwrap().is_empty());
}

#[test]
fn a_published_manifest_is_never_replaced_by_an_older_one() {
    let mut world = World::new();
    let old = world.registrar.clone();
    let newer = Manifest { epoch: 2, ..Manifest::clone(&world.manifest) }.sign(&world.root).unwrap();
    world.registrar.trust_mut().update_manifest(newer.bytes()).unwrap();
    for registrar in [&old, &world.registrar, &old] {
        registrar.publish(&world.store).unwrap();
    }
    assert_eq!(world.store.get("doc/2").unwrap().unwrap().value, newer.bytes());
    assert_eq!(world.store.get("doc/1").unwrap().unwrap().value, world.genesis.bytes());
}

#[test]
fn a_list_goes_on_where_it_ended() {
    let mut world = World::new();
    let token = world.token(|_| ());
    for n in 0..7 {
        world.joined(&token, &format!("n{n}"));
    }
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let (page, more) = list(&world.store, after, 3, 16_000).unwrap();
        seen.extend(page.iter().map(|(node_no, _)| *node_no));
        after = *seen.last().unwrap();
        if !more {
            break;
        }
        assert_eq!(page.len(), 3);
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted());
    let (page, more) = list(&world.store, 0, 10, 1).unwrap();
    assert_eq!((page.len(), more), (1, true), "one even if it is larger than asked for");
}

#[test]
fn get_bodies_parse_or_are_refused() {
    assert_eq!(GetBy::parse(&[4, 10, 0, 0, 1]), Some(GetBy::V4("10.0.0.1".parse().unwrap())));
    assert_eq!(GetBy::parse(b"\x03web"), Some(GetBy::Name("web".parse().unwrap())));
    for bad in [&b""[..], &[4], &[4, 1, 2, 3], &[4, 1, 2, 3, 4, 5], b"\x03We", &[5, 1], &[1; 32], &[6; 16]] {
        assert_eq!(GetBy::parse(bad), None, "{bad:?}");
    }
}

/// T6: so many rounds at least and as many as fit in the time, each with 100 nodes at once on a token that is good for one.
fn one_time_token_rounds(store: impl Fn() -> Box<dyn Store>, least: u32, time: Duration) -> u32 {
    let mut world = World::new();
    #[expect(clippy::disallowed_methods, reason = "a budget for a test with real threads")]
    let clock = Instant::now;
    let (start, mut rounds) = (clock(), 0);
    let store = store();
    while rounds < least || clock() - start < time {
        let token = world.token(|d| d.max_uses = 1);
        let contenders: Vec<Enrolment> =
            (0..100).map(|n| world.enrolment(&token, &format!("r{rounds}-n{n}"))).collect();
        let registrar = &world.registrar;
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = contenders
                .iter()
                .map(|enrolment| {
                    let (bundle, proven) =
                        (enrolment.bundle().encode(), enrolment.node().static_secret.public());
                    let store = &*store;
                    scope.spawn(move || registrar.join(&bundle, &proven, store, NOW))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let admitted = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(admitted, 1, "round {rounds}");
        for result in results.into_iter().filter(|r| r.is_err()) {
            let denied = result.unwrap_err();
            // An address may also be taken by the winner of an earlier round.
            assert!(
                matches!(denied, Refusal::AddressTaken | Refusal::Denied { code: DenyCode::UsedUp, .. }),
                "{denied}"
            );
        }
        rounds += 1;
    }
    rounds
}

#[test]
fn of_a_hundred_joins_at_once_with_a_one_time_token_one_succeeds() {
    let rounds = one_time_token_rounds(|| Box::new(MemoryStore::new()), 1, Duration::from_secs(4));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("directory.redb");
    let on_disk = one_time_token_rounds(
        || Box::new(RedbStore::open(&path).unwrap()) as Box<dyn Store>,
        1,
        Duration::from_secs(1),
    );
    println!("{rounds} rounds in memory, {on_disk} on disk, 100 nodes each: one success each");
}

#[test]
#[ignore = "for ./x soak: a thousand rounds on each store, a minute or two"]
fn of_a_hundred_joins_at_once_one_succeeds_a_thousand_times() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("directory.redb");
    for on_disk in [false, true] {
        let store = || match on_disk {
            false => Box::new(MemoryStore::new()) as Box<dyn Store>,
            true => Box::new(RedbStore::open(&path).unwrap()),
        };
        assert_eq!(one_time_token_rounds(store, 1_000, Duration::ZERO), 1_000);
    }
}

/// A directory without a registrar, of the same network.
fn follower(world: &World) -> Registrar {
    Registrar::follower(world.registrar.trust().clone())
}

#[test]
fn a_relay_without_a_registrar_lets_in_whom_the_registrar_admitted_and_nobody_else() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let node = world.joined(&token, "web");
    let (follower, store) = (follower(&world), MemoryStore::new());
    let bundle = node.bundle().encode();
    let proven = session_key_of(&node);
    let plan = follower.join(&bundle, &proven, &store, NOW).unwrap();
    assert_eq!((plan.bundle, plan.new), (bundle.clone(), false));
    assert!(!plan.receipt.is_empty());
    assert!(find(&store, &GetBy::Key(proven)).unwrap().is_some());
    assert_eq!(find(&store, &GetBy::V4(node.member(NOW).unwrap().v4())).unwrap(), Some(bundle.clone()));

    let other = world.enrolment(&token, "new");
    let key = other.node().static_secret.public();
    let refused = follower.join(&other.bundle().encode(), &key, &store, NOW);
    assert_eq!(code(refused), DenyCode::TryLater, "no receipt");
    assert_eq!(code(follower.join(&bundle, &key, &store, NOW)), DenyCode::NotProven);
    assert_eq!(code(follower.leave(&proven, &store)), DenyCode::TryLater);
    let late = NOW.plus_secs(RECEIPT_LIFETIME + DAY);
    assert_eq!(code(follower.join(&bundle, &proven, &store, late)), DenyCode::Expired);
}

#[test]
fn a_follower_keeps_the_newest_and_gives_an_address_to_whom_it_was_given_last() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let old = world.joined(&token, "web");
    let (follower, store) = (follower(&world), MemoryStore::new());
    follower.learn(&old.bundle().encode(), &store, NOW).unwrap();

    // It learns a newer record, and the old one does not come back.
    let mut newer = old.clone();
    newer.sign_record(vec![], vec![], NOW).unwrap();
    follower.learn(&newer.bundle().encode(), &store, NOW).unwrap();
    follower.learn(&old.bundle().encode(), &store, NOW).unwrap();
    let key = session_key_of(&old);
    assert_eq!(find(&store, &GetBy::Key(key)).unwrap(), Some(newer.bundle().encode()));

    // The node leaves, and its name goes to another; the follower has not heard that it left.
    world.registrar.leave(&key, &world.store).unwrap();
    let later = NOW.plus_secs(60);
    let enrolment = world.enrolment(&token, "web");
    let plan = world.join(enrolment.bundle(), later).unwrap();
    let heir =
        enrolment.complete(world.genesis.bytes(), world.manifest.bytes(), &plan.receipt, later).unwrap();
    follower.learn(&heir.bundle().encode(), &store, later).unwrap();
    let found = find(&store, &GetBy::Name("web".parse().unwrap())).unwrap();
    assert_eq!(found, Some(heir.bundle().encode()));
    assert_eq!(find(&store, &GetBy::Key(key)).unwrap(), None, "nothing is left of who had it before");
    assert_eq!(code(follower.join(&old.bundle().encode(), &key, &store, later)), DenyCode::NotProven);
}

#[test]
fn a_follower_gives_name_and_address_of_one_node_to_its_heir() {
    let mut world = World::new();
    let place = world.token(|d| d.pool = "10.7.0.9/32".parse().unwrap());
    let first = world.joined(&place, "db");
    let (follower, store) = (follower(&world), MemoryStore::new());
    follower.learn(&first.bundle().encode(), &store, NOW).unwrap();
    world.registrar.leave(&session_key_of(&first), &world.store).unwrap();
    let later = NOW.plus_secs(60);
    let enrolment = world.enrolment(&place, "db");
    let plan = world.join(enrolment.bundle(), later).unwrap();
    let heir =
        enrolment.complete(world.genesis.bytes(), world.manifest.bytes(), &plan.receipt, later).unwrap();
    follower.learn(&heir.bundle().encode(), &store, later).unwrap();
    for by in [GetBy::V4("10.7.0.9".parse().unwrap()), GetBy::Name("db".parse().unwrap())] {
        assert_eq!(find(&store, &by).unwrap(), Some(heir.bundle().encode()), "{by:?}");
    }
}
