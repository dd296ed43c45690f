//! A WAN link between two namespaces: two TAP devices and, between them, a delay line per direction in one thread.
//!
//! ```text
//!   namespace A                    one thread                    namespace B
//!   TAP ──read──▶ bottleneck ─▶ loss, delay, order (heap) ──write──▶ TAP
//!   TAP ◀─write── loss, delay, order (heap) ◀─ bottleneck ◀──read── TAP
//! ```
//!
//! The kernel needs no netem. Frames of ARP pass untouched unless the link is cut: losing one costs a second of
//! waiting that no real WAN has. Whole frames cross it, checksummed by the kernel, without offloads: about 500 Mbit/s of
//! TCP on a core, in a build without optimisation.

mod line;

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::lab::Netns;
use crate::{clock, sys};
use line::DelayLine;
pub use line::LineStats;

/// Longest frame: an MTU of 9,000 and its header, with room.
const FRAME_BYTES: usize = 10_000;
/// Frames read from one side before the other has its turn.
const READ_BUDGET: usize = 64;
/// Device queue; the default of 1,000 overflows at bursts the line itself would carry.
const TX_QUEUE_FRAMES: u32 = 10_000;

/// What one direction of a link does to its frames. The default does nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Time each frame takes at least.
    pub delay: Duration,
    /// Added to the delay, uniform from 0 to this; keeps the order.
    pub jitter: Duration,
    /// Probability, 0 to 1, that a frame is lost.
    pub loss: f64,
    /// Probability that a frame is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// How long a reordered frame is held back.
    pub reorder_by: Duration,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that a frame arrives with one bit flipped behind its IP header.
    pub corrupt: f64,
    /// Capacity of the bottleneck in bits per second of Ethernet frames; `None` is unlimited.
    pub rate_bits_per_second: Option<u64>,
    /// What may wait before the bottleneck, in bytes; more is dropped.
    pub queue_bytes: usize,
    /// Longest IP packet that passes; longer ones vanish without ICMP.
    pub mtu_bytes: Option<usize>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(5),
            duplicate: 0.0,
            corrupt: 0.0,
            rate_bits_per_second: None,
            // A large router's buffer: 100 ms at 100 Mbit/s.
            queue_bytes: 1_250_000,
            mtu_bytes: None,
        }
    }
}

impl Profile {
    /// A clean link of this one-way delay.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// The directions of a link placed by [`crate::Lab::insert_wan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the cloud to the internet.
    Up,
    /// From the internet to the cloud.
    Down,
}

/// A running link. Dropping it removes both devices.
#[derive(Debug)]
pub struct WanLink {
    handle: WanHandle,
    thread: Option<JoinHandle<()>>,
}

/// Changes a link while it runs; any number of clones.
#[derive(Debug, Clone)]
pub struct WanHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Ends the thread's wait when the state has changed.
    changed: EventFd,
}

#[derive(Debug)]
struct State {
    profiles: [Profile; 2],
    cut: bool,
    stopped: bool,
    stats: [LineStats; 2],
}

impl WanLink {
    /// Makes a device in each namespace, called as given, up but without addresses, and joins them. `seed` decides
    /// every frame's fate.
    ///
    /// # Errors
    /// If a device of that name exists or `/dev/net/tun` refuses.
    pub fn between(
        up_from: (&Netns, &str),
        down_from: (&Netns, &str),
        profile: Profile,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let open = |(namespace, interface): (&Netns, &str)| -> anyhow::Result<File> {
            let tap = namespace
                .run(|| sys::open_tap(interface))?
                .with_context(|| format!("TAP {interface} in {}", namespace.name()))?;
            namespace.ip_batch(&format!("link set {interface} txqueuelen {TX_QUEUE_FRAMES} up\n"))?;
            Ok(tap)
        };
        let taps = [open(up_from)?, open(down_from)?];
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                profiles: [profile.clone(), profile],
                cut: false,
                stopped: false,
                stats: [LineStats::default(); 2],
            }),
            changed: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let relay = Forwarder {
            taps,
            lines: [DelayLine::new(seed), DelayLine::new(!seed)],
            shared: Arc::clone(&shared),
            start: clock::now(),
        };
        let thread = std::thread::Builder::new().name("wan-link".to_owned()).spawn(move || relay.run())?;
        Ok(Self { handle: WanHandle(shared), thread: Some(thread) })
    }

    /// A handle to change it.
    pub fn handle(&self) -> WanHandle {
        self.handle.clone()
    }
}

