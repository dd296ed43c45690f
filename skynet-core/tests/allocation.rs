//! The packet's way allocates nothing: counted over a million packets each way, and as many again with the shortest.
//!
//! Every allocation of the process goes through a counter that is on only while a batch is in the hands of a worker's
//! half, and only on the thread that drives it. What comes first is left out on purpose: tables of the batch grow to
//! their size once. There is no lock to count: nothing in `send.rs` and `receive.rs` can wait for another thread, what
//! is shared are atomics and an immutable snapshot.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use skynet_core::batch::SendBatch;
use skynet_core::drop::DropCounters;
use skynet_core::forwarding::{DataPath, ForwardingTable, PathActivity, PeerEntry};
use skynet_core::id::{Generation, PeerSlot, PortNo};
use skynet_core::key::{PublicKey, StaticSecret};
use skynet_core::receive::{Deliver, Inbound};
use skynet_core::rng::Rng;
use skynet_core::send::{Outbound, Sent};
use skynet_core::session::{
    Context, Engine, IndexAllocator, LocalKey, OpeningKey, PeerPsk, SealingKey, Session, SessionConfig,
    SessionEvent, Tai64n, TimestampClock, consume_initiation,
};
use skynet_core::time::{Duration, Instant, Now, UnixTime};
use skynet_core::wire::ip::udp_v4;
use skynet_core::wire::wireguard::Message;
use skynet_core::worker::{ControlSink, InboundCommand, ToControl};

const PACKETS: usize = 1_000_000;
/// One drain of a TUN queue.
const DRAIN: usize = 64;

// ── The counter ────────────────────────────────────────────────────────────────────────────────────────────────────

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    // No destructor and a constant start: this itself never allocates.
    if IS_COUNTING.with(Cell::get) {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: every call goes unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // What is freed per packet was allocated per packet.
        note();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How often `f` allocates, reallocates and frees.
fn allocations<R>(f: impl FnOnce() -> R) -> (R, u64) {
    ALLOCATIONS.set(0);
    IS_COUNTING.set(true);
    let result = f();
    IS_COUNTING.set(false);
    (result, ALLOCATIONS.get())
}

#[test]
fn the_counter_counts() {
    let (_, none) = allocations(|| 1 + 1);
    let (boxed, one) = allocations(|| Box::new([0; 100]));
    let ((), freed) = allocations(|| drop(boxed));
    assert_eq!((none, one, freed), (0, 1, 1));
}

// ── Two nodes that have a session ──────────────────────────────────────────────────────────────────────────────────

const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SLOT: PeerSlot = PeerSlot(0);

fn at(step: u64) -> Now {
    Now { mono: Instant::from_nanos(1 + step), unix: UnixTime(1_800_000_000), unix_nanos: 0 }
}

/// One end of a handshake.
struct End {
    local: LocalKey,
    indices: IndexAllocator,
    timestamps: TimestampClock,
    rng: Rng,
    session: Session,
    opening: Option<OpeningKey>,
    sealing: Option<Arc<SealingKey>>,
    sent: VecDeque<Vec<u8>>,
}

impl End {
    fn new(seed: u8, peer: u8) -> Self {
        let key = |seed| StaticSecret::from_bytes([seed; 32]);
        let config = SessionConfig {
            peer: PublicKey(key(peer).public().0),
            psk: PeerPsk::stock(None),
            persistent_keepalive: None,
            certified: true,
            greatest_timestamp: Tai64n::ZERO,
        };
        Self {
            local: LocalKey::new(key(seed), Engine::Noise),
            indices: IndexAllocator::new(),
            timestamps: TimestampClock::default(),
            rng: Rng::from_seed([seed; 32]),
            session: Session::new(config),
            opening: None,
            sealing: None,
            sent: VecDeque::new(),
        }
    }

    fn control(&mut self, f: impl FnOnce(&mut Session, &mut Context<'_>)) {
        let mut cx = Context {
            local: &self.local,
            indices: &mut self.indices,
            timestamps: &mut self.timestamps,
            rng: &mut self.rng,
        };
        f(&mut self.session, &mut cx);
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::InstallOpening(key) => {
                    let index = key.local_index();
                    self.opening = Some(key);
                    self.session.opening_installed(index, at(1).mono, &mut cx);
                }
                SessionEvent::UseSealing(key) => self.sealing = Some(key),
                _ => {}
            }
        }
        self.sent.extend(std::iter::from_fn(|| self.session.poll_transmit()).map(|message| message.to_vec()));
    }

    fn handle(&mut self, datagram: &[u8]) {
        match Message::parse(datagram).unwrap() {
            Message::Initiation(message) => {
                let pending = consume_initiation(&self.local, &message, &mut self.rng).unwrap();
                self.control(|session, cx| session.handle_initiation(pending, at(1), cx).unwrap());
            }
            Message::Response(message) => {
                self.control(|session, cx| session.handle_response(&message, at(1), cx).unwrap());
            }
            _ => {}
        }
    }
}

