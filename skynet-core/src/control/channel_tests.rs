use super::*;

struct Pair {
    node: Channel,
    relay: Channel,
    node_key: StaticSecret,
}

fn pair(seed: u8) -> Pair {
    let mut rng = Rng::from_seed([seed; 32]);
    let node_key = StaticSecret::random(&mut rng);
    let relay_key = StaticSecret::random(&mut rng);
    let node = Channel::initiator(&node_key, &relay_key.public(), &mut rng, Instant::ZERO);
    let relay = Channel::responder(&relay_key, &mut rng, Instant::ZERO);
    Pair { node, relay, node_key }
}

fn move_bytes(from: &mut Channel, to: &mut Channel) -> Result<(), ChannelError> {
    while let Some(bytes) = from.poll_bytes() {
        to.feed(&bytes)?;
    }
    Ok(())
}

fn established(seed: u8) -> Pair {
    let mut p = pair(seed);
    move_bytes(&mut p.node, &mut p.relay).unwrap();
    move_bytes(&mut p.relay, &mut p.node).unwrap();
    assert!(p.node.is_established() && p.relay.is_established());
    p
}

#[test]
fn carries_messages_both_ways_and_proves_the_nodes_key() {
    let mut p = established(1);
    assert_eq!(p.relay.remote(), Some(p.node_key.public()));
    assert_eq!(p.relay.deadline(), None);
    p.node.send(b"hello").unwrap();
    p.node.send(&[7; MAX_MESSAGE]).unwrap();
    move_bytes(&mut p.node, &mut p.relay).unwrap();
    assert_eq!(p.relay.poll_message().unwrap().unwrap(), b"hello");
    assert_eq!(p.relay.poll_message().unwrap().unwrap().len(), MAX_MESSAGE);
    assert_eq!(p.relay.poll_message(), Ok(None));
    p.relay.send(b"there").unwrap();
    move_bytes(&mut p.relay, &mut p.node).unwrap();
    assert_eq!(p.node.poll_message().unwrap().unwrap(), b"there");
}

#[test]
fn does_not_mind_where_the_stream_is_cut() {
    let mut p = pair(2);
    let first = p.node.poll_bytes().unwrap();
    for byte in first {
        p.relay.feed(&[byte]).unwrap();
    }
    for byte in p.relay.poll_bytes().unwrap() {
        p.node.feed(&[byte]).unwrap();
    }
    p.node.send(b"one").unwrap();
    p.node.send(b"two").unwrap();
    let both = [p.node.poll_bytes().unwrap(), p.node.poll_bytes().unwrap()].concat();
    p.relay.feed(&both[..25]).unwrap();
    assert_eq!(p.relay.poll_message().unwrap().unwrap(), b"one");
    assert_eq!(p.relay.poll_message(), Ok(None));
    p.relay.feed(&both[25..]).unwrap();
    assert_eq!(p.relay.poll_message().unwrap().unwrap(), b"two");
}

#[test]
fn no_flipped_bit_or_cut_in_message_1_is_answered() {
    let first = pair(3).node.poll_bytes().unwrap();
    for bit in 0..first.len() * 8 {
        let mut p = pair(3);
        let mut flipped = first.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let result = p.relay.feed(&flipped);
        if bit >= 16 {
            assert_eq!(result, Err(ChannelError::Mac1), "bit {bit}");
        }
        assert!(!p.relay.is_established());
        assert_eq!(p.relay.poll_bytes(), None);
    }
    for len in 0..first.len() {
        let mut p = pair(3);
        assert_eq!(p.relay.feed(&first[..len]), Ok(()));
        assert_eq!(p.relay.poll_bytes(), None);
    }
}

#[test]
fn a_first_message_with_a_right_mac_and_wrong_noise_is_refused() {
    let mut p = pair(4);
    let mut first = p.node.poll_bytes().unwrap();
    // A small-order ephemeral key: the MAC is public knowledge, so anyone can send this.
    first[2..34].fill(0);
    let mut rng = Rng::from_seed([4; 32]);
    let _node = StaticSecret::random(&mut rng);
    let relay_key = StaticSecret::random(&mut rng);
    let mac = crypto::mac16(&mac1_key(Purpose::Control, &relay_key.public()), &[&first[2..98]]);
    first[98..].copy_from_slice(&mac);
    assert_eq!(p.relay.feed(&first), Err(ChannelError::Handshake));
    assert_eq!(p.relay.poll_bytes(), None);
}

#[test]
fn no_flipped_bit_in_message_2_establishes_the_channel() {
    let mut p = pair(5);
    move_bytes(&mut p.node, &mut p.relay).unwrap();
    let second = p.relay.poll_bytes().unwrap();
    for bit in 0..second.len() * 8 {
        let mut again = pair(5);
        let mut flipped = second.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = again.node.feed(&flipped);
        assert!(!again.node.is_established(), "bit {bit}");
    }
}

#[test]
fn no_flipped_bit_yields_a_message_and_the_channel_is_dead_afterwards() {
    let mut p = established(6);
    p.node.send(b"a message").unwrap();
    let frame = p.node.poll_bytes().unwrap();
    for bit in 0..frame.len() * 8 {
        let mut again = established(6);
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        again.relay.feed(&flipped).unwrap();
        let got = again.relay.poll_message();
        assert!(!matches!(got, Ok(Some(_))), "bit {bit}");
        if got.is_err() {
            assert_eq!(again.relay.feed(&frame), got.map(|_| ()));
            assert_eq!(again.relay.send(b"x"), Err(ChannelError::NotEstablished));
        }
    }
}

#[test]
fn a_relay_that_holds_another_key_cannot_answer() {
    let mut rng = Rng::from_seed([7; 32]);
    let pinned = StaticSecret::random(&mut rng).public();
    let node_key = StaticSecret::random(&mut rng);
    let mut node = Channel::initiator(&node_key, &pinned, &mut rng, Instant::ZERO);
    let mut impostor = Channel::responder(&StaticSecret::random(&mut rng), &mut rng, Instant::ZERO);
    assert_eq!(move_bytes(&mut node, &mut impostor), Err(ChannelError::Mac1));
}

#[test]
fn giant_and_tiny_frames_are_refused_by_their_length_alone() {
    for len in [0u16, 15, 16_385, u16::MAX] {
        let mut p = established(8);
        p.relay.feed(&len.to_be_bytes()).unwrap();
        assert_eq!(p.relay.poll_message(), Err(ChannelError::Length));
    }
    assert_eq!(established(8).node.send(&[0; MAX_MESSAGE + 1]), Err(ChannelError::TooLong));
}
