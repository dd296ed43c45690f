//! The keys of a pair, the sender's nonces and the receiver's memory of them (`docs/PROTOCOL.md` §5).

use crate::crypto::{hkdf, mac16};
use crate::id::PortNo;
use crate::key::{PublicKey, Secret, StaticSecret};
use crate::rng::{Rng, RngCore as _};
use crate::time::UnixTime;
use crate::wire::probe::{self, Body, Head, Nonce, ProbeError, ProbeKey, Tag};

const DAY: u64 = 86_400;

/// Both directions' keys of one pair of nodes on one port. Derived once (one X25519) and kept while the peer is cached.
#[derive(Debug)]
pub struct PairKeys {
    send: ProbeKey,
    send_secret: Secret,
    receive: ProbeKey,
    receive_secret: Secret,
    lower: bool,
}

impl PairKeys {
    /// `K = HKDF(root_pin, X25519(mine, peer), "skynet path 1" | lower key | higher key | direction [| port])`, the
    /// port only if it is not 0, so a probe of one port is nothing on another; `None` if the peer's key is a point of
    /// small order.
    pub fn new(root_pin: &[u8; 32], mine: &StaticSecret, peer: &PublicKey, port: PortNo) -> Option<Self> {
        let shared = mine.diffie_hellman(peer)?;
        let my_public = mine.public();
        let lower = my_public < *peer;
        let (low, high) = if lower { (&my_public, peer) } else { (peer, &my_public) };
        let number = [port.0];
        let port = if port == PortNo(0) { &[][..] } else { &number[..] };
        let derive = |direction: u8| {
            hkdf(
                root_pin,
                shared.expose(),
                &[b"skynet path 1", low.as_bytes(), high.as_bytes(), &[direction], port],
            )
        };
        let (from_lower, from_higher) = (derive(0), derive(1));
        let (send_secret, receive_secret) =
            if lower { (from_lower, from_higher) } else { (from_higher, from_lower) };
        Some(Self {
            send: ProbeKey::new(&send_secret),
            receive: ProbeKey::new(&receive_secret),
            send_secret,
            receive_secret,
            lower,
        })
    }

    /// True if this node has the lower static key of the two.
    pub fn is_lower(&self) -> bool {
        self.lower
    }

    /// The tag this node puts on probes it sends at `now`.
    pub fn send_tag(&self, now: UnixTime) -> Tag {
        tag(&self.send_secret, now.0 / DAY)
    }

    /// The tags the peer may use at `now`: of yesterday, today and tomorrow.
    pub fn receive_tags(&self, now: UnixTime) -> [Tag; 3] {
        tags_around(&self.receive_secret, now.0 / DAY)
    }

    pub(super) fn receive_secret(&self) -> &Secret {
        &self.receive_secret
    }

    /// A probe to the peer. A PING is padded to `size` bytes, if it is shorter.
    pub fn seal(&self, flags: u16, now: UnixTime, nonce: Nonce, body: &Body, size: u16) -> Vec<u8> {
        probe::seal(&self.send, flags, self.send_tag(now), nonce, body, size)
    }

    pub(super) fn open(&self, datagram: &mut [u8]) -> Result<(Head, Body), ProbeError> {
        probe::open(&self.receive, datagram)
    }
}

pub(super) fn tags_around(secret: &Secret, day: u64) -> [Tag; 3] {
    [tag(secret, day.saturating_sub(1)), tag(secret, day), tag(secret, day + 1)]
}

pub(super) fn day_of(now: UnixTime) -> u64 {
    now.0 / DAY
}

fn tag(secret: &Secret, day: u64) -> Tag {
    let mac = mac16(secret.expose(), &[b"tag", &(day as u32).to_be_bytes()]);
    *mac.first_chunk().expect("a MAC has 16 bytes")
}

/// Yields each nonce once. One per path agent: an agent made anew under the same start draws another `random`.
#[derive(Debug)]
pub struct NonceSource {
    start: u32,
    random: u32,
    counter: u32,
}

impl NonceSource {
    /// `start`: Unix second of this process's start, persisted by the caller and higher than at every earlier start.
    pub fn new(start: u32, rng: &mut Rng) -> Self {
        Self { start, random: rng.next_u32(), counter: 0 }
    }

    /// The next nonce; `None` once 2^32 − 1 are used up, after which this agent is silent.
    pub fn next_nonce(&mut self) -> Option<Nonce> {
        self.counter = self.counter.checked_add(1)?;
        Some(Nonce { start: self.start, random: self.random, counter: self.counter })
    }
}

/// Most `random` values remembered under one start: a peer that drops and makes its agent for us anew has several.
const GENERATIONS: usize = 8;
const WINDOW: u32 = 64;

#[derive(Debug)]
struct Generation {
    random: u32,
    top: u32,
    /// Bit i: counter `top − i` was seen.
    seen: u64,
}

/// What was received from one peer: no probe counts twice, none from before the peer's last start counts at all.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    start: u32,
    /// Most recently advanced first, at most [`GENERATIONS`].
    generations: Vec<Generation>,
}

impl ReplayWindow {
    /// Whether the nonce is from a later start of a peer that was heard before: the peer has lost its sessions.
    pub fn is_restart(&self, nonce: Nonce) -> bool {
        self.start != 0 && nonce.start > self.start
    }

