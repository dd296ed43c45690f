//! Cut, lost, late and joined: what is delivered is what was sent, less what was lost.

use core::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::allowed_ips::Prefix;
use crate::drop::{DropCounters, DropReason};
use crate::forwarding::ForwardingTable;
use crate::id::PeerSlot;
use crate::offload::samples::{Collect, Sample};
use crate::offload::{Coalescer, Offloads, SuperPacket, VnetHeader, checksum, ecn};
use crate::receive::Deliver;
use crate::time::{Duration, Instant};
use crate::wire::wireguard::ReceiverIndex;

const LIMIT: u16 = 368;
const KEY: ReceiverIndex = ReceiverIndex(7);

impl Deliver for Collect {
    fn deliver(&mut self, packet: &[u8]) {
        self.0.push((VnetHeader::NONE, packet.to_vec()));
    }
    fn deliver_super(&mut self, header: VnetHeader, packet: &[u8]) {
        self.0.push((header, packet.to_vec()));
    }
}

/// The receiving end: peer 1 owns what the samples come from, they go to us.
struct World {
    joiner: Joiner,
    table: ForwardingTable,
    drops: DropCounters,
    out: Collect,
    now: Instant,
    /// The counter of the next message.
    counter: u64,
}

impl World {
    fn new() -> Self {
        let address = |last: u8| -> [IpAddr; 2] {
            let mut v6 = [0; 16];
            (v6[0], v6[15]) = (10, last);
            [[10, 0, 0, last].into(), v6.into()]
        };
        let mut table = ForwardingTable { own: address(2).to_vec(), ..ForwardingTable::default() };
        for source in address(1) {
            let width = if source.is_ipv4() { 32 } else { 128 };
            table.allowed_ips.insert(Prefix::new(source, width).unwrap(), PeerSlot(1));
        }
        let (joiner, drops, out) = (Joiner::new(), DropCounters::new(), Collect::default());
        Self { joiner, table, drops, out, now: Instant::ZERO, counter: 0 }
    }

    fn add(&mut self, from: From, bytes: &[u8]) -> Result<(), DropReason> {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(16), 0);
        let mut exit =
            Exit { table: &self.table, now: Instant::ZERO, deliver: &mut self.out, drops: &self.drops };
        self.joiner.add(from, &Chunk::parse(&padded)?, self.now, &mut exit)
    }

    /// Gives chunk `i` of a unit that begins at counter `first`.
    fn give(&mut self, unit: &Unit<'_>, first: u64, i: usize) -> Result<(), DropReason> {
        let counter = first + i as u64;
        self.add(From { index: KEY, slot: PeerSlot(1), counter, ecn: 0 }, &chunk(unit, i))
    }

    /// Gives these chunks of a new unit.
    fn give_all(&mut self, unit: &Unit<'_>, chunks: impl IntoIterator<Item = usize>) {
        let first = self.counter;
        self.counter += unit.chunks() as u64;
        chunks.into_iter().for_each(|i| self.give(unit, first, i).unwrap());
    }

    fn finish(&mut self) {
        let mut exit =
            Exit { table: &self.table, now: Instant::ZERO, deliver: &mut self.out, drops: &self.drops };
        self.joiner.finish(self.now, &mut exit);
    }

    fn missing(&self) -> u64 {
        self.drops.get(DropReason::ChunkMissing)
    }
}

fn chunk(unit: &Unit<'_>, i: usize) -> Vec<u8> {
    // Old bytes around it must not matter.
    let mut bytes = vec![0xa5; unit.chunk_len(i) + 3];
    let len = unit.write_chunk(i, &mut bytes);
    bytes.truncate(len);
    bytes
}

/// A super-packet of `n` segments.
fn joined(sample: Sample, n: usize) -> (VnetHeader, Vec<u8>) {
    let mut written = Collect::default();
    let mut coalescer = Coalescer::new(Offloads::ALL);
    sample.flow(n).iter().for_each(|p| coalescer.push(p, &mut written));
    coalescer.flush(&mut written);
    assert_eq!(written.0.len(), 1);
    written.0.remove(0)
}