impl Drop for WanLink {
    fn drop(&mut self) {
        self.handle.change(|state| state.stopped = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl WanHandle {
    /// Sets the profile of both directions; frames in flight keep their due times.
    pub fn set(&self, profile: &Profile) {
        self.change(|state| state.profiles = [profile.clone(), profile.clone()]);
    }

    /// Sets the profile of one direction.
    pub fn set_direction(&self, direction: Direction, profile: &Profile) {
        self.change(|state| state.profiles[direction as usize] = profile.clone());
    }

    /// Cuts the cable: what is in flight is lost, nothing passes, carriers stay.
    pub fn cut(&self) {
        self.change(|state| state.cut = true);
    }

    /// Mends the cable.
    pub fn restore(&self) {
        self.change(|state| state.cut = false);
    }

    /// Counters of one direction.
    pub fn stats(&self, direction: Direction) -> LineStats {
        self.state().stats[direction as usize]
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        // Full only if it was signalled 2^64 times without being read.
        let _ = self.0.changed.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic holds it")
    }
}

/// The thread's own state. Index 0 is the direction up: read from `taps[0]`, written to `taps[1]`.
struct Forwarder {
    taps: [File; 2],
    lines: [DelayLine; 2],
    shared: Arc<Shared>,
    start: Instant,
}

impl Forwarder {
    fn run(mut self) {
        let mut buffer = vec![0; FRAME_BYTES];
        let mut was_cut = false;
        loop {
            let (profiles, cut) = {
                let mut state = self.shared.state.lock().expect("no panic holds it");
                if state.stopped {
                    return;
                }
                state.stats = [self.lines[0].stats(), self.lines[1].stats()];
                (state.profiles.clone(), state.cut)
            };
            if cut && !was_cut {
                self.lines.iter_mut().for_each(DelayLine::clear);
            }
            was_cut = cut;
            for (direction, profile) in profiles.iter().enumerate() {
                self.read(direction, profile, cut, &mut buffer);
                self.write(direction);
            }
            if self.wait().is_err() {
                return;
            }
        }
    }

    /// Takes what has arrived at one side into the line, up to the budget.
    fn read(&mut self, direction: usize, profile: &Profile, cut: bool, buffer: &mut [u8]) {
        for _ in 0..READ_BUDGET {
            let Ok(length) = (&self.taps[direction]).read(buffer) else { return };
            let frame = &buffer[..length];
            let is_arp = frame.get(12..14) == Some(&[0x08, 0x06]);
            match (cut, is_arp) {
                (true, _) => self.lines[direction].drop_cut(),
                (false, true) => deliver(&self.taps[1 - direction], frame),
                (false, false) => {
                    let now = self.start.elapsed();
                    self.lines[direction].push(now, frame.to_vec(), profile);
                }
            }
        }
    }

    /// Delivers what is due at the other side.
    fn write(&mut self, direction: usize) {
        let now = self.start.elapsed();
        while let Some(frame) = self.lines[direction].pop(now) {
            deliver(&self.taps[1 - direction], &frame);
        }
    }

    /// Until a frame arrives, one is due, or the handle has changed something.
    fn wait(&self) -> nix::Result<()> {
        let due = self.lines.iter().filter_map(DelayLine::next_due).min();
        let timeout = due.map(|due| TimeSpec::from_duration(due.saturating_sub(self.start.elapsed())));
        let mut descriptors = [
            PollFd::new(self.taps[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(self.taps[1].as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.changed.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut descriptors, timeout, None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error),
        }
        match self.shared.changed.read() {
            Ok(_) | Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Writes one frame; a device that is down or vanishing loses it, as a cable would.
fn deliver(mut tap: &File, frame: &[u8]) {
    while let Err(error) = tap.write(frame) {
        if error.kind() != ErrorKind::Interrupted {
            return;
        }
    }
}
