//! The nice value of a data-plane thread: ahead of the programs whose packets it carries, but not in a flood.
//!
//! At equal rank a packet waits until a busy program's slice ends, milliseconds later. Yet a thread that goes first and has
//! endless small packets to move leaves nothing to the program that is to take them, and all of them are dropped at its
//! socket: receive livelock (Mogul and Ramakrishnan 1997). So in a flood the thread takes its turn like any program.

use crate::config::Nice;

/// Of the calling thread.
pub(super) struct Priority {
    wanted: Nice,
    yields: bool,
}

impl Priority {
    /// Takes it.
    pub(super) fn take(wanted: Nice) -> Self {
        set(wanted);
        Self { wanted, yields: false }
    }

    /// After every batch: whether the thread is flooded.
    pub(super) fn settle(&mut self, flooded: bool) {
        if flooded != self.yields {
            self.yields = flooded;
            set(if flooded { self.wanted.max(Nice::ORDINARY) } else { self.wanted });
        }
    }
}

/// Sets the nice value of the calling thread alone, as Linux does for a thread's id. Needs CAP_SYS_NICE or RLIMIT_NICE
/// to go below 0; without, packets wait longer where programs are busy and nothing else is lost.
fn set(nice: Nice) {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice.value()) {
        tracing::debug!(%error, nice = nice.value(), "the thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice_of(thread: rustix::process::Pid) -> i32 {
        rustix::process::getpriority_process(Some(thread)).unwrap()
    }

    #[test]
    fn the_priority_is_the_threads_own() {
        let here = rustix::thread::gettid();
        let before = nice_of(here);
        let changed = std::thread::spawn(move || {
            // Upwards, which needs no privilege.
            let mut priority = Priority::take(Nice::try_from(7).unwrap());
            priority.settle(true);
            nice_of(rustix::thread::gettid())
        });
        assert_eq!((changed.join().unwrap(), nice_of(here)), (7, before));
    }

    #[test]
    fn in_a_flood_a_thread_takes_its_turn_and_afterwards_goes_first_again() {
        let thread = std::thread::spawn(|| {
            let mut priority = Priority::take(Nice::default());
            let first = nice_of(rustix::thread::gettid());
            let mut seen = Vec::new();
            for flooded in [false, true, true, false] {
                priority.settle(flooded);
                seen.push(nice_of(rustix::thread::gettid()));
            }
            (first, seen)
        });
        let (first, seen) = thread.join().unwrap();
        // Without privilege it was 0 all the time.
        assert_eq!(seen, [first, 0, 0, first]);
    }
}