fn segments(whole: &SuperPacket<'_>) -> Vec<Vec<u8>> {
    let write = |i| {
        let mut out = vec![0; whole.segment_len(i)];
        whole.write_segment(i, &mut out);
        out
    };
    (0..whole.segments()).map(write).collect()
}

/// Which segments of `whole` have all their bytes and the headers in these chunks.
fn complete(whole: &SuperPacket<'_>, chunks: &[usize]) -> Vec<Vec<u8>> {
    let share = usize::from(LIMIT) - CHUNK_HEADER_LEN;
    let has = |from: usize, to: usize| (from..to).all(|at| chunks.contains(&(at / share)));
    let all = segments(whole);
    let ready = |i: &usize| has(0, whole.header_len()) && has(whole.offset(*i), whole.offset(*i + 1));
    (0..all.len()).filter(ready).map(|i| all[i].clone()).collect()
}

#[test]
fn a_unit_becomes_the_super_packet_it_was_cut_from_in_one_write() {
    for sample in Sample::KINDS {
        let (header, packet) = joined(sample, 7);
        let whole = SuperPacket::parse(header, &packet).unwrap();
        for limit in [LIMIT, 1_360, 8_000] {
            let mut world = World::new();
            let unit = Unit::cut(&whole, limit).unwrap();
            world.give_all(&unit, 0..unit.chunks());
            assert_eq!(world.out.0, [(header, packet.clone())], "{sample:?}");
            assert!(world.joiner.is_idle() && world.drops.total() == 0);
        }
    }
}

#[test]
fn what_has_few_segments_and_fits_is_not_cut_and_neither_is_what_is_too_long() {
    for sample in Sample::KINDS {
        for n in [1, 2, 3] {
            let (header, packet) = joined(sample, n);
            let whole = SuperPacket::parse(header, &packet).unwrap();
            assert_eq!(Unit::cut(&whole, 1_360).is_some(), n >= MIN_SEGMENTS);
            assert!(Unit::cut(&whole, LIMIT).is_some(), "too large for the path");
            assert!(Unit::cut(&whole, 8 + MIN_SHARE - 1).is_none());
            assert!(Unit::cut(&whole, 0).is_none());
        }
        let (header, packet) = joined(sample, 50);
        assert!(Unit::cut(&SuperPacket::parse(header, &packet).unwrap(), 640).is_none());
    }
}

#[test]
fn a_lost_chunk_costs_the_segments_it_has_bytes_of() {
    for sample in Sample::KINDS {
        let (header, packet) = joined(sample, 9);
        let whole = SuperPacket::parse(header, &packet).unwrap();
        let unit = Unit::cut(&whole, LIMIT).unwrap();
        for lost in 0..unit.chunks() {
            let mut world = World::new();
            let chunks: Vec<_> = (0..unit.chunks()).filter(|i| *i != lost).collect();
            world.give_all(&unit, chunks.clone());
            assert!(world.out.0.is_empty());
            world.finish();
            let delivered = world.out.split();
            assert_eq!(delivered, complete(&whole, &chunks));
            assert_eq!(delivered.len(), if lost == 0 { 0 } else { 9 - (9 - delivered.len()).clamp(1, 2) });
            assert!(world.out.0.len() <= 2);
        }
    }
}

#[test]
fn flags_that_begin_or_end_something_stay_where_they_were() {
    for sample in Sample::KINDS.into_iter().filter(|s| s.tcp) {
        let (header, mut packet) = joined(sample, 9);
        packet[usize::from(header.csum_start) + 13] = 0xf9; // CWR, ECE, URG, ACK, PSH, FIN.
        let whole = SuperPacket::parse(header, &packet).unwrap();
        let unit = Unit::cut(&whole, LIMIT).unwrap();
        for lost in 0..unit.chunks() {
            let mut world = World::new();
            let chunks: Vec<_> = (0..unit.chunks()).filter(|i| *i != lost).collect();
            world.give_all(&unit, chunks.clone());
            world.finish();
            assert_eq!(world.out.split(), complete(&whole, &chunks));
            let marked: Vec<bool> = world.out.0.iter().map(|(h, _)| h.gso_ecn).collect();
            assert!(marked.iter().skip(1).all(|m| !m), "CWR is in the first only");
        }
    }
}

