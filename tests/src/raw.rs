//! UDP over IPv4 with a source of one's choice, by a raw socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::clock;
use crate::lab::Netns;

/// IPPROTO_RAW: the header is ours.
const RAW: i32 = 255;
const UDP: u8 = 17;
/// Datagrams of a flood between two looks at the clock.
const BURST: u64 = 50;

/// A socket in the calling thread's namespace.
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn open() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))
}

/// Sends one datagram. The kernel fills in the length and the checksum of the header; UDP has none.
///
/// # Errors
/// If the kernel refuses the source or has no route.
pub fn send_udp(socket: &Socket, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> io::Result<usize> {
    let length = u16::try_from(8 + payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    socket.send_to(&packet, &to.into())
}

/// Datagrams from ever other sources at a steady rate; dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends `payloads` in turn, so many datagrams `per_second`, out of `namespace`, from sources all over 198.18.0.0/15.
    ///
    /// # Errors
    /// If there is no raw socket.
    pub fn start(
        namespace: &Netns,
        to: SocketAddrV4,
        per_second: u64,
        payloads: Vec<Vec<u8>>,
    ) -> anyhow::Result<Self> {
        let socket = namespace.run(open)??;
        let (is_over, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&sent));
        let thread = std::thread::Builder::new().name("flood".to_owned()).spawn(move || {
            let start = clock::now();
            let mut n: u64 = 0;
            while !over.load(Ordering::Acquire) {
                let due = start.elapsed().as_micros() as u64 * per_second / 1_000_000;
                if n >= due {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                for _ in 0..BURST.min(due - n) {
                    // Every source once before any comes again.
                    let host = (n.wrapping_mul(0x9e37_79b1) & 0x1_ffff) as u32;
                    let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + host);
                    let from = SocketAddrV4::new(source, 1_024 + (n % 60_000) as u16);
                    let payload = &payloads[(n as usize) % payloads.len()];
                    let _ = send_udp(&socket, from, to, payload);
                    n += 1;
                }
                count.store(n, Ordering::Release);
            }
        })?;
        Ok(Self { is_over, sent, thread: Some(thread) })
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
