//! A relay with several addresses, and a node that moves between its own.

use super::*;

/// Another address of the relay's host.
const RELAY_B: Local = Local(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 11)));

impl World {
    /// Has `from` send DATA to node `to` at `at`; from where and to where it is forwarded.
    fn forward(
        &mut self,
        at: Local,
        from: &str,
        gen_no: u16,
        (to, lane): (u32, u8),
    ) -> Option<(Local, SocketAddr)> {
        let mut buffer = data(gen_no, to, lane, b"data");
        match self.relay.handle_datagram(at, addr(from), &mut buffer, self.now) {
            Action::Forward { local, to } => Some((local, to)),
            _ => None,
        }
    }
}

#[test]
fn what_is_forwarded_leaves_from_where_the_recipient_bound() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let gen_a = a.bind(&mut w).gen_no;
    w.asked = RELAY_B;
    let gen_b = b.bind(&mut w).gen_no;
    for at in [RELAY_A, RELAY_B] {
        // Where the sender sends to says nothing about what the recipient's NAT lets in.
        assert_eq!(w.forward(at, a.from, gen_a, (2, 0)), Some((RELAY_B, addr(b.from))));
        assert_eq!(w.forward(at, b.from, gen_b, (1, 0)), Some((RELAY_A, addr(a.from))));
    }
}

#[test]
fn a_bind_at_another_address_of_the_relay_moves_the_session_there() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let b1 = Node { lane: 1, from: "192.0.2.2:1001", ..b.clone() };
    let (gen_a, gen_b) = (a.bind(&mut w).gen_no, b.bind(&mut w).gen_no);
    b1.bind(&mut w);
    w.asked = RELAY_B;
    // Neither a HELLO, nor a KEEP, nor a BIND that is refused is a proof that the way from there is open.
    let cookie = b.cookie(&mut w);
    w.send(b.from, &Keep { flags: 0, gen_no: gen_b, t: 5 }.encode()).unwrap();
    w.send(b.from, &b.bind_frame(w.ms(), [0; 16])).unwrap();
    assert_eq!(w.forward(RELAY_A, a.from, gen_a, (2, 0)), Some((RELAY_A, addr(b.from))));
    w.pass(1);
    assert_eq!(b.bind_with(&mut w, cookie).gen_no, gen_b, "the same address keeps its number");
    assert_eq!(w.forward(RELAY_A, a.from, gen_a, (2, 0)), Some((RELAY_B, addr(b.from))));
    assert_eq!(
        w.forward(RELAY_A, a.from, gen_a, (2, 1)),
        Some((RELAY_A, addr(b1.from))),
        "each lane its own"
    );
    w.asked = RELAY_A;
    let replayed = b.bind_frame(w.ms(), cookie);
    assert_eq!(w.send(b.from, &replayed), Err(DropReason::Replay));
    assert_eq!(w.forward(RELAY_A, a.from, gen_a, (2, 0)), Some((RELAY_B, addr(b.from))));
}

#[test]
fn a_roaming_node_is_reached_at_its_new_address_and_its_old_one_is_soon_forgotten() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (gen_a, gen_b) = (a.bind(&mut w).gen_no, b.bind(&mut w).gen_no);
    w.pass(10);
    let moved = Node { from: "198.51.100.1:7", ..a.clone() };
    let new_gen = moved.bind(&mut w).gen_no;
    assert_ne!(new_gen, gen_a);
    assert_eq!(w.send(b.from, &data(gen_b, 1, 0, b"data")).unwrap().0, addr(moved.from));
    // What was on its way from there is still sent on, under the number it has; nothing prolongs that.
    assert_eq!(w.send(a.from, &data(gen_a, 2, 0, b"data")).unwrap().0, addr(b.from));
    assert_eq!(nack(&w.send(a.from, &data(new_gen, 2, 0, b"data")).unwrap().1), 1);
    assert_eq!(nack(&w.send(a.from, &Keep { flags: 0, gen_no: gen_a, t: 1 }.encode()).unwrap().1), 1);
    w.pass(1_900);
    assert_eq!(w.send(a.from, &data(gen_a, 2, 0, b"data")).unwrap().0, addr(b.from));
    w.pass(100);
    assert_eq!(nack(&w.send(a.from, &data(gen_a, 2, 0, b"data")).unwrap().1), 1);
    assert_eq!(w.send(moved.from, &data(new_gen, 2, 0, b"data")).unwrap().0, addr(b.from));
    assert_eq!(w.relay.sessions(), 2);
    // Back within the two seconds: the old address is the new one.
    let back = a.bind(&mut w).gen_no;
    assert_eq!(w.send(moved.from, &data(new_gen, 2, 0, b"data")).unwrap().0, addr(b.from));
    assert_eq!(w.send(a.from, &data(back, 2, 0, b"data")).unwrap().0, addr(b.from));
    assert_eq!(w.send(b.from, &data(gen_b, 1, 0, b"data")).unwrap().0, addr(a.from));
    let again = moved.bind(&mut w).gen_no;
    w.pass(5_000);
    w.relay.handle_timeout(w.now.mono);
    assert_eq!(w.send(moved.from, &data(again, 2, 0, b"data")).unwrap().0, addr(b.from));
    assert_eq!(w.send(b.from, &data(gen_b, 1, 0, b"data")).unwrap().0, addr(moved.from));
    assert_eq!(w.relay.sessions(), 2);
}
