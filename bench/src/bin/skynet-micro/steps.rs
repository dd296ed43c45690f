//! The steps. A new one is a function and a line in [`STEPS`].

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use skynet_core::allowed_ips::{AllowedIps, Prefix};
use skynet_core::batch::SendBatch;
use skynet_core::id::PeerSlot;
use skynet_core::offload::{Coalescer, Offloads, SuperPacket, TunSink, VnetHeader};
use skynet_core::receive::Deliver;
use skynet_core::send::Sent;
use skynet_core::session::replay::ReplayWindow;
use skynet_core::session::{SealingKey, sealed_len};

use crate::world::{NOW, Sink, World};

/// The largest count; two counts below it are compared.
pub(crate) const MAX_COUNT: usize = 2048;
/// An inner packet that fills a datagram over a path of 1,420 bytes.
const PACKET_BYTES: usize = 1360;
/// Packets between two looks at the clock and the snapshot.
const BATCH: usize = 32;
/// Packets the kernel hands over as one: about 54 KiB.
const TRAIN: usize = 40;

impl TunSink for Sink {
    fn write(&mut self, header: VnetHeader, packet: &[u8]) {
        black_box((header, packet));
    }
}

/// One step of the packet's way.
pub(crate) struct Step {
    /// Its name on the command line and in the baseline.
    pub(crate) name: &'static str,
    /// Bytes of inner packet per call; 0 if it handles none.
    pub(crate) payload_bytes: usize,
    /// Makes what it needs, and returns what does it for one packet; a train is handled with its first packet.
    pub(crate) prepare: fn() -> Box<dyn FnMut()>,
}

/// All of them.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "send", payload_bytes: PACKET_BYTES, prepare: send },
    Step { name: "receive", payload_bytes: PACKET_BYTES, prepare: receive },
    Step { name: "send-train", payload_bytes: PACKET_BYTES, prepare: send_train },
    Step { name: "receive-train", payload_bytes: PACKET_BYTES, prepare: receive_train },
    Step { name: "split", payload_bytes: PACKET_BYTES, prepare: split },
    Step { name: "coalesce", payload_bytes: PACKET_BYTES, prepare: coalesce },
    Step { name: "seal", payload_bytes: PACKET_BYTES, prepare: seal },
    Step { name: "open", payload_bytes: PACKET_BYTES, prepare: open },
    Step { name: "lookup", payload_bytes: 0, prepare: lookup },
    Step { name: "replay", payload_bytes: 0, prepare: replay },
];

/// A packet's whole way out: parse, filter, look up, seal into the batch.
fn send() -> Box<dyn FnMut()> {
    let World { mut sender, receiver: _receiver } = World::new(false);
    let packet = World::new(false).packet(PACKET_BYTES);
    let mut batch = SendBatch::default();
    let mut count = 0;
    Box::new(move || {
        if count % BATCH == 0 {
            black_box(batch.trains().count());
            batch.clear();
            sender.outbound.begin(NOW, &sender.table, BATCH);
        }
        count += 1;
        let packet = black_box(&packet);
        let sent = sender.outbound.handle_packet(VnetHeader::NONE, packet, &mut batch, &mut sender.queues);
        assert_eq!(sent, Sent::Done);
    })
}

/// A datagram's whole way in: session, open, source, filter, deliver.
fn receive() -> Box<dyn FnMut()> {
    let mut world = World::new(false);
    let packet = world.packet(PACKET_BYTES);
    let mut datagrams = world.datagrams(&packet, MAX_COUNT);
    let World { sender, mut receiver } = world;
    receiver.inbound.begin(NOW, &receiver.table);
    let mut count = 0;
    Box::new(move || {
        if count % BATCH == 0 {
            receiver.inbound.finish(&mut receiver.queues);
            receiver.inbound.begin(NOW, &receiver.table);
        }
        let datagram = &mut datagrams[count];
        count += 1;
        receiver.inbound.handle_datagram(sender.address, 0, datagram, &mut Sink, &mut receiver.queues);
    })
}

/// As `send`, of a super-packet of TCP that is split on the way.
fn send_train() -> Box<dyn FnMut()> {
    let world = World::new(false);
    let (header, packet) = world.super_packet(TRAIN, PACKET_BYTES);
    let World { mut sender, receiver: _receiver } = world;
    let mut batch = SendBatch::default();
    let mut count = 0;
    Box::new(move || {
        if count % TRAIN == 0 {
            batch.clear();
            sender.outbound.begin(NOW, &sender.table, 1);
            let packet = black_box(&packet);
            let sent = sender.outbound.handle_packet(header, packet, &mut batch, &mut sender.queues);
            assert_eq!(sent, Sent::Done);
        }
        count += 1;
    })
}

/// What arrives is joined again.
struct Joined(Coalescer);

impl Deliver for Joined {
    fn deliver(&mut self, packet: &[u8]) {
        self.0.push(packet, &mut Sink);
    }
}

