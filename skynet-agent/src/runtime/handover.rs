//! Which thread runs a worker's outbound half, where a worker has a thread for each half.
//!
//! ```text
//!                 either half busy: ToOutbound
//!   inbound thread ─────────────────────────────▶ outbound thread
//!   runs both halves                              runs the outbound half
//!                 ◀─────────────────────────────
//!                 both quiet for 2 s: ToInbound
//! ```
//! Under load the two directions need a core each. While there is hardly any traffic a second thread only costs: the answer
//! to a packet that was just delivered would have to wake it, and on an idle host waking a core takes longer than all
//! that is done to the packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use skynet_core::time::{Duration, Instant};

use super::halves::OutboundIo;
use super::load::BusyWatch;
use super::threads::{Bell, ToInbound};

/// The half goes back when neither thread was busy for so long.
const QUIET: Duration = Duration::from_secs(2);

/// When either half of one worker was busy last, in nanoseconds.
#[derive(Debug, Default)]
struct LastBusy(AtomicU64);

impl LastBusy {
    fn note(&self, at: Instant) {
        // Written once in an interval, so the other thread's line stays where it is in between.
        let at = at.as_nanos();
        if self.0.load(Relaxed) < at {
            self.0.store(at, Relaxed);
        }
    }

    fn was(&self) -> Instant {
        Instant::from_nanos(self.0.load(Relaxed))
    }
}

/// The inbound thread's way to the outbound thread.
pub(super) struct ToOutbound {
    halves: SyncSender<Box<OutboundIo>>,
    last_busy: Arc<LastBusy>,
    bell: Arc<Bell>,
}

/// The outbound thread's end: what it is given, and the way back.
pub(super) struct Seat {
    halves: Receiver<Box<OutboundIo>>,
    last_busy: Arc<LastBusy>,
    back: SyncSender<ToInbound>,
    inbound: Arc<Bell>,
}

/// For an outbound thread that is woken by `outbound`, beside an inbound one that is reached by `back` and woken by `inbound`.
pub(super) fn seat(
    outbound: Arc<Bell>,
    inbound: Arc<Bell>,
    back: SyncSender<ToInbound>,
) -> (ToOutbound, Seat) {
    let (sender, halves) = sync_channel(1);
    let last_busy = Arc::<LastBusy>::default();
    let way = ToOutbound { halves: sender, last_busy: Arc::clone(&last_busy), bell: outbound };
    (way, Seat { halves, last_busy, back, inbound })
}

impl ToOutbound {
    /// Notes whether there is much to do, and gives the outbound half away, if it is here and there is.
    pub(super) fn settle(&self, inbound: &BusyWatch, outbound: &mut Option<Box<OutboundIo>>) {
        let watches = [Some(inbound), outbound.as_ref().map(|half| half.watch())];
        // An interval that no later packet has ended may be long past.
        let latest = watches.iter().flatten().map(|w| w.since()).max().unwrap_or_default();
        let current = |w: &&BusyWatch| w.is_busy() && latest.saturating_since(w.since()) < QUIET;
        let Some(at) = watches.into_iter().flatten().filter(current).map(BusyWatch::since).max() else {
            return;
        };
        self.last_busy.note(at);
        if let Some(half) = outbound.take() {
            match self.halves.try_send(half) {
                Ok(()) => self.bell.wake(),
                // That thread has ended; so will this, or it is about to be told to let go.
                Err(TrySendError::Full(half) | TrySendError::Disconnected(half)) => *outbound = Some(half),
            }
        }
    }
}

impl Seat {
    /// What the inbound thread has given away.
    pub(super) fn take(&self) -> Option<Box<OutboundIo>> {
        self.halves.try_recv().ok()
    }

    /// Gives the half back if both threads have had little to do for long enough.
    pub(super) fn settle(&self, outbound: &mut Option<Box<OutboundIo>>) {
        let Some(half) = outbound else { return };
        let watch = half.watch();
        if watch.is_busy() {
            self.last_busy.note(watch.since());
        } else if watch.since().saturating_since(self.last_busy.was()) >= QUIET {
            match self.back.try_send(ToInbound::Outbound(outbound.take())) {
                Ok(()) => self.inbound.wake(),
                // Its queue is full of commands for the moment.
                Err(TrySendError::Full(ToInbound::Outbound(half))) => *outbound = half,
                Err(_) => {}
            }
        }
    }
}
