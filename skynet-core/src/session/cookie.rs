//! Proof of address: `mac1`, `mac2` and the cookie reply (WireGuard §5.3, §5.4.4, §5.4.7), both sides.

use core::net::{IpAddr, SocketAddr};

use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};

use super::handshake::{cookie_key, mac1_key};
use crate::constants::COOKIE_LIFETIME;
use crate::crypto::{mac_eq, mac16};
use crate::drop::DropReason;
use crate::key::{PublicKey, Secret};
use crate::rng::Rng;
use crate::time::Instant;
use crate::wire::wireguard::{COOKIE_REPLY_LEN, CookieReply, MAC_LEN, ReceiverIndex};

/// A cookie: a MAC over the source under a secret of the responder.
pub type Cookie = [u8; 16];

/// Where a handshake message came from, as far as that can be proven: the key of admission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PathSource {
    /// Straight from this address. The cookie binds address and port; limits count a /32 or /64.
    Direct(SocketAddr),
    /// Through a relay, from a sender the relay authenticated. All of them share the relay's address, so that must
    /// not be what is counted.
    Relayed {
        /// The relay, by its number in the manifest.
        relay: u16,
        /// The sender, by its number at that relay.
        sender: u32,
    },
}

impl PathSource {
    /// What the cookie binds: everything.
    fn cookie_bytes(&self) -> ([u8; 19], usize) {
        let mut out = [0; 19];
        match *self {
            Self::Direct(address) => {
                let ip = address.ip().to_canonical();
                let len = write_ip(&mut out, ip, 128);
                out[len..len + 2].copy_from_slice(&address.port().to_be_bytes());
                (out, len + 2)
            }
            Self::Relayed { .. } => self.limit_bytes(),
        }
    }

    /// What limits count: the prefix one host or site can freely choose addresses in.
    pub(super) fn limit_bytes(&self) -> ([u8; 19], usize) {
        let mut out = [0; 19];
        match *self {
            Self::Direct(address) => {
                let len = write_ip(&mut out, address.ip().to_canonical(), 64);
                (out, len)
            }
            Self::Relayed { relay, sender } => {
                out[0] = b'r';
                out[1..3].copy_from_slice(&relay.to_be_bytes());
                out[3..7].copy_from_slice(&sender.to_be_bytes());
                (out, 7)
            }
        }
    }
}

/// Tag and address, IPv6 cut to `v6_bits`; returns the length.
fn write_ip(out: &mut [u8; 19], ip: IpAddr, v6_bits: usize) -> usize {
    match ip {
        IpAddr::V4(ip) => {
            out[0] = b'4';
            out[1..5].copy_from_slice(&ip.octets());
            5
        }
        IpAddr::V6(ip) => {
            let len = v6_bits / 8;
            out[0] = b'6';
            out[1..=len].copy_from_slice(&ip.octets()[..len]);
            1 + len
        }
    }
}

/// Writes `mac1` and, with a cookie, `mac2` into a handshake message that ends in room for both.
pub fn seal_macs(message: &mut [u8], responder: &PublicKey, cookie: Option<&Cookie>) {
    let mac1_at = message.len() - 2 * MAC_LEN;
    let mac1 = mac16(&mac1_key(responder), &[&message[..mac1_at]]);
    message[mac1_at..mac1_at + MAC_LEN].copy_from_slice(&mac1);
    if let Some(cookie) = cookie {
        let mac2_at = mac1_at + MAC_LEN;
        let mac2 = mac16(cookie, &[&message[..mac2_at]]);
        message[mac2_at..].copy_from_slice(&mac2);
    }
}

/// Whether a sender knows whom it talks to (WireGuard §5.4.4): half a microsecond, before anything else is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mac1Check {
    key: [u8; 32],
    /// Of the key before ours, while that still answers.
    previous: Option<[u8; 32]>,
}

impl Mac1Check {
    /// For messages to `ours`.
    pub fn new(ours: &PublicKey) -> Self {
        Self { key: mac1_key(ours), previous: None }
    }

    /// For messages to this key as well.
    pub fn or(mut self, previous: Option<&PublicKey>) -> Self {
        self.previous = previous.map(mac1_key);
        self
    }

    /// Whether the message is to the key before ours.
    pub(super) fn is_to_previous(&self, message: &[u8]) -> bool {
        self.previous.is_some_and(|key| is_made_with(&key, message))
    }

    /// For an initiation or a response; false for anything too short to be one.
    pub fn is_valid(&self, message: &[u8]) -> bool {
        is_made_with(&self.key, message) || self.is_to_previous(message)
    }
}

