//! Who began which flow: for answers that could not begin by themselves.
//!
//! ```text
//! bits 63…31  tag: 33 bits of a keyed hash     30…19  peer's slot     18…2  second of the last packet, modulo 2^17
//! bit  1      TCP                              0      begun by the peer
//! ```
//! 512 KiB of atomics in sets of eight, shared by all threads: nothing in it is locked or allocated. The key is secret, so
//! nobody can choose flows that collide; by chance one in 10^9 flows finds a stranger's entry. An entry that was silent for
//! 36 hours to the second may count once more.

use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Way;
use crate::id::PeerSlot;
use crate::member::policy::TCP;
use crate::rng::{Rng, RngCore as _};
use crate::time::{Duration, Instant};
use crate::wire::ip::IpPacket;

/// Flows remembered. When there would be more in one set of eight, the one silent for longest is forgotten, and counted as
/// [`ConnectionForgotten`](crate::drop::DropReason::ConnectionForgotten) if it was still good.
pub const MAX_CONNECTIONS: usize = 65_536;
const WAYS: usize = 8;
/// RFC 5382 REQ-5: an established TCP connection may be silent for two hours and four minutes.
const TCP_LIFETIME: Duration = Duration::from_secs(7_440);
/// RFC 4787 REQ-5.
const OTHER_LIFETIME: Duration = Duration::from_secs(300);
const SECONDS: u64 = 1 << 17;
const SLOTS: u64 = 1 << 12;

/// The table.
#[derive(Debug)]
pub struct Connections {
    entries: Box<[AtomicU64]>,
    secret: [u64; 2],
}

/// A flow in it, whichever way its packets go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    set: usize,
    tag: u64,
    slot: u64,
    tcp: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u64,
    slot: u64,
    seconds: u64,
    tcp: bool,
    theirs: bool,
}

impl Entry {
    fn decode(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self {
            tag: bits >> 31,
            slot: bits >> 19 & (SLOTS - 1),
            seconds: bits >> 2 & (SECONDS - 1),
            tcp: bits >> 1 & 1 == 1,
            theirs: bits & 1 == 1,
        })
    }

    fn encode(self) -> u64 {
        self.tag << 31
            | self.slot << 19
            | self.seconds << 2
            | u64::from(self.tcp) << 1
            | u64::from(self.theirs)
    }

    fn age(&self, now: u64) -> u64 {
        now.wrapping_sub(self.seconds) & (SECONDS - 1)
    }

    fn is_live(&self, now: u64) -> bool {
        let lifetime = if self.tcp { TCP_LIFETIME } else { OTHER_LIFETIME };
        self.age(now) <= lifetime.as_secs()
    }
}

impl Connections {
    /// An empty table with a key of its own.
    pub fn new(rng: &mut Rng) -> Self {
        let entries = (0..MAX_CONNECTIONS).map(|_| AtomicU64::new(0)).collect();
        Self { entries, secret: [rng.next_u64(), rng.next_u64()] }
    }

    /// The flow of a packet from or to the peer in `slot`.
    pub(super) fn key(
        &self,
        slot: PeerSlot,
        packet: &IpPacket<'_>,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Key {
        let (from, to) = ports.unwrap_or_default();
        let end = |address: IpAddr, port: u16| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), port),
            IpAddr::V6(v6) => (v6.to_bits(), port),
        };
        let (a, b) = (end(packet.source(), from), end(packet.destination(), to));
        // Both directions of a flow are one.
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let ends = u64::from(low.1) << 32 | u64::from(high.1) << 16 | u64::from(protocol) << 8;
        let halves = |(address, _): (u128, u16)| [address as u64, (address >> 64) as u64];
        let mut hash = self.secret[0];
        for word in halves(low).into_iter().chain(halves(high)).chain([ends]) {
            hash = fold(hash ^ word, self.secret[1]);
        }
        Key {
            set: hash as usize % (MAX_CONNECTIONS / WAYS) * WAYS,
            // Never zero: an empty entry is.
            tag: (hash >> 31).max(1),
            slot: u64::from(slot.0) & (SLOTS - 1),
            tcp: protocol == TCP,
        }
    }

    /// A packet that may begin its flow goes this way. True if a flow that was still good had to be forgotten for it.
    pub(super) fn note(&self, key: Key, way: Way, now: Instant) -> bool {
        let seconds = seconds(now);
        let set = &self.entries[key.set..key.set + WAYS];
        let entry = Entry { tag: key.tag, slot: key.slot, seconds, tcp: key.tcp, theirs: way == Way::In };
        let mut victim = (&set[0], 0);
        for place in set {
            let bits = place.load(Relaxed);
            let age = match Entry::decode(bits) {
                None => u64::MAX,
                Some(held) if (held.tag, held.slot) == (key.tag, key.slot) => {
                    // Once a second, so that the line stays shared among cores.
                    if bits != entry.encode() {
                        place.store(entry.encode(), Relaxed);
                    }
                    return false;
                }
                Some(held) if held.is_live(seconds) => held.age(seconds) + 1,
                Some(_) => u64::MAX - 1,
            };
            if age > victim.1 {
                victim = (place, age);
            }
        }
        victim.0.store(entry.encode(), Relaxed);
        victim.1 < u64::MAX - 1
    }

    /// Whether the flow of a packet that goes this way is known to have begun the other way; it is good for longer then.
    pub(super) fn knows(&self, key: Key, way: Way, now: Instant) -> bool {
        let seconds = seconds(now);
        for place in &self.entries[key.set..key.set + WAYS] {
            let bits = place.load(Relaxed);
            let Some(held) = Entry::decode(bits) else { continue };
            if (held.tag, held.slot) != (key.tag, key.slot) {
                continue;
            }
            let known = held.theirs == (way == Way::Out) && held.is_live(seconds);
            if known && held.seconds != seconds {
                place.store(Entry { seconds, ..held }.encode(), Relaxed);
            }
            return known;
        }
        false
    }
}

