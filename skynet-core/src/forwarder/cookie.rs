//! Cookies: proof that whoever binds receives what is sent to its address.

use core::net::SocketAddr;

use crate::crypto;
use crate::key::Secret;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::address;

use super::session::SessionKey;

/// How long a secret is used for new cookies; it is accepted for as long again.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);

/// The secrets of this thread: an address always comes to the same one.
pub(super) struct Cookies {
    secrets: [Secret; 2],
    next: Instant,
}

impl Cookies {
    pub(super) fn new(rng: &mut Rng, now: Instant) -> Self {
        Self { secrets: [Secret::random(rng), Secret::random(rng)], next: now + SECRET_LIFETIME }
    }

    pub(super) fn make(
        &mut self,
        from: SocketAddr,
        key: &SessionKey,
        rng: &mut Rng,
        now: Instant,
    ) -> [u8; 16] {
        self.rotate(rng, now);
        cookie_for(&self.secrets[0], from, key)
    }

    pub(super) fn is_valid(
        &mut self,
        cookie: &[u8; 16],
        (from, key): (SocketAddr, &SessionKey),
        rng: &mut Rng,
        now: Instant,
    ) -> bool {
        self.rotate(rng, now);
        self.secrets.iter().any(|secret| crypto::mac_eq(&cookie_for(secret, from, key), cookie))
    }

    /// Forgets old secrets.
    pub(super) fn rotate(&mut self, rng: &mut Rng, now: Instant) {
        if now < self.next {
            return;
        }
        self.secrets.swap(0, 1);
        self.secrets[0] = Secret::random(rng);
        if now >= self.next + SECRET_LIFETIME {
            self.secrets[1] = Secret::random(rng);
        }
        self.next = now + SECRET_LIFETIME;
    }

    /// When to call [`rotate`](Self::rotate).
    pub(super) fn poll_timeout(&self) -> Instant {
        self.next
    }
}

fn cookie_for(secret: &Secret, from: SocketAddr, key: &SessionKey) -> [u8; 16] {
    let parts: [&[u8]; 4] =
        [&address::encode(from), &key.network_id, &key.node_no.to_be_bytes(), &[key.lane]];
    crypto::mac16(secret.expose(), &parts)
}
