//! Somebody on the way, with raw sockets: sees what two clouds send each other and answers it with copies from an address
//! of its own, which arrive first where the way has a delay behind the tap.
//!
//! ```text
//!  nat-a ══ tap ══ WAN link, delay ══ inet ══ WAN link, delay ══ tap ══ nat-b
//!             └──────────────────▶ 203.0.113.1 ◀────────────────────┘
//! ```

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::lab::{Lab, Netns};
use crate::sys;

/// It has one socket for each of this many endpoints it stands for; further ones are not attacked.
const MAX_VICTIMS: usize = 16;
/// Old datagrams it sends again and again.
const KEPT: usize = 4_096;
/// Replays for each datagram seen.
const REPLAYS: usize = 2;
const PACKET_BYTES: usize = 65_536;
const GLANCE_MS: u16 = 20;

/// A running attack on the UDP between two public addresses; dropping it ends it.
#[derive(Debug)]
pub struct Attacker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    address: Ipv4Addr,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    copies: AtomicU64,
}

impl Attacker {
    /// Taps the uplinks of two clouds and attacks what goes between their public addresses.
    ///
    /// # Errors
    /// If a socket cannot be made.
    pub fn start(lab: &Lab, clouds: [&str; 2], public: [Ipv4Addr; 2]) -> anyhow::Result<Self> {
        let taps = clouds.map(|cloud| tap(lab.router(cloud)));
        let [one, other] = taps;
        let address = lab.internet().address();
        let shared = Arc::<Shared>::default();
        let mut attack = Attack {
            internet: lab.internet().clone(),
            address,
            taps: [one?, other?],
            public,
            victims: Vec::new(),
            kept: VecDeque::new(),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new().name("attacker".to_owned()).spawn(move || attack.run())?;
        Ok(Self { shared, thread: Some(thread), address })
    }

    /// Its own address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Datagrams it has sent.
    pub fn copies(&self) -> u64 {
        self.shared.copies.load(Ordering::Acquire)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tap(router: &Netns) -> anyhow::Result<OwnedFd> {
    let opened = router.run(|| {
        let index = nix::net::if_::if_nametoindex("wan")?;
        sys::packet_tap(index)
    })?;
    opened.with_context(|| format!("tapping the uplink of {}", router.role()))
}

/// A UDP datagram as it was seen.
struct Seen {
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: Vec<u8>,
}

struct Attack {
    internet: Netns,
    address: Ipv4Addr,
    taps: [OwnedFd; 2],
    public: [Ipv4Addr; 2],
    /// Whom each socket stands for.
    victims: Vec<(SocketAddrV4, UdpSocket)>,
    kept: VecDeque<Seen>,
    shared: Arc<Shared>,
}

impl Attack {
    fn run(&mut self) {
        let mut buffer = vec![0; PACKET_BYTES];
        while !self.shared.is_over.load(Ordering::Acquire) {
            self.wait();
            for side in 0..2 {
                while let Ok((length, _)) = sys::receive_packet(self.taps[side].as_fd(), &mut buffer) {
                    let seen = udp(&buffer[..length]);
                    // Each tap sees both directions; what its own side sends has the delay still before it.
                    let ends = (self.public[side], self.public[1 - side]);
                    if let Some(seen) = seen.filter(|s| (*s.from.ip(), *s.to.ip()) == ends) {
                        self.race(seen);
                    }
                }
            }
            self.pass_on(&mut buffer);
        }
    }

    fn wait(&self) {
        let sockets = self.victims.iter().map(|(_, socket)| socket.as_fd());
        let mut all: Vec<_> = self
            .taps
            .iter()
            .map(|tap| tap.as_fd())
            .chain(sockets)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut all, PollTimeout::from(GLANCE_MS));
    }

    /// A copy at once, one with a bit changed, and old ones.
    fn race(&mut self, seen: Seen) {
        self.send(seen.from, seen.to, &seen.payload);
        let mut changed = seen.payload.clone();
        let at = self.shared.copies.load(Ordering::Relaxed) as usize % changed.len().max(1);
        if let Some(byte) = changed.get_mut(at) {
            *byte ^= 1;
        }
        self.send(seen.from, seen.to, &changed);
        self.kept.push_back(seen);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        for _ in 0..REPLAYS {
            let Some(old) = self.kept.pop_front() else { return };
            self.send(old.from, old.to, &old.payload);
            self.kept.push_back(old);
        }
    }

    /// What somebody answers to a socket that stands for a victim goes to that victim, from the socket that stands for
    /// who answered: so it could live in the middle.
    fn pass_on(&mut self, buffer: &mut [u8]) {
        for k in 0..self.victims.len() {
            while let Ok((length, from)) = self.victims[k].1.recv_from(buffer) {
                let std::net::SocketAddr::V4(from) = from else { continue };
                let payload = buffer[..length].to_vec();
                self.send(from, self.victims[k].0, &payload);
            }
        }
    }

    fn send(&mut self, in_place_of: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let at = match self.victims.iter().position(|(victim, _)| *victim == in_place_of) {
            Some(at) => at,
            None if self.victims.len() < MAX_VICTIMS => {
                let address = self.address;
                let Ok(Ok(socket)) = self.internet.run(|| UdpSocket::bind((address, 0))) else { return };
                let _ = socket.set_nonblocking(true);
                self.victims.push((in_place_of, socket));
                self.victims.len() - 1
            }
            None => return,
        };
        if self.victims[at].1.send_to(payload, to).is_ok() {
            self.shared.copies.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The UDP datagram of an unfragmented IPv4 packet.
fn udp(packet: &[u8]) -> Option<Seen> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet[0] >> 4 != 4 || *packet.get(9)? != 17 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..at + 4)?.first_chunk::<4>()?));
    let segment = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(*segment.get(at..at + 2)?.first_chunk::<2>()?));
    let (from, to) = (SocketAddrV4::new(address(12)?, port(0)?), SocketAddrV4::new(address(16)?, port(2)?));
    Some(Seen { from, to, payload: segment.get(8..)?.to_vec() })
}