    /// Records the nonce of an *authentic* probe.
    pub fn accept(&mut self, nonce: Nonce) -> Result<(), ProbeError> {
        if nonce.start < self.start {
            return Err(ProbeError::OldStart);
        }
        if nonce.start > self.start {
            self.start = nonce.start;
            self.generations.clear();
        }
        let Some(i) = self.generations.iter().position(|g| g.random == nonce.random) else {
            self.generations.truncate(GENERATIONS - 1);
            self.generations.insert(0, Generation { random: nonce.random, top: nonce.counter, seen: 1 });
            return Ok(());
        };
        let g = &mut self.generations[i];
        if nonce.counter > g.top {
            let shift = nonce.counter - g.top;
            g.seen = if shift < WINDOW { g.seen << shift } else { 0 } | 1;
            g.top = nonce.counter;
            self.generations[..=i].rotate_right(1);
            return Ok(());
        }
        let back = g.top - nonce.counter;
        if back >= WINDOW || g.seen & (1 << back) != 0 {
            return Err(ProbeError::Replayed);
        }
        g.seen |= 1 << back;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (PairKeys, PairKeys) {
        let (a, b) = (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]));
        (keys_of(&a, &b, 0), keys_of(&b, &a, 0))
    }

    fn keys_of(mine: &StaticSecret, peer: &StaticSecret, port: u8) -> PairKeys {
        PairKeys::new(&[3; 32], mine, &peer.public(), PortNo(port)).unwrap()
    }

    fn nonce(start: u32, random: u32, counter: u32) -> Nonce {
        Nonce { start, random, counter }
    }

    #[test]
    fn both_ends_agree_and_directions_differ() {
        let (a, b) = pair();
        assert_ne!(a.is_lower(), b.is_lower());
        assert!(a.send_secret.ct_eq(&b.receive_secret) && b.send_secret.ct_eq(&a.receive_secret));
        assert!(!a.send_secret.ct_eq(&a.receive_secret));
        let now = UnixTime(1_700_000_000);
        assert_eq!(b.receive_tags(now)[1], a.send_tag(now));
        assert_eq!(b.receive_tags(now)[2], a.send_tag(now.plus_secs(DAY)));
    }

    #[test]
    fn another_network_has_other_keys() {
        let (a, _) = pair();
        let other = PairKeys::new(
            &[4; 32],
            &StaticSecret::from_bytes([1; 32]),
            &StaticSecret::from_bytes([2; 32]).public(),
            PortNo(0),
        )
        .unwrap();
        assert!(!a.send_secret.ct_eq(&other.send_secret));
        let small_order = PublicKey([0; 32]);
        let mine = StaticSecret::from_bytes([1; 32]);
        assert!(PairKeys::new(&[4; 32], &mine, &small_order, PortNo(0)).is_none());
    }

    #[test]
    fn another_port_has_other_keys_and_a_probe_of_one_does_not_open_on_another() {
        let (a, b) = (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]));
        let now = UnixTime(1_700_000_000);
        let body =
            Body::Ping(probe::Ping { txid: 1, t_us: 2, path_id: 3, wire_size: 0, tx_data: 4, rx_data: 5 });
        let mut tags = std::collections::BTreeSet::new();
        for port in 0..8 {
            let mine = keys_of(&a, &b, port);
            tags.extend([mine.send_tag(now), mine.receive_tags(now)[1]]);
            let sealed = mine.seal(0, now, nonce(1, 2, 3), &body, 0);
            for other in 0..8 {
                let opened = keys_of(&b, &a, other).open(&mut sealed.clone());
                assert_eq!(opened.is_ok(), port == other, "{port} on {other}");
            }
        }
        assert_eq!(tags.len(), 16);
    }

    #[test]
    fn nonces_do_not_repeat_and_end() {
        let mut source = NonceSource::new(5, &mut Rng::from_seed([0; 32]));
        assert_ne!(source.next_nonce(), source.next_nonce());
        source.counter = u32::MAX - 1;
        assert!(source.next_nonce().is_some());
        assert_eq!(source.next_nonce(), None);
    }

    #[test]
    fn a_counter_counts_once_within_the_window() {
        let mut w = ReplayWindow::default();
        for c in [1, 5, 3, 100, 37, 99] {
            assert_eq!(w.accept(nonce(9, 1, c)), Ok(()), "{c}");
        }
        for c in [1, 3, 5, 36, 37, 99, 100] {
            assert_eq!(w.accept(nonce(9, 1, c)), Err(ProbeError::Replayed), "{c}");
        }
        assert_eq!(w.accept(nonce(9, 1, u32::MAX)), Ok(()));
    }

    #[test]
    fn a_lower_start_is_refused_and_a_higher_one_forgets() {
        let mut w = ReplayWindow::default();
        assert!(!w.is_restart(nonce(9, 1, 50)), "the first start heard of is none");
        assert_eq!(w.accept(nonce(9, 1, 50)), Ok(()));
        assert_eq!(w.accept(nonce(8, 2, 51)), Err(ProbeError::OldStart));
        assert!(w.is_restart(nonce(10, 3, 1)));
        assert_eq!(w.accept(nonce(10, 3, 1)), Ok(()));
        assert!(!w.is_restart(nonce(10, 4, 1)) && !w.is_restart(nonce(9, 1, 52)));
        assert_eq!(w.accept(nonce(9, 1, 52)), Err(ProbeError::OldStart));
    }

    #[test]
    fn a_second_agent_of_one_start_is_heard_beside_the_first() {
        let mut w = ReplayWindow::default();
        assert_eq!(w.accept(nonce(9, 1, 50)), Ok(()));
        assert_eq!(w.accept(nonce(9, 2, 1)), Ok(()));
        assert_eq!(w.accept(nonce(9, 1, 50)), Err(ProbeError::Replayed));
        assert_eq!(w.accept(nonce(9, 2, 1)), Err(ProbeError::Replayed));
        for random in 3..100 {
            assert_eq!(w.accept(nonce(9, random, 1)), Ok(()));
        }
        assert_eq!(w.generations.len(), GENERATIONS);
    }
}
