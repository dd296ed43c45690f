//! The control channel: its stream under Noise, and the messages inside.

use skynet_core::control::message::fuzz_message;
use skynet_core::control::{Channel, Message};
use skynet_core::crypto;
use skynet_core::key::StaticSecret;
use skynet_core::rng::Rng;
use skynet_core::time::Instant;

use crate::Input;

/// Messages of the control channel after they were opened.
pub fn message(bytes: &[u8]) -> bool {
    fuzz_message(bytes);
    Message::parse(bytes).is_ok()
}

/// What the recorded initiator says once the channel is open.
pub const SAID: &[u8] = b"a message from the other end";
/// Bytes of the first frame with its length: Noise message 1 and a MAC.
const FIRST_FRAME: usize = 2 + 96 + 16;

/// The two ends of one recorded conversation; the same bytes every time.
pub fn ends() -> (Channel, Channel) {
    let mut rng = Rng::from_seed([3; 32]);
    let (node, relay) = (StaticSecret::random(&mut rng), StaticSecret::random(&mut rng));
    let initiator = Channel::initiator(&node, &relay.public(), &mut rng, Instant::ZERO);
    (initiator, Channel::responder(&relay, &mut rng, Instant::ZERO))
}

/// An arbitrary stream, cut anywhere, for either end. First byte: 0 the responder, 1 the responder with the MAC of the
/// first frame made right, 2 the initiator, 3 the responder of an open channel, 4 the initiator of one. The rest:
/// pieces behind a length byte, so that the fuzzer chooses the cuts.
///
/// Whatever comes, only the recorded message is ever taken for authentic.
pub fn channel(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let mode = input.byte() % 5;
    let (mut initiator, mut responder) = ends();
    let first = initiator.poll_bytes().expect("an initiator speaks first");
    if mode >= 3 {
        responder.feed(&first).expect("the recorded message is genuine");
        let second = responder.poll_bytes().expect("it is answered");
        initiator.feed(&second).expect("the answer is genuine");
    }
    let (mut end, open) = match mode {
        2 | 4 => (initiator, mode == 4),
        _ => (responder, mode == 3),
    };
    let mut stream: Vec<&[u8]> = Vec::new();
    while !input.is_empty() {
        let n = usize::from(input.byte()) + 1;
        stream.push(input.take(n));
    }
    let authenticated = if mode == 1 {
        let mut whole = stream.concat();
        make_mac_right(&mut whole);
        feed(&mut end, whole.chunks(97))
    } else {
        feed(&mut end, stream.into_iter())
    };
    authenticated || (end.is_established() && !open)
}

/// Feeds a stream to one end; returns whether a message came out of it. A dead channel stays dead and mute.
fn feed<'a>(end: &mut Channel, pieces: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut authenticated = false;
    for piece in pieces {
        let mut died = end.feed(piece).err();
        while died.is_none() {
            match end.poll_message() {
                Ok(Some(message)) => {
                    assert_eq!(message, SAID, "a forged message was opened");
                    authenticated = true;
                }
                Ok(None) => break,
                Err(error) => died = Some(error),
            }
        }
        if let Some(error) = died {
            assert!(!end.is_established());
            assert_eq!(end.poll_bytes(), None, "a dead channel spoke");
            assert_eq!(end.feed(b"x"), Err(error));
        }
    }
    authenticated
}

/// Anyone who knows the relay's public key can do this.
fn make_mac_right(stream: &mut [u8]) {
    if stream.len() < FIRST_FRAME {
        return;
    }
    let mut rng = Rng::from_seed([3; 32]);
    let _node = StaticSecret::random(&mut rng);
    let relay = StaticSecret::random(&mut rng).public();
    stream[..2].copy_from_slice(&112u16.to_be_bytes());
    let key = crypto::hash(&[b"skynet control mac1", relay.as_bytes()]);
    let mac = crypto::mac16(&key, &[&stream[2..98]]);
    stream[98..FIRST_FRAME].copy_from_slice(&mac);
}
