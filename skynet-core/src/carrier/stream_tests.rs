use super::*;
use crate::time::Duration;
use crate::wire::relay::{Class, DataHeader, Keep};

struct Pair {
    node: FrameStream,
    relay: FrameStream,
}

const NOW: Instant = Instant::ZERO;

fn pair(seed: u8) -> Pair {
    let mut rng = Rng::from_seed([seed; 32]);
    let key = StaticSecret::random(&mut rng);
    let node = FrameStream::initiator(&key.public(), &mut rng, NOW);
    Pair { node, relay: FrameStream::responder(&key, &mut rng, NOW) }
}

fn carry(from: &mut FrameStream, to: &mut FrameStream) -> Result<Vec<Vec<u8>>, CarrierError> {
    let mut frames = Vec::new();
    while let Some(bytes) = from.poll_bytes(NOW) {
        for piece in bytes.chunks(1_000) {
            to.feed(piece, |frame| frames.push(frame.to_vec()))?;
        }
    }
    Ok(frames)
}

fn established(seed: u8) -> Pair {
    let mut p = pair(seed);
    carry(&mut p.node, &mut p.relay).unwrap();
    carry(&mut p.relay, &mut p.node).unwrap();
    assert!(p.node.is_established() && p.relay.is_established());
    p
}

fn data(number: u32, len: usize) -> Vec<u8> {
    let mut frame = DataHeader::new(Class::Normal, 0, 7, number).encode().to_vec();
    frame.resize(len, 9);
    frame
}

#[test]
fn carries_frames_both_ways_in_order() {
    let mut p = established(1);
    let frames: Vec<_> = (0..100).map(|number| data(number, 1_448)).collect();
    frames.iter().for_each(|frame| p.node.push(frame, NOW));
    assert_eq!(carry(&mut p.node, &mut p.relay).unwrap(), frames);
    frames.iter().for_each(|frame| p.relay.push(frame, NOW));
    assert_eq!(carry(&mut p.relay, &mut p.node).unwrap(), frames);
    assert_eq!((p.node.drops(), p.relay.drops()), Default::default());
}

#[test]
fn what_is_pushed_before_the_handshake_is_done_waits_for_it() {
    let mut p = pair(2);
    p.node.push(&data(1, 100), NOW);
    assert!(carry(&mut p.node, &mut p.relay).unwrap().is_empty());
    carry(&mut p.relay, &mut p.node).unwrap();
    assert_eq!(carry(&mut p.node, &mut p.relay).unwrap(), [data(1, 100)]);
}

#[test]
fn frames_are_carried_only_in_the_direction_they_have() {
    let mut p = established(3);
    let keep = Keep { flags: 0, gen_no: 1, t: 2 }.encode().to_vec();
    // STUN, a probe, COOKIE and an empty datagram are nothing a node sends to a relay.
    for foreign in [&[0, 1, 0, 0][..], &[0xA0; 100], &[relay::COOKIE; 48], &[]] {
        p.node.push(foreign, NOW);
    }
    p.node.push(&keep, NOW);
    assert_eq!(carry(&mut p.node, &mut p.relay).unwrap(), std::slice::from_ref(&keep));
    assert_eq!(p.node.drops().foreign, 4);
    // Who does not keep to that at its end is not handed on at the other.
    let mut evil = Vec::new();
    super::super::packing::pack(&[relay::BOUND; 64], &mut evil);
    super::super::packing::pack(&keep, &mut evil);
    p.node.channel.send(&evil).unwrap();
    let bytes = p.node.channel.poll_bytes().unwrap();
    let mut got = Vec::new();
    p.relay.feed(&bytes, |frame| got.push(frame.to_vec())).unwrap();
    assert_eq!(got, [keep]);
    assert_eq!(p.relay.drops().foreign, 1);
}

#[test]
fn a_frame_too_long_for_a_message_is_dropped() {
    let mut p = established(4);
    p.node.push(&data(1, MAX_FRAME + 1), NOW);
    p.node.push(&data(2, MAX_FRAME), NOW);
    assert_eq!(carry(&mut p.node, &mut p.relay).unwrap(), [data(2, MAX_FRAME)]);
    assert_eq!(p.node.drops().foreign, 1);
}

#[test]
fn whoever_looks_into_tls_sees_neither_frame_nor_pattern_of_it() {
    let mut p = established(5);
    let frame = data(0x0a0b_0c0d, 400);
    p.node.push(&frame, NOW);
    let bytes = p.node.poll_bytes(NOW).unwrap();
    assert!(!bytes.windows(4).any(|w| w == [0x0a, 0x0b, 0x0c, 0x0d] || w == [9; 4]));
}

#[test]
fn a_control_channel_is_no_stream_of_frames() {
    let mut rng = Rng::from_seed([6; 32]);
    let (node, key) = (StaticSecret::random(&mut rng), StaticSecret::random(&mut rng));
    let mut control = Channel::initiator(&node, &key.public(), &mut rng, NOW);
    let mut relay = FrameStream::responder(&key, &mut rng, NOW);
    let first = control.poll_bytes().unwrap();
    assert_eq!(relay.feed(&first, |_| ()), Err(CarrierError::Channel(ChannelError::Mac1)));
    assert!(!relay.is_established());
}

#[test]
fn no_flipped_bit_and_no_cut_delivers_a_frame() {
    let mut p = established(7);
    p.node.push(&data(1, 40), NOW);
    let bytes = p.node.poll_bytes(NOW).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let mut again = established(7);
        let _dead = again.relay.feed(&flipped, |_| panic!("bit {bit} delivered a frame"));
    }
    for end in 0..bytes.len() {
        let mut again = established(7);
        again.relay.feed(&bytes[..end], |_| panic!("{end} bytes delivered a frame")).unwrap();
    }
}

#[test]
fn lists_of_frames_that_do_not_add_up_end_the_stream() {
    for (bytes, error) in [(&[0, 0][..], PackingError::Empty), (&[0, 9, 0xA1], PackingError::Short)] {
        let mut p = established(8);
        p.node.channel.send(bytes).unwrap();
        let frame = p.node.channel.poll_bytes().unwrap();
        assert_eq!(p.relay.feed(&frame, |_| ()), Err(CarrierError::Packing(error)));
    }
}

#[test]
fn old_data_yields_no_empty_message() {
    let mut p = established(9);
    p.node.push(&data(1, 100), NOW);
    assert_eq!(p.node.poll_bytes(NOW + Duration::from_secs(1)), None);
    assert_eq!(p.node.drops().queue.old, 1);
}