fn is_made_with(key: &[u8; 32], message: &[u8]) -> bool {
    let Some((body, macs)) = message.split_last_chunk::<{ 2 * MAC_LEN }>() else { return false };
    mac_eq(&mac16(key, &[body]), &macs[..MAC_LEN])
}

/// The responder's side: checks MACs, makes cookies. The secret behind them changes every 120 s; the previous one
/// still verifies, so that a cookie given out late lives as long as its receiver believes.
#[derive(Debug)]
pub struct CookieChecker {
    mac1: Mac1Check,
    reply_key: [u8; 32],
    previous_reply_key: [u8; 32],
    rng: Rng,
    secret: Secret,
    previous: Option<Secret>,
    rotated: Instant,
}

impl CookieChecker {
    /// For messages to `ours`.
    pub fn new(ours: &PublicKey, mut rng: Rng, now: Instant) -> Self {
        let secret = Secret::random(&mut rng);
        Self {
            mac1: Mac1Check::new(ours),
            reply_key: cookie_key(ours),
            previous_reply_key: [0; 32],
            rng,
            secret,
            previous: None,
            rotated: now,
        }
    }

    /// From now on for messages to `ours`, and to the key before it. Cookies that are out stay good.
    pub fn set_keys(&mut self, ours: &PublicKey, previous: Option<&PublicKey>) {
        self.mac1 = Mac1Check::new(ours).or(previous);
        self.reply_key = cookie_key(ours);
        self.previous_reply_key = previous.map_or([0; 32], cookie_key);
    }

    /// Whether the sender knew whom it talks to.
    pub fn mac1_is_valid(&self, message: &[u8]) -> bool {
        self.mac1.is_valid(message)
    }

    /// Whether the message is to the key before ours.
    pub(super) fn is_to_previous(&self, message: &[u8]) -> bool {
        self.mac1.is_to_previous(message)
    }

    /// Whether the sender got our cookie at `source`.
    pub fn mac2_is_valid(&mut self, now: Instant, source: &PathSource, message: &[u8]) -> bool {
        self.rotate(now);
        let Some((body, mac2)) = message.split_last_chunk::<MAC_LEN>() else { return false };
        let valid = |secret: &Secret| mac_eq(&mac16(&cookie(secret, source), &[body]), mac2);
        valid(&self.secret) || self.previous.as_ref().is_some_and(valid)
    }

    /// A reply that carries the cookie of `source`, sealed so that only the sender of the message with this `mac1` reads it:
    /// under the key that the message was to.
    pub fn reply(
        &mut self,
        now: Instant,
        source: &PathSource,
        sender: ReceiverIndex,
        mac1: &[u8; MAC_LEN],
        to_previous: bool,
    ) -> [u8; COOKIE_REPLY_LEN] {
        self.rotate(now);
        let key = if to_previous { &self.previous_reply_key } else { &self.reply_key };
        let mut sealed = [0; 32];
        let (body, tag) = sealed.split_at_mut(16);
        body.copy_from_slice(&cookie(&self.secret, source));
        let nonce: [u8; 24] = self.rng.array();
        let made = XChaCha20Poly1305::new(key.into())
            .encrypt_in_place_detached(&nonce.into(), mac1, body)
            .expect("16 bytes are not too long");
        tag.copy_from_slice(&made);
        CookieReply::encode(sender, &nonce, &sealed)
    }

    fn rotate(&mut self, now: Instant) {
        let age = now.saturating_since(self.rotated);
        if age >= COOKIE_LIFETIME {
            let fresh = Secret::random(&mut self.rng);
            let old = core::mem::replace(&mut self.secret, fresh);
            self.previous = (age < 2 * COOKIE_LIFETIME).then_some(old);
            self.rotated = now;
        }
    }
}

fn cookie(secret: &Secret, source: &PathSource) -> Cookie {
    let (bytes, len) = source.cookie_bytes();
    mac16(secret.expose(), &[&bytes[..len]])
}

