//! What a forwarding thread tells others: figures once a second, its sessions when somebody asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::server::{Drops, ForwardCounters, SessionView};

/// What a thread tells others, at most a second old.
#[derive(Clone, Default, Debug)]
pub struct ForwardStats {
    /// Sessions of this thread.
    pub sessions: usize,
    /// Those of them that come by TLS.
    pub bridged: usize,
    /// Datagrams and bytes.
    pub counters: ForwardCounters,
    /// Drops by reason.
    pub drops: Drops,
    /// Datagrams the kernel refused to send.
    pub unsent: u64,
    /// Datagrams lost because this thread did not come to them: its socket for bulk was full,
    pub overflowed: u64,
    /// or that for control.
    pub overflowed_control: u64,
    /// Whether control has a socket of its own.
    pub control_apart: bool,
    /// Whether nobody is bound any more.
    pub draining: bool,
    /// Processor time since its start.
    pub busy: Duration,
}

impl ForwardStats {
    /// Those of all threads together.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for stats in all {
            sum.sessions += stats.sessions;
            sum.bridged += stats.bridged;
            sum.counters.add(&stats.counters);
            sum.drops.add(&stats.drops);
            sum.unsent += stats.unsent;
            sum.overflowed += stats.overflowed;
            sum.overflowed_control += stats.overflowed_control;
            sum.draining |= stats.draining;
            sum.busy += stats.busy;
        }
        sum
    }
}

/// Between one thread and those who want to know. The thread only ever tries its locks.
#[derive(Default, Debug)]
pub(super) struct Desk {
    stats: Mutex<ForwardStats>,
    is_asked: AtomicBool,
    sessions: Mutex<Option<Vec<SessionView>>>,
}

impl Desk {
    /// Puts figures on the desk, unless somebody is reading.
    pub(super) fn publish(&self, write: impl FnOnce(&mut ForwardStats)) {
        if let Ok(mut stats) = self.stats.try_lock() {
            write(&mut stats);
        }
    }

    /// Answers whoever has asked for the sessions.
    pub(super) fn answer(&self, list: impl FnOnce() -> Vec<SessionView>) {
        if !self.is_asked.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(mut sessions) = self.sessions.try_lock() {
            *sessions = Some(list());
            self.is_asked.store(false, Ordering::Relaxed);
        }
    }
}

/// The desks of all forwarding threads.
#[derive(Clone, Debug)]
pub struct Desks(pub(super) Vec<Arc<Desk>>);

impl Desks {
    /// The last published figures of each thread.
    pub fn stats(&self) -> Vec<ForwardStats> {
        let last = |desk: &Arc<Desk>| desk.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.0.iter().map(last).collect()
    }

    /// Asks all threads for their sessions.
    pub fn ask_sessions(&self) {
        for desk in &self.0 {
            *desk.sessions.lock().unwrap_or_else(PoisonError::into_inner) = None;
            desk.is_asked.store(true, Ordering::Relaxed);
        }
    }

    /// What all have answered; `None` if one has not yet.
    pub fn sessions(&self) -> Option<Vec<SessionView>> {
        let mut all = Vec::new();
        for desk in &self.0 {
            let list = desk.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend_from_slice(list.as_ref()?);
        }
        Some(all)
    }
}
