//! Transport data: sealing and opening in place (WireGuard §5.4.6). This is the seam between the session and the
//! data plane, and the only place where a packet meets a key.
//!
//! A [`SealingKey`] is shared and read-only but for its counter, from which a batch reserves a range; it never
//! hands a number out twice. An [`OpeningKey`] belongs to one inbound half and holds the replay window.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::replay::ReplayWindow;
use crate::constants::{
    AES_REJECT_AFTER_MESSAGES, AES_REKEY_AFTER_MESSAGES, PADDING_MULTIPLE, REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
};
use crate::drop::DropReason;
use crate::id::LaneNo;
use crate::key::Secret;
use crate::time::Instant;
use crate::wire::wireguard::{ReceiverIndex, TAG_LEN, TRANSPORT_HEADER_LEN, TransportHeader};

/// Names one keypair; equal at both ends. The first eight bytes of the handshake hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeypairId(pub u64);

impl fmt::Debug for KeypairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{:016x}", self.0)
    }
}

/// A key of an authenticated cipher, one direction.
pub enum AeadKey {
    /// WireGuard's cipher, by `ring`.
    ChaCha20Poly1305(Box<LessSafeKey>),
    /// The cipher of lanes between nodes that have instructions for it, by `ring`.
    Aes256Gcm(Box<LessSafeKey>),
    /// No cipher: the tag names key and counter, nothing is hidden.
    #[cfg(any(test, feature = "sim"))]
    Null(super::null::NullKey),
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey(***)")
    }
}

