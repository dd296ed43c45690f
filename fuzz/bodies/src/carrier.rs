//! Frames inside TLS: heads of HTTP, and streams of frames from a node that knows the relay's key and nothing else.

use skynet_core::carrier::{FrameStream, Frames, http};
use skynet_core::control::channel::{Channel, MAX_MESSAGE, Purpose};
use skynet_core::key::StaticSecret;
use skynet_core::rng::Rng;
use skynet_core::time::Instant;
use skynet_core::wire::relay;

/// A head of a request and of an answer, whatever the bytes are; true if either is complete.
pub fn head(bytes: &[u8]) -> bool {
    let request = http::parse_request(bytes);
    let answer = http::parse_answer(bytes);
    if let Ok(Some((_, len))) = request {
        assert!(len <= bytes.len().min(http::MAX_HEAD));
        // What comes behind a head does not change it, and no part of it is one.
        assert_eq!(http::parse_request(&[bytes, b"more"].concat()), request);
        assert!(!matches!(http::parse_request(&bytes[..len - 1]), Ok(Some(_))));
    }
    if let Ok(Some((answer, len))) = answer {
        assert!(len <= bytes.len().min(http::MAX_HEAD));
        assert!(!(answer.is_upgrade() && answer.is_tunnel()));
    }
    matches!(request, Ok(Some(_))) || matches!(answer, Ok(Some(_)))
}

/// The plaintext of one message, sealed by a node that did the handshake, and a stream of arbitrary bytes behind it. Only
/// what a node sends comes out at the relay, and nothing after an error; true if a frame did.
pub fn stream(bytes: &[u8]) -> bool {
    let mut rng = Rng::from_seed([5; 32]);
    let (node, key) = (StaticSecret::random(&mut rng), StaticSecret::random(&mut rng));
    let now = Instant::ZERO;
    let mut channel = Channel::initiator_for(Purpose::Frames, &node, &key.public(), &mut rng, now);
    let mut end = FrameStream::responder(&key, &mut rng, now);
    let first = channel.poll_bytes().expect("an initiator speaks first");
    end.feed(&first, |_| unreachable!("no frame in a handshake")).expect("it is genuine");
    channel.feed(&end.poll_bytes(now).expect("it is answered")).expect("the answer is genuine");
    let plaintext = &bytes[..bytes.len().min(MAX_MESSAGE)];
    let listed: Vec<&[u8]> = Frames::of(plaintext).map_while(Result::ok).collect();
    assert!(listed.iter().map(|frame| frame.len() + 2).sum::<usize>() <= plaintext.len());
    let mut delivered = 0;
    let mut deliver = |frame: &[u8]| {
        assert!(listed.contains(&frame));
        let kind = frame[0];
        assert!(matches!(kind, relay::DATA | relay::HELLO | relay::BIND | relay::KEEP));
        delivered += 1;
    };
    channel.send(plaintext).expect("the channel is open");
    let message = channel.poll_bytes().expect("just sent");
    let dead = message.chunks(997).any(|piece| end.feed(piece, &mut deliver).is_err())
        // And what nobody has sealed.
        || bytes.chunks(4_096).any(|piece| end.feed(piece, |_| unreachable!("a forged message was opened")).is_err());
    // Whatever came: the end can be fed on without a panic.
    let _ = dead;
    delivered > 0
}
