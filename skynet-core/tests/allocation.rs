//! The packet's way allocates nothing: counted over a million packets each way, alone and in super-packets.
//!
//! Every allocation of the process goes through a counter that is on only while a batch is in the hands of a worker's
//! half, and only on the thread that drives it. The first batches are left out: tables grow to their size once. There is no lock to count: nothing in `send.rs` and `receive.rs` can wait for another thread, what
//! is shared are atomics and an immutable snapshot.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use skynet_core::batch::SendBatch;
use skynet_core::drop::DropCounters;
use skynet_core::forwarding::{DataPath, ForwardingTable, Framing, LaneEntry, PathActivity, PeerEntry};
use skynet_core::id::{Generation, LaneNo, NodeNo, PeerSlot, PortNo};
use skynet_core::key::{Identity, PublicKey, Secret, StaticSecret};
use skynet_core::member::{NetworkId, Policy, Rule, Tags};
use skynet_core::offload::{Coalescer, Gso, Offloads, TunSink, VnetHeader};
use skynet_core::policy::{Connections, PeerPolicy};
use skynet_core::receive::{Deliver, Inbound};
use skynet_core::rng::Rng;
use skynet_core::send::{Outbound, Sent};
use skynet_core::session::{
    Context, Engine, IndexAllocator, KeypairId, LaneRoot, LocalKey, OpeningKey, PeerPsk, Role, SealingKey,
    Session, SessionConfig, SessionEvent, Suite, Tai64n, TimestampClock, consume_initiation,
};
use skynet_core::time::{Instant, Now, UnixTime};
use skynet_core::wire::ip::udp_v4;
use skynet_core::wire::wireguard::{Message, ReceiverIndex};
use skynet_core::worker::{ControlSink, InboundCommand, ToControl};

const PACKETS: usize = 1_000_000;
/// The first drains bring the tables of the batch to their size.
const WARM_UP: usize = 16;
/// IPv4, and TCP with time stamps.
const HEADERS: usize = 20 + 32;
/// Of the agent's TUN device.
const MSS: usize = 1_308;

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

/// What a pair talks by.
#[derive(Clone, Copy)]
enum Lane {
    /// WireGuard's session.
    Zero,
    /// A lane for bulk with this cipher and framing.
    One(Suite, Framing),
}

/// The sending key of one node and the receiving key of the other.
fn keys(lane: Lane) -> (Arc<SealingKey>, OpeningKey) {
    let Lane::One(suite, _) = lane else { return session_keys() };
    let index = ReceiverIndex(7);
    let keys = |role| {
        let root = LaneRoot {
            id: KeypairId(1),
            local: ReceiverIndex(6),
            handshake_hash: [5; 32],
            lane_secret: Secret::from_bytes([6; 32]),
            role,
            born: at(1).mono,
        };
        root.derive(1, suite, &[8; 32], Engine::Noise).remove(0)
    };
    let (mut near, mut far) = (keys(Role::Initiator), keys(Role::Responder));
    (near.take_sealing(index).unwrap(), far.take_opening(index).unwrap())
}

