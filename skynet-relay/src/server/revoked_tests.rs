//! Holders of good tickets that were revoked.

use skynet_core::key::Identity;

use super::*;
use crate::server::Revoked;

fn revoked(nodes: &[(u8, u32)]) -> Arc<Revoked> {
    Arc::new(Revoked::new(NET_A, nodes.iter().map(|(n, node_no)| (Identity([*n; 32]), *node_no))))
}

fn node(identity: u8, node_no: u32, from: &'static str) -> Node {
    let identity_hash = Ticket::hash_identity(&Identity([identity; 32]));
    Node::of(&Ticket { identity_hash, ..ticket(NET_A, node_no) }, from)
}

#[test]
fn a_revoked_node_is_cut_off_at_once_and_binds_no_more() {
    let mut w = World::new();
    let (a, b) = (node(1, 1, "192.0.2.1:1000"), node(2, 2, "192.0.2.2:1000"));
    let (gen_a, gen_b) = (a.bind(&mut w).gen_no, b.bind(&mut w).gen_no);
    assert_eq!(w.send(a.from, &data(gen_a, 2, 0, b"12345678")).unwrap().0, addr(b.from));
    w.relay.set_revoked(revoked(&[(1, 1)]));
    let (to, bytes) = w.send(a.from, &data(gen_a, 2, 0, b"12345678")).unwrap();
    assert_eq!((to, nack(&bytes)), (addr(a.from), NackCode::Rebind as u8), "from it nothing goes");
    let (to, bytes) = w.send(b.from, &data(gen_b, 1, 0, b"12345678")).unwrap();
    assert_eq!((to, nack(&bytes)), (addr(b.from), NackCode::NoSuchPeer as u8), "to it neither");
    w.pass(1_000);
    assert_eq!(w.send(a.from, &a.hello(w.ms())).unwrap_err(), DropReason::Revoked);
    assert_eq!(w.send(a.from, &a.bind_frame(w.ms(), [0; 16])).unwrap_err(), DropReason::Revoked);
    assert_eq!(w.drops(DropReason::Revoked), 2);
}

#[test]
fn the_number_of_a_revoked_node_may_be_anothers_later() {
    let mut w = World::new();
    w.relay.set_revoked(revoked(&[(1, 1)]));
    let heir = node(3, 1, "192.0.2.3:1000");
    let gen_no = heir.bind(&mut w).gen_no;
    // The list is said again, and grows: who has the number now is not meant.
    w.relay.set_revoked(revoked(&[(1, 1), (9, 9)]));
    node(2, 2, "192.0.2.2:1000").bind(&mut w);
    assert!(
        w.send(heir.from, &data(gen_no, 2, 0, b"12345678")).is_ok_and(|(to, _)| to == addr("192.0.2.2:1000"))
    );
}
