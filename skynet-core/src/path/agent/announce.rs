//! A node that has started anew tells a peer of its last run: the first probe of a later start ends what the peer
//! believes of the run before.

use super::{PathAgent, PathEvent};
use crate::time::{Duration, Instant, Now};

/// PINGs through the relay, in case some are lost: at once, and so long after each.
const REPEATS_MS: [u64; 2] = [400, 1_200];

#[derive(Clone, Debug)]
pub(super) struct Announce {
    at: Instant,
    next: usize,
}

impl PathAgent {
    /// Tells the peer through the relay, as soon as there is one, that this node is here anew. It does so three times at
    /// most, and not again once the peer was heard.
    pub fn announce(&mut self, now: Now) {
        self.now = now;
        self.announce = Some(Announce { at: now.mono, next: 0 });
        self.run_announce();
    }

    pub(super) fn announce_due(&self) -> Option<Instant> {
        self.announce.as_ref().filter(|_| self.relay.is_some()).map(|a| a.at)
    }

    pub(super) fn run_announce(&mut self) {
        let now = self.now.mono;
        if self.announce_due().is_none_or(|at| at > now) {
            return;
        }
        let Some(announced) = self.announce.take() else { return };
        if announced.next > 0 && self.relay_link.last_rx.is_some() {
            self.emit(PathEvent::Announced);
            return;
        }
        self.ping_relay();
        self.announce = REPEATS_MS.get(announced.next).map(|ms| {
            let at = now + Duration::from_millis(*ms);
            Announce { at, next: announced.next + 1 }
        });
    }
}