fn seconds(now: Instant) -> u64 {
    now.as_nanos() / 1_000_000_000 % SECONDS
}

/// The two halves of the product, mixed.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b | 1);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::udp_v4;

    fn at(s: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(s)
    }

    fn key(table: &Connections, ports: (u16, u16), reversed: bool, protocol: u8) -> Key {
        let (mut from, mut to, mut sent) = ([10, 7, 0, 1], [10, 7, 0, 2], ports);
        if reversed {
            (from, to, sent) = (to, from, (ports.1, ports.0));
        }
        let bytes = udp_v4(from.into(), to.into(), sent, b"");
        table.key(PeerSlot(5), &IpPacket::parse(&bytes).unwrap(), protocol, Some(sent))
    }

    fn table() -> Connections {
        Connections::new(&mut Rng::from_seed([4; 32]))
    }

    #[test]
    fn an_answer_is_known_by_its_question_and_by_nothing_else() {
        let table = table();
        let asked = key(&table, (700, 22), false, TCP);
        let answer = key(&table, (700, 22), true, TCP);
        assert!(!table.knows(answer, Way::In, at(0)));
        assert!(!table.note(asked, Way::Out, at(0)));
        assert!(table.knows(answer, Way::In, at(1)));
        assert!(!table.knows(answer, Way::Out, at(1)), "it has begun here, not there");
        for (ports, protocol) in [((701, 22), TCP), ((700, 23), TCP), ((22, 700), TCP), ((700, 22), 17)] {
            assert!(!table.knows(key(&table, ports, true, protocol), Way::In, at(1)), "{ports:?}");
        }
        let other = Key { slot: 6, ..answer };
        assert!(!table.knows(other, Way::In, at(1)), "another peer");
    }

    #[test]
    fn what_is_silent_ends_and_what_is_not_stays() {
        for (protocol, lifetime) in [(TCP, 7_440), (17, 300), (1, 300)] {
            let table = table();
            let (asked, answer) = (key(&table, (7, 9), false, protocol), key(&table, (7, 9), true, protocol));
            table.note(asked, Way::Out, at(0));
            assert!(table.knows(answer, Way::In, at(lifetime)));
            assert!(table.knows(answer, Way::In, at(2 * lifetime)), "answers keep it too");
            assert!(!table.knows(answer, Way::In, at(3 * lifetime + 1)));
        }
    }

    #[test]
    fn of_too_many_the_one_silent_for_longest_is_forgotten_and_told() {
        let table = table();
        let forgotten = (0..u32::try_from(2 * MAX_CONNECTIONS).unwrap())
            .filter(|n| {
                let ports = ((n >> 16) as u16, *n as u16);
                table.note(key(&table, ports, false, 17), Way::Out, at(u64::from(n / 1_000)))
            })
            .count();
        println!("{forgotten} of {} forgotten", 2 * MAX_CONNECTIONS);
        assert!((MAX_CONNECTIONS..MAX_CONNECTIONS * 3 / 2).contains(&forgotten), "{forgotten}");
        let last = u32::try_from(2 * MAX_CONNECTIONS - 1).unwrap();
        let newest = key(&table, ((last >> 16) as u16, last as u16), true, 17);
        assert!(table.knows(newest, Way::In, at(131)));
    }
}