#[test]
fn a_late_chunk_completes_what_waited_for_it_and_nothing_twice() {
    for sample in Sample::KINDS {
        let (header, packet) = joined(sample, 9);
        let whole = SuperPacket::parse(header, &packet).unwrap();
        let unit = Unit::cut(&whole, LIMIT).unwrap();
        for late in 0..unit.chunks() {
            let mut world = World::new();
            world.give_all(&unit, (0..unit.chunks()).filter(|i| *i != late));
            world.finish();
            world.finish();
            world.give(&unit, 0, late).unwrap();
            world.finish();
            let mut delivered = world.out.split();
            let mut expected = segments(&whole);
            delivered.sort();
            expected.sort();
            assert_eq!(delivered, expected);
            assert!(world.joiner.is_idle() && world.drops.total() == 0);
        }
    }
}

#[test]
fn nothing_is_delivered_of_a_packet_that_is_not_its_senders_or_not_for_us() {
    let to = |last: u8| {
        let (header, mut packet) = joined(Sample::KINDS[0], 5);
        packet[19] = last;
        (header, packet)
    };
    let from_elsewhere = joined(Sample::KINDS[0].reversed(), 5);
    for ((header, packet), reason) in
        [(from_elsewhere, DropReason::SourceNotAllowed), (to(9), DropReason::NotForUs)]
    {
        let whole = SuperPacket::parse(header, &packet).unwrap();
        let unit = Unit::cut(&whole, LIMIT).unwrap();
        let mut world = World::new();
        world.give_all(&unit, 0..unit.chunks() - 1);
        world.finish();
        world.finish();
        world.give(&unit, 0, unit.chunks() - 1).unwrap();
        assert!(world.out.0.is_empty());
        assert_eq!((world.drops.get(reason), world.drops.total()), (1, 1));
    }
}

#[test]
fn congestion_met_by_any_chunk_is_told_to_the_packet() {
    for sample in Sample::KINDS {
        let (header, packet) = joined(sample, 5);
        let whole = SuperPacket::parse(header, &packet).unwrap();
        let unit = Unit::cut(&whole, LIMIT).unwrap();
        for (inner, marked) in [(packet.clone(), 3), (packet.clone(), unit.chunks())] {
            let mut world = World::new();
            for i in 0..unit.chunks() {
                let ecn = if i == marked { ecn::CE } else { ecn::ECT_0 };
                let from = From { index: KEY, slot: PeerSlot(1), counter: i as u64, ecn };
                world.add(from, &chunk(&unit, i)).unwrap();
            }
            let expected = if marked < unit.chunks() { ecn::CE } else { ecn::codepoint(&inner) };
            for segment in world.out.split() {
                assert_eq!(ecn::codepoint(&segment), expected);
                let sound = sample.v6 || checksum::fold(checksum::sum(0, &segment[..20])) == 0xffff;
                assert!(sound, "header checksum");
            }
            assert_eq!(world.out.0.len(), 1);
        }
    }
}

#[test]
fn a_third_unit_ends_the_first_and_time_ends_all() {
    let (header, packet) = joined(Sample::KINDS[0], 5);
    let whole = SuperPacket::parse(header, &packet).unwrap();
    let unit = Unit::cut(&whole, LIMIT).unwrap();
    let n = unit.chunks();
    let mut world = World::new();
    world.give_all(&unit, 0..n - 1);
    world.give_all(&unit, 0..n - 2);
    assert_eq!((world.missing(), world.out.split().len()), (0, 4), "what came before goes before");
    world.give_all(&unit, 0..n - 1);
    assert_eq!(world.missing(), 1);
    world.now = Instant::ZERO + (UNIT_LIFETIME - Duration::from_nanos(1));
    world.finish();
    assert_eq!(world.missing(), 1);
    world.now = Instant::ZERO + UNIT_LIFETIME;
    world.finish();
    assert_eq!((world.missing(), world.joiner.is_idle()), (1 + 2 + 1, true));
    assert_eq!(world.out.split().len(), 4 + 4 + 4);
    // Its buffers are used again.
    world.give_all(&unit, 0..n);
    assert_eq!(world.out.0.last(), Some(&(header, packet.clone())));
}

