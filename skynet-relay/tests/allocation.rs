//! A relayed packet costs no allocation: counted over the whole process while two forwarding threads move a quarter of a
//! million datagrams between sessions of the same and of different threads. The only test of this file, so that nobody
//! else allocates.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skynet_core::key::Secret;
use skynet_core::time::Now;
use skynet_core::wire::relay::{Bind, Class, DataHeader, Frame, Hello, Ticket, bind_key};
use skynet_relay::clock::{Clock, os_rng};
use skynet_relay::io::forward::ForwardThreads;
use skynet_relay::io::group::ThreadSockets;
use skynet_relay::server::{ClusterKeys, ForwardConfig, Forwarder};

const DATAGRAMS: usize = 250_000;
/// In flight at once: half of what a socket holds by default, which counts some 2,300 bytes for each.
const WINDOW: usize = 50;
const NODES: u32 = 8;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// A client bound at the relay, and its session's number.
fn bind(relay: SocketAddr, node_no: u32, cluster_key: &Secret, clock: Clock) -> (UdpSocket, u16) {
    let Now { unix, unix_nanos, .. } = clock.now();
    let ticket = Ticket {
        kid: 1,
        rate_class: 0,
        node_no,
        network_id: *b"networkA",
        not_after: unix.0 + 3600,
        issue_nonce: 1,
        identity_hash: [0; 16],
    };
    let ticket = ticket.mint(cluster_key);
    let key = bind_key(cluster_key, &ticket);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(relay).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (ts_ms, mut buffer) = (unix.0 * 1000 + u64::from(unix_nanos / 1_000_000), [0; 200]);
    socket.send(&Hello { lane: 0, ticket, ts_ms }.encode(&key)).unwrap();
    let len = socket.recv(&mut buffer).unwrap();
    let Ok(Frame::Cookie(cookie)) = Frame::parse(&buffer[..len]) else { panic!("not COOKIE") };
    socket.send(&Bind { lane: 0, ticket, ts_ms, cookie: cookie.cookie }.encode(&key)).unwrap();
    let len = socket.recv(&mut buffer).unwrap();
    let Ok(Frame::Bound(bound)) = Frame::parse(&buffer[..len]) else { panic!("not BOUND") };
    (socket, bound.gen_no)
}

/// A window of datagrams from each node to the next, and all of them received.
fn round(nodes: &[(UdpSocket, u16)], frames: &mut [[u8; 1_200]], buffer: &mut [u8]) {
    for (from, (socket, gen_no)) in nodes.iter().enumerate() {
        let to = (from + 1) % nodes.len();
        let header = DataHeader::new(Class::Bulk, 0, *gen_no, to as u32 + 1).encode();
        frames[from][..header.len()].copy_from_slice(&header);
        for _ in 0..WINDOW {
            socket.send(&frames[from]).unwrap();
        }
        for _ in 0..WINDOW {
            assert_eq!(nodes[to].0.recv(buffer).unwrap(), 1_200);
        }
    }
}

#[test]
fn a_quarter_of_a_million_datagrams_by_two_threads_cost_no_allocation() {
    let (clock, mut rng) = (Clock::new(), os_rng().unwrap());
    let (sockets, _steered) = ThreadSockets::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let addr = sockets[0].bulk().local_addr().unwrap();
    let key = Secret::random(&mut rng);
    let keys = ClusterKeys::new((1, key.clone()), []);
    let parts = Forwarder::parts(2, &ForwardConfig::default(), &keys, &mut rng, clock.now().mono);
    let threads = ForwardThreads::start(sockets, parts, clock).unwrap();
    let nodes: Vec<_> = (1..=NODES).map(|n| bind(addr, n, &key, clock)).collect();
    let mut frames = vec![[0; 1_200]; nodes.len()];
    let mut buffer = [0; 2_048];
    round(&nodes, &mut frames, &mut buffer);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..DATAGRAMS / WINDOW / nodes.len() {
        round(&nodes, &mut frames, &mut buffer);
    }
    let during = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(during, 0, "allocations for {DATAGRAMS} datagrams");
    std::thread::sleep(Duration::from_millis(1_500));
    let forwarded: Vec<_> = threads.stats().iter().map(|stats| stats.counters.forwarded).collect();
    println!("forwarded by each thread: {forwarded:?}, allocations: {during}");
    threads.stop().unwrap();
}
