//! Chunks in any order, lost, forged and late: what is delivered of an honest unit is what was cut, at most once, and
//! nothing is delivered that the table does not allow.

use std::collections::BTreeMap;

use skynet_core::allowed_ips::Prefix;
use skynet_core::chunk::{Chunk, Exit, From, Joiner, MAX_OPEN_PER_KEY, MAX_OPEN_UNITS, Unit};
use skynet_core::drop::DropCounters;
use skynet_core::forwarding::ForwardingTable;
use skynet_core::id::PeerSlot;
use skynet_core::offload::{SuperPacket, VnetHeader};
use skynet_core::receive::Deliver;
use skynet_core::time::{Duration, Instant};
use skynet_core::wire::ip::IpPacket;
use skynet_core::wire::wireguard::ReceiverIndex;

use crate::{Input, offload};

/// Longer scripts only repeat themselves.
const MAX_STEPS: usize = 512;
/// Honest units are cut to this.
const LIMIT: u16 = 136;
/// The key of honest units; forged chunks come under it too, but with counters of their own.
const KEY: ReceiverIndex = ReceiverIndex(1);

/// Delivered packets, cut into segments.
#[derive(Default)]
struct Delivered(Vec<Vec<u8>>);

impl Deliver for Delivered {
    fn deliver(&mut self, packet: &[u8]) {
        assert_eq!(IpPacket::parse(packet).map(|p| p.bytes().len()), Ok(packet.len()));
        self.0.push(packet.to_vec());
    }
    fn deliver_super(&mut self, header: VnetHeader, packet: &[u8]) {
        let whole = SuperPacket::parse(header, packet).expect("the kernel would refuse it");
        assert!(whole.segments() > 1);
        self.0.extend(segments(&whole));
    }
}

fn segments(whole: &SuperPacket<'_>) -> Vec<Vec<u8>> {
    let write = |i| {
        let mut out = vec![0; whole.segment_len(i)];
        whole.write_segment(i, &mut out);
        out
    };
    (0..whole.segments()).map(write).collect()
}

/// Where forged packets may come from.
fn forger() -> Prefix {
    Prefix::new([10, 9, 0, 0].into(), 16).expect("a prefix")
}

/// The table of a node to which the samples may come from their sender, and whatever is forged from another.
fn table() -> ForwardingTable {
    let mut table = ForwardingTable::default();
    for v6 in [false, true] {
        let packet = offload::sample(v6, true);
        let ip = IpPacket::parse(&packet).expect("a sample");
        table.allowed_ips.insert(Prefix::host(ip.source()), PeerSlot(0));
        table.own.push(ip.destination());
    }
    table.allowed_ips.insert(forger(), PeerSlot(1));
    table
}

/// The honest packet number `kind`: a super-packet of each kind, or an ordinary one.
fn honest(kind: u8) -> Vec<u8> {
    match kind % 5 {
        4 => {
            let mut packet = offload::sample(false, true);
            packet.extend([9; 200]);
            offload::complete(&mut packet);
            [&VnetHeader::NONE.encode()[..], &packet].concat()
        }
        kind => offload::super_packet(kind & 1 == 1, kind < 2),
    }
}

/// A script: the next byte says what is done.
pub fn chunk(bytes: &[u8]) -> bool {
    let (mut input, mut now) = (Input(bytes), Instant::ZERO);
    let (mut joiner, table, drops) = (Joiner::new(), table(), DropCounters::new());
    let mut delivered = Delivered::default();
    let mut expected = BTreeMap::<Vec<u8>, usize>::new();
    // An honest unit, the counter it begins with, and which of its chunks have come.
    let (mut packet, mut first, mut came) = (honest(0), 1 << 40, 0u64);
    let mut forged_counter = 0;
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let mut exit = Exit { table: &table, now, deliver: &mut delivered, drops: &drops };
        match input.byte() % 5 {
            0 => {
                packet = honest(input.byte());
                (first, came) = (first + 64, 0);
                let (header, bytes) = VnetHeader::parse(&packet).expect("written by us");
                for segment in segments(&SuperPacket::parse(header, bytes).expect("as read from a device")) {
                    *expected.entry(segment).or_default() += 1;
                }
            }
            1 => {
                let (header, bytes) = VnetHeader::parse(&packet).expect("written by us");
                let whole = SuperPacket::parse(header, bytes).expect("as read from a device");
                let Some(unit) = Unit::cut(&whole, LIMIT) else { continue };
                let i = usize::from(input.byte()) % unit.chunks();
                // The replay window lets each counter through once.
                if came & 1 << i != 0 || first == 1 << 40 {
                    continue;
                }
                came |= 1 << i;
                let mut out = vec![0; unit.chunk_len(i).next_multiple_of(16)];
                unit.write_chunk(i, &mut out);
                let from = From { index: KEY, slot: PeerSlot(0), counter: first + i as u64, ecn: 0 };
                let chunk = Chunk::parse(&out).expect("cut by us");
                assert_eq!(joiner.add(from, &chunk, now, &mut exit), Ok(()));
            }
            2 => {
                // Under another key: what a member forges under its own is its own affair.
                let index = ReceiverIndex(2 + u32::from(input.byte()));
                forged_counter += 1;
                let from = From { index, slot: PeerSlot(1), counter: forged_counter, ecn: index.0 as u8 & 2 };
                if let Ok(chunk) = Chunk::parse(input.slice()) {
                    let _ = joiner.add(from, &chunk, now, &mut exit);
                }
            }
            3 => {
                now = now + Duration::from_millis(input.byte().into());
                joiner.finish(now, &mut exit);
            }
            _ => joiner.give_way(KEY, &mut exit),
        }
        assert!(joiner.open_units() <= MAX_OPEN_UNITS && MAX_OPEN_PER_KEY <= MAX_OPEN_UNITS);
    }
    let mut exit = Exit { table: &table, now: Instant::ZERO, deliver: &mut delivered, drops: &drops };
    joiner.finish(now, &mut exit);
    let any = !delivered.0.is_empty();
    for segment in delivered.0 {
        let ip = IpPacket::parse(&segment).expect("checked when it was delivered");
        assert!(table.own.contains(&ip.destination()));
        if forger().contains(ip.source()) {
            continue;
        }
        let left = expected.get_mut(&segment).expect("nobody cut this");
        *left = left.checked_sub(1).expect("delivered twice");
    }
    any
}