fn session_keys() -> (Arc<SealingKey>, OpeningKey) {
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
fn table(
    own: Ipv4Addr,
    peer: Ipv4Addr,
    lane: Lane,
    sealing: Option<Arc<SealingKey>>,
) -> Arc<ForwardingTable> {
    let activity = Arc::new(PathActivity::default());
    let path = DataPath {
        limit: 1_360,
        port: PortNo(0),
        to: endpoint(),
        from: None,
        trains: true,
        relay_header: None,
        activity: Arc::clone(&activity),
    };
    // On a lane for bulk only: a packet on lane 0 would have no key.
    let (sealing, bulk) = match (lane, sealing) {
        (Lane::One(_, framing), Some(sealing)) => (
            None,
            vec![LaneEntry { lane: LaneNo(1), sealing, path: path.clone(), framing, load: Arc::default() }],
        ),
        (_, sealing) => (sealing, Vec::new()),
    };
    let entry = PeerEntry {
        mtu: 1_360,
        most_lanes: 4,
        lane_epoch: 0,
        policy: Some(policy()),
        by_port: Vec::new(),
        slot: SLOT,
        generation: Generation(0),
        node_no: Some(NodeNo(1)),
        sealing,
        path: Some(path),
        bulk,
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

/// TCP and UDP pass, and each packet is looked at.
fn policy() -> Arc<PeerPolicy> {
    let rule = Rule {
        allow: true,
        from: Tags::default(),
        to: Tags::default(),
        services: ["tcp", "udp"].map(|service| service.parse().unwrap()).to_vec(),
    };
    let policy = Policy {
        network_id: NetworkId([0; 8]),
        epoch: 1,
        issued: UnixTime(0),
        signer: Identity([0; 32]),
        allow_by_default: false,
        rules: vec![rule],
    };
    let connections = Arc::new(Connections::new(&mut Rng::from_seed([9; 32])));
    PeerPolicy::new(&policy, &Tags::default(), &Tags::default(), &connections).unwrap()
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

/// The last step as the agent has it: packets are joined, and written.
struct ToTun {
    coalescer: Coalescer,
    written: Written,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Written {
    packets: u64,
    bytes: u64,
    longest: usize,
}

impl Deliver for ToTun {
    fn deliver(&mut self, packet: &[u8]) {
        self.coalescer.push(packet, &mut self.written);
    }
    fn deliver_super(&mut self, header: VnetHeader, packet: &[u8]) {
        self.coalescer.push_super(header, packet, &mut self.written);
    }
}

impl TunSink for Written {
    fn write(&mut self, _: VnetHeader, packet: &[u8]) {
        self.packets += 1;
        self.bytes += packet.len() as u64;
        self.longest = self.longest.max(packet.len());
    }
}

/// TCP over IPv4 as the kernel hands it over: `segments` times [`MSS`] bytes, the checksum left to us.
fn super_packet(segments: usize) -> (VnetHeader, Vec<u8>) {
    let total = u16::try_from(HEADERS + segments * MSS).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet.extend(OURS.octets());
    packet.extend(THEIRS.octets());
    let checksum = !folded(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend((total - 20).to_be_bytes());
    packet.extend([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0]);
    packet.extend(folded(&pseudo).to_be_bytes());
    // Urgent pointer, two no-operations, time stamps.
    packet.extend([0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.extend((0..segments * MSS).map(|i| (i % 251) as u8));
    let header = VnetHeader {
        needs_csum: true,
        gso: Gso::TcpV4,
        hdr_len: HEADERS as u16,
        gso_size: MSS as u16,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHeader::NONE
    };
    (header, packet)
}

/// RFC 1071, of an even number of bytes.
fn folded(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

// ── The proof ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// What the halves of two workers allocated, and what came out.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    outbound: u64,
    inbound: u64,
    written: Written,
}

/// Sends `drains` drains of a TUN queue, every way from sealing to what is written to the other one.
fn both_ways(lane: Lane, drain: &[(VnetHeader, Vec<u8>)], drains: usize) -> Outcome {
    let (sealing, opening) = keys(lane);
    let (near, far) = (table(OURS, THEIRS, lane, Some(sealing)), table(THEIRS, OURS, lane, None));
    let drops = Arc::new(DropCounters::new());
    let flows = Arc::default();
    let mut outbound = Outbound::new(Arc::clone(&drops), Arc::clone(&flows));
    let mut inbound = Inbound::new(PortNo(0), Arc::clone(&drops), Arc::clone(&flows));
    let mut control = Offered::default();
    let mut to_tun = ToTun { coalescer: Coalescer::new(Offloads::ALL), written: Written::default() };
    inbound.handle_command(
        InboundCommand::Install { key: Box::new(opening), slot: SLOT, generation: Generation(0) },
        &mut control,
    );
    let mut batch = SendBatch::default();
    let (mut wire, mut segments) = (Vec::new(), Vec::new());
    let mut outcome = Outcome { outbound: 0, inbound: 0, written: Written::default() };
    for number in 0..drains {
        let now = at(1 + number as u64).mono;
        let ((), sealed) = allocations(|| {
            outbound.begin(now, &near, drain.len());
            for (header, packet) in drain {
                let sent = outbound.handle_packet(*header, packet, &mut batch, &mut control);
                assert_eq!(sent, Sent::Done, "a drain fits one batch");
            }
        });
        carry(&mut batch, &mut wire, &mut segments);
        let ((), opened) = allocations(|| {
            inbound.begin(now, &far);
            for segment in segments.drain(..) {
                inbound.handle_datagram(endpoint(), 0, &mut wire[segment], &mut to_tun, &mut control);
            }
            inbound.finish(&mut to_tun, &mut control);
            to_tun.coalescer.flush(&mut to_tun.written);
        });
        if number >= WARM_UP {
            outcome.outbound += sealed;
            outcome.inbound += opened;
        }
    }
    assert_eq!(drops.total(), 0, "{:?}", drops.snapshot());
    Outcome { written: to_tun.written, ..outcome }
}

/// The network: what is in the batch is on the wire, segment by segment.
fn carry(batch: &mut SendBatch, wire: &mut Vec<u8>, segments: &mut Vec<Range<usize>>) {
    wire.clear();
    for train in batch.trains() {
        for segment in train.bytes.chunks(train.segment) {
            segments.push(wire.len()..wire.len() + segment.len());
            wire.extend_from_slice(segment);
        }
    }
    batch.clear();
}

/// A drain of UDP datagrams with payloads of these sizes, each a flow of its own, so that none are joined.
fn datagrams(sizes: &[usize]) -> Vec<(VnetHeader, Vec<u8>)> {
    let packet = |(port, &size): (u16, &usize)| udp_v4(OURS, THEIRS, (port, 8), &vec![0xa5; size]);
    (1..).zip(sizes).map(packet).map(|packet| (VnetHeader::NONE, packet)).collect()
}

#[test]
fn a_million_packets_cost_no_allocation() {
    let drain = datagrams(&[1_300; 64]);
    let outcome = both_ways(Lane::Zero, &drain, PACKETS / 64);
    let packets = PACKETS as u64;
    let written = Written { packets, bytes: packets * 1_328, longest: 1_328 };
    assert_eq!(outcome, Outcome { outbound: 0, inbound: 0, written });
}

#[test]
fn packets_of_mixed_sizes_cost_none_either() {
    let sizes: Vec<_> = (0..64).map(|k| [0, 1, 36, 1_280, 512, 1_300, 1_300][k % 7]).collect();
    let outcome = both_ways(Lane::Zero, &datagrams(&sizes), PACKETS / 5 / 64);
    assert_eq!((outcome.outbound, outcome.inbound), (0, 0));
}

#[test]
fn a_million_segments_of_super_packets_cost_no_allocation_on_any_lane() {
    const SEGMENTS: usize = 50;
    let drain = [super_packet(SEGMENTS)];
    let lanes = [
        (Lane::Zero, PACKETS),
        (Lane::One(Suite::ChaCha20Poly1305, Framing::Plain), PACKETS / 5),
        (Lane::One(Suite::Aes256Gcm, Framing::Plain), PACKETS / 5),
        (Lane::One(Suite::ChaCha20Poly1305, Framing::Chunks), PACKETS / 5),
        (Lane::One(Suite::Aes256Gcm, Framing::Chunks), PACKETS / 5),
    ];
    for (lane, segments) in lanes {
        let outcome = both_ways(lane, &drain, segments / SEGMENTS);
        let (packets, longest) = ((segments / SEGMENTS) as u64, HEADERS + SEGMENTS * MSS);
        // What was split is joined to what it was.
        let written = Written { packets, bytes: packets * longest as u64, longest };
        assert_eq!(outcome, Outcome { outbound: 0, inbound: 0, written });
    }
}
