use super::*;

#[test]
fn a_relay_that_drains_serves_who_is_bound_and_binds_nobody() {
    let mut w = World::new();
    let (a, b) = (Node::new(NET_A, 1, "192.0.2.1:1000"), Node::new(NET_A, 2, "192.0.2.2:1000"));
    let (bound_a, bound_b) = (a.bind(&mut w), b.bind(&mut w));
    let keep = |w: &mut World| {
        let frame = Keep { flags: 0, gen_no: bound_a.gen_no, t: 9 }.encode();
        let Ok(Frame::Keep(echo)) = Frame::parse(&w.send(a.from, &frame).unwrap().1) else {
            panic!("no echo")
        };
        assert_eq!(echo.t, 9);
        echo.flags
    };
    assert_eq!(keep(&mut w), relay::KEEP_ECHO);
    w.relay.set_draining(true);
    assert_eq!(keep(&mut w), relay::KEEP_ECHO | relay::KEEP_DRAINING);
    let echo = Keep { flags: relay::KEEP_ECHO, gen_no: bound_a.gen_no, t: 9 }.encode();
    assert_eq!(w.send(a.from, &echo), Err(DropReason::WrongDirection), "an echo of an echo");
    let data = [&DataHeader::new(Class::Bulk, 0, bound_a.gen_no, 2).encode()[..], b"x"].concat();
    let (to, bytes) = w.send(a.from, &data).unwrap();
    assert_eq!(to, addr(b.from));
    assert_eq!(DataHeader::parse(&bytes).unwrap().gen_no, bound_b.gen_no);

    let c = Node::new(NET_A, 3, "192.0.2.3:1000");
    for frame in [c.hello(w.ms()), a.bind_frame(w.ms() + 1, [0; 16])] {
        let (_, answer) = w.send(c.from, &frame).unwrap();
        let Ok(Frame::Nack(nack)) = Frame::parse(&answer) else { panic!("not NACK: {answer:02x?}") };
        assert_eq!((nack.known(), nack.gen_no), (Some(NackCode::Draining), 0));
    }
    assert_eq!((w.relay.sessions(), w.drops(DropReason::Draining)), (2, 2));
    w.relay.set_draining(false);
    c.bind(&mut w);
}