/// The initiator's side: reads the cookie in `reply`, which answers a message to `peer` that carried `mac1`.
///
/// # Errors
/// [`DropReason::BadCookie`].
pub fn open_reply(
    peer: &PublicKey,
    mac1: &[u8; MAC_LEN],
    reply: &CookieReply<'_>,
) -> Result<Cookie, DropReason> {
    let sealed = reply.sealed();
    let (mut cookie, mut tag) = ([0; 16], [0; 16]);
    cookie.copy_from_slice(&sealed[..16]);
    tag.copy_from_slice(&sealed[16..]);
    XChaCha20Poly1305::new(&cookie_key(peer).into())
        .decrypt_in_place_detached(&reply.nonce().into(), mac1, &mut cookie, &tag.into())
        .map_err(|_| DropReason::BadCookie)?;
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::StaticSecret;
    use crate::wire::wireguard::{Initiation, Message};
    use core::time::Duration;

    fn direct(text: &str) -> PathSource {
        PathSource::Direct(text.parse().unwrap())
    }

    fn message(ours: &PublicKey, cookie: Option<&Cookie>) -> [u8; 148] {
        let mut message = Initiation::encode(ReceiverIndex(7), &[3; 108]);
        seal_macs(&mut message, ours, cookie);
        message
    }

    fn setup() -> (PublicKey, CookieChecker) {
        let ours = StaticSecret::from_bytes([5; 32]).public();
        (ours, CookieChecker::new(&ours, Rng::from_seed([6; 32]), Instant::ZERO))
    }

    fn obtain(ours: &PublicKey, checker: &mut CookieChecker, now: Instant, source: &PathSource) -> Cookie {
        let first = message(ours, None);
        let Ok(Message::Initiation(parsed)) = Message::parse(&first) else { panic!() };
        let reply = checker.reply(now, source, parsed.sender(), &parsed.mac1(), false);
        let Ok(Message::CookieReply(reply)) = Message::parse(&reply) else { panic!() };
        assert_eq!(reply.receiver(), ReceiverIndex(7));
        open_reply(ours, &parsed.mac1(), &reply).unwrap()
    }

    #[test]
    fn a_cookie_binds_address_and_port_or_relay_and_sender() {
        let (ours, mut checker) = setup();
        let sources = [
            direct("192.0.2.1:1000"),
            direct("192.0.2.1:1001"),
            direct("192.0.2.2:1000"),
            direct("[2001:db8::1]:1000"),
            direct("[2001:db8::2]:1000"),
            PathSource::Relayed { relay: 1, sender: 1 },
            PathSource::Relayed { relay: 1, sender: 2 },
            PathSource::Relayed { relay: 2, sender: 1 },
        ];
        for given in &sources {
            let cookie = obtain(&ours, &mut checker, Instant::ZERO, given);
            let message = message(&ours, Some(&cookie));
            for used in &sources {
                assert_eq!(checker.mac2_is_valid(Instant::ZERO, used, &message), given == used);
            }
        }
    }

    #[test]
    fn a_mapped_address_is_the_same_source_as_the_plain_one() {
        let (ours, mut checker) = setup();
        let cookie = obtain(&ours, &mut checker, Instant::ZERO, &direct("[::ffff:192.0.2.1]:9"));
        assert!(checker.mac2_is_valid(Instant::ZERO, &direct("192.0.2.1:9"), &message(&ours, Some(&cookie))));
    }

    #[test]
    fn a_cookie_lives_120_seconds_and_not_longer_than_240() {
        let (ours, mut checker) = setup();
        let source = direct("192.0.2.1:9");
        let given = Instant::ZERO + Duration::from_secs(119);
        let cookie = obtain(&ours, &mut checker, given, &source);
        let message = message(&ours, Some(&cookie));
        assert!(checker.mac2_is_valid(given + Duration::from_secs(119), &source, &message));
        assert!(!checker.mac2_is_valid(given + Duration::from_secs(242), &source, &message));
    }

    #[test]
    fn no_bit_flip_of_a_cookie_reply_authenticates() {
        let (ours, mut checker) = setup();
        let first = message(&ours, None);
        let Ok(Message::Initiation(parsed)) = Message::parse(&first) else { panic!() };
        let reply =
            checker.reply(Instant::ZERO, &direct("192.0.2.1:9"), parsed.sender(), &parsed.mac1(), false);
        for bit in 64..reply.len() * 8 {
            let mut bad = reply;
            bad[bit / 8] ^= 1 << (bit % 8);
            let Ok(Message::CookieReply(bad)) = Message::parse(&bad) else { panic!() };
            assert_eq!(open_reply(&ours, &parsed.mac1(), &bad), Err(DropReason::BadCookie), "bit {bit}");
        }
        let Ok(Message::CookieReply(good)) = Message::parse(&reply) else { panic!() };
        assert!(open_reply(&ours, &[0; 16], &good).is_err(), "bound to the message it answers");
    }

    #[test]
    fn mac1_covers_every_bit_before_it() {
        let (ours, checker) = setup();
        let good = message(&ours, None);
        assert!(checker.mac1_is_valid(&good));
        for bit in 0..132 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!checker.mac1_is_valid(&bad), "bit {bit}");
        }
        assert!((0..32).all(|len| !checker.mac1_is_valid(&good[..len])));
    }
}
