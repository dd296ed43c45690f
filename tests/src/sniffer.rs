//! Proof that nothing carried by the overlay crosses the underlay in clear.
//!
//! One packet socket per namespace sees every frame of every Ethernet interface in it, both ways, also of interfaces
//! that appear later. An overlay's TUN device is no Ethernet interface and thus not looked at; nor is `lo`. The limit: a
//! marker cut in two by TCP's segmentation is not found, so carry it whole in datagrams, or many times in a stream.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};

use crate::lab::{Lab, Netns};
use crate::sys;

/// Shorter markers occur by chance in ciphertext.
const MIN_MARKER_BYTES: usize = 16;
/// A frame with all its segments before they are cut, and its header.
const FRAME_BYTES: usize = 65_536 + 64;
/// What the kernel keeps while this thread waits for a processor.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Frames read from one socket before the next has its turn.
const READ_BUDGET: usize = 256;
/// Above what fits into a receive buffer, whatever the size of the frames.
const DRAIN_BUDGET: usize = 32_768;
/// Sightings kept in full; more are only counted.
const MAX_SIGHTINGS: usize = 16;
/// Pairs of addresses whose traffic is counted; further ones are ignored.
const MAX_FLOWS: usize = 65_536;

/// Hardware type of Ethernet, and packet type of what a namespace sends itself.
const ARPHRD_ETHER: u16 = 1;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// Looks at every frame of a lab until dropped.
#[derive(Debug)]
pub struct Sniffer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The marker, in clear, on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Role of the namespace.
    pub namespace: String,
    /// Name of the interface.
    pub interface: String,
    /// The whole frame.
    pub frame: Vec<u8>,
    /// Where in the frame the marker begins.
    pub offset: usize,
}

/// IPv4 packets counted at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets; a segmentation offload's train counts as one.
    pub packets: u64,
    /// Bytes with IP headers, without Ethernet's.
    pub bytes: u64,
}

#[derive(Debug)]
struct Shared {
    marker: Vec<u8>,
    state: Mutex<State>,
    /// Signalled when a drain has been done.
    drained: Condvar,
    /// Ends the thread's wait.
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    /// Drains asked for, and done.
    asked: u64,
    done: u64,
    frames: u64,
    missed: u64,
    found: u64,
    sightings: Vec<Sighting>,
    /// By role of the namespace, source and destination.
    flows: BTreeMap<(usize, Ipv4Addr, Ipv4Addr), Traffic>,
    roles: Vec<String>,
}