/// As `receive`, of the segments of a super-packet, which are joined again.
fn receive_train() -> Box<dyn FnMut()> {
    let mut world = World::new(false);
    let (header, packet) = world.super_packet(TRAIN, PACKET_BYTES);
    let mut datagrams = Vec::with_capacity(MAX_COUNT);
    while datagrams.len() < MAX_COUNT {
        for segment in segments(header, &packet) {
            datagrams.extend(world.datagrams(&segment, 1));
        }
    }
    let World { sender, mut receiver } = world;
    let mut joined = Joined(Coalescer::new(Offloads::ALL));
    let mut count = 0;
    receiver.inbound.begin(NOW, &receiver.table);
    Box::new(move || {
        let datagram = &mut datagrams[count];
        receiver.inbound.handle_datagram(sender.address, 0, datagram, &mut joined, &mut receiver.queues);
        count += 1;
        if count % TRAIN == 0 {
            joined.0.flush(&mut Sink);
            receiver.inbound.finish(&mut receiver.queues);
            receiver.inbound.begin(NOW, &receiver.table);
        }
    })
}

/// A super-packet into packets, without sealing them.
fn split() -> Box<dyn FnMut()> {
    let (header, packet) = World::new(false).super_packet(TRAIN, PACKET_BYTES);
    let (mut out, mut count) = (vec![0; PACKET_BYTES], 0);
    Box::new(move || {
        if count % TRAIN == 0 {
            let whole = SuperPacket::parse(header, black_box(&packet)).expect("it is one");
            for segment in 0..whole.segments() {
                black_box(whole.write_segment(segment, &mut out));
            }
        }
        count += 1;
    })
}

/// Packets into a super-packet.
fn coalesce() -> Box<dyn FnMut()> {
    let (header, packet) = World::new(false).super_packet(TRAIN, PACKET_BYTES);
    let packets = segments(header, &packet);
    let (mut coalescer, mut count) = (Coalescer::new(Offloads::ALL), 0);
    Box::new(move || {
        coalescer.push(black_box(&packets[count % TRAIN]), &mut Sink);
        count += 1;
        if count % TRAIN == 0 {
            coalescer.flush(&mut Sink);
        }
    })
}

fn segments(header: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let whole = SuperPacket::parse(header, packet).expect("it is one");
    let segment = |i| {
        let mut out = vec![0; whole.segment_len(i)];
        whole.write_segment(i, &mut out);
        out
    };
    (0..whole.segments()).map(segment).collect()
}

fn seal() -> Box<dyn FnMut()> {
    let world = World::new(false);
    let peer = world.sender.table.peers[0].as_ref().expect("there is one peer");
    let key: Arc<SealingKey> = Arc::clone(peer.sealing.as_ref().expect("it has a session"));
    let mut buffer = vec![7; sealed_len(PACKET_BYTES)];
    Box::new(move || {
        let counter = key.reserve(1, NOW).expect("the key is fresh").start;
        black_box(key.seal(counter, black_box(&mut buffer), PACKET_BYTES));
    })
}

fn open() -> Box<dyn FnMut()> {
    let mut world = World::new(true);
    let packet = world.packet(PACKET_BYTES);
    let mut datagrams = world.datagrams(&packet, MAX_COUNT);
    let mut key = world.receiver.kept.take().expect("it was kept");
    let mut count = 0;
    Box::new(move || {
        let opened = key.open(black_box(&mut datagrams[count]), NOW).expect("it is authentic");
        count += 1;
        black_box(opened);
    })
}

/// The peer of an address among 1,024 hosts.
fn lookup() -> Box<dyn FnMut()> {
    let mut table = AllowedIps::default();
    let address = |n: u32| Ipv4Addr::from_bits(0x0a00_0000 + n * 7);
    for n in 0..1024 {
        table.insert(Prefix::host(address(n).into()), PeerSlot(n));
    }
    let mut n = 0;
    Box::new(move || {
        n = (n + 389) % 1024;
        black_box(table.lookup(black_box(address(n).into()))).expect("it is there");
    })
}

/// The window, every fourth packet overtaken by three.
fn replay() -> Box<dyn FnMut()> {
    let mut window = ReplayWindow::new();
    let mut count = 0u64;
    Box::new(move || {
        let counter = (count & !3) + [1, 2, 3, 0][(count % 4) as usize];
        count += 1;
        window.check(black_box(counter)).expect("it is new");
        window.mark(counter).expect("it is new");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_runs_more_than_a_batch_long() {
        for step in STEPS {
            let mut once = (step.prepare)();
            for _ in 0..=BATCH.max(TRAIN) {
                once();
            }
        }
    }

    #[test]
    fn a_train_is_split_and_joined_into_one_again() {
        struct Writes(Vec<usize>);
        impl TunSink for Writes {
            fn write(&mut self, _header: VnetHeader, packet: &[u8]) {
                self.0.push(packet.len());
            }
        }
        let (header, packet) = World::new(false).super_packet(TRAIN, PACKET_BYTES);
        let (mut coalescer, mut writes) = (Coalescer::new(Offloads::ALL), Writes(Vec::new()));
        for segment in segments(header, &packet) {
            assert_eq!(segment.len(), PACKET_BYTES);
            coalescer.push(&segment, &mut writes);
        }
        coalescer.flush(&mut writes);
        assert_eq!(writes.0, [packet.len()]);
    }

    #[test]
    fn a_name_is_one_word_and_unique() {
        let names: std::collections::BTreeSet<_> = STEPS.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), STEPS.len());
        assert!(names.iter().all(|name| !name.contains(' ')));
    }
}
