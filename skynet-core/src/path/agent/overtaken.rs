//! Somebody on the way who cannot hold a probe back may still send a copy of it that arrives first, from an address of its
//! own. The replay window then knows the probe, and the genuine one would be refused: such an observer could keep a pair
//! from its direct path for ever. So the genuine copy counts too, where the peer itself has named its source.
//!
//! Nobody gains by it: who can make this copy could have sent it first.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::{PathAgent, ProbeFrom};
use crate::path::link::Origin;
use crate::time::{Duration, Instant};
use crate::wire::probe::{Body, Ping};

/// PINGs from unproven sources remembered.
const REMEMBERED: usize = 16;
/// The genuine copy comes this soon after the first.
const OVERTAKES: Duration = Duration::from_secs(1);

/// PINGs whose first copy came from where nothing has answered yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Overtaken(VecDeque<FirstCopy>);

#[derive(Clone, Debug)]
struct FirstCopy {
    txid: u64,
    from: SocketAddr,
    at: Instant,
}

impl PathAgent {
    /// Whether a repeated probe may be the genuine copy of one that was overtaken.
    pub(super) fn was_overtaken(&self, body: &Body) -> bool {
        match body {
            Body::Pong(pong) => self.pairs.iter().any(|pair| pair.link.is_outstanding(pong.txid)),
            Body::Ping(ping) => self.overtaken.0.iter().any(|f| f.txid == ping.txid && self.is_recent(f)),
            Body::Call(_) => false,
        }
    }

    fn is_recent(&self, first: &FirstCopy) -> bool {
        self.now.mono - first.at < OVERTAKES
    }

    /// A PING came from `from` for the first time.
    pub(super) fn note_first_copy(&mut self, from: SocketAddr, txid: u64) {
        if self.pair_index(from).is_some_and(|i| self.pairs[i].valid) {
            return;
        }
        if self.overtaken.0.len() == REMEMBERED {
            self.overtaken.0.pop_front();
        }
        self.overtaken.0.push_back(FirstCopy { txid, from, at: self.now.mono });
    }

    /// The second copy of a PING: answered if it comes from an address that the peer named, and the first did not.
    pub(super) fn handle_overtaken(&mut self, from: ProbeFrom, local: Option<IpAddr>, ping: &Ping) {
        let is_named =
            |addr: SocketAddr| self.pair_index(addr).is_some_and(|i| self.pairs[i].origin != Origin::Source);
        let genuine = match from {
            ProbeFrom::Direct(addr) if is_named(addr) => self
                .overtaken
                .0
                .iter()
                .position(|first| first.txid == ping.txid && first.from != addr && self.is_recent(first)),
            _ => None,
        };
        let Some(at) = genuine else {
            self.counters.replayed += 1;
            return;
        };
        self.overtaken.0.remove(at);
        self.handle_ping(from, local, ping);
    }
}