#[test]
fn many_keys_share_a_bounded_number_of_units() {
    let (header, packet) = joined(Sample::KINDS[0], 5);
    let whole = SuperPacket::parse(header, &packet).unwrap();
    let unit = Unit::cut(&whole, LIMIT).unwrap();
    let mut world = World::new();
    for key in 0..100 {
        let from = From { index: ReceiverIndex(key), slot: PeerSlot(1), counter: 5, ecn: 0 };
        world.add(from, &chunk(&unit, 0)).unwrap();
    }
    let missing_each = unit.chunks() as u64 - 1;
    assert_eq!(world.missing(), (100 - MAX_OPEN_UNITS as u64) * missing_each);
    for key in 0..100 {
        world.joiner.forget(ReceiverIndex(key), &world.drops);
    }
    assert_eq!((world.missing(), world.joiner.is_idle()), (100 * missing_each, true));
}

#[test]
fn a_chunk_that_contradicts_its_unit_is_refused_and_harms_none_of_it() {
    let (header, packet) = joined(Sample::KINDS[0], 5);
    let whole = SuperPacket::parse(header, &packet).unwrap();
    let unit = Unit::cut(&whole, LIMIT).unwrap();
    let other = Unit::cut(&whole, LIMIT + 16).unwrap();
    let mut world = World::new();
    world.give(&unit, 50, 0).unwrap();
    assert_eq!(world.give(&other, 50, 1), Err(DropReason::BadChunk));
    let before_all = From { index: KEY, slot: PeerSlot(1), counter: 0, ecn: 0 };
    assert_eq!(world.add(before_all, &chunk(&unit, 1)), Err(DropReason::BadChunk));
    (1..unit.chunks()).for_each(|i| world.give(&unit, 50, i).unwrap());
    assert_eq!(world.out.0, [(header, packet.clone())]);
}

#[test]
fn a_super_packet_whose_headers_are_wrong_is_counted_and_dropped() {
    let (header, good) = joined(Sample::KINDS[0], 5);
    let unsegmentable = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    let whole = SuperPacket::parse(header, &good).unwrap();
    let shape_of = Unit::cut(&whole, LIMIT).unwrap();
    for (packet, reason) in [
        (unsegmentable(33, 0x12), DropReason::BadChunk), // SYN.
        (unsegmentable(9, 1), DropReason::BadChunk),     // ICMP.
        (unsegmentable(6, 0x20), DropReason::BadChunk),  // A fragment.
        (unsegmentable(3, good[3] - 1), DropReason::BadChunk),
        (unsegmentable(3, good[3] + 1), DropReason::NotIp),
        (unsegmentable(0, 0x55), DropReason::NotIp),
    ] {
        let mut world = World::new();
        let share = usize::from(LIMIT) - CHUNK_HEADER_LEN;
        for (i, bytes) in packet.chunks(share).enumerate() {
            let mut forged = chunk(&shape_of, i);
            forged[CHUNK_HEADER_LEN..].copy_from_slice(bytes);
            let from = From { index: KEY, slot: PeerSlot(1), counter: i as u64, ecn: 0 };
            world.add(from, &forged).unwrap();
        }
        assert!(world.out.0.is_empty());
        assert_eq!((world.drops.get(reason), world.drops.total()), (1, 1), "{reason}");
    }
}

