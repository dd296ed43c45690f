//! Nodes and tokens that were taken back, at the registrar.

use skynet_core::member::document::Kind;

use super::*;

impl World {
    pub(crate) fn revoke(&mut self, epoch: u64, nodes: &[&Credentials], tokens: &[(&JoinToken, Extent)]) {
        let until = NOW.plus_secs(400 * DAY);
        let mut list = Revocations {
            network_id: self.manifest.network_id,
            epoch,
            issued: NOW,
            signer: self.root.identity(),
            nodes: nodes.iter().map(|c| RevokedNode { identity: c.node().identity(), until }).collect(),
            tokens: tokens
                .iter()
                .map(|(token, extent)| RevokedToken {
                    token_id: token.delegation().unverified().token_id,
                    extent: *extent,
                    since: NOW,
                    until,
                })
                .collect(),
        };
        list.nodes.sort_unstable();
        list.tokens.sort_unstable();
        let list = list.sign(&self.root).unwrap();
        assert_eq!(self.registrar.trust_mut().take(list.bytes()), Ok(Some(Kind::Revocations)));
        self.registrar.oust(&self.store, NOW).unwrap();
    }
}

#[test]
fn a_revoked_node_leaves_the_directory_with_its_claims_and_never_comes_back() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let (gone, stays) = (world.joined(&token, "web"), world.joined(&token, "db"));
    let number = gone.member(NOW).unwrap().node_no();
    world.revoke(1, &[&gone], &[]);
    for by in [GetBy::Identity(gone.node().identity()), GetBy::Name("web".parse().unwrap())] {
        assert_eq!(find(&world.store, &by).unwrap(), None, "{by:?}");
    }
    assert!(find(&world.store, &GetBy::Name("db".parse().unwrap())).unwrap().is_some());
    assert_eq!(find(&world.store, &GetBy::Key(session_key_of(&gone))).unwrap(), None);
    assert_eq!(code(world.join(gone.bundle(), NOW)), DenyCode::Revoked);
    assert!(world.join(stays.bundle(), NOW).is_ok());
    // Its name is free, and a stranger may have it.
    assert_eq!(world.joined(&token, "web").member(NOW).unwrap().name().as_str(), "web");
    let ousted = Ousted { identity: gone.node().identity(), node_no: number };
    assert_eq!(world.registrar.ousted(&world.store, NOW.plus_secs(14 * DAY)).unwrap(), [ousted]);
    assert_eq!(world.registrar.ousted(&world.store, NOW.plus_secs(16 * DAY)).unwrap(), []);
    assert_eq!(world.store.range("revoked/", None, 10).unwrap(), [], "and forgotten");
}

#[test]
fn a_token_revoked_for_new_ones_lets_nobody_in_and_throws_nobody_out() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let member = world.joined(&token, "web");
    world.revoke(1, &[], &[(&token, Extent::New)]);
    let stranger = world.enrolment(&token, "late");
    assert_eq!(code(world.join(stranger.bundle(), NOW)), DenyCode::Revoked, "though its clock says before");
    assert!(world.join(member.bundle(), NOW.plus_secs(8 * DAY)).is_err(), "its key binding is over");
    let mut member = member;
    member.renew_binding(None, NOW.plus_secs(8 * DAY)).unwrap();
    let renewed = world.join(member.bundle(), NOW.plus_secs(8 * DAY)).unwrap();
    assert!(!renewed.new, "a member of before goes on and gets its receipt anew");
}

#[test]
fn a_token_revoked_with_all_throws_its_nodes_out_and_no_others() {
    let mut world = World::new();
    let (stolen, good) = (world.token(|_| ()), world.token(|_| ()));
    // More than are read at once.
    let gone: Vec<_> = (0..300)
        .map(|n| {
            let mut enrolment = world.enrolment(&stolen, &format!("s-{n}"));
            let plan = loop {
                match world.join(enrolment.bundle(), NOW) {
                    Err(Refusal::AddressTaken) => enrolment.retry_with_salt().unwrap(),
                    plan => break plan.unwrap(),
                }
            };
            enrolment.complete(world.genesis.bytes(), world.manifest.bytes(), &plan.receipt, NOW).unwrap()
        })
        .collect();
    let stays = world.joined(&good, "good");
    world.revoke(1, &[], &[(&stolen, Extent::All)]);
    assert_eq!(world.registrar.ousted(&world.store, NOW).unwrap().len(), gone.len());
    assert_eq!(list(&world.store, 0, 64, usize::MAX).unwrap().0.len(), 1);
    assert!(gone.iter().all(|c| code(world.join(c.bundle(), NOW)) == DenyCode::Revoked));
    assert!(world.join(stays.bundle(), NOW).is_ok());
}

#[test]
fn going_through_a_list_again_costs_one_look_and_an_interrupted_pass_is_finished() {
    let mut world = World::new();
    let token = world.token(|_| ());
    let gone = world.joined(&token, "web");
    world.revoke(1, &[&gone], &[]);
    let revision = world.store.commit(Transaction::default()).unwrap().revision;
    world.registrar.oust(&world.store, NOW).unwrap();
    assert_eq!(world.store.commit(Transaction::default()).unwrap().revision, revision, "nothing was written");
    // As a crash before the last commit of a pass leaves it: the node is still, or again, there.
    let mut undo = Transaction::default();
    undo.delete("doc/8");
    undo.put(node_key(&gone.node().identity()), gone.bundle().encode());
    world.store.commit(undo).unwrap();
    world.registrar.oust(&world.store, NOW).unwrap();
    assert_eq!(find(&world.store, &GetBy::Identity(gone.node().identity())).unwrap(), None);
}

#[test]
fn a_registrar_says_every_hour_what_is_in_force_and_at_once_when_that_changes() {
    let mut world = World::new();
    let word = |world: &World| world.registrar.trust().freshness().unwrap().clone();
    world.registrar.confirm_documents(NOW);
    assert_eq!((word(&world).issued, word(&world).revocations), (NOW, 0));
    world.registrar.confirm_documents(NOW.plus_secs(3_599));
    assert_eq!(word(&world).issued, NOW);
    world.registrar.confirm_documents(NOW.plus_secs(3_600));
    assert_eq!(word(&world).issued, NOW.plus_secs(3_600));
    world.revoke(1, &[], &[]);
    // In the same second, and even if the clock went back.
    world.registrar.confirm_documents(NOW);
    assert_eq!((word(&world).issued, word(&world).revocations), (NOW.plus_secs(3_601), 1));
    let trust = world.registrar.trust().clone();
    let mut follower = Registrar::follower(trust);
    follower.confirm_documents(NOW.plus_secs(9_000));
    assert_eq!(
        follower.trust().freshness().unwrap().issued,
        NOW.plus_secs(3_601),
        "it has no word of its own"
    );
}