/// The sending key of one node and the receiving key of the other.
fn keys() -> (Arc<SealingKey>, OpeningKey) {
    let (mut a, mut b) = (End::new(3, 4), End::new(4, 3));
    a.control(|session, cx| session.initiate(at(1), cx));
    while let Some(datagram) = a.sent.pop_front() {
        b.handle(&datagram);
        while let Some(datagram) = b.sent.pop_front() {
            a.handle(&datagram);
        }
    }
    (a.sealing.expect("the initiator may seal"), b.opening.expect("the responder opens"))
}

/// What a worker of `own` knows that talks to `peer`.
fn table(own: Ipv4Addr, peer: Ipv4Addr, sealing: Option<Arc<SealingKey>>) -> Arc<ForwardingTable> {
    let activity = Arc::new(PathActivity::default());
    let path =
        DataPath { port: PortNo(0), to: endpoint(), relay_header: None, activity: Arc::clone(&activity) };
    let entry = PeerEntry {
        slot: SLOT,
        generation: Generation(0),
        node_no: None,
        sealing,
        path: Some(path),
        bulk: Vec::new(),
        activity: Arc::default(),
        direct: activity,
        relayed: Arc::default(),
    };
    let mut table = ForwardingTable {
        peers: vec![Some(Arc::new(entry))],
        own: vec![IpAddr::V4(own)],
        ..Default::default()
    };
    table.allowed_ips.insert(skynet_core::allowed_ips::Prefix::host(IpAddr::V4(peer)), SLOT);
    Arc::new(table)
}

fn endpoint() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 41_820))
}

/// Control's queues; what they hold is dropped uncounted by the test.
#[derive(Default)]
struct Offered(u64);

impl ControlSink for Offered {
    fn offer(&mut self, _: ToControl) -> bool {
        self.0 += 1;
        true
    }
}

#[derive(Default)]
struct Delivered {
    packets: u64,
    bytes: u64,
}

impl Deliver for Delivered {
    fn deliver(&mut self, packet: &[u8]) {
        self.packets += 1;
        self.bytes += packet.len() as u64;
    }
}

// ── The proof ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Sends `packets` in drains of [`DRAIN`], every way from sealing to delivery; what each half allocated.
fn both_ways(sizes: &[usize], packets: usize) -> (u64, u64) {
    let (sealing, opening) = keys();
    let (near, far) = (table(OURS, THEIRS, Some(sealing)), table(THEIRS, OURS, None));
    let drops = Arc::new(DropCounters::new());
    let mut outbound = Outbound::new(Arc::clone(&drops));
    let mut inbound = Inbound::new(PortNo(0), Arc::clone(&drops));
    let (mut control, mut delivered) = (Offered::default(), Delivered::default());
    inbound.handle_command(
        InboundCommand::Install { key: Box::new(opening), slot: SLOT, generation: Generation(0) },
        &mut control,
    );
    let payload = vec![0xa5; 1_400];
    let ready: Vec<_> = sizes.iter().map(|&n| udp_v4(OURS, THEIRS, (7, 8), &payload[..n])).collect();
    let mut batch = SendBatch::default();
    let mut wire = Vec::with_capacity(DRAIN * 1_500);
    let (mut out, mut back, mut sent) = (0, 0, 0);
    while sent < packets {
        let now = at(1 + sent as u64).mono + Duration::from_millis(1);
        let ((), counted) = allocations(|| {
            outbound.begin(now, &near, DRAIN);
            for k in 0..DRAIN {
                let packet = &ready[(sent + k) % ready.len()];
                let done = outbound.handle_packet(packet, &mut batch, &mut control);
                assert_eq!(done, Sent::Done, "a drain fits one batch");
            }
        });
        // The first drains bring tables to their size.
        out += if sent < 16 * DRAIN { 0 } else { counted };
        wire.clear();
        let mut segments = Vec::new();
        for train in batch.trains() {
            for segment in train.bytes.chunks(train.segment) {
                segments.push(wire.len()..wire.len() + segment.len());
                wire.extend_from_slice(segment);
            }
        }
        let ((), counted) = allocations(|| {
            inbound.begin(now, &far);
            for segment in segments.drain(..) {
                inbound.handle_datagram(endpoint(), &mut wire[segment], &mut delivered, &mut control);
            }
        });
        back += if sent < 16 * DRAIN { 0 } else { counted };
        batch.clear();
        sent += DRAIN;
    }
    assert_eq!((delivered.packets, drops.total()), (sent as u64, 0), "{:?}", drops.snapshot());
    (out, back)
}

#[test]
fn a_million_packets_each_way_cost_no_allocation() {
    assert_eq!(both_ways(&[1_300], PACKETS), (0, 0));
}

#[test]
fn packets_of_mixed_sizes_cost_none_either() {
    assert_eq!(both_ways(&[0, 1, 36, 1_280, 512, 1_300, 1_300, 1_300], PACKETS / 5), (0, 0));
}