#[test]
fn an_ordinary_packet_too_large_for_the_path_arrives_whole_or_not_at_all() {
    for sample in Sample::KINDS {
        let good = sample.packet();
        let transport = if sample.v6 { 40 } else { 20 };
        let field = transport + if sample.tcp { 16 } else { 6 };
        let pseudo = {
            let addresses = if sample.v6 { &good[8..40] } else { &good[12..20] };
            let protocol = if sample.tcp { 6 } else { 17 };
            checksum::fold(checksum::pseudo_header(addresses, protocol, good.len() - transport))
        };
        let mut begun = good.clone();
        begun[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        let partial = VnetHeader {
            needs_csum: true,
            csum_start: transport as u16,
            csum_offset: (field - transport) as u16,
            ..VnetHeader::NONE
        };
        for (header, packet) in [(VnetHeader::NONE, &good), (partial, &begun)] {
            let whole = SuperPacket::parse(header, packet).unwrap();
            assert!(Unit::cut(&whole, u16::try_from(packet.len()).unwrap()).is_none());
            let unit = Unit::cut(&whole, LIMIT).unwrap();
            let mut world = World::new();
            world.give_all(&unit, (0..unit.chunks()).rev());
            assert_eq!(world.out.0, [(VnetHeader::NONE, good.clone())]);
            for lost in 0..unit.chunks() {
                world.give_all(&unit, (0..unit.chunks()).filter(|i| *i != lost));
                world.finish();
            }
            assert_eq!(world.out.0.len(), 1);
        }
    }
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let kind = prop::sample::select(Sample::KINDS.to_vec());
    let bits = (any::<u16>(), any::<u32>(), any::<u8>(), 0u8..=10);
    // At least so large that the longest unit has no more than 64 chunks, small enough for several segments in one.
    (kind, bits, 20usize..500).prop_map(|(kind, (id, sequence, fill, options), payload_len)| {
        let options = if kind.tcp { options } else { 0 };
        Sample { id, sequence, fill, options, payload_len, ..kind }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn in_order_with_any_loss_exactly_the_segments_without_a_missing_byte_arrive_once_and_in_order(
        units in prop::collection::vec((any_sample(), 3usize..40, any::<u64>(), any::<u64>(), any::<u64>()), 1..6),
    ) {
        let mut world = World::new();
        let mut expected = Vec::new();
        for (sample, n, lost, also_lost, batch_ends) in units {
            let (header, mut packet) = joined(sample, n);
            if sample.tcp {
                packet[usize::from(header.csum_start) + 13] |= (lost as u8) & 0x89; // CWR, PSH, FIN.
            }
            let whole = SuperPacket::parse(header, &packet).unwrap();
            let unit = Unit::cut(&whole, LIMIT).unwrap();
            let came: Vec<usize> =
                (0..unit.chunks()).filter(|i| lost & also_lost & batch_ends.rotate_left(9) & 1 << i == 0).collect();
            let first = world.counter;
            world.counter += unit.chunks() as u64 + lost % 3;
            for i in &came {
                world.give(&unit, first, *i).unwrap();
                if batch_ends & 1 << i != 0 {
                    world.finish();
                }
            }
            expected.extend(complete(&whole, &came));
            prop_assert!(world.joiner.open_units() <= MAX_OPEN_PER_KEY);
        }
        world.finish();
        prop_assert_eq!(world.out.split(), expected);
    }

    #[test]
    fn in_any_order_every_segment_arrives_at_most_once_and_unchanged(
        sample in any_sample(),
        n in 3usize..40,
        order in any::<[u8; 64]>(),
        lost in any::<(u64, u64)>(),
        batch_ends: u64,
    ) {
        let (header, packet) = joined(sample, n);
        let whole = SuperPacket::parse(header, &packet).unwrap();
        let unit = Unit::cut(&whole, LIMIT).unwrap();
        let mut came: Vec<usize> = (0..unit.chunks()).filter(|i| lost.0 & lost.1 & 1 << i == 0).collect();
        came.sort_by_key(|i| order[*i]);
        let mut world = World::new();
        for i in &came {
            world.give(&unit, 0, *i).unwrap();
            if batch_ends & 1 << i != 0 {
                world.finish();
            }
        }
        world.finish();
        let (mut delivered, mut expected) = (world.out.split(), complete(&whole, &came));
        delivered.sort();
        expected.sort();
        prop_assert_eq!(delivered, expected);
    }
}

#[test]
fn a_unit_is_too_late_after_its_time_even_if_it_would_be_complete() {
    let (header, packet) = joined(Sample::KINDS[2], 5);
    let whole = SuperPacket::parse(header, &packet).unwrap();
    let unit = Unit::cut(&whole, LIMIT).unwrap();
    let mut world = World::new();
    world.give(&unit, 0, 1).unwrap();
    world.now = world.now + UNIT_LIFETIME + Duration::from_millis(1);
    world.finish();
    world.give(&unit, 0, 0).unwrap();
    world.finish();
    assert_eq!(world.out.split(), complete(&whole, &[0]));
}