impl Sniffer {
    /// Begins to look for `marker` (16 bytes at least) in all namespaces of `lab`.
    ///
    /// # Errors
    /// If the marker is too short or a packet socket cannot be opened.
    pub fn start(lab: &Lab, marker: &[u8]) -> anyhow::Result<Self> {
        ensure!(marker.len() >= MIN_MARKER_BYTES, "a marker has at least {MIN_MARKER_BYTES} bytes");
        let taps: Vec<_> = lab.all().map(Tap::open).collect::<Result<_, _>>()?;
        let roles = lab.all().map(|namespace| namespace.role().to_owned()).collect();
        let shared = Arc::new(Shared {
            marker: marker.to_vec(),
            state: Mutex::new(State { roles, ..State::default() }),
            drained: Condvar::new(),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let watcher = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("sniffer".to_owned()).spawn(move || watch(&taps, &watcher))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Fails if the marker was seen in clear, or if nothing at all was seen, which would prove nothing.
    ///
    /// # Panics
    /// With the interface and the frame.
    #[track_caller]
    pub fn assert_clean(&self) {
        // Copied out: a panic must not hold the lock, or the thread would panic too.
        let (frames, found, first) = {
            let state = self.drain();
            (state.frames, state.found, state.sightings.first().cloned())
        };
        assert!(frames > 0, "the sniffer has seen no frame: that proves nothing");
        if let Some(first) = first {
            panic!("the marker crossed the underlay in clear {found} times; first: {first}");
        }
    }

    /// Where the marker was seen: the first 16 times.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.drain().sightings.clone()
    }

    /// Frames looked at.
    pub fn frames(&self) -> u64 {
        self.drain().frames
    }

    /// Frames the kernel dropped because this thread was too slow; a proof has this many holes. At several Gbit/s half
    /// of all frames are missed, so carry a marker at moderate rates.
    pub fn missed(&self) -> u64 {
        self.drain().missed
    }

    /// What passed from one address to another as seen by the host or relay `role`, whose only interface it crosses
    /// once. For amplification: bytes to a victim against bytes from it.
    pub fn traffic(&self, role: &str, from: Ipv4Addr, to: Ipv4Addr) -> Traffic {
        let state = self.drain();
        let Some(index) = state.roles.iter().position(|other| other == role) else {
            return Traffic::default();
        };
        state.flows.get(&(index, from, to)).copied().unwrap_or_default()
    }

    /// Waits until everything captured before this call has been looked at.
    fn drain(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.asked += 1;
        let asked = state.asked;
        let _ = self.shared.wake.write(1);
        while state.done < asked {
            let (next, result) = self
                .shared
                .drained
                .wait_timeout(state, Duration::from_secs(10))
                .expect("the sniffer's thread does not panic");
            state = next;
            assert!(!result.timed_out() || state.done >= asked, "the sniffer's thread hangs or has ended");
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("the sniffer's thread does not panic")
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).stopped = true;
        let _ = self.shared.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} at byte {} of\n  ", self.namespace, self.interface, self.offset)?;
        for byte in self.frame.iter().take(256) {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The packet socket of one namespace.
struct Tap {
    socket: OwnedFd,
    namespace: Netns,
    /// Whether each packet crosses only one interface here, so that bytes can be counted.
    is_endpoint: bool,
}

impl Tap {
    fn open(namespace: &Netns) -> anyhow::Result<Self> {
        let socket = namespace
            .run(|| {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            })?
            .with_context(|| format!("packet socket in {}", namespace.name()))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        let is_endpoint = namespace.role() != "inet" && !namespace.role().starts_with("nat-");
        Ok(Self { socket, namespace: namespace.clone(), is_endpoint })
    }

    /// Looks at up to `budget` frames that have arrived.
    fn look(&self, index: usize, budget: usize, buffer: &mut [u8], shared: &Shared) {
        for _ in 0..budget {
            let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) else { return };
            let Some(link) = from.filter(|link| link.hatype() == ARPHRD_ETHER) else { continue };
            let frame = &buffer[..length];
            let found = sys::find(frame, &shared.marker)
                .map(|offset| (offset, self.interface(link.ifindex()), frame.to_vec()));
            let mut state = shared.state.lock().expect("no panic holds it");
            state.frames += 1;
            if self.is_endpoint {
                state.count(index, frame);
            }
            if let Some((offset, interface, frame)) = found {
                state.found += 1;
                if state.sightings.len() < MAX_SIGHTINGS {
                    let namespace = self.namespace.role().to_owned();
                    state.sightings.push(Sighting { namespace, interface, frame, offset });
                }
            }
        }
    }

    /// The name behind an interface's index, which only its own namespace knows.
    fn interface(&self, index: usize) -> String {
        let number = u32::try_from(index).unwrap_or(0);
        let name = self.namespace.run(|| nix::net::if_::if_indextoname(number));
        match name {
            Ok(Ok(name)) => name.to_string_lossy().into_owned(),
            _ => format!("#{index}"),
        }
    }
}

impl State {
    fn count(&mut self, index: usize, frame: &[u8]) {
        if frame.len() < 34 || frame[12..14] != ETHERTYPE_IPV4 {
            return;
        }
        let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        let key = (index, address(26), address(30));
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&key) {
            return;
        }
        let traffic = self.flows.entry(key).or_default();
        traffic.packets += 1;
        traffic.bytes += frame.len() as u64 - 14;
    }
}

fn watch(taps: &[Tap], shared: &Shared) {
    let mut buffer = vec![0; FRAME_BYTES];
    loop {
        let (stopped, asked, must_drain) = {
            let state = shared.state.lock().expect("no panic holds it");
            (state.stopped, state.asked, state.asked > state.done)
        };
        if stopped {
            return;
        }
        let budget = if must_drain { DRAIN_BUDGET } else { READ_BUDGET };
        for (index, tap) in taps.iter().enumerate() {
            tap.look(index, budget, &mut buffer, shared);
        }
        if must_drain {
            let missed: u64 =
                taps.iter().map(|tap| u64::from(sys::packets_missed(tap.socket.as_fd()).unwrap_or(0))).sum();
            let mut state = shared.state.lock().expect("no panic holds it");
            state.missed += missed;
            state.done = asked;
            shared.drained.notify_all();
        }
        let mut descriptors: Vec<_> =
            taps.iter().map(|tap| PollFd::new(tap.socket.as_fd(), PollFlags::POLLIN)).collect();
        descriptors.push(PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN));
        let _ = poll(&mut descriptors, PollTimeout::NONE);
        let _ = shared.wake.read();
    }
}