impl AeadKey {
    /// The ChaCha20-Poly1305 key with the given bytes.
    pub fn chacha20_poly1305(key: &Secret) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.expose()).expect("32 bytes are a ChaCha20 key");
        Self::ChaCha20Poly1305(Box::new(LessSafeKey::new(key)))
    }

    /// The AES-256-GCM key with the given bytes.
    pub fn aes_256_gcm(key: &Secret) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("32 bytes are an AES-256 key");
        Self::Aes256Gcm(Box::new(LessSafeKey::new(key)))
    }

    /// Encrypts `plaintext` in place and returns the tag. Nonce: four zero bytes and the counter.
    fn seal(&self, counter: u64, plaintext: &mut [u8]) -> [u8; TAG_LEN] {
        match self {
            Self::ChaCha20Poly1305(key) | Self::Aes256Gcm(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(counter), Aad::empty(), plaintext)
                    .expect("a packet is shorter than 64 GiB");
                tag.as_ref().try_into().expect("the tag has 16 bytes")
            }
            #[cfg(any(test, feature = "sim"))]
            Self::Null(key) => key.tag(counter),
        }
    }

    /// Verifies and decrypts `sealed` (ciphertext and tag) in place; the plaintext's length, if authentic.
    fn open(&self, counter: u64, sealed: &mut [u8]) -> Option<usize> {
        match self {
            Self::ChaCha20Poly1305(key) | Self::Aes256Gcm(key) => {
                key.open_in_place(nonce(counter), Aad::empty(), sealed).ok().map(|plain| plain.len())
            }
            #[cfg(any(test, feature = "sim"))]
            Self::Null(key) => {
                let (body, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
                (*tag == key.tag(counter)).then_some(body.len())
            }
        }
    }

    /// After so many messages the sender asks for a new key.
    fn rekey_after_messages(&self) -> u64 {
        match self {
            Self::Aes256Gcm(_) => AES_REKEY_AFTER_MESSAGES,
            _ => REKEY_AFTER_MESSAGES,
        }
    }

    /// Counters from here on are never used.
    fn reject_after_messages(&self) -> u64 {
        match self {
            Self::Aes256Gcm(_) => AES_REJECT_AFTER_MESSAGES,
            _ => REJECT_AFTER_MESSAGES,
        }
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Bytes of a sealed datagram that carries `plaintext_len` bytes.
pub const fn sealed_len(plaintext_len: usize) -> usize {
    TRANSPORT_HEADER_LEN + plaintext_len.next_multiple_of(PADDING_MULTIPLE) + TAG_LEN
}

/// The sending half of a keypair: shared by every outbound half, read-only but for its counter.
#[derive(Debug)]
pub struct SealingKey {
    id: KeypairId,
    /// The peer's index.
    receiver: ReceiverIndex,
    key: AeadKey,
    born: Instant,
    initiator: bool,
    /// The next counter nobody reserved. Never decreases, never passes the limit.
    next: AtomicU64,
    /// Control has heard that it wants a successor.
    told: AtomicBool,
}

impl SealingKey {
    pub(crate) fn new(
        id: KeypairId,
        receiver: ReceiverIndex,
        key: AeadKey,
        born: Instant,
        initiator: bool,
    ) -> Self {
        Self { id, receiver, key, born, initiator, next: AtomicU64::new(0), told: AtomicBool::new(false) }
    }

    /// The keypair this is half of.
    pub fn id(&self) -> KeypairId {
        self.id
    }

    /// The index the peer finds its half by.
    pub fn receiver_index(&self) -> ReceiverIndex {
        self.receiver
    }

    /// Counters handed out so far.
    pub fn reserved(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether the key is too old to be used.
    pub fn is_expired(&self, now: Instant) -> bool {
        now.saturating_since(self.born) >= REJECT_AFTER_TIME
    }

    /// Reserves `n` counters for one batch; numbers that are then not used are skipped, never reused.
    /// `None` if the key is 180 s old or has fewer than `n` numbers left: then a new handshake is needed.
    pub fn reserve(&self, n: u32, now: Instant) -> Option<Range<u64>> {
        if self.is_expired(now) {
            return None;
        }
        let (n, limit) = (u64::from(n), self.key.reject_after_messages());
        // A plain fetch_add could wrap past the limit when many batches meet it; the loop cannot.
        let start = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(n).filter(|&end| end <= limit)
            })
            .ok()?;
        Some(start..start + n)
    }

    /// Whether `n` more counters can be had now. What it says may be outdated at once: [`SealingKey::reserve`] decides.
    pub fn has_room(&self, n: u32, now: Instant) -> bool {
        let left = self.key.reject_after_messages().saturating_sub(self.reserved());
        left >= u64::from(n) && !self.is_expired(now)
    }

    /// Whether so many messages were sealed that the key wants a successor.
    pub fn is_worn(&self) -> bool {
        self.reserved() >= self.key.rekey_after_messages()
    }

    /// Whether control should hear ([`super::Session::handle_wake`]) that this key wants a successor: it is worn, or
    /// we are the initiator and it is 120 s old.
    pub fn needs_rekey(&self, now: Instant) -> bool {
        self.is_worn() || self.initiator && now.saturating_since(self.born) >= REKEY_AFTER_TIME
    }

    /// Control is about to hear that [`Self::needs_rekey`]: true for the first who says so.
    pub fn note_told(&self) -> bool {
        !self.told.load(Ordering::Relaxed) && !self.told.swap(true, Ordering::Relaxed)
    }

    /// It could not be told.
    pub fn forget_told(&self) {
        self.told.store(false, Ordering::Relaxed);
    }

    /// Seals one packet in place under a reserved `counter` and returns the datagram's length.
    ///
    /// ```text
    /// in   │ 16 bytes of room │ plaintext │ room: padding to 16, tag 16 │
    /// out  │ header           │ ciphertext of plaintext ‖ 0…0 │ tag     │
    /// ```
    ///
    /// # Panics
    /// If `buf` is shorter than [`sealed_len`]`(plaintext_len)`.
    pub fn seal(&self, counter: u64, buf: &mut [u8], plaintext_len: usize) -> usize {
        let total = sealed_len(plaintext_len);
        let (header, rest) = buf[..total].split_first_chunk_mut().expect("the header fits");
        TransportHeader { receiver: self.receiver, counter }.encode(header);
        let (body, tag) = rest.split_last_chunk_mut::<TAG_LEN>().expect("the tag fits");
        body[plaintext_len..].fill(0);
        *tag = self.key.seal(counter, body);
        total
    }

    /// As a key that has sent `next` messages, for tests at the limits.
    #[cfg(test)]
    pub(crate) fn set_next(&self, next: u64) {
        self.next.store(next, Ordering::Relaxed);
    }
}

/// The receiving half of a keypair with its replay window: belongs to one inbound half.
#[derive(Debug)]
pub struct OpeningKey {
    id: KeypairId,
    lane: LaneNo,
    local: ReceiverIndex,
    key: AeadKey,
    born: Instant,
    window: ReplayWindow,
    /// Whether the session waits for a packet under this key.
    unconfirmed: bool,
    authenticated: bool,
}

impl OpeningKey {
    pub(crate) fn new(
        id: KeypairId,
        lane: LaneNo,
        local: ReceiverIndex,
        key: AeadKey,
        born: Instant,
        unconfirmed: bool,
    ) -> Self {
        Self { id, lane, local, key, born, window: ReplayWindow::new(), unconfirmed, authenticated: false }
    }

    /// Our index, by which arriving datagrams name this key.
    pub fn local_index(&self) -> ReceiverIndex {
        self.local
    }

    /// The keypair this is half of.
    pub fn id(&self) -> KeypairId {
        self.id
    }

    /// The lane it opens.
    pub fn lane(&self) -> LaneNo {
        self.lane
    }

    /// Verifies and decrypts a whole datagram in place. The result is the padded payload; empty is a keepalive.
    ///
    /// Age, counter limit and window are checked before any decryption; the window changes only after it.
    ///
    /// # Errors
    /// The one reason to drop it; the key's state is then unchanged, the datagram's bytes are not.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8], now: Instant) -> Result<&'a mut [u8], DropReason> {
        let header = TransportHeader::parse(datagram)?;
        if header.receiver != self.local {
            return Err(DropReason::UnknownIndex);
        }
        if now.saturating_since(self.born) >= REJECT_AFTER_TIME {
            return Err(DropReason::ExpiredKey);
        }
        if header.counter >= self.key.reject_after_messages() {
            return Err(DropReason::CounterLimit);
        }
        self.window.check(header.counter)?;
        let sealed = &mut datagram[TRANSPORT_HEADER_LEN..];
        let len = self.key.open(header.counter, sealed).ok_or(DropReason::BadTag)?;
        self.window.mark(header.counter)?;
        self.authenticated = true;
        Ok(&mut sealed[..len])
    }

    /// Whether the session waits to see this key confirmed and an authenticated packet has come under it: the inbound
    /// half then tells control, which calls [`super::Session::handle_authenticated`], and takes the confirmation.
    pub fn is_confirmation(&self) -> bool {
        self.unconfirmed && self.authenticated
    }

    /// [`Self::is_confirmation`], and false from now on.
    pub fn take_confirmation(&mut self) -> bool {
        let confirms = self.is_confirmation();
        if confirms {
            self.unconfirmed = false;
        }
        confirms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    type Cipher = fn(&Secret) -> AeadKey;

    const CIPHERS: [Cipher; 2] = [AeadKey::chacha20_poly1305, AeadKey::aes_256_gcm];

    fn pair() -> (SealingKey, OpeningKey) {
        pair_of(AeadKey::chacha20_poly1305)
    }

    fn pair_of(cipher: Cipher) -> (SealingKey, OpeningKey) {
        let secret = Secret::from_bytes([7; 32]);
        let (id, index) = (KeypairId(1), ReceiverIndex(0xa1b2_c3d4));
        let sealing = SealingKey::new(id, index, cipher(&secret), Instant::ZERO, true);
        let opening = OpeningKey::new(id, LaneNo(1), index, cipher(&secret), Instant::ZERO, true);
        (sealing, opening)
    }

    fn sealed(key: &SealingKey, counter: u64, payload: &[u8]) -> Vec<u8> {
        let mut buf = vec![0xee; sealed_len(payload.len())];
        buf[16..16 + payload.len()].copy_from_slice(payload);
        let len = key.seal(counter, &mut buf, payload.len());
        assert_eq!(len, buf.len());
        buf
    }

    #[test]
    fn payloads_come_back_padded_with_zeros_to_sixteen() {
        for cipher in CIPHERS {
            let (sealing, mut opening) = pair_of(cipher);
            for len in 0..100 {
                let payload = vec![0x55; len];
                let counter = sealing.reserve(1, Instant::ZERO).unwrap().start;
                let mut datagram = sealed(&sealing, counter, &payload);
                assert_eq!(datagram.len() % 16, 0);
                let plain = opening.open(&mut datagram, Instant::ZERO).unwrap();
                assert_eq!(plain.len(), len.next_multiple_of(16));
                assert_eq!(plain[..len], payload[..]);
                assert!(plain[len..].iter().all(|&b| b == 0));
            }
        }
    }

    #[test]
    fn no_bit_flip_truncation_or_extension_of_a_packet_is_accepted() {
        for cipher in CIPHERS {
            let (sealing, mut opening) = pair_of(cipher);
            let good = sealed(&sealing, 3, &[0x42; 1_420]);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(opening.open(&mut bad, Instant::ZERO).is_err(), "bit {bit}");
            }
            for len in 0..good.len() {
                assert!(opening.open(&mut good[..len].to_vec(), Instant::ZERO).is_err(), "cut to {len}");
            }
            let longer = [&good[..], &[0]].concat();
            assert_eq!(opening.open(&mut longer.clone(), Instant::ZERO).err(), Some(DropReason::BadTag));
            let mut oversized = good.clone();
            oversized.resize(65_535, 0);
            assert_eq!(opening.open(&mut oversized, Instant::ZERO).err(), Some(DropReason::BadTag));
            assert!(!opening.take_confirmation());
            opening.open(&mut good.clone(), Instant::ZERO).expect("the window did not move");
        }
    }

    #[test]
    fn a_packet_is_accepted_once_and_only_an_authentic_one_moves_the_window() {
        for cipher in CIPHERS {
            let (sealing, mut opening) = pair_of(cipher);
            let good = sealed(&sealing, 9, b"once");
            let mut forged = good.clone();
            forged[8..16].copy_from_slice(&100_000u64.to_le_bytes());
            assert_eq!(opening.open(&mut forged, Instant::ZERO), Err(DropReason::BadTag));
            assert!(opening.open(&mut good.clone(), Instant::ZERO).is_ok());
            assert_eq!(opening.open(&mut good.clone(), Instant::ZERO), Err(DropReason::Replayed));
        }
    }

    #[test]
    fn a_counter_at_the_limit_is_rejected_before_decryption_and_resets_nothing() {
        let limits = [REJECT_AFTER_MESSAGES, AES_REJECT_AFTER_MESSAGES];
        for (cipher, limit) in CIPHERS.into_iter().zip(limits) {
            let (sealing, mut opening) = pair_of(cipher);
            assert!(opening.open(&mut sealed(&sealing, 5, b"five"), Instant::ZERO).is_ok());
            for counter in [limit, limit + 1, u64::MAX] {
                // Authentic, and still refused.
                let mut datagram = sealed(&sealing, counter, b"reset");
                let before = datagram.clone();
                assert_eq!(opening.open(&mut datagram, Instant::ZERO), Err(DropReason::CounterLimit));
                assert_eq!(datagram, before, "not even decrypted");
            }
            assert_eq!(
                opening.open(&mut sealed(&sealing, 5, b"five"), Instant::ZERO),
                Err(DropReason::Replayed)
            );
            assert!(opening.open(&mut sealed(&sealing, limit - 1, b"last"), Instant::ZERO).is_ok());
        }
    }

    #[test]
    fn a_key_is_used_neither_way_after_180_seconds() {
        for cipher in CIPHERS {
            let (sealing, mut opening) = pair_of(cipher);
            let last = Instant::ZERO + REJECT_AFTER_TIME - Instant::from_nanos(1);
            let (last, end) = (Instant::ZERO + last, Instant::ZERO + REJECT_AFTER_TIME);
            let counter = sealing.reserve(2, last).unwrap();
            assert!(sealing.reserve(1, end).is_none());
            assert!(opening.open(&mut sealed(&sealing, counter.start, b"x"), last).is_ok());
            let late = opening.open(&mut sealed(&sealing, counter.start + 1, b"x"), end).err();
            assert_eq!(late, Some(DropReason::ExpiredKey));
            assert!(!sealing.needs_rekey(Instant::ZERO + Duration::from_secs(119)));
            assert!(sealing.needs_rekey(Instant::ZERO + Duration::from_secs(120)));
        }
    }

    #[test]
    fn reservation_stops_at_the_message_limit_and_never_wraps() {
        let limits = [
            (REKEY_AFTER_MESSAGES, REJECT_AFTER_MESSAGES),
            (AES_REKEY_AFTER_MESSAGES, AES_REJECT_AFTER_MESSAGES),
        ];
        for (cipher, (rekey, reject)) in CIPHERS.into_iter().zip(limits) {
            let (sealing, _) = pair_of(cipher);
            sealing.set_next(rekey - 1);
            assert!(!sealing.needs_rekey(Instant::ZERO));
            sealing.set_next(rekey);
            assert!(sealing.needs_rekey(Instant::ZERO));
            sealing.set_next(reject - 3);
            assert_eq!(sealing.reserve(4, Instant::ZERO), None);
            assert!(sealing.has_room(3, Instant::ZERO) && !sealing.has_room(4, Instant::ZERO));
            assert!(!sealing.has_room(1, Instant::ZERO + REJECT_AFTER_TIME));
            let range = sealing.reserve(3, Instant::ZERO).unwrap();
            assert_eq!(range, reject - 3..reject);
            for _ in 0..10_000 {
                assert_eq!(sealing.reserve(u32::MAX, Instant::ZERO), None);
                assert_eq!(sealing.reserve(1, Instant::ZERO), None);
            }
        }
    }

    #[test]
    fn aes_256_gcm_matches_known_answers() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14: key and nonce of zeros.
        let zero = AeadKey::aes_256_gcm(&Secret::from_bytes([0; 32]));
        let mut block = [0; 16];
        let tag = zero.seal(0, &mut block);
        assert_eq!(block[..], hex("cea7403d4d606b6e074ec5d3baf39d18"));
        assert_eq!(tag[..], hex("d0d1c8a799996bf0265b98b5d48ab919"));
    }

    #[test]
    fn the_nonce_is_four_zeros_and_the_counter_little_endian() {
        let counter = 0x0807_0605_0403_0201;
        let expected = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        for (cipher, algorithm) in CIPHERS.into_iter().zip([&CHACHA20_POLY1305, &AES_256_GCM]) {
            let mut ours = *b"sixteen bytes...";
            let tag = cipher(&Secret::from_bytes([7; 32])).seal(counter, &mut ours);
            let key = LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32]).unwrap());
            let mut theirs = b"sixteen bytes...".to_vec();
            let nonce = Nonce::assume_unique_for_key(expected);
            key.seal_in_place_append_tag(nonce, Aad::empty(), &mut theirs).unwrap();
            assert_eq!([&ours[..], &tag].concat(), theirs);
        }
    }

    #[test]
    fn two_threads_never_reserve_the_same_counter() {
        let (sealing, _) = pair();
        let key = &sealing;
        let mut ranges: Vec<Range<u64>> = std::thread::scope(|s| {
            let halves: Vec<_> = (0..2)
                .map(|_| {
                    s.spawn(move || {
                        (0..5_000)
                            .map(|i| key.reserve(i % 64 + 1, Instant::ZERO).unwrap())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            halves.into_iter().flat_map(|h| h.join().unwrap()).collect()
        });
        ranges.sort_by_key(|r| r.start);
        assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
    }

    #[test]
    fn a_confirmation_is_reported_once() {
        let (sealing, mut opening) = pair();
        assert!(!opening.take_confirmation());
        opening.open(&mut sealed(&sealing, 0, b""), Instant::ZERO).unwrap();
        assert!(opening.take_confirmation());
        opening.open(&mut sealed(&sealing, 1, b""), Instant::ZERO).unwrap();
        assert!(!opening.take_confirmation());
    }
}
